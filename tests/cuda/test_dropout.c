/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 3, PADDED = 23, TOTAL = BATCH * PADDED };
static const int32_t valid[] = {11, 1, 23}; /* the last rows count: there are the tails */
static const ser_step step = {.seed = UINT64_C(0xFEDCBA9876543210),
                              .number = (UINT64_C(5) << 24) + 1234567};

static void run_both(int32_t activation, float p, const twin *x, const twin_rows *rows,
                     const twin *y)
{
    ser_dropout_args args = {.x = x->cpu,
                             .rows = rows->cpu,
                             .activation = activation,
                             .dropout = {.p = p, .op = 0xABCDEF, .step = &step},
                             .y = y->cpu};
    RUN_CPU(ser_dropout_fwd, &args);
    args.x = x->gpu;
    args.rows = rows->gpu;
    args.y = y->gpu;
    args.dropout.step = p > 0.0F ? gpu_copy(&step, sizeof step) : NULL;
    RUN_GPU(ser_dropout_fwd, &args);
}

/* One rounding of the result to bf16 is at most 2^-8 of it; in f32 there are two approximations of
 * the activation. */
static double bound_of(int32_t type)
{
    return type == SER_BF16 ? 3.92e-3 : 1e-6;
}

static void check_values(int64_t channels, int32_t type, int32_t activation, float p, bool in_place)
{
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    twin x = twin_input(TOTAL, channels, type, 1, 4.0F, 0);
    const twin y = in_place ? x : twin_output(TOTAL, channels, type);
    twin_fill_padding(&x, &rows, NAN);
    run_both(activation, p, &x, &rows, &y);
    twin_check("y", &y, &rows, bound_of(type), false);
    twin_check_slack("y", &y);
    twins_free();
}

START_TEST(test_values)
{
    const int64_t sizes[] = {768, 24, 7, 1};
    const float chances[] = {0.0F, 0.1F, 0.5F};
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        for (int32_t activation = SER_ACT_NONE; activation <= SER_ACT_TANH; activation++) {
            for (int i = 0; i < 3; i++) {
                check_values(24, type, activation, chances[i], true);
                check_values(sizes[i], type, activation, 0.1F, false);
            }
            check_values(1, type, activation, 0.5F, false);
        }
    }
}
END_TEST

/* Ones become 0 or the scale where they do on the CPU, to the last bit. */
static void check_mask(int64_t channels, int32_t type, float p)
{
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    twin x = twin_input(TOTAL, channels, type, 1, 1.0F, 0);
    const twin y = twin_output(TOTAL, channels, type);
    float *ones = malloc((size_t)(TOTAL * channels) * sizeof *ones);
    for (int64_t e = 0; e < TOTAL * channels; e++) {
        ones[e] = 1.0F;
    }
    x = twin_values(TOTAL, channels, type, ones);
    free(ones);
    run_both(SER_ACT_NONE, p, &x, &rows, &y);
    twin_check_dropped(&y, &rows, p);
    twins_free();
}

START_TEST(test_mask_is_the_cpu_s)
{
    const int64_t sizes[] = {768, 512, 24, 7, 1, 1030};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int32_t type = SER_F32; type <= SER_BF16; type++) {
            check_mask(sizes[i], type, 0.1F);
            check_mask(sizes[i], type, 0.5F);
        }
    }
    check_mask(70, SER_F32, 1e-6F);     /* less than one in 65536: nothing */
    check_mask(70, SER_F32, 0.99999F);  /* all but one in 65536 */
    check_mask(70, SER_F32, 0.999999F); /* everything */
}
END_TEST

/* -inf * 0 = NaN on the CPU; in bf16 a card gives the limit 0. */
static void expect_limit(int32_t activation, const twin *y, const float *values, int count)
{
    for (int i = 0; i < count; i++) {
        if (y->gpu.type == SER_BF16 && activation == SER_ACT_GELU && values[i] == -INFINITY) {
            ((float *)y->cpu.data)[i] = 0.0F;
        }
    }
}

