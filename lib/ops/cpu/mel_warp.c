/* SPDX-License-Identifier: MIT */
/* y[t, f] = x[t, f * warp] + offset[f], linear in between, the last bin beyond the end. */
#include "ops/cpu/cpu.h"

enum { BINS = 64 }; /* whose places are found once for all rows of a clip */

/* Where bins first .. first + count - 1 come from: bin `at` and a part of the next one. */
typedef struct places {
    int64_t first, count;
    int64_t at[BINS];
    float part[BINS];
} places;

static places find_places(int64_t first, int64_t bins, float warp)
{
    places p = {.first = first, .count = cpu_min(BINS, bins - first)};
    for (int64_t i = 0; i < p.count; i++) {
        const float place = (float)(first + i) * warp;
        if (place > 0.0F && place < (float)(bins - 1)) {
            p.at[i] = (int64_t)place;
            p.part[i] = place - (float)p.at[i];
        } else {
            p.at[i] = place > 0.0F ? bins - 1 : 0; /* 0 also for NaN */
        }
    }
    return p;
}

static void warp_row(const places *p, const float *x, const float *offset, float *y)
{
    for (int64_t i = 0; i < p->count; i++) {
        const float here = x[p->at[i]];
        const float next = p->part[i] > 0.0F ? x[p->at[i] + 1] : here;
        y[p->first + i] = here + p->part[i] * (next - here) + offset[p->first + i];
    }
}

int ser_cpu_mel_warp_fwd(ser_queue *queue, const ser_mel_warp_args *args)
{
    const int64_t bins = args->x.cols;
    const int64_t total = args->rows.batch * args->rows.padded;
    const int threads = cpu_threads_for(queue, (double)(total * bins) * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(dynamic))
    for (int64_t b = 0; b < args->rows.batch; b++) {
        const float *offset = (const float *)args->offset.data + b * bins;
        const float warp = ((const float *)args->warp.data)[b];
        for (int64_t first = 0; first < bins; first += BINS) {
            const places p = find_places(first, bins, warp);
            for (int64_t t = 0; t < args->rows.valid[b]; t++) {
                const int64_t at = (b * args->rows.padded + t) * bins;
                warp_row(&p, (const float *)args->x.data + at, offset, (float *)args->y.data + at);
            }
        }
    }
    ser_cpu_zero_padding(&args->y, &args->rows);
    return 0;
}
