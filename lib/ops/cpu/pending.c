/* SPDX-License-Identifier: MIT */
/* Ops that are not there yet; this file shrinks to nothing. */
#include "base/fail.h"
#include "ops/cpu/cpu.h"

int ser_cpu_mel_warp_fwd(ser_queue *queue, const ser_mel_warp_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "mel_warp_fwd");
}

int ser_cpu_wave_conv_bwd(ser_queue *queue, const ser_wave_conv_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "wave_conv_bwd");
}

int ser_cpu_conv_bwd(ser_queue *queue, const ser_conv_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "conv_bwd");
}

int ser_cpu_linear_bwd(ser_queue *queue, const ser_linear_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "linear_bwd");
}

int ser_cpu_pos_conv_bwd(ser_queue *queue, const ser_pos_conv_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "pos_conv_bwd");
}

int ser_cpu_weight_norm_fwd(ser_queue *queue, const ser_weight_norm_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "weight_norm_fwd");
}

int ser_cpu_weight_norm_bwd(ser_queue *queue, const ser_weight_norm_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "weight_norm_bwd");
}

int ser_cpu_residual_norm_bwd(ser_queue *queue, const ser_residual_norm_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "residual_norm_bwd");
}

int ser_cpu_attention_bwd(ser_queue *queue, const ser_attention_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "attention_bwd");
}

int ser_cpu_layer_mix_bwd(ser_queue *queue, const ser_layer_mix_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "layer_mix_bwd");
}

int ser_cpu_attn_pool_bwd(ser_queue *queue, const ser_attn_pool_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "attn_pool_bwd");
}

int ser_cpu_cross_entropy_bwd(ser_queue *queue, const ser_cross_entropy_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "cross_entropy_bwd");
}

int ser_cpu_dropout_fwd(ser_queue *queue, const ser_dropout_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "dropout_fwd");
}

int ser_cpu_dropout_bwd(ser_queue *queue, const ser_dropout_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "dropout_bwd");
}

int ser_cpu_span_mask(ser_queue *queue, const ser_span_mask_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "span_mask");
}

int ser_cpu_sum_squares(ser_queue *queue, const ser_sum_squares_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "sum_squares");
}

int ser_cpu_adamw(ser_queue *queue, const ser_adamw_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_UNSUPPORTED, "adamw");
}

size_t ser_cpu_conv_scratch(const ser_queue *queue, const ser_conv_args *args)
{
    return ser_gemm_weight_scratch(queue, args->w);
}

size_t ser_cpu_linear_scratch(const ser_queue *queue, const ser_linear_args *args)
{
    return ser_gemm_weight_scratch(queue, args->w);
}

size_t ser_cpu_weight_norm_scratch(const ser_queue *queue, const ser_weight_norm_args *args)
{
    (void)queue;
    (void)args;
    return 0;
}

size_t ser_cpu_residual_norm_scratch(const ser_queue *queue, const ser_residual_norm_args *args)
{
    (void)queue;
    (void)args;
    return 0;
}

size_t ser_cpu_layer_mix_scratch(const ser_queue *queue, const ser_layer_mix_args *args)
{
    (void)queue;
    (void)args;
    return 0;
}

size_t ser_cpu_attn_pool_scratch(const ser_queue *queue, const ser_attn_pool_args *args)
{
    (void)queue;
    (void)args;
    return 0;
}

size_t ser_cpu_sum_squares_scratch(const ser_queue *queue, const ser_sum_squares_args *args)
{
    (void)queue;
    (void)args;
    return 0;
}
