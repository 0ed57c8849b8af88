/* SPDX-License-Identifier: MIT */
#include "intern.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "text.h"

enum { BLOCK_SIZE = 1 << 16 };

struct intern_block {
    intern_block *next;
    size_t used;
    size_t size;
    char text[];
};

static char *reserve(intern_pool *pool, size_t size)
{
    intern_block *block = pool->blocks;
    if (block == NULL || block->size - block->used < size) {
        size_t room = size > BLOCK_SIZE ? size : BLOCK_SIZE;
        block = text_alloc(sizeof *block + room, 1);
        block->size = room;
        block->next = pool->blocks;
        pool->blocks = block;
    }
    char *text = block->text + block->used;
    block->used += size;
    return text;
}

/* The slot that holds `text`, or the empty one where it belongs. */
static const char **find(const intern_pool *pool, const char *text, size_t length)
{
    size_t i = (size_t)XXH3_64bits(text, length) & (pool->capacity - 1);
    while (pool->slots[i] != NULL && strcmp(pool->slots[i], text) != 0) {
        i = (i + 1) & (pool->capacity - 1);
    }
    return &pool->slots[i];
}

static void grow(intern_pool *pool)
{
    intern_pool old = *pool;
    pool->capacity = old.capacity > 0 ? 2 * old.capacity : 256;
    pool->slots = text_alloc(pool->capacity, sizeof *pool->slots);
    for (size_t i = 0; i < old.capacity; i++) {
        if (old.slots[i] != NULL) {
            *find(pool, old.slots[i], strlen(old.slots[i])) = old.slots[i];
        }
    }
    free(old.slots);
}

const char *intern(intern_pool *pool, const char *text, bool *fresh)
{
    if (2 * (pool->count + 1) > pool->capacity) {
        grow(pool);
    }
    size_t length = strlen(text);
    const char **slot = find(pool, text, length);
    if (fresh != NULL) {
        *fresh = *slot == NULL;
    }
    if (*slot == NULL) {
        char *copy = reserve(pool, length + 1);
        memcpy(copy, text, length + 1);
        *slot = copy;
        pool->count++;
    }
    return *slot;
}

void intern_free(intern_pool *pool)
{
    for (intern_block *block = pool->blocks; block != NULL;) {
        intern_block *next = block->next;
        free(block);
        block = next;
    }
    free(pool->slots);
    *pool = (intern_pool){0};
}
