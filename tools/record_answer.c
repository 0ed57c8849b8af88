/* SPDX-License-Identifier: MIT */
/* The network's part: one answer for the clip, or one for each window. */
#include "record.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "stop.h"
#include "text.h"

enum { HEADER = 44 }; /* bytes of a WAV file before its samples */

#define LAST_SECONDS 2.0 /* for the answers that are left when a signal comes */

static void fail(record_session *s, int status)
{
    message_error("%s", ser_error_message());
    pthread_mutex_lock(&s->lock);
    s->reason = "failed"; /* whatever else has ended it */
    record_end(s, s->reason, message_exit_code(status));
    pthread_mutex_unlock(&s->lock);
}

static int open_stream(record_session *s)
{
    const record_options *o = &s->options;
    ser_stream_options options;
    ser_stream_options_init(&options, sizeof options);
    options.sampling_rate = s->rate;
    options.channels = s->channels;
    options.window = o->window;
    options.hop = o->hop;
    options.smoothing = o->smoothing;
    options.gate = o->gate;
    options.threads = o->threads;
    return ser_stream_create(s->model, &options, &s->stream);
}

static void put_little_endian(unsigned char *to, uint32_t value, int bytes)
{
    for (int i = 0; i < bytes; i++) {
        to[i] = (unsigned char)(value >> 8 * i);
    }
}

/* The clip as the 16-bit WAV file that it would be, so that all is as with that file: `file` has
 * room for the header in front of the samples. */
static int read_clip(unsigned char *file, size_t frames, int32_t channels, int32_t rate,
                     ser_audio **audio)
{
    const uint32_t width = 2U * (uint32_t)channels;
    const uint32_t bytes = (uint32_t)frames * width;
    const struct {
        uint32_t value;
        int bytes;
    } format[] = {{16, 4},
                  {1, 2},
                  {(uint32_t)channels, 2},
                  {(uint32_t)rate, 4},
                  {(uint32_t)rate * width, 4},
                  {width, 2},
                  {16, 2}};
    unsigned char *to = file + 16;
    memcpy(file, "RIFF....WAVEfmt ", 16);
    put_little_endian(file + 4, HEADER - 8 + bytes, 4);
    for (size_t i = 0; i < sizeof format / sizeof format[0]; i++) {
        put_little_endian(to, format[i].value, format[i].bytes);
        to += format[i].bytes;
    }
    memcpy(to, "data", 4);
    put_little_endian(to + 4, bytes, 4);
    return ser_audio_read_memory(file, HEADER + bytes, NULL, audio);
}

/* The first call makes the scratch memory and lets the libraries below choose their loops, which
 * takes longer than a clip of a small model: it is done before the recording begins. */
static int warm_up(record_session *s)
{
    static unsigned char silence[HEADER + 2 * SER_SAMPLING_RATE];
    ser_audio *audio = NULL;
    int status = read_clip(silence, SER_SAMPLING_RATE, 1, SER_SAMPLING_RATE, &audio);
    if (status == 0) {
        float *probabilities = text_alloc(s->choice.model_count, sizeof *probabilities);
        status = ser_predict(s->predictor, audio, probabilities, s->choice.model_count);
        free(probabilities);
    }
    ser_audio_free(&audio);
    return status;
}

int record_answer_prepare(record_session *s)
{
    if (s->model == NULL || s->options.continuous) {
        return 0;
    }
    ser_predictor_options options;
    ser_predictor_options_init(&options, sizeof options);
    options.padding = SER_PADDING_EXACT; /* as in ser-predict */
    int status = ser_predictor_create(s->model, &options, &s->predictor);
    if (status == 0) {
        status = warm_up(s);
    }
    if (status != 0) {
        message_error("%s", ser_error_message());
    }
    return status != 0 ? message_exit_code(status) : 0;
}

static int open_clip(record_session *s)
{
    size_t bytes = (size_t)s->limit * (size_t)s->channels * sizeof(int16_t);
    if (bytes > UINT32_MAX - HEADER) {
        return message_usage("--seconds: one answer is for 4 GB of samples at most; --continuous "
                             "answers for windows, --no-predict only records");
    }
    s->clip = text_alloc(HEADER + bytes, 1);
    return 0;
}

int record_answer_open(record_session *s)
{
    if (s->model == NULL) {
        return 0;
    }
    s->scores = text_alloc(s->choice.count, sizeof *s->scores);
    if (!s->options.continuous) {
        return open_clip(s);
    }
    int status = open_stream(s);
    if (status != 0) {
        message_error("%s", ser_error_message());
        return message_exit_code(status);
    }
    return record_worker_start(s);
}

