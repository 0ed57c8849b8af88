/* SPDX-License-Identifier: MIT */
#include <ser/stream.h>

#include "api/options.h"
#include "audio/audio.h"
#include "base/fail.h"
#include "predict/stream.h"

enum { MAX_THREADS = 1024 };

static const ser_stream_options defaults = {
    .struct_size = sizeof(ser_stream_options),
    .sampling_rate = SER_SAMPLING_RATE,
    .channels = 1,
    .channel = -1,
};

void ser_stream_options_init(ser_stream_options *options, size_t size)
{
    ser_options_give(options, size, &defaults, sizeof defaults);
}

static int is_null(const char *function, const char *argument)
{
    return ser_fail(SER_ERR_ARGUMENT, "%s: %s is NULL", function, argument);
}

static int check_count(const char *name, int32_t value, int32_t least, int32_t most)
{
    if (value >= least && value <= most) {
        return 0;
    }
    return ser_fail(SER_ERR_ARGUMENT, "ser_stream_options: %s is %d, not within %d..%d", name,
                    value, least, most);
}

/* 0 stands for the default. */
static int check_number(const char *name, double value, double least, double most)
{
    if (value == 0.0 || (value >= least && value <= most)) {
        return 0;
    }
    return ser_fail(SER_ERR_ARGUMENT, "ser_stream_options: %s is %g, not 0 or within %g..%g", name,
                    value, least, most);
}

static int check_options(const ser_stream_options *o)
{
    int status = o->reserved == 0
                     ? 0
                     : ser_fail(SER_ERR_UNSUPPORTED, "ser_stream_options: reserved must be 0");
    const struct {
        const char *name;
        int32_t value, least, most;
    } counts[] = {
        {"sampling_rate", o->sampling_rate, SER_RATE_MIN, SER_RATE_MAX},
        {"channels", o->channels, 1, SER_CHANNELS_MAX},
        {"channel", o->channel, -1, SER_CHANNELS_MAX - 1},
        {"nonfinite", o->nonfinite, SER_NONFINITE_REFUSE, SER_NONFINITE_ZERO},
        {"threads", o->threads, 0, MAX_THREADS},
    };
    const struct {
        const char *name;
        double value, least, most;
    } numbers[] = {
        {"window", o->window, 0.025, 600.0},
        {"hop", o->hop, 0.01, 600.0},
        {"smoothing", o->smoothing, 0.0, 3600.0},
        {"gate", o->gate, -200.0, -1.0},
    };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0] && status == 0; i++) {
        status = check_count(counts[i].name, counts[i].value, counts[i].least, counts[i].most);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0] && status == 0; i++) {
        status = check_number(numbers[i].name, numbers[i].value, numbers[i].least, numbers[i].most);
    }
    return status;
}

int ser_stream_create(ser_model *model, const ser_stream_options *options, ser_stream **stream)
{
    if (stream == NULL) {
        return is_null("ser_stream_create", "stream");
    }
    *stream = NULL;
    if (model == NULL) {
        return is_null("ser_stream_create", "model");
    }
    ser_stream_options own = defaults;
    int status = ser_options_take(&own, sizeof own, options, "ser_stream_options");
    status = status == 0 ? check_options(&own) : status;
    return status == 0 ? ser_stream_make(model, &own, stream) : status;
}

static int check_push(const char *function, const ser_stream *stream, const void *samples,
                      size_t frames)
{
    if (stream == NULL) {
        return is_null(function, "stream");
    }
    return samples == NULL && frames > 0 ? is_null(function, "samples") : 0;
}

int ser_stream_push(ser_stream *stream, const float *samples, size_t frames)
{
    const int status = check_push("ser_stream_push", stream, samples, frames);
    return status == 0 ? ser_stream_take_floats(stream, samples, frames) : status;
}

int ser_stream_push_s16(ser_stream *stream, const int16_t *samples, size_t frames)
{
    const int status = check_push("ser_stream_push_s16", stream, samples, frames);
    return status == 0 ? ser_stream_take_s16(stream, samples, frames) : status;
}

int ser_stream_next(ser_stream *stream, ser_stream_result *result, int32_t *found)
{
    if (stream == NULL || found == NULL) {
        return is_null("ser_stream_next", stream == NULL ? "stream" : "found");
    }
    ser_stream_result own;
    bool is_found = false;
    int status = ser_result_check(result, "ser_stream_result");
    status = status == 0 ? ser_stream_answer(stream, &own, &is_found) : status;
    if (status == 0 && is_found) {
        status = ser_result_give(result, &own, sizeof own, "ser_stream_result");
    }
    if (status == 0) {
        *found = is_found ? 1 : 0;
    }
    return status;
}

int ser_stream_flush(ser_stream *stream)
{
    return stream != NULL ? ser_stream_end(stream) : is_null("ser_stream_flush", "stream");
}

int ser_stream_reset(ser_stream *stream)
{
    return stream != NULL ? ser_stream_restart(stream) : is_null("ser_stream_reset", "stream");
}

void ser_stream_free(ser_stream **stream)
{
    if (stream != NULL) {
        ser_stream_destroy(*stream);
        *stream = NULL;
    }
}
