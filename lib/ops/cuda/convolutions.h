/* SPDX-License-Identifier: MIT */
/* Convolutions and linear layers with a fused erf GELU: the only way to cuDNN (convolutions.c). */
#ifndef SER_OPS_CUDA_CONVOLUTIONS_H
#define SER_OPS_CUDA_CONVOLUTIONS_H

#include "ops/cuda/cuda.h"
#include "ops/cuda/measure.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * y = GELU(conv(x) + bias), all bf16. Clips lie one below the other, so row r of y is made from the
 * kernel * in values of x that begin `padding` rows before row r * stride. A linear layer has
 * kernel 1, stride 1 and no padding.
 */
typedef struct cuda_convolution {
    ser_tensor x; /* [rows * stride, in] */
    int64_t kernel, stride, padding;
    const ser_weight *w;  /* [out, kernel * in] */
    ser_tensor bias;      /* [1, out] or absent */
    ser_tensor y;         /* [rows, out] */
    const ser_rows *ends; /* whose invalid rows of y become zero; NULL: they may hold anything */
} cuda_convolution;

/*
 * Whether to run the convolution fused, by ser_convolution_run, and not the other way, which makes
 * the same y: a product and a pass over it. The first call of a shape that is not small builds
 * plans (seconds, for engines that are compiled at run time) and times both ways. The times are
 * kept beside the algorithms of products, so that a later process builds the plan that won, or
 * none, and gets the same bits; where they could not be kept nothing is measured, and shapes alone
 * decide. While the queue is capturing nothing is built: false for a shape that is not there.
 * All that is with SER_CUDNN=auto in the environment only: every process compiles anew (4.5 s for a
 * Hopper engine), which few live long enough to earn back. SER_CUDNN=1 uses cuDNN wherever it can do
 * the work, unmeasured. Whatever fails in cuDNN, or that it is not installed, is said once at debug level,
 * and the answer is no.
 */
bool ser_convolution_ready(cuda_queue *queue, const cuda_convolution *call, const cuda_way *other);

/* Bytes that a plan may want at the start of the queue's scratch. Looks at shapes only. */
size_t ser_convolutions_scratch(const ser_queue *queue, const cuda_convolution *call);

/* Queue it, after ser_convolution_ready has said yes. */
int ser_convolution_run(cuda_queue *queue, const cuda_convolution *call);

void ser_convolutions_free(ser_convolutions *convolutions);

#ifdef __cplusplus
}
#endif

#endif
