/* SPDX-License-Identifier: MIT */
/* Signals: the first asks the tool to stop at the next safe point, a second one ends it at once. */
#ifndef SER_TOOLS_STOP_H
#define SER_TOOLS_STOP_H

/* Catch SIGINT, SIGTERM and SIGHUP, except where the parent had them ignored. */
void stop_install(void);

/* The signal that asked to stop, or 0. */
int stop_requested(void);

/* Unlink this file if the process ends at once; NULL: none. Kept, not copied. */
void stop_guard(const char *path);

#endif
