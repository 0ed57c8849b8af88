/* SPDX-License-Identifier: MIT */
/* What a stream refuses, what it survives, and how little it keeps. */
#include <malloc.h>
#include <math.h>
#include <pthread.h>

#include "sounds.h"

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

static ser_stream_options defaults(void)
{
    ser_stream_options options;
    ser_stream_options_init(&options, sizeof options);
    return options;
}

static void refused(const ser_stream_options *options, int status, const char *text)
{
    ser_stream *none = NULL;
    assert_fails(ser_stream_create(model, options, &none), status, text);
    ck_assert_ptr_null(none);
}

START_TEST(options_out_of_range)
{
    static const struct {
        size_t offset;
        int32_t value;
        const char *text;
    } integers[] = {
        {offsetof(ser_stream_options, sampling_rate), 3999, "sampling_rate is 3999, not within"},
        {offsetof(ser_stream_options, sampling_rate), 768001, "sampling_rate is 768001"},
        {offsetof(ser_stream_options, channels), 0, "channels is 0, not within 1..1024"},
        {offsetof(ser_stream_options, channels), 1025, "channels is 1025"},
        {offsetof(ser_stream_options, channel), -2, "channel is -2"},
        {offsetof(ser_stream_options, channel), 1, "channel 1 was asked for, but there is only 1"},
        {offsetof(ser_stream_options, nonfinite), 2, "nonfinite is 2"},
        {offsetof(ser_stream_options, threads), -1, "threads is -1, not within 0..1024"},
        {offsetof(ser_stream_options, threads), 1025, "threads is 1025"},
    };
    static const struct {
        size_t offset;
        double value;
        const char *text;
    } numbers[] = {
        {offsetof(ser_stream_options, window), 0.02, "window is 0.02, not 0 or within 0.025..600"},
        {offsetof(ser_stream_options, window), 601.0, "window is 601"},
        {offsetof(ser_stream_options, window), (double)NAN, "window is nan"},
        {offsetof(ser_stream_options, hop), 0.009, "hop is 0.009"},
        {offsetof(ser_stream_options, hop), -1.0, "hop is -1"},
        {offsetof(ser_stream_options, hop), 599.0, "hop is 599 s, longer than the window"},
        {offsetof(ser_stream_options, smoothing), -0.5, "smoothing is -0.5"},
        {offsetof(ser_stream_options, smoothing), (double)INFINITY, "smoothing is inf"},
        {offsetof(ser_stream_options, gate), -0.5, "gate is -0.5, not 0 or within -200..-1"},
        {offsetof(ser_stream_options, gate), -201.0, "gate is -201"},
        {offsetof(ser_stream_options, gate), 10.0, "gate is 10"},
    };
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        ser_stream_options o = defaults();
        memcpy((char *)&o + integers[i].offset, &integers[i].value, sizeof(int32_t));
        refused(&o, SER_ERR_ARGUMENT, integers[i].text);
        ck_assert_ptr_nonnull(strstr(ser_error_message(), "ser_stream_options: "));
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        ser_stream_options o = defaults();
        memcpy((char *)&o + numbers[i].offset, &numbers[i].value, sizeof(double));
        refused(&o, SER_ERR_ARGUMENT, numbers[i].text);
        ck_assert_ptr_nonnull(strstr(ser_error_message(), "ser_stream_options: "));
    }
    ser_stream_options o = defaults();
    o.reserved = 1;
    refused(&o, SER_ERR_UNSUPPORTED, "reserved must be 0");
}
END_TEST

