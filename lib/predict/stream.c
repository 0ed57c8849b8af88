/* SPDX-License-Identifier: MIT */
#include "predict/stream.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "audio/audio.h"
#include "audio/windows.h"
#include "base/fail.h"
#include "base/fork.h"
#include "base/mem.h"
#include "model/model.h"
#include "predict/predictor.h"

static const int64_t most_waiting = 3600 * (int64_t)SER_SAMPLING_RATE; /* behind the next window */

/* Of 16-bit samples as floats: the largest code, as for files. */
#define FULL_SCALE_S16 (32767.0F / 32768.0F)

struct ser_stream {
    ser_predictor *predictor;
    uint32_t fork_generation;
    atomic_bool busy;
    int32_t rate;
    struct ser_mixer mixer;
    double gate; /* dBFS; 0: none */

    struct ser_converter converter;
    struct ser_windows windows;
    float *block;    /* [converter.block][channels]: frames until there are enough */
    int64_t held;    /* frames in it */
    bool block_s16;  /* some of them came as 16-bit samples */
    int64_t covered; /* samples that the windows so far reach to */
    int64_t index;   /* of the next window */
    bool flushed;
    int failed; /* status of a failure that the converter did not survive */

    size_t labels;
    float *probabilities; /* [labels], of the last window */
    double *mean;         /* [labels], NULL without smoothing */
    double decay;
    bool mean_started;
};

/* --- Life --- */

static int set_geometry(ser_stream *s, const ser_model *model, const ser_stream_options *options)
{
    /* As the reader counts samples, and a predictor those of the model's own window. */
    s->windows.size = options->window > 0.0
                          ? llrint(options->window * SER_SAMPLING_RATE)
                          : llround(model->config.front_end.window * SER_SAMPLING_RATE);
    s->windows.hop =
        options->hop > 0.0 ? llrint(options->hop * SER_SAMPLING_RATE) : s->windows.size;
    if (s->windows.hop > s->windows.size) {
        return ser_fail(SER_ERR_ARGUMENT,
                        "ser_stream_options: hop is %g s, longer than the window (%g s)",
                        options->hop, (double)s->windows.size / SER_SAMPLING_RATE);
    }
    return 0;
}

static int open_converter(const ser_stream *s, struct ser_converter *converter)
{
    return ser_converter_open(converter, &s->mixer, s->rate);
}

static int allocate(ser_stream *s, const ser_stream_options *options)
{
    s->block =
        ser_mem_alloc_raw((size_t)(s->converter.block * s->mixer.channels), sizeof *s->block);
    s->probabilities = ser_mem_alloc(s->labels, sizeof *s->probabilities);
    if (s->block == NULL || s->probabilities == NULL) {
        return SER_ERR_MEMORY;
    }
    if (options->smoothing > 0.0) {
        s->decay = exp(-(double)s->windows.hop / SER_SAMPLING_RATE / options->smoothing);
        s->mean = ser_mem_alloc(s->labels, sizeof *s->mean);
        return s->mean != NULL ? 0 : SER_ERR_MEMORY;
    }
    return 0;
}

/* One window at a time: the answer must not depend on how many were ready together. */
static int make_predictor(ser_stream *s, ser_model *model, const ser_stream_options *options)
{
    const ser_predictor_options own = {.struct_size = sizeof own,
                                       .max_batch = 1,
                                       .threads = options->threads,
                                       .padding = SER_PADDING_EXACT};
    return ser_predictor_make(model, &own, &s->predictor);
}

