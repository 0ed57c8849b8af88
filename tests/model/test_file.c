/* SPDX-License-Identifier: MIT */
/* Opening what may not be a file, and replacing files as a whole. */
#include "harness.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "builder.h"
#include "model/file.h"
#include "model/package.h"
#include "model/writer.h"

static int open_model(const char *path)
{
    ser_package package;
    int status = ser_package_open(path, SER_DEFAULT_HEADER, &package);
    ser_package_clear(&package);
    return status;
}

START_TEST(ST14_paths)
{
    char path[512];
    const char *dir = harness_tmpdir();
    alarm(20); /* a FIFO must not make us wait */
    assert_fails(open_model(harness_tmpfile("absent")), SER_ERR_IO, "No such file");
    assert_fails(open_model(""), SER_ERR_IO, "No such file");
    assert_fails(open_model(dir), SER_ERR_IO, "config.json: cannot open: No such file");
    (void)snprintf(path, sizeof path, "%s/fifo", dir);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    assert_fails(open_model(path), SER_ERR_IO, "not a regular file");
    assert_fails(open_model("/dev/zero"), SER_ERR_IO, "not a regular file");
    (void)snprintf(path, sizeof path, "%s/loop", dir);
    ck_assert_int_eq(symlink("loop", path), 0);
    assert_fails(open_model(path), SER_ERR_IO, "symbolic links");
    (void)snprintf(path, sizeof path, "%s/%0300d", dir, 1);
    assert_fails(open_model(path), SER_ERR_IO, "name too long");
    (void)snprintf(path, sizeof path, "%s/file", dir);
    write_text(path, "x");
    (void)snprintf(path, sizeof path, "%s/file/below", dir);
    assert_fails(open_model(path), SER_ERR_IO, "Not a directory");
    alarm(0);
}
END_TEST

START_TEST(ST14_no_permission)
{
    if (geteuid() == 0) {
        return; /* root may read everything */
    }
    const char *path = harness_tmpfile("secret");
    write_text(path, "x");
    ck_assert_int_eq(chmod(path, 0), 0);
    assert_fails(open_model(path), SER_ERR_IO, "Permission denied");
}
END_TEST

START_TEST(reads_within_the_file_only)
{
    ser_file file;
    char buffer[8];
    assert_ok(ser_file_wrap("abcdef", 6, "memory", &file));
    assert_ok(ser_file_read(&file, 2, buffer, 4));
    ck_assert_mem_eq(buffer, "cdef", 4);
    assert_ok(ser_file_read(&file, 6, buffer, 0));
    assert_fails(ser_file_read(&file, 3, buffer, 4), SER_ERR_INTERNAL, "beyond the end");
    assert_fails(ser_file_read(&file, UINT64_MAX, buffer, 1), SER_ERR_INTERNAL, "beyond the end");
    char *text;
    size_t length;
    assert_ok(ser_file_read_text(&file, 6, &text, &length));
    ck_assert_str_eq(text, "abcdef");
    ck_assert_uint_eq(length, 6);
    ser_mem_free(text);
    assert_fails(ser_file_read_text(&file, 5, &text, &length), SER_ERR_CAPACITY,
                 "6 bytes, limit 5");
    ser_file_close(&file);
    ser_file_close(&file);
}
END_TEST

/* Write `size` bytes of `c` to `path` through the writer. */
static int write_bytes(const char *path, int c, size_t size)
{
    ser_writer writer;
    char block[1000];
    memset(block, c, sizeof block);
    int status = ser_writer_open(path, &writer);
    if (status != 0) {
        return status;
    }
    for (size_t done = 0; done < size && status == 0; done += sizeof block) {
        size_t n = size - done < sizeof block ? size - done : sizeof block;
        status = ser_writer_append(&writer, block, n);
    }
    if (status == 0) {
        return ser_writer_commit(&writer);
    }
    ser_writer_abort(&writer);
    return status;
}

static void expect_content(const char *path, int c, off_t size)
{
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_size, size);
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    for (off_t i = 0; i < size; i++) {
        ck_assert_int_eq(fgetc(file), c);
    }
    (void)fclose(file);
}

