/* SPDX-License-Identifier: MIT */
#include "train/front_end.h"

#include <math.h>
#include <string.h>

#include "audio/audio.h"
#include "base/mem.h"

enum { TRIM_HOP = SER_SAMPLING_RATE / 100 }; /* of the frames of ser_audio_trim */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t to_samples(double seconds)
{
    return (size_t)llround(seconds * SER_SAMPLING_RATE);
}

/* A stretch of samples, [begin, end). */
typedef struct span {
    size_t begin, end;
} span;

static span trim(const ser_front_end *front_end, const float *x, size_t count)
{
    span s = {0, count};
    if (front_end->trim && count > 0) {
        ser_audio_trim(x, count, front_end->trim_threshold_db, front_end->trim_margin, &s.begin,
                       &s.end);
    }
    return s;
}

/* Normalise `count` samples into a result of its own, padded with zeros to one frame. */
static int finish(const ser_config *config, const float *x, size_t count,
                  ser_front_end_result *result)
{
    result->count = larger(count, (size_t)ser_arch_min_samples(&config->arch));
    result->samples = ser_mem_alloc_raw(result->count, sizeof(float));
    if (result->samples == NULL) {
        return SER_ERR_MEMORY;
    }
    if (config->front_end.normalize) {
        ser_audio_normalize(x, count, result->samples);
    } else {
        memcpy(result->samples, x, count * sizeof(float));
    }
    memset(result->samples + count, 0, (result->count - count) * sizeof(float));
    return 0;
}

static int apply_plain(const ser_config *config, const ser_audio *audio,
                       ser_front_end_result *result)
{
    const ser_front_end *front_end = &config->front_end;
    const float *x = audio->samples;
    size_t count = audio->count;
    if (count > to_samples(front_end->max_seconds)) {
        size_t window = smaller(to_samples(front_end->window), count);
        x += (count - window) / 2;
        count = window;
    }
    span kept = trim(front_end, x, count);
    result->same = true;
    return finish(config, x + kept.begin, kept.end - kept.begin, result);
}

/* --- With augmentation --- */

/* Samples on their way; the memory is owned. */
typedef struct work {
    float *x;
    size_t count;
    bool changed;
} work;

/*
 * Step 1. `begin` is a multiple of the hop away from the clip's, so that a clip to which nothing
 * happens is trimmed at the same frames as at prediction.
 */
static span choose_part(const ser_config *config, const ser_augment *augment,
                        const ser_audio *audio, size_t limit, bool *changed)
{
    span kept = trim(&config->front_end, audio->samples, audio->count);
    size_t count = kept.end - kept.begin;
    if (count > limit) {
        *changed = true;
        kept.begin += ser_augment_part(augment, count, limit);
        kept.end = kept.begin + limit;
        return kept;
    }
    size_t around = (limit - count) / 2;
    kept.begin -= smaller(kept.begin, around);
    kept.begin -= kept.begin % TRIM_HOP;
    kept.end += smaller(audio->count - kept.end, around);
    *changed = audio->count > to_samples(config->front_end.max_seconds);
    return kept;
}

static int start(const ser_augment *augment, const float *x, size_t count, work *w)
{
    struct ser_samples resampled = {0};
    int status = ser_augment_speed(augment, x, count, &resampled, &w->changed);
    if (status != 0) {
        return status;
    }
    if (resampled.data != NULL) {
        w->x = resampled.data;
        w->count = resampled.count;
        return 0;
    }
    w->x = ser_mem_alloc_raw(count, sizeof *x);
    if (w->x == NULL) {
        return SER_ERR_MEMORY;
    }
    memcpy(w->x, x, count * sizeof *x);
    w->count = count;
    return 0;
}

/* Step 4: `kept` of the work becomes all of it, with silence around. */
static int add_silence(const ser_augment *augment, size_t limit, span kept, work *w)
{
    size_t before, behind;
    ser_augment_silence(augment, &before, &behind);
    /* Speech must remain where the length is limited. */
    before = smaller(before, limit / 4);
    behind = smaller(behind, limit / 4);
    size_t count = kept.end - kept.begin;
    if (before + behind == 0) {
        memmove(w->x, w->x + kept.begin, count * sizeof *w->x);
        w->count = count;
        return 0;
    }
    float *longer = ser_mem_alloc_raw(before + count + behind, sizeof *longer);
    if (longer == NULL) {
        return SER_ERR_MEMORY;
    }
    memcpy(longer + before, w->x + kept.begin, count * sizeof *longer);
    ser_mem_free(w->x);
    w->x = longer;
    w->count = before + count + behind;
    w->changed = true;
    return ser_augment_fill_silence(augment, longer, before, count, behind);
}

static int change(const ser_config *config, const ser_augment *augment, size_t limit, work *w)
{
    ser_augment_gain(augment, w->x, w->count, &w->changed);
    int status = ser_augment_noise(augment, w->x, w->count, &w->changed);
    if (status != 0) {
        return status;
    }
    ser_augment_lowpass(augment, w->x, w->count, &w->changed);
    span kept = trim(&config->front_end, w->x, w->count);
    ser_augment_crop(augment, w->count, &kept.begin, &kept.end, &w->changed);
    return add_silence(augment, limit, kept, w);
}

static int apply_augmented(const ser_config *config, const ser_augment *augment,
                           const ser_audio *audio, ser_front_end_result *result)
{
    const double seconds = (double)augment->options->max_seconds;
    const size_t limit = larger(to_samples(seconds > 0.0 ? seconds : config->front_end.window),
                                (size_t)ser_arch_min_samples(&config->arch));
    work w = {.x = NULL};
    span part = choose_part(config, augment, audio, limit, &w.changed);
    int status = start(augment, audio->samples + part.begin, part.end - part.begin, &w);
    if (status == 0) {
        status = change(config, augment, limit, &w);
    }
    if (status == 0) {
        size_t begin = ser_augment_part(augment, w.count, limit);
        result->same = !w.changed && w.count <= limit;
        status = finish(config, w.x + begin, smaller(w.count, limit), result);
    }
    ser_mem_free(w.x);
    return status;
}

int ser_front_end_apply(const ser_config *config, const ser_augment *augment,
                        const ser_audio *audio, ser_front_end_result *result)
{
    *result = (ser_front_end_result){.samples = NULL};
    return augment != NULL ? apply_augmented(config, augment, audio, result)
                           : apply_plain(config, audio, result);
}
