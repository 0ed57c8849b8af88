/* SPDX-License-Identifier: MIT */
/* Training on a card beside training on the CPU: every kind of model, every option. */
#include "card_fixture.h"

#include <math.h>

enum { STEPS = 10 };

/* --- What is trained, and how --- */

static void nothing(void)
{
}

static void all_noise(void)
{
    options.projection_dropout = 0.1F;
    options.hidden_dropout = 0.15F;
    options.attention_dropout = 0.2F;
    options.activation_dropout = 0.25F;
    options.classifier_dropout = 0.3F;
    options.layer_drop = 0.2F;
    options.mask_time_probability = 0.3F;
    options.mask_time_length = 3;
    options.mask_channel_probability = 0.3F;
    options.mask_channel_length = 2;
    options.seed = 5;
}

static void layer_drop(void)
{
    options.layer_drop = 0.5F;
}

static void accumulation(void)
{
    options.accumulate = 3;
}

static void frozen_layers(void)
{
    options.freeze_layers = 1;
}

static void frozen_backbone(void)
{
    options.freeze_layers = -1;
    options.mask_time_probability = 0.3F;
    options.mask_time_length = 3;
}

/* Keys between trained queries and values, a norm, half of a layer. */
static void frozen_names(void)
{
    options.freeze = "*k_proj*,*layers.1.final_layer_norm*,classifier.0.bias";
}

static void trained_stem(void)
{
    options.freeze_features = 0;
    options.hidden_dropout = 0.1F;
}

static void without_cache(void)
{
    options.cache_bytes = 0;
}

static void loss_options(void)
{
    static const float class_weights[LABELS] = {0.5F, 1.0F, 2.0F};
    options.label_smoothing = 0.1F;
    options.class_weights = class_weights;
}

static void mel_changes(void)
{
    options.augment.mel_warp = 0.1F;
    options.augment.mel_tilt = 0.3F;
    options.augment.mel_ripple = 0.3F;
}

static void mel_spans(void)
{
    options.augment.mel_time_spans = 2;
    options.augment.mel_time_width = 5;
    options.augment.mel_channel_spans = 2;
    options.augment.mel_channel_width = 4;
}

/* Lengths become anything, so the padding differs: nothing may depend on it. */
static void waveform_changes(void)
{
    options.augment.speed_probability = 1.0F;
    options.augment.speed = 0.1F;
    options.augment.noise_probability = 0.5F;
    options.augment.noise_snr_low = 20.0F;
    options.augment.noise_snr_high = 40.0F;
}

static void average(void)
{
    options.average = 0.8F;
    options.schedule = SER_SCHEDULE_COSINE;
    options.steps = STEPS;
    options.warmup_steps = 3;
}

static void clipped(void)
{
    options.clip_norm = 0.05F;
    options.weight_decay = 0.5F;
}

static void never_clipped(void)
{
    options.clip_norm = 0.0F;
}

static void rates(void)
{
    options.layer_decay = 0.5F;
    options.head_rate = 5e-3F;
}

/* Of the clips. */
enum { WEIGHTS = 1, CLASSES = 2, SOFT = 4 };

/* The first ones are each kind of model without and with noise. */
static const struct {
    const char *name;
    int kind;
    void (*set)(void);
    int clips;
} variants[] = {
    {"wave", WAVE, nothing, 0},
    {"log-mel", LOGMEL, nothing, 0},
    {"large", LARGE, nothing, 0},
    {"wave, noise", WAVE, all_noise, 0},
    {"log-mel, noise", LOGMEL, all_noise, 0},
    {"large, noise", LARGE, all_noise, 0},
    {"layer drop", LARGE, layer_drop, 0},
    {"accumulation", WAVE, accumulation, WEIGHTS},
    {"accumulation, log-mel", LOGMEL, accumulation, WEIGHTS},
    {"frozen layers", LARGE, frozen_layers, 0},
    {"frozen layers, log-mel", LOGMEL, frozen_layers, 0},
    {"frozen backbone", WAVE, frozen_backbone, 0},
    {"frozen names", WAVE, frozen_names, 0},
    {"trained stem", WAVE, trained_stem, 0},
    {"trained stem, large", LARGE, trained_stem, 0},
    {"no cache", WAVE, without_cache, 0},
    {"no cache, log-mel", LOGMEL, without_cache, 0},
    {"loss", WAVE, loss_options, WEIGHTS | CLASSES},
    {"soft targets", LOGMEL, loss_options, SOFT | CLASSES},
    {"mel changes", LOGMEL, mel_changes, 0},
    {"mel spans", LOGMEL, mel_spans, 0},
    {"waveform changes", LOGMEL, waveform_changes, 0},
    {"average", LARGE, average, 0},
    {"clipped", LOGMEL, clipped, 0},
    {"never clipped", WAVE, never_clipped, 0},
    {"rates", LARGE, rates, 0},
};

