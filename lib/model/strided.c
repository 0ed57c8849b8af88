/* SPDX-License-Identifier: MIT */
#include "model/strided.h"

#include <string.h>

enum { WINDOW_SIZE = 4096 };

/* The bytes of the file around the last element that was asked for. */
typedef struct window {
    const ser_file *file;
    uint64_t start;
    size_t size;
    unsigned char bytes[WINDOW_SIZE];
} window;

/* One dimension: what a step of it means in the file and in the result, in bytes. */
typedef struct dimension {
    uint64_t count, from_step, to_step, index;
} dimension;

static int fetch(window *w, uint64_t offset, size_t width, unsigned char *to)
{
    if (offset < w->start || offset - w->start > w->size || w->size - (offset - w->start) < width) {
        uint64_t rest = w->file->size - offset;
        w->start = offset;
        w->size = rest < WINDOW_SIZE ? (size_t)rest : WINDOW_SIZE;
        int status = ser_file_read(w->file, offset, w->bytes, w->size);
        if (status != 0) {
            return status;
        }
    }
    memcpy(to, w->bytes + (offset - w->start), width);
    return 0;
}

/* The dimensions with more than one element, the largest steps in the file first. */
static size_t order(const ser_tensor_entry *entry, size_t width, dimension list[SER_MAX_RANK])
{
    size_t count = 0;
    uint64_t to_step = width;
    for (int32_t d = entry->rank - 1; d >= 0; d--) {
        dimension next = {entry->shape[d], entry->stride[d] * width, to_step, 0};
        to_step *= entry->shape[d];
        size_t at = next.count > 1 ? count++ : SER_MAX_RANK;
        for (; at > 0 && at < SER_MAX_RANK && list[at - 1].from_step < next.from_step; at--) {
            list[at] = list[at - 1];
        }
        if (at < SER_MAX_RANK) {
            list[at] = next;
        }
    }
    return count;
}

int ser_strided_read(const ser_file *file, const ser_tensor_entry *entry, unsigned char *values)
{
    dimension list[SER_MAX_RANK];
    window w = {.file = file};
    size_t width = entry->elements > 0 ? (size_t)(entry->size / entry->elements) : 0;
    size_t rank = order(entry, width, list);
    uint64_t from = entry->offset;
    uint64_t to = 0;
    for (uint64_t done = 0; done < entry->elements; done++) {
        int status = fetch(&w, from, width, values + to);
        if (status != 0) {
            return status;
        }
        size_t d = rank; /* the next position: an odometer whose last wheel is list[rank - 1] */
        while (d > 0 && ++list[d - 1].index == list[d - 1].count) {
            d--;
            from -= list[d].from_step * (list[d].count - 1);
            to -= list[d].to_step * (list[d].count - 1);
            list[d].index = 0;
        }
        if (d > 0) {
            from += list[d - 1].from_step;
            to += list[d - 1].to_step;
        }
    }
    return 0;
}
