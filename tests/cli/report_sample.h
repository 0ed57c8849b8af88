/* SPDX-License-Identifier: MIT */
/* A run that never was, with everything that a report can hold. */
#ifndef SER_TESTS_CLI_REPORT_SAMPLE_H
#define SER_TESTS_CLI_REPORT_SAMPLE_H

#include <stdbool.h>

#include "report.h"

enum {
    SAMPLE_CLASSES = 8,
    SAMPLE_GROUPS = 36, /* 24 of the first corpus, 12 of the second */
    SAMPLE_PER_GROUP = 24,
    SAMPLE_ROWS = SAMPLE_GROUPS * SAMPLE_PER_GROUP,
    SAMPLE_FOLDS = 6,
    SAMPLE_EPOCHS = 30
};

typedef struct sample {
    run_report run;
    metrics_row rows[SAMPLE_ROWS];
    metrics_row sorted[SAMPLE_ROWS]; /* by fold */
    float probabilities[SAMPLE_ROWS][SAMPLE_CLASSES];
    report_clip clips[SAMPLE_ROWS];
    char paths[SAMPLE_ROWS][64];
    char speakers[SAMPLE_GROUPS][16];
    const char *groups[SAMPLE_GROUPS];
    char fold_names[SAMPLE_FOLDS][32];
    int64_t class_clips[2][SAMPLE_CLASSES];
    metrics_result pooled;
    metrics_result validation;
    metrics_result fold_results[SAMPLE_FOLDS];
    report_part parts[2];
    report_part folds[SAMPLE_FOLDS];
    report_corpus corpora[2];
    double curves[5][SAMPLE_EPOCHS];
    report_curves curve_set;
} sample;

/* The texts hold what every format would trip over if `nasty`. */
sample *sample_new(bool nasty);
void sample_free(sample *s);

#endif
