/* SPDX-License-Identifier: MIT */
/* Where every parameter lives on the device, and how it gets there and back. */
#include "net/graph.h"

#include <string.h>

#include "base/fail.h"
#include "base/mem.h"

enum { ALIGNMENT = 256, QKV_PRESENT = 7 }; /* bytes, as in workspace.c */

/* --- Placing --- */

static bool on_samples(const ser_net *net, const ser_param *param)
{
    return net->arch.features == SER_FEATURES_CONV && param->index == 0;
}

/* The packed matrix that a parameter is, or is a part of; NULL if it is kept as it is. */
static ser_weight **weight_of(ser_net *net, const ser_param *param)
{
    int32_t i = param->index;
    switch (param->role) {
    case SER_PARAM_CONV_WEIGHT: return on_samples(net, param) ? NULL : &net->convs[i].conv.w;
    case SER_PARAM_PROJECTION_WEIGHT: return &net->projection.w;
    case SER_PARAM_Q_WEIGHT:
    case SER_PARAM_K_WEIGHT:
    case SER_PARAM_V_WEIGHT: return &net->blocks[i].qkv.w;
    case SER_PARAM_OUT_WEIGHT: return &net->blocks[i].out.w;
    case SER_PARAM_FFN_IN_WEIGHT: return &net->blocks[i].ffn_in.w;
    case SER_PARAM_FFN_OUT_WEIGHT: return &net->blocks[i].ffn_out.w;
    case SER_PARAM_POOL_HIDDEN_WEIGHT: return &net->pool_hidden.w;
    case SER_PARAM_CLASSIFIER_WEIGHT: return &net->classifier[i].w;
    default: return NULL;
    }
}

static ser_tensor *block_vector_of(ser_block *block, int32_t role)
{
    switch (role) {
    case SER_PARAM_Q_BIAS:
    case SER_PARAM_K_BIAS:
    case SER_PARAM_V_BIAS: return &block->qkv.bias;
    case SER_PARAM_OUT_BIAS: return &block->out.bias;
    case SER_PARAM_ATTENTION_GAMMA: return &block->attention_norm.gamma;
    case SER_PARAM_ATTENTION_BETA: return &block->attention_norm.beta;
    case SER_PARAM_FFN_IN_BIAS: return &block->ffn_in.bias;
    case SER_PARAM_FFN_OUT_BIAS: return &block->ffn_out.bias;
    case SER_PARAM_FINAL_GAMMA: return &block->final_norm.gamma;
    case SER_PARAM_FINAL_BETA: return &block->final_norm.beta;
    default: return NULL;
    }
}

ser_tensor *ser_net_vector_of(ser_net *net, const ser_param *param)
{
    int32_t i = param->index;
    switch (param->role) {
    case SER_PARAM_MEL_MEAN: return &net->mel_mean;
    case SER_PARAM_MEL_STD: return &net->mel_std;
    case SER_PARAM_CONV_WEIGHT: return &net->wave;
    case SER_PARAM_CONV_BIAS: return &net->convs[i].conv.bias;
    case SER_PARAM_CONV_GAMMA: return &net->convs[i].norm.gamma;
    case SER_PARAM_CONV_BETA: return &net->convs[i].norm.beta;
    case SER_PARAM_FEATURE_GAMMA: return &net->feature_norm.gamma;
    case SER_PARAM_FEATURE_BETA: return &net->feature_norm.beta;
    case SER_PARAM_PROJECTION_BIAS: return &net->projection.bias;
    case SER_PARAM_POSITION_G: return &net->position_g;
    case SER_PARAM_POSITION_V: return &net->position_v;
    case SER_PARAM_POSITION_BIAS: return &net->position.bias;
    case SER_PARAM_ENCODER_GAMMA: return &net->encoder_norm.gamma;
    case SER_PARAM_ENCODER_BETA: return &net->encoder_norm.beta;
    case SER_PARAM_LAYER_MIX: return &net->layer_mix;
    case SER_PARAM_POOL_HIDDEN_BIAS: return &net->pool_hidden.bias;
    case SER_PARAM_POOL_SCORE_WEIGHT: return &net->score_weight;
    case SER_PARAM_POOL_SCORE_BIAS: return &net->score_bias;
    case SER_PARAM_CLASSIFIER_BIAS: return &net->classifier[i].bias;
    default: return block_vector_of(&net->blocks[i], param->role);
    }
}

