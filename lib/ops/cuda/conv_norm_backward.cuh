/* SPDX-License-Identifier: MIT */
/*
 * Backward of y = GELU(LayerNorm(z)). With u = xhat gamma + beta and du = dy GELU'(u):
 *   dbeta += sum over rows of du;  dgamma += sum over rows of du xhat
 *   dz = inverse (g - mean(g) - xhat mean(g xhat)),  g = du gamma, means over the channels
 * xhat is made anew from z, as forward made it.
 *
 * A block goes through many rows and leaves its sums for dgamma and dbeta in the scratch.
 */
#ifndef SER_OPS_CUDA_CONV_NORM_BACKWARD_CUH
#define SER_OPS_CUDA_CONV_NORM_BACKWARD_CUH

#include "ops/cuda/column_sums.cuh"
#include "ops/cuda/conv_tail.cuh"

namespace
{

template <typename T> struct gradients {
    const T *z, *dy;    /* [batch * padded, channels] */
    const float *gamma; /* [channels], with the norm */
    const float *beta;
    T *dz;           /* [batch * padded, channels] */
    float *partials; /* [blocks, 2, channels] or NULL: of dgamma, of dbeta */
    ser_rows rows;
    int32_t channels;
    bool aligned; /* every row of every array to 16 bytes; rows are whole packs */
};

/* What a lane knows of its columns. */
template <int ROUNDS> struct lane_sums {
    float gamma[ROUNDS][PACK], beta[ROUNDS][PACK];
};

/* One pack: xhat in place of z, g in place of dy; the sums on the way. */
template <typename T>
__device__ __forceinline__ void norm_pack(const gradients<T> &a, int c, float mean, float inverse,
                                          float (&v)[PACK], float (&g)[PACK], float (&dgamma)[PACK],
                                          float (&dbeta)[PACK])
{
    float gamma[PACK];
    float beta[PACK];
    load_pack(a.gamma + c, gamma);
    load_pack(a.beta + c, beta);
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        v[i] = (v[i] - mean) * inverse;
        const float du = g[i] * gelu_gradient(v[i] * gamma[i] + beta[i]);
        dgamma[i] += du * v[i];
        dbeta[i] += du;
        g[i] = du * gamma[i];
    }
}

/* A row of a warp, a pack per lane and round; 0 beyond the last channel. */
template <typename T, int ROUNDS>
__device__ __forceinline__ void load_row(const gradients<T> &a, int64_t row, int begin,
                                         float (&z)[ROUNDS][PACK], float (&dy)[ROUNDS][PACK])
{
    raw_pack<T> raw_z[ROUNDS]; /* all loads come first: they are what the kernel waits for */
    raw_pack<T> raw_dy[ROUNDS];
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int c = begin + j * WARP * PACK;
        raw_z[j] = load_raw(a.z, row + c, c < a.channels);
        raw_dy[j] = load_raw(a.dy, row + c, c < a.channels);
    }
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        unpack(raw_z[j], z[j]);
        unpack(raw_dy[j], dy[j]);
    }
}

/* One valid row of a warp. */
template <typename T, int ROUNDS>
__device__ __forceinline__ void norm_row(const gradients<T> &a, int64_t row, int begin,
                                         lane_sums<ROUNDS> &sums)
{
    float v[ROUNDS][PACK];
    float g[ROUNDS][PACK];
    float mean;
    float inverse;
    float total = 0.0f;
    float product = 0.0f;
    load_row(a, row, begin, v, g);
    row_stats(v, begin, a.channels, mean, inverse);
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int c = begin + j * WARP * PACK;
        if (c < a.channels) {
            norm_pack(a, c, mean, inverse, v[j], g[j], sums.gamma[j], sums.beta[j]);
        }
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            total += g[j][i];
            product += g[j][i] * v[j][i];
        }
    }
    const float g_mean = warp_sum(total) / static_cast<float>(a.channels);
    const float product_mean = warp_sum(product) / static_cast<float>(a.channels);
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int c = begin + j * WARP * PACK;
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            g[j][i] = inverse * (g[j][i] - g_mean - v[j][i] * product_mean);
        }
        if (c < a.channels) {
            store_pack(a.dz + row + c, g[j]);
        }
    }
}

/* The warps' sums of a block, added up in their order. `shared` is [WARPS, 2, channels]. */
template <typename T, int ROUNDS>
__device__ __forceinline__ void leave_sums(const gradients<T> &a, int begin,
                                           const lane_sums<ROUNDS> &sums, float *shared)
{
    const int width = 2 * a.channels;
    float *own = shared + static_cast<int>(threadIdx.x / WARP) * width;
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            const int c = begin + j * WARP * PACK + i;
            if (c < a.channels) {
                own[c] = sums.gamma[j][i];
                own[a.channels + c] = sums.beta[j][i];
            }
        }
    }
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < width; c += WARPS * WARP) {
        float sum = shared[c];
        for (int warp = 1; warp < WARPS; warp++) {
            sum += shared[warp * width + c];
        }
        a.partials[int64_t{blockIdx.x} * width + c] = sum;
    }
}

