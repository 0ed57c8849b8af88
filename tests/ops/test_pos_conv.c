/* SPDX-License-Identifier: MIT */
#include "fixture.h"

/* The op in double precision. */
static struct {
    const ser_pos_conv_args *args;
    int64_t channels;
    double *x, *w, *bias, *dy;
} model;

static void set_model(const ser_pos_conv_args *args, const ser_tensor *w)
{
    model.args = args;
    model.channels = args->x.cols;
    model.x = doubles(&args->x);
    model.w = doubles(w);
    model.bias = doubles(&args->bias);
    model.dy = args->dy.data != NULL ? doubles(&args->dy) : NULL;
}

static double convolve(int64_t clip, int64_t t, int64_t c)
{
    const ser_pos_conv_args *a = model.args;
    const int64_t width = model.channels / a->groups;
    double sum = model.bias[c];
    for (int k = 0; k < a->kernel; k++) {
        const int64_t s = t - a->kernel / 2 + k;
        for (int64_t i = 0; s >= 0 && s < a->rows.valid[clip] && i < width; i++) {
            sum += model.x[(clip * a->rows.padded + s) * model.channels + c / width * width + i] *
                   model.w[(c * a->kernel + k) * width + i];
        }
    }
    return sum;
}

/* z and y of all frames, either may be NULL; the result is sum of dy * y. */
static double forward(double *z, double *y)
{
    const ser_rows *rows = &model.args->rows;
    double total = 0.0;
    for (int64_t b = 0; b < rows->batch; b++) {
        for (int64_t i = 0; i < rows->valid[b] * model.channels; i++) {
            const int64_t at = b * rows->padded * model.channels + i;
            const double sum = convolve(b, i / model.channels, i % model.channels);
            const double value = model.x[at] + gelu_reference(sum);
            if (z != NULL) {
                z[at] = sum;
            }
            if (y != NULL) {
                y[at] = value;
            }
            total += model.dy != NULL ? value * model.dy[at] : 0.0;
        }
    }
    return total;
}

static double loss(void)
{
    return forward(NULL, NULL);
}

static ser_pos_conv_args args_of(int32_t kernel, int32_t groups, int64_t channels,
                                 const ser_rows *rows, const ser_tensor *w)
{
    const int64_t width = channels / groups;
    const int64_t total = rows->batch * rows->padded;
    ser_pos_conv_args args = {.x = matrix(total, channels, 1, 0),
                              .rows = *rows,
                              .kernel = kernel,
                              .groups = groups,
                              .w = weight_of(width, kernel * width, groups, w->data),
                              .bias = matrix(1, channels, 3, 0),
                              .y = poisoned(total, channels)};
    fill_padding(&args.x, rows, NAN);
    return args;
}

static void check_kernel(int32_t kernel, int32_t groups, int64_t channels)
{
    const int32_t valid[] = {59, 1, 37};
    const ser_rows rows = {.batch = 3, .padded = 60, .valid = valid};
    const ser_tensor w = matrix(channels, kernel * channels / groups, 2, 0);
    ser_pos_conv_args args = args_of(kernel, groups, channels, &rows, &w);
    RUN(ser_pos_conv_fwd, &args);
    const float *y = content(&args.y);
    set_model(&args, &w);
    double *z_reference = ser_mem_alloc((size_t)(180 * channels), sizeof *z_reference);
    double *y_reference = ser_mem_alloc((size_t)(180 * channels), sizeof *y_reference);
    forward(z_reference, y_reference);
    check_rows(&args.y, y_reference, &rows, false);
    args.y = poisoned(180, channels);
    args.z = poisoned(180, channels);
    RUN(ser_pos_conv_fwd, &args); /* saves z and gives the same y */
    check_rows(&args.z, z_reference, &rows, false);
    for (int b = 0; b < 3; b++) {
        ck_assert_mem_eq((float *)args.y.data + b * 60 * channels, y + b * 60 * channels,
                         (size_t)(valid[b] * channels) * sizeof(float));
    }
    ser_mem_free(z_reference);
    ser_mem_free(y_reference);
    matrices_free();
}

START_TEST(test_even_kernel)
{
    check_kernel(128, 16, 64);
    check_kernel(4, 1, 10);
}
END_TEST

START_TEST(test_odd_kernel)
{
    check_kernel(15, 16, 128);
    check_kernel(1, 2, 6);
}
END_TEST

/* Forward with z, then arguments of backward with everything in them. */
static ser_pos_conv_args backward_args(int32_t kernel, int32_t groups, int64_t channels,
                                       const ser_rows *rows, const ser_tensor *w)
{
    const int64_t total = rows->batch * rows->padded;
    ser_pos_conv_args args = args_of(kernel, groups, channels, rows, w);
    args.z = poisoned(total, channels);
    RUN(ser_pos_conv_fwd, &args);
    args.y = (ser_tensor){0};
    args.dy = matrix(total, channels, 6, 0);
    args.dx = poisoned(total, channels);
    args.dw = matrix(channels, kernel * channels / groups, 7, 0);
    args.dbias = matrix(1, channels, 8, 0);
    fill_padding(&args.z, rows, NAN);
    fill_padding(&args.dy, rows, NAN);
    return args;
}

