/* SPDX-License-Identifier: MIT */
/* Each change alone, measured on the signal that comes out. */
#include <math.h>

#include "harness.h"

#include "train/augment.h"

enum { COUNT = 24000, CLIPS = 40 };

static float x[COUNT], y[COUNT];
static ser_augment_options options;

static void setup(void)
{
    memset(&options, 0, sizeof options);
    harness_fill(x, COUNT, 1, 0.3F);
    /* A loud second third. */
    for (int i = COUNT / 3; i < 2 * COUNT / 3; i++) {
        x[i] *= 2.0F;
    }
    memcpy(y, x, sizeof x);
}

static ser_augment draw(uint64_t id)
{
    return ser_augment_of(&options, 7, id, 3);
}

static double power(const float *samples, size_t count)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)samples[i] * (double)samples[i];
    }
    return sum / (double)count;
}

static double decibel(double ratio)
{
    return 10.0 * log10(ratio);
}

static void tone(float *samples, size_t count, double hertz)
{
    for (size_t i = 0; i < count; i++) {
        samples[i] = (float)(0.5 * sin(2.0 * 3.14159265358979323846 * hertz * (double)i / 16000.0));
    }
}

/* Without options nothing happens. */
START_TEST(nothing_by_default)
{
    for (uint64_t id = 0; id < CLIPS; id++) {
        ser_augment a = draw(id);
        struct ser_samples out = {0};
        bool changed = false;
        assert_ok(ser_augment_speed(&a, y, COUNT, &out, &changed));
        ck_assert_ptr_null(out.data);
        ser_augment_gain(&a, y, COUNT, &changed);
        assert_ok(ser_augment_noise(&a, y, COUNT, &changed));
        ser_augment_lowpass(&a, y, COUNT, &changed);
        size_t begin = 100, end = 900, before = 1, behind = 1;
        ser_augment_crop(&a, 1000, &begin, &end, &changed);
        ser_augment_silence(&a, &before, &behind);
        ck_assert(begin == 100 && end == 900 && before == 0 && behind == 0 && !changed);
        ck_assert_mem_eq(x, y, sizeof x);
        ck_assert(ser_augment_mel_warp(&a) == 1.0F);
        float nats[5] = {1.0F, 1.0F, 1.0F, 1.0F, 1.0F};
        ser_augment_equalizer(&a, 5, nats);
        for (int f = 0; f < 5; f++) {
            ck_assert(nats[f] == 0.0F);
        }
    }
}
END_TEST

static void everything(void)
{
    options = (ser_augment_options){.speed_probability = 1.0F,
                                    .speed = 0.1F,
                                    .gain_db = 6.0F,
                                    .noise_probability = 1.0F,
                                    .noise_snr_low = 20.0F,
                                    .noise_snr_high = 40.0F,
                                    .silence_probability = 1.0F,
                                    .silence = 1.0F,
                                    .crop_probability = 1.0F,
                                    .crop = 0.1F,
                                    .lowpass_probability = 1.0F,
                                    .lowpass_low = 2000.0F,
                                    .mel_warp = 0.05F,
                                    .mel_tilt = 0.3F,
                                    .mel_ripple = 0.2F,
                                    .mel_channel_spans = 1,
                                    .mel_channel_width = 8,
                                    .mel_time_spans = 2,
                                    .mel_time_width = 16};
}

/* All that a clip gets, in 256 numbers. */
static void fingerprint(const ser_augment *a, float *print)
{
    bool changed = false;
    struct ser_samples out = {0};
    memset(print, 0, 256 * sizeof *print);
    memcpy(y, x, sizeof x);
    assert_ok(ser_augment_speed(a, y, COUNT, &out, &changed));
    print[0] = (float)out.count;
    memcpy(print + 1, out.data + 5000, 20 * sizeof *print);
    ser_mem_free(out.data);
    ser_augment_gain(a, y, COUNT, &changed);
    print[21] = y[9000];
    assert_ok(ser_augment_noise(a, y, COUNT, &changed));
    memcpy(print + 22, y + 9000, 20 * sizeof *print);
    ser_augment_lowpass(a, y, COUNT, &changed);
    memcpy(print + 42, y + 9000, 20 * sizeof *print);
    size_t begin = 8000, end = 16000, before, behind;
    ser_augment_crop(a, COUNT, &begin, &end, &changed);
    ser_augment_silence(a, &before, &behind);
    print[62] = (float)begin;
    print[63] = (float)end;
    print[64] = (float)before;
    print[65] = (float)behind;
    ck_assert(changed);
    print[66] = ser_augment_mel_warp(a);
    ser_augment_equalizer(a, 80, print + 67);
    int32_t spans[6];
    ser_augment_time_spans(a, 300, spans);
    ser_augment_channel_spans(a, 80, spans + 4);
    for (int i = 0; i < 6; i++) {
        print[150 + i] = (float)spans[i];
    }
    print[156] = (float)ser_augment_part(a, 100000, 1000);
}

