/* SPDX-License-Identifier: MIT */
/* Compiled once per instruction set, like kernels.c. */
#include "ops/cpu/kernels_training.h"

#include "ops/cpu/vector.h"

/* Rows are taken in pieces whose random numbers and values stay in the first-level cache. */
enum { PIECE = 512 };

/* A pass of Philox makes two vectors of blocks, whose chains of multiplications run side by side. */
enum { BLOCKS_PER_PASS = SER_LANES, NUMBERS_PER_PASS = 8 * SER_LANES, ROUNDS = 10 };

/* The 16-bit numbers of up to PIECE elements, which may start within a block of 8. */
typedef struct numbers {
    uint16_t value[PIECE + 8 + NUMBERS_PER_PASS];
} numbers;

/* What all blocks of a dropout share: the halves of the key in each round, those of the stream. */
typedef struct philox {
    lvec key[ROUNDS][2];
    lvec stream[2];
} philox;

static void philox_start(const ser_dropout_mask *mask, philox *p)
{
    const lvec zero = {0};
    uint32_t key0 = (uint32_t)mask->seed;
    uint32_t key1 = (uint32_t)(mask->seed >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        p->key[round][0] = zero + key0;
        p->key[round][1] = zero + key1;
        key0 += 0x9E3779B9U;
        key1 += 0xBB67AE85U;
    }
    p->stream[0] = zero + (mask->stream & UINT32_MAX);
    p->stream[1] = zero + (mask->stream >> 32);
}

/*
 * Philox4x32-10 (Salmon et al. 2011), one block per 64-bit lane; each of the four words lives in a
 * low half, and the high halves hold what the multiplication ignores. base/rng.c says the same with
 * Random123. Blocks lie in memory word after word, so little-endian 16-bit reads give the low half
 * of each word first.
 */
static inline void philox_pass(const philox *p, lvec block, uint16_t *to)
{
    const lvec zero = {0};
    lvec c[2][4];
    for (int j = 0; j < 2; j++) {
        c[j][0] = block + (uint64_t)(j * LANES / 2);
        c[j][1] = c[j][0] >> 32;
        c[j][2] = p->stream[0];
        c[j][3] = p->stream[1];
    }
#pragma GCC unroll 10
    for (int round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            lvec p0 = multiply_low(c[j][0], zero + UINT64_C(0xD2511F53));
            lvec p1 = multiply_low(c[j][2], zero + UINT64_C(0xCD9E8D57));
            c[j][0] = (p1 >> 32) ^ c[j][1] ^ p->key[round][0];
            c[j][2] = (p0 >> 32) ^ c[j][3] ^ p->key[round][1];
            c[j][1] = p1;
            c[j][3] = p0;
        }
    }
    uint64_t words[2][LANES];
    for (int j = 0; j < 2; j++) {
        store_interleaved(words[j], (c[j][0] & UINT32_MAX) | c[j][1] << 32,
                          (c[j][2] & UINT32_MAX) | c[j][3] << 32);
    }
    memcpy(to, words, sizeof words);
}

/* The numbers of elements first .. first + n - 1; returns where the first one stands. */
static const uint16_t *draw(const philox *p, uint64_t first, int64_t n, numbers *to)
{
    const int64_t skip = (int64_t)(first % 8);
    lvec block = {0};
    for (int i = 0; i < LANES / 2; i++) {
        block[i] = first / 8 + (uint64_t)i;
    }
    for (int64_t i = 0; i < skip + n; i += NUMBERS_PER_PASS) {
        philox_pass(p, block, to->value + i);
        block += BLOCKS_PER_PASS;
    }
    return to->value + skip;
}

