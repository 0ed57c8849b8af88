/* SPDX-License-Identifier: MIT */
/* From clips to probabilities: front end, batches, windows; what the public ser_predictor points
 * to. */
#ifndef SER_PREDICT_PREDICTOR_H
#define SER_PREDICT_PREDICTOR_H

#include <stddef.h>

#include <ser/predict.h>

/* See the public functions in ser/predict.h; options are complete and checked, arrays are large
 * enough. */
int ser_predictor_make(ser_model *model, const ser_predictor_options *options,
                       ser_predictor **predictor);
int ser_predictor_run(ser_predictor *predictor, const ser_audio *const *audios, size_t count,
                      float *probabilities);
int ser_predictor_describe(ser_predictor *predictor, size_t index, ser_prediction *prediction);
void ser_predictor_destroy(ser_predictor *predictor);

/* Classes of the predictor's model. */
size_t ser_predictor_label_count(const ser_predictor *predictor);

#endif