static void put_row(record_session *s, output_row *row)
{
    bool json = s->options.format == OUTPUT_JSONL;
    bool clip = !s->options.continuous && s->options.output != NULL;
    row->file = json ? s->source : clip ? s->options.output : s->description;
    row->sampling_rate = s->rate;
    row->channels = s->channels;
    record_output_room(s, true);
    pthread_mutex_lock(&s->lock);
    if (s->screen.block) {
        record_screen_window(s, row);
    } else if (s->out_open) {
        message_clear(); /* the answer may go to the same terminal */
        if (output_put_row(&s->out, row) == 0) {
            record_flush(s);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

static void add_computing(record_session *s, double since)
{
    pthread_mutex_lock(&s->lock);
    s->computing += record_now() - since;
    pthread_mutex_unlock(&s->lock);
}

/* In the arithmetic of ser-predict, so that times are the same to the last digit. */
static void put_window(record_session *s, const ser_stream_result *result)
{
    output_row row = {
        .start = result->start,
        .duration =
            (double)llround((result->end - result->start) * SER_SAMPLING_RATE) / SER_SAMPLING_RATE,
        .flags = result->flags & ~SER_STREAM_LAST,
        .attention = result->attention,
        .attention_count = result->attention_count,
        .attention_start = result->frame_start,
        .attention_step = result->frame_step,
    };
    row.end = row.start + row.duration;
    if (result->probabilities != NULL) {
        labelchoice_scores_of(&s->choice, result->probabilities, s->scores);
        row.scores = s->scores;
    }
    put_row(s, &row);
}

/* A signal came, and what is still to be computed takes too long. Counted from the moment at which
 * the worker sees it: the window in hand does not cost the last ones. */
static bool too_late(record_session *s)
{
    record_worker *w = &s->worker;
    if (stop_requested() == 0) {
        return false;
    }
    if (w->stopped_at <= 0.0) {
        w->stopped_at = record_now();
    }
    return record_now() - w->stopped_at > LAST_SECONDS;
}

bool record_answer_windows(record_session *s, const int16_t *samples, size_t frames, bool last)
{
    int status = ser_stream_push_s16(s->stream, samples, frames);
    if (status == 0 && last) {
        status = ser_stream_flush(s->stream);
    }
    for (int32_t found = 1; status == 0 && found;) {
        if (too_late(s)) {
            s->worker.gave_up = true;
            return false;
        }
        ser_stream_result result = {.struct_size = sizeof result};
        double begin = record_now();
        status = ser_stream_next(s->stream, &result, &found);
        add_computing(s, begin);
        if (status == 0 && found) {
            put_window(s, &result);
            s->worker.answered = result.end;
        }
    }
    if (status != 0) {
        fail(s, status);
    }
    pthread_mutex_lock(&s->lock);
    bool read = s->out_open; /* or nobody takes the answers any more */
    pthread_mutex_unlock(&s->lock);
    return status == 0 && read;
}

void record_answer_push(record_session *s, const int16_t *samples, size_t frames)
{
    if (s->stream != NULL) {
        record_worker_push(s, samples, frames);
    } else if (s->clip != NULL) {
        size_t width = (size_t)s->channels * sizeof *samples;
        memcpy(s->clip + HEADER + (size_t)s->frames * width, samples, frames * width);
    }
}

static int predict_clip(record_session *s, const ser_audio *audio)
{
    float *probabilities = text_alloc(s->choice.model_count, sizeof *probabilities);
    int status = ser_predict(s->predictor, audio, probabilities, s->choice.model_count);
    labelchoice_scores_of(&s->choice, probabilities, s->scores);
    free(probabilities);
    ser_prediction prediction = {.struct_size = sizeof prediction};
    ser_audio_info info = {.struct_size = sizeof info};
    if (status != 0 || (status = ser_predictor_get_prediction(s->predictor, 0, &prediction)) != 0 ||
        (status = ser_audio_get_info(audio, &info)) != 0) {
        return status;
    }
    double duration = ser_audio_duration(audio);
    output_row row = {
        .end = duration,
        .duration = duration,
        .scores = s->scores,
        .flags = info.flags | (prediction.flags & (SER_AUDIO_SHORT | SER_PREDICTION_WINDOWED)),
        .attention = prediction.attention,
        .attention_count = prediction.attention_count,
        .attention_start = prediction.frame_start,
        .attention_step = prediction.frame_step,
    };
    put_row(s, &row);
    return 0;
}

static void answer_clip(record_session *s)
{
    double begin = record_now();
    ser_audio *audio = NULL;
    int status = read_clip(s->clip, (size_t)s->frames, s->channels, s->rate, &audio);
    if (status == 0) {
        status = predict_clip(s, audio);
    }
    ser_audio_free(&audio);
    add_computing(s, begin);
    if (status != 0) {
        fail(s, status);
    }
}

static void tell_unanswered(const record_session *s)
{
    double seconds = record_seconds(s) - s->worker.answered;
    if (s->worker.gave_up && seconds > 0.0) {
        message_warning("%.2f s of sound were not answered: the model is slower than the sound%s",
                        seconds, s->options.output != NULL ? "; the recording is complete" : "");
    }
}

/* A recording that was cut short by its device or a full disk is answered too. */
void record_answer_finish(record_session *s)
{
    if (s->stream != NULL) {
        record_worker_finish(s);
        tell_unanswered(s);
    } else if (s->clip != NULL && s->frames > 0 && s->out_open) {
        answer_clip(s);
    }
}
