/* SPDX-License-Identifier: MIT */
#include "recording.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sndfile.h>

#include "cli.h"
#include "message.h"
#include "text.h"

struct recording {
    char *path; /* the name that it will get */
    char *part; /* the name that it has */
    bool force;
    bool failed;
    int32_t rate;
    int fd;
    SNDFILE *file;
    int64_t frames;
    int64_t header_frames; /* when the header was last brought up to date */
};

/* Sizes in the header of a WAV file have 32 bits; this leaves room for the header itself. */
#define WAV_BYTES (UINT32_MAX - 65536)

static bool ends_with(const char *path, const char *suffix)
{
    size_t length = strlen(path);
    size_t end = strlen(suffix);
    return length > end && strcasecmp(path + length - end, suffix) == 0;
}

static bool exists(const char *path)
{
    struct stat facts;
    return lstat(path, &facts) == 0;
}

/* Only a regular file, or a link to one, is ever replaced. */
static bool replaceable(const char *path)
{
    struct stat facts;
    return stat(path, &facts) == 0 && S_ISREG(facts.st_mode);
}

static int check_folder(const char *path)
{
    char *folder = text_copy(path);
    char *slash = strrchr(folder, '/');
    if (slash != NULL) {
        slash[slash == folder] = '\0';
    }
    const char *name = slash != NULL ? folder : ".";
    int code = CLI_CONTINUE;
    if (access(name, W_OK | X_OK) != 0) {
        message_error("%s: cannot make a file in '%s': %s", path, name, strerror(errno));
        code = MESSAGE_EXIT_IO;
    }
    free(folder);
    return code;
}

int recording_check(const char *path, bool force)
{
    if (!ends_with(path, ".wav") && !ends_with(path, ".flac")) {
        return message_usage("--output: %s ends neither in .wav nor in .flac", path);
    }
    if (exists(path) && (!force || !replaceable(path))) {
        message_error("%s: %s", path,
                      replaceable(path) ? "is there already; --force replaces it"
                                        : "is there already and no file");
        return MESSAGE_EXIT_IO;
    }
    char *part = text_join(path, ".part", "");
    int code = CLI_CONTINUE;
    if (exists(part) && (!force || !replaceable(part))) {
        message_error("%s: is there already: what a recording left that did not end in order. It "
                      "can be played; give it another name, or replace it with --force",
                      part);
        code = MESSAGE_EXIT_IO;
    }
    free(part);
    return code != CLI_CONTINUE ? code : check_folder(path);
}

/* Where it is known that the sizes fit, a plain WAV file, which every program reads. Otherwise one
 * with room for 64-bit sizes, which becomes RF64 when they are needed. */
static int file_format(const recording_setup *s)
{
    if (ends_with(s->path, ".flac")) {
        return SF_FORMAT_FLAC | SF_FORMAT_PCM_16;
    }
    int64_t most = (int64_t)WAV_BYTES / (2 * s->channels);
    bool fits = s->frames > 0 && s->frames <= most;
    return (fits ? SF_FORMAT_WAV : SF_FORMAT_RF64) | SF_FORMAT_PCM_16;
}

static bool is_locked(const char *path)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    bool locked = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0;
    if (fd >= 0) {
        close(fd);
    }
    return locked;
}

