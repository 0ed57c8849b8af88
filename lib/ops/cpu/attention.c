/* SPDX-License-Identifier: MIT */
/*
 * Per clip and head: S = scale Q K^T, P = softmax(S) by rows, Y = P V (Vaswani et al. 2017). Keys
 * and values of the head are packed once; then blocks of query rows go through both products while
 * their scores stay in the cache, so memory grows with T, not with T^2.
 */
#include "ops/cpu/cpu.h"

enum { QUERY_ROWS = 48 };

/* Pieces of one thread's scratch, in floats. */
typedef struct layout {
    int64_t keys, values, scores, product, total;
} layout;

static layout plan(const ser_queue *queue, const ser_attention_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t width = args->y.cols / args->heads;
    const int64_t frames = args->rows.padded;
    layout l = {.keys = 0};
    l.values = l.keys + cpu_ceil_div(ser_gemm_packed_size(kernels, frames, width), 16) * 16;
    l.scores = l.values + cpu_ceil_div(ser_gemm_packed_size(kernels, width, frames), 16) * 16;
    l.product = l.scores + cpu_ceil_div(QUERY_ROWS * frames, 16) * 16;
    l.total = l.product + ser_gemm_block_scratch();
    return l;
}

size_t ser_cpu_attention_scratch(const ser_queue *queue, const ser_attention_args *args)
{
    return (size_t)plan(queue, args).total * (size_t)cpu_queue_of(queue)->threads * sizeof(float);
}

static void one_head(const ser_kernels *kernels, const ser_attention_args *args, int64_t task,
                     const layout *l, float *scratch)
{
    const int64_t clip = task / args->heads;
    const int64_t head = task % args->heads;
    const int64_t channels = args->y.cols;
    const int64_t width = channels / args->heads;
    const int64_t pitch = 3 * channels;
    const int64_t frames = args->rows.valid[clip];
    const float *q =
        (const float *)args->qkv.data + clip * args->rows.padded * pitch + head * width;
    float *y = (float *)args->y.data + clip * args->rows.padded * channels + head * width;
    float *scores = scratch + l->scores;

    ser_gemm_pack(kernels, q + channels, pitch, 1, frames, width, scratch + l->keys);
    ser_gemm_pack(kernels, q + 2 * channels, 1, pitch, width, frames, scratch + l->values);
    for (int64_t t = 0; t < frames; t += QUERY_ROWS) {
        const int64_t rows = cpu_min(QUERY_ROWS, frames - t);
        const gemm_block qk = {.a = q + t * pitch,
                               .lda = pitch,
                               .b = scratch + l->keys,
                               .c = scores,
                               .ldc = frames,
                               .m = rows,
                               .n = frames,
                               .k = width,
                               .last_panel = cpu_ceil_div(frames, kernels->nr)};
        ser_gemm_run_block(kernels, &qk, scratch + l->product);
        for (int64_t i = 0; i < rows; i++) {
            kernels->softmax(scores + i * frames, frames, args->scale);
        }
        const gemm_block pv = {.a = scores,
                               .lda = frames,
                               .b = scratch + l->values,
                               .c = y + t * channels,
                               .ldc = channels,
                               .m = rows,
                               .n = width,
                               .k = frames,
                               .last_panel = cpu_ceil_div(width, kernels->nr)};
        ser_gemm_run_block(kernels, &pv, scratch + l->product);
    }
}

int ser_cpu_attention_fwd(ser_queue *queue, const ser_attention_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const layout l = plan(queue, args);
    const int64_t tasks = args->rows.batch * args->heads;
    const double work = (double)args->rows.batch * (double)args->rows.padded *
                        (double)args->rows.padded * (double)args->y.cols * 2.0;
    const int threads = cpu_threads_for(queue, work * CPU_NS_PER_MULTIPLY_ADD);
    float *scratch = queue->scratch;
    CPU_PARALLEL_FOR(threads, schedule(dynamic))
    for (int64_t task = 0; task < tasks; task++) {
        one_head(kernels, args, task, &l, scratch + cpu_thread() * l.total);
    }
    ser_cpu_zero_padding(&args->y, &args->rows);
    return 0;
}
