/* SPDX-License-Identifier: MIT */
#include "stop.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

static volatile sig_atomic_t caught;
static _Atomic(const char *) guarded;

static void on_signal(int number)
{
    if (caught != 0) {
        const char *path = guarded;
        if (path != NULL) {
            unlink(path);
        }
        _exit(128 + number);
    }
    caught = number;
}

void stop_install(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        struct sigaction old;
        /* nohup and shells without job control start programs with these ignored. */
        if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
            sigaction(signals[i], &action, NULL);
        }
    }
}

int stop_requested(void)
{
    return caught;
}

void stop_guard(const char *path)
{
    guarded = path;
}
