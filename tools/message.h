/* SPDX-License-Identifier: MIT */
/* Everything that a tool says to a person on standard error, and its exit codes. */
#ifndef SER_TOOLS_MESSAGE_H
#define SER_TOOLS_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Exit codes of all tools; 128 + N after signal N. */
enum {
    MESSAGE_EXIT_OK = 0,
    MESSAGE_EXIT_SOME = 1,    /* some inputs failed, the others are done */
    MESSAGE_EXIT_USAGE = 2,   /* the command line makes no sense */
    MESSAGE_EXIT_IO = 3,      /* a file cannot be opened, read or written */
    MESSAGE_EXIT_DEVICE = 4,  /* no such device, or out of memory */
    MESSAGE_EXIT_NUMERIC = 5, /* the network gave NaN or infinity */
    MESSAGE_EXIT_CAPTURE = 6, /* the microphone was lost */
    MESSAGE_EXIT_DATA = 7     /* a bad model or bad audio */
};

/* The exit code that belongs to a SER_ERR_*. */
int message_exit_code(int status);

/* The program's name in front of every line, and how much to say: see message_quiet. */
void message_init(const char *program);

/* Errors only (-1), warnings too (0, the default), or notes as well (1). */
void message_set_verbosity(int verbosity);
int message_verbosity(void);

/* "PROGRAM: text". Control characters in the text are made visible. Any thread. */
__attribute__((format(printf, 1, 2))) void message_error(const char *format, ...);
__attribute__((format(printf, 1, 2))) void message_warning(const char *format, ...);
__attribute__((format(printf, 1, 2))) void message_note(const char *format, ...);

/* "PROGRAM: text" and a line that points to --help; returns MESSAGE_EXIT_USAGE. */
__attribute__((format(printf, 1, 2))) int message_usage(const char *format, ...);

/* A ser_log_handler. */
void message_log(int32_t level, const char *text, void *user);

/* A line that stays at the bottom of the terminal: "" removes it. It is taken away before a
 * message and before message_clear(), and comes back with the next call. Any thread. */
void message_status(const char *line);
void message_clear(void);

/* The same with several lines, on another stream: each call draws over the last one's lines. All
 * must be narrower than the terminal, and their number smaller than its rows. */
void message_block(FILE *stream, const char *lines);

/* Leave what is shown where it is and go on below it. */
void message_keep(void);

#endif
