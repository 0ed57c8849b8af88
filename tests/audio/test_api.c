/* SPDX-License-Identifier: MIT */
/* The public functions: arguments, options and results. */
#include <locale.h>
#include <math.h>

#include "files.h"
#include "harness.h"

static float clip[4000];

static ser_audio_options defaults(void)
{
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    return options;
}

static ser_audio *some_audio(void)
{
    harness_fill(clip, 4000, 1, 0.5F);
    ser_audio *audio;
    assert_ok(ser_audio_from_samples(clip, 4000, 1, 16000, NULL, &audio));
    return audio;
}

START_TEST(null_arguments)
{
    ser_audio *audio = (ser_audio *)clip;
    ser_reader *reader = (ser_reader *)clip;
    ser_audio_info info = {.struct_size = sizeof info};
    assert_fails(ser_audio_read(NULL, NULL, &audio), SER_ERR_ARGUMENT,
                 "ser_audio_read: path is NULL");
    ck_assert_ptr_null(audio);
    assert_fails(ser_audio_read("x", NULL, NULL), SER_ERR_ARGUMENT, "audio is NULL");
    assert_fails(ser_audio_read_memory(NULL, 1, NULL, &audio), SER_ERR_ARGUMENT, "data is NULL");
    assert_fails(ser_audio_read_memory(NULL, 0, NULL, &audio), SER_ERR_DATA, "no audio");
    assert_fails(ser_audio_read_memory(clip, 1, NULL, NULL), SER_ERR_ARGUMENT, "audio is NULL");
    assert_fails(ser_audio_read_memory(clip, SIZE_MAX, NULL, &audio), SER_ERR_ARGUMENT,
                 "one object");
    assert_fails(ser_audio_from_samples(NULL, 1, 1, 16000, NULL, &audio), SER_ERR_ARGUMENT,
                 "samples is NULL");
    assert_fails(ser_audio_from_samples(clip, 1, 1, 16000, NULL, NULL), SER_ERR_ARGUMENT,
                 "audio is NULL");
    assert_fails(ser_audio_get_info(NULL, &info), SER_ERR_ARGUMENT, "audio is NULL");
    assert_fails(ser_reader_open(NULL, NULL, &reader), SER_ERR_ARGUMENT, "path is NULL");
    ck_assert_ptr_null(reader);
    assert_fails(ser_reader_open("x", NULL, NULL), SER_ERR_ARGUMENT, "reader is NULL");
    assert_fails(ser_reader_next(NULL, 1.0, 1.0, &audio, NULL), SER_ERR_ARGUMENT, "reader is NULL");
    assert_fails(ser_reader_next(NULL, 1.0, 1.0, NULL, NULL), SER_ERR_ARGUMENT, "audio is NULL");
    assert_fails(ser_reader_get_info(NULL, &info), SER_ERR_ARGUMENT, "reader is NULL");
    ck_assert_int_eq(ser_reader_at_end(NULL), 1);
    size_t count = 7;
    ck_assert_ptr_null(ser_audio_samples(NULL, &count));
    ck_assert_uint_eq(count, 0);
    ck_assert_ptr_null(ser_audio_samples(NULL, NULL));
    ck_assert_double_eq(ser_audio_duration(NULL), 0.0);
    ser_audio_free(NULL);
    ser_audio_free(&audio);
    ser_reader_free(NULL);
    ser_reader_free(&reader);
}
END_TEST

START_TEST(sample_arguments)
{
    ser_audio *audio;
    static const int32_t channels[] = {0, -1, 1025, INT32_MIN, INT32_MAX};
    static const int32_t rates[] = {0, -16000, 3999, 768001, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < 5; i++) {
        assert_fails(ser_audio_from_samples(clip, 1, channels[i], 16000, NULL, &audio),
                     SER_ERR_ARGUMENT, "channels is");
    }
    for (size_t i = 0; i < 6; i++) {
        assert_fails(ser_audio_from_samples(clip, 1, 1, rates[i], NULL, &audio),
                     SER_ERR_UNSUPPORTED, "sampling_rate is");
    }
    assert_fails(ser_audio_from_samples(clip, SIZE_MAX / 4, 4, 16000, NULL, &audio),
                 SER_ERR_ARGUMENT, "cannot be one object");
}
END_TEST

static void check_options(const ser_audio_options *options, const char *text)
{
    ser_audio *audio;
    ser_reader *reader;
    assert_fails(ser_audio_from_samples(clip, 4000, 1, 16000, options, &audio), SER_ERR_ARGUMENT,
                 text);
    assert_fails(ser_audio_read("missing", options, &audio), SER_ERR_ARGUMENT, text);
    assert_fails(ser_audio_read_memory(clip, 100, options, &audio), SER_ERR_ARGUMENT, text);
    assert_fails(ser_reader_open("missing", options, &reader), SER_ERR_ARGUMENT, text);
}

