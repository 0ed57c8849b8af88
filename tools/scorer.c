/* SPDX-License-Identifier: MIT */
#include "scorer.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "message.h"
#include "stop.h"
#include "text.h"

typedef enum item_kind {
    ITEM_CLIP,   /* audio that gives one row: a whole file or a window */
    ITEM_PART,   /* audio that adds to the mean of a long file */
    ITEM_END,    /* the file is complete */
    ITEM_FAILURE /* the file cannot be read (on) */
} item_kind;

typedef struct item {
    item_kind kind;
    size_t file;
    ser_audio *audio;
    double start;
    int32_t flags; /* of the file so far */
    int32_t sampling_rate;
    int32_t channels;
    int status;
    char *error;
} item;

typedef struct scorer {
    scorer_setup setup;
    scorer_result *result;
    item *items; /* in order of output */
    size_t count;
    size_t capacity;
    const ser_audio **batch; /* [setup.group] */
    size_t batch_count;
    size_t batch_bytes;
    item_kind batch_kind;
    float *probabilities; /* [setup.group, choice->model_count] */
    float *scores;        /* [choice->count] */
    double *sums;         /* [choice->model_count], of the long file */
    double weight;        /* samples in the sums */
    double mean_end;
    size_t failed; /* 1 + the last file that failed */
} scorer;

/* A library message starts with the file's name; here the line does. */
static const char *reason(const char *file, const char *message)
{
    size_t length = strlen(file);
    return strncmp(message, file, length) == 0 && strncmp(message + length, ": ", 2) == 0
               ? message + length + 2
               : message;
}

/* What came before is written first, so that the message stands in its place on a terminal. */
static int fail_file(scorer *s, size_t file, int status, const char *message)
{
    if (s->failed == file + 1) {
        return 0;
    }
    message_clear();
    int code = output_flush(s->setup.out);
    if (code != 0) {
        return code;
    }
    const char *name = s->setup.files->entries[file].path;
    const char *shown = strcmp(name, "-") == 0 ? "standard input" : name;
    const char *text = reason(shown, message);
    message_error("%s: %s", shown, text);
    output_put_failure(s->setup.out, name, status, text);
    s->failed = file + 1;
    s->weight = 0.0;
    if (s->result->files_failed++ == 0) {
        s->result->first_failure = message_exit_code(status);
    }
    return 0;
}

static int put_row(scorer *s, const item *it, double start, double duration,
                   const ser_prediction *prediction)
{
    output_row row = {
        .file = s->setup.files->entries[it->file].path,
        .start = s->setup.offset + start,
        .end = s->setup.offset + start + duration,
        .duration = duration,
        .scores = s->scores,
        .sampling_rate = it->sampling_rate,
        .channels = it->channels,
        .flags = it->flags,
    };
    if (prediction != NULL) {
        /* A file that was read in pieces has the reader's flags, not those of the joined samples.
         */
        int32_t mask = s->setup.segments ? INT32_MAX : SER_AUDIO_SHORT | SER_PREDICTION_WINDOWED;
        row.flags |= prediction->flags & mask;
        row.attention = prediction->attention;
        row.attention_count = prediction->attention_count;
        row.attention_start = row.start + prediction->frame_start;
        row.attention_step = prediction->frame_step;
    }
    return output_put_row(s->setup.out, &row);
}

/* Take in the probabilities of an item whose clip was number `index` of the last prediction. */
static int take_result(scorer *s, const item *it, const float *probabilities, size_t index)
{
    size_t labels = s->setup.choice->model_count;
    double duration = ser_audio_duration(it->audio);
    s->result->units++;
    s->result->seconds += duration;
    if (it->kind == ITEM_PART) {
        size_t samples = 0;
        ser_audio_samples(it->audio, &samples);
        for (size_t i = 0; i < labels; i++) {
            s->sums[i] =
                (s->weight > 0.0 ? s->sums[i] : 0.0) + (double)probabilities[i] * (double)samples;
        }
        s->weight += (double)samples;
        s->mean_end = it->start + duration;
        return 0;
    }
    ser_prediction prediction = {.struct_size = sizeof prediction};
    int status = ser_predictor_get_prediction(s->setup.predictor, index, &prediction);
    if (status != 0) {
        return fail_file(s, it->file, status, ser_error_message());
    }
    labelchoice_scores_of(s->setup.choice, probabilities, s->scores);
    return put_row(s, it, it->start, duration, &prediction);
}

