/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 3, PADDED = 23, TOTAL = BATCH * PADDED };
static const int32_t valid[] = {11, 1, 23}; /* the last rows count: there are the tails */

/* Even and odd halves of the seed and the counter, and a step beyond the 24 bits that count. */
static const ser_step step = {.seed = UINT64_C(0xFEDCBA9876543210),
                              .number = (UINT64_C(5) << 24) + 1234567};

/*
 * One rounding to bf16 is at most 2^-8 of the value, half of its last digit where the first is 1;
 * the f32 sums before it add little. Two f32 sums of up to 3000 terms differ by some 1e-6 of the
 * largest; a division by a small variance makes ten times as much of it.
 */
#define ONE_ROUNDING 3.92e-3
#define F32_SUMS     2e-5

static double once_rounded(int32_t type)
{
    return type == SER_BF16 ? ONE_ROUNDING : F32_SUMS;
}

/* Where sum and y go. */
enum { ABSENT, APART, ON_X, ON_H, PLACES };

typedef struct form {
    int64_t channels;
    int32_t type;
    bool h;
    int sum, y;
    bool stats;
    float p;
} form;

typedef struct tensors {
    twin x, h, gamma, beta, sum, y, stats;
    twin_rows rows;
} tensors;

static twin placed(int place, const tensors *t)
{
    switch (place) {
    case APART: return twin_output(t->x.cpu.rows, t->x.cpu.cols, t->x.gpu.type);
    case ON_X: return t->x;
    case ON_H: return t->h;
    default: return twin_absent();
    }
}

static tensors tensors_of(const form *f, int64_t batch, int64_t padded, const int32_t *lengths)
{
    tensors t = {.rows = twin_rows_of(batch, padded, lengths)};
    t.x = twin_input(batch * padded, f->channels, f->type, 1, 1.5F, 0);
    t.h = f->h ? twin_input(batch * padded, f->channels, f->type, 2, 1.0F, 0) : twin_absent();
    t.gamma = twin_input(1, f->channels, SER_F32, 3, 2.0F, 0);
    t.beta = twin_input(1, f->channels, SER_F32, 4, 1.0F, 0);
    t.sum = placed(f->sum, &t);
    t.y = placed(f->y, &t);
    t.stats = f->stats ? twin_output(batch * padded, 2, SER_F32) : twin_absent();
    return t;
}

static ser_residual_norm_args cpu_args(const form *f, const tensors *t)
{
    return (ser_residual_norm_args){
        .x = t->x.cpu,
        .h = t->h.cpu,
        .rows = t->rows.cpu,
        .gamma = t->gamma.cpu,
        .beta = t->beta.cpu,
        .eps = 1e-5F,
        .sum = t->sum.cpu,
        .y = t->y.cpu,
        .dropout = {.p = f->p, .op = 0xABCDEF, .step = &step},
        .stats = t->stats.cpu,
    };
}

static ser_residual_norm_args gpu_args(const form *f, const tensors *t)
{
    ser_residual_norm_args args = cpu_args(f, t);
    args.x = t->x.gpu;
    args.h = t->h.gpu;
    args.rows = t->rows.gpu;
    args.gamma = t->gamma.gpu;
    args.beta = t->beta.gpu;
    args.sum = t->sum.gpu;
    args.y = t->y.gpu;
    args.stats = t->stats.gpu;
    args.dropout.step = f->p > 0.0F ? gpu_copy(&step, sizeof step) : NULL;
    return args;
}

/* y and stats must be those of the sum that is in memory: the CPU's norm of the GPU's sum. */
static void norm_of_stored(const tensors *t)
{
    float *stored = gpu_values(&t->sum.gpu);
    ser_residual_norm_args args = {
        .x = ser_tensor_f32(stored, t->sum.gpu.rows, t->sum.gpu.cols),
        .rows = t->rows.cpu,
        .gamma = t->gamma.cpu,
        .beta = t->beta.cpu,
        .eps = 1e-5F,
        .y = t->y.cpu,
        .stats = t->stats.cpu,
    };
    args.sum = args.x; /* where y is absent */
    RUN_CPU(ser_residual_norm_fwd, &args);
}

