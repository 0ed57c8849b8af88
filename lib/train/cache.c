/* SPDX-License-Identifier: MIT */
#include "train/cache.h"

#include <ser/common.h>

#include "base/mem.h"

enum { FIRST_SLOTS = 64 }; /* a power of two */

typedef struct entry {
    uint64_t id;
    int64_t length; /* samples */
    size_t size;
    ser_source source;
} entry;

/* An open-addressing table: `slots` holds 1 + the place of an entry, 0 where there is none. */
struct ser_clip_cache {
    const ser_ops *ops;
    ser_context *context;
    uint64_t limit, bytes;
    entry *entries;
    size_t count, capacity;
    size_t *slots;
    size_t slot_count; /* a power of two, at least twice `count` */
};

/* splitmix64's finaliser (Steele et al. 2014): ids may be consecutive or share their low bits. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* The slot that holds `id`, or the empty one where it belongs. */
static size_t find_slot(const ser_clip_cache *cache, uint64_t id)
{
    size_t mask = cache->slot_count - 1;
    size_t i = (size_t)mix(id) & mask;
    while (cache->slots[i] != 0 && cache->entries[cache->slots[i] - 1].id != id) {
        i = (i + 1) & mask;
    }
    return i;
}

static int make_slots(ser_clip_cache *cache, size_t slot_count)
{
    size_t *slots = ser_mem_alloc(slot_count, sizeof *slots);
    if (slots == NULL) {
        return SER_ERR_MEMORY;
    }
    ser_mem_free(cache->slots);
    cache->slots = slots;
    cache->slot_count = slot_count;
    for (size_t i = 0; i < cache->count; i++) {
        cache->slots[find_slot(cache, cache->entries[i].id)] = i + 1;
    }
    return 0;
}

int ser_clip_cache_create(const ser_ops *ops, ser_context *context, uint64_t limit,
                          ser_clip_cache **cache)
{
    ser_clip_cache *c = ser_mem_alloc(1, sizeof *c);
    *cache = NULL;
    if (c == NULL || make_slots(c, FIRST_SLOTS) != 0) {
        ser_clip_cache_free(c);
        return SER_ERR_MEMORY;
    }
    c->ops = ops;
    c->context = context;
    c->limit = limit;
    *cache = c;
    return 0;
}

void ser_clip_cache_free(ser_clip_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    ser_clip_cache_clear(cache);
    ser_mem_free(cache->entries);
    ser_mem_free(cache->slots);
    ser_mem_free(cache);
}

bool ser_clip_cache_find(const ser_clip_cache *cache, uint64_t id, int64_t length,
                         ser_source *source)
{
    size_t at = cache->slots[find_slot(cache, id)];
    if (id == 0 || at == 0 || cache->entries[at - 1].length != length) {
        return false;
    }
    *source = cache->entries[at - 1].source;
    return true;
}

static int make_room(ser_clip_cache *cache)
{
    if (cache->count == cache->capacity) {
        size_t capacity = cache->capacity > 0 ? 2 * cache->capacity : FIRST_SLOTS / 2;
        if (ser_mem_grow(&cache->entries, cache->capacity, capacity, sizeof *cache->entries) != 0) {
            return SER_ERR_MEMORY;
        }
        cache->capacity = capacity;
    }
    return 2 * (cache->count + 1) > cache->slot_count ? make_slots(cache, 2 * cache->slot_count)
                                                      : 0;
}

void *ser_clip_cache_add(ser_clip_cache *cache, uint64_t id, int64_t length, size_t size,
                         int32_t type)
{
    void *memory = NULL;
    if (id == 0 || size == 0 || size > cache->limit - cache->bytes ||
        cache->slots[find_slot(cache, id)] != 0 || make_room(cache) != 0) {
        return NULL;
    }
    if (cache->ops->alloc(cache->context, size, &memory) != 0) {
        return NULL; /* a device with less memory than the limit: as if the cache were full */
    }
    cache->entries[cache->count++] =
        (entry){.id = id, .length = length, .size = size, .source = {memory, type}};
    cache->slots[find_slot(cache, id)] = cache->count;
    cache->bytes += (uint64_t)size;
    return memory;
}

/* The last one's slot may be emptied: no later one was ever moved past it. */
void ser_clip_cache_drop_last(ser_clip_cache *cache)
{
    const entry *e = &cache->entries[cache->count - 1];
    cache->slots[find_slot(cache, e->id)] = 0;
    cache->bytes -= (uint64_t)e->size;
    cache->ops->free(cache->context, (void *)(uintptr_t)e->source.data);
    cache->count--;
}

void ser_clip_cache_clear(ser_clip_cache *cache)
{
    while (cache->count > 0) {
        ser_clip_cache_drop_last(cache);
    }
}

void ser_clip_cache_close(ser_clip_cache *cache)
{
    ser_clip_cache_clear(cache);
    cache->limit = 0;
}

uint64_t ser_clip_cache_bytes(const ser_clip_cache *cache)
{
    return cache->bytes;
}
