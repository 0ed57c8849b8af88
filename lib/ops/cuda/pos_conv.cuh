/* SPDX-License-Identifier: MIT */
/* What the kernels of pos_conv share. Only for pos_conv.cu and pos_conv_backward.cu. */
#ifndef SER_OPS_CUDA_POS_CONV_CUH
#define SER_OPS_CUDA_POS_CONV_CUH

#include "ops/cuda/mma.cuh"
#include "ops/cuda/packs.cuh"

/* Bytes that backward alone needs (pos_conv_backward.cu). */
size_t ser_cuda_pos_conv_bwd_scratch(const ser_queue *queue, const ser_pos_conv_args *args);

namespace
{

/*
 * sum over tap k and input i of x[t - before + k, i] w[o, k, i], frames outside the clip being 0.
 * Forward: z = sum + bias, y = x + GELU(z). The data gradient: y = sum + dy; x and w are then dz
 * and the transposed weights in reverse order.
 */
template <typename T> struct conv_call {
    const T *x;        /* [batch * padded, channels] */
    const T *w;        /* [groups, width, kernel, width]: output, tap, input */
    const float *bias; /* [channels]; forward only */
    const T *dy;       /* as x; the data gradient only */
    T *y;              /* as x */
    T *z;              /* as x, or NULL */
    float *parts;      /* [splits, batch * padded, channels]; NULL: taps are not split */
    const int32_t *valid;
    int64_t rows; /* batch * padded */
    int padded, channels, width, kernel;
    int before; /* frame t sees the frames from t - before on */
    int tiles;  /* per clip */
    int splits; /* of the taps; block (clip * tiles + tile) * splits + split, group */
};

enum direction { FORWARD, GRADIENT };

struct span {
    int begin, end;
};

/* What a block works on. */
struct tile {
    int clip, split;
    int valid; /* frames of the clip */
    int first; /* frame */
    int count; /* valid frames in the tile, 0: none */
};

template <typename T> __device__ __forceinline__ tile tile_of(const conv_call<T> &call, int rows)
{
    const int index = static_cast<int>(blockIdx.x);
    const int place = index / call.splits;
    const int clip = place / call.tiles;
    const int first = place % call.tiles * rows;
    const int valid = call.valid[clip];
    return {.clip = clip,
            .split = index % call.splits,
            .valid = valid,
            .first = first,
            .count = max(0, min(rows, valid - first))};
}

/* Taps through which `count` > 0 frames from `first` on see frames of the clip. */
template <typename T>
__device__ __forceinline__ span taps_of(const conv_call<T> &call, int first, int count, int valid)
{
    return {max(0, call.before - (first + count - 1)),
            min(call.kernel, call.before + valid - first)};
}

} // namespace

#endif
