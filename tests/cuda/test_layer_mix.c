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

/* --- Backward --- */

typedef struct mix {
    int64_t channels;
    int32_t x_type, dy_type;
    int32_t states;
    bool dx, dw;
} mix;

typedef struct gradients {
    twin_rows rows;
    twin w, dy, dots, dw;
} gradients;

static gradients gradients_of(const mix *m, const twin_rows *rows, const twin *w)
{
    const int64_t total = rows->cpu.batch * rows->cpu.padded;
    gradients g = {.rows = *rows, .w = *w};
    g.dy = twin_input(total, m->channels, m->dy_type, 30, 2.0F, 0);
    twin_fill_padding(&g.dy, rows, NAN);
    g.dots = m->dw ? twin_output(1, m->states, SER_F32) : twin_absent();
    g.dw = m->dw ? twin_input(1, m->states, SER_F32, 31, 3.0F, 0) : twin_absent();
    return g;
}

static void run_term(const mix *m, const gradients *g, int32_t index, const twin *x, const twin *dx)
{
    ser_layer_mix_args args = {.x = x->cpu,
                               .rows = g->rows.cpu,
                               .w = g->w.cpu,
                               .index = index,
                               .dy = g->dy.cpu,
                               .dx = dx->cpu,
                               .first = index == m->states - 1,
                               .dots = g->dots.cpu,
                               .dw = g->dw.cpu};
    RUN_CPU(ser_layer_mix_bwd, &args);
    args.x = x->gpu;
    args.rows = g->rows.gpu;
    args.w = g->w.gpu;
    args.dy = g->dy.gpu;
    args.dx = dx->gpu;
    args.dots = g->dots.gpu;
    args.dw = g->dw.gpu;
    RUN_GPU(ser_layer_mix_bwd, &args);
}

/* One term, with x absent where no weights are wanted; the first dx holds NaN. */
static void check_term(const mix *m, const gradients *g, int32_t index)
{
    const int64_t total = g->rows.cpu.batch * g->rows.cpu.padded;
    twin x = twin_absent();
    twin dx = twin_absent();
    if (m->dw) {
        x = twin_input(total, m->channels, m->x_type, (uint64_t)index + 1, 3.0F, 0);
        twin_fill_padding(&x, &g->rows, NAN);
    }
    if (m->dx && index < m->states - 1) {
        dx = twin_input(total, m->channels, m->x_type, (uint64_t)index + 101, 1.0F, 0);
        twin_fill_padding(&dx, &g->rows, NAN);
    } else if (m->dx) {
        dx = twin_output(total, m->channels, m->x_type);
    }
    run_term(m, g, index, &x, &dx);
    if (m->dx) {
        twin_check("dx", &dx, &g->rows, bound(m->x_type, 1), true);
        twin_check_slack("dx", &dx);
    }
}

/* Sums of up to 4e4 products of either sign: the largest is a hundredth of what is added up for it,
 * of which f32 loses some 1e-7. */
#define DOTS_TOLERANCE 2e-5

static void check_backward(const mix *m, const twin_rows *rows, const twin *w)
{
    const gradients g = gradients_of(m, rows, w);
    for (int32_t i = m->states - 1; i >= 0; i--) {
        check_term(m, &g, i);
    }
    if (m->dw) {
        twin_check("dots", &g.dots, NULL, DOTS_TOLERANCE, false);
        twin_check("dw", &g.dw, NULL, DOTS_TOLERANCE, false);
        twin_check_slack("dots", &g.dots);
        twin_check_slack("dw", &g.dw);
    }
    twins_free();
}

START_TEST(test_gradients)
{
    const int64_t sizes[] = {768, 24, 7, 1, 1030};
    for (int t = 0; t < 3; t++) {
        for (int i = 0; i < 5 * 4; i++) {
            const mix m = {.channels = sizes[i / 4],
                           .x_type = types[t][0],
                           .dy_type = types[t][1],
                           .states = i < 4 ? 2 : 4,
                           .dx = i % 2 > 0,
                           .dw = i % 4 > 1};
            const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
            const twin w = twin_input(1, m.states, SER_F32, 7, 2.0F, 0);
            check_backward(&m, &rows, &w);
        }
    }
}
END_TEST

START_TEST(test_gradients_of_weights)
{
    const int32_t states[] = {1, 13, 40}; /* 40: more weights than lanes */
    for (int i = 0; i < 3; i++) {
        const mix m = {5, SER_BF16, SER_F32, states[i], false, true};
        const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
        const twin w = twin_input(1, states[i], SER_F32, 7, 2.0F, 0);
        check_backward(&m, &rows, &w);
    }
}
END_TEST

