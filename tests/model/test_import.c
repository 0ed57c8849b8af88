/* SPDX-License-Identifier: MIT */
/* Transformers directories: how tensors are found, and what becomes of heads. */
#include "harness.h"

#include <unistd.h>

#include "base/log.h"
#include "builder.h"
#include "model/import.h"
#include "model/json.h"
#include "model/package.h"
#include "ops/ops.h"

#define W2V_CLASSIFIER "Wav2Vec2ForSequenceClassification"

static const char *const three_labels[] = {"x", "y", "z"};
static const ser_head three = {three_labels, 3, false};

static int open_backbone(const hf_model *hf, ser_package *package)
{
    int64_t live = ser_mem_live();
    int status = ser_package_open_backbone(hf->dir, &three, SER_DEFAULT_HEADER, package);
    if (status != 0) {
        ck_assert_int_eq(ser_mem_live(), live);
    }
    return status;
}

static void check_spelling(const char *type, const char *architecture, const char *prefix,
                           bool large)
{
    static const char *const stems[] = {
        "feature_extractor.conv_layers.1.conv.weight", "feature_projection.projection.bias",
        "encoder.layers.1.attention.k_proj.weight", "encoder.layers.0.final_layer_norm.bias"};
    hf_model hf;
    ser_package package;
    hf_create(&hf, type, architecture, prefix, large);
    hf_write(&hf);
    assert_ok(open_backbone(&hf, &package));
    for (size_t i = 0; i < sizeof stems / sizeof stems[0]; i++) {
        char own[128];
        char theirs[128];
        (void)snprintf(own, sizeof own, "wav2vec2.%s", stems[i]);
        (void)snprintf(theirs, sizeof theirs, "%s%s", prefix, stems[i]);
        check_binding(&package, own, theirs);
    }
    for (size_t i = 0; i < package.params.count; i++) {
        ck_assert_int_eq(package.bound[i].entry == NULL, package.params.list[i].head);
    }
    ser_package_clear(&package);
    hf_free(&hf);
}

START_TEST(all_prefixes)
{
    check_spelling("wav2vec2", "Wav2Vec2Model", "", false);
    check_spelling("wav2vec2", "Wav2Vec2ForPreTraining", "wav2vec2.", false);
    check_spelling("wav2vec2", W2V_CLASSIFIER, "wav2vec2.", true);
    check_spelling("hubert", "HubertModel", "", true);
    check_spelling("hubert", "HubertForCTC", "hubert.", false);
    check_spelling("hubert", "HubertForSequenceClassification", "hubert.", true);
    check_spelling("hubert", "HubertModel", "wav2vec2.", false);
}
END_TEST

START_TEST(classifier_of_the_base_kind)
{
    hf_model hf;
    ser_package p;
    hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "wav2vec2.", false);
    hf_write(&hf);
    assert_ok(hf_open(&hf, &p));
    const ser_arch *a = &p.config.arch;
    ck_assert_int_eq(a->features, SER_FEATURES_CONV);
    ck_assert_int_eq(a->sampling_rate, 16000);
    ck_assert_int_eq(a->conv_count, 2);
    ck_assert_int_eq(a->conv_norm, SER_NORM_GROUP);
    ck_assert_int_eq(a->encoder_norm, SER_ENCODER_POST_NORM);
    ck_assert(!a->conv_bias && a->feature_norm && !a->layer_mix);
    ck_assert_int_eq(a->pooling, SER_POOLING_MEAN);
    ck_assert_int_eq(a->classifier_count, 2);
    ck_assert_int_eq(a->classifier_size[0], 7);
    ck_assert_int_eq(a->classifier_size[1], 3);
    ck_assert_int_eq(a->classifier_activation, SER_ACT_NONE);
    ck_assert_uint_eq(p.config.label_count, 3);
    ck_assert_str_eq(p.config.labels[1], "happy");
    ck_assert(p.config.front_end.normalize && !p.config.front_end.trim && !p.config.pad_as_hf);
    check_binding(&p, "classifier.0.weight", "projector.weight");
    check_binding(&p, "classifier.0.bias", "projector.bias");
    check_binding(&p, "classifier.1.weight", "classifier.weight");
    check_binding(&p, "classifier.1.bias", "classifier.bias");
    check_binding(&p, "wav2vec2.encoder.pos_conv_embed.conv.weight_g",
                  "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0");
    check_binding(&p, "wav2vec2.encoder.pos_conv_embed.conv.weight_v",
                  "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1");
    ser_package_clear(&p);
    hf_free(&hf);
}
END_TEST

