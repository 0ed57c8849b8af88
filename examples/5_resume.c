/* SPDX-License-Identifier: MIT */
/*
 * A run that may be stopped at any moment, by Ctrl-C or by a power cut, and goes on when it is
 * started again, to the same bits as if it had never stopped.
 *
 *     5_resume DIR [STEPS]        checkpoint and model are kept in DIR; 8 steps
 *
 * New here: checkpoints and their note, cancelling from a signal handler. What makes it exact: every
 * random number follows from the seed, the epoch and the clip's id, and which clips a step takes
 * follows from its number.
 */
#include <ser/ser.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CLASSES = 2, CLIPS = 8, BATCH = 4, STEPS_PER_SAVE = 2 };

static const char *const classes[CLASSES] = {"buzz", "hiss"};
static ser_trainer *trainer; /* for the signal handler */

static void check(int status)
{
    if (status != SER_OK) {
        fprintf(stderr, "%s: %s\n", ser_status_name(status), ser_error_message());
        exit(EXIT_FAILURE);
    }
}

static void stop(int signal_number)
{
    (void)signal_number;
    ser_trainer_cancel(trainer); /* the next step returns SER_ERR_CANCELLED */
}

/* A third of a second of pulses or of noise. */
static ser_audio *make_clip(int label, unsigned i)
{
    static float samples[5600];
    ser_audio *audio;
    unsigned state = i + 1;
    for (unsigned t = 0; t < 5600; t++) {
        state = state * 1664525U + 1013904223U;
        float noise = (float)(state >> 8) / 8388608.0F - 1.0F;
        samples[t] = label == 0 ? (t % (100 + 5 * i) < 10 ? 0.5F : 0.0F) : 0.2F * noise;
    }
    check(ser_audio_from_samples(samples, 5600, 1, 16000, NULL, &audio));
    return audio;
}

/* One update; the clips that it takes depend on its number alone. */
static int train(const ser_clip *clips, int64_t number)
{
    ser_batch *batch;
    ser_step_result result = {.struct_size = sizeof result};
    int64_t batches_per_epoch = CLIPS / BATCH;
    const ser_clip *first = clips + BATCH * (number % batches_per_epoch);
    check(ser_batch_create(trainer, first, BATCH, number / batches_per_epoch, 1, &batch));
    int status = ser_train_step(trainer, batch, &result);
    ser_batch_free(&batch);
    if (status == SER_OK) {
        printf("step %2lld  loss %.6f\n", (long long)result.step, result.loss);
    }
    return status;
}

int main(int argc, char **argv)
{
    int64_t steps = argc == 3 ? atoi(argv[2]) : 8;
    char checkpoint[4096], file[4096];
    if (argc < 2 || argc > 3 || steps < 1 || strlen(argv[1]) > 4000) {
        fprintf(stderr, "usage: %s DIR [STEPS]\n", argv[0]);
        return EXIT_FAILURE;
    }
    (void)mkdir(argv[1], 0777); /* if it cannot be made, saving will say why */
    snprintf(checkpoint, sizeof checkpoint, "%s/checkpoint", argv[1]);
    snprintf(file, sizeof file, "%s/model.safetensors", argv[1]);

    ser_device *device;
    ser_model *model;
    ser_audio *audios[CLIPS];
    ser_clip clips[CLIPS];
    ser_trainer_options options;
    ser_trainer_options_init(&options, sizeof options);
    options.steps = 100; /* the schedule's length must not change between the parts of a run */
    options.rate = 5e-4F;
    check(ser_device_open(NULL, &device));
    check(ser_model_create_from_config(device, "ser-mini", classes, CLASSES, NULL, &model));
    check(ser_trainer_create(model, &options, &trainer));
    for (unsigned i = 0; i < CLIPS; i++) {
        audios[i] = make_clip((int)i % CLASSES, i);
        clips[i] = (ser_clip){.struct_size = sizeof clips[i],
                              .audio = audios[i],
                              .id = i + 1,
                              .label = (int32_t)i % CLASSES};
    }

    const char *note = NULL;
    int status = ser_trainer_restore(trainer, checkpoint, &note);
    if (status == SER_OK) {
        printf("going on after step %lld (%s)\n", (long long)ser_trainer_steps(trainer), note);
    } else if (status != SER_ERR_IO) { /* there is one, but it is damaged or of another model */
        check(status);
    }
    signal(SIGINT, stop);
    status = SER_OK;
    while (status == SER_OK && ser_trainer_steps(trainer) < steps) {
        status = train(clips, ser_trainer_steps(trainer));
        if (status == SER_OK && ser_trainer_steps(trainer) % STEPS_PER_SAVE == 0) {
            check(ser_trainer_save(trainer, checkpoint, "all is well"));
        }
    }
    signal(SIGINT, SIG_DFL);
    if (status == SER_ERR_CANCELLED) { /* nothing was lost: save once more */
        check(ser_trainer_save(trainer, checkpoint, "stopped by hand"));
        puts("stopped; start again to go on");
    } else {
        check(status);
        check(ser_trainer_save_model(trainer, file, 1.0, NULL));
    }

    for (int i = 0; i < CLIPS; i++) {
        ser_audio_free(&audios[i]);
    }
    ser_trainer_free(&trainer);
    ser_model_free(&model);
    ser_device_free(&device);
    return EXIT_SUCCESS;
}
