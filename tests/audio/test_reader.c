/* SPDX-License-Identifier: MIT */
/* Windows: the same samples as the whole clip, in memory that does not grow. */
#include <math.h>
#include <sys/resource.h>

#include "audio/audio.h"
#include "files.h"
#include "harness.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static ser_audio_info info_of(const ser_audio *audio)
{
    ser_audio_info info = {.struct_size = sizeof info};
    assert_ok(ser_audio_get_info(audio, &info));
    return info;
}

static const char *noisy_file(int format, int rate, int channels, size_t frames, const char *name)
{
    float *x = sine(rate, channels, frames, 440.0);
    uint64_t state = 11;
    for (size_t i = 0; i < frames * (size_t)channels; i++) {
        x[i] = 0.5F * x[i] + 0.3F * harness_random(&state);
    }
    struct bytes file = encode(format, rate, channels, x, frames);
    const char *path = bytes_save(&file, name);
    bytes_free(&file);
    free(x);
    return path;
}

/* Every window is a piece of the whole clip, the starts are multiples of the hop, and the last
 * window is the first one that reaches the end. */
static void check_windows(const char *path, const ser_audio_options *options, double window,
                          double hop)
{
    ser_audio *whole;
    size_t total;
    assert_ok(ser_audio_read(path, options, &whole));
    const float *x = ser_audio_samples(whole, &total);
    size_t window_size = (size_t)llrint(window * 16000.0);
    size_t hop_size = (size_t)llrint(hop * 16000.0);
    ser_reader *reader;
    assert_ok(ser_reader_open(path, options, &reader));
    bool last = false;
    for (size_t begin = 0; !last; begin += hop_size) {
        ck_assert_int_eq(ser_reader_at_end(reader), 0);
        ser_audio *audio;
        size_t count;
        double start;
        assert_ok(ser_reader_next(reader, window, hop, &audio, &start));
        ck_assert_ptr_nonnull(audio);
        last = begin + window_size >= total;
        const float *y = ser_audio_samples(audio, &count);
        ck_assert_uint_eq(count, last ? total - begin : window_size);
        ck_assert_double_eq(start, (double)begin / 16000.0);
        ck_assert_mem_eq(y, x + begin, count * sizeof *y);
        ck_assert_int_eq((info_of(audio).flags & SER_AUDIO_SHORT) != 0, count < 400);
        ser_audio_free(&audio);
    }
    ck_assert_int_eq(ser_reader_at_end(reader), 1);
    for (size_t i = 0; i < 2; i++) {
        ser_audio *audio;
        double start = -1.0;
        assert_ok(ser_reader_next(reader, window, hop, &audio, &start));
        ck_assert_ptr_null(audio);
        ck_assert_double_eq(start, -1.0);
    }
    ser_audio_info a = info_of(whole);
    ser_audio_info b = {.struct_size = sizeof b};
    assert_ok(ser_reader_get_info(reader, &b));
    ck_assert_mem_eq(&a, &b, sizeof a);
    ser_reader_free(&reader);
    ck_assert_ptr_null(reader);
    ser_audio_free(&whole);
}

START_TEST(windows_equal_clip)
{
    static const struct {
        int format, rate, channels;
        size_t frames;
    } files[] = {
        {SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1, 80000},
        {SF_FORMAT_WAV | SF_FORMAT_PCM_16, 44100, 2, 220501},
        {SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 48000, 2, 240007},
        {SF_FORMAT_OGG | SF_FORMAT_VORBIS, 22050, 1, 110000},
        {SF_FORMAT_OGG | SF_FORMAT_OPUS, 48000, 1, 240000},
        {SF_FORMAT_WAV | SF_FORMAT_FLOAT, 4000, 3, 20001},
        {SF_FORMAT_WAV | SF_FORMAT_FLOAT, 768000, 1, 768123},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const char *path = noisy_file(files[i].format, files[i].rate, files[i].channels,
                                      files[i].frames, "windows");
        check_windows(path, NULL, 5.0, 5.0); /* exactly one window for the first file */
        check_windows(path, NULL, 5.0, 2.5);
        check_windows(path, NULL, 1.0, 1.0);
        check_windows(path, NULL, 1.0, 0.3);
        check_windows(path, NULL, 0.01, 0.01);
        check_windows(path, NULL, 1e9, 1e9);
        ser_audio_options options;
        ser_audio_options_init(&options, sizeof options);
        options.offset = 0.2;
        options.length = 0.7;
        options.channel = 0;
        check_windows(path, &options, 0.2, 0.1);
    }
}
END_TEST