/* A new file, never what a link of its name points to, and locked while it is recorded into. */
static int make_part(recording *r)
{
    if (r->force && is_locked(r->part)) {
        message_error("%s: another program is recording into it", r->part);
        return MESSAGE_EXIT_IO;
    }
    if (r->force) {
        unlink(r->part);
    }
    r->fd = open(r->part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (r->fd < 0) {
        message_error("%s: cannot open for writing: %s", r->part, strerror(errno));
        return MESSAGE_EXIT_IO;
    }
    flock(r->fd, LOCK_EX | LOCK_NB);
    return 0;
}

static int open_file(recording *r, const recording_setup *s)
{
    SF_INFO info = {
        .samplerate = s->rate, .channels = s->channels, .format = file_format(s), .frames = 0};
    if (!sf_format_check(&info)) {
        message_error("%s: such a file cannot hold %d channels at %d Hz%s", s->path,
                      (int)s->channels, (int)s->rate,
                      ends_with(s->path, ".flac") ? "; a name in .wav makes one that can" : "");
        return MESSAGE_EXIT_USAGE;
    }
    int code = make_part(r);
    if (code != 0) {
        return code;
    }
    r->file = sf_open_fd(r->fd, SFM_WRITE, &info, 0);
    if (r->file == NULL) {
        message_error("%s: cannot write: %s", r->part, sf_strerror(NULL));
        unlink(r->part);
        return MESSAGE_EXIT_IO;
    }
    if ((info.format & SF_FORMAT_TYPEMASK) == SF_FORMAT_RF64) {
        sf_command(r->file, SFC_RF64_AUTO_DOWNGRADE, NULL, SF_TRUE);
    }
    return 0;
}

static void free_recording(recording **r)
{
    if ((*r)->fd >= 0) {
        close((*r)->fd);
    }
    free((*r)->path);
    free((*r)->part);
    free(*r);
    *r = NULL;
}

int recording_open(const recording_setup *setup, recording **out)
{
    recording *r = text_alloc(1, sizeof *r);
    *r = (recording){.path = text_copy(setup->path),
                     .part = text_join(setup->path, ".part", ""),
                     .force = setup->force,
                     .rate = setup->rate,
                     .fd = -1};
    int code = open_file(r, setup);
    if (code != 0) {
        free_recording(&r);
    }
    *out = r;
    return code;
}

static int fail(recording *r)
{
    r->failed = true;
    message_error("%s: cannot write: %s; what was recorded so far is kept", r->part,
                  errno != 0 ? strerror(errno) : sf_strerror(r->file));
    return MESSAGE_EXIT_IO;
}

int recording_write(recording *r, const int16_t *samples, size_t frames)
{
    if (r->failed || frames == 0) {
        return 0;
    }
    errno = 0;
    sf_count_t written = sf_writef_short(r->file, samples, (sf_count_t)frames);
    r->frames += written > 0 ? written : 0;
    if (written != (sf_count_t)frames) {
        return fail(r);
    }
    if (r->frames - r->header_frames >= r->rate) {
        sf_command(r->file, SFC_UPDATE_HEADER_NOW, NULL, 0);
        r->header_frames = r->frames;
    }
    return 0;
}

/* After a failure the encoder has taken more than is there. */
static int64_t count_frames(const char *path)
{
    SF_INFO info = {0};
    int64_t frames = 0;
    SNDFILE *file = sf_open(path, SFM_READ, &info);
    if (file != NULL) {
        int16_t samples[4096];
        sf_count_t most = (sf_count_t)(sizeof samples / sizeof *samples) / info.channels;
        for (sf_count_t got; (got = sf_readf_short(file, samples, most)) > 0;) {
            frames += got;
        }
        sf_close(file);
    }
    return frames;
}

/* Without --force not over a file that has come in the meantime. */
static int give_name(const recording *r)
{
    unsigned int flags = r->force ? 0 : RENAME_NOREPLACE;
    if (renameat2(AT_FDCWD, r->part, AT_FDCWD, r->path, flags) == 0) {
        return 0;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return -1;
    }
    errno = EEXIST; /* a file system that does not know how not to replace */
    return !r->force && exists(r->path) ? -1 : rename(r->part, r->path);
}

/*
 * The header with room for 64-bit sizes has the fmt chunk of 40 bytes that RF64 wants, which simple
 * readers of WAV do not know. Where the sizes were not needed, the plain chunk of 16 bytes takes
 * its place, followed by one of 16 bytes to skip: the same samples at the same place. What does not
 * look as expected is left alone.
 */
static void simplify_header(int fd)
{
    enum { FMT = 44, FIELDS = 14, SIZE = 48 };
    unsigned char head[FMT + SIZE];
    if (pread(fd, head, sizeof head, 0) != (ssize_t)sizeof head || memcmp(head, "RIFF", 4) != 0 ||
        memcmp(head + 8, "WAVEJUNK", 8) != 0 ||
        memcmp(head + FMT, "fmt \x28\0\0\0\xfe\xff", 10) != 0 || head[FMT + 10] > 2) {
        return; /* more than two channels need the long one, which says where they are */
    }
    unsigned char plain[SIZE] = "fmt \x10\0\0\0\1\0";
    memcpy(plain + 10, head + FMT + 10,
           FIELDS); /* channels, rate, bytes per second and frame, bits */
    memcpy(plain + 10 + FIELDS, "JUNK\x10\0\0\0", 8);
    if (pwrite(fd, plain, sizeof plain, FMT) != (ssize_t)sizeof plain) {
        message_warning("its header could not be written anew: %s", strerror(errno));
    }
}

int recording_finish(recording **r, char **kept, double *seconds)
{
    recording *old = *r;
    int code = 0;
    *kept = NULL;
    errno = 0;
    bool closed = sf_close(old->file) == 0;
    if (closed) {
        simplify_header(old->fd);
    }
    if ((!closed || fsync(old->fd) != 0) && !old->failed) {
        message_error("%s: cannot write: %s", old->part,
                      errno != 0 ? strerror(errno) : sf_strerror(NULL));
        code = MESSAGE_EXIT_IO;
    }
    bool empty = old->frames == 0;
    if (old->failed || code != 0) {
        old->frames = count_frames(old->part);
    }
    *seconds = (double)old->frames / (double)old->rate;
    if (empty) {
        unlink(old->part);
    } else if (give_name(old) == 0) {
        *kept = text_copy(old->path);
    } else {
        message_error("%s: cannot be renamed to %s: %s", old->part, old->path, strerror(errno));
        *kept = text_copy(old->part);
        code = MESSAGE_EXIT_IO;
    }
    free_recording(r);
    return code;
}
