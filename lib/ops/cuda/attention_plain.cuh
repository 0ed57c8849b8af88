/* SPDX-License-Identifier: MIT */
/*
 * Attention in plain f32 arithmetic, for every type and head width: tiles of 64 queries and 64
 * keys, 16 x 16 threads. Thread (tx, ty) has queries 4 ty .. 4 ty + 3, of the scores the keys
 * tx + 16 j, of the output the columns 4 tx .. 4 tx + 3 of every 64. The 16 threads of a query are
 * neighbouring lanes of one warp.
 */
#ifndef SER_OPS_CUDA_ATTENTION_PLAIN_CUH
#define SER_OPS_CUDA_ATTENTION_PLAIN_CUH

#include "ops/cuda/attention.cuh"

namespace
{

constexpr int PLAIN_THREADS = 256;
constexpr int QUERIES = 64;
constexpr int DEPTH = 64;        /* columns of Q and K at hand at a time */
constexpr int PITCH = DEPTH + 4; /* of their rows: eight lanes read 16 bytes each from all banks */
constexpr int SIDE = 4;          /* queries, and keys, of a thread */
constexpr int ROW_LANES = KEYS / SIDE;
constexpr int WARP_QUERIES = WARP / ROW_LANES * SIDE;
static_assert(QUERIES * ROW_LANES == PLAIN_THREADS * SIDE, "a thread for every 4 x 4 scores");
static_assert(KEYS == DEPTH, "the probabilities take the place of the keys");

/* Shared memory of a block, in floats, then bytes of masks. */
template <int COLUMNS> struct plain_sizes {
    static constexpr int KEYS_AT = QUERIES * PITCH;
    static constexpr int VALUES_AT = KEYS_AT + KEYS * PITCH;
    static constexpr int FLOATS = VALUES_AT + KEYS * COLUMNS;
    static constexpr size_t MASKS = FLOATS * sizeof(float); /* bytes before the masks */
};

/* 64 rows of COLUMNS columns as f32, N by N; zeros from row `rows` and column `columns` on. */
template <int N, int COLUMNS, int TO_PITCH, typename T>
__device__ __forceinline__ void fill_rows(float *to, const T *from, int64_t pitch, int rows,
                                          int columns)
{
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x); i < 64 * COLUMNS / N; i += PLAIN_THREADS) {
        const int row = i / (COLUMNS / N);
        const int column = i % (COLUMNS / N) * N;
        float x[N] = {};
        if (row < rows && column < columns) {
            load<N>(from + row * pitch + column, x);
        }
        store<N>(to + row * TO_PITCH + column, x);
    }
}

/* s += the products of `depth` columns, a multiple of 4, of the thread's queries and keys. */
__device__ __forceinline__ void add_scores(float (&s)[SIDE][SIDE], const float *queries,
                                           const float *keys, int depth)
{
    const int tx = static_cast<int>(threadIdx.x) % ROW_LANES;
    const int ty = static_cast<int>(threadIdx.x) / ROW_LANES;
#pragma unroll 1
    for (int k = 0; k < depth; k += 4) {
        float q[SIDE][4];
#pragma unroll
        for (int i = 0; i < SIDE; i++) {
            load<4>(queries + (ty * SIDE + i) * PITCH + k, q[i]);
        }
#pragma unroll
        for (int j = 0; j < SIDE; j++) {
            float x[4];
            load<4>(keys + (tx + j * ROW_LANES) * PITCH + k, x);
#pragma unroll
            for (int i = 0; i < SIDE; i++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    s[i][j] = fmaf(q[i][e], x[e], s[i][j]);
                }
            }
        }
    }
}

/* Softmax of the thread's part of its rows' scores, from key 0 of the block to `keys`; what dropout
 * leaves of it goes to `probabilities`, and earlier sums go on the new base. */
