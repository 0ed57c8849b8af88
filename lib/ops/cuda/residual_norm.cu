/* SPDX-License-Identifier: MIT */
/*
 * sum = x + dropout(h); y = (sum - mean) / sqrt(var + eps) * gamma + beta, mean and variance over
 * the channels of a row (Ba et al. 2016, Layer Normalization).
 *
 * A warp per row: whole rows in registers where they fit, else in three passes over memory. Padding
 * is taken along like any row: its values are free, and rows do not mix.
 *
 * Where the sum is stored, the norm sees what was stored, rounded to bf16: backward computes xhat
 * from the stored sum with the saved statistics, and xhat must have mean 0 and variance 1 there.
 * A sum that is not stored stays in f32.
 */
#include <ser/common.h>

#include "ops/cuda/philox.cuh"
#include "ops/cuda/residual_norm.cuh"

namespace
{

constexpr int MOST_WARPS = 4;
constexpr int MOST_ROUNDS = 8;

/* Everything may be in place of x or h: no pointer is __restrict__, and an element is read and
 * written by one lane only. */
template <typename T> struct forward {
    const T *x;         /* [rows, channels] */
    const T *h;         /* [rows, channels] or NULL */
    const float *gamma; /* [channels], with y */
    const float *beta;
    T *sum;       /* [rows, channels] or NULL */
    T *y;         /* [rows, channels] or NULL */
    float *stats; /* [rows, 2] or NULL */
    int64_t rows;
    int32_t channels;
    float eps;
    dropout_rule rule;
};

__device__ __forceinline__ int64_t row_of_warp()
{
    return int64_t{blockIdx.x} * (blockDim.x / WARP) + threadIdx.x / WARP;
}

/* A value as memory will give it back. */
template <typename T> __device__ __forceinline__ float as_stored(float x)
{
    return to_float(from_float<T>(x));
}

/* 1 / sqrt(var + eps) from the lanes' sums of squared deviations; saves the statistics. */
template <typename T>
__device__ __forceinline__ float finish_stats(const forward<T> &a, int64_t row, float mean,
                                              float squares)
{
    const float variance = warp_sum(squares) / static_cast<float>(a.channels);
    const float inverse = 1.0f / sqrtf(variance + a.eps);
    if (a.stats != nullptr && threadIdx.x % WARP == 0) {
        a.stats[2 * row] = mean;
        a.stats[2 * row + 1] = inverse;
    }
    return inverse;
}

/* v = sum, a pack per lane and round, and stores it; packs beyond the row are 0. All loads come
 * first: they are what the kernel waits for. */
template <typename T, int ROUNDS>
__device__ __forceinline__ void add_row(const forward<T> &a, int64_t first, int32_t begin,
                                        float (&v)[ROUNDS][PACK])
{
    raw_pack<T> x[ROUNDS];
    raw_pack<T> h[ROUNDS];
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int32_t c = begin + j * WARP * PACK;
        x[j] = load_raw(a.x, first + c, c < a.channels);
        h[j] = load_raw(a.h, first + c, c < a.channels && a.h != nullptr);
    }
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int32_t c = begin + j * WARP * PACK;
        unpack(x[j], v[j]);
        if (a.h != nullptr) {
            float added[PACK];
            float factors[PACK];
            unpack(h[j], added);
            dropout_factors(a.rule, static_cast<uint64_t>(first + c) / PACK, factors);
#pragma unroll
            for (int i = 0; i < PACK; i++) {
                v[j][i] += added[i] * factors[i];
            }
            x[j] = pack<T>(v[j]);
        }
        if (a.sum != nullptr && c < a.channels) {
            store_raw(a.sum + first + c, x[j]);
            unpack(x[j], v[j]);
        }
    }
}

/* channels is a multiple of a pack, at most ROUNDS packs per lane; everything is aligned. */
template <typename T, int ROUNDS>
__global__ void __launch_bounds__(MOST_WARPS *WARP) norm_in_registers(const forward<T> a)
{
    wait_for_previous();
    const int64_t row = row_of_warp();
    if (row >= a.rows) {
        return;
    }
    const int64_t first = row * a.channels;
    const int32_t begin = static_cast<int32_t>(threadIdx.x % WARP) * PACK;
    float v[ROUNDS][PACK];
    add_row<T, ROUNDS>(a, first, begin, v);
    if (a.y == nullptr && a.stats == nullptr) {
        return;
    }
    raw_pack<float> gamma[ROUNDS]; /* on their way while the warp finds mean and variance */
    raw_pack<float> beta[ROUNDS];
    float total = 0.0f;
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int32_t c = begin + j * WARP * PACK;
        gamma[j] = load_raw(a.gamma, c, c < a.channels && a.y != nullptr);
        beta[j] = load_raw(a.beta, c, c < a.channels && a.y != nullptr);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            total += v[j][i];
        }
    }
    const float mean = warp_sum(total) / static_cast<float>(a.channels);
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const bool live = begin + j * WARP * PACK < a.channels;
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            const float d = v[j][i] - mean;
            squares += live ? d * d : 0.0f;
        }
    }
    const float inverse = finish_stats(a, row, mean, squares);
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int32_t c = begin + j * WARP * PACK;
        float scale[PACK];
        float shift[PACK];
        unpack(gamma[j], scale);
        unpack(beta[j], shift);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            v[j][i] = (v[j][i] - mean) * inverse * scale[i] + shift[i];
        }
        if (a.y != nullptr && c < a.channels) {
            store_pack(a.y + first + c, v[j]);
        }
    }
}

