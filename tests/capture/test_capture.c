/* SPDX-License-Identifier: MIT */
/* The buffer, and the sources without a device: audio files and raw samples on standard input. */
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "capture/capture.h"
#include "capture/ring.h"
#include "message.h"
#include "stop.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Sample `i` of a sequence that does not repeat within a test. */
static int16_t sequence(size_t i)
{
    return (int16_t)(uint16_t)(i * 40503U + (i >> 7));
}

static void fill(int16_t *samples, size_t first, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        samples[i] = sequence(first + i);
    }
}

START_TEST(test_ring_wraps)
{
    enum { CAPACITY = 37, CHANNELS = 2 };
    ring *r = ring_create(CAPACITY, CHANNELS);
    int16_t in[CAPACITY * CHANNELS];
    int16_t out[CAPACITY * CHANNELS];
    size_t written = 0;
    size_t read = 0;
    for (size_t round = 1; round < 500; round++) {
        size_t frames = round % CAPACITY + 1;
        fill(in, written, frames * CHANNELS);
        ring_write(r, in, frames);
        written += frames * CHANNELS;
        for (size_t left = frames; left > 0;) {
            size_t got = 0;
            ck_assert_int_eq(ring_read(r, out, round % 5 + 1, 0.0, &got), CAPTURE_GOES_ON);
            ck_assert_uint_gt(got, 0);
            ck_assert_uint_le(got, round % 5 + 1);
            for (size_t i = 0; i < got * CHANNELS; i++) {
                ck_assert_int_eq(out[i], sequence(read + i));
            }
            read += got * CHANNELS;
            left -= got;
        }
    }
    ck_assert_int_eq(ring_losses(r).overruns, 0);
    ring_free(&r);
    ck_assert_ptr_null(r);
    ring_free(&r);
}
END_TEST

START_TEST(test_ring_drops_and_counts)
{
    int16_t in[30];
    int16_t out[30];
    size_t got;
    fill(in, 0, 30);
    ring *r = ring_create(10, 1);
    ring_write(r, in, 8);
    ring_write(r, in + 8, 12); /* MI3: 2 fit */
    ring_write(r, NULL, 3);    /* a hole, none of it fits */
    ring_count_overrun(r, 100);
    ck_assert_int_eq(ring_losses(r).overruns, 3);
    ck_assert_int_eq(ring_losses(r).frames, 10 + 3 + 100);
    ck_assert_int_eq(ring_read(r, out, 30, 0.0, &got), CAPTURE_GOES_ON);
    ck_assert_uint_eq(got, 10); /* what came first is kept */
    ck_assert_mem_eq(out, in, 10 * sizeof *in);
    ring_write(r, NULL, 4);
    ck_assert_int_eq(ring_read(r, out, 30, 0.0, &got), CAPTURE_GOES_ON);
    ck_assert_uint_eq(got, 4);
    for (size_t i = 0; i < 4; i++) {
        ck_assert_int_eq(out[i], 0);
    }
    ring_free(&r);
}
END_TEST

START_TEST(test_ring_end_comes_last)
{
    int16_t samples[4] = {1, 2, 3, 4};
    size_t got = 9;
    ring *r = ring_create(10, 1);
    double start = now();
    ck_assert_int_eq(ring_read(r, samples, 4, 0.05, &got), CAPTURE_GOES_ON);
    ck_assert_uint_eq(got, 0);
    ck_assert(now() - start >= 0.05);
    ring_write(r, samples, 4);
    ring_end(r, CAPTURE_LOST, strdup("unplugged"));
    ck_assert_int_eq(ring_read(r, samples, 3, 9.0, &got), CAPTURE_GOES_ON);
    ck_assert_uint_eq(got, 3);
    ck_assert_int_eq(ring_read(r, samples, 3, 9.0, &got), CAPTURE_GOES_ON);
    ck_assert_uint_eq(got, 1);
    start = now();
    ck_assert_int_eq(ring_read(r, samples, 3, 9.0, &got), CAPTURE_LOST);
    ck_assert_uint_eq(got, 0);
    ck_assert(now() - start < 5.0);
    ck_assert_str_eq(ring_reason(r), "unplugged");
    ring_resume(r);
    ck_assert_ptr_null(ring_reason(r));
    ck_assert_int_eq(ring_read(r, samples, 3, 0.0, &got), CAPTURE_GOES_ON);
    ring_free(&r);
}
END_TEST

