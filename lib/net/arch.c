/* SPDX-License-Identifier: MIT */
/*
 * Geometry of the feature extractor. Every sum and product saturates at INT64_MAX instead of
 * overflowing, because the numbers are asked for before a hostile configuration has been refused.
 */
#include "net/arch.h"

static int64_t saturating_add(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

static int64_t saturating_mul(int64_t a, int64_t b)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

/* Outputs of a window of `size` that slides over n inputs in steps of `step`: only whole windows.
 */
static int64_t windows(int64_t n, int64_t size, int64_t step)
{
    return n < size ? 0 : 1 + (n - size) / step;
}

/* Inputs under `count` >= 1 such windows. */
static int64_t span(int64_t count, int64_t size, int64_t step)
{
    return saturating_add(saturating_mul(count - 1, step), size);
}

int64_t ser_arch_frames(const ser_arch *arch, int64_t samples)
{
    int64_t n = samples > 0 ? samples : 0;
    if (arch->features == SER_FEATURES_LOGMEL) {
        n = windows(n, arch->mel.frame, arch->mel.hop);
    }
    for (int32_t i = 0; i < arch->conv_count && n > 0; i++) {
        n = windows(saturating_add(n, 2 * (int64_t)arch->conv_padding[i]), arch->conv_kernel[i],
                    arch->conv_stride[i]);
    }
    return n;
}

int64_t ser_arch_min_samples(const ser_arch *arch)
{
    int64_t n = 1;
    for (int32_t i = arch->conv_count - 1; i >= 0; i--) {
        int64_t padded = span(n, arch->conv_kernel[i], arch->conv_stride[i]);
        n = padded - 2 * (int64_t)arch->conv_padding[i];
        if (padded == INT64_MAX) {
            n = INT64_MAX;
        } else if (n < 1) {
            n = 1; /* padding alone never makes a frame */
        }
    }
    return arch->features == SER_FEATURES_LOGMEL ? span(n, arch->mel.frame, arch->mel.hop) : n;
}

int64_t ser_arch_hop(const ser_arch *arch)
{
    int64_t hop = arch->features == SER_FEATURES_LOGMEL ? arch->mel.hop : 1;
    for (int32_t i = 0; i < arch->conv_count; i++) {
        hop = saturating_mul(hop, arch->conv_stride[i]);
    }
    return hop;
}

/* Frame 0 sees `field` samples from `start`, which padding moves before the clip. */
double ser_arch_first_centre(const ser_arch *arch)
{
    bool mel = arch->features == SER_FEATURES_LOGMEL;
    double field = mel ? arch->mel.frame : 1.0;
    double step = mel ? arch->mel.hop : 1.0;
    double start = 0.0;
    for (int32_t i = 0; i < arch->conv_count; i++) {
        start -= step * arch->conv_padding[i];
        field += step * (arch->conv_kernel[i] - 1);
        step *= arch->conv_stride[i];
    }
    return start + field / 2.0;
}
