/* SPDX-License-Identifier: MIT */
#include "fixture.h"

static double activation_reference(double x, int activation)
{
    switch (activation) {
    case SER_ACT_GELU: return gelu_reference(x);
    case SER_ACT_RELU: return x > 0.0 ? x : 0.0;
    case SER_ACT_TANH: return tanh(x);
    default: return x;
    }
}

static double *reference_of(const ser_linear_args *a, const float *w, int64_t n)
{
    const int64_t k = a->x.cols;
    const float *x = a->x.data;
    const float *bias = a->bias.data;
    double *y = ser_mem_alloc((size_t)(a->x.rows * n), sizeof *y);
    for (int64_t r = 0; r < a->x.rows; r++) {
        for (int64_t i = 0; i < n; i++) {
            double sum = bias != NULL ? (double)bias[i] : 0.0;
            for (int64_t j = 0; j < k; j++) {
                sum += (double)x[r * k + j] * (double)w[i * k + j];
            }
            y[r * n + i] = activation_reference(sum, a->activation);
        }
    }
    return y;
}

static void check_size(int64_t padded, int32_t valid0, int32_t valid1, int64_t k, int64_t n,
                       int act)
{
    const int32_t valid[] = {valid0, valid1};
    ser_tensor x = matrix(2 * padded, k, 1, 0);
    ser_tensor w = matrix(n, k, 2, 0);
    harness_fill(w.data, (size_t)(n * k), 2, 1.0F / sqrtf((float)k)); /* sums of order 1 */
    ser_linear_args args = {.x = x,
                            .rows = {.batch = 2, .padded = padded, .valid = valid},
                            .w = weight_of(n, k, 1, w.data),
                            .bias = act == SER_ACT_NONE ? (ser_tensor){0} : matrix(1, n, 3, 0),
                            .activation = act,
                            .y = poisoned(2 * padded, n)};
    fill_padding(&x, &args.rows, NAN);
    RUN(ser_linear_fwd, &args);
    double *reference = reference_of(&args, w.data, n);
    check_rows(&args.y, reference, &args.rows, false);
    ser_mem_free(reference);
    matrices_free();
}

START_TEST(test_agrees_with_plain_loops)
{
    check_size(1, 1, 1, 1, 1, SER_ACT_NONE);
    check_size(7, 7, 5, 3, 17, SER_ACT_RELU);
    check_size(50, 49, 1, 64, 33, SER_ACT_GELU);
    check_size(250, 249, 130, 300, 70, SER_ACT_GELU);
    check_size(40, 40, 39, 1537, 515, SER_ACT_TANH);
    check_size(20, 13, 20, 768, 256, SER_ACT_NONE);
}
END_TEST

START_TEST(test_row_has_same_bits_alone_and_with_any_threads)
{
    enum { ROWS = 301, K = 700, N = 130 };
    const int32_t valid[] = {ROWS};
    ser_tensor x = matrix(ROWS, K, 1, 0);
    ser_tensor w = matrix(N, K, 2, 0);
    ser_linear_args args = {.x = x,
                            .rows = {.batch = 1, .padded = ROWS, .valid = valid},
                            .w = weight_of(N, K, 1, w.data),
                            .bias = matrix(1, N, 3, 0),
                            .activation = SER_ACT_GELU,
                            .y = poisoned(ROWS, N)};
    RUN(ser_linear_fwd, &args);
    float *together = content(&args.y);
    fixture_threads(1);
    RUN(ser_linear_fwd, &args);
    ck_assert_mem_eq(args.y.data, together, ROWS * N * sizeof(float));
    const int32_t one[] = {1};
    for (int64_t r = 0; r < ROWS; r += 50) {
        ser_linear_args single = args;
        single.x = ser_tensor_f32((float *)x.data + r * K, 1, K);
        single.rows = (ser_rows){.batch = 1, .padded = 1, .valid = one};
        single.y = poisoned(1, N);
        RUN(ser_linear_fwd, &single);
        ck_assert_mem_eq(single.y.data, together + r * N, N * sizeof(float));
    }
}
END_TEST

