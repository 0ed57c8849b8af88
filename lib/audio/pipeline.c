/* SPDX-License-Identifier: MIT */
#include "audio/pipeline.h"

#include "base/fail.h"
#include "base/mem.h"

enum { TRUSTED_SAMPLES = 1 << 20 }; /* 65 s, 4 MiB: no harm where the header lies */

const char *ser_pipeline_name(const struct ser_pipeline *pipeline)
{
    return pipeline->frames != NULL ? "audio samples" : pipeline->decoder.source.name;
}

/* Both set what the mixer must know of the source, and its rate. */
static int open_frames(struct ser_pipeline *pipeline, const struct ser_origin *origin,
                       struct ser_mixer *mixer, int32_t *rate)
{
    const ser_audio_options *options = &pipeline->options;
    pipeline->frames = origin->frames;
    int status = ser_check_channel(ser_pipeline_name(pipeline), options->channel, origin->channels);
    if (status != 0) {
        return status;
    }
    int64_t offset = ser_seconds_to_frames(options->offset, origin->rate);
    if (offset > origin->frame_count) {
        return ser_fail(SER_ERR_DATA, "%s: no audio: the offset is beyond the end",
                        ser_pipeline_name(pipeline));
    }
    pipeline->first_frame = offset;
    pipeline->frames += offset * origin->channels;
    pipeline->frames_left = origin->frame_count - offset;
    int64_t length = ser_seconds_to_frames(options->length, origin->rate);
    if (options->length > 0.0 && length < pipeline->frames_left) {
        pipeline->frames_left = length;
    }
    mixer->channels = origin->channels;
    mixer->full_scale = 1.0F;
    *rate = origin->rate;
    return 0;
}

static int open_decoder(struct ser_pipeline *pipeline, const struct ser_origin *origin,
                        struct ser_mixer *mixer, int32_t *rate)
{
    struct ser_decoder *decoder = &pipeline->decoder;
    int status =
        ser_decoder_open(decoder, origin->path, origin->bytes, origin->size, &pipeline->options);
    if (status != 0) {
        return status;
    }
    pipeline->first_frame = decoder->position;
    mixer->channels = decoder->channels;
    mixer->full_scale = decoder->full_scale;
    *rate = decoder->rate;
    return 0;
}

static int allocate_frames(struct ser_pipeline *pipeline)
{
    const struct ser_converter *converter = &pipeline->converter;
    if (pipeline->frames != NULL) {
        return 0;
    }
    pipeline->interleaved = ser_mem_alloc_raw(
        (size_t)(converter->block * converter->mixer.channels), sizeof *pipeline->interleaved);
    return pipeline->interleaved != NULL ? 0 : SER_ERR_MEMORY;
}

int ser_pipeline_open(struct ser_pipeline *pipeline, const struct ser_origin *origin,
                      const ser_audio_options *options)
{
    *pipeline = (struct ser_pipeline){.options = *options};
    struct ser_mixer mixer = {.channel = options->channel, .nonfinite = options->nonfinite};
    int32_t rate = 0;
    int status = origin->frames != NULL ? open_frames(pipeline, origin, &mixer, &rate)
                                        : open_decoder(pipeline, origin, &mixer, &rate);
    if (status != 0) {
        return status;
    }
    mixer.name = ser_pipeline_name(pipeline);
    status = ser_converter_open(&pipeline->converter, &mixer, rate);
    status = status == 0 ? allocate_frames(pipeline) : status;
    if (status != 0) {
        ser_pipeline_close(pipeline);
    }
    return status;
}

int ser_pipeline_reserve(const struct ser_pipeline *pipeline, struct ser_samples *out)
{
    const struct ser_decoder *decoder = &pipeline->decoder;
    int64_t frames = pipeline->frames_left;
    if (pipeline->frames == NULL) {
        frames = decoder->claimed > decoder->position ? decoder->claimed - decoder->position : 0;
        frames = frames < decoder->remaining ? frames : decoder->remaining;
    }
    const int64_t most = (int64_t)1 << 32; /* what a header claims may be anything */
    const int64_t samples =
        ser_resampled_count(frames < most ? frames : most, pipeline->converter.rate);
    return ser_samples_reserve(out,
                               (size_t)(samples < TRUSTED_SAMPLES ? samples : TRUSTED_SAMPLES));
}

/* The next block, or `*count` 0 at the end. */
static int next_frames(struct ser_pipeline *pipeline, const float **x, int64_t *count)
{
    const int64_t block = pipeline->converter.block;
    if (pipeline->frames == NULL) {
        *x = pipeline->interleaved;
        return ser_decoder_read(&pipeline->decoder, pipeline->interleaved, block, count);
    }
    *x = pipeline->frames;
    *count = pipeline->frames_left < block ? pipeline->frames_left : block;
    pipeline->frames += *count * pipeline->converter.mixer.channels;
    pipeline->frames_left -= *count;
    return 0;
}

static int finish(struct ser_pipeline *pipeline, struct ser_samples *out)
{
    const char *name = ser_pipeline_name(pipeline);
    pipeline->ended = true;
    pipeline->truncated = pipeline->decoder.damaged;
    if (pipeline->truncated && pipeline->options.strict != 0) {
        return ser_fail(SER_ERR_DATA, "%s: truncated or damaged after sample %lld", name,
                        (long long)pipeline->decoder.position);
    }
    struct ser_converter *converter = &pipeline->converter;
    int status = ser_converter_finish(converter, out);
    if (status == 0 && converter->resampler.out == 0) {
        return ser_fail(SER_ERR_DATA, "%s: no audio: %s", name,
                        converter->total.frames > 0 ? "under half a sample at 16 kHz"
                        : pipeline->first_frame > 0 ? "the offset is at its end"
                                                    : "it has no samples");
    }
    return status;
}

int ser_pipeline_step(struct ser_pipeline *pipeline, struct ser_samples *out,
                      struct ser_tally *block)
{
    *block = (struct ser_tally){0};
    const float *x;
    int64_t count;
    struct ser_converter *converter = &pipeline->converter;
    int64_t first = pipeline->first_frame + converter->total.frames;
    size_t before = out->count;
    int status = next_frames(pipeline, &x, &count);
    if (status == 0 && count == 0) {
        status = finish(pipeline, out);
    } else if (status == 0) {
        status = ser_converter_push(converter, x, count, first, out, block);
    }
    if (status == 0 && out->count > before) {
        ser_level_add(&pipeline->level, out->data + before, out->count - before);
    }
    return status;
}

void ser_pipeline_describe(const struct ser_pipeline *pipeline, ser_audio_info *info)
{
    *info = (ser_audio_info){.struct_size = sizeof *info};
    info->frames = pipeline->converter.total.frames;
    info->sampling_rate = pipeline->converter.rate;
    info->channels = pipeline->converter.mixer.channels;
    info->flags = pipeline->truncated ? SER_AUDIO_TRUNCATED : 0;
    ser_describe(info, &pipeline->converter.total, &pipeline->level);
}

void ser_pipeline_close(struct ser_pipeline *pipeline)
{
    ser_converter_close(&pipeline->converter);
    ser_mem_free(pipeline->interleaved);
    if (pipeline->decoder.source.name != NULL) {
        ser_decoder_close(&pipeline->decoder);
    }
    *pipeline = (struct ser_pipeline){0};
}
