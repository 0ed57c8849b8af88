/* SPDX-License-Identifier: MIT */
/*
 * Chunks of WAV, RF64, W64, AIFF and CAF files, headers of AU and FLAC files: as much of them as
 * tells where the samples are and whether all of them are there. libsndfile would read the chunks
 * itself, but a damaged list keeps its 1.2 in an endless loop, and it cuts the sizes that it
 * reports to the bytes that exist, so that a file that was cut looks whole.
 */
#include <string.h>

#include "audio/container.h"

enum { BODY_SIZE = 1024 }; /* of a chunk that is kept; those that we know have under 100 bytes */

/* A file of chunks: id, size, body, padding. */
struct layout {
    int64_t first; /* byte of the first chunk */
    size_t id_size;
    size_t size_size; /* 4 or 8 bytes */
    bool big_endian;
    bool size_has_head; /* the size counts id and size, too */
    int64_t align;
    const char *format_id; /* of the chunk that describes the samples */
    const char *data_id;   /* of the chunk with the samples */
};

static const struct layout wave_layout = {12, 4, 4, false, false, 2, "fmt ", "data"};
static const struct layout rifx_layout = {12, 4, 4, true, false, 2, "fmt ", "data"};
static const struct layout w64_layout = {40, 16, 8, false, true, 8, "fmt ", "data"};
static const struct layout aiff_layout = {12, 4, 4, true, false, 2, "COMM", "SSND"};
static const struct layout caf_layout = {8, 4, 8, true, false, 1, "desc", "data"};

struct body {
    size_t size;
    unsigned char bytes[BODY_SIZE];
};

struct chunks {
    struct ser_source *source;
    const struct layout *layout;
    int64_t begin; /* of the file, behind tags */
    struct body format;
    uint64_t ds64_size; /* of the samples in an RF64 file */
    bool has_data;
    uint64_t data_size; /* as its chunk says */
    int64_t data_begin;
};

static uint64_t number(const unsigned char *bytes, size_t size, bool big_endian)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) {
        value = value << 8 | bytes[big_endian ? i : size - 1 - i];
    }
    return value;
}

static bool read_exactly(struct ser_source *source, int64_t at, void *bytes, size_t size)
{
    return ser_source_read_at(source, at, bytes, size) == size;
}

/* Programs that write to a pipe cannot know the size and say all ones or about 2 GiB. */
static bool is_unknown(uint64_t size, size_t size_size)
{
    if (size_size == 8) {
        return size > INT64_MAX;
    }
    return size >= 0xFFFF0000U || (size >= 0x7FFF0000U && size < 0x80010000U);
}

/* Id and body size of the chunk at `at`; false at the end of the file. */
static bool read_head(const struct chunks *chunks, int64_t at, unsigned char id[16], uint64_t *size)
{
    const struct layout *layout = chunks->layout;
    unsigned char head[24];
    size_t head_size = layout->id_size + layout->size_size;
    if (!read_exactly(chunks->source, at, head, head_size)) {
        return false;
    }
    memcpy(id, head, layout->id_size);
    *size = number(head + layout->id_size, layout->size_size, layout->big_endian);
    if (layout->size_has_head) {
        *size = *size >= head_size ? *size - head_size : 0;
    }
    return true;
}

/* Keep a format of reasonable size; the first one counts. */
static void keep_format(struct chunks *chunks, int64_t at, uint64_t size)
{
    struct body *format = &chunks->format;
    if (format->size == 0 && size <= BODY_SIZE &&
        read_exactly(chunks->source, at, format->bytes, (size_t)size)) {
        format->size = (size_t)size;
    }
}

static void walk(struct chunks *chunks)
{
    const struct layout *layout = chunks->layout;
    int64_t at = chunks->begin + layout->first;
    unsigned char id[16];
    uint64_t size;
    while (!(chunks->has_data && chunks->format.size > 0) && read_head(chunks, at, id, &size)) {
        int64_t body = at + (int64_t)(layout->id_size + layout->size_size);
        if (memcmp(id, layout->format_id, 4) == 0) {
            keep_format(chunks, body, size);
        } else if (memcmp(id, "ds64", 4) == 0) {
            unsigned char ds64[16];
            bool complete = read_exactly(chunks->source, body, ds64, sizeof ds64);
            chunks->ds64_size = complete ? number(ds64 + 8, 8, false) : 0;
        } else if (memcmp(id, layout->data_id, 4) == 0 && !chunks->has_data) {
            chunks->has_data = true;
            chunks->data_size = size;
            chunks->data_begin = body;
        }
        if (size > (uint64_t)(chunks->source->size - body)) {
            break;
        }
        at = body + (int64_t)size;
        int64_t beyond = (at - chunks->begin) % layout->align;
        at += beyond > 0 ? layout->align - beyond : 0;
    }
}

/* A recorder that did not finish leaves sizes of 0. The samples' 0 is true where the size of the
 * whole file is. */
static bool is_unset(const struct chunks *chunks)
{
    unsigned char head[8];
    if (chunks->layout->size_size != 4 || chunks->data_size != 0 ||
        !read_exactly(chunks->source, chunks->begin, head, sizeof head)) {
        return false;
    }
    int64_t promised = (int64_t)number(head + 4, 4, chunks->layout->big_endian) + 8;
    int64_t difference = promised - (chunks->source->size - chunks->begin);
    return difference < -1 || difference > 1;
}

