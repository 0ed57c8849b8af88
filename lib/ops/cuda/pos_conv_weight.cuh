/* SPDX-License-Identifier: MIT */
/*
 * The weight gradient of pos_conv,
 *   dw[o, k, i] += sum over clips and frames t of dz[t, o] x[t - kernel / 2 + k, i],
 * frames outside the clip being 0. Only for pos_conv_backward.cu.
 *
 * A block has one group, some taps and a share of the chunks that the clips' frames come in. A
 * chunk of dz and the frames of x that the taps reach from it lie in shared memory, zeros where the
 * clip has no valid frame; tap by tap the rows of x begin one further down.
 *
 * bf16, groups of 8, 16 .. 64 channels: tensor cores. Everything else: portable loops.
 */
#ifndef SER_OPS_CUDA_POS_CONV_WEIGHT_CUH
#define SER_OPS_CUDA_POS_CONV_WEIGHT_CUH

#include "ops/cuda/mma.cuh"
#include "ops/cuda/packs.cuh"

namespace
{

template <typename T> struct weight_call {
    const T *x, *dz; /* [batch * padded, channels] */
    float *dw;       /* [channels, kernel, width]: output, tap, input */
    float *parts;    /* [splits, part], each as dw; NULL: the chunks are not split */
    int64_t part;    /* at least channels * kernel * width; a multiple of PACK */
    const int32_t *valid;
    int batch, padded, channels, width, kernel;
    int per_clip; /* chunks */
    int splits;   /* of all clips' chunks */
};

/* The frames of dz that a block works on next. */
struct chunk {
    int index; /* clip * per_clip + chunk of the clip; the end of the block's: there is none */
    int clip;
    int valid; /* frames of the clip */
    int first; /* frame of dz */
};

/* The block's shares of the chunks. */
template <typename T> __device__ __forceinline__ int share(const weight_call<T> &call, int split)
{
    return static_cast<int>(int64_t{call.batch} * call.per_clip * split / call.splits);
}

/* The next chunk from `index` on that has valid frames whose taps, `first_tap` .. `last_tap`, see
 * valid frames. */
template <int FRAMES_PER_CHUNK, typename T>
__device__ __forceinline__ chunk next_chunk(const weight_call<T> &call, int index, int end,
                                            int first_tap, int last_tap)
{
    chunk c = {.index = index, .clip = 0, .valid = 0, .first = 0};
    for (; c.index < end; c.index++) {
        c.clip = c.index / call.per_clip;
        c.valid = call.valid[c.clip];
        c.first = c.index % call.per_clip * FRAMES_PER_CHUNK;
        const int seen = c.first - call.kernel / 2;
        const int last = min(c.first + FRAMES_PER_CHUNK, c.valid) - 1 - call.kernel / 2;
        if (c.first < c.valid && seen + first_tap < c.valid && last + last_tap >= 0) {
            break;
        }
    }
    return c;
}

/* Where a block's sums go: its part, which is set, or the gradient, which is added to. */
template <typename T>
__device__ __forceinline__ float *target(const weight_call<T> &call, int split)
{
    return call.parts != nullptr ? call.parts + split * call.part : call.dw;
}

/* What the blocks with shares of the chunks left, in their order. */
template <typename T>
__global__ void __launch_bounds__(PACK_THREADS) add_weight_parts(const weight_call<T> call)
{
    const int64_t at = pack_first();
    const int64_t left = int64_t{call.channels} * call.kernel * call.width - at;
    if (left <= 0) {
        return;
    }
    float dw[PACK];
    load_pack(call.dw + at, left, true, dw);
    float sum[PACK] = {};
    for (int split = 0; split < call.splits; split++) {
        float part[PACK];
        load_pack(call.parts + split * call.part + at, left, true, part);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            sum[i] += part[i];
        }
    }
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        dw[i] += sum[i];
    }
    store_pack(call.dw + at, left, true, dw);
}

} // namespace

#endif
