/* SPDX-License-Identifier: MIT */
#include <ser/audio.h>

#include <math.h>

#include "api/options.h"
#include "audio/audio.h"
#include "base/fail.h"

#define WINDOW_MAX 1e9 /* seconds; any longer audio is a mistake */

static const ser_audio_options defaults = {
    .struct_size = sizeof(ser_audio_options),
    .max_seconds = 3600.0,
    .channel = -1,
};

void ser_audio_options_init(ser_audio_options *options, size_t size)
{
    ser_options_give(options, size, &defaults, sizeof defaults);
}

static int check_seconds(double seconds, const char *field)
{
    if (!isfinite(seconds) || seconds < 0.0) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_audio_options: %s is %s, not a length of time",
                        field, isfinite(seconds) ? "negative" : "not finite");
    }
    return 0;
}

static int check_switch(int32_t value, const char *field)
{
    if (value != 0 && value != 1) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_audio_options: %s is %d, neither 0 nor 1", field,
                        value);
    }
    return 0;
}

/* The caller's options over the defaults, with every value in its range. */
static int take_options(ser_audio_options *own, const ser_audio_options *given)
{
    *own = defaults;
    int status = ser_options_take(own, sizeof *own, given, "ser_audio_options");
    if (status == 0) {
        status = check_seconds(own->offset, "offset");
    }
    if (status == 0) {
        status = check_seconds(own->length, "length");
    }
    if (status == 0) {
        status = check_seconds(own->max_seconds, "max_seconds");
    }
    if (status == 0 && (own->channel < -1 || own->channel >= SER_CHANNELS_MAX)) {
        status = ser_fail(SER_ERR_ARGUMENT, "ser_audio_options: channel is %d, not within -1..%d",
                          own->channel, SER_CHANNELS_MAX - 1);
    }
    if (status == 0) {
        status = check_switch(own->nonfinite, "nonfinite");
    }
    if (status == 0) {
        status = check_switch(own->strict, "strict");
    }
    if (status == 0) {
        status = check_switch(own->any_format, "any_format");
    }
    return status;
}

static int is_null(const char *function, const char *argument)
{
    return ser_fail(SER_ERR_ARGUMENT, "%s: %s is NULL", function, argument);
}

int ser_audio_read(const char *path, const ser_audio_options *options, ser_audio **audio)
{
    if (audio == NULL) {
        return is_null("ser_audio_read", "audio");
    }
    *audio = NULL;
    if (path == NULL) {
        return is_null("ser_audio_read", "path");
    }
    ser_audio_options own;
    int status = take_options(&own, options);
    return status != 0 ? status : ser_audio_load(path, &own, audio);
}

int ser_audio_read_memory(const void *data, size_t size, const ser_audio_options *options,
                          ser_audio **audio)
{
    if (audio == NULL) {
        return is_null("ser_audio_read_memory", "audio");
    }
    *audio = NULL;
    if (data == NULL && size > 0) {
        return is_null("ser_audio_read_memory", "data");
    }
    if (size > PTRDIFF_MAX) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_audio_read_memory: %zu bytes cannot be one object",
                        size);
    }
    ser_audio_options own;
    int status = take_options(&own, options);
    return status != 0 ? status : ser_audio_load_memory(data, size, &own, audio);
}

static int check_samples(const float *samples, size_t frames, int32_t channels,
                         int32_t sampling_rate)
{
    if (samples == NULL) {
        return is_null("ser_audio_from_samples", "samples");
    }
    if (channels < 1 || channels > SER_CHANNELS_MAX) {
        return ser_fail(SER_ERR_ARGUMENT,
                        "ser_audio_from_samples: channels is %d, not within 1..%d", channels,
                        SER_CHANNELS_MAX);
    }
    if (frames > PTRDIFF_MAX / sizeof(float) / (size_t)channels) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_audio_from_samples: %zu frames cannot be one object",
                        frames);
    }
    if (sampling_rate < SER_RATE_MIN || sampling_rate > SER_RATE_MAX) {
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "ser_audio_from_samples: sampling_rate is %d Hz, not within %d..%d",
                        sampling_rate, SER_RATE_MIN, SER_RATE_MAX);
    }
    return 0;
}

int ser_audio_from_samples(const float *samples, size_t frames, int32_t channels,
                           int32_t sampling_rate, const ser_audio_options *options,
                           ser_audio **audio)
{
    if (audio == NULL) {
        return is_null("ser_audio_from_samples", "audio");
    }
    *audio = NULL;
    ser_audio_options own;
    int status = check_samples(samples, frames, channels, sampling_rate);
    if (status == 0) {
        status = take_options(&own, options);
    }
    return status != 0 ? status
                       : ser_audio_convert(samples, frames, channels, sampling_rate, &own, audio);
}

const float *ser_audio_samples(const ser_audio *audio, size_t *count)
{
    if (count != NULL) {
        *count = audio != NULL ? audio->count : 0;
    }
    return audio != NULL ? audio->samples : NULL;
}

double ser_audio_duration(const ser_audio *audio)
{
    return audio != NULL ? (double)audio->count / SER_SAMPLING_RATE : 0.0;
}

int ser_audio_get_info(const ser_audio *audio, ser_audio_info *info)
{
    if (audio == NULL) {
        return is_null("ser_audio_get_info", "audio");
    }
    return ser_result_give(info, &audio->info, sizeof audio->info, "ser_audio_info");
}

void ser_audio_free(ser_audio **audio)
{
    if (audio != NULL) {
        ser_audio_destroy(*audio);
        *audio = NULL;
    }
}

int ser_reader_open(const char *path, const ser_audio_options *options, ser_reader **reader)
{
    if (reader == NULL) {
        return is_null("ser_reader_open", "reader");
    }
    *reader = NULL;
    if (path == NULL) {
        return is_null("ser_reader_open", "path");
    }
    ser_audio_options own;
    int status = take_options(&own, options);
    return status != 0 ? status : ser_reader_create(path, &own, reader);
}

int ser_reader_next(ser_reader *reader, double window, double hop, ser_audio **audio, double *start)
{
    if (audio == NULL) {
        return is_null("ser_reader_next", "audio");
    }
    *audio = NULL;
    if (reader == NULL) {
        return is_null("ser_reader_next", "reader");
    }
    if (!(window > 0.0 && window <= WINDOW_MAX)) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_reader_next: window is not within 0..1e9 seconds");
    }
    if (!(hop > 0.0 && hop <= window)) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_reader_next: hop is not above 0 and at most window");
    }
    return ser_reader_read_window(reader, window, hop, audio, start);
}

int ser_reader_at_end(const ser_reader *reader)
{
    return reader == NULL || ser_reader_is_done(reader) ? 1 : 0;
}

int ser_reader_get_info(const ser_reader *reader, ser_audio_info *info)
{
    if (reader == NULL) {
        return is_null("ser_reader_get_info", "reader");
    }
    ser_audio_info own;
    ser_reader_describe(reader, &own);
    return ser_result_give(info, &own, sizeof own, "ser_audio_info");
}

void ser_reader_free(ser_reader **reader)
{
    if (reader != NULL) {
        ser_reader_destroy(*reader);
        *reader = NULL;
    }
}
