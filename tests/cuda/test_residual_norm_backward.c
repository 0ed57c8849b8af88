/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 3, PADDED = 23 };
static const int32_t valid[] = {11, 1, 23}; /* the last rows count: there are the tails */

/* Even and odd halves of the seed and the counter, and a step beyond the 24 bits that count. */
static const ser_step step = {.seed = UINT64_C(0xFEDCBA9876543210),
                              .number = (UINT64_C(5) << 24) + 1234567};

/* One rounding to bf16 is at most 2^-8 of the value; two f32 sums of up to 3000 terms differ by
 * some 1e-6 of the largest, ten times that where the terms cancel. */
#define ONE_ROUNDING 3.92e-3
#define F32_SUMS     2e-5

static double once_rounded(int32_t type)
{
    return type == SER_BF16 ? ONE_ROUNDING : F32_SUMS;
}

/* Where dx and dh go. */
enum {
    ABSENT,
    APART,
    ON_DY,
    ON_DSUM,
    PLACES,
    ON_DY2
}; /* PLACES: of those that check_places tries */

typedef struct form {
    int64_t channels;
    int32_t type;
    bool h; /* else the sum is x */
    bool dy, dsum;
    int dx, dh;
    bool dgamma, dbeta;
    float p;
    bool dy2; /* in place of dsum */
} form;

typedef struct tensors {
    twin unread; /* x and h where there is a sum: NaN */
    twin sum, gamma, stats, dy, dy2, dsum, dx, dh, dgamma, dbeta;
    twin_rows rows;
} tensors;

static twin input_if(bool wanted, int64_t rows, const form *f, uint64_t seed, float scale)
{
    return wanted ? twin_input(rows, f->channels, rows == 1 ? SER_F32 : f->type, seed, scale, 0)
                  : twin_absent();
}

static twin placed(int place, const form *f, const tensors *t)
{
    switch (place) {
    case APART: return twin_output(t->sum.cpu.rows, f->channels, f->type);
    case ON_DY: return t->dy;
    case ON_DSUM: return t->dsum;
    case ON_DY2: return t->dy2;
    default: return twin_absent();
    }
}

/* The CPU's statistics of the sum, on both sides. */
static twin stats_of(const tensors *t, float eps)
{
    const twin stats = twin_output(t->sum.cpu.rows, 2, SER_F32);
    const ser_residual_norm_args args = {.x = t->sum.cpu,
                                         .rows = t->rows.cpu,
                                         .gamma = t->gamma.cpu,
                                         .beta = t->gamma.cpu,
                                         .eps = eps,
                                         .sum = t->sum.cpu,
                                         .stats = stats.cpu};
    RUN_CPU(ser_residual_norm_fwd, &args);
    return twin_values(t->sum.cpu.rows, 2, SER_F32, stats.cpu.data);
}

/* `values`: the sum's, or NULL. */
static tensors tensors_of(const form *f, int64_t batch, int64_t padded, const int32_t *lengths,
                          const float *values)
{
    const int64_t total = batch * padded;
    tensors t = {.rows = twin_rows_of(batch, padded, lengths)};
    t.unread = twin_output(total, f->channels, f->type);
    t.sum = values != NULL ? twin_values(total, f->channels, f->type, values)
                           : twin_input(total, f->channels, f->type, 1, 1.5F, 0);
    t.gamma = twin_input(1, f->channels, SER_F32, 3, 2.0F, 0);
    t.stats = stats_of(&t, 1e-5F);
    t.dy = input_if(f->dy, total, f, 4, 1.0F);
    t.dsum = input_if(f->dsum, total, f, 5, 1.0F);
    t.dy2 = input_if(f->dy2, total, f, 8, 1.0F);
    t.dgamma = input_if(f->dgamma, 1, f, 6, 3.0F);
    t.dbeta = input_if(f->dbeta, 1, f, 7, 3.0F);
    twin *const inputs[] = {&t.sum, &t.stats, &t.dy, &t.dsum, &t.dy2};
    for (int i = 0; i < 5; i++) {
        if (inputs[i]->cpu.data != NULL) {
            twin_fill_padding(inputs[i], &t.rows, NAN);
        }
    }
    t.dx = placed(f->dx, f, &t);
    t.dh = placed(f->dh, f, &t);
    return t;
}