START_TEST(function_of_seed_clip_and_epoch)
{
    static float first[256], other[256];
    everything();
    const ser_augment one = ser_augment_of(&options, 7, 11, 3);
    fingerprint(&one, first);
    fingerprint(&one, other);
    ck_assert_mem_eq(first, other, sizeof first);
    const ser_augment others[] = {
        ser_augment_of(&options, 8, 11, 3), ser_augment_of(&options, 7, 12, 3),
        ser_augment_of(&options, 7, 11, 4), ser_augment_of(&options, 11, 7, 3)};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        fingerprint(&others[i], other);
        /* every continuous number that is drawn */
        const int drawn[] = {0, 21, 22, 42, 62, 63, 64, 65, 66, 67, 156};
        for (size_t k = 0; k < sizeof drawn / sizeof drawn[0]; k++) {
            ck_assert_msg(first[drawn[k]] != other[drawn[k]], "number %d of %zu", drawn[k], i);
        }
    }
}
END_TEST

/* Each draws from its own stream: what one does is not moved by switching another off. */
START_TEST(changes_are_independent)
{
    everything();
    ser_augment a = draw(5);
    size_t before, behind, before2, behind2;
    bool changed = false;
    memcpy(y, x, sizeof x);
    ser_augment_lowpass(&a, y, COUNT, &changed);
    ser_augment_silence(&a, &before, &behind);
    float kept = y[9000];
    options.gain_db = 0.0F;
    options.noise_probability = 0.0F;
    options.speed = 0.0F;
    options.crop = 0.0F;
    memcpy(y, x, sizeof x);
    ser_augment_lowpass(&a, y, COUNT, &changed);
    ser_augment_silence(&a, &before2, &behind2);
    ck_assert(y[9000] == kept && before == before2 && behind == behind2);
}
END_TEST

/* A share of the clips, as the probability says. */
START_TEST(probabilities)
{
    options.noise_probability = 0.3F;
    options.noise_snr_low = 30.0F;
    options.noise_snr_high = 40.0F;
    int count = 0;
    for (uint64_t id = 0; id < 1000; id++) {
        ser_augment a = draw(id);
        bool changed = false;
        assert_ok(ser_augment_noise(&a, y, 100, &changed));
        count += changed ? 1 : 0;
    }
    ck_assert_msg(count > 255 && count < 345, "%d of 1000", count);
}
END_TEST

/* Played faster, a tone is shorter and higher: the number of its periods stays. */
START_TEST(speed)
{
    options.speed_probability = 1.0F;
    options.speed = 0.1F;
    tone(x, COUNT, 1000.0);
    size_t shortest = COUNT * 2;
    size_t longest = 0;
    for (uint64_t id = 0; id < CLIPS; id++) {
        ser_augment a = draw(id);
        struct ser_samples out = {0};
        bool changed = false;
        assert_ok(ser_augment_speed(&a, x, COUNT, &out, &changed));
        ck_assert(changed);
        ck_assert_uint_ge(out.count, (size_t)(COUNT / 1.1) - 1);
        ck_assert_uint_le(out.count, (size_t)(COUNT / 0.9) + 1);
        int crossings = 0;
        for (size_t i = 1; i < out.count; i++) {
            crossings += (out.data[i - 1] < 0.0F) != (out.data[i] < 0.0F);
        }
        ck_assert_msg(abs(crossings - 2 * COUNT / 16) <= 4, "%d crossings", crossings);
        /* the level stays too */
        ck_assert_double_lt(fabs(decibel(power(out.data, out.count) / 0.125)), 0.05);
        shortest = out.count < shortest ? out.count : shortest;
        longest = out.count > longest ? out.count : longest;
        ser_mem_free(out.data);
    }
    ck_assert_uint_lt(shortest, (size_t)(COUNT / 1.07));
    ck_assert_uint_gt(longest, (size_t)(COUNT / 0.93));
}
END_TEST

