/* SPDX-License-Identifier: MIT */
#include "fake_cudnn.h"

#include <cudnn_graph.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ATTRIBUTES = 12, BYTES = 64 };

/* An engine that is not deterministic, one that wants too much scratch, some of Ampere, one of
 * Hopper. */
static const struct {
    int64_t engine, workspace;
    int32_t shared;
    int32_t note; /* beside the one for tensor cores */
} configs[FAKE_CONFIGS] = {
    [FAKE_SPLIT] = {40, 0, 64 << 10, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC},
    [FAKE_AMPERE] = {7, 0, 64 << 10, -1},
    [FAKE_HUNGRY] = {41, INT64_C(1) << 30, 64 << 10, -1},
    [FAKE_HOPPER] = {2, 4096, 227 << 10, -1},
    [FAKE_AMPERE_LARGE] = {7, 0, 96 << 10, -1},
    [FAKE_LATE] = {8, 0, 32 << 10, -1},
};

typedef struct descriptor {
    cudnnBackendDescriptorType_t type;
    int32_t config;
    int32_t count;
    struct {
        cudnnBackendAttributeName_t name;
        _Alignas(8) char bytes[BYTES];
    } attributes[ATTRIBUTES];
} descriptor;

static fake_cudnn state;

fake_cudnn *fake_cudnn_state(void)
{
    return &state;
}

size_t cudnnGetVersion(void)
{
    return state.version != 0 ? state.version : 91900;
}

const char *cudnnGetErrorString(cudnnStatus_t status)
{
    return status == CUDNN_STATUS_NOT_SUPPORTED ? "NOT_SUPPORTED" : "FAILED";
}

void cudnnGetLastErrorString(char *message, size_t size)
{
    snprintf(message, size, "as it was told");
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    state.handles++;
    *handle = (cudnnHandle_t)(void *)&state;
    return state.no_handle ? CUDNN_STATUS_NOT_INITIALIZED : CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    (void)handle;
    state.handles--;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    (void)handle;
    (void)stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *made)
{
    descriptor *d = calloc(1, sizeof *d);
    d->type = type;
    *made = d;
    state.descriptors++;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    free(d);
    state.descriptors--;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t to,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count,
                                       const void *values)
{
    descriptor *d = to;
    const bool eight = type == CUDNN_TYPE_INT64 || type == CUDNN_TYPE_BACKEND_DESCRIPTOR ||
                       type == CUDNN_TYPE_VOID_PTR || type == CUDNN_TYPE_HANDLE;
    const size_t size = (size_t)count * (eight ? 8 : type == CUDNN_TYPE_BOOLEAN ? 1 : 4);
    if (d->count == ATTRIBUTES || size > BYTES) {
        return CUDNN_STATUS_BAD_PARAM;
    }
    d->attributes[d->count].name = name;
    memcpy(d->attributes[d->count].bytes, values, size);
    d->count++;
    return CUDNN_STATUS_SUCCESS;
}

/* What an attribute was set to; zeros if it was not. */
static const void *get(const descriptor *d, cudnnBackendAttributeName_t name)
{
    _Alignas(8) static const char none[BYTES];
    for (int32_t i = 0; i < d->count; i++) {
        if (d->attributes[i].name == name) {
            return d->attributes[i].bytes;
        }
    }
    return none;
}

static const descriptor *part(const descriptor *d, cudnnBackendAttributeName_t name, int index)
{
    return ((descriptor *const *)get(d, name))[index];
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t made)
{
    descriptor *d = made;
    if (d->type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR) {
        state.heuristics++;
    }
    if (d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) {
        state.plans++;
        d->config = part(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, 0)->config;
        state.engine = configs[d->config].engine;
        if (state.bad_plans > 0) {
            state.bad_plans--;
            return CUDNN_STATUS_NOT_SUPPORTED;
        }
        /* The graph is reached through the config, as cuDNN does. */
        d->attributes[0] = ((const descriptor *)part(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, 0))
                               ->attributes[0];
    }
    return CUDNN_STATUS_SUCCESS;
}

/* Those to fall back to are one of Ampere and Hopper's. */
static bool is_named(int32_t config, int32_t mode)
{
    if (mode == CUDNN_HEUR_MODE_FALLBACK) {
        return config == FAKE_AMPERE || config == FAKE_HOPPER;
    }
    return config != FAKE_HOPPER || !state.hopper_by_fallback;
}

