/* SPDX-License-Identifier: MIT */
/* w[o, k, i] = g[k] v[o, i, k] / |v[:, :, k]| (Salimans & Kingma 2016, one length per tap). */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu.h"

/* Sums over the output channels are taken per block of them, the blocks then added in order: the
 * same bits with any number of threads. */
enum { CHANNELS_PER_BLOCK = 16 };

/* Where things are in the scratch, in bytes. */
typedef struct weight_norm_plan {
    int64_t channels, inputs; /* inputs per output channel and tap */
    int64_t blocks;
    size_t sums;    /* double [blocks, 2, kernel]: v^2, then dw v */
    size_t factors; /* float [2, kernel] */
    size_t plain;   /* w as the products' weight takes it; forward only */
    size_t size;
} weight_norm_plan;

static weight_norm_plan plan_scratch(const ser_weight_norm_args *args)
{
    weight_norm_plan plan = {.channels = args->v.rows, .inputs = args->v.cols / args->kernel};
    plan.blocks = cpu_ceil_div(plan.channels, CHANNELS_PER_BLOCK);
    plan.sums = cpu_carve(&plan.size, plan.blocks * 2 * args->kernel, sizeof(double));
    plan.factors = cpu_carve(&plan.size, (int64_t)2 * args->kernel, sizeof(float));
    plan.plain =
        cpu_carve(&plan.size, args->w != NULL ? plan.channels * args->v.cols : 0, sizeof(float));
    return plan;
}

size_t ser_cpu_weight_norm_scratch(const ser_queue *queue, const ser_weight_norm_args *args)
{
    (void)queue;
    return plan_scratch(args).size;
}

/* sums[0][k] = sum over the block of v^2, sums[1][k] = of gradient v; `gradient` may be NULL. */
static void sum_block(const ser_weight_norm_args *args, const weight_norm_plan *plan,
                      const float *gradient, int64_t block, double *sums)
{
    const int64_t kernel = args->kernel;
    const int64_t first = block * CHANNELS_PER_BLOCK;
    const int64_t last = cpu_min(first + CHANNELS_PER_BLOCK, plan->channels);
    memset(sums, 0, (size_t)(2 * kernel) * sizeof(double));
    for (int64_t o = first; o < last; o++) {
        for (int64_t i = 0; i < plan->inputs; i++) {
            const float *v = (const float *)args->v.data + o * args->v.cols + i * kernel;
            for (int64_t k = 0; k < kernel; k++) {
                sums[k] += (double)v[k] * (double)v[k];
            }
            if (gradient != NULL) {
                const float *dw = gradient + o * args->v.cols + i;
                for (int64_t k = 0; k < kernel; k++) {
                    sums[kernel + k] += (double)dw[k * plan->inputs] * (double)v[k];
                }
            }
        }
    }
}

/* The sums over all channels, in those of block 0. */
static double *sum_channels(const ser_queue *queue, const ser_weight_norm_args *args,
                            const weight_norm_plan *plan, const float *gradient)
{
    const int64_t kernel = args->kernel;
    double *sums = (double *)(void *)((char *)queue->scratch + plan->sums);
    const double values = (double)(plan->channels * args->v.cols);
    const int threads = cpu_threads_for(queue, values * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t block = 0; block < plan->blocks; block++) {
        sum_block(args, plan, gradient, block, sums + block * 2 * kernel);
    }
    for (int64_t block = 1; block < plan->blocks; block++) {
        for (int64_t k = 0; k < 2 * kernel; k++) {
            sums[k] += sums[block * 2 * kernel + k];
        }
    }
    return sums;
}

int ser_cpu_weight_norm_fwd(ser_queue *queue, const ser_weight_norm_args *args)
{
    const weight_norm_plan plan = plan_scratch(args);
    const int64_t kernel = args->kernel;
    const double *sums = sum_channels(queue, args, &plan, NULL);
    float *factors = (float *)(void *)((char *)queue->scratch + plan.factors);
    float *plain = (float *)(void *)((char *)queue->scratch + plan.plain);
    for (int64_t k = 0; k < kernel; k++) {
        factors[k] = (float)((double)((const float *)args->g.data)[k] / sqrt(sums[k]));
    }
    const double values = (double)(plan.channels * args->v.cols);
    const int threads = cpu_threads_for(queue, values * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t o = 0; o < plan.channels; o++) {
        const float *v = (const float *)args->v.data + o * args->v.cols;
        float *w = plain + o * args->v.cols;
        for (int64_t k = 0; k < kernel; k++) {
            for (int64_t i = 0; i < plan.inputs; i++) {
                w[k * plan.inputs + i] = factors[k] * v[i * kernel + k];
            }
        }
    }
    return ser_gemm_weight_set(queue, args->w, plain);
}

/*
 * With n[k] = |v[:, :, k]| and d[k] = sum over o and i of dw[o, k, i] v[o, i, k]:
 *   dg[k] += d / n;  dv[o, i, k] += g / n (dw[o, k, i] - v[o, i, k] d / n^2)
 */
int ser_cpu_weight_norm_bwd(ser_queue *queue, const ser_weight_norm_args *args)
{
    const weight_norm_plan plan = plan_scratch(args);
    const int64_t kernel = args->kernel;
    const double *sums = sum_channels(queue, args, &plan, args->dw.data);
    float *factors = (float *)(void *)((char *)queue->scratch + plan.factors);
    for (int64_t k = 0; k < kernel; k++) {
        const double length = sqrt(sums[k]);
        const double dot = sums[kernel + k];
        factors[k] = (float)((double)((const float *)args->g.data)[k] / length);
        factors[kernel + k] = (float)(dot / sums[k]);
        if (args->dg.data != NULL) {
            ((float *)args->dg.data)[k] += (float)(dot / length);
        }
    }
    if (args->dv.data == NULL) {
        return 0;
    }
    const double values = (double)(plan.channels * args->v.cols);
    const int threads = cpu_threads_for(queue, values * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t o = 0; o < plan.channels; o++) {
        for (int64_t i = 0; i < plan.inputs; i++) {
            const int64_t at = o * args->v.cols + i * kernel;
            const float *v = (const float *)args->v.data + at;
            const float *dw = (const float *)args->dw.data + o * args->v.cols + i;
            float *dv = (float *)args->dv.data + at;
            for (int64_t k = 0; k < kernel; k++) {
                dv[k] += factors[k] * (dw[k * plan.inputs] - v[k] * factors[kernel + k]);
            }
        }
    }
    return 0;
}
