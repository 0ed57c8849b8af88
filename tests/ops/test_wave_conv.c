/* SPDX-License-Identifier: MIT */
#include "fixture.h"

/* conv, then the norm by its definition: two passes over the outputs. */
static double *reference_of(const ser_wave_conv_args *a)
{
    const int64_t channels = a->y.cols;
    const float *w = a->w.data;
    const float *bias = a->bias.data;
    double *y = ser_mem_alloc((size_t)(a->y.rows * channels), sizeof *y);
    for (int64_t b = 0; b < a->rows_out.batch; b++) {
        const float *x = (const float *)a->pcm.data + b * a->rows_in.padded;
        double *clip = y + b * a->rows_out.padded * channels;
        const int64_t frames = a->rows_out.valid[b];
        for (int64_t t = 0; t < frames; t++) {
            for (int64_t c = 0; c < channels; c++) {
                double sum = bias != NULL ? (double)bias[c] : 0.0;
                for (int k = 0; k < a->kernel; k++) {
                    sum += (double)x[t * a->stride + k] * (double)w[c * a->kernel + k];
                }
                clip[t * channels + c] = sum;
            }
        }
        const bool by_clip = a->norm == SER_CONV_NORM_CLIP;
        const int64_t groups = by_clip ? channels : frames;
        const int64_t count = by_clip ? frames : channels;
        const int64_t step = by_clip ? channels : 1;
        for (int64_t g = 0; a->norm != SER_CONV_NORM_NONE && g < groups; g++) {
            double *first = clip + (by_clip ? g : g * channels);
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
                first[i * step] = (first[i * step] - mean) / sqrt(square + 1e-5) *
                                      (double)((const float *)a->gamma.data)[c] +
                                  (double)((const float *)a->beta.data)[c];
            }
        }
        for (int64_t i = 0; i < frames * channels; i++) {
            clip[i] = gelu_reference(clip[i]);
        }
    }
    return y;
}

static void check_norm(int32_t norm, bool bias, int32_t kernel, int32_t stride, int64_t channels)
{
    const int64_t padded = 400 * stride;
    const int32_t in[] = {(int32_t)padded, kernel + 4 * stride, kernel + 7 * stride + 1};
    const int32_t out[] = {(in[0] - kernel) / stride + 1, 5, 8};
    ser_wave_conv_args args = {.pcm = matrix(3 * padded, 1, 1, 0),
                               .rows_in = {.batch = 3, .padded = padded, .valid = in},
                               .rows_out = {.batch = 3, .padded = 400, .valid = out},
                               .kernel = kernel,
                               .stride = stride,
                               .norm = norm,
                               .w = matrix(channels, kernel, 2, 0),
                               .y = poisoned(3 * 400, channels)};
    if (bias) {
        args.bias = matrix(1, channels, 3, 0);
    }
    if (norm != SER_CONV_NORM_NONE) {
        args.gamma = matrix(1, channels, 4, 0);
        args.beta = matrix(1, channels, 5, 0);
    }
    fill_padding(&args.pcm, &args.rows_in, NAN);
    RUN(ser_wave_conv_fwd, &args);
    double *reference = reference_of(&args);
    check_rows(&args.y, reference, &args.rows_out, true);
    ser_mem_free(reference);
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

OP_SUITE("wave_conv", test_group_norm, test_layer_norm, test_no_norm, test_silence)
