/* SPDX-License-Identifier: MIT */
/* GELU at the price that its result's type is worth; wave_conv is bound by it. */
#ifndef SER_OPS_CUDA_WAVE_GELU_CUH
#define SER_OPS_CUDA_WAVE_GELU_CUH

#include "ops/cuda/launch.cuh"

/* The result's rounding hides what is left out: see the specialisation. */
template <typename T> __device__ __forceinline__ float gelu_for(float x)
{
    return gelu(x);
}

/*
 * With a = |x| the exact GELU is max(x, 0) - a Phi(-a), without cancellation on either side. Here
 * log2 Phi(-a) is a polynomial of degree 5, minimax on [0, 5.5] and falling ever faster beyond.
 * What is subtracted is right to 1.1e-4 of itself up to a = 3, and to 1.6e-5 everywhere: a
 * thirtieth of bf16's rounding, 2^-8. Nine instructions; erff alone needs more than twice as many.
 */
template <> __device__ __forceinline__ float gelu_for<bf16>(float x)
{
    const float a = fabsf(x);
    float p = -0.000300854503f;
    p = fmaf(p, a, 0.00564637035f);
    p = fmaf(p, a, -0.0476549454f);
    p = fmaf(p, a, -0.464885086f);
    p = fmaf(p, a, -1.14882362f);
    p = fmaf(p, a, -1.00014865f);
    return fmaf(-a, power_of_2(p), fmaxf(x, 0.0f));
}

#endif
