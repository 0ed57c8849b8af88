/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 3, PADDED = 37, TOTAL = BATCH * PADDED };
static const int32_t valid[] = {37, 1, 20};

/* Inputs are the same on both sides and everything else is f32, whatever their type. A score of
 * f32 sums is off by 1e-6 of the largest, which is below 30 here; so is alpha, relatively. */
#define POOL_TOLERANCE 3e-5

typedef struct pool {
    int64_t channels;
    int64_t width; /* 0: u is x */
    int32_t type;
    bool scored, biased;
    float spread; /* of the scores */
} pool;

typedef struct tensors {
    twin x, u, w, b, alpha, y;
    twin_rows rows;
} tensors;

static tensors tensors_of(const pool *p, int64_t batch, int64_t padded, const int32_t *lengths)
{
    tensors t = {.rows = twin_rows_of(batch, padded, lengths)};
    t.x = twin_input(batch * padded, p->channels, p->type, 1, 1.0F, 0);
    t.u = p->width > 0 ? twin_input(batch * padded, p->width, p->type, 2, 1.0F, 0) : t.x;
    const int64_t width = t.u.cpu.cols;
    const float scale = p->spread / sqrtf((float)width);
    t.w = p->scored ? twin_input(1, width, SER_F32, 3, scale, 0) : twin_absent();
    t.b = p->biased ? twin_input(1, 1, SER_F32, 4, 5.0F, 0) : twin_absent();
    t.alpha = twin_output(batch * padded, 1, SER_F32);
    t.y = twin_output(batch, p->channels, SER_F32);
    return t;
}

static void run_gpu(const tensors *t)
{
    const ser_attn_pool_args args = {.x = t->x.gpu,
                                     .u = t->u.gpu,
                                     .rows = t->rows.gpu,
                                     .w = t->w.gpu,
                                     .b = t->b.gpu,
                                     .alpha = t->alpha.gpu,
                                     .y = t->y.gpu};
    RUN_GPU(ser_attn_pool_fwd, &args);
}

static void check_tensors(const tensors *t)
{
    const ser_attn_pool_args args = {.x = t->x.cpu,
                                     .u = t->u.cpu,
                                     .rows = t->rows.cpu,
                                     .w = t->w.cpu,
                                     .b = t->b.cpu,
                                     .alpha = t->alpha.cpu,
                                     .y = t->y.cpu};
    RUN_CPU(ser_attn_pool_fwd, &args);
    run_gpu(t);
    twin_check("alpha", &t->alpha, &t->rows, POOL_TOLERANCE, true);
    twin_check("y", &t->y, NULL, POOL_TOLERANCE, false);
    twin_check_slack("alpha", &t->alpha);
    twin_check_slack("y", &t->y);
}

static void check_pool(const pool *p)
{
    tensors t = tensors_of(p, BATCH, PADDED, valid);
    twin_fill_padding(&t.x, &t.rows, NAN);
    twin_fill_padding(&t.u, &t.rows, NAN);
    check_tensors(&t);
    twins_free();
}

START_TEST(test_sizes)
{
    const int64_t sizes[] = {768, 512, 24, 7, 1, 1030};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int32_t type = SER_F32; type <= SER_BF16; type++) {
            check_pool(&(pool){sizes[i], 0, type, true, true, 8.0F});
            check_pool(&(pool){24, sizes[i], type, true, false, 8.0F});
        }
    }
}
END_TEST

START_TEST(test_mean_pooling)
{
    const int64_t sizes[] = {768, 24, 7, 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_pool(&(pool){sizes[i], 0, SER_F32, false, false, 0.0F});
        check_pool(&(pool){sizes[i], 0, SER_BF16, false, false, 0.0F});
    }
}
END_TEST

/* u is not there at all. */
START_TEST(test_mean_pooling_without_u)
{
    const pool p = {50, 0, SER_BF16, false, false, 0.0F};
    tensors t = tensors_of(&p, BATCH, PADDED, valid);
    twin_fill_padding(&t.x, &t.rows, NAN);
    t.u = twin_absent();
    check_tensors(&t);
}
END_TEST

