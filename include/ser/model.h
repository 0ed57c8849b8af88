/* SPDX-License-Identifier: MIT */
/**
 * @file
 * Models: load, create, save, describe.
 *
 * A model is one safetensors file (models/FORMAT.md), or a directory as Hugging Face transformers
 * saves it (config.json and model.safetensors or a sharded index) with a finished
 * Wav2Vec2ForSequenceClassification or HubertForSequenceClassification. Both are untrusted input.
 * Where a directory has no safetensors file, pytorch_model.bin is read, in the zip format of
 * PyTorch since 1.6, by a reader that executes nothing (a libser without libzip: UNSUPPORTED).
 */
#ifndef SER_MODEL_H
#define SER_MODEL_H

#include <ser/common.h>
#include <ser/device.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * A network with its weights, labels and audio front end. Immutable while predictors use it;
 * reference-counted; any number of threads may share it.
 */
typedef struct ser_model ser_model;

/** Number formats of weights and activations. */
enum {
    SER_PRECISION_AUTO = 0, /**< f32 on the CPU, bf16 with f32 sums on CUDA */
    SER_PRECISION_F32 = 1,
    SER_PRECISION_BF16 = 2 /**< where the device has it; otherwise f32, saying so in the log */
};

/** How to load or create a model. Fill with ser_model_options_init(), then change what you need. */
typedef struct ser_model_options {
    size_t struct_size; /**< set by the init function */
    int32_t precision;  /**< SER_PRECISION_*; default AUTO */
    int32_t strict;     /**< 1: NaN or infinite weights are an error; 0 (default): a warning */
    uint64_t seed;      /**< of a fresh head (ser_model_create only); default 0 */
    uint64_t max_header_size; /**< refuse larger safetensors headers and pickles; 1..100000000
                                 bytes, default 16 MiB */
    int32_t layer_mix; /**< 1: the fresh head of ser_model_create sees a learned mix of all hidden
                            states; 0 (default): the last one */
    int32_t reserved;  /**< 0 */
} ser_model_options;

/** Zero `size` bytes at `options` and write the defaults. Since 0.1. */
SER_API void ser_model_options_init(ser_model_options *options, size_t size);

/**
 * Load a model onto a device. `path` is a model file or a transformers directory; NULL means the
 * default model: $SER_MODEL if set, else the ser-mini that was installed with the library.
 * The model keeps its own reference to `device`. `options` NULL means defaults. The caller frees
 * `*model`. Errors: ARGUMENT, IO, FORMAT, VERSION, DATA (a config value, with its JSON path and
 * range), MISMATCH (tensors, listing up to ten names), UNSUPPORTED, CAPACITY (header size), MEMORY,
 * DEVICE, BUSY (a device from before a fork). Any thread. Since 0.1.
 */
SER_API int ser_model_load(ser_device *device, const char *path, const ser_model_options *options,
                           ser_model **model);

/** The same from a model file's bytes in memory, only read during the call. Since 0.1. */
SER_API int ser_model_load_memory(ser_device *device, const void *data, size_t size,
                                  const ser_model_options *options, ser_model **model);

/**
 * A pre-trained backbone with a fresh, untrained head (attention pooling and a classifier
 * 256-128-`label_count`, ReLU) for `label_count` (2..1000) distinct `labels`. `backbone` is a
 * transformers directory; a head in it is ignored. The head is drawn from `options->seed`; the
 * model is for training. Errors as for ser_model_load. Since 0.1.
 */
SER_API int ser_model_create(ser_device *device, const char *backbone, const char *const *labels,
                             size_t label_count, const ser_model_options *options,
                             ser_model **model);

/**
 * A fresh, untrained model of any architecture. `config` is the name of a built-in one ("ser-mini")
 * or JSON text (models/FORMAT.md, "config"), whose labels, if it has any, are replaced by the
 * `label_count` (2..1000) distinct `labels`; a training summary is dropped. All weights are drawn from
 * `options->seed`; `options->layer_mix` 1 asks for that mix whatever the config says. Errors:
 * ARGUMENT, FORMAT (not JSON), DATA (a config value, with its JSON path and range), MEMORY, DEVICE,
 * BUSY. Since 0.1.
 */
SER_API int ser_model_create_from_config(ser_device *device, const char *config,
                                         const char *const *labels, size_t label_count,
                                         const ser_model_options *options, ser_model **model);

/**
 * Write the model as one file: to a temporary file beside `path`, flushed to the disk, then
 * renamed, so that `path` always holds a whole model, the old or the new one. A link is
 * replaced, not followed; a file's permissions are kept; anything else that is there is refused.
 * Errors: ARGUMENT, IO, MEMORY, BUSY (after a fork), DEVICE. Any thread. Since 0.1.
 */
SER_API int ser_model_save(const ser_model *model, const char *path);

/** Number of classes. Since 0.1. */
SER_API size_t ser_model_label_count(const ser_model *model);

/** Name of class `index`, UTF-8; NULL if out of range. Borrowed from the model. Since 0.1. */
SER_API const char *ser_model_label(const ser_model *model, size_t index);

/** Number of weights. Since 0.1. */
SER_API uint64_t ser_model_parameter_count(const ser_model *model);

/** The configuration as JSON text (models/FORMAT.md). Borrowed from the model. Since 0.1. */
SER_API const char *ser_model_config(const ser_model *model);

/** Where it was loaded from, as the path was given or found; "" if from memory. Borrowed. Since
 * 0.1. */
SER_API const char *ser_model_path(const ser_model *model);

/** Seconds per window for audio longer than ser_model_max_seconds. Since 0.1. */
SER_API double ser_model_window(const ser_model *model);

/** The longest audio, in seconds, that is taken in one piece. Since 0.1. */
SER_API double ser_model_max_seconds(const ser_model *model);

/** Take another reference; returns `model`. Any thread. Since 0.1. */
SER_API ser_model *ser_model_ref(ser_model *model);

/** Drop a reference and null the handle; NULL is fine. Safe while predictors live. Since 0.1. */
SER_API void ser_model_free(ser_model **model);

#ifdef __cplusplus
}
#endif

#endif