/* NaN stays NaN through every activation and where it would be dropped; infinities go as on the CPU
 * but for GELU(-inf). */
START_TEST(test_extremes)
{
    enum { N = 16 };
    static const int32_t one[] = {1};
    const float values[N] = {NAN,   INFINITY, -INFINITY, 1e30F, -1e30F, 3e38F, -3e38F, 0.0F,
                             -0.0F, 1e-38F,   -1e-38F,   88.0F, -88.0F, 5.7F,  -5.7F,  NAN};
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        for (int32_t activation = SER_ACT_NONE; activation <= SER_ACT_TANH; activation++) {
            const twin_rows rows = twin_rows_of(1, 1, one);
            const twin x = twin_values(1, N, type, values);
            const twin y = twin_output(1, N, type);
            run_both(activation, 0.0F, &x, &rows, &y);
            expect_limit(activation, &y, values, N);
            const float *got = gpu_values(&y.gpu);
            ck_assert(isnan(got[0]) && isnan(got[N - 1]));
            for (int i = 0; i < N; i++) {
                const float expected = ((const float *)y.cpu.data)[i];
                ck_assert_msg(isnan(expected) ? isnan(got[i])
                              : isinf(expected)
                                  ? got[i] == expected
                                  : fabs((double)got[i] - (double)expected) <=
                                        bound_of(type) * fabs((double)expected) + 1e-7,
                              "activation %d of %g is %g, not %g", activation, (double)values[i],
                              (double)got[i], (double)expected);
            }
            run_both(activation, 0.999999F, &x, &rows, &y); /* dropped, but NaN and inf times 0 */
            expect_limit(activation, &y, values, N);
            twin_check("dropped", &y, &rows, 0.0, false);
            twins_free();
        }
    }
}
END_TEST

START_TEST(test_padding_is_written_and_bits_repeat)
{
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    const twin x = twin_input(TOTAL, 13, SER_BF16, 1, 4.0F, 0);
    const twin y[] = {twin_output(TOTAL, 13, SER_BF16), twin_output(TOTAL, 13, SER_BF16)};
    for (int i = 0; i < 2; i++) {
        run_both(SER_ACT_GELU, 0.3F, &x, &rows, &y[i]);
        const float *got = gpu_values(&y[i].gpu);
        bool written = true;
        for (int64_t e = 0; e < TOTAL * 13; e++) {
            written = written && !isnan(got[e]);
        }
        ck_assert(written);
    }
    ck_assert_mem_eq(gpu_bytes(&y[0].gpu), gpu_bytes(&y[1].gpu), TOTAL * 13 * 2);
}
END_TEST

/* --- Backward --- */

static const twin absent = {{0}, {0}};

static void run_both_bwd(int32_t activation, float p, const twin *x, const twin_rows *rows,
                         const twin *dy, const twin *dx, const twin *y)
{
    ser_dropout_args args = {.x = x->cpu,
                             .rows = rows->cpu,
                             .activation = activation,
                             .dropout = {.p = p, .op = 0xABCDEF, .step = &step},
                             .y = y->cpu,
                             .dy = dy->cpu,
                             .dx = dx->cpu};
    RUN_CPU(ser_dropout_bwd, &args);
    args.x = x->gpu;
    args.rows = rows->gpu;
    args.y = y->gpu;
    args.dy = dy->gpu;
    args.dx = dx->gpu;
    args.dropout.step = p > 0.0F ? gpu_copy(&step, sizeof step) : NULL;
    RUN_GPU(ser_dropout_bwd, &args);
}

/* Backward's y has the bits of the card's own forward, and costs dx no bit; one of the two takes dy's
 * place. */