static void check_results(const form *f, const tensors *t)
{
    if (f->sum != ABSENT) {
        twin_check("sum", &t->sum, &t->rows, once_rounded(f->type), false);
        twin_check_slack("sum", &t->sum);
        norm_of_stored(t);
    }
    if (f->y != ABSENT) {
        twin_check("y", &t->y, &t->rows, once_rounded(f->type), false);
        twin_check_slack("y", &t->y);
    }
    if (f->stats) {
        twin_check("stats", &t->stats, &t->rows, F32_SUMS, false);
        twin_check_slack("stats", &t->stats);
    }
}

static void check_form(const form *f)
{
    tensors t = tensors_of(f, BATCH, PADDED, valid);
    twin_fill_padding(&t.x, &t.rows, NAN);
    if (f->h) {
        twin_fill_padding(&t.h, &t.rows, NAN);
    }
    const ser_residual_norm_args on_cpu = cpu_args(f, &t);
    const ser_residual_norm_args on_gpu = gpu_args(f, &t);
    RUN_CPU(ser_residual_norm_fwd, &on_cpu);
    RUN_GPU(ser_residual_norm_fwd, &on_gpu);
    check_results(f, &t);
    twins_free();
}

/* Everything that may be absent or lie on an input. */
static void check_places(int64_t channels, int32_t type, float p)
{
    for (int sum = ABSENT; sum < PLACES; sum++) {
        for (int y = ABSENT; y < PLACES; y++) {
            const bool nothing = sum == ABSENT && y == ABSENT;
            const bool overlap = sum == y && sum != APART;
            if (nothing || overlap) {
                continue;
            }
            for (int h = sum == ON_H || y == ON_H; h < 2; h++) {
                const form f = {channels, type, h != 0, sum, y, y != ABSENT, p};
                check_form(&f);
            }
        }
    }
}

START_TEST(test_places)
{
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        check_places(24, type, 0.0F);
        check_places(24, type, 0.3F);
        check_places(7, type, 0.0F);
        check_places(7, type, 0.3F);
    }
}
END_TEST

/* 8 .. 2048 in registers, with the last pack of a row in every round; others in passes. */
START_TEST(test_sizes)
{
    const int64_t sizes[] = {1, 2, 8, 256, 264, 512, 768, 1024, 1030, 1280, 2048, 2056};
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const form stored = {sizes[i], type, true, APART, APART, true, 0.1F};
            const form plain = {sizes[i], type, true, ABSENT, APART, false, 0.0F};
            check_form(&stored);
            check_form(&plain);
        }
    }
}
END_TEST

/* So many rows that a block has several, the last one fewer: what lies behind x must not be
 * taken for rows. */
START_TEST(test_many_rows)
{
    static const int32_t lengths[] = {298, 7, 299};
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        for (int64_t channels = 7; channels <= 8; channels++) {
            const form f = {channels, type, true, APART, APART, true, 0.1F};
            tensors t = tensors_of(&f, 3, 299, lengths);
            t.x = twin_part(twin_input(3 * 299 + 8, channels, type, 1, 1.5F, 0), 0, 3 * 299);
            t.h = twin_part(twin_input(3 * 299 + 8, channels, type, 2, 1.0F, 0), 0, 3 * 299);
            const ser_residual_norm_args on_cpu = cpu_args(&f, &t);
            const ser_residual_norm_args on_gpu = gpu_args(&f, &t);
            RUN_CPU(ser_residual_norm_fwd, &on_cpu);
            RUN_GPU(ser_residual_norm_fwd, &on_gpu);
            check_results(&f, &t);
            twins_free();
        }
    }
}
END_TEST

/* sum = 0 + dropout(h) has the CPU's zeros, and its bits where nothing is rounded. */
static void check_dropped(int64_t channels, int32_t type, float p)
{
    const form f = {channels, type, true, APART, ABSENT, false, p};
    tensors t = tensors_of(&f, BATCH, PADDED, valid);
    float *zeros = calloc((size_t)(TOTAL * channels), sizeof *zeros);
    t.x = twin_values(TOTAL, channels, type, zeros);
    free(zeros);
    const ser_residual_norm_args on_cpu = cpu_args(&f, &t);
    const ser_residual_norm_args on_gpu = gpu_args(&f, &t);
    RUN_CPU(ser_residual_norm_fwd, &on_cpu);
    RUN_GPU(ser_residual_norm_fwd, &on_gpu);
    twin_check_dropped(&t.sum, &t.rows, p);
    twins_free();
}

