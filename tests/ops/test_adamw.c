/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include <float.h>

enum { STEPS = 10 };

/* The arrays of one optimiser. */
typedef struct state {
    int64_t count;
    float *w, *m, *v, *ema;
} state;

static state state_of(int64_t count, bool ema)
{
    state s = {.count = count,
               .w = matrix(count, 1, 1, 0).data,
               .m = matrix(count, 1, 2, 0).data,
               .v = matrix(count, 1, 3, 0).data,
               .ema = ema ? matrix(count, 1, 4, 0).data : NULL};
    memset(s.m, 0, (size_t)count * sizeof(float));
    memset(s.v, 0, (size_t)count * sizeof(float));
    if (ema) {
        memcpy(s.ema, s.w, (size_t)count * sizeof(float));
    }
    return s;
}

static ser_step step_of(int t, float rate)
{
    return (ser_step){.number = (uint64_t)t,
                      .rate = rate,
                      .correction1 = (float)(1.0 / (1.0 - pow(0.9, t + 1))),
                      .correction2 = (float)(1.0 / (1.0 - pow(0.999, t + 1))),
                      .gradient_scale = 1.0F,
                      .average = 0.9F};
}

static int32_t update(const state *s, const float *gradient, const ser_step *step,
                      const ser_adamw_range *ranges, int32_t range_count)
{
    double sum = 0.0;
    int32_t skipped = -1;
    const ser_sum_squares_args squares = {.x = gradient, .count = s->count, .sum = &sum};
    queue->planning = true;
    assert_ok(ser_sum_squares(queue, &squares));
    assert_ok(ser_queue_reserve(queue, NULL));
    assert_ok(ser_sum_squares(queue, &squares));
    const ser_adamw_args args = {.w = s->w,
                                 .m = s->m,
                                 .v = s->v,
                                 .ema = s->ema,
                                 .gradient = gradient,
                                 .count = s->count,
                                 .ranges = ranges,
                                 .range_count = range_count,
                                 .beta1 = 0.9,
                                 .beta2 = 0.999,
                                 .eps = 1e-8F,
                                 .step = step,
                                 .sum = &sum,
                                 .skipped = &skipped};
    RUN(ser_adamw, &args);
    return skipped;
}

/* The same in double. */
typedef struct reference {
    double *w, *m, *v, *ema;
} reference;

static void reference_update(const reference *r, const state *s, const float *gradient,
                             const ser_step *step, int t, const ser_adamw_range *ranges,
                             int32_t range_count)
{
    double norm = 0.0;
    for (int64_t i = 0; i < s->count; i++) {
        norm += (double)gradient[i] * (double)gradient[i];
    }
    norm = (double)step->gradient_scale * sqrt(norm);
    double scale = (double)step->gradient_scale;
    if (step->clip > 0.0F) {
        scale *= fmin(1.0, (double)step->clip / (norm + 1e-6));
    }
    for (int32_t k = 0; k < range_count; k++) {
        const double rate = (double)ranges[k].rate * (double)step->rate;
        for (int64_t i = ranges[k].begin; i < ranges[k].end; i++) {
            const double g = scale * (double)gradient[i];
            r->m[i] = 0.9 * r->m[i] + 0.1 * g;
            r->v[i] = 0.999 * r->v[i] + 0.001 * g * g;
            r->w[i] -= rate * (double)ranges[k].decay * r->w[i];
            r->w[i] -= rate * (r->m[i] / (1.0 - pow(0.9, t + 1))) /
                       (sqrt(r->v[i] / (1.0 - pow(0.999, t + 1))) + 1e-8);
            r->ema[i] = 0.9 * r->ema[i] + 0.1 * r->w[i];
        }
    }
}

