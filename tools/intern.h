/* SPDX-License-Identifier: MIT */
/* Strings kept once each: equal strings have equal addresses. For data sets of millions of rows. */
#ifndef SER_TOOLS_INTERN_H
#define SER_TOOLS_INTERN_H

#include <stdbool.h>
#include <stddef.h>

typedef struct intern_block intern_block;

/* All zero is an empty pool. */
typedef struct intern_pool {
    intern_block *blocks;
    const char **slots; /* open addressing, at most half full */
    size_t capacity;    /* of slots: a power of two, or 0 */
    size_t count;
} intern_pool;

/* The pool's copy of `text`, valid until intern_free. `*fresh` (may be NULL) tells whether this
 * string is new to the pool. */
const char *intern(intern_pool *pool, const char *text, bool *fresh);

void intern_free(intern_pool *pool);

#endif
