/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <math.h>

#include "train/schedule.h"

static double factor(int32_t schedule, int64_t warmup, int64_t steps, int64_t step)
{
    return ser_schedule_factor(schedule, warmup, steps, step);
}

START_TEST(warm_up_rises_from_the_first_step)
{
    for (int32_t s = SER_SCHEDULE_CONSTANT; s <= SER_SCHEDULE_COSINE; s++) {
        for (int64_t i = 0; i < 10; i++) {
            ck_assert_double_eq_tol(factor(s, 10, 100, i), (double)(i + 1) / 10.0, 1e-15);
        }
        ck_assert_double_eq(factor(s, 10, 100, 10), 1.0);
        ck_assert_double_eq(factor(s, 0, 100, 0), 1.0);
        ck_assert_double_eq(factor(s, 1, 100, 0), 1.0);
        ck_assert_double_eq(factor(s, -1, 40, 1), 0.5); /* a tenth */
        ck_assert_double_eq(factor(s, -1, 9, 0), 1.0);
    }
}
END_TEST

START_TEST(then_it_stays_or_falls)
{
    ck_assert_double_eq(factor(SER_SCHEDULE_CONSTANT, 10, 100, 99), 1.0);
    ck_assert_double_eq(factor(SER_SCHEDULE_CONSTANT, 10, 100, 1000000), 1.0);
    ck_assert_double_eq(factor(SER_SCHEDULE_LINEAR, 10, 100, 55), 0.5);
    ck_assert_double_eq_tol(factor(SER_SCHEDULE_LINEAR, 10, 100, 99), 1.0 / 90.0, 1e-15);
    ck_assert_double_eq_tol(factor(SER_SCHEDULE_COSINE, 10, 100, 55), 0.5, 1e-15);
    ck_assert_double_eq_tol(factor(SER_SCHEDULE_COSINE, 10, 100, 40), 0.75, 1e-15);
    ck_assert_double_gt(factor(SER_SCHEDULE_COSINE, 10, 100, 99), 0.0);
}
END_TEST

START_TEST(after_the_run_it_is_over)
{
    const int64_t after[] = {100, 101, INT64_MAX};
    for (size_t i = 0; i < 3; i++) {
        ck_assert_double_eq(factor(SER_SCHEDULE_LINEAR, 10, 100, after[i]), 0.0);
        ck_assert_double_eq_tol(factor(SER_SCHEDULE_COSINE, 10, 100, after[i]), 0.0, 1e-15);
    }
}
END_TEST

START_TEST(a_run_of_warm_up_alone)
{
    ck_assert_double_eq(factor(SER_SCHEDULE_LINEAR, 4, 4, 0), 0.25);
    ck_assert_double_eq(factor(SER_SCHEDULE_LINEAR, 4, 4, 3), 1.0);
    ck_assert_double_eq(factor(SER_SCHEDULE_LINEAR, 4, 4, 4), 0.0);
    ck_assert_double_eq(factor(SER_SCHEDULE_COSINE, 1, 1, 0), 1.0);
}
END_TEST

START_TEST(never_rises_after_the_warm_up)
{
    for (int32_t s = SER_SCHEDULE_CONSTANT; s <= SER_SCHEDULE_COSINE; s++) {
        for (int64_t i = 7; i < 70; i++) {
            double now = factor(s, 7, 60, i);
            ck_assert(now >= 0.0 && now <= 1.0 && factor(s, 7, 60, i + 1) <= now);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("schedule");
    TCase *tc = tcase_create("schedule");
    tcase_add_test(tc, warm_up_rises_from_the_first_step);
    tcase_add_test(tc, then_it_stays_or_falls);
    tcase_add_test(tc, after_the_run_it_is_over);
    tcase_add_test(tc, a_run_of_warm_up_alone);
    tcase_add_test(tc, never_rises_after_the_warm_up);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
