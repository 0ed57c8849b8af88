/* SPDX-License-Identifier: MIT */
/*
 * How far a file's framing says it goes. libsndfile shortens what it reports to the bytes that are
 * there, so only the framing tells a file that was cut from one that is whole.
 */
#include <string.h>

#include "audio/container.h"

/* A file of chunks: id, size, body, padding. */
struct layout {
    int64_t first; /* byte of the first chunk, from the start of the file */
    size_t id_size;
    size_t size_size; /* 4 or 8 bytes */
    bool big_endian;
    bool size_has_head; /* the size counts id and size, too */
    int64_t align;
    const char *data_id; /* of the chunk with the samples */
};

static const struct layout wave_layout = {12, 4, 4, false, false, 2, "data"};
static const struct layout rifx_layout = {12, 4, 4, true, false, 2, "data"};
static const struct layout aiff_layout = {12, 4, 4, true, false, 2, "SSND"};
static const struct layout caf_layout = {8, 4, 8, true, false, 1, "data"};
static const struct layout w64_layout = {40, 16, 8, false, true, 8, "data"};

static uint64_t number(const unsigned char *bytes, size_t size, bool big_endian)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) {
        value = value << 8 | bytes[big_endian ? i : size - 1 - i];
    }
    return value;
}

static int64_t window_size(const struct ser_source *source)
{
    return source->end - source->begin;
}

static bool read_exactly(struct ser_source *source, int64_t at, void *bytes, size_t size)
{
    return at >= 0 && at <= window_size(source) - (int64_t)size &&
           ser_source_read_at(source, source->begin + at, bytes, size) == size;
}

/* Programs that write to a pipe cannot know the size and say 0, all ones, or about 2 GiB. */
static bool is_unknown(uint64_t size, size_t size_size)
{
    if (size_size == 8) {
        return size == 0 || size > INT64_MAX;
    }
    return size == 0 || size >= 0xFFFF0000U || (size >= 0x7FFF0000U && size < 0x80010000U);
}

/* Id and body size of the chunk at `at`; false at the end of the file. */
static bool read_chunk(struct ser_source *source, const struct layout *layout, int64_t at,
                       unsigned char id[16], uint64_t *size)
{
    unsigned char head[24];
    size_t head_size = layout->id_size + layout->size_size;
    if (!read_exactly(source, at, head, head_size)) {
        return false;
    }
    memcpy(id, head, layout->id_size);
    *size = number(head + layout->id_size, layout->size_size, layout->big_endian);
    if (layout->size_has_head) {
        *size = *size >= head_size ? *size - head_size : 0;
    }
    return true;
}

/* A data size of 0 in front of bytes is true if the file ends where its RIFF size says. */
static bool is_unset(struct ser_source *source, bool big_endian)
{
    unsigned char head[8];
    if (!read_exactly(source, 0, head, sizeof head)) {
        return false;
    }
    int64_t promised = (int64_t)number(head + 4, 4, big_endian) + 8;
    int64_t difference = promised - window_size(source);
    return difference < -1 || difference > 1;
}

/* What the size of the chunk with the samples says about it. */
static struct ser_extent data_extent(struct ser_source *source, const struct layout *layout,
                                     int64_t body, uint64_t size, uint64_t size_in_ds64)
{
    struct ser_extent extent = {.big_endian = layout->big_endian};
    int64_t left = window_size(source) - body;
    bool wave = layout == &wave_layout || layout == &rifx_layout;
    if (size == 0xFFFFFFFFU && size_in_ds64 != 0) {
        extent.cut = size_in_ds64 > (uint64_t)left;
    } else if (is_unknown(size, layout->size_size)) {
        /* libsndfile takes an unknown size for 4 GiB at most. */
        extent.cut = layout->size_size == 4 && left > 0xFFFFFFFF;
    } else {
        extent.cut = size > (uint64_t)left;
    }
    if (wave && size == 0 && left > 0 && is_unset(source, layout->big_endian)) {
        extent.unset_size_at = body - 4;
        extent.bytes_left = left;
    }
    return extent;
}

static struct ser_extent walk_chunks(struct ser_source *source, const struct layout *layout)
{
    uint64_t size_in_ds64 = 0;
    int64_t at = layout->first;
    unsigned char id[16];
    uint64_t size;
    while (read_chunk(source, layout, at, id, &size)) {
        int64_t body = at + (int64_t)(layout->id_size + layout->size_size);
        int64_t left = window_size(source) - body;
        if (memcmp(id, "ds64", 4) == 0) {
            unsigned char ds64[16];
            size_in_ds64 = read_exactly(source, body, ds64, 16) ? number(ds64 + 8, 8, false) : 0;
        }
        if (memcmp(id, layout->data_id, 4) == 0) {
            return data_extent(source, layout, body, size, size_in_ds64);
        }
        if (size > (uint64_t)left) {
            break;
        }
        at = body + (int64_t)size;
        at += (layout->align - at % layout->align) % layout->align;
    }
    return (struct ser_extent){.empty = true};
}

/* Data offset and data size, big-endian in ".snd" files and little-endian in "dns." files. */
static struct ser_extent walk_au(struct ser_source *source)
{
    struct ser_extent extent = {0};
    unsigned char head[12];
    if (!read_exactly(source, 0, head, sizeof head)) {
        extent.empty = true;
        return extent;
    }
    bool big_endian = head[0] == '.';
    uint64_t offset = number(head + 4, 4, big_endian);
    uint64_t size = number(head + 8, 4, big_endian);
    uint64_t bytes = (uint64_t)window_size(source);
    extent.empty = offset >= bytes;
    extent.cut = !extent.empty && !is_unknown(size, 4) && size > bytes - offset;
    return extent;
}

/* Metadata blocks up to the one marked as last; the frames follow it. */
static struct ser_extent walk_flac(struct ser_source *source)
{
    struct ser_extent extent = {0};
    unsigned char head[4] = {0};
    int64_t at = 4;
    bool last = false;
    while (!last && read_exactly(source, at, head, sizeof head)) {
        last = (head[0] & 0x80U) != 0;
        at += 4 + (int64_t)number(head + 1, 3, true);
    }
    extent.empty = !last || at >= window_size(source);
    return extent;
}

struct ser_extent ser_container_extent(struct ser_source *source, enum ser_container container)
{
    unsigned char head[4] = {0};
    switch (container) {
    case SER_CONTAINER_WAVE:
        (void)read_exactly(source, 0, head, sizeof head);
        return walk_chunks(source, head[3] == 'X' ? &rifx_layout : &wave_layout);
    case SER_CONTAINER_RF64: return walk_chunks(source, &wave_layout);
    case SER_CONTAINER_W64: return walk_chunks(source, &w64_layout);
    case SER_CONTAINER_AIFF: return walk_chunks(source, &aiff_layout);
    case SER_CONTAINER_CAF: return walk_chunks(source, &caf_layout);
    case SER_CONTAINER_AU: return walk_au(source);
    case SER_CONTAINER_FLAC: return walk_flac(source);
    default: return (struct ser_extent){0};
    }
}
