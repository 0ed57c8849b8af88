/* SPDX-License-Identifier: MIT */
#include "fixture.h"

typedef struct batch {
    int64_t rows, classes;
    float *logits, *targets, *mask; /* mask NULL: every class */
} batch;

/* Random logits and targets; what the mask leaves out is NaN among the logits, 0 in the targets. */
static batch batch_of(int64_t rows, int64_t classes, float spread, bool masked)
{
    const size_t count = (size_t)(rows * classes);
    batch b = {rows, classes, malloc(count * sizeof(float)), malloc(count * sizeof(float)),
               masked ? malloc(count * sizeof(float)) : NULL};
    harness_fill(b.logits, count, 1, spread);
    harness_fill(b.targets, count, 2, 1.0F);
    uint64_t state = 3;
    for (size_t e = 0; masked && e < count; e++) {
        b.mask[e] = harness_random(&state) < 0.2F ? 0.0F : 1.0F;
        if (b.mask[e] == 0.0F) {
            b.logits[e] = NAN;
            b.targets[e] = 0.0F;
        }
    }
    return b;
}

static void batch_free(batch *b)
{
    free(b->logits);
    free(b->targets);
    free(b->mask);
    twins_free();
}

/* Both are f32 throughout; a rounded logit difference of up to 2000 moves the exponential by 1e-4
 * of itself, but not where it is near 1. The loss is summed in double. */
static void check_batch(const batch *b, bool with_loss, twin *probabilities, twin *loss)
{
    /* what lies behind the logits must not be taken for rows */
    const twin more = twin_input(b->rows + 4, b->classes, SER_F32, 7, 1.0F, 0);
    const twin z = twin_part(more, 0, b->rows);
    const size_t size = (size_t)(b->rows * b->classes) * sizeof(float);
    memcpy(z.cpu.data, b->logits, size);
    assert_ok(gpu.ops->upload(gpu.queue, z.gpu.data, b->logits, size));
    const twin t = twin_values(b->rows, b->classes, SER_F32, b->targets);
    const twin mask =
        b->mask != NULL ? twin_values(b->rows, b->classes, SER_F32, b->mask) : twin_absent();
    *probabilities = twin_output(b->rows, b->classes, SER_F32);
    *loss = with_loss ? twin_output(b->rows, 1, SER_F32) : twin_absent();
    ser_cross_entropy_args args = {.logits = z.cpu,
                                   .mask = mask.cpu,
                                   .probabilities = probabilities->cpu,
                                   .targets = with_loss ? t.cpu : twin_absent().cpu,
                                   .loss = loss->cpu};
    RUN_CPU(ser_cross_entropy_fwd, &args);
    args.logits = z.gpu;
    args.mask = mask.gpu;
    args.probabilities = probabilities->gpu;
    args.targets = with_loss ? t.gpu : twin_absent().gpu;
    args.loss = loss->gpu;
    RUN_GPU(ser_cross_entropy_fwd, &args);
    twin_check("probabilities", probabilities, NULL, 2e-6, false);
    twin_check_slack("probabilities", probabilities);
    if (with_loss) {
        twin_check("loss", loss, NULL, 1e-6, false);
        twin_check_slack("loss", loss);
    }
}

static void check_sums(const batch *b, const twin *probabilities)
{
    const float *p = gpu_values(&probabilities->gpu);
    for (int64_t r = 0; r < b->rows; r++) {
        double total = 0.0;
        bool some = false;
        bool zeros = true;
        for (int64_t k = 0; k < b->classes; k++) {
            const bool has = b->mask == NULL || b->mask[r * b->classes + k] != 0.0F;
            some = some || has;
            total += (double)p[r * b->classes + k];
            zeros = zeros && (has || p[r * b->classes + k] == 0.0F);
        }
        ck_assert(zeros);
        ck_assert_double_eq_tol(total, some ? 1.0 : 0.0, 1e-5);
    }
}

