/* SPDX-License-Identifier: MIT */
#include "audio/mix.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/fail.h"

#define CLIPPED_SHARE   0.01
#define DC_LIMIT        0.05
#define CANCELLED_SHARE 0.01

enum { SHORT_SAMPLES = 400 }; /* one frame of the wav2vec 2.0 feature extractor */

int ser_check_channel(const char *name, int32_t channel, int32_t channels)
{
    if (channel < channels) {
        return 0;
    }
    return ser_fail(SER_ERR_ARGUMENT,
                    "%s: channel %d was asked for, but there %s only %d, counted from 0", name,
                    channel, channels == 1 ? "is" : "are", channels);
}

static int nonfinite_failure(const struct ser_mixer *mixer, float value, int64_t frame,
                             int32_t channel)
{
    return ser_fail(SER_ERR_DATA, "%s: sample %lld of channel %d is %s", mixer->name,
                    (long long)frame, channel, isnan(value) ? "not a number" : "infinite");
}

/* Sums that run side by side: one alone waits for every addition. */
enum { LANES = 8 };

/* Whether all are finite: exponent bits that are not all ones (IEEE 754, 3.4). */
static bool all_finite(const float *x, int64_t count)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bad |= (bits & 0x7F800000U) == 0x7F800000U;
    }
    return bad == 0;
}

/*
 * Finite samples: `used` of `stride` channels from x on. The callers give constants where it matters,
 * so that it is compiled once for each of them, with LANES frames side by side.
 */
static inline __attribute__((always_inline)) void mix_finite(float full_scale, const float *x,
                                                             int64_t stride, int32_t used,
                                                             int64_t frames, double *y,
                                                             struct ser_tally *tally)
{
    double mixed[LANES] = {0.0};
    double channel[LANES] = {0.0};
    double lowest[LANES];
    double highest[LANES];
    int64_t clipped = 0;
    for (int64_t j = 0; j < LANES; j++) {
        lowest[j] = HUGE_VAL;
        highest[j] = -HUGE_VAL;
    }
    for (int64_t i = 0; i < frames; i += LANES) {
        const int64_t count = frames - i < LANES ? frames - i : LANES;
        double means[LANES] = {0.0};
        double squares[LANES] = {0.0};
        for (int64_t j = 0; j < count; j++) {
            double sum = 0.0;
            double square = 0.0;
            for (int32_t c = 0; c < used; c++) {
                const float value = x[(i + j) * stride + c];
                clipped += fabsf(value) >= full_scale;
                sum += (double)value;
                square += (double)value * (double)value;
            }
            means[j] = sum / used;
            squares[j] = square;
        }
        for (int64_t j = 0; j < count; j++) {
            y[i + j] = means[j];
            mixed[j] += means[j] * means[j];
            channel[j] += squares[j];
            lowest[j] = means[j] < lowest[j] ? means[j] : lowest[j];
            highest[j] = means[j] > highest[j] ? means[j] : highest[j];
        }
    }
    for (int64_t j = 0; j < LANES; j++) {
        tally->mixed_power += mixed[j];
        tally->channel_power += channel[j] / used;
        tally->lowest = lowest[j] < tally->lowest ? lowest[j] : tally->lowest;
        tally->highest = highest[j] > tally->highest ? highest[j] : tally->highest;
    }
    tally->clipped = clipped;
}