static void check_again(const twin_rows *rows, int64_t channels, int32_t type, int32_t activation,
                        float p, bool over_dy)
{
    const int64_t total = rows->cpu.batch * rows->cpu.padded;
    const size_t row = (size_t)channels * (type == SER_BF16 ? 2 : 4);
    twin x = twin_input(total, channels, type, 1, 4.0F, 0);
    twin dy = twin_input(total, channels, type, 2, 3.0F, 0);
    twin_fill_padding(&x, rows, NAN);
    twin_fill_padding(&dy, rows, NAN);
    const twin y = twin_output(total, channels, type);
    const twin alone = twin_output(total, channels, type);
    const twin again = over_dy ? dy : twin_output(total, channels, type);
    const twin dx = over_dy ? twin_output(total, channels, type) : dy;
    run_both(activation, p, &x, rows, &y);
    run_both_bwd(activation, p, &x, rows, &dy, &alone, &absent);
    run_both_bwd(activation, p, &x, rows, &dy, &dx, &again);
    twin_check("y", &again, rows, bound_of(type), true);
    twin_check("dx", &dx, rows, bound_of(type), true);
    twin_check_slack("y", &again);
    ck_assert_mem_eq(gpu_bytes(&dx.gpu), gpu_bytes(&alone.gpu), (size_t)total * row);
    const unsigned char *forward = gpu_bytes(&y.gpu);
    const unsigned char *made_again = gpu_bytes(&again.gpu);
    for (int64_t r = 0; r < total; r++) {
        if (r % PADDED < valid[r / PADDED]) {
            ck_assert_mem_eq(made_again + (size_t)r * row, forward + (size_t)r * row, row);
        }
    }
    twins_free();
}

START_TEST(test_forward_made_again)
{
    const int64_t sizes[] = {768, 24, 7, 1, 265};
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        for (int32_t activation = SER_ACT_NONE; activation <= SER_ACT_TANH; activation++) {
            for (int i = 0; i < 5; i++) {
                for (int over_dy = 0; over_dy < 2; over_dy++) {
                    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
                    const float p = i % 2 == over_dy ? 0.1F : 0.0F;
                    check_again(&rows, sizes[i], type, activation, p, over_dy > 0);
                }
            }
        }
    }
}
END_TEST

/* GELU and its derivative at every finite bf16 number, by formulas cheaper than erf's: what
 * they leave out (wave_gelu.cuh) is added to the rounding of the result, 2^-8 of it. */
START_TEST(test_all_of_bf16)
{
    enum { ALL = 65536, PLACES = 65280, COLS = 768 };
    static const int32_t one[] = {PLACES / COLS};
    float *values = malloc(PLACES * sizeof *values);
    float *ones = malloc(PLACES * sizeof *ones);
    int count = 0;
    for (uint32_t i = 0; i < ALL; i++) {
        const uint32_t bits = i << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        if (isfinite(value)) {
            ones[count] = 1.0F;
            values[count++] = value;
        }
    }
    ck_assert_int_eq(count, PLACES);
    const twin_rows rows = twin_rows_of(1, PLACES / COLS, one);
    const twin x = twin_values(PLACES / COLS, COLS, SER_BF16, values);
    const twin dy = twin_values(PLACES / COLS, COLS, SER_BF16, ones);
    const twin y = twin_output(PLACES / COLS, COLS, SER_BF16);
    const twin dx = twin_output(PLACES / COLS, COLS, SER_BF16);
    run_both_bwd(SER_ACT_GELU, 0.0F, &x, &rows, &dy, &dx, &y);
    const float *got = gpu_values(&y.gpu);
    const float *slope = gpu_values(&dx.gpu);
    for (int i = 0; i < PLACES; i++) {
        const double z = (double)values[i];
        const double phi = exp(-0.5 * z * z) / sqrt(2.0 * M_PI);
        const double tail = 0.5 * erfc(-z / sqrt(2.0));
        ck_assert_msg(fabs((double)got[i] - z * tail) <=
                          bound_of(SER_BF16) * fabs(z * tail) + 1.6e-5,
                      "GELU(%g) is %g, not %g", z, (double)got[i], z * tail);
        const double exact = tail + (phi > 0.0 ? z * phi : 0.0);
        ck_assert_msg(fabs((double)slope[i] - exact) <= bound_of(SER_BF16) * fabs(exact) + 1e-4,
                      "GELU'(%g) is %g, not %g", z, (double)slope[i], exact);
    }
    free(ones);
    free(values);
    twins_free();
}
END_TEST

