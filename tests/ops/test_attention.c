/* SPDX-License-Identifier: MIT */
#include "fixture.h"

static double *reference_of(const ser_attention_args *a)
{
    const int64_t channels = a->y.cols;
    const int64_t width = channels / a->heads;
    double *y = ser_mem_alloc((size_t)(a->y.rows * channels), sizeof *y);
    double *p = ser_mem_alloc((size_t)a->rows.padded, sizeof *p);
    for (int64_t b = 0; b < a->rows.batch; b++) {
        const float *clip = (const float *)a->qkv.data + b * a->rows.padded * 3 * channels;
        const int64_t frames = a->rows.valid[b];
        for (int64_t h = 0; h < a->heads; h++) {
            for (int64_t t = 0; t < frames; t++) {
                const float *q = clip + t * 3 * channels + h * width;
                double total = 0.0;
                double top = -HUGE_VAL;
                for (int64_t s = 0; s < frames; s++) {
                    const float *k = clip + s * 3 * channels + channels + h * width;
                    p[s] = 0.0;
                    for (int64_t i = 0; i < width; i++) {
                        p[s] += (double)q[i] * (double)k[i] * (double)a->scale;
                    }
                    top = fmax(top, p[s]);
                }
                for (int64_t s = 0; s < frames; s++) {
                    p[s] = exp(p[s] - top);
                    total += p[s];
                }
                double *out = y + (b * a->rows.padded + t) * channels + h * width;
                for (int64_t s = 0; s < frames; s++) {
                    const float *v = clip + s * 3 * channels + 2 * channels + h * width;
                    for (int64_t i = 0; i < width; i++) {
                        out[i] += p[s] / total * (double)v[i];
                    }
                }
            }
        }
    }
    ser_mem_free(p);
    return y;
}

static void check_size(int64_t padded, const int32_t valid[2], int32_t heads, int64_t channels,
                       float spread)
{
    ser_attention_args args = {.qkv = matrix(2 * padded, 3 * channels, 1, 0),
                               .rows = {.batch = 2, .padded = padded, .valid = valid},
                               .heads = heads,
                               .scale = spread / sqrtf((float)(channels / heads)),
                               .y = poisoned(2 * padded, channels)};
    fill_padding(&args.qkv, &args.rows, NAN);
    RUN(ser_attention_fwd, &args);
    double *reference = reference_of(&args);
    check_rows(&args.y, reference, &args.rows, false);
    ser_mem_free(reference);
    matrices_free();
}

START_TEST(test_agrees_with_plain_loops)
{
    check_size(250, (int32_t[]){249, 100}, 3, 192, 1.0F);
    check_size(1, (int32_t[]){1, 1}, 1, 8, 1.0F);
    check_size(49, (int32_t[]){1, 49}, 4, 20, 1.0F);
    check_size(600, (int32_t[]){599, 17}, 2, 32, 1.0F);
}
END_TEST

START_TEST(test_peaked_scores)
{
    check_size(70, (int32_t[]){70, 33}, 4, 64, 40.0F);
}
END_TEST

START_TEST(test_same_bits_at_any_padding)
{
    enum { FRAMES = 61, CHANNELS = 48 };
    const int32_t valid[] = {FRAMES};
    ser_tensor qkv = matrix(FRAMES + 9, 3 * CHANNELS, 1, 0);
    ser_attention_args args = {.qkv = ser_tensor_f32(qkv.data, FRAMES, 3 * CHANNELS),
                               .rows = {.batch = 1, .padded = FRAMES, .valid = valid},
                               .heads = 4,
                               .scale = 0.3F,
                               .y = poisoned(FRAMES, CHANNELS)};
    RUN(ser_attention_fwd, &args);
    ser_attention_args padded = args;
    padded.qkv = qkv;
    padded.rows.padded = FRAMES + 9;
    padded.y = poisoned(FRAMES + 9, CHANNELS);
    fixture_threads(1);
    RUN(ser_attention_fwd, &padded);
    ck_assert_mem_eq(args.y.data, padded.y.data, FRAMES * CHANNELS * sizeof(float));
}
END_TEST

/* A damaged network must not look healthy: NaN goes through the softmax. */
START_TEST(test_nan_survives)
{
    const int32_t valid[] = {20};
    ser_attention_args args = {.qkv = matrix(20, 48, 1, 0),
                               .rows = {.batch = 1, .padded = 20, .valid = valid},
                               .heads = 2,
                               .scale = 0.3F,
                               .y = poisoned(20, 16)};
    ((float *)args.qkv.data)[5 * 48 + 16 + 3] = NAN; /* a key of head 0 in frame 5 */
    RUN(ser_attention_fwd, &args);
    for (int t = 0; t < 20; t++) {
        ck_assert(isnan(((float *)args.y.data)[t * 16]));
        ck_assert(isfinite(((float *)args.y.data)[t * 16 + 8]));
    }
}
END_TEST

OP_SUITE("attention", test_agrees_with_plain_loops, test_peaked_scores,
         test_same_bits_at_any_padding, test_nan_survives)