START_TEST(test_dropped_elements)
{
    const int64_t sizes[] = {768, 512, 24, 7, 1, 1030};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int32_t type = SER_F32; type <= SER_BF16; type++) {
            check_dropped(sizes[i], type, 0.1F);
            check_dropped(sizes[i], type, 0.5F);
        }
    }
}
END_TEST

/* At 64 and above bf16 has steps of a half: what is added there is lost where the sum is stored,
 * and the norm must be of what is left; a sum that is not stored keeps all of it. */
static void check_rounding(int64_t channels, int sum)
{
    const form f = {channels, SER_BF16, true, sum, APART, true, 0.0F};
    tensors t = tensors_of(&f, BATCH, PADDED, valid);
    float *x = malloc((size_t)(TOTAL * channels) * sizeof *x);
    for (int64_t i = 0; i < TOTAL * channels; i++) {
        x[i] = 64.0F + 0.5F * (float)(i % 5);
    }
    t.x = twin_values(TOTAL, channels, SER_BF16, x);
    free(x);
    const ser_residual_norm_args on_cpu = cpu_args(&f, &t);
    const ser_residual_norm_args on_gpu = gpu_args(&f, &t);
    RUN_CPU(ser_residual_norm_fwd, &on_cpu);
    RUN_GPU(ser_residual_norm_fwd, &on_gpu);
    if (sum != ABSENT) {
        const float *exact = t.y.cpu.data;
        const float *got = gpu_values(&t.y.gpu);
        ck_assert_double_gt(harness_relative_error(got, exact, (size_t)channels), 0.02);
    }
    check_results(&f, &t);
    twins_free();
}

START_TEST(test_norm_sees_what_is_stored)
{
    const int64_t sizes[] = {40, 41};
    for (int i = 0; i < 2; i++) {
        check_rounding(sizes[i], APART);
        check_rounding(sizes[i], ABSENT);
    }
}
END_TEST

/* A constant row has no variance: y is beta. */
static void check_constant_row(int64_t channels, int32_t type)
{
    const form f = {channels, type, false, ABSENT, APART, true, 0.0F};
    static const int32_t one[] = {1};
    tensors t = tensors_of(&f, 1, 1, one);
    float *x = malloc((size_t)channels * sizeof *x);
    for (int64_t i = 0; i < channels; i++) {
        x[i] = -3008.0F; /* bf16 has it */
    }
    t.x = twin_values(1, channels, type, x);
    free(x);
    const ser_residual_norm_args on_gpu = gpu_args(&f, &t);
    RUN_GPU(ser_residual_norm_fwd, &on_gpu);
    const float *y = gpu_values(&t.y.gpu);
    const float *stats = gpu_values(&t.stats.gpu);
    ck_assert_double_lt(harness_relative_error(y, t.beta.cpu.data, (size_t)channels),
                        once_rounded(type));
    ck_assert(stats[0] == -3008.0F);
    ck_assert_double_eq_tol((double)stats[1], 1.0 / sqrt(1e-5), 1e-3);
    twins_free();
}

START_TEST(test_constant_row)
{
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        check_constant_row(768, type);
        check_constant_row(39, type);
        check_constant_row(1, type);
    }
}
END_TEST

