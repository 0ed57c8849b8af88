/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include "net/params.h"
#include "ops/ops.h"

#define FE  "wav2vec2.feature_extractor."
#define FP  "wav2vec2.feature_projection."
#define ENC "wav2vec2.encoder."

typedef struct expected {
    const char *name;
    int64_t shape[3];
    int32_t rank, role, index;
    bool head;
} expected;

static ser_arch tiny(void)
{
    return (ser_arch){
        .features = SER_FEATURES_CONV,
        .conv_count = 2,
        .conv_dim = {6, 8},
        .conv_kernel = {10, 3},
        .conv_stride = {5, 2},
        .conv_norm = SER_NORM_GROUP,
        .hidden_size = 12,
        .layers = 1,
        .heads = 3,
        .intermediate_size = 20,
        .feature_norm = true,
        .position_kernel = 4,
        .position_groups = 2,
        .pooling = SER_POOLING_ATTENTION,
        .classifier_count = 2,
        .classifier_size = {7, 3},
    };
}

static void compare(const ser_arch *arch, const expected *list, size_t count)
{
    ser_params params;
    assert_ok(ser_params_plan(arch, &params));
    ck_assert_uint_eq(params.count, count);
    for (size_t i = 0; i < count; i++) {
        const ser_param *p = &params.list[i];
        ck_assert_str_eq(p->name, list[i].name);
        ck_assert_int_eq(p->rank, list[i].rank);
        for (int j = 0; j < p->rank; j++) {
            ck_assert_int_eq(p->shape[j], list[i].shape[j]);
        }
        ck_assert_int_eq(p->role, list[i].role);
        ck_assert_int_eq(p->index, list[i].index);
        ck_assert_int_eq(p->head, list[i].head);
    }
    ser_params_clear(&params);
    ck_assert_ptr_null(params.list);
}