/* More frames than a block has threads. */
START_TEST(test_long_clip)
{
    static const int32_t lengths[] = {2100, 1025};
    const pool p = {5, 3, SER_BF16, true, true, 5.0F};
    tensors t = tensors_of(&p, 2, 2111, lengths);
    twin_fill_padding(&t.x, &t.rows, NAN);
    twin_fill_padding(&t.u, &t.rows, NAN);
    check_tensors(&t);
}
END_TEST

/* Scores whose exponentials f32 does not hold, all far from 0: one late frame has everything. */
START_TEST(test_large_scores)
{
    enum { FRAMES = 1100, PEAK = 1060 };
    static const int32_t lengths[] = {FRAMES};
    const pool p = {24, 1, SER_F32, true, true, 1.0F};
    float u[FRAMES];
    for (int sign = -1; sign <= 1; sign += 2) {
        tensors t = tensors_of(&p, 1, FRAMES, lengths);
        for (int i = 0; i < FRAMES; i++) {
            u[i] = (float)(i % 10) + (float)(sign * 30) + (i == PEAK ? 11.0F : 0.0F);
        }
        const float w = 1e6F;
        t.u = twin_values(FRAMES, 1, SER_F32, u);
        t.w = twin_values(1, 1, SER_F32, &w);
        check_tensors(&t);
        const float *alpha = gpu_values(&t.alpha.gpu);
        ck_assert(alpha[PEAK] == 1.0F && alpha[0] == 0.0F);
        twins_free();
    }
}
END_TEST

/* A NaN in a valid row goes to the clip's result; other clips do not notice. */
START_TEST(test_nan_survives)
{
    const pool p = {40, 10, SER_BF16, true, true, 3.0F};
    for (int in_u = 0; in_u < 2; in_u++) {
        tensors t = tensors_of(&p, BATCH, PADDED, valid);
        const int64_t cols = in_u ? 10 : 40;
        float values[TOTAL * 40] = {0};
        harness_fill(values, (size_t)(TOTAL * cols), 5, 1.0F);
        values[(2 * PADDED + 19) * cols + 3] = NAN;
        *(in_u ? &t.u : &t.x) = twin_values(TOTAL, cols, SER_BF16, values);
        check_tensors(&t);
        const float *y = gpu_values(&t.y.gpu);
        ck_assert(isnan(y[2 * 40 + 3]) && isfinite(y[3]) && isfinite(y[40 + 3]));
        ck_assert(!in_u == !isnan(y[2 * 40 + 4]));
        twins_free();
    }
}
END_TEST

START_TEST(test_nan_bias)
{
    const pool p = {4, 3, SER_F32, true, true, 3.0F};
    tensors t = tensors_of(&p, BATCH, PADDED, valid);
    const float nan = NAN;
    t.b = twin_values(1, 1, SER_F32, &nan);
    check_tensors(&t);
    ck_assert(isnan(gpu_values(&t.y.gpu)[0]));
}
END_TEST

/* Twice, and the last clip alone. */
START_TEST(test_same_bits)
{
    const pool p = {48, 24, SER_BF16, true, true, 6.0F};
    tensors t = tensors_of(&p, BATCH, PADDED, valid);
    run_gpu(&t);
    const char *y = gpu_bytes(&t.y.gpu);
    const char *alpha = gpu_bytes(&t.alpha.gpu);
    tensors again = t;
    again.y = twin_output(BATCH, 48, SER_F32);
    again.alpha = twin_output(TOTAL, 1, SER_F32);
    run_gpu(&again);
    ck_assert_mem_eq(gpu_bytes(&again.y.gpu), y, BATCH * 48 * sizeof(float));
    ck_assert_mem_eq(gpu_bytes(&again.alpha.gpu), alpha, TOTAL * sizeof(float));
    tensors alone = t;
    alone.rows = twin_rows_of(1, 20, valid + 2);
    alone.x = twin_part(t.x, 2L * PADDED, 20);
    alone.u = twin_part(t.u, 2L * PADDED, 20);
    alone.y = twin_output(1, 48, SER_F32);
    alone.alpha = twin_output(20, 1, SER_F32);
    run_gpu(&alone);
    ck_assert_mem_eq(gpu_bytes(&alone.y.gpu), y + 2 * 48 * sizeof(float), 48 * sizeof(float));
    ck_assert_mem_eq(gpu_bytes(&alone.alpha.gpu), alpha + 2L * PADDED * (long)sizeof(float),
                     20 * sizeof(float));
}
END_TEST

