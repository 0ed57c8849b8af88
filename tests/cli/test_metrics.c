/* SPDX-License-Identifier: MIT */
/* Scores against values worked out by hand, by scikit-learn's documentation and by enumeration. */
#include <check.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "message.h"
#include "metrics.h"

enum { ROWS_LIMIT = 1024, CLASSES_LIMIT = 8 };

/* Rows with room for their probabilities and logits. */
typedef struct table {
    metrics_row rows[ROWS_LIMIT];
    float probabilities[ROWS_LIMIT][CLASSES_LIMIT];
    float logits[ROWS_LIMIT][CLASSES_LIMIT];
    metrics_set set;
} table;

static table *new_table(size_t classes, size_t groups, size_t corpora)
{
    table *t = calloc(1, sizeof *t);
    ck_assert_ptr_nonnull(t);
    t->set = (metrics_set){t->rows, 0, classes, groups, corpora};
    return t;
}

static metrics_row *add(table *t, int32_t label, int32_t group, const float *probabilities)
{
    size_t i = t->set.count++;
    ck_assert_uint_lt(i, ROWS_LIMIT);
    memcpy(t->probabilities[i], probabilities, t->set.classes * sizeof(float));
    t->rows[i] = (metrics_row){.label = label,
                               .group = group,
                               .probabilities = t->probabilities[i],
                               .logits = t->logits[i]};
    return &t->rows[i];
}

/* A clip that is taken for `guess`. */
static metrics_row *add_guess(table *t, int32_t label, int32_t group, int32_t guess)
{
    float p[CLASSES_LIMIT] = {0};
    for (size_t k = 0; k < t->set.classes; k++) {
        p[k] = (int32_t)k == guess ? 0.6F : 0.4F / (float)(t->set.classes - 1);
    }
    return add(t, label, group, p);
}

static metrics_result compute(const table *t)
{
    metrics_result r;
    ck_assert_int_eq(metrics_compute(&r, &t->set, 1, 500), 0);
    return r;
}

#define assert_near(x, y, tolerance)                                                               \
    do {                                                                                           \
        double x_ = (x);                                                                           \
        double y_ = (y);                                                                           \
        ck_assert_msg(fabs(x_ - y_) <= (tolerance), "%s is %.17g, not %.17g", #x, x_, y_);         \
    } while (0)

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525U + 1013904223U;
    return *state >> 8;
}

/* ---- scores ---- */

/* The examples of scikit-learn's recall_score, f1_score and classification_report. */
START_TEST(scores_are_those_of_scikit_learn)
{
    static const int truth[] = {0, 1, 2, 0, 1, 2};
    static const int guess[] = {0, 2, 1, 0, 0, 1};
    table *t = new_table(3, 1, 1);
    for (size_t i = 0; i < 6; i++) {
        add_guess(t, truth[i], 0, guess[i]);
    }
    metrics_result r = compute(t);
    assert_near(r.uar, 1.0 / 3.0, 1e-15);
    assert_near(r.accuracy, 1.0 / 3.0, 1e-15);
    assert_near(r.macro_f1, 0.8 / 3.0, 1e-15);
    assert_near(r.weighted_f1, 0.8 / 3.0, 1e-15);
    assert_near(r.per_class[0].precision, 2.0 / 3.0, 1e-15);
    assert_near(r.per_class[0].f1, 0.8, 1e-15);
    assert_near(r.per_class[1].precision, 0.0, 0.0);
    metrics_free(&r);

    static const int truth2[] = {0, 1, 2, 2, 2};
    static const int guess2[] = {0, 0, 2, 2, 1};
    t->set.count = 0;
    for (size_t i = 0; i < 5; i++) {
        add_guess(t, truth2[i], 0, guess2[i]);
    }
    r = compute(t);
    assert_near(r.uar, 5.0 / 9.0, 1e-15);                           /* 0.56 */
    assert_near(r.macro_f1, (2.0 / 3.0 + 0.8) / 3.0, 1e-15);        /* 0.49 */
    assert_near(r.weighted_f1, (2.0 / 3.0 + 3 * 0.8) / 5.0, 1e-15); /* 0.61 */
    assert_near(r.accuracy, 0.6, 1e-15);
    metrics_free(&r);
    free(t);
}
END_TEST

