/* SPDX-License-Identifier: MIT */
#include "audio/windows.h"

#include <string.h>

#include "base/mem.h"

size_t ser_windows_waiting(const struct ser_windows *windows)
{
    return windows->samples.count - windows->begin;
}

const float *ser_windows_samples(const struct ser_windows *windows)
{
    return windows->samples.data + windows->begin;
}

static int reserve_blocks(struct ser_windows *windows, size_t more)
{
    const size_t needed = windows->block_count + more;
    if (needed <= windows->block_capacity) {
        return 0;
    }
    size_t capacity = windows->block_capacity == 0 ? 64 : 2 * windows->block_capacity;
    capacity = capacity > needed ? capacity : needed;
    int status =
        ser_mem_grow(&windows->blocks, windows->block_count, capacity, sizeof *windows->blocks);
    if (status == 0) {
        windows->block_capacity = capacity;
    }
    return status;
}

int ser_windows_reserve(struct ser_windows *windows, size_t blocks, size_t samples)
{
    int status = reserve_blocks(windows, blocks);
    return status == 0 ? ser_samples_reserve(&windows->samples, samples) : status;
}

int ser_windows_remember(struct ser_windows *windows, int64_t first, const struct ser_tally *tally)
{
    int status = reserve_blocks(windows, 1);
    if (status == 0) {
        windows->blocks[windows->block_count++] =
            (struct ser_block_facts){.first = first, .tally = *tally};
    }
    return status;
}

/* Source frame that belongs to a sample at 16 kHz. */
static int64_t frame_of(const struct ser_converter *converter, int64_t sample)
{
    const int64_t seconds = sample / SER_SAMPLING_RATE;
    const int64_t rest = sample % SER_SAMPLING_RATE;
    const int64_t frame = seconds * converter->rate +
                          (rest * converter->rate + SER_SAMPLING_RATE / 2) / SER_SAMPLING_RATE;
    return frame < converter->total.frames ? frame : converter->total.frames;
}

void ser_windows_describe(const struct ser_windows *windows, const struct ser_converter *converter,
                          size_t count, ser_audio_info *info)
{
    struct ser_tally tally = {0};
    struct ser_level level = {0};
    const int64_t begin = frame_of(converter, windows->start);
    const int64_t end = (int64_t)count < windows->size
                            ? converter->total.frames
                            : frame_of(converter, windows->start + windows->size);
    for (size_t i = windows->block_begin; i < windows->block_count; i++) {
        const struct ser_block_facts *block = &windows->blocks[i];
        if (block->first >= end) {
            break;
        }
        if (block->first + block->tally.frames > begin) {
            ser_tally_add(&tally, &block->tally);
        }
    }
    ser_level_add(&level, ser_windows_samples(windows), count);
    *info = (ser_audio_info){
        .struct_size = sizeof *info,
        .frames = end - begin,
        .sampling_rate = converter->rate,
        .channels = converter->mixer.channels,
    };
    ser_describe(info, &tally, &level);
}

static void forget_blocks(struct ser_windows *windows, const struct ser_converter *converter)
{
    const int64_t begin = frame_of(converter, windows->start);
    size_t first = windows->block_begin;
    while (first < windows->block_count &&
           windows->blocks[first].first + windows->blocks[first].tally.frames <= begin) {
        first++;
    }
    windows->block_begin = first;
}

/* What is kept, to the front of its buffers. */
static void compact(struct ser_windows *windows)
{
    struct ser_samples *samples = &windows->samples;
    samples->count -= windows->begin;
    memmove(samples->data, samples->data + windows->begin, samples->count * sizeof *samples->data);
    windows->begin = 0;
    windows->block_count -= windows->block_begin;
    memmove(windows->blocks, windows->blocks + windows->block_begin,
            windows->block_count * sizeof *windows->blocks);
    windows->block_begin = 0;
}

void ser_windows_advance(struct ser_windows *windows, const struct ser_converter *converter)
{
    windows->start += windows->hop;
    windows->begin += (size_t)windows->hop;
    forget_blocks(windows, converter);
    /* Moving is cheap while little waits; where much does, it must not happen for every window. */
    const size_t waiting = ser_windows_waiting(windows);
    if ((int64_t)waiting <= windows->size || windows->begin >= waiting) {
        compact(windows);
    }
}

void ser_windows_free(struct ser_windows *windows)
{
    ser_mem_free(windows->samples.data);
    ser_mem_free(windows->blocks);
    *windows = (struct ser_windows){0};
}
