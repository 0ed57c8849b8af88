/* SPDX-License-Identifier: MIT */
/* Models that no file gives: built-in architectures, fresh weights, and who may use a model. */
#include "builder.h"

#include <math.h>

#include "model/archs.h"
#include "model/fresh.h"
#include "model/model.h"

static const char *const labels[] = {"no", "yes", "perhaps"};

static ser_device *device;
static ser_model *model;
static int64_t live;

static void setup(void)
{
    device = open_cpu();
    live = ser_mem_live();
}

static void teardown(void)
{
    ser_model_free(&model);
    ck_assert_int_eq(ser_mem_live(), live);
    ser_device_free(&device);
}

static int create(const char *config, uint64_t seed, int32_t layer_mix)
{
    ser_model_options options;
    ser_model_free(&model);
    ser_model_options_init(&options, sizeof options);
    options.seed = seed;
    options.layer_mix = layer_mix;
    return ser_model_create_from_config(device, config, labels, 3, &options, &model);
}

/* Parameter `name` of the model, to be freed. */
static float *values_of(const char *name, const ser_param **param)
{
    const ser_params *params = ser_net_params(model->net);
    for (size_t i = 0; i < params->count; i++) {
        if (strcmp(params->list[i].name, name) == 0) {
            float *values = malloc((size_t)ser_param_elements(&params->list[i]) * sizeof *values);
            assert_ok(ser_net_get(model->net, i, values));
            *param = &params->list[i];
            return values;
        }
    }
    ck_abort_msg("no parameter %s", name);
    return NULL;
}

/* The architecture of a configuration's text, without labels, training and layer_mix. */
static char *architecture(const char *text)
{
    json_t *root = json_loads(text, 0, NULL);
    ck_assert_ptr_nonnull(root);
    json_object_del(root, "labels");
    json_object_del(root, "training");
    char *plain = json_dumps(root, JSON_SORT_KEYS | JSON_COMPACT | JSON_REAL_PRECISION(12));
    json_decref(root);
    return plain;
}

START_TEST(ser_mini_is_the_shipped_architecture)
{
    ser_model *shipped;
    assert_ok(ser_model_load(device, getenv("SER_MODEL"), NULL, &shipped));
    assert_ok(create("ser-mini", 0, 0));
    char *a = architecture(ser_model_config(model));
    char *b = architecture(ser_model_config(shipped));
    ck_assert_str_eq(a, b);
    ck_assert_uint_eq(ser_model_label_count(model), 3);
    ck_assert_str_eq(ser_model_label(model, 2), "perhaps");
    ck_assert_str_eq(ser_model_path(model), "");
    ck_assert_ptr_nonnull(strstr(ser_builtin_names(), "ser-mini"));
    free(a);
    free(b);
    ser_model_free(&shipped);
}
END_TEST

START_TEST(labels_and_training_of_the_text_do_not_count)
{
    json_t *config = own_config(_i != 0);
    json_object_set_new(config, "training", json_pack("{s:i}", "epochs", 99));
    char *text = json_dumps(config, 0);
    assert_ok(create(text, 0, 0));
    ck_assert_uint_eq(ser_model_label_count(model), 3);
    ck_assert_ptr_null(strstr(ser_model_config(model), "epochs"));
    free(text);
    json_object_del(config, "labels");
    text = json_dumps(config, 0);
    assert_ok(create(text, 0, 0));
    ck_assert_str_eq(ser_model_label(model, 0), "no");
    /* what it says of itself makes the same model again */
    char *own = strdup(ser_model_config(model));
    assert_ok(create(own, 0, 0));
    ck_assert_str_eq(ser_model_config(model), own);
    free(own);
    free(text);
    json_decref(config);
}
END_TEST

static void check_uniform(const char *name, double limit)
{
    const ser_param *param;
    float *values = values_of(name, &param);
    size_t count = (size_t)ser_param_elements(param);
    double squares = 0.0;
    double largest = 0.0;
    for (size_t i = 0; i < count; i++) {
        squares += (double)values[i] * (double)values[i];
        largest = fmax(largest, fabs((double)values[i]));
    }
    ck_assert_msg(largest <= limit * 1.000001, "%s: %g > %g", name, largest, limit);
    ck_assert_msg(largest > 0.8 * limit, "%s: %g << %g", name, largest, limit);
    if (count > 1000) {
        ck_assert_double_eq_tol(squares / (double)count / (limit * limit / 3.0), 1.0, 0.1);
    }
    free(values);
}

static void check_constant(const char *name, float value)
{
    const ser_param *param;
    float *values = values_of(name, &param);
    for (int64_t i = 0; i < ser_param_elements(param); i++) {
        ck_assert_msg(values[i] == value, "%s", name);
    }
    free(values);
}

#define CONVS "wav2vec2.feature_extractor.conv_layers."
#define BLOCK "wav2vec2.encoder.layers.1."

