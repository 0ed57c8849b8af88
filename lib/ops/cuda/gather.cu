/* SPDX-License-Identifier: MIT */
/* Clips from anywhere, side by side, with zeros behind each. */
#include "ops/cuda/packs.cuh"

namespace
{

template <typename T> struct clips {
    const ser_source *sources; /* [batch] */
    T *y;                      /* [batch * padded, cols] */
    const int32_t *valid;      /* [batch] */
    int64_t padded, cols;
    int64_t blocks; /* of a clip */
    bool aligned;   /* every clip of y */
};

/* The next elements of a clip, of which `left` are there. Sources are allocations, so aligned. */
__device__ __forceinline__ void load_source(const ser_source &source, int64_t at, int64_t left,
                                            float (&x)[PACK])
{
    if (source.type == SER_SOURCE_F32) {
        load_pack(static_cast<const float *>(source.data) + at, left, true, x);
    } else if (source.type == SER_SOURCE_BF16) {
        load_pack(static_cast<const bf16 *>(source.data) + at, left, true, x);
    } else {
        const int16_t *samples = static_cast<const int16_t *>(source.data) + at;
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            x[i] = i < left ? static_cast<float>(samples[i]) / 32768.0f : 0.0f;
        }
    }
}

template <typename T> __global__ void __launch_bounds__(PACK_THREADS) gather(const clips<T> a)
{
    const int64_t clip = blockIdx.x / a.blocks;
    const int64_t first = blockIdx.x % a.blocks * PACK_THREADS + threadIdx.x;
    const int64_t size = a.padded * a.cols;
    const int64_t count = a.valid[clip] * a.cols;
    const ser_source source = a.sources[clip];
    T *y = a.y + clip * size;
    for (int64_t at = PACK * first; at < size; at += PACK * a.blocks * PACK_THREADS) {
        float x[PACK] = {};
        if (at < count) {
            load_source(source, at, count - at, x);
        }
        store_pack(y + at, size - at, a.aligned, x);
    }
}

template <typename T> int launch(ser_queue *queue, const ser_gather_args *args)
{
    constexpr int64_t ROUNDS = 4; /* of a thread */
    const int64_t size = args->rows.padded * args->y.cols;
    const clips<T> a = {
        .sources = args->sources,
        .y = static_cast<T *>(args->y.data),
        .valid = args->rows.valid,
        .padded = args->rows.padded,
        .cols = args->y.cols,
        .blocks = cuda_ceil_div(size, PACK * PACK_THREADS * ROUNDS),
        .aligned = ser_pack_aligned(args->y.data) &&
                   size * static_cast<int64_t>(sizeof(T)) % sizeof(uint4) == 0,
    };
    return ser_launch(queue, {ser_grid(args->rows.batch * a.blocks, 1), PACK_THREADS, 0}, gather<T>,
                      a);
}

} // namespace

int ser_cuda_gather(ser_queue *queue, const ser_gather_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return args->y.type == SER_BF16 ? launch<bf16>(queue, args) : launch<float>(queue, args);
}