enum { VARIANTS = sizeof variants / sizeof variants[0] };

static ser_clip clip_for(int i, int kinds)
{
    static const uint8_t two[LABELS] = {1, 0, 1};
    static const float soft[LABELS] = {0.25F, 0.0F, 0.75F};
    ser_clip clip = clip_of(i);
    if ((kinds & WEIGHTS) != 0) {
        clip.weight = 0.5F + 0.3F * (float)i;
    }
    if ((kinds & CLASSES) != 0 && clip.label != 1) {
        clip.classes = two;
    }
    if ((kinds & SOFT) != 0 && clip.label == 0) {
        clip.targets = soft;
        clip.label = -1;
    }
    return clip;
}

/* --- Runs --- */

typedef struct run {
    ser_step_result results[STEPS];
    float losses[BATCH]; /* of an evaluation at the end */
    float *weights;
    size_t count;
} run;

static ser_batch *batch_for(int n, int kinds)
{
    ser_clip clips[BATCH];
    ser_batch *batch;
    for (int i = 0; i < BATCH; i++) {
        clips[i] = clip_for(BATCH * (n % 2) + i, kinds);
    }
    assert_ok(ser_batch_create(trainer, clips, BATCH, n / 2, 1, &batch));
    return batch;
}

static void train(int first, int count, int kinds, ser_step_result *results)
{
    for (int n = first; n < first + count; n++) {
        results[n] = step_and_free(batch_for(n, kinds));
    }
}

static void finish(int kinds, run *r)
{
    ser_batch *batch = batch_for(0, kinds);
    assert_ok(ser_trainer_use_average(trainer, 1)); /* nothing happens without one */
    assert_ok(ser_trainer_evaluate(trainer, batch, r->losses, NULL));
    r->weights = weights(&r->count);
    ser_batch_free(&batch);
}

static run run_on(ser_device *on, int variant)
{
    const int kinds = variants[variant].clips;
    run r;
    start_on(on, variants[variant].kind, 1);
    train(0, STEPS, kinds, r.results);
    finish(kinds, &r);
    return r;
}

/* --- Comparisons --- */

/*
 * f32: sums of up to some hundred terms in two orders differ by about 1e-6 of the sum. AdamW divides a
 * gradient by its own size, so one that should be 0 (of the keys' bias: no softmax depends on it)
 * would be a step in a random direction; with eps 1e-2 a difference moves a weight by at most
 * rate / eps = 0.1 of itself, ten times.
 */
static const double LOSS_TOLERANCE = 1e-5;
static const double NORM_TOLERANCE = 5e-5;
static const double WEIGHT_TOLERANCE = 5e-6;

static void assert_near(double x, double y, double tolerance, const char *what, int n)
{
    ck_assert_msg(fabs(x - y) <= tolerance * fmax(fabs(y), 1e-3), "%s of step %d: %.9g and %.9g",
                  what, n, x, y);
}

static void compare_steps(const ser_step_result *got, const ser_step_result *wanted, int first)
{
    for (int n = first; n < STEPS; n++) {
        const ser_step_result *a = &got[n];
        const ser_step_result *b = &wanted[n];
        assert_near(a->loss, b->loss, LOSS_TOLERANCE, "loss", n);
        assert_near(a->gradient_norm, b->gradient_norm, NORM_TOLERANCE, "norm", n);
        ck_assert(a->rate == b->rate && a->head_rate == b->head_rate);
        ck_assert(a->step == b->step && a->updated == b->updated && a->skipped == b->skipped);
        ck_assert_int_eq(a->correct, b->correct);
        ck_assert_int_eq(a->bad_clip, b->bad_clip);
    }
}

static void compare_ends(const run *got, const run *wanted)
{
    for (int i = 0; i < BATCH; i++) {
        assert_near((double)got->losses[i], (double)wanted->losses[i], LOSS_TOLERANCE, "evaluation",
                    STEPS);
    }
    ck_assert_uint_eq(got->count, wanted->count);
    ck_assert_double_lt(difference(got->weights, wanted->weights, got->count), WEIGHT_TOLERANCE);
}

static void set_comparable(void)
{
    options.eps = 1e-2F;
    options.rate = 1e-3F;
}

START_TEST(ten_steps_agree_with_the_cpu)
{
    set_comparable();
    variants[_i].set();
    run wanted = run_on(host, _i);
    run got = run_on(card, _i);
    compare_steps(got.results, wanted.results, 0);
    compare_ends(&got, &wanted);
    free(got.weights);
    free(wanted.weights);
}
END_TEST

