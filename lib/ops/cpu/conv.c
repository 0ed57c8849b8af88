/* SPDX-License-Identifier: MIT */
/*
 * y = GELU(norm(conv(x) + bias)). On channels-last rows the kernel * C_in inputs of one output
 * frame are consecutive, so the convolution is a matrix product whose rows overlap: row t starts
 * stride * C_in floats after row t - 1.
 */
#include <string.h>

#include "ops/cpu/cpu.h"

static conv_tail tail_of(const ser_conv_args *args, int64_t channels)
{
    return (conv_tail){.norm = args->norm,
                       .gamma = args->gamma.data,
                       .beta = args->beta.data,
                       .channels = channels};
}

int ser_cpu_conv_fwd(ser_queue *queue, const ser_conv_args *args)
{
    const int64_t in = args->x.cols;
    const bool fused = args->norm == SER_CONV_NORM_NONE && args->z.data == NULL;
    const ser_tensor *z = args->z.data != NULL ? &args->z : &args->y;
    gemm_call call = {
        .a = (const float *)args->x.data - args->padding * in,
        .lda = args->stride * in,
        .a_pitch = args->rows_in.padded * in,
        .bias = args->bias.data,
        .c = z->data,
        .ldc = z->cols,
        .c_pitch = args->rows_out.padded * z->cols,
        .entries = args->rows_out.batch,
        .rows = args->rows_out.valid,
        .max_rows = args->rows_out.padded,
        .activation = fused ? SER_ACT_GELU : SER_ACT_NONE,
    };
    int status = ser_gemm_run_weight(queue, args->w, &call);
    if (status == 0 && !fused) {
        const conv_tail tail = tail_of(args, args->y.cols);
        ser_cpu_conv_tail(queue, &tail, z, &args->rows_out, &args->y);
    }
    ser_cpu_zero_padding(z, &args->rows_out);
    ser_cpu_zero_padding(&args->y, &args->rows_out);
    return status;
}

/*
 * Backward. With s + padding = stride q + r, 0 <= r < stride, input frame s is seen by output frame
 * q - j through tap r + stride j, so that
 *   dx[s, i] = sum over j and o of dz[q - j, o] w[o, r + stride j, i]
 * For each phase r this is again a product whose rows overlap: `taps` rows of dz, the last tap
 * first. dz therefore lies in frames of zeros, from which no row reaches into another clip.
 */
enum { ROWS_PER_BLOCK = 64 }; /* whose sums for dgamma and dbeta are added up first */

/* Where things are in the scratch, in bytes, and how the frames of dz are made. */
typedef struct backward_plan {
    int64_t before; /* zero rows in front of a clip's dz */
    int64_t rows;   /* of a clip's frame */
    int64_t blocks; /* of rows, for the sums */
    size_t dz, normed, sums, packed, plain, counts;
    size_t size;
} backward_plan;

static gemm_transpose phase_weight(const ser_conv_args *args, int64_t phase)
{
    const int64_t taps =
        phase < args->kernel ? cpu_ceil_div(args->kernel - phase, args->stride) : 0;
    return (gemm_transpose){.weight = args->w,
                            .width = args->w->spec.cols / args->kernel,
                            .first = phase + args->stride * (taps - 1),
                            .step = -args->stride,
                            .taps = taps};
}

/* Rows q that phase 0 .. stride - 1 may have at most. */
static int64_t phase_rows(const ser_conv_args *args)
{
    return (args->rows_in.padded - 1 + args->padding) / args->stride + 1;
}

