/* SPDX-License-Identifier: MIT */
/* Matrix products of the CUDA backend: the only way to cuBLASLt (products.c). */
#ifndef SER_OPS_CUDA_PRODUCTS_H
#define SER_OPS_CUDA_PRODUCTS_H

#include "ops/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * d[e] = op(a[e]) op(b[e])^T (+ d[e]) (+ bias), then ReLU if asked for, for every entry e of a
 * batch. All matrices are row-major. Element (i, j) of a matrix stands at i * ld + j of its entry;
 * ld must be at least the length of a row, so no matrix overlaps itself, but entries may lie
 * between each other's rows. Sums are f32 in the order that the chosen algorithm has.
 */
typedef struct cuda_product {
    int64_t m, n, k; /* d is [m, n], sums run over k */
    int64_t entries;
    const void *a;        /* [m, k], or [k, m] if a_across */
    int64_t lda, a_pitch; /* pitch: elements from one entry to the next */
    bool a_across;
    const void *b; /* [n, k], or [k, n] if b_across */
    int64_t ldb, b_pitch;
    bool b_across;
    void *d;
    int64_t ldd, d_pitch;
    int32_t type;     /* SER_F32 (true f32 products, no TF32) or SER_BF16, of a and b */
    int32_t d_type;   /* of d and bias; f32 with bf16 factors is allowed */
    bool accumulate;  /* add to d */
    const void *bias; /* [n] or NULL */
    bool relu;
} cuda_product;

/* The library handle and the cache of algorithms of a device. */
int ser_products_open(ser_context *context, ser_products **products);
void ser_products_close(ser_products *products);

/* The choices that are kept for the device, other ones' too (algorithms.h). */
struct ser_algorithms *ser_products_algorithms(const ser_context *context);

/* Who measures on a device does so alone: two would slow each other down. May be nested. */
void ser_products_begin_measuring(ser_context *context);
void ser_products_end_measuring(ser_context *context);

/* Bytes that a product needs at the start of the queue's scratch; the same for all. What an op
 * keeps in the scratch across a product lies behind them. */
size_t ser_products_scratch(const ser_queue *queue);

/* Queue one product. On its first use a shape is measured with several algorithms, unless the queue
 * is capturing. A shape that the library has none for is done by ser_product_plain, unless its
 * entries' rows interleave: then UNSUPPORTED, for the caller to take them one by one. */
int ser_product_run(cuda_queue *queue, const cuda_product *product);

/* The same by plain loops (product_plain.cu). */
int ser_product_plain(cuda_queue *queue, const cuda_product *product);

#ifdef __cplusplus
}
#endif

#endif