/* A warp per row; channels is a multiple of a pack, at most ROUNDS packs per lane, all aligned. */
template <typename T, int ROUNDS>
__global__ void __launch_bounds__(WARPS *WARP) norm_gradient(const gradients<T> a)
{
    SER_SHARED(float, shared);
    const int64_t first = int64_t{blockIdx.x} * WARPS + threadIdx.x / WARP;
    const int64_t step = int64_t{gridDim.x} * WARPS;
    const int begin = static_cast<int>(threadIdx.x % WARP) * PACK;
    lane_sums<ROUNDS> sums = {};
    row_cursor at = row_cursor_at(a.rows, first);
    for (int64_t row = first; row < a.rows.batch * a.rows.padded; row += step) {
        if (is_valid(at, a.rows)) {
            norm_row<T, ROUNDS>(a, row * a.channels, begin, sums);
        } else {
            for (int c = begin; c < a.channels; c += WARP * PACK) {
                store_raw(a.dz + row * a.channels + c, raw_pack<T>{});
            }
        }
        advance(at, a.rows, step);
    }
    if (a.partials != nullptr) {
        leave_sums(a, begin, sums, shared);
    }
}

/* xhat and du of one element of a row whose statistics are known. */
template <typename T>
__device__ __forceinline__ void element_of(const gradients<T> &a, int64_t row, int c, float mean,
                                           float inverse, float &xhat, float &du)
{
    xhat = (to_float(a.z[row + c]) - mean) * inverse;
    du = to_float(a.dy[row + c]) * gelu_gradient(xhat * a.gamma[c] + a.beta[c]);
}

/* A block's valid row of any length, in four passes; the sums are kept in the scratch, each by one
 * thread. `parts` has four times 32 places. */
template <typename T>
__device__ __forceinline__ void norm_long_row(const gradients<T> &a, int64_t row, float *parts,
                                              float *own)
{
    const int begin = static_cast<int>(threadIdx.x);
    const float count = static_cast<float>(a.channels);
    float total = 0.0f;
    float squares = 0.0f;
    float product = 0.0f;
    float xhat;
    float du;
    for (int c = begin; c < a.channels; c += PACK_THREADS) {
        total += to_float(a.z[row + c]);
    }
    const float mean = block_sum(total, parts) / count;
    for (int c = begin; c < a.channels; c += PACK_THREADS) {
        const float d = to_float(a.z[row + c]) - mean;
        squares += d * d;
    }
    const float inverse = inverse_of(block_sum(squares, parts + WARP), a.channels);
    total = 0.0f;
    for (int c = begin; c < a.channels; c += PACK_THREADS) {
        element_of(a, row, c, mean, inverse, xhat, du);
        total += du * a.gamma[c];
        product += du * a.gamma[c] * xhat;
        if (own != nullptr) {
            own[c] += du * xhat;
            own[a.channels + c] += du;
        }
    }
    const float g_mean = block_sum(total, parts + 2 * WARP) / count;
    const float product_mean = block_sum(product, parts + 3 * WARP) / count;
    for (int c = begin; c < a.channels; c += PACK_THREADS) {
        element_of(a, row, c, mean, inverse, xhat, du);
        a.dz[row + c] = from_float<T>(inverse * (du * a.gamma[c] - g_mean - xhat * product_mean));
    }
}

template <typename T>
__global__ void __launch_bounds__(PACK_THREADS) norm_long_gradient(const gradients<T> a)
{
    __shared__ float parts[4 * WARP];
    const int begin = static_cast<int>(threadIdx.x);
    float *own =
        a.partials != nullptr ? a.partials + int64_t{blockIdx.x} * 2 * a.channels : nullptr;
    for (int c = begin; own != nullptr && c < a.channels; c += PACK_THREADS) {
        own[c] = 0.0f;
        own[a.channels + c] = 0.0f;
    }
    row_cursor at = row_cursor_at(a.rows, blockIdx.x);
    for (int64_t row = blockIdx.x; row < a.rows.batch * a.rows.padded; row += gridDim.x) {
        if (is_valid(at, a.rows)) {
            norm_long_row(a, row * a.channels, parts, own);
            __syncthreads(); /* before the next row writes parts */
        } else {
            for (int c = begin; c < a.channels; c += PACK_THREADS) {
                a.dz[row * a.channels + c] = from_float<T>(0.0f);
            }
        }
        advance(at, a.rows, gridDim.x);
    }
}

} // namespace

#endif
