/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "audio/audio.h"

#define VARIANCE_FLOOR 1e-7

void ser_audio_normalize(const float *x, size_t count, float *y)
{
    if (count == 0) {
        return;
    }
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)x[i];
    }
    double mean = sum / (double)count;
    double squares = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = (double)x[i] - mean;
        squares += difference * difference;
    }
    double deviation = sqrt(squares / (double)count + VARIANCE_FLOOR);
    for (size_t i = 0; i < count; i++) {
        y[i] = (float)(((double)x[i] - mean) / deviation);
    }
}
