/* SPDX-License-Identifier: MIT */
/*
 * With xhat = (sum - mean) / sqrt(var + eps), dy the sum of its parts and g = dy gamma, per row of C
 * channels:
 *   dx = dsum + (g - mean(g) - xhat mean(g xhat)) / sqrt(var + eps);  dh = dropout'(dx)
 *   dgamma = sum over the rows of dy xhat;  dbeta = sum over the rows of dy
 *
 * A fixed number of warps share the rows and leave one sum of their parts of dgamma and dbeta per
 * block, which a second kernel adds up. Rows that are too wide to be at hand, or whose channels are
 * no whole packs, are read in two passes, and their sums taken by a kernel of its own.
 *
 * Zeros go to the invalid rows of dx and dh: products sum over their rows.
 */
#include <ser/common.h>

#include "ops/cuda/residual_norm_backward.cuh"

namespace
{

/* --- Any number of channels, any alignment --- */

/* g and xhat at elements at .. at + 7; g is 0 outside the row. */
template <bool WHOLE, typename T>
__device__ __forceinline__ void load_normed(const backward<T> &a, const row_ahead &row, int64_t at,
                                            float (&g)[PACK], float (&xhat)[PACK])
{
    const int64_t begin = row.row * a.channels;
    const int64_t end = begin + a.channels;
    float gamma[PACK];
    load_between<WHOLE>(a.x, at, begin, end, xhat);
    load_between<WHOLE>(a.dy, at, begin, end, g);
    if (a.dy2 != nullptr) {
        float more[PACK];
        load_between<WHOLE>(a.dy2, at, begin, end, more);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            g[i] += more[i];
        }
    }
    load_between<WHOLE>(a.gamma, at - begin, 0, a.channels, gamma);
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        xhat[i] = (xhat[i] - row.mean) * row.inverse;
        g[i] *= gamma[i];
    }
}

/* dx and dh, in two passes over a row. */
template <typename T, bool WHOLE>
__global__ void __launch_bounds__(PACK_THREADS) norm_bwd_in_passes(const backward<T> a)
{
    for (row_walk walk = walk_rows(a.rows); is_within(walk, a.rows); advance(walk, a.rows)) {
        const row_ahead row = look_ahead(a, walk);
        const int64_t begin = row.row * a.channels;
        const int64_t end = begin + a.channels;
        const bool is_normed = row.is_valid && a.dy != nullptr;
        float mean_g = 0.0f;
        float mean_gx = 0.0f;
        float g[PACK] = {};
        float xhat[PACK] = {};
        for (int64_t at = pack_of_lane(begin); is_normed && at < end; at += ROW_PACKS) {
            load_normed<WHOLE>(a, row, at, g, xhat);
#pragma unroll
            for (int i = 0; i < PACK; i++) {
                mean_g += g[i];
                mean_gx += g[i] * xhat[i];
            }
        }
        mean_g = warp_sum(mean_g) / static_cast<float>(a.channels);
        mean_gx = warp_sum(mean_gx) / static_cast<float>(a.channels);
        for (int64_t at = pack_of_lane(begin); at < end; at += ROW_PACKS) {
            float d[PACK] = {};
            if (row.is_valid && a.dsum != nullptr) {
                load_between<WHOLE>(a.dsum, at, begin, end, d);
            }
            if (is_normed) {
                load_normed<WHOLE>(a, row, at, g, xhat);
#pragma unroll
                for (int i = 0; i < PACK; i++) {
                    d[i] += (g[i] - mean_g - xhat[i] * mean_gx) * row.inverse;
                }
            }
            store_gradients<WHOLE>(a, row.is_valid, at, begin, end, d);
        }
    }
}

/* Parts of dgamma and dbeta, a lane per channel; block (k, i) sums over share k of the rows. */
template <typename T>
__global__ void __launch_bounds__(PACK_THREADS) norm_bwd_columns(const backward<T> a)
{
    __shared__ float parts[2][ROW_WARPS][WARP];
    const unsigned lane = threadIdx.x % WARP;
    const unsigned warp = threadIdx.x / WARP;
    const int64_t c = int64_t{blockIdx.y} * WARP + lane;
    float dgamma = 0.0f;
    float dbeta = 0.0f;
    for (row_walk at = walk_rows(a.rows); is_within(at, a.rows); advance(at, a.rows)) {
        if (c < a.channels && is_valid(at, a.rows)) {
            const int64_t e = at.row * a.channels + c;
            const float more = a.dy2 != nullptr ? to_float(a.dy2[e]) : 0.0f;
            const float dy = to_float(a.dy[e]) + more;
            const float x = to_float(a.x[e]);
            dgamma += dy * ((x - a.stats[2 * at.row]) * a.stats[2 * at.row + 1]);
            dbeta += dy;
        }
    }
    parts[0][warp][lane] = dgamma;
    parts[1][warp][lane] = dbeta;
    __syncthreads();
    if (warp < 2 && c < a.channels) {
        float sum = 0.0f;
        for (int i = 0; i < ROW_WARPS; i++) {
            sum += parts[warp][i][lane];
        }
        a.sums[(int64_t{blockIdx.x} * 2 + warp) * a.channels + c] = sum;
    }
}

/* --- The blocks' sums --- */

constexpr int SLICES = 32; /* of the blocks, a warp each */