START_TEST(classifier_of_the_large_kind_with_weighted_sum)
{
    hf_model hf;
    ser_package p;
    hf_create(&hf, "hubert", "HubertForSequenceClassification", "hubert.", true);
    json_object_set_new(hf.config, "use_weighted_layer_sum", json_true());
    json_object_set_new(hf.config, "feat_proj_layer_norm", json_false());
    spec_remove(&hf.spec, "hubert.feature_projection.layer_norm.weight");
    spec_remove(&hf.spec, "hubert.feature_projection.layer_norm.bias");
    spec_add(&hf.spec, "layer_weights", 1, 3, 0, 0);
    /* the older spelling of the weight norm */
    (void)strcpy(
        spec_get(&hf.spec, "hubert.encoder.pos_conv_embed.conv.parametrizations.weight.original0")
            ->name,
        "hubert.encoder.pos_conv_embed.conv.weight_g");
    (void)strcpy(
        spec_get(&hf.spec, "hubert.encoder.pos_conv_embed.conv.parametrizations.weight.original1")
            ->name,
        "hubert.encoder.pos_conv_embed.conv.weight_v");
    hf_write(&hf);
    assert_ok(hf_open(&hf, &p));
    const ser_arch *a = &p.config.arch;
    ck_assert_int_eq(a->conv_norm, SER_NORM_LAYER);
    ck_assert_int_eq(a->encoder_norm, SER_ENCODER_PRE_NORM);
    ck_assert(a->conv_bias && !a->feature_norm && a->layer_mix);
    check_binding(&p, "layer_mix.weight", "layer_weights");
    check_binding(&p, "wav2vec2.encoder.pos_conv_embed.conv.weight_v",
                  "hubert.encoder.pos_conv_embed.conv.weight_v");
    ser_package_clear(&p);
    hf_free(&hf);
}
END_TEST

START_TEST(half_precision_weights)
{
    static const char *const types[] = {"F16", "BF16"};
    for (size_t i = 0; i < 2; i++) {
        hf_model hf;
        ser_package p;
        hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "wav2vec2.", false);
        for (size_t j = 0; j < hf.spec.count; j++) {
            (void)strcpy(hf.spec.list[j].dtype, types[i]);
        }
        hf_write(&hf);
        assert_ok(hf_open(&hf, &p));
        check_binding(&p, "classifier.0.weight", "projector.weight");
        check_binding(&p, "wav2vec2.encoder.layer_norm.weight",
                      "wav2vec2.encoder.layer_norm.weight");
        ser_package_clear(&p);
        hf_free(&hf);
    }
}
END_TEST

START_TEST(JC4_size_against_the_file)
{
    /* a configuration of a giant over a small file: refused before a network is made */
    hf_model hf;
    ser_package p;
    hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "wav2vec2.", false);
    json_object_set_new(hf.config, "hidden_size", json_integer(12288));
    json_object_set_new(hf.config, "intermediate_size", json_integer(49152));
    hf_write(&hf);
    assert_fails(hf_open(&hf, &p), SER_ERR_MISMATCH, "has the shape [12, 8], not [12288, 8]");
    json_object_set_new(hf.config, "num_hidden_layers", json_integer(256));
    hf_write(&hf);
    assert_fails(hf_open(&hf, &p), SER_ERR_DATA, "parameters, limit");
    hf_free(&hf);
}
END_TEST

