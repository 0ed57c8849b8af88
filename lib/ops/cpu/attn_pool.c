/* SPDX-License-Identifier: MIT */
/* alpha = softmax_t(u_t . w + b) over the valid frames of a clip; y = sum_t alpha_t x_t. */
#include <string.h>

#include "ops/cpu/cpu.h"

static void one_clip(const ser_kernels *kernels, const ser_attn_pool_args *args, int64_t clip)
{
    const int64_t first = clip * args->rows.padded;
    const int64_t frames = args->rows.valid[clip];
    const int64_t channels = args->x.cols;
    float *alpha = (float *)args->alpha.data + first;
    float *y = (float *)args->y.data + clip * channels;
    memset(alpha, 0, (size_t)args->rows.padded * sizeof(float));
    memset(y, 0, (size_t)channels * sizeof(float));
    if (args->w.data != NULL) {
        const float bias = args->b.data != NULL ? *(const float *)args->b.data : 0.0F;
        for (int64_t t = 0; t < frames; t++) {
            const float *u = (const float *)args->u.data + (first + t) * args->u.cols;
            alpha[t] = kernels->dot(u, args->w.data, args->u.cols) + bias;
        }
        kernels->softmax(alpha, frames, 1.0F);
    } else {
        for (int64_t t = 0; t < frames; t++) {
            alpha[t] = 1.0F / (float)frames;
        }
    }
    for (int64_t t = 0; t < frames; t++) {
        kernels->axpy(alpha[t], (const float *)args->x.data + (first + t) * channels, channels, y);
    }
}

int ser_cpu_attn_pool_fwd(ser_queue *queue, const ser_attn_pool_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    for (int64_t b = 0; b < args->rows.batch; b++) {
        one_clip(kernels, args, b);
    }
    return 0;
}

/* One thread's place for a clip: dw of the clip, then the gradients of its scores. */
static int64_t clip_scratch(const ser_attn_pool_args *args)
{
    return cpu_ceil_div(args->u.cols + args->rows.padded, 16) * 16;
}

size_t ser_cpu_attn_pool_scratch(const ser_queue *queue, const ser_attn_pool_args *args)
{
    (void)queue;
    const bool trains = args->dy.rows > 0 && args->w.rows > 0;
    return trains ? (size_t)(args->rows.batch * clip_scratch(args)) * sizeof(float) : 0;
}

/*
 * With a_t = dy . x_t, the gradient of alpha_t: the gradient of the score is
 *   ds_t = alpha_t (a_t - sum_s alpha_s a_s), and dw = sum_t ds_t u_t.
 * db = sum_t ds_t = 0: b moves all scores alike, so nothing is added to it.
 */
static void score_bwd(const ser_kernels *kernels, const ser_attn_pool_args *args, int64_t clip,
                      float *dw, float *ds)
{
    const int64_t first = clip * args->rows.padded;
    const int64_t frames = args->rows.valid[clip];
    const int64_t channels = args->x.cols;
    const float *alpha = (const float *)args->alpha.data + first;
    const float *dy = (const float *)args->dy.data + clip * channels;
    double mean = 0.0;
    for (int64_t t = 0; t < frames; t++) {
        ds[t] = kernels->dot(dy, (const float *)args->x.data + (first + t) * channels, channels);
        mean += (double)alpha[t] * (double)ds[t];
    }
    memset(dw, 0, (size_t)args->u.cols * sizeof(float));
    for (int64_t t = 0; t < frames; t++) {
        ds[t] = alpha[t] * (ds[t] - (float)mean);
        if (args->dw.data != NULL) {
            kernels->axpy(ds[t], (const float *)args->u.data + (first + t) * args->u.cols,
                          args->u.cols, dw);
        }
    }
}

/* dx_t = alpha_t dy; du_t = ds_t w, which belongs to dx too where u is x. */
static void frames_bwd(const ser_kernels *kernels, const ser_attn_pool_args *args, int64_t clip,
                       const float *ds)
{
    const int64_t first = clip * args->rows.padded;
    const int64_t channels = args->x.cols;
    const int64_t width = args->u.cols;
    const bool same = ds != NULL && args->u.data == args->x.data;
    for (int64_t t = 0; t < args->rows.valid[clip]; t++) {
        if (args->dx.data != NULL) {
            float *dx = (float *)args->dx.data + (first + t) * channels;
            memset(dx, 0, (size_t)channels * sizeof(float));
            kernels->axpy(((const float *)args->alpha.data)[first + t],
                          (const float *)args->dy.data + clip * channels, channels, dx);
            if (same) {
                kernels->axpy(ds[t], args->w.data, channels, dx);
            }
        }
        if (args->du.data != NULL) {
            float *du = (float *)args->du.data + (first + t) * width;
            memset(du, 0, (size_t)width * sizeof(float));
            if (ds != NULL) {
                kernels->axpy(ds[t], args->w.data, width, du);
            }
        }
    }
}

int ser_cpu_attn_pool_bwd(ser_queue *queue, const ser_attn_pool_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t pitch = clip_scratch(args);
    const int64_t width = args->u.cols;
    const bool scored = args->w.data != NULL;
    float *scratch = queue->scratch;
    const double values = (double)(args->rows.batch * args->rows.padded * args->x.cols);
    const int threads = cpu_threads_for(queue, 2.0 * values * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(dynamic))
    for (int64_t b = 0; b < args->rows.batch; b++) {
        float *dw = scored ? scratch + b * pitch : NULL;
        float *ds = scored ? dw + width : NULL;
        if (scored) {
            score_bwd(kernels, args, b, dw, ds);
        }
        frames_bwd(kernels, args, b, ds);
    }
    for (int64_t b = 0; scored && b < args->rows.batch; b++) { /* in order, for the same bits */
        if (args->dw.data != NULL) {
            kernels->add(args->dw.data, scratch + b * pitch, width, args->dw.data);
        }
    }
    if (args->dx.data != NULL) {
        ser_cpu_zero_padding(&args->dx, &args->rows);
    }
    if (args->du.data != NULL) {
        ser_cpu_zero_padding(&args->du, &args->rows);
    }
    return 0;
}
