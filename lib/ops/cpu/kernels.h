/* SPDX-License-Identifier: MIT */
/*
 * The inner loops that matter, compiled once per instruction set from the same kernels.c and chosen
 * at run time. All are serial; a result never depends on how rows or columns were divided among
 * calls.
 */
#ifndef SER_OPS_CPU_KERNELS_H
#define SER_OPS_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "ops/cpu/kernels_training.h"

/* C[m, n] (+)= A B on one register tile, m <= mr, n <= nr. */
typedef struct ser_tile_args {
    const float *a; /* [k][mr], packed */
    const float *b; /* [k][nr], packed */
    float *c;       /* [m][ldc] */
    int64_t ldc;
    int64_t k;
    int32_t m, n;
    int32_t first;      /* start from 0 instead of C */
    int32_t last;       /* finish with bias and activation */
    int32_t activation; /* SER_ACT_* */
    const float *bias;  /* [n] or NULL */
} ser_tile_args;

typedef struct ser_kernels {
    const char *name;
    const ser_training_kernels *training;
    int32_t mr, nr;

    void (*gemm_tile)(const ser_tile_args *args);

    /* to[k][mr] <- rows of a[m][lda], k columns; rows m..mr-1 become zero */
    void (*pack_rows)(const float *a, int64_t lda, int64_t m, int64_t k, float *to);

    /* to[rows][width] <- n <= width floats from x + at[row]; the rest zero. width is mr or nr. */
    void (*pack_columns)(const float *x, const int64_t *at, int64_t rows, int64_t n, int64_t width,
                         float *to);

    /* y = act(x + bias) over one row; bias may be NULL, x may be y */
    void (*bias_act)(const float *x, const float *bias, int64_t n, int32_t activation, float *y);

    /* y = act((x - mean) / sqrt(var + eps) * gamma + beta) over one row; x may be y */
    void (*layer_norm)(const float *x, const float *gamma, const float *beta, float eps, int64_t n,
                       int32_t activation, float *y);

    /* x = softmax(scale * x) in place */
    void (*softmax)(float *x, int64_t n, float scale);

    void (*add)(const float *x, const float *y, int64_t n, float *sum); /* sum may be x or y */
    void (*axpy)(float a, const float *x, int64_t n, float *y);         /* y += a x */
    float (*dot)(const float *x, const float *y, int64_t n);
} ser_kernels;

extern const ser_kernels ser_kernels_baseline;
extern const ser_kernels ser_kernels_v3;
extern const ser_kernels ser_kernels_v4;

/* The best one that this CPU can run, or the one that $SER_CPU_ISA (baseline, v3, v4) caps it to.
 */
const ser_kernels *ser_kernels_pick(void);

#endif
