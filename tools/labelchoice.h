/* SPDX-License-Identifier: MIT */
/* The classes of an answer: all of the model's, or those that --labels names. */
#ifndef SER_TOOLS_LABELCHOICE_H
#define SER_TOOLS_LABELCHOICE_H

#include <stddef.h>

#include <ser/model.h>

typedef struct labelchoice {
    size_t *classes;     /* [count], numbers of the model's classes, rising */
    const char **labels; /* [count], their names, borrowed from the model */
    size_t count;
    size_t model_count; /* classes of the model */
} labelchoice;

/* `names` separated by commas, or NULL for all: 0, or an exit code after a message. Free it in both
 * cases. */
int labelchoice_make(labelchoice *choice, const ser_model *model, const char *names);

/* scores[count], summing to 1, from the model's probabilities[model_count]. */
void labelchoice_scores(const labelchoice *choice, const double *probabilities, float *scores);

/* The same from the floats that a prediction gives. */
void labelchoice_scores_of(const labelchoice *choice, const float *probabilities, float *scores);

void labelchoice_free(labelchoice *choice);

#endif
