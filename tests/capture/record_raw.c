/* SPDX-License-Identifier: MIT */
/*
 * What tools/capture gives, as raw 16-bit samples on standard output; what happens goes to standard
 * error:
 *
 *     record_raw [-r RATE] [-c CHANNELS] [-s SECONDS] [-a SECONDS] [-t] [SOURCE]
 *     record_raw -l
 *
 * -s: end after so much sound; -a: after a loss try again for so long; -t: "read FRAMES TIME" for
 * each read, in seconds of the monotonic clock; -l: the list of devices, tab-separated.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "capture/capture.h"
#include "message.h"
#include "stop.h"

enum { CAPACITY = 4096 };

typedef struct arguments {
    capture_options capture;
    double seconds;
    double again;
    bool times;
    bool list;
} arguments;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static arguments parse(int argc, char **argv)
{
    arguments a = {.seconds = 1e9};
    int option;
    while ((option = getopt(argc, argv, "r:c:s:a:tl")) != -1) {
        switch (option) {
        case 'r': a.capture.rate = atoi(optarg); break;
        case 'c': a.capture.channels = atoi(optarg); break;
        case 's': a.seconds = atof(optarg); break;
        case 'a': a.again = atof(optarg); break;
        case 't': a.times = true; break;
        case 'l': a.list = true; break;
        default: exit(MESSAGE_EXIT_USAGE);
        }
    }
    a.capture.source = argv[optind];
    return a;
}

static int print_list(void)
{
    capture_list list;
    char *why = NULL;
    int status = capture_list_devices(&list, &why);
    for (size_t i = 0; i < list.count; i++) {
        const capture_device *d = &list.items[i];
        printf("%s\t%s\t%s\t%s\n", d->source, d->description, d->is_default ? "default" : "",
               d->is_monitor ? "monitor" : "");
    }
    if (why != NULL) {
        fprintf(stderr, "none: %s\n", why);
    }
    free(why);
    capture_list_free(&list);
    return status;
}

static bool open_again(capture *c, double seconds)
{
    for (double end = now() + seconds; now() < end;) {
        if (capture_reopen(c)) {
            fprintf(stderr, "reopened\n");
            return true;
        }
        usleep(50000);
    }
    return false;
}

static capture_state record(capture *c, const arguments *a)
{
    int16_t *samples = malloc(CAPACITY * (size_t)capture_channels(c) * sizeof *samples);
    if (samples == NULL) {
        return CAPTURE_LOST;
    }
    capture_state state = CAPTURE_GOES_ON;
    size_t left = (size_t)llround(a->seconds * capture_rate(c));
    while (state == CAPTURE_GOES_ON && stop_requested() == 0 && left > 0) {
        size_t frames = 0;
        state = capture_read(c, samples, left < CAPACITY ? left : CAPACITY, 0.5, &frames);
        fwrite(samples, (size_t)capture_channels(c) * sizeof *samples, frames, stdout);
        fflush(stdout);
        if (a->times) {
            fprintf(stderr, "read %zu %.6f\n", frames, now());
        }
        left -= frames;
        if (state == CAPTURE_LOST) {
            fprintf(stderr, "lost %s\n", capture_reason(c));
            state = open_again(c, a->again) ? CAPTURE_GOES_ON : state;
        }
    }
    free(samples);
    return state;
}

int main(int argc, char **argv)
{
    arguments a = parse(argc, argv);
    message_init("record_raw");
    stop_install();
    if (a.list) {
        return print_list();
    }
    capture *c = NULL;
    int status = capture_open(&a.capture, &c);
    if (status != MESSAGE_EXIT_OK) {
        return status;
    }
    fprintf(stderr, "open %d %d %s %s\n", (int)capture_rate(c), (int)capture_channels(c),
            capture_source(c), capture_description(c));
    capture_state state = record(c, &a);
    capture_losses losses = capture_lost(c);
    fprintf(stderr, "losses %lld %lld\n", (long long)losses.overruns, (long long)losses.frames);
    capture_close(&c);
    return state == CAPTURE_LOST ? MESSAGE_EXIT_CAPTURE : MESSAGE_EXIT_OK;
}