static int64_t results(const descriptor *heuristics, int64_t wanted, descriptor **made)
{
    int64_t count = 0;
    const int32_t mode = *(const int32_t *)get(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE);
    for (int32_t i = 0; !state.no_engine && i < FAKE_CONFIGS && count < wanted; i++) {
        if (is_named(i, mode)) {
            made[count]->config = i;
            made[count]->count = 1;
            made[count]->attributes[0].name = CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH;
            memcpy(made[count]->attributes[0].bytes,
                   get(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH), sizeof(void *));
            count++;
        }
    }
    return count;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t const from,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t wanted,
                                       int64_t *count, void *values)
{
    const descriptor *d = from;
    (void)type;
    *count = 1;
    switch ((int)name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: *count = results(d, wanted, values); break;
    case CUDNN_ATTR_ENGINECFG_ENGINE: (*(descriptor **)values)->config = d->config; break;
    case CUDNN_ATTR_ENGINECFG_SHARED_MEMORY_USED:
        *(int32_t *)values =
            configs[d->config].shared + (d->config == FAKE_HOPPER ? state.more_shared : 0);
        break;
    case CUDNN_ATTR_ENGINE_GLOBAL_INDEX: *(int64_t *)values = configs[d->config].engine; break;
    case CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE:
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
        *(int64_t *)values = configs[d->config].workspace;
        break;
    case CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE: *count = 0; break;
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
        ((int32_t *)values)[0] = CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
        ((int32_t *)values)[1] = configs[d->config].note;
        *count = configs[d->config].note >= 0 ? 2 : 1;
        break;
    default: return CUDNN_STATUS_BAD_PARAM;
    }
    return CUDNN_STATUS_SUCCESS;
}

/* --- Running --- */

