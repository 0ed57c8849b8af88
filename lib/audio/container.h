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

enum { SER_PREFIX_SIZE = 2048 };

/*
 * Where the samples are. Files made of chunks are shown to the codec as a header of only what
 * decoding needs, `prefix`, and the samples: no comments, pictures or cue lists, in which its
 * parser can be led astray, and a true size in place of one that is missing or wrong.
 */
struct ser_framing {
    bool empty;         /* the file ends before the place where audio would begin */
    bool cut;           /* the file ends before the audio that its header promises does */
    const char *lacks;  /* what cannot be missing, or NULL */
    int64_t begin, end; /* bytes for the codec, behind the prefix */
    size_t prefix_size; /* 0: the file as it is */
    unsigned char prefix[SER_PREFIX_SIZE];
};

/* Looks at the bytes from `begin` on, in time linear in their number. What cannot be told is false.
 * For Ogg see ser_ogg_find_link. */
void ser_container_frame(struct ser_source *source, enum ser_container container, int64_t begin,
                         struct ser_framing *framing);

/* One link of a chained Ogg file: a group of streams that begin and end together. */
struct ser_ogg_link {
    int64_t end;  /* byte behind its last page */
    bool empty;   /* has no page with audio */
    bool damaged; /* garbage between pages, a page cut short, or a stream without its last page */
};

struct ser_ogg_link ser_ogg_find_link(struct ser_source *source, int64_t begin);

#endif
