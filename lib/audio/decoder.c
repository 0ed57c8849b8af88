/* SPDX-License-Identifier: MIT */
#include "audio/decoder.h"

#include <math.h>

#include "audio/audio.h"
#include "audio/mix.h"
#include "base/fail.h"
#include "base/mem.h"

enum { SKIP_SAMPLES = 1 << 14 };

int64_t ser_seconds_to_frames(double seconds, int32_t rate)
{
    double frames = rint(seconds * rate);
    return frames < 0x1p62 ? (int64_t)frames : INT64_MAX / 2;
}

static int no_audio(const struct ser_decoder *decoder, const char *why)
{
    return ser_fail(SER_ERR_DATA, "%s: no audio: %s", decoder->source.name, why);
}

/* Skip ID3v2 tags (id3.org, section 3.1: sizes of four times seven bits), look at what follows. */
static int detect(struct ser_decoder *decoder)
{
    struct ser_source *source = &decoder->source;
    unsigned char head[SER_CONTAINER_HEAD];
    bool tagged = false;
    for (;;) {
        size_t got = ser_source_read_at(source, decoder->window, head, sizeof head);
        if (source->error != 0) {
            return ser_source_failure(source);
        }
        decoder->container = ser_container_detect(head, got);
        if (decoder->container != SER_CONTAINER_ID3 || got < 10) {
            if (tagged && got == 0) {
                return no_audio(decoder, "the file ends with its ID3 tag");
            }
            /* Encoders pad between tag and first frame, and libmpg123 finds it. */
            if (tagged && decoder->container == SER_CONTAINER_OTHER) {
                decoder->container = SER_CONTAINER_MPEG;
            }
            return decoder->any_format || tagged ? 0 : ser_container_check(source->name, head, got);
        }
        int64_t footer = (head[5] & 0x10U) != 0 ? 10 : 0;
        decoder->window += 10 + footer + ((head[6] & 0x7F) << 21) + ((head[7] & 0x7F) << 14) +
                           ((head[8] & 0x7F) << 7) + (head[9] & 0x7F);
        tagged = true;
    }
}

/* Find what the codec is to see of the window. */
static int frame(struct ser_decoder *decoder)
{
    struct ser_source *source = &decoder->source;
    struct ser_framing *framing = &decoder->framing;
    ser_container_frame(source, decoder->container, decoder->window, framing);
    if (decoder->container == SER_CONTAINER_OGG) {
        struct ser_ogg_link link = ser_ogg_find_link(source, decoder->window);
        framing->end = link.end;
        framing->empty = link.empty;
        framing->cut = link.damaged;
    }
    if (source->error != 0) {
        return ser_source_failure(source);
    }
    if (framing->empty) {
        return no_audio(decoder, "the file ends within its header");
    }
    if (framing->lacks != NULL) {
        return ser_fail(SER_ERR_FORMAT,
                        "%s: cannot be decoded: a chunk \"%s\" is missing or damaged", source->name,
                        framing->lacks);
    }
    ser_source_window(source, framing->begin, framing->end);
    source->prefix = framing->prefix;
    source->prefix_size = (int64_t)framing->prefix_size;
    return 0;
}

static int open_codec(struct ser_decoder *decoder)
{
    int status = frame(decoder);
    if (status != 0) {
        return status;
    }
    decoder->codec =
        decoder->container == SER_CONTAINER_MPEG ? &ser_codec_mpeg : &ser_codec_sndfile;
    decoder->claimed = -1;
    decoder->tolerance = 0;
    decoder->can_seek = false;
    decoder->foreign = false;
    decoder->full_scale = 1.0F;
    decoder->link_start = decoder->position;
    return decoder->codec->open(decoder);
}

static int check_layout(const struct ser_decoder *decoder, const ser_audio_options *options)
{
    const char *name = decoder->source.name;
    if (decoder->rate < SER_RATE_MIN || decoder->rate > SER_RATE_MAX) {
        return ser_fail(SER_ERR_UNSUPPORTED, "%s: sampling rate is %d Hz, not within %d..%d", name,
                        decoder->rate, SER_RATE_MIN, SER_RATE_MAX);
    }
    if (decoder->channels < 1 || decoder->channels > SER_CHANNELS_MAX) {
        return ser_fail(SER_ERR_UNSUPPORTED, "%s: %d channels, not within 1..%d", name,
                        decoder->channels, SER_CHANNELS_MAX);
    }
    return ser_check_channel(name, options->channel, decoder->channels);
}

