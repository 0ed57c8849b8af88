/* SPDX-License-Identifier: MIT */
/* What the two files behind convolutions.h share: convolutions.c opens cuDNN and runs plans,
 * convolution_choice.c chooses and builds them. */
#ifndef SER_OPS_CUDA_CONVOLUTION_PLANS_H
#define SER_OPS_CUDA_CONVOLUTION_PLANS_H

#include "ops/cuda/convolution_graph.h"
#include "ops/cuda/convolutions.h"

enum {
    CUDNN_PLANS = 16, /* a network has a few shapes of filters, and parts make of them a few more */
    CUDNN_TEXT = 512,
};

/*
 * What was measured: how long the fastest config took for so many parts, and the other way for so
 * many rows. A verdict is on a part, since the calls of a layer differ in batch and length alone:
 * one way's time grows with the parts and the other one's with the rows, so that each call's are
 * foretold from one call's, and what its last part makes twice counts as what it costs. (Small
 * calls, where that would not hold, are not cut in parts at all.)
 */
typedef struct cudnn_verdict {
    uint64_t config;         /* its place among those of ser_cudnn_configs */
    uint64_t engine, shared; /* it is meant only if these are its own */
    uint64_t parts, fused;   /* nanoseconds */
    uint64_t rows, other;
    uint64_t zero;
} cudnn_verdict;

/* A shape that has been seen. */
typedef struct cudnn_entry {
    cudnn_part part;
    bool measured; /* the verdict decides; else every call is fused if there is a plan */
    bool settled;  /* cuDNN has been asked: without a plan it is not to be tried again */
    cudnn_verdict verdict;
    cudnn_graph graph;
    cudnn_plan plan;
} cudnn_entry;

struct ser_convolutions {
    cudnn_library library;
    cudnnHandle_t handle;
    bool loaded, opened; /* has been tried */
    bool usable;         /* nothing of it has failed */
    int32_t count;
    cudnn_entry entries[CUDNN_PLANS];
};

/* --- convolutions.c --- */

/* Whether SER_CUDNN=1 is set: nothing is measured, and no verdict asked for. */
bool ser_convolutions_forced(void);

/* Open the queue's handle, if it is not: false if that fails. */
bool ser_convolutions_open(const cuda_queue *queue, ser_convolutions *convolutions);

/* Queue a call with a plan for its parts. */
int ser_convolution_run_plan(cuda_queue *queue, const cudnn_part *part, const cudnn_plan *plan,
                             const cuda_convolution *call);

/* What cuDNN says about its last failure on this thread. */
const char *ser_cudnn_reason(const cudnn_library *library, char text[CUDNN_TEXT]);

/* --- convolution_choice.c --- */

/* A new entry's verdict, if one was kept. */
void ser_convolution_recall(const cuda_queue *queue, cudnn_entry *e);

/* Whether a call of so many rows is faster fused, as far as is known. */
bool ser_convolution_pays(const cudnn_entry *e, int64_t rows);

/* Choose among the configs and build a plan: by what was kept, else by measuring where that can be
 * kept, else by the heuristics' order. */
void ser_convolution_settle(cuda_queue *queue, cudnn_entry *e, const cuda_convolution *call,
                            const cuda_way *other);

#endif
