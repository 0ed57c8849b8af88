/* SPDX-License-Identifier: MIT */
#include "audio/pipeline.h"

#include "base/fail.h"
#include "base/mem.h"

enum {
    BLOCKS_PER_SECOND = 50,
    BLOCK_SAMPLES = 1 << 16,
    TRUSTED_SAMPLES = 1 << 20, /* 65 s, 4 MiB: no harm where the header lies */
};

const char *ser_pipeline_name(const struct ser_pipeline *pipeline)
{
    return pipeline->frames != NULL ? "audio samples" : pipeline->decoder.source.name;
}

static int open_frames(struct ser_pipeline *pipeline, const struct ser_origin *origin)
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
    pipeline->rate = origin->rate;
    pipeline->mixer.channels = origin->channels;
    pipeline->mixer.full_scale = 1.0F;
    return 0;
}

static int open_decoder(struct ser_pipeline *pipeline, const struct ser_origin *origin)
{
    struct ser_decoder *decoder = &pipeline->decoder;
    int status =
        ser_decoder_open(decoder, origin->path, origin->bytes, origin->size, &pipeline->options);
    if (status != 0) {
        return status;
    }
    pipeline->first_frame = decoder->position;
    pipeline->rate = decoder->rate;
    pipeline->mixer.channels = decoder->channels;
    pipeline->mixer.full_scale = decoder->full_scale;
    return 0;
}

/* 20 ms, but not more than 65536 samples: both bound the memory and how finely facts are known. */
static int allocate_blocks(struct ser_pipeline *pipeline)
{
    int64_t channels = pipeline->mixer.channels;
    int64_t most = BLOCK_SAMPLES / channels;
    pipeline->block = pipeline->rate / BLOCKS_PER_SECOND;
    pipeline->block = pipeline->block < most ? pipeline->block : most;
    pipeline->mixed = ser_mem_alloc_raw((size_t)pipeline->block, sizeof *pipeline->mixed);
    if (pipeline->frames == NULL) {
        pipeline->interleaved =
            ser_mem_alloc_raw((size_t)(pipeline->block * channels), sizeof *pipeline->interleaved);
    }
    bool complete =
        pipeline->mixed != NULL && (pipeline->frames != NULL || pipeline->interleaved != NULL);
    return complete ? 0 : SER_ERR_MEMORY;
}

int ser_pipeline_open(struct ser_pipeline *pipeline, const struct ser_origin *origin,
                      const ser_audio_options *options)
{
    *pipeline = (struct ser_pipeline){.options = *options};
    int status =
        origin->frames != NULL ? open_frames(pipeline, origin) : open_decoder(pipeline, origin);
    if (status != 0) {
        return status;
    }
    pipeline->mixer.name = ser_pipeline_name(pipeline);
    pipeline->mixer.channel = options->channel;
    pipeline->mixer.nonfinite = options->nonfinite;
    status = allocate_blocks(pipeline);
    if (status == 0) {
        status = ser_resampler_open(&pipeline->resampler, pipeline->rate);
    }
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
    const int64_t samples = ser_resampled_count(frames < most ? frames : most, pipeline->rate);
    return ser_samples_reserve(out,
                               (size_t)(samples < TRUSTED_SAMPLES ? samples : TRUSTED_SAMPLES));
}

/* The next block, or `*count` 0 at the end. */
static int next_frames(struct ser_pipeline *pipeline, const float **x, int64_t *count)
{
    if (pipeline->frames == NULL) {
        *x = pipeline->interleaved;
        return ser_decoder_read(&pipeline->decoder, pipeline->interleaved, pipeline->block, count);
    }
    *x = pipeline->frames;
    *count = pipeline->frames_left < pipeline->block ? pipeline->frames_left : pipeline->block;
    pipeline->frames += *count * pipeline->mixer.channels;
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
    int status = ser_resampler_finish(&pipeline->resampler, out);
    if (status == 0 && pipeline->resampler.out == 0) {
        return ser_fail(SER_ERR_DATA, "%s: no audio: %s", name,
                        pipeline->total.frames > 0  ? "under half a sample at 16 kHz"
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
    int64_t first = pipeline->first_frame + pipeline->total.frames;
    size_t before = out->count;
    int status = next_frames(pipeline, &x, &count);
    if (status == 0 && count == 0) {
        status = finish(pipeline, out);
    } else if (status == 0) {
        status = ser_mix(&pipeline->mixer, x, count, first, pipeline->mixed, block);
        if (status == 0) {
            ser_tally_add(&pipeline->total, block);
            status = ser_resampler_push(&pipeline->resampler, pipeline->mixed, (size_t)count, out);
        }
    }
    if (status == 0 && out->count > before) {
        ser_level_add(&pipeline->level, out->data + before, out->count - before);
    }
    return status;
}

void ser_pipeline_describe(const struct ser_pipeline *pipeline, ser_audio_info *info)
{
    *info = (ser_audio_info){.struct_size = sizeof *info};
    info->frames = pipeline->total.frames;
    info->sampling_rate = pipeline->rate;
    info->channels = pipeline->mixer.channels;
    info->flags = pipeline->truncated ? SER_AUDIO_TRUNCATED : 0;
    ser_describe(info, &pipeline->total, &pipeline->level);
}

void ser_pipeline_close(struct ser_pipeline *pipeline)
{
    ser_resampler_close(&pipeline->resampler);
    ser_mem_free(pipeline->interleaved);
    ser_mem_free(pipeline->mixed);
    if (pipeline->decoder.source.name != NULL) {
        ser_decoder_close(&pipeline->decoder);
    }
    *pipeline = (struct ser_pipeline){0};
}
