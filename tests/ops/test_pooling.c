/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { PADDED = 37, BATCH = 3, CHANNELS = 50 };
static const int32_t valid[] = {37, 1, 20};
static const ser_rows rows = {.batch = BATCH, .padded = PADDED, .valid = valid};

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

/* loss = sum of dy y, in double */
static const ser_attn_pool_args *differentiated;
static double *x64, *u64, *w64, *b64, *dy64;

static double loss_of_clip(int64_t clip)
{
    const ser_attn_pool_args *a = differentiated;
    const int64_t width = a->u.cols;
    const int64_t frames = valid[clip];
    double alpha[PADDED] = {0};
    double total = 0.0;
    double loss = 0.0;
    for (int64_t t = 0; t < frames; t++) {
        double score = b64 != NULL ? b64[0] : 0.0;
        for (int64_t i = 0; w64 != NULL && i < width; i++) {
            score += u64[(clip * PADDED + t) * width + i] * w64[i];
        }
        alpha[t] = exp(score);
        total += alpha[t];
    }
    for (int64_t t = 0; t < frames; t++) {
        for (int64_t i = 0; i < CHANNELS; i++) {
            loss += alpha[t] / total * x64[(clip * PADDED + t) * CHANNELS + i] *
                    dy64[clip * CHANNELS + i];
        }
    }
    return loss;
}

static double pool_loss(void)
{
    double loss = 0.0;
    for (int64_t clip = 0; clip < BATCH; clip++) {
        loss += loss_of_clip(clip);
    }
    return loss;
}

static void check_pool_gradients(bool scored, bool same, int64_t width)
{
    ser_tensor absent = {0};
    ser_tensor x = matrix(BATCH * PADDED, CHANNELS, 1, 0);
    ser_attn_pool_args args = {
        .x = x,
        .u = same ? x : matrix(BATCH * PADDED, width, 2, 0),
        .rows = rows,
        .w = scored ? matrix(1, width, 3, 0) : absent,
        .b = scored ? matrix(1, 1, 4, 0) : absent,
        .alpha = poisoned(BATCH * PADDED, 1),
        .y = poisoned(BATCH, CHANNELS),
        .dy = matrix(BATCH, CHANNELS, 5, 0),
        .dx = poisoned(BATCH * PADDED, CHANNELS),
        .du = same ? absent : poisoned(BATCH * PADDED, width),
        .dw = scored ? matrix(1, width, 6, 0) : absent,
        .db = scored ? matrix(1, 1, 7, 0) : absent,
    };
    fill_padding(&args.x, &rows, NAN);
    fill_padding(&args.u, &rows, NAN);
    RUN(ser_attn_pool_fwd, &args);
    const float *dw = scored ? content(&args.dw) : NULL;
    const float *db = scored ? content(&args.db) : NULL;
    fill_padding(&args.alpha, &rows, NAN);
    queue->planning = true;
    assert_ok(ser_attn_pool_bwd(queue, &args));
    assert_ok(ser_queue_reserve(queue, NULL));
    assert_ok(ser_attn_pool_bwd(queue, &args)); /* once: parameters are added to */
    differentiated = &args;
    x64 = doubles(&args.x);
    u64 = same ? x64 : doubles(&args.u);
    w64 = scored ? doubles(&args.w) : NULL;
    b64 = scored ? doubles(&args.b) : NULL;
    dy64 = doubles(&args.dy);
    check_row_differences("dx", pool_loss, x64, &args.dx, &rows, true);
    if (!same) {
        check_row_differences("du", pool_loss, u64, &args.du, &rows, true);
    }
    if (scored) {
        check_differences("dw", pool_loss, w64, width, args.dw.data, dw);
        ck_assert(*(float *)args.db.data == *db); /* b moves all scores alike */
    }
    matrices_free();
}

START_TEST(test_gradients)
{
    check_pool_gradients(true, false, 7);
    check_pool_gradients(true, true, CHANNELS);
    check_pool_gradients(false, false, 3);
}
END_TEST

/* What is not wanted is not computed, and what is has the same bits; so it has with one thread. */
START_TEST(test_absent_gradients_and_threads)
{
    enum { FRAMES = 400, WIDE = 512 };
    const int32_t frames[] = {FRAMES, 17};
    ser_attn_pool_args all = {.x = matrix(2 * FRAMES, WIDE, 1, 0),
                              .u = matrix(2 * FRAMES, 9, 2, 0),
                              .rows = {.batch = 2, .padded = FRAMES, .valid = frames},
                              .w = matrix(1, 9, 3, 0),
                              .alpha = poisoned(2 * FRAMES, 1),
                              .y = poisoned(2, WIDE),
                              .dy = matrix(2, WIDE, 5, 0),
                              .dx = poisoned(2 * FRAMES, WIDE),
                              .du = poisoned(2 * FRAMES, 9),
                              .dw = matrix(1, 9, 6, 0)};
    ser_attn_pool_args only_dw = all;
    only_dw.dx = only_dw.du = (ser_tensor){0};
    only_dw.dw.data = content(&all.dw);
    ser_attn_pool_args only_du = all;
    only_du.dx = only_du.dw = (ser_tensor){0};
    only_du.du = poisoned(2 * FRAMES, 9);
    RUN(ser_attn_pool_fwd, &all);
    queue->planning = true;
    assert_ok(ser_attn_pool_bwd(queue, &all));
    assert_ok(ser_queue_reserve(queue, NULL));
    assert_ok(ser_attn_pool_bwd(queue, &all));
    fixture_threads(1);
    queue->planning = true;
    assert_ok(ser_attn_pool_bwd(queue, &only_dw));
    assert_ok(ser_queue_reserve(queue, NULL));
    assert_ok(ser_attn_pool_bwd(queue, &only_dw));
    assert_ok(ser_attn_pool_bwd(queue, &only_du));
    ck_assert_mem_eq(only_dw.dw.data, all.dw.data, 9 * sizeof(float));
    ck_assert_mem_eq(only_du.du.data, all.du.data, 2 * FRAMES * 9 * sizeof(float));
}
END_TEST

OP_SUITE("attn_pool", test_attention_pooling, test_mean_pooling, test_gradients,
         test_absent_gradients_and_threads)
