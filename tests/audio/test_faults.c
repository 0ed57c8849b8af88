/* SPDX-License-Identifier: MIT */
/* Every allocation of libser fails once, and from one on for good: a status, no leak, no crash. */
#include <fcntl.h>
#include <unistd.h>

#include "audio/audio.h"
#include "files.h"
#include "harness.h"

static int read_file(const char *path)
{
    ser_audio *audio;
    int status = ser_audio_read(path, NULL, &audio);
    ck_assert_int_eq(status == 0, audio != NULL);
    ser_audio_free(&audio);
    return status;
}

static int read_chained(const char *path)
{
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    options.offset = 0.5;
    ser_audio *audio;
    int status = ser_audio_read(path, &options, &audio);
    ser_audio_free(&audio);
    return status;
}

static int read_windows(const char *path)
{
    ser_reader *reader;
    int status = ser_reader_open(path, NULL, &reader);
    ck_assert_int_eq(status == 0, reader != NULL);
    while (status == 0 && ser_reader_at_end(reader) == 0) {
        ser_audio *audio;
        status = ser_reader_next(reader, 0.5, 0.25, &audio, NULL);
        ser_audio_free(&audio);
    }
    ser_reader_free(&reader);
    return status;
}

/* Standard input is the file, so that its bytes are spooled. */
static int read_spooled(const char *path)
{
    int saved = dup(STDIN_FILENO);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(dup2(fd, STDIN_FILENO), 0);
    (void)close(fd);
    int status = read_file("-");
    (void)dup2(saved, STDIN_FILENO);
    (void)close(saved);
    return status;
}

static int read_samples(const char *path)
{
    (void)path;
    static float x[50000];
    ser_audio *audio;
    int status = ser_audio_from_samples(x, 25000, 2, 44100, NULL, &audio);
    ser_audio_free(&audio);
    return status;
}

/* Fail allocation 1, 2, ... until none is left to fail. */
static void check_faults(int (*run)(const char *), const char *path)
{
    assert_ok(run(path));
    for (int sticky = 0; sticky <= 1; sticky++) {
        int64_t live = ser_mem_live();
        int status = SER_ERR_MEMORY;
        uint64_t nth = 0;
        while (status != 0) {
            nth++;
            ck_assert_uint_lt(nth, 500);
            ser_mem_fail_at(nth, sticky != 0);
            status = run(path);
            ser_mem_fail_at(0, false);
            ck_assert_msg(status == 0 || status == SER_ERR_MEMORY, "allocation %llu: %s (%s)",
                          (unsigned long long)nth, ser_status_name(status), ser_error_message());
            ck_assert_int_eq(ser_mem_live(), live);
        }
        ck_assert_uint_gt(nth, 3);
        assert_ok(run(path));
    }
}

static const char *save(int format, int rate, size_t frames, const char *name)
{
    float *x = sine(rate, 2, frames, 440.0);
    struct bytes file = encode(format, rate, 2, x, frames);
    const char *path = bytes_save(&file, name);
    bytes_free(&file);
    free(x);
    return path;
}

START_TEST(whole_files)
{
    check_faults(read_file, save(SF_FORMAT_WAV | SF_FORMAT_PCM_16, 44100, 60000, "a.wav"));
    check_faults(read_file, save(SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 16000, 40000, "a.flac"));
    check_faults(read_file, save(SF_FORMAT_OGG | SF_FORMAT_VORBIS, 16000, 20000, "a.ogg"));
    if (can_encode(SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III, 48000, 2)) {
        check_faults(read_file,
                     save(SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III, 48000, 60000, "a.mp3"));
    }
}
END_TEST

START_TEST(offsets)
{
    check_faults(read_chained, save(SF_FORMAT_OGG | SF_FORMAT_OPUS, 48000, 60000, "a.opus"));
}
END_TEST

START_TEST(windows)
{
    check_faults(read_windows, save(SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 48000, 100000, "b.flac"));
}
END_TEST

START_TEST(spooled)
{
    check_faults(read_spooled, save(SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 200000, "b.wav"));
}
END_TEST

START_TEST(samples)
{
    check_faults(read_samples, NULL);
}
END_TEST

/* Out of memory for one window does not cost the window. */
START_TEST(window_can_be_repeated)
{
    const char *path = save(SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 40000, "c.wav");
    ser_reader *reader;
    ser_audio *audio;
    double start;
    assert_ok(ser_reader_open(path, NULL, &reader));
    assert_ok(ser_reader_next(reader, 1.0, 0.5, &audio, &start));
    ser_audio_free(&audio);
    /* The buffers have their size by now: what is allocated is the clip and its samples. */
    for (uint64_t nth = 1; nth <= 2; nth++) {
        ser_mem_fail_at(nth, false);
        assert_fails(ser_reader_next(reader, 1.0, 0.5, &audio, &start), SER_ERR_MEMORY,
                     "out of memory");
        ck_assert_ptr_null(audio);
    }
    assert_ok(ser_reader_next(reader, 1.0, 0.5, &audio, &start));
    ck_assert_double_eq(start, 0.5);
    ser_audio_free(&audio);
    ser_reader_free(&reader);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("audio_faults");
    TCase *faults = tcase_create("faults");
    tcase_set_timeout(faults, 120);
    tcase_add_test(faults, whole_files);
    tcase_add_test(faults, offsets);
    tcase_add_test(faults, windows);
    tcase_add_test(faults, spooled);
    tcase_add_test(faults, samples);
    tcase_add_test(faults, window_can_be_repeated);
    suite_add_tcase(suite, faults);
    return harness_run(suite);
}
