/* SPDX-License-Identifier: MIT */
/* Windows of a file of any length, in memory that does not grow with it. */
#include <math.h>
#include <string.h>

#include "audio/audio.h"
#include "audio/pipeline.h"
#include "audio/windows.h"
#include "base/fail.h"
#include "base/mem.h"

struct ser_reader {
    struct ser_pipeline pipeline;
    struct ser_windows windows;
    double window_seconds, hop_seconds; /* 0 before the first call */
    bool done;
    int failed; /* status of an earlier failure that the pipeline did not survive */
};

static int step(ser_reader *reader)
{
    struct ser_tally tally;
    int64_t first = reader->pipeline.converter.total.frames;
    int status = ser_pipeline_step(&reader->pipeline, &reader->windows.samples, &tally);
    if (status == 0 && tally.frames > 0) {
        status = ser_windows_remember(&reader->windows, first, &tally);
    }
    reader->failed = status;
    return status;
}

int ser_reader_create(const char *path, const ser_audio_options *options, ser_reader **reader)
{
    ser_reader *made = ser_mem_alloc(1, sizeof *made);
    if (made == NULL) {
        return SER_ERR_MEMORY;
    }
    struct ser_origin origin = {.path = path};
    int status = ser_pipeline_open(&made->pipeline, &origin, options);
    if (status != 0) {
        ser_mem_free(made);
        return status;
    }
    status = ser_pipeline_reserve(&made->pipeline, &made->windows.samples);
    /* A file without audio fails here and not with its first window. */
    while (status == 0 && !made->pipeline.ended && made->windows.samples.count == 0) {
        status = step(made);
    }
    if (status != 0) {
        ser_reader_destroy(made);
        return status;
    }
    *reader = made;
    return 0;
}

static int fix_geometry(ser_reader *reader, double window, double hop)
{
    if (reader->window_seconds == 0.0) {
        reader->windows.size = llrint(window * SER_SAMPLING_RATE);
        reader->windows.hop = llrint(hop * SER_SAMPLING_RATE);
        if (reader->windows.hop < 1) {
            return ser_fail(SER_ERR_ARGUMENT, "ser_reader_next: hop is shorter than one sample");
        }
        reader->window_seconds = window;
        reader->hop_seconds = hop;
    } else if (window != reader->window_seconds || hop != reader->hop_seconds) {
        return ser_fail(SER_ERR_ARGUMENT,
                        "ser_reader_next: window and hop differ from the first call's");
    }
    return 0;
}

/* The clip's samples: the buffer itself if it holds nothing else, else a copy. */
static int take_samples(ser_reader *reader, size_t count, bool last, ser_audio *clip)
{
    struct ser_samples *samples = &reader->windows.samples;
    if (last && samples->count == count) {
        const int status = ser_samples_fit(samples);
        if (status == 0) {
            clip->samples = samples->data;
            *samples = (struct ser_samples){0};
        }
        return status;
    }
    clip->samples = ser_mem_alloc_raw(count, sizeof *clip->samples);
    if (clip->samples == NULL) {
        return SER_ERR_MEMORY;
    }
    memcpy(clip->samples, ser_windows_samples(&reader->windows), count * sizeof *clip->samples);
    return 0;
}

/* A clip of the first `count` samples that wait, after which the reader has moved on. */
static int take_window(ser_reader *reader, size_t count, bool last, ser_audio **audio)
{
    const struct ser_pipeline *pipeline = &reader->pipeline;
    ser_audio *clip = ser_mem_alloc(1, sizeof *clip);
    if (clip == NULL) {
        return SER_ERR_MEMORY;
    }
    clip->count = count;
    ser_windows_describe(&reader->windows, &pipeline->converter, count, &clip->info);
    clip->info.flags |= last && pipeline->truncated ? SER_AUDIO_TRUNCATED : 0;
    const int status = take_samples(reader, count, last, clip);
    if (status != 0) {
        ser_mem_free(clip);
        return status;
    }
    if (last) {
        reader->done = true;
        ser_windows_free(&reader->windows);
    } else {
        ser_windows_advance(&reader->windows, &pipeline->converter);
    }
    *audio = clip;
    return 0;
}

int ser_reader_read_window(ser_reader *reader, double window, double hop, ser_audio **audio,
                           double *start)
{
    if (reader->failed != 0) {
        return ser_fail(reader->failed, "%s: an earlier read failed (%s)",
                        ser_pipeline_name(&reader->pipeline), ser_status_name(reader->failed));
    }
    int status = fix_geometry(reader, window, hop);
    if (status != 0 || reader->done) {
        return status;
    }
    /* One sample more than the window tells whether it is the last one. */
    const size_t wanted = (size_t)reader->windows.size;
    while (!reader->pipeline.ended && ser_windows_waiting(&reader->windows) <= wanted) {
        status = step(reader);
        if (status != 0) {
            return status;
        }
    }
    const size_t waiting = ser_windows_waiting(&reader->windows);
    const bool last = waiting <= wanted;
    const double seconds = (double)reader->windows.start / SER_SAMPLING_RATE;
    status = take_window(reader, last ? waiting : wanted, last, audio);
    if (status == 0 && start != NULL) {
        *start = seconds;
    }
    return status;
}

bool ser_reader_is_done(const ser_reader *reader)
{
    return reader->done;
}

void ser_reader_describe(const ser_reader *reader, ser_audio_info *info)
{
    ser_pipeline_describe(&reader->pipeline, info);
}

void ser_reader_destroy(ser_reader *reader)
{
    if (reader != NULL) {
        ser_pipeline_close(&reader->pipeline);
        ser_windows_free(&reader->windows);
        ser_mem_free(reader);
    }
}
