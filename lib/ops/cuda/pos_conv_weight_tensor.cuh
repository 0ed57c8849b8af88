/* SPDX-License-Identifier: MIT */
/*
 * The weight gradient of pos_conv on tensor cores. Only for pos_conv_backward.cu.
 *
 * A block has eight warps, each with SLOTS taps that are 16 apart, and the group's outputs and
 * inputs, WIDTH of them with zeros beyond the group's own: dz^T x, summed over frames. Through slot
 * s, block m of 16 frames sees the same 16 rows of x as block m + 1 through slot s - 1: a fragment
 * of them is loaded once for both. Pitches are odd multiples of 16 bytes, so that eight rows lie in
 * different banks.
 */
#ifndef SER_OPS_CUDA_POS_CONV_WEIGHT_TENSOR_CUH
#define SER_OPS_CUDA_POS_CONV_WEIGHT_TENSOR_CUH

#include "ops/cuda/pos_conv_weight.cuh"

namespace
{

constexpr int GRADIENT_WARPS = 8;
constexpr int GRADIENT_THREADS = GRADIENT_WARPS * WARP;

template <int WIDTH> struct gradient_layout {
    /* As many as the registers hold: the sums of 64 x 64 fill half of them. */
    static constexpr int SLOTS = WIDTH <= 48 ? 2 : 1;
    static constexpr int FRAME_BLOCKS = WIDTH == 16 || WIDTH == 48 ? 4 : 2; /* of dz at a time */
    static constexpr int BLOCKS = WIDTH <= 16 ? 3 : WIDTH <= 32 ? 2 : 1;    /* per multiprocessor */
    static constexpr int CHUNK = 128;                                       /* frames */
    static constexpr int PITCH = WIDTH + 8;
    static constexpr int REACH = 16 * (SLOTS - 1) + GRADIENT_WARPS; /* last tap - first tap + 1 */
    static constexpr int X_ROWS = CHUNK + REACH - 1;
    static constexpr int STAGE = (CHUNK + X_ROWS) * PITCH; /* dz, then x */
    static constexpr size_t SHARED = 2 * STAGE * sizeof(bf16);

    /* Sets of GRADIENT_WARPS * SLOTS taps that the kernel's are covered by; the last may be one of
     * each pair only. */
    static constexpr int64_t sets(int64_t kernel)
    {
        const int64_t rest = kernel % (16 * SLOTS);
        const int64_t more = rest > GRADIENT_WARPS ? 2 : rest > 0 ? 1 : 0;
        return kernel / (16 * SLOTS) * 2 + more;
    }
};

/* Warp w of a set has the taps first + w + 16 s. */
template <int WIDTH> __device__ __forceinline__ int first_tap_of(int set)
{
    return set / 2 * 16 * gradient_layout<WIDTH>::SLOTS + set % 2 * GRADIENT_WARPS;
}

/* Start copying `rows` of the group's channels, the clip's frames from `first` on. */
template <int WIDTH>
__device__ __forceinline__ void load_rows(const weight_call<bf16> &call, const bf16 *array,
                                          const chunk &c, int first, int rows, bf16 *to)
{
    using L = gradient_layout<WIDTH>;
    constexpr int PIECES = WIDTH / 8;
    const int64_t column = int64_t{blockIdx.y} * call.width;
    const bf16 *clip = array + int64_t{c.clip} * call.padded * call.channels + column;
    for (int i = static_cast<int>(threadIdx.x); i < rows * PIECES; i += GRADIENT_THREADS) {
        const int row = i / PIECES;
        const int at = i % PIECES * 8;
        const int frame = first + row;
        const bool there = frame >= 0 && frame < c.valid && at < call.width;
        const bf16 *from = there ? clip + int64_t{frame} * call.channels + at : array;
        cp_async_16(to + row * L::PITCH + at, from, there);
    }
}

template <int WIDTH>
__device__ __forceinline__ void load_chunk(const weight_call<bf16> &call, const chunk &c,
                                           int first_tap, bf16 *stage)
{
    using L = gradient_layout<WIDTH>;
    load_rows<WIDTH>(call, call.dz, c, c.first, L::CHUNK, stage);
    load_rows<WIDTH>(call, call.x, c, c.first - call.kernel / 2 + first_tap, L::X_ROWS,
                     stage + L::CHUNK * L::PITCH);
}

/* FRAME_BLOCKS blocks of 16 frames. dz: this lane's row of the first fragment; x: the same, of the
 * warp's first tap, whose first row is frame `seen` of `valid`. */
template <int WIDTH>
__device__ __forceinline__ void
multiply_frames(const bf16 *dz, const bf16 *x, int seen, int valid,
                float (&sums)[gradient_layout<WIDTH>::SLOTS][WIDTH / 16][WIDTH / 8][4])
{
    using L = gradient_layout<WIDTH>;
    uint32_t a[L::FRAME_BLOCKS][WIDTH / 16][4];
#pragma unroll
    for (int f = 0; f < L::FRAME_BLOCKS; f++) {
#pragma unroll
        for (int m = 0; m < WIDTH / 16; m++) {
            ldmatrix_x4_trans(a[f][m], dz + 16 * f * L::PITCH + 16 * m);
        }
    }
#pragma unroll
    for (int j = 0; j < L::FRAME_BLOCKS + L::SLOTS - 1; j++) {
        if (seen + 16 * j + 15 < 0 || seen + 16 * j >= valid) {
            continue; /* zeros */
        }
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n += 2) {
            uint32_t b[4]; /* inputs 8n .. 8n + 7, then the next eight */
            ldmatrix_x4_trans(b, x + 16 * j * L::PITCH + 8 * n);
            const uint32_t low[2] = {b[0], b[1]};
            const uint32_t high[2] = {b[2], b[3]};
#pragma unroll
            for (int s = 0; s < L::SLOTS; s++) {
                if (j - s >= 0 && j - s < L::FRAME_BLOCKS) {
#pragma unroll
                    for (int m = 0; m < WIDTH / 16; m++) {
                        mma_m16n8k16(sums[s][m][n], a[j - s][m], low);
                        mma_m16n8k16(sums[s][m][n + 1], a[j - s][m], high);
                    }
                }
            }
        }
    }
}

