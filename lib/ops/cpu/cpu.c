/* SPDX-License-Identifier: MIT */
/* The CPU backend: context, memory, queue, and on the last page the table. */
#include "ops/cpu/cpu.h"

#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "ops/cpu/onednn.h"

static int cpu_count(void)
{
    return 1;
}

static int cpu_open(int32_t index, ser_context **context, const char **name)
{
    if (index != 0) {
        return ser_fail(SER_ERR_DEVICE, "cpu:%d: there is one CPU device, cpu:0", index);
    }
    ser_context *c = ser_mem_alloc(1, sizeof *c);
    if (c == NULL) {
        return SER_ERR_MEMORY;
    }
    c->kernels = ser_kernels_pick();
    int status = ser_onednn_open(&c->onednn);
    if (status != 0) {
        ser_mem_free(c);
        return status;
    }
    snprintf(c->name, sizeof c->name, "cpu (%s, %s products)", c->kernels->name,
             c->onednn != NULL ? "oneDNN" : "own");
    *context = c;
    *name = c->name;
    return 0;
}

static void cpu_close(ser_context *context)
{
    if (context != NULL) {
        ser_onednn_close(context->onednn);
        ser_mem_free(context);
    }
}

static int cpu_alloc(ser_context *context, size_t size, void **memory)
{
    (void)context;
    *memory = ser_mem_alloc_raw(size, 1);
    return *memory != NULL ? 0 : SER_ERR_MEMORY;
}

static void cpu_free(ser_context *context, void *memory)
{
    (void)context;
    ser_mem_free(memory);
}

static int cpu_queue_create(ser_context *context, int32_t threads, ser_queue **queue)
{
    cpu_queue *q = ser_mem_alloc(1, sizeof *q);
    if (q == NULL) {
        return SER_ERR_MEMORY;
    }
    q->base.ops = &ser_cpu_ops;
    q->base.context = context;
    q->kernels = context->kernels;
    q->threads = threads;
    *queue = &q->base;
    return 0;
}

static void cpu_queue_free(ser_queue *queue)
{
    if (queue != NULL) {
        cpu_free(queue->context, queue->scratch);
        ser_mem_free(queue);
    }
}

static int cpu_copy(ser_queue *queue, void *to, const void *from, size_t size)
{
    (void)queue;
    memcpy(to, from, size);
    return 0;
}

static int cpu_zero(ser_queue *queue, void *memory, size_t size)
{
    (void)queue;
    memset(memory, 0, size);
    return 0;
}

static int cpu_sync(ser_queue *queue)
{
    (void)queue; /* every op has finished when it returns */
    return 0;
}

void ser_cpu_zero_padding(const ser_tensor *y, const ser_rows *rows)
{
    for (int64_t b = 0; b < rows->batch; b++) {
        float *first = (float *)y->data + (b * rows->padded + rows->valid[b]) * y->cols;
        memset(first, 0, (size_t)((rows->padded - rows->valid[b]) * y->cols) * sizeof(float));
    }
}

static size_t cpu_scratch(const ser_queue *queue, enum ser_op op, const void *args)
{
    switch (op) {
    case SER_OP_LOG_MEL: return ser_cpu_log_mel_scratch(queue, args);
    case SER_OP_WAVE_CONV: return ser_cpu_wave_conv_scratch(queue, args);
    case SER_OP_CONV: return ser_cpu_conv_scratch(queue, args);
    case SER_OP_LINEAR: return ser_cpu_linear_scratch(queue, args);
    case SER_OP_POS_CONV: return ser_cpu_pos_conv_scratch(queue, args);
    case SER_OP_WEIGHT_NORM: return ser_cpu_weight_norm_scratch(queue, args);
    case SER_OP_RESIDUAL_NORM: return ser_cpu_residual_norm_scratch(queue, args);
    case SER_OP_ATTENTION: return ser_cpu_attention_scratch(queue, args);
    case SER_OP_LAYER_MIX: return ser_cpu_layer_mix_scratch(queue, args);
    case SER_OP_ATTN_POOL: return ser_cpu_attn_pool_scratch(queue, args);
    case SER_OP_SUM_SQUARES: return ser_cpu_sum_squares_scratch(queue, args);
    default: return 0;
    }
}

const ser_ops ser_cpu_ops = {
    .version = SER_OPS_VERSION,
    .host_memory = true,
    .name = "cpu",
    .count = cpu_count,
    .open = cpu_open,
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .host_alloc = cpu_alloc,
    .host_free = cpu_free,
    .queue_create = cpu_queue_create,
    .queue_free = cpu_queue_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .zero = cpu_zero,
    .sync = cpu_sync,
    .weight_create = ser_gemm_weight_create,
    .weight_free = ser_gemm_weight_free,
    .weight_set = ser_gemm_weight_set,
    .weight_get = ser_gemm_weight_get,
    .scratch = cpu_scratch,
    .gather = ser_cpu_gather,
    .log_mel_fwd = ser_cpu_log_mel_fwd,
    .mel_warp_fwd = ser_cpu_mel_warp_fwd,
    .wave_conv_fwd = ser_cpu_wave_conv_fwd,
    .wave_conv_bwd = ser_cpu_wave_conv_bwd,
    .conv_fwd = ser_cpu_conv_fwd,
    .conv_bwd = ser_cpu_conv_bwd,
    .linear_fwd = ser_cpu_linear_fwd,
    .linear_bwd = ser_cpu_linear_bwd,
    .pos_conv_fwd = ser_cpu_pos_conv_fwd,
    .pos_conv_bwd = ser_cpu_pos_conv_bwd,
    .weight_norm_fwd = ser_cpu_weight_norm_fwd,
    .weight_norm_bwd = ser_cpu_weight_norm_bwd,
    .residual_norm_fwd = ser_cpu_residual_norm_fwd,
    .residual_norm_bwd = ser_cpu_residual_norm_bwd,
    .attention_fwd = ser_cpu_attention_fwd,
    .attention_bwd = ser_cpu_attention_bwd,
    .layer_mix_fwd = ser_cpu_layer_mix_fwd,
    .layer_mix_bwd = ser_cpu_layer_mix_bwd,
    .attn_pool_fwd = ser_cpu_attn_pool_fwd,
    .attn_pool_bwd = ser_cpu_attn_pool_bwd,
    .cross_entropy_fwd = ser_cpu_cross_entropy_fwd,
    .cross_entropy_bwd = ser_cpu_cross_entropy_bwd,
    .dropout_fwd = ser_cpu_dropout_fwd,
    .dropout_bwd = ser_cpu_dropout_bwd,
    .span_mask = ser_cpu_span_mask,
    .sum_squares = ser_cpu_sum_squares,
    .adamw = ser_cpu_adamw,
};