START_TEST(one_sample)
{
    float x = 0.5F;
    struct bytes file = float_wave(16000, &x, 1);
    check_windows(bytes_save(&file, "one.wav"), NULL, 1.0, 1.0);
    bytes_free(&file);
}
END_TEST

/* Facts belong to the window, not to the file. */
START_TEST(facts_of_windows)
{
    float *x = sine(48000, 2, 4 * 48000, 440.0);
    for (size_t i = 0; i < 96000; i++) {
        x[i] = 0.0F;                                  /* second 0: silent */
        x[96000 + i] = i % 2 == 0 ? 0.5F : -0.5F;     /* second 1: cancels */
        x[192000 + i] = i % 200 < 100 ? 1.0F : -1.0F; /* second 2: clipped */
        x[288000 + i] += 0.2F;                        /* second 3: an offset */
    }
    x[288000 + 500] = NAN;
    struct bytes file = encode(SF_FORMAT_WAV | SF_FORMAT_FLOAT, 48000, 2, x, 4 * 48000);
    const char *path = bytes_save(&file, "facts.wav");
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    options.nonfinite = SER_NONFINITE_ZERO;
    ser_reader *reader;
    assert_ok(ser_reader_open(path, &options, &reader));
    static const int32_t flags[] = {SER_AUDIO_SILENT, SER_AUDIO_SILENT | SER_AUDIO_CANCELLED,
                                    SER_AUDIO_CLIPPED, SER_AUDIO_DC_OFFSET | SER_AUDIO_NONFINITE};
    for (size_t i = 0; i < 4; i++) {
        ser_audio *audio;
        assert_ok(ser_reader_next(reader, 1.0, 1.0, &audio, NULL));
        ser_audio_info info = info_of(audio);
        ck_assert_msg(info.flags == flags[i], "second %zu: flags %x", i, (unsigned)info.flags);
        ck_assert_int_eq(info.frames, 48000);
        ck_assert_int_eq(info.channels, 2);
        ck_assert_int_eq(info.sampling_rate, 48000);
        ck_assert_float_eq(info.clipped_ratio, i == 2 ? 1.0F : 0.0F);
        ck_assert_int_eq(info.nonfinite, i == 3 ? 1 : 0);
        ser_audio_free(&audio);
    }
    ck_assert_int_eq(ser_reader_at_end(reader), 1);
    ser_audio_info info = {.struct_size = sizeof info};
    assert_ok(ser_reader_get_info(reader, &info));
    ck_assert_int_eq(info.frames, 192000);
    ck_assert_float_eq_tol(info.clipped_ratio, 0.25F, 1e-6F);
    ser_reader_free(&reader);
    bytes_free(&file);
    free(x);
}
END_TEST

START_TEST(truncation_shows_in_the_last_window)
{
    float *x = sine(16000, 1, 48000, 440.0);
    struct bytes file = encode(SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1, x, 48000);
    file.size -= 10000;
    const char *path = bytes_save(&file, "cut.wav");
    ser_reader *reader;
    assert_ok(ser_reader_open(path, NULL, &reader));
    for (size_t i = 0; i < 3; i++) {
        ser_audio *audio;
        assert_ok(ser_reader_next(reader, 1.0, 1.0, &audio, NULL));
        ck_assert_int_eq(info_of(audio).flags, i == 2 ? SER_AUDIO_TRUNCATED : 0);
        ser_audio_free(&audio);
    }
    ser_reader_free(&reader);
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    options.strict = 1;
    assert_ok(ser_reader_open(path, &options, &reader));
    ser_audio *audio;
    assert_ok(ser_reader_next(reader, 1.0, 1.0, &audio, NULL));
    ser_audio_free(&audio);
    assert_ok(ser_reader_next(reader, 1.0, 1.0, &audio, NULL));
    ser_audio_free(&audio);
    for (size_t i = 0; i < 2; i++) {
        assert_fails(ser_reader_next(reader, 1.0, 1.0, &audio, NULL), SER_ERR_DATA, "cut.wav: ");
        ck_assert_ptr_null(audio);
    }
    ser_reader_free(&reader);
    bytes_free(&file);
    free(x);
}
END_TEST

