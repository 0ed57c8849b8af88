/* SPDX-License-Identifier: MIT */
/* How loud it is: levels every 50 ms of sound, and the line that shows them. */
#ifndef SER_TOOLS_RECORD_METER_H
#define SER_TOOLS_RECORD_METER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "terminal.h"

/* In place of minus infinity, for digital silence. */
#define RECORD_METER_FLOOR (-100.0)

/* 50 ms of sound, all channels together. */
typedef struct record_level {
    double time;    /* seconds from the first sample to the end of the 50 ms */
    double peak_db; /* largest magnitude, dBFS */
    double rms_db;  /* root mean square, dBFS */
    double low;     /* smallest and largest sample, full scale 1 */
    double high;
    int32_t clipped; /* samples at full scale */
} record_level;

typedef struct record_meter {
    int32_t rate;
    int32_t channels;
    int64_t frames; /* taken in */
    int32_t low;    /* of the 50 ms in hand */
    int32_t high;
    double squares;
    int32_t clipped;
    int32_t filled; /* frames in hand */
    record_level last;
    double held;     /* dBFS: the largest peak of the last time */
    double held_at;  /* seconds of sound */
    double sound_at; /* when it was last loud enough not to be called silence */
    double clipped_at;
    int64_t clipped_samples; /* of all */
    int64_t samples;
} record_meter;

void record_meter_start(record_meter *m, int32_t rate, int32_t channels);

/* Take in up to `frames` frames, ending with a level: how many were taken; `*level` says whether
 * m->last is new. */
size_t record_meter_take(record_meter *m, const int16_t *samples, size_t frames, bool *level);

/* Nothing but digital silence or faint noise for two seconds. */
bool record_meter_silent(const record_meter *m);

/* A sample at full scale in the last second. */
bool record_meter_clipping(const record_meter *m);

/* "CLOCK |####  | | peak -12 dBFS" or what fits in `columns`, with a warning if there is reason for
 * one. `line` needs RECORD_METER_LINE bytes. */
enum { RECORD_METER_LINE = 512 };
void record_meter_line(const record_meter *m, const terminal *screen, const char *clock,
                       char *line);

#endif
