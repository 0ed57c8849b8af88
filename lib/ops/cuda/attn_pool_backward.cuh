/* SPDX-License-Identifier: MIT */
/* The kernels of attention pooling's backward. Only for attn_pool.cu. */
#ifndef SER_OPS_CUDA_ATTN_POOL_BACKWARD_CUH
#define SER_OPS_CUDA_ATTN_POOL_BACKWARD_CUH

#include "ops/cuda/attn_pool.cuh"

namespace
{

constexpr int FRAME_WARPS = 8;  /* that write the gradients of frames */
constexpr int MOST_TILES = 256; /* of FRAME_WARPS frames that run beside each other, per clip */

template <typename X> struct score_gradients {
    const X *x;           /* [batch * padded, channels] */
    const float *dy;      /* [batch, channels] */
    const float *alpha;   /* [batch * padded] */
    const int32_t *valid; /* [batch] */
    float *ds;            /* [batch * padded] */
    int64_t padded, channels;
    bool aligned; /* every row of x and dy */
};

/*
 * With a_t = dy . x_t, the gradient of alpha_t: the gradient of the score is
 *   ds_t = alpha_t (a_t - sum_s alpha_s a_s).
 * Their sum is 0: b moves all scores alike, and nothing is added to db. A block per clip, a warp
 * per frame.
 */
template <typename X>
__global__ void __launch_bounds__(SCORE_THREADS) pool_scores_bwd(const score_gradients<X> a)
{
    __shared__ double totals[WARP];
    const int64_t first = int64_t{blockIdx.x} * a.padded;
    const int64_t frames = a.valid[blockIdx.x];
    const float *alpha = a.alpha + first;
    const float *dy = a.dy + blockIdx.x * a.channels;
    float *ds = a.ds + first;
    for (int64_t t = threadIdx.x / WARP; t < frames; t += blockDim.x / WARP) {
        const float dot = row_dot(a.x + (first + t) * a.channels, dy, a.channels, a.aligned);
        if (threadIdx.x % WARP == 0) {
            ds[t] = dot;
        }
    }
    __syncthreads(); /* the products of all warps are seen */
    double mean = 0.0;
    for (int64_t t = threadIdx.x; t < frames; t += blockDim.x) {
        mean += static_cast<double>(alpha[t]) * static_cast<double>(ds[t]);
    }
    const float center = static_cast<float>(block_sum(mean, totals));
    for (int64_t t = threadIdx.x; t < frames; t += blockDim.x) {
        ds[t] = alpha[t] * (ds[t] - center);
    }
}

template <typename T> struct frame_gradients {
    const float *alpha;   /* [batch * padded] */
    const float *ds;      /* [batch * padded] or NULL: the scores do not matter */
    const float *dy;      /* [batch, channels] */
    const float *w;       /* [width], with ds */
    const int32_t *valid; /* [batch] */
    T *dx;                /* [batch * padded, channels] or NULL */
    T *du;                /* [batch * padded, width] or NULL */
    int64_t padded, channels, width;
    bool same;                   /* u is x, and dx has the gradients of both */
    bool dx_aligned, du_aligned; /* every row, and what it is made of */
};

/* The sum of factors[k] vectors[k]; a vector that is NULL is left out. */
struct combination {
    const float *vectors[2];
    float factors[2];
};

template <typename T>
__device__ __forceinline__ void write_row(T *row, int64_t width, bool aligned, const combination &c)
{
    for (int64_t i = threadIdx.x % WARP * PACK; i < width; i += WARP * PACK) {
        float sum[PACK] = {};
#pragma unroll
        for (int k = 0; k < 2; k++) {
            if (c.vectors[k] == nullptr) {
                continue;
            }
            float v[PACK];
            load_pack(c.vectors[k] + i, width - i, aligned, v);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                sum[j] += c.factors[k] * v[j];
            }
        }
        store_pack(row + i, width - i, aligned, sum);
    }
}

/* dx_t = alpha_t dy; du_t = ds_t w, which belongs to dx too where u is x; zeros on invalid rows. A
 * warp per frame. */
template <typename T>
__global__ void __launch_bounds__(FRAME_WARPS *WARP) pool_frames_bwd(const frame_gradients<T> a)
{
    const int64_t first = int64_t{blockIdx.x} * a.padded;
    const int64_t frames = a.valid[blockIdx.x];
    int64_t t = int64_t{blockIdx.y} * FRAME_WARPS + threadIdx.x / WARP;
    for (; t < a.padded; t += int64_t{gridDim.y} * FRAME_WARPS) {
        const bool is_valid = t < frames;
        const float *dy = is_valid ? a.dy + blockIdx.x * a.channels : nullptr;
        const float *w = is_valid && a.ds != nullptr ? a.w : nullptr;
        const float alpha = is_valid ? a.alpha[first + t] : 0.0f;
        const float ds = w != nullptr ? a.ds[first + t] : 0.0f;
        if (a.dx != nullptr) {
            write_row(a.dx + (first + t) * a.channels, a.channels, a.dx_aligned,
                      {{dy, a.same ? w : nullptr}, {alpha, ds}});
        }
        if (a.du != nullptr) {
            write_row(a.du + (first + t) * a.width, a.width, a.du_aligned,
                      {{w, nullptr}, {ds, 0.0f}});
        }
    }
}

