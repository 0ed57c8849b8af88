/* SPDX-License-Identifier: MIT */
/* The one pass over the output of wave_conv. */
#ifndef SER_OPS_CUDA_WAVE_PASS_CUH
#define SER_OPS_CUDA_WAVE_PASS_CUH

#include "ops/cuda/wave_gelu.cuh"
#include "ops/cuda/wave_norm.cuh"

/*
 * A block makes `frames` frames of up to `lanes` packs of V channels. Its threads stand in groups
 * of `lanes`; a thread makes WAVE_FRAMES frames of its pack at a time, so that a filter value
 * serves WAVE_FRAMES products when it is read, and a sample V.
 */
constexpr int WAVE_FRAMES = 8;
constexpr int WAVE_GROUPS = 4;
constexpr int WAVE_LANES = 64;
constexpr int WAVE_BLOCK_FRAMES = 2 * WAVE_GROUPS * WAVE_FRAMES;

enum wave_tail { WAVE_RAW, WAVE_GELU, WAVE_LAYER };

template <typename T> struct wave_pass {
    const float *pcm; /* [batch * padded_in] */
    int64_t padded_in;
    const int32_t *valid; /* [batch] frames */
    int64_t padded;       /* frames */
    int64_t blocks;       /* of a clip */
    int32_t kernel, stride;
    const float *bank; /* [kernel + 1 or + BANK_EXTRA, pitch] */
    int64_t bank_size; /* floats from one clip's bank to the next; 0: one for all */
    int64_t pitch;
    const double *spread; /* of the bank; with WAVE_LAYER */
    int32_t frames;       /* of a block */
    int32_t lanes;
    int64_t channels;
    T *y; /* [batch * padded, channels] */
};

/* V neighbouring f32. */
template <int V> __device__ __forceinline__ void load_values(const float *from, float (&x)[V])
{
    if constexpr (V <= 4) {
        load(from, x);
    } else {
        float low[4];
        float high[4];
        load(from, low);
        load(from + 4, high);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[i] = low[i];
            x[4 + i] = high[i];
        }
    }
}

/* The samples under the block's frames; nothing of what lies behind the clip. */
template <typename T>
__device__ __forceinline__ void load_samples(const wave_pass<T> &a, int64_t clip, int64_t first,
                                             float *samples)
{
    const int64_t left = a.valid[clip] - first;
    const int64_t there = left > 0 ? (left - 1) * a.stride + a.kernel : 0;
    const int32_t count = (a.frames - 1) * a.stride + a.kernel;
    const float *from = a.pcm + clip * a.padded_in + first * a.stride;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count;
         i += static_cast<int32_t>(blockDim.x)) {
        samples[i] = i < there ? from[i] : 0.0f;
    }
}

/* acc[f][v] = from[f or 0][v] + w[v] x[f * stride]: one tap. */
template <int V, int ROWS>
__device__ __forceinline__ void add_tap(const float *w, const float *x, int32_t stride,
                                        const float (&from)[ROWS][V], float (&acc)[WAVE_FRAMES][V])
{
    float filter[V];
    load_values(w, filter);
#pragma unroll
    for (int f = 0; f < WAVE_FRAMES; f++) {
        const float sample = x[f * stride];
#pragma unroll
        for (int v = 0; v < V; v++) {
            acc[f][v] = fmaf(filter[v], sample, from[ROWS > 1 ? f : 0][v]);
        }
    }
}

/* acc[f][v] = bias + sum_k w[k][v] x[f * stride + k]. */
template <int V>
__device__ __forceinline__ void convolve(const float *bank, int64_t pitch, int32_t kernel,
                                         const float *x, int32_t stride,
                                         float (&acc)[WAVE_FRAMES][V])
{
    float bias[1][V];
    load_values(bank + (kernel + BANK_BIAS) * pitch, bias[0]);
    add_tap(bank, x, stride, bias, acc);
#pragma unroll 2
    for (int32_t k = 1; k < kernel; k++) {
        bank += pitch;
        add_tap(bank, x + k, stride, acc, acc);
    }
}

/* What becomes of z: nothing; GELU; LayerNorm, then GELU. stats [WAVE_FRAMES]: mean and
 * 1 / sqrt(variance + eps) of a frame. */
