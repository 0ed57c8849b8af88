/* SPDX-License-Identifier: MIT */
/*
 * THE table: everything that a backend (CPU, CUDA) can do, and all that the graph code in net/
 * knows of it.
 *
 * Contract, the same for every op and backend:
 * - Matrices are row-major and channels-last, [batch * padded, C] (tensor.h). Types are f32 and, on
 *   backends that say so (ops->bf16), bf16; sums are kept in f32 or better. The activations of one
 *   call (x, h, qkv, y, z and their gradients) have one type unless an argument says otherwise;
 *   samples, statistics, lse, alpha, logits, probabilities, losses, parameters and their gradients
 *   are f32.
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
 *   members that are left out are zero, which means absent. Prediction leaves out everything from
 *   "training" on. What forward must save for backward is an output of forward's.
 * - Backward: gradients of parameters (dw, dbias, dgamma ...) are f32 in the layout of the
 *   parameter and are added to; gradients of activations (dx ...) are overwritten unless an
 *   argument says otherwise. A gradient that is absent is not wanted and costs nothing. The invalid
 *   rows of an incoming gradient are not read; products that sum over rows may write zeros to the
 *   invalid rows of x and dy.
 */
#ifndef SER_OPS_OPS_H
#define SER_OPS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Changes whenever this file does; a backend module of another version is refused. */
enum { SER_OPS_VERSION = 7 };

/* The group norm of wave_conv keeps kernel^2 moments per clip at hand. */
enum { SER_MAX_WAVE_KERNEL = 64 };

enum { SER_ACT_NONE, SER_ACT_GELU, SER_ACT_RELU, SER_ACT_TANH };

typedef struct ser_context ser_context; /* an opened device; backend-private */
typedef struct ser_weight
    ser_weight;                     /* a matrix in the backend's favourite form; backend-private */
typedef struct ser_graph ser_graph; /* recorded work of a queue; backend-private */
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
    struct ser_queue *branch; /* work beside this queue's (ops->branch), with a scratch of its own;
                                 or NULL */
} ser_queue;

/* `groups` matrices [rows, cols] one below the other, row-major f32: the W of x W^T. */
typedef struct ser_weight_spec {
    int64_t rows; /* outputs per group */
    int64_t cols; /* inputs per group */
    int64_t groups;
    int32_t type; /* BF16: it is multiplied with activations of that type too; else with f32 only */
} ser_weight_spec;

/* What changes from one training step to the next. Lives in device memory, so that a captured step
 * can be replayed. */
typedef struct ser_step {
    uint64_t seed;
    uint64_t number;      /* of this step, from 0: the random numbers' counter */
    float rate;           /* the schedule's factor on every range's rate */
    float correction1;    /* 1 / (1 - beta1^t), t = updates done, this one included */
    float correction2;    /* 1 / (1 - beta2^t) */
    float gradient_scale; /* what the sums of gradients are multiplied with */
    float clip;           /* largest norm of the scaled gradient; 0: no limit */
    float average;        /* decay of the moving average of the weights */
} ser_step;

/*
 * Inverted dropout (Srivastava et al. 2014) without a stored mask. Element e of the tensor looks at
 * a 16-bit number: the low half of word e / 2 % 4 of Philox block e / 8 for even e, the high half
 * for odd e; key step->seed, stream ser_rng_stream(SER_RNG_DROPOUT, op, step->number % 2^24). It is
 * dropped when the number is below t = round(65536 p), else multiplied with 65536 / (65536 - t).
 */
typedef struct ser_dropout {
    float p;              /* 0 <= p < 1; 0: nothing is dropped, `step` is not read */
    uint32_t op;          /* which dropout of the graph, below 2^24 */
    const ser_step *step; /* device memory */
} ser_dropout;

/* A clip that stays in device memory. I16 stands for samples of 1 / 32768 each. */
enum { SER_SOURCE_F32 = SER_F32, SER_SOURCE_BF16 = SER_BF16, SER_SOURCE_I16 = 2 };
typedef struct ser_source {
    const void *data; /* device memory, rows of the matrix that is gathered */
    int64_t type;     /* SER_SOURCE_* */
} ser_source;

/* A batch from clips that lie anywhere: the valid rows of clip b are the first rows of sources[b],
 * in y's type; the other rows are zeros. */
typedef struct ser_gather_args {
    const ser_source *sources; /* [batch], device memory */
    ser_rows rows;
    ser_tensor y; /* [batch * padded, C] */
} ser_gather_args;