/* --- Backward --- */

/* f32: sums of up to 1030 products, and the difference of such a sum and its mean. bf16: dx and du
 * are rounded once, up to 2^-8 of the value; dw stays f32. */
static double frame_tolerance(int32_t type)
{
    return type == SER_BF16 ? 4e-3 : F32_TOLERANCE;
}

typedef struct gradients {
    tensors in; /* y is not used */
    twin dy, dx, du, dw, db;
} gradients;

/* NaN wherever backward must not look; gradients of parameters begin with something. */
static gradients gradients_of(const pool *p, int64_t batch, int64_t padded, const int32_t *lengths)
{
    gradients g = {.in = tensors_of(p, batch, padded, lengths)};
    tensors *t = &g.in;
    twin_fill_padding(&t->x, &t->rows, NAN);
    if (p->width > 0) {
        twin_fill_padding(&t->u, &t->rows, NAN);
    } else {
        t->u = t->x;
    }
    const ser_attn_pool_args args = {.x = t->x.cpu,
                                     .u = t->u.cpu,
                                     .rows = t->rows.cpu,
                                     .w = t->w.cpu,
                                     .b = t->b.cpu,
                                     .alpha = t->alpha.cpu,
                                     .y = t->y.cpu};
    RUN_CPU(ser_attn_pool_fwd, &args);
    t->alpha = twin_values(batch * padded, 1, SER_F32, t->alpha.cpu.data); /* the same on both */
    twin_fill_padding(&t->alpha, &t->rows, NAN);
    g.dy = twin_input(batch, p->channels, SER_F32, 5, 1.0F, 0);
    g.dx = twin_output(batch * padded, p->channels, p->type);
    g.du = p->width > 0 ? twin_output(batch * padded, p->width, p->type) : twin_absent();
    g.dw = p->scored ? twin_input(1, t->u.cpu.cols, SER_F32, 6, 0.1F, 0) : twin_absent();
    g.db = p->biased ? twin_input(1, 1, SER_F32, 7, 1.0F, 0) : twin_absent();
    return g;
}

static ser_attn_pool_args gpu_args(const gradients *g)
{
    return (ser_attn_pool_args){.x = g->in.x.gpu,
                                .u = g->in.u.gpu,
                                .rows = g->in.rows.gpu,
                                .w = g->in.w.gpu,
                                .b = g->in.b.gpu,
                                .alpha = g->in.alpha.gpu,
                                .dy = g->dy.gpu,
                                .dx = g->dx.gpu,
                                .du = g->du.gpu,
                                .dw = g->dw.gpu,
                                .db = g->db.gpu};
}

static void run_both_backward(const gradients *g)
{
    const ser_attn_pool_args args = {.x = g->in.x.cpu,
                                     .u = g->in.u.cpu,
                                     .rows = g->in.rows.cpu,
                                     .w = g->in.w.cpu,
                                     .b = g->in.b.cpu,
                                     .alpha = g->in.alpha.cpu,
                                     .dy = g->dy.cpu,
                                     .dx = g->dx.cpu,
                                     .du = g->du.cpu,
                                     .dw = g->dw.cpu,
                                     .db = g->db.cpu};
    const ser_attn_pool_args on_gpu = gpu_args(g);
    RUN_CPU(ser_attn_pool_bwd, &args);
    RUN_GPU(ser_attn_pool_bwd, &on_gpu);
}

