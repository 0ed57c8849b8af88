/* SPDX-License-Identifier: MIT */
#include "model/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/file.h"

enum { MAX_ATTEMPTS = 1000 };

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static int open_directory(ser_writer *writer)
{
    size_t length = (size_t)(base_of(writer->path) - writer->path);
    char *parent = length > 0 ? ser_mem_strdup(writer->path) : ser_mem_strdup(".");
    if (parent == NULL) {
        return SER_ERR_MEMORY;
    }
    if (length > 0) {
        parent[length] = '\0';
    }
    writer->directory = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int status =
        writer->directory >= 0 ? 0 : ser_file_fail(writer->path, "cannot open its directory");
    ser_mem_free(parent);
    return status;
}

/* The rename would fail at the very end, after all the work: find out now. */
static int check_target(ser_writer *writer)
{
    const char *base = base_of(writer->path);
    struct stat st;
    writer->mode = 0;
    if (base[0] == '\0') {
        return ser_fail(SER_ERR_IO, "%s: names a directory, not a file", writer->path);
    }
    if (fstatat(writer->directory, base, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode)) {
            return ser_fail(SER_ERR_IO,
                            S_ISDIR(st.st_mode) ? "%s: is a directory"
                                                : "%s: is not a regular file",
                            writer->path);
        }
        writer->mode = S_ISREG(st.st_mode) ? st.st_mode & 07777 : 0;
        return 0;
    }
    return errno == ENOENT ? 0 : ser_file_fail(writer->path, "cannot write");
}

/* A short name of our own, as the target's may already have the greatest length. */
static int create_temporary(ser_writer *writer)
{
    for (int i = 0; i < MAX_ATTEMPTS; i++) {
        (void)snprintf(writer->temporary, sizeof writer->temporary, ".ser-%ld-%d.tmp",
                       (long)getpid(), i);
        writer->fd = openat(writer->directory, writer->temporary,
                            O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (writer->fd >= 0) {
            /* who could not read the old file does not get to read the new one */
            return writer->mode == 0 || fchmod(writer->fd, writer->mode) == 0
                       ? 0
                       : ser_file_fail(writer->path, "cannot keep its permissions");
        }
        if (errno != EEXIST && errno != EINTR) {
            break;
        }
    }
    writer->temporary[0] = '\0'; /* not ours to remove */
    return ser_file_fail(writer->path, "cannot create a temporary file beside it");
}

int ser_writer_open(const char *path, ser_writer *writer)
{
    *writer = (ser_writer){.fd = -1, .directory = -1, .path = ser_mem_strdup(path)};
    int status = writer->path != NULL ? 0 : SER_ERR_MEMORY;
    if (status == 0) {
        status = open_directory(writer);
    }
    if (status == 0) {
        status = check_target(writer);
    }
    if (status == 0) {
        status = create_temporary(writer);
    }
    if (status != 0) {
        ser_writer_abort(writer);
    }
    return status;
}

int ser_writer_append(ser_writer *writer, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    size_t done = 0;
    while (done < size) {
        ssize_t n = write(writer->fd, bytes + done, size - done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return ser_file_fail(writer->path, "cannot write");
        }
        done += (size_t)n;
    }
    return 0;
}

/* File systems without flushable directories (some network ones) answer EINVAL. */
static int flush_directory(const ser_writer *writer)
{
    if (fsync(writer->directory) != 0 && errno != EINVAL && errno != ENOTSUP) {
        return ser_file_fail(writer->path, "written, but its directory cannot be flushed");
    }
    return 0;
}

static int replace(ser_writer *writer)
{
    if (fsync(writer->fd) != 0) {
        return ser_file_fail(writer->path, "cannot flush to the disk");
    }
    int fd = writer->fd;
    writer->fd = -1;
    if (close(fd) != 0) {
        return ser_file_fail(writer->path, "cannot write");
    }
    if (renameat(writer->directory, writer->temporary, writer->directory, base_of(writer->path)) !=
        0) {
        return ser_file_fail(writer->path, "cannot rename the temporary file");
    }
    writer->temporary[0] = '\0';
    return flush_directory(writer);
}

int ser_writer_commit(ser_writer *writer)
{
    int status = replace(writer);
    ser_writer_abort(writer);
    return status;
}

void ser_writer_abort(ser_writer *writer)
{
    if (writer->fd >= 0) {
        (void)close(writer->fd);
    }
    if (writer->directory >= 0) {
        if (writer->temporary[0] != '\0') {
            (void)unlinkat(writer->directory, writer->temporary, 0);
        }
        (void)close(writer->directory);
    }
    ser_mem_free(writer->path);
    *writer = (ser_writer){.fd = -1, .directory = -1};
}
