/* SPDX-License-Identifier: MIT */
/*
 * What the kernels of attention's backward share. With P_ij = 2^(scale log2(e) q_i k_j - e_i),
 * e_i = lse_i log2(e), f the factors of dropout (0 or `kept`), and dP = dY V^T:
 *   dV = (f P)^T dY;  dS = P (f dP - D), D_i = sum_j f_ij P_ij dP_ij = dy_i . y_i;
 *   dQ = scale dS K;  dK = scale dS^T Q
 * P is made again from e (Dao et al. 2022, FlashAttention, algorithm 4), in blocks of one of two
 * roles. Those of keys own some keys, go through the clip's queries and sum dK and dV up; those of
 * queries own queries, go through the keys and sum dQ up. So two of seven products are made twice,
 * but no sum crosses blocks: there are no atomics, and the order of every sum depends on the clip's
 * valid length alone. To both roles it is one scheme: with the owned rows' factors A, B and the
 * others' A', B', which are K, V and Q, dY or the other way round, s = A A'^T and d = B B'^T become
 * P and dS, and the sums are dS A' and, of keys, (f P) B'.
 */
#ifndef SER_OPS_CUDA_ATTENTION_BACKWARD_ROWS_CUH
#define SER_OPS_CUDA_ATTENTION_BACKWARD_ROWS_CUH

#include "ops/cuda/attention.cuh"
#include "ops/cuda/mma.cuh"

