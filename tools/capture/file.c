/* SPDX-License-Identifier: MIT */
/* Audio files and raw samples from standard input in the place of a microphone. */
#include "backend.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <ser/ser.h>

#include "message.h"
#include "text.h"

enum {
    LOWEST_RATE = 4000, /* what libser takes */
    HIGHEST_RATE = 768000,
    SLICE_MS = 20, /* what a file hands on at a time at the speed of sound, as a microphone would */
    MAX_CHANNELS = 1024
};

/* A file: decoded by libser a second at a time, 16 kHz mono, rounded to 16 bits. */
typedef struct file_source {
    ser_reader *reader;
    bool in_time;
    bool over;        /* all is decoded */
    int16_t *samples; /* [count] decoded */
    size_t count;
    size_t done;           /* of them handed on */
    struct timespec start; /* when sample 0 began to sound, monotonic */
    int64_t position;      /* samples handed on in all */
} file_source;

static void file_close(void *handle)
{
    file_source *f = handle;
    ser_reader_free(&f->reader);
    free(f->samples);
    free(f);
}

static int open_file(const char *path, bool in_time, backend_device *device, char **why)
{
    file_source *f = text_alloc(1, sizeof *f);
    f->in_time = in_time;
    int status = ser_reader_open(path, NULL, &f->reader);
    if (status != SER_OK) {
        *why = text_copy(ser_error_message());
        file_close(f);
        return message_exit_code(status);
    }
    clock_gettime(CLOCK_MONOTONIC, &f->start);
    *device = (backend_device){f, text_copy(path), text_copy(path), SER_SAMPLING_RATE, 1};
    return MESSAGE_EXIT_OK;
}

static int file_open(const char *name, const capture_options *wanted, backend_device *device,
                     char **why)
{
    (void)wanted; /* the difference is told, as for devices */
    return open_file(name, true, device, why);
}

static int fast_open(const char *name, const capture_options *wanted, backend_device *device,
                     char **why)
{
    (void)wanted;
    return open_file(name, false, device, why);
}

static capture_state decode_more(file_source *f, char **why)
{
    ser_audio *audio = NULL;
    if (ser_reader_next(f->reader, 1.0, 1.0, &audio, NULL) != SER_OK) {
        *why = text_copy(ser_error_message());
        return CAPTURE_LOST;
    }
    free(f->samples);
    f->samples = NULL;
    f->count = 0;
    f->done = 0;
    f->over = audio == NULL;
    if (f->over) {
        return CAPTURE_ENDED;
    }
    const float *decoded = ser_audio_samples(audio, &f->count);
    f->samples = text_alloc(f->count + 1, sizeof *f->samples);
    for (size_t i = 0; i < f->count; i++) {
        float value = fminf(fmaxf(decoded[i] * 32768.0F, -32768.0F), 32767.0F);
        f->samples[i] = (int16_t)lrintf(value);
    }
    ser_audio_free(&audio);
    return CAPTURE_GOES_ON;
}

/* Until the sample at `position` has sounded. */
static void sleep_until(const struct timespec *start, int64_t position)
{
    int64_t fraction = position % SER_SAMPLING_RATE * 1000000000 / SER_SAMPLING_RATE;
    struct timespec due = {.tv_sec = start->tv_sec + (time_t)(position / SER_SAMPLING_RATE),
                           .tv_nsec = start->tv_nsec + (long)fraction};
    if (due.tv_nsec >= 1000000000) {
        due.tv_nsec -= 1000000000;
        due.tv_sec++;
    }
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR) {
    }
}

static capture_state file_step(void *handle, ring *r, char **why)
{
    file_source *f = handle;
    if (f->done == f->count) {
        capture_state state = decode_more(f, why);
        if (state != CAPTURE_GOES_ON) {
            return state;
        }
    }
    size_t frames = f->count - f->done;
    if (f->in_time) {
        size_t slice = SER_SAMPLING_RATE / 1000 * SLICE_MS;
        frames = frames < slice ? frames : slice;
        sleep_until(&f->start, f->position + (int64_t)frames);
    }
    ring_write_all(r, f->samples + f->done, frames);
    f->done += frames;
    f->position += (int64_t)frames;
    return CAPTURE_GOES_ON;
}

