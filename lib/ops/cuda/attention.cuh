/* SPDX-License-Identifier: MIT */
/*
 * What the kernels of attention share. A block of threads takes some query rows of one head of one
 * clip and goes through the clip's keys in blocks of KEYS with an online softmax (Milakov &
 * Gimelshein 2018; Dao et al. 2022). The order of every sum depends on the clip's valid length
 * alone, so neither the batch, the padding nor the size of the tile changes a bit.
 */
#ifndef SER_OPS_CUDA_ATTENTION_CUH
#define SER_OPS_CUDA_ATTENTION_CUH

#include <math.h>

#include "ops/cuda/philox.cuh"

namespace
{

constexpr int KEYS = 64;
static_assert(KEYS == 64, "as ser_attention_kept_words counts");
constexpr float LOG2_E = 1.44269504088896341f;
constexpr float LN_2 = 0.69314718055994531f;

/* The op's arguments as the kernels want them; element 0 of every pointer is the tensor's. */
template <typename T> struct attention_problem {
    const T *qkv; /* [batch * padded, 3 C] */
    T *y;         /* [batch * padded, C] */
    float *lse;   /* [batch * padded, heads] or NULL */
    const int32_t *valid;
    uint32_t *bits; /* what dropout keeps (see below), or NULL: nothing is written or read */
    int32_t padded, heads, width; /* C = heads * width */
    int32_t row_pitch;            /* padded, rounded up to whole blocks of KEYS */
    int32_t tiles;                /* of query rows, per clip */
    float scale;                  /* of the scores as exponents of 2: the op's times log2(e) */
    float kept;                   /* what dropout multiplies the probabilities that stay with */
    dropout_rule dropout;
};

inline int64_t attention_row_pitch(int64_t padded)
{
    return cuda_ceil_div(padded, KEYS) * KEYS;
}

template <typename T> attention_problem<T> problem_of(const ser_attention_args *args)
{
    attention_problem<T> p = {};
    p.qkv = static_cast<const T *>(args->qkv.data);
    p.y = static_cast<T *>(args->y.data);
    p.lse = static_cast<float *>(args->lse.data);
    p.valid = args->rows.valid;
    p.padded = static_cast<int32_t>(args->rows.padded);
    p.row_pitch = static_cast<int32_t>(attention_row_pitch(p.padded));
    p.heads = args->heads;
    p.width = static_cast<int32_t>(args->y.cols / args->heads);
    p.scale = args->scale * LOG2_E;
    p.dropout = dropout_rule_of(args->dropout);
    p.bits = p.dropout.threshold > 0 ? args->kept : nullptr;
    p.kept = p.dropout.threshold < 65536 ? p.dropout.scale : 0.0f; /* all dropped: 0, not inf * 0 */
    return p;
}

/* What a block of threads works on: blockIdx.x counts tiles within clips, y heads. */
struct query_tile {
    int64_t row; /* of the whole batch, the clip's first */
    int32_t head;
    int32_t first;    /* query of the tile, from the clip's first; in backward maybe a key */
    int32_t valid;    /* of the clip */
    int64_t pair;     /* clip * heads + head */
    uint64_t element; /* of dropout, at the clip's first query and key of this head */
};

template <typename T>
__device__ __forceinline__ query_tile tile_of(const attention_problem<T> &p, int rows)
{
    const int32_t clip = static_cast<int32_t>(blockIdx.x) / p.tiles;
    const int32_t tile = static_cast<int32_t>(blockIdx.x) % p.tiles;
    const int32_t head = static_cast<int32_t>(blockIdx.y);
    const uint64_t padded = static_cast<uint64_t>(p.padded);
    const int64_t pair = static_cast<int64_t>(clip) * p.heads + head;
    return {static_cast<int64_t>(clip) * p.padded,        head, tile * rows, p.valid[clip], pair,
            static_cast<uint64_t>(pair) * padded * padded};
}

/* Over the LANES neighbouring lanes that share a query row. */
template <int LANES> __device__ __forceinline__ float row_max(float x)
{
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    }
    return x;
}

template <int LANES> __device__ __forceinline__ float row_sum(float x)
{
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, offset);
    }
    return x;
}

