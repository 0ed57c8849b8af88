/* SPDX-License-Identifier: MIT */
/* Backward of y = GELU(norm(z)), from z; dgamma and dbeta by partial sums. Without a norm
 * dz = dy GELU'(z). */
#include "ops/cuda/conv.cuh"
#include "ops/cuda/conv_norm_backward.cuh"

namespace
{

constexpr int ROWS_PER_WARP = 4; /* at least, where there are enough */
constexpr int BLOCKS_PER_PROCESSOR = 4;

/* dz = dy GELU'(z) of a pack. */
template <typename T>
__device__ __forceinline__ void gelu_pack(const gradients<T> &a, int64_t row, int c)
{
    float z[PACK];
    float g[PACK];
    if (a.aligned) {
        const raw_pack<T> raw_z = load_raw(a.z, row + c, true);
        const raw_pack<T> raw_dy = load_raw(a.dy, row + c, true);
        unpack(raw_z, z);
        unpack(raw_dy, g);
    } else {
        load_pack(a.z + row + c, a.channels - c, false, z);
        load_pack(a.dy + row + c, a.channels - c, false, g);
    }
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        g[i] *= gelu_gradient(z[i]);
    }
    store_pack(a.dz + row + c, a.channels - c, a.aligned, g);
}

/* No norm. 2^shift threads for a row, a pack each and round. */
template <typename T>
__global__ void __launch_bounds__(PACK_THREADS)
    gelu_gradient_kernel(const gradients<T> a, int shift)
{
    const int64_t t = (int64_t{blockIdx.x} * PACK_THREADS + threadIdx.x) >> shift;
    const int lanes = 1 << shift;
    const int begin = (static_cast<int>(threadIdx.x) & (lanes - 1)) * PACK;
    if (t >= a.rows.padded) {
        return;
    }
    for (int64_t clip = blockIdx.y; clip < a.rows.batch; clip += gridDim.y) {
        const int64_t row = (clip * a.rows.padded + t) * a.channels;
        const bool valid = t < a.rows.valid[clip];
        for (int c = begin; c < a.channels; c += lanes * PACK) {
            if (valid) {
                gelu_pack(a, row, c);
            } else {
                const float zeros[PACK] = {};
                store_pack(a.dz + row + c, a.channels - c, a.aligned, zeros);
            }
        }
    }
}

int64_t blocks_for(const ser_queue *queue, int64_t rows)
{
    const int64_t blocks = cuda_ceil_div(rows, WARPS * ROWS_PER_WARP);
    const int64_t most = int64_t{BLOCKS_PER_PROCESSOR} * queue->context->multiprocessors;
    return blocks < most ? blocks : most;
}

template <typename T> auto norm_kernel_for(int64_t rounds) -> void (*)(gradients<T>)
{
    switch (rounds) {
    case 1: return norm_gradient<T, 1>;
    case 2: return norm_gradient<T, 2>;
    case 3: return norm_gradient<T, 3>;
    default: return norm_gradient<T, MOST_ROUNDS>;
    }
}

template <typename T> int run_norm(ser_queue *queue, const gradients<T> &a, int64_t blocks)
{
    const int64_t rounds = cuda_ceil_div(a.channels, WARP * PACK);
    if (rounds > MOST_ROUNDS || !a.aligned) {
        return ser_launch(queue, {ser_grid(blocks, 1), PACK_THREADS, 0}, norm_long_gradient<T>, a);
    }
    const size_t sums = static_cast<size_t>(WARPS * 2 * a.channels) * sizeof(float);
    return ser_launch(queue, {ser_grid(blocks, 1), WARPS * WARP, a.partials != nullptr ? sums : 0},
                      norm_kernel_for<T>(rounds), a);
}

template <typename T> int run_gelu(ser_queue *queue, const gradients<T> &a)
{
    const int shift = lanes_shift(a.channels);
    const int64_t blocks = cuda_ceil_div(a.rows.padded << shift, PACK_THREADS);
    return ser_launch(queue, {grid_of(blocks, a.rows.batch), PACK_THREADS, 0},
                      gelu_gradient_kernel<T>, a, shift);
}

template <typename T>
int run(ser_queue *queue, const cuda_conv_tail_gradients *args, int64_t blocks)
{
    const bool has_sums = args->dgamma->data != nullptr || args->dbeta->data != nullptr;
    const gradients<T> a = {
        .z = static_cast<const T *>(args->z->data),
        .dy = static_cast<const T *>(args->dy->data),
        .gamma = static_cast<const float *>(args->gamma->data),
        .beta = static_cast<const float *>(args->beta->data),
        .dz = static_cast<T *>(args->dz->data),
        .partials = has_sums ? args->partials : nullptr,
        .rows = args->rows,
        .channels = static_cast<int32_t>(args->dy->cols),
        .aligned = args->dy->cols % PACK == 0 && ser_pack_aligned(args->z->data) &&
                   ser_pack_aligned(args->dy->data) && ser_pack_aligned(args->gamma->data) &&
                   ser_pack_aligned(args->beta->data) && ser_pack_aligned(args->dz->data),
    };
    return args->norm == SER_CONV_NORM_LAYER ? run_norm(queue, a, blocks) : run_gelu(queue, a);
}

} // namespace

size_t ser_cuda_conv_tail_bwd_scratch(const ser_queue *queue, const ser_tensor *dy)
{
    return static_cast<size_t>(blocks_for(queue, dy->rows) * 2 * dy->cols) * sizeof(float);
}

int ser_cuda_conv_tail_bwd(ser_queue *queue, const cuda_conv_tail_gradients *args)
{
    const int64_t n = args->dy->cols;
    const int64_t blocks = blocks_for(queue, args->dy->rows);
    int status = args->dy->type == SER_BF16 ? run<bf16>(queue, args, blocks)
                                            : run<float>(queue, args, blocks);
    if (status == 0 && args->dgamma->data != nullptr) {
        status = ser_cuda_add_partials(queue, args->partials, blocks, 2 * n, n,
                                       static_cast<float *>(args->dgamma->data));
    }
    if (status == 0 && args->dbeta->data != nullptr) {
        status = ser_cuda_add_partials(queue, args->partials + n, blocks, 2 * n, n,
                                       static_cast<float *>(args->dbeta->data));
    }
    return status;
}
