/* SPDX-License-Identifier: MIT */
/* What all test programs share: running a suite, comparing arrays, insisting on failures. */
#ifndef SER_TESTS_HARNESS_H
#define SER_TESTS_HARNESS_H

#include <check.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ser/ser.h>

#include "base/fail.h"
#include "base/mem.h"

/* Run every test case of `suite`; the exit status of main. */
int harness_run(Suite *suite);

/* Fail the test unless `call` gives `status` and its message contains `part`. */
#define assert_fails(call, status, part)                                                           \
    do {                                                                                           \
        int got_ = (call);                                                                         \
        ck_assert_msg(got_ == (status), "%s gave %s (%s), not %s", #call, ser_status_name(got_),   \
                      ser_fail_text(), #status);                                                   \
        ck_assert_msg(strstr(ser_fail_text(), (part)) != NULL, "message \"%s\" lacks \"%s\"",      \
                      ser_fail_text(), (part));                                                    \
    } while (0)

/* Fail the test unless `call` gives 0. */
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        int got_ = (call);                                                                         \
        ck_assert_msg(got_ == 0, "%s: %s: %s", #call, ser_status_name(got_), ser_fail_text());     \
    } while (0)

/* Largest |x - y| divided by the largest |y| (1 if that is 0); infinite if either holds a NaN. */
double harness_relative_error(const float *x, const float *y, size_t count);
double harness_relative_error64(const float *x, const double *y, size_t count);

/* Deterministic uniform numbers in [-1, 1). */
float harness_random(uint64_t *state);
void harness_fill(float *x, size_t count, uint64_t seed, float scale);

/* "<$SER_TEST_DATA>/name" in a static buffer of the calling thread. */
const char *harness_data(const char *name);

/* A fresh temporary directory, removed with all it holds at exit; a file path within it, in one of
 * a few rotating static buffers. */
const char *harness_tmpdir(void);
const char *harness_tmpfile(const char *name);

#endif
