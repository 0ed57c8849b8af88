/* SPDX-License-Identifier: MIT */
/*
 * y = GELU(norm(conv(x) + bias)). On channels-last rows the kernel * C_in inputs of one output
 * frame are consecutive, so the convolution is a matrix product whose row t starts stride * C_in
 * values after row t - 1: no im2col.
 */
#include <ser/common.h>

#include "base/log.h"
#include "ops/cuda/conv.cuh"
#include "ops/cuda/convolutions.h"
#include "ops/cuda/gelu_product.h"

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The call as one that can be fused; false: it computes something else. */
static bool fuse(const ser_conv_args *args, cuda_convolution *fused)
{
    *fused = {};
    fused->x = args->x;
    fused->kernel = args->kernel;
    fused->stride = args->stride;
    fused->padding = args->padding;
    fused->w = args->w;
    fused->y = args->y;
    fused->ends = &args->rows_out;
    return args->x.type == SER_BF16 && args->y.type == SER_BF16 &&
           args->norm == SER_CONV_NORM_NONE && args->bias.rows == 0 && args->z.rows == 0;
}

size_t ser_cuda_conv_scratch(const ser_queue *queue, const ser_conv_args *args)
{
    cuda_convolution fused;
    const size_t backward = args->dy.rows > 0 ? ser_cuda_conv_bwd_scratch(queue, args) : 0;
    const size_t forward = fuse(args, &fused) ? ser_convolutions_scratch(queue, &fused) : 0;
    return larger(ser_products_scratch(queue), larger(forward, backward));
}

/* One entry after the other: no two matrices of a call interleave. */
static int run_apart(cuda_queue *queue, cuda_product product)
{
    const size_t a_step = static_cast<size_t>(product.a_pitch) * cuda_element_size(product.type);
    const size_t d_step = static_cast<size_t>(product.d_pitch) * cuda_element_size(product.d_type);
    const int64_t entries = product.entries;
    int status = 0;
    product.entries = 1;
    for (int64_t i = 0; i < entries && status == 0; i++) {
        status = ser_product_run(queue, &product);
        product.a = static_cast<const char *>(product.a) + a_step;
        product.d = static_cast<char *>(product.d) + d_step;
    }
    return status;
}

/* All entries at once, unless the library refuses entries whose rows interleave: nothing in its
 * documentation says that it does. Asked every time, so that a recording does what the call did. */
static int run_entries(cuda_queue *queue, const cuda_product &product)
{
    const int status = ser_product_run(queue, &product);
    if (status != SER_ERR_UNSUPPORTED && status != SER_ERR_INTERNAL) {
        return status;
    }
    ser_log(SER_LOG_DEBUG, "%s: cuBLASLt refuses interleaved rows: one product per phase",
            queue->base.context->name);
    return run_apart(queue, product);
}

/*
 * The library does not allow rows that overlap within a matrix. Rows t, t + phases, t + 2 phases
 * ... do not, with phases = ceil(k / lda): entry p of a batch is the matrix of every such row from
 * row p on. What is left, fewer than `phases` rows, are entries of one row each.
 */
int ser_cuda_overlapping_product(cuda_queue *queue, const cuda_product &whole)
{
    const int64_t phases = cuda_ceil_div(whole.k, whole.lda);
    const int64_t rest = whole.m % phases;
    const int64_t first = whole.m - rest;
    cuda_product product = whole;
    product.m = whole.m / phases;
    product.entries = phases;
    product.lda = phases * whole.lda;
    product.a_pitch = whole.lda;
    product.ldd = phases * whole.ldd;
    product.d_pitch = whole.ldd;
    const int status = product.m > 0 ? run_entries(queue, product) : 0;
    if (status != 0 || rest == 0) {
        return status;
    }
    product.m = 1;
    product.entries = rest;
    product.a = cuda_element(whole.a, whole.type, first * whole.lda);
    product.d = cuda_element(whole.d, whole.d_type, first * whole.ldd);
    return run_entries(queue, product);
}

/* z = x W^T */
static int convolve(cuda_queue *queue, const ser_conv_args *args, const ser_tensor &z)
{
    cuda_product product = {};
    product.m = z.rows;
    product.n = z.cols;
    product.k = args->kernel * args->x.cols;
    product.entries = 1;
    product.a = cuda_element(args->x.data, args->x.type, -args->padding * args->x.cols);
    product.lda = args->stride * args->x.cols;
    product.b = cuda_weight_data(args->w, args->x.type);
    product.ldb = product.k;
    product.d = z.data;
    product.ldd = z.cols;
    product.type = args->x.type;
    product.d_type = z.type;
    return ser_cuda_overlapping_product(queue, product);
}

static int product_and_tail(cuda_queue *queue, const void *data)
{
    const ser_conv_args *args = static_cast<const ser_conv_args *>(data);
    const ser_tensor &z = args->z.data != nullptr ? args->z : args->y;
    const cuda_conv_tail tail = {
        .z = &z,
        .rows = args->rows_out,
        .norm = args->norm,
        .bias = &args->bias,
        .gamma = &args->gamma,
        .beta = &args->beta,
        .saved = &args->z,
        .y = &args->y,
    };
    const int status = convolve(queue, args, z);
    return status == 0 ? ser_cuda_conv_tail(&queue->base, &tail) : status;
}

int ser_cuda_conv_fwd(ser_queue *queue, const ser_conv_args *args)
{
    cuda_queue *q = cuda_queue_of(queue);
    const cuda_way other = {product_and_tail, args};
    cuda_convolution fused;
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return fuse(args, &fused) ? ser_gelu_fused(q, &fused, &other) : product_and_tail(q, args);
}
