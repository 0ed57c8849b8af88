/* SPDX-License-Identifier: MIT */
/*
 * Layer 0 of wav2vec 2.0: y = GELU(norm(conv(x) + bias)), one input channel. The group norm is
 * folded into filters for each clip (wave_norm.h).
 */
#include <string.h>

#include "ops/cpu/cpu.h"
#include "ops/cpu/wave_norm.h"

/* Floats of one packed filter bank without a norm. */
static int64_t filters_size(const ser_kernels *kernels, const ser_wave_conv_args *args)
{
    return cpu_ceil_div(ser_gemm_packed_size(kernels, args->w.rows, args->kernel), 16) * 16;
}

/* What folding needs; after it the packed filters where they are used as they are. */
static size_t forward_scratch(const ser_queue *queue, const ser_wave_conv_args *args)
{
    const cpu_queue *q = cpu_queue_of(queue);
    int64_t folded = ser_wave_fold_size(q->kernels, args) * args->rows_out.batch;
    int64_t plain = cpu_ceil_div(args->w.rows * args->kernel, 16) * 16 * q->threads;
    int64_t saved = args->z.rows > 0 ? filters_size(q->kernels, args) : 0;
    return ser_gemm_scratch(queue) + (size_t)(folded + plain + saved) * sizeof(float);
}

static gemm_call product_of(const ser_wave_conv_args *args, const ser_tensor *to,
                            const float *packed, int32_t activation)
{
    return (gemm_call){
        .a = args->pcm.data,
        .lda = args->stride,
        .a_pitch = args->rows_in.padded,
        .b = packed,
        .bias = args->bias.data,
        .c = to->data,
        .ldc = to->cols,
        .c_pitch = args->rows_out.padded * to->cols,
        .n = to->cols,
        .k = args->kernel,
        .entries = args->rows_out.batch,
        .rows = args->rows_out.valid,
        .max_rows = args->rows_out.padded,
        .activation = activation,
    };
}

/* y of the group norm: every clip with filters and biases of its own. */
static void run_folded(const ser_queue *queue, const ser_wave_conv_args *args, float *folded,
                       float *plain)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t batch = args->rows_out.batch;
    const int64_t pitch = ser_wave_fold_size(kernels, args);
    const int64_t plain_size = cpu_ceil_div(args->w.rows * args->kernel, 16) * 16;
    const int threads = batch > 1 ? cpu_queue_of(queue)->threads : 1;
    CPU_PARALLEL_FOR(threads, schedule(dynamic))
    for (int64_t b = 0; b < batch; b++) {
        ser_wave_fold_clip(kernels, args, b, folded + b * pitch, plain + cpu_thread() * plain_size);
    }
    gemm_call call = product_of(args, &args->y, folded, SER_ACT_GELU);
    call.b_pitch = pitch;
    call.bias = folded + ser_gemm_packed_size(kernels, args->w.rows, args->kernel);
    call.bias_pitch = pitch;
    ser_gemm_run(queue, &call);
}

int ser_cpu_wave_conv_fwd(ser_queue *queue, const ser_wave_conv_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t channels = args->w.rows;
    const bool by_clip = args->norm == SER_CONV_NORM_CLIP;
    const bool saves = args->z.data != NULL;
    const ser_tensor *z = saves ? &args->z : &args->y;
    const size_t plain_size = (size_t)(cpu_ceil_div(channels * args->kernel, 16) * 16) *
                              (size_t)cpu_queue_of(queue)->threads;
    float *folded = (float *)(void *)((char *)queue->scratch + ser_gemm_scratch(queue));
    float *plain = folded + ser_wave_fold_size(kernels, args) * args->rows_out.batch;
    float *packed = by_clip ? plain + plain_size : folded;
    if (!by_clip || saves) {
        const bool fused = args->norm == SER_CONV_NORM_NONE && !saves;
        ser_gemm_pack(kernels, args->w.data, args->kernel, 1, channels, args->kernel, packed);
        const gemm_call call = product_of(args, z, packed, fused ? SER_ACT_GELU : SER_ACT_NONE);
        ser_gemm_run(queue, &call);
        ser_cpu_zero_padding(z, &args->rows_out);
    }
    if (by_clip) {
        run_folded(queue, args, folded, plain);
    } else if (saves || args->norm == SER_CONV_NORM_LAYER) {
        const conv_tail tail = {.norm = args->norm,
                                .gamma = args->gamma.data,
                                .beta = args->beta.data,
                                .channels = channels};
        ser_cpu_conv_tail(queue, &tail, z, &args->rows_out, &args->y);
    }
    ser_cpu_zero_padding(&args->y, &args->rows_out);
    return 0;
}