START_TEST(waveform_model)
{
    static const expected list[] = {
        {FE "conv_layers.0.conv.weight", {6, 1, 10}, 3, SER_PARAM_CONV_WEIGHT, 0, false},
        {FE "conv_layers.0.layer_norm.weight", {6}, 1, SER_PARAM_CONV_GAMMA, 0, false},
        {FE "conv_layers.0.layer_norm.bias", {6}, 1, SER_PARAM_CONV_BETA, 0, false},
        {FE "conv_layers.1.conv.weight", {8, 6, 3}, 3, SER_PARAM_CONV_WEIGHT, 1, false},
        {FP "layer_norm.weight", {8}, 1, SER_PARAM_FEATURE_GAMMA, 0, false},
        {FP "layer_norm.bias", {8}, 1, SER_PARAM_FEATURE_BETA, 0, false},
        {FP "projection.weight", {12, 8}, 2, SER_PARAM_PROJECTION_WEIGHT, 0, false},
        {FP "projection.bias", {12}, 1, SER_PARAM_PROJECTION_BIAS, 0, false},
        {ENC "pos_conv_embed.conv.weight_g", {1, 1, 4}, 3, SER_PARAM_POSITION_G, 0, false},
        {ENC "pos_conv_embed.conv.weight_v", {12, 6, 4}, 3, SER_PARAM_POSITION_V, 0, false},
        {ENC "pos_conv_embed.conv.bias", {12}, 1, SER_PARAM_POSITION_BIAS, 0, false},
        {ENC "layer_norm.weight", {12}, 1, SER_PARAM_ENCODER_GAMMA, 0, false},
        {ENC "layer_norm.bias", {12}, 1, SER_PARAM_ENCODER_BETA, 0, false},
        {ENC "layers.0.attention.q_proj.weight", {12, 12}, 2, SER_PARAM_Q_WEIGHT, 0, false},
        {ENC "layers.0.attention.q_proj.bias", {12}, 1, SER_PARAM_Q_BIAS, 0, false},
        {ENC "layers.0.attention.k_proj.weight", {12, 12}, 2, SER_PARAM_K_WEIGHT, 0, false},
        {ENC "layers.0.attention.k_proj.bias", {12}, 1, SER_PARAM_K_BIAS, 0, false},
        {ENC "layers.0.attention.v_proj.weight", {12, 12}, 2, SER_PARAM_V_WEIGHT, 0, false},
        {ENC "layers.0.attention.v_proj.bias", {12}, 1, SER_PARAM_V_BIAS, 0, false},
        {ENC "layers.0.attention.out_proj.weight", {12, 12}, 2, SER_PARAM_OUT_WEIGHT, 0, false},
        {ENC "layers.0.attention.out_proj.bias", {12}, 1, SER_PARAM_OUT_BIAS, 0, false},
        {ENC "layers.0.layer_norm.weight", {12}, 1, SER_PARAM_ATTENTION_GAMMA, 0, false},
        {ENC "layers.0.layer_norm.bias", {12}, 1, SER_PARAM_ATTENTION_BETA, 0, false},
        {ENC "layers.0.feed_forward.intermediate_dense.weight",
         {20, 12},
         2,
         SER_PARAM_FFN_IN_WEIGHT,
         0,
         false},
        {ENC "layers.0.feed_forward.intermediate_dense.bias",
         {20},
         1,
         SER_PARAM_FFN_IN_BIAS,
         0,
         false},
        {ENC "layers.0.feed_forward.output_dense.weight",
         {12, 20},
         2,
         SER_PARAM_FFN_OUT_WEIGHT,
         0,
         false},
        {ENC "layers.0.feed_forward.output_dense.bias", {12}, 1, SER_PARAM_FFN_OUT_BIAS, 0, false},
        {ENC "layers.0.final_layer_norm.weight", {12}, 1, SER_PARAM_FINAL_GAMMA, 0, false},
        {ENC "layers.0.final_layer_norm.bias", {12}, 1, SER_PARAM_FINAL_BETA, 0, false},
        {"pooling.score.weight", {1, 12}, 2, SER_PARAM_POOL_SCORE_WEIGHT, 0, true},
        {"pooling.score.bias", {1}, 1, SER_PARAM_POOL_SCORE_BIAS, 0, true},
        {"classifier.0.weight", {7, 12}, 2, SER_PARAM_CLASSIFIER_WEIGHT, 0, true},
        {"classifier.0.bias", {7}, 1, SER_PARAM_CLASSIFIER_BIAS, 0, true},
        {"classifier.1.weight", {3, 7}, 2, SER_PARAM_CLASSIFIER_WEIGHT, 1, true},
        {"classifier.1.bias", {3}, 1, SER_PARAM_CLASSIFIER_BIAS, 1, true},
    };
    ser_arch arch = tiny();
    compare(&arch, list, sizeof list / sizeof list[0]);
}
END_TEST

static bool has(const ser_params *params, const char *name, const char *shape)
{
    for (size_t i = 0; i < params->count; i++) {
        const ser_param *p = &params->list[i];
        if (strcmp(p->name, name) == 0) {
            char text[64];
            int n = 0;
            for (int32_t j = 0; j < p->rank; j++) {
                n += snprintf(text + n, sizeof text - (size_t)n, "%s%lld", j > 0 ? "," : "",
                              (long long)p->shape[j]);
            }
            return strcmp(text, shape) == 0;
        }
    }
    return false;
}

