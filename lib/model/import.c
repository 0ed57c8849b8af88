/* SPDX-License-Identifier: MIT */
#include "model/import.h"

#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/json.h"
#include "ops/ops.h"

/* What may lie beside a backbone: heads of all kinds, and what pre-training alone needs. */
static const char *const backbone_extras[] = {
    "masked_spec_embed",
    "quantizer.*",
    "project_hid.*",
    "project_q.*",
    "lm_head.*",
    "projector.*",
    "classifier.*",
    "layer_weights",
    "tdnn.*",
    "objective.*",
    "final_proj.*",
    "label_embs_concat",
    "feature_extractor.weight",
    "feature_extractor.bias",
    NULL,
};

/* Read a JSON file of the directory; an optional one that is not there leaves *text NULL. */
static int read_json(int directory, const char *path, const char *base, int flags, char **name,
                     char **text, size_t *length)
{
    ser_file file;
    *text = NULL;
    *name = NULL;
    int status = ser_file_open_at(directory, path, base, flags, &file);
    if (status != 0 || !ser_file_is_open(&file)) {
        return status;
    }
    status = ser_file_read_text(&file, SER_JSON_MAX_SIZE, text, length);
    if (status == 0) {
        *name = ser_mem_strdup(file.name);
        status = *name != NULL ? 0 : SER_ERR_MEMORY;
    }
    ser_file_close(&file);
    if (status != 0) {
        ser_mem_free(*text);
        *text = NULL;
    }
    return status;
}

static int read_config(int directory, const char *path, bool want_head, ser_import *import)
{
    char *name;
    char *text;
    size_t length = 0;
    int status = read_json(directory, path, "config.json", 0, &name, &text, &length);
    if (status == 0) {
        status = ser_import_read_config(name, text, length, want_head, import);
    }
    ser_mem_free(text);
    ser_mem_free(name);
    return status;
}

/* Without either file the front end stays normalised, as almost every published model is. */
static int read_front_end(int directory, const char *path, ser_front_end *front_end)
{
    static const char *const names[] = {"preprocessor_config.json", "processor_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *name;
        char *text;
        size_t length = 0;
        int status = read_json(directory, path, names[i], SER_FILE_OPTIONAL, &name, &text, &length);
        bool found = text != NULL;
        if (status == 0 && found) {
            status = ser_import_read_preprocessor(name, text, length, i == 1, front_end);
        }
        ser_mem_free(text);
        ser_mem_free(name);
        if (status != 0 || found) {
            return status;
        }
    }
    ser_log(SER_LOG_INFO, "%s: no preprocessor_config.json; clips are normalised", path);
    return 0;
}

/* What stands before "feature_projection": the class's own name, the other's (converted
 * checkpoints) or nothing (a saved ...Model). */
static const char *find_prefix(const ser_tensors *tensors, const char *expected)
{
    const char *const candidates[] = {expected, "wav2vec2.", "hubert.", ""};
    for (size_t i = 0; i < sizeof candidates / sizeof candidates[0]; i++) {
        char name[SER_PARAM_NAME_SIZE];
        (void)snprintf(name, sizeof name, "%sfeature_projection.projection.weight", candidates[i]);
        if (ser_tensors_find(tensors, name) != NULL) {
            return candidates[i];
        }
    }
    return expected; /* the report of missing tensors spells it */
}

static int bind(int directory, const char *path, uint64_t max_header, const char *expected_prefix,
                bool skip_head, ser_package *package)
{
    int status = ser_tensors_open_directory(directory, path, max_header, &package->tensors);
    if (status != 0) {
        return status;
    }
    const ser_naming naming = {
        .prefix = find_prefix(&package->tensors, expected_prefix),
        .foreign_head = true,
        .skip_head = skip_head,
        .extras = skip_head ? backbone_extras : NULL,
    };
    return ser_package_bind(package, &naming);
}

int ser_import_classifier(int directory, const char *path, uint64_t max_header,
                          ser_package *package)
{
    ser_import import;
    int status = read_config(directory, path, true, &import);
    if (status != 0) {
        return status;
    }
    package->config = import.config;
    if (!import.classifier) {
        return ser_fail(SER_ERR_DATA,
                        "%s: a backbone without a classifier (config.json: architectures) cannot "
                        "predict; ser_model_create() puts a fresh head on it for training",
                        path);
    }
    status = read_front_end(directory, path, &package->config.front_end);
    return status != 0 ? status : bind(directory, path, max_header, import.prefix, false, package);
}

/* Attention pooling with a linear score, then hidden_size-256-128-labels. */
static int add_fresh_head(ser_config *config, const ser_head *head)
{
    ser_arch *arch = &config->arch;
    arch->layer_mix = head->layer_mix;
    arch->pooling = SER_POOLING_ATTENTION;
    arch->pooling_hidden = 0;
    arch->classifier_size[0] = 256;
    arch->classifier_size[1] = 128;
    arch->classifier_size[2] = (int32_t)head->label_count;
    arch->classifier_count = 3;
    arch->classifier_activation = SER_ACT_RELU;
    return ser_config_set_labels(config, head->labels, head->label_count, SER_ERR_ARGUMENT,
                                 "ser_model_create", "labels");
}

static void warn_about_asr(const ser_tensors *tensors)
{
    if (ser_tensors_find(tensors, "lm_head.weight") != NULL) {
        ser_log(SER_LOG_WARNING,
                "%s: fine-tuned for speech recognition (lm_head); such backbones know less about "
                "emotion than the pre-trained ones that they were made from",
                tensors->name);
    }
}

int ser_import_backbone(int directory, const char *path, const ser_head *head, uint64_t max_header,
                        ser_package *package)
{
    ser_import import;
    int status = read_config(directory, path, false, &import);
    if (status != 0) {
        return status;
    }
    package->config = import.config;
    status = add_fresh_head(&package->config, head);
    if (status == 0) {
        status = read_front_end(directory, path, &package->config.front_end);
    }
    if (status == 0) {
        status = bind(directory, path, max_header, import.prefix, true, package);
    }
    if (status == 0) {
        warn_about_asr(&package->tensors);
    }
    return status;
}
