/* SPDX-License-Identifier: MIT */
/* The network's part: one answer for the clip, or one for each window. */
#include "record.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "text.h"

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

/* The samples as ser_predict() wants them: those that a reader of the 16-bit file gives. */
static int make_audio(const int16_t *samples, size_t frames, int32_t channels, int32_t rate,
                      ser_audio **audio)
{
    size_t count = frames * (size_t)channels;
    float *wide = text_alloc(count, sizeof *wide);
    for (size_t i = 0; i < count; i++) {
        wide[i] = (float)samples[i] / 32768.0F;
    }
    int status = ser_audio_from_samples(wide, frames, channels, rate, NULL, audio);
    free(wide);
    return status;
}

/* The first call makes the scratch memory and lets the libraries below choose their loops, which
 * takes longer than a clip of a small model: it is done before the recording begins. */
static int warm_up(record_session *s)
{
    static const int16_t silence[SER_SAMPLING_RATE];
    ser_audio *audio = NULL;
    int status = make_audio(silence, SER_SAMPLING_RATE, 1, SER_SAMPLING_RATE, &audio);
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

int record_answer_open(record_session *s)
{
    if (s->model == NULL) {
        return 0;
    }
    s->scores = text_alloc(s->choice.count, sizeof *s->scores);
    if (!s->options.continuous) {
        size_t samples = (size_t)s->limit * (size_t)s->channels;
        s->clip = text_alloc(samples, sizeof *s->clip);
        return 0;
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

bool record_answer_windows(record_session *s, const int16_t *samples, size_t frames, bool last)
{
    int status = ser_stream_push_s16(s->stream, samples, frames);
    if (status == 0 && last) {
        status = ser_stream_flush(s->stream);
    }
    for (int32_t found = 1; status == 0 && found;) {
        ser_stream_result result = {.struct_size = sizeof result};
        double begin = record_now();
        status = ser_stream_next(s->stream, &result, &found);
        add_computing(s, begin);
        if (status == 0 && found) {
            put_window(s, &result);
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
        size_t channels = (size_t)s->channels;
        size_t bytes = frames * channels * sizeof *samples;
        memcpy(s->clip + (size_t)s->frames * channels, samples, bytes);
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
    int status = make_audio(s->clip, (size_t)s->frames, s->channels, s->rate, &audio);
    if (status == 0) {
        status = predict_clip(s, audio);
    }
    ser_audio_free(&audio);
    add_computing(s, begin);
    if (status != 0) {
        fail(s, status);
    }
}

/* A recording that was cut short by its device or a full disk is answered too. */
void record_answer_finish(record_session *s)
{
    if (s->stream != NULL) {
        record_worker_finish(s);
    } else if (s->clip != NULL && s->frames > 0 && s->out_open) {
        answer_clip(s);
    }
}
