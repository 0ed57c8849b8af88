/* SPDX-License-Identifier: MIT */
/* y (+)= softmax(w)[index] * x, the learned mix of hidden states (Peters et al. 2018, ELMo, eq. 1).
 */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu.h"

static double mix_weight(const float *w, int64_t count, int32_t index)
{
    double top = (double)w[0];
    for (int64_t i = 1; i < count; i++) {
        top = fmax(top, (double)w[i]);
    }
    double total = 0.0;
    for (int64_t i = 0; i < count; i++) {
        total += exp((double)w[i] - top);
    }
    return exp((double)w[index] - top) / total;
}

int ser_cpu_layer_mix_fwd(ser_queue *queue, const ser_layer_mix_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const float weight = (float)mix_weight(args->w.data, args->w.cols, args->index);
    const int64_t n = args->x.cols;
    const int64_t total = args->rows.batch * args->rows.padded;
    const int threads = cpu_threads_for(queue, (double)(total * n) * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t r = 0; r < total; r++) {
        float *y = (float *)args->y.data + r * n;
        if (args->index == 0) {
            memset(y, 0, (size_t)n * sizeof(float));
        }
        if (cpu_row_is_valid(&args->rows, r)) {
            kernels->axpy(weight, (const float *)args->x.data + r * n, n, y);
        }
    }
    return 0;
}

/* Dot products are summed per block of rows, the blocks then in order: the same bits with any
 * number of threads. */
enum { ROWS_PER_BLOCK = 64 };

size_t ser_cpu_layer_mix_scratch(const ser_queue *queue, const ser_layer_mix_args *args)
{
    (void)queue;
    const int64_t blocks = cpu_ceil_div(args->rows.batch * args->rows.padded, ROWS_PER_BLOCK);
    return args->dw.rows > 0 ? (size_t)blocks * sizeof(double) : 0;
}

/* With a = softmax(w), d_i = the sum of dy x_i: dw_i = a_i (d_i - sum_k a_k d_k). */
static void weights_bwd(const float *w, const float *dots, int64_t count, float *dw)
{
    double mean = 0.0;
    for (int32_t i = 0; i < count; i++) {
        mean += mix_weight(w, count, i) * (double)dots[i];
    }
    for (int32_t i = 0; i < count; i++) {
        dw[i] += (float)(mix_weight(w, count, i) * ((double)dots[i] - mean));
    }
}

/* dx += a_i dy on a valid row; returns dy . x_i */
static double one_row_bwd(const ser_kernels *kernels, const ser_layer_mix_args *args, float weight,
                          int64_t r)
{
    const int64_t n = args->dy.cols;
    const float *dy = (const float *)args->dy.data + r * n;
    if (args->dx.data != NULL) {
        kernels->axpy(weight, dy, n, (float *)args->dx.data + r * n);
    }
    return args->dw.data != NULL ? (double)kernels->dot(dy, (const float *)args->x.data + r * n, n)
                                 : 0.0;
}

int ser_cpu_layer_mix_bwd(ser_queue *queue, const ser_layer_mix_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const float weight = (float)mix_weight(args->w.data, args->w.cols, args->index);
    const int64_t n = args->dy.cols;
    const int64_t total = args->rows.batch * args->rows.padded;
    const int64_t blocks = cpu_ceil_div(total, ROWS_PER_BLOCK);
    double *sums = queue->scratch;
    const int threads = cpu_threads_for(queue, (double)(total * n) * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t b = 0; b < blocks; b++) {
        double sum = 0.0;
        for (int64_t r = b * ROWS_PER_BLOCK; r < cpu_min((b + 1) * ROWS_PER_BLOCK, total); r++) {
            if (args->dx.data != NULL && args->first) {
                memset((float *)args->dx.data + r * n, 0, (size_t)n * sizeof(float));
            }
            if (cpu_row_is_valid(&args->rows, r)) {
                sum += one_row_bwd(kernels, args, weight, r);
            }
        }
        if (args->dw.data != NULL) {
            sums[b] = sum;
        }
    }
    if (args->dw.data != NULL) {
        double dot = 0.0;
        for (int64_t b = 0; b < blocks; b++) {
            dot += sums[b];
        }
        ((float *)args->dots.data)[args->index] = (float)dot;
        if (args->index == 0) {
            weights_bwd(args->w.data, args->dots.data, args->w.cols, args->dw.data);
        }
    }
    return 0;
}
