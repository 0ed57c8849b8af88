/* SPDX-License-Identifier: MIT */
/*
 * Products by plain loops, for shapes that cuBLASLt has no algorithm for (odd leading dimensions of
 * bf16 on some cards): right, not fast. The emulation has no other.
 */
#include "ops/cuda/launch.cuh"
#include "ops/cuda/products.h"

namespace
{

constexpr unsigned THREADS = 128;

/* One element of d per thread; the sum in f32 over rising k. */
template <typename T, typename D>
__global__ void __launch_bounds__(THREADS) product_plain(const cuda_product p)
{
    const int64_t at = int64_t{blockIdx.x} * THREADS + threadIdx.x;
    if (at >= p.m * p.n) {
        return;
    }
    const int64_t i = at / p.n;
    const int64_t j = at % p.n;
    const T *a = static_cast<const T *>(p.a) + (p.a_across ? i : i * p.lda);
    const T *b = static_cast<const T *>(p.b) + (p.b_across ? j : j * p.ldb);
    const int64_t a_step = p.a_across ? p.lda : 1;
    const int64_t b_step = p.b_across ? p.ldb : 1;
    for (int64_t e = blockIdx.y; e < p.entries; e += gridDim.y) {
        float sum = 0.0f;
        for (int64_t k = 0; k < p.k; k++) {
            sum +=
                to_float(a[e * p.a_pitch + k * a_step]) * to_float(b[e * p.b_pitch + k * b_step]);
        }
        D *d = static_cast<D *>(p.d) + e * p.d_pitch + i * p.ldd + j;
        if (p.accumulate) {
            sum += to_float(*d);
        }
        if (p.bias != nullptr) {
            sum += to_float(static_cast<const D *>(p.bias)[j]);
        }
        *d = from_float<D>(p.relu ? fmaxf(sum, 0.0f) : sum);
    }
}

template <typename T, typename D> int run(cuda_queue *queue, const cuda_product *p)
{
    dim3 grid = ser_grid(p->m * p->n, THREADS);
    grid.y = static_cast<unsigned>(p->entries < 65535 ? p->entries : 65535);
    return ser_launch(&queue->base, {grid, THREADS, 0}, product_plain<T, D>, *p);
}

} // namespace

int ser_product_plain(cuda_queue *queue, const cuda_product *product)
{
    if (product->type == SER_F32) {
        return run<float, float>(queue, product);
    }
    return product->d_type == SER_BF16 ? run<bf16, bf16>(queue, product)
                                       : run<bf16, float>(queue, product);
}