START_TEST(fresh_weights)
{
    assert_ok(create("ser-mini", 5, 1));
    check_constant("wav2vec2.feature_extractor.mel.mean", 0.0F);
    check_constant("wav2vec2.feature_extractor.mel.std", 1.0F);
    check_constant(CONVS "1.layer_norm.weight", 1.0F);
    check_constant(CONVS "1.layer_norm.bias", 0.0F);
    check_constant("wav2vec2.encoder.layer_norm.weight", 1.0F);
    check_constant(BLOCK "final_layer_norm.bias", 0.0F);
    check_constant("wav2vec2.encoder.pos_conv_embed.conv.bias", 0.0F);
    check_constant("layer_mix.weight", 0.0F);
    check_constant("classifier.1.bias", 0.0F);
    check_uniform(CONVS "0.conv.weight", 1.0 / sqrt(80.0 * 5.0));
    check_uniform(CONVS "0.conv.bias", 1.0 / sqrt(80.0 * 5.0));
    check_uniform(BLOCK "feed_forward.output_dense.weight", 1.0 / sqrt(256.0));
    check_uniform(BLOCK "feed_forward.output_dense.bias", 1.0 / sqrt(256.0));
    check_uniform(BLOCK "attention.k_proj.weight", 1.0 / sqrt(128.0));
    check_uniform("wav2vec2.encoder.pos_conv_embed.conv.weight_v", sqrt(12.0 / (15.0 * 128.0)));
    check_uniform("classifier.0.weight", sqrt(6.0 / 256.0)); /* as every fresh head */
}
END_TEST

START_TEST(the_gains_of_the_positions_are_the_norms)
{
    const ser_param *v_param;
    const ser_param *g_param;
    assert_ok(create("ser-mini", 5, 0));
    float *v = values_of("wav2vec2.encoder.pos_conv_embed.conv.weight_v", &v_param);
    float *g = values_of("wav2vec2.encoder.pos_conv_embed.conv.weight_g", &g_param);
    for (int64_t k = 0; k < g_param->shape[2]; k++) {
        double sum = 0.0;
        for (int64_t i = k; i < ser_param_elements(v_param); i += g_param->shape[2]) {
            sum += (double)v[i] * (double)v[i];
        }
        ck_assert_double_eq_tol((double)g[k] / sqrt(sum), 1.0, 1e-6);
    }
    free(v);
    free(g);
}
END_TEST

START_TEST(the_seed_alone_decides)
{
    const ser_param *param;
    float *drawn[3];
    const uint64_t seeds[] = {1, 1, 2};
    for (int i = 0; i < 3; i++) {
        assert_ok(create("ser-mini", seeds[i], 0));
        drawn[i] = values_of(BLOCK "attention.q_proj.weight", &param);
    }
    size_t bytes = (size_t)ser_param_elements(param) * sizeof(float);
    ck_assert_mem_eq(drawn[0], drawn[1], bytes);
    ck_assert_mem_ne(drawn[0], drawn[2], bytes);
    float *k = values_of(BLOCK "attention.k_proj.weight", &param);
    float *other = values_of("wav2vec2.encoder.layers.0.attention.q_proj.weight", &param);
    ck_assert_mem_ne(drawn[2], k, bytes);
    ck_assert_mem_ne(drawn[2], other, bytes);
    free(k);
    free(other);
    for (int i = 0; i < 3; i++) {
        free(drawn[i]);
    }
}
END_TEST

START_TEST(a_mix_of_layers_on_request)
{
    hf_model hf;
    ser_model_options options;
    assert_ok(create("ser-mini", 0, 1));
    ck_assert_ptr_nonnull(strstr(ser_model_config(model), "\"layer_mix\": true"));
    hf_create(&hf, "wav2vec2", "Wav2Vec2Model", "", false);
    hf_write(&hf);
    ser_model_options_init(&options, sizeof options);
    for (int32_t mix = 0; mix < 2; mix++) {
        options.layer_mix = mix;
        ser_model_free(&model);
        assert_ok(ser_model_create(device, hf.dir, labels, 3, &options, &model));
        ck_assert_int_eq(strstr(ser_model_config(model), "\"layer_mix\": true") != NULL, mix);
    }
    check_constant("layer_mix.weight", 0.0F);
    options.layer_mix = 2;
    ser_model_free(&model);
    assert_fails(ser_model_create(device, hf.dir, labels, 3, &options, &model), SER_ERR_ARGUMENT,
                 "layer_mix is 2");
    options.layer_mix = 0;
    options.reserved = 1;
    assert_fails(ser_model_create(device, hf.dir, labels, 3, &options, &model), SER_ERR_UNSUPPORTED,
                 "reserved");
    hf_free(&hf);
}
END_TEST

