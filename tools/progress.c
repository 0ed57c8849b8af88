/* SPDX-License-Identifier: MIT */
#include "progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "message.h"

enum { BAR = 20, LINE = 160, INTERVAL = 30 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void progress_start(progress *p, bool enabled, int fd, const char *unit, int64_t total)
{
    double time = now();
    *p = (progress){.enabled = enabled,
                    .screen = terminal_probe(fd, TERMINAL_COLOR_NEVER),
                    .unit = unit,
                    .total = total,
                    .interval = INTERVAL,
                    .started = time,
                    .drawn = time,
                    .rated = time};
}

/* Exponential mean with a time constant of five seconds: follows changes, does not flicker. */
static void measure(progress *p, double time)
{
    double elapsed = time - p->rated;
    if (elapsed < 0.1) {
        return;
    }
    double current = (double)(p->done - p->rated_done) / elapsed;
    double weight = p->rated_done == 0 ? 1.0 : 1.0 - exp(-elapsed / 5.0);
    p->rate += weight * (current - p->rate);
    p->rated = time;
    p->rated_done = p->done;
}

static void format_clock(char text[32], double seconds)
{
    long s = lround(fmin(seconds, 359999.0));
    snprintf(text, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

static void format_line(const progress *p, double time, const char *detail, char line[LINE])
{
    char bar[3 * BAR + 1] = "";
    char clock[32];
    char left[48] = "";
    if (p->total > 0) {
        terminal_bar(&p->screen, (double)p->done / (double)p->total, BAR, bar);
        if (p->rate > 0.0) {
            format_clock(clock, (double)(p->total - p->done) / p->rate);
            snprintf(left, sizeof left, ", %s left", clock);
        }
    }
    format_clock(clock, time - p->started);
    int used = p->total > 0 ? snprintf(line, LINE, "|%s| %lld/%lld", bar, (long long)p->done,
                                       (long long)p->total)
                            : snprintf(line, LINE, "%lld", (long long)p->done);
    snprintf(line + used, (size_t)(LINE - used), " %s, %.1f/s, %s%s%s%s", p->unit, p->rate, clock,
             left, detail != NULL ? ", " : "", detail != NULL ? detail : "");
}

void progress_update(progress *p, int64_t done, const char *detail)
{
    double time = now();
    p->done = done;
    measure(p, time);
    if (!p->enabled || time - p->drawn < (p->screen.interactive ? 0.1 : p->interval)) {
        return;
    }
    char line[LINE];
    format_line(p, time, detail, line);
    p->drawn = time;
    if (p->screen.interactive) {
        terminal_cut(line, p->screen.columns - 1); /* a line that wraps could not be erased */
        message_status(line);
    } else {
        message_error("%s", line);
    }
}

void progress_end(progress *p)
{
    if (p->enabled) {
        message_clear();
    }
}
