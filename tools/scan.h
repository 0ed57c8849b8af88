/* SPDX-License-Identifier: MIT */
/* Every clip decoded once, by a few threads: facts, a hash of the samples, what is unreadable. */
#ifndef SER_TOOLS_SCAN_H
#define SER_TOOLS_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ser/audio.h>

#include "dataset.h"

enum { SCAN_PRINT_WORDS = 4 };

/* Facts about one clip. */
typedef struct scan_entry {
    uint64_t hash;                    /* XXH3 of the 16 kHz samples; equal audio, equal hash */
    uint64_t print[SCAN_PRINT_WORDS]; /* contour of level and zero crossings: near copies differ
                                         in few bits; all zero: too short or silent */
    const char *error;                /* in the scan's pool; NULL: readable */
    uint32_t samples;                 /* at 16 kHz, saturated */
    int32_t status;                   /* 0 or the SER_ERR_* of decoding */
    int32_t sampling_rate;            /* of the file */
    int32_t channels;
    int32_t flags; /* SER_AUDIO_* */
    float clipped_ratio;
    float peak;
    float rms;
    float dc_offset;
    bool done; /* false: the scan was stopped before */
} scan_entry;

typedef struct scan {
    scan_entry *entries; /* [count], in the order of the clips */
    size_t count;
    size_t failed;
    intern_pool strings;
} scan;

typedef struct scan_options {
    ser_audio_options audio; /* offset and length are set per clip */
    size_t threads;          /* 0: one per CPU, at most 16 */
    void (*progress)(size_t done, size_t total, void *user); /* on the calling thread, up to ten
                                                                times a second and at the end */
    void *user;
    int (*stop)(void); /* not 0: end soon; such as stop_requested; may be NULL */
} scan_options;

/* Defaults for everything; the audio options of ser_audio_options_init. */
void scan_options_init(scan_options *options);

/* Seconds of a clip. */
double scan_seconds(const scan_entry *entry);

/* Decode all clips. SER_ERR_CANCELLED if stopped, else 0: files that fail are entries with a
 * status. */
int scan_run(const dataset *ds, const scan_options *options, scan *out);

/* Clips that cannot be decoded: an error that lists them, or (`skip`) they leave the data set and
 * the scan and are noted in ds->skipped, with a warning. */
int scan_check(scan *s, dataset *ds, bool skip);

/* One number for the data of a run: names of files, labels, stretches, audio, parts (may be NULL).
 * Does not depend on where the corpora lie. */
uint64_t scan_digest(const scan *s, const dataset *ds, const uint8_t *parts);

void scan_free(scan *s);

#endif