int ser_mix(const struct ser_mixer *mixer, const float *x, int64_t frames, int64_t first, double *y,
            struct ser_tally *tally)
{
    int32_t begin = mixer->channel >= 0 ? mixer->channel : 0;
    int32_t end = mixer->channel >= 0 ? mixer->channel + 1 : mixer->channels;
    int32_t used = end - begin;
    *tally = (struct ser_tally){
        .frames = frames, .samples = frames * used, .lowest = HUGE_VAL, .highest = -HUGE_VAL};
    if (used <= 2 && all_finite(x, frames * mixer->channels)) {
        if (mixer->channels == 1) {
            mix_finite(mixer->full_scale, x, 1, 1, frames, y, tally);
        } else if (mixer->channels == 2 && used == 2) {
            mix_finite(mixer->full_scale, x, 2, 2, frames, y, tally);
        } else {
            mix_finite(mixer->full_scale, x + begin, mixer->channels, used, frames, y, tally);
        }
        return 0;
    }
    for (int64_t i = 0; i < frames; i++) {
        const float *frame = x + i * mixer->channels;
        double sum = 0.0;
        double squares = 0.0;
        for (int32_t c = begin; c < end; c++) {
            float value = frame[c];
            if (!isfinite(value)) {
                if (mixer->nonfinite != SER_NONFINITE_ZERO) {
                    return nonfinite_failure(mixer, value, first + i, c);
                }
                tally->nonfinite++;
                value = 0.0F;
            }
            tally->clipped += fabsf(value) >= mixer->full_scale ? 1 : 0;
            sum += (double)value;
            squares += (double)value * (double)value;
        }
        double mean = sum / used;
        y[i] = mean;
        tally->mixed_power += mean * mean;
        tally->channel_power += squares / used;
        tally->lowest = fmin(tally->lowest, mean);
        tally->highest = fmax(tally->highest, mean);
    }
    return 0;
}

void ser_tally_add(struct ser_tally *total, const struct ser_tally *part)
{
    if (part->frames == 0) {
        return;
    }
    if (total->frames == 0) {
        *total = *part;
        return;
    }
    total->frames += part->frames;
    total->samples += part->samples;
    total->clipped += part->clipped;
    total->nonfinite += part->nonfinite;
    total->mixed_power += part->mixed_power;
    total->channel_power += part->channel_power;
    total->lowest = fmin(total->lowest, part->lowest);
    total->highest = fmax(total->highest, part->highest);
}

void ser_level_add(struct ser_level *level, const float *x, size_t count)
{
    double sums[LANES] = {0.0};
    double squares[LANES] = {0.0};
    float peaks[LANES] = {0.0F};
    const size_t whole = count - count % LANES;
    for (size_t i = 0; i < whole; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            const double value = (double)x[i + j];
            const float size = fabsf(x[i + j]);
            sums[j] += value;
            squares[j] += value * value;
            peaks[j] = size > peaks[j] ? size : peaks[j];
        }
    }
    for (size_t i = whole; i < count; i++) {
        const float size = fabsf(x[i]);
        sums[0] += (double)x[i];
        squares[0] += (double)x[i] * (double)x[i];
        peaks[0] = size > peaks[0] ? size : peaks[0];
    }
    for (size_t j = 0; j < LANES; j++) {
        level->sum += sums[j];
        level->sum_squares += squares[j];
        level->peak = (double)peaks[j] > level->peak ? (double)peaks[j] : level->peak;
    }
    level->count += (int64_t)count;
}

static int32_t flags(const struct ser_tally *tally, const struct ser_level *level, double mean)
{
    int32_t bits = 0;
    if (tally->frames > 0 && tally->lowest == tally->highest) {
        bits |= SER_AUDIO_SILENT;
    }
    if ((double)tally->clipped > CLIPPED_SHARE * (double)tally->samples) {
        bits |= SER_AUDIO_CLIPPED;
    }
    if (fabs(mean) > DC_LIMIT) {
        bits |= SER_AUDIO_DC_OFFSET;
    }
    if (tally->nonfinite > 0) {
        bits |= SER_AUDIO_NONFINITE;
    }
    if (tally->mixed_power < CANCELLED_SHARE * tally->channel_power) {
        bits |= SER_AUDIO_CANCELLED;
    }
    if (level->count < SHORT_SAMPLES) {
        bits |= SER_AUDIO_SHORT;
    }
    return bits;
}

void ser_describe(ser_audio_info *info, const struct ser_tally *tally,
                  const struct ser_level *level)
{
    double count = level->count > 0 ? (double)level->count : 1.0;
    double samples = tally->samples > 0 ? (double)tally->samples : 1.0;
    double mean = level->sum / count;
    info->flags |= flags(tally, level, mean);
    info->clipped_ratio = (float)((double)tally->clipped / samples);
    info->dc_offset = (float)mean;
    info->peak = (float)level->peak;
    info->rms = (float)sqrt(level->sum_squares / count);
    info->nonfinite = tally->nonfinite < INT32_MAX ? (int32_t)tally->nonfinite : INT32_MAX;
}
