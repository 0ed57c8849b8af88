/* SPDX-License-Identifier: MIT */
/* sum = x + dropout(h); y = (sum - mean) / sqrt(var + eps) * gamma + beta, mean and variance over
 * the channels of a row (Ba et al. 2016, Layer Normalization). */
#include <string.h>

#include "ops/cpu/cpu.h"

enum { ROWS_PER_TASK = 16 };

static void one_row(const ser_kernels *kernels, const ser_residual_norm_args *args,
                    const ser_dropout_mask *mask, int64_t r)
{
    const int64_t n = args->x.cols;
    const float *source = (const float *)args->x.data + r * n;
    if (args->h.data != NULL) {
        const float *h = (const float *)args->h.data + r * n;
        float *sum = (float *)(args->sum.data != NULL ? args->sum.data : args->y.data) + r * n;
        if (mask != NULL) {
            kernels->training->dropout(&(ser_dropout_row){.mask = mask,
                                                          .first = (uint64_t)(r * n),
                                                          .n = n,
                                                          .x = h,
                                                          .base = source,
                                                          .y = sum});
        } else {
            kernels->add(source, h, n, sum);
        }
        source = sum;
    } else if (args->sum.data != NULL && args->sum.data != args->x.data) {
        memcpy((float *)args->sum.data + r * n, source, (size_t)n * sizeof(float));
    }
    if (args->stats.data != NULL) {
        kernels->training->norm_stats(source, n, args->eps, (float *)args->stats.data + 2 * r);
    }
    if (args->y.data != NULL) {
        kernels->layer_norm(source, args->gamma.data, args->beta.data, args->eps, n, SER_ACT_NONE,
                            (float *)args->y.data + r * n);
    }
}

int ser_cpu_residual_norm_fwd(ser_queue *queue, const ser_residual_norm_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    ser_dropout_mask drawn;
    const ser_dropout_mask *mask = ser_cpu_dropout_mask(&args->dropout, &drawn);
    const int64_t total = args->rows.batch * args->rows.padded;
    const int threads = cpu_threads_for(queue, (double)(total * args->x.cols) * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(dynamic, ROWS_PER_TASK))
    for (int64_t r = 0; r < total; r++) {
        if (cpu_row_is_valid(&args->rows, r)) {
            one_row(kernels, args, mask, r);
        }
    }
    if (args->sum.data != NULL) {
        ser_cpu_zero_padding(&args->sum, &args->rows);
    }
    if (args->y.data != NULL) {
        ser_cpu_zero_padding(&args->y, &args->rows);
    }
    if (args->stats.data != NULL) {
        ser_cpu_zero_padding(&args->stats, &args->rows);
    }
    return 0;
}

/* Sums over rows for dgamma and dbeta are taken per block of rows, the blocks then added in order:
 * the same bits with any number of threads. */
enum { ROWS_PER_BLOCK = 64 };

static int64_t block_count(const ser_residual_norm_args *args)
{
    return cpu_ceil_div(args->rows.batch * args->rows.padded, ROWS_PER_BLOCK);
}

size_t ser_cpu_residual_norm_scratch(const ser_queue *queue, const ser_residual_norm_args *args)
{
    (void)queue;
    const bool sums = args->dgamma.rows > 0 || args->dbeta.rows > 0;
    return sums ? (size_t)(block_count(args) * 2 * args->x.cols) * sizeof(float) : 0;
}

/*
 * With xhat = (sum - mean) / sqrt(var + eps), dy the sum of its parts and g = dy gamma:
 *   dx = dsum + (g - mean(g) - xhat mean(g xhat)) / sqrt(var + eps);  dh = dropout'(dx)
 *   dgamma = sum over the rows of dy xhat;  dbeta = sum over the rows of dy
 */
static void one_row_bwd(const ser_kernels *kernels, const ser_residual_norm_args *args,
                        const ser_dropout_mask *mask, int64_t r, float *sums)
{
    const int64_t n = args->x.cols;
    const float *dsum = args->dsum.data != NULL ? (const float *)args->dsum.data + r * n : NULL;
    float *dh = args->dh.data != NULL ? (float *)args->dh.data + r * n : NULL;
    float *dx = args->dx.data != NULL ? (float *)args->dx.data + r * n : dh;
    if (args->dy.data != NULL) {
        const float *stats = (const float *)args->stats.data + 2 * r;
        const ser_tensor *x = args->sum.data != NULL ? &args->sum : &args->x;
        kernels->training->norm_bwd(&(ser_norm_row){
            .n = n,
            .x = (const float *)x->data + r * n,
            .mean = stats[0],
            .inverse = stats[1],
            .gamma = args->gamma.data,
            .dy = (const float *)args->dy.data + r * n,
            .dy2 = args->dy2.data != NULL ? (const float *)args->dy2.data + r * n : NULL,
            .add = dsum,
            .dx = dx,
            .dgamma = args->dgamma.data != NULL ? sums : NULL,
            .dbeta = args->dbeta.data != NULL ? sums + n : NULL});
    } else if (dx != NULL && dx != dsum) {
        memcpy(dx, dsum, (size_t)n * sizeof(float));
    }
    if (dh != NULL && (mask != NULL || dh != dx)) {
        kernels->training->dropout(
            &(ser_dropout_row){.mask = mask, .first = (uint64_t)(r * n), .n = n, .x = dx, .y = dh});
    }
}

static void add_blocks(const ser_kernels *kernels, const ser_residual_norm_args *args,
                       const float *sums)
{
    const int64_t n = args->x.cols;
    for (int64_t b = 0; b < block_count(args); b++, sums += 2 * n) {
        if (args->dgamma.data != NULL) {
            kernels->add(args->dgamma.data, sums, n, args->dgamma.data);
        }
        if (args->dbeta.data != NULL) {
            kernels->add(args->dbeta.data, sums + n, n, args->dbeta.data);
        }
    }
}

int ser_cpu_residual_norm_bwd(ser_queue *queue, const ser_residual_norm_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    ser_dropout_mask drawn;
    const ser_dropout_mask *mask = ser_cpu_dropout_mask(&args->dropout, &drawn);
    const int64_t n = args->x.cols;
    const int64_t total = args->rows.batch * args->rows.padded;
    const bool has_sums = args->dgamma.data != NULL || args->dbeta.data != NULL;
    float *sums = queue->scratch;
    const int threads = cpu_threads_for(queue, (double)(total * n) * 2.0 * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(dynamic))
    for (int64_t b = 0; b < block_count(args); b++) {
        float *own = has_sums ? sums + b * 2 * n : NULL;
        if (has_sums) {
            memset(own, 0, (size_t)(2 * n) * sizeof(float));
        }
        for (int64_t r = b * ROWS_PER_BLOCK; r < cpu_min((b + 1) * ROWS_PER_BLOCK, total); r++) {
            if (cpu_row_is_valid(&args->rows, r)) {
                one_row_bwd(kernels, args, mask, r, own);
            }
        }
    }
    if (has_sums) {
        add_blocks(kernels, args, sums);
    }
    if (args->dx.data != NULL) {
        ser_cpu_zero_padding(&args->dx, &args->rows);
    }
    if (args->dh.data != NULL) {
        ser_cpu_zero_padding(&args->dh, &args->rows);
    }
    return 0;
}
