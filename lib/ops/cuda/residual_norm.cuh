/* SPDX-License-Identifier: MIT */
/* What the two directions of residual_norm share. */
#ifndef SER_OPS_CUDA_RESIDUAL_NORM_CUH
#define SER_OPS_CUDA_RESIDUAL_NORM_CUH

#include "ops/cuda/row_packs.cuh"

/* Of backward's kernels that sum over rows: warps of a block at least, blocks on a multiprocessor
 * at most. Each block leaves its sums, [2, channels], in the scratch. */
constexpr int NORM_LEAST_WARPS = 4;
constexpr int NORM_MOST_RESIDENT = 2;

static inline int64_t residual_norm_blocks(const ser_queue *queue, int64_t rows, int64_t warps,
                                           int64_t resident)
{
    const int64_t blocks = cuda_ceil_div(rows, warps);
    const int64_t most = resident * queue->context->multiprocessors;
    return blocks < most ? blocks : most;
}

static inline int64_t residual_norm_most_blocks(const ser_queue *queue, int64_t rows)
{
    return residual_norm_blocks(queue, rows, NORM_LEAST_WARPS, NORM_MOST_RESIDENT);
}

#endif