/* End of the samples, by their size or by what is there. */
static int64_t data_end(const struct chunks *chunks, bool *cut)
{
    uint64_t left = (uint64_t)(chunks->source->size - chunks->data_begin);
    uint64_t size = chunks->data_size;
    bool unknown = is_unset(chunks);
    if (size == 0xFFFFFFFFU && chunks->layout->size_size == 4) {
        unknown = chunks->ds64_size == 0;
        size = chunks->ds64_size;
    } else if (size > left) {
        unknown = is_unknown(size, chunks->layout->size_size);
    }
    *cut = !unknown && size > left;
    return chunks->data_begin + (int64_t)(unknown || size > left ? left : size);
}

static void put(struct ser_framing *framing, const void *bytes, size_t size)
{
    memcpy(framing->prefix + framing->prefix_size, bytes, size);
    framing->prefix_size += size;
}

static void put_number(struct ser_framing *framing, uint64_t value, size_t size, bool big_endian)
{
    unsigned char bytes[8];
    for (size_t i = 0; i < size; i++) {
        bytes[big_endian ? size - 1 - i : i] = (unsigned char)(value >> (8 * i));
    }
    put(framing, bytes, size);
}

/* The header of a file that holds the format and the samples only. W64 becomes WAV, and what is too
 * large for WAV becomes RF64. */
static void write_prefix(struct ser_framing *framing, const struct chunks *chunks)
{
    const struct layout *layout = chunks->layout;
    bool caf = layout == &caf_layout;
    bool wave = layout == &wave_layout || layout == &w64_layout;
    uint64_t size = (uint64_t)(framing->end - framing->begin);
    uint64_t most = 0xFFFFFFFFU - SER_PREFIX_SIZE;
    bool rf64 = wave && size > most;
    uint64_t total = size + 2 * BODY_SIZE; /* near enough: readers use it to find the end */
    uint64_t short_total = total < most ? total : 0xFFFFFFFFU;
    unsigned char head[12];
    (void)read_exactly(chunks->source, chunks->begin, head, sizeof head);
    if (caf) {
        put(framing, head, 8);
    } else {
        put(framing, rf64 ? "RF64" : wave ? "RIFF" : (const char *)head, 4);
        put_number(framing, short_total, 4, layout->big_endian);
        put(framing, wave ? "WAVE" : (const char *)head + 8, 4);
    }
    if (rf64) {
        put(framing, "ds64", 4);
        put_number(framing, 28, 4, false);
        put_number(framing, total, 8, false);
        put_number(framing, size, 8, false);
        put_number(framing, 0, 8, false);
        put_number(framing, 0, 4, false);
    }
    static const unsigned char padding;
    put(framing, layout->format_id, 4);
    put_number(framing, chunks->format.size, caf ? 8 : 4, layout->big_endian);
    put(framing, chunks->format.bytes, chunks->format.size);
    put(framing, &padding, caf ? 0 : chunks->format.size % 2);
    put(framing, layout->data_id, 4);
    put_number(framing, caf || size <= most ? size : 0xFFFFFFFFU, caf ? 8 : 4, layout->big_endian);
}

static void frame_chunks(struct ser_source *source, const struct layout *layout, int64_t begin,
                         struct ser_framing *framing)
{
    struct chunks chunks = {.source = source, .layout = layout, .begin = begin};
    walk(&chunks);
    if (!chunks.has_data) {
        framing->empty = true;
        return;
    }
    if (chunks.format.size == 0) {
        framing->lacks = layout->format_id;
        return;
    }
    framing->begin = chunks.data_begin;
    framing->end = data_end(&chunks, &framing->cut);
    write_prefix(framing, &chunks);
}

/* Data offset and data size, big-endian in ".snd" files and little-endian in "dns." files. */
static void frame_au(struct ser_source *source, struct ser_framing *framing)
{
    unsigned char head[12];
    uint64_t bytes = (uint64_t)(framing->end - framing->begin);
    if (!read_exactly(source, framing->begin, head, sizeof head)) {
        framing->empty = true;
        return;
    }
    bool big_endian = head[0] == '.';
    uint64_t offset = number(head + 4, 4, big_endian);
    uint64_t size = number(head + 8, 4, big_endian);
    framing->empty = offset >= bytes;
    framing->cut = !framing->empty && !is_unknown(size, 4) && size > bytes - offset;
}

/* Metadata blocks up to the one marked as last; the frames follow it. */
static void frame_flac(struct ser_source *source, struct ser_framing *framing)
{
    unsigned char head[4] = {0};
    int64_t at = framing->begin + 4;
    bool last = false;
    while (!last && read_exactly(source, at, head, sizeof head)) {
        last = (head[0] & 0x80U) != 0;
        at += 4 + (int64_t)number(head + 1, 3, true);
    }
    framing->empty = !last || at >= framing->end;
}

void ser_container_frame(struct ser_source *source, enum ser_container container, int64_t begin,
                         struct ser_framing *framing)
{
    unsigned char head[4] = {0};
    *framing = (struct ser_framing){.begin = begin, .end = source->size};
    switch (container) {
    case SER_CONTAINER_WAVE:
        (void)read_exactly(source, begin, head, sizeof head);
        frame_chunks(source, head[3] == 'X' ? &rifx_layout : &wave_layout, begin, framing);
        break;
    case SER_CONTAINER_RF64: frame_chunks(source, &wave_layout, begin, framing); break;
    case SER_CONTAINER_W64: frame_chunks(source, &w64_layout, begin, framing); break;
    case SER_CONTAINER_AIFF: frame_chunks(source, &aiff_layout, begin, framing); break;
    case SER_CONTAINER_CAF: frame_chunks(source, &caf_layout, begin, framing); break;
    case SER_CONTAINER_AU: frame_au(source, framing); break;
    case SER_CONTAINER_FLAC: frame_flac(source, framing); break;
    default: break;
    }
}