/* dw += the sums of the clips [batch, width]. A block per 32 columns. */
__global__ void __launch_bounds__(SUM_WARPS *WARP)
    add_clips(const float *sums, int64_t batch, int64_t width, float *dw)
{
    const int64_t column = int64_t{blockIdx.x} * WARP + threadIdx.x % WARP;
    const bool exists = column < width;
    const float sum =
        sum_by_warps(exists ? batch : 0, [=](int64_t clip) { return sums[clip * width + column]; });
    if (exists && threadIdx.x < WARP) {
        dw[column] += sum;
    }
}

/* Offsets into the scratch. */
struct layout {
    size_t ds;    /* [batch * padded] */
    size_t clips; /* [batch, width]: dw of each */
    size_t total;
};

layout layout_of(const ser_attn_pool_args *args)
{
    layout l = {};
    if (args->dy.rows > 0 && args->w.rows > 0) {
        const size_t batch = static_cast<size_t>(args->rows.batch);
        const size_t width = args->dw.rows > 0 ? static_cast<size_t>(args->u.cols) : 0;
        l.ds = cuda_carve(&l.total, batch * static_cast<size_t>(args->rows.padded) * sizeof(float));
        l.clips = cuda_carve(&l.total, batch * width * sizeof(float));
    }
    return l;
}

template <typename X> int launch_scores(ser_queue *queue, const ser_attn_pool_args *args, float *ds)
{
    const score_gradients<X> a = {
        .x = static_cast<const X *>(args->x.data),
        .dy = static_cast<const float *>(args->dy.data),
        .alpha = static_cast<const float *>(args->alpha.data),
        .valid = args->rows.valid,
        .ds = ds,
        .padded = args->rows.padded,
        .channels = args->x.cols,
        .aligned = args->x.cols % PACK == 0 && ser_pack_aligned(args->x.data) &&
                   ser_pack_aligned(args->dy.data),
    };
    return ser_launch(queue, {ser_grid(args->rows.batch, 1), SCORE_THREADS, 0}, pool_scores_bwd<X>,
                      a);
}

/* ds NULL: not needed. */
template <typename T>
int launch_frames(ser_queue *queue, const ser_attn_pool_args *args, const float *ds)
{
    const bool same = args->u.data == args->x.data;
    const bool w_aligned = ser_pack_aligned(args->w.data);
    const frame_gradients<T> a = {
        .alpha = static_cast<const float *>(args->alpha.data),
        .ds = ds,
        .dy = static_cast<const float *>(args->dy.data),
        .w = static_cast<const float *>(args->w.data),
        .valid = args->rows.valid,
        .dx = static_cast<T *>(args->dx.data),
        .du = static_cast<T *>(args->du.data),
        .padded = args->rows.padded,
        .channels = args->x.cols,
        .width = args->u.cols,
        .same = same,
        .dx_aligned = args->x.cols % PACK == 0 && ser_pack_aligned(args->dx.data) &&
                      ser_pack_aligned(args->dy.data) && (!same || w_aligned),
        .du_aligned = args->u.cols % PACK == 0 && ser_pack_aligned(args->du.data) && w_aligned,
    };
    const int64_t tiles = cuda_ceil_div(a.padded, FRAME_WARPS);
    dim3 grid = ser_grid(args->rows.batch, 1);
    grid.y = static_cast<unsigned>(tiles < MOST_TILES ? tiles : MOST_TILES);
    return ser_launch(queue, {grid, FRAME_WARPS * WARP, 0}, pool_frames_bwd<T>, a);
}

template <typename T>
int launch_dw(ser_queue *queue, const ser_attn_pool_args *args, const float *ds, float *clips)
{
    const int status = launch_sum<T>(queue, args->u, args->rows, ds, clips);
    if (status != 0) {
        return status;
    }
    const int64_t width = args->u.cols;
    return ser_launch(queue, {ser_grid(width, WARP), SUM_WARPS * WARP, 0}, add_clips, clips,
                      args->rows.batch, width, static_cast<float *>(args->dw.data));
}

template <typename T> int backward(ser_queue *queue, const ser_attn_pool_args *args)
{
    const layout l = layout_of(args);
    char *scratch = static_cast<char *>(queue->scratch);
    const bool has_dx = args->dx.data != nullptr;
    const bool has_du = args->du.data != nullptr;
    const bool has_dw = args->dw.data != nullptr;
    const bool has_scores =
        args->w.data != nullptr && (has_du || has_dw || (has_dx && args->u.data == args->x.data));
    float *ds = has_scores ? reinterpret_cast<float *>(scratch + l.ds) : nullptr;
    int status = has_scores ? launch_scores<T>(queue, args, ds) : 0;
    if (status == 0 && (has_dx || has_du)) {
        status = launch_frames<T>(queue, args, ds);
    }
    if (status == 0 && has_dw) {
        status = launch_dw<T>(queue, args, ds, reinterpret_cast<float *>(scratch + l.clips));
    }
    return status;
}

} // namespace

#endif
