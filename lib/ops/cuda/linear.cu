/* SPDX-License-Identifier: MIT */
/* y = act(x W^T + b), all rows of the batch as one matrix, and its gradients. */
#include <ser/common.h>

#include "ops/cuda/convolutions.h"
#include "ops/cuda/gelu_product.h"
#include "ops/cuda/packs.cuh"
#include "ops/cuda/products.h"

namespace
{

/* y = act(y) */
template <typename T, int ACTIVATION>
__global__ void __launch_bounds__(PACK_THREADS) activate_kernel(T *y, int64_t count, bool aligned)
{
    for (int64_t at = pack_first(); at < count; at += pack_stride()) {
        float x[PACK];
        load_pack(y + at, count - at, aligned, x);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            x[i] = activate<ACTIVATION>(x[i]);
        }
        store_pack(y + at, count - at, aligned, x);
    }
}

template <typename T, int ACTIVATION> int run(ser_queue *queue, const ser_tensor &y)
{
    const int64_t count = y.rows * y.cols;
    return ser_launch(queue, ser_pack_shape(queue, count), activate_kernel<T, ACTIVATION>,
                      static_cast<T *>(y.data), count, ser_pack_aligned(y.data));
}

template <typename T> int run_activation(ser_queue *queue, const ser_tensor &y, int32_t activation)
{
    switch (activation) {
    case SER_ACT_GELU: return run<T, SER_ACT_GELU>(queue, y);
    case SER_ACT_RELU: return run<T, SER_ACT_RELU>(queue, y);
    case SER_ACT_TANH: return run<T, SER_ACT_TANH>(queue, y);
    default: return 0;
    }
}

} // namespace

/* The call as one that can be fused, with kernel 1; false: it computes something else. */
static bool fuse(const ser_linear_args *args, cuda_convolution *fused)
{
    *fused = {};
    fused->x = args->x;
    fused->kernel = 1;
    fused->stride = 1;
    fused->w = args->w;
    fused->bias = args->bias_bf16;
    fused->y = args->y;
    return args->x.type == SER_BF16 && args->y.type == SER_BF16 && args->activation == SER_ACT_GELU;
}

/* Behind what forward and the products need: the partial sums of dbias. */
size_t ser_cuda_linear_scratch(const ser_queue *queue, const ser_linear_args *args)
{
    cuda_convolution fused;
    size_t size = ser_products_scratch(queue);
    const size_t forward = fuse(args, &fused) ? ser_convolutions_scratch(queue, &fused) : 0;
    if (args->dbias.rows > 0) {
        (void)cuda_carve(&size, ser_cuda_column_sums_scratch(queue, &args->dy));
    }
    return size > forward ? size : forward;
}

/* The library's GELU is the tanh approximation, and nothing says that its ReLU keeps NaN, by which
 * a prediction that went wrong is recognised: both are passes of their own. */
static int product_and_pass(cuda_queue *queue, const void *data)
{
    const ser_linear_args *args = static_cast<const ser_linear_args *>(data);
    const ser_tensor &bias = args->y.type == SER_BF16 ? args->bias_bf16 : args->bias;
    cuda_product product = {};
    product.m = args->y.rows;
    product.n = args->y.cols;
    product.k = args->x.cols;
    product.entries = 1;
    product.a = args->x.data;
    product.lda = args->x.cols;
    product.b = cuda_weight_data(args->w, args->x.type);
    product.ldb = args->x.cols;
    product.d = args->y.data;
    product.ldd = args->y.cols;
    product.type = args->x.type;
    product.d_type = args->y.type;
    product.bias = bias.data;
    const int status = ser_product_run(queue, &product);
    if (status != 0) {
        return status;
    }
    return args->y.type == SER_BF16
               ? run_activation<bf16>(&queue->base, args->y, args->activation)
               : run_activation<float>(&queue->base, args->y, args->activation);
}

int ser_cuda_linear_fwd(ser_queue *queue, const ser_linear_args *args)
{
    cuda_queue *q = cuda_queue_of(queue);
    const cuda_way other = {product_and_pass, args};
    cuda_convolution fused;
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return fuse(args, &fused) ? ser_gelu_fused(q, &fused, &other) : product_and_pass(q, args);
}

/* dx = dy W */
static int data_gradient(ser_queue *queue, const ser_linear_args *args)
{
    cuda_product product = {};
    product.m = args->dx.rows;
    product.n = args->dx.cols;
    product.k = args->dy.cols;
    product.entries = 1;
    product.a = args->dy.data;
    product.lda = args->dy.cols;
    product.b = cuda_weight_data(args->w, args->dy.type);
    product.ldb = args->dx.cols;
    product.b_across = true;
    product.d = args->dx.data;
    product.ldd = args->dx.cols;
    product.type = args->dy.type;
    product.d_type = args->dx.type;
    return ser_product_run(cuda_queue_of(queue), &product);
}

/* dw += dy^T x. The product goes over padding too, where 0 times anything must be 0. */
static int weight_gradient(ser_queue *queue, const ser_linear_args *args)
{
    cuda_product product = {};
    product.m = args->dy.cols;
    product.n = args->x.cols;
    product.k = args->dy.rows;
    product.entries = 1;
    product.a = args->dy.data;
    product.lda = args->dy.cols;
    product.a_across = true;
    product.b = args->x.data;
    product.ldb = args->x.cols;
    product.b_across = true;
    product.d = args->dw.data;
    product.ldd = args->x.cols;
    product.type = args->x.type;
    product.d_type = SER_F32;
    product.accumulate = true;
    int status = ser_cuda_zero_padding(queue, &args->dy, &args->rows);
    status = status == 0 ? ser_cuda_zero_padding(queue, &args->x, &args->rows) : status;
    return status == 0 ? ser_product_run(cuda_queue_of(queue), &product) : status;
}

int ser_cuda_linear_bwd(ser_queue *queue, const ser_linear_args *args)
{
    size_t size = ser_products_scratch(queue);
    const size_t partials = cuda_carve(&size, 0);
    int status = ser_cuda_enter(queue->context);
    if (status == 0 && args->dbias.data != nullptr) {
        status = ser_cuda_column_sums(queue, &args->dy, &args->rows,
                                      static_cast<float *>(args->dbias.data),
                                      static_cast<char *>(queue->scratch) + partials);
    }
    if (status == 0 && args->dw.data != nullptr) {
        status = weight_gradient(queue, args);
    }
    return status == 0 && args->dx.data != nullptr ? data_gradient(queue, args) : status;
}
