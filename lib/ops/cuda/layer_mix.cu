/* SPDX-License-Identifier: MIT */
/* y (+)= softmax(w)[index] * x, the learned mix of hidden states (Peters et al. 2018, ELMo, eq. 1).
 */
#include <ser/common.h>

#include "ops/cuda/row_packs.cuh"

namespace
{

template <typename X, typename Y> struct forward {
    const X *x; /* [count] */
    Y *y;       /* [count] */
    int64_t count;
    bool aligned;
    const float *w; /* [states] */
    int32_t states;
    int32_t index;
};

/* softmax(w) at one weight, once its largest and the sum of the exponentials are known. */
struct mix_scale {
    float top, total;

    __device__ __forceinline__ float weight(float w) const
    {
        return expf(w - top) / total;
    }
};

/* In every lane; each warp finds it by itself, which is cheaper than a kernel of its own. A NaN
 * among the weights goes through the sum. */
__device__ __forceinline__ mix_scale mix_scale_of(const float *w, int32_t states)
{
    const int32_t lane = static_cast<int32_t>(threadIdx.x % WARP);
    float top = -INFINITY;
    for (int32_t i = lane; i < states; i += WARP) {
        top = fmaxf(top, w[i]);
    }
    top = warp_max(top);
    float total = 0.0f;
    for (int32_t i = lane; i < states; i += WARP) {
        total += expf(w[i] - top);
    }
    return {top, warp_sum(total)};
}

__device__ __forceinline__ float mix_weight(const float *w, int32_t states, int32_t index)
{
    return mix_scale_of(w, states).weight(w[index]);
}

/* Element by element, so padding is taken along: its values are free. */
template <typename X, typename Y>
__global__ void __launch_bounds__(PACK_THREADS) layer_mix(const forward<X, Y> a)
{
    const float weight = mix_weight(a.w, a.states, a.index);
    for (int64_t at = pack_first(); at < a.count; at += pack_stride()) {
        const int64_t left = a.count - at;
        float x[PACK];
        float y[PACK] = {};
        load_pack(a.x + at, left, a.aligned, x);
        if (a.index > 0) {
            load_pack(a.y + at, left, a.aligned, y);
        }
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            y[i] += weight * x[i];
        }
        store_pack(a.y + at, left, a.aligned, y);
    }
}

template <typename X, typename Y> int run_forward(ser_queue *queue, const ser_layer_mix_args *args)
{
    const forward<X, Y> a = {
        .x = static_cast<const X *>(args->x.data),
        .y = static_cast<Y *>(args->y.data),
        .count = args->y.rows * args->y.cols,
        .aligned = ser_pack_aligned(args->x.data) && ser_pack_aligned(args->y.data),
        .w = static_cast<const float *>(args->w.data),
        .states = static_cast<int32_t>(args->w.cols),
        .index = args->index,
    };
    return ser_launch(queue, ser_pack_shape(queue, a.count), layer_mix<X, Y>, a);
}

/* G: the gradient's type, f32 where the mix is. */
template <typename G, typename X> struct backward {
    const G *dy;    /* [rows, channels] */
    const X *x;     /* [rows, channels], with parts */
    X *dx;          /* [rows, channels] or NULL */
    float *parts;   /* [blocks]: of the sum of dy x, or NULL */
    const float *w; /* [states] */
    ser_rows rows;
    int64_t channels;
    int32_t states;
    int32_t index;
    bool first;
};

/* dx (+)= weight dy on elements at .. at + 7; returns the sum of dy x there. */
template <typename G, typename X, bool WHOLE>
__device__ __forceinline__ float mix_pack_bwd(const backward<G, X> &a, float weight, int64_t at,
                                              int64_t begin, int64_t end)
{
    float dy[PACK];
    float x[PACK] = {};
    float dx[PACK] = {};
    load_between<WHOLE>(a.dy, at, begin, end, dy);
    if (a.parts != nullptr) {
        load_between<WHOLE>(a.x, at, begin, end, x);
    }
    if (a.dx != nullptr && !a.first) {
        load_between<WHOLE>(a.dx, at, begin, end, dx);
    }
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        dot += dy[i] * x[i];
        dx[i] += weight * dy[i];
    }
    if (a.dx != nullptr) {
        store_between<WHOLE>(a.dx, at, begin, end, dx);
    }
    return dot;
}

