/* SPDX-License-Identifier: MIT */
#include "train/checkpoint_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <ser/common.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/file.h"
#include "model/writer.h"

enum {
    MAX_ATTEMPTS = 1000,
    MAX_MANIFEST = 1 << 16, /* bytes */
    PIECE = 1 << 20,
    SUM_SIZE = 2 * sizeof(XXH128_canonical_t) + 1, /* in hexadecimal, with the NUL */
};

static const char *const format_name = "ser-checkpoint";

static const char *const files[] = {SER_CHECKPOINT_MODEL, SER_CHECKPOINT_TENSORS,
                                    SER_CHECKPOINT_STATE};
enum { FILES = sizeof files / sizeof files[0] };

/* --- Places --- */

static int open_parent(ser_checkpoint_place *place)
{
    size_t length = (size_t)(place->name - place->path);
    char *parent = length > 0 ? ser_mem_strdup(place->path) : ser_mem_strdup(".");
    if (parent == NULL) {
        return SER_ERR_MEMORY;
    }
    if (length > 0) {
        parent[length] = '\0';
    }
    place->parent = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int status = place->parent >= 0 ? 0 : ser_file_fail(place->path, "cannot open its directory");
    ser_mem_free(parent);
    return status;
}

int ser_checkpoint_place_open(const char *path, ser_checkpoint_place *place)
{
    *place = (ser_checkpoint_place){.path = ser_mem_strdup(path), .parent = -1};
    if (place->path == NULL) {
        return SER_ERR_MEMORY;
    }
    size_t length = strlen(place->path);
    while (length > 0 && place->path[length - 1] == '/') {
        place->path[--length] = '\0';
    }
    const char *slash = strrchr(place->path, '/');
    place->name = slash != NULL ? slash + 1 : place->path;
    int status = 0;
    if (place->name[0] == '\0' || strcmp(place->name, ".") == 0 || strcmp(place->name, "..") == 0) {
        status = ser_fail(SER_ERR_ARGUMENT,
                          "\"%s\": a checkpoint needs a name of its own, such as \"%s/checkpoint\"",
                          path, place->name[0] == '\0' ? "" : path);
    } else {
        status = open_parent(place);
    }
    if (status != 0) {
        ser_checkpoint_place_close(place);
    }
    return status;
}

char *ser_checkpoint_sibling(const ser_checkpoint_place *place, const char *name)
{
    return ser_mem_format("%.*s%s", (int)(place->name - place->path), place->path, name);
}

char *ser_checkpoint_file(const ser_checkpoint_place *place, const char *file)
{
    return ser_mem_format("%.*s%s/%s", (int)(place->name - place->path), place->path,
                          place->temporary, file);
}

/* Whether it is a file of a checkpoint, or one that a killed process was still writing. */
static bool is_ours(const char *name)
{
    bool ours = strcmp(name, SER_CHECKPOINT_MANIFEST) == 0;
    for (size_t i = 0; i < FILES; i++) {
        ours = ours || strcmp(name, files[i]) == 0;
    }
    size_t length = strlen(name);
    return ours ||
           (strncmp(name, ".ser-", 5) == 0 && length > 9 && strcmp(name + length - 4, ".tmp") == 0);
}

/* Open directory `name` within `parent` for reading its entries; NULL with errno. */
static DIR *open_directory(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (directory == NULL && fd >= 0) {
        (void)close(fd);
    }
    return directory;
}

/* A directory of ours with all that is ours in it; what is somebody else's stays. */
static void remove_checkpoint(int parent, const char *name)
{
    DIR *directory = open_directory(parent, name);
    if (directory == NULL) {
        return;
    }
    /* Never a manifest over files that are gone. */
    (void)unlinkat(dirfd(directory), SER_CHECKPOINT_MANIFEST, 0);
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        if (is_ours(entry->d_name)) {
            (void)unlinkat(dirfd(directory), entry->d_name, 0);
        }
    }
    (void)closedir(directory);
    if (unlinkat(parent, name, AT_REMOVEDIR) != 0) {
        char buffer[128];
        ser_log(SER_LOG_WARNING, "%s: an old checkpoint cannot be removed: %s", name,
                strerror_r(errno, buffer, sizeof buffer));
    }
}

void ser_checkpoint_place_close(ser_checkpoint_place *place)
{
    if (place->temporary != NULL) {
        remove_checkpoint(place->parent, place->temporary);
    }
    if (place->parent >= 0) {
        (void)close(place->parent);
    }
    ser_mem_free(place->temporary);
    ser_mem_free(place->path);
    *place = (ser_checkpoint_place){.parent = -1};
}

/* --- Writing --- */

