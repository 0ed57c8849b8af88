/* SPDX-License-Identifier: MIT */
/* Replaces a file as a whole: at any moment its path holds the complete old or the complete new
 * one. */
#ifndef SER_MODEL_WRITER_H
#define SER_MODEL_WRITER_H

#include <stddef.h>

typedef struct ser_writer {
    int fd;        /* of the temporary file; -1: none */
    int directory; /* that holds both; -1: none */
    char *path;    /* owned; the target, for messages and its last component */
    unsigned mode; /* permissions of the file to be replaced; 0: there is none */
    char temporary[64];
} ser_writer;

/* Create a temporary file in the directory of `path`, with the permissions of the file that is there.
 * Only a regular
 * file or a link (itself, not what it names) is replaced. On failure nothing is left behind. */
int ser_writer_open(const char *path, ser_writer *writer);

int ser_writer_append(ser_writer *writer, const void *data, size_t size);

/* Flush to the disk, rename over the target, flush the directory. Closes the writer in any case. */
int ser_writer_commit(ser_writer *writer);

/* Remove the temporary file and close; nothing after a commit. */
void ser_writer_abort(ser_writer *writer);

#endif
