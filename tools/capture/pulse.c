/* SPDX-License-Identifier: MIT */
/*
 * PulseAudio, and PipeWire, which serves the same protocol. A main loop of our own, turned by the
 * capturing thread alone, so that nothing needs a lock.
 */
#include "backend.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <pulse/pulseaudio.h>

#include "message.h"
#include "stop.h"
#include "text.h"

enum {
    FRAGMENT_MS = 20, /* what comes at a time: the delay of the meter and of the last sample */
    ANSWER_MS = 5000, /* a server that takes longer than this is not there */
    STALL_MS = 1000,  /* not to have run for so long is a stall, looked into so long after it */
    JITTER_MS = 200,  /* what a clock and what comes may differ by without a loss */
    FALLBACK_RATE = 16000,
    LOWEST_RATE = 4000 /* what libser takes */
};

typedef struct pulse {
    pa_mainloop *loop;
    pa_context *context;
    pa_stream *stream;
    size_t frame; /* bytes */
    int64_t rate;
    ring *ring;     /* NULL until the first step: what comes before waits in the stream */
    int64_t frames; /* handed on */
    int64_t last_turn;
    /* A stall: its begin and end (0: none), and `frames` when it began. */
    int64_t stall_begin;
    int64_t stall_end;
    int64_t stall_frames;
} pulse;

static void pulse_close(void *handle)
{
    pulse *p = handle;
    if (p->stream != NULL) {
        pa_stream_set_read_callback(p->stream, NULL, NULL);
        pa_stream_set_moved_callback(p->stream, NULL, NULL);
        pa_stream_disconnect(p->stream);
        pa_stream_unref(p->stream);
    }
    if (p->context != NULL) {
        pa_context_disconnect(p->context);
        pa_context_unref(p->context);
    }
    if (p->loop != NULL) {
        pa_mainloop_free(p->loop);
    }
    free(p);
}

/* One turn of the loop, at most so long. */
static void turn(pulse *p, int milliseconds)
{
    if (pa_mainloop_prepare(p->loop, milliseconds * 1000) >= 0 && pa_mainloop_poll(p->loop) >= 0) {
        pa_mainloop_dispatch(p->loop);
    }
}

static int64_t milliseconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool is_worth_waiting(int64_t end)
{
    return milliseconds_now() < end && stop_requested() == 0;
}

static char *last_error(const pulse *p)
{
    return text_copy(pa_strerror(pa_context_errno(p->context)));
}

static bool context_is_waiting(const pulse *p)
{
    return PA_CONTEXT_IS_GOOD(pa_context_get_state(p->context)) &&
           pa_context_get_state(p->context) != PA_CONTEXT_READY;
}

static pulse *pulse_connect(char **why)
{
    pulse *p = text_alloc(1, sizeof *p);
    p->loop = pa_mainloop_new();
    p->context =
        p->loop != NULL ? pa_context_new(pa_mainloop_get_api(p->loop), "ser-record") : NULL;
    if (p->context == NULL) {
        *why = text_copy("out of memory");
        pulse_close(p);
        return NULL;
    }
    pa_context_connect(p->context, NULL, PA_CONTEXT_NOAUTOSPAWN, NULL);
    int64_t end = milliseconds_now() + ANSWER_MS;
    while (context_is_waiting(p) && is_worth_waiting(end)) {
        turn(p, BACKEND_STEP_MS);
    }
    if (pa_context_get_state(p->context) != PA_CONTEXT_READY) {
        *why = context_is_waiting(p) ? text_copy(BACKEND_NO_ANSWER) : last_error(p);
        pulse_close(p);
        return NULL;
    }
    return p;
}

/* Until the server has answered; NULL `operation`: it could not be asked. */
static bool finish(pulse *p, pa_operation *operation)
{
    int64_t end = milliseconds_now() + ANSWER_MS;
    while (operation != NULL && pa_operation_get_state(operation) == PA_OPERATION_RUNNING &&
           is_worth_waiting(end)) {
        turn(p, BACKEND_STEP_MS);
    }
    bool done = operation != NULL && pa_operation_get_state(operation) == PA_OPERATION_DONE;
    if (operation != NULL) {
        pa_operation_cancel(operation); /* its callback's variables end with the caller */
        pa_operation_unref(operation);
    }
    return done;
}

/* What is wanted of a source, copied while the callback lasts. */
typedef struct source_facts {
    char *name;
    char *description;
    pa_sample_spec spec;
    bool is_monitor;
    bool is_muted;
} source_facts;

