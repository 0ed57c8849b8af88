/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include <float.h>

enum { STEPS = 4 };

/* The same formula in the same order, but the card fuses products with sums: each of the steps may
 * differ by a few units in the last place. */
#define ADAMW_TOLERANCE 1e-6

/* The arrays of one optimiser, on both sides. */
typedef struct state {
    int64_t count;
    twin w, m, v, ema;
    void *rounded; /* of the GPU, or NULL */
} state;

static state state_of(int64_t count, bool ema)
{
    state s = {.count = count,
               .w = twin_input(count, 1, SER_F32, 1, 1.0F, 0),
               .m = twin_input(count, 1, SER_F32, 2, 0.01F, 0),
               .ema = ema ? twin_input(count, 1, SER_F32, 4, 1.0F, 0) : twin_absent()};
    float *v = malloc((size_t)count * sizeof *v);
    harness_fill(v, (size_t)count, 3, 1e-3F);
    for (int64_t i = 0; i < count; i++) {
        v[i] = fabsf(v[i]);
    }
    s.v = twin_values(count, 1, SER_F32, v);
    free(v);
    return s;
}

/* All begin at their element `first`. */
static state part_of(const state *s, int64_t first, int64_t count)
{
    const bool ema = s->ema.cpu.data != NULL;
    return (state){.count = count,
                   .w = twin_part(s->w, first, count),
                   .m = twin_part(s->m, first, count),
                   .v = twin_part(s->v, first, count),
                   .ema = ema ? twin_part(s->ema, first, count) : twin_absent()};
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

static double sum_of(const float *gradient, int64_t count)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        sum += (double)gradient[i] * (double)gradient[i];
    }
    return sum;
}

typedef struct ranges {
    const ser_adamw_range *range;
    int32_t count;
} ranges;

static ser_adamw_args args_of(const state *s)
{
    return (ser_adamw_args){.w = s->w.gpu.data,
                            .m = s->m.gpu.data,
                            .v = s->v.gpu.data,
                            .ema = s->ema.gpu.data,
                            .rounded = s->rounded,
                            .count = s->count,
                            .beta1 = 0.9,
                            .beta2 = 0.999,
                            .eps = 1e-8F};
}

static int32_t update_gpu(const state *s, const void *gradient, double sum, const ser_step *step,
                          const ranges *r)
{
    const int32_t poison = -1;
    int32_t *skipped = gpu_copy(&poison, sizeof poison);
    ser_adamw_args args = args_of(s);
    args.gradient = gradient;
    args.ranges = gpu_copy(r->range, (size_t)r->count * sizeof *r->range);
    args.range_count = r->count;
    args.step = gpu_copy(step, sizeof *step);
    args.sum = gpu_copy(&sum, sizeof sum);
    args.skipped = skipped;
    RUN_GPU(ser_adamw, &args);
    int32_t result = 0;
    assert_ok(gpu.ops->download(gpu.queue, &result, skipped, sizeof result));
    assert_ok(gpu.ops->sync(gpu.queue));
    return result;
}

static int32_t update_cpu(const state *s, const void *gradient, double sum, const ser_step *step,
                          const ranges *r)
{
    int32_t skipped = -1;
    ser_adamw_args args = args_of(s);
    args.w = s->w.cpu.data;
    args.m = s->m.cpu.data;
    args.v = s->v.cpu.data;
    args.ema = s->ema.cpu.data;
    args.rounded = NULL;
    args.gradient = gradient;
    args.ranges = r->range;
    args.range_count = r->count;
    args.step = step;
    args.sum = &sum;
    args.skipped = &skipped;
    RUN_CPU(ser_adamw, &args);
    return skipped;
}

static void check_state(const state *s)
{
    twin_check("w", &s->w, NULL, ADAMW_TOLERANCE, false);
    twin_check("m", &s->m, NULL, ADAMW_TOLERANCE, false);
    twin_check("v", &s->v, NULL, ADAMW_TOLERANCE, false);
    if (s->ema.gpu.data != NULL) {
        twin_check("ema", &s->ema, NULL, ADAMW_TOLERANCE, false);
    }
}

