/* SPDX-License-Identifier: MIT */
/*
 * The audio file that a recording becomes: 16-bit WAV or FLAC by its name. It grows as FILE.part,
 * which is a valid file at any moment (of WAV the header is brought up to date once a second), and
 * gets its name at the end. Nothing that was recorded is removed, whatever ends the recording.
 */
#ifndef SER_TOOLS_RECORDING_H
#define SER_TOOLS_RECORDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct recording_setup {
    const char *path;
    bool force;   /* replace files that are there */
    int32_t rate; /* Hz */
    int32_t channels;
    int64_t frames; /* the most that will come; 0: not known */
} recording_setup;

typedef struct recording recording;

/* Before there is sound: can this file be made? CLI_CONTINUE, or an exit code after a message. */
int recording_check(const char *path, bool force);

/* The functions below answer 0, or an exit code after a message. */
int recording_open(const recording_setup *setup, recording **out);

/* After a failure (a full disk) no more is taken. */
int recording_write(recording *r, const int16_t *samples, size_t frames);

/* Give the file its name, or remove it if nothing was recorded. `*kept` is the name under which it
 * is to be found, or NULL; the caller frees. `*seconds` are in it. Frees the recording. */
int recording_finish(recording **r, char **kept, double *seconds);

#endif
