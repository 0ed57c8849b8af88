/* SPDX-License-Identifier: MIT */
/* Channels to one, with the facts about them: every count of frames, so that a block's rest counts,
 * and a value that is not finite at every place. */
#include <float.h>
#include <math.h>

#include "audio/mix.h"
#include "harness.h"

enum { MOST_FRAMES = 35, MOST_CHANNELS = 5 };

typedef struct layout {
    int32_t channels, channel; /* -1: all */
} layout;

static const layout layouts[] = {{1, -1}, {1, 0}, {2, -1}, {2, 1},
                                 {3, -1}, {3, 2}, {5, -1}, {5, 0}};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static struct ser_mixer mixer_of(const layout *l, int32_t nonfinite)
{
    return (struct ser_mixer){.name = "clip",
                              .channels = l->channels,
                              .channel = l->channel,
                              .full_scale = 0.75F,
                              .nonfinite = nonfinite};
}

/* The definition, a frame at a time; a value that is not finite is 0. */
static struct ser_tally reference(const layout *l, const float *x, int64_t frames, double *y)
{
    const int32_t begin = l->channel >= 0 ? l->channel : 0;
    const int32_t end = l->channel >= 0 ? l->channel + 1 : l->channels;
    struct ser_tally t = {.frames = frames,
                          .samples = frames * (end - begin),
                          .lowest = HUGE_VAL,
                          .highest = -HUGE_VAL};
    for (int64_t i = 0; i < frames; i++) {
        double sum = 0.0;
        double squares = 0.0;
        for (int32_t c = begin; c < end; c++) {
            const float v = x[i * l->channels + c];
            const double value = isfinite(v) ? (double)v : 0.0;
            t.nonfinite += !isfinite(v);
            t.clipped += fabs(value) >= 0.75;
            sum += value;
            squares += value * value;
        }
        y[i] = sum / (end - begin);
        t.mixed_power += y[i] * y[i];
        t.channel_power += squares / (end - begin);
        t.lowest = fmin(t.lowest, y[i]);
        t.highest = fmax(t.highest, y[i]);
    }
    return t;
}

static void check_equal(const struct ser_tally *got, const struct ser_tally *wanted)
{
    ck_assert_int_eq(got->frames, wanted->frames);
    ck_assert_int_eq(got->samples, wanted->samples);
    ck_assert_int_eq(got->clipped, wanted->clipped);
    ck_assert_int_eq(got->nonfinite, wanted->nonfinite);
    ck_assert_double_eq(got->lowest, wanted->lowest);
    ck_assert_double_eq(got->highest, wanted->highest);
    ck_assert_double_eq_tol(got->mixed_power, wanted->mixed_power, 1e-12 * wanted->mixed_power);
    ck_assert_double_eq_tol(got->channel_power, wanted->channel_power,
                            1e-12 * wanted->channel_power);
}

static void check_mix(const layout *l, const float *x, int64_t frames)
{
    const struct ser_mixer mixer = mixer_of(l, SER_NONFINITE_ZERO);
    double y[MOST_FRAMES];
    double wanted_y[MOST_FRAMES];
    struct ser_tally got;
    const struct ser_tally wanted = reference(l, x, frames, wanted_y);
    assert_ok(ser_mix(&mixer, x, frames, 0, y, &got));
    ck_assert_mem_eq(y, wanted_y, (size_t)frames * sizeof *y);
    check_equal(&got, &wanted);
}

START_TEST(every_count_of_frames)
{
    float x[MOST_FRAMES * MOST_CHANNELS];
    harness_fill(x, MOST_FRAMES * MOST_CHANNELS, 3, 1.0F);
    for (int64_t frames = 1; frames <= MOST_FRAMES; frames++) {
        check_mix(&layouts[_i], x, frames);
    }
    for (int64_t i = 0; i < MOST_FRAMES * MOST_CHANNELS; i++) {
        x[i] = i % 3 == 0 ? 0.75F : i % 3 == 1 ? -0.75F : 0.74999994F; /* at full scale and below */
    }
    check_mix(&layouts[_i], x, MOST_FRAMES);
    for (int64_t i = 0; i < MOST_FRAMES * MOST_CHANNELS; i++) {
        x[i] = i % 2 == 0 ? FLT_MAX : -FLT_MIN;
    }
    check_mix(&layouts[_i], x, MOST_FRAMES);
}
END_TEST

START_TEST(a_bad_value_anywhere)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    const layout *l = &layouts[_i];
    float x[MOST_FRAMES * MOST_CHANNELS];
    for (int64_t at = 0; at < MOST_FRAMES * l->channels; at++) {
        harness_fill(x, MOST_FRAMES * MOST_CHANNELS, 5, 1.0F);
        x[at] = bad[at % 3];
        check_mix(l, x, MOST_FRAMES);
        const bool counts = l->channel < 0 || at % l->channels == l->channel;
        const struct ser_mixer strict = mixer_of(l, SER_NONFINITE_REFUSE);
        double y[MOST_FRAMES];
        struct ser_tally tally;
        char text[64];
        snprintf(text, sizeof text, "clip: sample %d of channel %d is",
                 100 + (int)(at / l->channels), (int)(at % l->channels));
        if (counts) {
            assert_fails(ser_mix(&strict, x, MOST_FRAMES, 100, y, &tally), SER_ERR_DATA, text);
        } else {
            assert_ok(ser_mix(&strict, x, MOST_FRAMES, 100, y, &tally));
        }
    }
}
END_TEST

START_TEST(levels_of_every_count)
{
    float x[MOST_FRAMES];
    harness_fill(x, MOST_FRAMES, 9, 0.5F);
    for (size_t count = 0; count <= MOST_FRAMES; count++) {
        struct ser_level level = {.peak = 0.01};
        double sum = 0.0;
        double squares = 0.0;
        double peak = 0.01;
        for (size_t i = 0; i < count; i++) {
            sum += (double)x[i];
            squares += (double)x[i] * (double)x[i];
            peak = fmax(peak, fabs((double)x[i]));
        }
        ser_level_add(&level, x, count);
        ck_assert_int_eq(level.count, (int64_t)count);
        ck_assert_double_eq_tol(level.sum, sum, 1e-12);
        ck_assert_double_eq_tol(level.sum_squares, squares, 1e-12);
        ck_assert_double_eq(level.peak, peak);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mix");
    TCase *mix = tcase_create("mix");
    tcase_add_loop_test(mix, every_count_of_frames, 0, LAYOUTS);
    tcase_add_loop_test(mix, a_bad_value_anywhere, 0, LAYOUTS);
    tcase_add_test(mix, levels_of_every_count);
    suite_add_tcase(suite, mix);
    return harness_run(suite);
}
