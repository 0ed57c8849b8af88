/* SPDX-License-Identifier: MIT */
/* What both directions of conv share. */
#ifndef SER_OPS_CUDA_CONV_CUH
#define SER_OPS_CUDA_CONV_CUH

#include "ops/cuda/cuda.h"
#include "ops/cuda/products.h"

/* Element `index` of an array of a type; it may lie before the first. */
static inline void *cuda_element(const void *array, int32_t type, int64_t index)
{
    char *bytes = static_cast<char *>(const_cast<void *>(array));
    return bytes + index * static_cast<int64_t>(cuda_element_size(type));
}

/* One product of one entry whose a may overlap itself, lda < k (conv.cu). */
int ser_cuda_overlapping_product(cuda_queue *queue, const cuda_product &whole);

/* Bytes of scratch for backward alone (conv_backward.cu). */
size_t ser_cuda_conv_bwd_scratch(const ser_queue *queue, const ser_conv_args *args);

/* Backward of ser_cuda_conv_tail (conv_tail_backward.cu), zeros on the invalid rows of dz; dgamma
 * and dbeta are added to. */
struct cuda_conv_tail_gradients {
    const ser_tensor *z, *dy;
    ser_rows rows;
    int32_t norm;
    const ser_tensor *gamma, *beta; /* with the norm */
    const ser_tensor *dz;
    const ser_tensor *dgamma, *dbeta; /* or absent */
    float *partials;                  /* scratch, with dgamma or dbeta */
};
size_t ser_cuda_conv_tail_bwd_scratch(const ser_queue *queue, const ser_tensor *dy);
int ser_cuda_conv_tail_bwd(ser_queue *queue, const cuda_conv_tail_gradients *args);

#endif
