/* SPDX-License-Identifier: MIT */
#include "audio/source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/mem.h"

static const struct ser_spool_limits spool_limits = {
    .memory = (size_t)16 << 20,
    .total = (int64_t)8 << 30,
};

static int io_failure(const char *name)
{
    return ser_fail(SER_ERR_IO, "%s: %s", name, strerror(errno));
}

static int name_source(struct ser_source *source, const char *name)
{
    *source = (struct ser_source){.fd = -1};
    source->name = ser_mem_strdup(name);
    return source->name != NULL ? 0 : SER_ERR_MEMORY;
}

/* Take over the regular file `fd`. */
static int use_file(struct ser_source *source, int fd, int64_t size)
{
    source->buffer = ser_mem_alloc_raw(SER_SOURCE_BUFFER, 1);
    if (source->buffer == NULL) {
        (void)close(fd);
        return SER_ERR_MEMORY;
    }
    source->fd = fd;
    source->size = size;
    return 0;
}

/* A FIFO opened without O_NONBLOCK would wait for a writer before fstat could tell what it is. */
static int open_without_waiting(const char *path)
{
    int fd;
    do {
        fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

static int use_path(struct ser_source *source, const char *path, bool any_format)
{
    struct stat st;
    int fd = open_without_waiting(path);
    if (fd < 0) {
        return io_failure(path);
    }
    if (fstat(fd, &st) != 0) {
        int status = io_failure(path);
        (void)close(fd);
        return status;
    }
    if (S_ISREG(st.st_mode)) {
        return use_file(source, fd, (int64_t)st.st_size);
    }
    int status;
    if (S_ISFIFO(st.st_mode)) {
        status = ser_source_spool(source, fd, any_format, &spool_limits);
    } else if (S_ISDIR(st.st_mode)) {
        errno = EISDIR;
        status = io_failure(path);
    } else {
        status = ser_fail(SER_ERR_IO, "%s: a device, not a file", path);
    }
    (void)close(fd);
    return status;
}

int ser_source_open(struct ser_source *source, const char *path, bool any_format)
{
    bool standard_input = strcmp(path, "-") == 0 || strcmp(path, "/dev/stdin") == 0;
    int status = name_source(source, standard_input ? "standard input" : path);
    if (status == 0) {
        status = standard_input ? ser_source_spool(source, STDIN_FILENO, any_format, &spool_limits)
                                : use_path(source, path, any_format);
    }
    if (status != 0) {
        ser_source_close(source);
        return status;
    }
    ser_source_window(source, 0, source->size);
    return 0;
}

int ser_source_from_memory(struct ser_source *source, const void *data, size_t size)
{
    int status = name_source(source, "audio in memory");
    if (status != 0) {
        return status;
    }
    source->memory = data;
    source->size = (int64_t)size;
    ser_source_window(source, 0, source->size);
    return 0;
}

/* pread until `size` bytes, the end of the file or an error, which is recorded. */
static size_t read_file(struct ser_source *source, int64_t offset, unsigned char *bytes,
                        size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = pread(source->fd, bytes + done, size - done, (off_t)(offset + (int64_t)done));
        if (got > 0) {
            done += (size_t)got;
        } else if (got == 0) {
            break;
        } else if (errno != EINTR) {
            if (source->error == 0) {
                source->error = errno;
                source->error_position = offset + (int64_t)done;
            }
            break;
        }
    }
    return done;
}

static size_t read_buffered(struct ser_source *source, int64_t offset, unsigned char *bytes,
                            size_t size)
{
    size_t done = 0;
    while (done < size) {
        int64_t at = offset + (int64_t)done;
        int64_t ahead = source->buffer_start + (int64_t)source->buffer_count - at;
        if (at < source->buffer_start || ahead <= 0) {
            source->buffer_start = at;
            source->buffer_count = read_file(source, at, source->buffer, SER_SOURCE_BUFFER);
            if (source->buffer_count == 0) {
                break;
            }
            continue;
        }
        size_t part = size - done < (size_t)ahead ? size - done : (size_t)ahead;
        memcpy(bytes + done, source->buffer + (at - source->buffer_start), part);
        done += part;
    }
    return done;
}

size_t ser_source_read_at(struct ser_source *source, int64_t offset, void *bytes, size_t size)
{
    if (offset < 0 || offset >= source->size) {
        return 0;
    }
    int64_t left = source->size - offset;
    if ((uint64_t)size > (uint64_t)left) {
        size = (size_t)left;
    }
    if (source->memory != NULL) {
        memcpy(bytes, source->memory + offset, size);
        return size;
    }
    return source->fd >= 0 ? read_buffered(source, offset, bytes, size) : 0;
}

void ser_source_window(struct ser_source *source, int64_t begin, int64_t end)
{
    source->prefix = NULL;
    source->prefix_size = 0;
    source->begin = begin;
    source->end = end;
    source->position = 0;
}

int64_t ser_source_visible(const struct ser_source *source)
{
    return source->prefix_size + source->end - source->begin;
}

size_t ser_source_pull(struct ser_source *source, void *bytes, size_t size)
{
    int64_t left = ser_source_visible(source) - source->position;
    if (left <= 0) {
        return 0;
    }
    if ((uint64_t)size > (uint64_t)left) {
        size = (size_t)left;
    }
    size_t got = 0;
    if (source->position < source->prefix_size) {
        size_t rest = (size_t)(source->prefix_size - source->position);
        got = size < rest ? size : rest;
        memcpy(bytes, source->prefix + source->position, got);
    }
    if (got < size) {
        int64_t at = source->begin + source->position + (int64_t)got - source->prefix_size;
        got += ser_source_read_at(source, at, (unsigned char *)bytes + got, size - got);
    }
    source->position += (int64_t)got;
    return got;
}

int ser_source_failure(const struct ser_source *source)
{
    return ser_fail(SER_ERR_IO, "%s: reading failed at byte %lld: %s", source->name,
                    (long long)source->error_position, strerror(source->error));
}

void ser_source_close(struct ser_source *source)
{
    if (source->fd >= 0) {
        (void)close(source->fd);
    }
    ser_mem_free(source->buffer);
    ser_mem_free(source->owned);
    ser_mem_free(source->name);
    *source = (struct ser_source){.fd = -1};
}
