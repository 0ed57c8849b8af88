/* SPDX-License-Identifier: MIT */
/* pos_conv in portable loops, for any type and width. Only for pos_conv.cu and
 * pos_conv_backward.cu. */
#ifndef SER_OPS_CUDA_POS_CONV_PORTABLE_CUH
#define SER_OPS_CUDA_POS_CONV_PORTABLE_CUH

#include "ops/cuda/pos_conv_tensor.cuh"

namespace
{

/*
 * A block has 128 frames and 16 outputs (block.z of the group's), a thread every eighth frame of
 * its warp's 32 and every fourth output. Parts of the slice and of the weights, a few taps and
 * inputs of them, are in shared memory at a time, inputs next to each other; the pitches put the
 * rows that a warp reads at once in different banks.
 */
constexpr int FRAMES = WARPS * WARP;
constexpr int OUTPUTS = 16;
constexpr int TAPS = 8;
constexpr int MOST_INPUTS = 32;
constexpr int EACH = 4; /* frames, outputs and neighbouring inputs of a thread */

struct portable_layout {
    int inputs;       /* in a part; a multiple of eight */
    int pitch;        /* of the slice */
    int weight_pitch; /* [OUTPUTS, weight_pitch]: tap, input */
};

__host__ __device__ __forceinline__ portable_layout portable_layout_of(int width)
{
    const int parts = (width + MOST_INPUTS - 1) / MOST_INPUTS;
    const int inputs = ((width + parts - 1) / parts + 7) / 8 * 8;
    return {.inputs = inputs, .pitch = inputs + EACH, .weight_pitch = TAPS * inputs + EACH};
}

struct portable_part {
    int tap, taps; /* the first one and how many */
    int input;     /* the first one */
};

/* Zeros where there is no frame, input or output. */
template <typename T>
__device__ __forceinline__ void load_part(const conv_call<T> &call, const tile &t,
                                          const portable_part &part, float *slice, float *weights)
{
    const portable_layout l = portable_layout_of(call.width);
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int input = part.input + lane;
    const int frame = t.first - call.before + part.tap;
    const int output = static_cast<int>(blockIdx.z) * OUTPUTS;
    const int64_t group = blockIdx.y;
    const T *x = call.x + int64_t{t.clip} * call.padded * call.channels + group * call.width;
    const T *w = call.w + group * call.width * call.kernel * call.width;
    if (lane >= l.inputs) {
        return;
    }
#pragma unroll 4
    for (int i = warp; i < FRAMES + part.taps - 1; i += WARPS) {
        const bool there = frame + i >= 0 && frame + i < t.valid && input < call.width;
        slice[i * l.pitch + lane] =
            there ? to_float(x[int64_t{frame + i} * call.channels + input]) : 0.0f;
    }
#pragma unroll 4
    for (int i = warp; i < OUTPUTS * part.taps; i += WARPS) {
        const int o = i % OUTPUTS;
        const int k = i / OUTPUTS;
        const bool there = output + o < call.width && input < call.width;
        const int64_t row = int64_t{output + o} * call.kernel + part.tap + k;
        weights[o * l.weight_pitch + k * l.inputs + lane] =
            there ? to_float(w[row * call.width + input]) : 0.0f;
    }
}

/* slice, weights: this thread's first rows. */
__device__ __forceinline__ void run_part(const portable_layout &l, int taps, const float *slice,
                                         const float *weights, float (&sums)[EACH][EACH])
{
    for (int k = 0; k < taps; k++) {
        for (int input = 0; input < l.inputs; input += EACH) {
            float x[EACH][EACH];
            float w[EACH][EACH];
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                load(slice + (8 * i + k) * l.pitch + input, x[i]);
                load(weights + EACH * i * l.weight_pitch + k * l.inputs + input, w[i]);
            }
#pragma unroll
            for (int i = 0; i < EACH * EACH * EACH; i++) {
                sums[i / EACH % EACH][i % EACH] +=
                    x[i / EACH % EACH][i / EACH / EACH] * w[i % EACH][i / EACH / EACH];
            }
        }
    }
}

/* One result and what belongs to it. */
template <direction D, typename T>
__device__ __forceinline__ void store_one(const conv_call<T> &call, int64_t at, float sum,
                                          int64_t channel, bool there)
{
    if constexpr (D == GRADIENT) {
        call.y[at] = from_float<T>(there ? to_float(call.dy[at]) + sum : 0.0f);
    } else {
        const float z = sum + call.bias[channel];
        call.y[at] = from_float<T>(there ? to_float(call.x[at]) + gelu(z) : 0.0f);
        if (call.z != nullptr) {
            call.z[at] = from_float<T>(there ? z : 0.0f);
        }
    }
}

template <direction D, typename T>
__global__ void __launch_bounds__(THREADS) pos_conv_portable(const conv_call<T> call)
{
    wait_for_previous();
    SER_SHARED(float, slice); /* [FRAMES + TAPS - 1, pitch], then the weights */
    const portable_layout l = portable_layout_of(call.width);
    float *weights = slice + (FRAMES + TAPS - 1) * l.pitch;
    const tile t = tile_of(call, FRAMES);
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int row = static_cast<int>(threadIdx.x) / WARP * WARP + lane % 8;
    const bool busy = row - lane % 8 < t.count; /* the warp */
    const span taps = t.count > 0 ? taps_of(call, t.first, t.count, t.valid) : span{};
    float sums[EACH][EACH] = {};
    for (int tap = taps.begin; tap < taps.end; tap += TAPS) {
        for (int input = 0; input < call.width; input += l.inputs) {
            const portable_part part = {
                .tap = tap, .taps = min(TAPS, taps.end - tap), .input = input};
            load_part(call, t, part, slice, weights);
            __syncthreads();
            if (busy) {
                run_part(l, part.taps, slice + row * l.pitch, weights + lane / 8 * l.weight_pitch,
                         sums);
            }
            __syncthreads();
        }
    }
    const int first = static_cast<int>(blockIdx.z) * OUTPUTS + lane / 8;
#pragma unroll
    for (int n = 0; n < EACH; n++) {
        const int output = first + EACH * n;
#pragma unroll
        for (int m = 0; m < EACH; m++) {
            const int frame = t.first + row + 8 * m;
            if (output < call.width && frame < call.padded) {
                const int64_t channel = int64_t{blockIdx.y} * call.width + output;
                const int64_t at =
                    (int64_t{t.clip} * call.padded + frame) * call.channels + channel;
                store_one<D>(call, at, sums[m][n], channel, frame < t.valid);
            }
        }
    }
}

} // namespace

#endif
