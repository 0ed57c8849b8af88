/* SPDX-License-Identifier: MIT */
/*
 * THE table: everything that a backend (CPU, CUDA) can do, and all that the graph code in net/
 * knows of it.
 *
 * Contract, the same for every op and backend:
 * - Matrices are row-major and channels-last, [batch * padded, C] (tensor.h). Types are f32 and
 * bf16; sums are kept in f32 or better.
 * - Every clip has a padded and a valid length. A clip's result depends on its valid rows only:
 * norm statistics, attention, pooling and losses never look at padding, so a clip gives the same
 *   numbers alone, padded, and in any batch (on the CPU the same bits).
 * - log_mel, wave_conv and conv write zeros to the invalid rows of their output. Other ops leave
 *   invalid rows undefined (but written, so that nothing uninitialised spreads).
 * - A conv with padding p reads p rows before its first row and p rows after a clip's last valid
 * row: the buffer has p zero rows of slack in front, and padded >= valid + p, so that zero rows of
 * one clip are the padding of the next. padded_in == padded_out * stride: the whole batch is one
 *   matrix at every level, with no edges between clips and no im2col.
 * - Inputs and outputs do not overlap unless an argument says so. Buffers are aligned to 64 bytes.
 * - No op allocates: what it needs besides its arguments is the queue's scratch, whose size the
 *   planning mode of the queue finds out (ops.c). Work is queued and runs in order; ops->sync
 * waits.
 * - Every op returns a status and prints nothing. Shapes are checked once, in ops.c, not in
 * backends.
 * - One argument struct per op serves both directions. Always fill it with designated initialisers:
 *   members that are left out are zero, which means absent. The gradients join these structs with
 * the backward ops.
 */
#ifndef SER_OPS_OPS_H
#define SER_OPS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/tensor.h"

/* Changes whenever this file does; a backend module of another version is refused. */
enum { SER_OPS_VERSION = 1 };

/* The group norm of wave_conv keeps kernel^2 moments per clip at hand. */
enum { SER_MAX_WAVE_KERNEL = 64 };

enum { SER_ACT_NONE, SER_ACT_GELU, SER_ACT_RELU, SER_ACT_TANH };

typedef struct ser_context ser_context; /* an opened device; backend-private */
typedef struct ser_weight
    ser_weight; /* a matrix in the backend's favourite form; backend-private */
typedef struct ser_ops ser_ops;

/* One stream of work with its scratch memory. Backends embed it as first member of their own type.
 */
typedef struct ser_queue {
    const ser_ops *ops;
    ser_context *context;
    bool planning;  /* ops only record how much scratch they would need */
    size_t planned; /* bytes, the largest need seen while planning */
    void *scratch;  /* device memory */
    size_t scratch_size;
} ser_queue;

/* `groups` matrices [rows, cols] one below the other, row-major f32: the W of x W^T. */
typedef struct ser_weight_spec {
    int64_t rows; /* outputs per group */
    int64_t cols; /* inputs per group */
    int64_t groups;
} ser_weight_spec;

/* PCM -> log-mel frames, level-normalised (models/FORMAT.md, "mel"). Frame t of a clip starts at
 * its sample t * hop. out valid = 1 + (n - frame) / hop. */
typedef struct ser_log_mel_args {
    ser_tensor pcm;    /* [batch * rows_in.padded, 1] f32 */
    ser_rows rows_in;  /* samples */
    ser_rows rows_out; /* frames */
    int32_t frame, hop;
    float floor;
    const ser_weight
        *dft; /* [2 * freqs, frame]: window times cos rows, then window times sin rows */
    const ser_weight *mel; /* [bins, freqs] */
    ser_tensor mean, std;  /* [1, bins] */
    ser_tensor y;          /* [batch * rows_out.padded, bins] */
} ser_log_mel_args;

/* Norms of the convolutions. */
enum { SER_CONV_NORM_NONE, SER_CONV_NORM_CLIP, SER_CONV_NORM_LAYER };

/*
 * PCM -> layer 0 of wav2vec 2.0: y = GELU(norm(conv(x) + bias)), C_in = 1, no padding.
 * CLIP: group norm with one channel per group: mean and variance per channel over the clip's valid
 * frames. LAYER: LayerNorm over the channels of a frame. eps 1e-5 in both (PyTorch's default).
 */
