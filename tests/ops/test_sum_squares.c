/* SPDX-License-Identifier: MIT */
#include "fixture.h"

static double sum_of(const float *x, int64_t count, double before)
{
    double sum = before;
    const ser_sum_squares_args args = {.x = x, .count = count, .sum = &sum};
    queue->planning = true;
    assert_ok(ser_sum_squares(queue, &args));
    assert_ok(ser_queue_reserve(queue, NULL));
    assert_ok(ser_sum_squares(queue, &args));
    return sum;
}

START_TEST(test_adds_the_squares)
{
    const int64_t counts[] = {1, 7, 64, 1000, 65536, 65537, 200003};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        ser_tensor x = matrix(counts[i], 1, i + 1, 0);
        double sum = 0.0;
        for (int64_t j = 0; j < counts[i]; j++) {
            sum += (double)((float *)x.data)[j] * (double)((float *)x.data)[j];
        }
        ck_assert_double_eq_tol(sum_of(x.data, counts[i], 0.0), sum, 1e-12 * sum);
        ck_assert_double_eq_tol(sum_of(x.data, counts[i], 0.5), sum + 0.5, 1e-12 * sum);
    }
}
END_TEST

/* Squares beyond f32 are still numbers; NaN and infinity are found wherever they stand. */
START_TEST(test_extreme_values)
{
    enum { COUNT = 100003 };
    ser_tensor x = matrix(COUNT, 1, 1, 0);
    float *values = x.data;
    values[5] = 1e30F;
    ck_assert_double_eq_tol(sum_of(values, COUNT, 0.0), 1e60, 1e54);
    values[5] = 1e-30F;
    ck_assert(isfinite(sum_of(values, COUNT, 0.0)));
    const int64_t places[] = {0, 70000, COUNT - 1};
    for (int i = 0; i < 3; i++) {
        const float kept = values[places[i]];
        values[places[i]] = NAN;
        ck_assert(isnan(sum_of(values, COUNT, 0.0)));
        values[places[i]] = -INFINITY;
        ck_assert(isinf(sum_of(values, COUNT, 0.0)));
        values[places[i]] = kept;
    }
    float tiny[3] = {1e-30F, 0.0F, -1e-30F};
    ck_assert_double_eq_tol(sum_of(tiny, 3, 0.0), 2e-60, 1e-66);
}
END_TEST

START_TEST(test_same_bits_with_any_threads)
{
    enum { COUNT = 1500001 };
    ser_tensor x = matrix(COUNT, 1, 1, 0);
    const double two = sum_of(x.data, COUNT, 0.125);
    fixture_threads(1);
    const double one = sum_of(x.data, COUNT, 0.125);
    ck_assert_mem_eq(&one, &two, sizeof one);
}
END_TEST

OP_SUITE("sum_squares", test_adds_the_squares, test_extreme_values, test_same_bits_with_any_threads)
