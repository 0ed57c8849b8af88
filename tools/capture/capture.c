/* SPDX-License-Identifier: MIT */
#include "capture.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "message.h"
#include "ring.h"
#include "stop.h"
#include "text.h"

enum { BUFFER_SECONDS = 60, BUFFER_BYTES = 64 << 20 };

struct capture {
    const backend *backend;
    backend_device device; /* handle NULL: not open */
    char *source;
    ring *ring;
    pthread_t thread;
    bool running;
};

#ifndef CAPTURE_HAVE_PULSE
const backend *const backend_pulse = NULL;
#endif
#ifndef CAPTURE_HAVE_ALSA
const backend *const backend_alsa = NULL;
#endif

/* Those with devices, in the order in which a default is looked for. */
enum { LIVE_COUNT = 2 };

typedef struct live_backend {
    const backend *backend; /* NULL: not in this build */
    const char *name;
    const char *title;
} live_backend;

static void live_backends(live_backend all[LIVE_COUNT])
{
    all[0] = (live_backend){backend_pulse, "pulse", "PulseAudio"};
    all[1] = (live_backend){backend_alsa, "alsa", "ALSA"};
}

char *backend_text(const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    return length >= 0 ? text : text_copy("out of memory");
}

void backend_add(capture_list *list, capture_device device)
{
    /* Room for powers of two, so that the count alone tells when it is full. */
    if ((list->count & (list->count - 1)) == 0) {
        size_t capacity = list->count == 0 ? 1 : 2 * list->count;
        capture_device *items = text_alloc(capacity, sizeof *items);
        if (list->count > 0) {
            memcpy(items, list->items, list->count * sizeof *items);
        }
        free(list->items);
        list->items = items;
    }
    list->items[list->count++] = device;
}

void capture_list_free(capture_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i].source);
        free(list->items[i].description);
    }
    free(list->items);
    *list = (capture_list){0};
}

/* "A and B" grows by "PulseAudio (reason)"; a reason is taken over. */
static void add_reason(char **text, const char *title, char *reason)
{
    char *longer = backend_text("%s%s%s (%s)", *text != NULL ? *text : "",
                                *text != NULL ? " and " : "", title, reason);
    free(reason);
    free(*text);
    *text = longer;
}

/* A server that hangs: ALSA's names may lead to it too, and would then never be answered. */
static bool is_hung(const char *why)
{
    return why != NULL && strcmp(why, BACKEND_NO_ANSWER) == 0;
}

static char *left_out(void)
{
    return text_copy("not asked: it may lead to PulseAudio, which hangs");
}

int capture_list_devices(capture_list *list, char **why)
{
    live_backend all[LIVE_COUNT];
    live_backends(all);
    *list = (capture_list){0};
    char *text = NULL;
    bool has_default = false;
    bool hung = false;
    for (size_t i = 0; i < LIVE_COUNT; i++) {
        char *reason = NULL;
        if (all[i].backend == NULL) {
            reason = text_copy("not in this build");
        } else if (hung) {
            reason = left_out();
        } else {
            size_t first = list->count;
            all[i].backend->list(list, &reason);
            for (size_t j = first; j < list->count; j++) {
                bool chosen = list->items[j].is_default && !has_default;
                list->items[j].is_default = chosen;
                has_default = has_default || chosen;
            }
            hung = is_hung(reason);
        }
        add_reason(&text, all[i].title, reason != NULL ? reason : text_copy("no devices"));
    }
    if (why != NULL && list->count == 0) {
        *why = text;
    } else {
        free(text);
        if (why != NULL) {
            *why = NULL;
        }
    }
    return MESSAGE_EXIT_OK;
}

static void *capture_main(void *argument)
{
    capture *c = argument;
    capture_state state = CAPTURE_GOES_ON;
    char *why = NULL;
    while (state == CAPTURE_GOES_ON && !ring_stopping(c->ring)) {
        state = c->backend->step(c->device.handle, c->ring, &why);
    }
    ring_end(c->ring, state, why);
    return NULL;
}

