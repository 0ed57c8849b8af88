/* SPDX-License-Identifier: MIT */
/*
 * y = GELU(norm(conv(x) + bias)). On channels-last rows the kernel * C_in inputs of one output
 * frame are consecutive, so the convolution is a matrix product whose row t starts stride * C_in
 * values after row t - 1: no im2col.
 */
#include "base/log.h"
#include "ops/cuda/convolutions.h"
#include "ops/cuda/cuda.h"
#include "ops/cuda/products.h"

size_t ser_cuda_conv_scratch(const ser_queue *queue, const ser_conv_args *args)
{
    const size_t product = ser_products_scratch(queue);
    const size_t fused = ser_convolutions_scratch(queue, args);
    return fused > product ? fused : product;
}

/* Element `index` of a tensor, which may lie before its first. */
static void *element(const ser_tensor &x, int64_t index)
{
    return static_cast<char *>(x.data) + index * static_cast<int64_t>(cuda_element_size(x.type));
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
 * documentation says that it does. */
static int run_entries(cuda_queue *queue, const cuda_product &product)
{
    if (!queue->entries_apart) {
        const int status = ser_product_run(queue, &product);
        if (status != SER_ERR_UNSUPPORTED && status != SER_ERR_INTERNAL) {
            return status;
        }
        ser_log(SER_LOG_DEBUG, "%s: cuBLASLt refuses interleaved rows: one product per phase",
                queue->base.context->name);
        queue->entries_apart = true;
    }
    return run_apart(queue, product);
}

/*
 * z = x W^T. Where kernel > stride the rows of x overlap, which the library does not allow within a
 * matrix. Rows t, t + phases, t + 2 phases ... do not, with phases = ceil(kernel / stride): entry p
 * of a batch is the matrix of every such row from row p on. What is left, fewer than `phases` rows,
 * are entries of one row each.
 */
static int convolve(cuda_queue *queue, const ser_conv_args *args, const ser_tensor &z)
{
    const int64_t phases = cuda_ceil_div(args->kernel, args->stride);
    const int64_t step = args->stride * args->x.cols;
    const int64_t before = args->padding * args->x.cols;
    const int64_t k = args->kernel * args->x.cols;
    const int64_t rest = z.rows % phases;
    cuda_product product = {};
    product.m = z.rows / phases;
    product.n = z.cols;
    product.k = k;
    product.entries = phases;
    product.a = element(args->x, -before);
    product.lda = phases * step;
    product.a_pitch = step;
    product.b = cuda_weight_data(args->w, args->x.type);
    product.ldb = k;
    product.d = z.data;
    product.ldd = phases * z.cols;
    product.d_pitch = z.cols;
    product.type = args->x.type;
    product.d_type = z.type;
    const int status = product.m > 0 ? run_entries(queue, product) : 0;
    if (status != 0 || rest == 0) {
        return status;
    }
    const int64_t first = z.rows - rest;
    product.m = 1;
    product.entries = rest;
    product.a = element(args->x, first * step - before);
    product.d = element(z, first * z.cols);
    return run_entries(queue, product);
}

int ser_cuda_conv_fwd(ser_queue *queue, const ser_conv_args *args)
{
    cuda_queue *q = cuda_queue_of(queue);
    const ser_tensor &z = args->z.data != nullptr ? args->z : args->y;
    int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    if (ser_convolution_ready(q, args)) {
        status = ser_convolution_run(q, args);
        return status == 0 ? ser_cuda_zero_padding(queue, &args->y, &args->rows_out) : status;
    }
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
    status = convolve(q, args, z);
    return status == 0 ? ser_cuda_conv_tail(queue, &tail) : status;
}
