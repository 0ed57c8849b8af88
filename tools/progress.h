/* SPDX-License-Identifier: MIT */
/* How far a long job is: a bar with rate and time left on a terminal, else a line now and then. */
#ifndef SER_TOOLS_PROGRESS_H
#define SER_TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "terminal.h"

typedef struct progress {
    bool enabled;
    terminal screen;
    const char *unit; /* what is counted, such as "files" */
    int64_t total;    /* 0: not known */
    int64_t done;
    double interval; /* seconds between lines where there is no terminal */
    double started;
    double drawn; /* when the bar or line was last written */
    double rate;  /* units per second, smoothed */
    double rated; /* when `rate` was last updated */
    int64_t rated_done;
} progress;

/* `fd` is where messages go. */
void progress_start(progress *p, bool enabled, int fd, const char *unit, int64_t total);

/* Count; draws at most ten times a second. `detail` (may be NULL) ends the line. */
void progress_update(progress *p, int64_t done, const char *detail);

/* Take the bar away. */
void progress_end(progress *p);

#endif