/* 0 or mask->scale for n (<= LANES) elements; only the first n mean something. */
static inline vec factor_of(const ser_dropout_mask *mask, const uint16_t *number, int64_t n)
{
    typedef uint16_t hvec __attribute__((vector_size(SER_LANES * 2)));
    hvec narrow = {0};
    if (n == LANES) {
        memcpy(&narrow, number, sizeof narrow);
    } else {
        memcpy(&narrow, number, (size_t)n * sizeof *number);
    }
    ivec wide = __builtin_convertvector(narrow, ivec);
    return select_vec(wide < mask->threshold, splat(0.0F), splat(mask->scale));
}

/* How many elements until the next piece, which starts on a whole block of random numbers. */
static inline int64_t piece_of(uint64_t first, int64_t n, int64_t done)
{
    int64_t piece = PIECE - (int64_t)((first + (uint64_t)done) % 8);
    return n - done < piece ? n - done : piece;
}

/* n <= LANES floats; a constant LANES costs nothing. */
static inline vec load_up_to(const float *x, int64_t n)
{
    return n == LANES ? load(x) : load_part(x, n, 0.0F);
}

static inline void store_up_to(float *x, vec v, int64_t n)
{
    if (n == LANES) {
        store(x, v);
    } else {
        store_part(x, v, n);
    }
}

/* GELU'(x) = Phi(x) + x phi(x); x phi(x) is 0 to f32's last bit beyond 14. */
static inline vec gelu_slope(vec x)
{
    vec c = select_vec(x > 14.0F, splat(14.0F), x); /* keeps NaN */
    c = select_vec(c < -14.0F, splat(-14.0F), c);
    return half_normal_vec(x) + 0.5F + c * 0.398942280F * exp_vec(c * c * -0.5F);
}

static inline vec slope(vec x, int32_t activation)
{
    switch (activation) {
    case SER_ACT_GELU: return gelu_slope(x);
    case SER_ACT_RELU: return select_vec(x > 0.0F, splat(1.0F), splat(0.0F));
    case SER_ACT_TANH: {
        vec t = tanh_vec(x);
        return 1.0F - t * t;
    }
    default: return splat(1.0F);
    }
}

/* n <= LANES elements from `at` on; `number` is the first one's. */
static inline void dropout_step(const ser_dropout_row *row, int64_t at, const uint16_t *number,
                                int64_t n)
{
    vec v = activate(load_up_to(row->x + at, n), row->activation);
    if (row->mask != NULL) {
        v *= factor_of(row->mask, number, n);
    }
    if (row->base != NULL) {
        v += load_up_to(row->base + at, n);
    }
    store_up_to(row->y + at, v, n);
}

static inline void dropout_bwd_step(const ser_dropout_row *row, int64_t at, const uint16_t *number,
                                    int64_t n)
{
    vec v = load_up_to(row->dy + at, n);
    if (row->mask != NULL) {
        v *= factor_of(row->mask, number, n);
    }
    if (row->activation != SER_ACT_NONE) {
        v *= slope(load_up_to(row->x + at, n), row->activation);
    }
    if (row->again != NULL) {
        vec y = activate(load_up_to(row->x + at, n), row->activation);
        if (row->mask != NULL) {
            y *= factor_of(row->mask, number, n);
        }
        store_up_to(row->again + at, y, n);
    }
    store_up_to(row->y + at, v, n);
}

static void dropout(const ser_dropout_row *args)
{
    const ser_dropout_row row = *args; /* a copy that no store can change */
    philox generator;
    numbers buffer;
    const uint16_t *number = buffer.value;
    if (row.mask != NULL) {
        philox_start(row.mask, &generator);
    }
    for (int64_t done = 0; done < row.n;) {
        const int64_t piece = piece_of(row.first, row.n, done);
        if (row.mask != NULL) {
            number = draw(&generator, row.first + (uint64_t)done, piece, &buffer);
        }
        int64_t i = 0;
        for (; i + LANES <= piece; i += LANES) {
            dropout_step(&row, done + i, number + i, LANES);
        }
        if (i < piece) {
            dropout_step(&row, done + i, number + i, piece - i);
        }
        done += piece;
    }
}

