/* SPDX-License-Identifier: MIT */
/* convolutions.h without a library: there is no fused plan for anything. */
#include "ops/cuda/convolutions.h"

#include "base/fail.h"

bool ser_convolution_ready(cuda_queue *queue, const ser_conv_args *args)
{
    (void)queue;
    (void)args;
    return false;
}

size_t ser_convolutions_scratch(const ser_queue *queue, const ser_conv_args *args)
{
    (void)queue;
    (void)args;
    return 0;
}

int ser_convolution_run(cuda_queue *queue, const ser_conv_args *args)
{
    (void)queue;
    (void)args;
    return ser_fail(SER_ERR_INTERNAL, "conv: there is no fused plan");
}

void ser_convolutions_free(ser_convolutions *convolutions)
{
    (void)convolutions;
}
