/* SPDX-License-Identifier: MIT */
#include "decode.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "message.h"
#include "stop.h"
#include "text.h"

/* File i lives in slot i % plan.ahead from when a thread starts on it until it is released. */
struct decoder {
    decode_plan plan;
    pthread_t *threads;
    size_t thread_count;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    decode_file *slots;
    bool *ready;
    size_t started;  /* files that a thread has begun */
    size_t next;     /* file whose turn is next */
    size_t released; /* files that are done with */
    size_t held;     /* bytes of the files that are started and not released */
    bool stopping;
};

static void fail(decode_file *file, int status, const char *text)
{
    file->status = status;
    file->at_end = true;
    free(file->error);
    file->error = text_copy(text);
}

static void append(decode_file *file, ser_audio *audio, double start)
{
    if (file->count == file->capacity) {
        size_t capacity = file->capacity > 0 ? 2 * file->capacity : 8;
        decode_piece *pieces = text_alloc(capacity, sizeof *pieces);
        if (file->count > 0) {
            memcpy(pieces, file->pieces, file->count * sizeof *pieces);
        }
        free(file->pieces);
        file->pieces = pieces;
        file->capacity = capacity;
    }
    file->pieces[file->count++] = (decode_piece){.audio = audio, .start = start};
}

/* One more piece at the end of the queue. */
static void read_piece(const decode_plan *plan, decode_file *file)
{
    ser_audio *audio = NULL;
    double start = 0.0;
    int status = ser_reader_next(file->reader, plan->window, plan->hop, &audio, &start);
    if (status != 0) {
        fail(file, status, ser_error_message());
        return;
    }
    if (audio != NULL) {
        append(file, audio, start);
    }
    file->at_end = audio == NULL || ser_reader_at_end(file->reader) == 1;
}

/* The pieces stand for adjacent 16 kHz samples, so that nothing is resampled again. */
static void join_pieces(decode_file *file)
{
    size_t total = 0;
    size_t count = 0;
    for (size_t i = 0; i < file->count; i++) {
        ser_audio_samples(file->pieces[i].audio, &count);
        total += count;
    }
    float *samples = text_alloc(total, sizeof *samples);
    float *end = samples;
    for (size_t i = 0; i < file->count; i++) {
        const float *piece = ser_audio_samples(file->pieces[i].audio, &count);
        memcpy(end, piece, count * sizeof *end);
        end += count;
    }
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    options.max_seconds = 0.0;
    ser_audio *joined = NULL;
    int status = ser_audio_from_samples(samples, total, 1, SER_SAMPLING_RATE, &options, &joined);
    free(samples);
    for (size_t i = 0; i < file->count; i++) {
        ser_audio_free(&file->pieces[i].audio);
    }
    file->count = 0;
    if (status != 0) {
        fail(file, status, ser_error_message());
    } else {
        append(file, joined, 0.0);
    }
}

/* Open a file and fill its queue up to the limit. */
static void decode_ahead(const decode_plan *plan, decode_file *file)
{
    const file_entry *entry = &plan->files->entries[file->index];
    if (entry->status != 0) {
        fail(file, entry->status, entry->error);
        return;
    }
    int status = ser_reader_open(entry->path, &plan->audio, &file->reader);
    if (status != 0) {
        fail(file, status, ser_error_message());
        return;
    }
    size_t total = 0; /* samples, because sums of seconds would not be exact */
    double limit = plan->limit * SER_SAMPLING_RATE;
    while (!file->at_end && (double)total <= limit) {
        size_t before = file->count;
        size_t samples = 0;
        read_piece(plan, file);
        if (file->count > before) {
            ser_audio_samples(file->pieces[before].audio, &samples);
        }
        total += samples;
    }
    file->held = total * sizeof(float); /* at most most_held */
    if (plan->join && file->status == 0 && file->count > 0 && file->at_end &&
        (double)total <= limit) {
        file->whole = true;
        if (file->count > 1) {
            join_pieces(file);
        }
    }
}

static bool all_started(const decoder *d)
{
    return d->stopping || d->started >= d->plan.files->count;
}

/* The file whose turn is next never waits for memory. */
static bool may_start(const decoder *d)
{
    return d->started == d->released ||
           (d->started < d->released + d->plan.ahead && d->held < d->plan.memory);
}

