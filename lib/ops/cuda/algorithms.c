/* SPDX-License-Identifier: MIT */
#include "ops/cuda/algorithms.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <ser/common.h>

#include "base/log.h"
#include "base/mem.h"

enum { BUCKETS = 1024, PATH_SIZE = 4096, ERROR_SIZE = 128 };

/* FNV-1a (Fowler, Noll, Vo): offset basis and prime for 64 bits. */
static const uint64_t HASH_START = 0xCBF29CE484222325U;
static const uint64_t HASH_FACTOR = 0x100000001B3U;

/*
 * The file: header, records, HASH of all that is before. Its numbers are the machine's: a file from
 * one of another byte order has another magic number.
 */
static const uint64_t MAGIC = 0x31304F474C415253U;

typedef struct file_header {
    uint64_t magic;
    uint64_t count;
    char identity[SER_ALGORITHMS_IDENTITY]; /* zeros behind it */
} file_header;

typedef struct file_record {
    product_key key;
    uint64_t algorithm[8];
    uint64_t workspace;
} file_record;

enum { FILE_SIZE_MAX = sizeof(file_header) + SER_ALGORITHMS_MAX * sizeof(file_record) + 8 };

_Static_assert(sizeof(product_key) == 88 && sizeof(file_record) == 160, "no gaps in the file");

typedef struct node node;
struct node {
    node *next;
    product_key key;
    product_choice choice;
};

struct ser_algorithms {
    pthread_mutex_t lock;
    node *buckets[BUCKETS];
    size_t count;
    bool writes;  /* the file can be, and could always be, written */
    bool changed; /* since it was */
    time_t saved; /* when that was, seconds of the monotonic clock; 0: never */
    char identity[SER_ALGORITHMS_IDENTITY];
    char path[PATH_SIZE]; /* empty: no file */
};

static uint64_t hash_of(const void *bytes, size_t size)
{
    const unsigned char *byte = bytes;
    uint64_t hash = HASH_START;
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ byte[i]) * HASH_FACTOR;
    }
    return hash;
}

/* --- The table; the caller has the lock --- */

static node **find_place(ser_algorithms *algorithms, const product_key *key)
{
    node **place = &algorithms->buckets[hash_of(key, sizeof *key) % BUCKETS];
    while (*place != NULL && memcmp(&(*place)->key, key, sizeof *key) != 0) {
        place = &(*place)->next;
    }
    return place;
}

/* Whether the table has changed. */
static bool put(ser_algorithms *algorithms, const product_key *key, const product_choice *choice)
{
    node **place = find_place(algorithms, key);
    if (*place == NULL && algorithms->count < SER_ALGORITHMS_MAX) {
        *place = ser_mem_alloc(1, sizeof **place);
        if (*place != NULL) {
            (*place)->key = *key;
            algorithms->count++;
        }
    }
    if (*place == NULL) {
        return false;
    }
    const bool same =
        memcmp((*place)->choice.algorithm, choice->algorithm, sizeof choice->algorithm) == 0 &&
        (*place)->choice.workspace == choice->workspace;
    (*place)->choice = *choice;
    return !same;
}

/* --- The file --- */

static const char *explain(int error, char text[ERROR_SIZE])
{
    return strerror_r(error, text, ERROR_SIZE);
}

/* All or nothing. */
static bool read_all(int fd, char *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        const ssize_t count = read(fd, bytes + done, size - done);
        if (count <= 0 && (count == 0 || errno != EINTR)) {
            return false;
        }
        done += count > 0 ? (size_t)count : 0;
    }
    return true;
}

static bool write_all(int fd, const char *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        const ssize_t count = write(fd, bytes + done, size - done);
        if (count < 0 && errno != EINTR) {
            return false;
        }
        done += count > 0 ? (size_t)count : 0;
    }
    return true;
}

/* Take over the choices for shapes that have none yet. NULL, or what is wrong with the bytes. */
static const char *parse(ser_algorithms *algorithms, const char *bytes, size_t size)
{
    file_header header;
    uint64_t hash;
    if (size < sizeof header + sizeof hash) {
        return "it is cut";
    }
    memcpy(&header, bytes, sizeof header);
    if (header.magic != MAGIC) {
        return "it is of another kind";
    }
    if (memcmp(header.identity, algorithms->identity, sizeof header.identity) != 0) {
        return "it is another device's";
    }
    if (header.count > SER_ALGORITHMS_MAX ||
        size != sizeof header + header.count * sizeof(file_record) + sizeof hash) {
        return "its size is wrong";
    }
    memcpy(&hash, bytes + size - sizeof hash, sizeof hash);
    if (hash != hash_of(bytes, size - sizeof hash)) {
        return "it is damaged";
    }
    for (size_t i = 0; i < header.count; i++) {
        file_record record;
        memcpy(&record, bytes + sizeof header + i * sizeof record, sizeof record);
        product_choice choice = {.workspace = record.workspace, .loaded = true};
        memcpy(choice.algorithm, record.algorithm, sizeof choice.algorithm);
        if (*find_place(algorithms, &record.key) == NULL) {
            put(algorithms, &record.key, &choice);
        }
    }
    return NULL;
}

