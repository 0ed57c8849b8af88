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

/* w is [out, kernel, in]; straight from the definition, padding and norm included. */
static double *reference_of(const ser_conv_args *a, const geometry *g, const float *w)
{
    double *y = ser_mem_alloc((size_t)(a->y.rows * g->out), sizeof *y);
    const float *x = a->x.data;
    const float *bias = a->bias.data;
    const float *gamma = a->gamma.data;
    const float *beta = a->beta.data;
    for (int64_t b = 0; b < a->rows_out.batch; b++) {
        for (int64_t t = 0; t < a->rows_out.valid[b]; t++) {
            double *row = y + (b * a->rows_out.padded + t) * g->out;
            double mean = 0.0;
            double square = 0.0;
            for (int64_t c = 0; c < g->out; c++) {
                row[c] = bias != NULL ? (double)bias[c] : 0.0;
                for (int32_t k = 0; k < g->kernel; k++) {
                    int64_t s = t * g->stride - g->padding + k;
                    for (int64_t i = 0; s >= 0 && s < a->rows_in.valid[b] && i < g->in; i++) {
                        row[c] += (double)x[(b * a->rows_in.padded + s) * g->in + i] *
                                  (double)w[(c * g->kernel + k) * g->in + i];
                    }
                }
                mean += row[c] / (double)g->out;
            }
            for (int64_t c = 0; c < g->out; c++) {
                square += (row[c] - mean) * (row[c] - mean) / (double)g->out;
            }
            for (int64_t c = 0; c < g->out; c++) {
                if (g->norm == SER_CONV_NORM_LAYER) {
                    row[c] =
                        (row[c] - mean) / sqrt(square + 1e-5) * (double)gamma[c] + (double)beta[c];
                }
                row[c] = gelu_reference(row[c]);
            }
        }
    }
    return y;
}

static void check_geometry(geometry g)
{
    const int64_t padded_in = g.frames * g.stride;
    const int32_t in[] = {(int32_t)padded_in - g.padding, g.kernel + 3,
                          (int32_t)padded_in / 2 + g.kernel};
    const int32_t out[] = {frames_of(&g, in[0]), frames_of(&g, in[1]), frames_of(&g, in[2])};
    ser_tensor w = matrix(g.out, g.kernel * g.in, 2, 0);
    ser_conv_args args = {.x = matrix(3 * padded_in, g.in, 1, g.padding),
                          .rows_in = {.batch = 3, .padded = padded_in, .valid = in},
                          .rows_out = {.batch = 3, .padded = g.frames, .valid = out},
                          .kernel = g.kernel,
                          .stride = g.stride,
                          .padding = g.padding,
                          .norm = g.norm,
                          .w = weight_of(g.out, g.kernel * g.in, 1, w.data),
                          .y = poisoned(3 * g.frames, g.out)};
    if (g.bias) {
        args.bias = matrix(1, g.out, 3, 0);
    }
    if (g.norm == SER_CONV_NORM_LAYER) {
        args.gamma = matrix(1, g.out, 4, 0);
        args.beta = matrix(1, g.out, 5, 0);
    }
    fill_padding(&args.x, &args.rows_in, g.padding > 0 ? 0.0F : NAN);
    RUN(ser_conv_fwd, &args);
    double *reference = reference_of(&args, &g, w.data);
    check_rows(&args.y, reference, &args.rows_out, true);
    ser_mem_free(reference);
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

OP_SUITE("conv", test_wav2vec2_kernels, test_padded_kernels)