static backward_plan plan_backward(const ser_queue *queue, const ser_conv_args *args)
{
    const cpu_queue *q = cpu_queue_of(queue);
    const int64_t channels = args->dy.cols;
    const int64_t total = args->rows_out.batch * args->rows_out.padded;
    const bool has_sums = args->dgamma.rows > 0 || args->dbeta.rows > 0;
    backward_plan plan = {.rows = args->rows_out.padded,
                          .blocks = cpu_ceil_div(total, ROWS_PER_BLOCK)};
    plan.size = cpu_round(ser_gemm_tn_scratch(queue));
    if (args->dx.rows > 0) {
        const gemm_transpose t = phase_weight(args, 0); /* the most taps */
        const size_t product = cpu_round(ser_gemm_scratch(queue));
        plan.size = product > plan.size ? product : plan.size;
        plan.before = t.taps - 1;
        plan.rows = plan.before + phase_rows(args);
        plan.packed =
            cpu_carve(&plan.size, ser_gemm_transposed_size(q->kernels, &t), sizeof(float));
        plan.plain = cpu_carve(&plan.size, ser_gemm_plain_size(args->w), sizeof(float));
        plan.counts = cpu_carve(&plan.size, args->rows_in.batch, sizeof(int32_t));
    }
    plan.dz = cpu_carve(&plan.size, args->rows_out.batch * plan.rows * channels, sizeof(float));
    plan.normed = cpu_carve(&plan.size, q->threads * channels, sizeof(float));
    plan.sums = cpu_carve(&plan.size, has_sums ? plan.blocks * 2 * channels : 0, sizeof(float));
    return plan;
}

size_t ser_cpu_conv_scratch(const ser_queue *queue, const ser_conv_args *args)
{
    const size_t forward = ser_gemm_weight_scratch(queue, args->w);
    const size_t backward = args->dy.rows > 0 ? plan_backward(queue, args).size : 0;
    return backward > forward ? backward : forward;
}

/* dz in its frames, dgamma and dbeta. */
static void tail_gradients(const ser_queue *queue, const ser_conv_args *args,
                           const backward_plan *plan)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const ser_rows *rows = &args->rows_out;
    const int64_t n = args->dy.cols;
    const int64_t total = rows->batch * rows->padded;
    const conv_tail tail = tail_of(args, n);
    char *scratch = queue->scratch;
    float *dz = (float *)(void *)(scratch + plan->dz);
    float *normed = (float *)(void *)(scratch + plan->normed);
    float *sums = (float *)(void *)(scratch + plan->sums);
    const bool has_sums = args->dgamma.data != NULL || args->dbeta.data != NULL;
    const int threads = cpu_threads_for(queue, (double)(total * n) * 2.0 * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(dynamic))
    for (int64_t block = 0; block < plan->blocks; block++) {
        float *own = sums + block * 2 * n;
        if (has_sums) {
            memset(own, 0, (size_t)(2 * n) * sizeof(float));
        }
        for (int64_t r = block * ROWS_PER_BLOCK; r < cpu_min((block + 1) * ROWS_PER_BLOCK, total);
             r++) {
            const int64_t row = r / rows->padded * plan->rows + plan->before + r % rows->padded;
            if (cpu_row_is_valid(rows, r)) {
                const conv_tail_row part = {.z = (const float *)args->z.data + r * n,
                                            .dy = (const float *)args->dy.data + r * n,
                                            .normed = normed + cpu_thread() * n,
                                            .dz = dz + row * n,
                                            .dgamma = has_sums ? own : NULL,
                                            .dbeta = has_sums ? own + n : NULL};
                ser_cpu_conv_tail_bwd(kernels, &tail, &part);
            }
        }
    }
    for (int64_t block = 0; block < plan->blocks && has_sums; block++) {
        if (args->dgamma.data != NULL) {
            kernels->add(args->dgamma.data, sums + block * 2 * n, n, args->dgamma.data);
        }
        if (args->dbeta.data != NULL) {
            kernels->add(args->dbeta.data, sums + (block * 2 + 1) * n, n, args->dbeta.data);
        }
    }
}

