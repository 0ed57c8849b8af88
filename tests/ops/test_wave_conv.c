/* SPDX-License-Identifier: MIT */
#include "fixture.h"

/* The op in double precision; absent vectors are NULL. */
static struct {
    const ser_wave_conv_args *args;
    int64_t channels;
    double *w, *bias, *gamma, *beta, *dy;
} model;

static double *doubles_or_null(const ser_tensor *x)
{
    return x->data != NULL ? doubles(x) : NULL;
}

static void set_model(const ser_wave_conv_args *args)
{
    model.args = args;
    model.channels = args->w.rows;
    model.w = doubles(&args->w);
    model.bias = doubles_or_null(&args->bias);
    model.gamma = doubles_or_null(&args->gamma);
    model.beta = doubles_or_null(&args->beta);
    model.dy = doubles_or_null(&args->dy);
}

static void convolve(int64_t clip, double *z)
{
    const ser_wave_conv_args *a = model.args;
    const float *x = (const float *)a->pcm.data + clip * a->rows_in.padded;
    for (int64_t t = 0; t < a->rows_out.valid[clip]; t++) {
        for (int64_t c = 0; c < model.channels; c++) {
            double sum = model.bias != NULL ? model.bias[c] : 0.0;
            for (int k = 0; k < a->kernel; k++) {
                sum += (double)x[t * a->stride + k] * model.w[c * a->kernel + k];
            }
            z[t * model.channels + c] = sum;
        }
    }
}

/* The norm by its definition: two passes over the outputs. */
static void normalise(int64_t clip, double *z)
{
    const int64_t frames = model.args->rows_out.valid[clip];
    const bool by_clip = model.args->norm == SER_CONV_NORM_CLIP;
    const int64_t groups = by_clip ? model.channels : frames;
    const int64_t count = by_clip ? frames : model.channels;
    const int64_t step = by_clip ? model.channels : 1;
    for (int64_t g = 0; model.args->norm != SER_CONV_NORM_NONE && g < groups; g++) {
        double *first = z + (by_clip ? g : g * model.channels);
        double mean = 0.0;
        double square = 0.0;
        for (int64_t i = 0; i < count; i++) {
            mean += first[i * step] / (double)count;
        }
        for (int64_t i = 0; i < count; i++) {
            square += (first[i * step] - mean) * (first[i * step] - mean) / (double)count;
        }
        for (int64_t i = 0; i < count; i++) {
            const int64_t c = by_clip ? g : i;
            first[i * step] =
                (first[i * step] - mean) / sqrt(square + 1e-5) * model.gamma[c] + model.beta[c];
        }
    }
}

/* z and y of all frames, either may be NULL; the result is sum of dy * y. */
static double forward(double *z, double *y)
{
    const ser_rows *rows = &model.args->rows_out;
    double *row = ser_mem_alloc((size_t)(rows->padded * model.channels), sizeof *row);
    double total = 0.0;
    for (int64_t b = 0; b < rows->batch; b++) {
        const int64_t first = b * rows->padded * model.channels;
        const int64_t values = rows->valid[b] * model.channels;
        convolve(b, row);
        if (z != NULL) {
            memcpy(z + first, row, (size_t)values * sizeof *row);
        }
        normalise(b, row);
        for (int64_t i = 0; i < values; i++) {
            const double value = gelu_reference(row[i]);
            total += model.dy != NULL ? value * model.dy[first + i] : 0.0;
            if (y != NULL) {
                y[first + i] = value;
            }
        }
    }
    ser_mem_free(row);
    return total;
}

static double loss(void)
{
    return forward(NULL, NULL);
}

typedef struct shape {
    int32_t norm;
    bool bias;
    int32_t kernel, stride;
    int64_t channels, frames;
} shape;

/* Three clips, one of them with all frames but one; their lengths go to in and out. */
static ser_wave_conv_args args_of(const shape *s, int32_t in[3], int32_t out[3])
{
    const int64_t padded = s->frames * s->stride;
    in[0] = (int32_t)padded;
    in[1] = s->kernel + 4 * s->stride;
    in[2] = s->kernel + 7 * s->stride + 1;
    for (int b = 0; b < 3; b++) {
        out[b] = (in[b] - s->kernel) / s->stride + 1;
    }
    ser_wave_conv_args args = {.pcm = matrix(3 * padded, 1, 1, 0),
                               .rows_in = {.batch = 3, .padded = padded, .valid = in},
                               .rows_out = {.batch = 3, .padded = s->frames, .valid = out},
                               .kernel = s->kernel,
                               .stride = s->stride,
                               .norm = s->norm,
                               .w = matrix(s->channels, s->kernel, 2, 0)};
    if (s->bias) {
        args.bias = matrix(1, s->channels, 3, 0);
    }
    if (s->norm != SER_CONV_NORM_NONE) {
        args.gamma = matrix(1, s->channels, 4, 0);
        args.beta = matrix(1, s->channels, 5, 0);
    }
    fill_padding(&args.pcm, &args.rows_in, NAN);
    return args;
}