static int skip(struct ser_decoder *decoder, int64_t frames)
{
    if (frames > 0 && decoder->can_seek && frames <= decoder->claimed &&
        decoder->codec->seek(decoder, frames)) {
        decoder->position = frames;
        return 0;
    }
    int64_t block = SKIP_SAMPLES / decoder->channels;
    float *scratch = ser_mem_alloc_raw((size_t)(block * decoder->channels), sizeof *scratch);
    if (scratch == NULL) {
        return SER_ERR_MEMORY;
    }
    int status = 0;
    int64_t got = 1;
    while (status == 0 && got > 0 && decoder->position < frames) {
        int64_t left = frames - decoder->position;
        status = ser_decoder_read(decoder, scratch, left < block ? left : block, &got);
    }
    ser_mem_free(scratch);
    if (status == 0 && decoder->position < frames) {
        int64_t ms = decoder->position / decoder->rate * 1000 +
                     decoder->position % decoder->rate * 1000 / decoder->rate;
        return ser_fail(SER_ERR_DATA,
                        "%s: no audio: the offset is beyond the end at %lld.%03lld seconds",
                        decoder->source.name, (long long)(ms / 1000), (long long)(ms % 1000));
    }
    return status;
}

int ser_decoder_open(struct ser_decoder *decoder, const char *path, const void *data, size_t size,
                     const ser_audio_options *options)
{
    *decoder = (struct ser_decoder){.remaining = INT64_MAX, .any_format = options->any_format != 0};
    int status = path != NULL ? ser_source_open(&decoder->source, path, decoder->any_format)
                              : ser_source_from_memory(&decoder->source, data, size);
    if (status != 0) {
        return status;
    }
    status = detect(decoder);
    if (status == 0) {
        status = open_codec(decoder);
    }
    if (status == 0) {
        status = check_layout(decoder, options);
    }
    if (status == 0) {
        status = skip(decoder, ser_seconds_to_frames(options->offset, decoder->rate));
    }
    if (status != 0) {
        ser_decoder_close(decoder);
        return status;
    }
    if (options->length > 0.0) {
        decoder->remaining = ser_seconds_to_frames(options->length, decoder->rate);
    }
    return 0;
}

/* After the last frame of a window: note what is missing, and open the next link of a chained Ogg
 * file if it has the same layout. The codec stays closed at the end of the file. */
static int next_window(struct ser_decoder *decoder)
{
    int64_t decoded = decoder->position - decoder->link_start;
    decoder->damaged = decoder->damaged || decoder->framing.cut ||
                       (decoder->claimed >= 0 && decoded + decoder->tolerance < decoder->claimed);
    decoder->codec->close(decoder);
    if (decoder->container != SER_CONTAINER_OGG || decoder->framing.end >= decoder->source.size) {
        return 0;
    }
    int32_t rate = decoder->rate;
    int32_t channels = decoder->channels;
    decoder->window = decoder->framing.end;
    int status = open_codec(decoder);
    if (status != 0 || decoder->rate != rate || decoder->channels != channels) {
        decoder->codec->close(decoder);
        decoder->rate = rate;
        decoder->channels = channels;
        decoder->damaged = true;
        return status == SER_ERR_MEMORY || status == SER_ERR_IO ? status : 0;
    }
    return 0;
}

int ser_decoder_read(struct ser_decoder *decoder, float *x, int64_t frames, int64_t *got)
{
    *got = 0;
    if (frames > decoder->remaining) {
        frames = decoder->remaining;
    }
    while (frames > 0 && decoder->state != NULL) {
        int64_t count = decoder->codec->read(decoder, x, frames);
        if (decoder->source.error != 0) {
            return ser_source_failure(&decoder->source);
        }
        if (count > 0) {
            decoder->position += count;
            decoder->remaining -= count;
            *got = count;
            return 0;
        }
        int status = next_window(decoder);
        if (status != 0) {
            return status;
        }
    }
    return 0;
}

void ser_decoder_close(struct ser_decoder *decoder)
{
    if (decoder->codec != NULL) {
        decoder->codec->close(decoder);
    }
    ser_source_close(&decoder->source);
}
