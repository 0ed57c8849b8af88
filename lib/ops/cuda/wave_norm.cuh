/* SPDX-License-Identifier: MIT */
/*
 * The norms of wave_conv without a pass over the convolution's output. Both follow exactly from
 * moments of second order, taken in double, so that nothing is lost where filters nearly cancel a
 * large offset of the signal.
 *
 * CLIP: with p the `kernel` samples under a frame, m = mean_t p and S = mean_t p p^T - m m^T,
 * channel c with filter w has mean w.m and variance w.S.w over the clip: the norm is folded into
 * filters of the clip's own. A convolution bias shifts the mean alone and drops out.
 *
 * LAYER: with v = (w, bias) the filter of a channel, m = mean_c v and S = mean_c (v - m) (v - m)^T,
 * frame t with q = (p, 1) has mean m.q and variance q.S.q over the channels.
 */
#ifndef SER_OPS_CUDA_WAVE_NORM_CUH
#define SER_OPS_CUDA_WAVE_NORM_CUH

#include "ops/cuda/launch.cuh"

constexpr double WAVE_NORM_EPS = 1e-5;

/* A bank of filters, tap by tap, so that neighbouring channels are neighbours: rows of `pitch`
 * floats, `kernel` taps, then these. */
enum { BANK_BIAS, BANK_GAMMA, BANK_BETA, BANK_EXTRA };

/* --- Moments of the patches of a clip: sum_t p_i, sum_t p_i p_j --- */

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

/* --- CLIP: a bank for every clip --- */

constexpr int FOLD_THREADS = 128;

struct wave_fold {
    wave_moments moments;
    const float *w;            /* [channels, kernel] */
    const float *gamma, *beta; /* [channels] */
    int64_t channels, pitch;
    int64_t bank_size; /* floats from one clip's bank to the next */
    float *bank;       /* [batch, kernel taps + bias, pitch] */
};

static inline size_t ser_wave_fold_shared(int32_t kernel)
{
    return static_cast<size_t>(kernel) * static_cast<size_t>(kernel + 1) * sizeof(double);
}

/* m [kernel] and S [kernel, kernel] of a clip into shared memory; by the whole block. */
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

/* Block (clip, some channels). */
static __global__ void __launch_bounds__(FOLD_THREADS) wave_fold_clips(const wave_fold a)
{
    SER_SHARED(double, m);
    const int64_t clip = blockIdx.x;
    const int32_t kernel = a.moments.kernel;
    double *s = m + kernel;
    find_moments(a.moments, clip, m, s);
    const int64_t c = int64_t{blockIdx.y} * FOLD_THREADS + threadIdx.x;
    if (c >= a.channels) {
        return;
    }
    const float *w = a.w + c * kernel;
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
    const double scale = static_cast<double>(a.gamma[c]) * rsqrt(variance + WAVE_NORM_EPS);
    float *bank = a.bank + clip * a.bank_size + c;
    double mean =
        0.0; /* of the filter as it is rounded here, so that it takes all of an offset away */
    for (int32_t i = 0; i < kernel; i++) {
        const float tap = static_cast<float>(static_cast<double>(w[i]) * scale);
        bank[i * a.pitch] = tap;
        mean = fma(static_cast<double>(tap), m[i], mean);
    }
    bank[(kernel + BANK_BIAS) * a.pitch] =
        static_cast<float>(static_cast<double>(a.beta[c]) - mean);
}

/* --- LAYER, NONE and z: one bank of what the arguments have --- */

constexpr int BANK_THREADS = 256;

struct wave_bank {
    const float *w;                   /* [channels, kernel] */
    const float *bias, *gamma, *beta; /* [channels] or NULL */
    int32_t kernel;
    int64_t channels, pitch;
    float *bank; /* [kernel + BANK_EXTRA, pitch] */
};

static __global__ void __launch_bounds__(BANK_THREADS) wave_make_bank(const wave_bank a)
{
    const int64_t at = int64_t{blockIdx.x} * BANK_THREADS + threadIdx.x;
    const int64_t row = at / a.pitch;
    const int64_t c = at % a.pitch;
    if (row >= a.kernel + BANK_EXTRA || c >= a.channels) {
        return;
    }
    const float *vector = a.bias;
    if (row < a.kernel) {
        a.bank[at] = a.w[c * a.kernel + row];
        return;
    }
    if (row > a.kernel + BANK_BIAS) {
        vector = row == a.kernel + BANK_GAMMA ? a.gamma : a.beta;
    }
    a.bank[at] = vector != nullptr ? vector[c] : 0.0f;
}

constexpr int SPREAD_WARPS = 4;
constexpr int SPREAD_THREADS = SPREAD_WARPS * WARP;

struct wave_spread {
    const float *bank; /* its first `size` rows: taps and bias */
    int32_t size;      /* kernel + 1 */
    int64_t channels, pitch;
    double *spread; /* m [size], then S [size, size] */
};

/* Over the channels, by a warp. */
__device__ __forceinline__ double warp_mean(const float *x, int64_t channels)
{
    double sum = 0.0;
    for (int64_t c = threadIdx.x % WARP; c < channels; c += WARP) {
        sum += static_cast<double>(x[c]);
    }
    return warp_sum(sum) / static_cast<double>(channels);
}

/* A warp for every element of S. */
static __global__ void __launch_bounds__(SPREAD_THREADS) wave_find_spread(const wave_spread a)
{
    const int64_t item = int64_t{blockIdx.x} * SPREAD_WARPS + threadIdx.x / WARP;
    if (item >= int64_t{a.size} * a.size) {
        return;
    }
    const int64_t i = item / a.size;
    const int64_t j = item % a.size;
    const float *x = a.bank + i * a.pitch;
    const float *y = a.bank + j * a.pitch;
    const double x_mean = warp_mean(x, a.channels);
    const double y_mean = warp_mean(y, a.channels);
    double sum = 0.0;
    for (int64_t c = threadIdx.x % WARP; c < a.channels; c += WARP) {
        sum += (static_cast<double>(x[c]) - x_mean) * (static_cast<double>(y[c]) - y_mean);
    }
    sum = warp_sum(sum) / static_cast<double>(a.channels);
    if (threadIdx.x % WARP == 0) {
        a.spread[a.size + item] = sum;
        if (i == j) {
            a.spread[i] = x_mean;
        }
    }
}

/* Mean and 1 / sqrt(variance + eps) over the channels of the frame with samples p. */
__device__ __forceinline__ float2 layer_stats(const double *spread, const float *p, int32_t kernel)
{
    const int32_t size = kernel + 1;
    const double *s = spread + size;
    double mean = 0.0;
    double variance = 0.0;
    for (int32_t i = 0; i < size; i++) { /* S is symmetric */
        const double x = i < kernel ? static_cast<double>(p[i]) : 1.0;
        double across = 0.0;
        for (int32_t j = i + 1; j < kernel; j++) {
            across = fma(s[i * size + j], static_cast<double>(p[j]), across);
        }
        across += i < kernel ? s[i * size + kernel] : 0.0;
        variance = fma(x, fma(x, s[i * size + i], 2.0 * across), variance);
        mean = fma(x, spread[i], mean);
    }
    variance = variance < 0.0 ? 0.0 : variance; /* NaN stays */
    return make_float2(static_cast<float>(mean),
                       static_cast<float>(rsqrt(variance + WAVE_NORM_EPS)));
}

#endif