static void check_slack(const state *s)
{
    twin_check_slack("w", &s->w);
    twin_check_slack("m", &s->m);
    twin_check_slack("v", &s->v);
    if (s->ema.gpu.data != NULL) {
        twin_check_slack("ema", &s->ema);
    }
}

static void update_both(const state *s, const twin *gradient, const ser_step *step, const ranges *r)
{
    const double sum = sum_of(gradient->cpu.data, s->count);
    ck_assert_int_eq(update_cpu(s, gradient->cpu.data, sum, step, r), 0);
    ck_assert_int_eq(update_gpu(s, gradient->gpu.data, sum, step, r), 0);
}

static void check_steps(int64_t count, const ranges *r, bool ema, float clip, float gradient_scale)
{
    const state s = state_of(count, ema);
    for (int t = 0; t < STEPS; t++) {
        const twin gradient = twin_input(count, 1, SER_F32, (uint64_t)t + 10, 0.25F, 0);
        ser_step step = step_of(t, 1.0F - 0.1F * (float)t);
        step.clip = clip;
        step.gradient_scale = gradient_scale;
        update_both(&s, &gradient, &step, r);
    }
    check_state(&s);
    check_slack(&s);
    twins_free();
}

START_TEST(test_one_range)
{
    const int64_t counts[] = {1, 3, 4, 5, 1003, 1024, 8192, 8193, 9001};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const ser_adamw_range whole = {0, counts[i], 0.01F, 0.1F};
        check_steps(counts[i], &(ranges){&whole, 1}, i % 2 == 0, 0.0F, 1.0F);
        check_steps(counts[i], &(ranges){&whole, 1}, i % 2 != 0, 0.1F, 0.25F);   /* clipped */
        check_steps(counts[i], &(ranges){&whole, 1}, i % 2 == 0, 1000.0F, 0.5F); /* not */
    }
}
END_TEST

/* Ranges end anywhere, also within a vector and a chunk; some are empty, one is frozen. */
START_TEST(test_many_ranges)
{
    const ser_adamw_range few[] = {
        {0, 3, 0.01F, 0.0F},         {3, 8192, 0.02F, 0.1F},       {8192, 8193, 0.0F, 0.1F},
        {8193, 8193, 9.0F, 9.0F},    {8193, 8194, 0.03F, 0.2F},    {8194, 8194, 9.0F, 9.0F},
        {8194, 8194, 9.0F, 9.0F},    {8194, 16390, 0.01F, 0.0F},   {16390, 16392, 0.05F, 0.4F},
        {16392, 16396, 0.04F, 0.2F}, {16396, 20001, 0.005F, 0.3F}, {20001, 20001, 9.0F, 9.0F}};
    check_steps(20001, &(ranges){few, 12}, true, 0.0F, 1.0F);
    enum { MANY = 301, COUNT = 9000 };
    ser_adamw_range many[MANY];
    uint64_t random = 7;
    int64_t end = 0;
    for (int i = 0; i < MANY; i++) {
        const int64_t begin = end;
        end += (int64_t)(30.0F * (1.0F + harness_random(&random)));
        end = i + 1 == MANY || end > COUNT ? COUNT : end;
        many[i] = (ser_adamw_range){begin, end, 1e-4F * (float)(i % 17), 0.01F * (float)(i % 5)};
    }
    check_steps(COUNT, &(ranges){many, MANY}, false, 1.0F, 1.0F);
}
END_TEST