START_TEST(test_weight_comes_back_bit_for_bit)
{
    const int64_t sizes[][3] = {{1, 1, 1}, {33, 7, 1}, {515, 40, 1}, {48, 100, 3}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t rows = sizes[i][0];
        const int64_t cols = sizes[i][1];
        const int64_t groups = sizes[i][2];
        ser_tensor w = matrix(rows * groups, cols, 9, 0);
        ser_tensor back = poisoned(rows * groups, cols);
        ser_weight *weight = weight_of(rows, cols, groups, w.data);
        assert_ok(ser_cpu_ops.weight_get(queue, weight, back.data));
        ck_assert_mem_eq(back.data, w.data, (size_t)(rows * cols * groups) * sizeof(float));
        matrices_free();
    }
}
END_TEST

START_TEST(test_extreme_values)
{
    const int32_t valid[] = {1};
    const float in[] = {-1e30F, -100.0F, -6.0F, -1e-20F, 0.0F, 1e-20F, 6.0F, 100.0F, 1e30F};
    enum { N = sizeof in / sizeof *in };
    const float w[N] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    for (int act = SER_ACT_NONE; act <= SER_ACT_TANH; act++) {
        for (int i = 0; i < N; i++) {
            ser_tensor x = matrix(1, 1, 1, 0);
            *(float *)x.data = in[i];
            ser_linear_args args = {.x = x,
                                    .rows = {.batch = 1, .padded = 1, .valid = valid},
                                    .w = weight_of(N, 1, 1, w),
                                    .activation = act,
                                    .y = poisoned(1, N)};
            RUN(ser_linear_fwd, &args);
            double expected = activation_reference((double)in[i], act);
            for (int j = 0; j < N; j++) {
                double got = (double)((float *)args.y.data)[j];
                ck_assert_msg(fabs(got - expected) <= 2e-6 * fmax(1.0, fabs(expected)),
                              "act %d of %g is %g", act, (double)in[i], got);
            }
            matrices_free();
        }
    }
}
END_TEST

START_TEST(test_nan_survives_every_activation)
{
    const int32_t valid[] = {1};
    const float w[2] = {1.0F, 1.0F};
    for (int act = SER_ACT_NONE; act <= SER_ACT_TANH; act++) {
        ser_tensor x = matrix(1, 1, 1, 0);
        *(float *)x.data = NAN;
        ser_linear_args args = {.x = x,
                                .rows = {.batch = 1, .padded = 1, .valid = valid},
                                .w = weight_of(2, 1, 1, w),
                                .activation = act,
                                .y = poisoned(1, 2)};
        RUN(ser_linear_fwd, &args);
        ck_assert(isnan(*(float *)args.y.data));
    }
}
END_TEST

/* Backward arguments of two clips with everything in them; dw and dbias hold numbers already. */
static ser_linear_args backward_args(int64_t padded, const int32_t *valid, int64_t k, int64_t n,
                                     const ser_tensor *w)
{
    ser_linear_args args = {.x = matrix(2 * padded, k, 1, 0),
                            .rows = {.batch = 2, .padded = padded, .valid = valid},
                            .w = weight_of(n, k, 1, w->data),
                            .dy = matrix(2 * padded, n, 3, 0),
                            .dx = poisoned(2 * padded, k),
                            .dw = matrix(n, k, 4, 0),
                            .dbias = matrix(1, n, 5, 0)};
    fill_padding(&args.x, &args.rows, NAN);
    fill_padding(&args.dy, &args.rows, NAN);
    return args;
}

/* sum over the valid rows of dy * (x W^T + b) */
static struct {
    const ser_linear_args *args;
    double *x, *w, *b, *dy;
} model;

static double loss(void)
{
    const ser_linear_args *a = model.args;
    const int64_t k = a->dx.cols;
    const int64_t n = a->dy.cols;
    double total = 0.0;
    for (int64_t r = 0; r < a->dy.rows; r++) {
        for (int64_t i = 0; r % a->rows.padded < a->rows.valid[r / a->rows.padded] && i < n; i++) {
            double y = model.b[i];
            for (int64_t j = 0; j < k; j++) {
                y += model.x[r * k + j] * model.w[i * k + j];
            }
            total += y * model.dy[r * n + i];
        }
    }
    return total;
}

