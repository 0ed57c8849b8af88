/* SPDX-License-Identifier: MIT */
#include "fixture.h"

typedef struct geometry {
    int32_t kernel, stride, padding, norm;
    int64_t in, out, frames; /* channels, padded output frames */
    bool bias;
} geometry;

static int32_t frames_of(const geometry *g, int32_t n)
{
    return (n + 2 * g->padding - g->kernel) / g->stride + 1;
}

/* The op in double precision; absent vectors are NULL. */
static struct {
    const ser_conv_args *args;
    const geometry *g;
    double *x, *w, *bias, *gamma, *beta, *dy;
} model;

static double *doubles_or_null(const ser_tensor *x)
{
    return x->data != NULL ? doubles(x) : NULL;
}

static void set_model(const ser_conv_args *args, const geometry *g, const ser_tensor *w)
{
    model.args = args;
    model.g = g;
    model.x = doubles(&args->x);
    model.w = doubles(w);
    model.bias = doubles_or_null(&args->bias);
    model.gamma = doubles_or_null(&args->gamma);
    model.beta = doubles_or_null(&args->beta);
    model.dy = doubles_or_null(&args->dy);
}

/* w is [out, kernel, in]; straight from the definition, padding included. */
static void convolve(int64_t clip, int64_t t, double *z)
{
    const geometry *g = model.g;
    const ser_rows *rows = &model.args->rows_in;
    for (int64_t c = 0; c < g->out; c++) {
        z[c] = model.bias != NULL ? model.bias[c] : 0.0;
        for (int32_t k = 0; k < g->kernel; k++) {
            const int64_t s = t * g->stride - g->padding + k;
            for (int64_t i = 0; s >= 0 && s < rows->valid[clip] && i < g->in; i++) {
                z[c] += model.x[(clip * rows->padded + s) * g->in + i] *
                        model.w[(c * g->kernel + k) * g->in + i];
            }
        }
    }
}

static void normalise(double *row)
{
    const geometry *g = model.g;
    double mean = 0.0;
    double square = 0.0;
    for (int64_t c = 0; c < g->out; c++) {
        mean += row[c] / (double)g->out;
    }
    for (int64_t c = 0; c < g->out; c++) {
        square += (row[c] - mean) * (row[c] - mean) / (double)g->out;
    }
    for (int64_t c = 0; c < g->out; c++) {
        if (g->norm == SER_CONV_NORM_LAYER) {
            row[c] = (row[c] - mean) / sqrt(square + 1e-5) * model.gamma[c] + model.beta[c];
        }
        row[c] = gelu_reference(row[c]);
    }
}

/* z and y of all frames, either may be NULL; the result is sum of dy * y. */
static double forward(double *z, double *y)
{
    const geometry *g = model.g;
    const ser_rows *rows = &model.args->rows_out;
    double total = 0.0;
    double row[256];
    ck_assert_int_le(g->out, 256);
    for (int64_t b = 0; b < rows->batch; b++) {
        for (int64_t t = 0; t < rows->valid[b]; t++) {
            const int64_t at = (b * rows->padded + t) * g->out;
            convolve(b, t, row);
            if (z != NULL) {
                memcpy(z + at, row, (size_t)g->out * sizeof *row);
            }
            normalise(row);
            if (y != NULL) {
                memcpy(y + at, row, (size_t)g->out * sizeof *row);
            }
            for (int64_t c = 0; model.dy != NULL && c < g->out; c++) {
                total += row[c] * model.dy[at + c];
            }
        }
    }
    return total;
}

static double loss(void)
{
    return forward(NULL, NULL);
}

/* Three clips; their lengths go to in and out. */
static ser_conv_args args_of(const geometry *g, const ser_tensor *w, int32_t in[3], int32_t out[3])
{
    const int64_t padded_in = g->frames * g->stride;
    const int32_t lengths[] = {(int32_t)padded_in - g->padding, g->kernel + 3,
                               (int32_t)padded_in / 2 + g->kernel};
    for (int b = 0; b < 3; b++) {
        in[b] = lengths[b];
        out[b] = frames_of(g, in[b]);
    }
    ser_conv_args args = {.x = matrix(3 * padded_in, g->in, 1, g->padding),
                          .rows_in = {.batch = 3, .padded = padded_in, .valid = in},
                          .rows_out = {.batch = 3, .padded = g->frames, .valid = out},
                          .kernel = g->kernel,
                          .stride = g->stride,
                          .padding = g->padding,
                          .norm = g->norm,
                          .w = weight_of(g->out, g->kernel * g->in, 1, w->data)};
    if (g->bias) {
        args.bias = matrix(1, g->out, 3, 0);
    }
    if (g->norm == SER_CONV_NORM_LAYER) {
        args.gamma = matrix(1, g->out, 4, 0);
        args.beta = matrix(1, g->out, 5, 0);
    }
    fill_padding(&args.x, &args.rows_in, g->padding > 0 ? 0.0F : NAN);
    return args;
}

