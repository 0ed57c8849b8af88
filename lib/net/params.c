/* SPDX-License-Identifier: MIT */
#include "net/params.h"

#include <stdarg.h>
#include <stdio.h>

#include <ser/common.h>

#include "base/mem.h"

enum {
    MEL_PARAMS = 2,
    CONV_PARAMS = 4,  /* per convolution, at most */
    FRONT_PARAMS = 9, /* projection, positions, encoder LayerNorm, at most */
    BLOCK_PARAMS = 16,
    HEAD_PARAMS = 5, /* layer mix and pooling, at most */
    CLASSIFIER_PARAMS = 2,
};

typedef struct shape {
    int64_t size[3];
    int32_t rank;
} shape;

static shape vector(int64_t n)
{
    return (shape){{n, 1, 1}, 1};
}

static shape matrix(int64_t rows, int64_t cols)
{
    return (shape){{rows, cols, 1}, 2};
}

static shape cube(int64_t a, int64_t b, int64_t c)
{
    return (shape){{a, b, c}, 3};
}

/* Append one parameter; the list has room, see capacity(). */
static ser_param *add(ser_params *params, int32_t role, int32_t index, shape s, const char *format,
                      ...) __attribute__((format(printf, 5, 6)));

static ser_param *add(ser_params *params, int32_t role, int32_t index, shape s, const char *format,
                      ...)
{
    ser_param *param = &params->list[params->count++];
    *param = (ser_param){.rank = s.rank, .role = role, .index = index};
    for (int i = 0; i < 3; i++) {
        param->shape[i] = s.size[i];
    }
    va_list args;
    va_start(args, format);
    (void)vsnprintf(param->name, sizeof param->name, format, args);
    va_end(args);
    return param;
}

static void add_mel(ser_params *params, const ser_arch *arch)
{
    static const char *const stem = "wav2vec2.feature_extractor.mel";
    if (arch->features == SER_FEATURES_LOGMEL) {
        add(params, SER_PARAM_MEL_MEAN, 0, vector(arch->mel.bins), "%s.mean", stem);
        add(params, SER_PARAM_MEL_STD, 0, vector(arch->mel.bins), "%s.std", stem);
    }
}

static void add_convs(ser_params *params, const ser_arch *arch)
{
    static const char *const stem = "wav2vec2.feature_extractor.conv_layers";
    int64_t in = arch->features == SER_FEATURES_LOGMEL ? arch->mel.bins : 1;
    for (int32_t i = 0; i < arch->conv_count; i++) {
        int64_t out = arch->conv_dim[i];
        add(params, SER_PARAM_CONV_WEIGHT, i, cube(out, in, arch->conv_kernel[i]),
            "%s.%d.conv.weight", stem, i);
        if (arch->conv_bias) {
            add(params, SER_PARAM_CONV_BIAS, i, vector(out), "%s.%d.conv.bias", stem, i);
        }
        if (i == 0 || arch->conv_norm == SER_NORM_LAYER) {
            add(params, SER_PARAM_CONV_GAMMA, i, vector(out), "%s.%d.layer_norm.weight", stem, i);
            add(params, SER_PARAM_CONV_BETA, i, vector(out), "%s.%d.layer_norm.bias", stem, i);
        }
        in = out;
    }
}

static void add_front(ser_params *params, const ser_arch *arch)
{
    int64_t channels = arch->conv_dim[arch->conv_count - 1];
    int64_t hidden = arch->hidden_size;
    int64_t kernel = arch->position_kernel;
    if (arch->feature_norm) {
        add(params, SER_PARAM_FEATURE_GAMMA, 0, vector(channels),
            "wav2vec2.feature_projection.layer_norm.weight");
        add(params, SER_PARAM_FEATURE_BETA, 0, vector(channels),
            "wav2vec2.feature_projection.layer_norm.bias");
    }
    add(params, SER_PARAM_PROJECTION_WEIGHT, 0, matrix(hidden, channels),
        "wav2vec2.feature_projection.projection.weight");
    add(params, SER_PARAM_PROJECTION_BIAS, 0, vector(hidden),
        "wav2vec2.feature_projection.projection.bias");
    add(params, SER_PARAM_POSITION_G, 0, cube(1, 1, kernel),
        "wav2vec2.encoder.pos_conv_embed.conv.weight_g");
    add(params, SER_PARAM_POSITION_V, 0, cube(hidden, hidden / arch->position_groups, kernel),
        "wav2vec2.encoder.pos_conv_embed.conv.weight_v");
    add(params, SER_PARAM_POSITION_BIAS, 0, vector(hidden),
        "wav2vec2.encoder.pos_conv_embed.conv.bias");
    add(params, SER_PARAM_ENCODER_GAMMA, 0, vector(hidden), "wav2vec2.encoder.layer_norm.weight");
    add(params, SER_PARAM_ENCODER_BETA, 0, vector(hidden), "wav2vec2.encoder.layer_norm.bias");
}

