/* SPDX-License-Identifier: MIT */
/* Bytes of a file, of standard input or of memory, for codecs that read and seek. */
#ifndef SER_AUDIO_SOURCE_H
#define SER_AUDIO_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SER_SOURCE_BUFFER = 1 << 16 }; /* bytes read ahead from a file */

/* What a stream that cannot seek may fill before it is refused. */
struct ser_spool_limits {
    size_t memory; /* bytes held in memory; more goes to an unlinked temporary file */
    int64_t total; /* bytes altogether */
};

struct ser_source {
    char *name;                  /* owned; for messages */
    const unsigned char *memory; /* all bytes, or NULL when they come from `fd` */
    unsigned char *owned;        /* spooled bytes behind `memory`, or NULL */
    int fd;                      /* owned, or -1 */
    int64_t size;                /* bytes when it was opened; a file may change afterwards */

    /* What a codec sees: the prefix, which is not owned, then the bytes from `begin` to `end`. */
    const unsigned char *prefix;
    int64_t prefix_size;
    int64_t begin, end;
    int64_t position; /* of the codec, from the start of the prefix */

    unsigned char *buffer; /* read-ahead for `fd` */
    int64_t buffer_start;
    size_t buffer_count;

    int error; /* errno of the first read that failed, else 0 */
    int64_t error_position;
};

/* Open a regular file, or spool a FIFO or standard input ("-", "/dev/stdin"). Directories and
 * devices are refused, and so is a stream whose first bytes are no supported audio, unless
 * `any_format`. */
int ser_source_open(struct ser_source *source, const char *path, bool any_format);

/* The caller's bytes, which must outlive the source. */
int ser_source_from_memory(struct ser_source *source, const void *data, size_t size);

/* Read `fd`, which stays open, to its end into `source`, whose name is set. */
int ser_source_spool(struct ser_source *source, int fd, bool any_format,
                     const struct ser_spool_limits *limits);

/* Up to `size` bytes at `offset` of the whole source: fewer at its end or after an error, which is
 * then in `source->error`. */
size_t ser_source_read_at(struct ser_source *source, int64_t offset, void *bytes, size_t size);

/* Show a codec only [begin, end), from its start and without a prefix. */
void ser_source_window(struct ser_source *source, int64_t begin, int64_t end);

/* Bytes that a codec sees. */
int64_t ser_source_visible(const struct ser_source *source);

/* Up to `size` bytes at the codec's position, which moves on. */
size_t ser_source_pull(struct ser_source *source, void *bytes, size_t size);

/* SER_ERR_IO with the recorded error and its position. */
int ser_source_failure(const struct ser_source *source);

void ser_source_close(struct ser_source *source);

#endif
