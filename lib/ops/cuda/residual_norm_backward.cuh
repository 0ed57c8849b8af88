/* SPDX-License-Identifier: MIT */
/*
 * Backward of residual_norm with whole rows at hand (residual_norm_backward.cu has the formulas): a
 * warp's row lies in shared memory; its last use makes room for the warp's next row, a pack after
 * the other. Each lane has the same channels in every row, and so keeps its parts of dgamma and
 * dbeta in registers; at the end a block adds its warps' parts.
 */
#ifndef SER_OPS_CUDA_RESIDUAL_NORM_BACKWARD_CUH
#define SER_OPS_CUDA_RESIDUAL_NORM_BACKWARD_CUH

#include "ops/cuda/mma.cuh"
#include "ops/cuda/philox.cuh"
#include "ops/cuda/residual_norm.cuh"

namespace
{

constexpr int MOST_ROUNDS = 5; /* of a warp over a row: up to 1280 channels */

enum { INPUT_X, INPUT_DY, INPUT_OTHER, INPUTS }; /* OTHER: dy2 or dsum */

/* dx and dh may be in place of dy, dy2 and dsum: no pointer is __restrict__, and an element is read and
 * then written by one lane only. */
template <typename T> struct backward {
    const T *x;         /* [rows, channels]: what was normed, with dy */
    const T *dy;        /* [rows, channels] or NULL */
    const T *dy2;       /* [rows, channels] or NULL: added to dy; not with dsum */
    const T *dsum;      /* [rows, channels] or NULL */
    const float *gamma; /* [channels], with dy */
    const float *stats; /* [rows, 2], with dy */
    T *dx;              /* [rows, channels] or NULL */
    T *dh;              /* [rows, channels] or NULL */
    float *sums;        /* [blocks, 2, channels]: of dgamma, dbeta; or NULL */
    ser_rows rows;
    int32_t channels;
    bool stays; /* dx is dsum as it is there: only invalid rows are written */
    dropout_rule rule;
};

/* Stores dx = v and dh = dropout'(v), rounded once each; of an invalid row v is 0. */
template <bool WHOLE, typename T>
__device__ __forceinline__ void store_gradients(const backward<T> &a, bool is_valid, int64_t at,
                                                int64_t begin, int64_t end, float (&v)[PACK])
{
    if (a.dx != nullptr && !(a.stays && is_valid)) {
        store_between<WHOLE>(a.dx, at, begin, end, v);
    }
    if (a.dh != nullptr) {
        float factors[PACK];
        dropout_factors(a.rule, static_cast<uint64_t>(at) / PACK, factors);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            v[i] *= factors[i];
        }
        store_between<WHOLE>(a.dh, at, begin, end, v);
    }
}

/* What is known of a row before its elements are there. */
struct row_ahead {
    int64_t row;
    bool is_valid; /* else it is not read */
    float mean, inverse;
};

template <typename T>
__device__ __forceinline__ row_ahead look_ahead(const backward<T> &a, const row_walk &at)
{
    row_ahead ahead = {at.row, is_within(at, a.rows) && is_valid(at, a.rows), 0.0f, 0.0f};
    if (ahead.is_valid && a.dy != nullptr) {
        ahead.mean = a.stats[2 * at.row];
        ahead.inverse = a.stats[2 * at.row + 1];
    }
    return ahead;
}

/* The accumulators decide how many threads a multiprocessor has registers for, and the f32 rows how
 * much shared memory is left on the smaller cards (99 KB per block). */
template <typename T, int ROUNDS> struct plan {
    static constexpr int PARTS = sizeof(raw_pack<T>) / sizeof(uint4);
    static constexpr int WARPS = sizeof(T) == 2 ? 8 : NORM_LEAST_WARPS;
    static constexpr int RESIDENT = sizeof(T) == 2 && ROUNDS > 3 ? 1 : NORM_MOST_RESIDENT;
    static constexpr int STAGE = INPUTS * ROUNDS * PARTS * WARP; /* 16-byte places of a warp */
    static constexpr size_t SHARED = WARPS * STAGE * sizeof(uint4);
    static_assert(SHARED >= 2 * ROUNDS * ROW_PACKS * sizeof(float), "the block's sums fit too");
};

