/* SPDX-License-Identifier: MIT */
#include <ser/predict.h>

#include "api/options.h"
#include "base/fail.h"
#include "base/mem.h"
#include "predict/predictor.h"

enum { MAX_BATCH = 4096, MAX_THREADS = 1024 };

static const double min_stretch = 0.01; /* seconds */
static const double max_stretch = 3600.0;

static const ser_predictor_options defaults = {
    .struct_size = sizeof(ser_predictor_options),
};

void ser_predictor_options_init(ser_predictor_options *options, size_t size)
{
    ser_options_give(options, size, &defaults, sizeof defaults);
}

static int check_count(const char *name, int32_t value, int32_t least, int32_t most)
{
    if (value >= least && value <= most) {
        return 0;
    }
    return ser_fail(SER_ERR_ARGUMENT, "ser_predictor_options: %s is %d, not within %d..%d", name,
                    value, least, most);
}

static int check_stretch(const char *name, double seconds)
{
    if (seconds == 0.0 || (seconds >= min_stretch && seconds <= max_stretch)) {
        return 0;
    }
    return ser_fail(SER_ERR_ARGUMENT, "ser_predictor_options: %s is %g, not 0 or within %g..%g s",
                    name, seconds, min_stretch, max_stretch);
}

int ser_predictor_create(ser_model *model, const ser_predictor_options *options,
                         ser_predictor **predictor)
{
    if (predictor == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_predictor_create: predictor is NULL");
    }
    *predictor = NULL;
    if (model == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_predictor_create: model is NULL");
    }
    ser_predictor_options own = defaults;
    int status = ser_options_take(&own, sizeof own, options, "ser_predictor_options");
    if (status == 0 && own.reserved != 0) {
        status = ser_fail(SER_ERR_UNSUPPORTED, "ser_predictor_options: reserved must be 0");
    }
    if (status == 0) {
        status = check_count("max_batch", own.max_batch, 0, MAX_BATCH);
    }
    if (status == 0) {
        status = check_count("threads", own.threads, 0, MAX_THREADS);
    }
    if (status == 0) {
        status = check_count("padding", own.padding, SER_PADDING_MODEL, SER_PADDING_HF);
    }
    if (status == 0) {
        status = check_stretch("max_seconds", own.max_seconds);
    }
    if (status == 0) {
        status = check_stretch("window", own.window);
    }
    return status == 0 ? ser_predictor_make(model, &own, predictor) : status;
}

int ser_predict(ser_predictor *predictor, const ser_audio *audio, float *probabilities,
                size_t capacity)
{
    return ser_predict_batch(predictor, &audio, 1, probabilities, capacity);
}

int ser_predict_batch(ser_predictor *predictor, const ser_audio *const *audios, size_t count,
                      float *probabilities, size_t capacity)
{
    size_t need = SIZE_MAX;
    if (predictor == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_predict: predictor is NULL");
    }
    if (count > 0 && (audios == NULL || probabilities == NULL)) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_predict: %s is NULL",
                        audios == NULL ? "audios" : "probabilities");
    }
    for (size_t i = 0; i < count; i++) {
        if (audios[i] == NULL) {
            return ser_fail(SER_ERR_ARGUMENT, "ser_predict: audio %zu is NULL", i);
        }
    }
    size_t labels = ser_predictor_label_count(predictor);
    if (!ser_mul_size(count, labels, &need) || capacity < need) {
        return ser_fail(SER_ERR_CAPACITY,
                        "ser_predict: capacity is %zu, %zu clips with %zu labels need %zu",
                        capacity, count, labels, need);
    }
    return ser_predictor_run(predictor, audios, count, probabilities);
}

int ser_predictor_get_prediction(ser_predictor *predictor, size_t index, ser_prediction *prediction)
{
    ser_prediction own;
    if (predictor == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_predictor_get_prediction: predictor is NULL");
    }
    int status = ser_predictor_describe(predictor, index, &own);
    return status == 0 ? ser_result_give(prediction, &own, sizeof own, "ser_prediction") : status;
}

void ser_predictor_free(ser_predictor **predictor)
{
    if (predictor != NULL) {
        ser_predictor_destroy(*predictor);
        *predictor = NULL;
    }
}
