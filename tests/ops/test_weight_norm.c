/* SPDX-License-Identifier: MIT */
#include "fixture.h"

/* The op in double precision: w[o, k, i], and sum of dw * w as the loss. */
static struct {
    int64_t channels, inputs, kernel;
    double *g, *v, *dw;
} model;

static void forward(double *w)
{
    const int64_t kernel = model.kernel;
    for (int64_t k = 0; k < kernel; k++) {
        double square = 0.0;
        for (int64_t i = 0; i < model.channels * model.inputs; i++) {
            square += model.v[i * kernel + k] * model.v[i * kernel + k];
        }
        for (int64_t o = 0; o < model.channels; o++) {
            for (int64_t i = 0; i < model.inputs; i++) {
                w[(o * kernel + k) * model.inputs + i] =
                    model.g[k] * model.v[(o * model.inputs + i) * kernel + k] / sqrt(square);
            }
        }
    }
}

static double loss(void)
{
    const int64_t count = model.channels * model.inputs * model.kernel;
    double *w = ser_mem_alloc((size_t)count, sizeof *w);
    double total = 0.0;
    forward(w);
    for (int64_t i = 0; i < count; i++) {
        total += w[i] * model.dw[i];
    }
    ser_mem_free(w);
    return total;
}

static ser_weight_norm_args args_of(int32_t kernel, int32_t groups, int64_t channels)
{
    const int64_t width = channels / groups;
    const ser_tensor zeros = matrix(channels, kernel * width, 1, 0);
    memset(zeros.data, 0, (size_t)(zeros.rows * zeros.cols) * sizeof(float));
    return (ser_weight_norm_args){.g = matrix(1, kernel, 2, 0),
                                  .v = matrix(channels, width * kernel, 3, 0),
                                  .kernel = kernel,
                                  .groups = groups,
                                  .w = weight_of(width, kernel * width, groups, zeros.data),
                                  .dw = matrix(channels, kernel * width, 4, 0)};
}

static void set_model(const ser_weight_norm_args *args)
{
    model.channels = args->v.rows;
    model.inputs = args->v.cols / args->kernel;
    model.kernel = args->kernel;
    model.g = doubles(&args->g);
    model.v = doubles(&args->v);
    model.dw = doubles(&args->dw);
}

static void check_forward(int32_t kernel, int32_t groups, int64_t channels)
{
    const ser_weight_norm_args args = args_of(kernel, groups, channels);
    const ser_tensor w = poisoned(channels, args.v.cols);
    const int32_t valid[] = {(int32_t)channels};
    const ser_rows rows = {.batch = 1, .padded = channels, .valid = valid};
    RUN(ser_weight_norm_fwd, &args);
    assert_ok(ser_cpu_ops.weight_get(queue, args.w, w.data));
    set_model(&args);
    double *reference = ser_mem_alloc((size_t)(channels * args.v.cols), sizeof *reference);
    forward(reference);
    check_rows(&w, reference, &rows, false);
    ser_mem_free(reference);
    matrices_free();
}

START_TEST(test_weight_agrees_with_definition)
{
    check_forward(1, 1, 1);
    check_forward(5, 3, 12);
    check_forward(128, 4, 40);
}
END_TEST

static void check_backward(int32_t kernel, int32_t groups, int64_t channels)
{
    ser_weight_norm_args args = args_of(kernel, groups, channels);
    args.w = NULL; /* backward does not read it */
    args.dg = matrix(1, kernel, 5, 0);
    args.dv = matrix(channels, args.v.cols, 6, 0);
    const float *dw = content(&args.dw);
    const float *dg = content(&args.dg);
    const float *dv = content(&args.dv);
    RUN(ser_weight_norm_bwd, &args);
    set_model(&args);
    check_differences("dg", loss, model.g, kernel, args.dg.data, dg);
    check_differences("dv", loss, model.v, channels * args.v.cols, args.dv.data, dv);
    ck_assert_mem_eq(args.dw.data, dw, (size_t)(channels * args.v.cols) * sizeof(float));
    matrices_free();
}

START_TEST(test_gradients_agree_with_differences)
{
    check_backward(2, 1, 3);
    check_backward(5, 3, 12);
    check_backward(16, 5, 35);
}
END_TEST

/* A million values: enough for two threads. */
START_TEST(test_same_bits_with_any_threads_and_absent_gradients)
{
    enum { KERNEL = 64, GROUPS = 2, CHANNELS = 180, COLS = KERNEL * CHANNELS / GROUPS };
    ser_weight_norm_args args = args_of(KERNEL, GROUPS, CHANNELS);
    args.dg = matrix(1, KERNEL, 5, 0);
    args.dv = matrix(CHANNELS, COLS, 6, 0);
    ser_tensor w = poisoned(CHANNELS, COLS);
    const float *dg = content(&args.dg);
    const float *dv = content(&args.dv);
    RUN(ser_weight_norm_fwd, &args);
    assert_ok(ser_cpu_ops.weight_get(queue, args.w, w.data));
    const float *w_two = content(&w);
    RUN(ser_weight_norm_bwd, &args);
    const float *dg_two = content(&args.dg);
    const float *dv_two = content(&args.dv);
    fixture_threads(1);
    RUN(ser_weight_norm_fwd, &args);
    assert_ok(ser_cpu_ops.weight_get(queue, args.w, w.data));
    ck_assert_mem_eq(w.data, w_two, CHANNELS * COLS * sizeof(float));
    memcpy(args.dg.data, dg, KERNEL * sizeof(float));
    memcpy(args.dv.data, dv, CHANNELS * COLS * sizeof(float));
    ser_weight_norm_args part = args;
    part.dv = (ser_tensor){0};
    RUN(ser_weight_norm_bwd, &part);
    ck_assert_mem_eq(args.dg.data, dg_two, KERNEL * sizeof(float));
    ck_assert_mem_eq(args.dv.data, dv, CHANNELS * COLS * sizeof(float));
    part = args;
    part.dg = (ser_tensor){0};
    RUN(ser_weight_norm_bwd, &part);
    ck_assert_mem_eq(args.dg.data, dg_two, KERNEL * sizeof(float));
    ck_assert_mem_eq(args.dv.data, dv_two, CHANNELS * COLS * sizeof(float));
}
END_TEST

OP_SUITE("weight_norm", test_weight_agrees_with_definition, test_gradients_agree_with_differences,
         test_same_bits_with_any_threads_and_absent_gradients)
