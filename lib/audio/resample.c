/* SPDX-License-Identifier: MIT */
/*
 * libsoxr, in double precision: float files may hold values near the end of the float range, which
 * its single-precision filters turn into infinities. With floating-point output it never clips, so
 * its clip counter says nothing.
 */
#include "audio/resample.h"

#include <float.h>
#include <math.h>
#include <soxr.h>

#include <ser/audio.h>

#include "base/fail.h"
#include "base/mem.h"

enum { PIECE = 2048 };

int64_t ser_resampled_count(int64_t frames, int32_t rate)
{
    int64_t seconds = frames / rate;
    int64_t rest = frames % rate;
    return seconds * SER_SAMPLING_RATE +
           (2 * rest * SER_SAMPLING_RATE + rate) / (2 * (int64_t)rate);
}

int ser_samples_reserve(struct ser_samples *samples, size_t more)
{
    size_t needed;
    if (!ser_add_size(samples->count, more, &needed)) {
        return ser_fail(SER_ERR_MEMORY, "out of memory: the audio is too long");
    }
    if (needed <= samples->capacity) {
        return 0;
    }
    size_t capacity = samples->capacity + samples->capacity / 2;
    capacity = capacity > needed ? capacity : needed;
    int status = ser_mem_grow(&samples->data, samples->count, capacity, sizeof *samples->data);
    if (status == 0) {
        samples->capacity = capacity;
    }
    return status;
}

/* Growing leaves up to a third unused. */
int ser_samples_fit(struct ser_samples *samples)
{
    if (samples->capacity - samples->count <= samples->count / 8) {
        return 0;
    }
    int status =
        ser_mem_grow(&samples->data, samples->count, samples->count, sizeof *samples->data);
    if (status == 0) {
        samples->capacity = samples->count;
    }
    return status;
}

static int append(struct ser_resampler *resampler, const double *x, size_t count,
                  struct ser_samples *out)
{
    int status = ser_samples_reserve(out, count);
    if (status != 0) {
        return status;
    }
    float *to = out->data + out->count;
    for (size_t i = 0; i < count; i++) {
        /* The filter may overshoot what a float can hold. */
        const double below = x[i] < (double)FLT_MAX ? x[i] : (double)FLT_MAX;
        to[i] = (float)(below > -(double)FLT_MAX ? below : -(double)FLT_MAX);
    }
    out->count += count;
    resampler->out += (int64_t)count;
    return 0;
}

int ser_resampler_open(struct ser_resampler *resampler, int32_t rate)
{
    *resampler = (struct ser_resampler){.rate = rate};
    if (rate == SER_SAMPLING_RATE) {
        return 0;
    }
    soxr_io_spec_t io = soxr_io_spec(SOXR_FLOAT64_I, SOXR_FLOAT64_I);
    soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, SOXR_DOUBLE_PRECISION);
    soxr_runtime_spec_t runtime = soxr_runtime_spec(1);
    /* Its shortest transforms: about as fast, and 16 instead of 37 ms wait in them at 48 kHz. */
    runtime.log2_min_dft_size = 8;
    runtime.log2_large_dft_size = 8;
    soxr_error_t error = NULL;
    resampler->state = soxr_create(rate, SER_SAMPLING_RATE, 1, &error, &io, &quality, &runtime);
    if (resampler->state == NULL) {
        return ser_fail(SER_ERR_MEMORY, "libsoxr cannot start: %s", soxr_strerror(error));
    }
    return 0;
}

/* One call of libsoxr; NULL input ends the stream. */
static int process(struct ser_resampler *resampler, const double *x, size_t count, size_t *used,
                   size_t *produced, struct ser_samples *out)
{
    double piece[PIECE];
    soxr_error_t error = soxr_process(resampler->state, x, count, used, piece, PIECE, produced);
    if (error != NULL) {
        return ser_fail(SER_ERR_INTERNAL, "libsoxr failed: %s", error);
    }
    return append(resampler, piece, *produced, out);
}

int ser_resampler_push(struct ser_resampler *resampler, const double *x, size_t count,
                       struct ser_samples *out)
{
    resampler->in += (int64_t)count;
    if (resampler->state == NULL) {
        return append(resampler, x, count, out);
    }
    size_t done = 0;
    size_t produced = 0;
    while (done < count || produced == PIECE) {
        size_t used = 0;
        int status = process(resampler, x + done, count - done, &used, &produced, out);
        if (status != 0) {
            return status;
        }
        done += used;
        if (used == 0 && produced == 0 && done < count) {
            return ser_fail(SER_ERR_INTERNAL, "libsoxr makes no progress");
        }
    }
    return 0;
}

int ser_resampler_finish(struct ser_resampler *resampler, struct ser_samples *out)
{
    int64_t total = ser_resampled_count(resampler->in, resampler->rate);
    size_t produced = resampler->state != NULL ? 1 : 0;
    while (produced > 0 && resampler->out < total) {
        int status = process(resampler, NULL, 0, NULL, &produced, out);
        if (status != 0) {
            return status;
        }
    }
    if (resampler->out > total) {
        size_t extra = (size_t)(resampler->out - total);
        out->count -= extra < out->count ? extra : out->count;
        resampler->out = total;
    }
    while (resampler->out < total) {
        static const double zero;
        int status = append(resampler, &zero, 1, out);
        if (status != 0) {
            return status;
        }
    }
    return 0;
}

void ser_resampler_close(struct ser_resampler *resampler)
{
    if (resampler->state != NULL) {
        soxr_delete(resampler->state);
        resampler->state = NULL;
    }
}