/* PCM -> log-mel frames, level-normalised (models/FORMAT.md, "mel"). Frame t of a clip starts at
 * its sample t * hop. out valid = 1 + (n - frame) / hop. */
typedef struct ser_log_mel_args {
    ser_tensor pcm;    /* [batch * rows_in.padded, 1] f32 */
    ser_rows rows_in;  /* samples */
    ser_rows rows_out; /* frames */
    int32_t frame, hop;
    float floor;
    /* two groups of [freqs, frame / 2]; column j - 1: the window at sample j times the cosine (group
     * 0) and sine (group 1) of 2 pi f (j - frame / 2) / fft. See log_mel.c for why half suffices. */
    const ser_weight *dft;
    const ser_weight *mel; /* [bins, freqs] */
    ser_tensor mean, std;  /* [1, bins] */
    ser_tensor y;          /* [batch * rows_out.padded, bins] */
} ser_log_mel_args;

/* Augmentation of log-mels: y[t, f] = x[t, f * warp] + offset[f], linear in between, the last bin
 * beyond the end; invalid rows become zero. No backward: nothing below it is trained. */
typedef struct ser_mel_warp_args {
    ser_tensor x; /* [batch * padded, bins] */
    ser_rows rows;
    ser_tensor warp;   /* [batch, 1] f32, near 1 */
    ser_tensor offset; /* [batch, bins] f32 */
    ser_tensor y;      /* [batch * padded, bins] */
} ser_mel_warp_args;

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

    /* training */
    ser_tensor z; /* as y: conv(x) + bias before norm and GELU, saved by forward */
    ser_tensor dy;
    ser_tensor dw, dbias, dgamma, dbeta;
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

    /* training */
    ser_tensor z; /* as y: conv(x) + bias before norm and GELU, saved by forward */
    ser_tensor dy;
    ser_tensor dx; /* as x, zeros in its invalid rows (but not in the slack before x) */
    ser_tensor dw; /* [C_out, kernel * C_in], tap-major as w */
    ser_tensor dbias, dgamma, dbeta;
} ser_conv_args;

/* y = act(x W^T + b) on the valid rows. */
typedef struct ser_linear_args {
    ser_tensor x; /* [batch * padded, K] */
    ser_rows rows;
    const ser_weight *w; /* [N, K] */
    ser_tensor bias;     /* [1, N] or absent */
    ser_tensor
        bias_bf16; /* the bias rounded to bf16; there if and only if y is bf16 and has a bias */
    int32_t activation;
    ser_tensor y; /* [batch * padded, N] */

    /* training; activation NONE: it has an op of its own there (dropout) */
    ser_tensor dy;
    ser_tensor dx;
    ser_tensor dw;    /* [N, K] */
    ser_tensor dbias; /* [1, N] */
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

    /* training */
    ser_tensor z; /* as y: conv(x) + bias, saved by forward */
    ser_tensor dy;
    ser_tensor dx;
    ser_tensor dw; /* [C, kernel * C / groups]: of the folded weight, as w */
    ser_tensor dbias;
} ser_pos_conv_args;

/*
 * Weight norm with one length per tap (Salimans & Kingma 2016, as wav2vec 2.0 has it):
 * w[o, k, i] = g[k] v[o, i, k] / |v[:, :, k]|. Forward sets the weight of pos_conv.
 */
typedef struct ser_weight_norm_args {
    ser_tensor g; /* [1, kernel] */
    ser_tensor v; /* [C, (C / groups) * kernel]: PyTorch's [C, C / groups, kernel] */
    int32_t kernel, groups;
    ser_weight *w; /* groups of [C / groups, kernel * C / groups]; backward does not read it */

    /* training */
    ser_tensor dw; /* [C, kernel * C / groups]: what pos_conv's backward made; only read */
    ser_tensor dg, dv;
} ser_weight_norm_args;

/* sum = x + dropout(h); y = LayerNorm(sum) over the channels. h absent: sum = x. sum absent: not
 * stored (it may be x itself). y absent: only the sum. */
