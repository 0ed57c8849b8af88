/* SPDX-License-Identifier: MIT */
/* Allocation with overflow checks, 64-byte alignment and a hook that makes it fail on demand. */
#ifndef SER_BASE_MEM_H
#define SER_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* count * size bytes, zeroed, aligned to 64; NULL (with the failure recorded) when out of memory or
 * on overflow. Zero bytes give a valid pointer. Release with ser_mem_free. */
void *ser_mem_alloc(size_t count, size_t size);

/* As ser_mem_alloc without the zeroing, for large buffers that are written before they are read. */
void *ser_mem_alloc_raw(size_t count, size_t size);

/* Grow `*block` from `old_count` to `new_count` elements, keeping the content; on failure nothing
 * changes. New elements are not initialised. Returns 0 or SER_ERR_MEMORY. */
int ser_mem_grow(void *block, size_t old_count, size_t new_count, size_t size);

/* A copy of `text`; NULL when out of memory. */
char *ser_mem_strdup(const char *text);

/* printf into a new string; NULL when out of memory. */
char *ser_mem_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

void ser_mem_free(void *block);

/* *result = a * b or a + b; false on overflow, with *result untouched. */
bool ser_mul_size(size_t a, size_t b, size_t *result);
bool ser_add_size(size_t a, size_t b, size_t *result);

/* Test hook: the `nth` allocation from now on fails (1 is the next), and with `sticky` all later
 * ones too; 0 switches it off. Allocations are counted over all threads. */
void ser_mem_fail_at(uint64_t nth, bool sticky);

/* Blocks that are allocated now; tests compare it before and after. */
int64_t ser_mem_live(void);

#endif
