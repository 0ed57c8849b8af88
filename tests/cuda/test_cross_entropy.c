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

CUDA_SUITE("cuda_cross_entropy", test_sizes, test_no_class_at_all, test_nan_survives,
           test_small_loss, test_same_bits)