typedef struct ser_residual_norm_args {
    ser_tensor x; /* [batch * padded, C] */
    ser_tensor h; /* same shape or absent */
    ser_rows rows;
    ser_tensor gamma, beta; /* [1, C] */
    float eps;
    ser_tensor sum; /* same shape or absent; may be x or h */
    ser_tensor y;   /* same shape or absent; may be x or h */

    /* training; backward reads sum (x where h is absent) and stats, not y */
    ser_dropout dropout; /* of h */
    ser_tensor stats;    /* [batch * padded, 2] f32: mean, 1 / sqrt(var + eps), saved by forward */
    ser_tensor dy;       /* gradient of y, absent if y was */
    ser_tensor dy2;      /* with dy, without dsum: the other part of dy, to be added; or absent */
    ser_tensor dsum;     /* gradient of sum by its other uses, or absent */
    ser_tensor dx;       /* dsum + LayerNorm'(dy + dy2); may be dy, dy2 or dsum */
    ser_tensor dh;       /* dropout'(dx), or absent; may be dy, dy2 or dsum, but not what dx is */
    ser_tensor dgamma, dbeta;
} ser_residual_norm_args;

/* Multi-head self-attention: per clip and head softmax(scale q k^T) v over the clip's valid frames.
 */
typedef struct ser_attention_args {
    ser_tensor qkv; /* [batch * padded, 3 C]: q, k, v; heads are slices of C / heads within each */
    ser_rows rows;
    int32_t heads;
    float scale;
    ser_tensor y; /* [batch * padded, C] */

    /* training; backward reads qkv, y and lse */
    ser_dropout dropout; /* of the probabilities; element ((clip * heads + head) * padded + query) *
                            padded + key */
    ser_tensor lse; /* [batch * padded, heads] f32: log sum exp of the scaled scores, by forward */
    uint32_t *kept; /* ser_attention_kept_words of device memory, or NULL: which probabilities
                       dropout keeps, left by forward for backward, one bit each in the backend's
                       own order. Without it backward draws them again, to the same bits; the CPU
                       always does, and leaves it alone */
    ser_tensor dy;
    ser_tensor dqkv;
} ser_attention_args;

/* Queries and keys in whole blocks of 64. */
static inline int64_t ser_attention_kept_words(int64_t batch, int64_t padded, int32_t heads)
{
    const int64_t side = (padded + 63) / 64 * 64;
    return batch * heads * side * (side / 32);
}

/* y = (index == 0 ? 0 : y) + softmax(w)[index] * x: one term of the learned mix of hidden states.
 */
typedef struct ser_layer_mix_args {
    ser_tensor x; /* [batch * padded, C] */
    ser_rows rows;
    ser_tensor w; /* [1, hidden states] */
    int32_t index;
    ser_tensor y; /* [batch * padded, C]; may be f32 where x is bf16 */

    /* training; backward runs from the last index down to 0, whose call finishes dw */
    ser_tensor dy;
    ser_tensor dx;   /* added to, unless `first` */
    bool first;      /* dx holds nothing yet */
    ser_tensor dots; /* [1, hidden states] f32: sum of dy * x of every index so far; with dw only */
    ser_tensor dw;
} ser_layer_mix_args;

/* alpha = softmax over the clip's valid frames of (u w^T + b); y = sum_t alpha_t x_t. w absent:
 * alpha is 1 / valid for all (mean pooling). alpha is 0 on invalid rows. */
typedef struct ser_attn_pool_args {
    ser_tensor x; /* [batch * padded, C] */
    ser_tensor u; /* [batch * padded, D]: what the score looks at, x itself or tanh(W x + b) */
    ser_rows rows;
    ser_tensor w;     /* [1, D] or absent */
    ser_tensor b;     /* [1, 1] or absent */
    ser_tensor alpha; /* [batch * padded, 1] f32 */
    ser_tensor y;     /* [batch, C] f32 */

    /* training; backward reads x, u and alpha */
    ser_tensor dy;
    ser_tensor dx;     /* zeros in its invalid rows */
    ser_tensor du;     /* zeros in its invalid rows; absent where u is x: then dx has it all */
    ser_tensor dw, db; /* of the score; db stays: b moves all scores alike */
} ser_attn_pool_args;

/*
 * probabilities = softmax(logits) per row, over the classes whose mask is not 0 (others get 0).
 * loss_b = -sum_k targets_bk log probabilities_bk. The targets need not sum to 1: label smoothing,
 * class weights and soft labels are all in them.
 */
typedef struct ser_cross_entropy_args {
    ser_tensor logits;        /* [batch, K] */
    ser_tensor mask;          /* [batch, K] f32 or absent: every class */
    ser_tensor probabilities; /* [batch, K] */

    /* training; backward reads probabilities, and loss if it is there */
    ser_tensor targets; /* [batch, K] f32, 0 where the mask is */
    ser_tensor loss;    /* [batch, 1] f32 */
    float scale;
    /* scale (probabilities sum_k targets - targets); NaN in a row whose loss is not finite, so that
     * the update that would follow is skipped */
    ser_tensor dlogits;
} ser_cross_entropy_args;

