/* SPDX-License-Identifier: MIT */
/* What the loss compares a clip's probabilities with. */
#ifndef SER_TRAIN_TARGETS_H
#define SER_TRAIN_TARGETS_H

#include <stddef.h>

#include <ser/train.h>

typedef struct ser_target_rules {
    size_t labels;
    double smoothing;           /* e */
    const float *class_weights; /* w [labels], or NULL: all 1 */
} ser_target_rules;

/*
 * Label y, class weights w, smoothing e over the K classes that the clip's corpus has:
 *     targets_k = weight ((1 - e) w_y [k == y] + e / K w_k),  weight_sum = weight w_y
 * as PyTorch's cross_entropy; with soft targets t, y's place is taken by their mean:
 *     targets_k = weight w_k ((1 - e) t_k + e / K sum t),  weight_sum = weight sum_k w_k t_k
 * Zeros for a clip with neither, and in classes that the corpus lacks. `place` is the clip's in the
 * batch, for messages. Errors: ARGUMENT.
 */
int ser_targets_make(const ser_target_rules *rules, const ser_clip *clip, size_t place,
                     float *targets, double *weight_sum);

#endif
