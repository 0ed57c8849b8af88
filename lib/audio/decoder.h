/* SPDX-License-Identifier: MIT */
/* A file as interleaved float frames, from `offset` on for `length`, whatever its header claims. */
#ifndef SER_AUDIO_DECODER_H
#define SER_AUDIO_DECODER_H

#include <stdbool.h>
#include <stdint.h>

#include <ser/audio.h>

#include "audio/container.h"
#include "audio/source.h"

struct ser_decoder;

/* One decoding library. */
struct ser_codec {
    /* Open the source's window and set state, rate, channels, full_scale, claimed and can_seek. */
    int (*open)(struct ser_decoder *decoder);
    /* Up to `frames` frames; 0 at the end. What is wrong with the data shows in `damaged`. */
    int64_t (*read)(struct ser_decoder *decoder, float *x, int64_t frames);
    /* To an absolute frame; false if that is impossible. Only with `can_seek`. */
    bool (*seek)(struct ser_decoder *decoder, int64_t frame);
    void (*close)(struct ser_decoder *decoder);
};

extern const struct ser_codec ser_codec_sndfile;
extern const struct ser_codec ser_codec_mpeg;

struct ser_decoder {
    struct ser_source source;
    bool any_format; /* rare containers and encodings, too */
    enum ser_container container;
    int64_t window; /* byte where the audio (behind an ID3 tag) or the current Ogg link begins */
    struct ser_framing framing;

    const struct ser_codec *codec;
    void *state;  /* the codec's, or NULL while it is closed */
    int32_t rate; /* Hz */
    int32_t channels;
    float full_scale;  /* largest sample value of the encoding */
    int64_t claimed;   /* frames that the header promises, or -1; of one link */
    int64_t tolerance; /* frames by which honest headers err */
    bool can_seek;     /* to the exact sample */
    bool foreign;      /* the codec's: what follows has another rate or channel count */

    int64_t position;   /* frames decoded or skipped since the start of the file */
    int64_t link_start; /* position where the current link began */
    int64_t remaining;  /* frames that may still be handed out */
    bool damaged;       /* something of the span that was read is missing or broken */
};

/* Open `path`, or with NULL `size` bytes at `data`, and skip to the offset. */
int ser_decoder_open(struct ser_decoder *decoder, const char *path, const void *data, size_t size,
                     const ser_audio_options *options);

/* Up to `frames` frames into `x`, `*got` of them; 0 at the end. */
int ser_decoder_read(struct ser_decoder *decoder, float *x, int64_t frames, int64_t *got);

void ser_decoder_close(struct ser_decoder *decoder);

/* Frames nearest to `seconds`, saturated; for offset and length. */
int64_t ser_seconds_to_frames(double seconds, int32_t rate);

#endif
