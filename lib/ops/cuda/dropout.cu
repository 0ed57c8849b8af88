/* SPDX-License-Identifier: MIT */
/* y = dropout(act(x)), inverted dropout with the mask drawn anew in each direction (ops.h,
 * ser_dropout). */
#include <ser/common.h>

#include "ops/cuda/philox.cuh"
#include "ops/cuda/row_packs.cuh"
#include "ops/cuda/wave_gelu.cuh"

namespace
{

/* What forward and backward both take for the activation of a T, and its derivative. */
template <typename T, int ACTIVATION> __device__ __forceinline__ float activated(float x)
{
    return ACTIVATION == SER_ACT_GELU ? gelu_for<T>(x) : activate<ACTIVATION>(x);
}

template <typename T, int ACTIVATION> __device__ __forceinline__ float slope(float x)
{
    return ACTIVATION == SER_ACT_GELU ? gelu_gradient_for<T>(x) : activate_gradient<ACTIVATION>(x);
}

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
            x[i] = activated<T, ACTIVATION>(x[i]) * factors[i];
        }
        store_pack(a.y + at, a.count - at, a.aligned, x);
    }
}

template <typename T> struct backward {
    const T *x;  /* [rows, channels], with an activation or y */
    const T *dy; /* [rows, channels]; may be dx or y */
    T *dx;       /* [rows, channels] */
    T *y;        /* [rows, channels] or NULL */
    ser_rows rows;
    int64_t channels;
    dropout_rule rule;
};

/* dx = act'(x) f dy and y = act(x) f, f = 0 or 1 / (1 - p) as in forward; zeros in the invalid
 * rows, since products sum over the rows of both. */
template <typename T, int ACTIVATION, bool WHOLE, bool AGAIN>
__global__ void __launch_bounds__(PACK_THREADS) dropout_bwd(const backward<T> a)
{
    for (row_walk row = walk_rows(a.rows); is_within(row, a.rows); advance(row, a.rows)) {
        const int64_t begin = row.row * a.channels;
        const int64_t end = begin + a.channels;
        const bool wanted = is_valid(row, a.rows);
        for (int64_t at = pack_of_lane(begin); at < end; at += ROW_PACKS) {
            float d[PACK] = {};
            float y[PACK] = {};
            if (wanted) {
                float x[PACK] = {};
                float factors[PACK];
                load_between<WHOLE>(a.dy, at, begin, end, d);
                if (ACTIVATION != SER_ACT_NONE || AGAIN) {
                    load_between<WHOLE>(a.x, at, begin, end, x);
                }
                dropout_factors(a.rule, static_cast<uint64_t>(at) / PACK, factors);
#pragma unroll
                for (int i = 0; i < PACK; i++) {
                    d[i] *= factors[i];
                    if constexpr (ACTIVATION != SER_ACT_NONE) {
                        d[i] *= slope<T, ACTIVATION>(x[i]);
                    }
                    if constexpr (AGAIN) {
                        y[i] = activated<T, ACTIVATION>(x[i]) * factors[i];
                    }
                }
            }
            store_between<WHOLE>(a.dx, at, begin, end, d);
            if constexpr (AGAIN) {
                store_between<WHOLE>(a.y, at, begin, end, y);
            }
        }
    }
}

template <typename T> int run_forward(ser_queue *queue, const ser_dropout_args *args)
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

template <typename T> using backward_kernel = void (*)(backward<T>);

template <typename T, bool WHOLE, bool AGAIN> backward_kernel<T> kernel_of(int32_t activation)
{
    switch (activation) {
    case SER_ACT_GELU: return dropout_bwd<T, SER_ACT_GELU, WHOLE, AGAIN>;
    case SER_ACT_RELU: return dropout_bwd<T, SER_ACT_RELU, WHOLE, AGAIN>;
    case SER_ACT_TANH: return dropout_bwd<T, SER_ACT_TANH, WHOLE, AGAIN>;
    default: return dropout_bwd<T, SER_ACT_NONE, WHOLE, AGAIN>;
    }
}

template <typename T, bool WHOLE>
backward_kernel<T> kernel_of(const backward<T> &a, int32_t activation)
{
    return a.y != nullptr ? kernel_of<T, WHOLE, true>(activation)
                          : kernel_of<T, WHOLE, false>(activation);
}

template <typename T> int run_backward(ser_queue *queue, const ser_dropout_args *args)
{
    const backward<T> a = {
        .x = static_cast<const T *>(args->x.data),
        .dy = static_cast<const T *>(args->dy.data),
        .dx = static_cast<T *>(args->dx.data),
        .y = static_cast<T *>(args->y.data),
        .rows = args->rows,
        .channels = args->dx.cols,
        .rule = dropout_rule_of(args->dropout),
    };
    const bool whole = a.channels % PACK == 0 && ser_pack_aligned(a.x) && ser_pack_aligned(a.dy) &&
                       ser_pack_aligned(a.dx) && ser_pack_aligned(a.y);
    return ser_launch(queue, ser_row_shape(queue, args->dx.rows),
                      whole ? kernel_of<T, true>(a, args->activation)
                            : kernel_of<T, false>(a, args->activation),
                      a);
}

} // namespace

int ser_cuda_dropout_fwd(ser_queue *queue, const ser_dropout_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return args->y.type == SER_BF16 ? run_forward<bf16>(queue, args)
                                    : run_forward<float>(queue, args);
}

int ser_cuda_dropout_bwd(ser_queue *queue, const ser_dropout_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return args->dx.type == SER_BF16 ? run_backward<bf16>(queue, args)
                                     : run_backward<float>(queue, args);
}