/* Bytes that a file may have before its turn: up to the limit, and the piece that goes beyond it. */
static size_t most_held(const decode_plan *plan)
{
    return (size_t)((plan->limit + plan->window) * SER_SAMPLING_RATE) * sizeof(float);
}

static void *work(void *argument)
{
    decoder *d = argument;
    pthread_mutex_lock(&d->lock);
    for (;;) {
        while (!all_started(d) && !may_start(d)) {
            pthread_cond_wait(&d->changed, &d->lock);
        }
        if (all_started(d)) {
            break;
        }
        size_t index = d->started++;
        decode_file *file = &d->slots[index % d->plan.ahead];
        *file = (decode_file){.index = index};
        const size_t most = most_held(&d->plan);
        d->held += most;
        pthread_mutex_unlock(&d->lock);
        decode_ahead(&d->plan, file);
        pthread_mutex_lock(&d->lock);
        d->ready[index % d->plan.ahead] = true;
        d->held -= most - file->held;
        pthread_cond_broadcast(&d->changed);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

decoder *decoder_start(const decode_plan *plan)
{
    decoder *d = text_alloc(1, sizeof *d);
    d->plan = *plan;
    d->slots = text_alloc(plan->ahead, sizeof *d->slots);
    d->ready = text_alloc(plan->ahead, sizeof *d->ready);
    d->threads = text_alloc(plan->threads, sizeof *d->threads);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->changed, &clock);
    pthread_condattr_destroy(&clock);
    while (d->thread_count < plan->threads &&
           pthread_create(&d->threads[d->thread_count], NULL, work, d) == 0) {
        d->thread_count++;
    }
    return d;
}

/* Wake up ten times a second to see whether a signal came: the file may be a silent pipe. */
static bool wait_ready(decoder *d, size_t slot)
{
    while (!d->ready[slot] && stop_requested() == 0) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += 100000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        pthread_cond_timedwait(&d->changed, &d->lock, &until);
    }
    return d->ready[slot];
}

decode_file *decoder_next(decoder *d)
{
    if (d->next >= d->plan.files->count || stop_requested() != 0) {
        return NULL;
    }
    size_t slot = d->next % d->plan.ahead;
    if (d->thread_count == 0) { /* the system gave no thread: decode here */
        d->slots[slot] = (decode_file){.index = d->next};
        decode_ahead(&d->plan, &d->slots[slot]);
        d->held += d->slots[slot].held;
        d->ready[slot] = true;
    }
    pthread_mutex_lock(&d->lock);
    bool ready = wait_ready(d, slot);
    d->next += ready;
    pthread_mutex_unlock(&d->lock);
    return ready ? &d->slots[slot] : NULL;
}

int decode_take(decoder *d, decode_file *file, ser_audio **audio, double *start)
{
    *audio = NULL;
    if (file->taken == file->count && !file->at_end) {
        file->taken = 0;
        file->count = 0;
        read_piece(&d->plan, file);
    }
    if (file->taken == file->count) {
        return file->status;
    }
    decode_piece *piece = &file->pieces[file->taken++];
    *audio = piece->audio;
    *start = piece->start;
    piece->audio = NULL;
    return 0;
}

bool decode_finished(const decode_file *file)
{
    return file->at_end && file->status == 0 && file->taken == file->count;
}

static void clear(decode_file *file)
{
    for (size_t i = file->taken; i < file->count; i++) {
        ser_audio_free(&file->pieces[i].audio);
    }
    free(file->pieces);
    free(file->error);
    ser_reader_free(&file->reader);
    *file = (decode_file){0};
}

void decoder_release(decoder *d, decode_file *file)
{
    pthread_mutex_lock(&d->lock);
    d->ready[file->index % d->plan.ahead] = false;
    d->held -= file->held;
    clear(file);
    d->released++;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

void decoder_free(decoder **handle)
{
    decoder *d = *handle;
    if (d == NULL) {
        return;
    }
    pthread_mutex_lock(&d->lock);
    d->stopping = true;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->lock);
    for (size_t i = 0; i < d->thread_count; i++) {
        pthread_join(d->threads[i], NULL);
    }
    for (size_t i = 0; i < d->plan.ahead; i++) {
        clear(&d->slots[i]);
    }
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    free(d->threads);
    free(d->ready);
    free(d->slots);
    free(d);
    *handle = NULL;
}
