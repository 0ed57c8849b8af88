/* SPDX-License-Identifier: MIT */
/* y[t, f] = x[t, f * warp] + offset[f], linear in between, the last bin beyond the end. */
#include "ops/cuda/launch.cuh"

namespace
{

constexpr int ROWS = 4; /* of a block, a warp each */
constexpr int THREADS = ROWS * WARP;

template <typename T> struct warping {
    const T *x; /* [batch * padded, bins] */
    int64_t rows, padded;
    int32_t bins;
    const int32_t *valid; /* [batch] */
    const float *warp;    /* [batch] */
    const float *offset;  /* [batch, bins] */
    T *y;                 /* [batch * padded, bins] */
};

/* x at `place`, which may lie anywhere. */
template <typename T>
__device__ __forceinline__ float value_at(const T *x, float place, int32_t bins)
{
    if (!(place > 0.0f)) {
        return to_float(x[0]); /* also for NaN */
    }
    if (!(place < static_cast<float>(bins - 1))) {
        return to_float(x[bins - 1]);
    }
    const int32_t at = static_cast<int32_t>(place);
    const float part = place - static_cast<float>(at);
    const float here = to_float(x[at]);
    const float next = part > 0.0f ? to_float(x[at + 1]) : here;
    return here + part * (next - here);
}

template <typename T> __global__ void __launch_bounds__(THREADS) mel_warp(const warping<T> a)
{
    const int64_t row = int64_t{blockIdx.x} * ROWS + threadIdx.x / WARP;
    if (row >= a.rows) {
        return;
    }
    const int64_t clip = row / a.padded;
    const bool valid = row % a.padded < a.valid[clip];
    const float warp = a.warp[clip];
    const float *offset = a.offset + clip * a.bins;
    const T *x = a.x + row * a.bins;
    T *y = a.y + row * a.bins;
    for (int32_t f = static_cast<int32_t>(threadIdx.x % WARP); f < a.bins; f += WARP) {
        const float place = static_cast<float>(f) * warp;
        y[f] = from_float<T>(valid ? value_at(x, place, a.bins) + offset[f] : 0.0f);
    }
}

template <typename T> int launch(ser_queue *queue, const ser_mel_warp_args *args)
{
    const warping<T> a = {
        .x = static_cast<const T *>(args->x.data),
        .rows = args->x.rows,
        .padded = args->rows.padded,
        .bins = static_cast<int32_t>(args->x.cols),
        .valid = args->rows.valid,
        .warp = static_cast<const float *>(args->warp.data),
        .offset = static_cast<const float *>(args->offset.data),
        .y = static_cast<T *>(args->y.data),
    };
    return ser_launch(queue, {ser_grid(a.rows, ROWS), THREADS, 0}, mel_warp<T>, a);
}

} // namespace

int ser_cuda_mel_warp_fwd(ser_queue *queue, const ser_mel_warp_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return args->y.type == SER_BF16 ? launch<bf16>(queue, args) : launch<float>(queue, args);
}
