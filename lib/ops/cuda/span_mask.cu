/* SPDX-License-Identifier: MIT */
/* SpecAugment (Park et al. 2019): x = 0 in spans of frames and of channels. */
#include "ops/cuda/launch.cuh"

namespace
{

constexpr int ROWS = 4; /* of a block, a warp each */

template <typename T> struct spans {
    T *x; /* [batch * padded, channels] */
    int64_t rows, padded, channels;
    const int32_t *valid;   /* [batch] */
    const int32_t *time;    /* [batch, time_spans, 2] */
    const int32_t *channel; /* [batch, channel_spans, 2] */
    int32_t time_spans, channel_spans;
};

/* Zeros in columns [begin, end) of a row, cut to what there is; by all lanes. */
template <typename T>
__device__ __forceinline__ void clear(T *row, int64_t channels, int64_t begin, int64_t end)
{
    const int64_t first = begin > 0 ? begin : 0;
    const int64_t last = end < channels ? end : channels;
    for (int64_t c = first + threadIdx.x % WARP; c < last; c += WARP) {
        row[c] = from_float<T>(0.0f);
    }
}

template <typename T> __global__ void __launch_bounds__(ROWS *WARP) span_mask(const spans<T> a)
{
    const int64_t row = int64_t{blockIdx.x} * ROWS + threadIdx.x / WARP;
    if (row >= a.rows) {
        return;
    }
    const int64_t clip = row / a.padded;
    const int64_t t = row % a.padded;
    if (t >= a.valid[clip]) {
        return;
    }
    bool masked = false;
    const int32_t *time = a.time + 2 * clip * a.time_spans;
    for (int32_t s = 0; s < a.time_spans; s++) {
        masked = masked || (t >= time[2 * s] && t < time[2 * s + 1]);
    }
    T *x = a.x + row * a.channels;
    if (masked) {
        clear(x, a.channels, 0, a.channels);
        return;
    }
    const int32_t *channel = a.channel + 2 * clip * a.channel_spans;
    for (int32_t s = 0; s < a.channel_spans; s++) {
        clear(x, a.channels, channel[2 * s], channel[2 * s + 1]);
    }
}

template <typename T> int launch(ser_queue *queue, const ser_span_mask_args *args)
{
    const spans<T> a = {
        .x = static_cast<T *>(args->x.data),
        .rows = args->x.rows,
        .padded = args->rows.padded,
        .channels = args->x.cols,
        .valid = args->rows.valid,
        .time = args->time,
        .channel = args->channel,
        .time_spans = args->time_spans,
        .channel_spans = args->channel_spans,
    };
    return ser_launch(queue, {ser_grid(a.rows, ROWS), ROWS * WARP, 0}, span_mask<T>, a);
}

} // namespace

int ser_cuda_span_mask(ser_queue *queue, const ser_span_mask_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0 || (args->time_spans == 0 && args->channel_spans == 0)) {
        return status;
    }
    return args->x.type == SER_BF16 ? launch<bf16>(queue, args) : launch<float>(queue, args);
}
