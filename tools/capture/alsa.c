/* SPDX-License-Identifier: MIT */
/* ALSA, for machines without a sound server. */
#include "backend.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <alsa/asoundlib.h>

#include "message.h"
#include "text.h"

enum {
    PERIOD_US = 20000,
    BUFFER_US = 1000000, /* asked for; what other work may hold the thread up */
    PREFERRED_RATE = 48000,
    LOWEST_RATE = 4000, /* what libser takes */
    HIGHEST_RATE = 768000,
    CHUNK = 4096, /* frames read at a time */
    EMPTY_MS = 10 /* nap after a device that was ready gave nothing */
};

typedef struct alsa {
    snd_pcm_t *pcm;
    snd_pcm_format_t format;
    uint32_t device_channels;
    uint32_t channels; /* handed on: the first of them */
    uint32_t rate;
    void *raw;        /* [CHUNK][device_channels] in `format` */
    int16_t *samples; /* [CHUNK][channels] */
    struct timespec last_read;
} alsa;

/* The reasons are in our own messages. */
static void be_quiet(const char *file, int line, const char *function, int code, const char *format,
                     ...)
{
    (void)file;
    (void)line;
    (void)function;
    (void)code;
    (void)format;
}

static void alsa_close(void *handle)
{
    alsa *a = handle;
    if (a->pcm != NULL) {
        snd_pcm_close(a->pcm);
    }
    free(a->raw);
    free(a->samples);
    free(a);
}

/* In the order of preference; S24 is the low three bytes of four. */
static const snd_pcm_format_t formats[] = {SND_PCM_FORMAT_S16,   SND_PCM_FORMAT_S32,
                                           SND_PCM_FORMAT_S24,   SND_PCM_FORMAT_S24_3LE,
                                           SND_PCM_FORMAT_FLOAT, SND_PCM_FORMAT_U8};

static int choose_format(alsa *a, snd_pcm_hw_params_t *params)
{
    int status = -EINVAL;
    for (size_t i = 0; i < sizeof formats / sizeof formats[0] && status < 0; i++) {
        a->format = formats[i];
        status = snd_pcm_hw_params_set_format(a->pcm, params, a->format);
    }
    return status;
}

/* The device's own count, but two of a device that leaves the choice. */
static int choose_channels(alsa *a, snd_pcm_hw_params_t *params, int32_t wished)
{
    a->device_channels = wished > 0 ? (uint32_t)wished : 2;
    int status = snd_pcm_hw_params_set_channels_near(a->pcm, params, &a->device_channels);
    a->channels = a->device_channels < 2 ? 1 : 2;
    return status;
}

static int choose_rate(alsa *a, snd_pcm_hw_params_t *params, int32_t wished)
{
    /* Resampling is better left to libsoxr. */
    snd_pcm_hw_params_set_rate_resample(a->pcm, params, 0);
    a->rate = wished > 0 ? (uint32_t)wished : PREFERRED_RATE;
    int status = snd_pcm_hw_params_set_rate_near(a->pcm, params, &a->rate, NULL);
    return status < 0 || (a->rate >= LOWEST_RATE && a->rate <= HIGHEST_RATE) ? status : -ERANGE;
}

/* What cannot be had is named in `*step`. */
static int configure(alsa *a, const capture_options *wanted, const char **step)
{
    snd_pcm_hw_params_t *params;
    snd_pcm_hw_params_alloca(&params);
    *step = "parameters";
    int status = snd_pcm_hw_params_any(a->pcm, params);
    if (status >= 0) {
        *step = "interleaved access";
        status = snd_pcm_hw_params_set_access(a->pcm, params, SND_PCM_ACCESS_RW_INTERLEAVED);
    }
    if (status >= 0) {
        *step = "sample format";
        status = choose_format(a, params);
    }
    if (status >= 0) {
        *step = "channels";
        status = choose_channels(a, params, wanted->channels);
    }
    if (status >= 0) {
        *step = "rate";
        status = choose_rate(a, params, wanted->rate);
    }
    if (status >= 0) {
        /* Not all devices leave the choice, and any size works. */
        unsigned buffer = BUFFER_US;
        unsigned period = PERIOD_US;
        snd_pcm_hw_params_set_buffer_time_near(a->pcm, params, &buffer, NULL);
        snd_pcm_hw_params_set_period_time_near(a->pcm, params, &period, NULL);
        *step = "setting up";
        status = snd_pcm_hw_params(a->pcm, params);
    }
    return status;
}

