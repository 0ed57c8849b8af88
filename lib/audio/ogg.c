/* SPDX-License-Identifier: MIT */
/* Pages of an Ogg file (RFC 3533, section 6), only as far as needed to find where its links end. */
#include <string.h>

#include "audio/container.h"

enum { PAGE_HEAD = 27, FIRST_PAGE = 2, LAST_PAGE = 4 };

struct page {
    unsigned flags;
    bool has_audio; /* some sample's packet ends on it */
    int64_t size;
};

static bool read_page(struct ser_source *source, int64_t at, struct page *page)
{
    unsigned char head[PAGE_HEAD + 255];
    if (ser_source_read_at(source, at, head, PAGE_HEAD) != PAGE_HEAD ||
        memcmp(head, "OggS", 4) != 0 || head[4] != 0) {
        return false;
    }
    size_t segments = head[26];
    if (ser_source_read_at(source, at + PAGE_HEAD, head + PAGE_HEAD, segments) != segments) {
        return false;
    }
    static const unsigned char zero[8];
    static const unsigned char none[8] = {255, 255, 255, 255, 255, 255, 255, 255};
    page->flags = head[5];
    page->has_audio = memcmp(head + 6, zero, 8) != 0 && memcmp(head + 6, none, 8) != 0;
    page->size = (int64_t)(PAGE_HEAD + segments);
    for (size_t i = 0; i < segments; i++) {
        page->size += head[PAGE_HEAD + i];
    }
    return true;
}

/* The next page at or behind `at`, or the end of the source. */
static int64_t find_page(struct ser_source *source, int64_t at)
{
    unsigned char piece[4096];
    struct page page;
    size_t got;
    while ((got = ser_source_read_at(source, at, piece, sizeof piece)) >= 4) {
        for (size_t i = 0; i + 4 <= got; i++) {
            if (memcmp(piece + i, "OggS", 4) == 0 && read_page(source, at + (int64_t)i, &page)) {
                return at + (int64_t)i;
            }
        }
        at += (int64_t)(got - 3);
    }
    return source->size;
}

struct ser_ogg_link ser_ogg_find_link(struct ser_source *source, int64_t begin)
{
    struct ser_ogg_link link = {.end = source->size, .empty = true};
    int64_t open_streams = 0;
    bool heads_done = false;
    int64_t at = begin;
    while (at < source->size) {
        struct page page;
        if (!read_page(source, at, &page)) {
            at = find_page(source, at + 1);
            link.damaged = link.damaged || at < source->size;
            continue;
        }
        bool first = (page.flags & FIRST_PAGE) != 0;
        if (first && heads_done) {
            link.end = at;
            break;
        }
        heads_done = heads_done || !first;
        open_streams += first ? 1 : 0;
        open_streams -= (page.flags & LAST_PAGE) != 0 ? 1 : 0;
        link.empty = link.empty && !page.has_audio;
        if (page.size > source->size - at) {
            link.damaged = true;
        }
        at += page.size;
    }
    link.damaged = link.damaged || open_streams > 0;
    return link;
}