int ser_stream_make(ser_model *model, const ser_stream_options *options, ser_stream **stream)
{
    *stream = NULL;
    ser_stream *s = ser_mem_alloc(1, sizeof *s);
    if (s == NULL) {
        return SER_ERR_MEMORY;
    }
    s->fork_generation = ser_fork_generation();
    atomic_init(&s->busy, false);
    s->rate = options->sampling_rate;
    s->mixer = (struct ser_mixer){.name = "ser_stream_push",
                                  .channels = options->channels,
                                  .channel = options->channel,
                                  .nonfinite = options->nonfinite};
    s->gate = options->gate;
    s->labels = model->config.label_count;
    int status = ser_check_channel("ser_stream_options", options->channel, options->channels);
    status = status == 0 ? set_geometry(s, model, options) : status;
    status = status == 0 ? make_predictor(s, model, options) : status;
    status = status == 0 ? open_converter(s, &s->converter) : status;
    status = status == 0 ? allocate(s, options) : status;
    if (status != 0) {
        ser_stream_destroy(s);
        return status;
    }
    *stream = s;
    return 0;
}

void ser_stream_destroy(ser_stream *stream)
{
    if (stream == NULL) {
        return;
    }
    ser_predictor_destroy(stream->predictor);
    ser_converter_close(&stream->converter);
    ser_windows_free(&stream->windows);
    ser_mem_free(stream->block);
    ser_mem_free(stream->probabilities);
    ser_mem_free(stream->mean);
    ser_mem_free(stream);
}

/* The stream is this call's until give_back(). */
static int take(ser_stream *s)
{
    int status = ser_fork_check(s->fork_generation, "the stream");
    if (status == 0 && atomic_exchange(&s->busy, true)) {
        status =
            ser_fail(SER_ERR_BUSY, "the stream is in use by another call: one thread at a time");
    }
    return status;
}

static int give_back(ser_stream *s, int status)
{
    atomic_store(&s->busy, false);
    return status;
}

static int check_state(const ser_stream *s)
{
    return s->failed == 0
               ? 0
               : ser_fail(s->failed, "the stream failed earlier (%s); ser_stream_reset begins anew",
                          ser_status_name(s->failed));
}

/* --- Frames in --- */

/* Samples at 16 kHz that `frames` more frames of the source will have made, at most. */
static int64_t samples_ahead(const ser_stream *s, int64_t frames)
{
    const struct ser_resampler *resampler = &s->converter.resampler;
    return ser_resampled_count(resampler->in + s->held + frames, s->rate) - resampler->out;
}

static int check_finite(const ser_stream *s, const float *x, size_t frames)
{
    const struct ser_mixer *mixer = &s->mixer;
    const int32_t begin = mixer->channel >= 0 ? mixer->channel : 0;
    const int32_t end = mixer->channel >= 0 ? mixer->channel + 1 : mixer->channels;
    for (size_t i = 0; i < frames && mixer->nonfinite == SER_NONFINITE_REFUSE; i++) {
        for (int32_t c = begin; c < end; c++) {
            const float value = x[i * (size_t)mixer->channels + (size_t)c];
            if (!isfinite(value)) {
                return ser_fail(SER_ERR_DATA, "%s: sample %lld of channel %d is %s", mixer->name,
                                (long long)(s->converter.total.frames + s->held + (int64_t)i), c,
                                isnan(value) ? "not a number" : "infinite");
            }
        }
    }
    return 0;
}

/* What could make a push fail, before anything is taken or looked at. */
static int prepare_push(ser_stream *s, size_t frames)
{
    int status = check_state(s);
    if (status == 0 && s->flushed) {
        status = ser_fail(SER_ERR_ARGUMENT,
                          "%s: the stream is flushed; ser_stream_reset begins anew", s->mixer.name);
    }
    if (status != 0) {
        return status;
    }
    const double seconds = (double)frames / s->rate;
    const int64_t waiting = (int64_t)ser_windows_waiting(&s->windows) - s->windows.size;
    if (seconds > (double)most_waiting / SER_SAMPLING_RATE ||
        waiting + samples_ahead(s, (int64_t)frames) > most_waiting) {
        return ser_fail(SER_ERR_CAPACITY,
                        "%s: more than an hour of audio would wait; call ser_stream_next first",
                        s->mixer.name);
    }
    const size_t blocks = (size_t)((s->held + (int64_t)frames) / s->converter.block) + 1;
    return ser_windows_reserve(&s->windows, blocks, (size_t)samples_ahead(s, (int64_t)frames));
}