/* A directory is replaced only if nothing but a checkpoint's files would be lost with it. */
static int check_target(const ser_checkpoint_place *place)
{
    struct stat st;
    if (fstatat(place->parent, place->name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        return errno == ENOENT ? 0 : ser_file_fail(place->path, "cannot write a checkpoint");
    }
    if (!S_ISDIR(st.st_mode)) {
        return ser_fail(SER_ERR_IO, "%s: is not a directory; a checkpoint does not replace it",
                        place->path);
    }
    DIR *directory = open_directory(place->parent, place->name);
    if (directory == NULL) {
        return ser_file_fail(place->path, "cannot open the old checkpoint");
    }
    int status = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(directory);
        if (entry == NULL && errno != 0) {
            status = ser_file_fail(place->path, "cannot read the old checkpoint");
        }
        if (entry == NULL) {
            break;
        }
        const char *name = entry->d_name;
        if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !is_ours(name)) {
            status = ser_fail(SER_ERR_IO,
                              "%s: holds \"%s\", which is not a checkpoint's; it is not replaced",
                              place->path, name);
            break;
        }
    }
    (void)closedir(directory);
    return status;
}

int ser_checkpoint_begin(ser_checkpoint_place *place)
{
    int status = check_target(place);
    for (int i = 0; i < MAX_ATTEMPTS && status == 0; i++) {
        char *name = ser_mem_format("%s.tmp-%ld-%d", place->name, (long)getpid(), i);
        if (name == NULL) {
            return SER_ERR_MEMORY;
        }
        if (mkdirat(place->parent, name, 0777) == 0) {
            place->temporary = name;
            return 0;
        }
        ser_mem_free(name);
        if (errno != EEXIST) {
            break;
        }
    }
    return status != 0 ? status : ser_file_fail(place->path, "cannot make a directory beside it");
}

static void print_sum(XXH128_hash_t hash, char text[SUM_SIZE])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    for (size_t i = 0; i < sizeof canonical.digest; i++) {
        (void)snprintf(text + 2 * i, 3, "%02x", canonical.digest[i]);
    }
}

static int sum_pieces(const ser_file *file, XXH3_state_t *state, unsigned char *piece)
{
    if (XXH3_128bits_reset(state) != XXH_OK) {
        return ser_fail(SER_ERR_INTERNAL, "%s: libxxhash cannot start", file->name);
    }
    for (uint64_t done = 0; done < file->size;) {
        size_t size = file->size - done < PIECE ? (size_t)(file->size - done) : PIECE;
        int status = ser_file_read(file, done, piece, size);
        if (status != 0) {
            return status;
        }
        (void)XXH3_128bits_update(state, piece, size);
        done += size;
    }
    return 0;
}

static int sum_file(const ser_file *file, char sum[SUM_SIZE])
{
    unsigned char *piece = ser_mem_alloc_raw(PIECE, 1);
    XXH3_state_t *state = XXH3_createState();
    int status = SER_ERR_MEMORY;
    if (state == NULL) {
        (void)ser_fail(SER_ERR_MEMORY, "%s: out of memory", file->name);
    } else if (piece != NULL) {
        status = sum_pieces(file, state, piece);
    }
    if (status == 0) {
        print_sum(XXH3_128bits_digest(state), sum);
    }
    (void)XXH3_freeState(state);
    ser_mem_free(piece);
    return status;
}

static int describe(const ser_checkpoint_place *place, const char *file, ser_record *list)
{
    ser_file opened = {.fd = -1};
    ser_record entry;
    int directory;
    char sum[SUM_SIZE];
    char *path = ser_checkpoint_file(place, file);
    int status = path != NULL ? ser_file_open(path, &opened, &directory) : SER_ERR_MEMORY;
    if (status == 0) {
        status = sum_file(&opened, sum);
    }
    if (status == 0) {
        status = ser_record_put_child(list, file, &entry);
    }
    if (status == 0) {
        status = ser_record_put_integer(&entry, "size", (int64_t)opened.size);
    }
    if (status == 0) {
        status = ser_record_put_text(&entry, "xxh3_128", sum);
    }
    ser_file_close(&opened);
    ser_mem_free(path);
    return status;
}

static int write_record(const ser_record *record, const char *path)
{
    ser_writer writer;
    char *text = NULL;
    size_t length = 0;
    int status = ser_record_print(record, &text, &length);
    if (status == 0) {
        status = ser_writer_open(path, &writer);
    }
    if (status == 0) {
        status = ser_writer_append(&writer, text, length);
        if (status == 0) {
            status = ser_writer_commit(&writer);
        } else {
            ser_writer_abort(&writer);
        }
    }
    ser_mem_free(text);
    return status;
}