static ser_tensor *block_gradient_of(ser_block *block, int32_t role)
{
    switch (role) {
    case SER_PARAM_Q_WEIGHT:
    case SER_PARAM_K_WEIGHT:
    case SER_PARAM_V_WEIGHT: return &block->qkv.dw;
    case SER_PARAM_Q_BIAS:
    case SER_PARAM_K_BIAS:
    case SER_PARAM_V_BIAS: return &block->qkv.dbias;
    case SER_PARAM_OUT_WEIGHT: return &block->out.dw;
    case SER_PARAM_OUT_BIAS: return &block->out.dbias;
    case SER_PARAM_ATTENTION_GAMMA: return &block->attention_norm.dgamma;
    case SER_PARAM_ATTENTION_BETA: return &block->attention_norm.dbeta;
    case SER_PARAM_FFN_IN_WEIGHT: return &block->ffn_in.dw;
    case SER_PARAM_FFN_IN_BIAS: return &block->ffn_in.dbias;
    case SER_PARAM_FFN_OUT_WEIGHT: return &block->ffn_out.dw;
    case SER_PARAM_FFN_OUT_BIAS: return &block->ffn_out.dbias;
    case SER_PARAM_FINAL_GAMMA: return &block->final_norm.dgamma;
    case SER_PARAM_FINAL_BETA: return &block->final_norm.dbeta;
    default: return NULL;
    }
}

ser_tensor *ser_net_gradient_of(ser_net *net, const ser_param *param)
{
    int32_t i = param->index;
    switch (param->role) {
    case SER_PARAM_MEL_MEAN:
    case SER_PARAM_MEL_STD: return NULL;
    case SER_PARAM_CONV_WEIGHT: return &net->convs[i].conv.dw;
    case SER_PARAM_CONV_BIAS: return &net->convs[i].conv.dbias;
    case SER_PARAM_CONV_GAMMA: return &net->convs[i].norm.dgamma;
    case SER_PARAM_CONV_BETA: return &net->convs[i].norm.dbeta;
    case SER_PARAM_FEATURE_GAMMA: return &net->feature_norm.dgamma;
    case SER_PARAM_FEATURE_BETA: return &net->feature_norm.dbeta;
    case SER_PARAM_PROJECTION_WEIGHT: return &net->projection.dw;
    case SER_PARAM_PROJECTION_BIAS: return &net->projection.dbias;
    case SER_PARAM_POSITION_G: return &net->position_dg;
    case SER_PARAM_POSITION_V: return &net->position_dv;
    case SER_PARAM_POSITION_BIAS: return &net->position.dbias;
    case SER_PARAM_ENCODER_GAMMA: return &net->encoder_norm.dgamma;
    case SER_PARAM_ENCODER_BETA: return &net->encoder_norm.dbeta;
    case SER_PARAM_LAYER_MIX: return &net->layer_mix_gradient;
    case SER_PARAM_POOL_HIDDEN_WEIGHT: return &net->pool_hidden.dw;
    case SER_PARAM_POOL_HIDDEN_BIAS: return &net->pool_hidden.dbias;
    case SER_PARAM_POOL_SCORE_WEIGHT: return &net->score_dweight;
    case SER_PARAM_POOL_SCORE_BIAS: return &net->score_dbias;
    case SER_PARAM_CLASSIFIER_WEIGHT: return &net->classifier[i].dw;
    case SER_PARAM_CLASSIFIER_BIAS: return &net->classifier[i].dbias;
    default: return block_gradient_of(&net->blocks[i], param->role);
    }
}

static int64_t part_of(int32_t role)
{
    return role == SER_PARAM_K_WEIGHT || role == SER_PARAM_K_BIAS   ? 1
           : role == SER_PARAM_V_WEIGHT || role == SER_PARAM_V_BIAS ? 2
                                                                    : 0;
}