/* The mean over the windows of a long file, weighted by their length, as ser_predict defines it. */
static int end_file(scorer *s, item *it)
{
    if (s->weight > 0.0) {
        for (size_t i = 0; i < s->setup.choice->model_count; i++) {
            s->sums[i] /= s->weight;
        }
        labelchoice_scores(s->setup.choice, s->sums, s->scores);
        s->weight = 0.0;
        it->flags |= SER_PREDICTION_WINDOWED;
        int code = put_row(s, it, 0.0, s->mean_end, NULL);
        if (code != 0) {
            return code;
        }
    }
    s->result->files_done++;
    return output_end_file(s->setup.out);
}

/* A failure of the device ends the run: the next clip would fare no better. */
static int fail_device(void)
{
    message_error("%s", ser_error_message());
    return MESSAGE_EXIT_DEVICE;
}

/* One clip at a time, to learn which one the batch failed for. */
static int finish_item_alone(scorer *s, const item *it)
{
    int status =
        ser_predict(s->setup.predictor, it->audio, s->probabilities, s->setup.choice->model_count);
    if (status == SER_ERR_DEVICE) {
        return fail_device();
    }
    if (status != 0) {
        return fail_file(s, it->file, status, ser_error_message());
    }
    return take_result(s, it, s->probabilities, 0);
}

/* Write what one item says; `row` counts the clips of the batch. */
static int finish_item(scorer *s, item *it, bool together, size_t *row)
{
    if (it->audio != NULL) {
        size_t index = (*row)++;
        if (s->failed == it->file + 1) {
            return 0;
        }
        return together ? take_result(
                              s, it, s->probabilities + index * s->setup.choice->model_count, index)
                        : finish_item_alone(s, it);
    }
    if (it->kind == ITEM_FAILURE) {
        return fail_file(s, it->file, it->status, it->error);
    }
    return s->failed == it->file + 1 ? 0 : end_file(s, it);
}

