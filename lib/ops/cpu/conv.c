/* SPDX-License-Identifier: MIT */
/*
 * y = GELU(norm(conv(x) + bias)). On channels-last rows the kernel * C_in inputs of one output
 * frame are consecutive, so the convolution is a matrix product whose rows overlap: row t starts
 * stride * C_in floats after row t - 1.
 */
#include "ops/cpu/cpu.h"

enum { NORM_ROWS = 16 }; /* rows per task of the norm pass */
static const float NORM_EPS = 1e-5F;

void ser_cpu_norm_gelu_rows(const ser_queue *queue, const ser_tensor *y, const ser_rows *rows,
                            const ser_tensor *gamma, const ser_tensor *beta)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t total = rows->batch * rows->padded;
    const int threads = cpu_threads_for(queue, (double)(total * y->cols) * CPU_NS_PER_VALUE);
    float *data = y->data;
    CPU_PARALLEL_FOR(threads, schedule(dynamic, NORM_ROWS))
    for (int64_t r = 0; r < total; r++) {
        if (r % rows->padded < rows->valid[r / rows->padded]) {
            float *row = data + r * y->cols;
            kernels->layer_norm(row, gamma->data, beta->data, NORM_EPS, y->cols, SER_ACT_GELU, row);
        }
    }
}

int ser_cpu_conv_fwd(ser_queue *queue, const ser_conv_args *args)
{
    const int64_t in = args->x.cols;
    gemm_call call = {
        .a = (const float *)args->x.data - args->padding * in,
        .lda = args->stride * in,
        .a_pitch = args->rows_in.padded * in,
        .bias = args->bias.data,
        .c = args->y.data,
        .ldc = args->y.cols,
        .c_pitch = args->rows_out.padded * args->y.cols,
        .entries = args->rows_out.batch,
        .rows = args->rows_out.valid,
        .max_rows = args->rows_out.padded,
        .activation = args->norm == SER_CONV_NORM_NONE ? SER_ACT_GELU : SER_ACT_NONE,
    };
    int status = ser_gemm_run_weight(queue, args->w, &call);
    if (status == 0 && args->norm == SER_CONV_NORM_LAYER) {
        ser_cpu_norm_gelu_rows(queue, &args->y, &args->rows_out, &args->gamma, &args->beta);
    }
    ser_cpu_zero_padding(&args->y, &args->rows_out);
    return status;
}
