/* SPDX-License-Identifier: MIT */
/* What both directions of the convolutions' tail share: y = GELU(norm(z)). */
#ifndef SER_OPS_CUDA_CONV_TAIL_CUH
#define SER_OPS_CUDA_CONV_TAIL_CUH

#include "ops/cuda/packs.cuh"

namespace
{

constexpr int WARPS = 4;
constexpr int MOST_ROUNDS = 4;    /* of a warp over a row: 1024 channels stay in registers */
constexpr int MOST_CLIPS = 65535; /* of a grid's second dimension; its blocks take several */
constexpr float EPS = 1e-5f;

/* 1 / sqrt(var + eps), from the sum of the squared deviations. */
__device__ __forceinline__ float inverse_of(float squares, int32_t channels)
{
    return 1.0f / sqrtf(squares / static_cast<float>(channels) + EPS);
}

/* Mean and inverse deviation of a row that a warp holds, a pack per lane and round from channel
 * `begin` on; v is 0 beyond the last. The variance is from a second pass over the registers. */
template <int ROUNDS>
__device__ __forceinline__ void row_stats(const float (&v)[ROUNDS][PACK], int begin,
                                          int32_t channels, float &mean, float &inverse)
{
    float total = 0.0f;
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            total += v[j][i];
        }
    }
    mean = warp_sum(total) / static_cast<float>(channels);
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            const float d = v[j][i] - mean;
            squares += begin + j * WARP * PACK + i < channels ? d * d : 0.0f;
        }
    }
    inverse = inverse_of(warp_sum(squares), channels);
}

/* log2 of the threads that share a row, a pack each and round: at most a warp. */
static inline int lanes_shift(int32_t channels)
{
    int shift = 0;
    while (shift < 5 && (PACK << shift) < channels) {
        shift++;
    }
    return shift;
}

/* Blocks for a clip's rows, and clips. */
static inline dim3 grid_of(int64_t blocks, int64_t batch)
{
    return dim3(static_cast<unsigned>(blocks),
                static_cast<unsigned>(batch < MOST_CLIPS ? batch : MOST_CLIPS));
}

} // namespace

#endif
