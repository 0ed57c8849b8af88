/* SPDX-License-Identifier: MIT */
/* Any rate to 16 kHz, block by block. */
#ifndef SER_AUDIO_RESAMPLE_H
#define SER_AUDIO_RESAMPLE_H

#include <stddef.h>
#include <stdint.h>

/* 16 kHz samples that grow at the end. */
struct ser_samples {
    float *data;
    size_t count, capacity;
};

/* Room for `more` samples behind `count`. */
int ser_samples_reserve(struct ser_samples *samples, size_t more);

/* Give back what is far more than needed. */
int ser_samples_fit(struct ser_samples *samples);

struct ser_resampler {
    void *state; /* libsoxr's; NULL if the rate is 16 kHz already */
    int32_t rate;
    int64_t in, out; /* samples so far */
};

int ser_resampler_open(struct ser_resampler *resampler, int32_t rate);

/* Append what `count` samples of input make available to `out`. */
int ser_resampler_push(struct ser_resampler *resampler, const double *x, size_t count,
                       struct ser_samples *out);

/* Append the rest, so that all in all there are round(in * 16000 / rate) samples. */
int ser_resampler_finish(struct ser_resampler *resampler, struct ser_samples *out);

void ser_resampler_close(struct ser_resampler *resampler);

/* round(frames * 16000 / rate), halves up. */
int64_t ser_resampled_count(int64_t frames, int32_t rate);

#endif
