/* SPDX-License-Identifier: MIT */
/*
 * Training steps through the public API; cpu/bench_training.py compares them with PyTorch's.
 *
 *     bench_training create BACKBONE MODEL
 *     bench_training train MODEL CLIPS COUNT THREADS DROPOUTS [STEPS]
 *
 * `create` writes the model file MODEL: a transformers directory with a fresh head of eight
 * classes, or a fresh network of a built-in architecture ("ser-mini").
 *
 * `train` makes one batch of COUNT clips, all of one length, from CLIPS (16 kHz floats, clip after
 * clip; clip i has label i modulo 8). DROPOUTS are probabilities: projection,hidden,attention,
 * classifier. It does STEPS steps, or one for every line on stdin, and prints a line of JSON for
 * each. Outputs of frozen convolutions are cached, so the first step is slower than the others.
 */
#include <ser/ser.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "net/training.h"

enum { LABELS = 8, MAX_CLIPS = 4096 };

static double update_seconds;

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

/* The linker puts this one before ser_training_apply (--wrap): the public step has both halves. The
 * last call of a step is the one that is not a plan. */
int __real_ser_training_apply(ser_training *training, const ser_step *step);
int __wrap_ser_training_apply(ser_training *training, const ser_step *step);

int __wrap_ser_training_apply(ser_training *training, const ser_step *step)
{
    double begin = now();
    int status = __real_ser_training_apply(training, step);
    update_seconds = now() - begin;
    return status;
}

static void must(int status)
{
    if (status != SER_OK) {
        fprintf(stderr, "%s: %s\n", ser_status_name(status), ser_error_message());
        exit(1);
    }
}

static ser_device *open_device(int32_t threads)
{
    ser_device_options options;
    ser_device *device = NULL;
    ser_device_options_init(&options, sizeof options);
    options.kind = SER_DEVICE_CPU;
    options.threads = threads;
    must(ser_device_open(&options, &device));
    return device;
}

/* --- create --- */

static int create(const char *backbone, const char *path)
{
    static const char *const labels[LABELS] = {"neutral", "calm",    "happy",   "sad",
                                               "angry",   "fearful", "disgust", "surprised"};
    ser_device *device = open_device(0);
    ser_model *model = NULL;
    struct stat info;
    if (stat(backbone, &info) == 0 && S_ISDIR(info.st_mode)) {
        must(ser_model_create(device, backbone, labels, LABELS, NULL, &model));
    } else {
        must(ser_model_create_from_config(device, backbone, labels, LABELS, NULL, &model));
    }
    must(ser_model_save(model, path));
    printf("%llu parameters\n", (unsigned long long)ser_model_parameter_count(model));
    ser_model_free(&model);
    ser_device_free(&device);
    return 0;
}

/* --- train --- */

/* [count, *samples] */
static float *read_clips(const char *path, size_t count, size_t *samples)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    float *clips = NULL;
    if (file != NULL && fstat(fileno(file), &info) == 0) {
        *samples = (size_t)info.st_size / sizeof *clips / count;
        clips = malloc(count * *samples * sizeof *clips);
    }
    if (clips == NULL || fread(clips, *samples * sizeof *clips, count, file) != count) {
        perror(path);
        exit(1);
    }
    fclose(file);
    return clips;
}

static ser_batch *make_batch(const ser_trainer *trainer, const char *path, size_t count)
{
    ser_clip *clips = calloc(count, sizeof *clips);
    ser_audio **audio = calloc(count, sizeof(ser_audio *));
    ser_batch *batch = NULL;
    size_t samples = 0;
    float *all = read_clips(path, count, &samples);
    if (clips == NULL || audio == NULL) {
        perror(path);
        exit(1);
    }
    for (size_t i = 0; i < count; i++) {
        must(ser_audio_from_samples(all + i * samples, samples, 1, SER_SAMPLING_RATE, NULL,
                                    &audio[i]));
        clips[i] = (ser_clip){.struct_size = sizeof *clips,
                              .audio = audio[i],
                              .id = i + 1,
                              .label = (int32_t)(i % LABELS)};
    }
    must(ser_batch_create(trainer, clips, count, 0, 0, &batch));
    for (size_t i = 0; i < count; i++) {
        ser_audio_free(&audio[i]);
    }
    free(audio);
    free(clips);
    free(all);
    return batch;
}