START_TEST(confusion_and_classes)
{
    static const int64_t expected[9] = {2, 1, 0, 0, 1, 2, 1, 0, 3};
    table *t = new_table(3, 1, 1);
    for (int32_t k = 0; k < 3; k++) {
        for (int32_t j = 0; j < 3; j++) {
            for (int64_t n = 0; n < expected[3 * k + j]; n++) {
                add_guess(t, k, 0, j);
            }
        }
    }
    metrics_result r = compute(t);
    ck_assert_mem_eq(r.confusion, expected, sizeof expected);
    ck_assert_int_eq(r.clips, 10);
    ck_assert_int_eq(r.correct, 6);
    ck_assert_int_eq(r.per_class[2].support, 4);
    ck_assert_int_eq(r.per_class[2].predicted, 5);
    ck_assert_int_eq(r.per_class[2].correct, 3);
    assert_near(r.per_class[2].recall, 0.75, 0.0);
    assert_near(r.per_class[2].precision, 0.6, 0.0);
    assert_near(r.per_class[2].f1, 2.0 / 3.0, 1e-15);
    assert_near(r.uar, (2.0 / 3.0 + 1.0 / 3.0 + 0.75) / 3.0, 1e-15);
    metrics_free(&r);
    free(t);
}
END_TEST

/* Class 2 is never right or wrong, class 3 only predicted. */
START_TEST(what_is_not_there_is_not_defined)
{
    table *t = new_table(4, 1, 1);
    add_guess(t, 0, 0, 0);
    add_guess(t, 1, 0, 3);
    metrics_result r = compute(t);
    assert_near(r.uar, 0.5, 0.0);
    assert_near(r.macro_f1, 1.0 / 3.0, 1e-15); /* classes 0, 1, 3 */
    assert_near(r.weighted_f1, 0.5, 0.0);
    ck_assert(isnan(r.per_class[2].recall));
    ck_assert(isnan(r.per_class[2].precision));
    ck_assert(isnan(r.per_class[2].f1));
    ck_assert(isnan(r.per_class[3].recall));
    assert_near(r.per_class[3].precision, 0.0, 0.0);
    assert_near(r.per_class[3].f1, 0.0, 0.0);
    assert_near(r.per_class[1].precision, 0.0, 0.0);
    metrics_free(&r);
    free(t);
}
END_TEST

START_TEST(no_clip_is_no_number)
{
    table *t = new_table(2, 0, 2);
    metrics_result r = compute(t);
    ck_assert_int_eq(r.clips, 0);
    ck_assert(isnan(r.uar) && isnan(r.accuracy) && isnan(r.macro_f1) && isnan(r.weighted_f1));
    ck_assert(isnan(r.nll) && isnan(r.brier) && isnan(r.ece) && isnan(r.uar_interval.low));
    ck_assert_uint_eq(r.corpus_count, 2);
    metrics_free(&r);
    metrics_free(&r); /* harmless */
    free(t);
}
END_TEST

START_TEST(equal_probabilities_go_to_the_first)
{
    static const float equal[3] = {0.2F, 0.4F, 0.4F};
    static const uint8_t without[3] = {1, 0, 1};
    table *t = new_table(3, 1, 1);
    add(t, 2, 0, equal);
    ck_assert_uint_eq(metrics_prediction(&t->rows[0], 3), 1);
    t->rows[0].allowed = without;
    ck_assert_uint_eq(metrics_prediction(&t->rows[0], 3), 2);
    free(t);
}
END_TEST

