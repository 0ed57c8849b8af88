/* SPDX-License-Identifier: MIT */
/* *sum += sum of x^2: in double per block of fixed size, the blocks then in order, so that the
 * number of threads changes no bit. */
#include "ops/cpu/cpu.h"

enum { BLOCK = 1 << 16 };

size_t ser_cpu_sum_squares_scratch(const ser_queue *queue, const ser_sum_squares_args *args)
{
    (void)queue;
    return (size_t)cpu_ceil_div(args->count, BLOCK) * sizeof(double);
}

int ser_cpu_sum_squares(ser_queue *queue, const ser_sum_squares_args *args)
{
    const ser_training_kernels *kernels = cpu_queue_of(queue)->kernels->training;
    const int64_t blocks = cpu_ceil_div(args->count, BLOCK);
    double *sums = queue->scratch;
    const int threads = cpu_threads_for(queue, (double)args->count * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t begin = b * BLOCK;
        sums[b] = kernels->sum_squares(args->x + begin, cpu_min(BLOCK, args->count - begin));
    }
    double total = 0.0;
    for (int64_t b = 0; b < blocks; b++) {
        total += sums[b];
    }
    *args->sum += total;
    return 0;
}
