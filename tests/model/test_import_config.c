/* SPDX-License-Identifier: MIT */
/* The JSON files of a transformers directory. */
#include "harness.h"

#include "builder.h"
#include "model/import.h"
#include "ops/ops.h"

#define W2V_CLASSIFIER "Wav2Vec2ForSequenceClassification"

START_TEST(absent_keys_are_transformers_defaults)
{
    ser_import import;
    static const char text[] = "{\"model_type\": \"wav2vec2\"}";
    assert_ok(ser_import_read_config("config.json", text, strlen(text), true, &import));
    const ser_arch *a = &import.config.arch;
    ck_assert(!import.classifier);
    ck_assert_int_eq(a->conv_count, 7);
    ck_assert_int_eq(a->conv_dim[6], 512);
    ck_assert_int_eq(ser_arch_min_samples(a), 400);
    ck_assert_int_eq(ser_arch_hop(a), 320);
    ck_assert_int_eq(a->hidden_size, 768);
    ck_assert_int_eq(a->layers, 12);
    ck_assert_int_eq(a->heads, 12);
    ck_assert_int_eq(a->intermediate_size, 3072);
    ck_assert_int_eq(a->position_kernel, 128);
    ck_assert_int_eq(a->position_groups, 16);
    ck_assert_int_eq(a->conv_norm, SER_NORM_GROUP);
    ck_assert_int_eq(a->encoder_norm, SER_ENCODER_POST_NORM);
    ck_assert(a->feature_norm && !a->conv_bias && a->layer_norm_eps == 1e-5F);
    ser_config_clear(&import.config);
}
END_TEST

static int read_config(json_t *config, bool want_head)
{
    ser_import import;
    char *text = json_dumps(config, 0);
    int status = ser_import_read_config("config.json", text, strlen(text), want_head, &import);
    ser_config_clear(&import.config);
    free(text);
    return status;
}

/* The small classifier's config.json with one key changed (value NULL: removed). */
static int changed(const char *type, const char *key, const char *value)
{
    hf_model hf;
    bool hubert = strcmp(type, "hubert") == 0;
    hf_create(&hf, type, hubert ? "HubertForSequenceClassification" : W2V_CLASSIFIER, "", false);
    if (value == NULL) {
        json_object_del(hf.config, key);
    } else {
        json_object_set_new(hf.config, key, json_loads(value, JSON_DECODE_ANY, NULL));
    }
    int status = read_config(hf.config, true);
    hf_free(&hf);
    return status;
}

typedef struct bad {
    const char *key, *value;
    int status;
    const char *message;
} bad;