static void check_extreme_backward(const float *weights, int32_t states)
{
    const mix m = {9, SER_F32, SER_F32, states, true, true};
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    const twin w = twin_values(1, states, SER_F32, weights);
    check_backward(&m, &rows, &w);
}

START_TEST(test_gradients_at_extremes)
{
    check_extreme_backward((const float[]){1e4F, -1e4F, 9999.0F}, 3);
    check_extreme_backward((const float[]){-3e38F, 3e38F}, 2);
    check_extreme_backward((const float[]){0.0F, -INFINITY}, 2);
    check_extreme_backward((const float[]){0.5F, NAN, 2.0F}, 3); /* everything is NaN */
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
        const mix m = {channels, SER_BF16, SER_F32, 2, true, true};
        twin_rows rows = twin_rows_of(3, 3001, lengths);
        twin w = twin_input(1, 2, SER_F32, 7, 2.0F, 0);
        check_backward(&m, &rows, &w);
        rows = twin_rows_of(CLIPS, 1, short_lengths);
        w = twin_input(1, 2, SER_F32, 7, 2.0F, 0);
        check_backward(&m, &rows, &w);
    }
}
END_TEST

START_TEST(test_gradient_s_bits_repeat)
{
    const mix m = {264, SER_BF16, SER_BF16, 1, true, true};
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    const twin w = twin_input(1, 1, SER_F32, 7, 2.0F, 0);
    const twin x = twin_input(TOTAL, 264, SER_BF16, 1, 2.0F, 0);
    const twin dx[] = {twin_output(TOTAL, 264, SER_BF16), twin_output(TOTAL, 264, SER_BF16)};
    float *dots[2];
    for (int i = 0; i < 2; i++) {
        const gradients g = gradients_of(&m, &rows, &w);
        run_term(&m, &g, 0, &x, &dx[i]);
        dots[i] = gpu_values(&g.dots.gpu);
    }
    ck_assert_mem_eq(dots[0], dots[1], sizeof(float));
    ck_assert_mem_eq(gpu_bytes(&dx[0].gpu), gpu_bytes(&dx[1].gpu), (size_t)TOTAL * 264 * 2);
}
END_TEST

/* Central differences of dy . y, y by the GPU's forward, in every weight. f32's noise over the step
 * is some 1e-4 of the sum of |dy y|, some 300 here. */
enum { FEW = 3, NARROW = 5 };

static double dy_dot_y(const twin_rows *rows, const twin *w, const twin x[FEW], const twin *dy)
{
    const twin y = twin_output(TOTAL, NARROW, SER_F32);
    for (int32_t i = 0; i < FEW; i++) {
        add_term(&x[i], rows, w, i, &y);
    }
    const float *values = gpu_values(&y.gpu);
    double sum = 0.0;
    for (int64_t e = 0; e < TOTAL * NARROW; e++) {
        if (e / NARROW % PADDED < valid[e / NARROW / PADDED]) {
            sum += (double)values[e] * (double)((const float *)dy->cpu.data)[e];
        }
    }
    return sum;
}

START_TEST(test_differences)
{
    const mix m = {NARROW, SER_F32, SER_F32, FEW, false, true};
    const float weights[FEW] = {0.25F, -0.5F, 1.0F};
    const float width = 0.03125F;
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    const twin w = twin_values(1, FEW, SER_F32, weights);
    const gradients g = gradients_of(&m, &rows, &w);
    const twin absent = twin_absent();
    twin x[FEW];
    for (int32_t i = FEW - 1; i >= 0; i--) {
        x[i] = twin_input(TOTAL, NARROW, SER_F32, (uint64_t)i + 1, 3.0F, 0);
        run_term(&m, &g, i, &x[i], &absent);
    }
    float before[FEW];
    harness_fill(before, FEW, 31, 3.0F); /* as gradients_of has it */
    const float *dw = gpu_values(&g.dw.gpu);
    for (int32_t i = 0; i < FEW; i++) {
        double loss[2];
        for (int k = 0; k < 2; k++) {
            float moved[FEW];
            memcpy(moved, weights, sizeof moved);
            moved[i] += k == 0 ? -width : width;
            const twin there = twin_values(1, FEW, SER_F32, moved);
            loss[k] = dy_dot_y(&rows, &there, x, &g.dy);
        }
        const double expected = (loss[1] - loss[0]) / (2.0 * (double)width);
        ck_assert_double_eq_tol((double)dw[i] - (double)before[i], expected, 0.02);
    }
}
END_TEST

CUDA_SUITE("cuda_layer_mix", test_mix, test_weights, test_extremes, test_nan_survives,
           test_padding_is_written_and_bits_repeat, test_gradients, test_gradients_of_weights,
           test_gradients_at_extremes, test_gradients_of_many_rows, test_gradient_s_bits_repeat,
           test_differences)
