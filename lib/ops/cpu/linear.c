/* SPDX-License-Identifier: MIT */
/* y = act(x W^T + b) on the valid rows. */
#include "ops/cpu/cpu.h"

int ser_cpu_linear_fwd(ser_queue *queue, const ser_linear_args *args)
{
    gemm_call call = {
        .a = args->x.data,
        .lda = args->x.cols,
        .a_pitch = args->rows.padded * args->x.cols,
        .bias = args->bias.data,
        .c = args->y.data,
        .ldc = args->y.cols,
        .c_pitch = args->rows.padded * args->y.cols,
        .entries = args->rows.batch,
        .rows = args->rows.valid,
        .max_rows = args->rows.padded,
        .activation = args->activation,
    };
    int status = ser_gemm_run_weight(queue, args->w, &call);
    ser_cpu_zero_padding(&args->y, &args->rows);
    return status;
}
