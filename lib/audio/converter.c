/* SPDX-License-Identifier: MIT */
#include "audio/converter.h"

#include "base/mem.h"

enum { BLOCKS_PER_SECOND = 50, BLOCK_SAMPLES = 1 << 16 };

int ser_converter_open(struct ser_converter *converter, const struct ser_mixer *mixer, int32_t rate)
{
    *converter = (struct ser_converter){.rate = rate, .mixer = *mixer};
    /* 20 ms, but not more than 65536 samples: both bound the memory, and how finely facts are
     * known. */
    const int64_t most = BLOCK_SAMPLES / mixer->channels;
    converter->block = rate / BLOCKS_PER_SECOND < most ? rate / BLOCKS_PER_SECOND : most;
    converter->mixed = ser_mem_alloc_raw((size_t)converter->block, sizeof *converter->mixed);
    int status =
        converter->mixed != NULL ? ser_resampler_open(&converter->resampler, rate) : SER_ERR_MEMORY;
    if (status != 0) {
        ser_converter_close(converter);
    }
    return status;
}

int ser_converter_push(struct ser_converter *converter, const float *x, int64_t frames,
                       int64_t first, struct ser_samples *out, struct ser_tally *tally)
{
    int status = ser_mix(&converter->mixer, x, frames, first, converter->mixed, tally);
    if (status != 0) {
        return status;
    }
    ser_tally_add(&converter->total, tally);
    return ser_resampler_push(&converter->resampler, converter->mixed, (size_t)frames, out);
}

int ser_converter_finish(struct ser_converter *converter, struct ser_samples *out)
{
    return ser_resampler_finish(&converter->resampler, out);
}

void ser_converter_close(struct ser_converter *converter)
{
    ser_resampler_close(&converter->resampler);
    ser_mem_free(converter->mixed);
    *converter = (struct ser_converter){0};
}