static int64_t parts_of(int32_t role)
{
    return part_of(role) > 0 || role == SER_PARAM_Q_WEIGHT || role == SER_PARAM_Q_BIAS ? 3 : 1;
}

static int place_weight(ser_net *net, const ser_param *param, ser_weight **weight, ser_slot *slot)
{
    slot->part = part_of(param->role);
    slot->parts = parts_of(param->role);
    slot->taps = param->role == SER_PARAM_CONV_WEIGHT ? param->shape[2] : 1;
    if (slot->part == 0) {
        ser_weight_spec spec = {.rows = slot->parts * param->shape[0],
                                .cols = ser_param_elements(param) / param->shape[0],
                                .groups = 1,
                                .type = param->role == SER_PARAM_CLASSIFIER_WEIGHT ? SER_F32
                                                                                   : net->type};
        int status = net->ops->weight_create(net->context, &spec, weight);
        if (status != 0) {
            *weight = NULL;
            return status;
        }
    }
    slot->weight = *weight; /* q comes before k and v in the list */
    return 0;
}

/* First pass: `*end` grows, tensors get their shape; second pass, with memory: they get their
 * address. */
static bool place_vector(ser_net *net, const ser_param *param, ser_slot *slot, size_t *end)
{
    int64_t count = ser_param_elements(param);
    int64_t rows = param->rank > 1 ? param->shape[0] : 1;
    int64_t parts = parts_of(param->role);
    int64_t part = part_of(param->role);
    ser_tensor *whole = ser_net_vector_of(net, param);
    size_t bytes;
    if (part == 0) {
        float *data = net->vectors != NULL ? (float *)net->vectors + *end / sizeof(float) : NULL;
        *whole = ser_tensor_f32(data, rows, parts * (count / rows));
        if (!ser_mul_size((size_t)(parts * count), sizeof(float), &bytes) ||
            !ser_add_size(*end, bytes, end) || !ser_add_size(*end, ALIGNMENT - 1, end)) {
            return false;
        }
        *end -= *end % ALIGNMENT;
    }
    float *own = whole->data != NULL ? (float *)whole->data + part * count : NULL;
    slot->vector = ser_tensor_f32(own, rows, count / rows);
    return true;
}

static int place_vectors(ser_net *net, size_t *size)
{
    *size = 0;
    for (size_t i = 0; i < net->params.count; i++) {
        const ser_param *param = &net->params.list[i];
        if (weight_of(net, param) == NULL && !place_vector(net, param, &net->slots[i], size)) {
            return ser_fail(SER_ERR_MEMORY,
                            "out of memory: the parameters exceed the address space");
        }
    }
    return 0;
}

int ser_net_place(ser_net *net)
{
    for (size_t i = 0; i < net->params.count; i++) {
        const ser_param *param = &net->params.list[i];
        ser_weight **weight = weight_of(net, param);
        int status = weight != NULL ? place_weight(net, param, weight, &net->slots[i]) : 0;
        if (status != 0) {
            return status;
        }
    }
    size_t size;
    int status = place_vectors(net, &size);
    if (status == 0) {
        status = net->ops->alloc(net->context, size, &net->vectors);
    }
    if (status != 0) {
        net->vectors = NULL;
        return status;
    }
    return place_vectors(net, &size);
}

void ser_net_release_weights(ser_net *net)
{
    for (size_t i = 0; net->slots != NULL && i < net->params.count; i++) {
        if (net->slots[i].weight != NULL && net->slots[i].part == 0) {
            net->ops->weight_free(net->context, net->slots[i].weight);
        }
    }
    ser_weight *derived[] = {net->position.w, net->dft, net->mel};
    for (size_t i = 0; i < sizeof derived / sizeof derived[0]; i++) {
        if (derived[i] != NULL) {
            net->ops->weight_free(net->context, derived[i]);
        }
    }
    for (int32_t i = 0; net->blocks != NULL && i < net->arch.layers; i++) {
        if (net->blocks[i].qkv_staging != NULL) {
            net->ops->free(net->context, net->blocks[i].qkv_staging);
        }
    }
    ser_device_memory_free(net->ops, net->context, &net->biases);
    ser_device_memory_free(net->ops, net->context, &net->vectors);
}

