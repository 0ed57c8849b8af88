/* SPDX-License-Identifier: MIT */
/*
 * Batches made ahead of training: which clips go together, in what order (a pure function of seed,
 * epoch and clips), and the threads that decode them and call ser_batch_create.
 */
#ifndef SER_TOOLS_TRAIN_LOADER_H
#define SER_TOOLS_TRAIN_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ser/train.h>

#include "train_data.h"

/* Decoded clips, kept while they fit; shared by all loaders of a run. */
typedef struct clip_cache clip_cache;

clip_cache *clip_cache_new(const dataset *ds, size_t bytes);
void clip_cache_free(clip_cache **handle);

/* What an epoch goes through: a clip may stand there several times. */
typedef struct loader_pool {
    uint32_t *clips;   /* [count], clips of the data set */
    uint32_t *copies;  /* [count], from 0: the how manieth time */
    uint32_t *lengths; /* [count], samples */
    float *weights;    /* [count], of each in the loss */
    size_t count;
} loader_pool;

/* The clips of a part; with `o`, as often as --repeat says and weighted as --class-weight says. */
void loader_pool_make(loader_pool *pool, const train_data *data, const split *s, dataset_part part,
                      const train_options *o);
void loader_pool_free(loader_pool *pool);

/* A pass over a pool: batch b has the entries order[starts[b] .. starts[b + 1]). */
typedef struct loader_plan {
    const loader_pool *pool;
    uint32_t *order;
    size_t *starts; /* [batches + 1] */
    size_t batches;
} loader_plan;

/* Batches of similar length in random order. A few clips are left out so that the number of batches
 * is a multiple of `accumulate`; which ones differs from epoch to epoch. */
void loader_plan_shuffle(loader_plan *plan, const loader_pool *pool, size_t batch,
                         size_t accumulate, uint64_t seed, int64_t epoch);
size_t loader_plan_batches(const loader_pool *pool, size_t batch, size_t accumulate);

/* The longest clips first, nothing left out. */
void loader_plan_sort(loader_plan *plan, const loader_pool *pool, size_t batch);
void loader_plan_free(loader_plan *plan);

/* Clip of an id that a message or result of the trainer names. */
size_t loader_clip_of(const train_data *data, uint64_t id);

typedef struct loader_setup {
    const ser_trainer *trainer;
    const train_data *data;
    clip_cache *cache;
    const loader_plan *plan;
    size_t first; /* batches before this one are left out */
    int64_t epoch;
    bool augment;
    bool distinct;  /* give every copy of a clip its own id, thus its own changes */
    size_t threads; /* 0: by the number of CPUs */
} loader_setup;

typedef struct loader loader;

/* Start making batches. Everything in the setup must outlive the loader. */
loader *loader_start(const loader_setup *setup);

/* The next batch, which the caller frees; NULL after the last one. 0, or an exit code after a
 * message. */
int loader_next(loader *l, ser_batch **batch);

void loader_free(loader **handle);

#endif