/* What stands outside the mask is not read; the rest is scaled to sum 1. */
START_TEST(masks_restrict_the_softmax)
{
    static const uint8_t mask[4] = {1, 0, 7, 0};
    static const float p[4] = {0.1F, NAN, 0.3F, 0.9F};
    table *t = new_table(4, 1, 1);
    add(t, 0, 0, p)->allowed = mask;
    add(t, 2, 0, p)->allowed = mask;
    metrics_result r = compute(t);
    ck_assert_int_eq(r.correct, 1);
    assert_near(r.nll, -0.5 * (log(0.25) + log(0.75)), 1e-7);
    assert_near(r.brier, 0.5 * (2 * 0.75 * 0.75 + 2 * 0.25 * 0.25), 1e-7);
    assert_near(r.confidence, 0.75, 1e-7);
    ck_assert(r.per_class[0].allowed && !r.per_class[1].allowed && r.per_class[2].allowed);
    metrics_free(&r);
    free(t);
}
END_TEST

START_TEST(impossible_probability_is_bounded)
{
    static const float p[2] = {0.0F, 1.0F};
    table *t = new_table(2, 1, 1);
    add(t, 0, 0, p);
    metrics_result r = compute(t);
    assert_near(r.nll, -log((double)FLT_MIN), 1e-12);
    assert_near(r.brier, 2.0, 0.0);
    metrics_free(&r);
    free(t);
}
END_TEST

/* Ten clips at confidence 0.8, six right; ten at 0.55, all right; one at 1, wrong. */
START_TEST(calibration_error_by_hand)
{
    static const float sure[2] = {0.8F, 0.2F};
    static const float unsure[2] = {0.55F, 0.45F};
    static const float certain[2] = {1.0F, 0.0F};
    table *t = new_table(2, 1, 1);
    for (int32_t i = 0; i < 10; i++) {
        add(t, i < 6 ? 0 : 1, 0, sure);
        add(t, 0, 0, unsure);
    }
    metrics_result r = compute(t);
    assert_near(r.ece, 0.5 * 0.2 + 0.5 * 0.45, 1e-7);
    ck_assert_int_eq(r.bins[11].clips, 10); /* (11/15, 12/15], and 0.8F is above 0.8 */
    ck_assert_int_eq(r.bins[8].clips, 10);
    assert_near(r.bins[8].accuracy, 1.0, 0.0);
    assert_near(r.bins[8].confidence, 0.55, 1e-7);
    ck_assert(isnan(r.bins[0].accuracy));
    metrics_free(&r);
    add(t, 1, 0, certain);
    r = compute(t);
    ck_assert_int_eq(r.bins[14].clips, 1);
    assert_near(r.ece, (10 * 0.2 + 10 * 0.45 + 1.0) / 21.0, 1e-7);
    metrics_free(&r);
    free(t);
}
END_TEST

/* ---- speakers and corpora ---- */

START_TEST(speakers_have_their_own_scores)
{
    table *t = new_table(2, 4, 1);
    add_guess(t, 0, 3, 0);
    add_guess(t, 0, 3, 1);
    add_guess(t, 1, 3, 1);
    add_guess(t, 1, 1, 0);
    add_guess(t, 1, -1, 1);
    metrics_result r = compute(t);
    ck_assert_uint_eq(r.speakers, 2);
    ck_assert_uint_eq(r.units, 3);
    ck_assert_int_eq(r.per_group[3].clips, 3);
    ck_assert_int_eq(r.per_group[3].correct, 2);
    assert_near(r.per_group[3].accuracy, 2.0 / 3.0, 1e-15);
    assert_near(r.per_group[3].uar, 0.75, 0.0);
    assert_near(r.per_group[1].uar, 0.0, 0.0);
    ck_assert_int_eq(r.per_group[0].clips, 0);
    ck_assert(isnan(r.per_group[0].uar) && isnan(r.per_group[2].accuracy));
    metrics_free(&r);
    free(t);
}
END_TEST

