/* SPDX-License-Identifier: MIT */
#include "ring.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stop.h"
#include "text.h"

struct ring {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* one for both sides: each waits only for the other */
    int16_t *samples;       /* [capacity][channels] */
    size_t capacity;        /* frames */
    size_t channels;
    size_t start; /* frame to be read next */
    size_t count; /* frames held */
    capture_losses losses;
    capture_state state;
    char *reason;
    bool stopping;
};

ring *ring_create(size_t frames, int32_t channels)
{
    ring *r = text_alloc(1, sizeof *r);
    r->samples = text_alloc(frames * (size_t)channels, sizeof *r->samples);
    r->capacity = frames;
    r->channels = (size_t)channels;
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC); /* a wall clock may jump */
    pthread_cond_init(&r->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    return r;
}

void ring_free(ring **r)
{
    if (*r == NULL) {
        return;
    }
    pthread_cond_destroy(&(*r)->changed);
    pthread_mutex_destroy(&(*r)->lock);
    free((*r)->samples);
    free((*r)->reason);
    free(*r);
    *r = NULL;
}

/* At most two pieces: up to the end of the buffer, and from its beginning. Returns what fitted. */
static size_t put(ring *r, const int16_t *samples, size_t frames)
{
    size_t written = 0;
    while (written < frames && r->count < r->capacity) {
        size_t at = (r->start + r->count) % r->capacity;
        size_t room = r->capacity - r->count;
        size_t piece = r->capacity - at < room ? r->capacity - at : room;
        piece = frames - written < piece ? frames - written : piece;
        int16_t *to = r->samples + at * r->channels;
        size_t bytes = piece * r->channels * sizeof *to;
        if (samples != NULL) {
            memcpy(to, samples + written * r->channels, bytes);
        } else {
            memset(to, 0, bytes);
        }
        r->count += piece;
        written += piece;
    }
    if (written > 0) {
        pthread_cond_signal(&r->changed);
    }
    return written;
}

void ring_write(ring *r, const int16_t *samples, size_t frames)
{
    pthread_mutex_lock(&r->lock);
    size_t written = put(r, samples, frames);
    if (written < frames) {
        r->losses.overruns++;
        r->losses.frames += (int64_t)(frames - written);
    }
    pthread_mutex_unlock(&r->lock);
}

bool ring_write_all(ring *r, const int16_t *samples, size_t frames)
{
    pthread_mutex_lock(&r->lock);
    size_t written = put(r, samples, frames);
    while (written < frames && !r->stopping) {
        pthread_cond_wait(&r->changed, &r->lock);
        const int16_t *rest = samples != NULL ? samples + written * r->channels : NULL;
        written += put(r, rest, frames - written);
    }
    pthread_mutex_unlock(&r->lock);
    return written == frames;
}

void ring_count_overrun(ring *r, int64_t frames)
{
    pthread_mutex_lock(&r->lock);
    r->losses.overruns++;
    r->losses.frames += frames;
    pthread_mutex_unlock(&r->lock);
}

void ring_end(ring *r, capture_state state, char *reason)
{
    pthread_mutex_lock(&r->lock);
    free(r->reason);
    r->reason = reason;
    r->state = state;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

bool ring_stopping(ring *r)
{
    pthread_mutex_lock(&r->lock);
    bool stopping = r->stopping;
    pthread_mutex_unlock(&r->lock);
    return stopping;
}

static double monotonic(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A signal does not end the wait for a condition, so it is cut into pieces in which one is seen. */
static void wait_for_change(ring *r, double seconds)
{
    static const double piece = 0.02;
    double until = monotonic() + fmin(seconds, piece);
    struct timespec end = {.tv_sec = (time_t)until};
    end.tv_nsec = (long)(1e9 * (until - (double)end.tv_sec));
    pthread_cond_timedwait(&r->changed, &r->lock, &end);
}

/* In at most two pieces, as put(). */
static size_t take(ring *r, int16_t *samples, size_t capacity)
{
    size_t taken = 0;
    while (taken < capacity && r->count > 0) {
        size_t piece = r->capacity - r->start < r->count ? r->capacity - r->start : r->count;
        piece = capacity - taken < piece ? capacity - taken : piece;
        memcpy(samples + taken * r->channels, r->samples + r->start * r->channels,
               piece * r->channels * sizeof *samples);
        r->start = (r->start + piece) % r->capacity;
        r->count -= piece;
        taken += piece;
    }
    if (taken > 0) {
        pthread_cond_signal(&r->changed);
    }
    return taken;
}

capture_state ring_read(ring *r, int16_t *samples, size_t capacity, double timeout, size_t *frames)
{
    double end = monotonic() + timeout;
    pthread_mutex_lock(&r->lock);
    while (r->count == 0 && r->state == CAPTURE_GOES_ON && stop_requested() == 0) {
        double left = end - monotonic();
        if (!(left > 0.0)) {
            break;
        }
        wait_for_change(r, left);
    }
    *frames = take(r, samples, capacity);
    capture_state state = *frames > 0 || r->count > 0 ? CAPTURE_GOES_ON : r->state;
    pthread_mutex_unlock(&r->lock);
    return state;
}

capture_losses ring_losses(ring *r)
{
    pthread_mutex_lock(&r->lock);
    capture_losses losses = r->losses;
    pthread_mutex_unlock(&r->lock);
    return losses;
}

const char *ring_reason(ring *r)
{
    pthread_mutex_lock(&r->lock);
    const char *reason = r->reason;
    pthread_mutex_unlock(&r->lock);
    return reason;
}

void ring_stop(ring *r)
{
    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

void ring_resume(ring *r)
{
    pthread_mutex_lock(&r->lock);
    r->stopping = false;
    r->state = CAPTURE_GOES_ON;
    free(r->reason);
    r->reason = NULL;
    pthread_mutex_unlock(&r->lock);
}
