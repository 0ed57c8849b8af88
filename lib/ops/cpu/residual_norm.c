/* SPDX-License-Identifier: MIT */
/* sum = x + h; y = (sum - mean) / sqrt(var + eps) * gamma + beta, mean and variance over the
 * channels of a row (Ba et al. 2016, Layer Normalization). */
#include <string.h>

#include "ops/cpu/cpu.h"

enum { ROWS_PER_TASK = 16 };

static void one_row(const ser_kernels *kernels, const ser_residual_norm_args *args, int64_t r)
{
    const int64_t n = args->x.cols;
    const float *source = (const float *)args->x.data + r * n;
    if (args->h.data != NULL) {
        const float *h = (const float *)args->h.data + r * n;
        float *sum = args->sum.data != NULL ? args->sum.data : args->y.data;
        kernels->add(source, h, n, sum + r * n);
        source = sum + r * n;
    } else if (args->sum.data != NULL && args->sum.data != args->x.data) {
        memcpy((float *)args->sum.data + r * n, source, (size_t)n * sizeof(float));
    }
    if (args->y.data != NULL) {
        kernels->layer_norm(source, args->gamma.data, args->beta.data, args->eps, n, SER_ACT_NONE,
                            (float *)args->y.data + r * n);
    }
}

int ser_cpu_residual_norm_fwd(ser_queue *queue, const ser_residual_norm_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t padded = args->rows.padded;
    const int64_t total = args->rows.batch * padded;
    const int threads = cpu_threads_for(queue, (double)(total * args->x.cols) * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(dynamic, ROWS_PER_TASK))
    for (int64_t r = 0; r < total; r++) {
        if (r % padded < args->rows.valid[r / padded]) {
            one_row(kernels, args, r);
        }
    }
    if (args->sum.data != NULL) {
        ser_cpu_zero_padding(&args->sum, &args->rows);
    }
    if (args->y.data != NULL) {
        ser_cpu_zero_padding(&args->y, &args->rows);
    }
    return 0;
}