START_TEST(arguments_out_of_range)
{
    static const float x[10];
    static const int16_t y[10];
    ser_stream_result result = {.struct_size = sizeof result, .index = 7};
    int32_t found = 7;
    ser_stream *none = (ser_stream *)(void *)&result;
    assert_fails(ser_stream_create(model, NULL, NULL), SER_ERR_ARGUMENT, "stream is NULL");
    assert_fails(ser_stream_create(NULL, NULL, &none), SER_ERR_ARGUMENT, "model is NULL");
    ck_assert_ptr_null(none);
    begin(NULL);
    assert_fails(ser_stream_push(NULL, x, 10), SER_ERR_ARGUMENT, "stream is NULL");
    assert_fails(ser_stream_push_s16(NULL, y, 10), SER_ERR_ARGUMENT, "stream is NULL");
    assert_fails(ser_stream_push(stream, NULL, 1), SER_ERR_ARGUMENT, "samples is NULL");
    assert_fails(ser_stream_push_s16(stream, NULL, 1), SER_ERR_ARGUMENT, "samples is NULL");
    assert_ok(ser_stream_push(stream, NULL, 0));
    assert_fails(ser_stream_next(NULL, &result, &found), SER_ERR_ARGUMENT, "stream is NULL");
    assert_fails(ser_stream_next(stream, NULL, &found), SER_ERR_ARGUMENT, "result is NULL");
    assert_fails(ser_stream_next(stream, &result, NULL), SER_ERR_ARGUMENT, "found is NULL");
    ck_assert_int_eq(found, 7);
    assert_ok(ser_stream_next(stream, &result, &found));
    ck_assert_int_eq(found, 0);
    ck_assert_int_eq(result.index, 7); /* nothing found: untouched */
    assert_fails(ser_stream_flush(NULL), SER_ERR_ARGUMENT, "stream is NULL");
    assert_fails(ser_stream_reset(NULL), SER_ERR_ARGUMENT, "stream is NULL");
    ser_stream_free(NULL);
}
END_TEST

/* A result without its size costs no window. */
START_TEST(results_of_any_size)
{
    union {
        ser_stream_result result;
        unsigned char bytes[sizeof(ser_stream_result) + 64];
    } r;
    sound s = sound_make(16000, 1, 32000, true);
    const ser_stream_options options = stream_options(&s, 0.5, 0.5);
    int32_t found = 0;
    begin(&options);
    assert_ok(push(stream, &s, 0, s.frames));
    memset(&r, 0, sizeof r);
    assert_fails(ser_stream_next(stream, &r.result, &found), SER_ERR_ARGUMENT,
                 "ser_stream_result: set struct_size");
    ck_assert_int_eq(found, 0);
    memset(&r, 0xAB, sizeof r);
    r.result.struct_size = 24; /* an old program */
    assert_ok(ser_stream_next(stream, &r.result, &found));
    ck_assert_int_eq(r.result.index, 0);
    ck_assert_double_eq(r.result.start, 0.0);
    ck_assert_int_eq(r.bytes[24], 0xAB);
    memset(&r, 0xAB, sizeof r);
    r.result.struct_size = sizeof r; /* a new one */
    assert_ok(ser_stream_next(stream, &r.result, &found));
    ck_assert_int_eq(r.result.index, 1);
    ck_assert_int_eq(r.bytes[sizeof r - 1], 0);
    sound_free(&s);
}
END_TEST

START_TEST(a_push_that_failed_has_not_happened)
{
    sound s = sound_make(44100, 2, 60000, false);
    const ser_stream_options options = stream_options(&s, 0.5, 0.2);
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    begin(&options);
    answers wanted = stream_all(stream, &s, 1000);
    assert_ok(ser_stream_reset(stream));
    answers got = {0};
    for (size_t done = 0; done < s.frames; done += 1000) {
        float *value = &s.floats[2 * (done + 999) + 1]; /* the last of the push */
        const float good = *value;
        *value = bad[done / 1000 % 3];
        char text[64];
        snprintf(text, sizeof text, "sample %zu of channel 1 is %s", done + 999,
                 isnan(*value) ? "not a number" : "infinite");
        assert_fails(push(stream, &s, done, 1000), SER_ERR_DATA, text);
        *value = good;
        assert_ok(push(stream, &s, done, 1000));
        collect(stream, &got);
    }
    assert_ok(ser_stream_flush(stream));
    collect(stream, &got);
    assert_same(&got, &wanted, -1);
    answers_free(&got);
    answers_free(&wanted);
    sound_free(&s);
}
END_TEST

START_TEST(nan_as_zero_is_flagged)
{
    sound s = sound_make(16000, 1, 16000, false);
    ser_stream_options options = stream_options(&s, 0.5, 0.5);
    options.nonfinite = SER_NONFINITE_ZERO;
    s.floats[9000] = NAN;
    begin(&options);
    answers got = stream_all(stream, &s, 100);
    s.floats[9000] = 0.0F;
    assert_ok(ser_stream_reset(stream));
    answers wanted = stream_all(stream, &s, 100);
    assert_same(&got, &wanted, ~SER_AUDIO_NONFINITE);
    ck_assert_int_eq(got.list[0].result.flags & SER_AUDIO_NONFINITE, 0);
    ck_assert_int_ne(got.list[1].result.flags & SER_AUDIO_NONFINITE, 0);
    answers_free(&got);
    answers_free(&wanted);
    sound_free(&s);
}
END_TEST

