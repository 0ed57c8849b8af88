/* SPDX-License-Identifier: MIT */
#include "run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "message.h"
#include "sink.h"
#include "text.h"

static const char lock_name[] = ".lock";
static const char probe_name[] = ".probe";
static const char checkpoint_prefix[] = "step-";
static const char best_prefix[] = "best-";
static const char best_suffix[] = ".safetensors";

/* What a run writes, and --force removes. */
static const char *const run_files[] = {
    "config.json", "metrics.jsonl", "best.safetensors", "report.json",
    "README.md",   "confusion.csv", "confusion.svg",    "curves.svg",
    "heldout.csv", "skipped.jsonl", "anomalies.jsonl",
};

static int complain(const char *path, const char *what)
{
    message_error("%s: %s: %s", path, what, strerror(errno));
    return MESSAGE_EXIT_IO;
}

char *run_dir_file(const run_dir *dir, const char *name)
{
    return text_join(dir->path, "/", name);
}

bool run_dir_has(const run_dir *dir, const char *name)
{
    char *path = run_dir_file(dir, name);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

/* mkdir -p */
static int make_directories(const char *path)
{
    char *copy = text_copy(path);
    int code = 0;
    for (char *end = copy; code == 0 && *end != '\0';) {
        end += strspn(end, "/");
        end += strcspn(end, "/");
        char saved = *end;
        *end = '\0';
        if (copy[0] != '\0' && mkdir(copy, 0777) != 0 && errno != EEXIST) {
            code = complain(copy, "cannot make this directory");
        }
        *end = saved;
    }
    free(copy);
    struct stat facts;
    if (code == 0 && (stat(path, &facts) != 0 || !S_ISDIR(facts.st_mode))) {
        errno = ENOTDIR;
        code = complain(path, "cannot hold a run");
    }
    return code;
}

static int take_lock(run_dir *dir)
{
    char *path = run_dir_file(dir, lock_name);
    dir->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    int code = 0;
    if (dir->lock < 0) {
        code = complain(path, "cannot open for writing");
    } else if (flock(dir->lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            message_error("%s: another ser-train works in this directory", dir->path);
            code = MESSAGE_EXIT_IO;
        } else {
            message_warning("%s: cannot be locked: %s", path, strerror(errno));
        }
    }
    free(path);
    return code;
}

/* A full disk or a read-only one shows here, not after an epoch. */
static int probe(const run_dir *dir)
{
    char *path = run_dir_file(dir, probe_name);
    static const char block[4096];
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int code = 0;
    if (fd < 0) {
        code = complain(path, "cannot open for writing");
    } else {
        bool good = write(fd, block, sizeof block) == (ssize_t)sizeof block && fsync(fd) == 0;
        code = good ? 0 : complain(path, "cannot write");
        close(fd);
        unlink(path);
    }
    free(path);
    return code;
}

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* What a run writes before its first step, which nobody will miss. */
static bool is_worthless(const run_dir *dir, const char *name)
{
    static const char *const names[] = {lock_name, "config.json", "skipped.jsonl"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    size_t count = 1;
    if (strcmp(name, "checkpoints") == 0) {
        free(run_dir_checkpoints(dir, &count));
    }
    return count == 0;
}

static bool holds_anything(const run_dir *dir)
{
    DIR *stream = opendir(dir->path);
    bool found = false;
    const struct dirent *entry;
    while (stream != NULL && !found && (entry = readdir(stream)) != NULL) {
        found = !is_dot(entry->d_name) && !is_worthless(dir, entry->d_name);
    }
    if (stream != NULL) {
        closedir(stream);
    }
    return found;
}

/* A checkpoint has no directories below it; anything else that is there stays. */
static void remove_flat(const char *path)
{
    DIR *stream = opendir(path);
    const struct dirent *entry;
    while (stream != NULL && (entry = readdir(stream)) != NULL) {
        if (!is_dot(entry->d_name)) {
            char *file = text_join(path, "/", entry->d_name);
            unlink(file);
            free(file);
        }
    }
    if (stream != NULL) {
        closedir(stream);
    }
    rmdir(path);
}

/* Renamed first: what is half removed has no name of a checkpoint. */
static void remove_checkpoint(const char *path)
{
    char *trash = text_join(path, ".trash", "");
    if (rename(path, trash) != 0) {
        message_warning("%s: cannot be removed: %s", path, strerror(errno));
    } else {
        remove_flat(trash);
    }
    free(trash);
}

/* "PATH/checkpoints/best-STEP.safetensors"; the caller frees. */
static char *kept_best(const run_dir *dir, int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "checkpoints/%s%lld%s", best_prefix, (long long)step, best_suffix);
    return run_dir_file(dir, name);
}

/* The step of "best-N.safetensors"; -1: not that name. */
static int64_t step_of_best(const char *name)
{
    size_t prefix = sizeof best_prefix - 1;
    if (strncmp(name, best_prefix, prefix) != 0 || name[prefix] < '0' || name[prefix] > '9') {
        return -1;
    }
    char *end;
    long long step = strtoll(name + prefix, &end, 10);
    return strcmp(end, best_suffix) == 0 ? (int64_t)step : -1;
}

/* Models whose checkpoints are gone. */
static void remove_kept(const run_dir *dir)
{
    char *folder = run_dir_file(dir, "checkpoints");
    DIR *stream = opendir(folder);
    const struct dirent *entry;
    while (stream != NULL && (entry = readdir(stream)) != NULL) {
        int64_t step = step_of_best(entry->d_name);
        char *checkpoint = run_dir_checkpoint(dir, step);
        if (step >= 0 && access(checkpoint, F_OK) != 0) {
            char *path = text_join(folder, "/", entry->d_name);
            unlink(path);
            free(path);
        }
        free(checkpoint);
    }
    if (stream != NULL) {
        closedir(stream);
    }
    free(folder);
}

void run_dir_clear(const run_dir *dir)
{
    size_t count = 0;
    int64_t *steps = run_dir_checkpoints(dir, &count);
    for (size_t i = 0; i < count; i++) {
        char *path = run_dir_checkpoint(dir, steps[i]);
        remove_checkpoint(path);
        free(path);
    }
    free(steps);
    remove_kept(dir);
    for (size_t i = 0; i < sizeof run_files / sizeof run_files[0]; i++) {
        char *path = run_dir_file(dir, run_files[i]);
        unlink(path);
        free(path);
    }
}

/* "report.json.123-0.tmp", ".probe": written by a process that died, since we hold the lock. */
static bool is_leftover(const char *name)
{
    size_t length = strlen(name);
    if (strcmp(name, probe_name) == 0 ||
        (strncmp(name, ".ser-", 5) == 0 && length > 4 && strcmp(name + length - 4, ".tmp") == 0)) {
        return true; /* the second one is half a model */
    }
    for (size_t i = 0; i < sizeof run_files / sizeof run_files[0]; i++) {
        size_t stem = strlen(run_files[i]);
        if (length > stem + 4 && strncmp(name, run_files[i], stem) == 0 && name[stem] == '.' &&
            strcmp(name + length - 4, ".tmp") == 0) {
            return true;
        }
    }
    return false;
}

static void remove_leftovers(const run_dir *dir)
{
    DIR *stream = opendir(dir->path);
    const struct dirent *entry;
    while (stream != NULL && (entry = readdir(stream)) != NULL) {
        if (is_leftover(entry->d_name)) {
            char *path = run_dir_file(dir, entry->d_name);
            unlink(path);
            free(path);
        }
    }
    if (stream != NULL) {
        closedir(stream);
    }
}

static int check_content(const run_dir *dir, run_dir_mode mode)
{
    if (mode == RUN_DIR_SHARED || mode == RUN_DIR_FORCE || !holds_anything(dir)) {
        return 0;
    }
    if (mode == RUN_DIR_FRESH) {
        message_error("%s: not empty; --resume goes on with the run in it, --force replaces it",
                      dir->path);
        return MESSAGE_EXIT_USAGE;
    }
    if (mode == RUN_DIR_RESUME && !run_dir_has(dir, "config.json")) {
        message_error("%s: holds files but no config.json, so it is not a run to go on with",
                      dir->path);
        return MESSAGE_EXIT_USAGE;
    }
    return 0;
}

int run_dir_open(run_dir *dir, const char *path, run_dir_mode mode)
{
    *dir = (run_dir){.path = text_copy(path), .lock = -1};
    int code = make_directories(path);
    if (code == 0) {
        code = take_lock(dir);
    }
    if (code == 0) {
        remove_leftovers(dir);
        code = check_content(dir, mode);
    }
    if (code == 0) {
        code = probe(dir);
    }
    if (code != 0) {
        run_dir_close(dir);
    }
    return code;
}

int run_dir_prepare(const run_dir *dir)
{
    char *checkpoints = run_dir_file(dir, "checkpoints");
    int code = make_directories(checkpoints);
    free(checkpoints);
    return code;
}

void run_dir_close(run_dir *dir)
{
    if (dir->path != NULL && dir->lock >= 0) {
        close(dir->lock);
    }
    free(dir->path);
    *dir = (run_dir){.lock = -1};
}

int run_dir_write_json(const run_dir *dir, const char *name, const json_t *object)
{
    sink out;
    char *path = run_dir_file(dir, name);
    int code = sink_open(&out, path);
    free(path);
    if (code != 0) {
        return code;
    }
    json_dumpf(object, out.stream, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    putc('\n', out.stream);
    code = sink_commit(&out);
    sink_discard(&out);
    return code;
}

json_t *run_dir_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

int run_dir_append(const run_dir *dir, const char *name, json_t *object)
{
    char *line = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(10));
    char *whole = text_join(line != NULL ? line : "{}", "\n", "");
    char *path = run_dir_file(dir, name);
    free(line);
    json_decref(object);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    size_t length = strlen(whole);
    int code = 0;
    if (fd < 0 || write(fd, whole, length) != (ssize_t)length) {
        code = complain(path, "cannot write");
    }
    if (fd >= 0) {
        close(fd);
    }
    free(path);
    free(whole);
    return code;
}

/* Whether a line was written before the checkpoint of a step, in which `epochs` had ended. A
 * checkpoint may be that of an epoch's last step and still from before its end. */
static bool is_earlier(const char *line, int64_t step, int64_t epochs)
{
    json_t *object = json_loads(line, 0, NULL);
    json_t *of = json_object_get(object, "step");
    const char *kind = json_string_value(json_object_get(object, "kind"));
    bool earlier = json_is_integer(of) && json_integer_value(of) <= step;
    if (kind != NULL && strcmp(kind, "epoch") == 0) {
        earlier = earlier && json_integer_value(json_object_get(object, "epoch")) <= epochs;
    }
    json_decref(object);
    return earlier;
}

int run_dir_trim(const run_dir *dir, const char *name, int64_t step, int64_t epochs)
{
    char *path = run_dir_file(dir, name);
    FILE *f = fopen(path, "re");
    sink out;
    if (f == NULL || sink_open(&out, path) != 0) {
        int code = f == NULL && errno == ENOENT ? 0 : complain(path, "cannot be trimmed");
        if (f != NULL) {
            fclose(f);
        }
        free(path);
        return code;
    }
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, f) > 0) {
        if (is_earlier(line, step, epochs)) {
            fputs(line, out.stream);
        }
    }
    free(line);
    fclose(f);
    int code = sink_commit(&out);
    sink_discard(&out);
    free(path);
    return code;
}

