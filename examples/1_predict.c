/* SPDX-License-Identifier: MIT */
/*
 * One audio file, one answer, and which part of the clip spoke for it.
 *
 *     1_predict clip.wav [model]
 *
 * New here: the four handles of every program (device, model, predictor, audio), errors, details.
 */
#include <ser/ser.h>

#include <stdio.h>
#include <stdlib.h>

/* Every failing function leaves a sentence that names the file, the field and the limit. */
static void check(int status)
{
    if (status != SER_OK) {
        fprintf(stderr, "%s: %s\n", ser_status_name(status), ser_error_message());
        exit(EXIT_FAILURE);
    }
}

static void print_probabilities(const ser_model *model, const float *probabilities)
{
    for (size_t i = 0; i < ser_model_label_count(model); i++) {
        printf("%-12s %.3f\n", ser_model_label(model, i), (double)probabilities[i]);
    }
}

/* Models that pool by attention tell how much each frame weighed; NULL for a clip cut in windows.
 */
static void print_peak(ser_predictor *predictor)
{
    ser_prediction details = {.struct_size = sizeof details};
    check(ser_predictor_get_prediction(predictor, 0, &details));
    if (details.flags & SER_AUDIO_SILENT) {
        puts("(the clip is silent)");
    }
    if (details.attention != NULL) {
        size_t best = 0;
        for (size_t t = 1; t < details.attention_count; t++) {
            best = details.attention[t] > details.attention[best] ? t : best;
        }
        printf("listened to %.2f..%.2f s, most of all around %.2f s\n", details.start, details.end,
               details.frame_start + details.frame_step * (double)best);
    }
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: %s CLIP [MODEL]\n", argv[0]);
        return EXIT_FAILURE;
    }
    ser_device *device;
    ser_model *model;
    ser_predictor *predictor;
    ser_audio *audio;
    const char *path = argc == 3 ? argv[2] : NULL; /* NULL: the bundled model */
    check(ser_device_open(NULL, &device));         /* NULL: the best there is */
    check(ser_model_load(device, path, NULL, &model));
    check(ser_predictor_create(model, NULL, &predictor));
    check(ser_audio_read(argv[1], NULL, &audio)); /* any format, rate and number of channels */

    size_t labels = ser_model_label_count(model);
    float *probabilities = calloc(labels, sizeof *probabilities);
    if (probabilities == NULL) {
        return EXIT_FAILURE;
    }
    check(ser_predict(predictor, audio, probabilities, labels));
    print_probabilities(model, probabilities);
    print_peak(predictor);

    free(probabilities);
    ser_audio_free(&audio);
    ser_predictor_free(&predictor);
    ser_model_free(&model);
    ser_device_free(&device);
    return EXIT_SUCCESS;
}