/* An hour may wait behind the next window, and not one block more. */
START_TEST(an_hour_may_wait)
{
    enum { MINUTE = 60 * 16000, WINDOW = 8000 };
    sound s = sound_make(16000, 1, MINUTE, true);
    const ser_stream_options options = stream_options(&s, 0.5, 0.5);
    ser_stream_result result = {.struct_size = sizeof result};
    int32_t found;
    begin(&options);
    /* refused before the samples are looked at: there are not as many */
    assert_fails(push(stream, &s, 0, 60 * (size_t)MINUTE + WINDOW + 1), SER_ERR_CAPACITY,
                 "more than an hour of audio would wait");
    assert_fails(push(stream, &s, 0, SIZE_MAX), SER_ERR_CAPACITY, "more than an hour");
    for (size_t i = 0; i < 60; i++) {
        assert_ok(push(stream, &s, 0, MINUTE));
    }
    assert_ok(push(stream, &s, 0, WINDOW));
    assert_fails(push(stream, &s, 0, 1), SER_ERR_CAPACITY, "call ser_stream_next first");
    assert_ok(ser_stream_next(stream, &result, &found));
    ck_assert_int_eq(found, 1);
    assert_ok(push(stream, &s, 0, WINDOW));
    assert_fails(push(stream, &s, 0, 1), SER_ERR_CAPACITY, "more than an hour");
    int64_t live = 0;
    for (int64_t i = 1; i < 20; i++) {
        assert_ok(ser_stream_next(stream, &result, &found));
        ck_assert_int_eq(result.index, i);
        live = i < 3 ? ser_mem_live() : live; /* the predictor keeps two answers */
        ck_assert_int_eq(ser_mem_live(), live);
    }
    sound_free(&s);
}
END_TEST

START_TEST(after_the_flush_nothing_is_taken)
{
    sound s = sound_make(16000, 1, 10000, false);
    const ser_stream_options options = stream_options(&s, 0.5, 0.5);
    answers got = {0};
    begin(&options);
    assert_ok(push(stream, &s, 0, 9000));
    assert_ok(ser_stream_flush(stream));
    assert_ok(ser_stream_flush(stream));
    assert_fails(push(stream, &s, 9000, 1000), SER_ERR_ARGUMENT,
                 "flushed; ser_stream_reset begins anew");
    collect(stream, &got);
    ck_assert_uint_eq(got.count, 2);
    ck_assert_double_eq(got.list[1].result.end, 9000.0 / 16000.0);
    assert_ok(ser_stream_flush(stream));
    collect(stream, &got);
    ck_assert_uint_eq(got.count, 2);
    answers_free(&got);
    sound_free(&s);
}
END_TEST

/* A call that fails for memory is made again: nothing must be lost or come twice. */
static int again(int status, int64_t *failures)
{
    ck_assert_msg(status == 0 || status == SER_ERR_MEMORY, "%s", ser_fail_text());
    *failures += status != 0;
    return status;
}

static answers stubborn(const ser_stream_options *options, const sound *s, int64_t *failures)
{
    answers all = {0};
    ser_stream_free(&stream);
    while (again(ser_stream_create(model, options, &stream), failures) != 0) {
        ck_assert_ptr_null(stream);
    }
    for (int round = 0; round < 2; round++) {
        answers_free(&all);
        while (again(ser_stream_reset(stream), failures) != 0) {
        }
        for (size_t done = 0; done < s->frames; done += 10000) {
            while (again(push(stream, s, done, 10000), failures) != 0) {
            }
            ser_stream_result result = {.struct_size = sizeof result};
            int32_t found;
            while (again(ser_stream_next(stream, &result, &found), failures) != 0) {
            }
            ser_mem_fail_at(0, false); /* the rest without failures, to be compared */
        }
        while (again(ser_stream_flush(stream), failures) != 0) {
        }
        collect(stream, &all);
    }
    return all;
}

