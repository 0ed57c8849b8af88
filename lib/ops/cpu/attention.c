/* SPDX-License-Identifier: MIT */
/*
 * Per clip and head: S = scale Q K^T, P = softmax(S) by rows, Y = dropout(P) V (Vaswani et al.
 * 2017). Keys and values of the head are packed once; then blocks of query rows go through both
 * products while their scores stay in the cache, so memory grows with T, not with T^2.
 */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu.h"

enum { QUERY_ROWS = 48 };

/* Pieces of one thread's scratch, in floats. */
typedef struct layout {
    int64_t keys, values, scores, product, total;
    int64_t dp, keys_across, dk, dv, product_across; /* backward */
} layout;

/* A piece of `size` floats at the end of what there is. */
static int64_t add_piece(layout *l, int64_t size)
{
    const int64_t at = l->total;
    l->total += cpu_ceil_div(size, 16) * 16;
    return at;
}

static layout plan(const ser_queue *queue, const ser_attention_args *args, bool backward)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t width = args->y.cols / args->heads;
    const int64_t frames = args->rows.padded;
    const int64_t by_frames = ser_gemm_packed_size(kernels, frames, width);
    const int64_t by_width = ser_gemm_packed_size(kernels, width, frames);
    layout l = {.total = 0};
    l.keys = add_piece(&l, by_frames);
    l.values = add_piece(&l, backward ? by_frames : by_width);
    l.scores = add_piece(&l, QUERY_ROWS * frames);
    if (backward) {
        l.dp = add_piece(&l, QUERY_ROWS * frames);
        l.keys_across = add_piece(&l, by_width);
        l.dk = add_piece(&l, frames * width);
        l.dv = add_piece(&l, frames * width);
        l.product_across = add_piece(&l, ser_gemm_tn_block_scratch());
    }
    l.product = add_piece(&l, ser_gemm_block_scratch());
    return l;
}

size_t ser_cpu_attention_scratch(const ser_queue *queue, const ser_attention_args *args)
{
    const layout l = plan(queue, args, args->dqkv.rows > 0);
    return (size_t)l.total * (size_t)cpu_queue_of(queue)->threads * sizeof(float);
}

/* What the tasks of a call share. */
typedef struct work {
    const ser_kernels *kernels;
    const ser_attention_args *args;
    const ser_dropout_mask *mask; /* or NULL */
    layout l;
} work;

/* Where a head's slices stand: `at` in floats from the start of y and qkv, whose frames are
 * `channels` and `pitch` apart. */
typedef struct head_slice {
    int64_t clip, head, frames;
    int64_t width;
    int64_t channels, pitch;
    int64_t y_at, qkv_at;
} head_slice;

static head_slice slice_of(const ser_attention_args *args, int64_t task)
{
    const int64_t channels = args->y.cols;
    head_slice s = {.clip = task / args->heads,
                    .head = task % args->heads,
                    .width = channels / args->heads,
                    .channels = channels,
                    .pitch = 3 * channels};
    s.frames = args->rows.valid[s.clip];
    s.y_at = s.clip * args->rows.padded * s.channels + s.head * s.width;
    s.qkv_at = s.clip * args->rows.padded * s.pitch + s.head * s.width;
    return s;
}

/* Element of the dropout mask where a query's keys begin (ops.h). */
static uint64_t first_element(const ser_attention_args *args, const head_slice *s, int64_t query)
{
    return (uint64_t)(((s->clip * args->heads + s->head) * args->rows.padded + query) *
                      args->rows.padded);
}

/* Softmax and dropout of one row of scores; lse = scale max + log sum exp(scale (s - max)). */
static void one_row(const work *w, const head_slice *s, int64_t query, float *scores)
{
    const ser_attention_args *args = w->args;
    const ser_training_kernels *training = w->kernels->training;
    const bool saves = args->lse.data != NULL;
    const float top = saves ? training->max(scores, s->frames) : 0.0F;
    w->kernels->softmax(scores, s->frames, args->scale);
    if (saves) { /* the largest probability is 1 / sum */
        float *lse = (float *)args->lse.data + (s->clip * args->rows.padded + query) * args->heads;
        lse[s->head] = args->scale * top - logf(training->max(scores, s->frames));
    }
    if (w->mask != NULL) {
        training->dropout(&(ser_dropout_row){.mask = w->mask,
                                             .first = first_element(args, s, query),
                                             .n = s->frames,
                                             .x = scores,
                                             .y = scores});
    }
}

