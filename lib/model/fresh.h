/* SPDX-License-Identifier: MIT */
/* Weights that no file gives: drawn from a seed. */
#ifndef SER_MODEL_FRESH_H
#define SER_MODEL_FRESH_H

#include <stdint.h>

#include "net/params.h"

/* First values of parameter `index` of a network that consists of `params`. */
int ser_fresh_values(const ser_params *params, size_t index, uint64_t seed, float *values);

#endif