static ser_residual_norm_args cpu_args(const form *f, const tensors *t)
{
    return (ser_residual_norm_args){
        .x = f->h ? t->unread.cpu : t->sum.cpu,
        .h = f->h ? t->unread.cpu : twin_absent().cpu,
        .rows = t->rows.cpu,
        .gamma = t->gamma.cpu,
        .eps = 1e-5F,
        .sum = f->h ? t->sum.cpu : twin_absent().cpu,
        .dropout = {.p = f->p, .op = 0xABCDEF, .step = &step},
        .stats = t->stats.cpu,
        .dy = t->dy.cpu,
        .dy2 = t->dy2.cpu,
        .dsum = t->dsum.cpu,
        .dx = t->dx.cpu,
        .dh = t->dh.cpu,
        .dgamma = t->dgamma.cpu,
        .dbeta = t->dbeta.cpu,
    };
}

static ser_residual_norm_args gpu_args(const form *f, const tensors *t)
{
    ser_residual_norm_args args = cpu_args(f, t);
    args.x = f->h ? t->unread.gpu : t->sum.gpu;
    args.h = f->h ? t->unread.gpu : twin_absent().gpu;
    args.rows = t->rows.gpu;
    args.gamma = t->gamma.gpu;
    args.sum = f->h ? t->sum.gpu : twin_absent().gpu;
    args.stats = t->stats.gpu;
    args.dy = t->dy.gpu;
    args.dy2 = t->dy2.gpu;
    args.dsum = t->dsum.gpu;
    args.dx = t->dx.gpu;
    args.dh = t->dh.gpu;
    args.dgamma = t->dgamma.gpu;
    args.dbeta = t->dbeta.gpu;
    args.dropout.step = f->p > 0.0F ? gpu_copy(&step, sizeof step) : NULL;
    return args;
}

static void run_both(const form *f, const tensors *t)
{
    const ser_residual_norm_args on_cpu = cpu_args(f, t);
    const ser_residual_norm_args on_gpu = gpu_args(f, t);
    RUN_CPU(ser_residual_norm_bwd, &on_cpu);
    RUN_GPU(ser_residual_norm_bwd, &on_gpu);
}

static void check_results(const form *f, const tensors *t)
{
    if (f->dx != ABSENT) {
        twin_check("dx", &t->dx, &t->rows, once_rounded(f->type), true);
        twin_check_slack("dx", &t->dx);
    }
    if (f->dh != ABSENT) {
        twin_check("dh", &t->dh, &t->rows, once_rounded(f->type), true);
        twin_check_slack("dh", &t->dh);
    }
    if (f->dgamma) {
        twin_check("dgamma", &t->dgamma, NULL, F32_SUMS, false);
        twin_check_slack("dgamma", &t->dgamma);
    }
    if (f->dbeta) {
        twin_check("dbeta", &t->dbeta, NULL, F32_SUMS, false);
        twin_check_slack("dbeta", &t->dbeta);
    }
}

static void check_form(const form *f)
{
    const tensors t = tensors_of(f, BATCH, PADDED, valid, NULL);
    run_both(f, &t);
    check_results(f, &t);
    twins_free();
}