static void check_geometry(geometry g)
{
    int32_t in[3];
    int32_t out[3];
    const ser_tensor w = matrix(g.out, g.kernel * g.in, 2, 0);
    ser_conv_args args = args_of(&g, &w, in, out);
    args.y = poisoned(3 * g.frames, g.out);
    RUN(ser_conv_fwd, &args);
    const float *y = content(&args.y);
    set_model(&args, &g, &w);
    double *z_reference = ser_mem_alloc((size_t)(args.y.rows * g.out), sizeof *z_reference);
    double *y_reference = ser_mem_alloc((size_t)(args.y.rows * g.out), sizeof *y_reference);
    forward(z_reference, y_reference);
    check_rows(&args.y, y_reference, &args.rows_out, true);
    args.y = poisoned(3 * g.frames, g.out);
    args.z = poisoned(3 * g.frames, g.out);
    RUN(ser_conv_fwd, &args); /* saves z and gives the same y */
    check_rows(&args.z, z_reference, &args.rows_out, true);
    ck_assert_mem_eq(args.y.data, y, (size_t)(args.y.rows * g.out) * sizeof(float));
    ser_mem_free(z_reference);
    ser_mem_free(y_reference);
    matrices_free();
}

START_TEST(test_wav2vec2_kernels)
{
    check_geometry((geometry){3, 2, 0, SER_CONV_NORM_NONE, 16, 32, 50, false});
    check_geometry((geometry){2, 2, 0, SER_CONV_NORM_NONE, 24, 17, 31, false});
    check_geometry((geometry){3, 2, 0, SER_CONV_NORM_LAYER, 33, 40, 29, true});
}
END_TEST

START_TEST(test_padded_kernels)
{
    check_geometry((geometry){5, 2, 2, SER_CONV_NORM_LAYER, 80, 96, 40, true});
    check_geometry((geometry){3, 2, 1, SER_CONV_NORM_LAYER, 96, 128, 21, true});
    check_geometry((geometry){3, 1, 1, SER_CONV_NORM_NONE, 5, 7, 30, true});
    check_geometry((geometry){4, 3, 2, SER_CONV_NORM_NONE, 9, 11, 30, false});
}
END_TEST

/* Forward with z, then arguments of backward with everything in them. */
static ser_conv_args backward_args(const geometry *g, const ser_tensor *w, int32_t in[3],
                                   int32_t out[3])
{
    ser_conv_args args = args_of(g, w, in, out);
    args.y = poisoned(3 * g->frames, g->out);
    args.z = poisoned(3 * g->frames, g->out);
    RUN(ser_conv_fwd, &args);
    args.y = (ser_tensor){0};
    args.dy = matrix(3 * g->frames, g->out, 6, 0);
    args.dx = poisoned(args.x.rows, g->in);
    args.dw = matrix(g->out, g->kernel * g->in, 7, 0);
    args.dbias = matrix(1, g->out, 8, 0);
    if (g->norm == SER_CONV_NORM_LAYER) {
        args.dgamma = matrix(1, g->out, 9, 0);
        args.dbeta = matrix(1, g->out, 10, 0);
    }
    fill_padding(&args.z, &args.rows_out, NAN);
    fill_padding(&args.dy, &args.rows_out, NAN);
    return args;
}

static void check_backward(geometry g)
{
    int32_t in[3];
    int32_t out[3];
    const ser_tensor w = matrix(g.out, g.kernel * g.in, 2, 0);
    const ser_conv_args args = backward_args(&g, &w, in, out);
    const bool normed = g.norm == SER_CONV_NORM_LAYER;
    const float *dw = content(&args.dw);
    const float *dbias = content(&args.dbias);
    const float *dgamma = normed ? content(&args.dgamma) : NULL;
    const float *dbeta = normed ? content(&args.dbeta) : NULL;
    RUN(ser_conv_bwd, &args);
    set_model(&args, &g, &w);
    double zeros[256] = {0};
    model.bias = model.bias != NULL ? model.bias : zeros;
    check_row_differences("dx", loss, model.x, &args.dx, &args.rows_in, true);
    ck_assert(isnan(((float *)args.dx.data)[-1])); /* the slack is not backward's */
    ck_assert(isnan(((float *)args.dx.data)[args.dx.rows * g.in]));
    check_differences("dw", loss, model.w, g.out * g.kernel * g.in, args.dw.data, dw);
    check_differences("dbias", loss, model.bias, g.out, args.dbias.data, dbias);
    if (normed) {
        check_differences("dgamma", loss, model.gamma, g.out, args.dgamma.data, dgamma);
        check_differences("dbeta", loss, model.beta, g.out, args.dbeta.data, dbeta);
    }
    matrices_free();
}

START_TEST(test_gradients_agree_with_differences)
{
    check_backward((geometry){3, 2, 0, SER_CONV_NORM_NONE, 5, 7, 12, false});
    check_backward((geometry){2, 2, 0, SER_CONV_NORM_NONE, 9, 17, 9, true});
    check_backward((geometry){3, 2, 0, SER_CONV_NORM_LAYER, 4, 21, 11, true});
    check_backward((geometry){5, 2, 2, SER_CONV_NORM_LAYER, 8, 16, 10, true});
    check_backward((geometry){3, 1, 1, SER_CONV_NORM_NONE, 5, 7, 14, true});
    check_backward((geometry){4, 3, 2, SER_CONV_NORM_NONE, 17, 5, 10, false});
    check_backward((geometry){2, 3, 0, SER_CONV_NORM_NONE, 3, 6, 9, false}); /* skips frames */
    check_backward((geometry){1, 1, 0, SER_CONV_NORM_LAYER, 6, 9, 40, true});
}
END_TEST

