/* SPDX-License-Identifier: MIT */
#include "train/batch.h"

#include <string.h>

#include "audio/audio.h"
#include "base/fail.h"
#include "base/mem.h"
#include "train/augment.h"
#include "train/front_end.h"
#include "train/inputs.h"
#include "train/targets.h"

/* What a call is about. */
typedef struct maker {
    const ser_batch_source *source;
    const ser_clip *clips;
    int64_t epoch;
    size_t labels;
    ser_batch *batch;
} maker;

static bool is_logmel(const ser_batch_source *source)
{
    return source->config->arch.features == SER_FEATURES_LOGMEL;
}

static bool changes_mels(const ser_augment_options *options)
{
    return options->mel_warp > 0.0F || options->mel_tilt > 0.0F || options->mel_ripple > 0.0F;
}

/* `spans` pairs per clip, if there are any. */
static int allocate_spans(size_t count, int32_t spans, int32_t **list)
{
    if (spans > 0) {
        *list = ser_mem_alloc(count, 2 * (size_t)spans * sizeof **list);
        return *list != NULL ? 0 : SER_ERR_MEMORY;
    }
    return 0;
}

static int allocate_mels(const maker *m, size_t count)
{
    const ser_augment_options *options = &m->source->options.augment;
    ser_batch *b = m->batch;
    if (!b->augmented || !is_logmel(m->source)) {
        return 0;
    }
    if (changes_mels(options)) {
        b->mel_warp = ser_mem_alloc(count, sizeof *b->mel_warp);
        b->mel_offset =
            ser_mem_alloc(count, (size_t)m->source->config->arch.mel.bins * sizeof *b->mel_offset);
        if (b->mel_warp == NULL || b->mel_offset == NULL) {
            return SER_ERR_MEMORY;
        }
    }
    int status = allocate_spans(count, options->mel_time_spans, &b->mel_time);
    return status != 0 ? status
                       : allocate_spans(count, options->mel_channel_spans, &b->mel_channel);
}

static int allocate(const maker *m, size_t count)
{
    ser_batch *b = m->batch;
    bool masked = false;
    for (size_t i = 0; i < count; i++) {
        masked = masked || m->clips[i].classes != NULL;
    }
    b->samples = ser_mem_alloc(count, sizeof *b->samples);
    b->lengths = ser_mem_alloc(count, sizeof *b->lengths);
    b->ids = ser_mem_alloc(count, sizeof *b->ids);
    b->labels = ser_mem_alloc(count, sizeof *b->labels);
    b->targets = ser_mem_alloc(count, m->labels * sizeof *b->targets);
    b->mask = masked ? ser_mem_alloc(count, m->labels * sizeof *b->mask) : NULL;
    bool complete = b->samples != NULL && b->lengths != NULL && b->ids != NULL &&
                    b->labels != NULL && b->targets != NULL && (b->mask != NULL || !masked);
    return complete ? allocate_mels(m, count) : SER_ERR_MEMORY;
}

static int make_targets(const maker *m, size_t i)
{
    const ser_trainer_options *options = &m->source->options;
    const ser_clip *clip = &m->clips[i];
    ser_batch *b = m->batch;
    const ser_target_rules rules = {.labels = m->labels,
                                    .smoothing = (double)options->label_smoothing,
                                    .class_weights = m->source->class_weights};
    double weight = 0.0;
    int status = ser_targets_make(&rules, clip, i, b->targets + i * m->labels, &weight);
    if (status != 0) {
        return status;
    }
    b->weight += weight;
    b->ids[i] = clip->id;
    b->labels[i] = clip->label;
    for (size_t k = 0; b->mask != NULL && k < m->labels; k++) {
        bool allowed = clip->classes == NULL || clip->classes[k] != 0;
        b->mask[i * m->labels + k] = allowed ? 1.0F : 0.0F;
    }
    return 0;
}

static int make_samples(const maker *m, const ser_augment *augment, size_t i)
{
    const ser_config *config = m->source->config;
    const ser_audio *audio = m->clips[i].audio;
    const size_t least = (size_t)ser_arch_min_samples(&config->arch);
    if (audio->count < least) {
        return ser_fail(SER_ERR_DATA, "clip %zu: %zu samples are less than one frame (%zu)", i,
                        audio->count, least);
    }
    ser_front_end_result result;
    int status = ser_front_end_apply(config, m->batch->augmented ? augment : NULL, audio, &result);
    if (status == 0) {
        m->batch->samples[i] = result.samples;
        m->batch->lengths[i] = (int64_t)result.count;
        m->batch->same_waveform = m->batch->same_waveform && result.same;
    }
    return status;
}

/* An equaliser in front of the network adds to the log-mels. The network then subtracts the clip's
 * mean over all cells, which leaves an equaliser of mean 0, and divides by the bins' deviations. */
