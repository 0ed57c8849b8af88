/* SPDX-License-Identifier: MIT */
/* alpha = softmax_t(u_t . w + b) over the valid frames of a clip; y = sum_t alpha_t x_t. Rows
 * beyond the valid ones are never read. A clip's gradients come from its own rows alone; dw is
 * summed per clip, then over the clips in order. */
#include <cfloat>

#include "ops/cuda/attn_pool_backward.cuh"

namespace
{

template <typename U> struct scores {
    const U *u;           /* [batch * padded, width] */
    const float *w;       /* [width] or NULL: no scores, the mean */
    const float *b;       /* [1] or NULL */
    const int32_t *valid; /* [batch] */
    float *alpha;         /* [batch * padded] */
    int64_t padded, width;
    bool aligned; /* every row of u, and w */
};

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
    wait_for_previous();
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
        const float score = row_dot(a.u + (first + t) * a.width, a.w, a.width, a.aligned) + bias;
        if (threadIdx.x % WARP == 0) {
            alpha[t] = score;
        }
    }
    __syncthreads(); /* the scores of all warps are seen */
    softmax(alpha, frames);
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
    return ser_launch_early(queue, {ser_grid(args->rows.batch, 1), SCORE_THREADS, 0},
                            pool_weights<U>, a);
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
        const ser_tensor &x = args->x;
        const void *alpha = args->alpha.data;
        status = x.type == SER_BF16 ? launch_sum<bf16>(queue, x, args->rows, alpha, args->y.data)
                                    : launch_sum<float>(queue, x, args->rows, alpha, args->y.data);
    }
    return status;
}

size_t ser_cuda_attn_pool_scratch(const ser_queue *queue, const ser_attn_pool_args *args)
{
    (void)queue;
    return layout_of(args).total;
}

int ser_cuda_attn_pool_bwd(ser_queue *queue, const ser_attn_pool_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return args->x.type == SER_BF16 ? backward<bf16>(queue, args) : backward<float>(queue, args);
}