static void check_one(const char *name, const twin *y, const twin_rows *rows, double tolerance)
{
    if (y->gpu.data != NULL) {
        twin_check(name, y, rows, tolerance, rows != NULL);
        twin_check_slack(name, y);
    }
}

static void check_gradients(const gradients *g)
{
    run_both_backward(g);
    check_one("dx", &g->dx, &g->in.rows, frame_tolerance(g->dx.gpu.type));
    check_one("du", &g->du, &g->in.rows, frame_tolerance(g->dx.gpu.type));
    check_one("dw", &g->dw, NULL, POOL_TOLERANCE);
    check_one("db", &g->db, NULL, 0.0); /* it stays */
}

static void check_backward(const pool *p)
{
    const gradients g = gradients_of(p, BATCH, PADDED, valid);
    check_gradients(&g);
    twins_free();
}

START_TEST(test_gradients)
{
    const int64_t sizes[] = {768, 24, 7, 1, 1030};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int32_t type = SER_F32; type <= SER_BF16; type++) {
            check_backward(&(pool){sizes[i], 0, type, true, true, 3.0F});
            check_backward(&(pool){24, sizes[i], type, true, false, 3.0F});
            check_backward(&(pool){sizes[i], 40, type, true, true, 3.0F});
            check_backward(&(pool){sizes[i], 0, type, false, false, 0.0F});
            check_backward(&(pool){sizes[i], 9, type, false, false, 0.0F}); /* du: zeros */
        }
    }
}
END_TEST

START_TEST(test_gradients_of_a_mean_without_u)
{
    const pool p = {50, 0, SER_BF16, false, false, 0.0F};
    gradients g = gradients_of(&p, BATCH, PADDED, valid);
    g.in.u = twin_absent();
    check_gradients(&g);
}
END_TEST

/* More frames than are written beside each other, more than a block has threads. */
START_TEST(test_gradients_of_long_clips)
{
    static const int32_t lengths[] = {2100, 1025};
    const gradients g = gradients_of(&(pool){5, 3, SER_BF16, true, true, 2.0F}, 2, 2111, lengths);
    check_gradients(&g);
}
END_TEST

/* More clips than a block has warps. */
START_TEST(test_gradients_of_many_clips)
{
    enum { CLIPS = 75 };
    int32_t lengths[CLIPS];
    for (int b = 0; b < CLIPS; b++) {
        lengths[b] = 1 + b % 3;
    }
    const gradients g = gradients_of(&(pool){16, 41, SER_F32, true, true, 2.0F}, CLIPS, 3, lengths);
    check_gradients(&g);
}
END_TEST

/* What is not wanted is not written, and what is has the same bits, as it has twice. */
START_TEST(test_absent_gradients)
{
    const pool p = {48, 24, SER_BF16, true, true, 3.0F};
    const gradients all = gradients_of(&p, BATCH, PADDED, valid);
    const float *before = gpu_values(&all.dw.gpu);
    ser_attn_pool_args args = gpu_args(&all);
    RUN_GPU(ser_attn_pool_bwd, &args);
    const ser_tensor absent = {.data = NULL};
    for (int wanted = 0; wanted < 8; wanted++) {
        const twin dx = twin_output(BATCH * PADDED, 48, SER_BF16);
        const twin du = twin_output(BATCH * PADDED, 24, SER_BF16);
        const twin dw = twin_values(1, 24, SER_F32, before);
        args.dx = (wanted & 1) != 0 ? dx.gpu : absent;
        args.du = (wanted & 2) != 0 ? du.gpu : absent;
        args.dw = (wanted & 4) != 0 ? dw.gpu : absent;
        args.db = absent;
        RUN_GPU(ser_attn_pool_bwd, &args);
        if ((wanted & 1) != 0) {
            ck_assert_mem_eq(gpu_bytes(&dx.gpu), gpu_bytes(&all.dx.gpu), TOTAL * 48 * 2);
        }
        if ((wanted & 2) != 0) {
            ck_assert_mem_eq(gpu_bytes(&du.gpu), gpu_bytes(&all.du.gpu), TOTAL * 24 * 2);
        }
        ck_assert_mem_eq(gpu_bytes(&dw.gpu), (wanted & 4) != 0 ? gpu_bytes(&all.dw.gpu) : before,
                         24 * sizeof(float));
    }
}
END_TEST