typedef struct ser_wave_conv_args {
    ser_tensor pcm;    /* [batch * rows_in.padded, 1] f32 */
    ser_rows rows_in;  /* samples */
    ser_rows rows_out; /* frames */
    int32_t kernel, stride;
    int32_t norm;
    ser_tensor w;           /* [C, kernel] f32 */
    ser_tensor bias;        /* [1, C] or absent */
    ser_tensor gamma, beta; /* [1, C]; absent with NORM_NONE */
    ser_tensor y;           /* [batch * rows_out.padded, C] */
} ser_wave_conv_args;

/* y = GELU(norm(conv(x) + bias)); weight [C_out, kernel * C_in] with tap-major columns (tap,
 * channel). norm NONE or LAYER (eps 1e-5). */
typedef struct ser_conv_args {
    ser_tensor x; /* [batch * rows_in.padded, C_in], `padding` zero rows of slack before it */
    ser_rows rows_in;
    ser_rows rows_out;
    int32_t kernel, stride, padding;
    int32_t norm;
    const ser_weight *w;
    ser_tensor bias;        /* [1, C_out] or absent */
    ser_tensor gamma, beta; /* [1, C_out]; absent with NORM_NONE */
    ser_tensor y;           /* [batch * rows_out.padded, C_out] */
} ser_conv_args;

/* y = act(x W^T + b) on the valid rows. */
typedef struct ser_linear_args {
    ser_tensor x; /* [batch * padded, K] */
    ser_rows rows;
    const ser_weight *w; /* [N, K] */
    ser_tensor bias;     /* [1, N] or absent */
    int32_t activation;
    ser_tensor y; /* [batch * padded, N] */
} ser_linear_args;

/*
 * y = x + GELU(conv(x) + bias), grouped convolution over time with stride 1 (weight norm already
 * folded in): frame t sees valid frames t - kernel/2 .. t - kernel/2 + kernel - 1, zeros elsewhere.
 */
typedef struct ser_pos_conv_args {
    ser_tensor x; /* [batch * padded, C] */
    ser_rows rows;
    int32_t kernel, groups;
    const ser_weight *w; /* groups of [C / groups, kernel * C / groups], tap-major columns */
    ser_tensor bias;     /* [1, C] */
    ser_tensor y;        /* [batch * padded, C] */
} ser_pos_conv_args;

/* sum = x + h; y = LayerNorm(sum) over the channels. h absent: sum = x. sum absent: not stored (it
 * may be x itself). y absent: only the sum. */
typedef struct ser_residual_norm_args {
    ser_tensor x; /* [batch * padded, C] */
    ser_tensor h; /* same shape or absent */
    ser_rows rows;
    ser_tensor gamma, beta; /* [1, C] */
    float eps;
    ser_tensor sum; /* same shape or absent; may be x or h */
    ser_tensor y;   /* same shape or absent; may be x or h */
} ser_residual_norm_args;

/* Multi-head self-attention: per clip and head softmax(scale q k^T) v over the clip's valid frames.
 */
typedef struct ser_attention_args {
    ser_tensor qkv; /* [batch * padded, 3 C]: q, k, v; heads are slices of C / heads within each */
    ser_rows rows;
    int32_t heads;
    float scale;
    ser_tensor y; /* [batch * padded, C] */
} ser_attention_args;

/* y = (index == 0 ? 0 : y) + softmax(w)[index] * x: one term of the learned mix of hidden states.
 */
typedef struct ser_layer_mix_args {
    ser_tensor x; /* [batch * padded, C] */
    ser_rows rows;
    ser_tensor w; /* [1, hidden states] */
    int32_t index;
    ser_tensor y; /* [batch * padded, C] */
} ser_layer_mix_args;

/* alpha = softmax over the clip's valid frames of (u w^T + b); y = sum_t alpha_t x_t. w absent:
 * alpha is 1 / valid for all (mean pooling). alpha is 0 on invalid rows. */
typedef struct ser_attn_pool_args {
    ser_tensor x; /* [batch * padded, C] */
    ser_tensor u; /* [batch * padded, D]: what the score looks at, x itself or tanh(W x + b) */
    ser_rows rows;
    ser_tensor w;     /* [1, D] or absent */
    ser_tensor b;     /* [1, 1] or absent */
    ser_tensor alpha; /* [batch * padded, 1] */
    ser_tensor y;     /* [batch, C] */
} ser_attn_pool_args;

/* probabilities = softmax(logits) per row; the loss joins with training. */
typedef struct ser_cross_entropy_args {
    ser_tensor logits;        /* [batch, K] */
    ser_tensor probabilities; /* [batch, K] */
} ser_cross_entropy_args;

