/* SPDX-License-Identifier: MIT */
#include "train/schedule.h"

#include <math.h>

#include <ser/train.h>

static const double pi = 3.14159265358979323846;

static double fall(int32_t schedule, double u)
{
    if (schedule == SER_SCHEDULE_CONSTANT) {
        return 1.0;
    }
    return schedule == SER_SCHEDULE_LINEAR ? 1.0 - u : 0.5 * (1.0 + cos(pi * u));
}

double ser_schedule_factor(int32_t schedule, int64_t warmup, int64_t steps, int64_t step)
{
    int64_t w = warmup >= 0 ? warmup : steps / 10;
    double rise = step < w ? (double)(step + 1) / (double)w : 1.0;
    double u = 0.0;
    if (step >= steps) {
        u = 1.0;
    } else if (step > w) {
        u = (double)(step - w) / (double)(steps - w);
    }
    return fmin(rise, fall(schedule, u));
}