START_TEST(JC3_values_of_config_json)
{
    static const char *const integers[] = {
        "hidden_size",         "num_hidden_layers",       "num_attention_heads",
        "intermediate_size",   "num_conv_pos_embeddings", "num_conv_pos_embedding_groups",
        "classifier_proj_size"};
    static const char *const wrong[] = {"\"12\"", "12.0", "true",       "null",
                                        "-1",     "0",    "1000000000", "9223372036854775807"};
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        for (size_t j = 0; j < sizeof wrong / sizeof wrong[0]; j++) {
            char text[128];
            (void)snprintf(text, sizeof text,
                           "config.json: %s is %s, must be an integer within 1..", integers[i],
                           wrong[j]);
            assert_fails(changed("wav2vec2", integers[i], wrong[j]), SER_ERR_DATA, text);
        }
    }
    static const bad list[] = {
        {"num_attention_heads", "5", SER_ERR_DATA,
         "hidden_size, 12, is no multiple of num_attention_heads, 5"},
        {"num_conv_pos_embedding_groups", "5", SER_ERR_DATA,
         "no multiple of num_conv_pos_embedding_groups"},
        {"conv_dim", "[]", SER_ERR_DATA, "conv_dim must have 1..16 entries"},
        {"conv_dim", "[6]", SER_ERR_DATA, "same length"},
        {"conv_stride", "[5, 0]", SER_ERR_DATA, "conv_stride[1] is 0"},
        {"conv_stride", "[1024, 1024]", SER_ERR_DATA,
         "conv_stride: one frame every 1048576 samples"},
        {"conv_kernel", "[10, 3, 3]", SER_ERR_DATA, "same length"},
        {"conv_kernel", "null", SER_ERR_DATA, "conv_kernel must be an array"},
        {"num_feat_extract_layers", "7", SER_ERR_DATA,
         "num_feat_extract_layers is 7, but conv_dim has 2"},
        {"hidden_dropout", "1.0", SER_ERR_DATA,
         "hidden_dropout is 1.0, must be a number within 0.."},
        {"layerdrop", "-0.1", SER_ERR_DATA, "layerdrop"},
        {"layer_norm_eps", "0", SER_ERR_DATA, "layer_norm_eps is 0"},
        {"conv_bias", "0", SER_ERR_DATA, "conv_bias is 0, must be true or false"},
        {"do_stable_layer_norm", "\"yes\"", SER_ERR_DATA, "do_stable_layer_norm"},
        {"use_weighted_layer_sum", "1", SER_ERR_DATA, "use_weighted_layer_sum"},
        {"architectures", "\"Wav2Vec2Model\"", SER_ERR_DATA,
         "architectures is \"Wav2Vec2Model\", must be an array"},
        {"model_type", NULL, SER_ERR_DATA, "model_type is missing"},
        {"model_type", "1", SER_ERR_DATA,
         "model_type is 1, must be one of \"wav2vec2\",\"hubert\""},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        assert_fails(changed("wav2vec2", list[i].key, list[i].value), list[i].status,
                     list[i].message);
    }
}
END_TEST

START_TEST(JC5_what_is_not_supported)
{
    static const bad list[] = {
        {"model_type", "\"wavlm\"", SER_ERR_UNSUPPORTED,
         "model_type is \"wavlm\", must be one of \"wav2vec2\",\"hubert\""},
        {"architectures", "[\"WavLMModel\"]", SER_ERR_UNSUPPORTED,
         "architectures[0] is \"WavLMModel\"; supported are"},
        {"architectures", "[3]", SER_ERR_UNSUPPORTED, "architectures[0] is 3"},
        {"feat_extract_norm", "\"batch\"", SER_ERR_UNSUPPORTED,
         "feat_extract_norm is \"batch\", must be one of \"group\",\"layer\""},
        {"hidden_act", "\"relu\"", SER_ERR_UNSUPPORTED,
         "hidden_act is \"relu\", must be one of \"gelu\""},
        {"hidden_act", "\"gelu_new\"", SER_ERR_UNSUPPORTED, "hidden_act"},
        {"feat_extract_activation", "\"selu\"", SER_ERR_UNSUPPORTED, "feat_extract_activation"},
        {"add_adapter", "true", SER_ERR_UNSUPPORTED, "add_adapter: adapters are not supported"},
        {"adapter_attn_dim", "16", SER_ERR_UNSUPPORTED, "adapter_attn_dim: adapters"},
        {"conv_pos_batch_norm", "true", SER_ERR_UNSUPPORTED, "conv_pos_batch_norm"},
        {"problem_type", "\"regression\"", SER_ERR_UNSUPPORTED, "problem_type is \"regression\""},
        {"problem_type", "\"multi_label_classification\"", SER_ERR_UNSUPPORTED, "problem_type"},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        assert_fails(changed("hubert", list[i].key, list[i].value), list[i].status,
                     list[i].message);
    }
    assert_ok(changed("hubert", "problem_type", "\"single_label_classification\""));
    assert_ok(changed("hubert", "problem_type", "null"));
    assert_ok(changed("wav2vec2", "add_adapter", "false"));
}
END_TEST