START_TEST(corpora_have_their_own_scores)
{
    static const uint8_t some[3] = {1, 1, 0};
    table *t = new_table(3, 4, 2);
    add_guess(t, 0, 0, 0);
    add_guess(t, 2, 1, 2);
    for (int32_t i = 0; i < 4; i++) {
        metrics_row *row = add_guess(t, 0, 2 + i % 2, i == 0 ? 0 : 1);
        row->corpus = 1;
        row->allowed = some;
    }
    metrics_result r = compute(t);
    ck_assert_uint_eq(r.corpus_count, 2);
    ck_assert_int_eq(r.clips, 6);
    assert_near(r.accuracy, 0.5, 0.0);
    ck_assert_int_eq(r.per_corpus[0].clips, 2);
    assert_near(r.per_corpus[0].uar, 1.0, 0.0);
    assert_near(r.per_corpus[1].accuracy, 0.25, 0.0);
    ck_assert_uint_eq(r.per_corpus[1].speakers, 2);
    ck_assert_int_eq(r.per_corpus[1].per_group[0].clips, 0);
    ck_assert_int_eq(r.per_corpus[1].per_group[2].clips, 2);
    ck_assert_int_eq(r.per_corpus[1].per_group[2].corpus, 1);
    ck_assert(r.per_corpus[0].per_class[2].allowed && !r.per_corpus[1].per_class[2].allowed);
    ck_assert(isfinite(r.per_corpus[1].uar_interval.low));
    metrics_free(&r);
    free(t);
}
END_TEST

enum { BOOTSTRAP_GROUPS = 6, BOOTSTRAP_DRAWS = 46656 /* 6^6 */ };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Three classes, six speakers of unequal skill and number of clips; hits[g][k] of clips[g][k]. */
static table *unequal_speakers(double hits[BOOTSTRAP_GROUPS][3], double clips[BOOTSTRAP_GROUPS][3])
{
    uint32_t state = 5;
    table *t = new_table(3, BOOTSTRAP_GROUPS, 1);
    for (int32_t g = 0; g < BOOTSTRAP_GROUPS; g++) {
        for (int32_t k = 0; k < 3; k++) {
            hits[g][k] = clips[g][k] = 0.0;
            for (int32_t n = 0; n < 4 + 3 * g; n++) {
                bool right = next(&state) % 12 < 4U + (uint32_t)(g + k);
                add_guess(t, k, g, right ? k : (k + 1) % 3);
                hits[g][k] += right ? 1.0 : 0.0;
                clips[g][k] += 1.0;
            }
        }
    }
    return t;
}

/* Every one of the 6^6 draws, each as likely: the bootstrap's own limit. */
START_TEST(interval_is_that_of_all_draws)
{
    static double uar[BOOTSTRAP_DRAWS];
    static double accuracy[BOOTSTRAP_DRAWS];
    double hits[BOOTSTRAP_GROUPS][3];
    double clips[BOOTSTRAP_GROUPS][3];
    table *t = unequal_speakers(hits, clips);
    for (int draw = 0; draw < BOOTSTRAP_DRAWS; draw++) {
        double h[3] = {0};
        double n[3] = {0};
        for (int i = 0, rest = draw; i < BOOTSTRAP_GROUPS; i++, rest /= BOOTSTRAP_GROUPS) {
            for (int k = 0; k < 3; k++) {
                h[k] += hits[rest % BOOTSTRAP_GROUPS][k];
                n[k] += clips[rest % BOOTSTRAP_GROUPS][k];
            }
        }
        uar[draw] = (h[0] / n[0] + h[1] / n[1] + h[2] / n[2]) / 3.0;
        accuracy[draw] = (h[0] + h[1] + h[2]) / (n[0] + n[1] + n[2]);
    }
    qsort(uar, BOOTSTRAP_DRAWS, sizeof *uar, by_value);
    qsort(accuracy, BOOTSTRAP_DRAWS, sizeof *accuracy, by_value);
    metrics_result r;
    ck_assert_int_eq(metrics_compute(&r, &t->set, 7, 20000), 0);
    size_t low = (size_t)(0.025 * BOOTSTRAP_DRAWS);
    size_t high = (size_t)(0.975 * BOOTSTRAP_DRAWS);
    ck_assert_double_gt(uar[high] - uar[low], 0.1); /* or the comparison would say little */
    assert_near(r.uar_interval.low, uar[low], 0.006);
    assert_near(r.uar_interval.high, uar[high], 0.006);
    assert_near(r.accuracy_interval.low, accuracy[low], 0.006);
    assert_near(r.accuracy_interval.high, accuracy[high], 0.006);
    ck_assert_int_eq(r.replicates, 20000);
    metrics_free(&r);
    free(t);
}
END_TEST

