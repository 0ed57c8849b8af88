/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "audio/audio.h"

enum { FRAME = SER_SAMPLING_RATE / 1000 * 25, HOP = SER_SAMPLING_RATE / 1000 * 10 };

/* Sums that run side by side: one alone waits for every addition. */
enum { LANES = 8 };

_Static_assert(FRAME % LANES == 0, "a frame is whole lanes");

static double power(const float *frame)
{
    double sums[LANES] = {0.0};
    double sum = 0.0;
    for (size_t i = 0; i < FRAME; i += LANES) {
        for (size_t j = 0; j < LANES; j++) {
            sums[j] += (double)frame[i + j] * (double)frame[i + j];
        }
    }
    for (size_t j = 0; j < LANES; j++) {
        sum += sums[j];
    }
    return sum / FRAME;
}

void ser_audio_trim(const float *samples, size_t count, double threshold_db, double margin,
                    size_t *begin, size_t *end)
{
    *begin = 0;
    *end = count;
    if (count < FRAME) {
        return;
    }
    size_t frames = 1 + (count - FRAME) / HOP;
    double loudest = 0.0;
    for (size_t i = 0; i < frames; i++) {
        loudest = fmax(loudest, power(samples + i * HOP));
    }
    if (loudest == 0.0) {
        return;
    }
    /* With any threshold above 0 dB the loudest frame stops both searches. */
    double threshold = loudest * pow(10.0, -threshold_db / 10.0);
    size_t first = 0;
    size_t last = frames - 1;
    while (first < last && power(samples + first * HOP) <= threshold) {
        first++;
    }
    while (last > first && power(samples + last * HOP) <= threshold) {
        last--;
    }
    double extra = rint(margin * SER_SAMPLING_RATE);
    size_t around = extra < (double)count ? (size_t)extra : count;
    size_t left = first * HOP;
    size_t right = last * HOP + FRAME;
    *begin = left > around ? left - around : 0;
    *end = count - right > around ? right + around : count;
}