/* y = dropout(act(x)). Backward: dx = act'(x) dropout'(dy) and, where y is given, y once more with
 * the same bits, so that forward's need not be kept; invalid rows of both are zeros. */
typedef struct ser_dropout_args {
    ser_tensor x; /* [batch * padded, C]; backward: absent if y is and the activation is NONE */
    ser_rows rows;
    int32_t activation;
    ser_dropout dropout;
    ser_tensor y; /* forward: may be x where backward is not wanted or the activation is NONE;
                     backward: may be dy, or absent */
    ser_tensor dy;
    ser_tensor dx; /* may be dy where y is not */
} ser_dropout_args;

/* SpecAugment (Park et al. 2019): zeros in spans of frames and of channels, in place; the same on
 * the gradient. A span is begin, end (not included); spans past the clip are cut. */
typedef struct ser_span_mask_args {
    ser_tensor x; /* [batch * padded, C] */
    ser_rows rows;
    const int32_t *time; /* [batch, time_spans, 2], device memory */
    int32_t time_spans;
    const int32_t *channel; /* [batch, channel_spans, 2], device memory */
    int32_t channel_spans;
} ser_span_mask_args;

/* *sum += sum of x^2, in a fixed order. */
typedef struct ser_sum_squares_args {
    const float *x; /* device memory */
    int64_t count;
    double *sum; /* device memory */
} ser_sum_squares_args;

/* Neighbours in the flat arrays that share their rate and decay. */
typedef struct ser_adamw_range {
    int64_t begin, end;
    float rate;  /* of this range before the schedule */
    float decay; /* weight decay */
} ser_adamw_range;

/*
 * AdamW (Loshchilov & Hutter 2019) over flat arrays, with clipping of the whole gradient (Pascanu
 * et al. 2013) and a moving average of the weights. With g = s * min(1, clip / (s sqrt(sum) +
 * 1e-6)) * gradient, s = step->gradient_scale, r = range rate * step->rate:
 *   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
 *   w = w - r decay w;  w = w - r (m correction1) / (sqrt(v correction2) + eps)
 *   ema = average ema + (1 - average) w
 * Nothing is changed and *skipped is set to 1 where the norm, gradient_scale sqrt(sum), is beyond
 * float's range or NaN; else to 0.
 */
typedef struct ser_adamw_args {
    float *w, *m, *v;      /* device memory, [count] */
    float *ema;            /* or NULL */
    void *rounded;         /* [count] bf16: gets w rounded; or NULL */
    const float *gradient; /* [count] */
    int64_t count;
    const ser_adamw_range *ranges; /* device memory, in order, without gaps, 0 .. count */
    int32_t range_count;
    double beta1, beta2; /* 1 - beta loses five digits when beta is a float */
    float eps;
    const ser_step *step; /* device memory */
    const double *sum;    /* of the squares of the whole gradient; device memory */
    int32_t *skipped;     /* device memory */
} ser_adamw_args;

enum ser_op {
    SER_OP_GATHER,
    SER_OP_LOG_MEL,
    SER_OP_MEL_WARP,
    SER_OP_WAVE_CONV,
    SER_OP_CONV,
    SER_OP_LINEAR,
    SER_OP_POS_CONV,
    SER_OP_WEIGHT_NORM,
    SER_OP_RESIDUAL_NORM,
    SER_OP_ATTENTION,
    SER_OP_LAYER_MIX,
    SER_OP_ATTN_POOL,
    SER_OP_CROSS_ENTROPY,
    SER_OP_DROPOUT,
    SER_OP_SPAN_MASK,
    SER_OP_SUM_SQUARES,
    SER_OP_ADAMW,
    SER_OP_COUNT
};

struct ser_ops {
    uint32_t version; /* SER_OPS_VERSION */
    bool bf16;        /* activations may be bf16 */
    bool host_memory; /* device memory is the host's: it may be written and read directly */
    const char *name;

    /* device; `name` is the human-readable one, borrowed from the context; count: devices that open
     * would not refuse, 0 with the reason as this thread's failure text if there are none */
    int (*count)(void);
    int (*open)(int32_t index, ser_context **context, const char **name);
    void (*close)(ser_context *context);

    /* memory on the device; any thread */
    int (*alloc)(ser_context *context, size_t size, void **memory);
    void (*free)(ser_context *context, void *memory);