static double value(const uint16_t *data, int64_t at)
{
    const uint32_t bits = (uint32_t)data[at] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

static uint16_t rounded(double x)
{
    const float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static const int64_t *sizes(const descriptor *tensor)
{
    return get(tensor, CUDNN_ATTR_TENSOR_DIMENSIONS);
}

/* sum over (channel, height, width) of the filter */
static double sum_at(const descriptor *conv, const uint16_t *x, const uint16_t *w,
                     const int64_t at[4])
{
    const descriptor *xd = part(conv, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, 0);
    const descriptor *wd = part(conv, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, 0);
    const descriptor *cd = part(conv, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, 0);
    const int64_t *step = get(cd, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
    const int64_t *xs = get(xd, CUDNN_ATTR_TENSOR_STRIDES);
    const int64_t *ws = get(wd, CUDNN_ATTR_TENSOR_STRIDES);
    const int64_t *n = sizes(wd);
    double sum = 0.0;
    for (int64_t i = 0; i < n[1] * n[2] * n[3]; i++) {
        const int64_t c = i / (n[2] * n[3]);
        const int64_t r = i / n[3] % n[2];
        const int64_t s = i % n[3];
        sum += value(x, at[0] * xs[0] + c * xs[1] + (at[2] * step[0] + r) * xs[2] +
                            (at[3] * step[1] + s) * xs[3]) *
               value(w, at[1] * ws[0] + c * ws[1] + r * ws[2] + s * ws[3]);
    }
    return sum;
}

static int32_t integer(const descriptor *d, cudnnBackendAttributeName_t name)
{
    return *(const int32_t *)get(d, name);
}

static bool is_tensor(const descriptor *d, cudnnDataType_t type, bool is_virtual)
{
    return integer(d, CUDNN_ATTR_TENSOR_DATA_TYPE) == (int32_t)type &&
           *(const bool *)get(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL) == is_virtual;
}

/* All operations that it knows are done in f32; what lies between them is f32 and virtual. */
static bool is_pointwise(const descriptor *operation, cudnnPointwiseMode_t mode,
                         const descriptor *from, const int64_t *size)
{
    const descriptor *d = part(operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, 0);
    const descriptor *to = part(operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, 0);
    return integer(d, CUDNN_ATTR_POINTWISE_MODE) == (int32_t)mode &&
           integer(d, CUDNN_ATTR_POINTWISE_MATH_PREC) == CUDNN_DATA_FLOAT &&
           part(operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, 0) == from &&
           memcmp(sizes(to), size, 4 * sizeof *size) == 0;
}

/* bf16, a convolution that is none in the strict sense. */
static bool is_convolution(const descriptor *conv)
{
    const descriptor *d = part(conv, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, 0);
    const float *alpha = get(conv, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA);
    const float *beta = get(conv, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA);
    return is_tensor(part(conv, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, 0), CUDNN_DATA_BFLOAT16,
                     false) &&
           is_tensor(part(conv, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, 0), CUDNN_DATA_BFLOAT16,
                     false) &&
           is_tensor(part(conv, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, 0), CUDNN_DATA_FLOAT,
                     true) &&
           integer(d, CUDNN_ATTR_CONVOLUTION_CONV_MODE) == CUDNN_CROSS_CORRELATION &&
           integer(d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE) == CUDNN_DATA_FLOAT && alpha[0] == 1.0f &&
           beta[0] == 0.0f;
}

/* z + bias, where bias [1, channels, 1, 1] is bf16. */
static bool is_bias(const descriptor *operation, const descriptor *z)
{
    const descriptor *bias = part(operation, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, 0);
    return is_pointwise(operation, CUDNN_POINTWISE_ADD, z, sizes(z)) &&
           is_tensor(part(operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, 0), CUDNN_DATA_FLOAT,
                     true) &&
           is_tensor(bias, CUDNN_DATA_BFLOAT16, false) && sizes(bias)[0] == 1 &&
           sizes(bias)[1] == sizes(z)[1] && sizes(bias)[2] == 1 && sizes(bias)[3] == 1 &&
           ((const int64_t *)get(bias, CUDNN_ATTR_TENSOR_STRIDES))[1] == 1;
}

/* What it can do: GELU(conv(x)) and GELU(conv(x) + bias), the GELU with erf. */
static cudnnStatus_t compute(const descriptor *graph, const uint16_t *x, const uint16_t *w,
                             const uint16_t *bias, uint16_t *y)
{
    const descriptor *conv = part(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, 0);
    const descriptor *z = part(conv, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, 0);
    const descriptor *add = part(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, bias != NULL ? 1 : 2);
    const descriptor *gelu = part(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, bias != NULL ? 2 : 1);
    if ((add != NULL) != (bias != NULL) || gelu == NULL || !is_convolution(conv) ||
        (add != NULL && !is_bias(add, z))) {
        return CUDNN_STATUS_NOT_SUPPORTED;
    }
    const descriptor *s = add != NULL ? part(add, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, 0) : z;
    const descriptor *yd = part(gelu, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, 0);
    const int64_t *n = sizes(yd);
    const int64_t *ys = get(yd, CUDNN_ATTR_TENSOR_STRIDES);
    if (!is_pointwise(gelu, CUDNN_POINTWISE_GELU_FWD, s, sizes(z)) ||
        !is_tensor(yd, CUDNN_DATA_BFLOAT16, false)) {
        return CUDNN_STATUS_NOT_SUPPORTED;
    }
    for (int64_t i = 0; i < n[0] * n[1] * n[2] * n[3]; i++) {
        const int64_t at[4] = {i / (n[1] * n[2] * n[3]), i / (n[2] * n[3]) % n[1], i / n[3] % n[2],
                               i % n[3]};
        const double sum = sum_at(conv, x, w, at) + (bias != NULL ? value(bias, at[1]) : 0.0);
        y[at[0] * ys[0] + at[1] * ys[1] + at[2] * ys[2] + at[3] * ys[3]] =
            rounded(0.5 * sum * (1.0 + erf(sum * sqrt(0.5))));
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack)
{
    void *pointers[6] = {NULL}; /* by identifier */
    const int64_t *ids = get(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const int32_t config = ((const descriptor *)plan)->config;
    (void)handle;
    for (int i = 0; i < 4; i++) {
        if (ids[i] < 0 || ids[i] > 5) {
            return CUDNN_STATUS_BAD_PARAM;
        }
        pointers[ids[i]] = ((void *const *)get(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS))[i];
    }
    if (state.no_run || state.no_run_of[config]) {
        return CUDNN_STATUS_EXECUTION_FAILED;
    }
    if (state.runs < FAKE_RUNS) {
        state.x[state.runs] = pointers[1];
        state.w[state.runs] = pointers[2];
        state.y[state.runs] = pointers[4];
        state.bias[state.runs] = pointers[5];
    }
    state.runs++;
    state.ran = config;
    state.clock += state.cost[config];
    return state.only_record ? CUDNN_STATUS_SUCCESS
                             : compute(part(plan, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, 0),
                                       pointers[1], pointers[2], pointers[5], pointers[4]);
}
