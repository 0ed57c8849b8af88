/* SPDX-License-Identifier: MIT */
/*
 * Layer 0 of wav2vec 2.0: y = GELU(norm(conv(x) + bias)), one input channel.
 *
 * Group norm with one channel per group needs the mean and variance of each channel's convolution
 * over the clip. They follow exactly from the moments of the clip's patches p (the `kernel` samples
 * under a frame): with m = mean(p) and S = mean(p p^T) - m m^T, channel c with filter w has mean
 * w.m and variance w.S.w. So the norm is folded into a filter and a bias per clip, and the output
 * is written once. A convolution bias shifts the mean alone and drops out.
 */
#include <math.h>

#include "ops/cpu/cpu.h"

static const double NORM_EPS = 1e-5;

/* m[i] = mean_t x[t * stride + i]; S[i][j] = mean_t x[t * stride + i] x[t * stride + j] - m[i]
 * m[j]. */
static void patch_moments(const float *x, int64_t frames, int32_t stride, int32_t kernel, double *m,
                          double *s)
{
    for (int i = 0; i < kernel; i++) {
        m[i] = 0.0;
        for (int j = i; j < kernel; j++) {
            s[i * kernel + j] = 0.0;
        }
    }
    for (int64_t t = 0; t < frames; t++) {
        const float *p = x + t * stride;
        double patch[SER_MAX_WAVE_KERNEL];
        for (int i = 0; i < kernel; i++) {
            patch[i] = (double)p[i];
        }
        for (int i = 0; i < kernel; i++) {
            m[i] += patch[i];
            for (int j = i; j < kernel; j++) {
                s[i * kernel + j] += patch[i] * patch[j];
            }
        }
    }
    for (int i = 0; i < kernel; i++) {
        m[i] /= (double)frames;
    }
    for (int i = 0; i < kernel; i++) {
        for (int j = i; j < kernel; j++) {
            s[i * kernel + j] = s[i * kernel + j] / (double)frames - m[i] * m[j];
            s[j * kernel + i] = s[i * kernel + j];
        }
    }
}

/* Fold mean, variance, gamma and beta of one channel into its filter; returns the bias. */
static float fold_channel(const float *w, const double *m, const double *s, int32_t kernel,
                          float gamma, float beta, float *folded)
{
    double mean = 0.0;
    double variance = 0.0;
    for (int i = 0; i < kernel; i++) {
        double row = 0.0;
        for (int j = 0; j < kernel; j++) {
            row += s[i * kernel + j] * (double)w[j];
        }
        variance += row * (double)w[i];
        mean += m[i] * (double)w[i];
    }
    double scale = (double)gamma / sqrt((variance > 0.0 ? variance : 0.0) + NORM_EPS);
    for (int i = 0; i < kernel; i++) {
        folded[i] = (float)((double)w[i] * scale);
    }
    return (float)((double)beta - mean * scale);
}

/* Floats per clip: packed filters, then the bias. */
static int64_t fold_size(const ser_kernels *kernels, const ser_wave_conv_args *args)
{
    int64_t packed = ser_gemm_packed_size(kernels, args->y.cols, args->kernel);
    return cpu_ceil_div(packed + args->y.cols, 16) * 16;
}

/* The folded filters of one clip, packed, at `to`; `plain` holds [C, kernel] meanwhile. */
static void fold_clip(const ser_kernels *kernels, const ser_wave_conv_args *args, int64_t clip,
                      float *to, float *plain)
{
    const int64_t channels = args->y.cols;
    const int32_t kernel = args->kernel;
    const float *x = (const float *)args->pcm.data + clip * args->rows_in.padded;
    const float *w = args->w.data;
    const float *gamma = args->gamma.data;
    const float *beta = args->beta.data;
    float *bias = to + ser_gemm_packed_size(kernels, channels, kernel);
    double m[SER_MAX_WAVE_KERNEL];
    double s[SER_MAX_WAVE_KERNEL * SER_MAX_WAVE_KERNEL];
    patch_moments(x, args->rows_out.valid[clip], args->stride, kernel, m, s);
    for (int64_t c = 0; c < channels; c++) {
        bias[c] = fold_channel(w + c * kernel, m, s, kernel, gamma[c], beta[c], plain + c * kernel);
    }
    ser_gemm_pack(kernels, plain, kernel, 1, channels, kernel, to);
}

size_t ser_cpu_wave_conv_scratch(const ser_queue *queue, const ser_wave_conv_args *args)
{
    const cpu_queue *q = cpu_queue_of(queue);
    int64_t folded = fold_size(q->kernels, args) * args->rows_out.batch;
    int64_t plain = cpu_ceil_div(args->y.cols * args->kernel, 16) * 16 * q->threads;
    return ser_gemm_scratch(queue) + (size_t)(folded + plain) * sizeof(float);
}

int ser_cpu_wave_conv_fwd(ser_queue *queue, const ser_wave_conv_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t channels = args->y.cols;
    const int64_t batch = args->rows_out.batch;
    const int64_t pitch = fold_size(kernels, args);
    const int64_t plain_size = cpu_ceil_div(channels * args->kernel, 16) * 16;
    float *folded = (float *)((char *)queue->scratch + ser_gemm_scratch(queue));
    float *plain = folded + pitch * batch;
    const bool by_clip = args->norm == SER_CONV_NORM_CLIP;
    if (by_clip) {
        const int threads = batch > 1 ? cpu_queue_of(queue)->threads : 1;
        CPU_PARALLEL_FOR(threads, schedule(dynamic))
        for (int64_t b = 0; b < batch; b++) {
            fold_clip(kernels, args, b, folded + b * pitch, plain + cpu_thread() * plain_size);
        }
    } else {
        ser_gemm_pack(kernels, args->w.data, args->kernel, 1, channels, args->kernel, folded);
    }
    const gemm_call call = {
        .a = args->pcm.data,
        .lda = args->stride,
        .a_pitch = args->rows_in.padded,
        .b = folded,
        .b_pitch = by_clip ? pitch : 0,
        .bias = by_clip ? folded + ser_gemm_packed_size(kernels, channels, args->kernel)
                        : args->bias.data,
        .bias_pitch = by_clip ? pitch : 0,
        .c = args->y.data,
        .ldc = channels,
        .c_pitch = args->rows_out.padded * channels,
        .n = channels,
        .k = args->kernel,
        .entries = batch,
        .rows = args->rows_out.valid,
        .max_rows = args->rows_out.padded,
        .activation = args->norm == SER_CONV_NORM_LAYER ? SER_ACT_NONE : SER_ACT_GELU,
    };
    ser_gemm_run(queue, &call);
    if (args->norm == SER_CONV_NORM_LAYER) {
        ser_cpu_norm_gelu_rows(queue, &args->y, &args->rows_out, &args->gamma, &args->beta);
    }
    ser_cpu_zero_padding(&args->y, &args->rows_out);
    return 0;
}