START_TEST(gain)
{
    options.gain_db = 12.0F;
    double least = 100.0;
    double most = -100.0;
    for (uint64_t id = 0; id < CLIPS; id++) {
        ser_augment a = draw(id);
        bool changed = false;
        memcpy(y, x, sizeof x);
        ser_augment_gain(&a, y, COUNT, &changed);
        ck_assert(changed);
        double db = decibel(power(y, COUNT) / power(x, COUNT));
        least = fmin(least, db);
        most = fmax(most, db);
        ck_assert_double_lt(fabs(db), 12.001);
    }
    ck_assert(least < -9.0 && most > 9.0);
}
END_TEST

START_TEST(peak_power)
{
    memset(x, 0, sizeof x);
    ck_assert(ser_augment_peak_power(x, COUNT) == 0.0);
    ck_assert(ser_augment_peak_power(x, 0) == 0.0);
    for (int i = 8000; i < 8400; i++) {
        x[i] = 0.5F;
    }
    ck_assert_double_eq_tol(ser_augment_peak_power(x, COUNT), 0.25, 1e-12);
    ck_assert_double_eq_tol(ser_augment_peak_power(x + 8000, 400), 0.25, 1e-12);
    ck_assert_double_eq_tol(ser_augment_peak_power(x + 7900, 200), 0.125, 1e-12);
    /* half of it within the frame that fits best: 5 ms steps */
    ck_assert_double_eq_tol(ser_augment_peak_power(x, 8240), 0.25 * 240 / 400, 1e-12);
}
END_TEST

static void difference(void)
{
    for (int i = 0; i < COUNT; i++) {
        y[i] -= x[i];
    }
}

/* Correlation of neighbouring samples: 0 for white noise, near 1 for brown noise. */
static double colour(const float *noise, size_t count)
{
    double sum = 0.0;
    for (size_t i = 1; i < count; i++) {
        sum += (double)noise[i - 1] * (double)noise[i];
    }
    return sum / (double)(count - 1) / power(noise, count);
}

START_TEST(noise)
{
    options.noise_probability = 1.0F;
    options.noise_snr_low = 10.0F;
    options.noise_snr_high = 30.0F;
    const double peak = ser_augment_peak_power(x, COUNT);
    double least = 100.0, most = 0.0, whitest = 1.0, brownest = 0.0;
    for (uint64_t id = 0; id < CLIPS; id++) {
        ser_augment a = draw(id);
        bool changed = false;
        memcpy(y, x, sizeof x);
        assert_ok(ser_augment_noise(&a, y, COUNT, &changed));
        ck_assert(changed);
        difference();
        double snr = decibel(peak / power(y, COUNT));
        ck_assert_msg(snr > 9.99 && snr < 30.01, "%g dB", snr);
        least = fmin(least, snr);
        most = fmax(most, snr);
        whitest = fmin(whitest, colour(y, COUNT));
        brownest = fmax(brownest, colour(y, COUNT));
        /* everywhere, not only somewhere */
        ck_assert_double_lt(fabs(decibel(power(y, COUNT / 2) / power(y + COUNT / 2, COUNT / 2))),
                            3.0);
    }
    ck_assert(least < 12.0 && most > 28.0);
    ck_assert_msg(whitest < 0.2 && brownest > 0.9, "%g %g", whitest, brownest);
}
END_TEST

START_TEST(digital_silence_has_no_level)
{
    everything();
    options.silence_probability = 0.0F;
    memset(x, 0, sizeof x);
    memcpy(y, x, sizeof x);
    ser_augment a = draw(1);
    bool changed = false;
    assert_ok(ser_augment_noise(&a, y, COUNT, &changed));
    ck_assert(!changed);
    ck_assert_mem_eq(x, y, sizeof x);
}
END_TEST

START_TEST(lowpass)
{
    options.lowpass_probability = 1.0F;
    options.lowpass_low = 2000.0F;
    double least = 300.0, most = 0.0;
    for (uint64_t id = 0; id < CLIPS; id++) {
        ser_augment a = draw(id);
        bool changed = false;
        tone(y, COUNT, 200.0);
        ser_augment_lowpass(&a, y, COUNT, &changed);
        ck_assert(changed);
        ck_assert_double_lt(fabs(decibel(power(y + 2000, COUNT - 4000) / 0.125)), 0.01);
        tone(y, COUNT, 7900.0);
        ser_augment_lowpass(&a, y, COUNT, &changed);
        double loss = decibel(0.125 / power(y + 2000, COUNT - 4000));
        ck_assert_msg(loss > 15.0, "%g dB", loss);
        tone(y, COUNT, 4000.0);
        ser_augment_lowpass(&a, y, COUNT, &changed);
        loss = decibel(0.125 / power(y + 2000, COUNT - 4000));
        least = fmin(least, loss);
        most = fmax(most, loss);
    }
    /* the corner moves from below to above 4 kHz, and slopes are up to 48 dB per octave */
    ck_assert_msg(least < 0.5 && most > 20.0, "%g..%g dB", least, most);
}
END_TEST

