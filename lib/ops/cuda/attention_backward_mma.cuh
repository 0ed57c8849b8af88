/* SPDX-License-Identifier: MIT */
/*
 * Attention's backward on tensor cores: bf16, head widths that are multiples of 8 up to WIDTH. Four
 * warps own TILES * 16 rows each and keep their sums in registers. The others' factors come in
 * blocks of 64 rows through two stages of shared memory, the next one while this one is worked on,
 * 16 or 32 rows at a time: the accumulators of s and d become, rounded to bf16, the left factors of
 * the second products (dS A' and P B').
 */
#ifndef SER_OPS_CUDA_ATTENTION_BACKWARD_MMA_CUH
#define SER_OPS_CUDA_ATTENTION_BACKWARD_MMA_CUH

#include "ops/cuda/attention_backward_rows.cuh"
#include "ops/cuda/attention_mma.cuh"

namespace
{

/*
 * Sizes of an instance. The owned factors lie where the second block of others comes later, and are
 * held in registers by then. With two tiles a warp each of the others' fragments serves two
 * products, which spares shared memory, but beside two sums there is no room for V: the second
 * factor is read again from its place, which is behind the stages then.
 */
template <int WIDTH, int TILES> struct backward_sizes {
    using sizes = mma_sizes<WIDTH, TILES>;
    static constexpr int PARTS = WIDTH <= 32 ? 4 : 2;      /* eights of others at a time */
    static constexpr int OWN = sizes::ROWS * sizes::PITCH; /* elements of one factor */
    static constexpr int OWN_AT = sizes::STAGE;
    static constexpr int END = OWN_AT + 2 * OWN;
    static_assert(TILES == 1 ? END == 2 * sizes::STAGE : OWN_AT + OWN >= 2 * sizes::STAGE,
                  "what is not held is not overwritten");
    static constexpr size_t VALUES = END * sizeof(bf16); /* e and D of two stages begin there */
    static constexpr size_t MASKS = VALUES + 2 * OTHERS * sizeof(float2);
    static constexpr int MASK_WORDS = sizes::ROWS * OTHERS / 32; /* of each of two stages */
    static constexpr size_t BYTES = MASKS + 2 * MASK_WORDS * sizeof(uint32_t);
};

/* The sums of a warp: dK and dV, or dQ. */
template <int WIDTH, int TILES, bool OF_KEYS> struct owned_sums {
    float x[OF_KEYS ? 2 : 1][TILES][WIDTH / 8][4];
};

/* What a warp reads e, D and masks from. */
template <int TILES> struct warp_rows {
    float2 own[TILES][2];  /* e and D of the lane's queries; of queries */
    const float2 *values;  /* of a block of other queries; of keys */
    const uint32_t *words; /* of its masks, from the warp's first key or query on */
    unsigned shift;        /* of the warp's first key in its words; of keys */
};

/* Keys own: s to f P, d to dS, for the queries from `other` of the block on. */
template <int TILES, int PARTS>
__device__ __forceinline__ void
key_gradients(const attention_problem<bf16> &p, const warp_rows<TILES> &w, int other,
              float (&s)[TILES][PARTS][4], float (&d)[TILES][PARTS][4])
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const unsigned shift = w.shift + static_cast<unsigned>(lane / 4);
#pragma unroll
    for (int n = 0; n < PARTS; n++) {
        const int query = other + n * 8 + lane % 4 * 2;
        const float4 both = *reinterpret_cast<const float4 *>(w.values + query);
        const float2 rows[2] = {make_float2(both.x, both.y), make_float2(both.z, both.w)};
        const uint2 words = *reinterpret_cast<const uint2 *>(w.words + query);
        const uint32_t bits[2] = {words.x >> shift, words.y >> shift};
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const bool stays = (bits[i % 2] >> (tile * 16 + i / 2 * 8) & 1u) != 0;
                const score_gradient g =
                    gradient_of(s[tile][n][i], d[tile][n][i], p.scale, p.kept, rows[i % 2], stays);
                s[tile][n][i] = g.kept;
                d[tile][n][i] = g.ds;
            }
        }
    }
}

/* Queries own: d to dS for the keys from `other` of the block on. */
template <int TILES, int PARTS>
__device__ __forceinline__ void
query_gradients(const attention_problem<bf16> &p, const warp_rows<TILES> &w, int other,
                const float (&s)[TILES][PARTS][4], float (&d)[TILES][PARTS][4])
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const unsigned shift = static_cast<unsigned>(other % 32 + lane % 4 * 2);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = tile * 16 + half * 8 + lane / 4;
            const uint32_t bits = w.words[other / 32 * MMA_WARPS * TILES * 16 + row] >> shift;