START_TEST(JC6_labels)
{
    static const bad list[] = {
        {"id2label", "{\"0\": \"a\", \"2\": \"b\"}", SER_ERR_DATA,
         "id2label has 2 entries, but none for \"1\""},
        {"id2label", "{\"1\": \"a\", \"2\": \"b\"}", SER_ERR_DATA, "none for \"0\""},
        {"id2label", "{\"00\": \"a\", \"1\": \"b\"}", SER_ERR_DATA, "none for \"0\""},
        {"id2label", "{\"zero\": \"a\", \"1\": \"b\"}", SER_ERR_DATA, "none for \"0\""},
        {"id2label", "{\"0\": \"a\", \"-1\": \"b\"}", SER_ERR_DATA, "none for \"1\""},
        {"id2label", "{\"0\": \"a\", \"1\": 7}", SER_ERR_DATA, "id2label.1 must be a text"},
        {"id2label", "{\"0\": \"a\", \"1\": \"a\"}", SER_ERR_DATA,
         "id2label[0] and [1] are both \"a\""},
        {"id2label", "{\"0\": \"a\", \"1\": \"b\\u0007\"}", SER_ERR_DATA,
         "id2label[1] contains control characters"},
        {"id2label", "{\"0\": \"a\", \"1\": \"\"}", SER_ERR_DATA, "id2label[1] is empty"},
        {"id2label", "{\"0\": \"a\"}", SER_ERR_DATA, "id2label has 1 entries, must have 2..1000"},
        {"id2label", "[\"a\", \"b\"]", SER_ERR_DATA,
         "id2label is [\"a\",\"b\"], must be an object"},
        {"label2id", "{\"neutral\": 0, \"happy\": 2, \"sad\": 1}", SER_ERR_DATA,
         "disagree about \"happy\""},
        {"label2id", "{\"neutral\": 0, \"happy\": 1, \"angry\": 2}", SER_ERR_DATA,
         "disagree about \"sad\""},
        {"label2id", "{\"neutral\": 0, \"happy\": 1}", SER_ERR_DATA,
         "label2id has 2 entries, but id2label 3"},
        {"label2id", "{\"neutral\": 0, \"happy\": 1.0, \"sad\": 2}", SER_ERR_DATA,
         "disagree about \"happy\""},
        {"label2id", "{\"neutral\": \"0\", \"happy\": \"01\", \"sad\": \"2\"}", SER_ERR_DATA,
         "disagree about \"happy\""},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        assert_fails(changed("wav2vec2", list[i].key, list[i].value), list[i].status,
                     list[i].message);
    }
    assert_ok(changed("wav2vec2", "label2id", NULL));
    /* as transformers' example scripts write it */
    assert_ok(
        changed("wav2vec2", "label2id", "{\"neutral\": \"0\", \"happy\": \"1\", \"sad\": \"2\"}"));
}
END_TEST

START_TEST(JC6_hostile_sizes)
{
    hf_model hf;
    hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "", false);
    json_object_del(hf.config, "label2id");
    json_t *map = json_object();
    for (int i = 0; i <= SER_MAX_LABELS; i++) {
        char id[16];
        (void)snprintf(id, sizeof id, "%d", i);
        json_object_set_new(map, id, json_string(id));
    }
    json_object_set(hf.config, "id2label", map);
    assert_fails(read_config(hf.config, true), SER_ERR_DATA, "id2label has 1001 entries");
    char last[16];
    (void)snprintf(last, sizeof last, "%d", SER_MAX_LABELS);
    json_object_del(map, last);
    assert_ok(read_config(hf.config, true));
    char *huge = malloc(1000001);
    memset(huge, 'a', 1000000);
    huge[1000000] = '\0';
    json_object_set_new(map, "5", json_string(huge));
    free(huge);
    assert_fails(read_config(hf.config, true), SER_ERR_DATA,
                 "id2label[5] is longer than 255 bytes");
    ck_assert_uint_lt(strlen(ser_fail_text()), 200);
    json_decref(map);
    hf_free(&hf);
}
END_TEST

/* transformers leaves both maps out for its default of two classes. */
START_TEST(JC6_no_labels)
{
    ser_import import;
    static const char text[] = "{\"model_type\": \"hubert\", \"architectures\": "
                               "[\"HubertForSequenceClassification\"]}";
    assert_ok(ser_import_read_config("config.json", text, strlen(text), true, &import));
    ck_assert_uint_eq(import.config.label_count, 2);
    ck_assert_str_eq(import.config.labels[0], "LABEL_0");
    ck_assert_str_eq(import.config.labels[1], "LABEL_1");
    ser_config_clear(&import.config);
    static const char four[] = "{\"model_type\": \"hubert\", \"architectures\": "
                               "[\"HubertForSequenceClassification\"], \"num_labels\": 4}";
    assert_ok(ser_import_read_config("config.json", four, strlen(four), true, &import));
    ck_assert_uint_eq(import.config.label_count, 4);
    ck_assert_str_eq(import.config.labels[3], "LABEL_3");
    ser_config_clear(&import.config);
}
END_TEST

