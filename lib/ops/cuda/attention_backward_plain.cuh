/* SPDX-License-Identifier: MIT */
/*
 * Attention's backward in plain f32 arithmetic, for every type and head width: 64 owned rows, 64
 * others at a time, and the threads as in attention_plain.cuh, owned rows in the queries' place and
 * others in the keys'.
 */
#ifndef SER_OPS_CUDA_ATTENTION_BACKWARD_PLAIN_CUH
#define SER_OPS_CUDA_ATTENTION_BACKWARD_PLAIN_CUH

#include "ops/cuda/attention_backward_rows.cuh"
#include "ops/cuda/attention_plain.cuh"

namespace
{

static_assert(QUERIES == OTHERS && DEPTH == OTHERS, "one size of tile serves all");

/* Shared memory of a block, in floats, then words of masks. */
constexpr int PLAIN_TILE = OTHERS * PITCH;
constexpr size_t PLAIN_BACKWARD_MASKS = 4 * PLAIN_TILE * sizeof(float);
constexpr size_t PLAIN_MASK_WORDS = OTHERS * OTHERS / 32;

/* The four tiles: some columns of A, B, A' and B'; after the first products dS and f P lie in place
 * of A and B. */
struct plain_tiles {
    float *a, *b, *other_a, *other_b;
};

/* `columns` columns from `column` on of the others' factors, from row `other` on. */
template <int N, typename T>
__device__ __forceinline__ void fill_others(const plain_tiles &tiles, const factor_rows<T> &others,
                                            int other, int valid, int column, int columns)
{
    fill_rows<N, DEPTH, PITCH>(tiles.other_a, others.first + other * others.first_pitch + column,
                               others.first_pitch, valid - other, columns);
    fill_rows<N, DEPTH, PITCH>(tiles.other_b, others.second + other * others.second_pitch + column,
                               others.second_pitch, valid - other, columns);
}

/* s and d of the thread's owned and other rows, to dS and f P in shared memory. */
template <bool OF_KEYS, typename T>
__device__ __forceinline__ void plain_gradients(const backward_problem<T> &p, const query_tile &at,
                                                int other, const float (&s)[SIDE][SIDE],
                                                const float (&d)[SIDE][SIDE],
                                                const plain_tiles &tiles, const uint32_t *words)
{
    const int tx = static_cast<int>(threadIdx.x) % ROW_LANES;
    const int ty = static_cast<int>(threadIdx.x) / ROW_LANES;
    const float2 *values = row_values(p, at) + (OF_KEYS ? other + tx : at.first + ty * SIDE);
    float2 rows[SIDE];
#pragma unroll
    for (int i = 0; i < SIDE; i++) {
        rows[i] = values[OF_KEYS ? i * ROW_LANES : i];
    }
#pragma unroll
    for (int i = 0; i < SIDE; i++) {
#pragma unroll
        for (int j = 0; j < SIDE; j++) {
            const int row = ty * SIDE + i;
            const int column = tx + j * ROW_LANES;
            const int key = OF_KEYS ? row : column;
            const int query = OF_KEYS ? column : row;
            const bool stays =
                words == nullptr || (words[key / 32 * OTHERS + query] >> key % 32 & 1u) != 0;
            const score_gradient g = gradient_of(s[i][j], d[i][j], p.forward.scale, p.forward.kept,
                                                 rows[OF_KEYS ? j : i], stays);
            const bool valid = (OF_KEYS ? at.first : other) + key < at.valid;
            tiles.a[row * PITCH + column] = valid ? g.ds : 0.0f;
            if (OF_KEYS) {
                tiles.b[row * PITCH + column] = valid ? g.kept : 0.0f;
            }
        }
    }
}

/* One block of others. */
template <bool OF_KEYS, int N, typename T>
__device__ __forceinline__ void
plain_block(const backward_problem<T> &p, const query_tile &at, int column, int other,
            const plain_tiles &tiles, uint32_t *words, float (&sums)[2][SIDE][DEPTH / ROW_LANES])
{
    const factor_rows<T> own = factors_of<OF_KEYS>(p, at);
    const factor_rows<T> others = factors_of<!OF_KEYS>(p, at);
    const int width = p.forward.width;
    float s[SIDE][SIDE] = {};
    float d[SIDE][SIDE] = {};
    for (int k = 0; k < width; k += DEPTH) {
        const int depth = width - k < DEPTH ? width - k : DEPTH;
        __syncthreads(); /* what was there has been used */
        fill_rows<N, DEPTH, PITCH>(tiles.a, own.first + at.first * own.first_pitch + k,
                                   own.first_pitch, at.valid - at.first, depth);
        fill_rows<N, DEPTH, PITCH>(tiles.b, own.second + at.first * own.second_pitch + k,
                                   own.second_pitch, at.valid - at.first, depth);
        fill_others<N>(tiles, others, other, at.valid, k, depth);
        if (k == 0 && words != nullptr) {
            copy_words<OF_KEYS, OTHERS>(p.forward, at, other, words);
            cp_async_commit();
            cp_async_wait<0>();
        }
        __syncthreads();
        add_scores(s, tiles.a, tiles.other_a, (depth + 3) / 4 * 4);
        add_scores(d, tiles.b, tiles.other_b, (depth + 3) / 4 * 4);
    }
    __syncthreads(); /* the factors have been used */
    plain_gradients<OF_KEYS>(p, at, other, s, d, tiles, words);
    if (width > DEPTH) {
        fill_others<N>(tiles, others, other, at.valid, column, width - column);
    }
    __syncthreads();
    const int left = at.valid - other < OTHERS ? at.valid - other : OTHERS;
    add_values<DEPTH, PITCH>(sums[0], tiles.a, tiles.other_a, left);
    if (OF_KEYS) {
        add_values<DEPTH, PITCH>(sums[1], tiles.b, tiles.other_b, left);
    }
}

/* `factor` times the thread's sums, from `column` of the head on; zeros behind the clip. */
template <int N, typename T>
__device__ __forceinline__ void plain_write_row(T *to, int width, int column, const float *sums,
                                                float factor, bool valid)
{
    const int tx = static_cast<int>(threadIdx.x) % ROW_LANES;
#pragma unroll
    for (int c = 0; c < SIDE; c += N) {
        const int at = column + tx * SIDE + c;
        float x[N];
#pragma unroll
        for (int j = 0; j < N; j++) {
            x[j] = valid ? sums[c + j] * factor : 0.0f;
        }
        if (at < width) {
            store<N>(to + at, x);
        }
    }
}

template <bool OF_KEYS, typename T, int N>
__device__ __forceinline__ void plain_role(const backward_problem<T> &p, int column, float *shared)
{
    static_assert(DEPTH / ROW_LANES == SIDE, "a thread's columns are neighbours");
    const query_tile at = tile_of(p.forward, OTHERS);
    const plain_tiles tiles = {shared, shared + PLAIN_TILE, shared + 2 * PLAIN_TILE,
                               shared + 3 * PLAIN_TILE};
    uint32_t *words = p.forward.dropout.threshold > 0
                          ? reinterpret_cast<uint32_t *>(shared + 4 * PLAIN_TILE)
                          : nullptr;
    float sums[2][SIDE][DEPTH / ROW_LANES] = {};
    const int count = at.first < at.valid ? at.valid : 0; /* a tile of padding needs nothing */
    for (int other = 0; other < count; other += OTHERS) {
        plain_block<OF_KEYS, N>(p, at, column, other, tiles, words, sums);
    }
    const int width = p.forward.width;
#pragma unroll
    for (int i = 0; i < SIDE; i++) {
        const int row = at.first + static_cast<int>(threadIdx.x) / ROW_LANES * SIDE + i;
        if (row >= p.forward.padded) {
            continue;
        }
        T *to = gradient_row<OF_KEYS>(p, at, row);
        plain_write_row<N>(to, width, column, sums[0][i], p.scale, row < at.valid);
        if (OF_KEYS) {
            plain_write_row<N>(to + static_cast<int64_t>(p.forward.heads) * width, width, column,
                               sums[1][i], p.forward.kept, row < at.valid);
        }
    }
}

/* blockIdx.z: which DEPTH columns of the gradients, for keys, then for queries. P and dS are made
 * again for each. */
template <typename T, int N>
__global__ void __launch_bounds__(PLAIN_THREADS, 2)
    attention_backward_plain(const backward_problem<T> p)
{
    SER_SHARED(float, shared);
    const int pieces = static_cast<int>(gridDim.z) / 2;
    const int piece = static_cast<int>(blockIdx.z);
    if (piece < pieces) {
        plain_role<true, T, N>(p, piece * DEPTH, shared);
    } else {
        plain_role<false, T, N>(p, (piece - pieces) * DEPTH, shared);
    }
}

} // namespace

#endif