START_TEST(preprocessor_files_are_found)
{
    hf_model hf;
    ser_package p;
    char path[512];
    hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "wav2vec2.", false);
    json_object_set_new(hf.preprocessor, "do_normalize", json_false());
    hf_write(&hf);
    assert_ok(hf_open(&hf, &p));
    ck_assert(!p.config.front_end.normalize);
    ser_package_clear(&p);
    json_decref(hf.preprocessor);
    hf.preprocessor = NULL;
    hf_write(&hf);
    assert_ok(hf_open(&hf, &p)); /* without it */
    ck_assert(p.config.front_end.normalize);
    ser_package_clear(&p);
    hf_path(&hf, "processor_config.json", path);
    write_text(path, "{\"feature_extractor\": {\"do_normalize\": false}}");
    assert_ok(hf_open(&hf, &p));
    ck_assert(!p.config.front_end.normalize);
    ser_package_clear(&p);
    write_text(path, "{\"feature_extractor\": {\"do_normalize\": 0}}");
    assert_fails(hf_open(&hf, &p), SER_ERR_DATA,
                 "processor_config.json: feature_extractor.do_normalize");
    hf_free(&hf);
}
END_TEST

/* Open the classifier after `edit` has changed its tensors. */
static int edited(void (*edit)(model_spec *spec))
{
    hf_model hf;
    ser_package p;
    hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "wav2vec2.", false);
    edit(&hf.spec);
    hf_write(&hf);
    int status = hf_open(&hf, &p);
    ser_package_clear(&p);
    hf_free(&hf);
    return status;
}

static void drop_one(model_spec *s)
{
    spec_remove(s, "wav2vec2.encoder.layers.1.attention.k_proj.bias");
}

static void add_one(model_spec *s)
{
    spec_add(s, "wav2vec2.encoder.layers.2.layer_norm.bias", 1, 12, 0, 0);
}

static void add_head_of_pretraining(model_spec *s)
{
    spec_add(s, "quantizer.codevectors", 3, 1, 4, 5);
}

static void misshape(model_spec *s)
{
    spec_get(s, "projector.weight")->shape[0] = 8;
}

static void transpose(model_spec *s)
{
    spec_get(s, "projector.weight")->shape[0] = 12;
    spec_get(s, "projector.weight")->shape[1] = 7;
}

static void flatten(model_spec *s)
{
    *spec_get(s, "projector.bias") = (tensor_spec){"projector.bias", "F32", 2, {7, 1}};
}

static void integers(model_spec *s)
{
    (void)strcpy(spec_get(s, "wav2vec2.encoder.layer_norm.bias")->dtype, "I64");
}

static void both_spellings(model_spec *s)
{
    spec_add(s, "wav2vec2.encoder.pos_conv_embed.conv.weight_g", 3, 1, 1, 4);
}

static void custom_head(model_spec *s)
{
    spec_remove(s, "projector.weight");
    spec_remove(s, "projector.bias");
    spec_remove(s, "classifier.weight");
    spec_remove(s, "classifier.bias");
    spec_add(s, "classifier.dense.weight", 2, 12, 12, 0);
    spec_add(s, "classifier.dense.bias", 1, 12, 0, 0);
    spec_add(s, "classifier.output.weight", 2, 3, 12, 0);
    spec_add(s, "classifier.output.bias", 1, 3, 0, 0);
}

static void drop_everything(model_spec *s)
{
    s->count = 0;
}

static void drop_mask_embedding(model_spec *s)
{
    spec_remove(s, "wav2vec2.masked_spec_embed");
}

static void hostile_name(model_spec *s)
{
    spec_add(s, "evil\x1b[2J\n", 1, 1, 0, 0);
}

START_TEST(ST10_tensors_do_not_fit)
{
    assert_fails(edited(drop_one), SER_ERR_MISMATCH,
                 "wav2vec2.encoder.layers.1.attention.k_proj.bias is missing");
    assert_fails(edited(add_one), SER_ERR_MISMATCH,
                 "wav2vec2.encoder.layers.2.layer_norm.bias is unknown");
    assert_fails(edited(add_head_of_pretraining), SER_ERR_MISMATCH,
                 "quantizer.codevectors is unknown");
    assert_fails(edited(misshape), SER_ERR_MISMATCH,
                 "projector.weight has the shape [8, 12], not [7, 12]");
    assert_fails(edited(transpose), SER_ERR_MISMATCH, "[12, 7], not [7, 12]");
    assert_fails(edited(flatten), SER_ERR_MISMATCH, "projector.bias has the shape [7, 1], not [7]");
    assert_fails(edited(integers), SER_ERR_UNSUPPORTED,
                 "tensor \"wav2vec2.encoder.layer_norm.bias\" is I64");
    assert_fails(edited(both_spellings), SER_ERR_MISMATCH, "is there a second time as");
    assert_fails(edited(hostile_name), SER_ERR_MISMATCH, "evil?[2J? is unknown");
    assert_ok(edited(drop_mask_embedding));
}
END_TEST

