/* SPDX-License-Identifier: MIT */
#include "train/inputs.h"

#include <xxhash.h>

#include "base/mem.h"
#include "train/cache.h"

/* The clips of a batch whose features have to be computed. */
typedef struct missing {
    const float **samples; /* [count] */
    int64_t *lengths;
    float **features; /* where they go */
    int64_t count;
    int64_t added; /* of them are new in the cache */
} missing;

static void clear_missing(missing *m)
{
    ser_mem_free(m->samples);
    ser_mem_free(m->lengths);
    ser_mem_free(m->features);
}

uint64_t ser_inputs_key(const ser_batch *batch, int64_t b)
{
    const size_t size = (size_t)batch->lengths[b] * sizeof(float);
    return batch->ids[b] != 0 ? XXH3_64bits_withSeed(batch->samples[b], size, batch->ids[b]) : 0;
}

/* A place for the features of clip `b`: in the cache, or of our own. */
static int make_place(ser_trainer *trainer, const ser_batch *batch, int64_t b, ser_inputs *inputs,
                      missing *m)
{
    const ser_arch *arch = &trainer->model->config.arch;
    int64_t frames = ser_arch_frames(arch, batch->lengths[b]);
    size_t count;
    bool fits = ser_mul_size((size_t)frames, (size_t)arch->conv_dim[arch->conv_count - 1], &count);
    float *place = NULL;
    if (fits) {
        place = ser_feature_cache_add(trainer->cache, ser_inputs_key(batch, b), batch->lengths[b],
                                      count);
        m->added += place != NULL;
    }
    if (place == NULL) {
        inputs->own[b] = ser_mem_alloc_raw(
            (size_t)frames, (size_t)arch->conv_dim[arch->conv_count - 1] * sizeof *place);
        place = inputs->own[b];
    }
    inputs->features[b] = place;
    m->samples[m->count] = batch->samples[b];
    m->lengths[m->count] = batch->lengths[b];
    m->features[m->count++] = place;
    return place != NULL ? 0 : SER_ERR_MEMORY;
}

static int compute(ser_trainer *trainer, const missing *m)
{
    const ser_training_batch batch = {
        .count = m->count, .samples = m->samples, .lengths = m->lengths};
    return m->count > 0 ? ser_training_features(trainer->training, &batch, m->features) : 0;
}

static int fill(ser_trainer *trainer, const ser_batch *batch, ser_inputs *inputs, missing *m)
{
    int status = 0;
    for (int64_t b = 0; b < batch->count && status == 0; b++) {
        inputs->features[b] =
            ser_feature_cache_find(trainer->cache, ser_inputs_key(batch, b), batch->lengths[b]);
        if (inputs->features[b] == NULL) {
            status = make_place(trainer, batch, b, inputs, m);
        }
    }
    if (status == 0) {
        status = compute(trainer, m);
    }
    for (int64_t i = 0; i < m->added && status != 0; i++) {
        ser_feature_cache_drop_last(trainer->cache);
    }
    return status;
}

int ser_inputs_find(ser_trainer *trainer, const ser_batch *batch, ser_inputs *inputs)
{
    *inputs = (ser_inputs){.count = batch->count};
    if (trainer->cache == NULL || !batch->same_waveform) {
        return 0;
    }
    size_t count = (size_t)batch->count;
    missing m = {.samples = ser_mem_alloc(count, sizeof *m.samples),
                 .lengths = ser_mem_alloc(count, sizeof *m.lengths),
                 .features = ser_mem_alloc(count, sizeof *m.features)};
    inputs->features = ser_mem_alloc(count, sizeof *inputs->features);
    inputs->own = ser_mem_alloc(count, sizeof *inputs->own);
    bool made = m.samples != NULL && m.lengths != NULL && m.features != NULL &&
                inputs->features != NULL && inputs->own != NULL;
    int status = made ? fill(trainer, batch, inputs, &m) : SER_ERR_MEMORY;
    clear_missing(&m);
    return status;
}

void ser_inputs_clear(ser_inputs *inputs)
{
    for (int64_t b = 0; b < inputs->count && inputs->own != NULL; b++) {
        ser_mem_free(inputs->own[b]);
    }
    ser_mem_free(inputs->own);
    ser_mem_free(inputs->features);
    *inputs = (ser_inputs){.count = 0};
}
