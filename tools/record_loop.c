/* SPDX-License-Identifier: MIT */
/* Sound from the source to the file, the meter and the network, until something ends it. */
#include "record.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "message.h"
#include "stop.h"

#define TICK           0.05 /* seconds to wait for sound: how soon the end of it is seen */
#define REOPEN_SECONDS 30.0
#define REOPEN_PAUSE   0.25
#define CLOCK_SECONDS  1.0 /* by which a device's clock may be ahead: ten hours at 30 ppm */
#define WARNING_PAUSE  5.0 /* seconds between warnings of the same kind */

double record_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double record_seconds(const record_session *s)
{
    return (double)s->frames / (double)s->rate;
}

void record_end(record_session *s, const char *reason, int code)
{
    pthread_mutex_lock(&s->lock);
    if (s->reason == NULL) {
        s->reason = reason;
    }
    if (s->code == 0) {
        s->code = code;
    }
    pthread_mutex_unlock(&s->lock);
}

bool record_ended(record_session *s)
{
    pthread_mutex_lock(&s->lock);
    bool ended = s->reason != NULL;
    pthread_mutex_unlock(&s->lock);
    return ended;
}

/* Without a meter the reader is told once, in a line. */
static void warn_of_level(record_session *s)
{
    if (s->screen.meter) {
        return;
    }
    if (!s->told_silence && record_meter_silent(&s->meter)) {
        message_warning("no sound for 2 s: is the microphone muted?");
        s->told_silence = true;
    }
    if (!s->told_clipping && record_meter_clipping(&s->meter)) {
        message_warning("clipped: turn the microphone down");
        s->told_clipping = true;
    }
}

static void measure(record_session *s, const int16_t *samples, size_t frames)
{
    size_t channels = (size_t)s->channels;
    for (size_t done = 0; done < frames;) {
        bool level = false;
        done += record_meter_take(&s->meter, samples + done * channels, frames - done, &level);
        if (level) {
            record_event_level(s);
            warn_of_level(s);
        }
    }
}

/* The file first: nothing that comes later may cost what was recorded. */
static void take(record_session *s, size_t frames)
{
    int code = s->recording != NULL ? recording_write(s->recording, s->buffer, frames) : 0;
    if (code != 0) {
        record_end(s, "disk", code);
    }
    measure(s, s->buffer, frames);
    record_answer_push(s, s->buffer, frames);
    s->frames += (int64_t)frames;
    if (s->limit > 0 && s->frames >= s->limit) {
        record_end(s, "time", 0);
    }
}

static size_t wanted(const record_session *s)
{
    int64_t left = s->limit - s->frames;
    return s->limit > 0 && left < RECORD_BUFFER ? (size_t)left : RECORD_BUFFER;
}

static void warn_of_losses(record_session *s, double time)
{
    capture_losses losses = capture_lost(s->capture);
    if (losses.overruns <= s->overruns || time - s->told_at < WARNING_PAUSE) {
        return;
    }
    pthread_mutex_lock(&s->lock);
    bool slow = s->stream != NULL && s->computing > 0.8 * record_seconds(s);
    pthread_mutex_unlock(&s->lock);
    message_warning("sound was lost %lld times so far, about %.2f s%s", (long long)losses.overruns,
                    (double)losses.frames / (double)s->rate,
                    slow ? ": the model is slower than the sound; try a longer --hop" : "");
    s->overruns = losses.overruns;
    s->told_at = time;
}

/* Until the device is back, at most REOPEN_SECONDS; a signal ends the wait. */
static void reopen(record_session *s)
{
    const double begin = record_now();
    const struct timespec pause = {.tv_nsec = (long)(REOPEN_PAUSE * 1e9)};
    message_error("%s: %s; waiting %.0f s for it to come back", s->description,
                  capture_reason(s->capture), REOPEN_SECONDS);
    while (record_now() - begin < REOPEN_SECONDS && stop_requested() == 0 && !record_ended(s)) {
        if (capture_reopen(s->capture)) {
            double seconds = record_now() - begin;
            s->missed += seconds;
            message_error("it is back after %.1f s, which are missing at %.2f s of the recording",
                          seconds, record_seconds(s));
            record_event_gap(s, seconds);
            return;
        }
        nanosleep(&pause, NULL);
    }
    if (stop_requested() != 0) {
        record_end(s, "stopped", 0);
    }
    if (record_ended(s)) {
        return;
    }
    message_error("%s has not come back", s->description);
    record_end(s, "lost", MESSAGE_EXIT_CAPTURE);
}

/* A device may come back; a file or pipe that fails would fail again. */
static void handle_loss(record_session *s)
{
    bool device = capture_is_device(s->capture);
    if (device && s->options.continuous) {
        reopen(s);
        return;
    }
    message_error("%s: %s; what came before is kept", s->description, capture_reason(s->capture));
    if (device) {
        record_end(s, "lost", MESSAGE_EXIT_CAPTURE);
    } else {
        bool piped = strcmp(s->source, "-") == 0;
        record_end(s, "source", piped ? MESSAGE_EXIT_IO : MESSAGE_EXIT_DATA);
    }
}

/* What was waiting when the signal came belongs to the recording, and no more than the time that
 * has passed: a file that is read as fast as it goes would otherwise be read to its end. */
static void drain(record_session *s)
{
    double seconds = record_now() - s->began_at;
    if (capture_is_device(s->capture)) {
        seconds += CLOCK_SECONDS;
    }
    int64_t most = (int64_t)(seconds * (double)s->rate) - s->frames;
    size_t frames = 1;
    while (!record_ended(s) && frames > 0 && most > 0) {
        size_t capacity = wanted(s);
        capacity = most < (int64_t)capacity ? (size_t)most : capacity;
        capture_read(s->capture, s->buffer, capacity, 0.0, &frames);
        take(s, frames);
        most -= (int64_t)frames;
    }
}

static void step(record_session *s)
{
    size_t frames = 0;
    capture_state state = capture_read(s->capture, s->buffer, wanted(s), TICK, &frames);
    double time = record_now();
    if (frames > 0) {
        take(s, frames);
    }
    warn_of_losses(s, time);
    if (state == CAPTURE_ENDED) {
        record_end(s, "ended", 0);
    } else if (state == CAPTURE_LOST && !record_ended(s)) {
        handle_loss(s);
    }
    record_screen_draw(s);
}

void record_loop(record_session *s)
{
    s->began_at = record_now();
    while (!record_ended(s) && stop_requested() == 0) {
        step(s);
    }
    if (!record_ended(s)) {
        drain(s);
        record_end(s, "stopped", 0);
    }
}