/* The last clip alone. */
START_TEST(test_gradients_of_a_clip_alone)
{
    for (int64_t width = 0; width <= 24; width += 24) {
        const pool p = {48, width, SER_BF16, true, true, 3.0F};
        const gradients g = gradients_of(&p, BATCH, PADDED, valid);
        ser_attn_pool_args args = gpu_args(&g);
        RUN_GPU(ser_attn_pool_bwd, &args);
        gradients alone = g;
        alone.in.rows = twin_rows_of(1, 20, valid + 2);
        alone.in.x = twin_part(g.in.x, 2L * PADDED, 20);
        alone.in.u = width > 0 ? twin_part(g.in.u, 2L * PADDED, 20) : alone.in.x;
        alone.in.alpha = twin_part(g.in.alpha, 2L * PADDED, 20);
        alone.dy = twin_part(g.dy, 2, 1);
        alone.dx = twin_output(20, 48, SER_BF16);
        alone.du = width > 0 ? twin_output(20, width, SER_BF16) : twin_absent();
        args = gpu_args(&alone);
        RUN_GPU(ser_attn_pool_bwd, &args);
        const char *dx = gpu_bytes(&g.dx.gpu);
        ck_assert_mem_eq(gpu_bytes(&alone.dx.gpu), dx + 2L * PADDED * 48 * 2, 20L * 48 * 2);
        if (width > 0) {
            const char *du = gpu_bytes(&g.du.gpu);
            ck_assert_mem_eq(gpu_bytes(&alone.du.gpu), du + 2L * PADDED * 24 * 2, 20L * 24 * 2);
        }
        twins_free();
    }
}
END_TEST

/* One frame has everything: nothing could change that, so the scores get no gradient at all. */
START_TEST(test_gradients_of_a_peak)
{
    enum { FRAMES = 40, PEAK = 29, C = 24, D = 6 };
    static const int32_t lengths[] = {FRAMES};
    float alpha[FRAMES] = {0};
    alpha[PEAK] = 1.0F;
    gradients g = gradients_of(&(pool){C, D, SER_F32, true, true, 1.0F}, 1, FRAMES, lengths);
    g.in.alpha = twin_values(FRAMES, 1, SER_F32, alpha);
    const float *before = gpu_values(&g.dw.gpu);
    check_gradients(&g);
    ck_assert_mem_eq(gpu_values(&g.dw.gpu), before, D * sizeof(float));
    const float *dx = gpu_values(&g.dx.gpu);
    const float *du = gpu_values(&g.du.gpu);
    const float *dy = g.dy.cpu.data;
    for (int t = 0; t < FRAMES; t++) {
        for (int i = 0; i < C; i++) {
            ck_assert(dx[t * C + i] == (t == PEAK ? dy[i] : 0.0F));
        }
        for (int i = 0; i < D; i++) {
            ck_assert(du[t * D + i] == 0.0F);
        }
    }
}
END_TEST

/* A NaN in a valid row goes to all gradients of its clip's scores; other clips do not notice. */
START_TEST(test_nan_survives_backward)
{
    const pool p = {40, 10, SER_BF16, true, true, 3.0F};
    gradients g = gradients_of(&p, BATCH, PADDED, valid);
    float values[TOTAL * 40] = {0};
    harness_fill(values, TOTAL * 40, 5, 1.0F);
    values[(2 * PADDED + 19) * 40 + 3] = NAN;
    g.in.x = twin_values(TOTAL, 40, SER_BF16, values);
    check_gradients(&g);
    const float *du = gpu_values(&g.du.gpu);
    ck_assert(isnan(du[2L * PADDED * 10]) && isnan(gpu_values(&g.dw.gpu)[4]));
    ck_assert(isfinite(du[0]) && isfinite(du[PADDED * 10]));
}
END_TEST