START_TEST(logmel_and_options)
{
    ser_arch arch = tiny();
    arch.features = SER_FEATURES_LOGMEL;
    arch.mel.bins = 5;
    arch.conv_norm = SER_NORM_LAYER;
    arch.conv_bias = true;
    arch.feature_norm = false;
    arch.layers = 3;
    arch.layer_mix = true;
    arch.pooling_hidden = 9;
    ser_params params;
    assert_ok(ser_params_plan(&arch, &params));
    ck_assert_uint_eq(params.count, 2 + 2 * 4 + 2 + 3 + 2 + 3 * 16 + 1 + 4 + 4);
    ck_assert_str_eq(params.list[0].name, FE "mel.mean");
    ck_assert(has(&params, FE "mel.std", "5"));
    ck_assert(has(&params, FE "conv_layers.0.conv.weight", "6,5,10"));
    ck_assert(has(&params, FE "conv_layers.1.conv.bias", "8"));
    ck_assert(has(&params, FE "conv_layers.1.layer_norm.bias", "8"));
    ck_assert(!has(&params, FP "layer_norm.weight", "8"));
    ck_assert(has(&params, ENC "layers.2.final_layer_norm.bias", "12"));
    ck_assert(has(&params, "layer_mix.weight", "4"));
    ck_assert(has(&params, "pooling.hidden.weight", "9,12"));
    ck_assert(has(&params, "pooling.hidden.bias", "9"));
    ck_assert(has(&params, "pooling.score.weight", "1,9"));
    for (size_t i = 0; i < params.count; i++) {
        ck_assert_int_eq(params.list[i].head, strncmp(params.list[i].name, "wav2vec2.", 9) != 0);
    }
    ser_params_clear(&params);
}
END_TEST

START_TEST(mean_pooling_and_bare_backbone)
{
    ser_params params;
    ser_arch arch = tiny();
    arch.pooling = SER_POOLING_MEAN;
    assert_ok(ser_params_plan(&arch, &params));
    ck_assert(!has(&params, "pooling.score.bias", "1"));
    ck_assert(has(&params, "classifier.1.bias", "3"));
    ser_params_clear(&params);
    arch.pooling = SER_POOLING_ATTENTION;
    arch.classifier_count = 0;
    assert_ok(ser_params_plan(&arch, &params));
    for (size_t i = 0; i < params.count; i++) {
        ck_assert(!params.list[i].head);
    }
    ser_params_clear(&params);
}
END_TEST

/* The published sizes, from the sum over the list: 94.4 M and 315.4 M without heads. */
static int64_t total(const ser_arch *arch)
{
    ser_params params;
    int64_t sum = 0;
    assert_ok(ser_params_plan(arch, &params));
    for (size_t i = 0; i < params.count; i++) {
        sum += ser_param_elements(&params.list[i]);
    }
    ser_params_clear(&params);
    return sum;
}

START_TEST(published_sizes)
{
    ser_arch arch = {
        .features = SER_FEATURES_CONV,
        .conv_count = 7,
        .conv_kernel = {10, 3, 3, 3, 3, 2, 2},
        .conv_stride = {5, 2, 2, 2, 2, 2, 2},
        .conv_norm = SER_NORM_GROUP,
        .hidden_size = 768,
        .layers = 12,
        .heads = 12,
        .intermediate_size = 3072,
        .feature_norm = true,
        .position_kernel = 128,
        .position_groups = 16,
    };
    for (int i = 0; i < 7; i++) {
        arch.conv_dim[i] = 512;
    }
    ck_assert_int_eq(total(&arch), 94370944); /* Wav2Vec2Model base, less masked_spec_embed (768) */
    arch.conv_norm = SER_NORM_LAYER;
    arch.conv_bias = true;
    arch.hidden_size = 1024;
    arch.layers = 24;
    arch.heads = 16;
    arch.intermediate_size = 4096;
    ck_assert_int_eq(total(&arch), 315437696); /* large, less masked_spec_embed (1024) */
}
END_TEST

START_TEST(out_of_memory)
{
    ser_params params;
    ser_arch arch = tiny();
    ser_mem_fail_at(1, false);
    ck_assert_int_eq(ser_params_plan(&arch, &params), SER_ERR_MEMORY);
    ser_mem_fail_at(0, false);
    ck_assert_ptr_null(params.list);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("params");
    TCase *tcase = tcase_create("params");
    tcase_add_test(tcase, waveform_model);
    tcase_add_test(tcase, logmel_and_options);
    tcase_add_test(tcase, mean_pooling_and_bare_backbone);
    tcase_add_test(tcase, published_sizes);
    tcase_add_test(tcase, out_of_memory);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
