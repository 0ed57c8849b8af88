/* SPDX-License-Identifier: MIT */
/* SpecAugment (Park et al. 2019): x = 0 in spans of frames and of channels. */
#include <string.h>

#include "ops/cpu/cpu.h"

/* Zeros in columns [begin, end) of rows [first, last) of a clip, cut to what there is. */
static void clear(float *x, int64_t channels, const int64_t rows[2], const int64_t columns[2])
{
    const int64_t begin = columns[0] > 0 ? columns[0] : 0;
    const int64_t count = cpu_min(columns[1], channels) - begin;
    if (count <= 0) {
        return;
    }
    for (int64_t t = rows[0] > 0 ? rows[0] : 0; t < rows[1]; t++) {
        memset(x + t * channels + begin, 0, (size_t)count * sizeof(float));
    }
}

int ser_cpu_span_mask(ser_queue *queue, const ser_span_mask_args *args)
{
    (void)queue;
    const int64_t channels = args->x.cols;
    for (int64_t b = 0; b < args->rows.batch; b++) {
        float *x = (float *)args->x.data + b * args->rows.padded * channels;
        const int64_t frames = args->rows.valid[b];
        for (int64_t s = 0; s < args->time_spans; s++) {
            const int32_t *span = args->time + 2 * (b * args->time_spans + s);
            clear(x, channels, (int64_t[]){span[0], cpu_min(span[1], frames)},
                  (int64_t[]){0, channels});
        }
        for (int64_t s = 0; s < args->channel_spans; s++) {
            const int32_t *span = args->channel + 2 * (b * args->channel_spans + s);
            clear(x, channels, (int64_t[]){0, frames}, (int64_t[]){span[0], span[1]});
        }
    }
    return 0;
}