START_TEST(interval_depends_on_the_seed_alone)
{
    double hits[BOOTSTRAP_GROUPS][3];
    double clips[BOOTSTRAP_GROUPS][3];
    table *t = unequal_speakers(hits, clips);
    metrics_result a = compute(t);
    for (size_t i = 0; i < t->set.count / 2; i++) { /* the same clips backwards */
        metrics_row row = t->rows[i];
        t->rows[i] = t->rows[t->set.count - 1 - i];
        t->rows[t->set.count - 1 - i] = row;
    }
    metrics_result b = compute(t);
    ck_assert_mem_eq(&a.uar_interval, &b.uar_interval, sizeof a.uar_interval);
    ck_assert_mem_eq(&a.accuracy_interval, &b.accuracy_interval, sizeof a.accuracy_interval);
    metrics_free(&b);
    ck_assert_int_eq(metrics_compute(&b, &t->set, 2, 500), 0);
    ck_assert_mem_ne(&a.uar_interval, &b.uar_interval, sizeof a.uar_interval);
    metrics_free(&a);
    metrics_free(&b);
    free(t);
}
END_TEST

/* Ten clips of each of ten voices that are all right or all wrong: as good as ten clips. */
START_TEST(clips_of_a_voice_are_not_independent)
{
    table *t = new_table(2, 10, 1);
    for (int32_t i = 0; i < 100; i++) {
        add_guess(t, i % 2, i / 10, i / 10 < 5 ? i % 2 : 1 - i % 2);
    }
    metrics_result by_speaker = compute(t);
    assert_near(by_speaker.accuracy_interval.low, 0.2, 0.0);
    assert_near(by_speaker.accuracy_interval.high, 0.8, 0.0);
    for (size_t i = 0; i < t->set.count; i++) {
        t->rows[i].group = -1;
    }
    metrics_result by_clip = compute(t);
    ck_assert_uint_eq(by_clip.units, 100);
    assert_near(by_clip.accuracy_interval.low, 0.4, 0.025); /* 0.5 - 1.96 sqrt(0.25 / 100) */
    assert_near(by_clip.accuracy_interval.high, 0.6, 0.025);
    metrics_free(&by_speaker);
    metrics_free(&by_clip);
    free(t);
}
END_TEST

START_TEST(one_speaker_has_no_interval)
{
    table *t = new_table(2, 1, 1);
    add_guess(t, 0, 0, 0);
    add_guess(t, 1, 0, 0);
    metrics_result r = compute(t);
    ck_assert(isnan(r.uar_interval.low) && isnan(r.accuracy_interval.high));
    ck_assert_int_eq(r.replicates, 0);
    metrics_free(&r);
    free(t);
}
END_TEST

/* ---- temperature ---- */

/* 100 clips of two classes with logits +-3, 80 of them right: sigmoid(3 / T) = 0.8. */
static table *two_classes(int right)
{
    table *t = new_table(3, 1, 1);
    static const uint8_t mask[3] = {1, 1, 0};
    for (int i = 0; i < 100; i++) {
        float other = 1.0F;
        metrics_row *row = add(t, i % 2, 0, &(float[3]){0.5F, 0.5F, 0.0F}[0]);
        row->allowed = mask;
        float *z = t->logits[i];
        z[0] = (i < right) == (i % 2 == 0) ? 3.0F + other : other;
        z[1] = (i < right) == (i % 2 == 0) ? other : 3.0F + other;
        z[2] = NAN; /* not in the mask */
    }
    return t;
}

