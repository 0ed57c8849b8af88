/* SPDX-License-Identifier: MIT */
/* At any moment a complete checkpoint on the disk: kills, full disks, odd paths, leftovers. */
#include "checkpoint_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "train/checkpoint_files.h"

enum { KILLS = 56, FILES = 4 };

static void save(const char *path, const char *note)
{
    assert_ok(ser_trainer_save(trainer, path, note));
}

static void setup(void)
{
    trainer_setup();
    new_root();
    options.average = 0.9F;
    start_over(LOGMEL, 1);
}

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static const char *format_path(const char *format, const char *path, long pid)
{
    static char paths[4][8192];
    static unsigned next;
    char *to = paths[next++ % 4];
    /* the format is one of the literals below */
    if (strcmp(format, "tmp") == 0) {
        snprintf(to, sizeof paths[0], "%s.tmp-%ld-0", path, pid);
    } else {
        snprintf(to, sizeof paths[0], "%s.trash-%ld", path, pid);
    }
    return to;
}

/* --- kill -9 (CK1) --- */

/* In a process of its own: go on from the checkpoint, step and save for ever. */
static void save_until_killed(const char *path, int ready)
{
    trainer = NULL;
    model = NULL;
    trainer_setup();
    options.average = 0.9F;
    start_over(LOGMEL, 7);
    if (ser_trainer_restore(trainer, path, NULL) != 0) {
        _exit(1);
    }
    for (int i = 0;; i++) {
        char note[32];
        train(i, 1);
        snprintf(note, sizeof note, "step %lld", (long long)ser_trainer_steps(trainer));
        if (i == 0 && write(ready, "", 1) != 1) {
            _exit(2);
        }
        if (ser_trainer_save(trainer, path, note) != 0) {
            _exit(3);
        }
    }
}

/* Start a saving process, kill it after `delay` microseconds of saving. */
static void kill_a_saver(const char *path, useconds_t delay)
{
    int ready[2];
    char byte;
    ck_assert_int_eq(pipe(ready), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        (void)close(ready[0]);
        save_until_killed(path, ready[1]);
    }
    (void)close(ready[1]);
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    (void)close(ready[0]);
    (void)usleep(delay);
    int status = 0;
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %d", status);
}

START_TEST(killed_at_random_moments)
{
    const char *path = place("last");
    uint64_t state = 1;
    int64_t step = 0;
    int interrupted = 0;
    struct timespec begin, end;
    (void)clock_gettime(CLOCK_MONOTONIC, &begin);
    save(path, "step 0");
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    /* up to a save and a half */
    const float most = 1.5F * (1e6F * (float)(end.tv_sec - begin.tv_sec) +
                               1e-3F * (float)(end.tv_nsec - begin.tv_nsec));
    for (int i = 0; i < KILLS; i++) {
        kill_a_saver(path, (useconds_t)(0.5F * most * (1.0F + harness_random(&state))));
        interrupted += count_entries(root()) > 1 ? 1 : 0;
        const char *note;
        char expected[32];
        assert_ok(ser_trainer_restore(trainer, path, &note));
        snprintf(expected, sizeof expected, "step %lld", (long long)ser_trainer_steps(trainer));
        ck_assert_str_eq(note, expected);
        ck_assert_int_ge(ser_trainer_steps(trainer), step); /* never an older one */
        step = ser_trainer_steps(trainer);
    }
    /* kills struck within saves, and some saves were done; the next one tidies up */
    ck_assert_msg(interrupted > KILLS / 10 && step > 0, "%d of %d, %lld steps", interrupted, KILLS,
                  (long long)step);
    save(path, "end");
    ck_assert_uint_eq(count_entries(root()), 1);
    ck_assert_uint_eq(count_entries(path), FILES);
}
END_TEST

/* --- Moments that a kill rarely meets --- */