template <int COLUMNS, typename T>
__device__ __forceinline__ void
plain_softmax(const attention_problem<T> &p, const float (&s)[SIDE][SIDE],
              float (&o)[SIDE][COLUMNS / ROW_LANES], running_row (&rows)[SIDE],
              float *probabilities, const uint8_t *masks, uint64_t element, int keys)
{
    const int tx = static_cast<int>(threadIdx.x) % ROW_LANES;
    const int ty = static_cast<int>(threadIdx.x) / ROW_LANES;
#pragma unroll
    for (int i = 0; i < SIDE; i++) {
        float highest = -INFINITY;
#pragma unroll
        for (int j = 0; j < SIDE; j++) {
            highest = tx + j * ROW_LANES < keys ? fmaxf(highest, s[i][j]) : highest;
        }
        const float factor = rows[i].raise(row_max<ROW_LANES>(highest) * p.scale);
        const float base = rows[i].base();
#pragma unroll
        for (int c = 0; c < COLUMNS / ROW_LANES; c++) {
            o[i][c] *= factor;
        }
        const int row = ty * SIDE % WARP_QUERIES + i; /* of the warp's */
        uint2 kept = make_uint2(ALL_LANES, ALL_LANES);
        if (p.dropout.threshold > 0) {
            kept = kept_keys(
                masks, row, element + static_cast<uint64_t>(row) * static_cast<uint64_t>(p.padded));
        }
#pragma unroll
        for (int j = 0; j < SIDE; j++) {
            const int key = tx + j * ROW_LANES;
            const float power = key < keys ? power_of_2(fmaf(s[i][j], p.scale, -base)) : 0.0f;
            const uint32_t bits = j < SIDE / 2 ? kept.x : kept.y;
            rows[i].sum += power;
            probabilities[(ty * SIDE + i) * PITCH + key] =
                (bits >> key % 32 & 1u) != 0 ? power : 0.0f;
        }
    }
}

/* o += P V over the first `keys` keys of the block; V's rows are VALUE_PITCH apart. */
template <int COLUMNS, int VALUE_PITCH = COLUMNS>
__device__ __forceinline__ void add_values(float (&o)[SIDE][COLUMNS / ROW_LANES],
                                           const float *probabilities, const float *values,
                                           int keys)
{
    const int tx = static_cast<int>(threadIdx.x) % ROW_LANES;
    const int ty = static_cast<int>(threadIdx.x) / ROW_LANES;
#pragma unroll 1
    for (int key = 0; key < keys; key += 4) { /* rows of zeros fill the last four */
        float row[SIDE][4];
#pragma unroll
        for (int i = 0; i < SIDE; i++) {
            load<4>(probabilities + (ty * SIDE + i) * PITCH + key, row[i]);
        }
#pragma unroll
        for (int e = 0; e < 4; e++) {
#pragma unroll
            for (int c = 0; c < COLUMNS / ROW_LANES; c += 4) {
                float x[4];
                load<4>(values + (key + e) * VALUE_PITCH + c * ROW_LANES + tx * 4, x);
#pragma unroll
                for (int i = 0; i < SIDE; i++) {
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        o[i][c + j] = fmaf(row[i][e], x[j], o[i][c + j]);
                    }
                }
            }
        }
    }
}

/* y and lse of the thread's queries; zeros behind the clip. */
template <int COLUMNS, int N, typename T>
__device__ __forceinline__ void plain_write(const attention_problem<T> &p, const query_tile &at,
                                            int column, const float (&o)[SIDE][COLUMNS / ROW_LANES],
                                            const running_row (&rows)[SIDE])
{
    const int tx = static_cast<int>(threadIdx.x) % ROW_LANES;
    const int ty = static_cast<int>(threadIdx.x) / ROW_LANES;
#pragma unroll
    for (int i = 0; i < SIDE; i++) {
        const int query = at.first + ty * SIDE + i;
        const bool valid = query < at.valid;
        const float sum = row_sum<ROW_LANES>(rows[i].sum);
        const float factor = p.kept / sum;
        const int64_t row = at.row + query;
        T *y = p.y + (row * p.heads + at.head) * p.width;
        if (query >= p.padded) {
            continue;
        }
#pragma unroll
        for (int c = 0; c < COLUMNS / ROW_LANES; c += N) {
            const int to = column + c / 4 * DEPTH + tx * 4 + c % 4;
            float x[N];
#pragma unroll
            for (int j = 0; j < N; j++) {
                x[j] = valid ? o[i][c + j] * factor : 0.0f;
            }
            if (to < p.width) {
                store<N>(y + to, x);
            }
        }
        if (p.lse != nullptr && blockIdx.z == 0 && tx == 0) {
            p.lse[row * p.heads + at.head] = valid ? rows[i].lse(sum) : 0.0f;
        }
    }
}

