/* SPDX-License-Identifier: MIT */
/*
 * Attention on tensor cores: bf16, head widths that are multiples of 8 up to WIDTH. Four warps of
 * TILES * 16 query rows each; scores and sums stay in registers. Blocks of 64 keys and values come
 * through two stages of shared memory, the next one while this one is worked on. The scores'
 * accumulators are, rounded to bf16, fragments of the left factor of the product with V.
 */
#ifndef SER_OPS_CUDA_ATTENTION_MMA_CUH
#define SER_OPS_CUDA_ATTENTION_MMA_CUH

#include "ops/cuda/attention.cuh"
#include "ops/cuda/mma.cuh"

namespace
{

constexpr int MMA_WARPS = 4;
constexpr int MMA_THREADS = MMA_WARPS * WARP;

/* Sizes of an instance. Rows of keys are 16 bytes longer than needed: then their 16-byte pieces at
 * one column lie in different banks, 8 at a time, as ldmatrix reads them. */
template <int WIDTH, int TILES> struct mma_sizes {
    static_assert(WIDTH % 16 == 0, "the depth of one product is 16");
    static constexpr int PITCH = WIDTH + 8;
    static constexpr int WARP_ROWS = TILES * 16;
    static constexpr int ROWS = MMA_WARPS * WARP_ROWS;
    static constexpr int QUERIES = ROWS * PITCH;                          /* elements */
    static constexpr int STAGE = 2 * KEYS * PITCH;                        /* keys, then values */
    static constexpr size_t MASKS = (QUERIES + 2 * STAGE) * sizeof(bf16); /* begin there */
};

/* Start copying ROWS rows of a head's queries, keys or values; zeros from row `rows` and column
 * `width` on. */
template <int WIDTH, int ROWS>
__device__ __forceinline__ void copy_rows(bf16 *to, const bf16 *from, int64_t pitch, int rows,
                                          int width)
{
    constexpr int PITCH = mma_sizes<WIDTH, 1>::PITCH;
    constexpr int LANES = WIDTH <= 32 ? 4 : WIDTH <= 64 ? 8 : 16; /* of a row, 16 bytes each */
    constexpr int STEP = MMA_THREADS / LANES;
    const int column = static_cast<int>(threadIdx.x) % LANES * 8;
    int row = static_cast<int>(threadIdx.x) / LANES;
    if (column >= WIDTH) {
        return;
    }
    const bf16 *at = from + row * pitch + column;
    to += row * PITCH + column;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
        const bool valid = row < rows && column < width;
        cp_async_16(to, valid ? at : from, valid);
        row += STEP;
        at += STEP * pitch;
        to += STEP * PITCH;
    }
}

/* The fragments of a warp's TILES * 16 rows as the left factor of a product; HELD: read from shared
 * memory once, not at every use. */
template <int WIDTH, int TILES, bool HELD> struct left_factor {
    static constexpr int PITCH = mma_sizes<WIDTH, TILES>::PITCH;
    const bf16 *row;
    uint32_t held[HELD ? WIDTH / 16 : 1][TILES][4];

    __device__ __forceinline__ explicit left_factor(const bf16 *rows)
    {
        const int lane = static_cast<int>(threadIdx.x) % WARP;
        row = rows + lane % 16 * PITCH + lane / 16 * 8;
        if constexpr (HELD) {
#pragma unroll
            for (int step = 0; step < WIDTH / 16; step++) {
                read(step, held[step]);
            }
        }
    }

    __device__ __forceinline__ void read(int step, uint32_t (&r)[TILES][4]) const
    {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            ldmatrix_x4(r[tile], row + tile * 16 * PITCH + step * 16);
        }
    }

    /* Columns 16 step to 16 step + 15. */
    __device__ __forceinline__ void get(int step, uint32_t (&r)[TILES][4]) const
    {
        if constexpr (HELD) {
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    r[tile][i] = held[step][tile][i];
                }
            }
        } else {
            read(step, r);
        }
    }
};

/* s = Q K^T: the fragment of keys 8 n to 8 n + 7 is s[tile][n]. */
template <int WIDTH, int TILES, bool HELD, int PARTS>
__device__ __forceinline__ void score_product(float (&s)[TILES][PARTS][4],
                                              const left_factor<WIDTH, TILES, HELD> &queries,
                                              const bf16 *keys)
{
    constexpr int PITCH = mma_sizes<WIDTH, TILES>::PITCH;
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const bf16 *key = keys + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int n = 0; n < PARTS; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[tile][n][i] = 0.0f;
            }
        }
    }
#pragma unroll
    for (int step = 0; step < WIDTH / 16; step++) {
        uint32_t q[TILES][4];
        queries.get(step, q);
#pragma unroll
        for (int n = 0; n < PARTS; n += 2) {
            uint32_t r[4];
            ldmatrix_x4(r, key + n * 8 * PITCH + step * 16);
            const uint32_t left[2] = {r[0], r[1]};
            const uint32_t right[2] = {r[2], r[3]};
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                mma_m16n8k16(s[tile][n], q[tile], left);
                mma_m16n8k16(s[tile][n + 1], q[tile], right);
            }
        }
    }
}

