/* SPDX-License-Identifier: MIT */
/*
 * Matrices [batch * padded, channels] row by row, a warp per row, in packs of the flat numbering:
 * so that a pack is one Philox block of dropout whatever the number of channels. The first and the
 * last pack of a row may then belong to its neighbours in part; WHOLE: none does (channels is a
 * multiple of a pack) and every array is aligned to 16 bytes.
 *
 *   for (at = walk_rows(rows); is_within(at, rows); advance(at, rows))
 *       for (e = pack_of_lane(begin); e < end; e += ROW_PACKS)   begin, end: the row's elements
 */
#ifndef SER_OPS_CUDA_ROW_PACKS_CUH
#define SER_OPS_CUDA_ROW_PACKS_CUH

#include "ops/cuda/packs.cuh"

constexpr int ROW_WARPS = PACK_THREADS / WARP; /* of a block */
constexpr int ROW_PACKS = WARP * PACK;         /* elements that a warp takes at a time */

/* A warp's way through all rows, in equal steps; divided is only once. A clip's length fits in 31
 * bits, as its valid length does. */
struct row_walk {
    int64_t row;
    uint32_t clip, t; /* row == clip * padded + t */
    uint32_t clips, rest;
    int64_t step; /* step == clips * padded + rest */
};

__device__ __forceinline__ row_walk walk_rows(const ser_rows &rows)
{
    const uint32_t warps = blockDim.x / WARP;
    const uint32_t padded = static_cast<uint32_t>(rows.padded);
    const uint32_t first = blockIdx.x * warps + threadIdx.x / WARP;
    const uint32_t step = gridDim.x * warps;
    return {first, first / padded, first % padded, step / padded, step % padded, step};
}

__device__ __forceinline__ void advance(row_walk &at, const ser_rows &rows)
{
    const uint32_t padded = static_cast<uint32_t>(rows.padded);
    at.row += at.step;
    at.clip += at.clips;
    at.t += at.rest;
    if (at.t >= padded) {
        at.t -= padded;
        at.clip++;
    }
}

__device__ __forceinline__ bool is_within(const row_walk &at, const ser_rows &rows)
{
    return at.clip < rows.batch;
}

/* Of a row within. */
__device__ __forceinline__ bool is_valid(const row_walk &at, const ser_rows &rows)
{
    return static_cast<int32_t>(at.t) < rows.valid[at.clip];
}

/* The lane's first pack of a row whose first element is `begin`. */
__device__ __forceinline__ int64_t pack_of_lane(int64_t begin)
{
    return begin / PACK * PACK + static_cast<int64_t>(threadIdx.x % WARP) * PACK;
}

/* Elements at .. at + 7 of the array; 0 for those outside begin .. end - 1. */
template <bool WHOLE, typename T>
__device__ __forceinline__ void load_between(const T *array, int64_t at, int64_t begin, int64_t end,
                                             float (&x)[PACK])
{
    if constexpr (WHOLE) {
        load_pack(array + at, x);
    } else {
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            x[i] = at + i >= begin && at + i < end ? to_float(array[at + i]) : 0.0f;
        }
    }
}

/* The reverse; nothing outside is written. */
template <bool WHOLE, typename T>
__device__ __forceinline__ void store_between(T *array, int64_t at, int64_t begin, int64_t end,
                                              const float (&x)[PACK])
{
    if constexpr (WHOLE) {
        store_pack(array + at, x);
    } else {
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            if (at + i >= begin && at + i < end) {
                array[at + i] = from_float<T>(x[i]);
            }
        }
    }
}

/* Blocks for a warp per row: at most as many threads as a card holds at a time, each warp takes
 * several rows then. */
static inline int64_t ser_row_blocks(const ser_queue *queue, int64_t rows)
{
    const int64_t blocks = cuda_ceil_div(rows, ROW_WARPS);
    const int64_t most = int64_t{2048 / PACK_THREADS} * queue->context->multiprocessors;
    return blocks < most ? blocks : most;
}

static inline ser_shape ser_row_shape(const ser_queue *queue, int64_t rows)
{
    return {ser_grid(ser_row_blocks(queue, rows), 1), PACK_THREADS, 0};
}

#endif
