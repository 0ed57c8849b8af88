/* SPDX-License-Identifier: MIT */
/* What conv and wave_conv do with a convolution z: y = GELU(norm(z)). */
#include "ops/cpu/cpu.h"

enum { NORM_ROWS = 16 }; /* rows per task of the norm pass */
static const float NORM_EPS = 1e-5F;

void ser_cpu_conv_tail(const ser_queue *queue, const conv_tail *tail, const ser_tensor *z,
                       const ser_rows *rows, const ser_tensor *y)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t total = rows->batch * rows->padded;
    const int64_t n = tail->channels;
    const int threads = cpu_threads_for(queue, (double)(total * n) * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(dynamic, NORM_ROWS))
    for (int64_t r = 0; r < total; r++) {
        const float *from = (const float *)z->data + r * n;
        float *to = (float *)y->data + r * n;
        if (!cpu_row_is_valid(rows, r)) {
            continue;
        }
        if (tail->norm == SER_CONV_NORM_LAYER) {
            kernels->layer_norm(from, tail->gamma, tail->beta, NORM_EPS, n, SER_ACT_GELU, to);
        } else {
            kernels->bias_act(from, NULL, n, SER_ACT_GELU, to);
        }
    }
}

/* u = norm(z): du = dy GELU'(u), and from there as in residual_norm.c. */
void ser_cpu_conv_tail_bwd(const ser_kernels *kernels, const conv_tail *tail,
                           const conv_tail_row *row)
{
    const int64_t n = tail->channels;
    ser_dropout_row gelu = {
        .n = n, .activation = SER_ACT_GELU, .x = row->z, .dy = row->dy, .y = row->dz};
    if (tail->norm != SER_CONV_NORM_LAYER) {
        kernels->training->dropout_bwd(&gelu);
        return;
    }
    float stats[2];
    kernels->training->norm_stats(row->z, n, NORM_EPS, stats);
    kernels->layer_norm(row->z, tail->gamma, tail->beta, NORM_EPS, n, SER_ACT_NONE, row->normed);
    gelu.x = row->normed;
    kernels->training->dropout_bwd(&gelu);
    kernels->training->norm_bwd(&(ser_norm_row){.n = n,
                                                .x = row->z,
                                                .mean = stats[0],
                                                .inverse = stats[1],
                                                .gamma = tail->gamma,
                                                .dy = row->dz,
                                                .dx = row->dz,
                                                .dgamma = row->dgamma,
                                                .dbeta = row->dbeta});
}