/* A failure in the middle stays, as the samples behind it are lost. */
START_TEST(failure_stays)
{
    float *x = sine(16000, 1, 48000, 440.0);
    x[20000] = NAN;
    struct bytes file = float_wave(16000, x, 48000);
    ser_reader *reader;
    assert_ok(ser_reader_open(bytes_save(&file, "nan.wav"), NULL, &reader));
    ser_audio *audio;
    assert_ok(ser_reader_next(reader, 1.0, 1.0, &audio, NULL));
    ser_audio_free(&audio);
    assert_fails(ser_reader_next(reader, 1.0, 1.0, &audio, NULL), SER_ERR_DATA, "sample 20000");
    assert_fails(ser_reader_next(reader, 1.0, 1.0, &audio, NULL), SER_ERR_DATA,
                 "an earlier read failed");
    ck_assert_int_eq(ser_reader_at_end(reader), 0);
    ser_reader_free(&reader);
    bytes_free(&file);
    free(x);
}
END_TEST

START_TEST(no_audio)
{
    struct bytes file = wave_head(1, 1, 16000, 16, 36, 0);
    ser_reader *reader;
    assert_fails(ser_reader_open(bytes_save(&file, "empty.wav"), NULL, &reader), SER_ERR_DATA,
                 "empty.wav: no audio");
    ck_assert_ptr_null(reader);
    bytes_free(&file);
}
END_TEST

START_TEST(arguments)
{
    const char *path =
        noisy_file(SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1, 48000, "arguments.wav");
    static const double bad[][2] = {{0.0, 1.0}, {-1.0, 1.0},     {NAN, 1.0},  {INFINITY, 1.0},
                                    {2e9, 1.0}, {1.0, 0.0},      {1.0, -1.0}, {1.0, NAN},
                                    {1.0, 1.1}, {1.0, INFINITY}, {1e-6, 1e-6}};
    ser_reader *reader;
    assert_ok(ser_reader_open(path, NULL, &reader));
    ser_audio *audio;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_fails(ser_reader_next(reader, bad[i][0], bad[i][1], &audio, NULL), SER_ERR_ARGUMENT,
                     "ser_reader_next: ");
        ck_assert_ptr_null(audio);
    }
    assert_ok(ser_reader_next(reader, 1.0, 0.5, &audio, NULL));
    ser_audio_free(&audio);
    assert_fails(ser_reader_next(reader, 1.0, 0.25, &audio, NULL), SER_ERR_ARGUMENT,
                 "differ from the first call's");
    double start;
    assert_ok(ser_reader_next(reader, 1.0, 0.5, &audio, &start));
    ck_assert_double_eq(start, 0.5);
    ser_audio_free(&audio);
    ser_reader_free(&reader);
}
END_TEST

/* Write `seconds` of silence as a sparse file of 16-bit samples. */
static const char *long_file(int64_t seconds, const char *name)
{
    uint32_t size = (uint32_t)(seconds * 16000 * 2);
    struct bytes file = wave_head(1, 1, 16000, 16, size + 36, size);
    const char *path = bytes_save(&file, name);
    FILE *stream = fopen(path, "r+b");
    ck_assert_int_eq(fseek(stream, (long)size + 43, SEEK_SET), 0);
    ck_assert_int_eq(fputc(1, stream), 1);
    ck_assert_int_eq(fclose(stream), 0);
    bytes_free(&file);
    return path;
}

static long peak_kilobytes(void)
{
    struct rusage usage;
    ck_assert_int_eq(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_maxrss;
}

START_TEST(au15_bounded_memory)
{
    static const int64_t seconds[] = {60, 3600};
    long peak[2];
    for (size_t i = 0; i < 2; i++) {
        ser_reader *reader;
        assert_ok(ser_reader_open(long_file(seconds[i], "long.wav"), NULL, &reader));
        int64_t windows = 0;
        ser_audio *audio;
        do {
            assert_ok(ser_reader_next(reader, 5.0, 2.5, &audio, NULL));
            windows += audio != NULL ? 1 : 0;
            ser_audio_free(&audio);
        } while (ser_reader_at_end(reader) == 0);
        ck_assert_int_eq(windows, seconds[i] * 2 / 5 - 1);
        ser_reader_free(&reader);
        peak[i] = peak_kilobytes();
    }
    /* An hour in one piece would be 225 MiB. Sanitizers keep freed memory for a while. */
    ck_assert(SANITIZED || peak[1] - peak[0] < 4096);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("reader");
    TCase *reader = tcase_create("reader");
    tcase_set_timeout(reader, 300);
    tcase_add_test(reader, windows_equal_clip);
    tcase_add_test(reader, one_sample);
    tcase_add_test(reader, facts_of_windows);
    tcase_add_test(reader, truncation_shows_in_the_last_window);
    tcase_add_test(reader, failure_stays);
    tcase_add_test(reader, no_audio);
    tcase_add_test(reader, arguments);
    tcase_add_test(reader, au15_bounded_memory);
    suite_add_tcase(suite, reader);
    return harness_run(suite);
}