/* weight and bias of one linear layer or LayerNorm of block `i` */
static void add_block_pair(ser_params *params, int32_t role, int32_t i, const char *stem,
                           shape weight)
{
    add(params, role, i, weight, "wav2vec2.encoder.layers.%d.%s.weight", i, stem);
    add(params, role + 1, i, vector(weight.size[0]), "wav2vec2.encoder.layers.%d.%s.bias", i, stem);
}

static void add_block(ser_params *params, const ser_arch *arch, int32_t i)
{
    int64_t hidden = arch->hidden_size;
    int64_t inner = arch->intermediate_size;
    shape square = matrix(hidden, hidden);
    add_block_pair(params, SER_PARAM_Q_WEIGHT, i, "attention.q_proj", square);
    add_block_pair(params, SER_PARAM_K_WEIGHT, i, "attention.k_proj", square);
    add_block_pair(params, SER_PARAM_V_WEIGHT, i, "attention.v_proj", square);
    add_block_pair(params, SER_PARAM_OUT_WEIGHT, i, "attention.out_proj", square);
    add_block_pair(params, SER_PARAM_ATTENTION_GAMMA, i, "layer_norm", vector(hidden));
    add_block_pair(params, SER_PARAM_FFN_IN_WEIGHT, i, "feed_forward.intermediate_dense",
                   matrix(inner, hidden));
    add_block_pair(params, SER_PARAM_FFN_OUT_WEIGHT, i, "feed_forward.output_dense",
                   matrix(hidden, inner));
    add_block_pair(params, SER_PARAM_FINAL_GAMMA, i, "final_layer_norm", vector(hidden));
}

static void add_head(ser_params *params, const ser_arch *arch)
{
    size_t first = params->count;
    int64_t in = arch->hidden_size;
    if (arch->layer_mix) {
        add(params, SER_PARAM_LAYER_MIX, 0, vector((int64_t)arch->layers + 1), "layer_mix.weight");
    }
    if (arch->pooling == SER_POOLING_ATTENTION && arch->classifier_count > 0) {
        int64_t hidden = arch->pooling_hidden;
        if (hidden > 0) {
            add(params, SER_PARAM_POOL_HIDDEN_WEIGHT, 0, matrix(hidden, in),
                "pooling.hidden.weight");
            add(params, SER_PARAM_POOL_HIDDEN_BIAS, 0, vector(hidden), "pooling.hidden.bias");
        }
        add(params, SER_PARAM_POOL_SCORE_WEIGHT, 0, matrix(1, hidden > 0 ? hidden : in),
            "pooling.score.weight");
        add(params, SER_PARAM_POOL_SCORE_BIAS, 0, vector(1), "pooling.score.bias");
    }
    for (int32_t i = 0; i < arch->classifier_count; i++) {
        int64_t out = arch->classifier_size[i];
        add(params, SER_PARAM_CLASSIFIER_WEIGHT, i, matrix(out, in), "classifier.%d.weight", i);
        add(params, SER_PARAM_CLASSIFIER_BIAS, i, vector(out), "classifier.%d.bias", i);
        in = out;
    }
    for (size_t i = first; i < params->count; i++) {
        params->list[i].head = true;
    }
}

static size_t capacity(const ser_arch *arch)
{
    return MEL_PARAMS + CONV_PARAMS * (size_t)arch->conv_count + FRONT_PARAMS +
           BLOCK_PARAMS * (size_t)arch->layers + HEAD_PARAMS +
           CLASSIFIER_PARAMS * (size_t)arch->classifier_count;
}

int ser_params_plan(const ser_arch *arch, ser_params *params)
{
    *params = (ser_params){.list = ser_mem_alloc(capacity(arch), sizeof(ser_param))};
    if (params->list == NULL) {
        return SER_ERR_MEMORY;
    }
    add_mel(params, arch);
    add_convs(params, arch);
    add_front(params, arch);
    for (int32_t i = 0; i < arch->layers; i++) {
        add_block(params, arch, i);
    }
    add_head(params, arch);
    return 0;
}

void ser_params_clear(ser_params *params)
{
    ser_mem_free(params->list);
    *params = (ser_params){0};
}

int64_t ser_param_elements(const ser_param *param)
{
    int64_t count = 1;
    for (int32_t i = 0; i < param->rank; i++) {
        count *= param->shape[i];
    }
    return count;
}
