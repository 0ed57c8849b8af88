/* SPDX-License-Identifier: MIT */
/* Device and pinned memory: blocks between guards, found by any address inside. */
#include "emulator_internal.h"

#include <stdlib.h>
#include <string.h>

namespace
{

/* Aligned as on a card, and no better. */
constexpr size_t alignment = 256;

struct allocation {
    char *base;
    size_t size;
    char *raw;
    emulator_space space;
};

/* ordered by address */
allocation *blocks;
size_t count, capacity, device_bytes;

/* The last block that begins at or before `memory` or has its guard there, or NULL. */
allocation *around(const void *memory)
{
    static size_t last;
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory);
    size_t low = 0, high = count;
    auto begins = [](size_t i) {
        return reinterpret_cast<uintptr_t>(blocks[i].base) - EMULATOR_GUARD;
    };

    if (last < count && begins(last) <= at && (last + 1 == count || at < begins(last + 1))) {
        return &blocks[last];
    }
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (begins(middle) <= at) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    last = low == 0 ? 0 : low - 1;
    return low == 0 ? nullptr : &blocks[low - 1];
}

bool untouched(const char *guard)
{
    return *guard == static_cast<char>(EMULATOR_FILL) &&
           memcmp(guard, guard + 1, EMULATOR_GUARD - 1) == 0;
}

void check(const allocation *block, const char *when)
{
    if (!untouched(block->base - EMULATOR_GUARD)) {
        emulator_fatal("memory before a block of %zu bytes was written (seen at %s)", block->size,
                       when);
    }
    if (!untouched(block->base + block->size)) {
        emulator_fatal("memory behind a block of %zu bytes was written (seen at %s)", block->size,
                       when);
    }
}

} // namespace

void *emulator_allocate(size_t size, emulator_space space)
{
    if (count == capacity) {
        const size_t more = capacity ? 2 * capacity : 64;
        void *grown = realloc(blocks, more * sizeof *blocks);
        if (!grown) {
            return nullptr;
        }
        blocks = static_cast<allocation *>(grown);
        capacity = more;
    }
    if (size > SIZE_MAX / 2) {
        return nullptr;
    }
    const size_t whole = (size + 2 * EMULATOR_GUARD + 2 * alignment) / (2 * alignment) + 1;
    char *raw = static_cast<char *>(aligned_alloc(2 * alignment, whole * 2 * alignment));
    if (!raw) {
        return nullptr;
    }
    static_assert(EMULATOR_GUARD % (2 * alignment) == alignment);
    allocation block{raw + EMULATOR_GUARD, size, raw, space};
    memset(raw, EMULATOR_FILL, size + 2 * EMULATOR_GUARD);
    EMULATOR_POISON(raw, EMULATOR_GUARD);
    EMULATOR_POISON(block.base + size, EMULATOR_GUARD);
    size_t at = count++;
    for (; at > 0 && blocks[at - 1].base > block.base; at--) {
        blocks[at] = blocks[at - 1];
    }
    blocks[at] = block;
    if (space == EMULATOR_DEVICE) {
        device_bytes += size;
    }
    return block.base;
}

bool emulator_release(void *memory, emulator_space space)
{
    allocation *block = around(memory);

    if (!block || block->base != memory || block->space != space) {
        return false;
    }
    EMULATOR_UNPOISON(block->raw, block->size + 2 * EMULATOR_GUARD);
    check(block, "free");
    if (space == EMULATOR_DEVICE) {
        device_bytes -= block->size;
    }
    free(block->raw);
    count--;
    for (size_t i = static_cast<size_t>(block - blocks); i < count; i++) {
        blocks[i] = blocks[i + 1];
    }
    return true;
}

emulator_space emulator_find(const void *memory, size_t size, bool *inside)
{
    const allocation *block = around(memory);
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory);

    *inside = false;
    if (!block) {
        return EMULATOR_UNTRACKED;
    }
    const uintptr_t begin = reinterpret_cast<uintptr_t>(block->base);
    if (at >= begin + block->size + EMULATOR_GUARD) {
        return EMULATOR_UNTRACKED;
    }
    *inside = at >= begin && at - begin <= block->size && size <= block->size - (at - begin);
    return block->space;
}

/* AddressSanitizer sees such a write when it happens. */
void emulator_check_guards(const char *when)
{
    for (size_t i = 0; !EMULATOR_ASAN && i < count; i++) {
        check(&blocks[i], when);
    }
}

size_t emulator_device_bytes()
{
    return device_bytes;
}

size_t emulator_blocks()
{
    return count;
}