/* blockIdx.z: which COLUMNS columns of the head's output; the scores are made again for each. */
template <typename T, int COLUMNS, int N>
__global__ void __launch_bounds__(PLAIN_THREADS, 2) attention_plain(const attention_problem<T> p)
{
    wait_for_previous();
    using sizes = plain_sizes<COLUMNS>;
    SER_SHARED(float, queries);
    float *keys = queries + sizes::KEYS_AT; /* afterwards the probabilities */
    float *values = queries + sizes::VALUES_AT;
    const query_tile at = tile_of(p, QUERIES);
    const int64_t channels = static_cast<int64_t>(p.heads) * p.width;
    const int64_t pitch = 3 * channels;
    const T *clip = p.qkv + at.row * pitch + static_cast<int64_t>(at.head) * p.width;
    const int column = static_cast<int>(blockIdx.z) * COLUMNS;
    const int warp_row = static_cast<int>(threadIdx.x) / WARP * WARP_QUERIES;
    uint8_t *masks = reinterpret_cast<uint8_t *>(queries) + sizes::MASKS + warp_row * MASK_BYTES;
    const uint64_t element =
        at.element + static_cast<uint64_t>(at.first + warp_row) * static_cast<uint64_t>(p.padded);
    const int count = at.first < at.valid ? at.valid : 0; /* a tile of padding needs no key */

    float o[SIDE][COLUMNS / ROW_LANES] = {};
    running_row rows[SIDE];
    for (int key = 0; key < count; key += KEYS) {
        const T *from = clip + key * pitch + channels;
        const int left = count - key < KEYS ? count - key : KEYS;
        float s[SIDE][SIDE] = {};
        for (int k = 0; k < p.width; k += DEPTH) {
            const int depth = p.width - k < DEPTH ? p.width - k : DEPTH;
            __syncthreads(); /* what was there has been used */
            if (key == 0 || p.width > DEPTH) {
                fill_rows<N, DEPTH, PITCH>(queries, clip + at.first * pitch + k, pitch,
                                           at.valid - at.first, depth);
            }
            fill_rows<N, DEPTH, PITCH>(keys, from + k, pitch, left, depth);
            if (k == 0) {
                fill_rows<N, COLUMNS, COLUMNS>(values, from + channels + column, pitch, left,
                                               p.width - column);
            }
            __syncthreads();
            add_scores(s, queries, keys, (depth + 3) / 4 * 4);
        }
        if (p.dropout.threshold > 0) {
            draw_masks<WARP_QUERIES>(p.dropout, element + static_cast<uint64_t>(key),
                                     static_cast<uint64_t>(p.padded), masks);
            if (p.bits != nullptr && blockIdx.z == 0) {
                leave_masks<WARP_QUERIES>(
                    bits_of(p, at.pair) + key / 32 * p.row_pitch + at.first + warp_row, p.row_pitch,
                    masks, element + static_cast<uint64_t>(key), static_cast<uint64_t>(p.padded));
            }
        }
        __syncthreads(); /* the keys have been used */
        plain_softmax<COLUMNS>(p, s, o, rows, keys, masks, element + static_cast<uint64_t>(key),
                               left);
        __syncwarp(); /* a row's probabilities stay in its warp */
        add_values<COLUMNS>(o, keys, values, left);
    }
    plain_write<COLUMNS, N>(p, at, column, o, rows);
}

} // namespace

#endif
