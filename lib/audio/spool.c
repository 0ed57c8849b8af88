/* SPDX-License-Identifier: MIT */
/* Streams that cannot seek: into memory first, and from a certain size on into a temporary file. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "audio/container.h"
#include "audio/source.h"
#include "base/fail.h"
#include "base/mem.h"

enum { PIECE = 1 << 16 };

struct spool {
    struct ser_source *source;
    const struct ser_spool_limits *limits;
    unsigned char *bytes; /* all bytes, or with a file those not yet in it */
    size_t count, capacity;
    int file; /* or -1 */
    int64_t total;
};

static int io_failure(const struct spool *spool, const char *what)
{
    return ser_fail(SER_ERR_IO, "%s: %s: %s", spool->source->name, what, strerror(errno));
}

/* Waits for data or until the last writer has gone, also if the descriptor does not block. */
static ssize_t read_some(int fd, void *bytes, size_t size)
{
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, -1) < 0 && errno != EINTR) {
            return -1;
        }
        ssize_t got = read(fd, bytes, size);
        if (got >= 0 || (errno != EINTR && errno != EAGAIN)) {
            return got;
        }
    }
}

static int write_all(struct spool *spool)
{
    size_t done = 0;
    while (done < spool->count) {
        ssize_t put = write(spool->file, spool->bytes + done, spool->count - done);
        if (put < 0 && errno != EINTR) {
            return io_failure(spool, "no temporary copy");
        }
        done += put > 0 ? (size_t)put : 0;
    }
    spool->count = 0;
    return 0;
}

static int named_temporary(const char *directory)
{
    char path[64];
    snprintf(path, sizeof path, "%s/ser-XXXXXX", directory);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0) {
        (void)unlink(path);
    }
    return fd;
}

/* /var/tmp before /tmp, which is often a file system in memory. */
static int open_temporary(void)
{
    static const char *const directories[] = {"/var/tmp", "/tmp"};
    int fd = -1;
    for (size_t i = 0; i < sizeof directories / sizeof directories[0] && fd < 0; i++) {
        fd = open(directories[i], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd < 0) {
            fd = named_temporary(directories[i]);
        }
    }
    return fd;
}

/* Room for another piece: by growing up to the limit, then by moving what there is to a file. */
static int make_room(struct spool *spool)
{
    if (spool->capacity - spool->count >= PIECE) {
        return 0;
    }
    if (spool->capacity < spool->limits->memory) {
        size_t capacity = spool->capacity == 0 ? 4 * (size_t)PIECE : 2 * spool->capacity;
        int status = ser_mem_grow(&spool->bytes, spool->count, capacity, 1);
        if (status == 0) {
            spool->capacity = capacity;
        }
        return status;
    }
    if (spool->file < 0) {
        spool->file = open_temporary();
    }
    return spool->file >= 0 ? write_all(spool) : io_failure(spool, "no temporary file");
}

static int take_all(struct spool *spool, int fd, bool any_format)
{
    bool checked = any_format;
    for (;;) {
        int status = make_room(spool);
        if (status != 0) {
            return status;
        }
        ssize_t got = read_some(fd, spool->bytes + spool->count, PIECE);
        if (got < 0) {
            return io_failure(spool, "reading failed");
        }
        if (got == 0) {
            return 0;
        }
        spool->count += (size_t)got;
        spool->total += got;
        if (spool->total > spool->limits->total) {
            return ser_fail(SER_ERR_CAPACITY,
                            "%s: more than %lld bytes; save it as a file and read that",
                            spool->source->name, (long long)spool->limits->total);
        }
        /* An endless stream of something else must not fill the disk first. */
        if (!checked && spool->count >= SER_CONTAINER_HEAD) {
            checked = true;
            status = ser_container_check(spool->source->name, spool->bytes, spool->count);
            if (status != 0) {
                return status;
            }
        }
    }
}

int ser_source_spool(struct ser_source *source, int fd, bool any_format,
                     const struct ser_spool_limits *limits)
{
    struct spool spool = {.source = source, .limits = limits, .file = -1};
    int status = take_all(&spool, fd, any_format);
    if (status == 0 && spool.file >= 0) {
        status = write_all(&spool);
    }
    if (status == 0 && spool.file >= 0) {
        source->buffer = ser_mem_alloc_raw(SER_SOURCE_BUFFER, 1);
        status = source->buffer != NULL ? 0 : SER_ERR_MEMORY;
    }
    if (status == 0) {
        source->fd = spool.file;
        source->memory = spool.file < 0 ? spool.bytes : NULL;
        source->owned = spool.file < 0 ? spool.bytes : NULL;
        source->size = spool.total;
        spool.bytes = source->owned == NULL ? spool.bytes : NULL;
        spool.file = -1;
    }
    if (spool.file >= 0) {
        (void)close(spool.file);
    }
    ser_mem_free(spool.bytes);
    return status;
}