/* A chunk through the warp's taps, `tap` the first of them. */
template <int WIDTH>
__device__ __forceinline__ void
run_chunk(const weight_call<bf16> &call, const chunk &c, int tap, const bf16 *stage,
          float (&sums)[gradient_layout<WIDTH>::SLOTS][WIDTH / 16][WIDTH / 8][4])
{
    using L = gradient_layout<WIDTH>;
    constexpr int STEP = 16 * L::FRAME_BLOCKS;
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const bf16 *dz = stage + (lane % 8 + lane / 16 * 8) * L::PITCH + lane / 8 % 2 * 8;
    const bf16 *x = stage + (L::CHUNK + warp + lane % 16) * L::PITCH + lane / 16 * 8;
#pragma unroll 1
    for (int frame = 0; frame < L::CHUNK && c.first + frame < c.valid; frame += STEP) {
        multiply_frames<WIDTH>(dz + frame * L::PITCH, x + frame * L::PITCH,
                               c.first + frame - call.kernel / 2 + tap, c.valid, sums);
    }
}

/* This thread's places in the sums: outputs lane / 4 and 8 more of each block of 16, two
 * neighbouring inputs (mma.cuh). */
template <int WIDTH>
__device__ __forceinline__ void
store_taps(const weight_call<bf16> &call, int tap,
           const float (&sums)[gradient_layout<WIDTH>::SLOTS][WIDTH / 16][WIDTH / 8][4])
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const bool add = call.parts == nullptr;
    const int64_t group = blockIdx.y;
    float *to = target(call, static_cast<int>(blockIdx.z)) +
                group * call.width * call.kernel * call.width + lane % 4 * 2;
#pragma unroll
    for (int s = 0; s < gradient_layout<WIDTH>::SLOTS; s++) {
#pragma unroll
        for (int m = 0; m < WIDTH / 16; m++) {
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                const int output = 16 * m + lane / 4 + 4 * i;
                float *row = to + (int64_t{output} * call.kernel + tap + 16 * s) * call.width;
#pragma unroll
                for (int n = 0; n < WIDTH / 8; n++) {
                    if (tap + 16 * s < call.kernel && output < call.width && 8 * n < call.width) {
                        float old[2] = {};
                        if (add) {
                            load(row + 8 * n, old);
                        }
                        const float pair[2] = {old[0] + sums[s][m][n][i],
                                               old[1] + sums[s][m][n][i + 1]};
                        store(row + 8 * n, pair);
                    }
                }
            }
        }
    }
}

/* Grid: sets of taps, groups, shares of the chunks. */
template <int WIDTH>
__global__ void __launch_bounds__(GRADIENT_THREADS, gradient_layout<WIDTH>::BLOCKS)
    weight_gradient_tensor(const weight_call<bf16> call)
{
    using L = gradient_layout<WIDTH>;
    SER_SHARED(bf16, stages); /* two */
    const int first = first_tap_of<WIDTH>(static_cast<int>(blockIdx.x));
    const int last = min(first + L::REACH, call.kernel) - 1;
    const int tap = first + static_cast<int>(threadIdx.x) / WARP;
    const int end = share(call, static_cast<int>(blockIdx.z) + 1);
    chunk c =
        next_chunk<L::CHUNK>(call, share(call, static_cast<int>(blockIdx.z)), end, first, last);
    float sums[L::SLOTS][WIDTH / 16][WIDTH / 8][4] = {};
    int half = 0;
    if (c.index < end) {
        load_chunk<WIDTH>(call, c, first, stages);
    }
    cp_async_commit();
    while (c.index < end) {
        const chunk next = next_chunk<L::CHUNK>(call, c.index + 1, end, first, last);
        cp_async_wait<0>();
        __syncthreads(); /* the stage is there, and nobody reads the other half any more */
        if (next.index < end) {
            load_chunk<WIDTH>(call, next, first, stages + (1 - half) * L::STAGE);
        }
        cp_async_commit();
        if (tap < call.kernel) {
            run_chunk<WIDTH>(call, c, tap, stages + half * L::STAGE, sums);
        }
        c = next;
        half = 1 - half;
    }
    cp_async_wait<0>();
    store_taps<WIDTH>(call, tap, sums);
}

} // namespace

#endif
