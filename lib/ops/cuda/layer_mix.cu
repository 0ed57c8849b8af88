/* SPDX-License-Identifier: MIT */
/* y (+)= softmax(w)[index] * x, the learned mix of hidden states (Peters et al. 2018, ELMo, eq. 1).
 */
#include "ops/cuda/packs.cuh"

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

/* softmax(w)[index], in every lane; each warp finds it by itself, which is cheaper than a kernel of
 * its own. A NaN among the weights goes through the sum. */
__device__ __forceinline__ float mix_weight(const float *w, int32_t states, int32_t index)
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
    return expf(w[index] - top) / warp_sum(total);
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

template <typename X, typename Y> int launch(ser_queue *queue, const ser_layer_mix_args *args)
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

} // namespace

int ser_cuda_layer_mix_fwd(ser_queue *queue, const ser_layer_mix_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    if (args->x.type == SER_F32) {
        return launch<float, float>(queue, args);
    }
    return args->y.type == SER_F32 ? launch<bf16, float>(queue, args)
                                   : launch<bf16, bf16>(queue, args);
}
