/* SPDX-License-Identifier: MIT */
/* Checkpoints to write, damage and compare. */
#ifndef SER_TESTS_CHECKPOINT_FIXTURE_H
#define SER_TESTS_CHECKPOINT_FIXTURE_H

#include "trainer_fixture.h"

/* All that a checkpoint brings back: weights, moments, average, counters; to be freed. */
typedef struct snapshot {
    float *values;
    size_t count;
    int64_t step, batches;
    uint64_t updates;
    double rate_factor;
} snapshot;

/* Options with everything that a run can have: dropouts, masks, average, accumulation. */
void rich_options(void);

/* Batches first .. first + count - 1 of a run, augmented, of three clips each. */
void train(int first, int count);

snapshot take_snapshot(void);
void free_snapshot(snapshot *s);
void assert_same_state(const snapshot *s);
bool is_same_state(const snapshot *s);

/* A new trainer of a new model of another seed. */
void start_over(int kind, uint64_t seed);

/* A fresh directory for this test, and "ROOT/name", "PATH/file" in 64 and 8 rotating
 * buffers. */
void new_root(void);
const char *root(void);
const char *place(const char *name);
const char *within(const char *path, const char *file);

unsigned char *read_bytes(const char *path, size_t *size);
void write_bytes(const char *path, const void *bytes, size_t size);
void copy_directory(const char *from, const char *to);

/* Entries of a directory but . and .. */
size_t count_entries(const char *path);

/* A process id that is nobody's. */
long dead_pid(void);

#endif
