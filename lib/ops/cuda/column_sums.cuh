/* SPDX-License-Identifier: MIT */
/* Sums over rows in a fixed order: blocks leave partial sums in the scratch, a second kernel adds
 * them up. Shared by everything that has gradients of vectors. */
#ifndef SER_OPS_CUDA_COLUMN_SUMS_CUH
#define SER_OPS_CUDA_COLUMN_SUMS_CUH

#include "ops/cuda/launch.cuh"

/* Row `clip * padded + t`, for threads that go through the rows of all clips in equal steps. */
struct row_cursor {
    int64_t clip, t;
};

__device__ __forceinline__ row_cursor row_cursor_at(const ser_rows &rows, int64_t row)
{
    const int64_t clip = row / rows.padded;
    return {clip, row - clip * rows.padded};
}

/* No division where a step is shorter than a clip. */
__device__ __forceinline__ void advance(row_cursor &at, const ser_rows &rows, int64_t step)
{
    at.t += step;
    if (at.t >= rows.padded) {
        const int64_t clips = at.t < 2 * rows.padded ? 1 : at.t / rows.padded;
        at.t -= clips * rows.padded;
        at.clip += clips;
    }
}

/* The cursor must not be behind the last clip. */
__device__ __forceinline__ bool is_valid(const row_cursor &at, const ser_rows &rows)
{
    return at.t < rows.valid[at.clip];
}

/* sums[c] += sum over i < count of partials[i * pitch + c], for c < cols (column_sums.cu). */
int ser_cuda_add_partials(ser_queue *queue, const float *partials, int64_t count, int64_t pitch,
                          int64_t cols, float *sums);

#endif
