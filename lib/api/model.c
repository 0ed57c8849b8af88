/* SPDX-License-Identifier: MIT */
#include <ser/model.h>

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/options.h"
#include "base/fail.h"
#include "base/mem.h"
#include "model/model.h"
#include "model/safetensors.h"

#ifndef SER_MODEL_DIR
#error "the build must define SER_MODEL_DIR, where the default model is installed"
#endif

#define DEFAULT_MODEL "ser-mini.safetensors"

static const ser_model_options defaults = {
    .struct_size = sizeof(ser_model_options),
    .precision = SER_PRECISION_AUTO,
    .max_header_size = SER_DEFAULT_HEADER,
};

void ser_model_options_init(ser_model_options *options, size_t size)
{
    ser_options_give(options, size, &defaults, sizeof defaults);
}

static int take_options(const ser_model_options *given, ser_model_options *own)
{
    *own = defaults;
    int status = ser_options_take(own, sizeof *own, given, "ser_model_options");
    if (status != 0) {
        return status;
    }
    if (own->precision < SER_PRECISION_AUTO || own->precision > SER_PRECISION_BF16) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_model_options: precision is %d, not within 0..2",
                        own->precision);
    }
    if (own->strict != 0 && own->strict != 1) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_model_options: strict is %d, must be 0 or 1",
                        own->strict);
    }
    if (own->layer_mix != 0 && own->layer_mix != 1) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_model_options: layer_mix is %d, must be 0 or 1",
                        own->layer_mix);
    }
    if (own->reserved != 0) {
        return ser_fail(SER_ERR_UNSUPPORTED, "ser_model_options: reserved must be 0");
    }
    if (own->max_header_size < 1 || own->max_header_size > SER_MAX_HEADER) {
        return ser_fail(SER_ERR_ARGUMENT,
                        "ser_model_options: max_header_size is %llu, not within 1..%d",
                        (unsigned long long)own->max_header_size, SER_MAX_HEADER);
    }
    return 0;
}

static int check_handles(const char *function, const ser_device *device, ser_model **model)
{
    if (model == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "%s: model is NULL", function);
    }
    *model = NULL;
    if (device == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "%s: device is NULL", function);
    }
    return 0;
}

/* The data directories that belong to the place where this library (or the program that it is
 * linked into) lies: PREFIX/lib or PREFIX/lib/TRIPLET or PREFIX/bin. For trees that were moved
 * after the build. */
static char *find_beside_library(void)
{
    static const char anchor = 0; /* an address within the library */
    static const char *const ways[] = {"../share/ser/", "../../share/ser/"};
    Dl_info info;
    if (dladdr(&anchor, &info) == 0 || info.dli_fname == NULL) {
        return NULL;
    }
    const char *slash = strrchr(info.dli_fname, '/');
    if (slash == NULL) {
        return NULL; /* a program found through PATH: its place is not known */
    }
    int length = (int)(slash - info.dli_fname) + 1;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        char *path = ser_mem_format("%.*s%s" DEFAULT_MODEL, length, info.dli_fname, ways[i]);
        if (path != NULL && access(path, F_OK) == 0) {
            return path;
        }
        ser_mem_free(path);
    }
    return NULL;
}

/* The path of the default model, to be freed. */
static int find_default(char **path)
{
    const char *chosen = getenv("SER_MODEL");
    if (chosen != NULL && chosen[0] != '\0') {
        *path = ser_mem_strdup(chosen);
    } else if (access(SER_MODEL_DIR "/" DEFAULT_MODEL, F_OK) == 0) {
        *path = ser_mem_strdup(SER_MODEL_DIR "/" DEFAULT_MODEL);
    } else {
        *path = find_beside_library();
        if (*path == NULL) {
            return ser_fail(SER_ERR_IO, "no default model: SER_MODEL is not set and " SER_MODEL_DIR
                                        "/" DEFAULT_MODEL " does not exist; install libser or name "
                                        "a model (the source tree has models/" DEFAULT_MODEL ")");
        }
    }
    return *path != NULL ? 0 : SER_ERR_MEMORY;
}

int ser_model_load(ser_device *device, const char *path, const ser_model_options *options,
                   ser_model **model)
{
    ser_model_options own;
    char *found = NULL;
    int status = check_handles("ser_model_load", device, model);
    if (status == 0) {
        status = take_options(options, &own);
    }
    if (status == 0 && path == NULL) {
        status = find_default(&found);
        path = found;
    }
    if (status == 0) {
        status = ser_model_open(device, path, &own, model);
    }
    ser_mem_free(found);
    return status;
}

