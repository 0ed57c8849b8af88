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
    const float *const *samples; /* [count]; front end applied. Not read where there are sources */
    const int64_t *lengths;      /* [count] samples of each, also with sources */
    const ser_source *sources;   /* [count] or NULL: where the clips' samples stay on the device */
    bool features; /* the sources are [frames, channels] of the frozen convolutions instead */
    const float *targets;            /* [count, labels], see ser_cross_entropy_args */
    const float *mask;               /* [count, labels] or NULL */
    float scale;                     /* of the gradient of the summed loss */
    const float *mel_warp;           /* [count] or NULL; log-mel models only, with mel_offset */
    const float *mel_offset;         /* [count, bins] */
    ser_spans mel_time, mel_channel; /* on the log-mels */
    ser_spans hidden_time, hidden_channel; /* on the projected features */
    const bool *dropped_layers; /* [layers] or NULL: blocks that this step skips (layerdrop) */
    uint64_t seed, step;        /* counter of the dropouts */
} ser_training_batch;

typedef struct ser_update {
    float rate; /* the schedule's factor on every parameter's rate */
    float clip; /* largest gradient norm; 0: no limit */
    float gradient_scale;
    float average; /* decay of the moving average */
} ser_update;

/* What a step gives; the arrays may be NULL. */
typedef struct ser_training_result {
    float *losses;        /* [count] the clips' own */
    float *probabilities; /* [count, labels] */
    double norm;          /* of the scaled gradient, before clipping */
    bool skipped;         /* it was not finite: nothing was changed */
} ser_training_result;

/*
 * A step: forward and backward, which add to the gradients, and with an update AdamW, which makes
 * them zero again. In three calls, so that the host makes the next step ready while the device
 * computes: prepare may come before the wait for the step before, launch may not. The batch must
 * stay until launch returns; `update` says whether launch will have one.
 */
int ser_training_prepare(ser_training *training, const ser_training_batch *batch, bool update);
int ser_training_launch(ser_training *training, const ser_training_batch *batch,
                        const ser_update *update);
int ser_training_wait(ser_training *training, ser_training_result *result);

/* The three in one. */
int ser_training_step(ser_training *training, const ser_training_batch *batch,
                      const ser_update *update, ser_training_result *result);

/* The same forward without dropout, masks and gradients: for evaluation. Waits. */
int ser_training_evaluate(ser_training *training, const ser_training_batch *batch, float *losses,
                          float *probabilities);

/* Outputs of the convolutions for a clip of `length` samples, [ser_arch_frames(length), channels] of
 * the network's type, into device memory `features`: for a cache. Their bits depend on the clip
 * alone. Waits. */
int ser_training_features(ser_training *training, const float *samples, int64_t length,
                          void *features);

/* The smallest type that holds the samples exactly: I16 where all are whole numbers of 1 / 32768. */
int32_t ser_training_samples_type(const float *samples, int64_t length);

/* Move samples to device memory where they stay, as elements of that type. Waits. */
int ser_training_samples(ser_training *training, const float *samples, int64_t length, int32_t type,
                         void *memory);

/* Whether the convolutions are frozen, so that their output may be cached. */
bool ser_training_features_frozen(const ser_training *training);

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
