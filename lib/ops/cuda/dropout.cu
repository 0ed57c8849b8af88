/* SPDX-License-Identifier: MIT */
/* y = dropout(act(x)), inverted dropout with the mask drawn anew in each direction (ops.h,
 * ser_dropout). */
#include "ops/cuda/packs.cuh"
#include "ops/cuda/philox.cuh"

namespace
{

template <typename T> struct forward {
    const T *x; /* [count]; may be y */
    T *y;       /* [count] */
    int64_t count;
    bool aligned;
    dropout_rule rule;
};

/* Element by element, so padding is taken along: its values are free. */
template <typename T, int ACTIVATION>
__global__ void __launch_bounds__(PACK_THREADS) dropout(const forward<T> a)
{
    for (int64_t at = pack_first(); at < a.count; at += pack_stride()) {
        float x[PACK];
        float factors[PACK];
        load_pack(a.x + at, a.count - at, a.aligned, x);
        dropout_factors(a.rule, static_cast<uint64_t>(at) / PACK, factors);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            x[i] = activate<ACTIVATION>(x[i]) * factors[i];
        }
        store_pack(a.y + at, a.count - at, a.aligned, x);
    }
}

template <typename T> int launch(ser_queue *queue, const ser_dropout_args *args)
{
    const forward<T> a = {
        .x = static_cast<const T *>(args->x.data),
        .y = static_cast<T *>(args->y.data),
        .count = args->y.rows * args->y.cols,
        .aligned = ser_pack_aligned(args->x.data) && ser_pack_aligned(args->y.data),
        .rule = dropout_rule_of(args->dropout),
    };
    void (*kernel)(forward<T>) = dropout<T, SER_ACT_NONE>;
    switch (args->activation) {
    case SER_ACT_GELU: kernel = dropout<T, SER_ACT_GELU>; break;
    case SER_ACT_RELU: kernel = dropout<T, SER_ACT_RELU>; break;
    case SER_ACT_TANH: kernel = dropout<T, SER_ACT_TANH>; break;
    default: break;
    }
    return ser_launch(queue, ser_pack_shape(queue, a.count), kernel, a);
}

} // namespace

int ser_cuda_dropout_fwd(ser_queue *queue, const ser_dropout_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return args->y.type == SER_BF16 ? launch<bf16>(queue, args) : launch<float>(queue, args);
}