START_TEST(temperature_is_recovered)
{
    metrics_temperature fit;
    table *t = two_classes(80);
    ck_assert_int_eq(metrics_fit_temperature(&fit, &t->set), 0);
    assert_near(fit.temperature, 3.0 / log(4.0), 1e-10);
    ck_assert(!fit.bounded);
    assert_near(fit.nll_after, -0.8 * log(0.8) - 0.2 * log(0.2), 1e-12);
    assert_near(fit.nll_before, 0.8 * log1p(exp(-3.0)) + 0.2 * log1p(exp(3.0)), 1e-12);
    float p[3];
    metrics_softmax(t->logits[0], t->rows[0].allowed, 3, fit.temperature, p);
    assert_near((double)p[0], 0.8, 1e-6);
    assert_near((double)p[2], 0.0, 0.0);
    for (size_t i = 0; i < t->set.count; i++) { /* as log-probabilities at twice the sharpness */
        double top = 2.0 * (double)fmaxf(t->logits[i][0], t->logits[i][1]);
        double sum =
            exp(2.0 * (double)t->logits[i][0] - top) + exp(2.0 * (double)t->logits[i][1] - top);
        for (int k = 0; k < 2; k++) {
            t->logits[i][k] = (float)(2.0 * (double)t->logits[i][k] - top - log(sum));
        }
    }
    ck_assert_int_eq(metrics_fit_temperature(&fit, &t->set), 0);
    assert_near(fit.temperature, 6.0 / log(4.0), 1e-5);
    free(t);
}
END_TEST

/* Labels drawn from softmax(z / 2.5): the fit finds about 2.5, and nothing near it is better. */
START_TEST(temperature_of_random_logits)
{
    uint32_t state = 3;
    table *t = new_table(5, 1, 1);
    for (int i = 0; i < 1000; i++) {
        float z[5];
        float p[5];
        for (int k = 0; k < 5; k++) {
            z[k] = (float)(next(&state) % 10000) * 1e-3F - 5.0F;
        }
        metrics_softmax(z, NULL, 5, 2.5, p);
        double u = (double)next(&state) / (double)(1 << 24);
        int32_t label = 0;
        for (double sum = (double)p[0]; label < 4 && u > sum; sum += (double)p[label]) {
            label++;
        }
        metrics_row *row = add(t, label, 0, p);
        memcpy(t->logits[row - t->rows], z, sizeof z);
    }
    metrics_temperature fit;
    ck_assert_int_eq(metrics_fit_temperature(&fit, &t->set), 0);
    assert_near(fit.temperature, 2.5, 0.25);
    ck_assert_double_lt(fit.nll_after, fit.nll_before);
    for (int step = -1; step <= 1; step++) {
        for (size_t i = 0; i < t->set.count; i++) {
            metrics_softmax(t->logits[i], NULL, 5, fit.temperature * (1.0 + 0.05 * step),
                            t->probabilities[i]);
        }
        metrics_result r = compute(t);
        if (step == 0) {
            assert_near(r.nll, fit.nll_after, 1e-6);
        } else {
            ck_assert_double_gt(r.nll, fit.nll_after);
        }
        metrics_free(&r);
    }
    free(t);
}
END_TEST

START_TEST(temperature_stays_in_bounds)
{
    metrics_temperature fit;
    table *t = two_classes(100);
    ck_assert_int_eq(metrics_fit_temperature(&fit, &t->set), 0);
    ck_assert(fit.bounded);
    assert_near(fit.temperature, 0.05, 0.0);
    free(t);
    t = two_classes(10);
    ck_assert_int_eq(metrics_fit_temperature(&fit, &t->set), 0);
    ck_assert(fit.bounded);
    assert_near(fit.temperature, 20.0, 0.0);
    for (size_t i = 0; i < t->set.count; i++) {
        t->logits[i][0] = t->logits[i][1] = 1e30F;
    }
    ck_assert_int_eq(metrics_fit_temperature(&fit, &t->set), 0);
    assert_near(fit.temperature, 1.0, 0.0);
    assert_near(fit.nll_after, log(2.0), 1e-15);
    t->set.count = 0;
    ck_assert_int_eq(metrics_fit_temperature(&fit, &t->set), 0);
    assert_near(fit.temperature, 1.0, 0.0);
    ck_assert(isnan(fit.nll_after));
    free(t);
}
END_TEST

/* ---- what cannot be ---- */