/* The same in double, from PyTorch's formula. */
START_TEST(test_agrees_with_the_formula)
{
    enum { COUNT = 50 };
    const ser_adamw_range range[] = {{0, 21, 0.01F, 0.1F}, {21, COUNT, 0.003F, 0.0F}};
    const state s = state_of(COUNT, true);
    const twin gradient = twin_input(COUNT, 1, SER_F32, 9, 1.0F, 0);
    const float *g = gradient.cpu.data;
    const double sum = sum_of(g, COUNT);
    ser_step step = step_of(2, 0.5F);
    step.gradient_scale = 0.5F;
    step.clip = 0.25F;
    ck_assert_int_eq(update_gpu(&s, gradient.gpu.data, sum, &step, &(ranges){range, 2}), 0);
    const double scale = 0.5 * fmin(1.0, 0.25 / (0.5 * sqrt(sum) + 1e-6));
    ck_assert_double_lt(scale, 0.25);
    const float *w = gpu_values(&s.w.gpu);
    const float *ema = gpu_values(&s.ema.gpu);
    for (int i = 0; i < COUNT; i++) {
        const double rate = 0.5 * (double)range[i >= 21].rate;
        const double x = scale * (double)g[i];
        const double m = 0.9 * (double)((float *)s.m.cpu.data)[i] + 0.1 * x;
        const double v = 0.999 * (double)((float *)s.v.cpu.data)[i] + 0.001 * x * x;
        double value = (double)((float *)s.w.cpu.data)[i];
        value *= 1.0 - rate * (double)range[i >= 21].decay;
        value -= rate * (m / (1.0 - pow(0.9, 3))) / (sqrt(v / (1.0 - pow(0.999, 3))) + 1e-8);
        ck_assert_double_eq_tol((double)w[i], value, 1e-6);
        const double average = 0.9 * (double)((float *)s.ema.cpu.data)[i] + 0.1 * value;
        ck_assert_double_eq_tol((double)ema[i], average, 1e-6);
    }
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
    const ser_adamw_range range[] = {{0, 5, 0.01F, 0.1F}, {5, COUNT, 0.002F, 0.0F}};
    const float zeros[COUNT] = {0};
    const state s = {.count = COUNT,
                     .w = twin_values(COUNT, 1, SER_F32, start),
                     .m = twin_values(COUNT, 1, SER_F32, zeros),
                     .v = twin_values(COUNT, 1, SER_F32, zeros)};
    for (int t = 0; t < 10; t++) {
        float gradient[COUNT];
        for (int i = 0; i < 5; i++) {
            gradient[i] = (float)((7 * t + 3 * i) % 11 - 5) * 0.1F;
        }
        for (int i = 0; i < 3; i++) {
            gradient[5 + i] = (float)((5 * t + 2 * i) % 7 - 3) * 0.25F;
        }
        ser_step step = step_of(t, 1.0F - 0.05F * (float)t);
        step.clip = 0.7F;
        const void *g = gpu_copy(gradient, sizeof gradient);
        ck_assert_int_eq(update_gpu(&s, g, sum_of(gradient, COUNT), &step, &(ranges){range, 2}), 0);
    }
    const float *w = gpu_values(&s.w.gpu);
    for (int i = 0; i < COUNT; i++) {
        ck_assert_double_eq_tol((double)w[i], end[i], 3e-7);
    }
}
END_TEST

/* A norm that is not a number of f32 changes nothing, whatever made it so. */
START_TEST(test_skips)
{
    enum { COUNT = 8200 };
    const ser_adamw_range range[] = {{0, 77, 0.01F, 0.1F}, {77, COUNT, 0.02F, 0.0F}};
    const ranges r = {range, 2};
    const state s = state_of(COUNT, true);
    const twin gradient = twin_input(COUNT, 1, SER_F32, 9, 1.0F, 0);
    const double inf = (double)INFINITY;
    const struct {
        double sum;
        float scale, clip;
    } cases[] = {{(double)NAN, 1.0F, 0.0F}, {inf, 1.0F, 0.0F},    {inf, 1.0F, 1.0F},
                 {4.0, INFINITY, 1.0F},     {4.0, NAN, 1.0F},     {4.0, FLT_MAX, 0.0F},
                 {0.0, INFINITY, 0.0F},     {1.3e77, 1.0F, 0.0F}, {1.3e77, 1.0F, 1.0F},
                 {(double)NAN, 1.0F, 2.0F}, {4.0, FLT_MAX, 1.0F}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ser_step step = step_of(0, 1.0F);
        step.gradient_scale = cases[i].scale;
        step.clip = cases[i].clip;
        ck_assert_int_eq(update_cpu(&s, gradient.cpu.data, cases[i].sum, &step, &r), 1);
        ck_assert_int_eq(update_gpu(&s, gradient.gpu.data, cases[i].sum, &step, &r), 1);
    }
    const size_t size = COUNT * sizeof(float);
    ck_assert_mem_eq(gpu_bytes(&s.w.gpu), s.w.cpu.data, size);
    ck_assert_mem_eq(gpu_bytes(&s.m.gpu), s.m.cpu.data, size);
    ck_assert_mem_eq(gpu_bytes(&s.v.gpu), s.v.cpu.data, size);
    ck_assert_mem_eq(gpu_bytes(&s.ema.gpu), s.ema.cpu.data, size);
    /* the largest norm that is none of these */
    ser_step step = step_of(0, 1.0F);
    step.clip = 1.0F;
    ck_assert_int_eq(update_cpu(&s, gradient.cpu.data, 1.1e77, &step, &r), 0);
    ck_assert_int_eq(update_gpu(&s, gradient.gpu.data, 1.1e77, &step, &r), 0);
    check_state(&s);
}
END_TEST

