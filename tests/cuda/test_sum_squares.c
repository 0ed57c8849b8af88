/* SPDX-License-Identifier: MIT */
#include "fixture.h"

/* Both sides add in double; the card's pairs of floats are within 2^-40 of each run's sum. */
#define SUM_TOLERANCE 1e-12

static double sum_on_gpu(const void *x, int64_t count, double before)
{
    double *sum = gpu_copy(&before, sizeof before);
    const ser_sum_squares_args args = {.x = x, .count = count, .sum = sum};
    double result = 0.0;
    RUN_GPU(ser_sum_squares, &args);
    assert_ok(gpu.ops->download(gpu.queue, &result, sum, sizeof result));
    assert_ok(gpu.ops->sync(gpu.queue));
    return result;
}

static double sum_on_cpu(const float *x, int64_t count, double before)
{
    const ser_sum_squares_args args = {.x = x, .count = count, .sum = &before};
    RUN_CPU(ser_sum_squares, &args);
    return before;
}

static void check_sum(const float *values, int64_t count, double before)
{
    const twin x = twin_values(count, 1, SER_F32, values);
    const double expected = sum_on_cpu(values, count, before);
    const double got = sum_on_gpu(x.gpu.data, count, before);
    if (!(fabs(got - expected) <= SUM_TOLERANCE * fabs(expected))) {
        ck_abort_msg("%lld elements: %.17g, not %.17g", (long long)count, got, expected);
    }
}

START_TEST(test_adds_the_squares)
{
    enum { MOST = 100003 };
    static float values[MOST];
    const int64_t counts[] = {1,    2,         3,     4,     5,     63,    64,
                              1000, 1023,      1024,  4097,  16383, 16384, 16385,
                              MOST, 16384 * 3, 32769, 16388, 20480, 12290};
    harness_fill(values, MOST, 1, 1.0F);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        check_sum(values, counts[i], 0.0);
        check_sum(values, counts[i], 0.5);
        twins_free();
    }
}
END_TEST

/* One large element among small ones hides none of them, wherever in a run it stands. */
START_TEST(test_wide_ranges)
{
    enum { COUNT = 16 };
    float values[COUNT];
    for (int large = 0; large < COUNT; large++) {
        harness_fill(values, COUNT, 2, 1.0F);
        values[large] = 3000.0F;
        check_sum(values, COUNT, 0.0);
        twins_free();
    }
}
END_TEST

/* From the squares that f32 does not hold to those that it holds no longer. */
START_TEST(test_every_magnitude)
{
    enum { COUNT = 100 };
    float values[COUNT];
    for (int exponent = -140; exponent < 128; exponent += exponent % 3 == 0 ? 1 : 2) {
        harness_fill(values, COUNT, 3, 1.0F);
        for (int i = 0; i < COUNT; i++) {
            values[i] = ldexpf(values[i], exponent);
        }
        check_sum(values, COUNT, 0.0);
        twins_free();
    }
    memset(values, 0, sizeof values);
    const twin zeros = twin_values(COUNT, 1, SER_F32, values);
    ck_assert(sum_on_gpu(zeros.gpu.data, COUNT, 0.0) == 0.0);
    ck_assert(sum_on_gpu(zeros.gpu.data, COUNT, 0.25) == 0.25);
}
END_TEST

/* NaN and infinity are found wherever they stand, and one number that only squared is beyond f32
 * is none of them. */
START_TEST(test_not_finite)
{
    enum { COUNT = 50003 };
    static float values[COUNT];
    const int64_t places[] = {0, 1023, 16384, 30007, COUNT - 2, COUNT - 1};
    harness_fill(values, COUNT, 4, 1.0F);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const float kept = values[places[i]];
        values[places[i]] = 1e30F;
        check_sum(values, COUNT, 0.0);
        values[places[i]] = NAN;
        ck_assert(isnan(sum_on_gpu(twin_values(COUNT, 1, SER_F32, values).gpu.data, COUNT, 0.0)));
        values[places[i]] = i % 2 == 0 ? INFINITY : -INFINITY;
        const double sum = sum_on_gpu(twin_values(COUNT, 1, SER_F32, values).gpu.data, COUNT, 0.0);
        ck_assert(isinf(sum) && sum > 0.0);
        values[places[i]] = kept;
        twins_free();
    }
    const twin x = twin_values(COUNT, 1, SER_F32, values);
    ck_assert(isnan(sum_on_gpu(x.gpu.data, COUNT, (double)NAN)));
}
END_TEST

/* More chunks than one block adds up at once; the sum is exact. */
START_TEST(test_many_chunks)
{
    enum { COUNT = 1030 * 16384 + 5 };
    float *values = malloc(COUNT * sizeof *values);
    ck_assert_ptr_nonnull(values);
    for (int64_t i = 0; i < COUNT; i++) {
        values[i] = i % 16384 == 77 ? 2.0F : 0.5F;
    }
    const void *x = gpu_copy(values, COUNT * sizeof *values);
    free(values);
    ck_assert(sum_on_gpu(x, COUNT, 1.0) == 1.0 + 0.25 * COUNT + 1030 * 3.75);
}
END_TEST

/* Twice, and where the array is not aligned to the width of an access. */
START_TEST(test_same_bits)
{
    enum { COUNT = 40009 };
    static float values[COUNT + 3];
    harness_fill(values, COUNT + 3, 5, 1.0F);
    const twin whole = twin_values(COUNT + 3, 1, SER_F32, values);
    for (int64_t first = 0; first < 4; first++) {
        const twin x = twin_values(COUNT, 1, SER_F32, values + first);
        const double sum = sum_on_gpu(x.gpu.data, COUNT, 0.125);
        const double again = sum_on_gpu(x.gpu.data, COUNT, 0.125);
        const double shifted = sum_on_gpu(twin_part(whole, first, COUNT).gpu.data, COUNT, 0.125);
        ck_assert_mem_eq(&sum, &again, sizeof sum);
        ck_assert_mem_eq(&sum, &shifted, sizeof sum);
    }
}
END_TEST

CUDA_SUITE("cuda_sum_squares", test_adds_the_squares, test_wide_ranges, test_every_magnitude,
           test_not_finite, test_many_chunks, test_same_bits)
