/* SPDX-License-Identifier: MIT */
#include "fixture.h"

typedef struct sizes {
    int32_t kernel, groups;
    int64_t channels;
} sizes;

/* The bf16 copy of a weight, read through pos_conv: in clip i, input i of every group is 1 in
 * frame `kernel` and all else is 0, so z[t, o] = w[o, kernel / 2 + kernel - t, i] exactly. */
static void check_rounded(const ser_weight_norm_args *args, const float *w)
{
    const int32_t kernel = args->kernel;
    const int64_t channels = args->v.rows;
    const int64_t width = channels / args->groups;
    const int64_t padded = 2 * kernel + 1;
    const size_t count = (size_t)(width * padded * channels);
    float *impulses = ser_mem_alloc(count, sizeof *impulses);
    float *zeros = ser_mem_alloc((size_t)channels, sizeof *zeros);
    int32_t *valid = ser_mem_alloc((size_t)width, sizeof *valid);
    for (int64_t i = 0; i < width; i++) {
        valid[i] = (int32_t)padded;
        for (int64_t g = 0; g < args->groups; g++) {
            impulses[(i * padded + kernel) * channels + g * width + i] = 1.0F;
        }
    }
    const twin x = twin_values(width * padded, channels, SER_BF16, impulses);
    const twin bias = twin_values(1, channels, SER_F32, zeros);
    const twin y = twin_output(width * padded, channels, SER_BF16);
    const twin z = twin_output(width * padded, channels, SER_BF16);
    const ser_pos_conv_args conv = {.x = x.gpu,
                                    .rows = twin_rows_of(width, padded, valid).gpu,
                                    .kernel = kernel,
                                    .groups = args->groups,
                                    .w = args->w,
                                    .bias = bias.gpu,
                                    .y = y.gpu,
                                    .z = z.gpu};
    RUN_GPU(ser_pos_conv_fwd, &conv);
    const float *got = gpu_values(&z.gpu);
    const twin rounded = twin_values(channels, kernel * width, SER_BF16, w);
    for (int64_t o = 0; o < channels; o++) {
        for (int64_t k = 0; k < kernel; k++) {
            for (int64_t i = 0; i < width; i++) {
                const int64_t t = kernel / 2 + kernel - k;
                ck_assert_float_eq(got[(i * padded + t) * channels + o],
                                   ((const float *)rounded.cpu.data)[(o * kernel + k) * width + i]);
            }
        }
    }
    ser_mem_free(impulses);
    ser_mem_free(zeros);
    ser_mem_free(valid);
}

/* Forward on both sides, and the GPU's weight again. */
typedef struct outcome {
    ser_weight_norm_args args; /* of the GPU */
    twin w;
} outcome;

static outcome run(const sizes *s, int32_t type, const twin *g, const twin *v)
{
    const int64_t width = s->channels / s->groups;
    const twin_weight weight = twin_weight_of(width, s->kernel * width, s->groups, type, 1, 1.0F);
    const twin w = twin_output(s->channels, s->kernel * width, SER_F32);
    ser_weight_norm_args args = {
        .g = g->cpu, .v = v->cpu, .kernel = s->kernel, .groups = s->groups, .w = weight.cpu};
    RUN_CPU(ser_weight_norm_fwd, &args);
    args.g = g->gpu;
    args.v = v->gpu;
    args.w = weight.gpu;
    RUN_GPU(ser_weight_norm_fwd, &args);
    assert_ok(cpu.ops->weight_get(cpu.queue, weight.cpu, w.cpu.data));
    assert_ok(gpu.ops->weight_get(gpu.queue, weight.gpu, w.gpu.data));
    assert_ok(gpu.ops->sync(gpu.queue));
    return (outcome){.args = args, .w = w};
}

/* Sums are double on both sides, in another order: the factor may be its neighbour in float. */
enum { UNITS = 2 };

static void check_sizes(const sizes *s, int32_t type, float scale)
{
    const twin g = twin_input(1, s->kernel, SER_F32, 2, 1.0F, 0);
    const twin v =
        twin_input(s->channels, s->channels / s->groups * s->kernel, SER_F32, 3, scale, 0);
    const outcome o = run(s, type, &g, &v);
    const float *got = gpu_values(&o.w.gpu);
    const float *expected = o.w.cpu.data;
    for (int64_t i = 0; i < o.w.cpu.rows * o.w.cpu.cols; i++) {
        ck_assert_msg(fabsf(got[i] - expected[i]) <= (float)UNITS * 0x1p-23F * fabsf(expected[i]),
                      "w[%lld] is %.9g, not %.9g", (long long)i, (double)got[i],
                      (double)expected[i]);
    }
    if (type == SER_BF16) {
        check_rounded(&o.args, got);
    }
    twins_free();
}