static void check_norm(int32_t norm, bool bias, int32_t kernel, int32_t stride, int64_t channels)
{
    int32_t in[3];
    int32_t out[3];
    const shape s = {norm, bias, kernel, stride, channels, 400};
    const size_t values = (size_t)(3 * 400 * channels);
    ser_wave_conv_args args = args_of(&s, in, out);
    args.y = poisoned(3 * 400, channels);
    RUN(ser_wave_conv_fwd, &args);
    const float *y = content(&args.y);
    set_model(&args);
    double *z_reference = ser_mem_alloc(values, sizeof *z_reference);
    double *y_reference = ser_mem_alloc(values, sizeof *y_reference);
    forward(z_reference, y_reference);
    check_rows(&args.y, y_reference, &args.rows_out, true);
    args.y = poisoned(3 * 400, channels);
    args.z = poisoned(3 * 400, channels);
    RUN(ser_wave_conv_fwd, &args); /* saves z and gives the same y */
    check_rows(&args.z, z_reference, &args.rows_out, true);
    ck_assert_mem_eq(args.y.data, y, values * sizeof(float));
    ser_mem_free(z_reference);
    ser_mem_free(y_reference);
    matrices_free();
}

START_TEST(test_group_norm)
{
    check_norm(SER_CONV_NORM_CLIP, false, 10, 5, 64);
    check_norm(SER_CONV_NORM_CLIP, true, 10, 5, 33);
    check_norm(SER_CONV_NORM_CLIP, false, 7, 3, 20);
}
END_TEST

START_TEST(test_layer_norm)
{
    check_norm(SER_CONV_NORM_LAYER, true, 10, 5, 48);
    check_norm(SER_CONV_NORM_LAYER, false, 10, 5, 20);
}
END_TEST

START_TEST(test_no_norm)
{
    check_norm(SER_CONV_NORM_NONE, true, 10, 5, 16);
}
END_TEST

/* Silence has zero variance: the norm must give beta, not NaN. */
START_TEST(test_silence)
{
    const int32_t in[] = {2000};
    const int32_t out[] = {399};
    ser_tensor pcm = matrix(2000, 1, 1, 0);
    memset(pcm.data, 0, 2000 * sizeof(float));
    ser_wave_conv_args args = {.pcm = pcm,
                               .rows_in = {.batch = 1, .padded = 2000, .valid = in},
                               .rows_out = {.batch = 1, .padded = 400, .valid = out},
                               .kernel = 10,
                               .stride = 5,
                               .norm = SER_CONV_NORM_CLIP,
                               .w = matrix(8, 10, 2, 0),
                               .gamma = matrix(1, 8, 4, 0),
                               .beta = matrix(1, 8, 5, 0),
                               .y = poisoned(400, 8)};
    RUN(ser_wave_conv_fwd, &args);
    for (int c = 0; c < 8; c++) {
        double expected = gelu_reference((double)((float *)args.beta.data)[c]);
        ck_assert_double_eq_tol((double)((float *)args.y.data)[c], expected, 1e-6);
    }
}
END_TEST

/* Forward with z, then arguments of backward with everything in them. */
static ser_wave_conv_args backward_args(const shape *s, int32_t in[3], int32_t out[3])
{
    ser_wave_conv_args args = args_of(s, in, out);
    args.y = poisoned(3 * s->frames, s->channels);
    args.z = poisoned(3 * s->frames, s->channels);
    RUN(ser_wave_conv_fwd, &args);
    args.y = (ser_tensor){0};
    args.dy = matrix(3 * s->frames, s->channels, 6, 0);
    args.dw = matrix(s->channels, s->kernel, 7, 0);
    args.dbias = matrix(1, s->channels, 8, 0);
    if (s->norm != SER_CONV_NORM_NONE) {
        args.dgamma = matrix(1, s->channels, 9, 0);
        args.dbeta = matrix(1, s->channels, 10, 0);
    }
    fill_padding(&args.z, &args.rows_out, NAN);
    fill_padding(&args.dy, &args.rows_out, NAN);
    return args;
}

static void check_backward(shape s)
{
    int32_t in[3];
    int32_t out[3];
    const ser_wave_conv_args args = backward_args(&s, in, out);
    const bool normed = s.norm != SER_CONV_NORM_NONE;
    const float *dw = content(&args.dw);
    const float *dbias = content(&args.dbias);
    const float *dgamma = normed ? content(&args.dgamma) : NULL;
    const float *dbeta = normed ? content(&args.dbeta) : NULL;
    RUN(ser_wave_conv_bwd, &args);
    set_model(&args);
    double zeros[64] = {0};
    ck_assert_int_le(s.channels, 64);
    model.bias = model.bias != NULL ? model.bias : zeros;
    check_differences("dw", loss, model.w, s.channels * s.kernel, args.dw.data, dw);
    check_differences("dbias", loss, model.bias, s.channels, args.dbias.data, dbias);
    if (normed) {
        check_differences("dgamma", loss, model.gamma, s.channels, args.dgamma.data, dgamma);
        check_differences("dbeta", loss, model.beta, s.channels, args.dbeta.data, dbeta);
    }
    matrices_free();
}

