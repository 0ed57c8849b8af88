/* SPDX-License-Identifier: MIT */
/*
 * Untrusted files: opened without blocking, regular files only, read with pread into owned memory.
 * Nothing is mapped, because a mapping of a file that is truncated meanwhile kills the process.
 */
#ifndef SER_MODEL_FILE_H
#define SER_MODEL_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes to read at any offset: a file, or the caller's memory when fd is negative. */
typedef struct ser_file {
    int fd;
    const unsigned char *memory; /* borrowed */
    uint64_t size;
    char *name; /* owned; stands in messages */
} ser_file;

/* Fail with SER_ERR_IO, "name: what: " and the system's reason (errno). */
int ser_file_fail(const char *name, const char *what);

/* Open `path`. Of a directory only `*directory` is set, to a descriptor; else that is -1. */
int ser_file_open(const char *path, ser_file *file, int *directory);

enum {
    SER_FILE_OPTIONAL = 1,  /* a missing file is no error: fd is -1 and name NULL */
    SER_FILE_NO_SYMLINK = 2 /* the name comes from an untrusted file */
};

/* Open a file within `directory`, whose path `parent` stands in messages. */
int ser_file_open_at(int directory, const char *parent, const char *base, int flags,
                     ser_file *file);

/* Borrow memory as a file. */
int ser_file_wrap(const void *data, size_t size, const char *name, ser_file *file);

static inline bool ser_file_is_open(const ser_file *file)
{
    return file->name != NULL;
}

/* Exactly `size` bytes from `offset`; IO if the file has become shorter. */
int ser_file_read(const ser_file *file, uint64_t offset, void *buffer, size_t size);

/* The whole file as text with a NUL behind it, to be freed with ser_mem_free; CAPACITY above
 * `limit`. */
int ser_file_read_text(const ser_file *file, size_t limit, char **text, size_t *length);

/* Close; safe on a zeroed or closed one. */
void ser_file_close(ser_file *file);

#endif
