/* SPDX-License-Identifier: MIT */
/* p_k = exp(z_k) / sum_j exp(z_j) over the unmasked classes, with the largest z subtracted first;
 * loss = -sum_k t_k log p_k. */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu.h"

/* Row b of a [batch, K] matrix, NULL where it is absent. */
static float *row_of(const ser_tensor *x, int64_t b)
{
    return x->data != NULL ? (float *)x->data + b * x->cols : NULL;
}

/* The unmasked logits side by side at the front of p; returns their number. */
static int64_t gather(const float *z, const float *mask, int64_t classes, float *p)
{
    int64_t count = 0;
    for (int64_t k = 0; k < classes; k++) {
        if (mask[k] != 0.0F) {
            p[count++] = z[k];
        }
    }
    return count;
}

/* The reverse, from the back, with zeros for masked classes. */
static void scatter(const float *mask, int64_t classes, int64_t count, float *p)
{
    for (int64_t k = classes - 1; k >= 0; k--) {
        p[k] = mask[k] != 0.0F ? p[--count] : 0.0F;
    }
}

/* From the logits, since a probability may have become 0: log p_k = z_k - log sum_j exp(z_j). */
static float loss_of(const float *z, const float *mask, const float *targets, int64_t classes)
{
    double top = -INFINITY;
    for (int64_t k = 0; k < classes; k++) {
        if (mask == NULL || mask[k] != 0.0F) {
            top = fmax(top, (double)z[k]);
        }
    }
    double total = 0.0;
    double product = 0.0;
    double target = 0.0;
    for (int64_t k = 0; k < classes; k++) {
        if (mask == NULL || mask[k] != 0.0F) {
            const double shifted = (double)z[k] - top;
            total += exp(shifted);
            product += (double)targets[k] * shifted;
            target += (double)targets[k];
        }
    }
    return total > 0.0 ? (float)(target * log(total) - product) : (float)total;
}

int ser_cpu_cross_entropy_fwd(ser_queue *queue, const ser_cross_entropy_args *args)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t classes = args->logits.cols;
    for (int64_t b = 0; b < args->logits.rows; b++) {
        const float *z = row_of(&args->logits, b);
        const float *mask = row_of(&args->mask, b);
        float *p = row_of(&args->probabilities, b);
        if (mask == NULL) {
            memcpy(p, z, (size_t)classes * sizeof(float));
            kernels->softmax(p, classes, 1.0F);
        } else {
            const int64_t count = gather(z, mask, classes, p);
            if (count > 0) {
                kernels->softmax(p, count, 1.0F);
            }
            scatter(mask, classes, count, p);
        }
        if (args->loss.data != NULL) {
            ((float *)args->loss.data)[b] = loss_of(z, mask, row_of(&args->targets, b), classes);
        }
    }
    return 0;
}

/* dloss / dz_k = p_k sum_j t_j - t_k */
int ser_cpu_cross_entropy_bwd(ser_queue *queue, const ser_cross_entropy_args *args)
{
    (void)queue;
    const int64_t classes = args->probabilities.cols;
    for (int64_t b = 0; b < args->probabilities.rows; b++) {
        const float *p = row_of(&args->probabilities, b);
        const float *targets = row_of(&args->targets, b);
        float *dlogits = row_of(&args->dlogits, b);
        double target = 0.0;
        for (int64_t k = 0; k < classes; k++) {
            target += (double)targets[k];
        }
        const float *loss = row_of(&args->loss, b);
        const double scale = loss == NULL || isfinite(*loss) ? (double)args->scale : (double)NAN;
        for (int64_t k = 0; k < classes; k++) {
            dlogits[k] = (float)(scale * ((double)p[k] * target - (double)targets[k]));
        }
    }
    return 0;
}
