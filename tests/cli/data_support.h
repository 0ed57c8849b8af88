/* SPDX-License-Identifier: MIT */
/* What the tests of data sets share: small trees of files, and what a call says to the user. */
#ifndef SER_TESTS_DATA_SUPPORT_H
#define SER_TESTS_DATA_SUPPORT_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataset.h"

int support_run(Suite *suite);

/* "<temporary directory>/name" in one of a few rotating buffers; the directory goes at exit. */
const char *support_path(const char *name);

/* Write a file, with the folders above it; an empty one is enough where names matter. */
void support_write(const char *name, const void *bytes, size_t size);
void support_text(const char *name, const char *text);

/* A mono PCM16 WAV of `seconds` with a modulated tone; clips of one `seed` and `gain` are equal.
 * A gain of 0 is silence. */
void support_wav(const char *name, int rate, double seconds, uint64_t seed, double gain);

/* Everything that is written to standard error until support_release, which returns it in a static
 * buffer. */
void support_capture(void);
const char *support_release(void);

/* `call` gives `code`, and what it says contains `part` ("" stands for nothing at all). */
#define assert_says(call, code, part)                                                              \
    do {                                                                                           \
        support_capture();                                                                         \
        int got_ = (call);                                                                         \
        const char *said_ = support_release();                                                     \
        ck_assert_msg(got_ == (code), "%s gave %d, not %d; it said: %s", #call, got_, (code),      \
                      said_);                                                                      \
        ck_assert_msg((part)[0] == '\0' ? said_[0] == '\0' : strstr(said_, (part)) != NULL,        \
                      "\"%s\" is not in: %s", (part), said_);                                      \
    } while (0)

/* The index of a class, or -1. */
int support_label(const dataset *ds, const char *name);

/* A clip of a corpus "made", added by hand: what splits and leaks look at. */
void support_clip(dataset *ds, const char *corpus, const char *speaker, const char *label,
                  const char *path);

#endif