static void one_head(const work *w, int64_t task, float *scratch)
{
    const ser_kernels *kernels = w->kernels;
    const head_slice s = slice_of(w->args, task);
    const float *q = (const float *)w->args->qkv.data + s.qkv_at;
    float *y = (float *)w->args->y.data + s.y_at;
    float *scores = scratch + w->l.scores;

    ser_gemm_pack(kernels, q + s.channels, s.pitch, 1, s.frames, s.width, scratch + w->l.keys);
    ser_gemm_pack(kernels, q + 2 * s.channels, 1, s.pitch, s.width, s.frames,
                  scratch + w->l.values);
    for (int64_t t = 0; t < s.frames; t += QUERY_ROWS) {
        const int64_t rows = cpu_min(QUERY_ROWS, s.frames - t);
        const gemm_block qk = {.a = q + t * s.pitch,
                               .lda = s.pitch,
                               .b = scratch + w->l.keys,
                               .c = scores,
                               .ldc = s.frames,
                               .m = rows,
                               .n = s.frames,
                               .k = s.width,
                               .last_panel = cpu_ceil_div(s.frames, kernels->nr)};
        ser_gemm_run_block(kernels, &qk, scratch + w->l.product);
        for (int64_t i = 0; i < rows; i++) {
            one_row(w, &s, t + i, scores + i * s.frames);
        }
        const gemm_block pv = {.a = scores,
                               .lda = s.frames,
                               .b = scratch + w->l.values,
                               .c = y + t * s.channels,
                               .ldc = s.channels,
                               .m = rows,
                               .n = s.width,
                               .k = s.frames,
                               .last_panel = cpu_ceil_div(s.width, kernels->nr)};
        ser_gemm_run_block(kernels, &pv, scratch + w->l.product);
    }
}

/* Threads for `products` products of every query with every key. */
static int threads_of(const ser_queue *queue, const ser_attention_args *args, double products)
{
    const double frames = (double)args->rows.padded;
    const double product = (double)args->rows.batch * frames * frames * (double)args->y.cols;
    return cpu_threads_for(queue, products * product * CPU_NS_PER_MULTIPLY_ADD);
}

int ser_cpu_attention_fwd(ser_queue *queue, const ser_attention_args *args)
{
    ser_dropout_mask drawn;
    const work w = {.kernels = cpu_queue_of(queue)->kernels,
                    .args = args,
                    .mask = ser_cpu_dropout_mask(&args->dropout, &drawn),
                    .l = plan(queue, args, false)};
    const int64_t tasks = args->rows.batch * args->heads;
    const int threads = threads_of(queue, args, 2.0);
    float *scratch = queue->scratch;
    CPU_PARALLEL_FOR(threads, schedule(dynamic))
    for (int64_t task = 0; task < tasks; task++) {
        one_head(&w, task, scratch + cpu_thread() * w.l.total);
    }
    ser_cpu_zero_padding(&args->y, &args->rows);
    if (args->lse.data != NULL) {
        ser_cpu_zero_padding(&args->lse, &args->rows);
    }
    return 0;
}

/*
 * With P_ij = exp(scale q_i k_j - lse_i), f the factors of dropout, and dP' = dY V^T:
 *   dV = (f P)^T dY;  dS = scale P (f dP' - D), D_i = sum_j P_ij f_ij dP'_ij = dy_i . y_i;
 *   dQ = dS K;  dK = dS^T Q
 * The probabilities are made again from lse, block of queries by block (Dao et al. 2022,
 * FlashAttention, algorithm 4).
 */
static void score_rows_bwd(const work *w, const head_slice *s, int64_t first, int64_t rows,
                           float *scratch)
{
    const ser_attention_args *args = w->args;
    for (int64_t i = 0; i < rows; i++) {
        const int64_t t = first + i;
        const int64_t y_at = s->y_at + t * s->channels;
        const float *lse =
            (const float *)args->lse.data + (s->clip * args->rows.padded + t) * args->heads;
        w->kernels->training->score_bwd(
            &(ser_score_row){.mask = w->mask,
                             .first = first_element(args, s, t),
                             .n = s->frames,
                             .scale = args->scale,
                             .lse = lse[s->head],
                             .dot = w->kernels->dot((const float *)args->dy.data + y_at,
                                                    (const float *)args->y.data + y_at, s->width),
                             .scores = scratch + w->l.scores + i * s->frames,
                             .dp = scratch + w->l.dp + i * s->frames});
    }
}

