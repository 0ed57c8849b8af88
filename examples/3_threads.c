/* SPDX-License-Identifier: MIT */
/*
 * A server in small: several threads share one model, each with a predictor of its own.
 *
 *     3_threads 4 a.wav b.flac c.mp3 ...
 *
 * New here: who may share what. A model and clips are immutable: any number of threads use them. A
 * predictor is scratch memory: one per thread. Error messages are per thread. With one CPU thread
 * per predictor the clips run side by side instead of one clip on all CPUs.
 */
#include <ser/ser.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_WORKERS = 64 };

typedef struct work {
    ser_model *model;
    char **names;
    size_t count;
    atomic_size_t next; /* first file that nobody has taken yet */
    atomic_size_t failures;
} work;

/* One file from disk to answer; 0 or a status whose text is this thread's own. */
static int predict_file(ser_predictor *predictor, const ser_model *model, const char *name,
                        float *probabilities)
{
    ser_audio *audio;
    size_t labels = ser_model_label_count(model);
    int status = ser_audio_read(name, NULL, &audio);
    if (status != SER_OK) {
        return status;
    }
    status = ser_predict(predictor, audio, probabilities, labels);
    ser_audio_free(&audio);
    if (status != SER_OK) {
        return status;
    }
    size_t best = 0;
    for (size_t k = 1; k < labels; k++) {
        best = probabilities[k] > probabilities[best] ? k : best;
    }
    printf("%-12s %.2f  %s\n", ser_model_label(model, best), (double)probabilities[best], name);
    return SER_OK;
}

static void *run(void *argument)
{
    work *w = argument;
    ser_predictor *predictor;
    ser_predictor_options options;
    ser_predictor_options_init(&options, sizeof options);
    options.threads = 1;
    float *probabilities = calloc(ser_model_label_count(w->model), sizeof *probabilities);
    if (probabilities == NULL || ser_predictor_create(w->model, &options, &predictor) != SER_OK) {
        free(probabilities);
        return NULL; /* the others will do the work */
    }
    for (;;) {
        size_t i = atomic_fetch_add(&w->next, 1);
        if (i >= w->count) {
            break;
        }
        if (predict_file(predictor, w->model, w->names[i], probabilities) != SER_OK) {
            fprintf(stderr, "%s\n", ser_error_message());
            atomic_fetch_add(&w->failures, 1);
        }
    }
    ser_predictor_free(&predictor);
    free(probabilities);
    return NULL;
}

int main(int argc, char **argv)
{
    int workers = argc > 2 ? atoi(argv[1]) : 0;
    if (workers < 1 || workers > MAX_WORKERS) {
        fprintf(stderr, "usage: %s THREADS CLIP...   (1 to %d threads)\n", argv[0], MAX_WORKERS);
        return EXIT_FAILURE;
    }
    ser_device *device;
    work w = {.names = argv + 2, .count = (size_t)argc - 2};
    if (ser_device_open(NULL, &device) != SER_OK ||
        ser_model_load(device, NULL, NULL, &w.model) != SER_OK) {
        fprintf(stderr, "%s\n", ser_error_message());
        return EXIT_FAILURE;
    }
    ser_device_free(&device); /* the model keeps what it needs */
    pthread_t threads[MAX_WORKERS];
    int started = 0;
    while (started < workers && pthread_create(&threads[started], NULL, run, &w) == 0) {
        started++;
    }
    for (int i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
    ser_model_free(&w.model);
    return atomic_load(&w.failures) == 0 && atomic_load(&w.next) >= w.count ? EXIT_SUCCESS
                                                                            : EXIT_FAILURE;
}