/* dw += dz^T x, dbias += column sums of dz. */
static void weight_gradients(const ser_queue *queue, const ser_conv_args *args,
                             const backward_plan *plan)
{
    const int64_t n = args->dy.cols;
    const int64_t in = args->w->spec.cols / args->kernel;
    const float *dz = (const float *)((const char *)queue->scratch + plan->dz) + plan->before * n;
    if (args->dbias.data != NULL) {
        const gemm_columns columns = {.x = dz,
                                      .ld = n,
                                      .pitch = plan->rows * n,
                                      .n = n,
                                      .entries = args->rows_out.batch,
                                      .rows = args->rows_out.valid,
                                      .max_rows = args->rows_out.padded,
                                      .sum = args->dbias.data};
        ser_gemm_sum_columns(queue, &columns);
    }
    if (args->dw.data != NULL) {
        const gemm_tn_call call = {.a = dz,
                                   .lda = n,
                                   .a_pitch = plan->rows * n,
                                   .b = (const float *)args->x.data - args->padding * in,
                                   .ldb = args->stride * in,
                                   .b_pitch = args->rows_in.padded * in,
                                   .c = args->dw.data,
                                   .n = n,
                                   .k = args->kernel * in,
                                   .groups = 1,
                                   .entries = args->rows_out.batch,
                                   .rows = args->rows_out.valid,
                                   .max_rows = args->rows_out.padded};
        ser_gemm_tn_run(queue, &call);
    }
}

/* Zeros around dz and in the rows of dx that no tap reaches. */
static void clear_frames(const ser_conv_args *args, const backward_plan *plan, float *dz)
{
    const int64_t n = args->dy.cols;
    for (int64_t b = 0; b < args->rows_out.batch; b++) {
        float *frame = dz + b * plan->rows * n;
        const int64_t end = plan->before + args->rows_out.valid[b];
        memset(frame, 0, (size_t)(plan->before * n) * sizeof(float));
        memset(frame + end * n, 0, (size_t)((plan->rows - end) * n) * sizeof(float));
    }
    if (args->kernel < args->stride) {
        memset(args->dx.data, 0, (size_t)(args->dx.rows * args->dx.cols) * sizeof(float));
    }
    ser_cpu_zero_padding(&args->dx, &args->rows_in);
}

/* The rows of dx that belong to one phase. */
static void run_phase(const ser_queue *queue, const ser_conv_args *args, const backward_plan *plan,
                      int64_t phase)
{
    char *scratch = queue->scratch;
    const gemm_transpose t = phase_weight(args, phase);
    const int64_t n = args->dy.cols;
    const int64_t in = t.width;
    const int64_t first =
        phase < args->padding ? cpu_ceil_div(args->padding - phase, args->stride) : 0;
    int32_t *counts = (int32_t *)(void *)(scratch + plan->counts);
    float *packed = (float *)(void *)(scratch + plan->packed);
    for (int64_t b = 0; b < args->rows_in.batch; b++) {
        const int64_t end = args->rows_in.valid[b] + args->padding - phase; /* of stride q */
        const int64_t count = end > 0 ? cpu_ceil_div(end, args->stride) - first : 0;
        counts[b] = count > 0 ? (int32_t)count : 0;
    }
    ser_gemm_transpose(queue, &t, (const float *)(const void *)(scratch + plan->plain), packed);
    const gemm_call call = {
        .a = (const float *)(const void *)(scratch + plan->dz) +
             (plan->before + first - (t.taps - 1)) * n,
        .lda = n,
        .a_pitch = plan->rows * n,
        .b = packed,
        .c = (float *)args->dx.data + (args->stride * first + phase - args->padding) * in,
        .ldc = args->stride * in,
        .c_pitch = args->rows_in.padded * in,
        .n = in,
        .k = t.taps * n,
        .entries = args->rows_in.batch,
        .rows = counts,
        .max_rows = phase_rows(args),
    };
    ser_gemm_run(queue, &call);
}

int ser_cpu_conv_bwd(ser_queue *queue, const ser_conv_args *args)
{
    const backward_plan plan = plan_backward(queue, args);
    char *scratch = queue->scratch;
    tail_gradients(queue, args, &plan);
    weight_gradients(queue, args, &plan);
    if (args->dx.data == NULL) {
        return 0;
    }
    clear_frames(args, &plan, (float *)(void *)(scratch + plan.dz));
    int status = ser_gemm_plain(queue, args->w, (float *)(void *)(scratch + plan.plain));
    for (int64_t phase = 0; phase < cpu_min(args->stride, args->kernel) && status == 0; phase++) {
        run_phase(queue, args, &plan, phase);
    }
    return status;
}
