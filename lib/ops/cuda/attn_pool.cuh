/* SPDX-License-Identifier: MIT */
/* What attention pooling does in both directions: products of rows, sums over the frames of a clip.
 * Only for attn_pool.cu. */
#ifndef SER_OPS_CUDA_ATTN_POOL_CUH
#define SER_OPS_CUDA_ATTN_POOL_CUH

#include "ops/cuda/packs.cuh"

namespace
{

constexpr int SCORE_THREADS = 1024;
constexpr int SUM_WARPS = 16;

/* u . w, in every lane. `aligned`: both of them. */
template <typename U>
__device__ __forceinline__ float row_dot(const U *u, const float *w, int64_t width, bool aligned)
{
    float dot = 0.0f;
    for (int64_t i = threadIdx.x % WARP * PACK; i < width; i += WARP * PACK) {
        float x[PACK];
        float y[PACK];
        load_pack(u + i, width - i, aligned, x);
        load_pack(w + i, width - i, aligned, y);
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            dot += x[j] * y[j];
        }
    }
    return warp_sum(dot);
}

/* The sum of term(i), i < count, by a block of SUM_WARPS warps: each takes every 16th, the warps'
 * sums are added in order, for the same bits. Every lane has a sum of its own, in warp 0. */
template <typename Term>
__device__ __forceinline__ float sum_by_warps(int64_t count, const Term &term)
{
    __shared__ float partial[SUM_WARPS][WARP];
    const unsigned lane = threadIdx.x % WARP;
    float sum = 0.0f;
#pragma unroll 4
    for (int64_t i = threadIdx.x / WARP; i < count; i += SUM_WARPS) {
        sum += term(i);
    }
    partial[threadIdx.x / WARP][lane] = sum;
    __syncthreads();
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < SUM_WARPS; i++) {
        sum += partial[i][lane];
    }
    return sum;
}

template <typename X> struct frame_sum {
    const X *x;           /* [batch * padded, channels] */
    const float *factors; /* [batch * padded] */
    const int32_t *valid; /* [batch] */
    float *y;             /* [batch, channels] */
    int64_t padded, channels;
};

/* y = sum_t factor_t x_t. A block per clip and 32 channels, so that one clip alone has many
 * multiprocessors; a lane has a channel. */
template <typename X>
__global__ void __launch_bounds__(SUM_WARPS *WARP) weighted_sum(const frame_sum<X> a)
{
    wait_for_previous();
    const int64_t channel = int64_t{blockIdx.y} * WARP + threadIdx.x % WARP;
    const int64_t first = int64_t{blockIdx.x} * a.padded;
    const bool exists = channel < a.channels;
    const X *x = a.x + first * a.channels + channel;
    const float *factors = a.factors + first;
    const float sum = sum_by_warps(exists ? a.valid[blockIdx.x] : 0, [=](int64_t t) {
        return factors[t] * to_float(x[t * a.channels]);
    });
    if (exists && threadIdx.x < WARP) {
        a.y[blockIdx.x * a.channels + channel] = sum;
    }
}

/* y = sum_t factor_t x_t per clip. */
template <typename X>
int launch_sum(ser_queue *queue, const ser_tensor &x, const ser_rows &rows, const void *factors,
               void *y)
{
    const frame_sum<X> a = {
        .x = static_cast<const X *>(x.data),
        .factors = static_cast<const float *>(factors),
        .valid = rows.valid,
        .y = static_cast<float *>(y),
        .padded = rows.padded,
        .channels = x.cols,
    };
    dim3 grid = ser_grid(rows.batch, 1);
    grid.y = static_cast<unsigned>(cuda_ceil_div(a.channels, WARP));
    return ser_launch_early(queue, {grid, SUM_WARPS * WARP, 0}, weighted_sum<X>, a);
}

} // namespace

#endif