START_TEST(crop)
{
    options.crop_probability = 1.0F;
    options.crop = 0.1F; /* 1600 samples */
    size_t inner = 0, outer = 0;
    for (uint64_t id = 0; id < CLIPS; id++) {
        ser_augment a = draw(id);
        size_t begin = 5000, end = 15000;
        bool changed = false;
        ser_augment_crop(&a, COUNT, &begin, &end, &changed);
        ck_assert(changed && begin >= 3400 && begin <= 6600 && end >= 13400 && end <= 16600);
        inner += begin > 5000 ? 1 : 0;
        outer += end > 15000 ? 1 : 0;
        begin = 100;
        end = 500;
        ser_augment_crop(&a, 600, &begin, &end, &changed);
        ck_assert(begin <= 200 && end >= 400 && end <= 600);
        begin = 0;
        end = 3;
        ser_augment_crop(&a, 3, &begin, &end, &changed);
        ck_assert(end <= 3 && begin < end);
    }
    ck_assert(inner > 5 && inner < 35 && outer > 5 && outer < 35);
}
END_TEST

START_TEST(silence)
{
    enum { BEFORE = 5000, MIDDLE = 8000, BEHIND = 7000 };
    options.silence_probability = 1.0F;
    options.silence = 0.5F;
    size_t most = 0;
    int zeros = 0, noises = 0;
    for (uint64_t id = 0; id < CLIPS; id++) {
        ser_augment a = draw(id);
        size_t before, behind;
        ser_augment_silence(&a, &before, &behind);
        ck_assert(before <= 8000 && behind <= 8000);
        most = before > most ? before : most;
        memcpy(y, x, sizeof x);
        assert_ok(ser_augment_fill_silence(&a, y, BEFORE, MIDDLE, BEHIND));
        ck_assert_mem_eq(y + BEFORE, x + BEFORE, MIDDLE * sizeof x[0]);
        double level = power(y, BEFORE) + power(y + BEFORE + MIDDLE, BEHIND);
        if (level == 0.0) {
            zeros++;
            continue;
        }
        noises++;
        double both = (power(y, BEFORE) * BEFORE + power(y + BEFORE + MIDDLE, BEHIND) * BEHIND) /
                      (BEFORE + BEHIND);
        double below = decibel(ser_augment_peak_power(y + BEFORE, MIDDLE) / both);
        ck_assert_msg(below > 24.99 && below < 65.01, "%g dB", below);
    }
    ck_assert(most > 7000 && zeros > 8 && noises > 8);
}
END_TEST

START_TEST(equalizer)
{
    float nats[80];
    options.mel_tilt = 0.5F;
    double squares = 0.0;
    for (uint64_t id = 0; id < 400; id++) {
        ser_augment a = draw(id);
        ser_augment_equalizer(&a, 80, nats);
        squares += (double)nats[79] * (double)nats[79];
        for (int f = 0; f < 80; f++) {
            double line = (double)nats[79] * (2.0 * f / 79.0 - 1.0);
            ck_assert_double_eq_tol((double)nats[f], line, 1e-5);
        }
    }
    ck_assert_double_eq_tol(sqrt(squares / 400), 0.5, 0.06);

    options.mel_tilt = 0.0F;
    options.mel_ripple = 0.25F;
    squares = 0.0;
    for (uint64_t id = 0; id < 400; id++) {
        ser_augment a = draw(id);
        ser_augment_equalizer(&a, 71, nats); /* a knot at every tenth bin */
        double sum = 0.0;
        for (int f = 0; f < 71; f++) {
            sum += (double)nats[f];
            /* straight between the knots */
            if (f % 10 != 0) {
                double bend = (double)nats[f - 1] - 2.0 * (double)nats[f] + (double)nats[f + 1];
                ck_assert_double_eq_tol(bend, 0.0, 1e-5);
            }
        }
        ck_assert_double_eq_tol(sum, 0.0, 1e-4);
        squares += (double)(nats[70] - nats[0]) * (double)(nats[70] - nats[0]);
    }
    ck_assert_double_eq_tol(sqrt(squares / 400), 0.25 * sqrt(2.0), 0.04);
    ser_augment a = draw(1);
    ser_augment_equalizer(&a, 1, nats);
    ck_assert(nats[0] == 0.0F);
}
END_TEST

