/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <sys/wait.h>
#include <unistd.h>

#include "base/fork.h"

/* What the child finds, as its exit status: 0 if all is as it must be. */
static int in_child(uint32_t parents)
{
    if (ser_fork_check(parents, "the thing") != SER_ERR_BUSY) {
        return 1;
    }
    if (strstr(ser_fail_text(), "the thing was created before fork()") == NULL) {
        return 2;
    }
    uint32_t own = ser_fork_generation();
    return own != parents && ser_fork_check(own, "the thing") == 0 ? 0 : 3;
}

START_TEST(a_child_knows_its_parents_handles)
{
    uint32_t generation = ser_fork_generation();
    assert_ok(ser_fork_check(generation, "the thing"));
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        _exit(in_child(generation));
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    assert_ok(ser_fork_check(generation, "the thing"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fork");
    TCase *tcase = tcase_create("fork");
    tcase_add_test(tcase, a_child_knows_its_parents_handles);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