/* Zeros in the invalid rows of dx. */
template <typename G, typename X, bool WHOLE>
__global__ void __launch_bounds__(PACK_THREADS) layer_mix_bwd(const backward<G, X> a)
{
    __shared__ float shared[WARP];
    const float weight = mix_weight(a.w, a.states, a.index);
    float dot = 0.0f;
    for (row_walk row = walk_rows(a.rows); is_within(row, a.rows); advance(row, a.rows)) {
        const int64_t begin = row.row * a.channels;
        const int64_t end = begin + a.channels;
        const bool wanted = is_valid(row, a.rows);
        for (int64_t at = pack_of_lane(begin); at < end; at += ROW_PACKS) {
            if (wanted) {
                dot += mix_pack_bwd<G, X, WHOLE>(a, weight, at, begin, end);
            } else if (a.dx != nullptr) {
                const float zeros[PACK] = {};
                store_between<WHOLE>(a.dx, at, begin, end, zeros);
            }
        }
    }
    if (a.parts != nullptr) {
        dot = block_sum(dot, shared);
        if (threadIdx.x == 0) {
            a.parts[blockIdx.x] = dot;
        }
    }
}

/* dots[index] = the sum of the parts, by one block. Index 0 is the last: with a = softmax(w),
 * dw_i += a_i (dots_i - sum_k a_k dots_k). The differences may be small: sums are in f64. */
__global__ void __launch_bounds__(PACK_THREADS)
    finish_dots(const float *parts, int64_t count, const float *w, int32_t states, int32_t index,
                float *dots, float *dw)
{
    __shared__ double shared[WARP];
    double total = 0.0;
    for (int64_t i = threadIdx.x; i < count; i += PACK_THREADS) {
        total += static_cast<double>(parts[i]);
    }
    total = block_sum(total, shared);
    if (threadIdx.x == 0) {
        dots[index] = static_cast<float>(total);
    }
    __syncthreads(); /* before the others read it */
    if (index > 0 || threadIdx.x >= WARP) {
        return;
    }
    const int32_t lane = static_cast<int32_t>(threadIdx.x);
    const mix_scale scale = mix_scale_of(w, states);
    double mean = 0.0;
    for (int32_t i = lane; i < states; i += WARP) {
        mean += static_cast<double>(scale.weight(w[i])) * static_cast<double>(dots[i]);
    }
    mean = warp_sum(mean);
    for (int32_t i = lane; i < states; i += WARP) {
        const double difference = static_cast<double>(dots[i]) - mean;
        dw[i] += static_cast<float>(static_cast<double>(scale.weight(w[i])) * difference);
    }
}

template <typename G, typename X> int run_backward(ser_queue *queue, const ser_layer_mix_args *args)
{
    const bool weighs = args->dw.data != nullptr;
    if (!weighs && args->dx.data == nullptr) {
        return 0;
    }
    const backward<G, X> a = {
        .dy = static_cast<const G *>(args->dy.data),
        .x = static_cast<const X *>(args->x.data),
        .dx = static_cast<X *>(args->dx.data),
        .parts = weighs ? static_cast<float *>(queue->scratch) : nullptr,
        .w = static_cast<const float *>(args->w.data),
        .rows = args->rows,
        .channels = args->dy.cols,
        .states = static_cast<int32_t>(args->w.cols),
        .index = args->index,
        .first = args->first,
    };
    const bool whole = a.channels % PACK == 0 && ser_pack_aligned(a.dy) && ser_pack_aligned(a.x) &&
                       ser_pack_aligned(a.dx);
    const int status =
        ser_launch(queue, ser_row_shape(queue, args->dy.rows),
                   whole ? layer_mix_bwd<G, X, true> : layer_mix_bwd<G, X, false>, a);
    if (status != 0 || !weighs) {
        return status;
    }
    return ser_launch(queue, {dim3(1), PACK_THREADS, 0}, finish_dots,
                      static_cast<const float *>(a.parts), ser_row_blocks(queue, args->dy.rows),
                      a.w, a.states, a.index, static_cast<float *>(args->dots.data),
                      static_cast<float *>(args->dw.data));
}

} // namespace

int ser_cuda_layer_mix_fwd(ser_queue *queue, const ser_layer_mix_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    if (args->x.type == SER_F32) {
        return run_forward<float, float>(queue, args);
    }
    return args->y.type == SER_F32 ? run_forward<bf16, float>(queue, args)
                                   : run_forward<bf16, bf16>(queue, args);
}

size_t ser_cuda_layer_mix_scratch(const ser_queue *queue, const ser_layer_mix_args *args)
{
    return args->dw.rows > 0
               ? static_cast<size_t>(ser_row_blocks(queue, args->dy.rows)) * sizeof(float)
               : 0;
}

int ser_cuda_layer_mix_bwd(ser_queue *queue, const ser_layer_mix_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    const int32_t type = args->dx.data != nullptr ? args->dx.type : args->x.type;
    if (args->dy.type == SER_BF16) {
        return run_backward<bf16, bf16>(queue, args);
    }
    return type == SER_BF16 ? run_backward<float, bf16>(queue, args)
                            : run_backward<float, float>(queue, args);
}
