/* SPDX-License-Identifier: MIT */
/*
 * Many files: read them all, predict them in batches, print the best label of each.
 *
 *     2_batch a.wav b.flac c.mp3 ...
 *
 * New here: option structs, ser_predict_batch, files that cannot be read, flags of a clip.
 */
#include <ser/ser.h>

#include <stdio.h>
#include <stdlib.h>

static void check(int status)
{
    if (status != SER_OK) {
        fprintf(stderr, "%s: %s\n", ser_status_name(status), ser_error_message());
        exit(EXIT_FAILURE);
    }
}

/* Read what can be read; `names` is left with the files that `clips` holds. */
static size_t read_all(char **names, size_t count, ser_audio **clips)
{
    size_t kept = 0;
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options); /* always first: it knows the defaults */
    options.max_seconds = 600.0;
    for (size_t i = 0; i < count; i++) {
        if (ser_audio_read(names[i], &options, &clips[kept]) == SER_OK) {
            names[kept++] = names[i];
        } else {
            fprintf(stderr, "skipped: %s\n", ser_error_message());
        }
    }
    return kept;
}

static void print_row(const ser_model *model, ser_predictor *predictor, size_t index,
                      const char *name, const float *row)
{
    size_t best = 0;
    for (size_t k = 1; k < ser_model_label_count(model); k++) {
        best = row[k] > row[best] ? k : best;
    }
    ser_prediction details = {.struct_size = sizeof details};
    check(ser_predictor_get_prediction(predictor, index, &details));
    printf("%-12s %.2f  %s%s%s%s\n", ser_model_label(model, best), (double)row[best], name,
           details.flags & SER_AUDIO_SHORT ? " (short)" : "",
           details.flags & SER_AUDIO_CLIPPED ? " (clipped)" : "",
           details.flags & SER_PREDICTION_WINDOWED ? " (in windows)" : "");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s CLIP...\n", argv[0]);
        return EXIT_FAILURE;
    }
    ser_device *device;
    ser_model *model;
    ser_predictor *predictor;
    ser_predictor_options options;
    ser_predictor_options_init(&options, sizeof options);
    options.max_batch =
        16; /* more clips than that are done in turns; a clip's result is the same */
    check(ser_device_open(NULL, &device));
    check(ser_model_load(device, NULL, NULL, &model));
    check(ser_predictor_create(model, &options, &predictor));

    size_t labels = ser_model_label_count(model);
    ser_audio **clips = calloc((size_t)argc, sizeof *clips);
    float *probabilities =
        calloc((size_t)argc * labels, sizeof *probabilities); /* [clips, labels] */
    if (clips == NULL || probabilities == NULL) {
        return EXIT_FAILURE;
    }
    size_t count = read_all(argv + 1, (size_t)argc - 1, clips);
    check(ser_predict_batch(predictor, (const ser_audio *const *)clips, count, probabilities,
                            count * labels));
    for (size_t i = 0; i < count; i++) {
        print_row(model, predictor, i, argv[1 + i], probabilities + i * labels);
    }

    for (size_t i = 0; i < count; i++) {
        ser_audio_free(&clips[i]);
    }
    free(probabilities);
    free(clips);
    ser_predictor_free(&predictor);
    ser_model_free(&model);
    ser_device_free(&device);
    return count + 1 == (size_t)argc ? EXIT_SUCCESS : EXIT_FAILURE;
}