static void check_steps(int64_t count, const ser_adamw_range *ranges, int32_t range_count,
                        float clip, float gradient_scale)
{
    state s = state_of(count, true);
    const ser_tensor w = ser_tensor_f32(s.w, 1, count);
    const ser_tensor zero = ser_tensor_f32(s.m, 1, count);
    const reference r = {doubles(&w), doubles(&zero), doubles(&zero), doubles(&w)};
    for (int t = 0; t < STEPS; t++) {
        ser_tensor gradient = matrix(count, 1, (uint64_t)t + 10, 0);
        ser_step step = step_of(t, 1.0F - 0.05F * (float)t);
        step.clip = clip;
        step.gradient_scale = gradient_scale;
        ck_assert_int_eq(update(&s, gradient.data, &step, ranges, range_count), 0);
        reference_update(&r, &s, gradient.data, &step, t, ranges, range_count);
    }
    ck_assert_double_lt(harness_relative_error64(s.w, r.w, (size_t)count), 2e-6);
    ck_assert_double_lt(harness_relative_error64(s.m, r.m, (size_t)count), 2e-6);
    ck_assert_double_lt(harness_relative_error64(s.v, r.v, (size_t)count), 2e-6);
    ck_assert_double_lt(harness_relative_error64(s.ema, r.ema, (size_t)count), 2e-6);
    matrices_free();
}

START_TEST(test_agrees_with_the_formula)
{
    const ser_adamw_range whole[] = {{0, 1003, 0.01F, 0.1F}};
    check_steps(1003, whole, 1, 0.0F, 1.0F);
    check_steps(1003, whole, 1, 1.5F, 0.25F);  /* clipped: the norm is about 4.6 */
    check_steps(1003, whole, 1, 100.0F, 0.5F); /* not clipped */
    const ser_adamw_range many[] = {{0, 3, 0.01F, 0.0F},
                                    {3, 16384, 0.02F, 0.1F},
                                    {16384, 16385, 0.0F, 0.1F}, /* frozen */
                                    {16385, 16385, 9.0F, 9.0F}, /* nothing */
                                    {16385, 40001, 0.005F, 0.3F}};
    check_steps(40001, many, 5, 0.0F, 1.0F);
}
END_TEST

/* torch.optim.AdamW of PyTorch 2.11 after clip_grad_norm_(0.7), two groups, a falling rate,
 * in double. */
START_TEST(test_agrees_with_pytorch)
{
    enum { COUNT = 8 };
    const float start[COUNT] = {0.5F, -1.25F, 2.0F, 0.0F, 1e-3F, 1.0F, -0.75F, 0.3F};
    const double end[COUNT] = {0.509803994,  -1.24412737, 1.98015552,   -0.0148857938,
                               0.0228075797, 1.00311894,  -0.744639075, 0.299831452};
    const ser_adamw_range ranges[] = {{0, 5, 0.01F, 0.1F}, {5, COUNT, 0.002F, 0.0F}};
    state s = state_of(COUNT, false);
    memcpy(s.w, start, sizeof start);
    for (int t = 0; t < STEPS; t++) {
        float gradient[COUNT];
        for (int i = 0; i < 5; i++) {
            gradient[i] = (float)((7 * t + 3 * i) % 11 - 5) * 0.1F;
        }
        for (int i = 0; i < 3; i++) {
            gradient[5 + i] = (float)((5 * t + 2 * i) % 7 - 3) * 0.25F;
        }
        ser_step step = step_of(t, 1.0F - 0.05F * (float)t);
        step.clip = 0.7F;
        ck_assert_int_eq(update(&s, gradient, &step, ranges, 2), 0);
    }
    for (int i = 0; i < COUNT; i++) {
        ck_assert_double_eq_tol((double)s.w[i], end[i], 3e-7);
    }
}
END_TEST

