/* SPDX-License-Identifier: MIT */
/*
 * Products through oneDNN, for the CPUs where its kernels beat ours: those with AVX-512, on which
 * it runs at 95 to 98 % of the peak. Below that, oneDNN 2.x has no packed f32 products and repacks
 * the weights in every call; there gemm.c is about a fifth faster (tests/bench/NOTES.md). The only
 * place that knows oneDNN; without it every function says "not here".
 */
#ifndef SER_OPS_CPU_ONEDNN_H
#define SER_OPS_CPU_ONEDNN_H

#include <stddef.h>

#include "ops/cpu/gemm.h"
#include "ops/ops.h"

struct onednn;
struct onednn_weight;

/* *onednn is NULL (and the result 0) where own products are to be used. $SER_GEMM (own, onednn)
 * decides instead of the CPU if set. */
int ser_onednn_open(struct onednn **onednn);
void ser_onednn_close(struct onednn *onednn);

int ser_onednn_weight_create(struct onednn *onednn, const ser_weight_spec *spec,
                             struct onednn_weight **weight);
void ser_onednn_weight_free(struct onednn_weight *weight);
int ser_onednn_weight_set(struct onednn_weight *weight, const float *w);
int ser_onednn_weight_get(const struct onednn_weight *weight, float *w);

/* As ser_gemm_scratch and ser_gemm_run. */
size_t ser_onednn_scratch(const ser_queue *queue, const struct onednn_weight *weight);
int ser_onednn_run(const ser_queue *queue, const struct onednn_weight *weight,
                   const gemm_call *call);

#endif