static void check_small_backward(int64_t padded, int32_t valid0, int32_t valid1, int64_t k,
                                 int64_t n)
{
    const int32_t valid[] = {valid0, valid1};
    ser_tensor w = matrix(n, k, 2, 0);
    const ser_linear_args args = backward_args(padded, valid, k, n, &w);
    const float *dw = content(&args.dw);
    const float *dbias = content(&args.dbias);
    RUN(ser_linear_bwd, &args);
    model.args = &args;
    model.x = doubles(&args.x);
    model.w = doubles(&w);
    model.b = doubles(&args.dbias);
    model.dy = doubles(&args.dy);
    check_row_differences("dx", loss, model.x, &args.dx, &args.rows, false);
    check_differences("dw", loss, model.w, n * k, args.dw.data, dw);
    check_differences("dbias", loss, model.b, n, args.dbias.data, dbias);
    matrices_free();
}

START_TEST(test_gradients_agree_with_differences)
{
    check_small_backward(1, 1, 1, 1, 1);
    check_small_backward(7, 7, 5, 3, 17);
    check_small_backward(19, 0, 18, 33, 7);
    check_small_backward(13, 13, 2, 16, 40);
}
END_TEST

/* Several blocks of rows, outputs and inputs, with rows of one block in two clips. */
static void check_large_backward(int64_t padded, int32_t valid0, int32_t valid1, int64_t k,
                                 int64_t n)
{
    const int32_t valid[] = {valid0, valid1};
    ser_tensor w = matrix(n, k, 2, 0);
    const ser_linear_args args = backward_args(padded, valid, k, n, &w);
    const float *dw = content(&args.dw);
    const float *dbias = content(&args.dbias);
    RUN(ser_linear_bwd, &args);
    double *dx_reference = ser_mem_alloc((size_t)(args.x.rows * k), sizeof *dx_reference);
    double *dw_reference = ser_mem_alloc((size_t)(n * k), sizeof *dw_reference);
    double *db_reference = ser_mem_alloc((size_t)n, sizeof *db_reference);
    for (int64_t r = 0; r < args.x.rows; r++) {
        const float *x = (const float *)args.x.data + r * k;
        const float *dy = (const float *)args.dy.data + r * n;
        for (int64_t i = 0; r % padded < valid[r / padded] && i < n; i++) {
            const float *row = (const float *)w.data + i * k;
            db_reference[i] += (double)dy[i];
            for (int64_t j = 0; j < k; j++) {
                dx_reference[r * k + j] += (double)dy[i] * (double)row[j];
                dw_reference[i * k + j] += (double)dy[i] * (double)x[j];
            }
        }
    }
    check_rows(&args.dx, dx_reference, &args.rows, false);
    check_gradient("dw", args.dw.data, dw, dw_reference, n * k);
    check_gradient("dbias", args.dbias.data, dbias, db_reference, n);
    ser_mem_free(dx_reference);
    ser_mem_free(dw_reference);
    ser_mem_free(db_reference);
    matrices_free();
}

START_TEST(test_gradients_agree_with_plain_loops)
{
    check_large_backward(300, 299, 130, 130, 70);
    check_large_backward(140, 140, 139, 1100, 33);
    check_large_backward(60, 60, 1, 65, 777);
}
END_TEST

