/* SPDX-License-Identifier: MIT */
/*
 * AdamW over flat arrays; the formula stands in ops.h. Bound by memory: 28 bytes per element, 2
 * more with rounded weights, 8 more with the moving average. Blocks take chunks of fixed size, so that the hardware balances them;
 * what all elements have in common is found once per block, since it takes square roots and
 * divisions in double, which cards for games are slow at.
 */
#include <cfloat>

#include "ops/cuda/launch.cuh"

namespace
{

constexpr int THREADS = 256;
constexpr int QUADS = 8; /* of a thread, one after the other */
constexpr int64_t CHUNK = int64_t{THREADS} * 4 * QUADS;

struct optimiser {
    float *w, *m, *v;      /* [count] */
    float *ema;            /* [count] or NULL */
    bf16 *rounded;         /* [count] or NULL */
    const float *gradient; /* [count] */
    int64_t count;
    const ser_adamw_range *ranges;
    int32_t range_count;
    float beta1, rest1; /* rest: 1 - beta, rounded once */
    float beta2, rest2;
    float eps;
    bool aligned; /* every array to 16 bytes */
    const ser_step *step;
    const double *sum;
    int32_t *skipped;
};

/* What the gradient is multiplied with, or that nothing may change. */
struct scaling {
    float factor;
    bool skip;
};

/* s min(1, clip / (s sqrt(sum) + 1e-6)), PyTorch's clip_grad_norm_ on the scaled gradient. No
 * element of the scaled gradient is larger than its norm. */
__device__ __forceinline__ scaling scaling_of(const ser_step &step, double sum)
{
    const double scale = static_cast<double>(step.gradient_scale);
    const double norm = scale * sqrt(sum);
    scaling s = {step.gradient_scale, !(norm <= static_cast<double>(FLT_MAX))};
    if (step.clip > 0.0f) {
        s.factor =
            static_cast<float>(scale * fmin(1.0, static_cast<double>(step.clip) / (norm + 1e-6)));
    }
    return s;
}

/* What elements below `end` have in common, from the one on that was asked for. */
struct stretch {
    int64_t end;
    float shrink; /* rate * decay */
    float rate;   /* correction1 included */
};

/* The first range that ends behind the element holds it: ranges may be empty. */
__device__ __forceinline__ stretch stretch_of(const optimiser &a, const ser_step &step,
                                              int64_t element)
{
    int32_t low = 0;
    int32_t high = a.range_count - 1;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (a.ranges[middle].end <= element) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const ser_adamw_range &range = a.ranges[low];
    const double rate = static_cast<double>(range.rate) * static_cast<double>(step.rate);
    return {range.end, static_cast<float>(rate * static_cast<double>(range.decay)),
            static_cast<float>(rate * static_cast<double>(step.correction1))};
}

/* N elements of one stretch. */
template <int N>
__device__ __forceinline__ void update(const optimiser &a, const ser_step &step, float factor,
                                       const stretch &s, int64_t at)
{
    float g[N];
    float m[N];
    float v[N];
    float w[N];
    load(a.gradient + at, g);
    load(a.m + at, m);
    load(a.v + at, v);
    load(a.w + at, w);
#pragma unroll
    for (int i = 0; i < N; i++) {
        g[i] *= factor;
        m[i] = m[i] * a.beta1 + g[i] * a.rest1;
        v[i] = v[i] * a.beta2 + g[i] * g[i] * a.rest2;
        w[i] -= w[i] * s.shrink;
        w[i] -= m[i] * s.rate / (sqrtf(v[i] * step.correction2) + a.eps);
    }
    store(a.m + at, m);
    store(a.v + at, v);
    store(a.w + at, w);
    if (a.rounded != nullptr) {
        store(a.rounded + at, w);
    }
    if (a.ema != nullptr) {
        float ema[N];
        load(a.ema + at, ema);
#pragma unroll
        for (int i = 0; i < N; i++) {
            ema[i] = ema[i] * step.average + w[i] * (1.0f - step.average);
        }
        store(a.ema + at, ema);
    }
}

__global__ void __launch_bounds__(THREADS) adamw(const optimiser a)
{
    __shared__ scaling shared;
    const ser_step step = *a.step;
    if (threadIdx.x == 0) {
        shared = scaling_of(step, *a.sum);
        if (blockIdx.x == 0) {
            *a.skipped = shared.skip ? 1 : 0;
        }
    }
    __syncthreads();
    if (shared.skip) {
        return;
    }
    const float factor = shared.factor;
    stretch s = {};
    int64_t at = int64_t{blockIdx.x} * CHUNK + int64_t{threadIdx.x} * 4;
    for (int q = 0; q < QUADS && at < a.count; q++, at += THREADS * 4) {
        if (at >= s.end) {
            s = stretch_of(a, step, at);
        }
        if (a.aligned && at + 4 <= s.end) {
            update<4>(a, step, factor, s, at);
            continue;
        }
#pragma unroll 1
        for (int64_t i = at; i < at + 4 && i < a.count; i++) { /* a border, few of all */
            if (i >= s.end) {
                s = stretch_of(a, step, i);
            }
            update<1>(a, step, factor, s, i);
        }
    }
}

bool is_aligned(const void *array)
{
    return reinterpret_cast<uintptr_t>(array) % 16 == 0;
}

} // namespace

int ser_cuda_adamw(ser_queue *queue, const ser_adamw_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    const optimiser a = {
        .w = args->w,
        .m = args->m,
        .v = args->v,
        .ema = args->ema,
        .rounded = static_cast<bf16 *>(args->rounded),
        .gradient = args->gradient,
        .count = args->count,
        .ranges = args->ranges,
        .range_count = args->range_count,
        .beta1 = static_cast<float>(args->beta1),
        .rest1 = static_cast<float>(1.0 - args->beta1),
        .beta2 = static_cast<float>(args->beta2),
        .rest2 = static_cast<float>(1.0 - args->beta2),
        .eps = args->eps,
        .aligned = is_aligned(args->w) && is_aligned(args->m) && is_aligned(args->v) &&
                   is_aligned(args->ema) && is_aligned(args->rounded) && is_aligned(args->gradient),
        .step = args->step,
        .sum = args->sum,
        .skipped = args->skipped,
    };
    return ser_launch(queue, {ser_grid(a.count, CHUNK), THREADS, 0}, adamw, a);
}