int ser_checkpoint_write_record(const ser_checkpoint_place *place, const ser_record *record,
                                const char *file)
{
    char *path = ser_checkpoint_file(place, file);
    int status = path != NULL ? write_record(record, path) : SER_ERR_MEMORY;
    ser_mem_free(path);
    return status;
}

int ser_checkpoint_seal(const ser_checkpoint_place *place)
{
    ser_record manifest;
    ser_record list;
    int status = ser_record_create(SER_CHECKPOINT_MANIFEST, &manifest);
    if (status == 0) {
        status = ser_record_put_text(&manifest, "format", format_name);
    }
    if (status == 0) {
        status = ser_record_put_integer(&manifest, "version", SER_CHECKPOINT_VERSION);
    }
    if (status == 0) {
        status = ser_record_put_child(&manifest, "files", &list);
    }
    for (size_t i = 0; i < FILES && status == 0; i++) {
        status = describe(place, files[i], &list);
    }
    if (status == 0) {
        status = ser_checkpoint_write_record(place, &manifest, SER_CHECKPOINT_MANIFEST);
    }
    ser_record_clear(&manifest);
    return status;
}

/* --- Publishing --- */

/* File systems without flushable directories (some network ones) answer EINVAL. */
static int flush_parent(const ser_checkpoint_place *place)
{
    if (fsync(place->parent) != 0 && errno != EINVAL && errno != ENOTSUP) {
        return ser_file_fail(place->path, "written, but its directory cannot be flushed");
    }
    return 0;
}

static int rename_beside(const ser_checkpoint_place *place, const char *from, const char *to)
{
    return renameat(place->parent, from, place->parent, to) == 0
               ? 0
               : ser_file_fail(place->path, "cannot rename");
}

/* Without an exchange: the old one steps aside first, and back again if its place stays empty. */
static int replace_in_two_steps(const ser_checkpoint_place *place)
{
    char *trash = ser_mem_format("%s.trash-%ld", place->name, (long)getpid());
    if (trash == NULL) {
        return SER_ERR_MEMORY;
    }
    remove_checkpoint(place->parent, trash);
    int status = rename_beside(place, place->name, trash);
    if (status == 0) {
        status = rename_beside(place, place->temporary, place->name);
        if (status != 0) {
            (void)renameat(place->parent, trash, place->parent, place->name);
        }
    }
    ser_mem_free(trash);
    return status;
}

static int replace(ser_checkpoint_place *place, bool can_exchange)
{
    struct stat st;
    if (fstatat(place->parent, place->name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        return rename_beside(place, place->temporary, place->name);
    }
    if (can_exchange && renameat2(place->parent, place->temporary, place->parent, place->name,
                                  RENAME_EXCHANGE) == 0) {
        return 0;
    }
    return replace_in_two_steps(place);
}

/* The process of a leftover, from "tmp-PID-N" or "trash-PID"; 0: it is no leftover. */
static long owner_of(const ser_checkpoint_place *place, const char *entry)
{
    size_t length = strlen(place->name);
    if (strncmp(entry, place->name, length) != 0) {
        return 0;
    }
    const char *rest = entry + length;
    size_t prefix = strncmp(rest, ".tmp-", 5) == 0 ? 5 : strncmp(rest, ".trash-", 7) == 0 ? 7 : 0;
    if (prefix == 0 || rest[prefix] < '1' || rest[prefix] > '9') {
        return 0;
    }
    char *end;
    errno = 0;
    long pid = strtol(rest + prefix, &end, 10);
    bool numbered =
        *end == '-' && end[1] != '\0' && strspn(end + 1, "0123456789") == strlen(end + 1);
    return errno == 0 && (*end == '\0' || numbered) ? pid : 0;
}

int ser_checkpoint_each_sibling(const ser_checkpoint_place *place,
                                void (*visit)(void *user, const char *name), void *user)
{
    DIR *directory = open_directory(place->parent, ".");
    if (directory == NULL) {
        return ser_file_fail(place->path, "cannot read its directory");
    }
    for (struct dirent *entry = readdir(directory); entry != NULL; entry = readdir(directory)) {
        if (owner_of(place, entry->d_name) != 0) {
            visit(user, entry->d_name);
        }
    }
    (void)closedir(directory);
    return 0;
}

/* What is ours, or a dead process's, can have no further use. */
static void remove_leftover(void *user, const char *name)
{
    const ser_checkpoint_place *place = user;
    long pid = owner_of(place, name);
    if (pid == (long)getpid() || (kill((pid_t)pid, 0) != 0 && errno == ESRCH)) {
        remove_checkpoint(place->parent, name);
    }
}

int ser_checkpoint_publish(ser_checkpoint_place *place, bool can_exchange)
{
    int status = replace(place, can_exchange);
    if (status != 0) {
        return status;
    }
    ser_mem_free(place->temporary);
    place->temporary = NULL;
    status = flush_parent(place);
    /* Not before: until the flush, a crash may bring the old name back. */
    if (status == 0) {
        (void)ser_checkpoint_each_sibling(place, remove_leftover, place);
    }
    return status;
}

/* --- Reading --- */

static int open_file(const char *directory, const char *name, ser_file *file)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        *file = (ser_file){.fd = -1};
        return ser_file_fail(directory, "cannot open the checkpoint");
    }
    int status =
        ser_file_open_at(fd, directory, name, SER_FILE_OPTIONAL | SER_FILE_NO_SYMLINK, file);
    (void)close(fd);
    if (status == 0 && !ser_file_is_open(file)) {
        status = ser_fail(SER_ERR_FORMAT, "%s: %s is missing: not a complete checkpoint", directory,
                          name);
    }
    return status;
}

