/* SPDX-License-Identifier: MIT */
/* Inner loops of the backward ops and of the optimiser, one set per instruction set like
 * kernels.h. */
#ifndef SER_OPS_CPU_KERNELS_TRAINING_H
#define SER_OPS_CPU_KERNELS_TRAINING_H

#include <stddef.h>
#include <stdint.h>

typedef struct ser_training_kernels {
    const char *name;
} ser_training_kernels;

extern const ser_training_kernels ser_training_kernels_baseline;
extern const ser_training_kernels ser_training_kernels_v3;
extern const ser_training_kernels ser_training_kernels_v4;

#endif
