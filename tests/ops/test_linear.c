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

OP_SUITE("linear", test_agrees_with_plain_loops, test_row_has_same_bits_alone_and_with_any_threads,
         test_weight_comes_back_bit_for_bit, test_extreme_values,
         test_nan_survives_every_activation)
