/* SPDX-License-Identifier: MIT */
/*
 * The windows of audio that comes bit by bit: samples at 16 kHz and facts about the blocks of
 * source frames, kept while a window may still need them.
 */
#ifndef SER_AUDIO_WINDOWS_H
#define SER_AUDIO_WINDOWS_H

#include <stddef.h>
#include <stdint.h>

#include <ser/audio.h>

#include "audio/converter.h"

/* Facts about one block of source frames. */
struct ser_block_facts {
    int64_t first; /* frame, counted from the start of what is read */
    struct ser_tally tally;
};

struct ser_windows {
    int64_t size, hop; /* samples; 0 until the caller sets them */
    int64_t start;     /* of the next window, in samples from the first one */

    struct ser_samples samples; /* the converter appends to it */
    size_t begin;               /* in `samples`: the next window's first */
    struct ser_block_facts *blocks;
    size_t block_begin, block_count, block_capacity; /* [block_begin, block_count) are of use */
};

/* Samples that wait from the start of the next window on, and where they are. */
size_t ser_windows_waiting(const struct ser_windows *windows);
const float *ser_windows_samples(const struct ser_windows *windows);

/* Room for so many blocks and samples more. */
int ser_windows_reserve(struct ser_windows *windows, size_t blocks, size_t samples);

/* Keep what is known about the block that begins at frame `first`. */
int ser_windows_remember(struct ser_windows *windows, int64_t first, const struct ser_tally *tally);

/* Facts about the next window, of `count` samples: those of all blocks that it touches, and of its
 * own samples. Fewer than a whole window end with the audio. */
void ser_windows_describe(const struct ser_windows *windows, const struct ser_converter *converter,
                          size_t count, ser_audio_info *info);

/* To the next window, of which at least the start must be there. */
void ser_windows_advance(struct ser_windows *windows, const struct ser_converter *converter);

void ser_windows_free(struct ser_windows *windows);

#endif