/* Everything that may be absent, and dx and dh wherever they may be. */
static void check_places(int64_t channels, int32_t type, float p)
{
    for (int form_bits = 0; form_bits < 16; form_bits++) {
        for (int places = 0; places < PLACES * PLACES; places++) {
            const form f = {.channels = channels,
                            .type = type,
                            .h = places % 3 > 0,
                            .dy = (form_bits & 1) != 0,
                            .dsum = (form_bits & 2) != 0,
                            .dx = places % PLACES,
                            .dh = places / PLACES,
                            .dgamma = (form_bits & 4) != 0,
                            .dbeta = (form_bits & 8) != 0,
                            .p = p};
            const bool sums_alone = !f.dy && (f.dgamma || f.dbeta);
            const bool nothing_comes = !f.dy && !f.dsum;
            const bool overlap = f.dx == f.dh && f.dx > APART;
            const bool on_dy = f.dx == ON_DY || f.dh == ON_DY;
            const bool on_dsum = f.dx == ON_DSUM || f.dh == ON_DSUM;
            const bool on_absent = (on_dy && !f.dy) || (on_dsum && !f.dsum);
            if (!sums_alone && !nothing_comes && !overlap && !on_absent) {
                check_form(&f);
            }
        }
    }
}

START_TEST(test_places)
{
    check_places(24, SER_BF16, 0.3F);
    check_places(24, SER_F32, 0.0F);
    check_places(7, SER_BF16, 0.0F);
    check_places(7, SER_F32, 0.3F);
}
END_TEST

/* A gradient that comes in two parts, at hand and in passes; dx or dh in the place of one. */
START_TEST(test_two_parts)
{
    const int64_t sizes[] = {7, 24, 768, 1288};
    const int places[][2] = {{APART, APART}, {ON_DY2, APART}, {ON_DY, ON_DY2}, {ABSENT, ABSENT}};
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        for (size_t i = 0; i < 16; i++) {
            const int *place = places[i % 4];
            const form f = {.channels = sizes[i / 4],
                            .type = type,
                            .h = true,
                            .dy = true,
                            .dy2 = true,
                            .dx = place[0],
                            .dh = place[1],
                            .dgamma = true,
                            .dbeta = true,
                            .p = 0.1F};
            check_form(&f);
        }
    }
}
END_TEST

/* At hand up to 1280 channels, with the last pack of a row in every round; others in passes. */
START_TEST(test_sizes)
{
    const int64_t sizes[] = {1, 2, 8, 256, 264, 512, 768, 1024, 1030, 1280, 1288};
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const form f = {sizes[i], type, true, true, true, APART,
                            APART,    true, true, 0.1F, false};
            check_form(&f);
        }
    }
}
END_TEST

/* So many rows that a warp has several and a card's blocks are all there; places change hands. */
static void check_many_rows(int64_t channels, int32_t type, int64_t padded)
{
    const int32_t lengths[] = {(int32_t)padded - 1, 7, (int32_t)padded};
    const form f = {channels, type, true, true, true, ON_DSUM, ON_DY, true, true, 0.1F, false};
    const tensors t = tensors_of(&f, 3, padded, lengths, NULL);
    run_both(&f, &t);
    check_results(&f, &t);
    twins_free();
}

START_TEST(test_many_rows)
{
    check_many_rows(8, SER_F32, 800);
    check_many_rows(264, SER_BF16, 801);
    check_many_rows(1, SER_BF16, 3001);
}
END_TEST

/* Clips of one row, more of them than a grid has warps. */
START_TEST(test_short_clips)
{
    enum { CLIPS = 2200 };
    int32_t lengths[CLIPS];
    for (int i = 0; i < CLIPS; i++) {
        lengths[i] = i % 7 > 0;
    }
    for (int64_t channels = 7; channels <= 8; channels++) {
        const form f = {channels, SER_BF16, true, true, false, APART,
                        APART,    true,     true, 0.0F, false};
        const tensors t = tensors_of(&f, CLIPS, 1, lengths, NULL);
        run_both(&f, &t);
        check_results(&f, &t);
        twins_free();
    }
}
END_TEST

/* Row 3 of each: a constant row, whose 1 / sqrt(eps) makes the gradient large; row 4: a NaN that
 * spoils its own row and the sums only. */
