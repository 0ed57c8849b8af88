/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Prediction: clips in, class probabilities out.
 */
#ifndef SER_PREDICT_H
#define SER_PREDICT_H

#include <ser/audio.h>
#include <ser/common.h>
#include <ser/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Scratch memory bound to one model. One thread at a time (SER_ERR_BUSY otherwise); any number of
 * predictors may share a model, each on its own thread.
 */
typedef struct ser_predictor ser_predictor;

/** How to predict. Fill with ser_predictor_options_init(), then change what you need. */
typedef struct ser_predictor_options {
    size_t struct_size;  /**< set by the init function */
    int32_t max_batch;   /**< clips computed together, 1..4096; default 8; more are done in turns */
    int32_t threads;     /**< CPU threads, 1..1024; 0 (default): as the device was opened */
    double max_seconds;  /**< take longer audio in windows; 0 (default): the model's own value */
    double window;       /**< seconds per such window; 0 (default): the model's own value */
} ser_predictor_options;

/** Bits of ser_prediction.flags beside those of ser_audio_info.flags. */
enum {
    SER_PREDICTION_WINDOWED = 1 << 16 /**< mean over windows, weighted by their length */
};

/** Details of one clip of the last call. Fill struct_size before the call. */
typedef struct ser_prediction {
    size_t struct_size;      /**< sizeof(ser_prediction), set by the caller */
    double start;            /**< seconds into the clip where the part that was used begins (silence is trimmed) */
    double end;              /**< seconds into the clip where it ends */
    double frame_start;      /**< seconds into the clip of the centre of attention frame 0 */
    double frame_step;       /**< seconds between attention frames */
    const float *attention;  /**< weight of each frame, sum 1; borrowed, valid until the next call; NULL if windowed */
    size_t attention_count;  /**< frames */
    const float *logits;     /**< one per class, before the softmax; borrowed like attention; NULL if windowed */
    size_t logits_count;     /**< classes */
    const float *embedding;  /**< the pooled hidden state; borrowed like attention; NULL if windowed */
    size_t embedding_count;  /**< hidden size */
    int32_t flags;           /**< SER_AUDIO_* and SER_PREDICTION_* bits */
    int32_t reserved;        /**< 0 */
} ser_prediction;

/** Zero `size` bytes at `options` and write the defaults. Since 0.1. */
SER_API void ser_predictor_options_init(ser_predictor_options *options, size_t size);

/**
 * A predictor for `model`, which it keeps a reference to. `options` NULL means defaults. The caller
 * frees `*predictor`. Errors: ARGUMENT, UNSUPPORTED, MEMORY, DEVICE. Since 0.1.
 */
SER_API int ser_predictor_create(ser_model *model, const ser_predictor_options *options,
                                 ser_predictor **predictor);

/**
 * Class probabilities of one clip: `probabilities` receives ser_model_label_count() floats in label
 * order, sum 1; `capacity` is the array's length (CAPACITY names the needed one if too small).
 * A clip under 400 samples (or one frame of the model) is padded with zeros to that and flagged SER_AUDIO_SHORT.
 * A clip longer than max_seconds is cut in windows, and the result is the mean of their
 * probabilities, weighted by their length.
 * Errors: ARGUMENT, CAPACITY, BUSY, MEMORY, DEVICE, NUMERIC (the network gave NaN). Since 0.1.
 */
SER_API int ser_predict(ser_predictor *predictor, const ser_audio *audio, float *probabilities,
                        size_t capacity);

/**
 * The same for `count` clips: row i of `probabilities` ([count, labels]) belongs to `audios[i]`. With padding "exact" a
 * clip's result does not depend on what it is batched with. Since 0.1.
 */
SER_API int ser_predict_batch(ser_predictor *predictor, const ser_audio *const *audios,
                              size_t count, float *probabilities, size_t capacity);

/** Details of clip `index` of the last successful call. Errors: ARGUMENT, BUSY. Since 0.1. */
SER_API int ser_predictor_get_prediction(const ser_predictor *predictor, size_t index,
                                         ser_prediction *prediction);

/** Free the predictor and null the handle; NULL is fine. Since 0.1. */
SER_API void ser_predictor_free(ser_predictor **predictor);

#ifdef __cplusplus
}
#endif

#endif
