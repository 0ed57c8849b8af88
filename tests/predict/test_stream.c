/* SPDX-License-Identifier: MIT */
/* Live audio: the windows of the file reader, however it was cut, as soon as they are there. */
#include <math.h>

#include "sounds.h"

static ser_stream *stream;

static void begin(const ser_stream_options *options)
{
    ser_stream_free(&stream);
    assert_ok(ser_stream_create(model, options, &stream));
}

static void end(void)
{
    ser_stream_free(&stream);
    teardown();
}

enum { FILE_FLAGS = ~(SER_STREAM_LAST | SER_STREAM_GATED) };

/* Flags that the windows of all cases had: what is compared must also occur. */
static int32_t seen;

/* The reader's answers, whatever the pushes; `sizes` ends with 0, for random ones. */
static void check_sound(const sound *s, double window, double hop, const size_t *sizes)
{
    answers wanted = read_all(s, window, hop);
    const ser_stream_options options = stream_options(s, window, hop);
    begin(&options);
    for (size_t i = 0; i == 0 || sizes[i - 1] != 0; i++) {
        answers got = stream_all(stream, s, sizes[i]);
        assert_same(&got, &wanted, FILE_FLAGS);
        for (size_t k = 0; k < got.count; k++) {
            const ser_stream_result *r = &got.list[k].result;
            const bool shorter = rint(16000.0 * (r->end - r->start)) < rint(16000.0 * window);
            ck_assert_int_eq((r->flags & SER_STREAM_LAST) != 0, shorter);
            seen |= r->flags;
        }
        answers_free(&got);
        assert_ok(ser_stream_reset(stream));
    }
    answers_free(&wanted);
}

static const size_t all_sizes[] = {1, 7, 160, 4096, 1 << 24, 0};

static const struct {
    int32_t rate, channels;
    size_t frames;
    bool s16;
    double window, hop;
} cases[] = {
    {16000, 1, 32000, true, 0.5, 0.5},   /* ends with a window */
    {16000, 1, 38400, true, 0.3, 0.1},   /* silence ends with a window and a block */
    {16000, 1, 32001, false, 0.5, 0.25}, /* one sample more */
    {16000, 2, 40011, false, 0.317, 0.1},
    {8000, 1, 16123, true, 0.5, 0.13},
    {11025, 1, 22050, false, 0.5, 0.5},
    {44100, 2, 88200, true, 0.5, 0.5}, /* ends with a window that only the flush completes */
    {44100, 1, 66151, false, 0.3, 0.07},
    {48000, 2, 72000, true, 0.317, 0.1},
    {48000, 1, 48000, false, 1.0, 0.3},
    {768000, 1, 300000, false, 0.1, 0.1},
    {4000, 3, 9000, true, 0.5, 0.2},
};
enum { CASES = sizeof cases / sizeof *cases };

START_TEST(same_bits_however_it_is_cut_and_those_of_the_file)
{
    sound s = sound_make(cases[_i].rate, cases[_i].channels, cases[_i].frames, cases[_i].s16);
    check_sound(&s, cases[_i].window, cases[_i].hop, all_sizes);
    sound_free(&s);
    if (_i == 1) { /* the windows that hold each of them whole */
        const int32_t each = SER_AUDIO_SILENT | SER_AUDIO_CLIPPED | SER_AUDIO_DC_OFFSET;
        ck_assert_int_eq(seen & each, each);
    }
}
END_TEST

