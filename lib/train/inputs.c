/* SPDX-License-Identifier: MIT */
#include "train/inputs.h"

#include <xxhash.h>

#include "base/mem.h"
#include "train/cache.h"
#include "train/trainer.h"

uint64_t ser_inputs_key(const ser_batch *batch, int64_t b)
{
    const size_t size = (size_t)batch->lengths[b] * sizeof(float);
    return batch->ids[b] != 0 ? XXH3_64bits_withSeed(batch->samples[b], size, batch->ids[b]) : 0;
}

static const ser_device *device_of(const ser_trainer *trainer)
{
    return trainer->model->device;
}

/* --- Output of frozen convolutions --- */

static size_t features_size(const ser_trainer *trainer, int64_t length)
{
    const ser_arch *arch = &trainer->model->config.arch;
    const size_t element = ser_net_type(trainer->model->net) == SER_BF16 ? 2 : sizeof(float);
    size_t size;
    bool fits = ser_mul_size((size_t)ser_arch_frames(arch, length),
                             (size_t)arch->conv_dim[arch->conv_count - 1] * element, &size);
    return fits ? size : SIZE_MAX;
}

/* Compute the features of clip `b` to where they stay, or, without room, to memory of our own. */
static int make_features(ser_trainer *trainer, const ser_batch *batch, int64_t b,
                         ser_inputs *inputs)
{
    const int64_t length = batch->lengths[b];
    const ser_device *device = device_of(trainer);
    const size_t size = features_size(trainer, length);
    const int32_t type = ser_net_type(trainer->model->net);
    void *place = ser_clip_cache_add(trainer->cache, batch->keys[b], length, size, type);
    const bool cached = place != NULL;
    int status = cached ? 0 : device->ops->alloc(device->context, size, &place);
    if (status != 0) {
        return status;
    }
    inputs->own[b] = cached ? NULL : place;
    inputs->sources[b] = (ser_source){.data = place, .type = type};
    status = ser_training_features(trainer->training, batch->samples[b], length, place);
    if (status != 0 && cached) {
        ser_clip_cache_drop_last(trainer->cache);
    }
    return status;
}

static int find_features(ser_trainer *trainer, const ser_batch *batch, ser_inputs *inputs)
{
    int status = 0;
    for (int64_t b = 0; b < batch->count && status == 0; b++) {
        if (!ser_clip_cache_find(trainer->cache, batch->keys[b], batch->lengths[b],
                                 &inputs->sources[b])) {
            status = make_features(trainer, batch, b, inputs);
        }
    }
    return status;
}

/* --- Samples --- */

/* *room: whether the clip stays on the device now. */
static int keep_samples(ser_trainer *trainer, const ser_batch *batch, int64_t b, ser_source *source,
                        bool *room)
{
    const float *samples = batch->samples[b];
    const int64_t length = batch->lengths[b];
    const int32_t type = ser_training_samples_type(samples, length);
    const size_t element = type == SER_SOURCE_I16 ? sizeof(int16_t) : sizeof(float);
    void *place =
        ser_clip_cache_add(trainer->cache, batch->keys[b], length, (size_t)length * element, type);
    *room = place != NULL;
    if (place == NULL) {
        return 0;
    }
    *source = (ser_source){.data = place, .type = type};
    int status = ser_training_samples(trainer->training, samples, length, type, place);
    if (status != 0) {
        ser_clip_cache_drop_last(trainer->cache);
    }
    return status;
}

/* All clips of the batch or none. */
static int find_samples(ser_trainer *trainer, const ser_batch *batch, ser_inputs *inputs)
{
    bool room = true;
    int status = 0;
    for (int64_t b = 0; b < batch->count && status == 0 && room; b++) {
        if (!ser_clip_cache_find(trainer->cache, batch->keys[b], batch->lengths[b],
                                 &inputs->sources[b])) {
            status = keep_samples(trainer, batch, b, &inputs->sources[b], &room);
        }
    }
    if (!room) {
        ser_mem_free(inputs->sources);
        inputs->sources = NULL;
    }
    return status;
}

/* --- Both --- */

int ser_inputs_find(ser_trainer *trainer, const ser_batch *batch, ser_inputs *inputs)
{
    *inputs = (ser_inputs){.count = batch->count};
    if (trainer->cache == NULL || batch->keys == NULL) {
        return 0;
    }
    const size_t count = (size_t)batch->count;
    inputs->features = trainer->caches_features;
    inputs->sources = ser_mem_alloc(count, sizeof *inputs->sources);
    inputs->own = ser_mem_alloc(count, sizeof *inputs->own);
    if (inputs->sources == NULL || inputs->own == NULL) {
        return SER_ERR_MEMORY;
    }
    return inputs->features ? find_features(trainer, batch, inputs)
                            : find_samples(trainer, batch, inputs);
}

void ser_inputs_clear(const ser_trainer *trainer, ser_inputs *inputs)
{
    const ser_device *device = device_of(trainer);
    for (int64_t b = 0; b < inputs->count && inputs->own != NULL; b++) {
        if (inputs->own[b] != NULL) {
            device->ops->free(device->context, inputs->own[b]);
        }
    }
    ser_mem_free(inputs->own);
    ser_mem_free(inputs->sources);
    *inputs = (ser_inputs){.count = 0};
}
