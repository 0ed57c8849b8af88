/* SPDX-License-Identifier: MIT */
/* What the files of the CPU backend share. One file per op; cpu.c ends in the filled table. */
#ifndef SER_OPS_CPU_CPU_H
#define SER_OPS_CPU_CPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef _OPENMP
#include <omp.h>
#define CPU_PRAGMA(text) _Pragma(#text)
/* The loop that follows is shared by `threads` threads; further clauses may follow. */
#define CPU_PARALLEL_FOR(threads, ...)                                                             \
    CPU_PRAGMA(omp parallel for num_threads(threads) if ((threads) > 1) __VA_ARGS__)
#else
#define CPU_PARALLEL_FOR(threads, ...) (void)(threads);
#endif

#include "ops/cpu/gemm.h"
#include "ops/cpu/kernels.h"
#include "ops/ops.h"

struct ser_context {
    const ser_kernels *kernels;
    struct onednn *onednn; /* NULL: own products */
    char name[64];
};

typedef struct cpu_queue {
    ser_queue base;
    const ser_kernels *kernels;
    int32_t threads;
} cpu_queue;

static inline const cpu_queue *cpu_queue_of(const ser_queue *queue)
{
    return (const cpu_queue *)queue;
}

/* Index of the calling thread within the loop's team. */
static inline int cpu_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* Rough cost on one core of a multiply-add in a product, and of a value in an element-wise pass. */
#define CPU_NS_PER_MULTIPLY_ADD 0.02
#define CPU_NS_PER_VALUE        0.7

/*
 * Threads for a loop that takes `nanoseconds` on one core: each gets enough to be worth waking it.
 * On a quiet machine a team costs microseconds; on a busy one its barriers cost time slices, so
 * small networks stay on one thread.
 */
static inline int cpu_threads_for(const ser_queue *queue, double nanoseconds)
{
    const double least = 200e3;
    const int32_t threads = cpu_queue_of(queue)->threads;
    return nanoseconds < 2.0 * least       ? 1
           : nanoseconds < threads * least ? (int)(nanoseconds / least)
                                           : threads;
}