/* Standard input: 16-bit little-endian samples, as they come. */
typedef struct raw_source {
    size_t frame; /* bytes */
    size_t held;  /* bytes of an incomplete frame at the start of `bytes` */
    bool begun;   /* the first bytes have been looked at */
    unsigned char bytes[1 << 15];
    int16_t samples[1 << 14];
} raw_source;

static int raw_open(const char *name, const capture_options *wanted, backend_device *device,
                    char **why)
{
    (void)name;
    int32_t channels = wanted->channels > 0 ? wanted->channels : 1;
    if (channels > MAX_CHANNELS) {
        *why = backend_text("%d channels, more than %d", (int)channels, (int)MAX_CHANNELS);
        return MESSAGE_EXIT_USAGE;
    }
    int32_t rate = wanted->rate > 0 ? wanted->rate : SER_SAMPLING_RATE;
    if (rate < LOWEST_RATE || rate > HIGHEST_RATE) {
        *why = backend_text("a rate of %d Hz, not %d to %d", (int)rate, (int)LOWEST_RATE,
                            (int)HIGHEST_RATE);
        return MESSAGE_EXIT_USAGE;
    }
    if (isatty(STDIN_FILENO)) {
        *why = text_copy("standard input is a terminal; pipe raw 16-bit samples into it");
        return MESSAGE_EXIT_USAGE;
    }
    raw_source *s = text_alloc(1, sizeof *s);
    s->frame = (size_t)channels * sizeof(int16_t);
    *device = (backend_device){s, NULL, text_copy("standard input"), rate, channels};
    return MESSAGE_EXIT_OK;
}

/* A file with a header would be heard as noise. */
static void warn_of_header(const raw_source *s, size_t bytes)
{
    static const char *const marks[] = {"RIFF", "RF64", "fLaC", "OggS", "FORM", "ID3"};
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        size_t length = strlen(marks[i]);
        if (bytes >= length && memcmp(s->bytes, marks[i], length) == 0) {
            message_warning("standard input looks like an audio file and is taken as raw samples; "
                            "--source file:FILE reads one");
            return;
        }
    }
}

/* Whole frames go on, the rest is held back. */
static void hand_on(raw_source *s, size_t bytes, ring *r)
{
    size_t whole = bytes / s->frame * s->frame;
    for (size_t i = 0; i < whole / 2; i++) {
        uint32_t value = (uint32_t)s->bytes[2 * i] | (uint32_t)s->bytes[2 * i + 1] << 8;
        s->samples[i] = (int16_t)(value < 0x8000U ? (int32_t)value : (int32_t)value - 0x10000);
    }
    ring_write_all(r, s->samples, whole / s->frame);
    s->held = bytes - whole;
    memmove(s->bytes, s->bytes + whole, s->held);
}

static capture_state raw_step(void *handle, ring *r, char **why)
{
    raw_source *s = handle;
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&input, 1, BACKEND_STEP_MS) == 0) {
        return CAPTURE_GOES_ON;
    }
    ssize_t got = read(STDIN_FILENO, s->bytes + s->held, sizeof s->bytes - s->held);
    if (got > 0) {
        if (!s->begun) {
            warn_of_header(s, s->held + (size_t)got);
            s->begun = s->held + (size_t)got >= sizeof(uint32_t);
        }
        hand_on(s, s->held + (size_t)got, r);
        return CAPTURE_GOES_ON;
    }
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
        return CAPTURE_GOES_ON;
    }
    if (got < 0) {
        *why = backend_text("standard input: %s", strerror(errno));
        return CAPTURE_LOST;
    }
    if (s->held > 0) {
        message_warning("standard input ends in the middle of a frame of %zu bytes: %zu left out",
                        s->frame, s->held);
    }
    return CAPTURE_ENDED;
}

const backend backend_file = {"file", NULL, file_open, file_step, file_close, NULL};
const backend backend_fast = {"fast", NULL, fast_open, file_step, file_close, NULL};
const backend backend_raw = {"-", NULL, raw_open, raw_step, free, NULL};