static void check_backward(int32_t kernel, int32_t groups, int64_t channels)
{
    const int32_t valid[] = {11, 1, 7};
    const ser_rows rows = {.batch = 3, .padded = 11, .valid = valid};
    const ser_tensor w = matrix(channels, kernel * channels / groups, 2, 0);
    const ser_pos_conv_args args = backward_args(kernel, groups, channels, &rows, &w);
    const float *dw = content(&args.dw);
    const float *dbias = content(&args.dbias);
    RUN(ser_pos_conv_bwd, &args);
    set_model(&args, &w);
    check_row_differences("dx", loss, model.x, &args.dx, &rows, false);
    check_differences("dw", loss, model.w, w.rows * w.cols, args.dw.data, dw);
    check_differences("dbias", loss, model.bias, channels, args.dbias.data, dbias);
    matrices_free();
}

START_TEST(test_gradients_agree_with_differences)
{
    check_backward(4, 2, 10);
    check_backward(5, 1, 7);
    check_backward(16, 3, 12);
    check_backward(1, 2, 6);
    check_backward(2, 1, 17);
}
END_TEST

START_TEST(test_gradients_have_same_bits_alone_and_with_any_threads)
{
    enum { PADDED = 300, KERNEL = 32, CHANNELS = 96, GROUPS = 3 };
    const int32_t valid[] = {PADDED, 150};
    const ser_rows rows = {.batch = 2, .padded = PADDED, .valid = valid};
    const ser_tensor w = matrix(CHANNELS, KERNEL * CHANNELS / GROUPS, 2, 0);
    const ser_pos_conv_args args = backward_args(KERNEL, GROUPS, CHANNELS, &rows, &w);
    ser_pos_conv_args single = args;
    single.dx = poisoned(2 * PADDED, CHANNELS);
    single.dw = matrix(CHANNELS, w.cols, 7, 0);
    single.dbias = matrix(1, CHANNELS, 8, 0);
    RUN(ser_pos_conv_bwd, &args);
    fixture_threads(1);
    RUN(ser_pos_conv_bwd, &single);
    const size_t row = CHANNELS * sizeof(float);
    ck_assert_mem_eq(args.dx.data, single.dx.data, (PADDED + 150) * row);
    ck_assert_mem_eq(args.dw.data, single.dw.data, (size_t)w.cols * row);
    ck_assert_mem_eq(args.dbias.data, single.dbias.data, row);
    ser_pos_conv_args alone = args;
    alone.rows = (ser_rows){.batch = 1, .padded = 150, .valid = valid + 1};
    alone.z = ser_tensor_f32((float *)args.z.data + PADDED * CHANNELS, 150, CHANNELS);
    alone.dy = ser_tensor_f32((float *)args.dy.data + PADDED * CHANNELS, 150, CHANNELS);
    alone.dx = poisoned(150, CHANNELS);
    alone.x = alone.dw = alone.dbias = (ser_tensor){0};
    RUN(ser_pos_conv_bwd, &alone);
    ck_assert_mem_eq(alone.dx.data, (float *)args.dx.data + PADDED * CHANNELS, 150 * row);
}
END_TEST

START_TEST(test_absent_gradients_are_not_made)
{
    const int32_t valid[] = {9, 5};
    const ser_rows rows = {.batch = 2, .padded = 9, .valid = valid};
    const ser_tensor w = matrix(12, 4 * 6, 2, 0);
    const ser_pos_conv_args all = backward_args(4, 2, 12, &rows, &w);
    const size_t dw_size = 12 * 4 * 6 * sizeof(float);
    const size_t dx_size = 14 * 12 * sizeof(float); /* up to the last valid row */
    const float *dw = content(&all.dw);
    const float *dbias = content(&all.dbias);
    ser_pos_conv_args part = all;
    part.x = part.dw = part.dbias = (ser_tensor){0}; /* frozen */
    RUN(ser_pos_conv_bwd, &part);
    const float *dx = content(&all.dx);
    ck_assert_mem_eq(all.dw.data, dw, dw_size);
    part = all;
    part.dx = part.dbias = (ser_tensor){0}; /* the first layer that is trained */
    RUN(ser_pos_conv_bwd, &part);
    const float *dw_after = content(&all.dw);
    ck_assert_mem_ne(dw_after, dw, dw_size);
    ck_assert_mem_eq(all.dbias.data, dbias, 12 * sizeof(float));
    memcpy(all.dw.data, dw, dw_size);
    RUN(ser_pos_conv_bwd, &all);
    ck_assert_mem_eq(all.dw.data, dw_after, dw_size);
    ck_assert_mem_eq(all.dx.data, dx, dx_size);
    ck_assert_mem_ne(all.dbias.data, dbias, 12 * sizeof(float));
}
END_TEST

OP_SUITE("pos_conv", test_even_kernel, test_odd_kernel, test_gradients_agree_with_differences,
         test_gradients_have_same_bits_alone_and_with_any_threads,
         test_absent_gradients_are_not_made)
