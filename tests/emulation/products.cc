/* SPDX-License-Identifier: MIT */
/* products.h without cuBLASLt: always by ser_product_plain. It is as strict as the library: memory
 * of its own, no matrix that overlaps itself. */
#include <stdlib.h>

#include "base/fail.h"
#include "emulator.h"
#include "ops/cuda/launch.cuh"
#include "ops/cuda/products.h"

struct ser_products {
    size_t scratch; /* bytes */
};

namespace
{

constexpr size_t SCRATCH = 1000; /* odd, so that what lies behind it must be aligned */

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

/* Times of the host decide nothing, so no choices are kept. */
struct ser_algorithms *ser_products_algorithms(const ser_context *)
{
    return nullptr;
}

void ser_products_begin_measuring(ser_context *)
{
}

void ser_products_end_measuring(ser_context *)
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
    emulator_log("product %lld %lld %lld, entries %lld, %s\n", static_cast<long long>(product->m),
                 static_cast<long long>(product->n), static_cast<long long>(product->k),
                 static_cast<long long>(product->entries),
                 product->type == SER_BF16 ? "bf16" : "f32");
    /* What the library leaves in its workspace. */
    const cudaError_t error = cudaMemsetAsync(queue->base.scratch, 0xFF, SCRATCH, queue->stream);
    return error == cudaSuccess ? ser_product_plain(queue, product)
                                : ser_cuda_status(queue->base.context, error, "a product");
}
