/* SPDX-License-Identifier: MIT */
/* How the learning rate changes over a run. */
#ifndef SER_TRAIN_SCHEDULE_H
#define SER_TRAIN_SCHEDULE_H

#include <stdint.h>

/*
 * The factor on every rate for update `step` (0 is the first) of `steps`:
 *
 *     min(rise, fall),  rise = (step + 1) / warmup                  (1 without warm-up)
 *                       u    = (step - warmup) / (steps - warmup)   clamped to 0..1
 *                       fall = 1, 1 - u or (1 + cos(pi u)) / 2
 *
 * No update of the run has the factor 0, neither the first nor the last. After the run a linear or
 * cosine schedule stays at 0. `warmup` -1 is a tenth of `steps`.
 */
double ser_schedule_factor(int32_t schedule, int64_t warmup, int64_t steps, int64_t step);

#endif
