/* SPDX-License-Identifier: MIT */
#include "ops/cpu/wave_norm.h"

#include <math.h>

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

/* What the norm does to one channel: zhat = (w . patch - mean) * inverse. */
typedef struct channel_norm {
    double mean, inverse; /* 1 / sqrt(variance + eps) */
} channel_norm;

static channel_norm norm_channel(const float *w, const double *m, const double *s, int32_t kernel)
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
    return (channel_norm){mean, 1.0 / sqrt((variance > 0.0 ? variance : 0.0) + NORM_EPS)};
}

int64_t ser_wave_fold_size(const ser_kernels *kernels, const ser_wave_conv_args *args)
{
    int64_t packed = ser_gemm_packed_size(kernels, args->w.rows, args->kernel);
    return cpu_ceil_div(packed + args->w.rows, 16) * 16;
}

void ser_wave_fold_clip(const ser_kernels *kernels, const ser_wave_conv_args *args, int64_t clip,
                        float *to, float *plain)
{
    const int64_t channels = args->w.rows;
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
        const channel_norm norm = norm_channel(w + c * kernel, m, s, kernel);
        const double scale = (double)gamma[c] * norm.inverse;
        for (int i = 0; i < kernel; i++) {
            plain[c * kernel + i] = (float)((double)w[c * kernel + i] * scale);
        }
        bias[c] = (float)((double)beta[c] - norm.mean * scale);
    }
    ser_gemm_pack(kernels, plain, kernel, 1, channels, kernel, to);
}

void ser_wave_clip_moments(const ser_wave_conv_args *args, int64_t clip, double *m, float *affine)
{
    const int64_t channels = args->w.rows;
    const int32_t kernel = args->kernel;
    const float *bias = args->bias.data;
    double *s = m + kernel;
    patch_moments((const float *)args->pcm.data + clip * args->rows_in.padded,
                  args->rows_out.valid[clip], args->stride, kernel, m, s);
    for (int64_t c = 0; c < channels; c++) {
        const channel_norm norm =
            norm_channel((const float *)args->w.data + c * kernel, m, s, kernel);
        const double scale = (double)((const float *)args->gamma.data)[c] * norm.inverse;
        const double mean = norm.mean + (bias != NULL ? (double)bias[c] : 0.0);
        affine[c] = (float)scale;
        affine[channels + c] = (float)((double)((const float *)args->beta.data)[c] - mean * scale);
    }
}

/*
 * With zhat_t = r w.(p_t - m), r = 1 / sqrt(w.S.w + eps), u = gamma zhat + beta, du = dy GELU'(u) and
 *   A = sum_t du_t,  G = sum_t du_t p_t,  B = sum_t du_t zhat_t = r (w.G - A w.m)
 * the sums over the T frames of dz_t = gamma r (du_t - A / T - zhat_t B / T) are
 *   dw = gamma r (G - A m - r B S w),  dgamma = B,  dbeta = A,  dbias = 0
 */
static void add_channel(const ser_wave_conv_args *args, const wave_clip_sums *clip, int64_t c)
{
    const double *m = clip->moments;
    const float *sums = clip->sums;
    const int64_t kernel = args->kernel;
    const double *s = m + kernel;
    const float *w = (const float *)args->w.data + c * kernel;
    double g[SER_MAX_WAVE_KERNEL] = {0};
    double a = 0.0;
    for (int64_t chunk = 0; chunk < clip->chunks; chunk++, sums += clip->size) {
        a += (double)sums[args->w.rows * kernel + c];
        for (int64_t i = 0; i < kernel; i++) {
            g[i] += (double)sums[c * kernel + i];
        }
    }
    const channel_norm norm = norm_channel(w, m, s, args->kernel);
    double wg = 0.0;
    for (int64_t i = 0; i < kernel; i++) {
        wg += (double)w[i] * g[i];
    }
    const double b = norm.inverse * (wg - a * norm.mean);
    if (args->dgamma.data != NULL) {
        ((float *)args->dgamma.data)[c] += (float)b;
    }
    if (args->dbeta.data != NULL) {
        ((float *)args->dbeta.data)[c] += (float)a;
    }
    const double scale = (double)((const float *)args->gamma.data)[c] * norm.inverse;
    for (int64_t i = 0; i < kernel && args->dw.data != NULL; i++) {
        double row = 0.0;
        for (int64_t j = 0; j < kernel; j++) {
            row += s[i * kernel + j] * (double)w[j];
        }
        ((float *)args->dw.data)[c * kernel + i] +=
            (float)(scale * (g[i] - a * m[i] - norm.inverse * b * row));
    }
}

void ser_wave_add_clip(const ser_wave_conv_args *args, const wave_clip_sums *clip)
{
    for (int64_t c = 0; c < args->w.rows; c++) {
        add_channel(args, clip, c);
    }
}