START_TEST(every_failing_allocation_is_survived)
{
    sound s = sound_make(48000, 1, 60000, false);
    ser_stream_options options = stream_options(&s, 0.2, 0.1);
    options.smoothing = 1.0;
    int64_t failures = 0;
    const int64_t live = ser_mem_live();
    answers wanted = stubborn(&options, &s, &failures);
    ck_assert_int_eq(failures, 0);
    ck_assert_uint_gt(wanted.count, 3);
    for (uint64_t nth = 1; nth == 1 || failures > 0; nth++) {
        failures = 0;
        ser_mem_fail_at(nth, false);
        answers got = stubborn(&options, &s, &failures);
        ser_mem_fail_at(0, false);
        assert_same(&got, &wanted, -1);
        answers_free(&got);
        ck_assert_uint_lt(nth, 500);
        ck_assert(nth > 5 || failures > 0);
    }
    ser_stream_free(&stream);
    ck_assert_int_eq(ser_mem_live(), live);
    answers_free(&wanted);
    sound_free(&s);
}
END_TEST

static char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    char *bytes = malloc(1 << 20);
    *size = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    return bytes;
}

START_TEST(nan_from_the_network_moves_nothing)
{
    size_t size;
    char *bytes = read_file(golden_path("attention_pool.model.safetensors"), &size);
    memset(bytes + size - 4, 0xFF, 4); /* a weight of the last tensor */
    ser_model_free(&model);
    assert_ok(ser_model_load_memory(device, bytes, size, NULL, &model));
    free(bytes);
    sound s = sound_make(16000, 1, 16000, false);
    const ser_stream_options options = stream_options(&s, 0.5, 0.5);
    ser_stream_result result = {.struct_size = sizeof result, .index = 7};
    int32_t found = 7;
    begin(&options);
    assert_ok(push(stream, &s, 0, 16000));
    for (int i = 0; i < 3; i++) { /* two windows: the third call would find none */
        assert_fails(ser_stream_next(stream, &result, &found), SER_ERR_NUMERIC, "NaN");
        ck_assert_int_eq(found, 7);
        ck_assert_int_eq(result.index, 7);
    }
    sound_free(&s);
}
END_TEST

START_TEST(the_model_may_be_freed_first)
{
    sound s = sound_make(16000, 1, 16000, false);
    begin(NULL);
    ser_model_free(&model);
    ser_device_free(&device);
    answers got = stream_all(stream, &s, 4096);
    ck_assert_uint_eq(got.count, 1);
    answers_free(&got);
    sound_free(&s);
}
END_TEST

START_TEST(a_model_in_training_has_no_streams)
{
    ser_trainer *trainer;
    begin(NULL);
    assert_fails(ser_trainer_create(model, NULL, &trainer), SER_ERR_BUSY, "");
    ser_stream_free(&stream);
    assert_ok(ser_trainer_create(model, NULL, &trainer));
    assert_fails(ser_stream_create(model, NULL, &stream), SER_ERR_BUSY, "train");
    ser_trainer_free(&trainer);
}
END_TEST

enum { RIVALS = 4 };

static void *rival(void *argument)
{
    const sound *s = argument;
    intptr_t busy = 0;
    for (int i = 0; i < 50; i++) {
        ser_stream_result result = {.struct_size = sizeof result};
        int32_t found;
        const int statuses[] = {push(stream, s, 0, s->frames),
                                ser_stream_next(stream, &result, &found)};
        for (int k = 0; k < 2; k++) {
            busy += statuses[k] == SER_ERR_BUSY;
            if (statuses[k] != 0 && statuses[k] != SER_ERR_BUSY) {
                return (void *)(intptr_t)-1;
            }
        }
    }
    return (void *)busy;
}

START_TEST(one_stream_serves_one_thread_at_a_time)
{
    pthread_t threads[RIVALS];
    intptr_t busy = 0;
    sound s = sound_make(16000, 1, 16000, true);
    const ser_stream_options options = stream_options(&s, 1.0, 1.0);
    begin(&options);
    for (int round = 0; round < 50 && busy == 0; round++) {
        for (int i = 0; i < RIVALS; i++) {
            ck_assert_int_eq(pthread_create(&threads[i], NULL, rival, &s), 0);
        }
        for (int i = 0; i < RIVALS; i++) {
            void *result;
            pthread_join(threads[i], &result);
            ck_assert_int_ge((intptr_t)result, 0);
            busy += (intptr_t)result;
        }
    }
    ck_assert_int_gt(busy, 0);
    sound_free(&s);
}
END_TEST

