/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { PADDED = 23, BATCH = 2 };
static const int32_t valid[] = {23, 11};

static void reference_of(const ser_residual_norm_args *a, const float *x, const float *h,
                         double *sum, double *y)
{
    const int64_t n = a->x.cols;
    for (int64_t r = 0; r < a->x.rows; r++) {
        double mean = 0.0;
        double square = 0.0;
        for (int64_t i = 0; i < n; i++) {
            sum[r * n + i] = (double)x[r * n + i] + (h != NULL ? (double)h[r * n + i] : 0.0);
            mean += sum[r * n + i] / (double)n;
        }
        for (int64_t i = 0; i < n; i++) {
            square += (sum[r * n + i] - mean) * (sum[r * n + i] - mean) / (double)n;
        }
        for (int64_t i = 0; i < n; i++) {
            y[r * n + i] = (sum[r * n + i] - mean) / sqrt(square + (double)a->eps) *
                               (double)((const float *)a->gamma.data)[i] +
                           (double)((const float *)a->beta.data)[i];
        }
    }
}

static void check_case(int64_t n, bool with_h, bool with_sum, bool with_y, bool in_place)
{
    ser_tensor x = matrix(BATCH * PADDED, n, 1, 0);
    ser_tensor h = with_h ? matrix(BATCH * PADDED, n, 2, 0) : (ser_tensor){0};
    ser_residual_norm_args args = {
        .x = x,
        .h = h,
        .rows = {.batch = BATCH, .padded = PADDED, .valid = valid},
        .gamma = matrix(1, n, 3, 0),
        .beta = matrix(1, n, 4, 0),
        .eps = 1e-5F,
    };
    if (with_sum) {
        args.sum = in_place ? x : poisoned(BATCH * PADDED, n);
    }
    if (with_y) {
        args.y = in_place && !with_sum ? x : poisoned(BATCH * PADDED, n);
    }
    fill_padding(&x, &args.rows, NAN);
    float *x_copy = content(&x);
    double *sum = ser_mem_alloc((size_t)(x.rows * n), sizeof *sum);
    double *y = ser_mem_alloc((size_t)(x.rows * n), sizeof *y);
    reference_of(&args, x_copy, h.data, sum, y);
    queue->planning = true;
    assert_ok(ser_residual_norm_fwd(queue, &args));
    assert_ok(ser_queue_reserve(queue));
    assert_ok(ser_residual_norm_fwd(queue, &args)); /* once: it may work in place */
    if (with_sum) {
        check_rows(&args.sum, sum, &args.rows, false);
    }
    if (with_y) {
        check_rows(&args.y, y, &args.rows, false);
    }
    ser_mem_free(sum);
    ser_mem_free(y);
    matrices_free();
}

START_TEST(test_all_forms)
{
    for (int form = 0; form < 16; form++) {
        const bool with_sum = (form & 2) != 0;
        const bool with_y = (form & 4) != 0;
        if (with_sum || with_y) {
            check_case(70, (form & 1) != 0, with_sum, with_y, (form & 8) != 0);
        }
    }
    check_case(1, true, true, true, false);
    check_case(768, true, true, true, true);
}
END_TEST

/* A constant row has no variance: the result is beta. */
START_TEST(test_constant_row)
{
    const int32_t one[] = {1};
    ser_tensor x = matrix(1, 40, 1, 0);
    for (int i = 0; i < 40; i++) {
        ((float *)x.data)[i] = 1000.0F;
    }
    ser_residual_norm_args args = {.x = x,
                                   .rows = {.batch = 1, .padded = 1, .valid = one},
                                   .gamma = matrix(1, 40, 3, 0),
                                   .beta = matrix(1, 40, 4, 0),
                                   .eps = 1e-5F,
                                   .y = poisoned(1, 40)};
    RUN(ser_residual_norm_fwd, &args);
    ck_assert_double_lt(harness_relative_error(args.y.data, args.beta.data, 40), 1e-6);
}
END_TEST

OP_SUITE("residual_norm", test_all_forms, test_constant_row)