enum { THREAD_FRAMES = 200000 };

static void *write_sequence(void *argument)
{
    int16_t samples[700];
    for (size_t i = 0; i < THREAD_FRAMES;) {
        size_t count = i % 699 + 1;
        count = count < THREAD_FRAMES - i ? count : THREAD_FRAMES - i;
        fill(samples, i, count);
        ck_assert(ring_write_all(argument, samples, count));
        i += count;
    }
    ring_end(argument, CAPTURE_ENDED, NULL);
    return NULL;
}

START_TEST(test_ring_between_threads)
{
    ring *r = ring_create(501, 1);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, write_sequence, r), 0);
    int16_t samples[333];
    size_t read = 0;
    size_t got;
    while (ring_read(r, samples, read % 333 + 1, 10.0, &got) == CAPTURE_GOES_ON) {
        for (size_t i = 0; i < got; i++) {
            ck_assert_int_eq(samples[i], sequence(read + i));
        }
        read += got;
    }
    ck_assert_uint_eq(read, THREAD_FRAMES);
    ck_assert_int_eq(ring_losses(r).frames, 0);
    pthread_join(thread, NULL);
    ring_free(&r);
}
END_TEST

static void *write_until_stopped(void *argument)
{
    static const int16_t samples[100];
    while (ring_write_all(argument, samples, 100)) {
    }
    return NULL;
}

START_TEST(test_ring_stops_a_waiting_writer)
{
    ring *r = ring_create(250, 1);
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, write_until_stopped, r), 0);
    usleep(20000);
    ring_stop(r);
    ck_assert(ring_stopping(r));
    pthread_join(thread, NULL);
    ring_free(&r);
}
END_TEST

START_TEST(test_signal_ends_the_wait)
{
    int16_t samples[4] = {0};
    size_t got;
    ring *r = ring_create(10, 1);
    stop_install();
    ring_write(r, samples, 2);
    raise(SIGINT);
    double start = now();
    ck_assert_int_eq(ring_read(r, samples, 4, 9.0, &got), CAPTURE_GOES_ON);
    ck_assert_uint_eq(got, 2); /* what is there still comes */
    ck_assert_int_eq(ring_read(r, samples, 4, 9.0, &got), CAPTURE_GOES_ON);
    ck_assert_uint_eq(got, 0);
    ck_assert(now() - start < 5.0);
    ring_free(&r);
}
END_TEST

static char *temporary_file(const void *data, size_t size)
{
    char *path = strdup("/tmp/ser-capture-XXXXXX");
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, data, size), (ssize_t)size);
    close(fd);
    return path;
}

static void put32(unsigned char *to, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        to[i] = (unsigned char)(value >> (8 * i));
    }
}

/* A mono WAV file at 16 kHz of `samples`; the caller frees the path. */
static char *wav_file(const int16_t *samples, size_t count)
{
    size_t bytes = 2 * count;
    unsigned char *file = calloc(44 + bytes, 1);
    memcpy(file, "RIFF....WAVEfmt ", 16);
    put32(file + 4, (uint32_t)(36 + bytes));
    put32(file + 16, 16);
    put32(file + 20, 1U | 1U << 16);
    put32(file + 24, 16000);
    put32(file + 28, 32000);
    put32(file + 32, 2U | 16U << 16);
    memcpy(file + 36, "data", 4);
    put32(file + 40, (uint32_t)bytes);
    for (size_t i = 0; i < count; i++) {
        file[44 + 2 * i] = (unsigned char)((uint16_t)samples[i] & 0xFF);
        file[45 + 2 * i] = (unsigned char)((uint16_t)samples[i] >> 8);
    }
    char *path = temporary_file(file, 44 + bytes);
    free(file);
    return path;
}