/* Somebody else's file could hold anything, and the library trusts an algorithm. */
static const char *read_file(ser_algorithms *algorithms, int fd)
{
    struct stat about;
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) {
        return "it is no file";
    }
    if (about.st_uid != geteuid() || (about.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return "others may write it";
    }
    if (about.st_size > FILE_SIZE_MAX) {
        return "it is too large";
    }
    const size_t size = (size_t)about.st_size;
    char *bytes = ser_mem_alloc(size, 1);
    if (bytes == NULL) {
        return "out of memory";
    }
    const char *complaint =
        read_all(fd, bytes, size) ? parse(algorithms, bytes, size) : "it cannot be read";
    ser_mem_free(bytes);
    return complaint;
}

static void load(ser_algorithms *algorithms)
{
    const int fd = open(algorithms->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        if (errno != ENOENT) {
            char text[ERROR_SIZE];
            ser_log(SER_LOG_DEBUG, "%s: ignored: %s", algorithms->path, explain(errno, text));
        }
        return;
    }
    const char *complaint = read_file(algorithms, fd);
    (void)close(fd);
    if (complaint != NULL) {
        ser_log(SER_LOG_DEBUG, "%s: ignored: %s", algorithms->path, complaint);
    }
}

/* The file's content; NULL when out of memory. */
static char *compose(const ser_algorithms *algorithms, size_t *size)
{
    file_header header = {.magic = MAGIC, .count = algorithms->count};
    uint64_t hash;
    *size = sizeof header + algorithms->count * sizeof(file_record) + sizeof hash;
    char *bytes = ser_mem_alloc(*size, 1);
    if (bytes == NULL) {
        return NULL;
    }
    memcpy(header.identity, algorithms->identity, sizeof header.identity);
    memcpy(bytes, &header, sizeof header);
    char *to = bytes + sizeof header;
    for (size_t i = 0; i < BUCKETS; i++) {
        for (const node *n = algorithms->buckets[i]; n != NULL; n = n->next) {
            file_record record = {.key = n->key, .workspace = n->choice.workspace};
            memcpy(record.algorithm, n->choice.algorithm, sizeof record.algorithm);
            memcpy(to, &record, sizeof record);
            to += sizeof record;
        }
    }
    hash = hash_of(bytes, *size - sizeof hash);
    memcpy(to, &hash, sizeof hash);
    return bytes;
}

/* A process that reads meanwhile sees the old file or the new one. 0 or an errno. */
static int replace_file(const char *path, const char *bytes, size_t size)
{
    char temporary[PATH_SIZE + 8];
    (void)snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    const int fd = mkostemp(temporary, O_CLOEXEC); /* mode 0600 */
    if (fd < 0) {
        return errno;
    }
    int error = write_all(fd, bytes, size) ? 0 : errno;
    if (close(fd) != 0 && error == 0) {
        error = errno;
    }
    if (error == 0 && rename(temporary, path) != 0) {
        error = errno;
    }
    if (error != 0) {
        (void)unlink(temporary);
    }
    return error;
}

/* What other processes have added meanwhile stays. */
static void save(ser_algorithms *algorithms)
{
    size_t size;
    load(algorithms);
    char *bytes = compose(algorithms, &size);
    if (bytes == NULL) {
        return;
    }
    const int error = replace_file(algorithms->path, bytes, size);
    ser_mem_free(bytes);
    algorithms->changed = false;
    if (error != 0) {
        char text[ERROR_SIZE];
        algorithms->writes = false;
        ser_log(SER_LOG_INFO, "%s: cannot be written (%s): no more products are measured",
                algorithms->path, explain(error, text));
    }
}

/* New shapes come by the dozen: the file is written when the first one comes, then once a second
 * and at the end. */
static void save_sometimes(ser_algorithms *algorithms)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    if (algorithms->saved == 0 || now.tv_sec > algorithms->saved + 1) {
        algorithms->saved = now.tv_sec;
        save(algorithms);
    }
}

