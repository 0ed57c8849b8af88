/* SPDX-License-Identifier: MIT */
/* alpha = softmax_t(u_t . w + b) over the valid frames of a clip; y = sum_t alpha_t x_t. Rows
 * beyond the valid ones are never read. */
#include <cfloat>

#include "ops/cuda/packs.cuh"

namespace
{

constexpr int SCORE_THREADS = 1024;
constexpr int SUM_WARPS = 16;

template <typename U> struct scores {
    const U *u;           /* [batch * padded, width] */
    const float *w;       /* [width] or NULL: no scores, the mean */
    const float *b;       /* [1] or NULL */
    const int32_t *valid; /* [batch] */
    float *alpha;         /* [batch * padded] */
    int64_t padded, width;
    bool aligned; /* every row of u, and w */
};

/* u . w, in every lane. */
template <typename U> __device__ __forceinline__ float score_of(const scores<U> &a, const U *u)
{
    float dot = 0.0f;
    for (int64_t i = threadIdx.x % WARP * PACK; i < a.width; i += WARP * PACK) {
        float x[PACK];
        float w[PACK];
        load_pack(u + i, a.width - i, a.aligned, x);
        load_pack(a.w + i, a.width - i, a.aligned, w);
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            dot += x[j] * w[j];
        }
    }
    return warp_sum(dot);
}

/* alpha = softmax(alpha) by the whole block. A NaN comes through the sum of the exponentials. */
__device__ __forceinline__ void softmax(float *alpha, int64_t frames)
{
    __shared__ float tops[WARP];
    __shared__ float totals[WARP];
    float top = -FLT_MAX;
    for (int64_t t = threadIdx.x; t < frames; t += blockDim.x) {
        top = fmaxf(top, alpha[t]);
    }
    top = block_max(top, tops);
    float total = 0.0f;
    for (int64_t t = threadIdx.x; t < frames; t += blockDim.x) {
        const float e = expf(alpha[t] - top);
        alpha[t] = e;
        total += e;
    }
    const float inverse = 1.0f / block_sum(total, totals);
    for (int64_t t = threadIdx.x; t < frames; t += blockDim.x) {
        alpha[t] *= inverse;
    }
}

/* A block per clip, a warp per frame. */
template <typename U>
__global__ void __launch_bounds__(SCORE_THREADS) pool_weights(const scores<U> a)
{
    const int64_t first = int64_t{blockIdx.x} * a.padded;
    const int64_t frames = a.valid[blockIdx.x];
    float *alpha = a.alpha + first;
    for (int64_t t = frames + threadIdx.x; t < a.padded; t += blockDim.x) {
        alpha[t] = 0.0f;
    }
    if (a.w == nullptr) {
        for (int64_t t = threadIdx.x; t < frames; t += blockDim.x) {
            alpha[t] = 1.0f / static_cast<float>(frames);
        }
        return;
    }
    const float bias = a.b != nullptr ? *a.b : 0.0f;
    for (int64_t t = threadIdx.x / WARP; t < frames; t += blockDim.x / WARP) {
        const float score = score_of(a, a.u + (first + t) * a.width) + bias;
        if (threadIdx.x % WARP == 0) {
            alpha[t] = score;
        }
    }
    __syncthreads(); /* the scores of all warps are seen */
    softmax(alpha, frames);
}

template <typename X> struct frames {
    const X *x;           /* [batch * padded, channels] */
    const float *alpha;   /* [batch * padded] */
    const int32_t *valid; /* [batch] */
    float *y;             /* [batch, channels] */
    int64_t padded, channels;
};

/* A block per clip and 32 channels, so that one clip alone has many multiprocessors. A lane has a
 * channel, a warp every 16th frame; the warps' sums are added in order, for the same bits. */
template <typename X>
__global__ void __launch_bounds__(SUM_WARPS *WARP) weighted_sum(const frames<X> a)
{
    __shared__ float partial[SUM_WARPS][WARP];
    const unsigned lane = threadIdx.x % WARP;
    const unsigned warp = threadIdx.x / WARP;
    const int64_t channel = int64_t{blockIdx.y} * WARP + lane;
    const int64_t first = int64_t{blockIdx.x} * a.padded;
    const int64_t count = a.valid[blockIdx.x];
    float sum = 0.0f;
    if (channel < a.channels) {
        const X *x = a.x + first * a.channels + channel;
#pragma unroll 4
        for (int64_t t = warp; t < count; t += SUM_WARPS) {
            sum += a.alpha[first + t] * to_float(x[t * a.channels]);
        }
    }
    partial[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && channel < a.channels) {
        sum = 0.0f;
#pragma unroll
        for (int i = 0; i < SUM_WARPS; i++) {
            sum += partial[i][lane];
        }
        a.y[blockIdx.x * a.channels + channel] = sum;
    }
}

template <typename U> int launch_weights(ser_queue *queue, const ser_attn_pool_args *args)
{
    const scores<U> a = {
        .u = static_cast<const U *>(args->u.data),
        .w = static_cast<const float *>(args->w.data),
        .b = static_cast<const float *>(args->b.data),
        .valid = args->rows.valid,
        .alpha = static_cast<float *>(args->alpha.data),
        .padded = args->rows.padded,
        .width = args->u.cols,
        .aligned = args->u.cols % PACK == 0 && ser_pack_aligned(args->u.data) &&
                   ser_pack_aligned(args->w.data),
    };
    return ser_launch(queue, {ser_grid(args->rows.batch, 1), SCORE_THREADS, 0}, pool_weights<U>, a);
}

template <typename X> int launch_sum(ser_queue *queue, const ser_attn_pool_args *args)
{
    const frames<X> a = {
        .x = static_cast<const X *>(args->x.data),
        .alpha = static_cast<const float *>(args->alpha.data),
        .valid = args->rows.valid,
        .y = static_cast<float *>(args->y.data),
        .padded = args->rows.padded,
        .channels = args->x.cols,
    };
    dim3 grid = ser_grid(args->rows.batch, 1);
    grid.y = static_cast<unsigned>(cuda_ceil_div(a.channels, WARP));
    return ser_launch(queue, {grid, SUM_WARPS * WARP, 0}, weighted_sum<X>, a);
}

} // namespace

int ser_cuda_attn_pool_fwd(ser_queue *queue, const ser_attn_pool_args *args)
{
    int status = ser_cuda_enter(queue->context);
    if (status == 0) {
        status = args->u.type == SER_BF16 ? launch_weights<bf16>(queue, args)
                                          : launch_weights<float>(queue, args);
    }
    if (status == 0) {
        status = args->x.type == SER_BF16 ? launch_sum<bf16>(queue, args)
                                          : launch_sum<float>(queue, args);
    }
    return status;
}