static void make_mel_changes(const maker *m, const ser_augment *augment, size_t i)
{
    const ser_arch *arch = &m->source->config->arch;
    const ser_augment_options *options = augment->options;
    ser_batch *b = m->batch;
    if (b->mel_warp != NULL) {
        float *offset = b->mel_offset + i * (size_t)arch->mel.bins;
        b->mel_warp[i] = ser_augment_mel_warp(augment);
        ser_augment_equalizer(augment, arch->mel.bins, offset);
        for (int32_t f = 0; m->source->mel_std != NULL && f < arch->mel.bins; f++) {
            offset[f] /= m->source->mel_std[f];
        }
    }
    if (b->mel_time != NULL) {
        int64_t frames = 1 + (b->lengths[i] - arch->mel.frame) / arch->mel.hop;
        ser_augment_time_spans(augment, frames,
                               b->mel_time + 2 * i * (size_t)options->mel_time_spans);
    }
    if (b->mel_channel != NULL) {
        ser_augment_channel_spans(augment, arch->mel.bins,
                                  b->mel_channel + 2 * i * (size_t)options->mel_channel_spans);
    }
}

static int make_clip(const maker *m, size_t i)
{
    const ser_trainer_options *options = &m->source->options;
    const ser_augment augment =
        ser_augment_of(&options->augment, options->seed, m->clips[i].id, m->epoch);
    int status = make_targets(m, i);
    if (status == 0) {
        status = make_samples(m, &augment, i);
    }
    if (status == 0) {
        make_mel_changes(m, &augment, i);
    }
    return status;
}

/* "padding": "hf": all clips of a call get the length of the longest, as at prediction. */
static int pad_to_longest(ser_batch *b)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < b->count; i++) {
        longest = b->lengths[i] > longest ? b->lengths[i] : longest;
    }
    for (int64_t i = 0; i < b->count; i++) {
        const size_t length = (size_t)b->lengths[i];
        if (b->lengths[i] == longest) {
            continue;
        }
        int status = ser_mem_grow(&b->samples[i], length, (size_t)longest, sizeof *b->samples[i]);
        if (status != 0) {
            return status;
        }
        memset(b->samples[i] + length, 0, ((size_t)longest - length) * sizeof *b->samples[i]);
        b->lengths[i] = longest;
        b->same_waveform = false; /* another batch pads the clip otherwise */
    }
    return 0;
}

/* For the cache of what stays of the clips; hashing is better done here than between steps. */
static int make_keys(ser_batch *b)
{
    b->keys = ser_mem_alloc((size_t)b->count, sizeof *b->keys);
    for (int64_t i = 0; i < b->count && b->keys != NULL; i++) {
        b->keys[i] = ser_inputs_key(b, i);
    }
    return b->keys != NULL ? 0 : SER_ERR_MEMORY;
}

int ser_batch_make(const ser_batch_source *source, const ser_clip *clips, size_t count,
                   int64_t epoch, bool augment, ser_batch **batch)
{
    ser_batch *b = ser_mem_alloc(1, sizeof *b);
    *batch = NULL;
    if (b == NULL) {
        return SER_ERR_MEMORY;
    }
    *b = (ser_batch){.owner = source->owner,
                     .label_count = source->config->label_count,
                     .bins = source->config->arch.mel.bins,
                     .count = (int64_t)count,
                     .augmented = augment,
                     .same_waveform = true};
    const maker m = {.source = source,
                     .clips = clips,
                     .epoch = epoch,
                     .labels = source->config->label_count,
                     .batch = b};
    int status = allocate(&m, count);
    for (size_t i = 0; i < count && status == 0; i++) {
        status = make_clip(&m, i);
    }
    if (status == 0 && source->config->pad_as_hf) {
        status = pad_to_longest(b);
    }
    if (status == 0 && source->caches && b->same_waveform) {
        status = make_keys(b);
    }
    if (status != 0) {
        ser_batch_release(b);
        return status;
    }
    *batch = b;
    return 0;
}

void ser_batch_release(ser_batch *batch)
{
    if (batch == NULL) {
        return;
    }
    for (int64_t i = 0; batch->samples != NULL && i < batch->count; i++) {
        ser_mem_free(batch->samples[i]);
    }
    ser_mem_free(batch->samples);
    ser_mem_free(batch->lengths);
    ser_mem_free(batch->ids);
    ser_mem_free(batch->labels);
    ser_mem_free(batch->targets);
    ser_mem_free(batch->mask);
    ser_mem_free(batch->mel_warp);
    ser_mem_free(batch->mel_offset);
    ser_mem_free(batch->mel_time);
    ser_mem_free(batch->mel_channel);
    ser_mem_free(batch->keys);
    ser_mem_free(batch);
}
