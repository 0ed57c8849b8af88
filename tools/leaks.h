/* SPDX-License-Identifier: MIT */
/* What makes a reported number too good: things that stand in two of train, validation and test. */
#ifndef SER_TOOLS_LEAKS_H
#define SER_TOOLS_LEAKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "dataset.h"
#include "scan.h"

typedef enum leak_kind {
    LEAK_SPEAKER,    /* a speaker in two parts */
    LEAK_REPETITION, /* takes of one speaker, text, label and intensity in two parts */
    LEAK_FILE,       /* overlapping stretches of one file in two parts */
    LEAK_AUDIO,      /* the same samples in two parts */
    LEAK_ALIKE,  /* nearly the same audio in two parts (another encoding, gain); reported only */
    LEAK_LABELS, /* the same or nearly the same audio under two labels; reported only */
    LEAK_KINDS
} leak_kind;

enum { LEAK_EXAMPLES = 3 };

typedef struct leak_finding {
    size_t count;  /* speakers, groups of takes, files, or groups of equal audio */
    size_t clips;  /* clips in them */
    bool refusing; /* the run should not go on */
    size_t examples[LEAK_EXAMPLES][2]; /* pairs of clips in different parts (or labels) */
    size_t example_count;
} leak_finding;

typedef struct leak_report {
    leak_finding findings[LEAK_KINDS]; /* count 0: nothing found */
    size_t refusing;                   /* findings that refuse */
    bool audio_checked;                /* false: there was no scan */
} leak_report;

/* Short names for JSON: "speaker", "repetition", "file", "audio", "alike", "labels". */
extern const char *const leak_names[LEAK_KINDS];

/* `parts`: a dataset_part per clip. Clips that are unused leak nothing. `s` NULL: without audio. */
void leaks_find(const dataset *ds, const uint8_t *parts, const scan *s, leak_report *report);

/* "12 speakers are in two parts: 04 (train: a.wav, test: b.wav)"; the caller frees. */
char *leaks_describe(const leak_report *report, leak_kind kind, const dataset *ds,
                     const uint8_t *parts);

/* Report all findings as messages; 0, or MESSAGE_EXIT_DATA if some refuse and `allow` is false
 * (true: --allow-leaks, and --split random, whose protocol says that it is speaker-dependent). */
int leaks_check(const leak_report *report, const dataset *ds, const uint8_t *parts, bool allow);

#endif