/* The lane's first channel in a round. */
__device__ __forceinline__ int32_t channel_of(int round)
{
    return (round * WARP + static_cast<int32_t>(threadIdx.x % WARP)) * PACK;
}

/* Start copying the lane's packs of a round to its places in shared memory, which no other lane
 * touches; neighbouring lanes' places are neighbours. */
template <typename T, int ROUNDS>
__device__ __forceinline__ void fetch(const backward<T> &a, const row_ahead &row, int round,
                                      uint4 *own)
{
    constexpr int PARTS = plan<T, ROUNDS>::PARTS;
    const T *const inputs[INPUTS] = {a.x, a.dy, a.dsum != nullptr ? a.dsum : a.dy2};
    const int32_t c = channel_of(round);
    if (!row.is_valid || c >= a.channels) {
        return;
    }
#pragma unroll
    for (int input = 0; input < INPUTS; input++) {
        if (inputs[input] != nullptr) {
            const T *from = inputs[input] + row.row * a.channels + c;
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                cp_async_16(own + ((input * ROUNDS + round) * PARTS + part) * WARP,
                            reinterpret_cast<const uint4 *>(from) + part, true);
            }
        }
    }
}

/* What fetch has put there. */
template <typename T, int ROUNDS>
__device__ __forceinline__ void take(const uint4 *own, int input, int round, float (&x)[PACK])
{
    constexpr int PARTS = plan<T, ROUNDS>::PARTS;
    raw_pack<T> raw;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        raw.parts[part] = own[((input * ROUNDS + round) * PARTS + part) * WARP];
    }
    unpack(raw, x);
}

template <typename T, int ROUNDS>
__device__ __forceinline__ void take_dy(const backward<T> &a, const uint4 *own, int round,
                                        float (&dy)[PACK])
{
    take<T, ROUNDS>(own, INPUT_DY, round, dy);
    if (a.dy2 != nullptr) {
        float more[PACK];
        take<T, ROUNDS>(own, INPUT_OTHER, round, more);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            dy[i] += more[i];
        }
    }
}

/* The lane's parts of the sums over rows. */
template <int ROUNDS> struct lane_sums {
    float dgamma[ROUNDS][PACK];
    float dbeta[ROUNDS][PACK];
};

/* Sums over a valid row; adds it to the sums over rows. */
template <typename T, int ROUNDS>
__device__ __forceinline__ void sum_row(const backward<T> &a, const row_ahead &row,
                                        const uint4 *own, lane_sums<ROUNDS> &sums, float &mean_g,
                                        float &mean_gx)
{
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int32_t c = channel_of(j);
        if (c < a.channels) {
            float x[PACK];
            float dy[PACK];
            float gamma[PACK];
            take<T, ROUNDS>(own, INPUT_X, j, x);
            take_dy<T, ROUNDS>(a, own, j, dy);
            load_pack(a.gamma + c, gamma);
#pragma unroll
            for (int i = 0; i < PACK; i++) {
                const float xhat = (x[i] - row.mean) * row.inverse;
                const float g = dy[i] * gamma[i];
                mean_g += g;
                mean_gx += g * xhat;
                sums.dgamma[j][i] += dy[i] * xhat;
                sums.dbeta[j][i] += dy[i];
            }
        }
    }
    mean_g = warp_sum(mean_g) / static_cast<float>(a.channels);
    mean_gx = warp_sum(mean_gx) / static_cast<float>(a.channels);
}

