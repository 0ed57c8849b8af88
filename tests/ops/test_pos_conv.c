/* SPDX-License-Identifier: MIT */
#include "fixture.h"

static double *reference_of(const ser_pos_conv_args *a, const float *w)
{
    const int64_t channels = a->x.cols;
    const int64_t width = channels / a->groups;
    const float *x = a->x.data;
    double *y = ser_mem_alloc((size_t)(a->x.rows * channels), sizeof *y);
    for (int64_t b = 0; b < a->rows.batch; b++) {
        for (int64_t t = 0; t < a->rows.valid[b]; t++) {
            for (int64_t c = 0; c < channels; c++) {
                double sum = (double)((const float *)a->bias.data)[c];
                for (int k = 0; k < a->kernel; k++) {
                    int64_t s = t - a->kernel / 2 + k;
                    for (int64_t i = 0; s >= 0 && s < a->rows.valid[b] && i < width; i++) {
                        sum +=
                            (double)x[(b * a->rows.padded + s) * channels + c / width * width + i] *
                            (double)w[(c * a->kernel + k) * width + i];
                    }
                }
                int64_t at = (b * a->rows.padded + t) * channels + c;
                y[at] = (double)x[at] + gelu_reference(sum);
            }
        }
    }
    return y;
}

static void check_kernel(int32_t kernel, int32_t groups, int64_t channels)
{
    const int64_t padded = 60;
    const int32_t valid[] = {59, 1, 37};
    const int64_t width = channels / groups;
    ser_tensor w = matrix(channels, kernel * width, 2, 0);
    ser_pos_conv_args args = {.x = matrix(3 * padded, channels, 1, 0),
                              .rows = {.batch = 3, .padded = padded, .valid = valid},
                              .kernel = kernel,
                              .groups = groups,
                              .w = weight_of(width, kernel * width, groups, w.data),
                              .bias = matrix(1, channels, 3, 0),
                              .y = poisoned(3 * padded, channels)};
    fill_padding(&args.x, &args.rows, NAN);
    RUN(ser_pos_conv_fwd, &args);
    double *reference = reference_of(&args, w.data);
    check_rows(&args.y, reference, &args.rows, false);
    ser_mem_free(reference);
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

OP_SUITE("pos_conv", test_even_kernel, test_odd_kernel)
