/* SPDX-License-Identifier: MIT */
/*
 * The network: weights on a device (immutable once finished, shared by all predictors) and the
 * forward pass over one batch with the activations of one caller.
 */
#ifndef SER_NET_NET_H
#define SER_NET_NET_H

#include <stdint.h>

#include "net/arch.h"
#include "net/params.h"
#include "ops/ops.h"

typedef struct ser_net ser_net;
typedef struct ser_workspace ser_workspace;

/* A network without weights, whose activations are of `type` (SER_BF16 where ops->bf16). `arch` has
 * been validated. The ops and context must outlive it. */
int ser_net_create(const ser_ops *ops, ser_context *context, int32_t threads, const ser_arch *arch,
                   int32_t type, ser_net **net);
void ser_net_free(ser_net *net);

const ser_arch *ser_net_arch(const ser_net *net);
const ser_params *ser_net_params(const ser_net *net);
int32_t ser_net_type(const ser_net *net);

/* Set or read parameter `index` of ser_net_params from or to host memory, f32, PyTorch's layout. */
int ser_net_set(ser_net *net, size_t index, const float *values);
int ser_net_get(const ser_net *net, size_t index, float *values);

/* After the last set: derive what follows from them (folded weight norm, mel matrices). */
int ser_net_finish(ser_net *net);

/* What ser_net_forward and ser_net_launch give, in host memory; NULL for a bare backbone. */
typedef struct ser_outputs {
    const float *alpha;         /* [batch, padded] pooling weights */
    const float *pooled;        /* [batch, hidden] */
    const float *logits;        /* [batch, labels] */
    const float *probabilities; /* [batch, labels] */
    const float *loss;          /* [batch], of a pass with targets (training.h) */
    int64_t padded;             /* frames of a clip in alpha */
} ser_outputs;

/*
 * Where the forward pass of one batch leaves its stages; tests and oracles read them. Valid until
 * the next forward. Device memory but for `outputs`, [batch * padded, C] with `rows`.
 * alpha, pooled, logits and probabilities are always there (not for a bare backbone); the rest
 * only in a workspace made with `keep_stages`, else it is absent.
 * hidden[0] is the input of block 0.
 */
typedef struct ser_stages {
    ser_outputs outputs;
    ser_rows rows;             /* 50 Hz frames; valid is device memory */
    const int32_t *valid_host; /* [batch] */
    ser_tensor mel;            /* log-mel features before the convolutions, with mel_rows */
    ser_rows mel_rows;
    const int32_t *mel_valid_host;
    ser_tensor features;   /* output of the last convolution */
    ser_tensor projected;  /* after LayerNorm and projection */
    ser_tensor positioned; /* after the positional convolution (post-norm: and the LayerNorm) */
    ser_tensor *hidden;    /* [layers + 1] as transformers' hidden_states */
    int32_t hidden_count;
    ser_tensor last;   /* last hidden state */
    ser_tensor alpha;  /* [batch * padded, 1] pooling weights */
    ser_tensor pooled; /* [batch, hidden] */
    ser_tensor logits; /* [batch, labels] */
    ser_tensor probabilities;
    ser_tensor loss; /* [batch, 1], of a pass with targets (training.h) */
} ser_stages;

/* Activations and a queue for batches of up to `max_batch` clips of up to `max_samples` samples,
 * all allocated here; a larger batch makes it grow. `threads` are the CPU threads of its ops. The
 * net must outlive it. */
int ser_workspace_create(const ser_net *net, int64_t max_batch, int64_t max_samples,
                         int32_t threads, bool keep_stages, ser_workspace **workspace);
void ser_workspace_free(ser_workspace *workspace);

/* One batch. `samples[b]` is host memory of `counts[b]` samples (front end already applied, at
 * least ser_arch_min_samples). Waits for the result. The stages are borrowed from the workspace. */
int ser_net_forward(const ser_net *net, ser_workspace *workspace, int64_t batch,
                    const float *const *samples, const int64_t *counts, const ser_stages **stages);

/* The clips of a batch. `write` puts the samples of one, front end applied, to `to`: straight to
 * where the device reads them. */
typedef struct ser_clips {
    int64_t count;
    const int64_t *samples; /* [count], each at least ser_arch_min_samples */
    void (*write)(const void *source, int64_t clip, float *to);
    const void *source;
} ser_clips;

/*
 * Batch after batch, so that the host writes one while the device computes the one before it:
 * prepare(k + 1), wait, launch(k + 1), read the outputs of k, which stay until prepare(k + 2).
 * `alone`: no other batch is under way, nor will be prepared before this one was waited for and
 * read; it needs less memory. After a failure of prepare or launch nothing is prepared; wait before
 * anything else.
 */
int ser_net_prepare(const ser_net *net, ser_workspace *workspace, const ser_clips *clips,
                    bool alone);
int ser_net_launch(ser_workspace *workspace, ser_outputs *outputs);
int ser_net_wait(ser_workspace *workspace);

/* Copy `rows` rows of a stage, from `first` on, to the host, as f32. */
int ser_workspace_download(ser_workspace *workspace, const ser_tensor *tensor, int64_t first,
                           int64_t rows, float *host);

#endif