/* The copy of the new weights in bf16, by fours and at borders; nothing of a skipped step. */
START_TEST(test_rounded)
{
    enum { COUNT = 4099 };
    const ser_adamw_range range[] = {{0, 1001, 1e-2F, 0.1F}, {1001, COUNT, 1e-3F, 0.0F}};
    const ranges r = {range, 2};
    const twin gradient = twin_input(COUNT, 1, SER_F32, 10, 0.25F, 0);
    const ser_step step = step_of(0, 1.0F);
    state s = state_of(COUNT, false);
    const twin rounded = twin_output(COUNT, 1, SER_BF16);
    const twin wanted = twin_output(COUNT, 1, SER_BF16);
    s.rounded = rounded.gpu.data;
    ck_assert_int_eq(update_gpu(&s, gradient.gpu.data, (double)NAN, &step, &r), 1);
    const float *values = gpu_values(&rounded.gpu);
    for (int i = 0; i < COUNT; i++) {
        ck_assert(isnan(values[i]));
    }
    ck_assert_int_eq(update_gpu(&s, gradient.gpu.data, 4.0, &step, &r), 0);
    assert_ok(gpu.ops->convert(gpu.queue, &s.w.gpu, &wanted.gpu));
    ck_assert_mem_eq(gpu_bytes(&rounded.gpu), gpu_bytes(&wanted.gpu), COUNT * sizeof(uint16_t));
    twin_check_slack("rounded", &rounded);
}
END_TEST

/* Arrays that are not aligned to the width of an access: all of them, and one at a time. */
START_TEST(test_not_aligned)
{
    enum { COUNT = 1030 };
    const ser_adamw_range range[] = {{0, 130, 0.01F, 0.1F}, {130, COUNT, 0.02F, 0.0F}};
    const ser_step step = step_of(1, 1.0F);
    for (int which = 0; which < 9; which++) {
        const state whole = state_of(COUNT + 3, true);
        const twin gradients = twin_input(COUNT + 3, 1, SER_F32, 9, 1.0F, 0);
        const state aligned = part_of(&whole, 0, COUNT);
        const int64_t first = which < 5 ? 1 : which - 5;
        state s = part_of(&whole, first, COUNT);
        if (which < 5) {
            s.w = which == 0 ? s.w : aligned.w;
            s.m = which == 1 ? s.m : aligned.m;
            s.v = which == 2 ? s.v : aligned.v;
            s.ema = which == 3 ? s.ema : aligned.ema;
        }
        const twin gradient = twin_part(gradients, which < 4 ? 0 : first, COUNT);
        update_both(&s, &gradient, &step, &(ranges){range, 2});
        check_state(&whole); /* with what lies beside */
        twins_free();
    }
}
END_TEST

/* Without decay a weight whose gradients were all 0 stays. */
START_TEST(test_nothing_to_do)
{
    enum { COUNT = 37 };
    const ser_adamw_range range = {0, COUNT, 0.01F, 0.0F};
    const ser_step step = step_of(0, 1.0F);
    const float zeros[COUNT] = {0};
    state s = state_of(COUNT, false);
    s.m = twin_values(COUNT, 1, SER_F32, zeros);
    s.v = twin_values(COUNT, 1, SER_F32, zeros);
    const void *gradient = gpu_copy(zeros, sizeof zeros);
    ck_assert_int_eq(update_gpu(&s, gradient, 0.0, &step, &(ranges){&range, 1}), 0);
    ck_assert_mem_eq(gpu_bytes(&s.w.gpu), s.w.cpu.data, sizeof zeros);
    check_slack(&s);
}
END_TEST

