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

#include "ops/cuda/wave_moments.cuh"

/* A bank of filters, tap by tap, so that neighbouring channels are neighbours: rows of `pitch`
 * floats, `kernel` taps, then these. */
enum { BANK_BIAS, BANK_GAMMA, BANK_BETA, BANK_EXTRA };

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

/* Block (clip, some channels). */
static __global__ void __launch_bounds__(FOLD_THREADS) wave_fold_clips(const wave_fold a)
{
    wait_for_previous();
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
    const double scale = static_cast<double>(a.gamma[c]) * norm_inverse(w, s, kernel);
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
    wait_for_previous();
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
    wait_for_previous();
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