/* A fresh directory and the path of a file in it. */
static void fresh(char *dir, char *path, size_t size)
{
    static unsigned serial;
    (void)snprintf(dir, size, "%s/w%u", harness_tmpdir(), serial++);
    ck_assert_int_eq(mkdir(dir, 0777), 0);
    (void)snprintf(path, size, "%s/target", dir);
}

START_TEST(writes_and_replaces)
{
    char dir[256];
    char path[300];
    fresh(dir, path, sizeof dir);
    assert_ok(write_bytes(path, 'a', 2500));
    expect_content(path, 'a', 2500);
    assert_ok(write_bytes(path, 'b', 7));
    expect_content(path, 'b', 7);
    assert_ok(write_bytes(path, 'c', 0));
    expect_content(path, 'c', 0);
    ck_assert(directory_holds_only(dir, "target"));
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    mode_t mask = umask(0);
    (void)umask(mask);
    ck_assert_uint_eq(st.st_mode & 0777U, 0666U & ~mask);
}
END_TEST

START_TEST(names_of_every_length)
{
    char dir[256];
    char path[600];
    fresh(dir, path, sizeof dir);
    (void)snprintf(path, sizeof path, "%s/%0255d", dir, 7); /* NAME_MAX */
    assert_ok(write_bytes(path, 'n', 10));
    expect_content(path, 'n', 10);
    char cwd[4096];
    ck_assert_ptr_nonnull(getcwd(cwd, sizeof cwd));
    ck_assert_int_eq(chdir(dir), 0);
    assert_ok(write_bytes("relative", 'r', 10));
    expect_content("relative", 'r', 10);
    ck_assert_int_eq(chdir(cwd), 0);
}
END_TEST

START_TEST(abort_leaves_the_old_file)
{
    char dir[256];
    char path[300];
    ser_writer writer;
    fresh(dir, path, sizeof dir);
    assert_ok(write_bytes(path, 'o', 100));
    assert_ok(ser_writer_open(path, &writer));
    assert_ok(ser_writer_append(&writer, "new", 3));
    ck_assert(!directory_holds_only(dir, "target"));
    expect_content(path, 'o', 100); /* untouched until the commit */
    ser_writer_abort(&writer);
    ser_writer_abort(&writer);
    expect_content(path, 'o', 100);
    ck_assert(directory_holds_only(dir, "target"));
}
END_TEST

/* The disk is full after so many bytes: a file size limit fails writes in the same way. */
START_TEST(full_disk)
{
    char dir[256];
    char path[300];
    struct rlimit old;
    fresh(dir, path, sizeof dir);
    assert_ok(write_bytes(path, 'o', 100));
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    struct rlimit limit = {.rlim_cur = 1500, .rlim_max = old.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int status = write_bytes(path, 'n', 5000);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    (void)signal(SIGXFSZ, handler);
    assert_fails(status, SER_ERR_IO, "cannot write: File too large");
    expect_content(path, 'o', 100);
    ck_assert(directory_holds_only(dir, "target"));
}
END_TEST

START_TEST(places_that_cannot_be_written)
{
    char dir[256];
    char path[600];
    fresh(dir, path, sizeof dir);
    ck_assert_int_eq(mkdir(path, 0777), 0);
    assert_fails(write_bytes(path, 'x', 1), SER_ERR_IO, "is a directory");
    ck_assert(directory_holds_only(dir, "target"));
    ck_assert(directory_holds_only(path, NULL));
    (void)snprintf(path, sizeof path, "%s/", dir);
    assert_fails(write_bytes(path, 'x', 1), SER_ERR_IO, "names a directory");
    assert_fails(write_bytes("", 'x', 1), SER_ERR_IO, "names a directory");
    assert_fails(write_bytes(".", 'x', 1), SER_ERR_IO, "is a directory");
    (void)snprintf(path, sizeof path, "%s/absent/file", dir);
    assert_fails(write_bytes(path, 'x', 1), SER_ERR_IO, "No such file");
    assert_fails(write_bytes("/proc/ser-model", 'x', 1), SER_ERR_IO, "temporary file");
    (void)snprintf(path, sizeof path, "%s/%0300d", dir, 1);
    assert_fails(write_bytes(path, 'x', 1), SER_ERR_IO, "name too long");
}
END_TEST

START_TEST(directory_without_permission)
{
    char dir[256];
    char path[300];
    if (geteuid() == 0) {
        return; /* root may write everywhere */
    }
    fresh(dir, path, sizeof dir);
    ck_assert_int_eq(chmod(dir, 0500), 0);
    assert_fails(write_bytes(path, 'x', 1), SER_ERR_IO, "Permission denied");
    ck_assert_int_eq(chmod(dir, 0700), 0);
    ck_assert(directory_holds_only(dir, NULL));
}
END_TEST

/* What is no file stays, and who could not read the old file cannot read the new one. */
START_TEST(special_files_and_permissions)
{
    char dir[256];
    char path[300];
    struct stat st;
    fresh(dir, path, sizeof dir);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    assert_fails(write_bytes(path, 'x', 1), SER_ERR_IO, "is not a regular file");
    ck_assert_int_eq(lstat(path, &st), 0);
    ck_assert(S_ISFIFO(st.st_mode));
    ck_assert_int_eq(unlink(path), 0);
    write_text(path, "private");
    ck_assert_int_eq(chmod(path, 0600), 0);
    assert_ok(write_bytes(path, 'x', 5));
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_mode & 07777, 0600);
}
END_TEST

