/* SPDX-License-Identifier: MIT */
/* Windows of a file of any length, in memory that does not grow with it. */
#include <math.h>
#include <string.h>

#include "audio/audio.h"
#include "audio/pipeline.h"
#include "base/fail.h"
#include "base/mem.h"

/* Facts about one block of source frames, kept while a window may still need them. */
struct block {
    int64_t first; /* frame, counted from the start of what is read */
    struct ser_tally tally;
};

struct ser_reader {
    struct ser_pipeline pipeline;
    struct ser_samples samples; /* from sample `start` on */
    struct block *blocks;
    size_t block_count, block_capacity;

    double window_seconds, hop_seconds; /* 0 before the first call */
    int64_t window, hop;                /* samples at 16 kHz */
    int64_t start;                      /* of the next window, in samples */
    bool done;
    int failed; /* status of an earlier failure that the pipeline did not survive */
};

static int remember_block(ser_reader *reader, const struct ser_tally *tally, int64_t first)
{
    if (reader->block_count == reader->block_capacity) {
        size_t capacity = reader->block_capacity == 0 ? 64 : 2 * reader->block_capacity;
        int status =
            ser_mem_grow(&reader->blocks, reader->block_count, capacity, sizeof *reader->blocks);
        if (status != 0) {
            return status;
        }
        reader->block_capacity = capacity;
    }
    reader->blocks[reader->block_count++] = (struct block){.first = first, .tally = *tally};
    return 0;
}

static int step(ser_reader *reader)
{
    struct ser_tally tally;
    int64_t first = reader->pipeline.total.frames;
    int status = ser_pipeline_step(&reader->pipeline, &reader->samples, &tally);
    if (status == 0 && tally.frames > 0) {
        status = remember_block(reader, &tally, first);
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
    status = ser_pipeline_reserve(&made->pipeline, &made->samples);
    /* A file without audio fails here and not with its first window. */
    while (status == 0 && !made->pipeline.ended && made->samples.count == 0) {
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
        reader->window = llrint(window * SER_SAMPLING_RATE);
        reader->hop = llrint(hop * SER_SAMPLING_RATE);
        if (reader->hop < 1) {
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

/* Source frame that belongs to a sample at 16 kHz. */
static int64_t frame_of(const ser_reader *reader, int64_t sample)
{
    const struct ser_pipeline *pipeline = &reader->pipeline;
    int64_t seconds = sample / SER_SAMPLING_RATE;
    int64_t rest = sample % SER_SAMPLING_RATE;
    int64_t frame = seconds * pipeline->rate +
                    (rest * pipeline->rate + SER_SAMPLING_RATE / 2) / SER_SAMPLING_RATE;
    return frame < pipeline->total.frames ? frame : pipeline->total.frames;
}

/* Facts about the window: those of all blocks that it touches, and of its own samples. */
static void describe_window(const ser_reader *reader, ser_audio *clip, bool last)
{
    const struct ser_pipeline *pipeline = &reader->pipeline;
    struct ser_tally tally = {0};
    struct ser_level level = {0};
    int64_t begin = frame_of(reader, reader->start);
    int64_t end =
        last ? pipeline->total.frames : frame_of(reader, reader->start + (int64_t)clip->count);
    for (size_t i = 0; i < reader->block_count; i++) {
        const struct block *block = &reader->blocks[i];
        if (block->first < end && block->first + block->tally.frames > begin) {
            ser_tally_add(&tally, &block->tally);
        }
    }
    ser_level_add(&level, clip->samples, clip->count);
    clip->info = (ser_audio_info){
        .struct_size = sizeof clip->info,
        .frames = end - begin,
        .sampling_rate = pipeline->rate,
        .channels = pipeline->mixer.channels,
        .flags = last && pipeline->truncated ? SER_AUDIO_TRUNCATED : 0,
    };
    ser_describe(&clip->info, &tally, &level);
}

static void forget_blocks(ser_reader *reader)
{
    int64_t begin = frame_of(reader, reader->start);
    size_t gone = 0;
    while (gone < reader->block_count &&
           reader->blocks[gone].first + reader->blocks[gone].tally.frames <= begin) {
        gone++;
    }
    reader->block_count -= gone;
    memmove(reader->blocks, reader->blocks + gone, reader->block_count * sizeof *reader->blocks);
}

/* The clip's samples: the buffer itself if it holds nothing else, else a copy. */
static int take_samples(ser_reader *reader, size_t count, bool last, ser_audio *clip)
{
    struct ser_samples *samples = &reader->samples;
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
    memcpy(clip->samples, samples->data, count * sizeof *clip->samples);
    return 0;
}

/* A clip of the first `count` buffered samples, after which the reader has moved on. */
static int take_window(ser_reader *reader, size_t count, bool last, ser_audio **audio)
{
    ser_audio *clip = ser_mem_alloc(1, sizeof *clip);
    if (clip == NULL) {
        return SER_ERR_MEMORY;
    }
    const int status = take_samples(reader, count, last, clip);
    if (status != 0) {
        ser_mem_free(clip);
        return status;
    }
    clip->count = count;
    describe_window(reader, clip, last);
    if (last) {
        reader->done = true;
        reader->samples.count = 0;
    } else {
        size_t hop = (size_t)reader->hop;
        reader->samples.count -= hop;
        memmove(reader->samples.data, reader->samples.data + hop,
                reader->samples.count * sizeof *reader->samples.data);
        reader->start += reader->hop;
        forget_blocks(reader);
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
    size_t wanted = (size_t)reader->window;
    while (!reader->pipeline.ended && reader->samples.count <= wanted) {
        status = step(reader);
        if (status != 0) {
            return status;
        }
    }
    bool last = reader->samples.count <= wanted;
    double seconds = (double)reader->start / SER_SAMPLING_RATE;
    status = take_window(reader, last ? reader->samples.count : wanted, last, audio);
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
        ser_mem_free(reader->samples.data);
        ser_mem_free(reader->blocks);
        ser_mem_free(reader);
    }
}
