/* SPDX-License-Identifier: MIT */
/* Clips made ready for a step, and the random numbers of their augmentation. */
#ifndef SER_TRAIN_BATCH_H
#define SER_TRAIN_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include <ser/train.h>

#include "model/config.h"

/* What making a batch depends on: constant during a trainer's life, so any thread may read it. */
typedef struct ser_batch_source {
    const void *owner;        /* the trainer: a batch fits no other */
    const ser_config *config; /* of the model */
    ser_trainer_options options;
    const float *class_weights; /* [labels] or NULL */
    /* [bins] of the net (SER_PARAM_MEL_STD), kept up to date by the trainer, in whose units
       mel_offset is; NULL: all 1. Not read where the model has no log-mels. */
    const float *mel_std;
    bool caches; /* something of clips whose waveform nothing changes stays on the device */
} ser_batch_source;

struct ser_batch {
    const void *owner;
    size_t label_count; /* with bins: a trainer that lies where an earlier one lay is found out */
    int32_t bins;
    int64_t count;
    bool augmented;
    float **samples;  /* [count], front end and waveform augmentation applied */
    int64_t *lengths; /* [count] */
    uint64_t *ids;
    int32_t *labels; /* -1: none */
    float *targets;  /* [count, labels]: smoothed, weighted, restricted; 0 in a row without label */
    float *mask;     /* [count, labels], or NULL: every class everywhere */
    double weight;   /* sum over clips of clip weight * class weight: the loss's denominator */
    float *mel_warp, *mel_offset;    /* as ser_training_batch; NULL: none */
    int32_t *mel_time, *mel_channel; /* spans [count, n, 2] or NULL, n as in the options */
    bool same_waveform; /* the samples are those without augmentation */
    uint64_t *keys;     /* [count] ser_inputs_key; NULL: nothing of this batch is cached */
};

/* front_end.h says what happens to a clip's samples, targets.h what the loss compares with. The
 * content of `clips` is checked here (ARGUMENT, naming the clip by its place), pointers and `count`
 * by the caller. Any number of threads at once. */
int ser_batch_make(const ser_batch_source *source, const ser_clip *clips, size_t count,
                   int64_t epoch, bool augment, ser_batch **batch);
void ser_batch_release(ser_batch *batch);

#endif
