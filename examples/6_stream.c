/* SPDX-License-Identifier: MIT */
/*
 * Live audio from a pipe: one line per window, as soon as its last sample is there.
 *
 *     arecord -q -t raw -f S16_LE -r 48000 -c 2 | 6_stream 48000 2
 *     6_stream 16000 1 2.5 0.5 < speech.raw       (a window of 2.5 s every 0.5 s)
 *
 * New here: a stream takes audio in any pieces, at any rate, and hands out windows; it has no
 * thread of its own. The input is raw 16-bit samples in this machine's byte order, with the
 * channels interleaved.
 */
#include <ser/ser.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PIECE = 16384 }; /* bytes per read(), more than a frame of 1024 channels */

static void check(int status)
{
    if (status != SER_OK) {
        fprintf(stderr, "%s: %s\n", ser_status_name(status), ser_error_message());
        exit(EXIT_FAILURE);
    }
}

/* All windows that are complete; what is borrowed is used before the next call with the stream. */
static void print_windows(ser_stream *stream, const ser_model *model)
{
    for (;;) {
        int32_t found;
        ser_stream_result result = {.struct_size = sizeof result};
        check(ser_stream_next(stream, &result, &found));
        if (!found) {
            break;
        }
        printf("%9.3f %9.3f  ", result.start, result.end);
        if (result.probabilities != NULL) {
            printf("%-12s %.3f", ser_model_label(model, (size_t)result.label),
                   (double)result.probabilities[result.label]);
        } else {
            printf("(quiet)");
        }
        printf("%s%s\n", result.flags & SER_AUDIO_SILENT ? "  silent" : "",
               result.flags & SER_AUDIO_CLIPPED ? "  clipped" : "");
    }
    fflush(stdout);
}

/* read() gives what is there, without waiting for a full buffer; it may end within a frame. */
static void listen(ser_stream *stream, const ser_model *model, size_t frame)
{
    union {
        char bytes[PIECE];
        int16_t samples[PIECE / sizeof(int16_t)];
    } piece;
    size_t held = 0;
    ssize_t got;
    while ((got = read(STDIN_FILENO, piece.bytes + held, sizeof piece - held)) > 0) {
        held += (size_t)got;
        size_t frames = held / frame;
        check(ser_stream_push_s16(stream, piece.samples, frames));
        held -= frames * frame;
        for (size_t i = 0; i < held; i++) {
            piece.bytes[i] = piece.bytes[frames * frame + i];
        }
        print_windows(stream, model);
    }
    if (got < 0) {
        perror("standard input");
        exit(EXIT_FAILURE);
    }
}

int main(int argc, char **argv)
{
    ser_stream_options options;
    ser_stream_options_init(&options, sizeof options);
    options.sampling_rate = argc > 1 ? atoi(argv[1]) : 0;
    options.channels = argc > 2 ? atoi(argv[2]) : 0;
    options.window = argc > 3 ? atof(argv[3]) : 0.0; /* 0: the model's own */
    options.hop = argc > 4 ? atof(argv[4]) : 0.0;    /* 0: window after window */
    if (argc < 3 || argc > 5) {
        fprintf(stderr, "usage: %s RATE CHANNELS [WINDOW [HOP]] < RAW\n", argv[0]);
        return EXIT_FAILURE;
    }
    ser_device *device;
    ser_model *model;
    ser_stream *stream;
    check(ser_device_open(NULL, &device));
    check(ser_model_load(device, NULL, NULL, &model));
    check(ser_stream_create(model, &options, &stream)); /* refuses what is out of range, by name */

    listen(stream, model, (size_t)options.channels * sizeof(int16_t));
    check(ser_stream_flush(stream)); /* the rest, if there is any, is the last window */
    print_windows(stream, model);

    ser_stream_free(&stream);
    ser_model_free(&model);
    ser_device_free(&device);
    return EXIT_SUCCESS;
}