enum ser_op {
    SER_OP_LOG_MEL,
    SER_OP_WAVE_CONV,
    SER_OP_CONV,
    SER_OP_LINEAR,
    SER_OP_POS_CONV,
    SER_OP_RESIDUAL_NORM,
    SER_OP_ATTENTION,
    SER_OP_LAYER_MIX,
    SER_OP_ATTN_POOL,
    SER_OP_CROSS_ENTROPY,
    SER_OP_COUNT
};

struct ser_ops {
    uint32_t version; /* SER_OPS_VERSION */
    const char *name;

    /* device; `name` is the human-readable one, borrowed from the context */
    int (*open)(int32_t index, ser_context **context, const char **name);
    void (*close)(ser_context *context);

    /* memory on the device; any thread */
    int (*alloc)(ser_context *context, size_t size, void **memory);
    void (*free)(ser_context *context, void *memory);

    /* queue; `threads` is for backends that run on the host */
    int (*queue_create)(ser_context *context, int32_t threads, ser_queue **queue);
    void (*queue_free)(ser_queue *queue);
    int (*upload)(ser_queue *queue, void *device, const void *host, size_t size);
    int (*download)(ser_queue *queue, void *host, const void *device, size_t size);
    int (*zero)(ser_queue *queue, void *device, size_t size);
    int (*sync)(ser_queue *queue);

    /* weights; weight_set packs from f32 device memory, weight_get unpacks to it */
    int (*weight_create)(ser_context *context, const ser_weight_spec *spec, ser_weight **weight);
    void (*weight_free)(ser_context *context, ser_weight *weight);
    int (*weight_set)(ser_queue *queue, ser_weight *weight, const float *device);
    int (*weight_get)(ser_queue *queue, const ser_weight *weight, float *device);

    /* bytes of scratch that an op needs with these arguments */
    size_t (*scratch)(const ser_queue *queue, enum ser_op op, const void *args);

    int (*log_mel_fwd)(ser_queue *queue, const ser_log_mel_args *args);
    int (*wave_conv_fwd)(ser_queue *queue, const ser_wave_conv_args *args);
    int (*conv_fwd)(ser_queue *queue, const ser_conv_args *args);
    int (*linear_fwd)(ser_queue *queue, const ser_linear_args *args);
    int (*pos_conv_fwd)(ser_queue *queue, const ser_pos_conv_args *args);
    int (*residual_norm_fwd)(ser_queue *queue, const ser_residual_norm_args *args);
    int (*attention_fwd)(ser_queue *queue, const ser_attention_args *args);
    int (*layer_mix_fwd)(ser_queue *queue, const ser_layer_mix_args *args);
    int (*attn_pool_fwd)(ser_queue *queue, const ser_attn_pool_args *args);
    int (*cross_entropy_fwd)(ser_queue *queue, const ser_cross_entropy_args *args);
};

/* The CPU backend, always there. */
extern const ser_ops ser_cpu_ops;

/*
 * Checked front of the table (ops.c): shapes and ranges are verified once, here, with a message
 * that names the op and the argument (SER_ERR_INTERNAL: the graph code is wrong, not the user).
 * While queue->planning is set nothing runs and data pointers may be NULL: only scratch needs are
 * recorded.
 */
int ser_log_mel_fwd(ser_queue *queue, const ser_log_mel_args *args);
int ser_wave_conv_fwd(ser_queue *queue, const ser_wave_conv_args *args);
int ser_conv_fwd(ser_queue *queue, const ser_conv_args *args);
int ser_linear_fwd(ser_queue *queue, const ser_linear_args *args);
int ser_pos_conv_fwd(ser_queue *queue, const ser_pos_conv_args *args);
int ser_residual_norm_fwd(ser_queue *queue, const ser_residual_norm_args *args);
int ser_attention_fwd(ser_queue *queue, const ser_attention_args *args);
int ser_layer_mix_fwd(ser_queue *queue, const ser_layer_mix_args *args);
int ser_attn_pool_fwd(ser_queue *queue, const ser_attn_pool_args *args);
int ser_cross_entropy_fwd(ser_queue *queue, const ser_cross_entropy_args *args);

/* Make the queue's scratch at least queue->planned bytes and leave planning mode. */
int ser_queue_reserve(ser_queue *queue);

/* The spec a weight was created with; set by every backend as first member of its ser_weight. */
const ser_weight_spec *ser_weight_get_spec(const ser_weight *weight);

#endif