static void check_case(int64_t rows, int64_t classes, float spread, bool masked, bool with_loss)
{
    twin probabilities;
    twin loss;
    batch b = batch_of(rows, classes, spread, masked);
    check_batch(&b, with_loss, &probabilities, &loss);
    check_sums(&b, &probabilities);
    batch_free(&b);
}

START_TEST(test_sizes)
{
    const int64_t classes[] = {1, 2, 7, 24, 32, 33, 512, 1030};
    const int64_t rows[] = {1, 3, 4, 5, 70};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        for (int form = 0; form < 4; form++) {
            check_case(rows[i % 5], classes[i], 3.0F, (form & 1) != 0, (form & 2) != 0);
        }
    }
    check_case(70, 7, 1000.0F, true, true); /* probabilities that f32 does not hold */
    check_case(70, 7, 1000.0F, false, true);
}
END_TEST

/* A class that is not in the mask does not exist: no class at all gives zeros. */
START_TEST(test_no_class_at_all)
{
    twin probabilities;
    twin loss;
    batch b = batch_of(5, 7, 2.0F, true);
    for (int k = 0; k < 7; k++) {
        b.mask[14 + k] = b.targets[14 + k] = 0.0F;
    }
    check_batch(&b, true, &probabilities, &loss);
    check_sums(&b, &probabilities);
    ck_assert(gpu_values(&loss.gpu)[2] == 0.0F);
    batch_free(&b);
}
END_TEST

/* A damaged network must not look healthy. */
START_TEST(test_nan_survives)
{
    twin probabilities;
    twin loss;
    batch b = batch_of(6, 40, 2.0F, false);
    b.logits[40 + 37] = NAN;
    b.logits[80 + 2] = INFINITY;
    for (int k = 0; k < 40; k++) {
        b.logits[120 + k] = NAN;
    }
    check_batch(&b, true, &probabilities, &loss);
    const float *p = gpu_values(&probabilities.gpu);
    const float *l = gpu_values(&loss.gpu);
    for (int r = 1; r <= 3; r++) {
        ck_assert(isnan(p[r * 40]) && isnan(l[r]));
    }
    ck_assert(isfinite(p[0]) && isfinite(l[0]) && isfinite(p[160]) && isfinite(l[4]));
    batch_free(&b);
}
END_TEST

/* The small loss of a class that has nearly everything is not lost beside 1. */
START_TEST(test_small_loss)
{
    const float z[] = {30.0F, 0.0F, -1.0F};
    const float target[] = {1.0F, 0.0F, 0.0F};
    const twin logits = twin_values(1, 3, SER_F32, z);
    const twin targets = twin_values(1, 3, SER_F32, target);
    const twin p = twin_output(1, 3, SER_F32);
    const twin loss = twin_output(1, 1, SER_F32);
    const ser_cross_entropy_args args = {
        .logits = logits.gpu, .probabilities = p.gpu, .targets = targets.gpu, .loss = loss.gpu};
    RUN_GPU(ser_cross_entropy_fwd, &args);
    const double expected = log1p(exp(-30.0) + exp(-31.0));
    ck_assert_double_eq_tol((double)gpu_values(&loss.gpu)[0] / expected, 1.0, 1e-2);
}
END_TEST

/* Twice, and a row alone. */
START_TEST(test_same_bits)
{
    enum { ROWS = 9, K = 50 };
    twin probabilities[2];
    twin loss[2];
    batch b = batch_of(ROWS, K, 3.0F, true);
    check_batch(&b, true, &probabilities[0], &loss[0]);
    check_batch(&b, true, &probabilities[1], &loss[1]);
    const float *p = gpu_values(&probabilities[0].gpu);
    const float *l = gpu_values(&loss[0].gpu);
    ck_assert_mem_eq(p, gpu_values(&probabilities[1].gpu), ROWS * K * sizeof(float));
    ck_assert_mem_eq(l, gpu_values(&loss[1].gpu), ROWS * sizeof(float));
    batch last = b;
    last.rows = 1;
    last.logits += (ROWS - 1) * K;
    last.targets += (ROWS - 1) * K;
    last.mask += (ROWS - 1) * K;
    check_batch(&last, true, &probabilities[1], &loss[1]);
    ck_assert_mem_eq(p + (ROWS - 1) * K, gpu_values(&probabilities[1].gpu), K * sizeof(float));
    ck_assert(l[ROWS - 1] == gpu_values(&loss[1].gpu)[0]);
    batch_free(&b);
}
END_TEST

