/* SPDX-License-Identifier: MIT */
/* AdamW over flat arrays; the formula stands in ops.h. Every element on its own, so blocks and
 * threads change no bit. */
#include <float.h>
#include <math.h>

#include "ops/cpu/cpu.h"

enum { BLOCK = 1 << 14 };

/* s min(1, clip / (s sqrt(sum) + 1e-6)), PyTorch's clip_grad_norm_ on the scaled gradient. */
static float gradient_scale(const ser_step *step, double sum)
{
    const double scale = (double)step->gradient_scale;
    if (step->clip <= 0.0F) {
        return step->gradient_scale;
    }
    return (float)(scale * fmin(1.0, (double)step->clip / (scale * sqrt(sum) + 1e-6)));
}

/* What all elements have in common. */
static ser_adamw_run run_of(const ser_adamw_args *args)
{
    return (ser_adamw_run){
        .gradient_scale = gradient_scale(args->step, *args->sum),
        .beta1 = (float)args->beta1,
        .rest1 = (float)(1.0 - args->beta1),
        .beta2 = (float)args->beta2,
        .rest2 = (float)(1.0 - args->beta2),
        .eps = args->eps,
        .correction2 = args->step->correction2,
        .average = args->step->average,
    };
}

/* Elements [begin, end), which lie in one range. */
static void run_range(const ser_training_kernels *kernels, const ser_adamw_args *args,
                      const ser_adamw_run *common, const ser_adamw_range *range, int64_t begin,
                      int64_t end)
{
    const double rate = (double)range->rate * (double)args->step->rate;
    ser_adamw_run run = *common;
    run.n = end - begin;
    run.w = args->w + begin;
    run.m = args->m + begin;
    run.v = args->v + begin;
    run.ema = args->ema != NULL ? args->ema + begin : NULL;
    run.gradient = args->gradient + begin;
    run.shrink = (float)(rate * (double)range->decay);
    run.rate = (float)(rate * (double)args->step->correction1);
    kernels->adamw(&run);
}

/* The range that holds an element. */
static int32_t find_range(const ser_adamw_args *args, int64_t element)
{
    int32_t low = 0;
    int32_t high = args->range_count - 1;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (args->ranges[middle].end <= element) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

int ser_cpu_adamw(ser_queue *queue, const ser_adamw_args *args)
{
    const ser_training_kernels *kernels = cpu_queue_of(queue)->kernels->training;
    /* No element of the scaled gradient is larger than its norm. */
    const double norm = (double)args->step->gradient_scale * sqrt(*args->sum);
    *args->skipped = !(norm <= (double)FLT_MAX);
    if (*args->skipped) {
        return 0;
    }
    const ser_adamw_run common = run_of(args);
    const int64_t blocks = cpu_ceil_div(args->count, BLOCK);
    const int threads = cpu_threads_for(queue, 2.0 * (double)args->count * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t end = cpu_min((b + 1) * BLOCK, args->count);
        int32_t r = find_range(args, b * BLOCK);
        for (int64_t begin = b * BLOCK; begin < end && r < args->range_count; r++) {
            const int64_t stop = cpu_min(args->ranges[r].end, end);
            run_range(kernels, args, &common, &args->ranges[r], begin, stop);
            begin = stop;
        }
    }
    return 0;
}
