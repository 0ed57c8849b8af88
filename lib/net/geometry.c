/* SPDX-License-Identifier: MIT */
#include "net/geometry.h"

enum { SAMPLE_STEP = 16 }; /* floats per cache line: clips of a log-mel batch start aligned */

void ser_geometry_lengths(const ser_arch *arch, int64_t samples, int64_t lengths[SER_MAX_CONVS + 1])
{
    lengths[0] = samples;
    if (arch->features == SER_FEATURES_LOGMEL) {
        lengths[0] =
            samples < arch->mel.frame ? 0 : 1 + (samples - arch->mel.frame) / arch->mel.hop;
    }
    for (int32_t i = 0; i < arch->conv_count; i++) {
        int64_t span = lengths[i] + 2 * (int64_t)arch->conv_padding[i] - arch->conv_kernel[i];
        lengths[i + 1] = span < 0 ? 0 : span / arch->conv_stride[i] + 1;
    }
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void ser_geometry_plan(const ser_arch *arch, int64_t batch, int64_t longest, ser_geometry *geometry)
{
    int64_t lengths[SER_MAX_CONVS + 1];
    ser_geometry_lengths(arch, longest, lengths);
    int32_t last = arch->conv_count;
    int64_t frames = larger(lengths[last], 1);
    int64_t stride = 1; /* from the level at hand to the last one */
    for (int32_t i = last - 1; i >= 0; i--) {
        stride *= arch->conv_stride[i];
        frames = larger(frames, ceil_div(lengths[i] + arch->conv_padding[i], stride));
    }
    *geometry = (ser_geometry){.batch = batch};
    geometry->padded[last] = frames;
    for (int32_t i = last - 1; i >= 0; i--) {
        geometry->padded[i] = geometry->padded[i + 1] * arch->conv_stride[i];
    }
    geometry->samples = arch->features == SER_FEATURES_LOGMEL
                            ? ceil_div(longest, SAMPLE_STEP) * SAMPLE_STEP
                            : geometry->padded[0];
}