START_TEST(test_same_bits)
{
    enum { COUNT = 9001 };
    const ser_adamw_range range[] = {{0, 4001, 0.01F, 0.1F}, {4001, COUNT, 0.02F, 0.0F}};
    const ser_step step = step_of(0, 1.0F);
    const twin gradient = twin_input(COUNT, 1, SER_F32, 9, 1.0F, 0);
    const state s[2] = {state_of(COUNT, true), state_of(COUNT, true)};
    for (int i = 0; i < 2; i++) {
        update_gpu(&s[i], gradient.gpu.data, 3.0, &step, &(ranges){range, 2});
    }
    const size_t size = COUNT * sizeof(float);
    ck_assert_mem_eq(gpu_bytes(&s[0].w.gpu), gpu_bytes(&s[1].w.gpu), size);
    ck_assert_mem_eq(gpu_bytes(&s[0].m.gpu), gpu_bytes(&s[1].m.gpu), size);
    ck_assert_mem_eq(gpu_bytes(&s[0].v.gpu), gpu_bytes(&s[1].v.gpu), size);
    ck_assert_mem_eq(gpu_bytes(&s[0].ema.gpu), gpu_bytes(&s[1].ema.gpu), size);
}
END_TEST

static void upload(void *device, const void *host, size_t size)
{
    assert_ok(gpu.ops->upload(gpu.queue, device, host, size));
    assert_ok(gpu.ops->sync(gpu.queue));
}

/* A recorded update follows what the step and the sum are when it is replayed. */
START_TEST(test_replayed)
{
    enum { COUNT = 500 };
    const ser_adamw_range range = {0, COUNT, 0.01F, 0.1F};
    const state s = state_of(COUNT, true);
    const twin gradient = twin_input(COUNT, 1, SER_F32, 9, 1.0F, 0);
    ser_step step = step_of(0, 0.0F);
    double sum = (double)NAN;
    int32_t skipped = -1;
    ser_adamw_args args = args_of(&s);
    void *steps = gpu_copy(&step, sizeof step);
    void *sums = gpu_copy(&sum, sizeof sum);
    args.gradient = gradient.gpu.data;
    args.ranges = gpu_copy(&range, sizeof range);
    args.range_count = 1;
    args.step = steps;
    args.sum = sums;
    args.skipped = gpu_copy(&skipped, sizeof skipped);
    RUN_GPU(ser_adamw, &args);
    ser_graph *graph = NULL;
    assert_ok(gpu.ops->capture_begin(gpu.queue));
    assert_ok(ser_adamw(gpu.queue, &args));
    assert_ok(gpu.ops->capture_end(gpu.queue, false, &graph));
    for (int t = 0; t < STEPS; t++) {
        step = step_of(t, 1.0F - 0.2F * (float)t);
        step.clip = 0.5F;
        sum = t == 1 ? (double)INFINITY : 100.0 + t;
        upload(steps, &step, sizeof step);
        upload(sums, &sum, sizeof sum);
        assert_ok(gpu.ops->replay(gpu.queue, graph));
        assert_ok(gpu.ops->download(gpu.queue, &skipped, args.skipped, sizeof skipped));
        assert_ok(gpu.ops->sync(gpu.queue));
        ck_assert_int_eq(skipped, t == 1);
        ck_assert_int_eq(update_cpu(&s, gradient.cpu.data, sum, &step, &(ranges){&range, 1}),
                         t == 1);
    }
    check_state(&s);
    gpu.ops->graph_free(gpu.context, graph);
}
END_TEST

CUDA_SUITE("cuda_adamw", test_one_range, test_many_ranges, test_agrees_with_the_formula,
           test_agrees_with_pytorch, test_skips, test_rounded, test_not_aligned, test_nothing_to_do,
           test_same_bits, test_replayed)
