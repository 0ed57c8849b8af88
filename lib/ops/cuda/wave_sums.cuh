/* SPDX-License-Identifier: MIT */
/* Gradients of wave_conv from the sums of the pass (formulas: wave_gradient.cuh). */
#ifndef SER_OPS_CUDA_WAVE_SUMS_CUH
#define SER_OPS_CUDA_WAVE_SUMS_CUH

#include "ops/cuda/wave_gradient.cuh"

constexpr int SUM_WARPS = 8;
constexpr int SUM_THREADS = SUM_WARPS * WARP;

struct wave_sums {
    wave_moments moments; /* kernel, batch and valid always, the rest for CLIP */
    bool by_clip;
    int64_t chunks;    /* of GRADIENT_FRAMES */
    int32_t pass_rows; /* of `sums`: kernel + PASS_EXTRA */
    const float *w;    /* [channels, kernel] */
    const float *gamma;
    int64_t channels, pitch;
    const float *sums; /* [batch, chunks, pass_rows, pitch] */
    double *clips;     /* [batch, kernel + SUM_EXTRA, pitch]; clips without a frame undefined */
};

/* Bytes of shared memory for moments and the sums of WARP channels. */
static inline size_t ser_wave_sums_shared(int32_t kernel)
{
    return ser_wave_moments_shared(kernel) +
           static_cast<size_t>(kernel + 1) * WARP * sizeof(double);
}

/* Gradients of channel c from its sums in shared memory, G [kernel] and A; a warp makes every
 * SUM_WARPSth row. */
__device__ __forceinline__ void finish_clip(const wave_sums &a, int64_t c, const double *m,
                                            const double *sums, double *to)
{
    const int32_t kernel = a.moments.kernel;
    const int32_t warp = static_cast<int32_t>(threadIdx.x) / WARP;
    const double *s = m + kernel;
    const float *w = a.w + c * kernel;
    const double centre = static_cast<double>(centre_of(m));
    const double total = sums[kernel * WARP];
    const double inverse = norm_inverse(w, s, kernel);
    double across = 0.0;
    for (int32_t i = 0; i < kernel; i++) {
        const double away = sums[i * WARP] - total * (m[i] - centre);
        across = fma(static_cast<double>(w[i]), away, across);
    }
    const double b = inverse * across;
    const double scale = static_cast<double>(a.gamma[c]) * inverse;
    for (int32_t i = warp; i < kernel; i += SUM_WARPS) {
        double spread = 0.0;
        for (int32_t j = 0; j < kernel; j++) { /* the upper triangle has S */
            const double x = i < j ? s[i * kernel + j] : s[j * kernel + i];
            spread = fma(x, static_cast<double>(w[j]), spread);
        }
        const double away = sums[i * WARP] - total * (m[i] - centre);
        to[i * a.pitch] = scale * (away - inverse * b * spread);
    }
    if (warp == 0) {
        to[(kernel + SUM_DGAMMA) * a.pitch] = b;
        to[(kernel + SUM_DBETA) * a.pitch] = total;
    }
}

/* Block (clip, 32 channels); a warp adds the chunks of every SUM_WARPSth row. */
static __global__ void __launch_bounds__(SUM_THREADS) wave_sum_chunks(const wave_sums a)
{
    SER_SHARED(double, m);
    const int64_t clip = blockIdx.x;
    const int32_t kernel = a.moments.kernel;
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % WARP;
    const int32_t warp = static_cast<int32_t>(threadIdx.x) / WARP;
    const int64_t c = int64_t{blockIdx.y} * WARP + lane;
    const int64_t frames = a.moments.valid[clip];
    if (frames == 0) {
        return;
    }
    const int64_t chunks = (frames + GRADIENT_FRAMES - 1) / GRADIENT_FRAMES;
    const int64_t step = a.pass_rows * a.pitch;
    const float *from = a.sums + clip * a.chunks * step + c;
    double *to = a.clips + clip * (kernel + SUM_EXTRA) * a.pitch + c;
    double *shared = m + kernel * (kernel + 1) + lane;
    for (int32_t row = warp; row < a.pass_rows && c < a.channels; row += SUM_WARPS) {
        double total = 0.0;
#pragma unroll 8
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            total += static_cast<double>(from[chunk * step + row * a.pitch]);
        }
        if (a.by_clip) {
            shared[row * WARP] = total;
        } else {
            to[row * a.pitch] = total;
        }
    }
    if (a.by_clip) {
        find_moments(a.moments, clip, m, m + kernel); /* has the barrier for the sums, too */
        if (c < a.channels) {
            finish_clip(a, c, m, shared, to);
        }
    }
}

struct wave_totals {
    const double *clips; /* [batch, kernel + SUM_EXTRA, pitch] */
    const int32_t *valid;
    int64_t batch, channels, pitch;
    int32_t kernel;
    float *dw;                     /* [channels, kernel] or NULL */
    float *dbias, *dgamma, *dbeta; /* [channels] or NULL */
};

/* A thread for every row and channel. */
static __global__ void __launch_bounds__(SUM_THREADS) wave_add_clips(const wave_totals a)
{
    const int64_t at = int64_t{blockIdx.x} * SUM_THREADS + threadIdx.x;
    const int64_t row = at / a.pitch;
    const int64_t c = at % a.pitch;
    const int64_t rows = a.kernel + SUM_EXTRA;
    if (row >= rows || c >= a.channels) {
        return;
    }
    const int64_t extra = row - a.kernel;
    float *to = extra < 0             ? a.dw
                : extra == SUM_DBIAS  ? a.dbias
                : extra == SUM_DGAMMA ? a.dgamma
                                      : a.dbeta;
    if (to == nullptr) {
        return;
    }
    double total = 0.0;
#pragma unroll 4
    for (int64_t clip = 0; clip < a.batch; clip++) {
        if (a.valid[clip] > 0) {
            total += a.clips[clip * rows * a.pitch + at];
        }
    }
    to[extra < 0 ? c * a.kernel + row : c] += static_cast<float>(total);
}

#endif
