/* SPDX-License-Identifier: MIT */
/* libser as a worker of bench.py: ser MODEL SAMPLES THREADS, the protocol of peers.py. */
#include <ser/ser.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_LABELS = 1000 };

static double now(void)
{
    struct timespec t;

    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(int status)
{
    if (status != SER_OK) {
        fprintf(stderr, "%s: %s\n", ser_status_name(status), ser_error_message());
        exit(1);
    }
}

/* The whole file of 16 kHz floats. */
static ser_audio *read_samples(const char *path)
{
    FILE *file = fopen(path, "rb");
    size_t size;
    float *samples;
    ser_audio *audio;

    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(1);
    }
    size = (size_t)ftell(file) / sizeof(float);
    rewind(file);
    samples = malloc(size * sizeof(float));
    if (samples == NULL || fread(samples, sizeof(float), size, file) != size) {
        perror(path);
        exit(1);
    }
    fclose(file);
    must(ser_audio_from_samples(samples, size, 1, SER_SAMPLING_RATE, NULL, &audio));
    free(samples);
    return audio;
}

static void print_logits(ser_predictor *predictor)
{
    ser_prediction details = {.struct_size = sizeof details};

    must(ser_predictor_get_prediction(predictor, 0, &details));
    for (size_t i = 0; i < details.logits_count; i++)
        printf("%s%.9g", i > 0 ? " " : "", (double)details.logits[i]);
    printf("\n");
}

int main(int argc, char **argv)
{
    float probabilities[MAX_LABELS];
    ser_device_options options;
    ser_predictor *predictor;
    ser_device *device;
    ser_audio *audio;
    ser_model *model;
    char line[16];

    if (argc != 4)
        return 2;
    ser_device_options_init(&options, sizeof options);
    options.kind = SER_DEVICE_CPU;
    options.threads = atoi(argv[3]);
    must(ser_device_open(&options, &device));
    must(ser_model_load(device, argv[1], NULL, &model));
    must(ser_predictor_create(model, NULL, &predictor));
    audio = read_samples(argv[2]);
    must(ser_predict(predictor, audio, probabilities, MAX_LABELS));
    printf("ready %s %s\n", ser_version_string(), ser_device_name(device));
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strcmp(line, "run\n") == 0) {
            double begin = now();

            must(ser_predict(predictor, audio, probabilities, MAX_LABELS));
            printf("%.6f\n", now() - begin);
        } else if (strcmp(line, "logits\n") == 0) {
            print_logits(predictor);
        }
        fflush(stdout);
    }
    ser_audio_free(&audio);
    ser_predictor_free(&predictor);
    ser_model_free(&model);
    ser_device_free(&device);
    return 0;
}
