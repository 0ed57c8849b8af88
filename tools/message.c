/* SPDX-License-Identifier: MIT */
#include "message.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ser/common.h>

#include "text.h"

static const char *program_name = "ser";
static int verbosity_level;
static FILE *status_stream; /* where the line or block at the bottom is */
static size_t status_rows;  /* its rows; 0: there is none */
static pthread_mutex_t terminal_lock = PTHREAD_MUTEX_INITIALIZER;

int message_exit_code(int status)
{
    switch (status) {
    case SER_OK: return MESSAGE_EXIT_OK;
    case SER_ERR_ARGUMENT: return MESSAGE_EXIT_USAGE;
    case SER_ERR_IO: return MESSAGE_EXIT_IO;
    case SER_ERR_DEVICE:
    case SER_ERR_MEMORY: return MESSAGE_EXIT_DEVICE;
    case SER_ERR_NUMERIC: return MESSAGE_EXIT_NUMERIC;
    default: return MESSAGE_EXIT_DATA;
    }
}

void message_init(const char *program)
{
    program_name = program;
}

void message_set_verbosity(int verbosity)
{
    verbosity_level = verbosity;
}

int message_verbosity(void)
{
    return verbosity_level;
}

static void erase_status(void)
{
    if (status_rows == 1) {
        fputs("\r\033[K", status_stream);
    } else if (status_rows > 1) {
        fprintf(status_stream, "\r\033[%zuA\033[J", status_rows - 1);
    }
    if (status_rows > 0) {
        fflush(status_stream);
    }
    status_rows = 0;
}

/* One call of fprintf per line, so that lines of several processes do not mix. */
static void print_line(const char *kind, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    size_t size = length > 0 ? (size_t)length + 1 : 1;
    char *raw = calloc(size, 1); /* not text_alloc, which reports through here */
    if (raw == NULL) {
        return;
    }
    vsnprintf(raw, size, format, args);
    char *line = text_printable(raw);
    pthread_mutex_lock(&terminal_lock);
    erase_status();
    fprintf(stderr, "%s: %s%s\n", program_name, kind, line);
    fflush(stderr);
    pthread_mutex_unlock(&terminal_lock);
    free(line);
    free(raw);
}

void message_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_line("", format, args);
    va_end(args);
}

void message_warning(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (verbosity_level >= 0) {
        print_line("warning: ", format, args);
    }
    va_end(args);
}

void message_note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (verbosity_level > 0) {
        print_line("", format, args);
    }
    va_end(args);
}

int message_usage(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    print_line("", format, args);
    va_end(args);
    fprintf(stderr, "Try '%s --help' for all options.\n", program_name);
    return MESSAGE_EXIT_USAGE;
}

void message_log(int32_t level, const char *text, void *user)
{
    (void)user;
    if (level >= SER_LOG_ERROR) {
        message_error("%s", text);
    } else if (level >= SER_LOG_WARNING) {
        message_warning("%s", text);
    } else {
        message_note("%s", text);
    }
}

void message_status(const char *line)
{
    pthread_mutex_lock(&terminal_lock);
    erase_status();
    if (line[0] != '\0') {
        fputs(line, stderr);
        status_stream = stderr;
        status_rows = 1;
    }
    fflush(stderr);
    pthread_mutex_unlock(&terminal_lock);
}

void message_clear(void)
{
    message_status("");
}

/* Line over line, the rest of each erased: without a moment at which nothing is shown. */
void message_block(FILE *stream, const char *lines)
{
    pthread_mutex_lock(&terminal_lock);
    if (status_stream != stream) {
        erase_status();
    }
    if (status_rows > 1) {
        fprintf(stream, "\r\033[%zuA", status_rows - 1);
    } else if (status_rows == 1) {
        fputs("\r", stream);
    }
    status_stream = stream;
    status_rows = 1;
    for (const char *end; (end = strchr(lines, '\n')) != NULL; lines = end + 1) {
        fprintf(stream, "%.*s\033[K\n", (int)(end - lines), lines);
        status_rows++;
    }
    fprintf(stream, "%s\033[J", lines);
    fflush(stream);
    pthread_mutex_unlock(&terminal_lock);
}

void message_keep(void)
{
    pthread_mutex_lock(&terminal_lock);
    if (status_rows > 0) {
        fputs("\n", status_stream);
        fflush(status_stream);
        status_rows = 0;
    }
    pthread_mutex_unlock(&terminal_lock);
}