static void check_extremes(int64_t channels, int32_t type, float scale)
{
    const form f = {channels, type, true, true, true, APART, APART, true, true, 0.2F, false};
    float *x = malloc((size_t)(BATCH * PADDED * channels) * sizeof *x);
    harness_fill(x, (size_t)(BATCH * PADDED * channels), 9, scale);
    for (int64_t i = 0; i < channels; i++) {
        x[3 * channels + i] = scale;
    }
    x[5 * channels - 1] = NAN;
    const tensors t = tensors_of(&f, BATCH, PADDED, valid, x);
    free(x);
    run_both(&f, &t);
    const float *dx = gpu_values(&t.dx.gpu);
    ck_assert(isnan(dx[4 * channels]) && isfinite(dx[3 * channels]) && isfinite(dx[5 * channels]));
    check_results(&f, &t);
    twins_free();
}

START_TEST(test_extremes)
{
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        check_extremes(48, type, 1e17F); /* the squares' sum is near f32's end */
        check_extremes(49, type, 1e17F);
        check_extremes(48, type, 1e-18F); /* the squares vanish beside eps */
        check_extremes(49, type, 1e-18F);
    }
}
END_TEST

/* The same bits twice; dx also for the last clip alone, in a grid of another shape. */
static void check_bits(int64_t channels, int32_t type)
{
    static const int32_t lengths[] = {100, 7, 99};
    const form f = {channels, type, true, true, true, APART, APART, true, true, 0.0F, false};
    tensors t[2];
    const char *bytes[2][4];
    for (int i = 0; i < 2; i++) {
        t[i] = tensors_of(&f, 3, 100, lengths, NULL);
        const ser_residual_norm_args args = gpu_args(&f, &t[i]);
        RUN_GPU(ser_residual_norm_bwd, &args);
        const twin *const results[] = {&t[i].dx, &t[i].dh, &t[i].dgamma, &t[i].dbeta};
        for (int r = 0; r < 4; r++) {
            bytes[i][r] = gpu_bytes(&results[r]->gpu);
        }
    }
    const size_t row = (size_t)channels * (type == SER_BF16 ? 2 : 4);
    for (int r = 0; r < 4; r++) {
        ck_assert_mem_eq(bytes[0][r], bytes[1][r], r < 2 ? 300 * row : (size_t)channels * 4);
    }
    tensors alone = t[0];
    alone.rows = twin_rows_of(1, 99, lengths + 2);
    twin *const parts[] = {&alone.unread, &alone.sum, &alone.stats, &alone.dy, &alone.dsum};
    for (int i = 0; i < 5; i++) {
        *parts[i] = twin_part(*parts[i], 200, 99);
    }
    alone.dx = twin_output(99, channels, type);
    alone.dh = twin_output(99, channels, type);
    const ser_residual_norm_args args = gpu_args(&f, &alone);
    RUN_GPU(ser_residual_norm_bwd, &args);
    ck_assert_mem_eq(gpu_bytes(&alone.dx.gpu), bytes[0][0] + 200 * row, 99 * row);
    twins_free();
}

START_TEST(test_same_bits)
{
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        check_bits(40, type);
        check_bits(41, type);
    }
}
END_TEST

/* --- The GPU's forward against its backward: central differences of the loss, the sum over the
 * valid rows of dy y + dsum sum --- */

enum { SMALL_ROWS = 5, SMALL_VALID = 3, SMALL_CHANNELS = 8 };

static void download(float *to, const ser_tensor *from)
{
    assert_ok(gpu.ops->download(gpu.queue, to, from->data,
                                (size_t)(from->rows * from->cols) * sizeof *to));
    assert_ok(gpu.ops->sync(gpu.queue));
}

