/* SPDX-License-Identifier: MIT */
/* Which kernel finds the weight gradient of pos_conv, and how many blocks of it. Only for
 * pos_conv_backward.cu. */
#ifndef SER_OPS_CUDA_POS_CONV_WEIGHT_LAUNCH_CUH
#define SER_OPS_CUDA_POS_CONV_WEIGHT_LAUNCH_CUH

#include "ops/cuda/pos_conv_launch.cuh"
#include "ops/cuda/pos_conv_weight_portable.cuh"
#include "ops/cuda/pos_conv_weight_tensor.cuh"

namespace
{

using weight_kernel = void (*)(weight_call<bf16>);

struct weight_plan {
    weight_kernel kernel; /* NULL: portable */
    int64_t blocks;       /* per group and share of the chunks */
    int64_t at_once;      /* blocks on a multiprocessor */
    int64_t per_clip;     /* chunks */
    int64_t splits;
    int64_t part; /* floats */
    unsigned threads;
    size_t shared;
};

template <int WIDTH> weight_plan tensor_plan(const conv_size &size)
{
    using L = gradient_layout<WIDTH>;
    return {.kernel = weight_gradient_tensor<WIDTH>,
            .blocks = L::sets(size.kernel),
            .at_once = L::BLOCKS,
            .per_clip = cuda_ceil_div(size.padded, L::CHUNK),
            .splits = 1,
            .part = 0,
            .threads = GRADIENT_THREADS,
            .shared = L::SHARED};
}

inline weight_plan portable_plan(const conv_size &size)
{
    using W = weight_tile;
    const int64_t sides = cuda_ceil_div(size.width, W::SIDE);
    return {.kernel = nullptr,
            .blocks = sides * sides * cuda_ceil_div(size.kernel, W::TAPS),
            .at_once = W::BLOCKS,
            .per_clip = cuda_ceil_div(size.padded, W::CHUNK),
            .splits = 1,
            .part = 0,
            .threads = W::THREADS,
            .shared = 0};
}

/* The cheapest number of shares, in chunks that a multiprocessor goes through one after the other:
 * a part's way through memory costs about as much as PART_COST. The parts may have 64 MiB. */
inline int64_t shares_of(const ser_queue *queue, const conv_size &size, const weight_plan &p)
{
    constexpr int64_t MOST = 16;
    constexpr int64_t PART_COST = 3;
    constexpr int64_t MOST_FLOATS = 16 << 20;
    const int64_t slots = p.at_once * queue->context->multiprocessors;
    const int64_t blocks = p.blocks * size.groups;
    const int64_t chunks = size.batch * p.per_clip;
    int64_t best = 1;
    int64_t least = cuda_ceil_div(blocks, slots) * chunks;
    for (int64_t splits = 2; splits <= MOST && splits <= chunks; splits++) {
        const int64_t each = cuda_ceil_div(chunks, splits) + PART_COST;
        const int64_t cost = cuda_ceil_div(blocks * splits, slots) * each;
        if (cost < least && splits * p.part <= MOST_FLOATS) {
            best = splits;
            least = cost;
        }
    }
    return best;
}

inline weight_plan plan_weight(const ser_queue *queue, const conv_size &size)
{
    weight_plan p = !has_tensor_width(size) ? portable_plan(size)
                    : size.width <= 16      ? tensor_plan<16>(size)
                    : size.width <= 32      ? tensor_plan<32>(size)
                    : size.width <= 48      ? tensor_plan<48>(size)
                                            : tensor_plan<64>(size);
    if (p.shared > queue->context->shared_limit) {
        p = portable_plan(size);
    }
    p.part = cuda_ceil_div(size.channels * size.kernel * size.width, PACK) * PACK;
    p.splits = shares_of(queue, size, p);
    return p;
}

/* Bytes of the parts of split chunks. */
inline size_t parts_size(const weight_plan &p)
{
    return p.splits > 1 ? static_cast<size_t>(p.splits * p.part) * sizeof(float) : 0;
}

/* What follows from the shape; the caller adds the tensors. */
template <typename T>
weight_call<T> weight_call_of(const conv_size &size, const weight_plan &p, void *parts)
{
    weight_call<T> call = {};
    call.parts = p.splits > 1 ? static_cast<float *>(parts) : nullptr;
    call.part = p.part;
    call.batch = static_cast<int>(size.batch);
    call.padded = static_cast<int>(size.padded);
    call.channels = static_cast<int>(size.channels);
    call.width = static_cast<int>(size.width);
    call.kernel = static_cast<int>(size.kernel);
    call.per_clip = static_cast<int>(p.per_clip);
    call.splits = static_cast<int>(p.splits);
    return call;
}

template <typename T>
int launch_weight(ser_queue *queue, const conv_size &size, const weight_plan &p,
                  const weight_call<T> &call)
{
    const ser_shape shape = {.grid = dim3(static_cast<unsigned>(p.blocks),
                                          static_cast<unsigned>(size.groups),
                                          static_cast<unsigned>(p.splits)),
                             .threads = p.threads,
                             .shared = p.shared};
    void (*kernel)(weight_call<T>) = weight_gradient_portable<T>;
    if constexpr (sizeof(T) == sizeof(bf16)) {
        kernel = p.kernel != nullptr ? p.kernel : kernel;
    }
    const int status = ser_launch(queue, shape, kernel, call);
    if (status != 0 || call.parts == nullptr) {
        return status;
    }
    const ser_shape adding = {
        .grid = ser_grid(p.part, PACK * PACK_THREADS), .threads = PACK_THREADS, .shared = 0};
    return ser_launch(queue, adding, add_weight_parts<T>, call);
}

} // namespace

#endif