/* AdamW with its defaults at a constant rate, gradients clipped at norm 1; no masked spans. */
static ser_trainer *make_trainer(ser_model *model, const char *dropouts)
{
    ser_trainer_options options;
    ser_trainer *trainer = NULL;
    ser_trainer_options_init(&options, sizeof options);
    options.schedule = SER_SCHEDULE_CONSTANT;
    options.warmup_steps = 0;
    options.rate = 1e-4F;
    options.mask_time_probability = 0.0F;
    if (sscanf(dropouts, "%f,%f,%f,%f", &options.projection_dropout, &options.hidden_dropout,
               &options.attention_dropout, &options.classifier_dropout) != 4) {
        fprintf(stderr, "%s: not projection,hidden,attention,classifier\n", dropouts);
        exit(1);
    }
    must(ser_trainer_create(model, &options, &trainer));
    return trainer;
}

/* In bytes; rusage's maximum would count the parent's memory before the exec. */
static long long peak_memory(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    long long kb = 0;
    char line[256];
    while (file != NULL && kb == 0 && fgets(line, sizeof line, file) != NULL) {
        (void)sscanf(line, "VmHWM: %lld", &kb);
    }
    if (file != NULL) {
        fclose(file);
    }
    return kb * 1024;
}

static void step(ser_trainer *trainer, const ser_batch *batch)
{
    ser_step_result result = {.struct_size = sizeof result};
    double begin = now();
    double cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    must(ser_train_step(trainer, batch, &result));
    double seconds = now() - begin;
    cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("{\"forward_backward_ms\": %.3f, \"update_ms\": %.3f, \"cpu_ms\": %.3f, "
           "\"loss\": %.9g, \"gradient_norm\": %.9g, \"peak_bytes\": %lld}\n",
           1e3 * (seconds - update_seconds), 1e3 * update_seconds, 1e3 * cpu, result.loss,
           result.gradient_norm, peak_memory());
    fflush(stdout);
}

static int train(char **arguments, int steps)
{
    const int count = atoi(arguments[2]);
    char line[16];
    if (count < 1 || count > MAX_CLIPS) {
        fprintf(stderr, "%s: not 1..%d clips\n", arguments[2], MAX_CLIPS);
        return 2;
    }
    ser_device *device = open_device(atoi(arguments[3]));
    ser_model *model = NULL;
    must(ser_model_load(device, arguments[0], NULL, &model));
    ser_trainer *trainer = make_trainer(model, arguments[4]);
    ser_batch *batch = make_batch(trainer, arguments[1], (size_t)count);
    printf("ready %s %s\n", ser_version_string(), ser_device_name(device));
    fflush(stdout);
    for (int i = 0; i < steps; i++) {
        step(trainer, batch);
    }
    while (steps == 0 && fgets(line, sizeof line, stdin) != NULL) {
        step(trainer, batch);
    }
    ser_batch_free(&batch);
    ser_trainer_free(&trainer);
    ser_model_free(&model);
    ser_device_free(&device);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "create") == 0) {
        return create(argv[2], argv[3]);
    }
    if ((argc == 7 || argc == 8) && strcmp(argv[1], "train") == 0) {
        return train(argv + 2, argc == 8 ? atoi(argv[7]) : 0);
    }
    fprintf(stderr, "usage: bench_training create BACKBONE MODEL\n"
                    "       bench_training train MODEL CLIPS COUNT THREADS DROPOUTS [STEPS]\n");
    return 2;
}