static void dropout_bwd(const ser_dropout_row *args)
{
    const ser_dropout_row row = *args;
    philox generator;
    numbers buffer;
    const uint16_t *number = buffer.value;
    if (row.mask != NULL) {
        philox_start(row.mask, &generator);
    }
    for (int64_t done = 0; done < row.n;) {
        const int64_t piece = piece_of(row.first, row.n, done);
        if (row.mask != NULL) {
            number = draw(&generator, row.first + (uint64_t)done, piece, &buffer);
        }
        int64_t i = 0;
        for (; i + LANES <= piece; i += LANES) {
            dropout_bwd_step(&row, done + i, number + i, LANES);
        }
        if (i < piece) {
            dropout_bwd_step(&row, done + i, number + i, piece - i);
        }
        done += piece;
    }
}

static void norm_stats(const float *x, int64_t n, float eps, float stats[2])
{
    float mean = sum_row(x, 0.0F, 1, n) / (float)n;
    float variance = sum_row(x, mean, 2, n) / (float)n;
    stats[0] = mean;
    stats[1] = 1.0F / __builtin_sqrtf(variance + eps);
}

static inline vec norm_dy(const ser_norm_row *row, int64_t i, int64_t n)
{
    const vec dy = load_up_to(row->dy + i, n);
    return row->dy2 != NULL ? dy + load_up_to(row->dy2 + i, n) : dy;
}

/* Sums over the row of g = dy gamma and of g xhat; dgamma += dy xhat, dbeta += dy on the way. */
static inline void norm_sums_step(const ser_norm_row *row, int64_t i, int64_t n, vec sums[2])
{
    vec xhat = (load_up_to(row->x + i, n) - row->mean) * row->inverse;
    vec dy = norm_dy(row, i, n);
    vec g = dy * load_up_to(row->gamma + i, n);
    sums[0] += g;
    sums[1] += g * xhat;
    if (row->dgamma != NULL) {
        store_up_to(row->dgamma + i, load_up_to(row->dgamma + i, n) + dy * xhat, n);
    }
    if (row->dbeta != NULL) {
        store_up_to(row->dbeta + i, load_up_to(row->dbeta + i, n) + dy, n);
    }
}

/* dx = add + inverse (g - mean(g) - xhat mean(g xhat)) */
static inline void norm_dx_step(const ser_norm_row *row, int64_t i, int64_t n, const float means[2])
{
    vec xhat = (load_up_to(row->x + i, n) - row->mean) * row->inverse;
    vec g = norm_dy(row, i, n) * load_up_to(row->gamma + i, n);
    vec dx = (g - means[0] - xhat * means[1]) * row->inverse;
    if (row->add != NULL) {
        dx += load_up_to(row->add + i, n);
    }
    store_up_to(row->dx + i, dx, n);
}

static void norm_bwd(const ser_norm_row *args)
{
    const ser_norm_row row = *args;
    vec sums[2] = {{0}, {0}};
    int64_t i = 0;
    for (; i + LANES <= row.n; i += LANES) {
        norm_sums_step(&row, i, LANES, sums);
    }
    if (i < row.n) {
        norm_sums_step(&row, i, row.n - i, sums);
    }
    if (row.dx == NULL) {
        return;
    }
    const float means[2] = {sum_lanes(sums[0]) / (float)row.n, sum_lanes(sums[1]) / (float)row.n};
    for (i = 0; i + LANES <= row.n; i += LANES) {
        norm_dx_step(&row, i, LANES, means);
    }
    if (i < row.n) {
        norm_dx_step(&row, i, row.n - i, means);
    }
}

static float max(const float *x, int64_t n)
{
    vec top = splat(-FLT_MAX);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        top = max_vec(top, load(x + i));
    }
    if (i < n) {
        top = max_vec(top, load_part(x + i, n - i, -FLT_MAX));
    }
    float result = top[0];
    for (int j = 1; j < LANES; j++) {
        result = top[j] > result ? top[j] : result;
    }
    return result;
}