/* Signals are for the thread that reads. */
static bool start_thread(capture *c)
{
    sigset_t all;
    sigset_t old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    c->running = pthread_create(&c->thread, NULL, capture_main, c) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return c->running;
}

static void stop_thread(capture *c)
{
    if (c->running) {
        ring_stop(c->ring);
        pthread_join(c->thread, NULL);
        c->running = false;
    }
}

static void close_device(const backend *from, backend_device *device)
{
    if (device->handle != NULL) {
        from->close(device->handle);
    }
    free(device->name);
    free(device->description);
    *device = (backend_device){0};
}

static ring *create_buffer(const backend_device *device)
{
    size_t frames = (size_t)BUFFER_SECONDS * (size_t)device->rate;
    size_t most = BUFFER_BYTES / (sizeof(int16_t) * (size_t)device->channels);
    return ring_create(frames < most ? frames : most, device->channels);
}

static void tell_difference(const capture_options *options, const backend_device *device)
{
    if (options->channels > 0 && options->channels != device->channels) {
        message_warning("%s: %d channels, not %d", device->description, (int)device->channels,
                        (int)options->channels);
    }
    if (options->rate > 0 && options->rate != device->rate) {
        message_warning("%s: %d Hz, not %d", device->description, (int)device->rate,
                        (int)options->rate);
    }
}

/* From an open device, which is taken over. */
static int start_capture(const backend *from, const capture_options *options, backend_device device,
                         capture **out)
{
    capture *c = text_alloc(1, sizeof *c);
    c->backend = from;
    c->device = device;
    c->source =
        device.name == NULL ? text_copy(from->name) : text_join(from->name, ":", device.name);
    c->ring = create_buffer(&device);
    tell_difference(options, &device);
    if (!start_thread(c)) {
        message_error("cannot start a thread to record");
        capture_close(&c);
        return MESSAGE_EXIT_DEVICE;
    }
    *out = c;
    return MESSAGE_EXIT_OK;
}

/* Named devices that are not there, and no microphone at all, ask for different steps. */
static void advise(const char *name)
{
    if (name != NULL) {
        message_error("--list-devices shows the names of what is there");
        return;
    }
    if (backend_pulse == NULL && backend_alsa == NULL) {
        message_error("build with -Dpulse=enabled or -Dalsa=enabled, or use an audio file "
                      "(--source file:clip.wav) or raw samples from a pipe (--source -)");
        return;
    }
    message_error(
        "start PulseAudio or PipeWire, or choose with --source: a device that "
        "--list-devices shows, an audio file (--source file:clip.wav), or raw samples from "
        "a pipe (--source -)");
}

static int open_default(const capture_options *options, capture **out)
{
    live_backend all[LIVE_COUNT];
    live_backends(all);
    char *tried = NULL;
    bool hung = false;
    for (size_t i = 0; i < LIVE_COUNT && stop_requested() == 0; i++) {
        char *why = NULL;
        backend_device device = {0};
        if (all[i].backend == NULL) {
            why = text_copy("not in this build");
        } else if (hung) {
            why = left_out();
        } else {
            if (all[i].backend->open(NULL, options, &device, &why) == MESSAGE_EXIT_OK) {
                free(tried);
                return start_capture(all[i].backend, options, device, out);
            }
            hung = is_hung(why);
        }
        add_reason(&tried, all[i].title, why);
    }
    int code = stop_requested() != 0 ? 128 + stop_requested() : MESSAGE_EXIT_DEVICE;
    if (code == MESSAGE_EXIT_DEVICE) {
        message_error("no microphone: tried %s", tried);
        advise(NULL);
    }
    free(tried);
    return code;
}

static int open_backend(const backend *from, const char *name, const capture_options *options,
                        capture **out)
{
    char *why = NULL;
    backend_device device = {0};
    int status = from->open(name, options, &device, &why);
    if (status == MESSAGE_EXIT_OK) {
        return start_capture(from, options, device, out);
    }
    if (stop_requested() != 0) {
        free(why);
        return 128 + stop_requested();
    }
    if (status == MESSAGE_EXIT_USAGE) {
        status = message_usage("--source %s: %s", options->source, why);
    } else {
        message_error("--source %s: %s", options->source, why);
    }
    if (status == MESSAGE_EXIT_DEVICE) {
        advise(name);
    }
    free(why);
    return status;
}

