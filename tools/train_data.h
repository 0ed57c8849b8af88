/* SPDX-License-Identifier: MIT */
/* The clips of a run: corpora of the command line, scanned, split, checked, bound to a model. */
#ifndef SER_TOOLS_TRAIN_DATA_H
#define SER_TOOLS_TRAIN_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ser/model.h>

#include "dataset.h"
#include "leaks.h"
#include "metrics.h"
#include "scan.h"
#include "splits.h"
#include "train_options.h"

typedef struct train_data {
    dataset set;
    scan audio; /* an entry per clip */
    /* Bound to a model's classes, whose names may come in another order, and may be more. */
    const char **labels; /* [label_count], owned copies */
    size_t label_count;
    int32_t *label_of; /* [set.label_count]: the model's class */
    uint8_t *masks;    /* [corpora, label_count]: classes that the corpus has */
    bool *restricted;  /* [corpora]: some class is missing */
} train_data;

/* One fold. */
typedef struct train_fold {
    split split;
    leak_report leaks;
} train_fold;

/* Find and decode the clips. These functions answer 0 or an exit code; one that was stopped by a
 * signal answers 128 + its number. */
int train_data_load(const train_options *o, train_data *data);

/* The --split of the options, with its default: none is TRAIN_SPLIT_ALL. */
typedef struct train_split {
    bool all; /* "none": every clip in one part */
    split_spec spec;
} train_split;

int train_data_split(const train_options *o, const train_data *data, train_split *s);

/* Put the clips of a fold into parts; with `all` those are `whole`. Looks for leaks and says what
 * it found. `need_test`: some clips must be tested. */
int train_fold_make(const train_options *o, const train_data *data, const train_split *s,
                    dataset_part whole, train_fold *fold);
void train_fold_free(train_fold *fold);

/* Number the classes as `model` does; those that it lacks are errors. */
int train_data_bind(train_data *data, const ser_model *model);

/* The model's class of a clip, and its mask: NULL where its corpus has all classes. */
int32_t train_data_label(const train_data *data, size_t clip);
const uint8_t *train_data_mask(const train_data *data, size_t clip);

/* Clips of a part, in their order; the caller frees. */
size_t *train_data_clips(const train_data *data, const split *s, dataset_part part, size_t *count);

void train_data_free(train_data *data);

#endif