static void on_source(pa_context *context, const pa_source_info *info, int end, void *user)
{
    (void)context;
    source_facts *facts = user;
    if (end != 0 || facts->name != NULL) {
        return;
    }
    facts->name = text_copy(info->name);
    facts->description = text_copy(info->description != NULL ? info->description : info->name);
    facts->spec = info->sample_spec;
    facts->is_monitor = info->monitor_of_sink != PA_INVALID_INDEX;
    facts->is_muted = info->mute || pa_cvolume_is_muted(&info->volume);
}

static void free_facts(source_facts *facts)
{
    free(facts->name);
    free(facts->description);
}

static void on_stream_data(pa_stream *stream, size_t ready, void *user)
{
    (void)ready;
    pulse *p = user;
    const void *data;
    size_t bytes;
    while (p->ring != NULL && pa_stream_peek(stream, &data, &bytes) >= 0 && bytes > 0) {
        /* No data is a hole, where the server or the connection had to drop some. */
        if (data == NULL) {
            ring_count_overrun(p->ring, (int64_t)(bytes / p->frame));
        }
        ring_write(p->ring, data, bytes / p->frame);
        p->frames += (int64_t)(bytes / p->frame);
        pa_stream_drop(stream);
    }
}

/* The server has taken the stream to another source: the first is gone, or somebody chose. */
static void on_moved(pa_stream *stream, void *user)
{
    (void)user;
    const char *name = pa_stream_get_device_name(stream);
    message_warning("PulseAudio has moved the recording to %s", name != NULL ? name : "another");
}

static bool stream_is_waiting(const pulse *p)
{
    return pa_stream_get_state(p->stream) == PA_STREAM_CREATING;
}

/* Begin to record from `name` in `spec`. */
static bool connect_stream(pulse *p, const char *name, const pa_sample_spec *spec, char **why)
{
    p->frame = pa_frame_size(spec);
    p->rate = spec->rate;
    p->stream = pa_stream_new(p->context, "record", spec, NULL);
    if (p->stream == NULL) {
        *why = last_error(p);
        return false;
    }
    pa_stream_set_read_callback(p->stream, on_stream_data, p);
    pa_stream_set_moved_callback(p->stream, on_moved, NULL);
    uint32_t fragment = (uint32_t)pa_usec_to_bytes(FRAGMENT_MS * PA_USEC_PER_MSEC, spec);
    pa_buffer_attr buffer = {(uint32_t)-1, (uint32_t)-1, (uint32_t)-1, (uint32_t)-1, fragment};
    int64_t end = milliseconds_now() + ANSWER_MS;
    if (pa_stream_connect_record(p->stream, name, &buffer, PA_STREAM_ADJUST_LATENCY) >= 0) {
        while (stream_is_waiting(p) && is_worth_waiting(end)) {
            turn(p, BACKEND_STEP_MS);
        }
    }
    if (pa_stream_get_state(p->stream) != PA_STREAM_READY) {
        *why = stream_is_waiting(p) ? text_copy(BACKEND_NO_ANSWER) : last_error(p);
        return false;
    }
    p->last_turn = milliseconds_now();
    return true;
}

static pa_sample_spec spec_for(const capture_options *wanted, const pa_sample_spec *own)
{
    pa_sample_spec spec = {.format = PA_SAMPLE_S16NE};
    spec.rate = wanted->rate > 0 ? (uint32_t)wanted->rate : own->rate;
    spec.rate = spec.rate >= LOWEST_RATE ? spec.rate : FALLBACK_RATE;
    uint8_t channels = wanted->channels > 0 ? (uint8_t)wanted->channels : own->channels;
    spec.channels = channels > 2 ? 2 : channels;
    return spec;
}

static void warn_about(const source_facts *facts, bool by_default)
{
    if (facts->is_monitor && by_default) {
        message_warning("PulseAudio knows no microphone: recording what the computer plays (%s); "
                        "plug one in, or see --list-devices",
                        facts->description);
    }
    if (facts->is_muted) {
        message_warning("%s is muted: 'pactl set-source-mute %s 0' or a mixer ends that",
                        facts->description, facts->name);
    }
}

/* A client's own default, as libpulse takes it for a stream without a name; NULL: the server's. */
static const char *own_default(void)
{
    const char *name = getenv("PULSE_SOURCE");
    return name != NULL && name[0] != '\0' ? name : NULL;
}

