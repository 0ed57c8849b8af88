/* SPDX-License-Identifier: MIT */
/* From what a run knows to report.json, model card and pictures, and to the terminal. */
#ifndef SER_TOOLS_TRAIN_REPORT_H
#define SER_TOOLS_TRAIN_REPORT_H

#include "run_dir.h"
#include "train_eval.h"
#include "train_session.h"
#include "train_state.h"

/* One fold of --cv. */
typedef struct train_fold_scores {
    char *name; /* "emobox6:1" */
    char *protocol;
    train_scores scores;
    double temperature;
} train_fold_scores;

typedef struct train_report {
    const train_session *session;
    const train_fold *fold; /* for the data report; NULL: none */
    const char *protocol;
    bool speaker_independent;
    const char *part;               /* what `scores` is about, such as "test" */
    const train_scores *scores;     /* NULL or empty: nothing was scored */
    const train_fold_scores *folds; /* [fold_count], pooled in `scores` in this order */
    size_t fold_count;
    const train_state *state; /* NULL: nothing was trained */
    double temperature;       /* 0: none */
    uint64_t parameters;
    const char *stopped; /* why training ended early; NULL: it did not */
    bool silent;         /* print nothing */
    double training_seconds;
    double scoring_seconds;
} train_report;

/* Print the scores to standard output and write the files, if `dir` has a path. */
int train_report_write(const train_report *report, const run_dir *dir);

#endif