static int convert_block(ser_stream *s)
{
    struct ser_tally tally;
    const int64_t first = s->converter.total.frames;
    s->converter.mixer.full_scale = s->block_s16 ? FULL_SCALE_S16 : 1.0F;
    int status =
        ser_converter_push(&s->converter, s->block, s->held, first, &s->windows.samples, &tally);
    status = status == 0 ? ser_windows_remember(&s->windows, first, &tally) : status;
    s->held = 0;
    s->block_s16 = false;
    s->failed = status;
    return status;
}

/* Frames that fit into the block, and where they go. */
static size_t next_room(const ser_stream *s, size_t frames, float **to)
{
    const size_t room = (size_t)(s->converter.block - s->held);
    *to = s->block + s->held * s->mixer.channels;
    return frames < room ? frames : room;
}

static int fill_block(ser_stream *s, size_t frames)
{
    s->held += (int64_t)frames;
    return s->held == s->converter.block ? convert_block(s) : 0;
}

static int take_floats(ser_stream *s, const float *samples, size_t frames)
{
    int status = prepare_push(s, frames);
    status = status == 0 ? check_finite(s, samples, frames) : status;
    while (status == 0 && frames > 0) {
        float *to;
        const size_t count = next_room(s, frames, &to);
        const size_t values = count * (size_t)s->mixer.channels;
        memcpy(to, samples, values * sizeof *to);
        samples += values;
        frames -= count;
        status = fill_block(s, count);
    }
    return status;
}

static int take_s16(ser_stream *s, const int16_t *samples, size_t frames)
{
    int status = prepare_push(s, frames);
    while (status == 0 && frames > 0) {
        float *to;
        const size_t count = next_room(s, frames, &to);
        const size_t values = count * (size_t)s->mixer.channels;
        for (size_t i = 0; i < values; i++) {
            to[i] = (float)samples[i] / 32768.0F;
        }
        samples += values;
        frames -= count;
        s->block_s16 = true;
        status = fill_block(s, count);
    }
    return status;
}

int ser_stream_take_floats(ser_stream *stream, const float *samples, size_t frames)
{
    const int status = take(stream);
    return status == 0 ? give_back(stream, take_floats(stream, samples, frames)) : status;
}

int ser_stream_take_s16(ser_stream *stream, const int16_t *samples, size_t frames)
{
    const int status = take(stream);
    return status == 0 ? give_back(stream, take_s16(stream, samples, frames)) : status;
}

static int flush(ser_stream *s)
{
    int status = check_state(s);
    if (status != 0 || s->flushed) {
        return status;
    }
    /* The filter's end may come with a sample too many, which is dropped. */
    status = ser_windows_reserve(&s->windows, 1, (size_t)samples_ahead(s, 0) + 1);
    if (status != 0) {
        return status;
    }
    status = s->held > 0 ? convert_block(s) : 0;
    if (status == 0) {
        status = ser_converter_finish(&s->converter, &s->windows.samples);
        s->failed = status;
    }
    s->flushed = status == 0;
    return status;
}

int ser_stream_end(ser_stream *stream)
{
    const int status = take(stream);
    return status == 0 ? give_back(stream, flush(stream)) : status;
}

static int restart(ser_stream *s)
{
    struct ser_converter fresh;
    const int status = open_converter(s, &fresh);
    if (status != 0) {
        return status;
    }
    const int64_t size = s->windows.size;
    const int64_t hop = s->windows.hop;
    ser_converter_close(&s->converter);
    ser_windows_free(&s->windows);
    s->converter = fresh;
    s->windows.size = size;
    s->windows.hop = hop;
    s->held = 0;
    s->block_s16 = false;
    s->covered = 0;
    s->index = 0;
    s->flushed = false;
    s->failed = 0;
    s->mean_started = false;
    return 0;
}

