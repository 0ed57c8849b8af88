/* SPDX-License-Identifier: MIT */
/*
 * Moments of the patches of a clip, a patch being the `kernel` samples under a frame: what the group
 * norm of wave_conv and its gradients are made of (wave_norm.cuh, wave_conv_backward.cu).
 */
#ifndef SER_OPS_CUDA_WAVE_MOMENTS_CUH
#define SER_OPS_CUDA_WAVE_MOMENTS_CUH

#include "ops/cuda/launch.cuh"

constexpr double WAVE_NORM_EPS = 1e-5;

static inline const float *ser_wave_values(const ser_tensor &x)
{
    return static_cast<const float *>(x.data);
}

template <typename N> static inline N *ser_wave_scratch(const ser_queue *queue, size_t offset)
{
    return reinterpret_cast<N *>(static_cast<unsigned char *>(queue->scratch) + offset);
}

/* --- Sums over the frames: p_i, p_i p_j --- */

/*
 * The matrix of products goes in tiles of 5 x 5, of which the upper triangle is made: the filter of
 * 10 taps has three. One warp makes one tile of MOMENT_FRAMES frames, a lane every 32nd of them.
 * Its 32 slots: the 25 products, the 5 sums of the tile's rows, two left over.
 */
constexpr int MOMENT_TILE = 5;
constexpr int MOMENT_SUMS = 25;
constexpr int MOMENT_SLOTS = 32;
constexpr int MOMENT_FRAMES = 512;
constexpr int MOMENT_WARPS = 4;
constexpr int MOMENT_THREADS = MOMENT_WARPS * WARP;

struct wave_moments {
    const float *pcm; /* [batch * padded_in] */
    int64_t padded_in, batch;
    const int32_t *valid; /* [batch] frames */
    int64_t chunks;       /* of MOMENT_FRAMES, in the padded length */
    int32_t kernel, stride;
    int32_t side;  /* tiles along a side */
    int32_t tiles; /* side (side + 1) / 2 */
    double *sums; /* [batch, chunks, tiles, MOMENT_SLOTS]; chunks without a valid frame undefined */
};

/* v[i] += what the partner at a distance of COUNT lanes has for i, of those COUNT values that this
 * lane keeps: the upper half of 2 COUNT in the upper lanes. And so on, down to one value. */
template <int COUNT> __device__ __forceinline__ void fold_values(double (&v)[WARP])
{
    const bool upper = (threadIdx.x & COUNT) != 0;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        const double kept = upper ? v[i + COUNT] : v[i];
        const double given = upper ? v[i] : v[i + COUNT];
        v[i] = kept + __shfl_xor_sync(ALL_LANES, given, COUNT);
    }
    if constexpr (COUNT > 1) {
        fold_values<COUNT / 2>(v);
    }
}

/* Lane l gets the sum of v[l] over the lanes. */
__device__ __forceinline__ double transposed_sum(double (&v)[WARP])
{
    fold_values<WARP / 2>(v);
    return v[0];
}

static __global__ void __launch_bounds__(MOMENT_THREADS) wave_sum_moments(const wave_moments a)
{
    wait_for_previous();
    const int64_t item = int64_t{blockIdx.x} * MOMENT_WARPS + threadIdx.x / WARP;
    if (item >= a.batch * a.chunks * a.tiles) {
        return;
    }
    const int64_t clip = item / a.tiles / a.chunks;
    const int64_t begin = item / a.tiles % a.chunks * MOMENT_FRAMES;
    const int64_t valid = a.valid[clip];
    const int64_t end = valid < begin + MOMENT_FRAMES ? valid : begin + MOMENT_FRAMES;
    if (begin >= end) {
        return;
    }
    int32_t row = 0;
    int32_t column = static_cast<int32_t>(item % a.tiles);
    while (column >= a.side - row) {
        column -= a.side - row;
        row++;
    }
    column += row;
    int32_t left[MOMENT_TILE];
    int32_t right[MOMENT_TILE];
#pragma unroll
    for (int32_t i = 0; i < MOMENT_TILE; i++) { /* what lies beyond the kernel is never looked at */
        left[i] = min(row * MOMENT_TILE + i, a.kernel - 1);
        right[i] = min(column * MOMENT_TILE + i, a.kernel - 1);
    }
    const unsigned lane = threadIdx.x % WARP;
    double v[MOMENT_SLOTS] = {};
    for (int64_t t = begin + lane; t < end; t += WARP) {
        const float *p = a.pcm + clip * a.padded_in + t * a.stride;
        double q[MOMENT_TILE];
#pragma unroll
        for (int j = 0; j < MOMENT_TILE; j++) {
            q[j] = static_cast<double>(p[right[j]]);
        }
#pragma unroll
        for (int i = 0; i < MOMENT_TILE; i++) {
            const double x = static_cast<double>(p[left[i]]);
            v[MOMENT_SUMS + i] += x;
#pragma unroll
            for (int j = 0; j < MOMENT_TILE; j++) {
                v[i * MOMENT_TILE + j] = fma(x, q[j], v[i * MOMENT_TILE + j]);
            }
        }
    }
    a.sums[item * MOMENT_SLOTS + lane] = transposed_sum(v);
}

