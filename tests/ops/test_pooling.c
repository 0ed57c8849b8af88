/* SPDX-License-Identifier: MIT */
/* layer_mix, attn_pool and cross_entropy: what stands between the encoder and the answer. */
#include "fixture.h"

enum { PADDED = 37, BATCH = 3, CHANNELS = 50 };
static const int32_t valid[] = {37, 1, 20};
static const ser_rows rows = {.batch = BATCH, .padded = PADDED, .valid = valid};

START_TEST(test_layer_mix)
{
    enum { STATES = 4 };
    ser_tensor w = matrix(1, STATES, 7, 0);
    ser_tensor y = poisoned(BATCH * PADDED, CHANNELS);
    double *reference = ser_mem_alloc((size_t)(y.rows * y.cols), sizeof *reference);
    double total = 0.0;
    for (int i = 0; i < STATES; i++) {
        total += exp((double)((float *)w.data)[i]);
    }
    for (int i = 0; i < STATES; i++) {
        ser_tensor x = matrix(BATCH * PADDED, CHANNELS, (uint64_t)i + 1, 0);
        fill_padding(&x, &rows, NAN);
        ser_layer_mix_args args = {.x = x, .rows = rows, .w = w, .index = i, .y = y};
        assert_ok(ser_layer_mix_fwd(queue, &args));
        for (int64_t j = 0; j < x.rows * x.cols; j++) {
            reference[j] +=
                exp((double)((float *)w.data)[i]) / total * (double)((float *)x.data)[j];
        }
    }
    check_rows(&y, reference, &rows, false);
    ser_mem_free(reference);
}
END_TEST

static void check_pool(bool scored, int64_t width)
{
    ser_tensor x = matrix(BATCH * PADDED, CHANNELS, 1, 0);
    ser_tensor u = matrix(BATCH * PADDED, width, 2, 0);
    ser_attn_pool_args args = {.x = x,
                               .u = u,
                               .rows = rows,
                               .w = scored ? matrix(1, width, 3, 0) : (ser_tensor){0},
                               .b = scored ? matrix(1, 1, 4, 0) : (ser_tensor){0},
                               .alpha = poisoned(BATCH * PADDED, 1),
                               .y = poisoned(BATCH, CHANNELS)};
    fill_padding(&x, &rows, NAN);
    fill_padding(&u, &rows, NAN);
    RUN(ser_attn_pool_fwd, &args);
    for (int64_t b = 0; b < BATCH; b++) {
        double alpha[PADDED] = {0};
        double total = 0.0;
        double pooled[CHANNELS] = {0};
        for (int64_t t = 0; t < valid[b]; t++) {
            double score = 0.0;
            for (int64_t i = 0; scored && i < width; i++) {
                score += (double)((float *)u.data)[(b * PADDED + t) * width + i] *
                         (double)((float *)args.w.data)[i];
            }
            alpha[t] = exp(score);
            total += alpha[t];
        }
        for (int64_t t = 0; t < PADDED; t++) {
            alpha[t] /= total;
            for (int64_t i = 0; t < valid[b] && i < CHANNELS; i++) {
                pooled[i] += alpha[t] * (double)((float *)x.data)[(b * PADDED + t) * CHANNELS + i];
            }
        }
        ck_assert_double_lt(
            harness_relative_error64((float *)args.alpha.data + b * PADDED, alpha, PADDED),
            TOLERANCE);
        ck_assert_double_lt(
            harness_relative_error64((float *)args.y.data + b * CHANNELS, pooled, CHANNELS),
            TOLERANCE);
    }
}

START_TEST(test_attention_pooling)
{
    check_pool(true, CHANNELS);
    check_pool(true, 7);
}
END_TEST

START_TEST(test_mean_pooling)
{
    check_pool(false, CHANNELS);
}
END_TEST

START_TEST(test_probabilities)
{
    const float logits[2][5] = {{1.0F, 2.0F, 3.0F, -4.0F, 0.0F},
                                {1e4F, -1e4F, 9999.0F, 0.0F, 1e4F}};
    ser_tensor z = matrix(2, 5, 1, 0);
    memcpy(z.data, logits, sizeof logits);
    ser_cross_entropy_args args = {.logits = z, .probabilities = poisoned(2, 5)};
    RUN(ser_cross_entropy_fwd, &args);
    for (int b = 0; b < 2; b++) {
        double top = b == 0 ? 3.0 : 1e4;
        double total = 0.0;
        for (int i = 0; i < 5; i++) {
            total += exp((double)logits[b][i] - top);
        }
        for (int i = 0; i < 5; i++) {
            ck_assert_double_eq_tol((double)((float *)args.probabilities.data)[b * 5 + i],
                                    exp((double)logits[b][i] - top) / total, 1e-6);
        }
    }
}
END_TEST

OP_SUITE("pooling", test_layer_mix, test_attention_pooling, test_mean_pooling, test_probabilities)