/* -inf for the keys that the clip does not have. */
template <int PARTS> __device__ __forceinline__ void hide_keys(float (&s)[PARTS][4], int keys)
{
    const int first = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int n = 0; n < PARTS; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[n][i] = n * 8 + first + i % 2 < keys ? s[n][i] : -INFINITY;
        }
    }
}

/* Scores to powers for row lane / 4 + 8 * HALF of a tile; returns what earlier sums are multiplied
 * with. */
template <int HALF>
__device__ __forceinline__ float softmax_step(float (&s)[KEYS / 8][4], float scale,
                                              running_row &state)
{
    float highest = -INFINITY;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
        highest = fmaxf(highest, fmaxf(s[n][2 * HALF], s[n][2 * HALF + 1]));
    }
    const float factor = state.raise(row_max<4>(highest) * scale);
    const float base = state.base();
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 2 * HALF; i < 2 * HALF + 2; i++) {
            s[n][i] = power_of_2(fmaf(s[n][i], scale, -base));
            state.sum += s[n][i];
        }
    }
    return factor;
}

/* Zeros for the probabilities that dropout takes; `bits` of one row. */
template <int HALF> __device__ __forceinline__ void drop(float (&s)[KEYS / 8][4], uint2 bits)
{
    const unsigned first = threadIdx.x % 4 * 2;
    const uint32_t words[2] = {bits.x >> first, bits.y >> first};
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const bool stays = (words[n / 4] >> (n % 4 * 8 + i) & 1u) != 0;
            s[n][2 * HALF + i] = stays ? s[n][2 * HALF + i] : 0.0f;
        }
    }
}

/* o += P V, P from the accumulators of the scores. */
template <int WIDTH, int TILES, int PARTS>
__device__ __forceinline__ void value_product(float (&o)[TILES][WIDTH / 8][4],
                                              const float (&s)[TILES][PARTS][4], const bf16 *values)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const bf16 *row = values + lane % 16 * mma_sizes<WIDTH, TILES>::PITCH + lane / 16 * 8;
#pragma unroll
    for (int step = 0; step < PARTS / 2; step++) {
        uint32_t p[TILES][4];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float(&pair)[4] = s[tile][2 * step + i / 2];
                p[tile][i] = pack_bf16(pair[i % 2 * 2], pair[i % 2 * 2 + 1]);
            }
        }
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n += 2) {
            uint32_t r[4];
            ldmatrix_x4_trans(r, row + step * 16 * mma_sizes<WIDTH, TILES>::PITCH + n * 8);
            const uint32_t left[2] = {r[0], r[1]};
            const uint32_t right[2] = {r[2], r[3]};
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                mma_m16n8k16(o[tile][n], p[tile], left);
                mma_m16n8k16(o[tile][n + 1], p[tile], right);
            }
        }
    }
}

/* Rows HALF of a tile: softmax, dropout, and the sums of earlier keys put on the new base. */
template <int WIDTH, int HALF>
__device__ __forceinline__ void half_tile(const attention_problem<bf16> &p, float (&s)[KEYS / 8][4],
                                          float (&o)[WIDTH / 8][4], running_row &state,
                                          const uint8_t *masks, uint64_t element)
{
    const float factor = softmax_step<HALF>(s, p.scale, state);
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++) {
        o[n][2 * HALF] *= factor;
        o[n][2 * HALF + 1] *= factor;
    }
    if (p.dropout.threshold > 0) {
        const int row = static_cast<int>(threadIdx.x) % WARP / 4 + 8 * HALF;
        drop<HALF>(
            s, kept_keys(masks, row,
                         element + static_cast<uint64_t>(row) * static_cast<uint64_t>(p.padded)));
    }
}

/* One block of keys for the rows of a warp. `element`: of dropout, at its first row and the block's
 * first key; `bits`: for its masks, or NULL; `keys`: how many there are from there on. */
template <int WIDTH, int TILES>
__device__ __forceinline__ void
key_block(const attention_problem<bf16> &p, float (&o)[TILES][WIDTH / 8][4],
          running_row (&rows)[TILES][2], const bf16 *queries, const bf16 *stage, uint8_t *masks,
          uint64_t element, uint32_t *bits, int keys)
{
    const uint64_t pitch = static_cast<uint64_t>(p.padded);
    float s[TILES][KEYS / 8][4];
    if (p.dropout.threshold > 0) {
        draw_masks<TILES * 16>(p.dropout, element, pitch, masks);
        if (bits != nullptr) {
            leave_masks<TILES * 16>(bits, p.row_pitch, masks, element, pitch);
        }
    }
    score_product(s, left_factor<WIDTH, TILES, false>(queries), stage);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        if (keys < KEYS) {
            hide_keys(s[tile], keys);
        }
        const uint8_t *mask = masks + tile * 16 * MASK_BYTES;
        const uint64_t at = element + static_cast<uint64_t>(tile * 16) * pitch;
        half_tile<WIDTH, 0>(p, s[tile], o[tile], rows[tile][0], mask, at);
        half_tile<WIDTH, 1>(p, s[tile], o[tile], rows[tile][1], mask, at);
    }
    value_product<WIDTH>(o, s, stage + KEYS * mma_sizes<WIDTH, TILES>::PITCH);
}

