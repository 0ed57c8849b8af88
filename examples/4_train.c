/* SPDX-License-Identifier: MIT */
/*
 * A model of one's own, from scratch: here one that tells low tones from high ones.
 *
 *     4_train model.safetensors                              with tones made here
 *     4_train model.safetensors low=a.wav high=b.wav ...     with files, the class before the "="
 *
 * New here: a fresh model, the trainer that has it to itself, clips that become batches, steps. For
 * people's emotions take many clips of many speakers, other speakers to evaluate on, and ser-train.
 */
#include <ser/ser.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLASSES = 2, MOST = 64, STEPS = 12, BATCH = 8 };

static const char *const classes[CLASSES] = {"low", "high"};

static void check(int status)
{
    if (status != SER_OK) {
        fprintf(stderr, "%s: %s\n", ser_status_name(status), ser_error_message());
        exit(EXIT_FAILURE);
    }
}

/* Half a second; the pitch and a little noise depend on `i`. */
static ser_audio *make_tone(int label, unsigned i)
{
    static float samples[8000];
    ser_audio *audio;
    double hertz = (label == 0 ? 200.0 : 1500.0) * (1.0 + 0.03 * i);
    unsigned noise = i;
    for (int t = 0; t < 8000; t++) {
        noise = noise * 1664525U + 1013904223U;
        samples[t] = 0.3F * (float)sin(2.0 * 3.14159265 * hertz * t / 16000.0) +
                     0.01F * ((float)(noise >> 8) / 8388608.0F - 1.0F);
    }
    check(ser_audio_from_samples(samples, 8000, 1, 16000, NULL, &audio));
    return audio;
}

/* "class=file" */
static ser_audio *read_clip(const char *argument, int32_t *label)
{
    ser_audio *audio;
    const char *equals = strchr(argument, '=');
    for (*label = 0; *label < CLASSES; (*label)++) {
        size_t length = strlen(classes[*label]);
        if (equals == argument + length && strncmp(argument, classes[*label], length) == 0) {
            check(ser_audio_read(equals + 1, NULL, &audio));
            return audio;
        }
    }
    fprintf(stderr, "%s: neither low=FILE nor high=FILE\n", argument);
    exit(EXIT_FAILURE);
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc - 2 > MOST) {
        fprintf(stderr, "usage: %s MODEL [low=CLIP | high=CLIP]...\n", argv[0]);
        return EXIT_FAILURE;
    }
    static ser_audio *audios[MOST];
    static ser_clip clips[MOST];
    size_t count = argc > 2 ? (size_t)argc - 2 : 16;
    for (size_t i = 0; i < count; i++) {
        int32_t label = (int32_t)i % CLASSES;
        audios[i] = argc > 2 ? read_clip(argv[2 + i], &label) : make_tone(label, (unsigned)i);
        clips[i] = (ser_clip){
            .struct_size = sizeof clips[i], .audio = audios[i], .id = i + 1, .label = label};
    }

    ser_device *device;
    ser_model *model;
    ser_trainer *trainer;
    ser_batch *batch;
    ser_trainer_options options;
    ser_trainer_options_init(&options, sizeof options);
    options.steps = STEPS; /* the learning rate rises, then falls to 0 over so many */
    options.rate = 1e-3F;  /* for a pre-trained backbone (ser_model_create) the default is right */
    check(ser_device_open(NULL, &device));
    check(ser_model_create_from_config(device, "ser-mini", classes, CLASSES, NULL, &model));
    check(ser_trainer_create(model, &options, &trainer)); /* no predictor may have the model now */

    /* a fresh log-mel model first learns how loud each frequency is */
    check(ser_batch_create(trainer, clips, count, 0, 0, &batch));
    check(ser_trainer_observe(trainer, batch));
    check(ser_trainer_settle(trainer));
    for (size_t n = 0; n < STEPS; n++) { /* every step another part of the clips */
        ser_batch *part;
        ser_step_result result = {.struct_size = sizeof result};
        size_t size = count < BATCH ? count : BATCH;
        size_t first = n * BATCH % (count - size + 1);
        check(ser_batch_create(trainer, clips + first, size, (int64_t)n, 1, &part));
        check(ser_train_step(trainer, part, &result));
        printf("step %2lld  loss %.3f  %d of %zu right\n", (long long)result.step, result.loss,
               result.correct, size);
        ser_batch_free(&part);
    }
    static float losses[MOST];
    double sum = 0.0;
    check(ser_trainer_evaluate(trainer, batch, losses, NULL));
    for (size_t i = 0; i < count; i++) {
        sum += (double)losses[i];
        ser_audio_free(&audios[i]);
    }
    printf("mean loss without dropout: %.3f\n", sum / (double)count);
    check(ser_trainer_save_model(trainer, argv[1], 1.0, "{\"by\": \"4_train\"}"));
    ser_batch_free(&batch);
    ser_trainer_free(&trainer); /* and predictors may have the model again */
    ser_model_free(&model);
    ser_device_free(&device);
    return EXIT_SUCCESS;
}
