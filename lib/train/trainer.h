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

struct ser_feature_cache;

struct ser_trainer {
    ser_model *model; /* taken exclusively */
    ser_training *training;
    ser_trainer_options options;     /* complete; its pointers are NULL or owned copies below */
    float *class_weights;            /* [labels] or NULL, owned */
    struct ser_feature_cache *cache; /* NULL: none */
    atomic_bool cancelled;

    int64_t step;        /* updates done: the schedule's position; part of a checkpoint */
    int64_t batches;     /* batches seen, skipped ones too: the counter of the dropouts; ditto */
    int32_t accumulated; /* batches since the last update */
    int32_t skipped;     /* steps in a row */
    double rate_factor;  /* part of a checkpoint */
    bool uses_average;
    char *note;        /* of the last restore, or NULL */
    double weight_sum; /* of the clips accumulated so far */
};

int ser_trainer_make(ser_model *model, const ser_trainer_options *options, ser_trainer **trainer);
void ser_trainer_release(ser_trainer *trainer);

/* checkpoint.c */
int ser_checkpoint_write(ser_trainer *trainer, const char *path, const char *note);
int ser_checkpoint_read(ser_trainer *trainer, const char *path);

#endif