/* bf16 has 8 bits, and logits are about 1: a loss is off by some 2^-8. Without noise it must fall as
 * it does on the CPU; with noise runs at such a rate part ways after some steps. */
START_TEST(bf16_learns_as_the_cpu_does)
{
    options.rate = _i < ALL_KINDS ? 1e-2F : 2e-3F;
    options.eps = 1e-4F;
    variants[_i].set();
    run wanted = run_on(host, _i);
    precision = SER_PRECISION_BF16;
    run got = run_on(card, _i);
    for (int n = 0; n < STEPS; n++) {
        ck_assert_double_eq_tol(got.results[n].loss, wanted.results[n].loss, 0.02);
        ck_assert_int_eq(got.results[n].updated, wanted.results[n].updated);
    }
    const double fall = wanted.results[STEPS - 2].loss / wanted.results[0].loss;
    ck_assert_msg(_i >= ALL_KINDS || fall < 0.5, "%g", fall);
    free(got.weights);
    free(wanted.weights);
}
END_TEST

/* --- The same bits --- */

static void assert_same_run(const run *a, const run *b)
{
    ck_assert_mem_eq(a->results, b->results, sizeof a->results);
    ck_assert_mem_eq(a->losses, b->losses, sizeof a->losses);
    ck_assert_mem_eq(a->weights, b->weights, a->count * sizeof *a->weights);
}

/* With everything random, in f32 and bf16; another seed is another run. */
START_TEST(two_runs_are_the_same)
{
    precision = _i == 0 ? SER_PRECISION_F32 : SER_PRECISION_BF16;
    const int variant = ALL_KINDS + _i;
    all_noise();
    mel_spans();
    options.average = 0.9F;
    options.accumulate = 2;
    run a = run_on(card, variant);
    run b = run_on(card, variant);
    assert_same_run(&a, &b);
    options.seed++;
    run c = run_on(card, variant);
    ck_assert_mem_ne(a.weights, c.weights, a.count * sizeof *a.weights);
    free(a.weights);
    free(b.weights);
    free(c.weights);
}
END_TEST

/* --- Interrupted --- */

/* Four steps on `first`, saved, and the rest in a new trainer on `second`. */
static run interrupted(ser_device *first, ser_device *second, int variant)
{
    enum { BEFORE = 4 };
    const char *path = harness_tmpfile("checkpoint");
    const int kinds = variants[variant].clips;
    run r;
    start_on(first, variants[variant].kind, 1);
    train(0, BEFORE, kinds, r.results);
    assert_ok(ser_trainer_save(trainer, path, NULL));
    start_on(second, variants[variant].kind, 77);
    assert_ok(ser_trainer_restore(trainer, path, NULL));
    train(BEFORE, STEPS - BEFORE, kinds, r.results);
    finish(kinds, &r);
    return r;
}

static void prepare_interruption(void)
{
    set_comparable();
    all_noise();
    options.average = 0.9F;
    options.accumulate = 2;
}

START_TEST(interrupted_on_the_card)
{
    precision = _i == 0 ? SER_PRECISION_BF16 : SER_PRECISION_F32;
    prepare_interruption();
    run whole = run_on(card, ALL_KINDS + _i);
    run resumed = interrupted(card, card, ALL_KINDS + _i);
    assert_same_run(&resumed, &whole);
    free(whole.weights);
    free(resumed.weights);
}
END_TEST

START_TEST(interrupted_and_moved)
{
    prepare_interruption();
    const int variant = ALL_KINDS + _i / 2;
    run whole = run_on(host, variant);
    run resumed = _i % 2 == 0 ? interrupted(host, card, variant) : interrupted(card, host, variant);
    compare_steps(resumed.results, whole.results, 0);
    compare_ends(&resumed, &whole);
    free(whole.weights);
    free(resumed.weights);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("training_cuda");
    TCase *tcase = tcase_create("training");
    tcase_add_checked_fixture(tcase, card_setup, card_teardown);
    tcase_set_timeout(tcase, 240);
    tcase_add_loop_test(tcase, ten_steps_agree_with_the_cpu, 0, VARIANTS);
    tcase_add_loop_test(tcase, bf16_learns_as_the_cpu_does, 0, 2 * ALL_KINDS);
    tcase_add_loop_test(tcase, two_runs_are_the_same, 0, ALL_KINDS);
    tcase_add_loop_test(tcase, interrupted_on_the_card, 0, ALL_KINDS);
    tcase_add_loop_test(tcase, interrupted_and_moved, 0, 2 * ALL_KINDS);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