namespace
{

constexpr int OTHERS = 64; /* rows that a block goes through at a time */
static_assert(OTHERS == KEYS, "the masks of dropout are drawn for as many keys");

template <typename T> struct backward_problem {
    attention_problem<T> forward;
    const T *dy;  /* [batch * padded, C] */
    T *dqkv;      /* [batch * padded, 3 C] */
    float2 *rows; /* [batch, heads, row_pitch]: e and D; behind the clip infinity and 0, so that P
                     is 0 there */
    float scale;  /* of dQ and dK: the op's */
};

/* --- e and D --- */

constexpr int DOT_LANES = 8; /* of one row of one head */
constexpr int DOT_THREADS = 256;
constexpr int DOT_ROWS = DOT_THREADS / DOT_LANES;
static_assert(OTHERS % DOT_ROWS == 0, "a block of threads has work for all of them");

/* blockIdx.x: row_pitch * heads / DOT_ROWS blocks for every clip. */
template <typename T, int N>
__global__ void __launch_bounds__(DOT_THREADS) attention_dots(const backward_problem<T> p)
{
    const int32_t heads = p.forward.heads;
    const int32_t width = p.forward.width;
    const int32_t blocks = p.forward.row_pitch / DOT_ROWS * heads;
    const int32_t clip = static_cast<int32_t>(blockIdx.x) / blocks;
    const int32_t item = static_cast<int32_t>(blockIdx.x) % blocks * DOT_ROWS +
                         static_cast<int32_t>(threadIdx.x) / DOT_LANES;
    const int32_t t = item / heads;
    const int32_t head = item % heads;
    const int lane = static_cast<int>(threadIdx.x) % DOT_LANES;
    const int64_t row = (static_cast<int64_t>(clip) * p.forward.padded + t) * heads + head;
    const bool valid = t < p.forward.valid[clip];

    float sum = 0.0f;
    for (int column = lane * N; valid && column < width; column += DOT_LANES * N) {
        float y[N], dy[N];
        load<N>(p.forward.y + row * width + column, y);
        load<N>(p.dy + row * width + column, dy);
#pragma unroll
        for (int i = 0; i < N; i++) {
            sum = fmaf(dy[i], y[i], sum);
        }
    }
    sum = row_sum<DOT_LANES>(sum);
    if (lane == 0) {
        const int64_t to = (static_cast<int64_t>(clip) * heads + head) * p.forward.row_pitch + t;
        p.rows[to] =
            valid ? make_float2(p.forward.lse[row] * LOG2_E, sum) : make_float2(INFINITY, 0.0f);
    }
}

/* --- A block's part of the operands --- */

/* Rows of a head's factors, from a clip's first. */
template <typename T> struct factor_rows {
    const T *first, *second; /* A and B */
    int64_t first_pitch, second_pitch;
};

/* OF_KEYS: K and V, else Q and dY. */
template <bool OF_KEYS, typename T>
__device__ __forceinline__ factor_rows<T> factors_of(const backward_problem<T> &p,
                                                     const query_tile &at)
{
    const int64_t channels = static_cast<int64_t>(p.forward.heads) * p.forward.width;
    const int64_t column = static_cast<int64_t>(at.head) * p.forward.width;
    const T *qkv = p.forward.qkv + at.row * 3 * channels + column;
    if (OF_KEYS) {
        return {qkv + channels, qkv + 2 * channels, 3 * channels, 3 * channels};
    }
    return {qkv, p.dy + at.row * channels + column, 3 * channels, channels};
}

/* e and D of the tile's head, from the clip's first query. */
template <typename T>
__device__ __forceinline__ const float2 *row_values(const backward_problem<T> &p,
                                                    const query_tile &at)
{
    return p.rows + at.pair * p.forward.row_pitch;
}

/* Where the gradients of an owned row go: dK, dV behind it, or dQ. */
template <bool OF_KEYS, typename T>
__device__ __forceinline__ T *gradient_row(const backward_problem<T> &p, const query_tile &at,
                                           int row)
{
    const int64_t channels = static_cast<int64_t>(p.forward.heads) * p.forward.width;
    return p.dqkv + (at.row + row) * 3 * channels + (OF_KEYS ? channels : 0) +
           static_cast<int64_t>(at.head) * p.forward.width;
}

/* P, and what dropout leaves of it, from s; dS from d. `row`: e and D. */
struct score_gradient {
    float kept, ds;
};

__device__ __forceinline__ score_gradient gradient_of(float s, float d, float scale, float factor,
                                                      float2 row, bool stays)
{
    const float power = power_of_2(fmaf(s, scale, -row.x));
    return {stays ? power : 0.0f, power * fmaf(stays ? d : 0.0f, factor, -row.y)};
}

/* --- Dropout --- */

constexpr int DRAW_THREADS = 128;

/* Bit i: element + i stays. `blocks` of random numbers, 5, or 4 where elements begin with one. */
__device__ __forceinline__ uint32_t kept_word(const dropout_rule &rule, uint64_t element,
                                              int blocks)
{
    uint64_t bits = 0;
#pragma unroll 1
    for (int i = 0; i < blocks; i++) {
        const uint64_t block = element / 8 + static_cast<uint64_t>(i);
        bits |= static_cast<uint64_t>(kept_byte(rule, block)) << 8 * i;
    }
    return static_cast<uint32_t>(bits >> element % 8);
}

/* The bits that forward has not left. blockIdx.x: clip * heads + head, y: which 32 keys. */
template <typename T>
__global__ void __launch_bounds__(DRAW_THREADS) attention_draw(const attention_problem<T> p)
{
    const int64_t pair = blockIdx.x;
    const int word = static_cast<int>(blockIdx.y);
    const uint64_t padded = static_cast<uint64_t>(p.padded);
    for (int query = static_cast<int>(threadIdx.x); query < p.row_pitch; query += DRAW_THREADS) {
        const uint64_t row = static_cast<uint64_t>(pair) * padded + static_cast<uint64_t>(query);
        bits_of(p, pair)[word * p.row_pitch + query] = kept_word(
            p.dropout, row * padded + static_cast<uint64_t>(word) * 32, p.padded % 8 != 0 ? 5 : 4);
    }
}

/*
 * Start copying the words of a block of threads, word key / 32 * QUERIES + query counted from the
 * first of both: OWNED keys and OTHERS queries, or the other way round. Zeros where forward has
 * written nothing.
 */
template <bool OF_KEYS, int OWNED, typename T>
__device__ __forceinline__ void copy_words(const attention_problem<T> &p, const query_tile &at,
                                           int other, uint32_t *words)
{
    constexpr int QUERIES = OF_KEYS ? OTHERS : OWNED;
    const uint32_t *bits = bits_of(p, at.pair);
    const int i = static_cast<int>(threadIdx.x) * 4; /* words of one copy */
    if (i < OWNED * OTHERS / 32) {
        const int key = (OF_KEYS ? at.first : other) + i / QUERIES * 32;
        const int query = (OF_KEYS ? other : at.first) + i % QUERIES;
        const bool there = key < at.valid && query < at.valid;
        cp_async_16(words + i, bits + (there ? key / 32 * p.row_pitch + query : 0), there);
    }
}

} // namespace

#endif
