/* SPDX-License-Identifier: MIT */
/* Decode and convert. Whole clips and windows come out of the same pipeline, so they hold the same
 * samples. */
#ifndef SER_AUDIO_PIPELINE_H
#define SER_AUDIO_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ser/audio.h>

#include "audio/converter.h"
#include "audio/decoder.h"

/* Where samples come from: a path, `size` bytes of a file, or frames that are decoded already. */
struct ser_origin {
    const char *path;
    const void *bytes;
    size_t size;
    const float *frames; /* [frame_count][channels] */
    int64_t frame_count;
    int32_t channels, rate; /* of `frames` */
};

struct ser_pipeline {
    ser_audio_options options;
    struct ser_decoder decoder; /* unused with `frames` */
    const float *frames;        /* caller's, or NULL */
    int64_t frames_left;
    int64_t first_frame; /* number in the source of the first frame after the offset */

    struct ser_converter converter;
    float *interleaved; /* [converter.block][channels]; unused with `frames` */

    struct ser_level level;
    bool ended;
    bool truncated;
};

int ser_pipeline_open(struct ser_pipeline *pipeline, const struct ser_origin *origin,
                      const ser_audio_options *options);

/* Room in `out` for what the header promises, as far as that is modest. */
int ser_pipeline_reserve(const struct ser_pipeline *pipeline, struct ser_samples *out);

/* Decode one block and append to `out` what it makes available, which may be nothing. `*block`
 * receives the facts about it. At the end `ended` is set. Not to be called again after that, nor
 * after a failure. */
int ser_pipeline_step(struct ser_pipeline *pipeline, struct ser_samples *out,
                      struct ser_tally *block);

/* Facts about all that was read so far. */
void ser_pipeline_describe(const struct ser_pipeline *pipeline, ser_audio_info *info);

const char *ser_pipeline_name(const struct ser_pipeline *pipeline);

void ser_pipeline_close(struct ser_pipeline *pipeline);

#endif