template <typename T, int TAIL, int V>
__device__ __forceinline__ void finish(const float *vectors, int64_t pitch, const float2 *stats,
                                       float (&acc)[WAVE_FRAMES][V])
{
    float gamma[V];
    float beta[V];
    if constexpr (TAIL == WAVE_LAYER) {
        load_values(vectors + BANK_GAMMA * pitch, gamma);
        load_values(vectors + BANK_BETA * pitch, beta);
    }
#pragma unroll
    for (int f = 0; f < WAVE_FRAMES; f++) {
#pragma unroll
        for (int v = 0; v < V; v++) {
            if constexpr (TAIL == WAVE_LAYER) {
                acc[f][v] = (acc[f][v] - stats[f].x) * stats[f].y * gamma[v] + beta[v];
            }
            if constexpr (TAIL != WAVE_RAW) {
                acc[f][v] = gelu_for<T>(acc[f][v]);
            }
        }
    }
}

template <int V> __device__ __forceinline__ void clear(float (&acc)[WAVE_FRAMES][V])
{
#pragma unroll
    for (int f = 0; f < WAVE_FRAMES; f++) {
#pragma unroll
        for (int v = 0; v < V; v++) {
            acc[f][v] = 0.0f;
        }
    }
}

/* The first `padded` rows, zeros from row `valid` on. */
template <typename T, int V>
__device__ __forceinline__ void store_edge(float (&acc)[WAVE_FRAMES][V], int32_t valid,
                                           int32_t padded, int64_t channels, T *y)
{
#pragma unroll
    for (int f = 0; f < WAVE_FRAMES; f++) {
#pragma unroll
        for (int v = 0; v < V; v++) {
            acc[f][v] = f < valid ? acc[f][v] : 0.0f;
        }
        if (f < padded) {
            store(y + f * channels, acc[f]);
        }
    }
}

__device__ __forceinline__ int32_t within(int64_t x, int32_t most)
{
    return static_cast<int32_t>(x < 0 ? 0 : x < most ? x : most);
}

/* Block (clip and frames, channels). */
template <typename T, int TAIL, int V>
__global__ void __launch_bounds__(WAVE_GROUPS *WAVE_LANES, 2) wave_convolve(const wave_pass<T> a)
{
    wait_for_previous();
    SER_SHARED(float2, stats); /* [frames] */
    float *samples = reinterpret_cast<float *>(stats + a.frames);
    const int64_t clip = blockIdx.x / a.blocks;
    const int64_t first = blockIdx.x % a.blocks * a.frames;
    load_samples(a, clip, first, samples);
    __syncthreads();
    if constexpr (TAIL == WAVE_LAYER) {
        for (int32_t f = static_cast<int32_t>(threadIdx.x); f < a.frames;
             f += static_cast<int32_t>(blockDim.x)) {
            stats[f] = layer_stats(a.spread, samples + f * a.stride, a.kernel);
        }
        __syncthreads();
    }
    const int32_t thread = static_cast<int32_t>(threadIdx.x);
    const int32_t group = thread / a.lanes;
    const int32_t groups = static_cast<int32_t>(blockDim.x) / a.lanes;
    const int64_t channel = (int64_t{blockIdx.y} * a.lanes + thread % a.lanes) * V;
    if (channel >= a.channels) {
        return;
    }
    const float *bank = a.bank + clip * a.bank_size + channel;
    const int32_t valid = within(a.valid[clip] - first, a.frames);
    const int32_t padded = within(a.padded - first, a.frames);
    for (int32_t f0 = group * WAVE_FRAMES; f0 < padded; f0 += groups * WAVE_FRAMES) {
        float acc[WAVE_FRAMES][V];
        if (f0 < valid) {
            convolve(bank, a.pitch, a.kernel, samples + f0 * a.stride, a.stride, acc);
            finish<T, TAIL>(bank + a.kernel * a.pitch, a.pitch, stats + f0, acc);
        } else {
            clear(acc);
        }
        T *y = a.y + (clip * a.padded + first + f0) * a.channels + channel;
        if (f0 + WAVE_FRAMES <= valid) {
#pragma unroll
            for (int f = 0; f < WAVE_FRAMES; f++) {
                store(y + f * a.channels, acc[f]);
            }
        } else {
            store_edge(acc, valid - f0, padded - f0, a.channels, y);
        }
    }
}

#endif
