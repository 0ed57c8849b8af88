/* SPDX-License-Identifier: MIT */
/* libsndfile: everything but MPEG. Its header fields are as hostile as the file they come from. */
#include <sndfile.h>
#include <stdio.h>

#include "audio/decoder.h"
#include "base/fail.h"

static sf_count_t io_length(void *user)
{
    return ser_source_visible(user);
}

static sf_count_t io_seek(sf_count_t offset, int whence, void *user)
{
    struct ser_source *source = user;
    int64_t base = 0;
    if (whence == SEEK_CUR) {
        base = source->position;
    } else if (whence == SEEK_END) {
        base = io_length(user);
    }
    int64_t position;
    if (__builtin_add_overflow(base, (int64_t)offset, &position) || position < 0) {
        return -1;
    }
    source->position = position;
    return position;
}

static sf_count_t io_read(void *bytes, sf_count_t size, void *user)
{
    return size > 0 ? (sf_count_t)ser_source_pull(user, bytes, (size_t)size) : 0;
}

static sf_count_t io_write(const void *bytes, sf_count_t size, void *user)
{
    (void)bytes;
    (void)size;
    (void)user;
    return 0;
}

static sf_count_t io_tell(void *user)
{
    const struct ser_source *source = user;
    return source->position;
}

/* The value of the largest positive code; libsndfile maps the most negative one to -1. */
static float full_scale(int format)
{
    switch (format & SF_FORMAT_SUBMASK) {
    case SF_FORMAT_PCM_S8:
    case SF_FORMAT_PCM_U8: return 127.0F / 128.0F;
    case SF_FORMAT_PCM_24:
    case SF_FORMAT_ALAC_24: return 8388607.0F / 8388608.0F;
    case SF_FORMAT_ULAW: return 32124.0F / 32768.0F;
    case SF_FORMAT_ALAW: return 32256.0F / 32768.0F;
    case SF_FORMAT_PCM_32:
    case SF_FORMAT_ALAC_32:
    case SF_FORMAT_FLOAT:
    case SF_FORMAT_DOUBLE:
    case SF_FORMAT_VORBIS:
    case SF_FORMAT_OPUS: return 1.0F;
    default: return 32767.0F / 32768.0F;
    }
}

/* Encodings that people meet. The others are where libsndfile's faults and assertions are found. */
static bool is_common(int format)
{
    switch (format & SF_FORMAT_SUBMASK) {
    case SF_FORMAT_PCM_S8:
    case SF_FORMAT_PCM_U8:
    case SF_FORMAT_PCM_16:
    case SF_FORMAT_PCM_24:
    case SF_FORMAT_PCM_32:
    case SF_FORMAT_FLOAT:
    case SF_FORMAT_DOUBLE:
    case SF_FORMAT_ULAW:
    case SF_FORMAT_ALAW:
    case SF_FORMAT_IMA_ADPCM:
    case SF_FORMAT_MS_ADPCM:
    case SF_FORMAT_GSM610:
    case SF_FORMAT_VORBIS:
    case SF_FORMAT_OPUS: return true;
    default: return false;
    }
}

/* Formats where libsndfile computes the byte of a frame, so that seeking is exact. */
static bool seeks_exactly(int format)
{
    switch (format & SF_FORMAT_TYPEMASK) {
    case SF_FORMAT_WAV:
    case SF_FORMAT_WAVEX:
    case SF_FORMAT_RF64:
    case SF_FORMAT_W64:
    case SF_FORMAT_AIFF:
    case SF_FORMAT_AU: break;
    default: return false;
    }
    switch (format & SF_FORMAT_SUBMASK) {
    case SF_FORMAT_PCM_S8:
    case SF_FORMAT_PCM_U8:
    case SF_FORMAT_PCM_16:
    case SF_FORMAT_PCM_24:
    case SF_FORMAT_PCM_32:
    case SF_FORMAT_FLOAT:
    case SF_FORMAT_DOUBLE:
    case SF_FORMAT_ULAW:
    case SF_FORMAT_ALAW: return true;
    default: return false;
    }
}

/*
 * libsndfile keeps the reason of a failed open in one variable for the whole process. It is read
 * right away and only as a number: in the worst case a simultaneous failure in another thread lends
 * its reason to the message.
 */
static int open_failure(struct ser_decoder *decoder)
{
    int reason = sf_error(NULL);
    if (decoder->source.error != 0) {
        return ser_source_failure(&decoder->source);
    }
    int status = reason == SF_ERR_UNSUPPORTED_ENCODING ? SER_ERR_UNSUPPORTED : SER_ERR_FORMAT;
    return ser_fail(status, "%s: cannot be decoded: %s", decoder->source.name,
                    reason != SF_ERR_NO_ERROR ? sf_error_number(reason) : "damaged header");
}

static int sndfile_open(struct ser_decoder *decoder)
{
    SF_VIRTUAL_IO io = {
        .get_filelen = io_length,
        .seek = io_seek,
        .read = io_read,
        .write = io_write,
        .tell = io_tell,
    };
    SF_INFO info = {0};
    SNDFILE *file = sf_open_virtual(&io, SFM_READ, &info, &decoder->source);
    if (file == NULL) {
        return open_failure(decoder);
    }
    if (!decoder->any_format && !is_common(info.format)) {
        (void)sf_close(file);
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "%s: a rare encoding (0x%04x of libsndfile); convert it to WAV or FLAC",
                        decoder->source.name, (unsigned)(info.format & SF_FORMAT_SUBMASK));
    }
    (void)sf_command(file, SFC_SET_NORM_FLOAT, NULL, SF_TRUE);
    decoder->state = file;
    decoder->rate = info.samplerate;
    decoder->channels = info.channels;
    decoder->full_scale = full_scale(info.format);
    decoder->can_seek = seeks_exactly(info.format);
    decoder->claimed = info.frames >= 0 && info.frames < SF_COUNT_MAX ? info.frames : -1;
    return 0;
}

static int64_t sndfile_read(struct ser_decoder *decoder, float *x, int64_t frames)
{
    sf_count_t count = sf_readf_float(decoder->state, x, frames);
    if (sf_error(decoder->state) != SF_ERR_NO_ERROR) {
        decoder->damaged = true;
    }
    return count > 0 && count <= frames ? count : 0;
}

static bool sndfile_seek(struct ser_decoder *decoder, int64_t frame)
{
    return sf_seek(decoder->state, frame, SEEK_SET) == frame;
}

static void sndfile_close(struct ser_decoder *decoder)
{
    if (decoder->state != NULL) {
        (void)sf_close(decoder->state);
        decoder->state = NULL;
    }
}

const struct ser_codec ser_codec_sndfile = {
    .open = sndfile_open,
    .read = sndfile_read,
    .seek = sndfile_seek,
    .close = sndfile_close,
};
