/* SPDX-License-Identifier: MIT */
#include "fixture.h"

ser_device *device;
ser_model *model;
ser_predictor *predictor;

const char *golden_path(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", harness_data("golden"), name);
    return path;
}

void load(const char *name)
{
    ser_model_free(&model);
    assert_ok(ser_model_load(device, golden_path(name), NULL, &model));
}

void setup(void)
{
    ser_device_options options;
    ser_device_options_init(&options, sizeof options);
    options.kind = SER_DEVICE_CPU;
    options.threads = 1;
    assert_ok(ser_device_open(&options, &device));
    load("attention_pool.model.safetensors");
}

void teardown(void)
{
    ser_predictor_free(&predictor);
    ser_model_free(&model);
    ser_device_free(&device);
    ck_assert_int_eq(ser_mem_live(), 0);
}

ser_predictor_options options_of(int32_t max_batch, double max_seconds, double window)
{
    ser_predictor_options options;
    ser_predictor_options_init(&options, sizeof options);
    options.max_batch = max_batch;
    options.max_seconds = max_seconds;
    options.window = window;
    return options;
}

void create(const ser_predictor_options *options)
{
    ser_predictor_free(&predictor);
    assert_ok(ser_predictor_create(model, options, &predictor));
}

ser_audio *clip_of(const float *samples, size_t count)
{
    ser_audio *audio;
    assert_ok(ser_audio_from_samples(samples, count, 1, 16000, NULL, &audio));
    return audio;
}

ser_audio *noise(size_t count, uint64_t seed)
{
    float *samples = malloc(count * sizeof *samples);
    harness_fill(samples, count, seed, 0.3F);
    ser_audio *audio = clip_of(samples, count);
    free(samples);
    return audio;
}

ser_prediction details(size_t index)
{
    ser_prediction p = {.struct_size = sizeof p};
    assert_ok(ser_predictor_get_prediction(predictor, index, &p));
    return p;
}

const size_t lengths[CLIPS] = {16000, 400, 9001, 399, 52000, 401, 9001};

void make_clips(ser_audio *clips[CLIPS])
{
    for (size_t i = 0; i < CLIPS; i++) {
        clips[i] = noise(lengths[i], i + 1);
    }
}

void free_clips(ser_audio *clips[CLIPS])
{
    for (size_t i = 0; i < CLIPS; i++) {
        ser_audio_free(&clips[i]);
    }
}
