/* SPDX-License-Identifier: MIT */
/* Hugging Face transformers directories with wav2vec 2.0 or HuBERT inside. */
#ifndef SER_MODEL_IMPORT_H
#define SER_MODEL_IMPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/package.h"

/*
 * A finished ...ForSequenceClassification as a complete model: mean pooling, the projector and the
 * classifier as two linear layers, the weighted sum of layers where the model has it. A directory
 * without such a head gives DATA. `package` is empty before; the caller clears it after a failure.
 *
 * The front end follows preprocessor_config.json (do_normalize) and never trims. Padding is
 * "exact": transformers pads group-norm models with zeros that count as speech, which makes a
 * clip's result depend on what it is batched with; a clip alone gives transformers' numbers either
 * way.
 */
int ser_import_classifier(int directory, const char *path, uint64_t max_header,
                          ser_package *package);

/* Any head in the directory is ignored; see ser_model_create(). */
int ser_import_backbone(int directory, const char *path, const ser_head *head, uint64_t max_header,
                        ser_package *package);

/* What config.json says (import_config.c). */
typedef struct ser_import {
    ser_config config;  /* a bare backbone, with labels and head if `classifier` is set */
    bool classifier;    /* the architecture is a finished classifier */
    const char *prefix; /* static; of the tensors' names: "wav2vec2." or "hubert." */
} ser_import;

/*
 * Read config.json. Keys that do not concern us are ignored. With `want_head` the labels and the
 * head of a classifier are read too. Errors: FORMAT, DATA (path and range), UNSUPPORTED (with what
 * is supported). On failure import->config is cleared.
 */
int ser_import_read_config(const char *name, const char *text, size_t length, bool want_head,
                           ser_import *import);

/* id2label, label2id and num_labels of config.json (import_labels.c). */
int ser_import_read_labels(const char *name, json_t *root, ser_config *config);

/* preprocessor_config.json, or the feature_extractor object of processor_config.json. */
int ser_import_read_preprocessor(const char *name, const char *text, size_t length, bool nested,
                                 ser_front_end *front_end);

#endif