/* Read to the end, at most `capacity`. */
static size_t read_all(capture *c, int16_t *samples, size_t capacity)
{
    size_t count = 0;
    size_t got = 0;
    capture_state state = CAPTURE_GOES_ON;
    size_t channels = (size_t)capture_channels(c);
    while (state == CAPTURE_GOES_ON && count < capacity) {
        state = capture_read(c, samples + count * channels, capacity - count, 5.0, &got);
        count += got;
    }
    ck_assert_int_eq(state, CAPTURE_ENDED);
    return count;
}

static capture *open_file(const char *kind, const char *path)
{
    char source[200];
    snprintf(source, sizeof source, "%s:%s", kind, path);
    capture *c = NULL;
    ck_assert_int_eq(capture_open(&(capture_options){.source = source}, &c), 0);
    ck_assert_str_eq(capture_source(c), source);
    ck_assert_str_eq(capture_description(c), path);
    ck_assert_int_eq(capture_rate(c), 16000);
    ck_assert_int_eq(capture_channels(c), 1);
    return c;
}

enum { LONG_COUNT = 16000 * 65 + 77 }; /* more than the buffer holds */

START_TEST(test_fast_file)
{
    static int16_t samples[LONG_COUNT];
    static int16_t out[LONG_COUNT + 100];
    fill(samples, 0, LONG_COUNT);
    const size_t counts[] = {1, 319, 16000, 16001, LONG_COUNT};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        char *path = wav_file(samples, counts[i]);
        capture *c = open_file("fast", path);
        ck_assert_uint_eq(read_all(c, out, LONG_COUNT + 100), counts[i]);
        ck_assert_mem_eq(out, samples, counts[i] * sizeof *samples);
        ck_assert_int_eq(capture_lost(c).overruns, 0);
        ck_assert(capture_reopen(c)); /* nothing was lost */
        capture_close(&c);
        ck_assert_ptr_null(c);
        capture_close(&c);
        unlink(path);
        free(path);
    }
}
END_TEST

START_TEST(test_file_in_time)
{
    enum { COUNT = 8000 };
    int16_t samples[COUNT];
    int16_t out[COUNT + 1];
    fill(samples, 0, COUNT);
    char *path = wav_file(samples, COUNT);
    double start = now();
    capture *c = open_file("file", path);
    size_t got = 0;
    capture_read(c, out, COUNT + 1, 5.0, &got);
    ck_assert_uint_eq(got, 320); /* a slice, not all that is known */
    ck_assert_uint_eq(read_all(c, out + got, COUNT), COUNT - 320);
    double seconds = now() - start;
    ck_assert_msg(seconds >= 0.5 && seconds < 5.0, "half a second took %g s", seconds);
    ck_assert_mem_eq(out, samples, sizeof samples);
    capture_close(&c);
    unlink(path);
    free(path);
}
END_TEST

START_TEST(test_close_while_full)
{
    static int16_t samples[LONG_COUNT];
    char *path = wav_file(samples, LONG_COUNT);
    capture *c = open_file("fast", path);
    usleep(100000);
    double start = now();
    capture_close(&c);
    ck_assert(now() - start < 5.0);
    unlink(path);
    free(path);
}
END_TEST

START_TEST(test_bad_files)
{
    capture *c = (capture *)&c;
    ck_assert_int_eq(capture_open(&(capture_options){.source = "file:/nonexistent"}, &c), 3);
    ck_assert_ptr_null(c);
    char *path = temporary_file("not audio at all, but text", 26);
    char source[100];
    snprintf(source, sizeof source, "fast:%s", path);
    ck_assert_int_eq(capture_open(&(capture_options){.source = source}, &c), 7);
    unlink(path);
    free(path);
    static const char *const usage[] = {"", "clip.wav", "file:", "fast", "pulses:x", "--", "-x"};
    for (size_t i = 0; i < sizeof usage / sizeof usage[0]; i++) {
        ck_assert_int_eq(capture_open(&(capture_options){.source = usage[i]}, &c), 2);
    }
}
END_TEST

/* A child writes `size` bytes into our standard input in pieces of 1, 2, 3, ... bytes. */
static void feed_stdin(const unsigned char *bytes, size_t size)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        size_t done = 0;
        for (size_t piece = 1; done < size; piece++) {
            size_t count = piece < size - done ? piece : size - done;
            ssize_t wrote = write(ends[1], bytes + done, count);
            done += wrote > 0 ? (size_t)wrote : size;
        }
        _exit(0);
    }
    close(ends[1]);
    dup2(ends[0], STDIN_FILENO);
    close(ends[0]);
}