/* x is absent where it is not needed. */
static void check_gradient(const twin_rows *rows, int64_t channels, int32_t type,
                           int32_t activation, float p, bool in_place)
{
    const int64_t total = rows->cpu.batch * rows->cpu.padded;
    twin x = twin_absent();
    if (activation != SER_ACT_NONE) {
        x = twin_input(total, channels, type, 1, 4.0F, 0);
        twin_fill_padding(&x, rows, NAN);
    }
    twin dy = twin_input(total, channels, type, 2, 3.0F, 0);
    twin_fill_padding(&dy, rows, NAN);
    const twin dx = in_place ? dy : twin_output(total, channels, type);
    run_both_bwd(activation, p, &x, rows, &dy, &dx, &absent);
    twin_check("dx", &dx, rows, bound_of(type), true);
    twin_check_slack("dx", &dx);
    twins_free();
}

START_TEST(test_gradients)
{
    const int64_t sizes[] = {768, 24, 7, 1, 265};
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        for (int32_t activation = SER_ACT_NONE; activation <= SER_ACT_TANH; activation++) {
            for (int i = 0; i < 5; i++) {
                for (int in_place = 0; in_place < 2; in_place++) {
                    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
                    const float p = i % 2 == in_place ? 0.1F : 0.0F;
                    check_gradient(&rows, sizes[i], type, activation, p, in_place > 0);
                }
            }
        }
    }
}
END_TEST

/* More rows than a card's warps take at a time; and clips of one row, or of none. */
START_TEST(test_gradients_of_many_rows)
{
    enum { CLIPS = 9000 };
    static const int32_t lengths[] = {2999, 7, 3001};
    int32_t short_lengths[CLIPS];
    for (int i = 0; i < CLIPS; i++) {
        short_lengths[i] = i % 7 > 0;
    }
    for (int64_t channels = 1; channels <= 8; channels += 7) {
        twin_rows rows = twin_rows_of(3, 3001, lengths);
        check_gradient(&rows, channels, SER_BF16, SER_ACT_RELU, 0.1F, true);
        rows = twin_rows_of(CLIPS, 1, short_lengths);
        check_gradient(&rows, channels, SER_F32, SER_ACT_NONE, 0.0F, false);
    }
}
END_TEST

START_TEST(test_gradient_s_mask_is_forward_s)
{
    const int64_t sizes[] = {768, 24, 7, 1, 1030};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
        const twin x = twin_input(TOTAL, sizes[i], SER_F32, 1, 1.0F, 0);
        const twin y = twin_output(TOTAL, sizes[i], SER_F32);
        const twin dx = twin_output(TOTAL, sizes[i], SER_F32);
        run_both(SER_ACT_NONE, 0.3F, &x, &rows, &y);
        run_both_bwd(SER_ACT_NONE, 0.3F, &x, &rows, &x, &dx, &absent);
        twin_check_dropped(&dx, &rows, 0.3F);
        const size_t in_valid = (size_t)(valid[0] * sizes[i]) * sizeof(float);
        ck_assert_mem_eq(gpu_values(&dx.gpu), gpu_values(&y.gpu), in_valid);
        twins_free();
    }
}
END_TEST