/* Standard error of `compute` on the set; its answer in `*code`. */
static void capture(const metrics_set *set, bool logits, int *code, char *text, size_t size)
{
    metrics_result r;
    metrics_temperature fit;
    FILE *file = tmpfile();
    ck_assert_ptr_nonnull(file);
    int saved = dup(STDERR_FILENO);
    ck_assert_int_ge(dup2(fileno(file), STDERR_FILENO), 0);
    if (logits) {
        *code = metrics_fit_temperature(&fit, set);
    } else {
        *code = metrics_compute(&r, set, 1, 10);
        ck_assert(*code == 0 || (r.confusion == NULL && r.per_class == NULL));
        metrics_free(&r);
    }
    ck_assert_int_ge(dup2(saved, STDERR_FILENO), 0);
    close(saved);
    rewind(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
}

static void assert_refused(const table *t, bool logits, int expected, const char *part)
{
    char text[256];
    int code = 0;
    capture(&t->set, logits, &code, text, sizeof text);
    ck_assert_int_eq(code, expected);
    ck_assert_msg(strstr(text, part) != NULL, "\"%s\" lacks \"%s\"", text, part);
}

START_TEST(rows_that_cannot_be_are_refused)
{
    static const float good[2] = {0.5F, 0.5F};
    static const float bad[][2] = {{NAN, 0.5F}, {-0.1F, 1.1F}, {0.0F, 0.0F}, {INFINITY, 0.0F}};
    static const uint8_t first[2] = {1, 0};
    static const int32_t places[][3] = {/* label, group, corpus */
                                        {2, 0, 0},  {-1, 0, 0}, {0, 2, 0},
                                        {0, -2, 0}, {0, 0, 1},  {0, 0, -1}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        table *t = new_table(2, 2, 1);
        add(t, 0, 0, good);
        add(t, 1, 0, bad[i]);
        assert_refused(t, false, MESSAGE_EXIT_NUMERIC, "clip 1: probabilities");
        free(t);
    }
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        table *t = new_table(2, 2, 1);
        add(t, places[i][0], places[i][1], good)->corpus = places[i][2];
        assert_refused(t, false, MESSAGE_EXIT_DATA, "clip 0: class");
        assert_refused(t, true, MESSAGE_EXIT_DATA, "clip 0: class");
        free(t);
    }
    table *t = new_table(2, 2, 1);
    add(t, 1, 0, good)->allowed = first;
    assert_refused(t, false, MESSAGE_EXIT_DATA, "its class 1 is not among");
    t->rows[0].allowed = NULL;
    t->logits[0][1] = INFINITY;
    assert_refused(t, true, MESSAGE_EXIT_NUMERIC, "logit of class 1");
    free(t);
}
END_TEST

/* ---- tables ---- */

static char *printed(void (*print)(FILE *, const metrics_result *, const metrics_names *),
                     const metrics_result *r, const metrics_names *names)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    ck_assert_ptr_nonnull(f);
    print(f, r, names);
    fclose(f);
    return text;
}

static const char *const labels[] = {"calm", "surprised", "sad"};
static const char *const speakers[] = {"03", "a\nb"};
static const metrics_names names = {.protocol = "Toy corpus, speaker-independent",
                                    .part = "test",
                                    .labels = labels,
                                    .groups = speakers};

static metrics_result toy(table **t)
{
    static const uint8_t mask[3] = {1, 1, 0};
    *t = new_table(3, 2, 1);
    add_guess(*t, 0, 0, 0)->allowed = mask;
    add_guess(*t, 1, 0, 0)->allowed = mask;
    add_guess(*t, 1, 1, 1)->allowed = mask;
    return compute(*t);
}

