/* SPDX-License-Identifier: MIT */
/*
 * Inner loops of training, one set per instruction set like kernels.h: dropout, what backward does
 * to one row, the optimiser. All are serial, and an element's result does not depend on how a row
 * or an array was cut among calls, but where a sum is returned or added to.
 */
#ifndef SER_OPS_CPU_KERNELS_TRAINING_H
#define SER_OPS_CPU_KERNELS_TRAINING_H

#include <stddef.h>
#include <stdint.h>

/* Which elements of a tensor are dropped (ops.h, ser_dropout); from ser_cpu_dropout_mask. */
typedef struct ser_dropout_mask {
    uint64_t seed, stream;
    int32_t threshold; /* 16-bit numbers below it drop their element */
    float scale;       /* of the elements that stay */
} ser_dropout_mask;

/* Elements first .. first + n - 1 of a tensor; y may be x, base or dy; `again` dy where y is not. */
typedef struct ser_dropout_row {
    const ser_dropout_mask *mask; /* NULL: no dropout */
    uint64_t first;
    int64_t n;
    int32_t activation;
    const float *x;    /* backward with activation NONE and without `again` does not read it */
    const float *base; /* forward; or NULL: 0 */
    const float *dy;   /* backward */
    float *y;          /* backward: dx */
    float *again;      /* backward: dropout(act(x)) as forward makes it, or NULL */
} ser_dropout_row;

/* Backward of y = (x - mean) inverse gamma + beta over one row, mean and inverse of x itself. */
typedef struct ser_norm_row {
    int64_t n;
    const float *x;
    float mean, inverse; /* 1 / sqrt(var + eps) */
    const float *gamma;
    const float *dy;
    const float *dy2;      /* added to dy, or NULL */
    const float *add;      /* added to dx, or NULL */
    float *dx;             /* or NULL; may be dy, dy2 or add, not x */
    float *dgamma, *dbeta; /* [n] added to, each or NULL */
} ser_norm_row;

/* Backward of one row of attention, in place: scores become dropped probabilities, dp (gradients of
 * those) becomes the gradient of the products q k^T. */
typedef struct ser_score_row {
    const ser_dropout_mask *mask; /* NULL: no dropout */
    uint64_t first;               /* element of the mask */
    int64_t n;
    float scale, lse;
    float dot; /* dy . y of this query and head */
    float *scores, *dp;
} ser_score_row;

/* Neighbours that share rate and decay; the formula stands in ops.h, ser_adamw_args. */
typedef struct ser_adamw_run {
    int64_t n;
    float *w, *m, *v;
    float *ema; /* or NULL */
    const float *gradient;
    float gradient_scale; /* clipping included */
    float beta1, rest1;   /* rest: 1 - beta, rounded once */
    float beta2, rest2;
    float eps, correction2;
    float shrink; /* rate * decay */
    float rate;   /* correction1 included */
    float average;
} ser_adamw_run;

typedef struct ser_training_kernels {
    const char *name;

    /* y = base + dropout(act(x)) */
    void (*dropout)(const ser_dropout_row *row);

    /* dx = act'(x) dropout'(dy); without mask the backward of an activation alone */
    void (*dropout_bwd)(const ser_dropout_row *row);

    /* stats[0] = mean, stats[1] = 1 / sqrt(var + eps), as layer_norm of kernels.h has them */
    void (*norm_stats)(const float *x, int64_t n, float eps, float stats[2]);
    void (*norm_bwd)(const ser_norm_row *row);

    float (*max)(const float *x, int64_t n);
    void (*score_bwd)(const ser_score_row *row);

    double (*sum_squares)(const float *x, int64_t n);
    void (*adamw)(const ser_adamw_run *run);
} ser_training_kernels;

extern const ser_training_kernels ser_training_kernels_baseline;
extern const ser_training_kernels ser_training_kernels_v3;
extern const ser_training_kernels ser_training_kernels_v4;

#endif
