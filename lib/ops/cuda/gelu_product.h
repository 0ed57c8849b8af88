/* SPDX-License-Identifier: MIT */
/*
 * Convolutions and linear layers with a fused erf GELU by a kernel of libser's own, where it was
 * measured to be faster than a product and a pass over it.
 */
#ifndef SER_OPS_CUDA_GELU_PRODUCT_H
#define SER_OPS_CUDA_GELU_PRODUCT_H

#include "ops/cuda/convolutions.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The kernel's version is part of what is kept: a changed kernel is measured anew. */
enum { GELU_PRODUCT_VARIANTS = 6, GELU_PRODUCT_VERSION = 1 };

/*
 * Queue the convolution: by the kernel's variant that was the fastest for this shape, or by `other`,
 * which makes the same y up to rounding. The first call of a shape measures, on its own data, and
 * the choice is kept beside the algorithms of products; where it could not be kept, while the queue
 * is capturing a shape that has none, and after a failure, `other` is it. All variants make the same
 * bits, and those of a row depend on nothing but its own inputs. The environment's
 * SER_GELU_PRODUCT=0 keeps the kernel out, 1 takes it wherever it can do the work, unmeasured, the
 * name of a variant (64x32 ...) that one (gelu_product_choice.c).
 */
int ser_gelu_product(cuda_queue *queue, const cuda_convolution *call, const cuda_way *other);

/* --- gelu_product.cu --- */

/* The same, unless cuDNN is asked for and faster still (convolutions.h): what ops call. */
int ser_gelu_fused(cuda_queue *queue, const cuda_convolution *call, const cuda_way *other);

/* How long a variant may take, in no unit: its share of the work of the busiest multiprocessor over
 * what part of its peak a tile of that size lets one reach. Infinite if it cannot do the call. */
double ser_gelu_product_cost(const cuda_queue *queue, const cuda_convolution *call, int variant);

/* Rows and columns of its tile, as in "128x64". */
const char *ser_gelu_product_name(int variant);

int ser_gelu_product_run(cuda_queue *queue, const cuda_convolution *call, int variant);

#ifdef __cplusplus
}
#endif

#endif
