/* SPDX-License-Identifier: MIT */
/* What tests of the public contract share. They see the installed headers and the shared library
 * only. */
#ifndef SER_TESTS_API_H
#define SER_TESTS_API_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ser/ser.h>

#define assert_ok(call)                                                                            \
    do {                                                                                           \
        int got_ = (call);                                                                         \
        ck_assert_msg(got_ == 0, "%s: %s: %s", #call, ser_status_name(got_), ser_error_message()); \
    } while (0)

#define assert_fails(call, status, part)                                                           \
    do {                                                                                           \
        int got_ = (call);                                                                         \
        ck_assert_msg(got_ == (status), "%s gave %s (%s), not %s", #call, ser_status_name(got_),   \
                      ser_error_message(), #status);                                               \
        ck_assert_msg(strstr(ser_error_message(), (part)) != NULL, "message \"%s\" lacks \"%s\"",  \
                      ser_error_message(), (part));                                                \
    } while (0)

/* A small committed model (tests/golden), and others beside it. */
static inline const char *api_golden(const char *name)
{
    static _Thread_local char path[4096];
    const char *root = getenv("SER_TEST_DATA");
    snprintf(path, sizeof path, "%s/golden/%s", root != NULL ? root : "tests", name);
    return path;
}

static inline const char *api_model(void)
{
    return api_golden("logmel.model.safetensors");
}

static inline ser_device *api_device(int32_t threads)
{
    ser_device *device;
    ser_device_options options;
    ser_device_options_init(&options, sizeof options);
    options.kind = SER_DEVICE_CPU;
    options.threads = threads;
    assert_ok(ser_device_open(&options, &device));
    return device;
}

/* A second of a rough tone, different for every seed. */
static inline ser_audio *api_clip(size_t count, unsigned seed)
{
    ser_audio *audio;
    unsigned state = seed * 2654435761U + 1U;
    float *samples = malloc(count * sizeof *samples);
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525U + 1013904223U;
        samples[i] = (float)(state >> 8) / 33554432.0F - 0.25F;
    }
    assert_ok(ser_audio_from_samples(samples, count, 1, 16000, NULL, &audio));
    free(samples);
    return audio;
}

static inline int api_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
