/* SPDX-License-Identifier: MIT */
#include "test_emulation.h"

static void setup(void)
{
    emulator_reset();
}

int run_suite(const char *name, const TTest *const *plain, const TTest *const *aborting,
              const TTest *looped, int loops)
{
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create(name);

    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_set_timeout(tcase, 60);
    for (; *plain; plain++) {
        tcase_add_test(tcase, *plain);
    }
    for (; *aborting; aborting++) {
        tcase_add_test_raise_signal(tcase, *aborting, SIGABRT);
    }
    if (looped) {
        tcase_add_loop_test(tcase, looped, 0, loops);
    }
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}

/* AddressSanitizer, too, ends by abort. */
extern "C" const char *__asan_default_options();
extern "C" const char *__asan_default_options()
{
    return "abort_on_error=1";
}
