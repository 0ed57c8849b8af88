/* SPDX-License-Identifier: MIT */
/* Which kernel of pos_conv runs, and how many blocks of it. Only for pos_conv.cu and
 * pos_conv_backward.cu. */
#ifndef SER_OPS_CUDA_POS_CONV_LAUNCH_CUH
#define SER_OPS_CUDA_POS_CONV_LAUNCH_CUH

#include "ops/cuda/pos_conv_portable.cuh"
#include "ops/cuda/pos_conv_tensor.cuh"

namespace
{

using tensor_kernel = void (*)(conv_call<bf16>);

struct conv_size {
    int64_t batch, padded;
    int64_t channels, groups, width, kernel;
    int32_t type;
};

/* x or, in backward, any other tensor of its shape and type. */
inline conv_size size_of(const ser_pos_conv_args *args, const ser_tensor &x)
{
    return {.batch = args->rows.batch,
            .padded = args->rows.padded,
            .channels = x.cols,
            .groups = args->groups,
            .width = x.cols / args->groups,
            .kernel = args->kernel,
            .type = x.type};
}

struct plan {
    tensor_kernel kernel; /* NULL: portable */
    int64_t tiles;        /* per clip */
    int64_t splits;
    size_t shared;
    int64_t cost;
    int64_t stages; /* that have all their taps */
};

/* Make this tile the plan if it fits and is cheaper: smaller ones waste fewer frames, but read all
 * weights and their fragments more often. */
template <direction D, int WIDTH, int BLOCKS>
void consider(const ser_queue *queue, const conv_size &size, plan *best)
{
    using L = layout<WIDTH, BLOCKS>;
    constexpr int64_t PER_FRAME = BLOCKS == 4 ? 8 : BLOCKS == 2 ? 9 : 12;
    const int64_t tiles = cuda_ceil_div(size.padded, L::ROWS);
    const plan p = {
        .kernel = pos_conv_tensor<D, WIDTH, BLOCKS>,
        .tiles = tiles,
        .splits = 1,
        .shared = L::shared(size.kernel),
        .cost = tiles * L::ROWS * PER_FRAME,
        .stages = size.kernel / L::SLOTS,
    };
    if (p.shared <= queue->context->shared_limit &&
        (best->kernel == nullptr || p.cost < best->cost)) {
        *best = p;
    }
}

template <direction D, int WIDTH> plan choose(const ser_queue *queue, const conv_size &size)
{
    plan best = {};
    consider<D, WIDTH, 4>(queue, size, &best);
    consider<D, WIDTH, 2>(queue, size, &best);
    consider<D, WIDTH, 1>(queue, size, &best);
    return best;
}

/* Shares of the taps: as many as give every multiprocessor two blocks, but the parts must be worth
 * their way through memory. */
inline int64_t splits_of(const ser_queue *queue, const conv_size &size, const plan &p)
{
    constexpr int64_t MOST = 8;
    constexpr int64_t LEAST_STAGES = 4;
    const int64_t blocks = size.batch * p.tiles * size.groups;
    int64_t splits = 2 * int64_t{queue->context->multiprocessors} / blocks;
    splits = splits < p.stages / LEAST_STAGES ? splits : p.stages / LEAST_STAGES;
    splits = splits < MOST ? splits : MOST;
    return splits > 1 ? splits : 1;
}

/* Tensor cores and their padded widths serve groups of this size. */
inline bool has_tensor_width(const conv_size &size)
{
    return size.type == SER_BF16 && size.width % 8 == 0 && size.width <= 64;
}

template <direction D> plan plan_of(const ser_queue *queue, const conv_size &size)
{
    plan p = {};
    if (has_tensor_width(size)) {
        p = size.width <= 16   ? choose<D, 16>(queue, size)
            : size.width <= 32 ? choose<D, 32>(queue, size)
            : size.width <= 48 ? choose<D, 48>(queue, size)
                               : choose<D, 64>(queue, size);
    }
    if (p.kernel != nullptr) {
        p.splits = splits_of(queue, size, p);
        return p;
    }
    const portable_layout l = portable_layout_of(static_cast<int>(size.width));
    p.tiles = cuda_ceil_div(size.padded, FRAMES);
    p.splits = 1;
    p.shared = static_cast<size_t>((FRAMES + TAPS - 1) * l.pitch + OUTPUTS * l.weight_pitch) *
               sizeof(float);
    return p;
}

/* Bytes of the parts of split taps. */
inline size_t parts_size(const conv_size &size, const plan &p)
{
    const int64_t values = size.batch * size.padded * size.channels;
    return p.splits > 1 ? static_cast<size_t>(p.splits * values) * sizeof(float) : 0;
}

/* What follows from the shape; the caller adds the tensors. */
template <typename T> conv_call<T> call_of(const conv_size &size, const plan &p, void *parts)
{
    conv_call<T> call = {};
    call.parts = p.splits > 1 ? static_cast<float *>(parts) : nullptr;
    call.rows = size.batch * size.padded;
    call.padded = static_cast<int>(size.padded);
    call.channels = static_cast<int>(size.channels);
    call.width = static_cast<int>(size.width);
    call.kernel = static_cast<int>(size.kernel);
    call.tiles = static_cast<int>(p.tiles);
    call.splits = static_cast<int>(p.splits);
    return call;
}

template <direction D, typename T>
int launch_conv(ser_queue *queue, const conv_size &size, const plan &p, const conv_call<T> &call)
{
    ser_shape shape = {.grid = ser_grid(size.batch * p.tiles * p.splits, 1),
                       .threads = THREADS,
                       .shared = p.shared};
    shape.grid.y = static_cast<unsigned>(size.groups);
    if constexpr (sizeof(T) == sizeof(bf16)) {
        if (p.kernel != nullptr) {
            const int status = ser_launch_early(queue, shape, p.kernel, call);
            const ser_shape adding = {.grid =
                                          ser_grid(call.rows * call.channels, PACK * PACK_THREADS),
                                      .threads = PACK_THREADS,
                                      .shared = 0};
            return status != 0 || call.parts == nullptr
                       ? status
                       : ser_launch_early(queue, adding, add_parts<D>, call);
        }
    }
    shape.grid.z = static_cast<unsigned>(cuda_ceil_div(size.width, OUTPUTS));
    return ser_launch_early(queue, shape, pos_conv_portable<D, T>, call);
}

} // namespace

#endif