static int alsa_open(const char *name, const capture_options *wanted, backend_device *device,
                     char **why)
{
    snd_lib_error_set_handler(be_quiet);
    alsa *a = text_alloc(1, sizeof *a);
    const char *pcm_name = name != NULL ? name : "default";
    const char *step = "opening";
    /* Without waiting for a device that somebody else uses. */
    int status = snd_pcm_open(&a->pcm, pcm_name, SND_PCM_STREAM_CAPTURE, SND_PCM_NONBLOCK);
    if (status >= 0) {
        status = configure(a, wanted, &step);
    }
    if (status >= 0) {
        step = "starting";
        status = snd_pcm_start(a->pcm);
    }
    if (status < 0) {
        bool plug = a->pcm != NULL && strncmp(pcm_name, "hw:", 3) == 0;
        *why = backend_text("device '%s', %s: %s%s%s", pcm_name, step, snd_strerror(status),
                            plug ? "; what ALSA converts: plug" : "", plug ? pcm_name : "");
        alsa_close(a);
        return MESSAGE_EXIT_DEVICE;
    }
    ssize_t width = snd_pcm_format_physical_width(a->format) / 8;
    a->raw = text_alloc(CHUNK * (size_t)a->device_channels, (size_t)width);
    a->samples = text_alloc(CHUNK * (size_t)a->channels, sizeof *a->samples);
    clock_gettime(CLOCK_MONOTONIC, &a->last_read);
    *device = (backend_device){a, text_copy(pcm_name), text_join("ALSA device '", pcm_name, "'"),
                               (int32_t)a->rate, (int32_t)a->channels};
    return MESSAGE_EXIT_OK;
}

static int16_t from_float(float value)
{
    /* A NaN compares false, so fmaxf takes the other: full scale, not undefined behaviour. */
    return (int16_t)lrintf(fminf(fmaxf(value * 32768.0F, -32768.0F), 32767.0F));
}

/* Sample `i` of a buffer, in 16 bits. */
static int16_t convert(const alsa *a, size_t i)
{
    const unsigned char *three = (const unsigned char *)a->raw + 3 * i;
    switch (a->format) {
    case SND_PCM_FORMAT_S16: return ((const int16_t *)a->raw)[i];
    case SND_PCM_FORMAT_S32: return (int16_t)(((const int32_t *)a->raw)[i] >> 16);
    case SND_PCM_FORMAT_S24: return (int16_t)(((const uint32_t *)a->raw)[i] >> 8);
    case SND_PCM_FORMAT_S24_3LE: return (int16_t)(uint16_t)(three[1] | three[2] << 8);
    case SND_PCM_FORMAT_FLOAT: return from_float(((const float *)a->raw)[i]);
    default: return (int16_t)((((const unsigned char *)a->raw)[i] - 128) * 256);
    }
}

static void convert_all(alsa *a, size_t frames)
{
    for (size_t i = 0; i < frames; i++) {
        for (size_t channel = 0; channel < a->channels; channel++) {
            a->samples[i * a->channels + channel] = convert(a, i * a->device_channels + channel);
        }
    }
}

/* After an overrun or a suspend. What was in the device's buffer is gone with the rest: all since
 * the last read. */
