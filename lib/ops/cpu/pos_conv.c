/* SPDX-License-Identifier: MIT */
/*
 * y = x + GELU(conv(x) + bias), grouped over channels, stride 1. Each group's channels are copied
 * to rows of their own with kernel - 1 zero rows around them; on these the convolution is a product
 * of overlapping rows, kernel * C / groups long, one row of C / groups apart.
 */
#include <string.h>

#include "ops/cpu/cpu.h"

/* Floats of one group's zero-framed copy of one clip. */
static int64_t slice_size(const ser_pos_conv_args *args)
{
    int64_t width = args->x.cols / args->groups;
    return cpu_ceil_div((args->rows.padded + args->kernel - 1) * width, 16) * 16;
}

size_t ser_cpu_pos_conv_scratch(const ser_queue *queue, const ser_pos_conv_args *args)
{
    return ser_gemm_weight_scratch(queue, args->w) +
           (size_t)(slice_size(args) * args->groups) * sizeof(float);
}

/* Copy the channels of group g of a clip's `valid` rows, with zeros before and after. */
static void copy_group(const ser_pos_conv_args *args, const float *x, int64_t valid, int64_t g,
                       float *to)
{
    const int64_t width = args->x.cols / args->groups;
    const int64_t before = args->kernel / 2;
    const int64_t after = args->kernel - 1 - before;
    memset(to, 0, (size_t)(before * width) * sizeof(float));
    for (int64_t t = 0; t < valid; t++) {
        memcpy(to + (before + t) * width, x + t * args->x.cols + g * width,
               (size_t)width * sizeof(float));
    }
    memset(to + (before + valid) * width, 0, (size_t)(after * width) * sizeof(float));
}

int ser_cpu_pos_conv_fwd(ser_queue *queue, const ser_pos_conv_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t channels = args->x.cols;
    const int64_t width = channels / args->groups;
    const int64_t pitch = slice_size(args);
    float *slices = (float *)((char *)queue->scratch + ser_gemm_weight_scratch(queue, args->w));
    for (int64_t b = 0; b < args->rows.batch; b++) {
        const float *x = (const float *)args->x.data + b * args->rows.padded * channels;
        float *y = (float *)args->y.data + b * args->rows.padded * channels;
        const int64_t valid = args->rows.valid[b];
        const int threads = cpu_threads_for(queue, (double)(valid * channels) * CPU_NS_PER_VALUE);
        CPU_PARALLEL_FOR(threads, schedule(static))
        for (int64_t g = 0; g < args->groups; g++) {
            copy_group(args, x, valid, g, slices + g * pitch);
        }
        gemm_call call = {
            .a = slices,
            .lda = width,
            .a_pitch = pitch,
            .bias = args->bias.data,
            .bias_pitch = width,
            .c = y,
            .ldc = channels,
            .c_pitch = width,
            .entries = args->groups,
            .max_rows = valid,
            .activation = SER_ACT_GELU,
        };
        int status = ser_gemm_run_weight(queue, args->w, &call);
        if (status != 0) {
            return status;
        }
        kernels->add(x, y, valid * channels, y);
    }
    ser_cpu_zero_padding(&args->y, &args->rows);
    return 0;
}
