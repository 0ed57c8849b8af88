/* SPDX-License-Identifier: MIT */
#include "random_net.h"

#include <math.h>

static void set_convs(ser_arch *arch, int32_t count, int32_t dim, const int32_t *kernel,
                      const int32_t *stride, const int32_t *padding)
{
    arch->conv_count = count;
    for (int32_t i = 0; i < count; i++) {
        arch->conv_dim[i] = dim + 3 * (i % 2);
        arch->conv_kernel[i] = kernel[i];
        arch->conv_stride[i] = stride[i];
        arch->conv_padding[i] = padding[i];
    }
}

static ser_arch base_arch(void)
{
    static const int32_t kernel[] = {10, 3, 3, 3, 3, 2, 2};
    static const int32_t stride[] = {5, 2, 2, 2, 2, 2, 2};
    static const int32_t padding[7] = {0};
    ser_arch arch = {
        .sampling_rate = 16000,
        .features = SER_FEATURES_CONV,
        .conv_norm = SER_NORM_GROUP,
        .hidden_size = 24,
        .layers = 2,
        .heads = 2,
        .intermediate_size = 40,
        .encoder_norm = SER_ENCODER_POST_NORM,
        .layer_norm_eps = 1e-5F,
        .feature_norm = true,
        .position_kernel = 16,
        .position_groups = 4,
        .pooling = SER_POOLING_ATTENTION,
        .classifier_count = 3,
        .classifier_size = {10, 7, 5},
        .classifier_activation = SER_ACT_RELU,
    };
    set_convs(&arch, 7, 16, kernel, stride, padding);
    return arch;
}

static ser_arch large_arch(void)
{
    ser_arch arch = base_arch();
    arch.conv_norm = SER_NORM_LAYER;
    arch.conv_bias = true;
    arch.encoder_norm = SER_ENCODER_PRE_NORM;
    arch.layers = 3;
    arch.layer_mix = true;
    arch.pooling = SER_POOLING_MEAN;
    arch.classifier_count = 2;
    arch.classifier_size[0] = 12;
    arch.classifier_size[1] = 4;
    arch.classifier_activation = SER_ACT_NONE;
    return arch;
}

static ser_arch logmel_arch(void)
{
    static const int32_t kernel[] = {5, 3, 3};
    static const int32_t stride[] = {2, 2, 1};
    static const int32_t padding[] = {2, 1, 1};
    ser_arch arch = base_arch();
    arch.features = SER_FEATURES_LOGMEL;
    arch.mel = (ser_mel_arch){.frame = 400,
                              .hop = 160,
                              .fft = 512,
                              .bins = 14,
                              .low = 60.0F,
                              .high = 7600.0F,
                              .floor = 1e-5F};
    arch.conv_norm = SER_NORM_LAYER;
    arch.conv_bias = true;
    arch.encoder_norm = SER_ENCODER_PRE_NORM;
    arch.position_kernel = 5;
    arch.pooling_hidden = 6;
    arch.classifier_count = 2;
    arch.classifier_size[0] = 7;
    arch.classifier_size[1] = 3;
    arch.classifier_activation = SER_ACT_GELU;
    set_convs(&arch, 3, 10, kernel, stride, padding);
    return arch;
}

ser_arch random_arch(int kind)
{
    return kind == NET_BASE ? base_arch() : (kind == NET_LARGE ? large_arch() : logmel_arch());
}

void random_values(const ser_param *param, uint64_t seed, float *values)
{
    size_t count = (size_t)ser_param_elements(param);
    float scale = param->rank > 1 ? sqrtf(3.0F * (float)param->shape[0] / (float)count) : 0.2F;
    float offset = 0.0F;
    switch (param->role) {
    case SER_PARAM_CONV_GAMMA:
    case SER_PARAM_FEATURE_GAMMA:
    case SER_PARAM_ENCODER_GAMMA:
    case SER_PARAM_ATTENTION_GAMMA:
    case SER_PARAM_FINAL_GAMMA: offset = 1.0F; break;
    case SER_PARAM_POSITION_G:
        scale = 0.2F;
        offset = 0.5F;
        break;
    case SER_PARAM_MEL_MEAN: offset = -3.0F; break;
    case SER_PARAM_MEL_STD: offset = 2.0F; break;
    default: break;
    }
    harness_fill(values, count, seed, scale);
    for (size_t i = 0; i < count; i++) {
        values[i] += offset;
    }
}

float *random_param(const ser_net *net, size_t index, uint64_t seed)
{
    const ser_param *param = &ser_net_params(net)->list[index];
    float *values = malloc((size_t)ser_param_elements(param) * sizeof *values);
    random_values(param, seed, values);
    return values;
}

size_t random_find(const ser_net *net, int32_t role, int32_t index)
{
    const ser_params *params = ser_net_params(net);
    for (size_t i = 0; i < params->count; i++) {
        if (params->list[i].role == role && params->list[i].index == index) {
            return i;
        }
    }
    ck_abort_msg("no such parameter");
    return 0;
}

static void create_on(const ser_ops *ops, int32_t type, const ser_arch *arch, random_net *net)
{
    const char *name;
    net->ops = ops;
    assert_ok(ops->open(0, &net->context, &name));
    assert_ok(ser_net_create(ops, net->context, 1, arch, type, &net->net));
}

void random_net_create(const ser_arch *arch, random_net *net)
{
    create_on(&ser_cpu_ops, SER_F32, arch, net);
}

void random_net_open_on(const ser_ops *ops, int32_t type, int kind, uint64_t seed, random_net *net)
{
    ser_arch arch = random_arch(kind);
    create_on(ops, type, &arch, net);
    for (size_t i = 0; i < ser_net_params(net->net)->count; i++) {
        float *values = random_param(net->net, i, seed + i);
        assert_ok(ser_net_set(net->net, i, values));
        free(values);
    }
    assert_ok(ser_net_finish(net->net));
}

void random_net_open(int kind, uint64_t seed, random_net *net)
{
    random_net_open_on(&ser_cpu_ops, SER_F32, kind, seed, net);
}

void random_net_close(random_net *net)
{
    ser_net_free(net->net);
    net->ops->close(net->context);
}

void random_clip(float *samples, int64_t count, uint64_t seed)
{
    uint64_t state = seed;
    float last = 0.0F;
    for (int64_t i = 0; i < count; i++) {
        last = 0.7F * last + harness_random(&state);
        samples[i] = last * (1.0F + 0.8F * sinf((float)(i + (int64_t)(seed % 1000)) * 0.001F));
    }
}
