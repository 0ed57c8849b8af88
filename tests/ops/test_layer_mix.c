/* SPDX-License-Identifier: MIT */
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

/* loss = sum over the valid rows of dy y, in double */
enum { SMALL = 5, TERMS = 3 };
static double *x64[TERMS], *w64, *dy64;

static double loss(void)
{
    double total = 0.0;
    double sum = 0.0;
    for (int i = 0; i < TERMS; i++) {
        total += exp(w64[i]);
    }
    for (int64_t e = 0; e < BATCH * PADDED * SMALL; e++) {
        const int64_t r = e / SMALL;
        for (int i = 0; r % PADDED < valid[r / PADDED] && i < TERMS; i++) {
            sum += exp(w64[i]) / total * x64[i][e] * dy64[e];
        }
    }
    return sum;
}

START_TEST(test_gradients)
{
    ser_tensor w = matrix(1, TERMS, 7, 0);
    ser_tensor dy = matrix(BATCH * PADDED, SMALL, 8, 0);
    ser_tensor dots = poisoned(1, TERMS);
    ser_tensor dw = matrix(1, TERMS, 9, 0);
    const float *before = content(&dw);
    ser_tensor x[TERMS];
    ser_tensor dx[TERMS];
    fill_padding(&dy, &rows, NAN);
    for (int32_t i = TERMS - 1; i >= 0; i--) {
        x[i] = matrix(BATCH * PADDED, SMALL, (uint64_t)i + 1, 0);
        fill_padding(&x[i], &rows, NAN);
        dx[i] = poisoned(BATCH * PADDED, SMALL);
        ser_layer_mix_args args = {.x = x[i],
                                   .rows = rows,
                                   .w = w,
                                   .index = i,
                                   .dy = dy,
                                   .dx = dx[i],
                                   .first = true,
                                   .dots = dots,
                                   .dw = dw};
        queue->planning = true;
        assert_ok(ser_layer_mix_bwd(queue, &args));
        assert_ok(ser_queue_reserve(queue, NULL));
        assert_ok(ser_layer_mix_bwd(queue, &args));
    }
    w64 = doubles(&w);
    dy64 = doubles(&dy);
    for (int i = 0; i < TERMS; i++) {
        x64[i] = doubles(&x[i]);
    }
    for (int i = 0; i < TERMS; i++) {
        check_row_differences("dx", loss, x64[i], &dx[i], &rows, true);
    }
    check_differences("dw", loss, w64, TERMS, dw.data, before);
}
END_TEST

/* dx takes what the layer above left there; without dw neither x nor dots are looked at. */
START_TEST(test_gradient_is_added)
{
    ser_layer_mix_args args = {.rows = rows,
                               .w = matrix(1, 2, 7, 0),
                               .index = 1,
                               .dy = matrix(BATCH * PADDED, SMALL, 8, 0),
                               .dx = matrix(BATCH * PADDED, SMALL, 9, 0)};
    const float *before = content(&args.dx);
    const double difference = (double)((float *)args.w.data)[0] - (double)((float *)args.w.data)[1];
    RUN(ser_layer_mix_bwd, &args);
    for (int64_t e = 0; e < BATCH * PADDED * SMALL; e++) {
        const int64_t r = e / SMALL;
        const bool real = r % PADDED < valid[r / PADDED];
        const double added =
            real ? (double)((float *)args.dy.data)[e] / (1.0 + exp(difference)) : 0.0;
        ck_assert_double_eq_tol((double)((float *)args.dx.data)[e], (double)before[e] + added,
                                1e-6);
    }
}
END_TEST

START_TEST(test_same_bits_with_any_threads)
{
    enum { FRAMES = 400, WIDE = 1024 };
    const int32_t frames[] = {FRAMES, 321};
    const ser_rows all = {.batch = 2, .padded = FRAMES, .valid = frames};
    ser_tensor x = matrix(2 * FRAMES, WIDE, 1, 0);
    ser_tensor y[2];
    ser_tensor dx[2];
    ser_tensor dots[2];
    ser_tensor dw = matrix(1, 3, 2, 0);
    for (int i = 0; i < 2; i++) {
        fixture_threads(2 - i);
        y[i] = matrix(2 * FRAMES, WIDE, 3, 0);
        dx[i] = poisoned(2 * FRAMES, WIDE);
        dots[i] = poisoned(1, 3);
        ser_layer_mix_args args = {.x = x,
                                   .rows = all,
                                   .w = matrix(1, 3, 4, 0),
                                   .index = 2,
                                   .y = y[i],
                                   .dy = matrix(2 * FRAMES, WIDE, 5, 0),
                                   .dx = dx[i],
                                   .first = true,
                                   .dots = dots[i],
                                   .dw = dw};
        queue->planning = true;
        assert_ok(ser_layer_mix_bwd(queue, &args));
        assert_ok(ser_queue_reserve(queue, NULL));
        assert_ok(ser_layer_mix_fwd(queue, &args));
        assert_ok(ser_layer_mix_bwd(queue, &args));
    }
    ck_assert_mem_eq(y[0].data, y[1].data, 2 * FRAMES * WIDE * sizeof(float));
    ck_assert_mem_eq(dx[0].data, dx[1].data, 2 * FRAMES * WIDE * sizeof(float));
    ck_assert_mem_eq((float *)dots[0].data + 2, (float *)dots[1].data + 2, sizeof(float));
}
END_TEST

OP_SUITE("layer_mix", test_layer_mix, test_gradients, test_gradient_is_added,
         test_same_bits_with_any_threads)