/*
 * Backward, in chunks of frames, each with sums of its own, which are then added in order: dz of the
 * chunk and from it dw = sum_t dz_t p_t, p_t the patch of frame t. With the group norm du takes the
 * place of dz, and wave_norm.c makes the gradients of the sums.
 */
enum { CHUNK = 512 };

/* Where things are in the scratch. The sums of a chunk are dw [C, kernel], dbias, dgamma
 * and dbeta [C]. */
typedef struct backward_plan {
    int64_t chunks;      /* per clip */
    int64_t sums_size;   /* floats per chunk */
    int64_t thread_size; /* floats per thread: product, du, one normed row */
    size_t threads, sums, moments, affine, size;
} backward_plan;

static backward_plan plan_backward(const ser_queue *queue, const ser_wave_conv_args *args)
{
    const int64_t channels = args->w.rows;
    const int64_t batch = args->rows_out.batch;
    const int64_t by_clip = args->norm == SER_CONV_NORM_CLIP ? batch : 0;
    const int64_t kernel = args->kernel;
    backward_plan plan = {.chunks = cpu_ceil_div(args->rows_out.padded, CHUNK),
                          .sums_size = channels * (kernel + 3),
                          .thread_size = ser_gemm_tn_block_scratch() + (CHUNK + 1) * channels};
    plan.threads =
        cpu_carve(&plan.size, cpu_queue_of(queue)->threads * plan.thread_size, sizeof(float));
    plan.sums = cpu_carve(&plan.size, batch * plan.chunks * plan.sums_size, sizeof(float));
    plan.moments = cpu_carve(&plan.size, by_clip * kernel * (kernel + 1), sizeof(double));
    plan.affine = cpu_carve(&plan.size, by_clip * 2 * channels, sizeof(float));
    return plan;
}

size_t ser_cpu_wave_conv_scratch(const ser_queue *queue, const ser_wave_conv_args *args)
{
    const size_t forward = forward_scratch(queue, args);
    const size_t backward = args->dy.rows > 0 ? plan_backward(queue, args).size : 0;
    return backward > forward ? backward : forward;
}

/* dz (with the group norm du) of one row; `normed` is room for u. */
static void tail_row(const ser_kernels *kernels, const ser_wave_conv_args *args,
                     const float *affine, const conv_tail_row *row)
{
    const int64_t channels = args->w.rows;
    if (args->norm == SER_CONV_NORM_CLIP) {
        for (int64_t c = 0; c < channels; c++) {
            row->normed[c] = row->z[c] * affine[c] + affine[channels + c];
        }
        kernels->training->dropout_bwd(&(ser_dropout_row){.n = channels,
                                                          .activation = SER_ACT_GELU,
                                                          .x = row->normed,
                                                          .dy = row->dy,
                                                          .y = row->dz});
        return;
    }
    const conv_tail tail = {.norm = args->norm,
                            .gamma = args->gamma.data,
                            .beta = args->beta.data,
                            .channels = channels};
    ser_cpu_conv_tail_bwd(kernels, &tail, row);
}

