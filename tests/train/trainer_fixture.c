/* SPDX-License-Identifier: MIT */
#include "trainer_fixture.h"

#include <math.h>

bool on_cuda(void)
{
    const char *kind = getenv("SER_TEST_DEVICE");
    return kind != NULL && strcmp(kind, "cuda") == 0;
}

ser_device *device;
int32_t precision;
ser_model *model;
ser_trainer *trainer;
ser_trainer_options options;
ser_audio *tones[CLIPS];

static const char *const labels[LABELS] = {"low", "middle", "high"};

static ser_audio *tone(int i)
{
    ser_audio *audio;
    size_t count = 3200 + 377 * (size_t)(i % 4);
    double hertz = 250.0 * pow(3.0, i % LABELS) * (1.0 + 0.02 * i);
    float *samples = malloc(count * sizeof *samples);
    harness_fill(samples, count, (uint64_t)i + 1, 0.02F);
    for (size_t t = 0; t < count; t++) {
        samples[t] += 0.3F * (float)sin(2.0 * 3.14159265 * hertz * (double)t / 16000.0);
    }
    assert_ok(ser_audio_from_samples(samples, count, 1, 16000, NULL, &audio));
    free(samples);
    return audio;
}

void trainer_setup(void)
{
    ser_device_options device_options;
    ser_device_options_init(&device_options, sizeof device_options);
    device_options.kind = on_cuda() ? SER_DEVICE_CUDA : SER_DEVICE_CPU;
    device_options.threads = 1;
    assert_ok(ser_device_open(&device_options, &device));
    const char *wanted = getenv("SER_TEST_PRECISION");
    precision =
        wanted != NULL && strcmp(wanted, "bf16") == 0 ? SER_PRECISION_BF16 : SER_PRECISION_F32;
    for (int i = 0; i < CLIPS; i++) {
        tones[i] = tone(i);
    }
    ser_trainer_options_init(&options, sizeof options);
    options.steps = 20;
    options.warmup_steps = 0;
    options.schedule = SER_SCHEDULE_CONSTANT;
    options.rate = 1e-3F;
    options.projection_dropout = 0.0F;
    options.hidden_dropout = 0.0F;
    options.attention_dropout = 0.0F;
    options.classifier_dropout = 0.0F;
    options.mask_time_probability = 0.0F;
}

void trainer_teardown(void)
{
    ser_trainer_free(&trainer);
    ser_model_free(&model);
    ser_device_free(&device);
    for (int i = 0; i < CLIPS; i++) {
        ser_audio_free(&tones[i]);
    }
    ck_assert_int_eq(ser_mem_live(), 0);
}

const char *tiny_config(int kind)
{
    static const char *const configs[ALL_KINDS] = {
        "{\"features\": {\"type\": \"conv\", \"conv_dim\": [8, 8, 8], \"conv_kernel\": [10, 4, 4],"
        "  \"conv_stride\": [5, 4, 4], \"conv_bias\": false, \"norm\": \"group\"},"
        " \"encoder\": {\"hidden_size\": 16, \"num_hidden_layers\": 2, \"num_attention_heads\": 2,"
        "  \"intermediate_size\": 24, \"norm\": \"post\", \"position_kernel\": 6,"
        "  \"position_groups\": 4},"
        " \"pooling\": {\"type\": \"attention\"},"
        " \"classifier\": {\"sizes\": [12], \"activation\": \"relu\"}}",
        "{\"features\": {\"type\": \"logmel\", \"mel\": {\"frame\": 400, \"hop\": 160,"
        "  \"fft\": 512, \"bins\": 20, \"low\": 50, \"high\": 7600, \"floor\": 1e-5},"
        "  \"conv_dim\": [16, 16], \"conv_kernel\": [3, 3], \"conv_stride\": [2, 1],"
        "  \"conv_padding\": [1, 1], \"conv_bias\": true, \"norm\": \"layer\"},"
        " \"encoder\": {\"hidden_size\": 16, \"num_hidden_layers\": 2, \"num_attention_heads\": 2,"
        "  \"intermediate_size\": 24, \"norm\": \"pre\", \"position_kernel\": 5,"
        "  \"position_groups\": 4},"
        " \"layer_mix\": true, \"pooling\": {\"type\": \"attention\", \"hidden\": 6},"
        " \"classifier\": {\"sizes\": [12], \"activation\": \"gelu\"}}",
        "{\"features\": {\"type\": \"conv\", \"conv_dim\": [8, 8, 8], \"conv_kernel\": [10, 4, 4],"
        "  \"conv_stride\": [5, 4, 4], \"conv_bias\": true, \"norm\": \"layer\"},"
        " \"encoder\": {\"hidden_size\": 16, \"num_hidden_layers\": 3, \"num_attention_heads\": 2,"
        "  \"intermediate_size\": 24, \"norm\": \"pre\", \"position_kernel\": 6,"
        "  \"position_groups\": 2},"
        " \"layer_mix\": true, \"pooling\": {\"type\": \"mean\"},"
        " \"classifier\": {\"sizes\": [12], \"activation\": \"gelu\"}}",
    };
    return configs[kind];
}

ser_model_options model_settings(uint64_t seed)
{
    ser_model_options settings;
    ser_model_options_init(&settings, sizeof settings);
    settings.seed = seed;
    settings.precision = precision;
    return settings;
}

void make_model_of(const char *config, uint64_t seed)
{
    const ser_model_options settings = model_settings(seed);
    ser_trainer_free(&trainer);
    ser_model_free(&model);
    assert_ok(ser_model_create_from_config(device, config, labels, LABELS, &settings, &model));
}

void make_model(int kind, uint64_t seed)
{
    make_model_of(tiny_config(kind), seed);
}

void make_trainer(void)
{
    ser_trainer_free(&trainer);
    assert_ok(ser_trainer_create(model, &options, &trainer));
}

ser_clip clip_of(int i)
{
    return (ser_clip){.struct_size = sizeof(ser_clip),
                      .audio = tones[i],
                      .id = 100 + (uint64_t)i,
                      .label = i % LABELS};
}

ser_batch *make_batch(int first, int count)
{
    ser_clip clips[CLIPS];
    ser_batch *batch;
    for (int i = 0; i < count; i++) {
        clips[i] = clip_of(first + i);
    }
    assert_ok(ser_batch_create(trainer, clips, (size_t)count, 0, 0, &batch));
    return batch;
}

ser_step_result step(const ser_batch *batch)
{
    ser_step_result result = {.struct_size = sizeof result};
    assert_ok(ser_train_step(trainer, batch, &result));
    return result;
}

float *weights(size_t *count)
{
    const ser_params *params = ser_net_params(model->net);
    *count = (size_t)model->parameter_count;
    float *values = malloc(*count * sizeof *values);
    float *to = values;
    for (size_t i = 0; i < params->count; i++) {
        assert_ok(ser_net_get(model->net, i, to));
        to += ser_param_elements(&params->list[i]);
    }
    return values;
}

double difference(const float *a, const float *b, size_t count)
{
    double worst = 0.0;
    for (size_t i = 0; i < count; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        worst = d > worst || isnan(d) ? d : worst;
    }
    return worst;
}
