/* SPDX-License-Identifier: MIT */
/*
 * What a training pass remembers for its backward half, and the stages by which it knows what to
 * remember. Private to lib/net.
 *
 * Stages are numbered from the waveform up. `first` is the lowest one with a trained parameter:
 * below it the pass runs as in prediction and saves nothing; gradients stop there.
 */
#ifndef SER_NET_TAPE_H
#define SER_NET_TAPE_H

#include "net/graph.h"
#include "net/training.h"

/* One LayerNorm of the residual stream: sum = x + dropout(h), y = LN(sum). */
typedef struct ser_norm_tape {
    ser_tensor sum, stats;
} ser_norm_tape;

typedef struct ser_block_tape {
    ser_tensor attention_x; /* what q, k and v were made of */
    ser_tensor qkv, lse, context;
    uint32_t *kept;       /* bits of attention's dropout, or NULL */
    ser_norm_tape middle; /* after attention */
    ser_tensor ffn_x;
    ser_tensor inner; /* ffn_in's output, before GELU */
    ser_norm_tape end;
} ser_block_tape;

typedef struct ser_conv_tape {
    ser_tensor x, z;
} ser_conv_tape;

typedef struct ser_tape {
    int32_t first;
    const ser_training_options *options;

    ser_conv_tape convs[SER_MAX_CONVS];
    ser_norm_tape feature; /* sum: the features */
    ser_tensor projection_x;
    ser_tensor position_x, position_z;
    ser_norm_tape start;    /* the LayerNorm before block 0 */
    ser_block_tape *blocks; /* [layers] */
    ser_tensor *hidden;     /* [layers + 1], where the mix is trained or passed */
    ser_tensor pool_x, pool_z, pool_u;
    ser_tensor alpha;
    ser_tensor classifier_x[SER_MAX_CLASSIFIER], classifier_z[SER_MAX_CLASSIFIER];
} ser_tape;

static inline int32_t ser_stage_projection(const ser_arch *arch)
{
    return arch->conv_count;
}

static inline int32_t ser_stage_position(const ser_arch *arch)
{
    return arch->conv_count + 1;
}

static inline int32_t ser_stage_block(const ser_arch *arch, int32_t block)
{
    return arch->conv_count + 2 + block;
}

/* The last LayerNorm of pre-norm encoders, then the head. */
static inline int32_t ser_stage_end(const ser_arch *arch)
{
    return ser_stage_block(arch, arch->layers);
}

static inline int32_t ser_stage_head(const ser_arch *arch)
{
    return ser_stage_end(arch) + 1;
}

/* Stage that a parameter belongs to. */
int32_t ser_stage_of(const ser_arch *arch, const ser_param *param);

/* Numbers of the dropouts (ser_dropout.op). They are part of a run's reproducibility. */
enum {
    SER_DROPOUT_PROJECTION = 1,
    SER_DROPOUT_START = 2,
    SER_DROPOUT_CLASSIFIER = 8, /* + layer, below SER_MAX_CLASSIFIER */
    SER_DROPOUT_BLOCKS = 32,    /* + 4 * block + which */
    SER_DROPOUT_ATTENTION = 0,
    SER_DROPOUT_ATTENTION_OUT = 1,
    SER_DROPOUT_ACTIVATION = 2,
    SER_DROPOUT_FFN_OUT = 3,
};

static inline uint32_t ser_dropout_of_block(int32_t block, int32_t which)
{
    return (uint32_t)(SER_DROPOUT_BLOCKS + 4 * block + which);
}

#endif