/* Bytes that the C library has handed out; sanitizers do not say. */
static size_t bytes_in_use(void)
{
    const struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* Push `seconds` of `s`, again and again, 100 ms at a time, and take what is ready. Check writes to
 * a file at every assertion, so that there are none in the loop. */
static int64_t run_on(const sound *s, int64_t seconds, int64_t *computed)
{
    const size_t part = (size_t)s->rate / 10;
    ser_stream_result result = {.struct_size = sizeof result, .index = -1};
    int status = 0;
    for (int64_t i = 0; i < 10 * seconds && status == 0; i++) {
        int32_t found = 1;
        status = push(stream, s, (size_t)i * part % s->frames, part);
        while (status == 0 && found == 1) {
            status = ser_stream_next(stream, &result, &found);
            *computed += status == 0 && found == 1 && (result.flags & SER_STREAM_GATED) == 0;
        }
    }
    assert_ok(status);
    return result.index;
}

/* Most of it below the gate, so that it is the stream that takes the time and not the network. */
START_TEST(a_day_takes_no_more_memory_than_an_hour)
{
    const int64_t hours = SANITIZED ? 2 : 24; /* they are slow, and keep freed memory anyway */
    sound s = sound_make(16000, 1, 10 * 60 * 16000, true);
    for (size_t i = 2 * 16000; i < s.frames; i++) { /* but for 2 s of 10 minutes it is quiet */
        s.shorts[i] = (int16_t)(i % 7);
    }
    ser_stream_options options = stream_options(&s, 3.0, 3.0);
    options.gate = -60.0;
    options.smoothing = 5.0;
    begin(&options);
    int64_t computed = 0;
    (void)run_on(&s, 3600, &computed);
    const size_t bytes = bytes_in_use();
    const int64_t live = ser_mem_live();
    const int64_t last = run_on(&s, (hours - 1) * 3600, &computed);
    ck_assert_int_eq(last, hours * 1200 - 1);
    ck_assert_int_eq(computed, hours * 6);
    ck_assert_int_eq(ser_mem_live(), live);
    ck_assert_uint_eq(bytes_in_use(), bytes);
    sound_free(&s);
}
END_TEST

/* The same for what libsoxr holds: 20 minutes, with facts about 60000 blocks. */
START_TEST(resampling_takes_no_more_memory_with_time)
{
    sound s = sound_make(44100, 1, 441000, true);
    memset(s.shorts, 0, s.frames * sizeof *s.shorts);
    ser_stream_options options = stream_options(&s, 3.0, 0.5);
    options.gate = -60.0;
    begin(&options);
    int64_t computed = 0;
    (void)run_on(&s, 60, &computed);
    const size_t bytes = bytes_in_use();
    const int64_t live = ser_mem_live();
    const int64_t last = run_on(&s, SANITIZED ? 60 : 1140, &computed);
    ck_assert_int_ge(last, SANITIZED ? 230 : 2390);
    ck_assert_int_eq(ser_mem_live(), live);
    ck_assert_uint_eq(bytes_in_use(), bytes);
    sound_free(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stream_failures");
    TCase *tc = tcase_create("failures");
    tcase_add_checked_fixture(tc, setup, end);
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, options_out_of_range);
    tcase_add_test(tc, arguments_out_of_range);
    tcase_add_test(tc, results_of_any_size);
    tcase_add_test(tc, a_push_that_failed_has_not_happened);
    tcase_add_test(tc, nan_as_zero_is_flagged);
    tcase_add_test(tc, an_hour_may_wait);
    tcase_add_test(tc, after_the_flush_nothing_is_taken);
    tcase_add_test(tc, every_failing_allocation_is_survived);
    tcase_add_test(tc, nan_from_the_network_moves_nothing);
    tcase_add_test(tc, the_model_may_be_freed_first);
    tcase_add_test(tc, a_model_in_training_has_no_streams);
    tcase_add_test(tc, one_stream_serves_one_thread_at_a_time);
    tcase_add_test(tc, a_day_takes_no_more_memory_than_an_hour);
    tcase_add_test(tc, resampling_takes_no_more_memory_with_time);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