static void clear_items(scorer *s)
{
    for (size_t i = 0; i < s->count; i++) {
        ser_audio_free(&s->items[i].audio);
        free(s->items[i].error);
    }
    s->count = 0;
    s->batch_count = 0;
    s->batch_bytes = 0;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void show_progress(const scorer *s)
{
    size_t files = s->setup.files->count;
    char detail[64];
    if (files > 1) {
        snprintf(detail, sizeof detail, "%.0f s of audio", s->result->seconds);
        progress_update(s->setup.progress,
                        (int64_t)(s->result->files_done + s->result->files_failed), detail);
    } else if (s->result->units > 1) {
        snprintf(detail, sizeof detail, "%.0f s of audio", s->result->seconds);
        progress_update(s->setup.progress, (int64_t)s->result->units, detail);
    }
}

/* Compute the clips of the queue together and write all that the queue holds. */
static int flush(scorer *s)
{
    int status = 0;
    const double begin = now();
    if (s->batch_count > 0) {
        status = ser_predict_batch(s->setup.predictor, s->batch, s->batch_count, s->probabilities,
                                   s->batch_count * s->setup.choice->model_count);
        if (status == SER_ERR_DEVICE) {
            return fail_device();
        }
    }
    const double computed = now();
    int code = 0;
    size_t row = 0;
    for (size_t i = 0; i < s->count && code == 0; i++) {
        code = finish_item(s, &s->items[i], status == 0, &row);
    }
    clear_items(s);
    if (code == 0) {
        message_clear(); /* the results may go to the same terminal */
        code = output_flush(s->setup.out);
        show_progress(s);
    }
    s->result->computing += computed - begin;
    s->result->writing += now() - computed;
    return code;
}

/* Windows of a long file are computed apart from clips: what they give is summed, not written. */
static bool fits_batch(const scorer *s, const item *it)
{
    return it->audio == NULL || s->batch_count == 0 || it->kind == s->batch_kind;
}

/* Queue an item, which the queue owns; written when a batch is full or nothing is left to
 * compute. */
static int push(scorer *s, item *it)
{
    int code = fits_batch(s, it) ? 0 : flush(s);
    if (code != 0) {
        ser_audio_free(&it->audio);
        free(it->error);
        return code;
    }
    s->items[s->count++] = *it;
    s->batch_kind = it->audio != NULL ? it->kind : s->batch_kind;
    if (it->audio != NULL) {
        size_t samples = 0;
        ser_audio_samples(it->audio, &samples);
        s->batch[s->batch_count++] = it->audio;
        s->batch_bytes += samples * sizeof(float);
    }
    bool full = s->batch_count == s->setup.group ||
                (s->batch_bytes >= s->setup.memory && s->batch_count % s->setup.batch == 0);
    bool waits = s->batch_count > 0 && !full && s->count < s->capacity;
    return waits ? 0 : flush(s);
}

/* What the reader noticed belongs to the whole file; a window only inherits a bad end. */
static void describe(const scorer *s, const decode_file *file, item *it)
{
    ser_audio_info info = {.struct_size = sizeof info};
    if (file->reader == NULL || ser_reader_get_info(file->reader, &info) != 0) {
        return;
    }
    it->sampling_rate = info.sampling_rate;
    it->channels = info.channels;
    bool last = decode_finished(file);
    it->flags = !s->setup.segments ? info.flags : last ? info.flags & SER_AUDIO_TRUNCATED : 0;
}

static int score_file(scorer *s, decode_file *file)
{
    /* A signal ends the file where it stands, but a file whose last piece is done counts as done.
     */
    while (stop_requested() == 0 || decode_finished(file)) {
        item it = {.file = file->index};
        it.status = decode_take(s->setup.decoder, file, &it.audio, &it.start);
        if (it.status != 0) {
            it.kind = ITEM_FAILURE;
            it.error = text_copy(file->error);
        } else if (it.audio == NULL) {
            it.kind = ITEM_END;
        } else {
            it.kind = file->whole || s->setup.segments ? ITEM_CLIP : ITEM_PART;
        }
        describe(s, file, &it);
        bool last = it.audio == NULL;
        int code = push(s, &it);
        if (code != 0 || last || s->failed == file->index + 1) {
            return code;
        }
    }
    return 0;
}

static decode_file *next_file(scorer *s)
{
    const double begin = now();
    decode_file *file = decoder_next(s->setup.decoder);
    s->result->decoding += now() - begin;
    return file;
}

int scorer_run(const scorer_setup *setup, scorer_result *result)
{
    scorer s = {.setup = *setup, .result = result, .capacity = 4 * setup->group};
    *result = (scorer_result){0};
    s.items = text_alloc(s.capacity, sizeof *s.items);
    s.batch = text_alloc(setup->group, sizeof *s.batch);
    s.probabilities =
        text_alloc(setup->group * setup->choice->model_count, sizeof *s.probabilities);
    s.scores = text_alloc(setup->choice->count, sizeof *s.scores);
    s.sums = text_alloc(setup->choice->model_count, sizeof *s.sums);
    int code = 0;
    decode_file *file;
    while (code == 0 && (file = next_file(&s)) != NULL) {
        code = score_file(&s, file);
        decoder_release(setup->decoder, file);
    }
    if (code == 0 && stop_requested() == 0 && s.count > 0) {
        code = flush(&s);
    }
    clear_items(&s);
    free(s.items);
    free(s.batch);
    free(s.probabilities);
    free(s.scores);
    free(s.sums);
    return code;
}
