/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <ftw.h>
#include <math.h>
#include <unistd.h>

int harness_run(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static double relative(double worst, double scale)
{
    return scale > 0.0 ? worst / scale : worst;
}

double harness_relative_error(const float *x, const float *y, size_t count)
{
    double worst = 0.0;
    double scale = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)x[i] - (double)y[i]);
        if (!(difference <= 1e300)) {
            return HUGE_VAL;
        }
        worst = fmax(worst, difference);
        scale = fmax(scale, fabs((double)y[i]));
    }
    return relative(worst, scale);
}

double harness_relative_error64(const float *x, const double *y, size_t count)
{
    double worst = 0.0;
    double scale = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)x[i] - y[i]);
        if (!(difference <= 1e300)) {
            return HUGE_VAL;
        }
        worst = fmax(worst, difference);
        scale = fmax(scale, fabs(y[i]));
    }
    return relative(worst, scale);
}

float harness_random(uint64_t *state)
{
    /* splitmix64, Steele et al. 2014 */
    uint64_t z = (*state += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    z ^= z >> 31;
    return (float)((double)(z >> 11) * 0x1p-52 - 1.0);
}

void harness_fill(float *x, size_t count, uint64_t seed, float scale)
{
    uint64_t state = seed;
    for (size_t i = 0; i < count; i++) {
        x[i] = scale * harness_random(&state);
    }
}

const char *harness_data(const char *name)
{
    static _Thread_local char path[4096];
    const char *root = getenv("SER_TEST_DATA");
    snprintf(path, sizeof path, "%s/%s", root != NULL ? root : "tests", name);
    return path;
}

static char tmpdir[64];
static pid_t tmpdir_owner;

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_tmpdir(void)
{
    if (tmpdir[0] != '\0' && getpid() == tmpdir_owner) {
        (void)nftw(tmpdir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    }
}

const char *harness_tmpdir(void)
{
    if (tmpdir[0] == '\0' || getpid() != tmpdir_owner) {
        snprintf(tmpdir, sizeof tmpdir, "/tmp/ser-test-XXXXXX");
        if (mkdtemp(tmpdir) == NULL) {
            ck_abort_msg("no temporary directory");
        }
        tmpdir_owner = getpid();
        atexit(remove_tmpdir);
    }
    return tmpdir;
}

const char *harness_tmpfile(const char *name)
{
    static char paths[8][4096];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", harness_tmpdir(), name);
    return path;
}