START_TEST(what_is_refused)
{
    const char *const twice[] = {"x", "x"};
    const char *const with_null[] = {"x", NULL};
    assert_fails(create("ser-maxi", 0, 0), SER_ERR_ARGUMENT, "\"ser-maxi\", neither JSON");
    assert_fails(create("ser-maxi", 0, 0), SER_ERR_ARGUMENT, "(ser-mini)");
    assert_fails(create("", 0, 0), SER_ERR_ARGUMENT, "neither JSON");
    assert_fails(create(" {\"features\": }", 0, 0), SER_ERR_FORMAT, "config: ");
    assert_fails(create("{}", 0, 0), SER_ERR_DATA, "features");
    assert_fails(create("{\"fetaures\": {}}", 0, 0), SER_ERR_DATA, "fetaures");
    assert_fails(ser_model_create_from_config(device, "ser-mini", twice, 2, NULL, &model),
                 SER_ERR_ARGUMENT, "labels[0] and [1] are both \"x\"");
    assert_fails(ser_model_create_from_config(device, "ser-mini", with_null, 2, NULL, &model),
                 SER_ERR_ARGUMENT, "labels[1] is NULL");
    assert_fails(ser_model_create_from_config(device, "ser-mini", labels, 1, NULL, &model),
                 SER_ERR_ARGUMENT, "label_count is 1");
    assert_fails(ser_model_create_from_config(device, "ser-mini", NULL, 2, NULL, &model),
                 SER_ERR_ARGUMENT, "labels is NULL");
    assert_fails(ser_model_create_from_config(device, NULL, labels, 2, NULL, &model),
                 SER_ERR_ARGUMENT, "config is NULL");
    assert_fails(ser_model_create_from_config(NULL, "ser-mini", labels, 2, NULL, &model),
                 SER_ERR_ARGUMENT, "device is NULL");
    assert_fails(ser_model_create_from_config(device, "ser-mini", labels, 2, NULL, NULL),
                 SER_ERR_ARGUMENT, "model is NULL");
}
END_TEST

START_TEST(users)
{
    assert_ok(create("ser-mini", 0, 0));
    assert_ok(ser_model_share(model));
    assert_ok(ser_model_share(model));
    assert_fails(ser_model_take(model), SER_ERR_BUSY, "2 predictors");
    ser_model_unshare(model);
    assert_fails(ser_model_take(model), SER_ERR_BUSY, "1 predictor;");
    ser_model_unshare(model);
    assert_ok(ser_model_take(model));
    assert_fails(ser_model_take(model), SER_ERR_BUSY, "is being trained");
    assert_fails(ser_model_share(model), SER_ERR_BUSY, "is being trained");
    ser_model_give_back(model);
    assert_ok(ser_model_share(model));
    ser_model_unshare(model);
}
END_TEST

START_TEST(written_with_changes)
{
    const ser_model_changes changes = {.temperature = 4.0, .training = "{\"epochs\": 7}"};
    const char *path = harness_tmpfile("changed.safetensors");
    const ser_param *param;
    assert_ok(create("ser-mini", 3, 0));
    float *last = values_of("classifier.1.weight", &param);
    size_t last_count = (size_t)ser_param_elements(param);
    float *first = values_of("classifier.0.weight", &param);
    size_t first_count = (size_t)ser_param_elements(param);
    assert_ok(ser_model_write(model, &changes, path));
    ck_assert_ptr_null(strstr(ser_model_config(model), "epochs"));
    ser_model_free(&model);
    assert_ok(ser_model_load(device, path, NULL, &model));
    ck_assert_ptr_nonnull(strstr(ser_model_config(model), "\"epochs\": 7"));
    float *now = values_of("classifier.1.weight", &param);
    for (size_t i = 0; i < last_count; i++) {
        ck_assert(now[i] == last[i] / 4.0F);
    }
    free(now);
    now = values_of("classifier.0.weight", &param);
    ck_assert_mem_eq(now, first, first_count * sizeof *now);
    free(now);
    free(first);
    free(last);
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    int status = SER_ERR_MEMORY;
    const ser_model_changes changes = {.temperature = 2.0, .training = "{\"a\": 1}"};
    const char *path = harness_tmpfile("faults.safetensors");
    for (uint64_t n = 1; status != 0; n++) {
        ser_mem_fail_at(n, false);
        status = create("ser-mini", 0, 1);
        if (status == 0) {
            status = ser_model_write(model, &changes, path);
        }
        ser_mem_fail_at(0, false);
        ck_assert_msg(status == 0 || status == SER_ERR_MEMORY, "%d %s", status, ser_fail_text());
        ser_model_free(&model);
        ck_assert_int_eq(ser_mem_live(), live);
        ck_assert_uint_lt(n, 5000);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fresh");
    TCase *tc = tcase_create("fresh");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, ser_mini_is_the_shipped_architecture);
    tcase_add_loop_test(tc, labels_and_training_of_the_text_do_not_count, 0, 2);
    tcase_add_test(tc, fresh_weights);
    tcase_add_test(tc, the_gains_of_the_positions_are_the_norms);
    tcase_add_test(tc, the_seed_alone_decides);
    tcase_add_test(tc, a_mix_of_layers_on_request);
    tcase_add_test(tc, what_is_refused);
    tcase_add_test(tc, users);
    tcase_add_test(tc, written_with_changes);
    tcase_add_test(tc, every_allocation_may_fail);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
