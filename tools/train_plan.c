/* SPDX-License-Identifier: MIT */
/* Which clips go together, and in what order. */
#include <stdlib.h>

#include "text.h"
#include "train_loader.h"

/* Clips are sorted by length within groups of so many batches: enough for batches with little
 * padding, few enough that batches are mixed anew each epoch. */
enum { BATCHES_SORTED = 16 };

typedef struct keyed {
    uint64_t key;
    uint32_t index;
} keyed;

/* The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection that mixes all bits. */
static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static int by_key(const void *a, const void *b)
{
    const keyed *x = a;
    const keyed *y = b;
    if (x->key != y->key) {
        return x->key < y->key ? -1 : 1;
    }
    return x->index < y->index ? -1 : x->index > y->index;
}

/* 0 .. count - 1 in the random order of a seed; the caller frees. */
static uint32_t *permutation(size_t count, uint64_t seed)
{
    keyed *keys = text_alloc(count + 1, sizeof *keys);
    uint32_t *order = text_alloc(count + 1, sizeof *order);
    for (size_t i = 0; i < count; i++) {
        keys[i] = (keyed){mix(seed ^ mix(i)), (uint32_t)i};
    }
    qsort(keys, count, sizeof *keys, by_key);
    for (size_t i = 0; i < count; i++) {
        order[i] = keys[i].index;
    }
    free(keys);
    return order;
}

/* Longest first, equals in the order of the pool. */
static void sort_by_length(const loader_pool *pool, uint32_t *order, size_t count)
{
    keyed *keys = text_alloc(count + 1, sizeof *keys);
    for (size_t i = 0; i < count; i++) {
        keys[i] = (keyed){UINT32_MAX - pool->lengths[order[i]], order[i]};
    }
    qsort(keys, count, sizeof *keys, by_key);
    for (size_t i = 0; i < count; i++) {
        order[i] = keys[i].index;
    }
    free(keys);
}

/* Every class of a corpus counts as much in the loss as any other of that corpus: weights are
 * inverse to how often it comes there, 1 on average over the corpus. */
static void weigh_classes(loader_pool *pool, const train_data *data)
{
    const size_t labels = data->label_count;
    size_t *counts = text_alloc(data->set.corpus_count * labels + 1, sizeof *counts);
    size_t *clips = text_alloc(data->set.corpus_count + 1, sizeof *clips);
    size_t *classes = text_alloc(data->set.corpus_count + 1, sizeof *classes);
    for (size_t i = 0; i < pool->count; i++) {
        const size_t corpus = (size_t)data->set.clips[pool->clips[i]].corpus;
        size_t *count = &counts[corpus * labels + (size_t)train_data_label(data, pool->clips[i])];
        classes[corpus] += *count == 0;
        clips[corpus]++;
        (*count)++;
    }
    for (size_t i = 0; i < pool->count; i++) {
        const size_t corpus = (size_t)data->set.clips[pool->clips[i]].corpus;
        const size_t count =
            counts[corpus * labels + (size_t)train_data_label(data, pool->clips[i])];
        pool->weights[i] =
            (float)((double)clips[corpus] / ((double)classes[corpus] * (double)count));
    }
    free(classes);
    free(clips);
    free(counts);
}

void loader_pool_make(loader_pool *pool, const train_data *data, const split *s, dataset_part part,
                      const train_options *o)
{
    size_t count = 0;
    for (int pass = 0; pass < 2; pass++) { /* count, then fill */
        if (pass == 1) {
            pool->clips = text_alloc(count + 1, sizeof *pool->clips);
            pool->copies = text_alloc(count + 1, sizeof *pool->copies);
            pool->lengths = text_alloc(count + 1, sizeof *pool->lengths);
            pool->weights = text_alloc(count + 1, sizeof *pool->weights);
            pool->count = count;
            count = 0;
        }
        for (size_t i = 0; i < data->set.count; i++) {
            const char *corpus = data->set.corpora[data->set.clips[i].corpus].name;
            uint32_t times = o != NULL ? train_options_repeat(o, corpus) : 1;
            for (uint32_t copy = 0; s->parts[i] == part && copy < times; copy++, count++) {
                if (pass == 1) {
                    pool->clips[count] = (uint32_t)i;
                    pool->copies[count] = copy;
                    pool->weights[count] = 1.0F;
                    pool->lengths[count] = data->audio.entries[i].samples;
                }
            }
        }
    }
    if (o != NULL && o->class_weight == TRAIN_WEIGHTS_INVERSE) {
        weigh_classes(pool, data);
    }
}

void loader_pool_free(loader_pool *pool)
{
    free(pool->clips);
    free(pool->copies);
    free(pool->lengths);
    free(pool->weights);
    *pool = (loader_pool){0};
}

size_t loader_plan_batches(const loader_pool *pool, size_t batch, size_t accumulate)
{
    size_t batches = (pool->count + batch - 1) / batch;
    return batches - batches % accumulate;
}

/* Batches of `sizes` taken from `sorted` in the order of `shuffled`, the first `plan->batches`. */
static void cut_batches(loader_plan *plan, const uint32_t *sorted, size_t count, size_t batch,
                        const uint32_t *shuffled)
{
    plan->order = text_alloc(count + 1, sizeof *plan->order);
    plan->starts = text_alloc(plan->batches + 1, sizeof *plan->starts);
    size_t used = 0;
    for (size_t b = 0; b < plan->batches; b++) {
        size_t first = (shuffled != NULL ? shuffled[b] : b) * batch;
        size_t end = first + batch < count ? first + batch : count;
        for (size_t i = first; i < end; i++) {
            plan->order[used++] = sorted[i];
        }
        plan->starts[b + 1] = used;
    }
}

void loader_plan_shuffle(loader_plan *plan, const loader_pool *pool, size_t batch,
                         size_t accumulate, uint64_t seed, int64_t epoch)
{
    uint64_t stream = mix(mix(seed) ^ (uint64_t)epoch);
    size_t group = batch * BATCHES_SORTED;
    uint32_t *clips = permutation(pool->count, stream);
    for (size_t i = 0; i < pool->count; i += group) {
        sort_by_length(pool, clips + i, pool->count - i < group ? pool->count - i : group);
    }
    uint32_t *batches = permutation(loader_plan_batches(pool, batch, 1), ~stream);
    *plan = (loader_plan){.pool = pool, .batches = loader_plan_batches(pool, batch, accumulate)};
    cut_batches(plan, clips, pool->count, batch, batches);
    free(batches);
    free(clips);
}

void loader_plan_sort(loader_plan *plan, const loader_pool *pool, size_t batch)
{
    uint32_t *clips = text_alloc(pool->count + 1, sizeof *clips);
    for (size_t i = 0; i < pool->count; i++) {
        clips[i] = (uint32_t)i;
    }
    sort_by_length(pool, clips, pool->count);
    *plan = (loader_plan){.pool = pool, .batches = loader_plan_batches(pool, batch, 1)};
    cut_batches(plan, clips, pool->count, batch, NULL);
    free(clips);
}

void loader_plan_free(loader_plan *plan)
{
    free(plan->order);
    free(plan->starts);
    *plan = (loader_plan){0};
}
