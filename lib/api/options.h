/* SPDX-License-Identifier: MIT */
/* Option structs that grow: a program and a library of different ages understand each other. */
#ifndef SER_API_OPTIONS_H
#define SER_API_OPTIONS_H

#include <stddef.h>

/*
 * Overlay the caller's options on the library's defaults: `own` (`own_size` bytes, struct_size
 * first) holds the defaults and receives the bytes that both sides know. NULL `given` keeps the
 * defaults. Bytes beyond the library's knowledge must be zero, else SER_ERR_UNSUPPORTED. `name` is
 * the struct's.
 */
int ser_options_take(void *own, size_t own_size, const void *given, const char *name);

/* The body of every ser_*_options_init: zero `size` bytes and copy what fits of the defaults. */
void ser_options_give(void *options, size_t size, const void *defaults, size_t defaults_size);

/* Whether a result struct's size has been set, before work that would be lost. */
int ser_result_check(const void *result, const char *name);

/* The same for result structs: check the caller's struct_size and copy what fits. */
int ser_result_give(void *result, const void *own, size_t own_size, const char *name);

#endif
