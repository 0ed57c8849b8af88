/* SPDX-License-Identifier: MIT */
/* The variants of gelu_product.cuh, and which calls they can do. */
#include "ops/cuda/gelu_product.cuh"

#include <math.h>

#include "ops/cuda/gelu_product.h"

namespace
{

constexpr int64_t MOST = int64_t{1} << 30; /* rows and lengths: tiles beyond them count in int */

struct gelu_variant {
    const char *name;
    int rows, cols, threads;
    size_t shared;
    double share; /* of the tensor cores' rate during a tile; guessed, for the order only */
    void (*kernel)(gelu_call);
};

template <typename L> constexpr gelu_variant variant_of(const char *name, double share)
{
    return {name, L::ROWS, L::COLS, L::THREADS, L::SHARED, share, gelu_product<L>};
}

/* Warps have 64 x 64 elements where the tile is that large: fewer load more than the tensor cores
 * take. No tile needs more than 99 KB, which is what sm_86, 89 and 120 give a block. */
const gelu_variant variants[GELU_PRODUCT_VARIANTS] = {
    variant_of<tiling<128, 256, 2, 4, 32, 4, 1>>("128x256", 0.95),
    variant_of<tiling<128, 128, 2, 2, 32, 4, 2>>("128x128", 1.0),
    variant_of<tiling<128, 64, 2, 2, 64, 3, 3>>("128x64", 0.85),
    variant_of<tiling<64, 96, 2, 2, 64, 4, 2>>("64x96", 0.75),
    variant_of<tiling<64, 64, 2, 2, 64, 4, 3>>("64x64", 0.65),
    variant_of<tiling<64, 32, 2, 2, 64, 4, 4>>("64x32", 0.45),
};

bool is_aligned(const cuda_convolution *call)
{
    return ser_pack_aligned(call->x.data) && ser_pack_aligned(call->w->bf16) &&
           ser_pack_aligned(call->bias.data) && ser_pack_aligned(call->y.data);
}

/* Rows of x and w and y are whole chunks of 16 bytes, one behind the other. */
bool can_do(const cuda_convolution *call)
{
    return call->y.rows > 0 && call->y.rows <= MOST && call->x.cols % PACK == 0 &&
           call->y.cols % PACK == 0 && call->y.cols <= MOST &&
           call->kernel * call->x.cols <= MOST && is_aligned(call);
}

int64_t tiles_of(const cuda_convolution *call, const gelu_variant &variant)
{
    return cuda_ceil_div(call->y.rows, variant.rows) * cuda_ceil_div(call->y.cols, variant.cols);
}

} // namespace

const char *ser_gelu_product_name(int variant)
{
    return variants[variant].name;
}

double ser_gelu_product_cost(const cuda_queue *queue, const cuda_convolution *call, int variant)
{
    const gelu_variant &v = variants[variant];
    const ser_context *context = queue->base.context;
    const int64_t tiles = tiles_of(call, v);
    if (!can_do(call) || v.shared > context->shared_limit || tiles > MOST) {
        return static_cast<double>(INFINITY);
    }
    const int64_t most = cuda_ceil_div(tiles, context->multiprocessors);
    return static_cast<double>(most * v.rows * v.cols) / v.share;
}

int ser_gelu_product_run(cuda_queue *queue, const cuda_convolution *call, int variant)
{
    const gelu_variant &v = variants[variant];
    const gelu_call args = {
        .a = static_cast<const bf16 *>(call->x.data) - call->padding * call->x.cols,
        .b = static_cast<const bf16 *>(call->w->bf16),
        .bias = static_cast<const bf16 *>(call->bias.data),
        .y = static_cast<bf16 *>(call->y.data),
        .lda = call->stride * call->x.cols,
        .m = static_cast<int32_t>(call->y.rows),
        .n = static_cast<int32_t>(call->y.cols),
        .k = static_cast<int32_t>(call->kernel * call->x.cols),
        .tiles_down = static_cast<int32_t>(cuda_ceil_div(call->y.rows, v.rows)),
        .tiles_across = static_cast<int32_t>(cuda_ceil_div(call->y.cols, v.cols)),
        .valid = call->ends != nullptr ? call->ends->valid : nullptr,
        .padded = call->ends != nullptr ? static_cast<int32_t>(call->ends->padded) : 1,
    };
    const ser_shape shape = {ser_grid(tiles_of(call, v), 1), static_cast<unsigned>(v.threads),
                             v.shared};
    return ser_launch_early(&queue->base, shape, v.kernel, args);
}

namespace
{

/* Without cuDNN. */
struct own_way {
    const cuda_convolution *call;
    const cuda_way *other;
};

int run_own(cuda_queue *queue, const void *data)
{
    const own_way *way = static_cast<const own_way *>(data);
    return ser_gelu_product(queue, way->call, way->other);
}

} // namespace

int ser_gelu_fused(cuda_queue *queue, const cuda_convolution *call, const cuda_way *other)
{
    const own_way own = {call, other};
    const cuda_way way = {run_own, &own};
    return ser_convolution_ready(queue, call, &way) ? ser_convolution_run(queue, call)
                                                    : run_own(queue, &own);
}
