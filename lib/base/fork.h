/* SPDX-License-Identifier: MIT */
/* Tells handles of this process from those that a fork() has copied. */
#ifndef SER_BASE_FORK_H
#define SER_BASE_FORK_H

#include <stdint.h>

/* How many forks lie between the first process and this one. OpenMP's thread pool does not survive
 * a fork, so a handle remembers the generation that made it. Any thread. */
uint32_t ser_fork_generation(void);

/* 0, or SER_ERR_BUSY with a text if `generation` is not this process's. `what` names the handle. */
int ser_fork_check(uint32_t generation, const char *what);

#endif