/* With 600 frames a clip has more than one chunk. */
START_TEST(test_gradients_agree_with_differences)
{
    check_backward((shape){SER_CONV_NORM_CLIP, false, 10, 5, 7, 600});
    check_backward((shape){SER_CONV_NORM_CLIP, true, 7, 3, 18, 30});
    check_backward((shape){SER_CONV_NORM_LAYER, true, 10, 5, 13, 40});
    check_backward((shape){SER_CONV_NORM_LAYER, false, 4, 2, 33, 20});
    check_backward((shape){SER_CONV_NORM_NONE, true, 10, 5, 6, 600});
}
END_TEST

static void check_threads(int32_t norm)
{
    int32_t in[3];
    int32_t out[3];
    const shape s = {norm, true, 10, 5, 48, 1100};
    fixture_threads(2);
    const ser_wave_conv_args args = backward_args(&s, in, out);
    ser_wave_conv_args single = args;
    single.dw = matrix(s.channels, s.kernel, 7, 0);
    single.dbias = matrix(1, s.channels, 8, 0);
    single.dgamma = matrix(1, s.channels, 9, 0);
    single.dbeta = matrix(1, s.channels, 10, 0);
    RUN(ser_wave_conv_bwd, &args);
    fixture_threads(1);
    RUN(ser_wave_conv_bwd, &single);
    const size_t row = (size_t)s.channels * sizeof(float);
    ck_assert_mem_eq(args.dw.data, single.dw.data, (size_t)s.kernel * row);
    ck_assert_mem_eq(args.dbias.data, single.dbias.data, row);
    ck_assert_mem_eq(args.dgamma.data, single.dgamma.data, row);
    ck_assert_mem_eq(args.dbeta.data, single.dbeta.data, row);
    matrices_free();
}

START_TEST(test_gradients_have_same_bits_with_any_threads)
{
    check_threads(SER_CONV_NORM_CLIP);
    check_threads(SER_CONV_NORM_LAYER);
}
END_TEST

static void check_absent(int32_t norm)
{
    int32_t in[3];
    int32_t out[3];
    const shape s = {norm, true, 10, 5, 9, 20};
    const ser_wave_conv_args all = backward_args(&s, in, out);
    const float *dw = content(&all.dw);
    const float *dgamma = content(&all.dgamma);
    const float *dbeta = content(&all.dbeta);
    ser_wave_conv_args part = all;
    part.dw = part.dbias = part.dbeta = (ser_tensor){0};
    RUN(ser_wave_conv_bwd, &part);
    const float *after = content(&all.dgamma);
    ck_assert_mem_eq(all.dw.data, dw, 9 * 10 * sizeof(float));
    ck_assert_mem_eq(all.dbeta.data, dbeta, 9 * sizeof(float));
    ck_assert_mem_ne(after, dgamma, 9 * sizeof(float));
    memcpy(all.dgamma.data, dgamma, 9 * sizeof(float));
    RUN(ser_wave_conv_bwd, &all);
    ck_assert_mem_eq(all.dgamma.data, after, 9 * sizeof(float));
    ck_assert_mem_ne(all.dw.data, dw, 9 * 10 * sizeof(float));
    matrices_free();
}

START_TEST(test_absent_gradients_are_not_made)
{
    check_absent(SER_CONV_NORM_CLIP);
    check_absent(SER_CONV_NORM_LAYER);
}
END_TEST

/* A clip without a frame adds nothing, also not the NaN of a mean over nothing. */
START_TEST(test_empty_clip_adds_nothing)
{
    int32_t in[3];
    int32_t out[3];
    const shape s = {SER_CONV_NORM_CLIP, false, 10, 5, 6, 20};
    const ser_wave_conv_args args = backward_args(&s, in, out);
    out[0] = out[1] = out[2] = 0;
    const float *dw = content(&args.dw);
    RUN(ser_wave_conv_bwd, &args);
    ck_assert_mem_eq(args.dw.data, dw, 6 * 10 * sizeof(float));
}
END_TEST

OP_SUITE("wave_conv", test_group_norm, test_layer_norm, test_no_norm, test_silence,
         test_gradients_agree_with_differences, test_gradients_have_same_bits_with_any_threads,
         test_absent_gradients_are_not_made, test_empty_clip_adds_nothing)
