/* SPDX-License-Identifier: MIT */
#include "record_meter.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LEVELS_PER_SECOND = 20, BAR_LIMIT = 40, BAR_LEAST = 6 };

#define SILENCE_DB       (-60.0) /* peaks below are no speech, but the noise of a microphone */
#define SILENCE_SECONDS  2.0
#define CLIPPING_SECONDS 1.0
#define HOLD_SECONDS     1.5
#define FULL_SCALE       32768.0

void record_meter_start(record_meter *m, int32_t rate, int32_t channels)
{
    *m = (record_meter){.rate = rate,
                        .channels = channels,
                        .low = INT16_MAX,
                        .high = INT16_MIN,
                        .held = RECORD_METER_FLOOR,
                        .clipped_at = -CLIPPING_SECONDS};
    m->last = (record_level){.peak_db = RECORD_METER_FLOOR, .rms_db = RECORD_METER_FLOOR};
}

static double decibels(double magnitude)
{
    return magnitude > 0.0 ? fmax(20.0 * log10(magnitude), RECORD_METER_FLOOR) : RECORD_METER_FLOOR;
}

static void add(record_meter *m, const int16_t *samples, size_t count)
{
    int64_t squares = 0; /* 50 ms of 1024 channels at 768 kHz stay below 2^63 */
    for (size_t i = 0; i < count; i++) {
        int32_t x = samples[i];
        squares += (int64_t)x * x;
        m->low = x < m->low ? x : m->low;
        m->high = x > m->high ? x : m->high;
        m->clipped += x >= INT16_MAX || x <= INT16_MIN;
    }
    m->squares += (double)squares;
}

static void finish_level(record_meter *m)
{
    double count = (double)m->filled * (double)m->channels;
    record_level *l = &m->last;
    l->time = (double)m->frames / (double)m->rate;
    l->low = (double)m->low / FULL_SCALE;
    l->high = (double)m->high / FULL_SCALE;
    l->peak_db = decibels(fmax(-l->low, l->high));
    l->rms_db = decibels(sqrt(m->squares / count) / FULL_SCALE);
    l->clipped = m->clipped;
    if (l->peak_db >= m->held || l->time - m->held_at > HOLD_SECONDS) {
        m->held = l->peak_db;
        m->held_at = l->time;
    }
    if (l->peak_db >= SILENCE_DB) {
        m->sound_at = l->time;
    }
    if (l->clipped > 0) {
        m->clipped_at = l->time;
    }
    m->clipped_samples += m->clipped;
    m->samples += (int64_t)count;
    m->low = INT16_MAX;
    m->high = INT16_MIN;
    m->squares = 0.0;
    m->clipped = 0;
    m->filled = 0;
}

size_t record_meter_take(record_meter *m, const int16_t *samples, size_t frames, bool *level)
{
    int32_t whole = m->rate / LEVELS_PER_SECOND;
    size_t wanted = (size_t)(whole - m->filled);
    size_t taken = frames < wanted ? frames : wanted;
    add(m, samples, taken * (size_t)m->channels);
    m->frames += (int64_t)taken;
    m->filled += (int32_t)taken;
    *level = m->filled == whole;
    if (*level) {
        finish_level(m);
    }
    return taken;
}

bool record_meter_silent(const record_meter *m)
{
    return m->last.time - m->sound_at >= SILENCE_SECONDS;
}

bool record_meter_clipping(const record_meter *m)
{
    return m->last.time - m->clipped_at < CLIPPING_SECONDS;
}

/* Place on a scale from -60 dBFS to 0. */
static double place(double db)
{
    return fmin(fmax(1.0 + db / 60.0, 0.0), 1.0);
}

/* The bar with a mark where the highest peak of the last time was. */
static void draw_bar(const record_meter *m, const terminal *screen, int columns, char *text)
{
    char bar[3 * BAR_LIMIT + 1];
    terminal_bar(screen, place(m->last.peak_db), columns, bar);
    int mark = (int)lround(place(m->held) * columns) - 1;
    const char *from = bar;
    for (int i = 0; i < columns; i++) {
        size_t bytes = (unsigned char)*from < 0x80 ? 1 : 3;
        if (i == mark && *from == ' ') {
            text += sprintf(text, "%s", screen->unicode ? "\xe2\x94\x82" : "!");
        } else {
            memcpy(text, from, bytes);
            text += bytes;
        }
        from += bytes;
    }
    *text = '\0';
}

void record_meter_line(const record_meter *m, const terminal *screen, const char *clock, char *line)
{
    char right[64] = "";
    char bar[3 * BAR_LIMIT + 1];
    bool narrow = screen->columns < 60;
    if (record_meter_silent(m)) {
        snprintf(right, sizeof right, narrow ? "silence" : "no sound for %.0f s: muted?",
                 floor(m->last.time - m->sound_at));
    } else if (record_meter_clipping(m)) {
        snprintf(right, sizeof right, narrow ? "CLIPPED" : "CLIPPED: turn it down");
    } else if (m->last.time > 0.0 && m->held <= RECORD_METER_FLOOR) {
        snprintf(right, sizeof right, "no sound");
    } else if (m->last.time > 0.0) {
        snprintf(right, sizeof right, narrow ? "%.0f dB" : "peak %.0f dBFS", m->held);
    }
    int left = screen->columns - 1 - (int)strlen(clock) - 4 - (narrow ? 8 : 28);
    int columns = left < BAR_LEAST ? BAR_LEAST : left > BAR_LIMIT ? BAR_LIMIT : left;
    draw_bar(m, screen, columns, bar);
    snprintf(line, RECORD_METER_LINE, "%s |%s| %s", clock, bar, right);
    terminal_cut(line, screen->columns - 1);
}
