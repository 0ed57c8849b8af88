/* SPDX-License-Identifier: MIT */
#include "base/mem.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"

enum { ALIGNMENT = 64 };

static atomic_int_fast64_t live_blocks;
static atomic_uint_fast64_t fail_countdown; /* 0: never */
static atomic_bool fail_sticky;

static bool injected_failure(void)
{
    uint_fast64_t n = atomic_load(&fail_countdown);
    while (n != 0) {
        uint_fast64_t next = n > 1 ? n - 1 : (atomic_load(&fail_sticky) ? 1 : 0);
        if (atomic_compare_exchange_weak(&fail_countdown, &n, next)) {
            return n == 1;
        }
    }
    return false;
}

bool ser_mul_size(size_t a, size_t b, size_t *result)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) {
        return false;
    }
    *result = product;
    return true;
}

bool ser_add_size(size_t a, size_t b, size_t *result)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) {
        return false;
    }
    *result = sum;
    return true;
}

void *ser_mem_alloc_raw(size_t count, size_t size)
{
    size_t bytes;
    size_t padded;
    if (!ser_mul_size(count, size, &bytes) || !ser_add_size(bytes, ALIGNMENT, &padded)) {
        ser_fail(SER_ERR_MEMORY,
                 "out of memory: %zu elements of %zu bytes exceed the address space", count, size);
        return NULL;
    }
    padded -= padded % ALIGNMENT; /* aligned_alloc wants a multiple, and never 0 bytes */
    if (padded == 0) {
        padded = ALIGNMENT;
    }
    void *block = injected_failure() ? NULL : aligned_alloc(ALIGNMENT, padded);
    if (block == NULL) {
        ser_fail(SER_ERR_MEMORY, "out of memory: %zu bytes were asked for", bytes);
        return NULL;
    }
    atomic_fetch_add(&live_blocks, 1);
    return block;
}

void *ser_mem_alloc(size_t count, size_t size)
{
    void *block = ser_mem_alloc_raw(count, size);
    if (block != NULL) {
        memset(block, 0, count * size);
    }
    return block;
}

int ser_mem_grow(void *block, size_t old_count, size_t new_count, size_t size)
{
    void *old;
    memcpy(&old, block, sizeof old);
    void *bigger = ser_mem_alloc_raw(new_count, size);
    if (bigger == NULL) {
        return SER_ERR_MEMORY;
    }
    if (old != NULL && old_count > 0) {
        memcpy(bigger, old, old_count * size);
    }
    ser_mem_free(old);
    memcpy(block, &bigger, sizeof bigger);
    return 0;
}

char *ser_mem_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = ser_mem_alloc_raw(size, 1);
    if (copy != NULL) {
        memcpy(copy, text, size);
    }
    return copy;
}

char *ser_mem_format(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (length < 0) {
        ser_fail(SER_ERR_INTERNAL, "a text could not be formatted");
        return NULL;
    }
    char *text = ser_mem_alloc_raw((size_t)length + 1, 1);
    if (text != NULL) {
        va_start(args, format);
        vsnprintf(text, (size_t)length + 1, format, args);
        va_end(args);
    }
    return text;
}

void ser_mem_free(void *block)
{
    if (block != NULL) {
        atomic_fetch_sub(&live_blocks, 1);
        free(block);
    }
}

void ser_mem_fail_at(uint64_t nth, bool sticky)
{
    atomic_store(&fail_sticky, sticky);
    atomic_store(&fail_countdown, nth);
}

int64_t ser_mem_live(void)
{
    return (int64_t)atomic_load(&live_blocks);
}
