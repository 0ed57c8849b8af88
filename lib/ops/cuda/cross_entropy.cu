/* SPDX-License-Identifier: MIT */
/* p_k = exp(z_k) / sum_j exp(z_j) over the unmasked classes, with the largest z subtracted first;
 * loss = -sum_k t_k log p_k. A warp per row. */
#include "ops/cuda/launch.cuh"

namespace
{

constexpr int ROWS = 4; /* of a block, a warp each */

struct forward {
    const float *logits;  /* [rows, classes]; not read where the mask is 0 */
    const float *mask;    /* [rows, classes] or NULL */
    const float *targets; /* [rows, classes]; with loss */
    float *probabilities; /* [rows, classes] */
    float *loss;          /* [rows] or NULL */
    int64_t rows, classes;
};

/* What a lane looks at of a row: its unmasked classes among lane, lane + 32 ... */
struct row_view {
    const float *z;
    const float *mask;
    int64_t classes;

    __device__ __forceinline__ bool has(int64_t k) const
    {
        return mask == nullptr || mask[k] != 0.0f;
    }
};

/* The largest logit, NaN aside: it comes back through the sum of exponentials. */
__device__ __forceinline__ float largest(const row_view &row, unsigned lane)
{
    float top = -INFINITY;
    for (int64_t k = lane; k < row.classes; k += WARP) {
        if (row.has(k)) {
            top = fmaxf(top, row.z[k]);
        }
    }
    return warp_max(top);
}

/* From the logits, since a probability may have become 0: log p_k = z_k - log sum_j exp(z_j). In
 * double: where one class has nearly everything, the loss is the small rest. 0 without classes. */
__device__ __forceinline__ float row_loss(const row_view &row, const float *targets, float top,
                                          unsigned lane)
{
    double total = 0.0;
    double product = 0.0;
    double target = 0.0;
    for (int64_t k = lane; k < row.classes; k += WARP) {
        if (row.has(k)) {
            const double shifted = static_cast<double>(row.z[k]) - static_cast<double>(top);
            total += exp(shifted);
            product += static_cast<double>(targets[k]) * shifted;
            target += static_cast<double>(targets[k]);
        }
    }
    total = warp_sum(total);
    product = warp_sum(product);
    target = warp_sum(target);
    return static_cast<float>(total > 0.0 ? target * log(total) - product : total);
}

__global__ void __launch_bounds__(ROWS *WARP) cross_entropy(const forward a)
{
    wait_for_previous();
    const unsigned lane = threadIdx.x % WARP;
    const int64_t b = int64_t{blockIdx.x} * ROWS + threadIdx.x / WARP;
    if (b >= a.rows) {
        return;
    }
    const int64_t first = b * a.classes;
    const row_view row = {a.logits + first, a.mask != nullptr ? a.mask + first : nullptr,
                          a.classes};
    const float top = largest(row, lane);
    float total = 0.0f;
    for (int64_t k = lane; k < a.classes; k += WARP) {
        total += row.has(k) ? expf(row.z[k] - top) : 0.0f;
    }
    const float inverse = 1.0f / warp_sum(total);
    for (int64_t k = lane; k < a.classes; k += WARP) {
        a.probabilities[first + k] = row.has(k) ? expf(row.z[k] - top) * inverse : 0.0f;
    }
    if (a.loss != nullptr) {
        const float loss = row_loss(row, a.targets + first, top, lane);
        if (lane == 0) {
            a.loss[b] = loss;
        }
    }
}

struct backward {
    const float *probabilities; /* [rows, classes] */
    const float *targets;       /* [rows, classes] */
    const float *loss;          /* [rows] or NULL */
    float *dlogits;             /* [rows, classes] */
    int64_t rows, classes;
    double scale;
};

/* dloss / dz_k = p_k sum_j t_j - t_k, in double: near the optimum it is a small difference. */
__global__ void __launch_bounds__(ROWS *WARP) cross_entropy_bwd(const backward a)
{
    const unsigned lane = threadIdx.x % WARP;
    const int64_t b = int64_t{blockIdx.x} * ROWS + threadIdx.x / WARP;
    if (b >= a.rows) {
        return;
    }
    const float *p = a.probabilities + b * a.classes;
    const float *targets = a.targets + b * a.classes;
    float *dlogits = a.dlogits + b * a.classes;
    double target = 0.0;
    for (int64_t k = lane; k < a.classes; k += WARP) {
        target += static_cast<double>(targets[k]);
    }
    target = warp_sum(target);
    const bool sound = a.loss == nullptr || isfinite(a.loss[b]);
    const double scale = sound ? a.scale : static_cast<double>(NAN);
    for (int64_t k = lane; k < a.classes; k += WARP) {
        const double slope = static_cast<double>(p[k]) * target - static_cast<double>(targets[k]);
        dlogits[k] = static_cast<float>(scale * slope);
    }
}

} // namespace

int ser_cuda_cross_entropy_fwd(ser_queue *queue, const ser_cross_entropy_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    const forward a = {
        .logits = static_cast<const float *>(args->logits.data),
        .mask = static_cast<const float *>(args->mask.data),
        .targets = static_cast<const float *>(args->targets.data),
        .probabilities = static_cast<float *>(args->probabilities.data),
        .loss = static_cast<float *>(args->loss.data),
        .rows = args->logits.rows,
        .classes = args->logits.cols,
    };
    return ser_launch_early(queue, {ser_grid(a.rows, ROWS), ROWS * WARP, 0}, cross_entropy, a);
}

int ser_cuda_cross_entropy_bwd(ser_queue *queue, const ser_cross_entropy_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    const backward a = {
        .probabilities = static_cast<const float *>(args->probabilities.data),
        .targets = static_cast<const float *>(args->targets.data),
        .loss = static_cast<const float *>(args->loss.data),
        .dlogits = static_cast<float *>(args->dlogits.data),
        .rows = args->probabilities.rows,
        .classes = args->probabilities.cols,
        .scale = static_cast<double>(args->scale),
    };
    return ser_launch(queue, {ser_grid(a.rows, ROWS), ROWS * WARP, 0}, cross_entropy_bwd, a);
}
