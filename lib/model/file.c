/* SPDX-License-Identifier: MIT */
#include "model/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/mem.h"

int ser_file_fail(const char *name, const char *what)
{
    char buffer[128];
    return ser_fail(SER_ERR_IO, "%s: %s: %s", name, what, strerror_r(errno, buffer, sizeof buffer));
}

static int open_retry(int directory, const char *path, int flags)
{
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
    int fd;
    do {
        fd = openat(directory, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | flags);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* Fill `file` from a descriptor, which it takes over on success. */
static int adopt(int fd, const char *name, const struct stat *st, ser_file *file)
{
    if (!S_ISREG(st->st_mode)) {
        return ser_fail(SER_ERR_IO, "%s: not a regular file", name);
    }
    char *copy = ser_mem_strdup(name);
    if (copy == NULL) {
        return SER_ERR_MEMORY;
    }
    *file = (ser_file){.fd = fd, .size = (uint64_t)st->st_size, .name = copy};
    return 0;
}

int ser_file_open(const char *path, ser_file *file, int *directory)
{
    *file = (ser_file){.fd = -1};
    *directory = -1;
    int fd = open_retry(AT_FDCWD, path, 0);
    if (fd < 0) {
        return ser_file_fail(path, "cannot open");
    }
    struct stat st;
    int status = 0;
    if (fstat(fd, &st) != 0) {
        status = ser_file_fail(path, "cannot stat");
    } else if (S_ISDIR(st.st_mode)) {
        *directory = fd;
        return 0;
    } else {
        status = adopt(fd, path, &st, file);
    }
    if (status != 0) {
        (void)close(fd);
    }
    return status;
}

static int open_named(int directory, const char *name, const char *base, int flags, ser_file *file)
{
    int fd = open_retry(directory, base, (flags & SER_FILE_NO_SYMLINK) != 0 ? O_NOFOLLOW : 0);
    if (fd < 0) {
        if (errno == ENOENT && (flags & SER_FILE_OPTIONAL) != 0) {
            return 0;
        }
        if (errno == ELOOP && (flags & SER_FILE_NO_SYMLINK) != 0) {
            return ser_fail(SER_ERR_IO,
                            "%s: a symbolic link, which is not followed for a name that comes from "
                            "a file; copy the directory with its links resolved (cp -rL)",
                            name);
        }
        return ser_file_fail(name, "cannot open");
    }
    struct stat st;
    int status =
        fstat(fd, &st) != 0 ? ser_file_fail(name, "cannot stat") : adopt(fd, name, &st, file);
    if (status != 0) {
        (void)close(fd);
    }
    return status;
}

int ser_file_open_at(int directory, const char *parent, const char *base, int flags, ser_file *file)
{
    *file = (ser_file){.fd = -1};
    size_t length = strlen(parent);
    const char *slash = length > 0 && parent[length - 1] == '/' ? "" : "/";
    char *name = ser_mem_format("%s%s%s", parent, slash, base);
    if (name == NULL) {
        return SER_ERR_MEMORY;
    }
    int status = open_named(directory, name, base, flags, file);
    ser_mem_free(name);
    return status;
}

int ser_file_wrap(const void *data, size_t size, const char *name, ser_file *file)
{
    char *copy = ser_mem_strdup(name);
    *file = (ser_file){.fd = -1, .memory = data, .size = size, .name = copy};
    return copy != NULL ? 0 : SER_ERR_MEMORY;
}

static int read_descriptor(const ser_file *file, uint64_t offset, unsigned char *buffer,
                           size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = pread(file->fd, buffer + done, size - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return ser_file_fail(file->name, "cannot read");
        }
        if (n == 0) {
            return ser_fail(SER_ERR_IO,
                            "%s: the file has become shorter while it was read (%llu bytes)",
                            file->name, (unsigned long long)(offset + done));
        }
        done += (size_t)n;
    }
    return 0;
}

int ser_file_read(const ser_file *file, uint64_t offset, void *buffer, size_t size)
{
    if (offset > file->size || size > file->size - offset) {
        return ser_fail(SER_ERR_INTERNAL, "%s: read of %zu bytes at %llu beyond the end",
                        file->name, size, (unsigned long long)offset);
    }
    if (file->fd >= 0) {
        return read_descriptor(file, offset, buffer, size);
    }
    if (size > 0) {
        memcpy(buffer, file->memory + offset, size);
    }
    return 0;
}

int ser_file_read_text(const ser_file *file, size_t limit, char **text, size_t *length)
{
    if (file->size > limit) {
        return ser_fail(SER_ERR_CAPACITY, "%s: %llu bytes, limit %zu", file->name,
                        (unsigned long long)file->size, limit);
    }
    size_t size = (size_t)file->size;
    char *copy = ser_mem_alloc_raw(size + 1, 1);
    if (copy == NULL) {
        return SER_ERR_MEMORY;
    }
    int status = ser_file_read(file, 0, copy, size);
    if (status != 0) {
        ser_mem_free(copy);
        return status;
    }
    copy[size] = '\0';
    *text = copy;
    *length = size;
    return 0;
}

void ser_file_close(ser_file *file)
{
    if (file->name != NULL && file->fd >= 0) {
        (void)close(file->fd);
    }
    ser_mem_free(file->name);
    *file = (ser_file){.fd = -1};
}
