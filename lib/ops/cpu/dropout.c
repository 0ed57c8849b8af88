/* SPDX-License-Identifier: MIT */
/* y = dropout(act(x)), inverted dropout with the mask drawn anew in each direction (ops.h,
 * ser_dropout). */
#include "ops/cpu/cpu.h"

#include "base/rng.h"

enum { ROWS_PER_TASK = 8 };

/* An activation, and the random number of a value, cost about as much as two plain passes. */
#define DROPOUT_NS_PER_VALUE (2.0 * CPU_NS_PER_VALUE)

const ser_dropout_mask *ser_cpu_dropout_mask(const ser_dropout *dropout, ser_dropout_mask *mask)
{
    if (dropout->p <= 0.0F) {
        return NULL;
    }
    const uint64_t in_stream = (UINT64_C(1) << 24) - 1;
    const int32_t threshold = (int32_t)(65536.0 * (double)dropout->p + 0.5);
    *mask = (ser_dropout_mask){
        .seed = dropout->step->seed,
        .stream = ser_rng_stream(SER_RNG_DROPOUT, dropout->op,
                                 (uint32_t)(dropout->step->number & in_stream)),
        .threshold = threshold,
        .scale = 65536.0F / (float)(65536 - threshold), /* not used when all are dropped */
    };
    return mask;
}

int ser_cpu_dropout_fwd(ser_queue *queue, const ser_dropout_args *args)
{
    const ser_training_kernels *kernels = cpu_queue_of(queue)->kernels->training;
    ser_dropout_mask drawn;
    const ser_dropout_mask *mask = ser_cpu_dropout_mask(&args->dropout, &drawn);
    const int64_t n = args->x.cols;
    const int64_t total = args->rows.batch * args->rows.padded;
    const int threads = cpu_threads_for(queue, (double)(total * n) * DROPOUT_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(dynamic, ROWS_PER_TASK))
    for (int64_t r = 0; r < total; r++) {
        if (cpu_row_is_valid(&args->rows, r)) {
            kernels->dropout(&(ser_dropout_row){.mask = mask,
                                                .first = (uint64_t)(r * n),
                                                .n = n,
                                                .activation = args->activation,
                                                .x = (const float *)args->x.data + r * n,
                                                .y = (float *)args->y.data + r * n});
        }
    }
    ser_cpu_zero_padding(&args->y, &args->rows);
    return 0;
}

/* dx = act'(x) f dy and y = act(x) f, f = 0 or 1 / (1 - p) as in forward. */
int ser_cpu_dropout_bwd(ser_queue *queue, const ser_dropout_args *args)
{
    const ser_training_kernels *kernels = cpu_queue_of(queue)->kernels->training;
    ser_dropout_mask drawn;
    const ser_dropout_mask *mask = ser_cpu_dropout_mask(&args->dropout, &drawn);
    const float *x = args->x.data; /* may be absent with activation NONE */
    float *y = args->y.data;
    const int64_t n = args->dx.cols;
    const int64_t total = args->rows.batch * args->rows.padded;
    const int threads = cpu_threads_for(queue, (double)(total * n) * DROPOUT_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(dynamic, ROWS_PER_TASK))
    for (int64_t r = 0; r < total; r++) {
        if (cpu_row_is_valid(&args->rows, r)) {
            kernels->dropout_bwd(&(ser_dropout_row){.mask = mask,
                                                    .first = (uint64_t)(r * n),
                                                    .n = n,
                                                    .activation = args->activation,
                                                    .x = x != NULL ? x + r * n : NULL,
                                                    .dy = (const float *)args->dy.data + r * n,
                                                    .y = (float *)args->dx.data + r * n,
                                                    .again = y != NULL ? y + r * n : NULL});
        }
    }
    ser_cpu_zero_padding(&args->dx, &args->rows);
    if (y != NULL) {
        ser_cpu_zero_padding(&args->y, &args->rows);
    }
    return 0;
}