/* Around a block, a window, and nothing at all. */
START_TEST(short_sounds)
{
    static const int32_t rates[] = {8000, 11025, 16000, 44100, 48000};
    const int32_t rate = rates[_i];
    const size_t block = (size_t)rate / 50;
    const size_t lengths_of[] = {0,         1,         2,         block - 1,     block,
                                 block + 1, 2 * block, 5 * block, 5 * block + 1, 10 * block - 1};
    static const size_t sizes[] = {1, 1 << 24, 0};
    for (size_t i = 0; i < sizeof lengths_of / sizeof *lengths_of; i++) {
        sound s = sound_make(rate, 1, lengths_of[i], i % 2 == 0);
        check_sound(&s, 0.1, 0.05, sizes);
        check_sound(&s, 0.025, 0.01, sizes);
        sound_free(&s);
    }
    ck_assert_int_ne(seen & SER_AUDIO_SHORT, 0);
}
END_TEST

/* Lengths in seconds that are no whole samples are rounded as the reader does. */
START_TEST(odd_windows)
{
    static const double windows[][2] = {{0.1000312, 0.0333343}, {0.02503125, 0.01003125}};
    static const size_t sizes[] = {777, 0};
    sound s = sound_make(16000, 1, 5000, false);
    check_sound(&s, windows[_i][0], windows[_i][1], sizes);
    sound_free(&s);
}
END_TEST

/* A window longer than the model takes in one piece is a mean over pieces, without attention. */
START_TEST(windows_beyond_the_models_longest)
{
    static const size_t sizes[] = {5000, 0};
    const double longest = ser_model_max_seconds(model);
    sound s = sound_make(16000, 1, (size_t)(16000.0 * longest) + 60000, true);
    check_sound(&s, longest + 2.0, longest + 1.0, sizes);
    ck_assert_int_ne(seen & SER_PREDICTION_WINDOWED, 0);
    sound_free(&s);
}
END_TEST

START_TEST(defaults_are_the_models_window_end_to_end)
{
    sound s = sound_make(16000, 1, 200000, true);
    answers wanted = read_all(&s, ser_model_window(model), ser_model_window(model));
    begin(NULL);
    answers got = stream_all(stream, &s, 4096);
    assert_same(&got, &wanted, FILE_FLAGS);
    ck_assert_uint_gt(got.count, 1);
    answers_free(&got);
    answers_free(&wanted);
    sound_free(&s);
}
END_TEST

/* Both kinds of samples in one stream: floats between 16-bit ones, in the middle of a block. */
START_TEST(kinds_of_samples_may_change)
{
    sound s = sound_make(16000, 1, 16000, true);
    for (size_t i = 0; i < s.frames; i++) {
        s.floats[i] = (float)s.shorts[i] / 32768.0F;
    }
    answers wanted = read_all(&s, 0.25, 0.25);
    const ser_stream_options options = stream_options(&s, 0.25, 0.25);
    begin(&options);
    for (size_t done = 0; done < s.frames; done += 100) {
        assert_ok(done % 200 == 0 ? ser_stream_push(stream, s.floats + done, 100)
                                  : ser_stream_push_s16(stream, s.shorts + done, 100));
    }
    assert_ok(ser_stream_flush(stream));
    answers got = {0};
    collect(stream, &got);
    assert_same(&got, &wanted, FILE_FLAGS);
    answers_free(&got);
    answers_free(&wanted);
    sound_free(&s);
}
END_TEST

START_TEST(one_channel_of_several)
{
    sound s = sound_make(48000, 3, 60000, false);
    sound alone = sound_make(48000, 1, 60000, false);
    for (size_t i = 0; i < s.frames; i++) {
        alone.floats[i] = s.floats[3 * i + 2];
        s.floats[3 * i] = NAN; /* what is not used may be anything */
    }
    answers wanted = read_all(&alone, 0.5, 0.2);
    ser_stream_options options = stream_options(&s, 0.5, 0.2);
    options.channel = 2;
    begin(&options);
    answers got = stream_all(stream, &s, 1000);
    assert_same(&got, &wanted, FILE_FLAGS);
    answers_free(&got);
    answers_free(&wanted);
    sound_free(&alone);
    sound_free(&s);
}
END_TEST