/* --- Where the file is --- */

/* The directory, without '/' at its end; false if there is to be none. */
static bool find_directory(char directory[PATH_SIZE])
{
    const char *chosen = secure_getenv("SER_CACHE_DIR");
    const char *cache = secure_getenv("XDG_CACHE_HOME");
    const char *home = secure_getenv("HOME");
    int length = 0;
    if (chosen != NULL) {
        length = snprintf(directory, PATH_SIZE, "%s", chosen);
    } else if (cache != NULL && cache[0] == '/') { /* others are invalid: XDG Base Directory 0.8 */
        length = snprintf(directory, PATH_SIZE, "%s/ser", cache);
    } else if (home != NULL && home[0] == '/') {
        length = snprintf(directory, PATH_SIZE, "%s/.cache/ser", home);
    }
    return length > 0 && length < PATH_SIZE;
}

/* Make it with all its parents. */
static void make_directory(char *directory)
{
    for (char *end = directory; end != NULL;) {
        end = strchr(end + 1, '/');
        if (end != NULL) {
            *end = '\0';
        }
        (void)mkdir(directory, S_IRWXU);
        if (end != NULL) {
            *end = '/';
        }
    }
}

/* Letters that mean nothing to a file system stay. */
static bool is_plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-';
}

static void find_file(ser_algorithms *algorithms)
{
    char directory[PATH_SIZE];
    char name[SER_ALGORITHMS_IDENTITY];
    if (!find_directory(directory)) {
        ser_log(SER_LOG_INFO, "no directory for measured products: none is measured");
        return;
    }
    make_directory(directory);
    for (size_t i = 0; i < sizeof name; i++) {
        const char c = algorithms->identity[i];
        name[i] = c == '\0' || is_plain(c) ? c : '_';
    }
    const int length =
        snprintf(algorithms->path, sizeof algorithms->path, "%s/products-%s.bin", directory, name);
    if (length >= PATH_SIZE) {
        algorithms->path[0] = '\0';
        return;
    }
    algorithms->writes = access(directory, W_OK | X_OK) == 0;
    if (!algorithms->writes) {
        char text[ERROR_SIZE];
        ser_log(SER_LOG_INFO, "%s: %s: no products are measured", directory, explain(errno, text));
    }
    load(algorithms);
}

/* --- The header's functions --- */

int ser_algorithms_open(const char *identity, ser_algorithms **algorithms)
{
    ser_algorithms *a = ser_mem_alloc(1, sizeof *a);
    if (a == NULL) {
        return SER_ERR_MEMORY;
    }
    (void)pthread_mutex_init(&a->lock, NULL);
    (void)snprintf(a->identity, sizeof a->identity, "%s", identity);
    find_file(a);
    *algorithms = a;
    return 0;
}

void ser_algorithms_close(ser_algorithms *algorithms)
{
    if (algorithms == NULL) {
        return;
    }
    if (algorithms->changed && algorithms->writes) {
        save(algorithms);
    }
    for (size_t i = 0; i < BUCKETS; i++) {
        for (node *n = algorithms->buckets[i]; n != NULL;) {
            node *next = n->next;
            ser_mem_free(n);
            n = next;
        }
    }
    (void)pthread_mutex_destroy(&algorithms->lock);
    ser_mem_free(algorithms);
}

bool ser_algorithms_lasting(ser_algorithms *algorithms)
{
    (void)pthread_mutex_lock(&algorithms->lock);
    const bool lasting = algorithms->writes && algorithms->count < SER_ALGORITHMS_MAX;
    (void)pthread_mutex_unlock(&algorithms->lock);
    return lasting;
}

bool ser_algorithms_find(ser_algorithms *algorithms, const product_key *key, product_choice *choice)
{
    (void)pthread_mutex_lock(&algorithms->lock);
    const node *found = *find_place(algorithms, key);
    if (found != NULL) {
        *choice = found->choice;
    }
    (void)pthread_mutex_unlock(&algorithms->lock);
    return found != NULL;
}

void ser_algorithms_put(ser_algorithms *algorithms, const product_key *key,
                        const product_choice *choice)
{
    (void)pthread_mutex_lock(&algorithms->lock);
    algorithms->changed = put(algorithms, key, choice) || algorithms->changed;
    if (algorithms->changed && algorithms->writes) {
        save_sometimes(algorithms);
    }
    (void)pthread_mutex_unlock(&algorithms->lock);
}
