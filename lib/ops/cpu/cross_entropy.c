/* SPDX-License-Identifier: MIT */
/* p_k = exp(z_k) / sum_j exp(z_j), with the largest z subtracted first. */
#include <string.h>

#include "ops/cpu/cpu.h"

int ser_cpu_cross_entropy_fwd(ser_queue *queue, const ser_cross_entropy_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t classes = args->logits.cols;
    for (int64_t b = 0; b < args->logits.rows; b++) {
        float *p = (float *)args->probabilities.data + b * classes;
        memcpy(p, (const float *)args->logits.data + b * classes, (size_t)classes * sizeof(float));
        kernels->softmax(p, classes, 1.0F);
    }
    return 0;
}
