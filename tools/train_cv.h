/* SPDX-License-Identifier: MIT */
/* From clips to a run directory: one fold, or all of them (--cv). */
#ifndef SER_TOOLS_TRAIN_CV_H
#define SER_TOOLS_TRAIN_CV_H

#include "run_dir.h"
#include "train_session.h"

/* Train on one split and score its test clips. 0 or an exit code. */
int train_single(train_session *s, const run_dir *dir);

/* Every fold of the split in a directory of its own, fold1 .. foldN, and all test clips pooled.
 * With --resume, folds that are finished are only scored again. */
int train_cross(train_session *s, const run_dir *dir);

#endif