static void query_rows_bwd(const work *w, const head_slice *s, int64_t t, float *scratch)
{
    const ser_kernels *kernels = w->kernels;
    const int64_t rows = cpu_min(QUERY_ROWS, s->frames - t);
    const float *q = (const float *)w->args->qkv.data + s->qkv_at + t * s->pitch;
    const float *dy = (const float *)w->args->dy.data + s->y_at + t * s->channels;
    float *product = scratch + w->l.product;
    gemm_block block = {.a = q,
                        .lda = s->pitch,
                        .b = scratch + w->l.keys,
                        .c = scratch + w->l.scores,
                        .ldc = s->frames,
                        .m = rows,
                        .n = s->frames,
                        .k = s->width,
                        .last_panel = cpu_ceil_div(s->frames, kernels->nr)};
    ser_gemm_run_block(kernels, &block, product);
    block.a = dy;
    block.lda = s->channels;
    block.b = scratch + w->l.values;
    block.c = scratch + w->l.dp;
    ser_gemm_run_block(kernels, &block, product);
    score_rows_bwd(w, s, t, rows, scratch);

    const gemm_block dq = {.a = scratch + w->l.dp,
                           .lda = s->frames,
                           .b = scratch + w->l.keys_across,
                           .c = (float *)w->args->dqkv.data + s->qkv_at + t * s->pitch,
                           .ldc = s->pitch,
                           .m = rows,
                           .n = s->width,
                           .k = s->frames,
                           .last_panel = cpu_ceil_div(s->width, kernels->nr)};
    ser_gemm_run_block(kernels, &dq, product);
    gemm_tn_call across = {.a = scratch + w->l.scores,
                           .lda = s->frames,
                           .b = dy,
                           .ldb = s->channels,
                           .c = scratch + w->l.dv,
                           .n = s->frames,
                           .k = s->width,
                           .groups = 1,
                           .entries = 1,
                           .max_rows = rows};
    ser_gemm_tn_run_block(kernels, &across, scratch + w->l.product_across);
    across.a = scratch + w->l.dp;
    across.b = q;
    across.ldb = s->pitch;
    across.c = scratch + w->l.dk;
    ser_gemm_tn_run_block(kernels, &across, scratch + w->l.product_across);
}

static void one_head_bwd(const work *w, int64_t task, float *scratch)
{
    const ser_kernels *kernels = w->kernels;
    const head_slice s = slice_of(w->args, task);
    const float *k = (const float *)w->args->qkv.data + s.qkv_at + s.channels;
    const float *dk = scratch + w->l.dk;
    const float *dv = scratch + w->l.dv;
    const size_t row_size = (size_t)s.width * sizeof(float);
    ser_gemm_pack(kernels, k, s.pitch, 1, s.frames, s.width, scratch + w->l.keys);
    ser_gemm_pack(kernels, k + s.channels, s.pitch, 1, s.frames, s.width, scratch + w->l.values);
    ser_gemm_pack(kernels, k, 1, s.pitch, s.width, s.frames, scratch + w->l.keys_across);
    memset(scratch + w->l.dk, 0, (size_t)s.frames * row_size);
    memset(scratch + w->l.dv, 0, (size_t)s.frames * row_size);
    for (int64_t t = 0; t < s.frames; t += QUERY_ROWS) {
        query_rows_bwd(w, &s, t, scratch);
    }
    for (int64_t t = 0; t < s.frames; t++) {
        float *to = (float *)w->args->dqkv.data + s.qkv_at + t * s.pitch + s.channels;
        memcpy(to, dk + t * s.width, row_size);
        memcpy(to + s.channels, dv + t * s.width, row_size);
    }
}

int ser_cpu_attention_bwd(ser_queue *queue, const ser_attention_args *args)
{
    ser_dropout_mask drawn;
    const work w = {.kernels = cpu_queue_of(queue)->kernels,
                    .args = args,
                    .mask = ser_cpu_dropout_mask(&args->dropout, &drawn),
                    .l = plan(queue, args, true)};
    const int64_t tasks = args->rows.batch * args->heads;
    const int threads = threads_of(queue, args, 5.0);
    float *scratch = queue->scratch;
    CPU_PARALLEL_FOR(threads, schedule(dynamic))
    for (int64_t task = 0; task < tasks; task++) {
        one_head_bwd(&w, task, scratch + cpu_thread() * w.l.total);
    }
    ser_cpu_zero_padding(&args->dqkv, &args->rows);
    return 0;
}
