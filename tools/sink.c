/* SPDX-License-Identifier: MIT */
#include "sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "message.h"
#include "stop.h"
#include "text.h"

static int fail(const sink *s, const char *what)
{
    if (errno != EPIPE) {
        message_error("%s: %s: %s", s->path != NULL ? s->path : "standard output", what,
                      strerror(errno));
    }
    return MESSAGE_EXIT_IO;
}

/* Created with the mode that a plain open would give, or that of the file which it replaces. */
static int create_temporary(sink *s, const struct stat *old)
{
    char suffix[48];
    int fd = -1;
    for (int attempt = 0; attempt < 100 && fd < 0; attempt++) {
        snprintf(suffix, sizeof suffix, ".%ld-%d.tmp", (long)getpid(), attempt);
        free(s->temporary);
        s->temporary = text_join(s->path, suffix, "");
        fd = open(s->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) {
            break;
        }
    }
    if (fd >= 0 && old != NULL && fchmod(fd, old->st_mode & 07777) != 0) {
        message_warning("%s: its permissions could not be kept: %s", s->path, strerror(errno));
    }
    return fd;
}

/* The descriptor to write to, or -1 with errno. */
static int open_target(sink *s, const char *path)
{
    struct stat facts;
    bool exists = stat(path, &facts) == 0;
    char *target = exists ? realpath(path, NULL) : NULL;
    s->path = text_copy(target != NULL ? target : path);
    free(target);
    if (exists && !S_ISREG(facts.st_mode)) {
        return open(s->path, O_WRONLY | O_CLOEXEC);
    }
    int fd = create_temporary(s, exists ? &facts : NULL);
    if (fd < 0) {
        free(s->temporary);
        s->temporary = NULL;
    }
    return fd;
}

int sink_open(sink *s, const char *path)
{
    *s = (sink){.fd = STDOUT_FILENO};
    if (path != NULL && strcmp(path, "-") != 0) {
        s->fd = open_target(s, path);
        stop_guard(s->temporary);
    }
    s->stream = s->fd >= 0 ? open_memstream(&s->buffer, &s->size) : NULL;
    if (s->stream == NULL) {
        int code = fail(s, "cannot open for writing");
        sink_discard(s);
        return code;
    }
    return 0;
}

int sink_held(sink *s, const char **text, size_t *size)
{
    if (fflush(s->stream) != 0) {
        return fail(s, "cannot hold the results");
    }
    *text = s->buffer;
    *size = s->size;
    return 0;
}

void sink_empty(sink *s)
{
    rewind(s->stream);
}

int sink_flush(sink *s)
{
    const char *text = NULL;
    size_t size = 0;
    int code = sink_held(s, &text, &size);
    if (code != 0) {
        return code;
    }
    for (size_t done = 0; done < size;) {
        ssize_t written = write(s->fd, text + done, size - done);
        if (written < 0 && errno != EINTR) {
            return fail(s, "cannot write");
        }
        done += written > 0 ? (size_t)written : 0;
    }
    sink_empty(s);
    return 0;
}

int sink_commit(sink *s)
{
    int code = sink_flush(s);
    if (code != 0 || s->path == NULL) {
        return code;
    }
    if (s->temporary != NULL && fsync(s->fd) != 0) {
        return fail(s, "cannot write to the disk");
    }
    int fd = s->fd;
    s->fd = -1;
    if (close(fd) != 0) {
        return fail(s, "cannot write");
    }
    if (s->temporary != NULL && rename(s->temporary, s->path) != 0) {
        return fail(s, "cannot rename the finished file");
    }
    stop_guard(NULL);
    free(s->temporary);
    s->temporary = NULL;
    return 0;
}

void sink_discard(sink *s)
{
    if (s->stream != NULL) {
        fclose(s->stream);
    }
    if (s->path != NULL && s->fd >= 0) {
        close(s->fd);
    }
    if (s->temporary != NULL) {
        stop_guard(NULL);
        unlink(s->temporary);
    }
    free(s->buffer);
    free(s->temporary);
    free(s->path);
    *s = (sink){.fd = -1};
}
