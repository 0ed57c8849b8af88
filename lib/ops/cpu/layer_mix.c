/* SPDX-License-Identifier: MIT */
/* y (+)= softmax(w)[index] * x, the learned mix of hidden states (Peters et al. 2018, ELMo, eq. 1).
 */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu.h"

static float mix_weight(const float *w, int64_t count, int32_t index)
{
    double top = (double)w[0];
    for (int64_t i = 1; i < count; i++) {
        top = fmax(top, (double)w[i]);
    }
    double total = 0.0;
    for (int64_t i = 0; i < count; i++) {
        total += exp((double)w[i] - top);
    }
    return (float)(exp((double)w[index] - top) / total);
}

int ser_cpu_layer_mix_fwd(ser_queue *queue, const ser_layer_mix_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const float weight = mix_weight(args->w.data, args->w.cols, args->index);
    const int64_t n = args->x.cols;
    const int64_t padded = args->rows.padded;
    for (int64_t r = 0; r < args->rows.batch * padded; r++) {
        float *y = (float *)args->y.data + r * n;
        if (args->index == 0) {
            memset(y, 0, (size_t)n * sizeof(float));
        }
        if (r % padded < args->rows.valid[r / padded]) {
            kernels->axpy(weight, (const float *)args->x.data + r * n, n, y);
        }
    }
    return 0;
}
