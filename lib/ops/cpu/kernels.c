/* SPDX-License-Identifier: MIT */
/*
 * Compiled once per instruction set with SER_ISA (a name) and SER_LANES (floats per vector
 * register) set by the build. GCC's vector extension keeps the source the same for all.
 */
#include "ops/cpu/kernels.h"

#include <float.h>
#include <string.h>

#include "ops/ops.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b)  JOIN_(a, b)
#define TEXT_(a)    #a
#define TEXT(a)     TEXT_(a)

/* A tile of MR rows by two vectors fills the registers: 12 accumulators of 16, or 24 of 32. */
#if SER_LANES == 16
enum { LANES = 16, MR = 12, NR = 32 };
#else
enum { LANES = SER_LANES, MR = 6, NR = 2 * SER_LANES };
#endif

typedef float vec __attribute__((vector_size(SER_LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(SER_LANES * 4)));

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

static inline vec min_vec(vec a, vec b)
{
    return select_vec(a < b, a, b);
}

static inline vec max_vec(vec a, vec b)
{
    return select_vec(a > b, a, b);
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
 * GELU(x) = x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016, the exact erf
 * form). Phi(x) - 1/2 = x P(x^2) / Q(x^2) on |x| <= 5.6, where it has become 1/2 to f32's last bit;
 * P and Q fitted for least relative error, 6e-8.
 */
static inline vec gelu_vec(vec x)
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
    vec half = min_vec(max_vec(c * p / q, splat(-0.5F)), splat(0.5F));
    return x * (half + 0.5F);
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

static void bias_act(const float *x, const float *bias, int64_t n, int32_t activation, float *y)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec v = load(x + i);
        if (bias != NULL) {
            v += load(bias + i);
        }
        store(y + i, activate(v, activation));
    }
    if (i < n) {
        vec v = load_part(x + i, n - i, 0.0F);
        if (bias != NULL) {
            v += load_part(bias + i, n - i, 0.0F);
        }
        store_part(y + i, activate(v, activation), n - i);
    }
}

/* Rows of C that hang over the matrix's edge live in a buffer of one whole tile meanwhile. */
static void copy_tile(const float *from, int64_t from_ld, int32_t m, int32_t n, float *to,
                      int64_t ld)
{
    for (int32_t i = 0; i < m; i++) {
        memcpy(to + i * ld, from + i * from_ld, (size_t)n * sizeof(float));
    }
}

/* c[MR][ldc] (+)= a b, whole tile; the sum runs over k in order, so cutting k in blocks changes no
 * bit. */
static inline void multiply_tile(const float *restrict a, const float *restrict b, int64_t k,
                                 int32_t first, float *restrict c, int64_t ldc)
{
    vec sum[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
        sum[i][0] = first ? splat(0.0F) : load(c + i * ldc);
        sum[i][1] = first ? splat(0.0F) : load(c + i * ldc + LANES);
    }
#pragma GCC unroll 4 /* a quarter faster on Zen 3 than one step at a time */
    for (int64_t j = 0; j < k; j++) {
        vec b0 = load(b);
        vec b1 = load(b + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < MR; i++) {
            vec x = splat(a[i]);
            sum[i][0] += x * b0;
            sum[i][1] += x * b1;
        }
        a += MR;
        b += NR;
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
        store(c + i * ldc, sum[i][0]);
        store(c + i * ldc + LANES, sum[i][1]);
    }
}

static void gemm_tile(const ser_tile_args *args)
{
    float edge[MR * NR];
    const int whole = args->m == MR && args->n == NR;
    float *c = whole ? args->c : edge;
    const int64_t ldc = whole ? args->ldc : NR;
    if (!whole && !args->first) {
        memset(edge, 0, sizeof edge);
        copy_tile(args->c, args->ldc, args->m, args->n, edge, NR);
    }
    multiply_tile(args->a, args->b, args->k, args->first, c, ldc);
    if (args->last && (args->bias != NULL || args->activation != SER_ACT_NONE)) {
        for (int32_t i = 0; i < args->m; i++) {
            bias_act(c + i * ldc, args->bias, args->n, args->activation, c + i * ldc);
        }
    }
    if (!whole) {
        copy_tile(edge, NR, args->m, args->n, args->c, args->ldc);
    }
}