static double loss_of(const ser_residual_norm_args *args, const float *dy, const float *dsum)
{
    float y[SMALL_ROWS * SMALL_CHANNELS];
    float sum[SMALL_ROWS * SMALL_CHANNELS];
    RUN_GPU(ser_residual_norm_fwd, args);
    download(y, &args->y);
    download(sum, &args->sum);
    double loss = 0.0;
    for (int64_t e = 0; e < SMALL_VALID * args->x.cols; e++) {
        loss += (double)y[e] * (double)dy[e] + (double)sum[e] * (double)dsum[e];
    }
    return loss;
}

/* The step's square times the third derivative is some 1e-4, f32's noise in the loss over the step
 * some 1e-5. */
static void check_slope(const char *name, const ser_residual_norm_args *args, const tensors *t,
                        const twin *x, const float *gradient, const float *before)
{
    float values[SMALL_ROWS * SMALL_CHANNELS];
    const int64_t count = x->cpu.rows > 1 ? SMALL_VALID * x->cpu.cols : x->cpu.cols;
    const size_t size = (size_t)count * sizeof *values;
    const float width = 0.0078125F;
    memcpy(values, x->cpu.data, size);
    for (int64_t i = 0; i < count; i++) {
        double losses[2];
        const float middle = values[i];
        for (int side_of = 0; side_of < 2; side_of++) {
            values[i] = side_of == 0 ? middle - width : middle + width;
            assert_ok(gpu.ops->upload(gpu.queue, x->gpu.data, values, size));
            losses[side_of] = loss_of(args, t->dy.cpu.data, t->dsum.cpu.data);
        }
        values[i] = middle;
        const double expected = (losses[1] - losses[0]) / (2.0 * (double)width);
        const double got = (double)gradient[i] - (before != NULL ? (double)before[i] : 0.0);
        ck_assert_msg(fabs(got - expected) <= 3e-3, "%s[%d] is %g, the slope %g", name, (int)i, got,
                      expected);
    }
    assert_ok(gpu.ops->upload(gpu.queue, x->gpu.data, values, size));
}

static void check_differences(int64_t channels)
{
    static const int32_t lengths[] = {SMALL_VALID};
    const form f = {channels, SER_F32, true, true, true, APART, APART, true, true, 0.3F, false};
    tensors t = tensors_of(&f, 1, SMALL_ROWS, lengths, NULL);
    const twin x = twin_input(SMALL_ROWS, channels, SER_F32, 11, 1.5F, 0);
    const twin h = twin_input(SMALL_ROWS, channels, SER_F32, 12, 1.5F, 0);
    const twin beta = twin_input(1, channels, SER_F32, 13, 1.0F, 0);
    ser_residual_norm_args args = gpu_args(&f, &t);
    args.x = x.gpu;
    args.h = h.gpu;
    args.beta = beta.gpu;
    args.y = twin_output(SMALL_ROWS, channels, SER_F32).gpu;
    args.stats = twin_output(SMALL_ROWS, 2, SER_F32).gpu;
    RUN_GPU(ser_residual_norm_fwd, &args);
    RUN_GPU(ser_residual_norm_bwd, &args);
    const float *dx = gpu_values(&t.dx.gpu);
    const float *dh = gpu_values(&t.dh.gpu);
    const float *dgamma = gpu_values(&t.dgamma.gpu);
    const float *dbeta = gpu_values(&t.dbeta.gpu);
    check_slope("dx", &args, &t, &x, dx, NULL);
    check_slope("dh", &args, &t, &h, dh, NULL);
    check_slope("dgamma", &args, &t, &t.gamma, dgamma, t.dgamma.cpu.data);
    check_slope("dbeta", &args, &t, &beta, dbeta, t.dbeta.cpu.data);
    twins_free();
}

START_TEST(test_differences)
{
    check_differences(8);
    check_differences(5);
}
END_TEST

CUDA_SUITE("cuda_residual_norm_backward", test_places, test_two_parts, test_sizes, test_many_rows,
           test_short_clips, test_extremes, test_same_bits, test_differences)