/* --- Backward --- */

/* Both sides compute in double and round once. */
#define GRADIENT_TOLERANCE 2e-7

/* The same probabilities on both sides; returns dlogits. */
static twin check_gradient(const batch *b, const float *probabilities, float scale)
{
    const twin p = twin_values(b->rows, b->classes, SER_F32, probabilities);
    const twin t = twin_values(b->rows, b->classes, SER_F32, b->targets);
    const twin dlogits = twin_output(b->rows, b->classes, SER_F32);
    ser_cross_entropy_args args = {
        .probabilities = p.cpu, .targets = t.cpu, .scale = scale, .dlogits = dlogits.cpu};
    RUN_CPU(ser_cross_entropy_bwd, &args);
    args.probabilities = p.gpu;
    args.targets = t.gpu;
    args.dlogits = dlogits.gpu;
    RUN_GPU(ser_cross_entropy_bwd, &args);
    twin_check("dlogits", &dlogits, NULL, GRADIENT_TOLERANCE, false);
    twin_check_slack("dlogits", &dlogits);
    return dlogits;
}

START_TEST(test_gradients)
{
    const int64_t classes[] = {1, 2, 7, 24, 32, 33, 512, 1030};
    const int64_t rows[] = {1, 3, 4, 5, 70};
    twin p;
    twin loss;
    for (size_t i = 0; i < 2 * sizeof classes / sizeof *classes; i++) {
        batch b = batch_of(rows[i % 5], classes[i / 2], 3.0F, i % 2 != 0);
        check_batch(&b, false, &p, &loss);
        check_gradient(&b, p.cpu.data, 0.3F);
        batch_free(&b);
    }
}
END_TEST

/* Near the optimum the gradient is a small difference, which f32 products would lose. */
START_TEST(test_infinite_loss_stops_the_update)
{
    const float p[] = {0.25F, 0.75F, 1.0F, 0.0F, 1.0F, 0.0F};
    const float targets[] = {0.0F, 1.0F, 0.0F, 1.0F, 1.0F, 0.0F};
    const float losses[] = {0.3F, INFINITY, NAN};
    const twin dlogits = twin_output(3, 2, SER_F32);
    const ser_cross_entropy_args args = {
        .probabilities = twin_values(3, 2, SER_F32, p).gpu,
        .targets = twin_values(3, 2, SER_F32, targets).gpu,
        .loss = twin_values(3, 1, SER_F32, losses).gpu,
        .scale = 2.0F,
        .dlogits = dlogits.gpu,
    };
    RUN_GPU(ser_cross_entropy_bwd, &args);
    const float *d = gpu_values(&dlogits.gpu);
    ck_assert(d[0] == 0.5F && d[1] == -0.5F);
    for (int i = 2; i < 6; i++) {
        ck_assert(isnan(d[i]));
    }
}
END_TEST

START_TEST(test_small_gradient)
{
    const float p[] = {0.3F, 0.3F, 0.4F};
    float targets[] = {0.9F, 0.89999998F, 1.2F};
    const batch soft = {.rows = 1, .classes = 3, .targets = targets};
    const twin dlogits = check_gradient(&soft, p, 2.0F);
    const double sum = (double)targets[0] + (double)targets[1] + (double)targets[2];
    const float *got = gpu_values(&dlogits.gpu);
    for (int k = 0; k < 3; k++) {
        const double expected = 2.0 * ((double)p[k] * sum - (double)targets[k]);
        ck_assert_double_lt(fabs(expected), 1e-6);
        ck_assert_double_eq_tol((double)got[k] / expected, 1.0, 1e-6);
    }
}
END_TEST

