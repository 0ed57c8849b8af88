/* SPDX-License-Identifier: MIT */
/*
 * The directory of a run: locked, probed, and the only place that ser-train writes to.
 *
 *     config.json metrics.jsonl best.safetensors checkpoints/step-N report.json ... (DESIGN.md)
 *
 * Functions that answer int give 0, or an exit code after a message.
 */
#ifndef SER_TOOLS_RUN_DIR_H
#define SER_TOOLS_RUN_DIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

typedef enum run_dir_mode {
    RUN_DIR_FRESH,  /* refuse a directory that holds anything */
    RUN_DIR_FORCE,  /* take any directory; run_dir_clear removes the earlier run in it */
    RUN_DIR_RESUME, /* take what is there */
    RUN_DIR_SHARED  /* write beside what is there */
} run_dir_mode;

typedef struct run_dir {
    char *path; /* NULL: nothing is written */
    int lock;   /* its descriptor, or -1 */
} run_dir;

/* Make the directory (and those above it), lock it against other runs, and write something to it,
 * so that what cannot work fails now. */
int run_dir_open(run_dir *dir, const char *path, run_dir_mode mode);
void run_dir_close(run_dir *dir);

/* Remove what an earlier run left; other files stay. */
void run_dir_clear(const run_dir *dir);

/* Make the folder of the checkpoints. */
int run_dir_prepare(const run_dir *dir);

/* "PATH/NAME"; the caller frees. */
char *run_dir_file(const run_dir *dir, const char *name);
bool run_dir_has(const run_dir *dir, const char *name);

/* Replace a file as a whole. */
int run_dir_write_json(const run_dir *dir, const char *name, const json_t *object);

/* One more line; takes the object. Reals that are not finite must be null already. */
int run_dir_append(const run_dir *dir, const char *name, json_t *object);

/* Keep the lines of a file whose "step" is at most `step` and that are not about the end of an
 * epoch after `epochs`; torn ones go as well. */
int run_dir_trim(const run_dir *dir, const char *name, int64_t step, int64_t epochs);

/* Steps of the checkpoints, newest first; the caller frees. Remains of interrupted saves are
 * removed. */
int64_t *run_dir_checkpoints(const run_dir *dir, size_t *count);
char *run_dir_checkpoint(const run_dir *dir, int64_t step);

/* Keep best.safetensors as it is now with the checkpoint of a step: as a second name of that file,
 * which stays what it is, since best.safetensors is only ever replaced as a whole. 0 or an errno. */
int run_dir_keep_best(const run_dir *dir, int64_t step);

/* Bring it back: a run that goes back to a checkpoint may have found a better model after it. */
int run_dir_take_best(const run_dir *dir, int64_t step);

/* Remove all but the newest `keep`; those after `newest` (of a run that went back) as well. */
void run_dir_rotate(const run_dir *dir, int64_t newest, size_t keep);

/* A number for JSON: null if it is not finite. */
json_t *run_dir_real(double value);

#endif