START_TEST(ST10_list_is_bounded)
{
    assert_fails(edited(drop_everything), SER_ERR_MISMATCH, "; and 39 more");
    int listed = 0;
    for (const char *at = ser_fail_text(); (at = strstr(at, "is missing")) != NULL; at++) {
        listed++;
    }
    ck_assert_int_eq(listed, 10);
}
END_TEST

START_TEST(ST10_custom_heads)
{
    assert_fails(edited(custom_head), SER_ERR_MISMATCH, "projector.weight is missing");
    assert_fails(edited(custom_head), SER_ERR_MISMATCH, "the head of a custom class");
    /* such a directory is still a good backbone */
    hf_model hf;
    ser_package p;
    hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "wav2vec2.", false);
    json_object_set_new(hf.config, "architectures",
                        json_pack("[s]", "Wav2Vec2ForSpeechClassification"));
    custom_head(&hf.spec);
    hf_write(&hf);
    assert_fails(hf_open(&hf, &p), SER_ERR_MISMATCH, "the head of a custom class");
    assert_ok(open_backbone(&hf, &p));
    ser_package_clear(&p);
    hf_free(&hf);
}
END_TEST

typedef struct seen {
    int count;
    char text[512];
} seen;

static void keep(int32_t level, const char *text, void *user)
{
    seen *s = user;
    if (level >= SER_LOG_WARNING) {
        s->count++;
        (void)snprintf(s->text, sizeof s->text, "%s", text);
    }
}

START_TEST(backbone_with_a_fresh_head)
{
    static const char *const extras[] = {
        "quantizer.codevectors", "project_hid.weight", "project_q.bias",   "lm_head.bias",
        "projector.weight",      "layer_weights",      "final_proj.weight"};
    hf_model hf;
    ser_package p;
    seen s = {0};
    hf_create(&hf, "wav2vec2", "Wav2Vec2ForPreTraining", "wav2vec2.", false);
    for (size_t i = 0; i < sizeof extras / sizeof extras[0]; i++) {
        spec_add(&hf.spec, extras[i], 1, 3, 0, 0);
    }
    hf_write(&hf);
    assert_fails(hf_open(&hf, &p), SER_ERR_DATA, "ser_model_create()");
    ser_log_set_handler(keep, &s);
    assert_ok(open_backbone(&hf, &p));
    ck_assert_int_eq(s.count, 0);
    const ser_arch *a = &p.config.arch;
    ck_assert_int_eq(a->pooling, SER_POOLING_ATTENTION);
    ck_assert_int_eq(a->pooling_hidden, 0);
    ck_assert_int_eq(a->classifier_count, 3);
    ck_assert_int_eq(a->classifier_size[0], 256);
    ck_assert_int_eq(a->classifier_size[1], 128);
    ck_assert_int_eq(a->classifier_size[2], 3);
    ck_assert_int_eq(a->classifier_activation, SER_ACT_RELU);
    ck_assert(!a->layer_mix);
    ck_assert_str_eq(p.config.labels[2], "z");
    ser_package_clear(&p);
    /* a speech recogniser: works, with a warning */
    spec_add(&hf.spec, "lm_head.weight", 2, 3, 12, 0);
    hf_write(&hf);
    assert_ok(open_backbone(&hf, &p));
    ck_assert_int_eq(s.count, 1);
    ck_assert(strstr(s.text, "speech recognition (lm_head)") != NULL);
    ser_package_clear(&p);
    ser_log_set_handler(NULL, NULL);
    /* but no stranger */
    spec_add(&hf.spec, "wav2vec2.adapter.layers.0.conv.weight", 1, 3, 0, 0);
    hf_write(&hf);
    assert_fails(open_backbone(&hf, &p), SER_ERR_MISMATCH,
                 "wav2vec2.adapter.layers.0.conv.weight is unknown");
    hf_free(&hf);
}
END_TEST

