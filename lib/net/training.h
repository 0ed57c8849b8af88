/* SPDX-License-Identifier: MIT */
/*
 * What training adds to a network: trainable weights as flat arrays with their gradients and
 * moments, and the pass that fills the gradients. Backend-blind like the rest of lib/net; schedules,
 * augmentation and files are lib/train's.
 *
 * The flat arrays hold every trained parameter in the layout that the ops read (convolutions tap by
 * tap; q, k and v below each other), so the optimiser needs to know no shapes. The layout follows
 * from the architecture and the list of trained parameters alone: it is the same on every backend.
 */
#ifndef SER_NET_TRAINING_H
#define SER_NET_TRAINING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/net.h"

typedef struct ser_training ser_training;

typedef struct ser_training_options {
    const float *rates;  /* [params count]: learning rate of each parameter; 0: frozen */
    const float *decays; /* [params count]: weight decay of each */
    float beta1, beta2, eps;
    bool average; /* keep a moving average of the weights */

    /* dropout probabilities, 0 <= p < 1 */
    float projection_dropout; /* of the projected features */
    float hidden_dropout;     /* of what is added to the residual stream, and of its start */
    float attention_dropout;
    float activation_dropout; /* inside the feed-forward layers */
    float classifier_dropout; /* after every activation of the classifier */
} ser_training_options;

/*
 * Make the finished `net` trainable; both arrays of the options are copied. The net must outlive the
 * training, and until ser_training_free nothing else may use it (ser_net_get is fine). `threads` as
 * for a workspace. Fails with ARGUMENT if no parameter is trained.
 */
int ser_training_create(ser_net *net, const ser_training_options *options, int32_t threads,
                        ser_training **training);

/* The net keeps the trained weights. NULL is fine. */
void ser_training_free(ser_training *training);

/* Spans to be masked: [batch, count, 2] begin, end; host memory; count 0: none. */
typedef struct ser_spans {
    const int32_t *list;
    int32_t count;
} ser_spans;

/* One batch; host memory that is read during the call only. */
typedef struct ser_training_batch {
    int64_t count;               /* clips */
    const float *const *samples; /* [count]; front end applied. NULL where `features` are given */
    const int64_t *lengths;      /* [count] samples of each, also with features */
    const float *const
        *features;           /* [count] of [frames, channels]: what the frozen convolutions gave */
    const float *targets;    /* [count, labels], see ser_cross_entropy_args */
    const float *mask;       /* [count, labels] or NULL */
    float scale;             /* of the gradient of the summed loss */
    const float *mel_warp;   /* [count] or NULL; log-mel models only, with mel_offset */
    const float *mel_offset; /* [count, bins] */
    ser_spans mel_time, mel_channel;       /* on the log-mels */
    ser_spans hidden_time, hidden_channel; /* on the projected features */
    const bool *dropped_layers; /* [layers] or NULL: blocks that this step skips (layerdrop) */
    uint64_t seed, step;        /* counter of the dropouts */
} ser_training_batch;

/* Forward and backward: adds to the gradients. `losses` [count] and `probabilities` [count, labels]
 * (may be NULL) receive the clips' own. Waits. */
int ser_training_accumulate(ser_training *training, const ser_training_batch *batch, float *losses,
                            float *probabilities);

/* The same forward without dropout, masks and gradients: for evaluation. */
int ser_training_evaluate(ser_training *training, const ser_training_batch *batch, float *losses,
                          float *probabilities);

/* Outputs of the convolutions, [frames, channels] of every clip, for a cache of frozen features.
 * `features[b]` has room for ser_arch_frames(lengths[b]) rows. */
int ser_training_features(ser_training *training, const ser_training_batch *batch,
                          float *const *features);

/* Whether the convolutions are frozen, so that their output may be cached. */
bool ser_training_features_frozen(const ser_training *training);

typedef struct ser_update {
    float rate; /* the schedule's factor on every parameter's rate */
    float clip; /* largest gradient norm; 0: no limit */
    float gradient_scale;
    float average; /* decay of the moving average */
} ser_update;

/* One AdamW update from the accumulated gradients, which become zero. `norm` receives the scaled
 * gradient's norm before clipping. `skipped` is set, and nothing changed, where it is not finite. */
int ser_training_update(ser_training *training, const ser_update *update, double *norm,
                        bool *skipped);

/* Forget the accumulated gradients. */
int ser_training_clear(ser_training *training);

/* Exchange the weights with their moving average (twice: as before). Without one: UNSUPPORTED. */
int ser_training_swap_average(ser_training *training);

/* State for checkpoints: arrays by parameter, f32, ser_param_elements values in the flat layout. The
 * number of updates done is `updates`. */
enum ser_training_array {
    SER_TRAINING_WEIGHT,
    SER_TRAINING_MOMENT1,
    SER_TRAINING_MOMENT2,
    SER_TRAINING_AVERAGE
};
bool ser_training_is_trained(const ser_training *training, size_t parameter);
uint64_t ser_training_trained_count(const ser_training *training); /* weights, not tensors */
int ser_training_get(const ser_training *training, enum ser_training_array array, size_t parameter,
                     float *values);
int ser_training_set(ser_training *training, enum ser_training_array array, size_t parameter,
                     const float *values);
uint64_t ser_training_updates(const ser_training *training);

/* After the last ser_training_set: continue as if `updates` updates had been done. */
int ser_training_resume(ser_training *training, uint64_t updates);

/* Gradient of a trained parameter, and a new value for it, in PyTorch's layout. */
int ser_training_gradient(ser_training *training, size_t parameter, float *values);
int ser_training_place(ser_training *training, size_t parameter, const float *values);

/* Bytes of device memory that weights, gradients, moments and activations take. */
uint64_t ser_training_memory(const ser_training *training);

#endif
