/* SPDX-License-Identifier: MIT */
/* What a run of one fold holds, and how it begins. Shared by train_run.c and train_try.c. */
#ifndef SER_TOOLS_TRAIN_SETUP_H
#define SER_TOOLS_TRAIN_SETUP_H

#include "progress.h"
#include "train_run.h"

/* Clips of steps that were skipped, newest last. */
enum { TRAIN_BAD_CLIPS = 8 };

typedef struct train_work {
    train_session *session;
    const train_fold *fold;
    const run_dir *dir;
    ser_model *model;
    ser_trainer *trainer;
    loader_pool pool; /* of the clips that train */
    size_t batches;   /* per epoch */
    int64_t steps;    /* updates of the whole run */
    uint64_t digest;  /* of the data */
    train_state state;
    progress bar;
    int64_t clips_before; /* that the bar has counted at the start of this process */
    double epoch_started;
    int64_t epoch_clips; /* of this epoch, in this process */
    int32_t skipped;     /* steps in a row */
    size_t bad_clips[TRAIN_BAD_CLIPS];
    size_t bad_count;
    int64_t saved;    /* step of the newest checkpoint that is known to be good; -1: none */
    double saved_at;  /* train_clock() when it was written, or this run began */
    bool save_failed; /* the last attempt */
    bool best_alone;  /* it was said that the file system cannot keep models with checkpoints */
    bool late;        /* --time-limit is over */
} train_work;

/* Make model and trainer for a fold; nothing is trained yet. 0 or an exit code. */
int train_work_open(train_work *w);
void train_work_close(train_work *w);

/* Measure the level of the log-mels over the first `batches` batches of all training clips, where
 * the model is fresh and has log-mels. */
int train_work_observe(train_work *w, size_t batches);

/* Go on from the newest checkpoint that can be used, if there is one (`*found`). */
int train_work_restore(train_work *w, bool *found);

/* Write a checkpoint; a failure is a warning, and noted. Between updates only. */
void train_work_save(train_work *w);

/* Write best.safetensors. */
int train_work_write_model(train_work *w, double temperature);

/* After the last batch of an epoch: validation, best model, metrics.jsonl, the line for people, and
 * the next epoch begins. */
int train_work_end_epoch(train_work *w);

/* Steps that gave NaN or infinity: note one in anomalies.jsonl; say which clips ended the run. */
void train_work_note_skip(train_work *w, const loader_plan *plan, const ser_step_result *step);
int train_work_give_up(const train_work *w);

#endif
