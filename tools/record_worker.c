/* SPDX-License-Identifier: MIT */
#include "record.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "text.h"

enum {
    WAITING_LIMIT = 256 << 20, /* bytes; more waits in the buffer of the capture, which counts what
                                  it drops */
    PIECES_PER_SECOND = 4      /* taken at a time */
};

/* Take over some of what waits; none is left when it is 0. */
static size_t take(record_worker *w, int16_t *samples, size_t most, size_t channels)
{
    pthread_mutex_lock(&w->lock);
    while (w->waiting_frames == 0 && !w->finish) {
        pthread_cond_wait(&w->changed, &w->lock);
    }
    size_t frames = w->waiting_frames < most ? w->waiting_frames : most;
    memcpy(samples, w->waiting + w->start * channels, frames * channels * sizeof *samples);
    w->start += frames;
    w->waiting_frames -= frames;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return frames;
}

/* Room for `frames` behind what waits. While it may grow it is twice what it holds, so that what is
 * moved to its front is no more than what was taken from there. */
static bool make_room(record_worker *w, size_t frames, size_t channels)
{
    size_t needed = w->waiting_frames + frames;
    size_t bytes = 2 * w->capacity * channels * sizeof *w->waiting;
    if (needed > w->capacity / 2 && bytes <= WAITING_LIMIT) {
        int16_t *more = realloc(w->waiting, bytes);
        w->waiting = more != NULL ? more : w->waiting;
        w->capacity *= more != NULL ? 2 : 1;
    }
    if (needed > w->capacity) {
        return false;
    }
    if (w->start + needed > w->capacity) {
        memmove(w->waiting, w->waiting + w->start * channels,
                w->waiting_frames * channels * sizeof *w->waiting);
        w->start = 0;
    }
    return true;
}

static void *work(void *argument)
{
    record_session *s = argument;
    size_t channels = (size_t)s->channels;
    size_t most = (size_t)s->rate / PIECES_PER_SECOND;
    int16_t *samples = text_alloc(most * channels, sizeof *samples);
    bool useful = true; /* after a failure sound is only taken away */
    for (size_t frames; (frames = take(&s->worker, samples, most, channels)) > 0;) {
        useful = useful && record_answer_windows(s, samples, frames, false);
    }
    if (useful) {
        record_answer_windows(s, samples, 0, true);
    }
    free(samples);
    return NULL;
}

int record_worker_start(record_session *s)
{
    record_worker *w = &s->worker;
    w->capacity = (size_t)s->rate > 2 * RECORD_BUFFER ? (size_t)s->rate : 2 * RECORD_BUFFER;
    w->waiting = text_alloc(w->capacity * (size_t)s->channels, sizeof *w->waiting);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    sigset_t all;
    sigset_t old;
    sigfillset(&all); /* signals are for the thread that waits for sound */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    w->running = pthread_create(&w->thread, NULL, work, s) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!w->running) {
        message_error("cannot start a thread for the network");
        return MESSAGE_EXIT_DEVICE;
    }
    return 0;
}

void record_worker_push(record_session *s, const int16_t *samples, size_t frames)
{
    record_worker *w = &s->worker;
    size_t channels = (size_t)s->channels;
    pthread_mutex_lock(&w->lock);
    while (!make_room(w, frames, channels)) {
        pthread_cond_wait(&w->changed, &w->lock);
    }
    memcpy(w->waiting + (w->start + w->waiting_frames) * channels, samples,
           frames * channels * sizeof *samples);
    w->waiting_frames += frames;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

void record_worker_finish(record_session *s)
{
    record_worker *w = &s->worker;
    if (w->running) {
        pthread_mutex_lock(&w->lock);
        w->finish = true;
        pthread_cond_signal(&w->changed);
        pthread_mutex_unlock(&w->lock);
        pthread_join(w->thread, NULL);
        w->running = false;
    }
}

void record_worker_free(record_session *s)
{
    if (s->worker.waiting != NULL) {
        record_worker_finish(s);
        free(s->worker.waiting);
        s->worker.waiting = NULL;
    }
}
