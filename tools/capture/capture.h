/* SPDX-License-Identifier: MIT */
/*
 * Sound from a microphone: PulseAudio (which PipeWire serves too), ALSA, or a file or pipe in their
 * place. What a device delivers is handed on as it is, in its own rate and channels, as 16-bit
 * samples.
 *
 * Functions that answer int give 0, or an exit code (message.h) after a message that says what to
 * do next.
 */
#ifndef SER_TOOLS_CAPTURE_CAPTURE_H
#define SER_TOOLS_CAPTURE_CAPTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A device as --list-devices shows it. */
typedef struct capture_device {
    char *source;      /* what --source takes: "pulse:NAME", "alsa:NAME" */
    char *description; /* for people */
    bool is_default;
    bool is_monitor; /* of what a computer plays */
} capture_device;

typedef struct capture_list {
    capture_device *items; /* [count] */
    size_t count;
} capture_list;

/* All devices of all backends that answer. A backend that does not answer is no error; `*why` (the
 * caller frees; may be NULL) says what each of them said if there is no device at all. */
int capture_list_devices(capture_list *list, char **why);
void capture_list_free(capture_list *list);

/*
 * What is wished may not be what comes: capture_rate() and capture_channels() (1 or 2; any for "-")
 * tell. Files come as libser decodes them, 16 kHz mono, whatever is wished.
 * `source`: NULL, the default device of the first backend that has one; "pulse", "alsa": that
 * backend's default; "pulse:NAME", "alsa:NAME"; "file:PATH", an audio file at the speed at which it
 * would be heard; "fast:PATH", the same as fast as it is taken; "-", raw 16-bit little-endian
 * samples from standard input, in `rate` and `channels`.
 */
typedef struct capture_options {
    const char *source;
    int32_t rate;     /* wished, Hz; 0: the device's own. For "-": what comes, 0 means 16000 */
    int32_t channels; /* wished, 1 or 2; 0: the device's own. For "-": what comes, 0 means 1 */
} capture_options;

typedef struct capture capture;

/* Begin to record: a thread fills a buffer of 60 seconds (64 MiB, if that is less) until
 * capture_close. */
int capture_open(const capture_options *options, capture **out);

int32_t capture_rate(const capture *c);
int32_t capture_channels(const capture *c);
const char *capture_source(const capture *c);      /* as --source would name it */
const char *capture_description(const capture *c); /* for people */
bool capture_is_device(const capture *c);          /* not a file or pipe: it may come back */

typedef enum capture_state {
    CAPTURE_GOES_ON,
    CAPTURE_ENDED, /* the file or pipe is over */
    CAPTURE_LOST   /* the device or its server has gone; capture_reason() says how */
} capture_state;

/*
 * Wait up to `timeout` seconds for sound and copy at most `capacity` frames of it. `*frames` 0 with
 * CAPTURE_GOES_ON: none came in time. What was captured before an end is handed out before the end
 * is told. Once a signal asks to stop (stop.h) it hands out what is there and no longer waits.
 */
capture_state capture_read(capture *c, int16_t *samples, size_t capacity, double timeout,
                           size_t *frames);

/* Frames that the device, its server or the buffer had to drop so far, and how often. Where
 * PulseAudio tells of a hole there are zeros in its place; elsewhere the sound closes up. */
typedef struct capture_losses {
    int64_t overruns;
    int64_t frames; /* where nobody tells the number: from the time that went by */
} capture_losses;
capture_losses capture_lost(const capture *c);

/* Why the state is CAPTURE_LOST; this and the texts above stay valid until a capture_reopen that
 * succeeds, or capture_close. */
const char *capture_reason(const capture *c);

/* Open the same device again after CAPTURE_LOST: once, without waiting for it to come back; false
 * if it is not there (no message). Rate and channels stay as they were. True if nothing was
 * lost. */
bool capture_reopen(capture *c);

void capture_close(capture **c);

#endif