/* A row's NaN stays in the row; a row without classes gets zeros; twice the same bits. */
START_TEST(test_gradient_rows)
{
    enum { ROWS = 6, K = 40 };
    twin p;
    twin loss;
    batch b = batch_of(ROWS, K, 2.0F, true);
    for (int k = 0; k < K; k++) {
        b.mask[2 * K + k] = b.targets[2 * K + k] = 0.0F;
        b.logits[4 * K + k] = NAN;
        b.mask[4 * K + k] = 1.0F;
    }
    check_batch(&b, false, &p, &loss);
    const twin dlogits = check_gradient(&b, p.cpu.data, 1.5F);
    const float *got = gpu_values(&dlogits.gpu);
    for (int e = 0; e < ROWS * K; e++) {
        ck_assert(!isnan(got[e]) == (e / K != 4));
        ck_assert(e / K != 2 || got[e] == 0.0F);
    }
    const twin again = check_gradient(&b, p.cpu.data, 1.5F);
    ck_assert_mem_eq(got, gpu_values(&again.gpu), ROWS * K * sizeof(float));
    batch_free(&b);
}
END_TEST

static double gpu_loss(const ser_cross_entropy_args *args)
{
    assert_ok(ser_cross_entropy_fwd(gpu.queue, args));
    assert_ok(gpu.ops->sync(gpu.queue));
    const float *loss = gpu_values(&args->loss);
    double total = 0.0;
    for (int64_t r = 0; r < args->loss.rows; r++) {
        total += (double)args->scale * (double)loss[r];
    }
    return total;
}

/* Central differences of the GPU's own forward: its losses of about 5 have errors of 1e-6, which
 * the step of 1/32 makes 2e-5; the third derivative adds 2e-4 of a probability at most. */
START_TEST(test_differences)
{
    enum { ROWS = 3, K = 7 };
    const float step = 0.03125F;
    batch b = batch_of(ROWS, K, 2.0F, true);
    const twin p = twin_output(ROWS, K, SER_F32);
    const twin dlogits = twin_output(ROWS, K, SER_F32);
    twin z = twin_values(ROWS, K, SER_F32, b.logits);
    const ser_cross_entropy_args args = {
        .logits = z.gpu,
        .mask = twin_values(ROWS, K, SER_F32, b.mask).gpu,
        .probabilities = p.gpu,
        .targets = twin_values(ROWS, K, SER_F32, b.targets).gpu,
        .loss = twin_output(ROWS, 1, SER_F32).gpu,
        .scale = 0.7F,
        .dlogits = dlogits.gpu,
    };
    RUN_GPU(ser_cross_entropy_fwd, &args);
    RUN_GPU(ser_cross_entropy_bwd, &args);
    const float *got = gpu_values(&dlogits.gpu);
    for (int e = 0; e < ROWS * K; e++) {
        double losses[2];
        for (int i = 0; i < 2; i++) {
            const float value = b.logits[e] + (i == 0 ? -step : step);
            assert_ok(gpu.ops->upload(gpu.queue, (float *)z.gpu.data + e, &value, sizeof value));
            losses[i] = gpu_loss(&args);
        }
        assert_ok(gpu.ops->upload(gpu.queue, (float *)z.gpu.data + e, &b.logits[e], sizeof(float)));
        ck_assert_double_eq_tol((double)got[e], (losses[1] - losses[0]) / (2.0 * (double)step),
                                3e-4);
    }
    batch_free(&b);
}
END_TEST

CUDA_SUITE("cuda_cross_entropy", test_sizes, test_no_class_at_all, test_nan_survives,
           test_small_loss, test_same_bits, test_gradients, test_infinite_loss_stops_the_update,
           test_small_gradient, test_gradient_rows, test_differences)
