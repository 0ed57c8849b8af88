/* SPDX-License-Identifier: MIT */
/* y = act(x W^T + b) on the valid rows. */
#include "ops/cpu/cpu.h"

static gemm_transpose transposed(const ser_linear_args *args)
{
    return (gemm_transpose){
        .weight = args->w, .width = args->w->spec.cols, .first = 0, .step = 1, .taps = 1};
}

/* W^T packed, and W where it cannot be packed from the weight itself; both only for dx. */
static size_t backward_scratch(const ser_queue *queue, const ser_linear_args *args)
{
    size_t size = ser_gemm_tn_scratch(queue);
    if (args->dx.rows > 0) {
        const gemm_transpose t = transposed(args);
        const int64_t weights = ser_gemm_transposed_size(cpu_queue_of(queue)->kernels, &t) +
                                ser_gemm_plain_size(args->w);
        size_t product = ser_gemm_scratch(queue) + (size_t)weights * sizeof(float);
        size = product > size ? product : size;
    }
    return size;
}

size_t ser_cpu_linear_scratch(const ser_queue *queue, const ser_linear_args *args)
{
    const size_t forward = ser_gemm_weight_scratch(queue, args->w);
    if (args->dy.rows == 0) {
        return forward;
    }
    const size_t backward = backward_scratch(queue, args);
    return backward > forward ? backward : forward;
}

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

/* dx = dy W */
static int data_gradient(ser_queue *queue, const ser_linear_args *args)
{
    const int64_t n = args->dy.cols;
    const int64_t k = args->dx.cols;
    const gemm_transpose t = transposed(args);
    float *packed = (float *)((char *)queue->scratch + ser_gemm_scratch(queue));
    float *plain = packed + ser_gemm_transposed_size(cpu_queue_of(queue)->kernels, &t);
    int status = ser_gemm_plain(queue, args->w, plain);
    if (status != 0) {
        return status;
    }
    ser_gemm_transpose(queue, &t, plain, packed);
    const gemm_call call = {
        .a = args->dy.data,
        .lda = n,
        .a_pitch = args->rows.padded * n,
        .b = packed,
        .c = args->dx.data,
        .ldc = k,
        .c_pitch = args->rows.padded * k,
        .n = k,
        .k = n,
        .entries = args->rows.batch,
        .rows = args->rows.valid,
        .max_rows = args->rows.padded,
    };
    ser_gemm_run(queue, &call);
    ser_cpu_zero_padding(&args->dx, &args->rows);
    return 0;
}

/* dw += dy^T x */
static void weight_gradient(const ser_queue *queue, const ser_linear_args *args)
{
    const int64_t n = args->dy.cols;
    const int64_t k = args->x.cols;
    const gemm_tn_call call = {
        .a = args->dy.data,
        .lda = n,
        .a_pitch = args->rows.padded * n,
        .b = args->x.data,
        .ldb = k,
        .b_pitch = args->rows.padded * k,
        .c = args->dw.data,
        .n = n,
        .k = k,
        .groups = 1,
        .entries = args->rows.batch,
        .rows = args->rows.valid,
        .max_rows = args->rows.padded,
    };
    ser_gemm_tn_run(queue, &call);
}

/* y = x W^T + b: dx = dy W, dw += dy^T x, dbias += column sums of dy. */
int ser_cpu_linear_bwd(ser_queue *queue, const ser_linear_args *args)
{
    if (args->dbias.data != NULL) {
        const int64_t n = args->dy.cols;
        const gemm_columns columns = {.x = args->dy.data,
                                      .ld = n,
                                      .pitch = args->rows.padded * n,
                                      .n = n,
                                      .entries = args->rows.batch,
                                      .rows = args->rows.valid,
                                      .max_rows = args->rows.padded,
                                      .sum = args->dbias.data};
        ser_gemm_sum_columns(queue, &columns);
    }
    if (args->dw.data != NULL) {
        weight_gradient(queue, args);
    }
    return args->dx.data != NULL ? data_gradient(queue, args) : 0;
}