static inline wave_moments ser_wave_moments_of(const ser_wave_conv_args *args, double *sums)
{
    wave_moments a = {};
    a.pcm = ser_wave_values(args->pcm);
    a.padded_in = args->rows_in.padded;
    a.batch = args->rows_out.batch;
    a.valid = args->rows_out.valid;
    a.chunks = cuda_ceil_div(args->rows_out.padded, MOMENT_FRAMES);
    a.kernel = args->kernel;
    a.stride = args->stride;
    a.side = static_cast<int32_t>(cuda_ceil_div(a.kernel, MOMENT_TILE));
    a.tiles = a.side * (a.side + 1) / 2;
    a.sums = sums;
    return a;
}

/* Bytes of the sums. */
static inline size_t ser_wave_moments_size(const ser_wave_conv_args *args)
{
    const wave_moments a = ser_wave_moments_of(args, nullptr);
    return static_cast<size_t>(a.batch * a.chunks * a.tiles * MOMENT_SLOTS) * sizeof(double);
}

static inline int ser_wave_sum_moments(ser_queue *queue, const wave_moments &a)
{
    const int64_t warps = a.batch * a.chunks * a.tiles;
    return ser_launch_early(queue, {ser_grid(warps, MOMENT_WARPS), MOMENT_THREADS, 0},
                            wave_sum_moments, a);
}

/* --- Moments: m = mean_t p, S = mean_t p p^T - m m^T --- */

/* Bytes of shared memory for m and behind it S. */
static inline size_t ser_wave_moments_shared(int32_t kernel)
{
    return static_cast<size_t>(kernel) * static_cast<size_t>(kernel + 1) * sizeof(double);
}

/* m [kernel] and the upper triangle of S [kernel, kernel] of a clip into shared memory; by the whole
 * block. Of a clip without a frame they are NaN. */
__device__ __forceinline__ void find_moments(const wave_moments &a, int64_t clip, double *m,
                                             double *s)
{
    const int32_t threads = static_cast<int32_t>(blockDim.x);
    const int32_t thread = static_cast<int32_t>(threadIdx.x);
    const int64_t frames = a.valid[clip];
    const int64_t chunks = (frames + MOMENT_FRAMES - 1) / MOMENT_FRAMES;
    const int64_t step = int64_t{a.tiles} * MOMENT_SLOTS;
    const double *sums = a.sums + clip * a.chunks * step;
    for (int32_t e = thread; e < a.kernel * (a.kernel + 1); e += threads) {
        const int32_t i = e / (a.kernel + 1); /* column j == kernel is the sum of p_i */
        const int32_t j = e % (a.kernel + 1);
        if (j < i) {
            continue;
        }
        const int32_t row = i / MOMENT_TILE;
        const int32_t column = j == a.kernel ? row : j / MOMENT_TILE;
        const int32_t tile = row * a.side - row * (row - 1) / 2 + column - row;
        const int32_t slot = j == a.kernel ? MOMENT_SUMS + i % MOMENT_TILE
                                           : i % MOMENT_TILE * MOMENT_TILE + j % MOMENT_TILE;
        const double *from = sums + tile * MOMENT_SLOTS + slot;
        double total = 0.0;
#pragma unroll 8
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            total += from[chunk * step];
        }
        (j == a.kernel ? m[i] : s[i * a.kernel + j]) = total / static_cast<double>(frames);
    }
    __syncthreads();
    for (int32_t e = thread; e < a.kernel * a.kernel; e += threads) {
        const int32_t i = e / a.kernel;
        const int32_t j = e % a.kernel;
        if (j >= i) {
            s[e] -= m[i] * m[j];
        }
    }
    __syncthreads();
}

/* 1 / sqrt(w.S.w + eps) */
__device__ __forceinline__ double norm_inverse(const float *w, const double *s, int32_t kernel)
{
    double variance = 0.0;
    for (int32_t i = 0; i < kernel; i++) { /* S is symmetric */
        const double x = static_cast<double>(w[i]);
        double across = 0.0;
        for (int32_t j = i + 1; j < kernel; j++) {
            across = fma(s[i * kernel + j], static_cast<double>(w[j]), across);
        }
        variance = fma(x, fma(x, s[i * kernel + i], 2.0 * across), variance);
    }
    variance = variance < 0.0 ? 0.0 : variance; /* NaN stays */
    return rsqrt(variance + WAVE_NORM_EPS);
}

#endif