START_TEST(option_ranges)
{
    ser_audio_options options = defaults();
    options.offset = -0.001;
    check_options(&options, "offset is negative");
    options.offset = NAN;
    check_options(&options, "offset is not finite");
    options = defaults();
    options.length = -1.0;
    check_options(&options, "length is negative");
    options.length = INFINITY;
    check_options(&options, "length is not finite");
    options = defaults();
    options.max_seconds = NAN;
    check_options(&options, "max_seconds is not finite");
    options = defaults();
    options.channel = -2;
    check_options(&options, "channel is -2");
    options.channel = 1024;
    check_options(&options, "channel is 1024");
    options = defaults();
    options.nonfinite = 2;
    check_options(&options, "nonfinite is 2");
    options = defaults();
    options.strict = -1;
    check_options(&options, "strict is -1");
    options = defaults();
    options.any_format = 7;
    check_options(&options, "any_format is 7");
    options = defaults();
    options.struct_size = 0;
    check_options(&options, "struct_size is 0");
}
END_TEST

START_TEST(default_options)
{
    ser_audio_options options = defaults();
    ck_assert_uint_eq(options.struct_size, sizeof options);
    ck_assert_double_eq(options.offset, 0.0);
    ck_assert_double_eq(options.length, 0.0);
    ck_assert_double_eq(options.max_seconds, 3600.0);
    ck_assert_int_eq(options.channel, -1);
    ck_assert_int_eq(options.nonfinite, SER_NONFINITE_REFUSE);
    ck_assert_int_eq(options.strict, 0);
    ck_assert_int_eq(options.any_format, 0);
}
END_TEST

/* A program that is older or newer than the library. */
START_TEST(option_sizes)
{
    struct {
        ser_audio_options known;
        int64_t unknown;
    } newer;
    ser_audio_options_init(&newer.known, sizeof newer);
    ser_audio *audio;
    assert_ok(ser_audio_from_samples(clip, 4000, 1, 16000, &newer.known, &audio));
    ser_audio_free(&audio);
    newer.unknown = 1;
    assert_fails(ser_audio_from_samples(clip, 4000, 1, 16000, &newer.known, &audio),
                 SER_ERR_UNSUPPORTED, "newer than this library");
    ser_audio_options older;
    ser_audio_options_init(&older, offsetof(ser_audio_options, max_seconds));
    older.channel = 77; /* beyond what the program knows of */
    assert_ok(ser_audio_from_samples(clip, 4000, 1, 16000, &older, &audio));
    ser_audio_free(&audio);
}
END_TEST

START_TEST(results)
{
    ser_audio *audio = some_audio();
    size_t count;
    const float *samples = ser_audio_samples(audio, &count);
    ck_assert_uint_eq(count, 4000);
    ck_assert_ptr_ne(samples, clip);
    ck_assert_mem_eq(samples, clip, sizeof clip);
    ck_assert_ptr_eq(ser_audio_samples(audio, NULL), samples);
    ck_assert_double_eq(ser_audio_duration(audio), 0.25);
    ser_audio_info info = {0};
    assert_fails(ser_audio_get_info(audio, &info), SER_ERR_ARGUMENT, "struct_size");
    assert_fails(ser_audio_get_info(audio, NULL), SER_ERR_ARGUMENT, "NULL");
    info.struct_size = offsetof(ser_audio_info, channels);
    info.channels = 99;
    assert_ok(ser_audio_get_info(audio, &info));
    ck_assert_int_eq(info.frames, 4000);
    ck_assert_int_eq(info.sampling_rate, 16000);
    ck_assert_int_eq(info.channels, 99); /* an older program's struct ends before it */
    info.struct_size = sizeof info;
    assert_ok(ser_audio_get_info(audio, &info));
    ck_assert_int_eq(info.channels, 1);
    double sum = 0.0;
    double squares = 0.0;
    double peak = 0.0;
    for (size_t i = 0; i < 4000; i++) {
        sum += (double)clip[i];
        squares += (double)clip[i] * (double)clip[i];
        peak = fmax(peak, fabs((double)clip[i]));
    }
    ck_assert_float_eq(info.dc_offset, (float)(sum / 4000.0));
    ck_assert_float_eq(info.rms, (float)sqrt(squares / 4000.0));
    ck_assert_float_eq(info.peak, (float)peak);
    ser_audio_free(&audio);
    ck_assert_ptr_null(audio);
    ser_audio_free(&audio);
}
END_TEST

/* G8: a decimal comma changes neither numbers nor messages. */
START_TEST(locale)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8"};
    const char *set = NULL;
    for (size_t i = 0; i < 4 && set == NULL; i++) {
        set = setlocale(LC_ALL, names[i]);
    }
    if (set == NULL) {
        puts("skipped: locale with a decimal comma: none is installed");
        return;
    }
    ser_audio_options options = defaults();
    options.max_seconds = 0.125;
    ser_audio *audio = NULL;
    assert_fails(ser_audio_from_samples(clip, 4000, 1, 16000, &options, &audio), SER_ERR_CAPACITY,
                 "max_seconds, 0.125;");
    (void)setlocale(LC_ALL, "C");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api_audio");
    TCase *api = tcase_create("api_audio");
    tcase_add_test(api, null_arguments);
    tcase_add_test(api, sample_arguments);
    tcase_add_test(api, default_options);
    tcase_add_test(api, option_ranges);
    tcase_add_test(api, option_sizes);
    tcase_add_test(api, results);
    tcase_add_test(api, locale);
    suite_add_tcase(suite, api);
    return harness_run(suite);
}
