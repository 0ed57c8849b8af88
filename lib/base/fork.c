/* SPDX-License-Identifier: MIT */
#include "base/fork.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/fail.h"

static atomic_uint generation;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void child_after_fork(void)
{
    atomic_fetch_add(&generation, 1);
}

static void install(void)
{
    (void)pthread_atfork(NULL, NULL, child_after_fork);
}

uint32_t ser_fork_generation(void)
{
    (void)pthread_once(&once, install);
    return atomic_load(&generation);
}

int ser_fork_check(uint32_t made_in, const char *what)
{
    if (made_in == ser_fork_generation()) {
        return 0;
    }
    return ser_fail(SER_ERR_BUSY,
                    "%s was created before fork(): open the device and load the model again in the "
                    "child process (with Python, use the spawn start method)",
                    what);
}
