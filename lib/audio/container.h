/* SPDX-License-Identifier: MIT */
/* What a file is by its first bytes, and whether it holds all that its framing promises. */
#ifndef SER_AUDIO_CONTAINER_H
#define SER_AUDIO_CONTAINER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "audio/source.h"

enum { SER_CONTAINER_HEAD = 64 }; /* bytes that are looked at */

enum ser_container {
    SER_CONTAINER_OTHER = 0,
    SER_CONTAINER_WAVE, /* RIFF or RIFX */
    SER_CONTAINER_RF64,
    SER_CONTAINER_W64,
    SER_CONTAINER_AIFF,
    SER_CONTAINER_CAF,
    SER_CONTAINER_AU,
    SER_CONTAINER_FLAC,
    SER_CONTAINER_OGG,
    SER_CONTAINER_MPEG,
    SER_CONTAINER_ID3 /* a tag, with MPEG, FLAC or something else behind it */
};

/* Container by the first `size` bytes of a file. */
enum ser_container ser_container_detect(const unsigned char *head, size_t size);

/* 0 for a container of the list above, else SER_ERR_DATA (no bytes), SER_ERR_UNSUPPORTED (other
 * audio) or SER_ERR_FORMAT, naming what the file looks like. */
int ser_container_check(const char *name, const unsigned char *head, size_t size);

struct ser_extent {
    bool empty; /* ends before the place where audio would begin */
    bool cut;   /* ends before the audio that its framing promises does */
    /* A recorder that did not finish leaves a data size of 0: the place of that field, from the start
     * of the window, and the bytes that follow it; else 0. */
    int64_t unset_size_at;
    int64_t bytes_left;
    bool big_endian; /* the field */
};

/* Walks the chunks of the source's window in time linear in its size; what cannot be told is false.
 * For Ogg see ser_ogg_link. */
struct ser_extent ser_container_extent(struct ser_source *source, enum ser_container container);

/* One link of a chained Ogg file: a group of streams that begin and end together. */
struct ser_ogg_link {
    int64_t end;  /* byte behind its last page */
    bool empty;   /* has no page with audio */
    bool damaged; /* garbage between pages, a page cut short, or a stream without its last page */
};

struct ser_ogg_link ser_ogg_find_link(struct ser_source *source, int64_t begin);

#endif