/* --- Moving --- */

/* Device memory for one matrix on its way; kept for the next one until ser_net_staging_free. */
int ser_net_staging(const ser_net *net, size_t elements, float **staging)
{
    ser_transfer *t = net->transfer;
    size_t size = elements * sizeof(float);
    if (t->staging_size < size) {
        ser_net_staging_free(net);
        void *memory = NULL;
        int status = net->ops->alloc(net->context, size, &memory);
        if (status != 0) {
            return status;
        }
        t->staging = memory;
        t->staging_size = size;
    }
    *staging = t->staging;
    return 0;
}

void ser_net_staging_free(const ser_net *net)
{
    if (net->transfer->staging != NULL) {
        net->ops->free(net->context, net->transfer->staging);
    }
    net->transfer->staging = NULL;
    net->transfer->staging_size = 0;
}

int ser_net_upload(const ser_net *net, float *device, const float *host, size_t elements)
{
    ser_queue *queue = net->transfer->queue;
    int status = net->ops->upload(queue, device, host, elements * sizeof(float));
    return status == 0 ? net->ops->sync(queue) : status;
}

int ser_net_download(const ser_net *net, float *host, const float *device, size_t elements)
{
    ser_queue *queue = net->transfer->queue;
    int status = net->ops->download(queue, host, device, elements * sizeof(float));
    return status == 0 ? net->ops->sync(queue) : status;
}

int ser_net_pack(const ser_net *net, ser_weight *weight, const float *host)
{
    const ser_weight_spec *spec = ser_weight_get_spec(weight);
    size_t elements = (size_t)(spec->rows * spec->cols * spec->groups);
    float *staging;
    int status = ser_net_staging(net, elements, &staging);
    if (status == 0) {
        status = ser_net_upload(net, staging, host, elements);
    }
    if (status == 0) {
        status = net->ops->weight_set(net->transfer->queue, weight, staging);
    }
    return status == 0 ? net->ops->sync(net->transfer->queue) : status;
}

/* PyTorch's rows of a convolution are (channel, tap), ours (tap, channel): in place, every row of
 * [a, b] becomes [b, a]. */
int ser_net_transpose_rows(float *values, int64_t rows, int64_t a, int64_t b)
{
    float *row = ser_mem_alloc_raw((size_t)(a * b), sizeof *row);
    if (row == NULL) {
        return SER_ERR_MEMORY;
    }
    for (int64_t r = 0; r < rows; r++) {
        float *to = values + r * a * b;
        memcpy(row, to, (size_t)(a * b) * sizeof *row);
        for (int64_t i = 0; i < a; i++) {
            for (int64_t j = 0; j < b; j++) {
                to[j * a + i] = row[i * b + j];
            }
        }
    }
    ser_mem_free(row);
    return 0;
}

static int set_conv(const ser_net *net, const ser_slot *slot, const float *values)
{
    const ser_weight_spec *spec = ser_weight_get_spec(slot->weight);
    const size_t count = (size_t)(spec->rows * spec->cols);
    float *permuted = ser_mem_alloc_raw(count, sizeof(float));
    if (permuted == NULL) {
        return SER_ERR_MEMORY;
    }
    memcpy(permuted, values, count * sizeof(float));
    int status = ser_net_transpose_rows(permuted, spec->rows, spec->cols / slot->taps, slot->taps);
    status = status == 0 ? ser_net_pack(net, slot->weight, permuted) : status;
    ser_mem_free(permuted);
    return status;
}

static int get_conv(const ser_slot *slot, float *values)
{
    const ser_weight_spec *spec = ser_weight_get_spec(slot->weight);
    return ser_net_transpose_rows(values, spec->rows, slot->taps, spec->cols / slot->taps);
}

/* q, k and v are packed together once all are there; a later change of one unpacks the others
 * again. */
