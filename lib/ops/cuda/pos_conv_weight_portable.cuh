/* SPDX-License-Identifier: MIT */
/*
 * The weight gradient of pos_conv in portable loops, for any type and width. Only for
 * pos_conv_backward.cu.
 *
 * A block has 16 outputs, 16 inputs and 32 taps; a thread four neighbouring ones of each. It walks
 * the frames with the four frames of x that its taps see in registers: each is loaded once.
 */
#ifndef SER_OPS_CUDA_POS_CONV_WEIGHT_PORTABLE_CUH
#define SER_OPS_CUDA_POS_CONV_WEIGHT_PORTABLE_CUH

#include "ops/cuda/pos_conv_weight.cuh"

namespace
{

struct weight_tile {
    static constexpr int EACH = 4;         /* outputs, inputs and taps of a thread */
    static constexpr int SIDE = 16;        /* outputs and inputs of a block */
    static constexpr int TAPS = 32;        /* of a block */
    static constexpr int CHUNK = 64;       /* frames */
    static constexpr int PITCH = SIDE + 4; /* rows four apart, a warp's, lie in different banks */
    static constexpr int X_ROWS = CHUNK + TAPS - 1;
    static constexpr int BLOCKS = 4; /* on a multiprocessor */
    static constexpr int THREADS = SIDE / EACH * (SIDE / EACH) * (TAPS / EACH);
};

/* `rows` frames of the clip from `first` on, SIDE channels of the group from `channel` on; zeros
 * where there is no frame or channel. */
template <typename T>
__device__ __forceinline__ void load_tile(const weight_call<T> &call, const T *array,
                                          const chunk &c, int first, int rows, int channel,
                                          float *to)
{
    using W = weight_tile;
    const int64_t column = int64_t{blockIdx.y} * call.width + channel;
    const T *clip = array + int64_t{c.clip} * call.padded * call.channels + column;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < rows * W::SIDE; i += W::THREADS) {
        const int row = i / W::SIDE;
        const int at = i % W::SIDE;
        const int frame = first + row;
        const bool there = frame >= 0 && frame < c.valid && channel + at < call.width;
        to[row * W::PITCH + at] =
            there ? to_float(clip[int64_t{frame} * call.channels + at]) : 0.0f;
    }
}

/* sums[tap][output][input]; dz, x: this thread's channels in its first row. */
__device__ __forceinline__ void
run_tile(const float *dz, const float *x,
         float (&sums)[weight_tile::EACH][weight_tile::EACH][weight_tile::EACH])
{
    using W = weight_tile;
    float seen[W::EACH][W::EACH]; /* row r of x is in seen[r % EACH] */
#pragma unroll
    for (int k = 0; k < W::EACH - 1; k++) {
        load(x + k * W::PITCH, seen[k]);
    }
#pragma unroll 1
    for (int frame = 0; frame < W::CHUNK; frame += W::EACH) {
#pragma unroll
        for (int f = 0; f < W::EACH; f++) {
            float gradient[W::EACH];
            load(dz + (frame + f) * W::PITCH, gradient);
            load(x + (frame + f + W::EACH - 1) * W::PITCH, seen[(f + W::EACH - 1) % W::EACH]);
#pragma unroll
            for (int i = 0; i < W::EACH * W::EACH * W::EACH; i++) {
                const int k = i / W::EACH / W::EACH;
                const int o = i / W::EACH % W::EACH;
                sums[k][o][i % W::EACH] += gradient[o] * seen[(f + k) % W::EACH][i % W::EACH];
            }
        }
    }
}

/* Grid: (blocks of taps, of outputs, of inputs), groups, shares of the chunks. */
template <typename T>
__global__ void __launch_bounds__(weight_tile::THREADS, weight_tile::BLOCKS)
    weight_gradient_portable(const weight_call<T> call)
{
    using W = weight_tile;
    __shared__ __align__(16) float dz[W::CHUNK * W::PITCH];
    __shared__ __align__(16) float x[W::X_ROWS * W::PITCH];
    const int sides = (call.width + W::SIDE - 1) / W::SIDE;
    const int place = static_cast<int>(blockIdx.x);
    const int first_output = place % sides * W::SIDE;
    const int first_input = place / sides % sides * W::SIDE;
    const int first_tap = place / sides / sides * W::TAPS;
    const int last_tap = min(first_tap + W::TAPS, call.kernel) - 1;
    const int lane = static_cast<int>(threadIdx.x) % 16;
    const int tap = static_cast<int>(threadIdx.x) / 16 * W::EACH;
    const int output = lane / 4 * W::EACH;
    const int input = lane % 4 * W::EACH;
    const int split = static_cast<int>(blockIdx.z);
    const int end = share(call, split + 1);
    float sums[W::EACH][W::EACH][W::EACH] = {};
    chunk c = next_chunk<W::CHUNK>(call, share(call, split), end, first_tap, last_tap);
    while (c.index < end) {
        const int seen = c.first - call.kernel / 2 + first_tap;
        load_tile(call, call.dz, c, c.first, W::CHUNK, first_output, dz);
        load_tile(call, call.x, c, seen, W::X_ROWS, first_input, x);
        __syncthreads();
        if (first_tap + tap < call.kernel) {
            run_tile(dz + output, x + tap * W::PITCH + input, sums);
        }
        __syncthreads();
        c = next_chunk<W::CHUNK>(call, c.index + 1, end, first_tap, last_tap);
    }
    float *to = target(call, split);
    const int64_t group = blockIdx.y;
#pragma unroll
    for (int i = 0; i < W::EACH * W::EACH * W::EACH; i++) {
        const int o = first_output + output + i / W::EACH % W::EACH;
        const int k = first_tap + tap + i / W::EACH / W::EACH;
        const int in = first_input + input + i % W::EACH;
        if (o < call.width && k < call.kernel && in < call.width) {
            float *at = to + ((group * call.width + o) * call.kernel + k) * call.width + in;
            const float sum = sums[i / W::EACH / W::EACH][i / W::EACH % W::EACH][i % W::EACH];
            *at = call.parts == nullptr ? *at + sum : sum;
        }
    }
}

} // namespace

#endif
