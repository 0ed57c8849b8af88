/* SPDX-License-Identifier: MIT */
/* Fronts that are not there yet; this file shrinks to nothing. */
#include "ops/check.h"

int ser_mel_warp_fwd(ser_queue *queue, const ser_mel_warp_args *args)
{
    checker c = check_begin(queue, "mel_warp_fwd", args);
    return ready(queue, SER_OP_MEL_WARP, args, &c) ? queue->ops->mel_warp_fwd(queue, args)
                                                   : c.status;
}

int ser_wave_conv_bwd(ser_queue *queue, const ser_wave_conv_args *args)
{
    checker c = check_begin(queue, "wave_conv_bwd", args);
    return ready(queue, SER_OP_WAVE_CONV, args, &c) ? queue->ops->wave_conv_bwd(queue, args)
                                                    : c.status;
}

int ser_conv_bwd(ser_queue *queue, const ser_conv_args *args)
{
    checker c = check_begin(queue, "conv_bwd", args);
    return ready(queue, SER_OP_CONV, args, &c) ? queue->ops->conv_bwd(queue, args) : c.status;
}

int ser_linear_bwd(ser_queue *queue, const ser_linear_args *args)
{
    checker c = check_begin(queue, "linear_bwd", args);
    return ready(queue, SER_OP_LINEAR, args, &c) ? queue->ops->linear_bwd(queue, args) : c.status;
}

int ser_pos_conv_bwd(ser_queue *queue, const ser_pos_conv_args *args)
{
    checker c = check_begin(queue, "pos_conv_bwd", args);
    return ready(queue, SER_OP_POS_CONV, args, &c) ? queue->ops->pos_conv_bwd(queue, args)
                                                   : c.status;
}

int ser_weight_norm_fwd(ser_queue *queue, const ser_weight_norm_args *args)
{
    checker c = check_begin(queue, "weight_norm_fwd", args);
    return ready(queue, SER_OP_WEIGHT_NORM, args, &c) ? queue->ops->weight_norm_fwd(queue, args)
                                                      : c.status;
}

int ser_weight_norm_bwd(ser_queue *queue, const ser_weight_norm_args *args)
{
    checker c = check_begin(queue, "weight_norm_bwd", args);
    return ready(queue, SER_OP_WEIGHT_NORM, args, &c) ? queue->ops->weight_norm_bwd(queue, args)
                                                      : c.status;
}

int ser_residual_norm_bwd(ser_queue *queue, const ser_residual_norm_args *args)
{
    checker c = check_begin(queue, "residual_norm_bwd", args);
    return ready(queue, SER_OP_RESIDUAL_NORM, args, &c) ? queue->ops->residual_norm_bwd(queue, args)
                                                        : c.status;
}

int ser_attention_bwd(ser_queue *queue, const ser_attention_args *args)
{
    checker c = check_begin(queue, "attention_bwd", args);
    return ready(queue, SER_OP_ATTENTION, args, &c) ? queue->ops->attention_bwd(queue, args)
                                                    : c.status;
}

int ser_layer_mix_bwd(ser_queue *queue, const ser_layer_mix_args *args)
{
    checker c = check_begin(queue, "layer_mix_bwd", args);
    return ready(queue, SER_OP_LAYER_MIX, args, &c) ? queue->ops->layer_mix_bwd(queue, args)
                                                    : c.status;
}

int ser_attn_pool_bwd(ser_queue *queue, const ser_attn_pool_args *args)
{
    checker c = check_begin(queue, "attn_pool_bwd", args);
    return ready(queue, SER_OP_ATTN_POOL, args, &c) ? queue->ops->attn_pool_bwd(queue, args)
                                                    : c.status;
}

int ser_cross_entropy_bwd(ser_queue *queue, const ser_cross_entropy_args *args)
{
    checker c = check_begin(queue, "cross_entropy_bwd", args);
    return ready(queue, SER_OP_CROSS_ENTROPY, args, &c) ? queue->ops->cross_entropy_bwd(queue, args)
                                                        : c.status;
}

int ser_dropout_fwd(ser_queue *queue, const ser_dropout_args *args)
{
    checker c = check_begin(queue, "dropout_fwd", args);
    return ready(queue, SER_OP_DROPOUT, args, &c) ? queue->ops->dropout_fwd(queue, args) : c.status;
}

int ser_dropout_bwd(ser_queue *queue, const ser_dropout_args *args)
{
    checker c = check_begin(queue, "dropout_bwd", args);
    return ready(queue, SER_OP_DROPOUT, args, &c) ? queue->ops->dropout_bwd(queue, args) : c.status;
}

int ser_span_mask(ser_queue *queue, const ser_span_mask_args *args)
{
    checker c = check_begin(queue, "span_mask", args);
    return ready(queue, SER_OP_SPAN_MASK, args, &c) ? queue->ops->span_mask(queue, args) : c.status;
}

int ser_sum_squares(ser_queue *queue, const ser_sum_squares_args *args)
{
    checker c = check_begin(queue, "sum_squares", args);
    return ready(queue, SER_OP_SUM_SQUARES, args, &c) ? queue->ops->sum_squares(queue, args)
                                                      : c.status;
}

int ser_adamw(ser_queue *queue, const ser_adamw_args *args)
{
    checker c = check_begin(queue, "adamw", args);
    return ready(queue, SER_OP_ADAMW, args, &c) ? queue->ops->adamw(queue, args) : c.status;
}
