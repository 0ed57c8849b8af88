/* SPDX-License-Identifier: MIT */
#ifndef SER_OPS_CUDA_WAVE_BACKWARD_CUH
#define SER_OPS_CUDA_WAVE_BACKWARD_CUH

#include "ops/ops.h"

/* Bytes that wave_conv's backward needs; 0 where the arguments are forward's. */
size_t ser_wave_backward_scratch(const ser_wave_conv_args *args);

#endif