static void pack_rows(const float *restrict a, int64_t lda, int64_t m, int64_t k,
                      float *restrict to)
{
    if (m == MR) {
        for (int64_t j = 0; j < k; j++, to += MR) {
#pragma GCC unroll 16
            for (int64_t i = 0; i < MR; i++) {
                to[i] = a[i * lda + j];
            }
        }
        return;
    }
    for (int64_t j = 0; j < k; j++, to += MR) {
        for (int64_t i = 0; i < MR; i++) {
            to[i] = i < m ? a[i * lda + j] : 0.0F;
        }
    }
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

static void layer_norm(const float *x, const float *gamma, const float *beta, float eps, int64_t n,
                       int32_t activation, float *y)
{
    float mean = sum_row(x, 0.0F, 1, n) / (float)n;
    float variance = sum_row(x, mean, 2, n) / (float)n;
    float scale = 1.0F / __builtin_sqrtf(variance + eps);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec v = (load(x + i) - mean) * scale * load(gamma + i) + load(beta + i);
        store(y + i, activate(v, activation));
    }
    if (i < n) {
        vec v = (load_part(x + i, n - i, 0.0F) - mean) * scale * load_part(gamma + i, n - i, 0.0F) +
                load_part(beta + i, n - i, 0.0F);
        store_part(y + i, activate(v, activation), n - i);
    }
}

/* softmax(s x)_i = e^(s (x_i - max)) / sum_j e^(s (x_j - max)), s > 0 */
static void softmax(float *x, int64_t n, float scale)
{
    vec top = splat(-FLT_MAX);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        top = max_vec(top, load(x + i));
    }
    if (i < n) {
        top = max_vec(top, load_part(x + i, n - i, -FLT_MAX));
    }
    float lanes[LANES];
    store(lanes, top);
    float max = lanes[0];
    for (int j = 1; j < LANES; j++) {
        max = lanes[j] > max ? lanes[j] : max;
    }
    vec total = splat(0.0F);
    for (i = 0; i + LANES <= n; i += LANES) {
        vec e = exp_vec((load(x + i) - max) * scale);
        total += e;
        store(x + i, e);
    }
    if (i < n) {
        vec e = exp_vec((load_part(x + i, n - i, max) - max) * scale);
        store_part(x + i, e, n - i);
        total += load_part(x + i, n - i, 0.0F);
    }
    float inverse = 1.0F / sum_lanes(total);
    for (i = 0; i < n; i++) {
        x[i] *= inverse;
    }
}

static void add(const float *x, const float *y, int64_t n, float *sum)
{
    for (int64_t i = 0; i < n; i++) {
        sum[i] = x[i] + y[i];
    }
}

static void axpy(float a, const float *x, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i++) {
        y[i] += a * x[i];
    }
}

static float dot(const float *x, const float *y, int64_t n)
{
    vec total = splat(0.0F);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        total += load(x + i) * load(y + i);
    }
    if (i < n) {
        total += load_part(x + i, n - i, 0.0F) * load_part(y + i, n - i, 0.0F);
    }
    return sum_lanes(total);
}

const ser_kernels JOIN(ser_kernels_, SER_ISA) = {
    .name = TEXT(SER_ISA),
    .mr = MR,
    .nr = NR,
    .gemm_tile = gemm_tile,
    .pack_rows = pack_rows,
    .bias_act = bias_act,
    .layer_norm = layer_norm,
    .softmax = softmax,
    .add = add,
    .axpy = axpy,
    .dot = dot,
};