/* The place is empty, the old and the new one stand beside it: the newest complete one is read. */
START_TEST(found_beside_its_place)
{
    const char *path = place("last");
    const char *new = format_path("tmp", path, dead_pid());
    const char *old = format_path("trash", path, dead_pid());
    train(0, 1);
    save(place("first"), "old");
    snapshot older = take_snapshot();
    train(1, 1);
    save(place("second"), "new");
    ck_assert_int_eq(rename(place("first"), old), 0);
    ck_assert_int_eq(rename(place("second"), new), 0);
    snapshot newer = take_snapshot();
    const char *note;
    ck_assert(!exists(path));
    train(2, 1);
    assert_ok(ser_trainer_restore(trainer, path, &note));
    ck_assert_str_eq(note, "new");
    ck_assert(is_same_state(&newer));
    /* still being written when its process died */
    ck_assert_int_eq(remove(within(new, SER_CHECKPOINT_MANIFEST)), 0);
    assert_ok(ser_trainer_restore(trainer, path, &note));
    ck_assert_str_eq(note, "old");
    ck_assert(is_same_state(&older));
    /* a name that only looks similar is nobody's checkpoint */
    ck_assert_int_eq(rename(old, place("last.trash-abc")), 0);
    assert_fails(ser_trainer_restore(trainer, path, NULL), SER_ERR_IO, "there is no checkpoint");
    ck_assert_int_eq(rename(place("last.trash-abc"), old), 0);
    /* the next save tidies up */
    save(path, "third");
    ck_assert_uint_eq(count_entries(root()), 1);
    free_snapshot(&older);
    free_snapshot(&newer);
}
END_TEST

/* What is in the place is read, even if something newer stands beside it. */
START_TEST(siblings_are_not_read_otherwise)
{
    const char *path = place("last");
    save(path, "first");
    ck_assert_int_eq(rename(path, format_path("tmp", path, dead_pid())), 0);
    save(place("other"), "other");
    ck_assert_int_eq(rename(place("other"), path), 0);
    const char *note;
    assert_ok(ser_trainer_restore(trainer, path, &note));
    ck_assert_str_eq(note, "other");
    ck_assert_int_eq(remove(within(path, SER_CHECKPOINT_STATE)), 0);
    assert_fails(ser_trainer_restore(trainer, path, &note), SER_ERR_FORMAT, "state.json");
}
END_TEST

/* As on a file system that cannot exchange two names. */
START_TEST(two_steps)
{
    const char *path = place("last");
    save(path, "old");
    for (int i = 0; i < 2; i++) {
        ser_checkpoint_place where;
        assert_ok(ser_checkpoint_place_open(path, &where));
        assert_ok(ser_checkpoint_begin(&where));
        for (int f = 0; f < FILES - 1; f++) {
            static const char *const names[] = {SER_CHECKPOINT_MODEL, SER_CHECKPOINT_TENSORS,
                                                SER_CHECKPOINT_STATE};
            size_t size;
            unsigned char *bytes = read_bytes(within(path, names[f]), &size);
            char *file = ser_checkpoint_file(&where, names[f]);
            write_bytes(file, bytes, size);
            ser_mem_free(file);
            free(bytes);
        }
        assert_ok(ser_checkpoint_seal(&where));
        assert_ok(ser_checkpoint_publish(&where, false));
        ser_checkpoint_place_close(&where);
        assert_ok(ser_trainer_restore(trainer, path, NULL));
        ck_assert_uint_eq(count_entries(root()), 1);
    }
}
END_TEST