/* The softmax of a query row so far, as one lane sees it. */
struct running_row {
    float top = -INFINITY; /* largest scaled score; the same in all lanes of the row */
    float sum = 0.0f;      /* of the lane's 2^(score - base) */

    /* What is subtracted from the scaled scores; finite where all are -inf, else they are NaN. */
    __device__ __forceinline__ float base() const
    {
        return top == -INFINITY ? 0.0f : top;
    }

    /* Take the next scores' maximum in; returns what everything summed so far is multiplied with.
     * NaN is no maximum: it comes through the scores' own powers. */
    __device__ __forceinline__ float raise(float highest)
    {
        const float before = top;
        top = fmaxf(top, highest);
        const float factor = power_of_2(before - base());
        sum *= factor;
        return factor;
    }

    /* log sum exp of the scaled scores, `total` being the sum over the row's lanes */
    __device__ __forceinline__ float lse(float total) const
    {
        return (base() + log2f(total)) * LN_2;
    }
};

/* --- Dropout of KEYS keys of some query rows, as bits --- */

/* The Philox blocks of 8 elements do not begin where rows do: KEYS keys touch one more. A row has
 * whole words. */
constexpr int MASK_BYTES = KEYS / 8 + 4;

/* Bit i: element i of a Philox block stays. With a scale that the compiler knows, no factor is made
 * and compared with 0. */
__device__ __forceinline__ unsigned kept_byte(dropout_rule rule, uint64_t block)
{
    rule.scale = 1.0f;
    float factors[8];
    dropout_factors(rule, block, factors);
    unsigned bits = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        bits |= factors[i] != 0.0f ? 1u << i : 0u;
    }
    return bits;
}

/* Bit i % 8 of byte i / 8 of a row: element i, counted from the start of the Philox block that the
 * row's first one lies in, stays. `element`: of the first row, `pitch` from row to row. One warp
 * draws ROWS rows; it alone reads them. */
template <int ROWS>
__device__ __forceinline__ void draw_masks(const dropout_rule &rule, uint64_t element,
                                           uint64_t pitch, uint8_t *masks)
{
    const int blocks = KEYS / 8 + (pitch % 8 != 0 ? 1 : 0);
    __syncwarp(); /* the last masks have been read */
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x) % WARP; i < ROWS * blocks; i += WARP) {
        const int row = i % ROWS;
        const int byte = i / ROWS;
        const uint64_t first = (element + static_cast<uint64_t>(row) * pitch) / 8;
        masks[row * MASK_BYTES + byte] =
            static_cast<uint8_t>(kept_byte(rule, first + static_cast<uint64_t>(byte)));
    }
    __syncwarp();
}

/* Bits of keys 0 .. 31 and 32 .. 63 of a row whose first element is `element`. */
__device__ __forceinline__ uint2 kept_keys(const uint8_t *masks, int row, uint64_t element)
{
    const uint32_t *words = reinterpret_cast<const uint32_t *>(masks + row * MASK_BYTES);
    const unsigned shift = static_cast<unsigned>(element % 8);
    return make_uint2(__funnelshift_r(words[0], words[1], shift),
                      __funnelshift_r(words[1], words[2], shift));
}

/* --- The same, left in memory by forward for backward --- */

/* A head's part of attention_problem::bits. Bit i of word (key / 32) row_pitch + query: key + i
 * stays, `key` a multiple of 32. Queries are neighbours: both roles of backward read rows of words.
 * Nothing is written beyond the blocks that have valid queries and keys. */
template <typename T>
__device__ __forceinline__ uint32_t *bits_of(const attention_problem<T> &p, int64_t pair)
{
    return p.bits + pair * (p.row_pitch / 32) * p.row_pitch;
}

/* Masks of ROWS rows and KEYS keys, to a head's words from `to` on; by the warp that drew them. */
template <int ROWS>
__device__ __forceinline__ void leave_masks(uint32_t *to, int32_t row_pitch, const uint8_t *masks,
                                            uint64_t element, uint64_t pitch)
{
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x) % WARP; i < ROWS * 2; i += WARP) {
        const int row = i % ROWS;
        const uint2 words = kept_keys(masks, row, element + static_cast<uint64_t>(row) * pitch);
        to[i / ROWS * row_pitch + row] = i < ROWS ? words.x : words.y;
    }
}

} // namespace

#endif
