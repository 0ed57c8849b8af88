/* SPDX-License-Identifier: MIT */
/* Convolutions with a fused erf GELU: the only way to cuDNN (convolutions.c). */
#ifndef SER_OPS_CUDA_CONVOLUTIONS_H
#define SER_OPS_CUDA_CONVOLUTIONS_H

#include "ops/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Whether a fused plan for y = GELU(conv(x)) exists for these arguments and pays: bf16, no norm, no
 * bias, nothing saved. On the first use of a shape this builds it (seconds for engines that are
 * compiled at run time), unless the queue is capturing: then false for a shape that is not there.
 * The environment's SER_CUDNN=0 keeps cuDNN out, SER_CUDNN=1 uses it wherever it can do the work,
 * even where that does not pay. Whatever fails in cuDNN, or that it is not installed, is said once
 * at debug level, and the answer is no.
 */
bool ser_convolution_ready(cuda_queue *queue, const ser_conv_args *args);

/* Bytes that a plan may want at the start of the queue's scratch. */
size_t ser_convolutions_scratch(const ser_queue *queue, const ser_conv_args *args);

/* Queue it, after ser_convolution_ready has said yes. Invalid rows of y are left to the caller. */
int ser_convolution_run(cuda_queue *queue, const ser_conv_args *args);

void ser_convolutions_free(ser_convolutions *convolutions);

#ifdef __cplusplus
}
#endif

#endif