/* Element e of the sum, computed anew, or as the first pass stored it (sum may be x). */
template <typename T> __device__ __forceinline__ float sum_of(const forward<T> &a, int64_t e)
{
    if (a.sum != nullptr) {
        return to_float(a.sum[e]);
    }
    const float x = to_float(a.x[e]);
    return a.h != nullptr ? x + to_float(a.h[e]) * dropout_factor(a.rule, static_cast<uint64_t>(e))
                          : x;
}

/* Any number of channels, any alignment. */
template <typename T>
__global__ void __launch_bounds__(MOST_WARPS *WARP) norm_in_passes(const forward<T> a)
{
    wait_for_previous();
    const int64_t row = row_of_warp();
    if (row >= a.rows) {
        return;
    }
    const int64_t begin = row * a.channels + threadIdx.x % WARP;
    const int64_t end = (row + 1) * a.channels;
    forward<T> unstored = a;
    unstored.sum = nullptr;
    float total = 0.0f;
    for (int64_t e = begin; e < end; e += WARP) {
        float v = sum_of(unstored, e);
        if (a.sum != nullptr) {
            a.sum[e] = from_float<T>(v);
            v = as_stored<T>(v);
        }
        total += v;
    }
    if (a.y == nullptr && a.stats == nullptr) {
        return;
    }
    const float mean = warp_sum(total) / static_cast<float>(a.channels);
    float squares = 0.0f;
    for (int64_t e = begin; e < end; e += WARP) {
        const float d = sum_of(a, e) - mean;
        squares += d * d;
    }
    const float inverse = finish_stats(a, row, mean, squares);
    for (int64_t e = begin; a.y != nullptr && e < end; e += WARP) {
        const int64_t c = e - row * a.channels;
        a.y[e] = from_float<T>((sum_of(a, e) - mean) * inverse * a.gamma[c] + a.beta[c]);
    }
}

template <typename T> bool fits_registers(const forward<T> &a)
{
    return a.channels % PACK == 0 && a.channels <= MOST_ROUNDS * WARP * PACK &&
           ser_pack_aligned(a.x) && ser_pack_aligned(a.h) && ser_pack_aligned(a.gamma) &&
           ser_pack_aligned(a.beta) && ser_pack_aligned(a.sum) && ser_pack_aligned(a.y);
}

template <typename T> auto kernel_for(const forward<T> &a) -> void (*)(forward<T>)
{
    if (!fits_registers(a)) {
        return norm_in_passes<T>;
    }
    switch (cuda_ceil_div(a.channels, WARP * PACK)) {
    case 1: return norm_in_registers<T, 1>;
    case 2: return norm_in_registers<T, 2>;
    case 3: return norm_in_registers<T, 3>;
    case 4: return norm_in_registers<T, 4>;
    default: return norm_in_registers<T, MOST_ROUNDS>;
    }
}

/* Few rows are spread over as many multiprocessors as there are. */
template <typename T> int launch(ser_queue *queue, const ser_residual_norm_args *args)
{
    const bool adds = args->h.data != nullptr;
    const bool stores = adds || args->sum.data != args->x.data;
    const forward<T> a = {
        .x = static_cast<const T *>(args->x.data),
        .h = static_cast<const T *>(args->h.data),
        .gamma = static_cast<const float *>(args->gamma.data),
        .beta = static_cast<const float *>(args->beta.data),
        .sum = stores ? static_cast<T *>(args->sum.data) : nullptr,
        .y = static_cast<T *>(args->y.data),
        .stats = static_cast<float *>(args->stats.data),
        .rows = args->x.rows,
        .channels = static_cast<int32_t>(args->x.cols),
        .eps = args->eps,
        .rule = dropout_rule_of(adds ? args->dropout : ser_dropout{}),
    };
    if (a.sum == nullptr && a.y == nullptr && a.stats == nullptr) {
        return 0;
    }
    const unsigned warps = a.rows < int64_t{MOST_WARPS} * queue->context->multiprocessors
                               ? 1
                               : static_cast<unsigned>(MOST_WARPS);
    return ser_launch_early(queue, {ser_grid(a.rows, warps), warps * WARP, 0}, kernel_for(a), a);
}

} // namespace

int ser_cuda_residual_norm_fwd(ser_queue *queue, const ser_residual_norm_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return args->x.type == SER_BF16 ? launch<bf16>(queue, args) : launch<float>(queue, args);
}

size_t ser_cuda_residual_norm_scratch(const ser_queue *queue, const ser_residual_norm_args *args)
{
    if (args->dgamma.rows == 0 && args->dbeta.rows == 0) {
        return 0;
    }
    const int64_t blocks = residual_norm_most_blocks(queue, args->x.rows);
    return static_cast<size_t>(blocks * 2 * args->x.cols) * sizeof(float);
}
