/* SPDX-License-Identifier: MIT */
/* Mean and deviation of every log-mel bin over many clips, each with its own level taken out. */
#ifndef SER_TRAIN_LEVELS_H
#define SER_TRAIN_LEVELS_H

#include <stdint.h>

#include "net/arch.h"
#include "ops/device.h"

typedef struct ser_levels ser_levels;

/* The log-mels of `arch`, on `device`, which must outlive it. */
int ser_levels_create(const ser_device *device, const ser_arch *arch, ser_levels **levels);
void ser_levels_free(ser_levels *levels);

/* Add `count` clips of at least the least number of samples. NUMERIC, naming the clip by `ids`, if the
 * log-mels are not finite; nothing is added then. */
int ser_levels_add(ser_levels *levels, const float *const *samples, const int64_t *lengths,
                   const uint64_t *ids, int64_t count);

/* mean[k] and std[k] over all frames of all clips. A bin that never changes has std 1. */
void ser_levels_result(const ser_levels *levels, float *mean, float *std);

#endif