START_TEST(tables_start_with_the_protocol)
{
    table *t;
    metrics_result r = toy(&t);
    char *text = printed(metrics_print, &r, &names);
    static const char start[] = "Toy corpus, speaker-independent.\n"
                                "test: 3 clips of 2 speakers\n\n"
                                "  UAR           75.0 %  95 % interval 50.0 to 100.0  (bootstrap "
                                "over 2 speakers)\n  accuracy      66.7 %";
    ck_assert_msg(strncmp(text, start, strlen(start)) == 0, "%s", text);
    static const char confusion[] = "  true \\ predicted   calm surpri\n"
                                    "  calm                  1      0\n"
                                    "  surprised             1      1\n";
    ck_assert_msg(strstr(text, confusion) != NULL, "%s", text);
    static const char classes[] = "  class       recall  precision       F1    clips\n"
                                  "  calm       100.0 %     50.0 %   66.7 %        1\n";
    ck_assert_msg(strstr(text, classes) != NULL, "%s", text);
    ck_assert_ptr_null(strstr(text, "sad")); /* in nobody's mask */
    free(text);
    text = printed(metrics_print_line, &r, &names);
    ck_assert_str_eq(text, "Toy corpus, speaker-independent. test: UAR 75.0 % [50.0, 100.0], "
                           "accuracy 66.7 %, macro F1 66.7 %, 3 clips\n");
    free(text);
    text = printed(metrics_print_groups, &r, &names);
    ck_assert_msg(strncmp(text, start, 33) == 0, "%s", text);
    ck_assert_msg(strstr(text, "  a\\x0ab   100.0 %   100.0 %        1\n") != NULL, "%s", text);
    free(text);
    metrics_free(&r);
    free(t);
}
END_TEST

START_TEST(tables_without_names_or_clips)
{
    static const metrics_names nothing = {0};
    table *t;
    metrics_result r = toy(&t);
    char *text = printed(metrics_print, &r, &nothing);
    ck_assert_msg(strncmp(text, "protocol not stated.\n3 clips", 28) == 0, "%s", text);
    free(text);
    metrics_free(&r);
    t->rows[2].group = -1;
    r = compute(t);
    text = printed(metrics_print, &r, &names);
    ck_assert_ptr_nonnull(strstr(text, "over 2 speakers and single clips of unknown ones)"));
    free(text);
    metrics_free(&r);
    t->rows[0].group = t->rows[1].group = -1;
    r = compute(t);
    text = printed(metrics_print, &r, &names);
    ck_assert_ptr_nonnull(strstr(text, "test: 3 clips of speakers who are not named\n"));
    ck_assert_ptr_nonnull(strstr(text, "over 3 clips, speakers unknown: too narrow)"));
    free(text);
    metrics_free(&r);
    t->set.count = 0;
    r = compute(t);
    text = printed(metrics_print, &r, &names);
    ck_assert_ptr_nonnull(strstr(text, "  UAR                -\n"));
    ck_assert_ptr_null(strstr(text, "nan"));
    free(text);
    metrics_free(&r);
    free(t);
}
END_TEST

int main(void)
{
    setlocale(LC_CTYPE, "");
    Suite *suite = suite_create("metrics");
    TCase *tests = tcase_create("metrics");
    tcase_add_test(tests, scores_are_those_of_scikit_learn);
    tcase_add_test(tests, confusion_and_classes);
    tcase_add_test(tests, what_is_not_there_is_not_defined);
    tcase_add_test(tests, no_clip_is_no_number);
    tcase_add_test(tests, equal_probabilities_go_to_the_first);
    tcase_add_test(tests, masks_restrict_the_softmax);
    tcase_add_test(tests, impossible_probability_is_bounded);
    tcase_add_test(tests, calibration_error_by_hand);
    tcase_add_test(tests, speakers_have_their_own_scores);
    tcase_add_test(tests, corpora_have_their_own_scores);
    tcase_add_test(tests, interval_is_that_of_all_draws);
    tcase_add_test(tests, interval_depends_on_the_seed_alone);
    tcase_add_test(tests, clips_of_a_voice_are_not_independent);
    tcase_add_test(tests, one_speaker_has_no_interval);
    tcase_add_test(tests, temperature_is_recovered);
    tcase_add_test(tests, temperature_of_random_logits);
    tcase_add_test(tests, temperature_stays_in_bounds);
    tcase_add_test(tests, rows_that_cannot_be_are_refused);
    tcase_add_test(tests, tables_start_with_the_protocol);
    tcase_add_test(tests, tables_without_names_or_clips);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
