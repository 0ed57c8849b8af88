/* SPDX-License-Identifier: MIT */
#include <float.h>
#include <math.h>

#include "audio/audio.h"
#include "harness.h"

/* The formula in long double. */
static void reference(const float *x, size_t count, double *y)
{
    long double sum = 0.0L;
    for (size_t i = 0; i < count; i++) {
        sum += (long double)x[i];
    }
    long double mean = sum / (long double)count;
    long double squares = 0.0L;
    for (size_t i = 0; i < count; i++) {
        squares += ((long double)x[i] - mean) * ((long double)x[i] - mean);
    }
    long double deviation = sqrtl(squares / (long double)count + 1e-7L);
    for (size_t i = 0; i < count; i++) {
        y[i] = (double)(((long double)x[i] - mean) / deviation);
    }
}

START_TEST(equals_the_formula)
{
    static const size_t counts[] = {1, 2, 3, 399, 400, 80000, 123457};
    static const float scales[] = {1e-30F, 1e-4F, 1.0F, 1e30F, FLT_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        for (size_t j = 0; j < sizeof scales / sizeof scales[0]; j++) {
            float *x = malloc(counts[i] * sizeof *x);
            float *y = malloc(counts[i] * sizeof *y);
            double *expected = malloc(counts[i] * sizeof *expected);
            harness_fill(x, counts[i], i + 1, scales[j]);
            reference(x, counts[i], expected);
            ser_audio_normalize(x, counts[i], y);
            ck_assert_double_lt(harness_relative_error64(y, expected, counts[i]), 1e-6);
            ser_audio_normalize(x, counts[i], x);
            ck_assert_mem_eq(x, y, counts[i] * sizeof *x);
            free(expected);
            free(y);
            free(x);
        }
    }
}
END_TEST

/* A large offset would eat the digits of a float accumulator. */
START_TEST(large_offset)
{
    enum { COUNT = 480000 };
    float *x = malloc(COUNT * sizeof *x);
    double *expected = malloc(COUNT * sizeof *expected);
    harness_fill(x, COUNT, 3, 0.01F);
    for (size_t i = 0; i < COUNT; i++) {
        x[i] += 100.0F;
    }
    reference(x, COUNT, expected);
    ser_audio_normalize(x, COUNT, x);
    ck_assert_double_lt(harness_relative_error64(x, expected, COUNT), 1e-6);
    free(expected);
    free(x);
}
END_TEST

START_TEST(au6_constant_gives_zeros)
{
    static const float levels[] = {0.0F, 1.0F, -0.3F, 1e38F, 1e-40F};
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        float x[1000];
        for (size_t k = 0; k < 1000; k++) {
            x[k] = levels[i];
        }
        ser_audio_normalize(x, 1000, x);
        for (size_t k = 0; k < 1000; k++) {
            ck_assert_float_eq_tol(x[k], 0.0F, 1e-6F);
        }
    }
    float untouched = 7.0F;
    ser_audio_normalize(&untouched, 0, &untouched);
    ck_assert_float_eq(untouched, 7.0F);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("normalize");
    TCase *normalize = tcase_create("normalize");
    tcase_add_test(normalize, equals_the_formula);
    tcase_add_test(normalize, large_offset);
    tcase_add_test(normalize, au6_constant_gives_zeros);
    suite_add_tcase(suite, normalize);
    return harness_run(suite);
}
