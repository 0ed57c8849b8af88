/* SPDX-License-Identifier: MIT */
/* Builds model files and transformers directories in every state of health. */
#ifndef SER_TESTS_BUILDER_H
#define SER_TESTS_BUILDER_H

#include "harness.h"

#include <jansson.h>

#include "model/package.h"

typedef struct blob {
    unsigned char *data;
    size_t size;
} blob;

/* Length, `header` as it is, then `payload_size` bytes (zeros if payload is NULL). */
blob blob_safetensors(const char *header, const void *payload, size_t payload_size);
blob blob_copy(const void *data, size_t size);
void blob_free(blob *b);
void blob_write(const blob *b, const char *path);
void write_text(const char *path, const char *text);

/* Whether a directory holds nothing but the file `only` (NULL: nothing at all). */
bool directory_holds_only(const char *path, const char *only);

/* The tensors of a file to be; types F32, F16 and BF16 get values, others zeros. */
typedef struct tensor_spec {
    char name[160];
    char dtype[12];
    int32_t rank;
    int64_t shape[8];
} tensor_spec;

typedef struct model_spec {
    tensor_spec *list;
    size_t count;
} model_spec;

void spec_add(model_spec *spec, const char *name, int32_t rank, int64_t a, int64_t b, int64_t c);
tensor_spec *spec_get(model_spec *spec, const char *name);
void spec_remove(model_spec *spec, const char *name);
void spec_free(model_spec *spec);

/* `metadata` is borrowed and may be NULL. */
blob spec_blob(const model_spec *spec, json_t *metadata);

/* The value at position i of a tensor whose own name is `name`: exact in F16 and BF16, positive
 * where a scale must be. */
float spec_value(const char *name, size_t i);

/* Configurations of small models of our own: of FORMAT.md, log-mel or waveform. To be
 * json_decref'ed. */
json_t *own_config(bool logmel);

/* The tensors of such a model, and its file. */
void own_spec(json_t *config, model_spec *spec);
blob own_blob(json_t *config, const model_spec *spec);
blob own_model(json_t *config);

/* The file of such a model, and the CPU with one thread to load it on. */
blob small_model(bool logmel);
ser_device *open_cpu(void);

/* A small transformers model. */
typedef struct hf_model {
    char dir[256];
    json_t *config;       /* of config.json */
    json_t *preprocessor; /* of preprocessor_config.json; NULL: no such file */
    model_spec spec;
} hf_model;

/* `type` is "wav2vec2" or "hubert", `architecture` a class such as
 * "Wav2Vec2ForSequenceClassification"; `prefix` stands before the tensors of the backbone. `large`:
 * layer norm, biases, pre-norm. */
void hf_create(hf_model *hf, const char *type, const char *architecture, const char *prefix,
               bool large);
void hf_write(const hf_model *hf);      /* all files, with model.safetensors */
void hf_write_json(const hf_model *hf); /* all but the tensors */
void hf_path(const hf_model *hf, const char *base, char path[512]);
void hf_free(hf_model *hf);

/* ser_package_open on the directory; a failure must leave nothing allocated. */
int hf_open(const hf_model *hf, ser_package *package);

/* The parameter is bound to the tensor of that name and reads its values. */
void check_binding(const ser_package *package, const char *param, const char *tensor);

#endif
