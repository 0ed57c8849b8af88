/* SPDX-License-Identifier: MIT */
/* Interleaved frames to one channel in double precision, with a count of what was noticed. */
#ifndef SER_AUDIO_MIX_H
#define SER_AUDIO_MIX_H

#include <stddef.h>
#include <stdint.h>

#include <ser/audio.h>

/* Facts about source frames; sums over blocks by ser_tally_add. */
struct ser_tally {
    int64_t frames;
    int64_t samples; /* of the channels that are used */
    int64_t clipped;
    int64_t nonfinite;
    double mixed_power;     /* sum of squares of the mixed samples */
    double channel_power;   /* sum over frames of the mean square over the used channels */
    double lowest, highest; /* of the mixed samples */
};

/* Facts about 16 kHz samples. */
struct ser_level {
    int64_t count;
    double sum, sum_squares, peak;
};

struct ser_mixer {
    const char *name; /* of the source, for messages */
    int32_t channels;
    int32_t channel;   /* or -1: the mean of all */
    int32_t nonfinite; /* SER_NONFINITE_* */
    float full_scale;
};

/* SER_ERR_ARGUMENT unless `channel` is one of `channels`, or -1. */
int ser_check_channel(const char *name, int32_t channel, int32_t channels);

/* Mix x [frames][channels] to y [frames]. `first` is the number of x[0] in the file. Sets `*tally`.
 * SER_ERR_DATA for NaN and infinity, unless they are to be zeroed. */
int ser_mix(const struct ser_mixer *mixer, const float *x, int64_t frames, int64_t first, double *y,
            struct ser_tally *tally);

void ser_tally_add(struct ser_tally *total, const struct ser_tally *part);
void ser_level_add(struct ser_level *level, const float *x, size_t count);

/* Flags and numbers of `info` that follow from both; the others stay as they are. */
void ser_describe(ser_audio_info *info, const struct ser_tally *tally,
                  const struct ser_level *level);

#endif
