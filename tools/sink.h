/* SPDX-License-Identifier: MIT */
/* Where results go: standard output, or a file that appears whole or not at all. */
#ifndef SER_TOOLS_SINK_H
#define SER_TOOLS_SINK_H

#include <stddef.h>
#include <stdio.h>

/* What is printed to `stream` is held in memory until the next flush: lines leave whole, and a
 * failure to write has its own errno. */
typedef struct sink {
    FILE *stream;
    char *buffer;
    size_t size;
    int fd;
    char *path;      /* final name; NULL: standard output */
    char *temporary; /* NULL: written in place (a device, a pipe) */
} sink;

/* Open for writing; `path` NULL or "-" is standard output. A regular file is replaced, through a
 * temporary file beside it, when the sink is committed; links are followed. Failures of these
 * functions are reported to the user; their answers are 0 or MESSAGE_EXIT_IO. */
int sink_open(sink *s, const char *path);

/* Hand on what was written so far. A reader that has gone (EPIPE) is no reason for a message. */
int sink_flush(sink *s);

/* In place of a flush, for who writes it himself: what was printed so far, until sink_empty(). */
int sink_held(sink *s, const char **text, size_t *size);
void sink_empty(sink *s);

/* Flush to the disk and give the file its name. */
int sink_commit(sink *s);

/* Free what the sink holds and, without a commit before it, remove the temporary file. */
void sink_discard(sink *s);

#endif
