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
 * predictors may share a model, each on its own thread. The memory is made by the first call, grows
 * when a longer clip or a larger batch comes, and stays until the predictor is freed.
 */
typedef struct ser_predictor ser_predictor;

/** How to predict. Fill with ser_predictor_options_init(), then change what you need. */
typedef struct ser_predictor_options {
    /** Set by the init function. */
    size_t struct_size;
    /** Clips computed together, 1..4096; 0 (default): 8, on a GPU 32. More are done in turns, and
     * so are clips that together are longer than max_batch windows. */
    int32_t max_batch;
    /** CPU threads, 1..1024; 0 (default): as the device was opened. In a forked process it is 1. */
    int32_t threads;
    /** Take longer audio in windows; 0.01..3600 s; 0 (default): the model's own value. */
    double max_seconds;
    /** Seconds per such window, at most max_seconds; 0 (default): the model's own value, or
     * max_seconds if that is less. */
    double window;
    /** SER_PADDING_*; how the clips of one call are padded. */
    int32_t padding;
    int32_t reserved; /**< must be 0 */
} ser_predictor_options;

/** Values of ser_predictor_options.padding. */
enum {
    SER_PADDING_MODEL = 0, /**< as the model asks (models/FORMAT.md, "padding"); the default */
    SER_PADDING_EXACT = 1, /**< every clip's result is the one that it has alone */
    SER_PADDING_HF = 2     /**< zeros up to the longest clip of the call count as sound */
};

/** Bits of ser_prediction.flags beside those of ser_audio_info.flags. */
enum {
    SER_PREDICTION_WINDOWED = 1 << 16 /**< mean over windows, weighted by their length */
};

/** Details of one clip of the last call. Fill struct_size before the call. */
typedef struct ser_prediction {
    /** sizeof(ser_prediction), set by the caller. */
    size_t struct_size;
    /** Seconds into the clip where the part that was used begins and ends (silence is trimmed); if
     * windowed, where the first window begins and the last one ends. */
    double start;
    double end;
    /** Seconds into the clip of the centre of attention frame 0, and between attention frames. */
    double frame_start;
    double frame_step;
    /** Weight of each frame, sum 1; borrowed, valid until the next call; NULL if windowed. With
     * padding "hf" the frames of the padding are among them. */
    const float *attention;
    /** Number of frames. */
    size_t attention_count; /**< 0 if windowed */
    /** One per class, before the softmax; borrowed like attention; NULL if windowed. */
    const float *logits;
    /** Number of classes. */
    size_t logits_count; /**< 0 if windowed */
    /** The pooled hidden state; borrowed like attention; NULL if windowed. */
    const float *embedding;
    /** Hidden size. */
    size_t embedding_count; /**< 0 if windowed */
    /** SER_AUDIO_* and SER_PREDICTION_* bits. */
    int32_t flags;
    /** 0. */
    int32_t reserved;
} ser_prediction;

/** Zero `size` bytes at `options` and write the defaults. Since 0.1. */
SER_API void ser_predictor_options_init(ser_predictor_options *options, size_t size);

/**
 * A predictor for `model`, which it keeps a reference to. `options` NULL means defaults. The caller
 * frees `*predictor`. Errors: ARGUMENT, UNSUPPORTED, BUSY (the model is from before a fork or in
 * training), MEMORY, DEVICE. Any thread. Since 0.1.
 */
SER_API int ser_predictor_create(ser_model *model, const ser_predictor_options *options,
                                 ser_predictor **predictor);

/**
 * Class probabilities of one clip: `probabilities` receives ser_model_label_count() floats in label
 * order, sum 1; `capacity` is the array's length (CAPACITY names the needed one if too small).
 *
 * Silence at both ends is trimmed if the model asks for it, then the rest is normalised. If that is
 * less than one frame of the model needs (400 samples for wav2vec 2.0), it is padded at its end
 * with zeros to that and flagged SER_AUDIO_SHORT. A clip longer than max_seconds (before trimming)
 * is cut in windows that stand end to end, the last one shorter; each is taken as a clip of its
 * own, and the result is the mean of their probabilities, weighted by their length before trimming.
 *
 * Errors: ARGUMENT, CAPACITY, BUSY, MEMORY, DEVICE, NUMERIC (the network gave NaN); nothing is
 * written then. Since 0.1.
 */
SER_API int ser_predict(ser_predictor *predictor, const ser_audio *audio, float *probabilities,
                        size_t capacity);

/**
 * The same for `count` clips: row i of `probabilities` ([count, labels]) belongs to `audios[i]`; no
 * clips are no error. With exact padding a clip's result does not depend on what it is batched
 * with, on the CPU to the last bit. With that of transformers (SER_PADDING_HF) every clip is padded
 * with zeros to the longest of the call (windows are not). They are computed max_batch at a time,
 * those of similar length together; a GPU computes while the next batch is made ready, so give it
 * several at once.
 * Since 0.1.
 */
SER_API int ser_predict_batch(ser_predictor *predictor, const ser_audio *const *audios,
                              size_t count, float *probabilities, size_t capacity);

/** Details of clip `index` of the last successful call; a failed call does not change them. Errors:
 * ARGUMENT, BUSY. Since 0.1. */
SER_API int ser_predictor_get_prediction(ser_predictor *predictor, size_t index,
                                         ser_prediction *prediction);

/** Free the predictor and null the handle; NULL is fine. Since 0.1. */
SER_API void ser_predictor_free(ser_predictor **predictor);

#ifdef __cplusplus
}
#endif

#endif