    /* host memory from which uploads and to which downloads run beside the host's work */
    int (*host_alloc)(ser_context *context, size_t size, void **memory);
    void (*host_free)(ser_context *context, void *memory);

    /* queue; `threads` is for backends that run on the host */
    int (*queue_create)(ser_context *context, int32_t threads, ser_queue **queue);
    void (*queue_free)(ser_queue *queue);
    int (*upload)(ser_queue *queue, void *device, const void *host, size_t size);
    int (*download)(ser_queue *queue, void *host, const void *device, size_t size);
    int (*zero)(ser_queue *queue, void *device, size_t size);
    int (*sync)(ser_queue *queue); /* and for its branch */

    /*
     * Work beside a queue's, NULL on backends that do everything in order. branch gives the queue
     * queue->branch, which goes with it, or leaves it NULL where that is not wanted. Then what is
     * queued there after fork starts after all that the queue had until then, and what the queue gets
     * after join after all that the branch had. In between both may use the same memory only to
     * read it. A recording of the queue has its branch's work, too, and ends joined.
     */
    int (*branch)(ser_queue *queue);
    int (*fork)(ser_queue *queue);
    int (*join)(ser_queue *queue);

    /*
     * Recording, NULL on backends that cannot: from capture_begin to capture_end the queue's work
     * is noted, not done; replay does it, with the arguments and addresses of then and the content
     * of now. Transfers are from and to host_alloc's memory only. Nothing may be measured, allocated
     * or waited for meanwhile. A shape must have run once before it is captured. capture_end always
     * ends the recording; `failed`: there is nothing to keep.
     */
    int (*capture_begin)(ser_queue *queue);
    int (*capture_end)(ser_queue *queue, bool failed, ser_graph **graph);
    int (*replay)(ser_queue *queue, ser_graph *graph);
    void (*graph_free)(ser_context *context, ser_graph *graph);

    /* weights; weight_set packs from f32 device memory, weight_get unpacks to it */
    int (*weight_create)(ser_context *context, const ser_weight_spec *spec, ser_weight **weight);
    void (*weight_free)(ser_context *context, ser_weight *weight);
    int (*weight_set)(ser_queue *queue, ser_weight *weight, const float *device);
    int (*weight_get)(ser_queue *queue, const ser_weight *weight, float *device);

    /*
     * On backends whose favourite form is the matrix as it is, else NULL: from now on the weight has
     * its elements in the caller's device memory, f32 and, if its spec's type asks for them, rounded
     * ones. NULL, NULL: in its own again, whose content is of before.
     */
    void (*weight_lend)(ser_weight *weight, float *f32, void *bf16);

    /* to = from, of one shape and any two types; NULL on backends without bf16 */
    int (*convert)(ser_queue *queue, const ser_tensor *from, const ser_tensor *to);

    /* bytes of scratch that an op needs with these arguments, the larger of both directions */
    size_t (*scratch)(const ser_queue *queue, enum ser_op op, const void *args);

    int (*gather)(ser_queue *queue, const ser_gather_args *args);
    int (*log_mel_fwd)(ser_queue *queue, const ser_log_mel_args *args);
    int (*mel_warp_fwd)(ser_queue *queue, const ser_mel_warp_args *args);
    int (*wave_conv_fwd)(ser_queue *queue, const ser_wave_conv_args *args);
    int (*wave_conv_bwd)(ser_queue *queue, const ser_wave_conv_args *args);
    int (*conv_fwd)(ser_queue *queue, const ser_conv_args *args);
    int (*conv_bwd)(ser_queue *queue, const ser_conv_args *args);
    int (*linear_fwd)(ser_queue *queue, const ser_linear_args *args);
    int (*linear_bwd)(ser_queue *queue, const ser_linear_args *args);
    int (*pos_conv_fwd)(ser_queue *queue, const ser_pos_conv_args *args);
    int (*pos_conv_bwd)(ser_queue *queue, const ser_pos_conv_args *args);
    int (*weight_norm_fwd)(ser_queue *queue, const ser_weight_norm_args *args);
    int (*weight_norm_bwd)(ser_queue *queue, const ser_weight_norm_args *args);
    int (*residual_norm_fwd)(ser_queue *queue, const ser_residual_norm_args *args);
    int (*residual_norm_bwd)(ser_queue *queue, const ser_residual_norm_args *args);
    int (*attention_fwd)(ser_queue *queue, const ser_attention_args *args);
    int (*attention_bwd)(ser_queue *queue, const ser_attention_args *args);
    int (*layer_mix_fwd)(ser_queue *queue, const ser_layer_mix_args *args);
    int (*layer_mix_bwd)(ser_queue *queue, const ser_layer_mix_args *args);
    int (*attn_pool_fwd)(ser_queue *queue, const ser_attn_pool_args *args);
    int (*attn_pool_bwd)(ser_queue *queue, const ser_attn_pool_args *args);
    int (*cross_entropy_fwd)(ser_queue *queue, const ser_cross_entropy_args *args);
    int (*cross_entropy_bwd)(ser_queue *queue, const ser_cross_entropy_args *args);
    int (*dropout_fwd)(ser_queue *queue, const ser_dropout_args *args);
    int (*dropout_bwd)(ser_queue *queue, const ser_dropout_args *args);
    int (*span_mask)(ser_queue *queue, const ser_span_mask_args *args);
    int (*sum_squares)(ser_queue *queue, const ser_sum_squares_args *args);
    int (*adamw)(ser_queue *queue, const ser_adamw_args *args);
};

