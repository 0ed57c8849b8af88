/* SPDX-License-Identifier: MIT */
#include "audio/mix.h"

#include <math.h>

#include "base/fail.h"

#define CLIPPED_SHARE   0.01
#define DC_LIMIT        0.05
#define CANCELLED_SHARE 0.01

enum { SHORT_SAMPLES = 400 }; /* one frame of the wav2vec 2.0 feature extractor */

static int nonfinite_failure(const struct ser_mixer *mixer, float value, int64_t frame,
                             int32_t channel)
{
    return ser_fail(SER_ERR_DATA, "%s: sample %lld of channel %d is %s", mixer->name,
                    (long long)frame, channel, isnan(value) ? "not a number" : "infinite");
}

int ser_mix(const struct ser_mixer *mixer, const float *x, int64_t frames, int64_t first, double *y,
            struct ser_tally *tally)
{
    int32_t begin = mixer->channel >= 0 ? mixer->channel : 0;
    int32_t end = mixer->channel >= 0 ? mixer->channel + 1 : mixer->channels;
    int32_t used = end - begin;
    *tally = (struct ser_tally){
        .frames = frames, .samples = frames * used, .lowest = HUGE_VAL, .highest = -HUGE_VAL};
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
    for (size_t i = 0; i < count; i++) {
        double value = (double)x[i];
        level->sum += value;
        level->sum_squares += value * value;
        level->peak = fmax(level->peak, fabs(value));
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
