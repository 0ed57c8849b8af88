/* SPDX-License-Identifier: MIT */
/* Standard output has a thread of its own: a reader that stops reading delays no sound. */
#include "record.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "message.h"
#include "stop.h"
#include "text.h"

enum {
    CHUNK = PIPE_BUF,         /* a pipe takes as much whole or not at all */
    WAITING_LIMIT = 16 << 20, /* bytes: two hours of levels */
    GLANCE_MS = 20            /* how soon a signal is seen */
};

#define GRACE 1.0 /* seconds after a signal for a reader that takes nothing */

/* Whole lines where they are short enough: who stops reading has no half of one. */
static size_t chunk_size(const char *text, size_t size)
{
    if (size <= CHUNK) {
        return size;
    }
    size_t lines = CHUNK;
    while (lines > 0 && text[lines - 1] != '\n') {
        lines--;
    }
    return lines > 0 ? lines : CHUNK;
}

/* Take over what is to be written next; 0: all is, and no more comes. */
static size_t next(record_output *o, char chunk[CHUNK])
{
    pthread_mutex_lock(&o->lock);
    while (o->size == 0 && !o->finish) {
        pthread_cond_wait(&o->changed, &o->lock);
    }
    size_t size = 0;
    if (o->size > 0) {
        const char *text = o->waiting + o->start;
        size = chunk_size(text, o->size);
        memcpy(chunk, text, size);
    }
    o->in_hand = size;
    o->start += size;
    o->size -= size;
    pthread_mutex_unlock(&o->lock);
    return size;
}

static bool given_up(record_output *o)
{
    pthread_mutex_lock(&o->lock);
    bool given_up = o->given_up;
    pthread_mutex_unlock(&o->lock);
    return given_up;
}

/* Only when the reader has room, so that it can be given up: write() would wait without end. 0, or
 * errno. */
static int write_all(record_output *o, const char *text, size_t size)
{
    for (size_t done = 0; done < size && !given_up(o);) {
        struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
        if (poll(&out, 1, GLANCE_MS) == 0) {
            continue;
        }
        ssize_t written = write(STDOUT_FILENO, text + done, size - done);
        if (written < 0 && errno != EINTR && errno != EAGAIN) {
            return errno;
        }
        done += written > 0 ? (size_t)written : 0;
    }
    return 0;
}

static void fail(record_session *s, int error)
{
    if (error != EPIPE) {
        message_error("standard output: cannot write: %s", strerror(error));
    }
    pthread_mutex_lock(&s->lock);
    s->out_open = false; /* nothing more is written */
    record_end(s, "output", MESSAGE_EXIT_IO);
    pthread_mutex_unlock(&s->lock);
}

static void *write_out(void *argument)
{
    record_session *s = argument;
    record_output *o = &s->output;
    char chunk[CHUNK];
    int error = 0;
    for (size_t size; error == 0 && (size = next(o, chunk)) > 0;) {
        error = write_all(o, chunk, size);
        pthread_mutex_lock(&o->lock);
        o->in_hand = 0;
        o->failed = error != 0;
        o->written += (int64_t)size;
        pthread_cond_broadcast(&o->changed);
        pthread_mutex_unlock(&o->lock);
    }
    if (error != 0) {
        fail(s, error);
    }
    return NULL;
}

void record_output_start(record_session *s)
{
    record_output *o = &s->output;
    if (isatty(STDOUT_FILENO)) {
        return;
    }
    pthread_mutex_init(&o->lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&o->changed, &clock);
    pthread_condattr_destroy(&clock);
    sigset_t all;
    sigset_t old;
    sigfillset(&all); /* signals are for the thread that waits for sound */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    o->running = pthread_create(&o->thread, NULL, write_out, s) == 0; /* or it is done in place */
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* Behind what waits; the memory is twice what it holds at most. */
static void append(record_output *o, const char *text, size_t size)
{
    pthread_mutex_lock(&o->lock);
    if (o->start + o->size + size > o->capacity) {
        size_t capacity = 2 * (o->size + size);
        char *waiting = text_alloc(capacity, 1);
        if (o->size > 0) {
            memcpy(waiting, o->waiting + o->start, o->size);
        }
        free(o->waiting);
        o->waiting = waiting;
        o->capacity = capacity;
        o->start = 0;
    }
    if (size > 0 && !o->failed) {
        memcpy(o->waiting + o->start + o->size, text, size);
        o->size += size;
    }
    pthread_cond_broadcast(&o->changed);
    pthread_mutex_unlock(&o->lock);
}

static int hand_on(record_session *s)
{
    const char *text = NULL;
    size_t size = 0;
    if (!s->output.running) {
        return output_flush(&s->out);
    }
    int code = sink_held(&s->out.sink, &text, &size);
    if (code == 0) {
        append(&s->output, text, size);
        sink_empty(&s->out.sink);
    }
    return code;
}

void record_flush(record_session *s)
{
    pthread_mutex_lock(&s->lock);
    int code = s->out_open && s->out.sink_open ? hand_on(s) : 0;
    if (code != 0) {
        s->out_open = false;
        record_end(s, "output", code);
    }
    pthread_mutex_unlock(&s->lock);
}

/* Until something is written, or time to look at the clock. */
static void wait_a_little(record_output *o)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += GLANCE_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&o->changed, &o->lock, &until);
}

bool record_output_room(record_session *s, bool wait)
{
    record_output *o = &s->output;
    if (!o->running) {
        return true;
    }
    pthread_mutex_lock(&o->lock);
    while (wait && o->size >= WAITING_LIMIT && !o->failed && stop_requested() == 0) {
        wait_a_little(o);
    }
    bool room = wait || o->size < WAITING_LIMIT;
    pthread_mutex_unlock(&o->lock);
    return room;
}

/* False: a signal asks to stop, and nobody reads. */
static bool wait_for_reader(record_output *o)
{
    double since = record_now();
    int64_t seen = o->written;
    while ((o->size > 0 || o->in_hand > 0) && !o->failed) {
        wait_a_little(o);
        double time = record_now();
        if (o->written != seen || stop_requested() == 0) {
            seen = o->written;
            since = time;
        } else if (time - since > GRACE) {
            return false;
        }
    }
    return true;
}

void record_output_finish(record_session *s)
{
    record_output *o = &s->output;
    if (!o->running) {
        return;
    }
    pthread_mutex_lock(&o->lock);
    o->finish = true;
    pthread_cond_broadcast(&o->changed);
    bool taken = wait_for_reader(o);
    size_t left = o->size + o->in_hand;
    o->size = taken ? o->size : 0;
    o->given_up = !taken;
    pthread_mutex_unlock(&o->lock);
    if (!taken) {
        message_error("standard output is not read: %zu bytes of it are lost", left);
        record_end(s, "output", MESSAGE_EXIT_IO);
    }
    pthread_join(o->thread, NULL);
    o->running = false;
    pthread_cond_destroy(&o->changed);
    pthread_mutex_destroy(&o->lock);
    free(o->waiting);
    o->waiting = NULL;
}