START_TEST(JC7_unknown_keys_of_others_are_ignored)
{
    assert_ok(changed("wav2vec2", "hiden_size", "3"));
    assert_ok(changed("wav2vec2", "torch_dtype", "\"float32\""));
    assert_ok(changed("wav2vec2", "task_specific_params", "{\"x\": [1, {\"y\": null}]}"));
}
END_TEST

static int preprocessor(const char *text, bool nested, ser_front_end *front_end)
{
    *front_end = ser_default_front_end;
    return ser_import_read_preprocessor("preprocessor_config.json", text, strlen(text), nested,
                                        front_end);
}

START_TEST(JC8_preprocessor)
{
    ser_front_end f;
    assert_ok(preprocessor("{}", false, &f));
    ck_assert(f.normalize);
    assert_ok(
        preprocessor("{\"do_normalize\": false, \"sampling_rate\": 16000, \"feature_size\": 1, "
                     "\"return_attention_mask\": true, \"x\": 1}",
                     false, &f));
    ck_assert(!f.normalize);
    static const bad list[] = {
        {"{\"sampling_rate\": 0}", NULL, SER_ERR_DATA,
         "sampling_rate is 0, must be an integer within 16000..16000"},
        {"{\"sampling_rate\": -16000}", NULL, SER_ERR_DATA, "sampling_rate is -16000"},
        {"{\"sampling_rate\": 8000}", NULL, SER_ERR_DATA, "sampling_rate is 8000"},
        {"{\"sampling_rate\": 16000.0}", NULL, SER_ERR_DATA, "sampling_rate is 16000.0"},
        {"{\"feature_size\": 80}", NULL, SER_ERR_DATA, "feature_size is 80"},
        {"{\"do_normalize\": 1}", NULL, SER_ERR_DATA, "do_normalize is 1, must be true or false"},
        {"{\"return_attention_mask\": \"no\"}", NULL, SER_ERR_DATA, "return_attention_mask"},
        {"{\"feature_extractor_type\": \"SeamlessM4TFeatureExtractor\"}", NULL, SER_ERR_UNSUPPORTED,
         "only Wav2Vec2FeatureExtractor"},
        {"", NULL, SER_ERR_FORMAT, "line 1"},
        {"[]", NULL, SER_ERR_FORMAT, "line 1"},
        {"{\"sampling_rate\": NaN}", NULL, SER_ERR_FORMAT, "line 1"},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        assert_fails(preprocessor(list[i].key, false, &f), list[i].status, list[i].message);
    }
    assert_ok(preprocessor(
        "{\"feature_extractor\": {\"do_normalize\": false}, \"processor_class\": \"x\"}", true,
        &f));
    ck_assert(!f.normalize);
    assert_ok(preprocessor("{\"processor_class\": \"x\"}", true, &f));
    ck_assert(f.normalize);
    assert_fails(preprocessor("{\"feature_extractor\": {\"sampling_rate\": 8000}}", true, &f),
                 SER_ERR_DATA, "feature_extractor.sampling_rate is 8000");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("import_config");
    TCase *tcase = tcase_create("import_config");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, absent_keys_are_transformers_defaults);
    tcase_add_test(tcase, JC3_values_of_config_json);
    tcase_add_test(tcase, JC5_what_is_not_supported);
    tcase_add_test(tcase, JC6_labels);
    tcase_add_test(tcase, JC6_hostile_sizes);
    tcase_add_test(tcase, JC6_no_labels);
    tcase_add_test(tcase, JC7_unknown_keys_of_others_are_ignored);
    tcase_add_test(tcase, JC8_preprocessor);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