/* The step of "step-N"; -1: not that name. */
static int64_t step_of(const char *name)
{
    size_t prefix = sizeof checkpoint_prefix - 1;
    int64_t step = -1;
    bool good = strncmp(name, checkpoint_prefix, prefix) == 0 && name[prefix] >= '0' &&
                name[prefix] <= '9' && text_parse_integer(name + prefix, &step);
    return good ? step : -1;
}

static int newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;
    return x > y ? -1 : x < y;
}

/* We hold the lock: what begins like a checkpoint and is none was left by a process that died. */
static void remove_remains(const char *folder, const char *name)
{
    if (strstr(name, checkpoint_prefix) != NULL &&
        (strstr(name, ".tmp") != NULL || strstr(name, ".trash") != NULL ||
         strstr(name, ".old") != NULL)) {
        char *path = text_join(folder, "/", name);
        remove_flat(path);
        free(path);
    }
}

int64_t *run_dir_checkpoints(const run_dir *dir, size_t *count)
{
    char *folder = run_dir_file(dir, "checkpoints");
    DIR *stream = opendir(folder);
    int64_t *steps = text_alloc(1, sizeof *steps);
    size_t room = 1;
    const struct dirent *entry;
    *count = 0;
    while (stream != NULL && (entry = readdir(stream)) != NULL) {
        int64_t step = step_of(entry->d_name);
        if (step < 0) {
            remove_remains(folder, entry->d_name);
            continue;
        }
        if (*count == room) {
            int64_t *more = text_alloc(2 * room, sizeof *more);
            memcpy(more, steps, room * sizeof *more);
            free(steps);
            steps = more;
            room *= 2;
        }
        steps[(*count)++] = step;
    }
    if (stream != NULL) {
        closedir(stream);
    }
    free(folder);
    qsort(steps, *count, sizeof *steps, newest_first);
    return steps;
}