START_TEST(backbone_arguments)
{
    static const char *const twice[] = {"x", "y", "x"};
    static const char *const bad_utf8[] = {"x", "\xFF"};
    static const ser_head double_head = {twice, 3, false};
    static const ser_head bad_head = {bad_utf8, 2, false};
    hf_model hf;
    ser_package p;
    hf_create(&hf, "wav2vec2", "Wav2Vec2Model", "", false);
    hf_write(&hf);
    assert_fails(ser_package_open_backbone(hf.dir, &double_head, SER_DEFAULT_HEADER, &p),
                 SER_ERR_ARGUMENT, "labels[0] and [2] are both \"x\"");
    assert_fails(ser_package_open_backbone(hf.dir, &bad_head, SER_DEFAULT_HEADER, &p),
                 SER_ERR_ARGUMENT, "labels[1] is not UTF-8");
    char path[512];
    hf_path(&hf, "model.safetensors", path);
    assert_fails(ser_package_open_backbone(path, &three, SER_DEFAULT_HEADER, &p), SER_ERR_FORMAT,
                 "a backbone is a transformers directory");
    hf_free(&hf);
}
END_TEST

START_TEST(JC2_files_of_the_directory)
{
    hf_model hf;
    ser_package p;
    char path[512];
    hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "wav2vec2.", false);
    hf_write(&hf);
    hf_path(&hf, "config.json", path);
    write_text(path, "");
    assert_fails(hf_open(&hf, &p), SER_ERR_FORMAT, "config.json: line 1, column 0");
    write_text(path, "{\n \"hidden_size\": NaN\n}");
    assert_fails(hf_open(&hf, &p), SER_ERR_FORMAT, "config.json: line 2");
    ck_assert_int_eq(truncate(path, SER_JSON_MAX_SIZE + 1), 0);
    assert_fails(hf_open(&hf, &p), SER_ERR_CAPACITY, "config.json: 16777217 bytes, limit 16777216");
    ck_assert_int_eq(remove(path), 0);
    assert_fails(hf_open(&hf, &p), SER_ERR_IO, "config.json: cannot open: No such file");
    hf_free(&hf);
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    hf_model hf;
    hf_create(&hf, "wav2vec2", W2V_CLASSIFIER, "wav2vec2.", false);
    hf_write(&hf);
    for (int backbone = 0; backbone < 2; backbone++) {
        int64_t live = ser_mem_live();
        int status = SER_ERR_MEMORY;
        for (uint64_t n = 1; status != 0; n++) {
            ser_package p;
            ser_mem_fail_at(n, false);
            status = backbone != 0 ? open_backbone(&hf, &p) : hf_open(&hf, &p);
            ser_mem_fail_at(0, false);
            ck_assert(status == 0 || status == SER_ERR_MEMORY);
            ser_package_clear(&p);
            ck_assert_int_eq(ser_mem_live(), live);
            ck_assert_uint_lt(n, 200);
        }
    }
    hf_free(&hf);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("import");
    TCase *tcase = tcase_create("import");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, all_prefixes);
    tcase_add_test(tcase, classifier_of_the_base_kind);
    tcase_add_test(tcase, classifier_of_the_large_kind_with_weighted_sum);
    tcase_add_test(tcase, half_precision_weights);
    tcase_add_test(tcase, JC4_size_against_the_file);
    tcase_add_test(tcase, preprocessor_files_are_found);
    tcase_add_test(tcase, ST10_tensors_do_not_fit);
    tcase_add_test(tcase, ST10_list_is_bounded);
    tcase_add_test(tcase, ST10_custom_heads);
    tcase_add_test(tcase, backbone_with_a_fresh_head);
    tcase_add_test(tcase, backbone_arguments);
    tcase_add_test(tcase, JC2_files_of_the_directory);
    tcase_add_test(tcase, every_allocation_may_fail);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
