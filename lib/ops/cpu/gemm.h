/* SPDX-License-Identifier: MIT */
/*
 * Matrix products with packed weights: the engine under linear, conv, pos_conv and attention.
 *
 * C = act(A W^T + bias), where row i of A is K consecutive floats from a + i * lda. Rows may
 * overlap (lda < K): a strided convolution on channels-last rows is such a product, without im2col.
 * Every element of C is one sum over k in rising order, whatever the number of rows, threads or
 * blocks, so a row's result has the same bits alone and in a batch.
 */
#ifndef SER_OPS_CPU_GEMM_H
#define SER_OPS_CPU_GEMM_H

#include <stddef.h>
#include <stdint.h>

#include "ops/cpu/kernels.h"
#include "ops/ops.h"

struct onednn_weight;

/* W in the form that the products like best. */
struct ser_weight {
    ser_weight_spec spec; /* first, see ser_weight_get_spec */
    float *panels;        /* groups x [rows / nr][cols][nr], or NULL with oneDNN */
    int64_t panel_pitch;  /* floats per group */
    struct onednn_weight *onednn;
};

/* Products of `entries` row ranges; pitches in floats lead from one entry to the next. */
typedef struct gemm_call {
    const float *a;
    int64_t lda, a_pitch;
    const float *b; /* packed by ser_gemm_pack */
    int64_t b_pitch;
    const float *bias; /* or NULL */
    int64_t bias_pitch;
    float *c;
    int64_t ldc, c_pitch;
    int64_t n, k;
    int64_t entries;
    const int32_t *rows; /* [entries], or NULL: max_rows each */
    int64_t max_rows;
    int32_t activation;
} gemm_call;

/* Floats that W [n, k] takes when packed. */
int64_t ser_gemm_packed_size(const ser_kernels *kernels, int64_t n, int64_t k);

/* Pack W [n, k], whose element (i, j) is w[i * row_step + j * col_step]; unpack to row-major. */
void ser_gemm_pack(const ser_kernels *kernels, const float *w, int64_t row_step, int64_t col_step,
                   int64_t n, int64_t k, float *to);
void ser_gemm_unpack(const ser_kernels *kernels, const float *from, int64_t n, int64_t k, float *w);

/* Scratch of one serial product, in floats. */
int64_t ser_gemm_block_scratch(void);

/* One product on the calling thread: rows m, panels [first, last) of the packed W. */
typedef struct gemm_block {
    const float *a;
    int64_t lda;
    const float *b;
    const float *bias;
    float *c;
    int64_t ldc;
    int64_t m, n, k;
    int64_t first_panel, last_panel;
    int32_t activation;
} gemm_block;
void ser_gemm_run_block(const ser_kernels *kernels, const gemm_block *block, float *scratch);

/* All entries, on the queue's threads, with ser_gemm_scratch(queue) bytes at the start of the
 * queue's scratch. */
size_t ser_gemm_scratch(const ser_queue *queue);
void ser_gemm_run(const ser_queue *queue, const gemm_call *call);

/* The same with a weight: call->b and n and k are taken from it, entry g uses group g.
 * oneDNN where the weight was packed for it. */
size_t ser_gemm_weight_scratch(const ser_queue *queue, const ser_weight *weight);
int ser_gemm_run_weight(const ser_queue *queue, const ser_weight *weight, gemm_call *call);

/* ---- backward (gemm_backward.c) ---- */

/*
 * dW += dY^T X: C[i, j] += sum_r a_r[i] b_r[j] over the valid rows r of all entries, in every group.
 * Rows of B may overlap (ldb < k), as those of a convolution do. The sum runs over the rows in
 * order, whatever the number of threads.
 */
typedef struct gemm_tn_call {
    const float *a; /* rows of n */
    int64_t lda, a_pitch, a_group;
    const float *b; /* rows of k */
    int64_t ldb, b_pitch, b_group;
    float *c; /* [n, k], k floats apart */
    int64_t c_group;
    int64_t n, k;
    int64_t groups; /* pitches of groups in floats: x_group */
    int64_t entries;
    const int32_t *rows; /* [entries], or NULL: max_rows each */
    int64_t max_rows;
} gemm_tn_call;

/* Scratch of one thread in floats; a group's product on the calling thread. */
int64_t ser_gemm_tn_block_scratch(void);
void ser_gemm_tn_run_block(const ser_kernels *kernels, const gemm_tn_call *call, float *scratch);

/* On the queue's threads, with ser_gemm_tn_scratch(queue) bytes at the start of its scratch. */
size_t ser_gemm_tn_scratch(const ser_queue *queue);
void ser_gemm_tn_run(const ser_queue *queue, const gemm_tn_call *call);

/*
 * dX = dY W: the weight's columns are `width` wide pieces, one per tap; W^T of `taps` of them, from
 * `first` on in steps of `step`, one below the other: [width, taps * rows] packed, per group.
 */
typedef struct gemm_transpose {
    const ser_weight *weight;
    int64_t width;
    int64_t first, step, taps;
} gemm_transpose;
int64_t ser_gemm_transposed_size(const ser_kernels *kernels, const gemm_transpose *t); /* floats */
/* `plain` has room for the weight's values where ser_gemm_plain_size is not 0, in floats;
 * ser_gemm_plain fills it once before the first ser_gemm_transpose. */
int64_t ser_gemm_plain_size(const ser_weight *weight);
int ser_gemm_plain(ser_queue *queue, const ser_weight *weight, float *plain);
void ser_gemm_transpose(const ser_queue *queue, const gemm_transpose *t, const float *plain,
                        float *to);

/* sum[j] += sum_r x_r[j] over the valid rows, in order. */
typedef struct gemm_columns {
    const float *x;
    int64_t ld, pitch, n;
    int64_t entries;
    const int32_t *rows; /* [entries] */
    int64_t max_rows;
    float *sum;
} gemm_columns;
void ser_gemm_sum_columns(const ser_queue *queue, const gemm_columns *columns);

int ser_gemm_weight_create(ser_context *context, const ser_weight_spec *spec, ser_weight **weight);
void ser_gemm_weight_free(ser_context *context, ser_weight *weight);
int ser_gemm_weight_set(ser_queue *queue, ser_weight *weight, const float *w);
int ser_gemm_weight_get(ser_queue *queue, const ser_weight *weight, float *w);

#endif