/* A gradient that is not finite changes nothing. */
START_TEST(test_skips)
{
    enum { COUNT = 77 };
    const ser_adamw_range range = {0, COUNT, 0.01F, 0.1F};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    const ser_step step = step_of(0, 1.0F);
    state s = state_of(COUNT, true);
    float *gradient = matrix(COUNT, 1, 9, 0).data;
    ck_assert_int_eq(update(&s, gradient, &step, &range, 1), 0);
    float *arrays[] = {s.w, s.m, s.v, s.ema};
    float before[4][COUNT];
    for (int i = 0; i < 4; i++) {
        memcpy(before[i], arrays[i], sizeof before[i]);
    }
    for (int k = 0; k < 3; k++) {
        gradient[76 - k] = bad[k];
        ck_assert_int_eq(update(&s, gradient, &step, &range, 1), 1);
        gradient[76 - k] = 1.0F;
    }
    for (int i = 0; i < 4; i++) {
        ck_assert_mem_eq(before[i], arrays[i], sizeof before[i]);
    }
    ck_assert_int_eq(update(&s, gradient, &step, &range, 1), 0);
    ck_assert(memcmp(before[0], s.w, sizeof before[0]) != 0);
}
END_TEST

/* Neither does one that is finite until it is scaled. */
START_TEST(test_skips_scales_out_of_range)
{
    enum { COUNT = 77 };
    const ser_adamw_range range = {0, COUNT, 0.01F, 0.1F};
    const float scales[] = {INFINITY, NAN, FLT_MAX};
    state s = state_of(COUNT, false);
    float *gradient = matrix(COUNT, 1, 9, 0).data;
    float before[COUNT];
    memcpy(before, s.w, sizeof before);
    gradient[3] = 2.0F;
    for (int k = 0; k < 6; k++) {
        ser_step step = step_of(0, 1.0F);
        step.gradient_scale = scales[k % 3];
        step.clip = k < 3 ? 1.0F : 0.0F;
        ck_assert_int_eq(update(&s, gradient, &step, &range, 1), 1);
    }
    memset(gradient, 0, COUNT * sizeof *gradient);
    ser_step step = step_of(0, 1.0F);
    step.gradient_scale = INFINITY;
    ck_assert_int_eq(update(&s, gradient, &step, &range, 1), 1);
    ck_assert_mem_eq(before, s.w, sizeof before);
}
END_TEST

/* Without decay a weight whose gradients were all 0 stays; nothing around the arrays is touched. */
START_TEST(test_nothing_to_do)
{
    enum { COUNT = 37 };
    const ser_adamw_range range = {0, COUNT, 0.01F, 0.0F};
    const ser_step step = step_of(0, 1.0F);
    state s = state_of(COUNT, false);
    float *gradient = matrix(COUNT, 1, 9, 0).data;
    memset(gradient, 0, COUNT * sizeof(float));
    float before[COUNT];
    memcpy(before, s.w, sizeof before);
    ck_assert_int_eq(update(&s, gradient, &step, &range, 1), 0);
    ck_assert_mem_eq(before, s.w, sizeof before);
    ck_assert(isnan(s.w[-1]) && isnan(s.w[COUNT]) && isnan(s.m[COUNT]) && isnan(s.v[COUNT]));
}
END_TEST

START_TEST(test_same_bits_with_any_threads)
{
    enum { COUNT = 600007 };
    const ser_adamw_range ranges[] = {{0, 100001, 0.01F, 0.1F}, {100001, COUNT, 0.02F, 0.0F}};
    const ser_step step = step_of(0, 1.0F);
    const float *gradient = matrix(COUNT, 1, 9, 0).data;
    const state two = state_of(COUNT, true);
    const state one = state_of(COUNT, true);
    update(&two, gradient, &step, ranges, 2);
    fixture_threads(1);
    update(&one, gradient, &step, ranges, 2);
    ck_assert_mem_eq(one.w, two.w, COUNT * sizeof(float));
    ck_assert_mem_eq(one.m, two.m, COUNT * sizeof(float));
    ck_assert_mem_eq(one.v, two.v, COUNT * sizeof(float));
    ck_assert_mem_eq(one.ema, two.ema, COUNT * sizeof(float));
}
END_TEST

OP_SUITE("adamw", test_agrees_with_the_formula, test_agrees_with_pytorch, test_skips,
         test_skips_scales_out_of_range, test_nothing_to_do, test_same_bits_with_any_threads)
