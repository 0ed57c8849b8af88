/* SPDX-License-Identifier: MIT */
/*
 * Mix and resample, in blocks whose size depends on the source only, so that whole clips, windows
 * of files and live audio hold the same samples.
 */
#ifndef SER_AUDIO_CONVERTER_H
#define SER_AUDIO_CONVERTER_H

#include <stdint.h>

#include "audio/mix.h"
#include "audio/resample.h"

struct ser_converter {
    int32_t rate;  /* of the source, Hz */
    int64_t block; /* frames; all blocks but the last should have as many */
    struct ser_mixer mixer;
    double *mixed; /* [block] */
    struct ser_resampler resampler;
    struct ser_tally total;
};

/* For frames of `mixer->channels`; the mixer's name must outlive the converter. */
int ser_converter_open(struct ser_converter *converter, const struct ser_mixer *mixer,
                       int32_t rate);

/* Append to `out` what up to a block of frames makes available, which may be nothing. `first` is
 * the number of x[0] for messages, `*tally` receives the facts about the block. */
int ser_converter_push(struct ser_converter *converter, const float *x, int64_t frames,
                       int64_t first, struct ser_samples *out, struct ser_tally *tally);

/* Append the rest. */
int ser_converter_finish(struct ser_converter *converter, struct ser_samples *out);

void ser_converter_close(struct ser_converter *converter);

#endif