START_TEST(test_raw)
{
    enum { SIZE = 2 * 123456 };
    static unsigned char bytes[SIZE + 3];
    static int16_t out[SIZE];
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)sequence(i);
    }
    /* {channels, bytes} of what comes; the rest of a last frame is left out, with a warning */
    static const int32_t cases[][2] = {{0, 0},        {1, 1},        {1, 2},
                                       {2, SIZE},     {1, SIZE + 1}, {2, 3},
                                       {3, SIZE + 3}, {2, SIZE + 3}, {1024, SIZE}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        feed_stdin(bytes, (size_t)cases[i][1]);
        capture_options options = {.source = "-", .rate = 44100, .channels = cases[i][0]};
        capture *c = NULL;
        ck_assert_int_eq(capture_open(&options, &c), 0);
        ck_assert_int_eq(capture_rate(c), 44100);
        size_t channels = cases[i][0] > 0 ? (size_t)cases[i][0] : 1;
        ck_assert_uint_eq((size_t)capture_channels(c), channels);
        size_t frames = read_all(c, out, SIZE / channels);
        ck_assert_uint_eq(frames, (size_t)cases[i][1] / (2 * channels));
        for (size_t j = 0; j < frames * channels; j++) {
            uint16_t value = (uint16_t)(bytes[2 * j] | bytes[2 * j + 1] << 8);
            ck_assert_int_eq((uint16_t)out[j], value);
        }
        capture_close(&c);
    }
}
END_TEST

START_TEST(test_raw_close_while_it_waits)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    dup2(ends[0], STDIN_FILENO);
    capture *c = NULL;
    ck_assert_int_eq(capture_open(&(capture_options){.source = "-"}, &c), 0);
    ck_assert_int_eq(capture_rate(c), 16000);
    int16_t sample;
    size_t got = 7;
    ck_assert_int_eq(capture_read(c, &sample, 1, 0.1, &got), CAPTURE_GOES_ON);
    ck_assert_uint_eq(got, 0);
    double start = now();
    capture_close(&c);
    ck_assert(now() - start < 5.0);
    close(ends[1]);
}
END_TEST

START_TEST(test_raw_cannot_be_read)
{
    close(STDIN_FILENO);
    capture *c = NULL;
    ck_assert_int_eq(capture_open(&(capture_options){.source = "-"}, &c), 0);
    int16_t sample;
    size_t got;
    ck_assert_int_eq(capture_read(c, &sample, 1, 5.0, &got), CAPTURE_LOST);
    ck_assert_str_eq(capture_reason(c), "standard input: Bad file descriptor");
    capture_close(&c);
    ck_assert_int_eq(capture_open(&(capture_options){.source = "-", .channels = 1025}, &c), 2);
    ck_assert_int_eq(capture_open(&(capture_options){.source = "-", .rate = 3999}, &c), 2);
    ck_assert_int_eq(capture_open(&(capture_options){.source = "-", .rate = 768001}, &c), 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("capture");
    TCase *rings = tcase_create("ring");
    tcase_set_timeout(rings, 60);
    tcase_add_test(rings, test_ring_wraps);
    tcase_add_test(rings, test_ring_drops_and_counts);
    tcase_add_test(rings, test_ring_end_comes_last);
    tcase_add_test(rings, test_ring_between_threads);
    tcase_add_test(rings, test_ring_stops_a_waiting_writer);
    tcase_add_test(rings, test_signal_ends_the_wait);
    suite_add_tcase(suite, rings);
    TCase *sources = tcase_create("sources");
    tcase_set_timeout(sources, 60);
    tcase_add_test(sources, test_fast_file);
    tcase_add_test(sources, test_file_in_time);
    tcase_add_test(sources, test_close_while_full);
    tcase_add_test(sources, test_bad_files);
    tcase_add_test(sources, test_raw);
    tcase_add_test(sources, test_raw_close_while_it_waits);
    tcase_add_test(sources, test_raw_cannot_be_read);
    suite_add_tcase(suite, sources);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