int ser_stream_restart(ser_stream *stream)
{
    const int status = take(stream);
    return status == 0 ? give_back(stream, restart(stream)) : status;
}

/* --- Windows out --- */

/* Samples of the next window; 0 if it is not complete, or there is none. */
static size_t next_window(const ser_stream *s, bool *last)
{
    const size_t waiting = ser_windows_waiting(&s->windows);
    const size_t size = (size_t)s->windows.size;
    *last = waiting < size;
    if (waiting >= size) {
        return size;
    }
    const bool fresh = s->windows.start + (int64_t)waiting > s->covered;
    return s->flushed && fresh ? waiting : 0;
}

static bool is_gated(const ser_stream *s, const ser_audio_info *info)
{
    return s->gate < 0.0 && 20.0 * log10((double)info->rms) < s->gate;
}

static void smooth(ser_stream *s)
{
    if (s->mean == NULL) {
        return;
    }
    const double a = s->mean_started ? s->decay : 0.0;
    s->mean_started = true;
    for (size_t i = 0; i < s->labels; i++) {
        s->mean[i] = a * s->mean[i] + (1.0 - a) * (double)s->probabilities[i];
        s->probabilities[i] = (float)s->mean[i];
    }
}

static int32_t likeliest(const float *p, size_t count)
{
    size_t best = 0;
    for (size_t i = 1; i < count; i++) {
        best = p[i] > p[best] ? i : best;
    }
    return (int32_t)best;
}

static int predict(ser_stream *s, const ser_audio *clip, ser_stream_result *result)
{
    ser_prediction prediction;
    int status = ser_predictor_run(s->predictor, &clip, 1, s->probabilities);
    status = status == 0 ? ser_predictor_describe(s->predictor, 0, &prediction) : status;
    if (status != 0) {
        return status;
    }
    smooth(s);
    result->probabilities = s->probabilities;
    result->label = likeliest(s->probabilities, s->labels);
    result->flags |= prediction.flags;
    result->attention = prediction.attention;
    result->attention_count = prediction.attention_count;
    result->frame_start = result->start + prediction.frame_start;
    result->frame_step = prediction.frame_step;
    return 0;
}

static int answer(ser_stream *s, ser_stream_result *result, bool *found)
{
    bool last;
    int status = check_state(s);
    const size_t count = next_window(s, &last);
    if (status != 0 || count == 0) {
        *found = false;
        return status;
    }
    /* Only read, and for as long as the call takes. */
    ser_audio clip = {.samples = s->windows.samples.data + s->windows.begin, .count = count};
    ser_windows_describe(&s->windows, &s->converter, count, &clip.info);
    const int64_t end = s->windows.start + (int64_t)count;
    *result = (ser_stream_result){
        .struct_size = sizeof *result,
        .index = s->index,
        .start = (double)s->windows.start / SER_SAMPLING_RATE,
        .end = (double)end / SER_SAMPLING_RATE,
        .label_count = s->labels,
        .label = -1,
        .flags = clip.info.flags | (last ? SER_STREAM_LAST : 0),
        .peak = clip.info.peak,
        .rms = clip.info.rms,
    };
    if (is_gated(s, &clip.info)) {
        result->flags |= SER_STREAM_GATED;
    } else if ((status = predict(s, &clip, result)) != 0) {
        return status;
    }
    s->covered = end;
    s->index++;
    if (!last) {
        ser_windows_advance(&s->windows, &s->converter);
    }
    *found = true;
    return 0;
}

int ser_stream_answer(ser_stream *stream, ser_stream_result *result, bool *found)
{
    const int status = take(stream);
    return status == 0 ? give_back(stream, answer(stream, result, found)) : status;
}
