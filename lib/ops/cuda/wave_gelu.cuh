/* SPDX-License-Identifier: MIT */
/* GELU and its derivative at the price that their result's type is worth; wave_conv and dropout are
 * bound by them. */
#ifndef SER_OPS_CUDA_WAVE_GELU_CUH
#define SER_OPS_CUDA_WAVE_GELU_CUH

#include <float.h>

#include "ops/cuda/launch.cuh"

/*
 * log2 Phi(-a), a >= 0, as a polynomial of degree 5, minimax on [0, 5.5] and falling ever faster
 * beyond. Phi(-a) comes out right to 1.1e-4 of itself up to a = 3, and a Phi(-a) to 1.6e-5
 * everywhere: a thirtieth of bf16's rounding, 2^-8. -inf at infinity; NaN stays.
 */
__device__ __forceinline__ float log2_tail(float a)
{
    float p = -0.000300854503f;
    p = fmaf(p, a, 0.00564637035f);
    p = fmaf(p, a, -0.0476549454f);
    p = fmaf(p, a, -0.464885086f);
    p = fmaf(p, a, -1.14882362f);
    return fmaf(p, a, -1.00014865f);
}

/* a x, but 0 and not NaN for a = inf, x = 0. */
__device__ __forceinline__ float times_vanishing(float a, float x)
{
    return fminf(a, FLT_MAX) * x;
}

/* The result's rounding hides what is left out: see the specialisation. */
template <typename T> __device__ __forceinline__ float gelu_for(float x)
{
    return gelu(x);
}

/* With a = |x| the exact GELU is max(x, 0) - a Phi(-a), without cancellation on either side. Ten
 * instructions; erff alone needs more than twice as many. */
template <> __device__ __forceinline__ float gelu_for<bf16>(float x)
{
    const float a = fabsf(x);
    const float limit = fminf(a, FLT_MAX);
    return fmaf(-limit, power_of_2(log2_tail(a)), fmaxf(x, 0.0f));
}

/* The derivative for gradients of activations of type T. */
template <typename T> __device__ __forceinline__ float gelu_gradient_for(float x)
{
    return gelu_gradient(x);
}

/* d = Phi(-a) - a phi(a) for x < 0, else 1 - d: right to 1e-4, a fortieth of dy's rounding. */
template <> __device__ __forceinline__ float gelu_gradient_for<bf16>(float x)
{
    constexpr float LOG2_FACTOR = -1.32574806f;   /* log2 (1 / sqrt(2 pi)) */
    constexpr float LOG2_EXPONENT = -0.72134752f; /* -log2(e) / 2 */
    const float a = fabsf(x);
    const float phi = power_of_2(fmaf(LOG2_EXPONENT * a, a, LOG2_FACTOR));
    const float d = power_of_2(log2_tail(a)) - times_vanishing(a, phi);
    return x < 0.0f ? d : 1.0f - d;
}

#endif