/* More rows than one block of the products and of the sums. */
START_TEST(test_gradients_have_same_bits_alone_and_with_any_threads)
{
    const geometry g = {3, 2, 1, SER_CONV_NORM_LAYER, 70, 90, 300, true};
    int32_t in[3];
    int32_t out[3];
    const ser_tensor w = matrix(g.out, g.kernel * g.in, 2, 0);
    const ser_conv_args args = backward_args(&g, &w, in, out);
    ser_conv_args single = args;
    single.dx = poisoned(args.dx.rows, g.in);
    single.dw = matrix(g.out, g.kernel * g.in, 7, 0);
    single.dbias = matrix(1, g.out, 8, 0);
    single.dgamma = matrix(1, g.out, 9, 0);
    single.dbeta = matrix(1, g.out, 10, 0);
    RUN(ser_conv_bwd, &args);
    fixture_threads(1);
    RUN(ser_conv_bwd, &single);
    const size_t row = (size_t)g.out * sizeof(float);
    ck_assert_mem_eq(args.dx.data, single.dx.data, (size_t)(args.dx.rows * g.in) * sizeof(float));
    ck_assert_mem_eq(args.dw.data, single.dw.data, (size_t)(g.kernel * g.in) * row);
    ck_assert_mem_eq(args.dbias.data, single.dbias.data, row);
    ck_assert_mem_eq(args.dgamma.data, single.dgamma.data, row);
    ck_assert_mem_eq(args.dbeta.data, single.dbeta.data, row);
    /* the last clip alone, in less padding */
    const int64_t frames = out[2] + 1;
    const int64_t first_out = 2 * args.rows_out.padded * g.out;
    ser_conv_args alone = args;
    alone.rows_in = (ser_rows){.batch = 1, .padded = frames * g.stride, .valid = in + 2};
    alone.rows_out = (ser_rows){.batch = 1, .padded = frames, .valid = out + 2};
    alone.z = ser_tensor_f32((float *)args.z.data + first_out, frames, g.out);
    alone.dy = ser_tensor_f32((float *)args.dy.data + first_out, frames, g.out);
    alone.dx = poisoned(frames * g.stride, g.in);
    alone.x = alone.dw = alone.dbias = alone.dgamma = alone.dbeta = (ser_tensor){0};
    RUN(ser_conv_bwd, &alone);
    ck_assert_mem_eq(alone.dx.data, (float *)args.dx.data + 2 * args.rows_in.padded * g.in,
                     (size_t)(in[2] * g.in) * sizeof(float));
}
END_TEST

START_TEST(test_absent_gradients_are_not_made)
{
    const geometry g = {3, 2, 1, SER_CONV_NORM_LAYER, 5, 9, 12, true};
    int32_t in[3];
    int32_t out[3];
    const ser_tensor w = matrix(g.out, g.kernel * g.in, 2, 0);
    const ser_conv_args all = backward_args(&g, &w, in, out);
    const size_t dw_size = (size_t)(g.out * g.kernel * g.in) * sizeof(float);
    const size_t row = (size_t)g.out * sizeof(float);
    const float *dw = content(&all.dw);
    const float *dgamma = content(&all.dgamma);
    const float *dbeta = content(&all.dbeta);
    ser_conv_args frozen = all;
    frozen.x = frozen.dw = frozen.dbias = frozen.dgamma = frozen.dbeta = (ser_tensor){0};
    RUN(ser_conv_bwd, &frozen);
    const float *dx = content(&all.dx);
    ck_assert_mem_eq(all.dw.data, dw, dw_size);
    ser_conv_args first = all; /* the lowest layer, with a frozen gamma */
    first.dx = first.dgamma = (ser_tensor){0};
    RUN(ser_conv_bwd, &first);
    const float *dw_after = content(&all.dw);
    const float *dbeta_after = content(&all.dbeta);
    ck_assert_mem_ne(dw_after, dw, dw_size);
    ck_assert_mem_ne(dbeta_after, dbeta, row);
    ck_assert_mem_eq(all.dgamma.data, dgamma, row);
    memcpy(all.dw.data, dw, dw_size);
    memcpy(all.dbeta.data, dbeta, row);
    RUN(ser_conv_bwd, &all);
    ck_assert_mem_eq(all.dx.data, dx, (size_t)(all.dx.rows * g.in) * sizeof(float));
    ck_assert_mem_eq(all.dw.data, dw_after, dw_size);
    ck_assert_mem_eq(all.dbeta.data, dbeta_after, row);
}
END_TEST

OP_SUITE("conv", test_wav2vec2_kernels, test_padded_kernels, test_gradients_agree_with_differences,
         test_gradients_have_same_bits_alone_and_with_any_threads,
         test_absent_gradients_are_not_made)
