/* SPDX-License-Identifier: MIT */
/*
 * A cuDNN that runs on the CPU and does as it is told, in the place of libcudnn_graph. It stores
 * what descriptors are given and computes exactly that, from dimensions and strides.
 */
#ifndef SER_TESTS_CUDA_FAKE_CUDNN_H
#define SER_TESTS_CUDA_FAKE_CUDNN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The heuristics' answer, by place. Of those that may be used, Hopper's is wanted first. */
enum {
    FAKE_SPLIT,
    FAKE_AMPERE,
    FAKE_HUNGRY,
    FAKE_HOPPER,
    FAKE_AMPERE_LARGE,
    FAKE_LATE,
    FAKE_CONFIGS
};
enum { FAKE_RUNS = 64 };

typedef struct fake_cudnn {
    /* orders */
    bool no_handle, no_engine, no_run; /* these fail */
    bool no_run_of[FAKE_CONFIGS];
    bool hopper_by_fallback;   /* and not by the heuristics themselves */
    int32_t bad_plans;         /* so many plans fail first */
    bool only_record;          /* pointers, without computing */
    double cost[FAKE_CONFIGS]; /* milliseconds of a run */
    int32_t more_shared;       /* bytes of Hopper's config, beyond what it has */
    size_t version;            /* 0: 91900 */
    /* what happened */
    int32_t handles, heuristics, plans, runs;
    int32_t descriptors; /* that are alive */
    int64_t engine;      /* of the last plan */
    int32_t ran;         /* the config that ran last */
    double clock;        /* milliseconds */
    const void *x[FAKE_RUNS], *w[FAKE_RUNS], *bias[FAKE_RUNS], *y[FAKE_RUNS]; /* of the first */
} fake_cudnn;

/* Exported beside cuDNN's functions. */
typedef fake_cudnn *fake_cudnn_function(void);
fake_cudnn_function fake_cudnn_state;

#endif