/* dgamma += , dbeta += the sums of all blocks; 32 of the 2 * channels sums per block. */
__global__ void __launch_bounds__(SLICES *WARP)
    add_sums(const float *sums, int64_t blocks, int32_t channels, float *dgamma, float *dbeta)
{
    __shared__ float parts[SLICES][WARP + 1];
    const unsigned lane = threadIdx.x % WARP;
    const unsigned warp = threadIdx.x / WARP;
    const int32_t first = static_cast<int32_t>(blockIdx.x) * WARP;
    const int32_t width = 2 * channels;
    const int32_t read = first + static_cast<int32_t>(lane);
    float total = 0.0f;
    for (int64_t b = warp; read < width && b < blocks; b += SLICES) {
        total += sums[b * width + read];
    }
    parts[warp][lane] = total;
    __syncthreads();
    total = warp_sum(parts[lane][warp]);
    const int32_t mine = first + static_cast<int32_t>(warp);
    float *to = mine < channels ? dgamma : dbeta;
    if (lane == 0 && mine < width && to != nullptr) {
        to[mine % channels] += total;
    }
}

/* --- Launching --- */

template <typename T> bool is_whole(const backward<T> &a)
{
    return a.channels % PACK == 0 && ser_pack_aligned(a.x) && ser_pack_aligned(a.dy) &&
           ser_pack_aligned(a.dy2) && ser_pack_aligned(a.dsum) && ser_pack_aligned(a.gamma) &&
           ser_pack_aligned(a.dx) && ser_pack_aligned(a.dh);
}

template <typename T, int ROUNDS>
int run_at_hand(ser_queue *queue, const backward<T> &a, int64_t *blocks)
{
    using my = plan<T, ROUNDS>;
    *blocks = residual_norm_blocks(queue, a.rows.batch * a.rows.padded, my::WARPS, my::RESIDENT);
    return ser_launch(queue, {ser_grid(*blocks, 1), my::WARPS * WARP, my::SHARED},
                      norm_bwd_at_hand<T, ROUNDS>, a);
}

/* dy is summed up before dx or dh may take its place, or that of dy2. */
template <typename T> int run_in_passes(ser_queue *queue, const backward<T> &a, int64_t *blocks)
{
    const int64_t total = a.rows.batch * a.rows.padded;
    *blocks = residual_norm_blocks(queue, total, ROW_WARPS, 1);
    int status = 0;
    if (a.sums != nullptr) {
        const dim3 grid(static_cast<unsigned>(*blocks),
                        static_cast<unsigned>(cuda_ceil_div(a.channels, WARP)));
        status = ser_launch(queue, {grid, PACK_THREADS, 0}, norm_bwd_columns<T>, a);
    }
    if (status != 0 || (a.dx == nullptr && a.dh == nullptr)) {
        return status;
    }
    return ser_launch(queue, ser_row_shape(queue, total),
                      is_whole(a) ? norm_bwd_in_passes<T, true> : norm_bwd_in_passes<T, false>, a);
}

template <typename T> int run_rows(ser_queue *queue, const backward<T> &a, int64_t *blocks)
{
    if (!is_whole(a)) {
        return run_in_passes(queue, a, blocks);
    }
    switch (cuda_ceil_div(a.channels, ROW_PACKS)) {
    case 1: return run_at_hand<T, 1>(queue, a, blocks);
    case 2: return run_at_hand<T, 2>(queue, a, blocks);
    case 3: return run_at_hand<T, 3>(queue, a, blocks);
    case 4: return run_at_hand<T, 4>(queue, a, blocks);
    case MOST_ROUNDS: return run_at_hand<T, MOST_ROUNDS>(queue, a, blocks);
    default: return run_in_passes(queue, a, blocks);
    }
}

template <typename T> int run_backward(ser_queue *queue, const ser_residual_norm_args *args)
{
    const ser_tensor &x = args->sum.data != nullptr ? args->sum : args->x;
    const bool has_sums = args->dgamma.data != nullptr || args->dbeta.data != nullptr;
    const backward<T> a = {
        .x = args->dy.data != nullptr ? static_cast<const T *>(x.data) : nullptr,
        .dy = static_cast<const T *>(args->dy.data),
        .dy2 = static_cast<const T *>(args->dy2.data),
        .dsum = static_cast<const T *>(args->dsum.data),
        .gamma = static_cast<const float *>(args->gamma.data),
        .stats = static_cast<const float *>(args->stats.data),
        .dx = static_cast<T *>(args->dx.data),
        .dh = static_cast<T *>(args->dh.data),
        .sums = has_sums ? static_cast<float *>(queue->scratch) : nullptr,
        .rows = args->rows,
        .channels = static_cast<int32_t>(args->x.cols),
        .stays = args->dy.data == nullptr && args->dx.data == args->dsum.data,
        .rule = dropout_rule_of(args->dropout),
    };
    if (a.dx == nullptr && a.dh == nullptr && !has_sums) {
        return 0;
    }
    int64_t blocks = 0;
    const int status = run_rows(queue, a, &blocks);
    if (status != 0 || !has_sums) {
        return status;
    }
    return ser_launch(queue, {ser_grid(2 * a.channels, WARP), SLICES * WARP, 0}, add_sums,
                      static_cast<const float *>(a.sums), blocks, a.channels,
                      static_cast<float *>(args->dgamma.data),
                      static_cast<float *>(args->dbeta.data));
}

} // namespace

int ser_cuda_residual_norm_bwd(ser_queue *queue, const ser_residual_norm_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return args->x.type == SER_BF16 ? run_backward<bf16>(queue, args)
                                    : run_backward<float>(queue, args);
}
