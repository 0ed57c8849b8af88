/* SPDX-License-Identifier: MIT */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

enum { LINE_SIZE = 1024 };

static ser_log_handler log_handler; /* set before other calls, see ser_log_set_handler() */
static void *log_user;
static atomic_int log_level = SER_LOG_WARNING;

void ser_log_handler_set(ser_log_handler handler, void *user)
{
    log_handler = handler;
    log_user = user;
}

void ser_log_level_set(int32_t level)
{
    atomic_store(&log_level, level);
}

void ser_log(int32_t level, const char *format, ...)
{
    if (log_handler == NULL || level < atomic_load(&log_level)) {
        return;
    }
    char line[LINE_SIZE];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (length >= 0) {
        log_handler(level, line, log_user);
    }
}
