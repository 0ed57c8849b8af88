/* SPDX-License-Identifier: MIT */
/*
 * Vectors of SER_LANES floats by GCC's vector extension, and the functions of them that several
 * kernels need. Only for files that are compiled once per instruction set, with SER_ISA and
 * SER_LANES set by the build (kernels.c, kernels_training.c).
 */
#ifndef SER_OPS_CPU_VECTOR_H
#define SER_OPS_CPU_VECTOR_H

#include <float.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "ops/ops.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b)  JOIN_(a, b)
#define TEXT_(a)    #a
#define TEXT(a)     TEXT_(a)

enum { LANES = SER_LANES };

typedef float vec __attribute__((vector_size(SER_LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(SER_LANES * 4)));
typedef uint64_t lvec __attribute__((vector_size(SER_LANES * 4))); /* half as many lanes */
typedef double dvec __attribute__((vector_size(SER_LANES * 4)));   /* half as many lanes */

static inline vec load(const float *x)
{
    vec v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline void store(float *x, vec v)
{
    memcpy(x, &v, sizeof v);
}

static inline vec splat(float x)
{
    return x - (vec){0};
}

static inline vec select_vec(ivec mask, vec yes, vec no)
{
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

/* a < b ? a : b and a > b ? a : b: of NaN and another number, b. */
static inline vec min_vec(vec a, vec b)
{
#if SER_LANES == 16 && defined(__AVX512F__)
    return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif SER_LANES == 8 && defined(__AVX__)
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif SER_LANES == 4 && defined(__SSE2__)
    return (vec)_mm_min_ps((__m128)a, (__m128)b);
#else
    return select_vec(a < b, a, b);
#endif
}

static inline vec max_vec(vec a, vec b)
{
#if SER_LANES == 16 && defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif SER_LANES == 8 && defined(__AVX__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif SER_LANES == 4 && defined(__SSE2__)
    return (vec)_mm_max_ps((__m128)a, (__m128)b);
#else
    return select_vec(a > b, a, b);
#endif
}

/* Sum of the lanes, always in the same order. */
static inline float sum_lanes(vec v)
{
    float x[LANES];
    store(x, v);
    for (int step = LANES / 2; step > 0; step /= 2) {
        for (int i = 0; i < step; i++) {
            x[i] += x[i + step];
        }
    }
    return x[0];
}

/* The first n (< LANES) floats, the rest `fill`. */
static inline vec load_part(const float *x, int64_t n, float fill)
{
    vec v = splat(fill);
    memcpy(&v, x, (size_t)n * sizeof(float));
    return v;
}

static inline void store_part(float *x, vec v, int64_t n)
{
    memcpy(x, &v, (size_t)n * sizeof(float));
}

/* Sum over a row of (x - shift)^power, power 1 or 2. */
static inline float sum_row(const float *x, float shift, int power, int64_t n)
{
    vec total = splat(0.0F);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec v = load(x + i) - shift;
        total += power == 2 ? v * v : v;
    }
    if (i < n) {
        vec v = load_part(x + i, n - i, shift) - shift;
        total += power == 2 ? v * v : v;
    }
    return sum_lanes(total);
}

/* Square roots, correctly rounded. */
static inline vec sqrt_vec(vec x)
{
#if SER_LANES == 16 && defined(__AVX512F__)
    return (vec)_mm512_sqrt_ps((__m512)x);
#elif SER_LANES == 8 && defined(__AVX__)
    return (vec)_mm256_sqrt_ps((__m256)x);
#elif SER_LANES == 4 && defined(__SSE2__)
    return (vec)_mm_sqrt_ps((__m128)x);
#else
    for (int i = 0; i < LANES; i++) {
        x[i] = __builtin_sqrtf(x[i]);
    }
    return x;
#endif
}

/* 64-bit products of the low halves of the lanes. */
static inline lvec multiply_low(lvec a, lvec b)
{
#if SER_LANES == 16 && defined(__AVX512F__)
    return (lvec)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif SER_LANES == 8 && defined(__AVX2__)
    return (lvec)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif SER_LANES == 4 && defined(__SSE2__)
    return (lvec)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & UINT32_MAX) * (b & UINT32_MAX);
#endif
}

/* a0, b0, a1, b1 ... */
static inline void store_interleaved(uint64_t *to, lvec a, lvec b)
{
#if SER_LANES == 16
    lvec low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    lvec high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif SER_LANES == 8
    lvec low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    lvec high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#else
    lvec low = __builtin_shufflevector(a, b, 0, 2);
    lvec high = __builtin_shufflevector(a, b, 1, 3);
#endif
    memcpy(to, &low, sizeof low);
    memcpy(to + LANES / 2, &high, sizeof high);
}

/*
 * e^x = 2^n e^r with n = round(x / ln 2), r = x - n ln 2 within +-ln 2 / 2; Taylor to degree 6
 * leaves a relative error of 2e-7. Clamped to the range where 2^n is a normal float.
 */
static inline vec exp_vec(vec x)
{
    x = select_vec(x < -87.0F, splat(-87.0F), x); /* keeps NaN */
    x = select_vec(x > 88.0F, splat(88.0F), x);
    const float magic =
        12582912.0F; /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    vec shifted = x * 1.44269504F + magic;
    vec n = shifted - magic;
    vec r = x - n * 0.693359375F; /* ln 2 in two parts, the first exact in few bits */
    r = r + n * 2.12194440e-4F;
    vec p = splat(1.0F / 720.0F);
    p = p * r + 1.0F / 120.0F;
    p = p * r + 1.0F / 24.0F;
    p = p * r + 1.0F / 6.0F;
    p = p * r + 0.5F;
    p = p * r + 1.0F;
    p = p * r + 1.0F;
    ivec power = (((ivec)shifted - (ivec)splat(magic)) + 127) << 23;
    return p * (vec)power;
}

/*
 * Phi(x) - 1/2, Phi the normal distribution function: x P(x^2) / Q(x^2) on |x| <= 5.6, where it has
 * become 1/2 to f32's last bit; P and Q fitted for least relative error, 6e-8.
 */
static inline vec half_normal_vec(vec x)
{
    vec c = min_vec(max_vec(x, splat(-5.6F)), splat(5.6F));
    vec s = c * c;
    vec p = splat(1.077410783e-10F);
    p = p * s - 2.15327264e-08F;
    p = p * s + 3.192330679e-06F;
    p = p * s + 1.698399276e-04F;
    p = p * s + 4.511269327e-03F;
    p = p * s + 3.596714012e-02F;
    p = p * s + 3.989422574e-01F;
    vec q = splat(6.173522986e-05F);
    q = q * s + 1.831180384e-03F;
    q = q * s + 2.911420815e-02F;
    q = q * s + 2.568219814e-01F;
    q = q * s + 1.0F;
    return min_vec(max_vec(c * p / q, splat(-0.5F)), splat(0.5F));
}

/* GELU(x) = x Phi(x) (Hendrycks & Gimpel 2016, the exact erf form). */
static inline vec gelu_vec(vec x)
{
    return x * (half_normal_vec(x) + 0.5F);
}

/* tanh(x) = 1 - 2 / (e^2x + 1); absolute error 1e-7 */
static inline vec tanh_vec(vec x)
{
    return 1.0F - 2.0F / (exp_vec(x + x) + 1.0F);
}

static inline vec activate(vec x, int32_t activation)
{
    switch (activation) {
    case SER_ACT_GELU: return gelu_vec(x);
    case SER_ACT_RELU: return select_vec(x < 0.0F, splat(0.0F), x); /* keeps NaN */
    case SER_ACT_TANH: return tanh_vec(x);
    default: return x;
    }
}

#endif