/* How many windows are ready after each of two pushes. */
static void count_windows(const sound *s, size_t first, size_t second, size_t counts[2])
{
    answers got = {0};
    assert_ok(push(stream, s, 0, first));
    collect(stream, &got);
    counts[0] = got.count;
    assert_ok(push(stream, s, first, second));
    collect(stream, &got);
    counts[1] = got.count;
    answers_free(&got);
}

START_TEST(a_window_comes_with_its_last_sample)
{
    sound s = sound_make(16000, 1, 32000, true);
    const ser_stream_options options = stream_options(&s, 1.0, 0.5);
    size_t counts[2];
    begin(&options);
    count_windows(&s, 15999, 1, counts);
    ck_assert_uint_eq(counts[0], 0);
    ck_assert_uint_eq(counts[1], 1);
    answers rest = {0};
    assert_ok(ser_stream_flush(stream)); /* the audio ends with the window: nothing is left */
    collect(stream, &rest);
    ck_assert_uint_eq(rest.count, 0);
    sound_free(&s);
}
END_TEST

/* The promise of the header: 40 ms for the filter and the block, and it must be a filter that looks
 * ahead. */
START_TEST(resampled_windows_come_soon)
{
    const int32_t rate = _i == 0 ? 44100 : 48000;
    const size_t ms = (size_t)rate / 1000;
    sound s = sound_make(rate, 2, (size_t)rate * 4, true);
    const ser_stream_options options = stream_options(&s, 0.25, 0.0712);
    begin(&options);
    answers got = {0};
    for (size_t done = 0; done < s.frames; done += ms) {
        const size_t part = s.frames - done < ms ? s.frames - done : ms;
        assert_ok(push(stream, &s, done, part));
        const size_t before = got.count;
        collect(stream, &got);
        for (size_t k = before; k < got.count; k++) {
            const double late = (double)(done + part) / rate - got.list[k].result.end;
            ck_assert_msg(late > 0.005 && late < 0.041, "window %zu is %g s late", k, late);
        }
    }
    ck_assert_uint_gt(got.count, 50);
    answers_free(&got);
    sound_free(&s);
}
END_TEST

START_TEST(reset_is_as_good_as_new)
{
    sound first = sound_make(44100, 2, 50000, true);
    sound second = sound_make(44100, 2, 77777, true);
    ser_stream_options options = stream_options(&first, 0.5, 0.2);
    options.smoothing = 1.0;
    begin(&options);
    answers wanted = stream_all(stream, &second, 1000);
    begin(&options);
    for (size_t i = 0; i < 3;
         i++) { /* in the middle of a block, with windows left, after a flush */
        assert_ok(push(stream, &first, 0, 49999));
        if (i == 2) {
            assert_ok(ser_stream_flush(stream));
        }
        assert_ok(ser_stream_reset(stream));
        answers got = stream_all(stream, &second, 3000);
        assert_same(&got, &wanted, -1);
        answers_free(&got);
        assert_ok(ser_stream_reset(stream));
    }
    answers_free(&wanted);
    sound_free(&first);
    sound_free(&second);
}
END_TEST

START_TEST(smoothing_is_an_exponential_mean)
{
    sound s = sound_make(16000, 1, 80000, true);
    ser_stream_options options = stream_options(&s, 0.5, 0.25);
    begin(&options);
    answers plain = stream_all(stream, &s, 4096);
    options.smoothing = 0.7;
    begin(&options);
    answers smooth = stream_all(stream, &s, 999);
    ck_assert_uint_eq(plain.count, smooth.count);
    const double a = exp(-0.25 / 0.7);
    double mean[MAX_LABELS];
    for (size_t i = 0; i < plain.count; i++) {
        const ser_stream_result *r = &smooth.list[i].result;
        double sum = 0.0;
        for (size_t k = 0; k < r->label_count; k++) {
            const double p = (double)plain.list[i].probabilities[k];
            const float got = smooth.list[i].probabilities[k];
            mean[k] = i == 0 ? p : a * mean[k] + (1.0 - a) * p;
            ck_assert_double_eq_tol((double)got, mean[k], 1e-7);
            ck_assert_float_le(got, smooth.list[i].probabilities[r->label]);
            sum += (double)got;
        }
        ck_assert_double_eq_tol(sum, 1.0, 1e-6);
    }
    answers_free(&plain);
    answers_free(&smooth);
    sound_free(&s);
}
END_TEST

