/* SPDX-License-Identifier: MIT */
/* A trainer: what the public ser_trainer points to. See the functions of the same names in
 * ser/train.h for what they do; arguments are checked in lib/api/train.c. */
#ifndef SER_TRAIN_TRAINER_H
#define SER_TRAIN_TRAINER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <ser/train.h>

#include "model/model.h"
#include "net/training.h"
#include "train/batch.h"
#include "train/inputs.h"

enum {
    SER_NAMED_CLIPS = 8, /* that a message lists */
    SER_RESULTS = 64,    /* that wait to be collected */
};

struct ser_clip_cache;
struct ser_levels;

/* A step between its launch and the look at what it gave. */
typedef struct ser_pending {
    bool launched;
    bool updates; /* it completes an update */
    int64_t count;
    ser_inputs inputs; /* the device reads them */
    uint64_t *ids;     /* [count], with the rest copied from the batch */
    int32_t *labels;   /* [count] */
    double weight;
    double factor;        /* of the rates */
    float *losses;        /* [count] */
    float *probabilities; /* [count, labels] */
} ser_pending;

struct ser_trainer {
    ser_model *model; /* taken exclusively */
    ser_training *training;
    ser_trainer_options options;  /* complete; its pointers are NULL or owned copies below */
    float *class_weights;         /* [labels] or NULL, owned */
    struct ser_clip_cache *cache; /* NULL: none */
    bool caches_features;         /* else samples */
    atomic_bool cancelled;

    int64_t step;        /* updates done: the schedule's position; part of a checkpoint */
    int64_t batches;     /* batches seen, skipped ones too: the counter of the dropouts; ditto */
    int32_t accumulated; /* batches since the last update */
    int32_t skipped;     /* steps in a row */
    double rate_factor;  /* part of a checkpoint */
    bool uses_average;
    char *note;        /* of the last restore, or NULL */
    double weight_sum; /* of the clips accumulated so far */

    ser_pending pending;                  /* the step that is under way */
    ser_step_result results[SER_RESULTS]; /* of steps that are done, the oldest first */
    int32_t result_count;

    uint64_t bad_clips[SER_NAMED_CLIPS]; /* of the skipped steps in a row, the latest */
    int32_t bad_clip_count;
    struct ser_levels *levels; /* what was observed and not yet settled, or NULL */
    float *mel_std;            /* [bins] of the net, for ser_batch_source; NULL: no log-mels */
};

int ser_trainer_make(ser_model *model, const ser_trainer_options *options, ser_trainer **trainer);
void ser_trainer_release(ser_trainer *trainer);

/* The batch's side of a trainer; borrowed from it. */
ser_batch_source ser_trainer_source(const ser_trainer *trainer);

/* step.c; a failure leaves `result` alone. Arrays may be NULL. */
int ser_trainer_step_batch(ser_trainer *trainer, const ser_batch *batch, ser_step_result *result);
int ser_trainer_submit_batch(ser_trainer *trainer, const ser_batch *batch);
/* `*found`: there was one. */
int ser_trainer_collect_result(ser_trainer *trainer, ser_step_result *result, bool *found);

/* Wait for the step that is under way, if there is one, and take in what it gave. Everything that
 * reads or changes the trainer's state begins with it. */
int ser_trainer_settle_step(ser_trainer *trainer);
void ser_pending_clear(const ser_trainer *trainer, ser_pending *pending);

int ser_trainer_evaluate_batch(ser_trainer *trainer, const ser_batch *batch, float *losses,
                               float *probabilities);

int ser_trainer_observe_batch(ser_trainer *trainer, const ser_batch *batch);
int ser_trainer_settle_levels(ser_trainer *trainer);
int ser_trainer_choose_average(ser_trainer *trainer, bool use);

/* These see to it that weights and average are where they belong, whichever is in use. */
int ser_trainer_write_checkpoint(ser_trainer *trainer, const char *path, const char *note);
int ser_trainer_read_checkpoint(ser_trainer *trainer, const char *path);
int ser_trainer_write_model(ser_trainer *trainer, const char *path,
                            const ser_model_changes *changes);

/* checkpoint.c */
int ser_checkpoint_write(ser_trainer *trainer, const char *path, const char *note);
int ser_checkpoint_read(ser_trainer *trainer, const char *path);

#endif