/* Sizes near the ends of f32, and a NaN and an infinity that spoil their own rows only. */
static void check_extremes(int64_t channels, int32_t type, float scale)
{
    const form f = {channels, type, true, APART, APART, true, 0.2F};
    tensors t = tensors_of(&f, BATCH, PADDED, valid);
    float *x = malloc((size_t)(TOTAL * channels) * sizeof *x);
    harness_fill(x, (size_t)(TOTAL * channels), 9, scale);
    x[2 * channels + channels - 1] = NAN;
    x[4 * channels] = INFINITY;
    x[PADDED * channels] = -INFINITY;
    t.x = twin_values(TOTAL, channels, type, x);
    free(x);
    const ser_residual_norm_args on_cpu = cpu_args(&f, &t);
    const ser_residual_norm_args on_gpu = gpu_args(&f, &t);
    RUN_CPU(ser_residual_norm_fwd, &on_cpu);
    RUN_GPU(ser_residual_norm_fwd, &on_gpu);
    const float *y = gpu_values(&t.y.gpu);
    bool as_expected = true;
    for (int64_t i = 0; i < channels; i++) {
        as_expected = as_expected && isnan(y[2 * channels + i]) && isnan(y[4 * channels + i]) &&
                      isfinite(y[3 * channels + i]);
    }
    ck_assert(as_expected);
    check_results(&f, &t);
    twins_free();
}

START_TEST(test_extremes)
{
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        check_extremes(48, type, 1e17F); /* the squares' sum is near f32's end */
        check_extremes(49, type, 1e17F);
        check_extremes(48, type, 1e-18F); /* the squares vanish beside eps */
        check_extremes(49, type, 1e-18F);
    }
}
END_TEST

/* Padding is written, so that nothing uninitialised spreads. */
static void check_padding(int64_t channels)
{
    const form f = {channels, SER_BF16, true, APART, APART, true, 0.1F};
    const tensors t = tensors_of(&f, BATCH, PADDED, valid);
    const ser_residual_norm_args on_gpu = gpu_args(&f, &t);
    RUN_GPU(ser_residual_norm_fwd, &on_gpu);
    const float *sum = gpu_values(&t.sum.gpu);
    const float *y = gpu_values(&t.y.gpu);
    const float *stats = gpu_values(&t.stats.gpu);
    bool written = true;
    for (int64_t e = 0; e < TOTAL * channels; e++) {
        written = written && !isnan(sum[e]) && !isnan(y[e]);
    }
    for (int64_t e = 0; e < 2L * TOTAL; e++) {
        written = written && !isnan(stats[e]);
    }
    ck_assert(written);
    twins_free();
}

START_TEST(test_padding_is_written)
{
    check_padding(24);
    check_padding(7);
}
END_TEST

/* The same bits twice, and for the last clip alone, in a grid of another shape. */
static void check_bits(int64_t channels, int32_t type)
{
    static const int32_t lengths[] = {300, 7, 299};
    const form f = {channels, type, true, APART, APART, true, 0.0F};
    tensors t = tensors_of(&f, 3, 300, lengths);
    ser_residual_norm_args args = gpu_args(&f, &t);
    RUN_GPU(ser_residual_norm_fwd, &args);
    const size_t size = (size_t)(300 * channels) * (type == SER_BF16 ? 2 : 4);
    const char *y = gpu_bytes(&t.y.gpu);
    t.y = twin_output(3 * 300, channels, type);
    args.y = t.y.gpu;
    RUN_GPU(ser_residual_norm_fwd, &args);
    ck_assert_mem_eq(gpu_bytes(&t.y.gpu), y, 3 * size);
    tensors alone = {.rows = twin_rows_of(1, 299, lengths + 2),
                     .x = twin_part(t.x, 600, 299),
                     .h = twin_part(t.h, 600, 299),
                     .gamma = t.gamma,
                     .beta = t.beta,
                     .sum = twin_output(299, channels, type),
                     .y = twin_output(299, channels, type),
                     .stats = twin_output(299, 2, SER_F32)};
    args = gpu_args(&f, &alone);
    RUN_GPU(ser_residual_norm_fwd, &args);
    ck_assert_mem_eq(gpu_bytes(&alone.y.gpu), y + 2 * size, size / 300 * 299);
    twins_free();
}

START_TEST(test_same_bits)
{
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        check_bits(8, type);
        check_bits(9, type);
    }
}
END_TEST

CUDA_SUITE("cuda_residual_norm", test_places, test_sizes, test_many_rows, test_dropped_elements,
           test_norm_sees_what_is_stored, test_constant_row, test_extremes, test_padding_is_written,
           test_same_bits)
