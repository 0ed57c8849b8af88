/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { FRAME = 41, HALF = FRAME / 2, HOP = 16, FFT = 64, FREQS = FFT / 2 + 1, BINS = 9, BATCH = 3 };
static const double PI = 3.14159265358979323846;

/* Random non-negative filters do for the op; the real triangles are the network's. */
static double *reference_of(const ser_log_mel_args *a, const float *mel)
{
    double *y = ser_mem_alloc((size_t)(a->y.rows * BINS), sizeof *y);
    for (int64_t b = 0; b < BATCH; b++) {
        const float *x = (const float *)a->pcm.data + b * a->rows_in.padded;
        double *clip = y + b * a->rows_out.padded * BINS;
        const int64_t frames = a->rows_out.valid[b];
        double level = 0.0;
        for (int64_t t = 0; t < frames; t++) {
            double power[FREQS];
            for (int f = 0; f < FREQS; f++) {
                double re = 0.0;
                double im = 0.0;
                for (int i = 0; i < FRAME; i++) {
                    double window = 0.5 - 0.5 * cos(2.0 * PI * i / FRAME);
                    re += (double)x[t * HOP + i] * window * cos(2.0 * PI * f * i / FFT);
                    im += (double)x[t * HOP + i] * window * sin(2.0 * PI * f * i / FFT);
                }
                power[f] = re * re + im * im;
            }
            for (int m = 0; m < BINS; m++) {
                double sum = (double)a->floor;
                for (int f = 0; f < FREQS; f++) {
                    sum += power[f] * (double)mel[m * FREQS + f];
                }
                clip[t * BINS + m] = log(sum) - (double)((const float *)a->mean.data)[m];
                level += clip[t * BINS + m] / (double)(frames * BINS);
            }
        }
        for (int64_t i = 0; i < frames * BINS; i++) {
            clip[i] = (clip[i] - level) / (double)((const float *)a->std.data)[i % BINS];
        }
    }
    return y;
}

START_TEST(test_agrees_with_plain_loops)
{
    const int64_t padded = 5000;
    const int32_t in[] = {5000, FRAME, 333};
    const int32_t out[] = {1 + (5000 - FRAME) / HOP, 1, 1 + (333 - FRAME) / HOP};
    const int64_t frames = 320;
    float dft[2 * FREQS * HALF];
    for (int f = 0; f < FREQS; f++) {
        for (int i = 1; i <= HALF; i++) {
            double window = 0.5 - 0.5 * cos(2.0 * PI * i / FRAME);
            double phase = 2.0 * PI * f * (i - FRAME / 2.0) / FFT;
            dft[f * HALF + i - 1] = (float)(window * cos(phase));
            dft[(FREQS + f) * HALF + i - 1] = (float)(window * sin(phase));
        }
    }
    ser_tensor mel = matrix(BINS, FREQS, 3, 0);
    ser_tensor std = matrix(1, BINS, 5, 0);
    for (int i = 0; i < BINS * FREQS; i++) {
        ((float *)mel.data)[i] = fabsf(((float *)mel.data)[i]);
    }
    for (int i = 0; i < BINS; i++) {
        ((float *)std.data)[i] = 1.5F + ((float *)std.data)[i];
    }
    ser_log_mel_args args = {.pcm = matrix(BATCH * padded, 1, 1, 0),
                             .rows_in = {.batch = BATCH, .padded = padded, .valid = in},
                             .rows_out = {.batch = BATCH, .padded = frames, .valid = out},
                             .frame = FRAME,
                             .hop = HOP,
                             .floor = 1e-7F,
                             .dft = weight_of(FREQS, HALF, 2, dft),
                             .mel = weight_of(BINS, FREQS, 1, mel.data),
                             .mean = matrix(1, BINS, 4, 0),
                             .std = std,
                             .y = poisoned(BATCH * frames, BINS)};
    fill_padding(&args.pcm, &args.rows_in, NAN);
    RUN(ser_log_mel_fwd, &args);
    double *reference = reference_of(&args, mel.data);
    check_rows(&args.y, reference, &args.rows_out, true);
    ser_mem_free(reference);
}
END_TEST

OP_SUITE("log_mel", test_agrees_with_plain_loops)
