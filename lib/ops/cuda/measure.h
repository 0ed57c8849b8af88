/* SPDX-License-Identifier: MIT */
/* How long queued work takes, for the choice between ways to do it (measure.c). */
#ifndef SER_OPS_CUDA_MEASURE_H
#define SER_OPS_CUDA_MEASURE_H

#include "ops/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A way to do something: queue it. It can be repeated, with the same result. */
typedef struct cuda_way {
    int (*run)(cuda_queue *queue, const void *data);
    const void *data;
} cuda_way;

/*
 * The shortest of several times that a way takes, in milliseconds. It is run once before, which
 * loads its kernels and makes the choices of which it consists. What fails in between ends it, with
 * that status. Not while recording; the scratch has the bytes of ser_products_scratch.
 */
int ser_measure(cuda_queue *queue, const cuda_way *way, float *shortest);

#ifdef __cplusplus
}
#endif

#endif
