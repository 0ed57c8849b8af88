/* SPDX-License-Identifier: MIT */
#include "train/targets.h"

#include <math.h>
#include <stdbool.h>

#include "base/fail.h"

static bool has_class(const ser_clip *clip, size_t k)
{
    return clip->classes == NULL || clip->classes[k] != 0;
}

static size_t count_classes(const ser_target_rules *rules, const ser_clip *clip)
{
    size_t count = 0;
    for (size_t k = 0; k < rules->labels; k++) {
        count += has_class(clip, k) ? 1 : 0;
    }
    return count;
}

static int check_soft(const ser_target_rules *rules, const ser_clip *clip, size_t place)
{
    double sum = 0.0;
    for (size_t k = 0; k < rules->labels; k++) {
        const double t = (double)clip->targets[k];
        if (!(t >= 0.0 && t <= 1.0)) {
            return ser_fail(SER_ERR_ARGUMENT, "clip %zu: targets[%zu] is %g, must be 0..1", place,
                            k, t);
        }
        if (t > 0.0 && !has_class(clip, k)) {
            return ser_fail(SER_ERR_ARGUMENT,
                            "clip %zu: targets[%zu] is %g, but its classes leave that one out",
                            place, k, t);
        }
        sum += t;
    }
    return sum > 0.0 ? 0 : ser_fail(SER_ERR_ARGUMENT, "clip %zu: all targets are 0", place);
}

static int check(const ser_target_rules *rules, const ser_clip *clip, size_t place)
{
    if (!(clip->weight >= 0.0F) || !isfinite(clip->weight)) {
        return ser_fail(SER_ERR_ARGUMENT, "clip %zu: weight is %g, must be 0 or more and finite",
                        place, (double)clip->weight);
    }
    if (clip->label < -1 || clip->label >= (int32_t)rules->labels) {
        return ser_fail(SER_ERR_ARGUMENT, "clip %zu: label is %d, must be -1..%zu", place,
                        clip->label, rules->labels - 1);
    }
    if (count_classes(rules, clip) == 0) {
        return ser_fail(SER_ERR_ARGUMENT, "clip %zu: its classes leave every one out", place);
    }
    if (clip->label >= 0 && !has_class(clip, (size_t)clip->label)) {
        return ser_fail(SER_ERR_ARGUMENT, "clip %zu: its classes leave its label, %d, out", place,
                        clip->label);
    }
    return clip->targets != NULL ? check_soft(rules, clip, place) : 0;
}

static double weight_of(const ser_target_rules *rules, size_t k)
{
    return rules->class_weights != NULL ? (double)rules->class_weights[k] : 1.0;
}

/* The share of class k before smoothing. */
static double share_of(const ser_clip *clip, size_t k)
{
    if (clip->targets != NULL) {
        return (double)clip->targets[k];
    }
    return clip->label == (int32_t)k ? 1.0 : 0.0;
}

int ser_targets_make(const ser_target_rules *rules, const ser_clip *clip, size_t place,
                     float *targets, double *weight_sum)
{
    int status = check(rules, clip, place);
    if (status != 0) {
        return status;
    }
    const double weight = clip->weight == 0.0F ? 1.0 : (double)clip->weight;
    double total = 0.0;
    *weight_sum = 0.0;
    for (size_t k = 0; k < rules->labels; k++) {
        total += share_of(clip, k);
        *weight_sum += weight * weight_of(rules, k) * share_of(clip, k);
    }
    const double rest = rules->smoothing / (double)count_classes(rules, clip) * total;
    for (size_t k = 0; k < rules->labels; k++) {
        double t = (1.0 - rules->smoothing) * share_of(clip, k) + rest;
        targets[k] = has_class(clip, k) ? (float)(weight * weight_of(rules, k) * t) : 0.0F;
    }
    return 0;
}