START_TEST(test_weight)
{
    /* 35 taps: a second block of them; 60 * 30 rows of v: a fourth chunk */
    const sizes list[] = {{1, 1, 1},    {5, 3, 12},  {31, 2, 32},
                          {128, 2, 16}, {35, 2, 60}, {3, 1, 37}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        check_sizes(&list[i], SER_F32, 1.0F);
    }
    check_sizes(&list[1], SER_BF16, 1.0F); /* read back by pos_conv's portable loops */
    check_sizes(&list[2], SER_BF16, 1.0F); /* and by tensor cores */
}
END_TEST

/* Squares that float cannot hold. */
START_TEST(test_extremes)
{
    check_sizes(&(sizes){3, 1, 12}, SER_F32, 1e30F);
    check_sizes(&(sizes){3, 1, 12}, SER_F32, 1e-30F);
}
END_TEST

/* A length of zero gives what it gives on the CPU, and only in its tap. */
START_TEST(test_zero_length)
{
    const sizes s = {4, 1, 6};
    float values[6 * 24];
    for (int i = 0; i < 6 * 24; i++) {
        values[i] = i % 4 == 2 ? 0.0F : (float)(i % 7 - 3);
    }
    const twin g = twin_values(1, 4, SER_F32, (const float[]){1.0F, -2.0F, 3.0F, 0.0F});
    const twin v = twin_values(6, 24, SER_F32, values);
    const outcome o = run(&s, SER_F32, &g, &v);
    twin_check("w", &o.w, NULL, 1e-6, false);
    ck_assert(isnan(((const float *)o.w.cpu.data)[2 * 6]));
}
END_TEST

START_TEST(test_bits_repeat)
{
    const sizes s = {33, 4, 48};
    const twin g = twin_input(1, s.kernel, SER_F32, 2, 1.0F, 0);
    const twin v = twin_input(s.channels, 12 * s.kernel, SER_F32, 3, 1.0F, 0);
    const outcome first = run(&s, SER_BF16, &g, &v);
    const outcome second = run(&s, SER_BF16, &g, &v);
    ck_assert_mem_eq(gpu_bytes(&first.w.gpu), gpu_bytes(&second.w.gpu),
                     (size_t)(48 * 12 * s.kernel) * sizeof(float));
}
END_TEST

/* --- Backward --- */

typedef struct gradients {
    twin dg, dv;
    ser_weight_norm_args cpu, gpu;
} gradients;

/* Backward reads no weight; dg and dv hold something. */
static gradients gradients_of(const sizes *s, float scale)
{
    const int64_t cols = s->channels / s->groups * s->kernel;
    const twin g = twin_input(1, s->kernel, SER_F32, 2, 1.0F, 0);
    const twin v = twin_input(s->channels, cols, SER_F32, 3, scale, 0);
    const twin dw = twin_input(s->channels, cols, SER_F32, 4, 1.0F, 0);
    gradients t = {.dg = twin_input(1, s->kernel, SER_F32, 5, 1.0F, 0),
                   .dv = twin_input(s->channels, cols, SER_F32, 6, 1.0F, 0)};
    t.cpu = (ser_weight_norm_args){.g = g.cpu,
                                   .v = v.cpu,
                                   .kernel = s->kernel,
                                   .groups = s->groups,
                                   .dw = dw.cpu,
                                   .dg = t.dg.cpu,
                                   .dv = t.dv.cpu};
    t.gpu = t.cpu;
    t.gpu.g = g.gpu;
    t.gpu.v = v.gpu;
    t.gpu.dw = dw.gpu;
    t.gpu.dg = t.dg.gpu;
    t.gpu.dv = t.dv.gpu;
    return t;
}

/* Sums are double on both sides: a few roundings of float are left. */
static void check_backward(const sizes *s, float scale)
{
    const gradients t = gradients_of(s, scale);
    const void *dw = gpu_bytes(&t.gpu.dw);
    RUN_CPU(ser_weight_norm_bwd, &t.cpu);
    RUN_GPU(ser_weight_norm_bwd, &t.gpu);
    twin_check("dg", &t.dg, NULL, 4e-7, false);
    twin_check("dv", &t.dv, NULL, 4e-7, false);
    twin_check_slack("dg", &t.dg);
    twin_check_slack("dv", &t.dv);
    ck_assert_mem_eq(gpu_bytes(&t.gpu.dw), dw,
                     (size_t)(t.gpu.dw.rows * t.gpu.dw.cols) * sizeof(float));
    twins_free();
}

START_TEST(test_gradients)
{
    /* widths beyond a tile of 32 inputs; more than a warp of blocks of channels */
    const sizes list[] = {{1, 1, 1},   {5, 3, 12}, {31, 2, 32}, {128, 2, 16},
                          {35, 2, 90}, {3, 1, 37}, {2, 70, 280}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        check_backward(&list[i], 1.0F);
    }
    check_backward(&list[5], 1e15F); /* n^2 beyond float */
    check_backward(&list[5], 1e-15F);
}
END_TEST