/* d = dx on the lane's pack of a round of a valid row. */
template <typename T, int ROUNDS>
__device__ __forceinline__ void gradient_of_sum(const backward<T> &a, const row_ahead &row,
                                                int round, const uint4 *own, float mean_g,
                                                float mean_gx, float (&d)[PACK])
{
    if (a.dsum != nullptr) {
        take<T, ROUNDS>(own, INPUT_OTHER, round, d);
    }
    if (a.dy != nullptr) {
        float x[PACK];
        float dy[PACK];
        float gamma[PACK];
        take<T, ROUNDS>(own, INPUT_X, round, x);
        take_dy<T, ROUNDS>(a, own, round, dy);
        load_pack(a.gamma + channel_of(round), gamma);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            const float xhat = (x[i] - row.mean) * row.inverse;
            d[i] += (dy[i] * gamma[i] - mean_g - xhat * mean_gx) * row.inverse;
        }
    }
}

/* The lanes' sums of all warps to the block's place in the scratch, warp after warp. */
template <int ROUNDS>
__device__ __forceinline__ void leave_sums(float *shared, const lane_sums<ROUNDS> &sums,
                                           int32_t channels, float *to)
{
    const unsigned warps = blockDim.x / WARP;
    for (unsigned warp = 0; warp < warps; warp++) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < ROUNDS; j++) {
            const int32_t c = channel_of(j);
            if (threadIdx.x / WARP != warp || c >= channels) {
                continue;
            }
            float before[2][PACK] = {};
            if (warp > 0) {
                load_pack(shared + c, before[0]);
                load_pack(shared + channels + c, before[1]);
            }
#pragma unroll
            for (int i = 0; i < PACK; i++) {
                before[0][i] += sums.dgamma[j][i];
                before[1][i] += sums.dbeta[j][i];
            }
            store_pack(shared + c, before[0]);
            store_pack(shared + channels + c, before[1]);
        }
    }
    __syncthreads();
    for (int32_t c = static_cast<int32_t>(threadIdx.x); c < 2 * channels;
         c += static_cast<int32_t>(blockDim.x)) {
        to[c] = shared[c];
    }
}

/* channels is a multiple of a pack, at most ROUNDS packs per lane; everything is aligned. */
template <typename T, int ROUNDS>
__global__ void __launch_bounds__(plan<T, ROUNDS>::WARPS *WARP, plan<T, ROUNDS>::RESIDENT)
    norm_bwd_at_hand(const backward<T> a)
{
    using my = plan<T, ROUNDS>;
    SER_SHARED(uint4, stages);
    uint4 *own = stages + threadIdx.x / WARP * my::STAGE + threadIdx.x % WARP;
    lane_sums<ROUNDS> sums = {};
    row_walk at = walk_rows(a.rows);
    row_ahead next = look_ahead(a, at);
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        fetch<T, ROUNDS>(a, next, j, own);
    }
    cp_async_commit();
    while (is_within(at, a.rows)) {
        const row_ahead row = next;
        float mean_g = 0.0f;
        float mean_gx = 0.0f;
        advance(at, a.rows);
        next = look_ahead(a, at);
        cp_async_wait<0>(); /* a lane reads what it copied itself */
        if (row.is_valid && a.dy != nullptr) {
            sum_row(a, row, own, sums, mean_g, mean_gx);
        }
#pragma unroll
        for (int j = 0; j < ROUNDS; j++) {
            const int64_t e = row.row * a.channels + channel_of(j);
            const bool is_within_row = channel_of(j) < a.channels;
            float d[PACK] = {};
            if (row.is_valid && is_within_row) {
                gradient_of_sum<T, ROUNDS>(a, row, j, own, mean_g, mean_gx, d);
            }
            __syncwarp(); /* the places are read before the next row arrives there */
            fetch<T, ROUNDS>(a, next, j, own);
            if (is_within_row) {
                store_gradients<true>(a, row.is_valid, e, e, e + PACK, d);
            }
        }
        cp_async_commit();
    }
    cp_async_wait<0>();
    if (a.sums != nullptr) {
        leave_sums(reinterpret_cast<float *>(stages), sums, a.channels,
                   a.sums + int64_t{blockIdx.x} * 2 * a.channels);
    }
}

} // namespace

#endif