START_TEST(test_gradients_have_same_bits_alone_and_with_any_threads)
{
    enum { PADDED = 301, K = 300, N = 170 };
    const int32_t valid[] = {PADDED, 77};
    ser_tensor w = matrix(N, K, 2, 0);
    const ser_linear_args args = backward_args(PADDED, valid, K, N, &w);
    const float *dw = content(&args.dw);
    const float *dbias = content(&args.dbias);
    RUN(ser_linear_bwd, &args);
    const float *dx_two = content(&args.dx);
    const float *dw_two = content(&args.dw);
    const float *dbias_two = content(&args.dbias);
    memcpy(args.dw.data, dw, N * K * sizeof(float));
    memcpy(args.dbias.data, dbias, N * sizeof(float));
    fixture_threads(1);
    RUN(ser_linear_bwd, &args);
    for (int64_t b = 0; b < 2; b++) {
        ck_assert_mem_eq((float *)args.dx.data + b * PADDED * K, dx_two + b * PADDED * K,
                         (size_t)(valid[b] * K) * sizeof(float));
    }
    ck_assert_mem_eq(args.dw.data, dw_two, N * K * sizeof(float));
    ck_assert_mem_eq(args.dbias.data, dbias_two, N * sizeof(float));
    ser_linear_args alone = args;
    alone.dy = ser_tensor_f32((float *)args.dy.data + PADDED * N, 77, N);
    alone.rows = (ser_rows){.batch = 1, .padded = 77, .valid = valid + 1};
    alone.dx = poisoned(77, K);
    alone.x = alone.dw = alone.dbias = (ser_tensor){0};
    RUN(ser_linear_bwd, &alone);
    ck_assert_mem_eq(alone.dx.data, dx_two + PADDED * K, 77 * K * sizeof(float));
}
END_TEST

/* Each gradient alone is what it is with the others; the others are not written. */
START_TEST(test_absent_gradients_are_not_made)
{
    const int32_t valid[] = {9, 4};
    ser_tensor w = matrix(20, 11, 2, 0);
    const ser_linear_args all = backward_args(9, valid, 11, 20, &w);
    const float *dw = content(&all.dw);
    const float *dbias = content(&all.dbias);
    ser_linear_args part = all;
    part.x = part.dw = part.dbias = (ser_tensor){0}; /* a frozen layer */
    RUN(ser_linear_bwd, &part);
    const float *dx = content(&all.dx);
    ck_assert_mem_eq(all.dw.data, dw, 20 * 11 * sizeof(float));
    ck_assert_mem_eq(all.dbias.data, dbias, 20 * sizeof(float));
    part = all;
    part.dx = part.dbias = (ser_tensor){0}; /* the first layer */
    RUN(ser_linear_bwd, &part);
    const float *dw_after = content(&all.dw);
    ck_assert_mem_ne(all.dw.data, dw, 20 * 11 * sizeof(float));
    ck_assert_mem_eq(all.dx.data, dx, 18 * 11 * sizeof(float));
    ck_assert_mem_eq(all.dbias.data, dbias, 20 * sizeof(float));
    memcpy(all.dw.data, dw, 20 * 11 * sizeof(float));
    RUN(ser_linear_bwd, &all);
    ck_assert_mem_eq(all.dx.data, dx, 9 * 11 * sizeof(float));
    ck_assert_mem_eq(all.dw.data, dw_after, 20 * 11 * sizeof(float));
    ck_assert_mem_ne(all.dbias.data, dbias, 20 * sizeof(float));
}
END_TEST

/* Prediction pays nothing for what training needs. */
START_TEST(test_forward_needs_no_scratch_of_backward)
{
    const int32_t valid[] = {9, 4};
    ser_tensor w = matrix(20, 11, 2, 0);
    const ser_linear_args backward = backward_args(9, valid, 11, 20, &w);
    ser_linear_args forward = backward;
    forward.y = forward.dy;
    forward.dy = forward.dx = forward.dw = forward.dbias = (ser_tensor){0};
    ck_assert_uint_lt(ser_cpu_ops.scratch(queue, SER_OP_LINEAR, &forward),
                      ser_cpu_ops.scratch(queue, SER_OP_LINEAR, &backward));
}
END_TEST

OP_SUITE("linear", test_agrees_with_plain_loops, test_row_has_same_bits_alone_and_with_any_threads,
         test_weight_comes_back_bit_for_bit, test_extreme_values,
         test_nan_survives_every_activation, test_gradients_agree_with_differences,
         test_gradients_agree_with_plain_loops,
         test_gradients_have_same_bits_alone_and_with_any_threads,
         test_absent_gradients_are_not_made, test_forward_needs_no_scratch_of_backward)
