/* SPDX-License-Identifier: MIT */
/* Where a run stands, beside the weights: what a checkpoint's note holds. */
#ifndef SER_TOOLS_TRAIN_STATE_H
#define SER_TOOLS_TRAIN_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One epoch that is done; what was not measured is NaN. */
typedef struct train_epoch {
    double train_loss;
    double train_accuracy;
    double validation_loss; /* mean of -ln p(true class) */
    double validation_uar;
    double rate;
    double head_rate;
} train_epoch;

typedef struct train_state {
    int64_t epoch; /* epochs done */
    int64_t batch; /* batches of the next one that are done */
    /* of the current epoch */
    double loss_sum; /* over clips */
    int64_t clips;
    int64_t correct;
    int64_t skipped; /* steps */
    double rate;     /* of the last step */
    double head_rate;
    double gradient_norm; /* of the last update */
    /* of the best epoch so far */
    int64_t best_epoch; /* from 1; 0: none */
    double best_uar;
    double temperature;
    bool finished;        /* nothing is left to train */
    train_epoch *history; /* [epoch] */
} train_state;

/* Append the epoch that ends, and start the next. */
void train_state_next_epoch(train_state *s, const train_epoch *done);

/* The note of a checkpoint; the caller frees. `digest` stands for the data. */
char *train_state_note(const train_state *s, uint64_t digest);

/* Read one back exactly. False: it is none, or (`*other_data`) of other data. */
bool train_state_read(train_state *s, const char *note, uint64_t digest, bool *other_data);

void train_state_free(train_state *s);

#endif
