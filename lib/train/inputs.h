/* SPDX-License-Identifier: MIT */
/* Where a pass over a batch begins: at the samples, or at features that frozen convolutions gave. */
#ifndef SER_TRAIN_INPUTS_H
#define SER_TRAIN_INPUTS_H

#include "train/trainer.h"

typedef struct ser_inputs {
    const float **features; /* [count], borrowed from the cache or `own`; NULL: the samples */
    float **own;            /* [count]: what did not fit into the cache, else NULL */
    int64_t count;
} ser_inputs;

/* Under which clip `b` is cached: its number and its samples, because numbers may be given twice, such
 * as in training and in validation. 0: not at all. */
uint64_t ser_inputs_key(const ser_batch *batch, int64_t b);

/* Clear with ser_inputs_clear, also after a failure. */
int ser_inputs_find(ser_trainer *trainer, const ser_batch *batch, ser_inputs *inputs);
void ser_inputs_clear(ser_inputs *inputs);

#endif