static int recover(alsa *a, int status, ring *r)
{
    if (status == -EPIPE || status == -ESTRPIPE) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        double seconds = (double)(now.tv_sec - a->last_read.tv_sec) +
                         1e-9 * (double)(now.tv_nsec - a->last_read.tv_nsec);
        ring_count_overrun(r, (int64_t)(seconds * a->rate));
        a->last_read = now;
    }
    status = snd_pcm_recover(a->pcm, status, 1);
    if (status >= 0 && snd_pcm_state(a->pcm) == SND_PCM_STATE_PREPARED) {
        status = snd_pcm_start(a->pcm);
    }
    return status;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = EMPTY_MS * 1000000}, NULL);
}

static capture_state alsa_step(void *handle, ring *r, char **why)
{
    alsa *a = handle;
    long status = snd_pcm_wait(a->pcm, BACKEND_STEP_MS);
    if (status > 0) {
        status = snd_pcm_readi(a->pcm, a->raw, CHUNK);
        if (status > 0) {
            clock_gettime(CLOCK_MONOTONIC, &a->last_read);
            convert_all(a, (size_t)status);
            /* Not every device has a clock; where one has, its buffer overruns instead of ours. */
            ring_write_all(r, a->samples, (size_t)status);
            return CAPTURE_GOES_ON;
        }
        if (status == 0) {
            nap();
        }
    }
    if (status < 0 && status != -EAGAIN) {
        int error = recover(a, (int)status, r);
        if (error < 0) {
            *why = text_copy(snd_strerror(error));
            return CAPTURE_LOST;
        }
    }
    return CAPTURE_GOES_ON;
}

/* ALSA lists each card a dozen times, and parts of its machinery: "plughw" reaches every input of a
 * card and converts, and names without a card are those of a person's or a server's setup. */
static bool is_listed(const char *name)
{
    static const char *const machinery[] = {"null",  "lavrate",  "samplerate", "speexrate",
                                            "speex", "upmix",    "vdownmix",   "jack",
                                            "oss",   "usbstream"};
    if (strncmp(name, "plughw:", 7) == 0) {
        return true;
    }
    if (strstr(name, "CARD=") != NULL) {
        return false;
    }
    for (size_t i = 0; i < sizeof machinery / sizeof machinery[0]; i++) {
        if (strcmp(name, machinery[i]) == 0) {
            return false;
        }
    }
    snd_pcm_t *pcm;
    int status = snd_pcm_open(&pcm, name, SND_PCM_STREAM_CAPTURE, SND_PCM_NONBLOCK);
    if (status >= 0) {
        snd_pcm_close(pcm);
    }
    return status >= 0 || status == -EBUSY;
}

static void add_hint(capture_list *list, const void *hint)
{
    char *name = snd_device_name_get_hint(hint, "NAME");
    char *direction = snd_device_name_get_hint(hint, "IOID"); /* NULL: both */
    if (name != NULL && (direction == NULL || strcmp(direction, "Input") == 0) && is_listed(name)) {
        char *description = snd_device_name_get_hint(hint, "DESC");
        for (char *at = description; at != NULL && *at != '\0'; at++) {
            *at = *at == '\n' ? ' ' : *at;
        }
        backend_add(list, (capture_device){.source = text_join("alsa", ":", name),
                                           .description =
                                               text_copy(description != NULL ? description : name),
                                           .is_default = strcmp(name, "default") == 0});
        free(description);
    }
    free(name);
    free(direction);
}

static void alsa_list(capture_list *list, char **why)
{
    snd_lib_error_set_handler(be_quiet);
    void **hints = NULL;
    int status = snd_device_name_hint(-1, "pcm", &hints);
    if (status < 0) {
        *why = text_copy(snd_strerror(status));
        return;
    }
    for (size_t i = 0; hints[i] != NULL; i++) {
        add_hint(list, hints[i]);
    }
    snd_device_name_free_hint(hints);
}

static const backend alsa_backend = {"alsa", "ALSA", alsa_open, alsa_step, alsa_close, alsa_list};
const backend *const backend_alsa = &alsa_backend;
