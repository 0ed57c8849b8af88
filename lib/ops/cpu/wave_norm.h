/* SPDX-License-Identifier: MIT */
/*
 * The group norm of wave_conv (one channel per group) without a pass over the convolution's output.
 *
 * It needs the mean and variance of each channel over the clip. They follow exactly from the moments
 * of the clip's patches p (the `kernel` samples under a frame): with m = mean(p) and
 * S = mean(p p^T) - m m^T, channel c with filter w has mean w.m and variance w.S.w. So the norm is
 * folded into a filter and a bias per clip, and the output is written once. A convolution bias
 * shifts the mean alone and drops out.
 */
#ifndef SER_OPS_CPU_WAVE_NORM_H
#define SER_OPS_CPU_WAVE_NORM_H

#include <stdint.h>

#include "ops/cpu/cpu.h"

/* Floats of a clip's folded filters, packed, then their biases. */
int64_t ser_wave_fold_size(const ser_kernels *kernels, const ser_wave_conv_args *args);

/* Make them at `to`; `plain` holds [C, kernel] meanwhile. */
void ser_wave_fold_clip(const ser_kernels *kernels, const ser_wave_conv_args *args, int64_t clip,
                        float *to, float *plain);

/* Backward: m [kernel] and S [kernel, kernel] of a clip behind each other, and u = scale z + shift of
 * every channel: scale [C], shift [C]. */
void ser_wave_clip_moments(const ser_wave_conv_args *args, int64_t clip, double *m, float *affine);

/* Sums over chunks of one clip's frames, `size` floats from one chunk to the next: G [C, kernel] =
 * sum of du_t p_t, then A [C] = sum of du_t, du = dy GELU'(u). */
typedef struct wave_clip_sums {
    const float *sums;
    int64_t chunks, size;
    const double *moments;
} wave_clip_sums;

/* Add to dw, dgamma and dbeta what the clip gives. */
void ser_wave_add_clip(const ser_wave_conv_args *args, const wave_clip_sums *clip);

#endif
