/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 3, PADDED = 23, TOTAL = BATCH * PADDED };
static const int32_t valid[] = {11, 1, 23}; /* the last rows count: there are the tails */

/* x, then y */
static const int32_t types[][2] = {{SER_F32, SER_F32}, {SER_BF16, SER_F32}, {SER_BF16, SER_BF16}};

static void add_term(const twin *x, const twin_rows *rows, const twin *w, int32_t index,
                     const twin *y)
{
    ser_layer_mix_args args = {
        .x = x->cpu, .rows = rows->cpu, .w = w->cpu, .index = index, .y = y->cpu};
    RUN_CPU(ser_layer_mix_fwd, &args);
    args.x = x->gpu;
    args.rows = rows->gpu;
    args.w = w->gpu;
    args.y = y->gpu;
    RUN_GPU(ser_layer_mix_fwd, &args);
}

/* A sum that is kept in bf16 is rounded with every term, by up to 2^-8 of its value then. */
static double bound(int32_t type, int32_t terms)
{
    return type == SER_BF16 ? 3.92e-3 * terms : 1e-6 * terms;
}

static void check_mix(int64_t channels, const int32_t type[2], int32_t states, int32_t terms)
{
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    const twin w = twin_input(1, states, SER_F32, 7, 2.0F, 0);
    const twin y = twin_output(TOTAL, channels, type[1]); /* NaN, which index 0 must not read */
    for (int32_t i = 0; i < terms; i++) {
        twin x = twin_input(TOTAL, channels, type[0], (uint64_t)i + 1, 3.0F, 0);
        twin_fill_padding(&x, &rows, NAN);
        add_term(&x, &rows, &w, i, &y);
    }
    twin_check("y", &y, &rows, bound(type[1], terms), false);
    twin_check_slack("y", &y);
    twins_free();
}

START_TEST(test_mix)
{
    const int64_t sizes[] = {768, 512, 24, 7, 1, 1030};
    for (int t = 0; t < 3; t++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            check_mix(sizes[i], types[t], 4, 2);
        }
        check_mix(5, types[t], 1, 1);
        check_mix(5, types[t], 13, 13);
        check_mix(5, types[t], 70, 3); /* more weights than lanes */
    }
}
END_TEST

/* Each weight alone, the last ones too: they are of the lanes' second round. */
START_TEST(test_weights)
{
    enum { STATES = 40 };
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    const twin w = twin_input(1, STATES, SER_F32, 7, 3.0F, 0);
    const twin x = twin_input(TOTAL, 3, SER_F32, 1, 1.0F, 0);
    const twin y = twin_input(TOTAL, 3, SER_F32, 2, 0.01F, 0); /* what was there stays in the sum */
    for (int32_t i = 1; i < STATES; i += 13) {
        add_term(&x, &rows, &w, i, &y);
        twin_check("y", &y, &rows, 1e-5, false);
    }
}
END_TEST

static void check_extreme(const float *weights, int32_t states)
{
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    const twin w = twin_values(1, states, SER_F32, weights);
    const twin x = twin_input(TOTAL, 9, SER_F32, 1, 1e30F, 0);
    for (int32_t i = 0; i < states; i++) {
        const twin y = twin_input(TOTAL, 9, SER_F32, 2, 1.0F, 0);
        add_term(&x, &rows, &w, i, &y);
        twin_check("y", &y, &rows, 1e-6, false);
    }
    twins_free();
}

START_TEST(test_extremes)
{
    check_extreme((const float[]){1e4F, -1e4F, 9999.0F}, 3);
    check_extreme((const float[]){-3e38F, 3e38F}, 2);
    check_extreme((const float[]){0.0F, -INFINITY}, 2);
    check_extreme((const float[]){-1e4F, -1e4F - 1.0F}, 2);
    check_extreme((const float[]){0.5F, NAN, 2.0F}, 3); /* everything is NaN */
}
END_TEST

START_TEST(test_nan_survives)
{
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    const twin w = twin_input(1, 2, SER_F32, 7, 1.0F, 0);
    float values[TOTAL * 4] = {0};
    values[4 * PADDED + 1] = NAN;
    values[3] = INFINITY;
    const twin x = twin_values(TOTAL, 4, SER_BF16, values);
    const twin y = twin_output(TOTAL, 4, SER_BF16);
    add_term(&x, &rows, &w, 0, &y);
    const float *got = gpu_values(&y.gpu);
    ck_assert(isnan(got[4 * PADDED + 1]) && isinf(got[3]) && got[0] == 0.0F);
}
END_TEST

START_TEST(test_padding_is_written_and_bits_repeat)
{
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    const twin w = twin_input(1, 5, SER_F32, 7, 1.0F, 0);
    const twin x = twin_input(TOTAL, 13, SER_BF16, 1, 4.0F, 0);
    const twin y[] = {twin_output(TOTAL, 13, SER_F32), twin_output(TOTAL, 13, SER_F32)};
    for (int i = 0; i < 2; i++) {
        add_term(&x, &rows, &w, 0, &y[i]);
        add_term(&x, &rows, &w, 4, &y[i]);
        const float *got = gpu_values(&y[i].gpu);
        bool written = true;
        for (int64_t e = 0; e < TOTAL * 13; e++) {
            written = written && !isnan(got[e]);
        }
        ck_assert(written);
    }
    ck_assert_mem_eq(gpu_bytes(&y[0].gpu), gpu_bytes(&y[1].gpu), TOTAL * 13 * 4);
}
END_TEST

CUDA_SUITE("cuda_layer_mix", test_mix, test_weights, test_extremes, test_nan_survives,
           test_padding_is_written_and_bits_repeat)
