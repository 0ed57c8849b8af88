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
