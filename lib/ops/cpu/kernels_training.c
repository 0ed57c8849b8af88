/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set, like kernels.c. */
#include "ops/cpu/kernels_training.h"

#include "ops/cpu/vector.h"

const ser_training_kernels JOIN(ser_training_kernels_, SER_ISA) = {
    .name = TEXT(SER_ISA),
};