static int set_part(ser_net *net, ser_block *block, const ser_slot *slot, const float *values,
                    size_t count)
{
    ser_queue *queue = net->transfer->queue;
    int status = 0;
    if (block->qkv_staging == NULL) {
        void *memory = NULL;
        status = net->ops->alloc(net->context, 3 * count * sizeof(float), &memory);
        if (status != 0) {
            return status;
        }
        block->qkv_staging = memory;
        if (block->qkv_present == QKV_PRESENT) {
            status = net->ops->weight_get(queue, slot->weight, block->qkv_staging);
        }
    }
    if (status == 0) {
        status =
            ser_net_upload(net, block->qkv_staging + (size_t)slot->part * count, values, count);
    }
    if (status != 0) {
        return status;
    }
    block->qkv_present |= 1U << slot->part;
    if (block->qkv_present == QKV_PRESENT) {
        status = net->ops->weight_set(queue, slot->weight, block->qkv_staging);
        status = status == 0 ? net->ops->sync(queue) : status;
        net->ops->free(net->context, block->qkv_staging);
        block->qkv_staging = NULL;
    }
    return status;
}

static int set_locked(ser_net *net, size_t index, const float *values)
{
    const ser_param *param = &net->params.list[index];
    ser_slot *slot = &net->slots[index];
    size_t count = (size_t)ser_param_elements(param);
    int status;
    if (slot->weight == NULL) {
        status = ser_net_upload(net, slot->vector.data, values, count);
    } else if (slot->parts > 1) {
        status = set_part(net, &net->blocks[param->index], slot, values, count);
    } else if (slot->taps > 1) {
        status = set_conv(net, slot, values);
    } else {
        status = ser_net_pack(net, slot->weight, values);
    }
    slot->is_set = slot->is_set || status == 0;
    return status;
}

static int get_packed(const ser_net *net, const ser_slot *slot, float *values, size_t count)
{
    ser_queue *queue = net->transfer->queue;
    size_t offset = (size_t)slot->part * count;
    float *staging;
    int status = ser_net_staging(net, (size_t)slot->parts * count, &staging);
    if (status == 0) {
        status = net->ops->weight_get(queue, slot->weight, staging);
    }
    if (status == 0) {
        status = ser_net_download(net, values, staging + offset, count);
    }
    return status;
}

static int get_locked(const ser_net *net, size_t index, float *values)
{
    const ser_param *param = &net->params.list[index];
    const ser_slot *slot = &net->slots[index];
    size_t count = (size_t)ser_param_elements(param);
    if (!slot->is_set) {
        return ser_fail(SER_ERR_INTERNAL, "net: %s was never set", param->name);
    }
    if (slot->weight == NULL) {
        return ser_net_download(net, values, slot->vector.data, count);
    }
    if (slot->parts > 1 && net->blocks[param->index].qkv_staging != NULL) {
        const float *staging = net->blocks[param->index].qkv_staging;
        return ser_net_download(net, values, staging + (size_t)slot->part * count, count);
    }
    int status = get_packed(net, slot, values, count);
    return status == 0 && slot->taps > 1 ? get_conv(slot, values) : status;
}

int ser_net_set(ser_net *net, size_t index, const float *values)
{
    if (index >= net->params.count) {
        return ser_fail(SER_ERR_INTERNAL, "net: there is no parameter %zu", index);
    }
    pthread_mutex_lock(&net->transfer->lock);
    int status = set_locked(net, index, values);
    pthread_mutex_unlock(&net->transfer->lock);
    return status;
}

int ser_net_get(const ser_net *net, size_t index, float *values)
{
    if (index >= net->params.count) {
        return ser_fail(SER_ERR_INTERNAL, "net: there is no parameter %zu", index);
    }
    pthread_mutex_lock(&net->transfer->lock);
    int status = get_locked(net, index, values);
    if (net->finished) { /* rare from now on: give the memory back */
        ser_net_staging_free(net);
    }
    pthread_mutex_unlock(&net->transfer->lock);
    return status;
}