static int check_manifest(const ser_record *manifest)
{
    const char *format = NULL;
    int64_t version = 0;
    int status = ser_record_text(manifest, "format", &format);
    if (status == 0 && strcmp(format, format_name) != 0) {
        status = ser_fail(SER_ERR_FORMAT, "%s: format is not \"%s\"", manifest->name, format_name);
    }
    if (status == 0) {
        status = ser_record_integer(manifest, "version", 1, &version);
    }
    if (status == 0 && version > SER_CHECKPOINT_VERSION) {
        status = ser_fail(SER_ERR_VERSION,
                          "%s: version %lld; this libser (%d.%d.%d) reads up to version %d",
                          manifest->name, (long long)version, SER_VERSION_MAJOR, SER_VERSION_MINOR,
                          SER_VERSION_PATCH, SER_CHECKPOINT_VERSION);
    }
    return status;
}

int ser_checkpoint_read_manifest(const char *directory, ser_record *manifest, char **name)
{
    ser_file file;
    char *text = NULL;
    size_t length = 0;
    *manifest = (ser_record){.object = NULL};
    *name = NULL;
    int status = open_file(directory, SER_CHECKPOINT_MANIFEST, &file);
    if (status == 0) {
        *name = ser_mem_strdup(file.name);
        status = *name != NULL ? ser_file_read_text(&file, MAX_MANIFEST, &text, &length)
                               : SER_ERR_MEMORY;
    }
    if (status == 0) {
        status = ser_record_parse(*name, text, length, manifest);
    }
    if (status == 0) {
        status = check_manifest(manifest);
    }
    ser_mem_free(text);
    ser_file_close(&file);
    return status;
}

static int check_sum(const ser_file *file, const unsigned char *bytes, const char *expected)
{
    char sum[SUM_SIZE];
    print_sum(XXH3_128bits(bytes, (size_t)file->size), sum);
    return strcmp(sum, expected) == 0
               ? 0
               : ser_fail(SER_ERR_MISMATCH,
                          "%s: its checksum (%s) is not the one in manifest.json: damaged, or of "
                          "another checkpoint",
                          file->name, sum);
}

static int load_open(const ser_file *file, const ser_record *manifest, const char *name,
                     uint64_t limit, unsigned char **bytes)
{
    ser_record list, entry;
    const char *sum = NULL;
    int64_t size = 0;
    int status = ser_record_child(manifest, "files", &list);
    status = status == 0 ? ser_record_child(&list, name, &entry) : status;
    status = status == 0 ? ser_record_integer(&entry, "size", 0, &size) : status;
    status = status == 0 ? ser_record_text(&entry, "xxh3_128", &sum) : status;
    if (status != 0) {
        return status;
    }
    if (file->size != (uint64_t)size || file->size > limit) {
        return ser_fail(SER_ERR_MISMATCH, "%s: %llu bytes, manifest.json says %lld, limit %llu",
                        file->name, (unsigned long long)file->size, (long long)size,
                        (unsigned long long)limit);
    }
    *bytes = ser_mem_alloc_raw((size_t)file->size, 1);
    if (*bytes == NULL) {
        return SER_ERR_MEMORY;
    }
    status = ser_file_read(file, 0, *bytes, (size_t)file->size);
    return status == 0 ? check_sum(file, *bytes, sum) : status;
}

int ser_checkpoint_load(const char *directory, const ser_record *manifest, const char *file,
                        uint64_t limit, unsigned char **bytes, size_t *size)
{
    ser_file opened;
    *bytes = NULL;
    int status = open_file(directory, file, &opened);
    if (status == 0) {
        *size = (size_t)opened.size;
        status = load_open(&opened, manifest, file, limit, bytes);
    }
    if (status != 0) {
        ser_mem_free(*bytes);
        *bytes = NULL;
    }
    ser_file_close(&opened);
    return status;
}
