/* SPDX-License-Identifier: MIT */
/* Whole clips in memory. */
#include "audio/audio.h"
#include "audio/pipeline.h"
#include "base/fail.h"
#include "base/mem.h"

/* Seconds as text, without the decimal comma that some locales would print. */
static int too_long(const struct ser_pipeline *pipeline)
{
    double ms = pipeline->options.max_seconds * 1000.0;
    return ser_fail(
        SER_ERR_CAPACITY,
        "%s: longer than max_seconds, %lld.%03lld; raise it, or read windows (ser_reader)",
        ser_pipeline_name(pipeline), (long long)(ms / 1000.0), (long long)ms % 1000);
}

static int decode_all(struct ser_pipeline *pipeline, struct ser_samples *samples)
{
    double max_seconds = pipeline->options.max_seconds;
    double max_frames =
        max_seconds > 0.0 ? max_seconds * pipeline->converter.rate : (double)INT64_MAX;
    while (!pipeline->ended) {
        struct ser_tally block;
        int status = ser_pipeline_step(pipeline, samples, &block);
        if (status != 0) {
            return status;
        }
        if ((double)pipeline->converter.total.frames > max_frames) {
            return too_long(pipeline);
        }
    }
    return 0;
}

static int load(const struct ser_origin *origin, const ser_audio_options *options,
                ser_audio **audio)
{
    struct ser_pipeline pipeline;
    struct ser_samples samples = {0};
    ser_audio *clip = NULL;
    int status = ser_pipeline_open(&pipeline, origin, options);
    if (status != 0) {
        return status;
    }
    status = ser_pipeline_reserve(&pipeline, &samples);
    if (status == 0) {
        status = decode_all(&pipeline, &samples);
    }
    if (status == 0) {
        status = ser_samples_fit(&samples);
    }
    if (status == 0) {
        clip = ser_mem_alloc(1, sizeof *clip);
        status = clip != NULL ? 0 : SER_ERR_MEMORY;
    }
    if (status == 0) {
        clip->samples = samples.data;
        clip->count = samples.count;
        ser_pipeline_describe(&pipeline, &clip->info);
        *audio = clip;
    } else {
        ser_mem_free(samples.data);
    }
    ser_pipeline_close(&pipeline);
    return status;
}

int ser_audio_load(const char *path, const ser_audio_options *options, ser_audio **audio)
{
    struct ser_origin origin = {.path = path};
    return load(&origin, options, audio);
}

int ser_audio_load_memory(const void *data, size_t size, const ser_audio_options *options,
                          ser_audio **audio)
{
    struct ser_origin origin = {.bytes = data, .size = size};
    return load(&origin, options, audio);
}

int ser_audio_convert(const float *samples, size_t frames, int32_t channels, int32_t sampling_rate,
                      const ser_audio_options *options, ser_audio **audio)
{
    struct ser_origin origin = {
        .frames = samples,
        .frame_count = (int64_t)frames,
        .channels = channels,
        .rate = sampling_rate,
    };
    return load(&origin, options, audio);
}

void ser_audio_destroy(ser_audio *audio)
{
    if (audio != NULL) {
        ser_mem_free(audio->samples);
        ser_mem_free(audio);
    }
}
