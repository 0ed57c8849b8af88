/* SPDX-License-Identifier: MIT */
/* Train one model on one fold: epochs, validation, checkpoints, signals. */
#ifndef SER_TOOLS_TRAIN_RUN_H
#define SER_TOOLS_TRAIN_RUN_H

#include "run_dir.h"
#include "train_session.h"
#include "train_state.h"

/* How a run ended. */
typedef struct train_result {
    train_state state;
    uint64_t parameters;
    double seconds;
    bool late; /* --time-limit came before the end */
} train_result;

/* SIGUSR1 asks for a checkpoint at the next step; SIGXFSZ is left to the errors of writing. */
void train_run_install(void);

/*
 * Train until the end, early stopping, --time-limit or a signal; best.safetensors and the last
 * checkpoint are in `dir` then. Answers 0, or an exit code after a message: 128 + N after signal N.
 */
int train_run(train_session *s, const train_fold *fold, const run_dir *dir, train_result *result);

/* --dry-run: one batch, the longest; tells what memory it takes. */
int train_try(train_session *s, const train_fold *fold);

void train_result_free(train_result *result);

#endif