/* A link is replaced, not followed, and another's temporary file is not touched. */
START_TEST(links_and_other_writers)
{
    char dir[256];
    char path[300];
    char other[300];
    ser_writer first;
    fresh(dir, path, sizeof dir);
    (void)snprintf(other, sizeof other, "%s/other", dir);
    write_text(other, "precious");
    ck_assert_int_eq(symlink("other", path), 0);
    assert_ok(write_bytes(path, 'x', 5));
    expect_content(path, 'x', 5);
    struct stat st;
    ck_assert_int_eq(lstat(path, &st), 0);
    ck_assert(S_ISREG(st.st_mode));
    ck_assert_int_eq(stat(other, &st), 0);
    ck_assert_int_eq(st.st_size, 8);
    /* two at a time: each has its own temporary file, the last commit stays */
    assert_ok(ser_writer_open(path, &first));
    assert_ok(ser_writer_append(&first, "yyy", 3));
    assert_ok(write_bytes(path, 'z', 9));
    assert_ok(ser_writer_commit(&first));
    expect_content(path, 'y', 3);
    ck_assert_int_eq(remove(other), 0);
    ck_assert(directory_holds_only(dir, "target"));
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    char dir[256];
    char path[300];
    fresh(dir, path, sizeof dir);
    int64_t live = ser_mem_live();
    int status = SER_ERR_MEMORY;
    for (uint64_t n = 1; status != 0; n++) {
        ser_mem_fail_at(n, false);
        status = write_bytes(path, 'm', 10);
        ser_mem_fail_at(0, false);
        ck_assert(status == 0 || status == SER_ERR_MEMORY);
        ck_assert(directory_holds_only(dir, status == 0 ? "target" : NULL));
        ck_assert_int_eq(ser_mem_live(), live);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("file");
    TCase *tcase = tcase_create("file");
    tcase_add_test(tcase, ST14_paths);
    tcase_add_test(tcase, ST14_no_permission);
    tcase_add_test(tcase, reads_within_the_file_only);
    tcase_add_test(tcase, writes_and_replaces);
    tcase_add_test(tcase, names_of_every_length);
    tcase_add_test(tcase, abort_leaves_the_old_file);
    tcase_add_test(tcase, full_disk);
    tcase_add_test(tcase, places_that_cannot_be_written);
    tcase_add_test(tcase, directory_without_permission);
    tcase_add_test(tcase, special_files_and_permissions);
    tcase_add_test(tcase, links_and_other_writers);
    tcase_add_test(tcase, every_allocation_may_fail);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