/* The sums of the frames from `first` on of a clip. */
static void run_chunk(const ser_kernels *kernels, const ser_wave_conv_args *args, int64_t clip,
                      int64_t first, const float *affine, float *sums, float *scratch)
{
    const int64_t channels = args->w.rows;
    const int64_t count = cpu_min(CHUNK, args->rows_out.valid[clip] - first);
    float *ones = sums + channels * args->kernel;
    float *dz = scratch + ser_gemm_tn_block_scratch();
    memset(sums, 0, (size_t)(channels * (args->kernel + 3)) * sizeof(float));
    for (int64_t t = 0; t < count; t++) {
        const int64_t at = (clip * args->rows_out.padded + first + t) * channels;
        const conv_tail_row row = {.z = (const float *)args->z.data + at,
                                   .dy = (const float *)args->dy.data + at,
                                   .normed = dz + CHUNK * channels,
                                   .dz = dz + t * channels,
                                   .dgamma = ones + channels,
                                   .dbeta = ones + 2 * channels};
        tail_row(kernels, args, affine, &row);
        kernels->add(ones, row.dz, channels, ones);
    }
    const gemm_tn_call call = {.a = dz,
                               .lda = channels,
                               .b = (const float *)args->pcm.data + clip * args->rows_in.padded +
                                    first * args->stride,
                               .ldb = args->stride,
                               .c = sums,
                               .n = channels,
                               .k = args->kernel,
                               .groups = 1,
                               .entries = 1,
                               .max_rows = count};
    if (count > 0) {
        ser_gemm_tn_run_block(kernels, &call, scratch);
    }
}

static void add_to(const ser_kernels *kernels, const ser_tensor *gradient, const float *sums)
{
    if (gradient->data != NULL) {
        kernels->add(gradient->data, sums, gradient->rows * gradient->cols, gradient->data);
    }
}

/* The sums of all chunks, in order. */
static void add_sums(const ser_queue *queue, const ser_wave_conv_args *args,
                     const backward_plan *plan)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t channels = args->w.rows;
    const int64_t kernel = args->kernel;
    const bool by_clip = args->norm == SER_CONV_NORM_CLIP;
    const char *scratch = queue->scratch;
    const float *sums = (const float *)(const void *)(scratch + plan->sums);
    const double *moments = (const double *)(const void *)(scratch + plan->moments);
    for (int64_t b = 0; b < args->rows_out.batch && by_clip; b++) {
        const wave_clip_sums clip = {.sums = sums + b * plan->chunks * plan->sums_size,
                                     .chunks = plan->chunks,
                                     .size = plan->sums_size,
                                     .moments = moments + b * kernel * (kernel + 1)};
        if (args->rows_out.valid[b] > 0) {
            ser_wave_add_clip(args, &clip);
        }
    }
    for (int64_t i = 0; i < args->rows_out.batch * plan->chunks && !by_clip; i++) {
        const float *own = sums + i * plan->sums_size;
        add_to(kernels, &args->dw, own);
        add_to(kernels, &args->dbias, own + channels * kernel);
        add_to(kernels, &args->dgamma, own + channels * (kernel + 1));
        add_to(kernels, &args->dbeta, own + channels * (kernel + 2));
    }
}

int ser_cpu_wave_conv_bwd(ser_queue *queue, const ser_wave_conv_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const backward_plan plan = plan_backward(queue, args);
    const int64_t channels = args->w.rows;
    const int64_t batch = args->rows_out.batch;
    char *scratch = queue->scratch;
    float *threads_scratch = (float *)(void *)(scratch + plan.threads);
    float *sums = (float *)(void *)(scratch + plan.sums);
    float *affine = (float *)(void *)(scratch + plan.affine);
    double *moments = (double *)(void *)(scratch + plan.moments);
    const double values = (double)(batch * args->rows_out.padded * channels);
    const int threads = cpu_threads_for(queue, values * 2.0 * CPU_NS_PER_VALUE);
    if (args->norm == SER_CONV_NORM_CLIP) {
        CPU_PARALLEL_FOR(threads, schedule(dynamic))
        for (int64_t b = 0; b < batch; b++) {
            ser_wave_clip_moments(args, b, moments + b * args->kernel * (args->kernel + 1),
                                  affine + b * 2 * channels);
        }
    }
    CPU_PARALLEL_FOR(threads, schedule(dynamic))
    for (int64_t i = 0; i < batch * plan.chunks; i++) {
        const int64_t clip = i / plan.chunks;
        run_chunk(kernels, args, clip, i % plan.chunks * CHUNK, affine + clip * 2 * channels,
                  sums + i * plan.sums_size, threads_scratch + cpu_thread() * plan.thread_size);
    }
    add_sums(queue, args, &plan);
    return 0;
}
