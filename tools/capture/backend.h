/* SPDX-License-Identifier: MIT */
/* What capture.c asks of PulseAudio, ALSA and files. */
#ifndef SER_TOOLS_CAPTURE_BACKEND_H
#define SER_TOOLS_CAPTURE_BACKEND_H

#include "capture.h"
#include "ring.h"

/* How long one step may wait: capture_close waits as long. */
enum { BACKEND_STEP_MS = 50 };

#define BACKEND_NO_ANSWER "no answer"

/* A device that is open. The strings are the capture's. */
typedef struct backend_device {
    void *handle;
    char *name;        /* without the backend's; NULL where there is none */
    char *description; /* for people */
    int32_t rate;
    int32_t channels;
} backend_device;

typedef struct backend {
    const char *name;  /* as in --source NAME:DEVICE */
    const char *title; /* for people; NULL: no devices, must be asked for by name */

    /* `wanted->source` is ignored, `name` (NULL: the default) stands for it. 0, or an exit code
     * with the reason in `*why`; BACKEND_NO_ANSWER if a server hangs. */
    int (*open)(const char *name, const capture_options *wanted, backend_device *device,
                char **why);

    /* Hand on what has come since, waiting at most BACKEND_STEP_MS for it. `*why` with LOST. The
     * capturing thread only, and nothing else runs on the handle meanwhile. */
    capture_state (*step)(void *handle, ring *r, char **why);

    void (*close)(void *handle);

    /* Append the devices; the reason in `*why` if the backend does not answer. */
    void (*list)(capture_list *list, char **why);
} backend;

/* NULL where it was left out of the build. */
extern const backend *const backend_pulse;
extern const backend *const backend_alsa;
extern const backend backend_file;
extern const backend backend_fast;
extern const backend backend_raw;

/* Formatted text that the caller frees. */
__attribute__((format(printf, 1, 2))) char *backend_text(const char *format, ...);

/* Append a device; the strings are taken over. */
void backend_add(capture_list *list, capture_device device);

#endif