/* Sum of dy y after a forward of the GPU. */
static double gpu_loss(const ser_attn_pool_args *args, const float *dy)
{
    assert_ok(ser_attn_pool_fwd(gpu.queue, args));
    assert_ok(gpu.ops->sync(gpu.queue));
    const float *y = gpu_values(&args->y);
    double loss = 0.0;
    for (int64_t e = 0; e < args->y.rows * args->y.cols; e++) {
        loss += (double)dy[e] * (double)y[e];
    }
    return loss;
}

/* Central differences of the GPU's own forward in one of its inputs. Its loss of about 1 has an
 * error of 2e-7, which the step of 1/64 makes 1e-5; the third derivatives of alpha are below 1,
 * which makes another 4e-5. */
static void check_differences(const char *name, const ser_attn_pool_args *args, const twin *input,
                              const float *gradient, const float *before, const float *dy)
{
    const float step = 0.015625F;
    for (int64_t e = 0; e < input->gpu.rows * input->gpu.cols; e++) {
        float *device = (float *)input->gpu.data + e;
        const float value = ((float *)input->cpu.data)[e];
        double losses[2];
        if (isnan(value)) { /* padding */
            continue;
        }
        for (int i = 0; i < 2; i++) {
            const float moved = value + (i == 0 ? -step : step);
            assert_ok(gpu.ops->upload(gpu.queue, device, &moved, sizeof moved));
            losses[i] = gpu_loss(args, dy);
        }
        assert_ok(gpu.ops->upload(gpu.queue, device, &value, sizeof value));
        const double slope = (losses[1] - losses[0]) / (2.0 * (double)step);
        const double got = (double)gradient[e] - (before != NULL ? (double)before[e] : 0.0);
        if (!(fabs(got - slope) <= 2e-4)) {
            ck_abort_msg("%s[%d] is %.9g, not %.9g", name, (int)e, got, slope);
        }
    }
}

START_TEST(test_differences)
{
    static const int32_t lengths[] = {4, 1, 3};
    for (int64_t width = 0; width <= 3; width += 3) {
        const pool p = {5, width, SER_F32, true, true, 1.0F};
        const gradients g = gradients_of(&p, 3, 4, lengths);
        const float *before = gpu_values(&g.dw.gpu);
        const float *dy = g.dy.cpu.data;
        ser_attn_pool_args args = gpu_args(&g);
        args.y = twin_output(3, 5, SER_F32).gpu;
        RUN_GPU(ser_attn_pool_fwd, &args);
        RUN_GPU(ser_attn_pool_bwd, &args);
        const float *dx = gpu_values(&g.dx.gpu);
        const float *dw = gpu_values(&g.dw.gpu);
        const float *du = width > 0 ? gpu_values(&g.du.gpu) : NULL;
        check_differences("dx", &args, &g.in.x, dx, NULL, dy);
        check_differences("dw", &args, &g.in.w, dw, before, dy);
        if (width > 0) {
            check_differences("du", &args, &g.in.u, du, NULL, dy);
        }
        twins_free();
    }
}
END_TEST

CUDA_SUITE("cuda_attn_pool", test_sizes, test_mean_pooling, test_mean_pooling_without_u,
           test_long_clip, test_large_scores, test_nan_survives, test_nan_bias, test_same_bits,
           test_gradients, test_gradients_of_a_mean_without_u, test_gradients_of_long_clips,
           test_gradients_of_many_clips, test_absent_gradients, test_gradients_of_a_clip_alone,
           test_gradients_of_a_peak, test_nan_survives_backward, test_differences)
