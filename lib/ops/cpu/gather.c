/* SPDX-License-Identifier: MIT */
/* Clips from anywhere, side by side. */
#include <string.h>

#include "ops/cpu/cpu.h"

/* 16-bit samples as numbers below 1. */
static void widen(const int16_t *from, float *to, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        to[i] = (float)from[i] / 32768.0F;
    }
}

int ser_cpu_gather(ser_queue *queue, const ser_gather_args *args)
{
    (void)queue;
    const int64_t cols = args->y.cols;
    const int64_t padded = args->rows.padded;
    for (int64_t b = 0; b < args->rows.batch; b++) {
        const ser_source *source = &args->sources[b];
        float *y = (float *)args->y.data + b * padded * cols;
        const int64_t count = args->rows.valid[b] * cols;
        if (source->type == SER_SOURCE_I16) {
            widen(source->data, y, count);
        } else {
            memcpy(y, source->data, (size_t)count * sizeof *y);
        }
        memset(y + count, 0, (size_t)(padded * cols - count) * sizeof *y);
    }
    return 0;
}
