/* SPDX-License-Identifier: MIT */
/* products.h by plain loops, in a kernel like any other, so that it is recorded and replayed. It is
 * as strict as the library: memory of its own, no matrix that overlaps itself. */
#include <stdlib.h>

#include "base/fail.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/products.h"

struct ser_products {
    size_t scratch; /* bytes */
};

namespace
{

constexpr size_t SCRATCH = 1000; /* odd, so that what lies behind it must be aligned */

/* One row of one entry per thread; sums in f32 over rising k. */
template <typename T, typename D>
__global__ void product_kernel(const cuda_product p, float *scratch)
{
    const int64_t i = blockIdx.x;
    const int64_t e = blockIdx.y;
    const T *a = static_cast<const T *>(p.a) + e * p.a_pitch;
    const T *b = static_cast<const T *>(p.b) + e * p.b_pitch;
    D *d = static_cast<D *>(p.d) + e * p.d_pitch + i * p.ldd;
    for (size_t s = 0; s < SCRATCH / sizeof(float); s++) {
        scratch[s] = NAN;
    }
    for (int64_t j = 0; j < p.n; j++) {
        float sum = 0.0f;
        for (int64_t k = 0; k < p.k; k++) {
            const T x = p.a_across ? a[k * p.lda + i] : a[i * p.lda + k];
            const T w = p.b_across ? b[k * p.ldb + j] : b[j * p.ldb + k];
            sum += to_float(x) * to_float(w);
        }
        if (p.accumulate) {
            sum += to_float(d[j]);
        }
        if (p.bias != nullptr) {
            sum += to_float(static_cast<const D *>(p.bias)[j]);
        }
        d[j] = from_float<D>(p.relu ? fmaxf(sum, 0.0f) : sum); /* NaN may get lost there */
    }
}

bool is_matrix(int64_t rows, int64_t cols, int64_t ld)
{
    return rows >= 1 && cols >= 1 && ld >= cols;
}

/* No element is in two entries: they lie one behind the other, or between each other's rows. */
bool are_apart(const cuda_product *p)
{
    return p->entries == 1 || p->d_pitch >= (p->m - 1) * p->ldd + p->n ||
           (p->d_pitch >= p->n && (p->entries - 1) * p->d_pitch + p->n <= p->ldd);
}

int check(const cuda_queue *queue, const cuda_product *p)
{
    if (!is_matrix(p->a_across ? p->k : p->m, p->a_across ? p->m : p->k, p->lda) ||
        !is_matrix(p->b_across ? p->k : p->n, p->b_across ? p->n : p->k, p->ldb) ||
        !is_matrix(p->m, p->n, p->ldd)) {
        return ser_fail(SER_ERR_INTERNAL, "product: a matrix is empty or overlaps itself");
    }
    if (p->entries < 1 || !are_apart(p)) {
        return ser_fail(SER_ERR_INTERNAL, "product: no entries, or some share elements");
    }
    if (p->entries > 1 && p->d_pitch < p->ldd && getenv("SER_EMULATION_REFUSE_INTERLEAVED")) {
        return ser_fail(SER_ERR_UNSUPPORTED, "product: entries whose rows interleave");
    }
    if (p->d_type == SER_BF16 && p->type == SER_F32) {
        return ser_fail(SER_ERR_INTERNAL, "product: f32 factors with a bf16 result");
    }
    if (queue->base.scratch_size < SCRATCH) {
        return ser_fail(SER_ERR_INTERNAL, "product: no scratch was planned");
    }
    return 0;
}

template <typename T, typename D> int run(cuda_queue *queue, const cuda_product *p)
{
    const dim3 grid(static_cast<unsigned>(p->m), static_cast<unsigned>(p->entries));
    return ser_launch(&queue->base, {grid, 1, 0}, product_kernel<T, D>, *p,
                      static_cast<float *>(queue->base.scratch));
}

} // namespace

int ser_products_open(ser_context *, ser_products **products)
{
    static ser_products everybodys = {SCRATCH};
    *products = &everybodys;
    return 0;
}

void ser_products_close(ser_products *)
{
}

size_t ser_products_scratch(const ser_queue *queue)
{
    return queue->context->products->scratch;
}

int ser_product_run(cuda_queue *queue, const cuda_product *product)
{
    const int status = check(queue, product);
    if (status != 0) {
        return status;
    }
    if (product->type == SER_F32) {
        return run<float, float>(queue, product);
    }
    return product->d_type == SER_BF16 ? run<bf16, bf16>(queue, product)
                                       : run<bf16, float>(queue, product);
}
