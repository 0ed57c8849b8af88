/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "audio/audio.h"

#define VARIANCE_FLOOR 1e-7

/* Sums that run side by side: one alone waits for every addition. Their number fixes the bits. */
enum { LANES = 8 };

/*
 * mean and variance of x in one pass, from d = x - x[0]: mean = x[0] + E[d], variance = E[d^2] -
 * E[d]^2. Without the shift an offset far larger than the signal would cancel.
 */
static void moments(const float *x, size_t count, double *mean, double *variance)
{
    const double shift = (double)x[0];
    double sums[LANES] = {0.0};
    double squares[LANES] = {0.0};
    const size_t whole = count - count % LANES;
    for (size_t i = 0; i < whole; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            const double d = (double)x[i + j] - shift;
            sums[j] += d;
            squares[j] += d * d;
        }
    }
    for (size_t i = whole; i < count; i++) {
        const double d = (double)x[i] - shift;
        sums[i - whole] += d;
        squares[i - whole] += d * d;
    }
    for (size_t width = LANES / 2; width > 0; width /= 2) {
        for (size_t j = 0; j < width; j++) {
            sums[j] += sums[j + width];
            squares[j] += squares[j + width];
        }
    }
    const double offset = sums[0] / (double)count;
    *mean = shift + offset;
    *variance = fmax(squares[0] / (double)count - offset * offset, 0.0);
}

void ser_audio_normalize(const float *x, size_t count, float *y)
{
    if (count == 0) {
        return;
    }
    double mean;
    double variance;
    moments(x, count, &mean, &variance);
    const double scale = 1.0 / sqrt(variance + VARIANCE_FLOOR);
    for (size_t i = 0; i < count; i++) {
        y[i] = (float)(((double)x[i] - mean) * scale);
    }
}