/* What follows "NAME:" in `source`, "" for "NAME" alone, NULL if it names something else. */
static const char *device_of(const char *source, const char *name)
{
    size_t length = strlen(name);
    if (strncmp(source, name, length) != 0 || (source[length] != ':' && source[length] != '\0')) {
        return NULL;
    }
    return source + length + (source[length] == ':');
}

static int open_named(const capture_options *options, capture **out)
{
    live_backend all[LIVE_COUNT];
    live_backends(all);
    for (size_t i = 0; i < LIVE_COUNT; i++) {
        const char *name = device_of(options->source, all[i].name);
        if (name != NULL && all[i].backend == NULL) {
            message_error("--source %s: %s is not in this build: configure it again with its "
                          "development files installed and -D%s=enabled",
                          options->source, all[i].title, all[i].name);
            return MESSAGE_EXIT_DEVICE;
        }
        if (name != NULL) {
            return open_backend(all[i].backend, name[0] != '\0' ? name : NULL, options, out);
        }
    }
    if (strcmp(options->source, backend_raw.name) == 0) {
        return open_backend(&backend_raw, NULL, options, out);
    }
    const backend *const files[] = {&backend_file, &backend_fast};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const char *path = device_of(options->source, files[i]->name);
        if (path != NULL && path[0] != '\0') {
            return open_backend(files[i], path, options, out);
        }
    }
    if (access(options->source, R_OK) == 0) {
        return message_usage("--source %s: a file is meant by file:%s", options->source,
                             options->source);
    }
    return message_usage(
        "--source '%s': no such source; pulse:NAME, alsa:NAME, file:PATH, fast:PATH "
        "or - (--list-devices shows the names)",
        options->source);
}

int capture_open(const capture_options *options, capture **out)
{
    *out = NULL;
    return options->source == NULL ? open_default(options, out) : open_named(options, out);
}

int32_t capture_rate(const capture *c)
{
    return c->device.rate;
}

int32_t capture_channels(const capture *c)
{
    return c->device.channels;
}

const char *capture_source(const capture *c)
{
    return c->source;
}

const char *capture_description(const capture *c)
{
    return c->device.description;
}

bool capture_is_device(const capture *c)
{
    return c->backend->title != NULL;
}

capture_state capture_read(capture *c, int16_t *samples, size_t capacity, double timeout,
                           size_t *frames)
{
    return ring_read(c->ring, samples, capacity, timeout, frames);
}

capture_losses capture_lost(const capture *c)
{
    return ring_losses(c->ring);
}

const char *capture_reason(const capture *c)
{
    const char *reason = ring_reason(c->ring);
    return reason != NULL ? reason : "";
}

bool capture_reopen(capture *c)
{
    if (ring_reason(c->ring) == NULL) {
        return true;
    }
    stop_thread(c);
    if (c->device.handle != NULL) {
        c->backend->close(c->device.handle);
        c->device.handle = NULL;
    }
    capture_options same = {.rate = c->device.rate, .channels = c->device.channels};
    backend_device device = {0};
    char *why = NULL;
    if (c->backend->open(c->device.name, &same, &device, &why) != MESSAGE_EXIT_OK) {
        free(why);
        return false;
    }
    if (device.rate != same.rate || device.channels != same.channels) {
        close_device(c->backend, &device);
        return false;
    }
    close_device(c->backend, &c->device);
    c->device = device;
    ring_resume(c->ring);
    if (!start_thread(c)) {
        ring_end(c->ring, CAPTURE_LOST, text_copy("cannot start a thread"));
        return false;
    }
    return true;
}

void capture_close(capture **c)
{
    if (*c == NULL) {
        return;
    }
    stop_thread(*c);
    close_device((*c)->backend, &(*c)->device);
    ring_free(&(*c)->ring);
    free((*c)->source);
    free(*c);
    *c = NULL;
}