/* Loud, quiet, loud: the quiet windows are left out, also of the mean. */
START_TEST(the_gate_leaves_quiet_windows_out)
{
    sound s = sound_make(16000, 1, 48000, false);
    harness_fill(s.floats, s.frames, 3, 0.5F);
    for (size_t i = 16000; i < 32000; i++) {
        s.floats[i] *= 0.01F;
    }
    ser_stream_options options = stream_options(&s, 0.5, 0.5);
    begin(&options);
    answers plain = stream_all(stream, &s, 4096);
    const double quiet = 20.0 * log10((double)plain.list[2].result.rms);
    options.gate = quiet + 1.0;
    options.smoothing = 2.0;
    begin(&options);
    answers gated = stream_all(stream, &s, 100);
    ck_assert_uint_eq(gated.count, 6);
    for (size_t i = 0; i < 6; i++) {
        const ser_stream_result *r = &gated.list[i].result;
        const bool open = i < 2 || i > 3;
        ck_assert_int_eq((r->flags & SER_STREAM_GATED) != 0, !open);
        ck_assert_int_eq(r->label == -1, !open);
        ck_assert_int_eq(r->probabilities == NULL, !open);
        ck_assert_int_eq(r->attention == NULL && r->attention_count == 0, !open);
        ck_assert_uint_eq(r->label_count, ser_model_label_count(model));
        ck_assert_float_eq(r->rms, plain.list[i].result.rms);
        ck_assert_int_eq(r->index, (int64_t)i);
    }
    const double a = exp(-0.5 / 2.0); /* from window 1 to window 4 as if they were neighbours */
    for (size_t k = 0; k < ser_model_label_count(model); k++) {
        const double before = (double)gated.list[1].probabilities[k];
        const double p = (double)plain.list[4].probabilities[k];
        ck_assert_double_eq_tol((double)gated.list[4].probabilities[k], a * before + (1.0 - a) * p,
                                1e-6);
    }
    options.gate = -200.0; /* digital silence is below any gate */
    begin(&options);
    memset(s.floats, 0, s.frames * sizeof *s.floats);
    answers silent = stream_all(stream, &s, 4096);
    ck_assert_int_ne(silent.list[0].result.flags & SER_STREAM_GATED, 0);
    ck_assert_int_ne(silent.list[0].result.flags & SER_AUDIO_SILENT, 0);
    answers_free(&plain);
    answers_free(&gated);
    answers_free(&silent);
    sound_free(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stream");
    TCase *tc = tcase_create("stream");
    tcase_add_checked_fixture(tc, setup, end);
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, same_bits_however_it_is_cut_and_those_of_the_file, 0, CASES);
    tcase_add_loop_test(tc, short_sounds, 0, 5);
    tcase_add_loop_test(tc, odd_windows, 0, 2);
    tcase_add_test(tc, windows_beyond_the_models_longest);
    tcase_add_test(tc, defaults_are_the_models_window_end_to_end);
    tcase_add_test(tc, kinds_of_samples_may_change);
    tcase_add_test(tc, one_channel_of_several);
    tcase_add_test(tc, a_window_comes_with_its_last_sample);
    tcase_add_loop_test(tc, resampled_windows_come_soon, 0, 2);
    tcase_add_test(tc, reset_is_as_good_as_new);
    tcase_add_test(tc, smoothing_is_an_exponential_mean);
    tcase_add_test(tc, the_gate_leaves_quiet_windows_out);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
