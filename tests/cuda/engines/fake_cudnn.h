/* SPDX-License-Identifier: MIT */
/*
 * A cuDNN that runs on the CPU and does as it is told, in the place of libcudnn_graph. It stores
 * what descriptors are given and computes exactly that, from dimensions and strides.
 */
#ifndef SER_TESTS_CUDA_FAKE_CUDNN_H
#define SER_TESTS_CUDA_FAKE_CUDNN_H

#include <stdbool.h>
#include <stdint.h>

enum { FAKE_RUNS = 64 };

typedef struct fake_cudnn {
    /* orders */
    bool no_handle, no_engine, no_run; /* these fail */
    int32_t bad_plans;                 /* so many plans fail first */
    bool only_record;                  /* pointers, without computing */
    /* what happened */
    int32_t handles, heuristics, plans, runs;
    int32_t descriptors; /* that are alive */
    int64_t engine;      /* of the last plan */
    const void *x[FAKE_RUNS], *w[FAKE_RUNS], *y[FAKE_RUNS];
} fake_cudnn;

/* Exported beside cuDNN's functions. */
typedef fake_cudnn *fake_cudnn_function(void);
fake_cudnn_function fake_cudnn_state;

#endif
