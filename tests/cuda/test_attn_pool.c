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

CUDA_SUITE("cuda_attn_pool", test_sizes, test_mean_pooling, test_mean_pooling_without_u,
           test_long_clip, test_large_scores, test_nan_survives, test_nan_bias, test_same_bits)