/* Row lane / 4 + 8 * HALF of a tile times `factor`; nothing where it is not `inside`, zeros where
 * it is not `valid`. Lanes swap halves of neighbouring fragments, so that each writes 8 bytes. */
template <int WIDTH, int HALF>
__device__ __forceinline__ void write_row(bf16 *to, int width, const float (&o)[WIDTH / 8][4],
                                          float factor, bool inside, bool valid)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const bool odd = lane % 2 != 0;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n += 2) {
        const uint32_t left = pack_bf16(o[n][2 * HALF] * factor, o[n][2 * HALF + 1] * factor);
        const uint32_t right =
            pack_bf16(o[n + 1][2 * HALF] * factor, o[n + 1][2 * HALF + 1] * factor);
        const uint32_t other = __shfl_xor_sync(ALL_LANES, odd ? left : right, 1);
        const int column = (odd ? n + 1 : n) * 8 + lane % 4 / 2 * 4;
        if (inside && column < width) {
            uint2 pair = odd ? make_uint2(other, right) : make_uint2(left, other);
            *reinterpret_cast<uint2 *>(to + column) = valid ? pair : make_uint2(0u, 0u);
        }
    }
}

/* y and lse of row lane / 4 + 8 * HALF of the tile at query `first`; zeros behind the clip. */
template <int WIDTH, int HALF>
__device__ __forceinline__ void write_rows(const attention_problem<bf16> &p, const query_tile &at,
                                           int first, const float (&o)[WIDTH / 8][4],
                                           const running_row &state)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int query = first + lane / 4 + 8 * HALF;
    const float sum = row_sum<4>(state.sum);
    const bool valid = query < at.valid;
    const int64_t row = (at.row + query) * p.heads + at.head;
    write_row<WIDTH, HALF>(p.y + row * p.width, p.width, o, p.kept / sum, query < p.padded, valid);
    if (p.lse != nullptr && query < p.padded && lane % 4 == 0) {
        p.lse[row] = valid ? state.lse(sum) : 0.0f;
    }
}

template <int WIDTH, int TILES>
__global__ void __launch_bounds__(MMA_THREADS, TILES == 1 ? 3 : 2)
    attention_mma(const attention_problem<bf16> p)
{
    wait_for_previous();
    using sizes = mma_sizes<WIDTH, TILES>;
    SER_SHARED(bf16, queries);
    bf16 *stages = queries + sizes::QUERIES;
    const query_tile at = tile_of(p, sizes::ROWS);
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int first = at.first + warp * sizes::WARP_ROWS;
    const int64_t channels = static_cast<int64_t>(p.heads) * p.width;
    const int64_t pitch = 3 * channels;
    const bf16 *clip = p.qkv + at.row * pitch + at.head * p.width;
    uint8_t *masks =
        reinterpret_cast<uint8_t *>(queries) + sizes::MASKS + warp * sizes::WARP_ROWS * MASK_BYTES;
    const uint64_t element =
        at.element + static_cast<uint64_t>(first) * static_cast<uint64_t>(p.padded);
    uint32_t *bits = p.bits != nullptr ? bits_of(p, at.pair) + first : nullptr;
    const int keys = at.first < at.valid ? at.valid : 0; /* a tile of padding needs none */

    const auto copy = [&](int key) {
        bf16 *stage = stages + key / KEYS % 2 * sizes::STAGE;
        const bf16 *from = clip + key * pitch + channels;
        copy_rows<WIDTH, KEYS>(stage, from, pitch, keys - key, p.width);
        copy_rows<WIDTH, KEYS>(stage + KEYS * sizes::PITCH, from + channels, pitch, keys - key,
                               p.width);
        cp_async_commit();
    };
    if (keys > 0) {
        copy_rows<WIDTH, sizes::ROWS>(queries, clip + at.first * pitch, pitch, keys - at.first,
                                      p.width);
        copy(0);
    }
    float o[TILES][WIDTH / 8][4] = {};
    running_row rows[TILES][2];
    for (int key = 0; key < keys; key += KEYS) {
        cp_async_wait<0>();
        __syncthreads(); /* this block is there, and the last one has been read */
        if (key + KEYS < keys) {
            copy(key + KEYS);
        }
        if (first < at.valid) {
            key_block<WIDTH, TILES>(
                p, o, rows, queries + warp * sizes::WARP_ROWS * sizes::PITCH,
                stages + key / KEYS % 2 * sizes::STAGE, masks, element + static_cast<uint64_t>(key),
                p.bits != nullptr ? bits + key / 32 * p.row_pitch : nullptr, keys - key);
        }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        write_rows<WIDTH, 0>(p, at, first + tile * 16, o[tile], rows[tile][0]);
        write_rows<WIDTH, 1>(p, at, first + tile * 16, o[tile], rows[tile][1]);
    }
}

} // namespace

#endif
