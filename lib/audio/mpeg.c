/* SPDX-License-Identifier: MIT */
/*
 * libmpg123, which libsndfile would use for MPEG audio, too. Asked directly it stays quiet (through
 * libsndfile it writes to stderr about damaged files) and it decodes until the data ends, where
 * libsndfile stops after a length that it has guessed from the first frame's bit rate.
 */
#include <mpg123.h>

#include "audio/decoder.h"
#include "base/fail.h"

enum { FRAME_SAMPLES = 1152 };

static ssize_t io_read(void *user, void *bytes, size_t size)
{
    struct ser_source *source = user;
    size_t got = ser_source_pull(source, bytes, size);
    return source->error == 0 ? (ssize_t)got : -1;
}

/* A stream that cannot seek: then the length is known only where an Info tag states it. */
static off_t io_seek(void *user, off_t offset, int whence)
{
    (void)user;
    (void)offset;
    (void)whence;
    return -1;
}

static bool configure(mpg123_handle *handle, struct ser_source *source)
{
    /* SEEKBUFFER: look for a second frame before the first one is believed. */
    long flags = MPG123_QUIET | MPG123_FORCE_FLOAT | MPG123_SKIP_ID3V2 | MPG123_SEEKBUFFER;
    return mpg123_param(handle, MPG123_ADD_FLAGS, flags, 0.0) == MPG123_OK &&
           mpg123_param(handle, MPG123_REMOVE_FLAGS, MPG123_AUTO_RESAMPLE, 0.0) == MPG123_OK &&
           mpg123_param(handle, MPG123_RESYNC_LIMIT, -1, 0.0) == MPG123_OK &&
           mpg123_replace_reader_handle(handle, io_read, io_seek, NULL) == MPG123_OK &&
           mpg123_open_handle(handle, source) == MPG123_OK;
}

static int mpeg_open(struct ser_decoder *decoder)
{
    struct ser_source *source = &decoder->source;
    long rate = 0;
    int channels = 0;
    int encoding = 0;
    int error = MPG123_OK;
    mpg123_handle *handle = mpg123_new(NULL, &error);
    if (handle == NULL) {
        return ser_fail(error == MPG123_OUT_OF_MEM ? SER_ERR_MEMORY : SER_ERR_INTERNAL,
                        "%s: libmpg123: %s", source->name, mpg123_plain_strerror(error));
    }
    if (!configure(handle, source) ||
        mpg123_getformat(handle, &rate, &channels, &encoding) != MPG123_OK ||
        encoding != MPG123_ENC_FLOAT_32) {
        mpg123_delete(handle);
        return source->error != 0
                   ? ser_source_failure(source)
                   : ser_fail(SER_ERR_FORMAT, "%s: cannot be decoded: no MPEG audio frames found",
                              source->name);
    }
    decoder->state = handle;
    decoder->rate = (int32_t)rate;
    decoder->channels = channels;
    decoder->claimed = mpg123_length(handle);
    /* Some Info tags count their own frame. */
    decoder->tolerance = FRAME_SAMPLES;
    return 0;
}

static bool same_format(const struct ser_decoder *decoder)
{
    long rate = 0;
    int channels = 0;
    int encoding = 0;
    return mpg123_getformat(decoder->state, &rate, &channels, &encoding) == MPG123_OK &&
           rate == decoder->rate && channels == decoder->channels &&
           encoding == MPG123_ENC_FLOAT_32;
}

/* A last frame that is cut short gives MPG123_ERR. After damage the decoder may take noise for
 * frames of another layout; they are left out until the stream is itself again. */
static int64_t mpeg_read(struct ser_decoder *decoder, float *x, int64_t frames)
{
    size_t frame_size = (size_t)decoder->channels * sizeof *x;
    for (;;) {
        size_t bytes = 0;
        bool leave_out = decoder->foreign;
        int result = mpg123_read(decoder->state, (void *)x, (size_t)frames * frame_size, &bytes);
        if (result == MPG123_NEW_FORMAT) {
            decoder->foreign = !same_format(decoder);
        }
        if (decoder->foreign || result == MPG123_ERR) {
            decoder->damaged = true;
        }
        if (bytes > 0 && !leave_out) {
            return (int64_t)(bytes / frame_size);
        }
        if (result != MPG123_OK && result != MPG123_NEW_FORMAT) {
            return 0;
        }
    }
}

static void mpeg_close(struct ser_decoder *decoder)
{
    if (decoder->state != NULL) {
        mpg123_delete(decoder->state);
        decoder->state = NULL;
    }
}

const struct ser_codec ser_codec_mpeg = {
    .open = mpeg_open,
    .read = mpeg_read,
    .close = mpeg_close,
};