/* The derivatives where they are 0 or 1 at last, and at NaN. */
START_TEST(test_derivatives_at_extremes)
{
    enum { N = 20 };
    static const int32_t one[] = {1};
    const float values[N] = {NAN,    INFINITY, -INFINITY, 1e30F, -1e30F, 3e38F, -3e38F,
                             0.0F,   -0.0F,    1e-38F,    88.0F, -88.0F, 5.7F,  -5.7F,
                             -0.75F, 14.1F,    -14.1F,    NAN,   1.0F,   -1.0F};
    float ones[N];
    for (int i = 0; i < N; i++) {
        ones[i] = 1.0F;
    }
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        for (int32_t activation = SER_ACT_NONE; activation <= SER_ACT_TANH; activation++) {
            const twin_rows rows = twin_rows_of(1, 1, one);
            const twin x = twin_values(1, N, type, values);
            const twin dy = twin_values(1, N, type, ones);
            const twin dx = twin_output(1, N, type);
            run_both_bwd(activation, 0.0F, &x, &rows, &dy, &dx, &absent);
            twin_check("derivative", &dx, &rows, bound_of(type), false);
            twins_free();
        }
    }
}
END_TEST

/* Central differences of the GPU's own forward. f32's noise over the step is some 1e-5, the step's
 * square times the third derivative some 1e-4; no value of x is within a step of ReLU's corner. */
START_TEST(test_differences)
{
    enum { CHANNELS = 13, N = BATCH * PADDED * CHANNELS };
    const float width = 0.0078125F;
    for (int32_t activation = SER_ACT_NONE; activation <= SER_ACT_TANH; activation++) {
        const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
        float *values[3];
        float *y[2];
        for (int i = 0; i < 3; i++) {
            values[i] = malloc(N * sizeof(float));
            harness_fill(values[i], N, 1, 2.0F);
            for (int e = 0; e < N; e++) {
                values[i][e] += (values[i][e] < 0.0F ? -0.01F : 0.01F) + (float)(i - 1) * width;
            }
        }
        const twin dy = twin_input(TOTAL, CHANNELS, SER_F32, 2, 1.0F, 0);
        const twin dx = twin_output(TOTAL, CHANNELS, SER_F32);
        for (int i = 0; i < 3; i++) {
            const twin x = twin_values(TOTAL, CHANNELS, SER_F32, values[i]);
            const twin out = twin_output(TOTAL, CHANNELS, SER_F32);
            run_both(activation, 0.2F, &x, &rows, &out);
            if (i == 1) {
                run_both_bwd(activation, 0.2F, &x, &rows, &dy, &dx, &absent);
            } else {
                y[i / 2] = gpu_values(&out.gpu);
            }
            free(values[i]);
        }
        const float *got = gpu_values(&dx.gpu);
        for (int e = 0; e < valid[0] * CHANNELS; e++) {
            const double slope = ((double)y[1][e] - (double)y[0][e]) / (2.0 * (double)width);
            const double expected = slope * (double)((const float *)dy.cpu.data)[e];
            if (!(fabs((double)got[e] - expected) <= 5e-4)) {
                ck_abort_msg("activation %d: dx[%d] is %g, the slope %g", activation, e,
                             (double)got[e], expected);
            }
        }
        twins_free();
    }
}
END_TEST

START_TEST(test_gradient_s_bits_repeat)
{
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    const twin x = twin_input(TOTAL, 13, SER_BF16, 1, 4.0F, 0);
    const twin dy = twin_input(TOTAL, 13, SER_BF16, 2, 4.0F, 0);
    const twin dx[] = {twin_output(TOTAL, 13, SER_BF16), twin_output(TOTAL, 13, SER_BF16)};
    for (int i = 0; i < 2; i++) {
        run_both_bwd(SER_ACT_GELU, 0.3F, &x, &rows, &dy, &dx[i], &absent);
    }
    ck_assert_mem_eq(gpu_bytes(&dx[0].gpu), gpu_bytes(&dx[1].gpu), TOTAL * 13 * 2);
}
END_TEST

CUDA_SUITE("cuda_dropout", test_values, test_mask_is_the_cpu_s, test_extremes,
           test_padding_is_written_and_bits_repeat, test_forward_made_again, test_all_of_bf16,
           test_gradients, test_gradients_of_many_rows, test_gradient_s_mask_is_forward_s,
           test_derivatives_at_extremes, test_differences, test_gradient_s_bits_repeat)