/* The CPU backend, always there. */
extern const ser_ops ser_cpu_ops;

/*
 * Checked front of the table (ops.c): shapes and ranges are verified once, here, with a message
 * that names the op and the argument (SER_ERR_INTERNAL: the graph code is wrong, not the user).
 * While queue->planning is set nothing runs and data pointers may be NULL: only scratch needs are
 * recorded.
 */
int ser_gather(ser_queue *queue, const ser_gather_args *args);
int ser_log_mel_fwd(ser_queue *queue, const ser_log_mel_args *args);
int ser_mel_warp_fwd(ser_queue *queue, const ser_mel_warp_args *args);
int ser_wave_conv_fwd(ser_queue *queue, const ser_wave_conv_args *args);
int ser_wave_conv_bwd(ser_queue *queue, const ser_wave_conv_args *args);
int ser_conv_fwd(ser_queue *queue, const ser_conv_args *args);
int ser_conv_bwd(ser_queue *queue, const ser_conv_args *args);
int ser_linear_fwd(ser_queue *queue, const ser_linear_args *args);
int ser_linear_bwd(ser_queue *queue, const ser_linear_args *args);
int ser_pos_conv_fwd(ser_queue *queue, const ser_pos_conv_args *args);
int ser_pos_conv_bwd(ser_queue *queue, const ser_pos_conv_args *args);
int ser_weight_norm_fwd(ser_queue *queue, const ser_weight_norm_args *args);
int ser_weight_norm_bwd(ser_queue *queue, const ser_weight_norm_args *args);
int ser_residual_norm_fwd(ser_queue *queue, const ser_residual_norm_args *args);
int ser_residual_norm_bwd(ser_queue *queue, const ser_residual_norm_args *args);
int ser_attention_fwd(ser_queue *queue, const ser_attention_args *args);
int ser_attention_bwd(ser_queue *queue, const ser_attention_args *args);
int ser_layer_mix_fwd(ser_queue *queue, const ser_layer_mix_args *args);
int ser_layer_mix_bwd(ser_queue *queue, const ser_layer_mix_args *args);
int ser_attn_pool_fwd(ser_queue *queue, const ser_attn_pool_args *args);
int ser_attn_pool_bwd(ser_queue *queue, const ser_attn_pool_args *args);
int ser_cross_entropy_fwd(ser_queue *queue, const ser_cross_entropy_args *args);
int ser_cross_entropy_bwd(ser_queue *queue, const ser_cross_entropy_args *args);
int ser_dropout_fwd(ser_queue *queue, const ser_dropout_args *args);
int ser_dropout_bwd(ser_queue *queue, const ser_dropout_args *args);
int ser_span_mask(ser_queue *queue, const ser_span_mask_args *args);
int ser_sum_squares(ser_queue *queue, const ser_sum_squares_args *args);
int ser_adamw(ser_queue *queue, const ser_adamw_args *args);

/* Enter planning mode, the branch too. */
void ser_queue_plan(ser_queue *queue);

/* Make the scratch of the queue and its branch at least as large as was planned, and leave planning
 * mode. *moved is set where one has a new address, else left as it is; may be NULL. */
int ser_queue_reserve(ser_queue *queue, bool *moved);

/* The spec a weight was created with; set by every backend as first member of its ser_weight. */
const ser_weight_spec *ser_weight_get_spec(const ser_weight *weight);

#ifdef __cplusplus
}
#endif

#endif