#pragma unroll
            for (int n = 0; n < PARTS; n++) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    const bool stays = (bits >> (n * 8 + i % 2) & 1u) != 0;
                    d[tile][n][i] = gradient_of(s[tile][n][i], d[tile][n][i], p.scale, p.kept,
                                                w.own[tile][half], stays)
                                        .ds;
                }
            }
        }
    }
}

/* One block of `left` others, from `stage` on A', then B'. */
template <int WIDTH, int TILES, bool OF_KEYS, typename FIRST, typename SECOND>
__device__ __forceinline__ void other_block(const attention_problem<bf16> &p,
                                            const warp_rows<TILES> &w, const FIRST &first,
                                            const SECOND &second, const bf16 *stage, int left,
                                            owned_sums<WIDTH, TILES, OF_KEYS> &sums)
{
    constexpr int PITCH = mma_sizes<WIDTH, TILES>::PITCH;
    constexpr int PARTS = backward_sizes<WIDTH, TILES>::PARTS;
    const int count = left < OTHERS ? left : OTHERS;
#pragma unroll 1
    for (int other = 0; other < count; other += PARTS * 8) {
        const bf16 *a = stage + other * PITCH;
        const bf16 *b = a + OTHERS * PITCH;
        float s[TILES][PARTS][4];
        float d[TILES][PARTS][4];
        score_product(s, first, a);
        score_product(d, second, b);
        if constexpr (OF_KEYS) {
            key_gradients(p, w, other, s, d);
            value_product<WIDTH>(sums.x[1], s, b);
        } else {
            if (left < OTHERS) {
#pragma unroll
                for (int tile = 0; tile < TILES; tile++) {
                    hide_keys(s[tile], left - other);
                }
            }
            query_gradients(p, w, other, s, d);
        }
        value_product<WIDTH>(sums.x[0], d, a);
    }
}

/* Start copying ROWS rows of both factors, the second behind the first. */
template <int WIDTH, int ROWS>
__device__ __forceinline__ void copy_factors(bf16 *to, const factor_rows<bf16> &from, int row,
                                             int valid, int width)
{
    copy_rows<WIDTH, ROWS>(to, from.first + row * from.first_pitch, from.first_pitch, valid - row,
                           width);
    copy_rows<WIDTH, ROWS>(to + ROWS * mma_sizes<WIDTH, 1>::PITCH,
                           from.second + row * from.second_pitch, from.second_pitch, valid - row,
                           width);
}

/* Of the warp that owns rows from `warp_row` of the tile on; a block of others adds the rest. */
template <int TILES, bool OF_KEYS>
__device__ __forceinline__ warp_rows<TILES> warp_rows_of(const query_tile &at, int warp_row,
                                                         const float2 *values)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    warp_rows<TILES> w = {};
    w.shift = static_cast<unsigned>(warp_row % 32);
    if constexpr (!OF_KEYS) {
#pragma unroll
        for (int i = 0; i < TILES * 2; i++) {
            const int query = at.first + warp_row + i * 8 + lane / 4;
            w.own[i / 2][i % 2] = query < at.valid ? values[query] : make_float2(INFINITY, 0.0f);
        }
    }
    return w;
}