START_TEST(test_gradients_alone_and_repeated)
{
    const sizes s = {33, 4, 48};
    const gradients all = gradients_of(&s, 1.0F);
    const size_t dg_size = (size_t)s.kernel * sizeof(float);
    const size_t dv_size = (size_t)(48 * 12 * s.kernel) * sizeof(float);
    RUN_GPU(ser_weight_norm_bwd, &all.gpu);
    for (int wanted = 0; wanted < 2; wanted++) {
        const gradients one = gradients_of(&s, 1.0F);
        ser_weight_norm_args args = one.gpu;
        const void *dg = gpu_bytes(wanted == 0 ? &all.gpu.dg : &one.gpu.dg);
        const void *dv = gpu_bytes(wanted == 1 ? &all.gpu.dv : &one.gpu.dv);
        args.dg = wanted == 0 ? args.dg : (ser_tensor){0};
        args.dv = wanted == 1 ? args.dv : (ser_tensor){0};
        RUN_GPU(ser_weight_norm_bwd, &args);
        ck_assert_mem_eq(gpu_bytes(&one.gpu.dg), dg, dg_size);
        ck_assert_mem_eq(gpu_bytes(&one.gpu.dv), dv, dv_size);
    }
}
END_TEST

/* A length of zero gives what it gives on the CPU, and only in its tap. */
START_TEST(test_gradients_of_zero_length)
{
    const sizes s = {4, 1, 6};
    float values[6 * 24];
    for (int i = 0; i < 6 * 24; i++) {
        values[i] = i % 4 == 2 ? 0.0F : (float)(i % 7 - 3);
    }
    gradients t = gradients_of(&s, 1.0F);
    const twin v = twin_values(6, 24, SER_F32, values);
    t.cpu.v = v.cpu;
    t.gpu.v = v.gpu;
    RUN_CPU(ser_weight_norm_bwd, &t.cpu);
    RUN_GPU(ser_weight_norm_bwd, &t.gpu);
    twin_check("dg", &t.dg, NULL, 4e-7, false);
    twin_check("dv", &t.dv, NULL, 4e-7, false);
    ck_assert(isnan(((const float *)t.dv.cpu.data)[2]));
}
END_TEST

/* sum of dw * w, w by the GPU's forward. */
static double loss(const sizes *s, const float *g, const float *v, const float *dw)
{
    const int64_t width = s->channels / s->groups;
    const int64_t cols = width * s->kernel;
    const twin w = twin_output(s->channels, cols, SER_F32);
    const ser_weight_norm_args args = {
        .g = twin_values(1, s->kernel, SER_F32, g).gpu,
        .v = twin_values(s->channels, cols, SER_F32, v).gpu,
        .kernel = s->kernel,
        .groups = s->groups,
        .w = twin_weight_of(width, cols, s->groups, SER_F32, 1, 1.0F).gpu};
    RUN_GPU(ser_weight_norm_fwd, &args);
    assert_ok(gpu.ops->weight_get(gpu.queue, args.w, w.gpu.data));
    assert_ok(gpu.ops->sync(gpu.queue));
    const float *got = gpu_values(&w.gpu);
    double total = 0.0;
    for (int64_t i = 0; i < s->channels * cols; i++) {
        total += (double)got[i] * (double)dw[i];
    }
    return total;
}

/* Central differences; a step of 2^-7 costs up to 1e-4 by curvature, 1e-5 by roundings of w. */
START_TEST(test_differences)
{
    const sizes s = {2, 2, 4};
    enum { TAPS = 2, COUNT = 4 * 2 * 2 };
    const float step = 0x1p-7F;
    const gradients t = gradients_of(&s, 1.0F);
    float g[TAPS];
    float v[COUNT];
    memcpy(g, t.cpu.g.data, sizeof g);
    memcpy(v, t.cpu.v.data, sizeof v);
    const float *dw = t.cpu.dw.data;
    RUN_GPU(ser_weight_norm_bwd, &t.gpu);
    const float *dg = gpu_values(&t.gpu.dg);
    const float *dv = gpu_values(&t.gpu.dv);
    for (int i = 0; i < TAPS + COUNT; i++) {
        float *value = i < TAPS ? g + i : v + i - TAPS;
        const double gradient =
            i < TAPS ? (double)dg[i] - (double)((float *)t.cpu.dg.data)[i]
                     : (double)dv[i - TAPS] - (double)((float *)t.cpu.dv.data)[i - TAPS];
        const float before = *value;
        *value = before + step;
        const double above = loss(&s, g, v, dw);
        *value = before - step;
        const double below = loss(&s, g, v, dw);
        *value = before;
        const double difference = (above - below) / (2.0 * (double)step);
        ck_assert_double_eq_tol(gradient, difference, 1e-3);
    }
}
END_TEST

CUDA_SUITE("cuda_weight_norm", test_weight, test_extremes, test_zero_length, test_bits_repeat,
           test_gradients, test_gradients_alone_and_repeated, test_gradients_of_zero_length,
           test_differences)