START_TEST(warp_and_spans)
{
    everything();
    float least = 2.0F, most = 0.0F;
    int32_t widest = 0;
    for (uint64_t id = 0; id < 200; id++) {
        ser_augment a = draw(id);
        float warp = ser_augment_mel_warp(&a);
        least = warp < least ? warp : least;
        most = warp > most ? warp : most;
        int32_t spans[4];
        ser_augment_time_spans(&a, 300, spans);
        for (int i = 0; i < 2; i++) {
            int32_t width = spans[2 * i + 1] - spans[2 * i];
            ck_assert(spans[2 * i] >= 0 && width >= 0 && width <= 16 && spans[2 * i + 1] <= 300);
            widest = width > widest ? width : widest;
        }
        ser_augment_channel_spans(&a, 80, spans);
        ck_assert(spans[0] >= 0 && spans[1] - spans[0] <= 8 && spans[1] <= 80);
        /* of a short clip half remains */
        ser_augment_time_spans(&a, 9, spans);
        ck_assert(spans[0] >= 0 && spans[1] - spans[0] <= 4 && spans[1] <= 9);
        ser_augment_time_spans(&a, 1, spans);
        ck_assert(spans[0] >= 0 && spans[1] == spans[0] && spans[1] <= 1);
    }
    ck_assert_int_eq(widest, 16);
    ck_assert(least >= 0.95F && least < 0.955F && most <= 1.05F && most > 1.045F);
}
END_TEST

static bool all_finite(const float *samples, size_t count)
{
    bool finite = true;
    for (size_t i = 0; i < count; i++) {
        finite = finite && isfinite(samples[i]);
    }
    return finite;
}

/* A file may hold any float: no change makes an infinity of it. */
START_TEST(huge_samples_stay_finite)
{
    everything();
    options.gain_db = 60.0F;
    for (uint64_t id = 0; id < 10; id++) {
        ser_augment a = draw(id);
        bool changed = false;
        struct ser_samples out = {0};
        for (int i = 0; i < COUNT; i++) {
            y[i] = x[i] * 3e38F;
        }
        assert_ok(ser_augment_speed(&a, y, COUNT, &out, &changed));
        assert_ok(ser_augment_noise(&a, y, COUNT, &changed));
        ser_augment_gain(&a, y, COUNT, &changed);
        ser_augment_lowpass(&a, y, COUNT, &changed);
        ck_assert(all_finite(y, COUNT) && all_finite(out.data, out.count));
        ser_mem_free(out.data);
    }
}
END_TEST

START_TEST(out_of_memory)
{
    everything();
    ser_augment a = draw(1);
    for (uint64_t nth = 1;; nth++) {
        struct ser_samples out = {0};
        bool changed = false;
        ser_mem_fail_at(nth, false);
        int status = ser_augment_speed(&a, y, COUNT, &out, &changed);
        if (status == 0) {
            status = ser_augment_noise(&a, y, COUNT, &changed);
        }
        if (status == 0) {
            status = ser_augment_fill_silence(&a, y, 100, 200, 100);
        }
        ser_mem_fail_at(0, false);
        ser_mem_free(out.data);
        ck_assert_int_eq(ser_mem_live(), 0);
        if (status == 0) {
            ck_assert_uint_gt(nth, 2);
            break;
        }
        ck_assert_int_eq(status, SER_ERR_MEMORY);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("augment");
    TCase *tcase = tcase_create("augment");
    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_add_test(tcase, nothing_by_default);
    tcase_add_test(tcase, function_of_seed_clip_and_epoch);
    tcase_add_test(tcase, changes_are_independent);
    tcase_add_test(tcase, probabilities);
    tcase_add_test(tcase, speed);
    tcase_add_test(tcase, gain);
    tcase_add_test(tcase, peak_power);
    tcase_add_test(tcase, noise);
    tcase_add_test(tcase, digital_silence_has_no_level);
    tcase_add_test(tcase, lowpass);
    tcase_add_test(tcase, crop);
    tcase_add_test(tcase, silence);
    tcase_add_test(tcase, equalizer);
    tcase_add_test(tcase, warp_and_spans);
    tcase_add_test(tcase, huge_samples_stay_finite);
    tcase_add_test(tcase, out_of_memory);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
