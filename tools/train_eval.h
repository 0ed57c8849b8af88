/* SPDX-License-Identifier: MIT */
/* Scores: probabilities of the clips of a part, what they are worth, the temperature. */
#ifndef SER_TOOLS_TRAIN_EVAL_H
#define SER_TOOLS_TRAIN_EVAL_H

#include "metrics.h"
#include "run_dir.h"
#include "train_session.h"

/* Clips of a part in the order of the data set. */
typedef struct train_scores {
    size_t *clips; /* [count], of the data set */
    size_t count;
    float *probabilities; /* [count, labels] */
    float *logs;          /* [count, labels], of the probabilities: logits up to a constant */
    metrics_row *rows;    /* [count] */
    metrics_result metrics;
} train_scores;

/* Score the clips of a part with the trainer's weights, averaged if there is an average. Answers 0
 * or an exit code, 128 + N after signal N. */
int train_score(const train_session *s, ser_trainer *trainer, const split *fold, dataset_part part,
                train_scores *out);

/* Fill `out->metrics`; intervals from so many draws of the bootstrap. */
int train_scores_measure(const train_session *s, train_scores *out, int32_t replicates);

/* The temperature that suits these clips, which must not have been trained on; 1 without clips. */
int train_scores_temperature(const train_session *s, const train_scores *scores,
                             double *temperature);

/* Load a model file, score a part of a fold, measure with intervals. */
int train_score_model(train_session *s, const char *path, const split *fold, dataset_part part,
                      train_scores *out);

/* Append the clips of `more`. */
void train_scores_append(const train_session *s, train_scores *all, const train_scores *more);

void train_scores_free(train_scores *scores);

/* --eval-only. */
int train_eval_only(train_session *s);

#endif