/* Those of dead processes and our own go with the next save; what may be in use stays. */
START_TEST(leftovers)
{
    const char *path = place("last");
    const char *dead = format_path("tmp", path, dead_pid());
    const char *own = format_path("tmp", path, (long)getpid());
    const char *alive = format_path("trash", path, (long)getppid());
    const char *const kept[] = {alive,
                                place("last.tmp-"),
                                place("last.tmp-0"),
                                place("last.tmp-12x"),
                                place("last.tmp-12-"),
                                place("last.tmp-99999999999999999999"),
                                place("other.tmp-1")};
    save(place("sample"), NULL);
    copy_directory(place("sample"), dead);
    copy_directory(place("sample"), own);
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        copy_directory(place("sample"), kept[i]);
    }
    /* killed while it wrote a file */
    write_bytes(within(dead, ".ser-12-0.tmp"), "x", 1);
    save(path, NULL);
    ck_assert(!exists(dead) && !exists(own) && exists(path));
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        ck_assert_msg(exists(kept[i]), "%s", kept[i]);
    }
    /* somebody's file is not deleted with it */
    dead = format_path("tmp", path, dead_pid());
    copy_directory(place("sample"), dead);
    write_bytes(within(dead, "thesis.tex"), "x", 1);
    save(path, NULL);
    ck_assert(exists(within(dead, "thesis.tex")));
    ck_assert_uint_eq(count_entries(dead), 1);
}
END_TEST

/* --- Full disk (CK2) --- */

/* Every file, and each at several points, meets the limit once. */
START_TEST(disk_full)
{
    const char *path = place("last");
    struct rlimit old, limit;
    struct stat model_file, tensors;
    save(path, "old");
    ck_assert_int_eq(stat(within(path, SER_CHECKPOINT_MODEL), &model_file), 0);
    ck_assert_int_eq(stat(within(path, SER_CHECKPOINT_TENSORS), &tensors), 0);
    ck_assert_int_gt(tensors.st_size, model_file.st_size);
    const rlim_t limits[] = {0,
                             1,
                             100,
                             1000,
                             (rlim_t)model_file.st_size - 1,
                             (rlim_t)model_file.st_size,
                             (rlim_t)tensors.st_size - 1};
    train(0, 1);
    snapshot now = take_snapshot();
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        limit = (struct rlimit){.rlim_cur = limits[i], .rlim_max = old.rlim_max};
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        int status = ser_trainer_save(trainer, path, "new");
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
        ck_assert_int_eq(status, SER_ERR_IO);
        ck_assert_msg(strstr(ser_fail_text(), "File too large") != NULL, "%s", ser_fail_text());
        ck_assert(is_same_state(&now));
        ck_assert_uint_eq(count_entries(root()), 1);
    }
    (void)signal(SIGXFSZ, handler);
    const char *note;
    assert_ok(ser_trainer_restore(trainer, path, &note));
    ck_assert_str_eq(note, "old");
    save(path, "new"); /* the next attempt may succeed */
    free_snapshot(&now);
}
END_TEST

/* --- Places (CK3, CK10) --- */

static void refuse(const char *path, int status, const char *part)
{
    assert_fails(ser_trainer_save(trainer, path, NULL), status, part);
}

START_TEST(impossible_places)
{
    refuse("", SER_ERR_ARGUMENT, "path is empty");
    refuse(".", SER_ERR_ARGUMENT, "\"./checkpoint\"");
    refuse("..", SER_ERR_ARGUMENT, "needs a name of its own");
    refuse("/", SER_ERR_ARGUMENT, "needs a name of its own");
    refuse("///", SER_ERR_ARGUMENT, "needs a name of its own");
    refuse(place("."), SER_ERR_ARGUMENT, "needs a name of its own");
    refuse(place("missing/last"), SER_ERR_IO, "No such file");
    write_bytes(place("file"), "x", 1);
    refuse(place("file"), SER_ERR_IO, "not a directory");
    refuse(place("file/last"), SER_ERR_IO, "Not a directory");
    assert_fails(ser_trainer_restore(trainer, place("file"), NULL), SER_ERR_IO, "Not a directory");
    assert_fails(ser_trainer_restore(trainer, place("none"), NULL), SER_ERR_IO, "no checkpoint");
    assert_fails(ser_trainer_restore(trainer, place("no/ne"), NULL), SER_ERR_IO, "No such file");
    ck_assert_uint_eq(count_entries(root()), 1);
    /* a link is not replaced, and what it names neither */
    save(place("real"), NULL);
    ck_assert_int_eq(symlink(place("real"), place("link")), 0);
    refuse(place("link"), SER_ERR_IO, "not a directory");
    assert_ok(ser_trainer_restore(trainer, place("link"), NULL));
    /* nor are other people's files */
    write_bytes(within(place("real"), "thesis.tex"), "x", 1);
    refuse(place("real"), SER_ERR_IO, "thesis.tex");
    ck_assert(exists(within(place("real"), "thesis.tex")));
    ck_assert_uint_eq(count_entries(root()), 3);
    /* an empty directory is */
    ck_assert_int_eq(mkdir(place("empty"), 0777), 0);
    save(place("empty"), NULL);
    ck_assert_uint_eq(count_entries(place("empty")), FILES);
    /* names have a greatest length, and ours are longer than theirs */
    char name[260];
    memset(name, 'n', sizeof name);
    name[250] = '\0';
    refuse(place(name), SER_ERR_IO, "File name too long");
}
END_TEST