static int pulse_open(const char *name, const capture_options *wanted, backend_device *device,
                      char **why)
{
    const bool by_default = name == NULL;
    pulse *p = pulse_connect(why);
    if (p == NULL) {
        return MESSAGE_EXIT_DEVICE;
    }
    source_facts facts = {0};
    name = by_default ? own_default() : name;
    if (!finish(p, pa_context_get_source_info_by_name(p->context, name, on_source, &facts)) ||
        facts.name == NULL) {
        *why = name != NULL ? text_copy("PulseAudio has no such source") : text_copy("no source");
        pulse_close(p);
        return MESSAGE_EXIT_DEVICE;
    }
    pa_sample_spec spec = spec_for(wanted, &facts.spec);
    if (!pa_sample_spec_valid(&spec)) {
        *why = backend_text("PulseAudio takes at most %u Hz, not %u", (unsigned)PA_RATE_MAX,
                            (unsigned)spec.rate);
        free_facts(&facts);
        pulse_close(p);
        return MESSAGE_EXIT_USAGE;
    }
    if (!connect_stream(p, facts.name, &spec, why)) {
        free_facts(&facts);
        pulse_close(p);
        return MESSAGE_EXIT_DEVICE;
    }
    warn_about(&facts, by_default);
    *device = (backend_device){p, facts.name, facts.description, (int32_t)spec.rate, spec.channels};
    return MESSAGE_EXIT_OK;
}

/* A server drops what a process that does not run (Ctrl-Z) leaves with it too long, and does not
 * say so. After a stall there must have come as much as the time that went by. */
static void look_for_loss(pulse *p)
{
    int64_t now = milliseconds_now();
    if (p->stall_end == 0 && now - p->last_turn > STALL_MS) {
        p->stall_begin = p->last_turn;
        p->stall_end = now;
        p->stall_frames = p->frames;
    }
    if (p->stall_end != 0 && now - p->stall_end > STALL_MS) {
        int64_t due = (now - p->stall_begin) * p->rate / 1000;
        int64_t lost = due - (p->frames - p->stall_frames);
        if (lost > JITTER_MS * p->rate / 1000 && !pa_stream_is_suspended(p->stream)) {
            ring_count_overrun(p->ring, lost);
        }
        p->stall_end = 0;
    }
    p->last_turn = now;
}

/* A suspended source gives nothing and goes on later; a stream that the server moves to another
 * source keeps its rate and channels. */
static capture_state pulse_step(void *handle, ring *r, char **why)
{
    pulse *p = handle;
    p->ring = r;
    look_for_loss(p);
    turn(p, BACKEND_STEP_MS);
    if (pa_context_get_state(p->context) != PA_CONTEXT_READY) {
        char *reason = last_error(p);
        *why = backend_text("the connection to PulseAudio is lost (%s)", reason);
        free(reason);
        return CAPTURE_LOST;
    }
    if (pa_stream_get_state(p->stream) != PA_STREAM_READY) {
        *why = text_copy("the source has been removed");
        return CAPTURE_LOST;
    }
    return CAPTURE_GOES_ON;
}

static void on_listed_source(pa_context *context, const pa_source_info *info, int end, void *user)
{
    (void)context;
    if (end != 0) {
        return;
    }
    const char *text = info->description != NULL ? info->description : info->name;
    backend_add(user, (capture_device){.source = text_join("pulse", ":", info->name),
                                       .description = text_copy(text),
                                       .is_monitor = info->monitor_of_sink != PA_INVALID_INDEX});
}

static void pulse_list(capture_list *list, char **why)
{
    pulse *p = pulse_connect(why);
    if (p == NULL) {
        return;
    }
    size_t first = list->count;
    source_facts chosen = {0};
    if (!finish(p, pa_context_get_source_info_list(p->context, on_listed_source, list))) {
        *why = last_error(p);
    }
    finish(p, pa_context_get_source_info_by_name(p->context, own_default(), on_source, &chosen));
    for (size_t i = first; i < list->count; i++) {
        const char *name = list->items[i].source + strlen("pulse:");
        list->items[i].is_default = chosen.name != NULL && strcmp(name, chosen.name) == 0;
    }
    free_facts(&chosen);
    pulse_close(p);
}

static const backend pulse_backend = {"pulse",    "PulseAudio", pulse_open,
                                      pulse_step, pulse_close,  pulse_list};
const backend *const backend_pulse = &pulse_backend;
