/* SPDX-License-Identifier: MIT */
/* Where a pass over a batch begins: at samples of the host, or at what stays of the clips on the
 * device, which is their samples or the output of frozen convolutions. */
#ifndef SER_TRAIN_INPUTS_H
#define SER_TRAIN_INPUTS_H

#include "ops/ops.h"
#include "train/batch.h"

struct ser_trainer;

typedef struct ser_inputs {
    ser_source *sources; /* [count]; NULL: the samples of the host */
    void **own;          /* [count] device memory of what did not fit into the cache, else NULL */
    int64_t count;
    bool features;
} ser_inputs;

/* Under which clip `b` is cached: its number and its samples, because numbers may be given twice, such
 * as in training and in validation. 0: not at all. */
uint64_t ser_inputs_key(const ser_batch *batch, int64_t b);

/* Clear with ser_inputs_clear, also after a failure, when no work that reads them is under way. */
int ser_inputs_find(struct ser_trainer *trainer, const ser_batch *batch, ser_inputs *inputs);
void ser_inputs_clear(const struct ser_trainer *trainer, ser_inputs *inputs);

#endif