char *run_dir_checkpoint(const run_dir *dir, int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "checkpoints/%s%lld", checkpoint_prefix, (long long)step);
    return run_dir_file(dir, name);
}

int run_dir_keep_best(const run_dir *dir, int64_t step)
{
    char *best = run_dir_file(dir, "best.safetensors");
    char *kept = kept_best(dir, step);
    unlink(kept); /* of an earlier checkpoint of this step */
    int error = link(best, kept) == 0 ? 0 : errno;
    free(kept);
    free(best);
    return error;
}

int run_dir_take_best(const run_dir *dir, int64_t step)
{
    char *best = run_dir_file(dir, "best.safetensors");
    char *kept = kept_best(dir, step);
    int code =
        rename(kept, best) == 0 || errno == ENOENT ? 0 : complain(best, "cannot be replaced");
    if (code == 0) {
        (void)run_dir_keep_best(dir, step); /* where it cannot, the next save says so */
    }
    free(kept);
    free(best);
    return code;
}

void run_dir_rotate(const run_dir *dir, int64_t newest, size_t keep)
{
    size_t count = 0;
    size_t kept = 0;
    int64_t *steps = run_dir_checkpoints(dir, &count);
    for (size_t i = 0; i < count; i++) {
        if (steps[i] <= newest && kept < keep) {
            kept++;
            continue;
        }
        char *path = run_dir_checkpoint(dir, steps[i]);
        remove_checkpoint(path);
        free(path);
    }
    free(steps);
    remove_kept(dir);
}