static inline int64_t cpu_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t cpu_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Scratch is carved in pieces of whole cache lines. */
static inline size_t cpu_round(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* The offset of a further piece of `count` values of `size` bytes; *total grows by it. */
static inline size_t cpu_carve(size_t *total, int64_t count, size_t size)
{
    const size_t at = *total;
    *total += cpu_round((size_t)count * size);
    return at;
}

/* Whether row r of a [batch * padded, C] matrix is a real one. */
static inline bool cpu_row_is_valid(const ser_rows *rows, int64_t r)
{
    return r % rows->padded < rows->valid[r / rows->padded];
}

/* What the kernels need to draw a dropout's mask: `mask`, filled, or NULL where nothing is dropped.
 */
const ser_dropout_mask *ser_cpu_dropout_mask(const ser_dropout *dropout, ser_dropout_mask *mask);

/* Write zeros to the invalid rows of y. */
void ser_cpu_zero_padding(const ser_tensor *y, const ser_rows *rows);

/* The tail of conv and wave_conv (conv_tail.c): y = GELU(norm(z)), norm NONE or LAYER, eps 1e-5. */
typedef struct conv_tail {
    int32_t norm;
    const float *gamma, *beta;
    int64_t channels;
} conv_tail;

/* On the valid rows; y may be z. */
void ser_cpu_conv_tail(const ser_queue *queue, const conv_tail *tail, const ser_tensor *z,
                       const ser_rows *rows, const ser_tensor *y);

/* Backward of one row. */
typedef struct conv_tail_row {
    const float *z, *dy;
    float *normed;         /* [C], room for the normed row; LAYER only */
    float *dz;             /* not dy */
    float *dgamma, *dbeta; /* added to, or NULL */
} conv_tail_row;
void ser_cpu_conv_tail_bwd(const ser_kernels *kernels, const conv_tail *tail,
                           const conv_tail_row *row);

/* The ops; what they compute stands in ops/ops.h, how in the file of the same name. */
int ser_cpu_gather(ser_queue *queue, const ser_gather_args *args);
int ser_cpu_log_mel_fwd(ser_queue *queue, const ser_log_mel_args *args);
size_t ser_cpu_log_mel_scratch(const ser_queue *queue, const ser_log_mel_args *args);
int ser_cpu_mel_warp_fwd(ser_queue *queue, const ser_mel_warp_args *args);
int ser_cpu_wave_conv_fwd(ser_queue *queue, const ser_wave_conv_args *args);
size_t ser_cpu_wave_conv_scratch(const ser_queue *queue, const ser_wave_conv_args *args);
int ser_cpu_wave_conv_bwd(ser_queue *queue, const ser_wave_conv_args *args);
int ser_cpu_conv_fwd(ser_queue *queue, const ser_conv_args *args);
size_t ser_cpu_conv_scratch(const ser_queue *queue, const ser_conv_args *args);
int ser_cpu_conv_bwd(ser_queue *queue, const ser_conv_args *args);
int ser_cpu_linear_fwd(ser_queue *queue, const ser_linear_args *args);
size_t ser_cpu_linear_scratch(const ser_queue *queue, const ser_linear_args *args);
int ser_cpu_linear_bwd(ser_queue *queue, const ser_linear_args *args);
int ser_cpu_pos_conv_fwd(ser_queue *queue, const ser_pos_conv_args *args);
size_t ser_cpu_pos_conv_scratch(const ser_queue *queue, const ser_pos_conv_args *args);
int ser_cpu_pos_conv_bwd(ser_queue *queue, const ser_pos_conv_args *args);
int ser_cpu_weight_norm_fwd(ser_queue *queue, const ser_weight_norm_args *args);
size_t ser_cpu_weight_norm_scratch(const ser_queue *queue, const ser_weight_norm_args *args);
int ser_cpu_weight_norm_bwd(ser_queue *queue, const ser_weight_norm_args *args);
int ser_cpu_residual_norm_fwd(ser_queue *queue, const ser_residual_norm_args *args);
size_t ser_cpu_residual_norm_scratch(const ser_queue *queue, const ser_residual_norm_args *args);
int ser_cpu_residual_norm_bwd(ser_queue *queue, const ser_residual_norm_args *args);
int ser_cpu_attention_fwd(ser_queue *queue, const ser_attention_args *args);
size_t ser_cpu_attention_scratch(const ser_queue *queue, const ser_attention_args *args);
int ser_cpu_attention_bwd(ser_queue *queue, const ser_attention_args *args);
int ser_cpu_layer_mix_fwd(ser_queue *queue, const ser_layer_mix_args *args);
size_t ser_cpu_layer_mix_scratch(const ser_queue *queue, const ser_layer_mix_args *args);
int ser_cpu_layer_mix_bwd(ser_queue *queue, const ser_layer_mix_args *args);
int ser_cpu_attn_pool_fwd(ser_queue *queue, const ser_attn_pool_args *args);
size_t ser_cpu_attn_pool_scratch(const ser_queue *queue, const ser_attn_pool_args *args);
int ser_cpu_attn_pool_bwd(ser_queue *queue, const ser_attn_pool_args *args);
int ser_cpu_cross_entropy_fwd(ser_queue *queue, const ser_cross_entropy_args *args);
int ser_cpu_cross_entropy_bwd(ser_queue *queue, const ser_cross_entropy_args *args);
int ser_cpu_dropout_fwd(ser_queue *queue, const ser_dropout_args *args);
int ser_cpu_dropout_bwd(ser_queue *queue, const ser_dropout_args *args);
int ser_cpu_span_mask(ser_queue *queue, const ser_span_mask_args *args);
int ser_cpu_sum_squares(ser_queue *queue, const ser_sum_squares_args *args);
size_t ser_cpu_sum_squares_scratch(const ser_queue *queue, const ser_sum_squares_args *args);
int ser_cpu_adamw(ser_queue *queue, const ser_adamw_args *args);

#endif