int ser_model_load_memory(ser_device *device, const void *data, size_t size,
                          const ser_model_options *options, ser_model **model)
{
    ser_model_options own;
    int status = check_handles("ser_model_load_memory", device, model);
    if (status == 0 && data == NULL) {
        status = ser_fail(SER_ERR_ARGUMENT, "ser_model_load_memory: data is NULL");
    }
    if (status == 0) {
        status = take_options(options, &own);
    }
    return status != 0 ? status : ser_model_open_memory(device, data, size, &own, model);
}

static int check_label_list(const char *function, const char *const *labels, size_t count)
{
    if (labels == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "%s: labels is NULL", function);
    }
    if (count < SER_MIN_LABELS || count > SER_MAX_LABELS) {
        return ser_fail(SER_ERR_ARGUMENT, "%s: label_count is %zu, not within %d..%d", function,
                        count, SER_MIN_LABELS, SER_MAX_LABELS);
    }
    for (size_t i = 0; i < count; i++) {
        if (labels[i] == NULL) {
            return ser_fail(SER_ERR_ARGUMENT, "%s: labels[%zu] is NULL", function, i);
        }
    }
    return 0;
}

int ser_model_create(ser_device *device, const char *backbone, const char *const *labels,
                     size_t label_count, const ser_model_options *options, ser_model **model)
{
    ser_model_options own;
    int status = check_handles("ser_model_create", device, model);
    if (status == 0 && backbone == NULL) {
        status = ser_fail(SER_ERR_ARGUMENT, "ser_model_create: backbone is NULL");
    }
    if (status == 0) {
        status = check_label_list("ser_model_create", labels, label_count);
    }
    if (status == 0) {
        status = take_options(options, &own);
    }
    return status != 0
               ? status
               : ser_model_from_backbone(device, backbone, labels, label_count, &own, model);
}

int ser_model_create_from_config(ser_device *device, const char *config, const char *const *labels,
                                 size_t label_count, const ser_model_options *options,
                                 ser_model **model)
{
    static const char function[] = "ser_model_create_from_config";
    ser_model_options own;
    int status = check_handles(function, device, model);
    if (status == 0 && config == NULL) {
        status = ser_fail(SER_ERR_ARGUMENT, "%s: config is NULL", function);
    }
    if (status == 0) {
        status = check_label_list(function, labels, label_count);
    }
    if (status == 0) {
        status = take_options(options, &own);
    }
    return status != 0 ? status
                       : ser_model_from_config(device, config, labels, label_count, &own, model);
}

int ser_model_save(const ser_model *model, const char *path)
{
    if (model == NULL || path == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_model_save: %s is NULL",
                        model == NULL ? "model" : "path");
    }
    ser_model *shared = (ser_model *)model; /* its count of users alone changes */
    int status = ser_model_share(shared);
    if (status != 0) {
        return ser_fail(SER_ERR_BUSY, "ser_model_save: a trainer is changing the model");
    }
    status = ser_model_write(model, NULL, path);
    ser_model_unshare(shared);
    return status;
}

size_t ser_model_label_count(const ser_model *model)
{
    return model != NULL ? model->config.label_count : 0;
}

const char *ser_model_label(const ser_model *model, size_t index)
{
    return index < ser_model_label_count(model) ? model->config.labels[index] : NULL;
}

uint64_t ser_model_parameter_count(const ser_model *model)
{
    return model != NULL ? model->parameter_count : 0;
}

const char *ser_model_config(const ser_model *model)
{
    return model != NULL ? model->config_text : "";
}

const char *ser_model_path(const ser_model *model)
{
    return model != NULL ? model->path : "";
}

double ser_model_window(const ser_model *model)
{
    return model != NULL ? model->config.front_end.window : 0.0;
}

double ser_model_max_seconds(const ser_model *model)
{
    return model != NULL ? model->config.front_end.max_seconds : 0.0;
}

ser_model *ser_model_ref(ser_model *model)
{
    if (model != NULL) {
        ser_model_acquire(model);
    }
    return model;
}

void ser_model_free(ser_model **model)
{
    if (model != NULL && *model != NULL) {
        ser_model_release(*model);
        *model = NULL;
    }
}