/* P = e^(scale s - lse); dropped probabilities f P; ds = scale P (f dp - dot) */
static inline void score_step(const ser_score_row *row, int64_t at, const uint16_t *number,
                              int64_t n)
{
    vec p = exp_vec(load_up_to(row->scores + at, n) * row->scale - row->lse);
    vec dp = load_up_to(row->dp + at, n);
    vec kept = p;
    if (row->mask != NULL) {
        vec factor = factor_of(row->mask, number, n);
        kept *= factor;
        dp *= factor;
    }
    store_up_to(row->scores + at, kept, n);
    store_up_to(row->dp + at, p * (dp - row->dot) * row->scale, n);
}

static void score_bwd(const ser_score_row *args)
{
    const ser_score_row row = *args;
    philox generator;
    numbers buffer;
    const uint16_t *number = buffer.value;
    if (row.mask != NULL) {
        philox_start(row.mask, &generator);
    }
    for (int64_t done = 0; done < row.n;) {
        const int64_t piece = piece_of(row.first, row.n, done);
        if (row.mask != NULL) {
            number = draw(&generator, row.first + (uint64_t)done, piece, &buffer);
        }
        int64_t i = 0;
        for (; i + LANES <= piece; i += LANES) {
            score_step(&row, done + i, number + i, LANES);
        }
        if (i < piece) {
            score_step(&row, done + i, number + i, piece - i);
        }
        done += piece;
    }
}

/* In double: squares of large gradients leave the range of float. */
static double sum_squares(const float *x, int64_t n)
{
    typedef float fvec __attribute__((vector_size(SER_LANES * 2)));
    dvec total[2] = {{0}, {0}};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        fvec half[2];
        memcpy(half, x + i, sizeof half);
        dvec a = __builtin_convertvector(half[0], dvec);
        dvec b = __builtin_convertvector(half[1], dvec);
        total[0] += a * a;
        total[1] += b * b;
    }
    total[0] += total[1];
    double sum = 0.0;
    for (int j = 0; j < LANES / 2; j++) {
        sum += total[0][j];
    }
    for (; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return sum;
}

static inline void adamw_step(const ser_adamw_run *run, int64_t i, int64_t n)
{
    vec g = load_up_to(run->gradient + i, n) * run->gradient_scale;
    vec m = load_up_to(run->m + i, n) * run->beta1 + g * run->rest1;
    vec v = load_up_to(run->v + i, n) * run->beta2 + g * g * run->rest2;
    vec w = load_up_to(run->w + i, n);
    w -= w * run->shrink;
    w -= m * run->rate / (sqrt_vec(v * run->correction2) + run->eps);
    store_up_to(run->m + i, m, n);
    store_up_to(run->v + i, v, n);
    store_up_to(run->w + i, w, n);
    if (run->ema != NULL) {
        vec ema = load_up_to(run->ema + i, n);
        store_up_to(run->ema + i, ema * run->average + w * (1.0F - run->average), n);
    }
}

static void adamw(const ser_adamw_run *args)
{
    const ser_adamw_run run = *args;
    int64_t i = 0;
    for (; i + LANES <= run.n; i += LANES) {
        adamw_step(&run, i, LANES);
    }
    if (i < run.n) {
        adamw_step(&run, i, run.n - i);
    }
}

const ser_training_kernels JOIN(ser_training_kernels_, SER_ISA) = {
    .name = TEXT(SER_ISA),
    .dropout = dropout,
    .dropout_bwd = dropout_bwd,
    .norm_stats = norm_stats,
    .norm_bwd = norm_bwd,
    .max = max,
    .score_bwd = score_bwd,
    .sum_squares = sum_squares,
    .adamw = adamw,
};