/* The sums over all valid others of a tile that has valid rows. */
template <int WIDTH, int TILES, bool OF_KEYS>
__device__ __forceinline__ void sum_others(const backward_problem<bf16> &p, const query_tile &at,
                                           bf16 *shared, owned_sums<WIDTH, TILES, OF_KEYS> &sums)
{
    using sizes = mma_sizes<WIDTH, TILES>;
    using places = backward_sizes<WIDTH, TILES>;
    const int warp_row = static_cast<int>(threadIdx.x) / WARP * sizes::WARP_ROWS;
    const int width = p.forward.width;
    const factor_rows<bf16> others = factors_of<!OF_KEYS>(p, at);
    const float2 *values = row_values(p, at);
    float2 *staged = reinterpret_cast<float2 *>(shared + places::END);
    uint32_t *words = reinterpret_cast<uint32_t *>(staged + 2 * OTHERS);

    const auto copy = [&](int other) {
        const int stage = other / OTHERS % 2;
        copy_factors<WIDTH, OTHERS>(shared + stage * sizes::STAGE, others, other, at.valid, width);
        if (OF_KEYS && threadIdx.x < OTHERS / 2) {
            const int pair = static_cast<int>(threadIdx.x) * 2;
            cp_async_16(staged + stage * OTHERS + pair, values + other + pair, true);
        }
        if (p.forward.bits != nullptr) {
            copy_words<OF_KEYS, sizes::ROWS>(p.forward, at, other,
                                             words + stage * places::MASK_WORDS);
        }
        cp_async_commit();
    };
    if (p.forward.bits == nullptr) { /* all stay */
        for (int i = static_cast<int>(threadIdx.x); i < 2 * places::MASK_WORDS; i += MMA_THREADS) {
            words[i] = ALL_LANES;
        }
    }
    bf16 *mine = shared + places::OWN_AT;
    copy_factors<WIDTH, sizes::ROWS>(mine, factors_of<OF_KEYS>(p, at), at.first, at.valid, width);
    copy(0);
    cp_async_wait<0>();
    __syncthreads();
    mine += warp_row * sizes::PITCH;
    const left_factor<WIDTH, TILES, true> first(mine);
    const left_factor<WIDTH, TILES, !OF_KEYS || TILES == 1> second(mine + places::OWN);
    warp_rows<TILES> w = warp_rows_of<TILES, OF_KEYS>(at, warp_row, values);
    for (int other = 0; other < at.valid; other += OTHERS) {
        cp_async_wait<0>();
        __syncthreads(); /* the block is there; the last one, masks and what is held are read */
        if (other + OTHERS < at.valid) {
            copy(other + OTHERS);
        }
        if (at.first + warp_row < at.valid) {
            const int stage = other / OTHERS % 2;
            w.values = staged + stage * OTHERS;
            w.words =
                words + stage * places::MASK_WORDS + (OF_KEYS ? warp_row / 32 * OTHERS : warp_row);
            other_block<WIDTH, TILES, OF_KEYS>(
                p.forward, w, first, second, shared + stage * sizes::STAGE, at.valid - other, sums);
        }
    }
}

template <int WIDTH, int TILES, bool OF_KEYS>
__device__ __forceinline__ void backward_role(const backward_problem<bf16> &p, bf16 *shared)
{
    using sizes = mma_sizes<WIDTH, TILES>;
    const query_tile at = tile_of(p.forward, sizes::ROWS);
    const int width = p.forward.width;
    const int64_t channels = static_cast<int64_t>(p.forward.heads) * width;
    owned_sums<WIDTH, TILES, OF_KEYS> sums = {};
    if (at.first < at.valid) {
        sum_others<WIDTH, TILES, OF_KEYS>(p, at, shared, sums);
    }
    const int first = at.first + static_cast<int>(threadIdx.x) / WARP * sizes::WARP_ROWS +
                      static_cast<int>(threadIdx.x) % WARP / 4;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        const int row = first + tile * 16;
        bf16 *to = gradient_row<OF_KEYS>(p, at, row);
        bf16 *below = gradient_row<OF_KEYS>(p, at, row + 8);
        const bool inside[2] = {row < p.forward.padded, row + 8 < p.forward.padded};
        const bool valid[2] = {row < at.valid, row + 8 < at.valid};
        write_row<WIDTH, 0>(to, width, sums.x[0][tile], p.scale, inside[0], valid[0]);
        write_row<WIDTH, 1>(below, width, sums.x[0][tile], p.scale, inside[1], valid[1]);
        if constexpr (OF_KEYS) {
            const float kept = p.forward.kept;
            write_row<WIDTH, 0>(to + channels, width, sums.x[1][tile], kept, inside[0], valid[0]);
            write_row<WIDTH, 1>(below + channels, width, sums.x[1][tile], kept, inside[1],
                                valid[1]);
        }
    }
}

/* blockIdx.z: the role. The longer one comes first, so that the shorter one fills the end. */
template <int WIDTH, int TILES>
__global__ void __launch_bounds__(MMA_THREADS, TILES == 1 && WIDTH <= 64 ? 3 : 2)
    attention_backward_mma(const backward_problem<bf16> p)
{
    SER_SHARED(bf16, shared);
    if (blockIdx.z == 0) {
        backward_role<WIDTH, TILES, true>(p, shared);
    } else {
        backward_role<WIDTH, TILES, false>(p, shared);
    }
}

} // namespace

#endif