START_TEST(read_only_directory)
{
    const char *folder = place("locked");
    ck_assert_int_eq(mkdir(folder, 0777), 0);
    save(within(folder, "last"), "old");
    ck_assert_int_eq(chmod(folder, 0555), 0);
    if (access(folder, W_OK) != 0) { /* root may do anything */
        refuse(within(folder, "last"), SER_ERR_IO, "Permission denied");
        refuse(within(folder, "new"), SER_ERR_IO, "Permission denied");
    }
    assert_ok(ser_trainer_restore(trainer, within(folder, "last"), NULL));
    ck_assert_int_eq(chmod(folder, 0777), 0);
}
END_TEST

static void round_trip(const char *path)
{
    const char *note;
    for (int i = 0; i < 2; i++) {
        save(path, "here");
        assert_ok(ser_trainer_restore(trainer, path, &note));
        ck_assert_str_eq(note, "here");
    }
}

START_TEST(odd_places)
{
    round_trip(place("with blanks and \"quotes\""));
    round_trip(place("not \xFF\xFE UTF-8"));
    round_trip(place("%s%n"));
    round_trip(place("slashes///"));
    ck_assert(exists(place("slashes")));
    /* 3 kB, as far as it goes */
    char path[8192];
    snprintf(path, sizeof path, "%s", place("deep"));
    while (strlen(path) < 3000) {
        ck_assert_int_eq(mkdir(path, 0777), 0);
        memset(path + strlen(path) + 1, 0, 101);
        char *end = path + strlen(path);
        *end = '/';
        memset(end + 1, 'd', 100);
    }
    round_trip(path);
    char *end = path + strlen(path);
    memset(end, 0, 2000);
    for (int i = 0; i < 10; i++) {
        memcpy(end + 120 * i, "/", 1);
        memset(end + 120 * i + 1, 'd', 119);
    }
    refuse(path, SER_ERR_IO, "dddd"); /* the text is cut before the reason */

    /* relative to where we are */
    int here = open(".", O_RDONLY | O_DIRECTORY);
    ck_assert_int_ge(here, 0);
    ck_assert_int_eq(chdir(root()), 0);
    round_trip("here");
    round_trip("./there");
    round_trip("../../../../../../../../../../..//proc/self/cwd/afar");
    ck_assert_int_eq(fchdir(here), 0);
    (void)close(here);
    ck_assert(exists(place("here")) && exists(place("there")) && exists(place("afar")));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("checkpoint_files");
    TCase *tcase = tcase_create("checkpoint_files");
    tcase_set_timeout(tcase, 120.0);
    tcase_add_checked_fixture(tcase, setup, trainer_teardown);
    tcase_add_test(tcase, killed_at_random_moments);
    tcase_add_test(tcase, found_beside_its_place);
    tcase_add_test(tcase, siblings_are_not_read_otherwise);
    tcase_add_test(tcase, two_steps);
    tcase_add_test(tcase, leftovers);
    tcase_add_test(tcase, disk_full);
    tcase_add_test(tcase, impossible_places);
    tcase_add_test(tcase, read_only_directory);
    tcase_add_test(tcase, odd_places);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
