/* SPDX-License-Identifier: MIT */
#include "model/package.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/archs.h"
#include "model/import.h"
#include "model/json.h"

enum { FORMAT_VERSION = 1, MAX_VERSION_DIGITS = 6, PREVIEW_SIZE = 64 };

/* Digits only, compared as a number without the locale. */
static int check_version(const char *name, const char *text)
{
    long version = 0;
    size_t digits = text != NULL ? strspn(text, "0123456789") : 0;
    if (digits == 0 || text[digits] != '\0' || text[0] == '0' || digits > MAX_VERSION_DIGITS) {
        char preview[PREVIEW_SIZE];
        return ser_fail(SER_ERR_FORMAT, "%s: version \"%s\" is not a number", name,
                        text != NULL ? ser_text_preview(text, preview, sizeof preview) : "");
    }
    for (size_t i = 0; i < digits; i++) {
        version = version * 10 + (text[i] - '0');
    }
    if (version > FORMAT_VERSION) {
        return ser_fail(SER_ERR_VERSION,
                        "%s: format version %ld; this libser reads up to %d, a newer one is needed",
                        name, version, FORMAT_VERSION);
    }
    return 0;
}

static int check_format(const ser_safetensors *file)
{
    char preview[PREVIEW_SIZE];
    const char *format = ser_safetensors_metadata(file, "format");
    if (format == NULL || strcmp(format, "ser") != 0) {
        return ser_fail(
            SER_ERR_FORMAT,
            "%s: not a model of libser (format is \"%s\", not \"ser\"); of a transformers "
            "model give the directory",
            file->file.name,
            format != NULL ? ser_text_preview(format, preview, sizeof preview) : "");
    }
    return check_version(file->file.name, ser_safetensors_metadata(file, "version"));
}

static int read_own_config(const ser_safetensors *file, ser_config *config)
{
    const char *text = ser_safetensors_metadata(file, "config");
    if (text == NULL) {
        return ser_fail(SER_ERR_FORMAT, "%s: __metadata__ has no config", file->file.name);
    }
    char *name = ser_mem_format("%s: config", file->file.name);
    if (name == NULL) {
        return SER_ERR_MEMORY;
    }
    int status = ser_config_parse(name, text, strlen(text), config);
    ser_mem_free(name);
    return status;
}

int ser_package_bind(ser_package *package, const ser_naming *naming)
{
    int status = ser_params_plan(&package->config.arch, &package->params);
    if (status != 0) {
        return status;
    }
    package->bound = ser_mem_alloc(package->params.count, sizeof package->bound[0]);
    if (package->bound == NULL) {
        return SER_ERR_MEMORY;
    }
    return ser_tensors_bind(&package->tensors, &package->params, naming, package->bound);
}

/* Takes over `file`. */
static int open_own(ser_file *file, uint64_t max_header, ser_package *package)
{
    static const ser_naming naming = {.prefix = "wav2vec2."};
    int status = ser_tensors_open(file, max_header, &package->tensors);
    if (status == 0) {
        status = check_format(&package->tensors.files[0]);
    }
    if (status == 0) {
        status = read_own_config(&package->tensors.files[0], &package->config);
    }
    return status != 0 ? status : ser_package_bind(package, &naming);
}

static int finish(int status, ser_package *package)
{
    if (status != 0) {
        ser_package_clear(package);
    }
    return status;
}

int ser_package_open(const char *path, uint64_t max_header, ser_package *package)
{
    ser_file file;
    int directory;
    *package = (ser_package){.params = {.list = NULL}};
    int status = ser_file_open(path, &file, &directory);
    if (status == 0 && directory >= 0) {
        status = ser_import_classifier(directory, path, max_header, package);
        (void)close(directory);
    } else if (status == 0) {
        status = open_own(&file, max_header, package);
    }
    return finish(status, package);
}

int ser_package_open_memory(const void *data, size_t size, uint64_t max_header,
                            ser_package *package)
{
    ser_file file;
    *package = (ser_package){.params = {.list = NULL}};
    int status = ser_file_wrap(data, size, "model in memory", &file);
    if (status == 0) {
        status = open_own(&file, max_header, package);
    }
    return finish(status, package);
}

int ser_package_open_backbone(const char *path, const ser_head *head, uint64_t max_header,
                              ser_package *package)
{
    ser_file file;
    int directory;
    *package = (ser_package){.params = {.list = NULL}};
    int status = ser_file_open(path, &file, &directory);
    if (status == 0 && directory < 0) {
        ser_file_close(&file);
        status = ser_fail(SER_ERR_FORMAT,
                          "%s: a backbone is a transformers directory, this is a file", path);
    } else if (status == 0) {
        status = ser_import_backbone(directory, path, head, max_header, package);
        (void)close(directory);
    }
    return finish(status, package);
}

int ser_package_make(const char *config, const ser_head *head, ser_package *package)
{
    const char *builtin = ser_builtin_config(config);
    const char *name = builtin != NULL ? config : "config";
    *package = (ser_package){.params = {.list = NULL}};
    if (builtin == NULL && config[strspn(config, " \t\r\n")] != '{') {
        char preview[PREVIEW_SIZE];
        return ser_fail(SER_ERR_ARGUMENT,
                        "ser_model_create_from_config: config is \"%s\", neither JSON text nor a "
                        "built-in one (%s)",
                        ser_text_preview(config, preview, sizeof preview), ser_builtin_names());
    }
    const char *text = builtin != NULL ? builtin : config;
    int status =
        ser_config_parse_fresh(name, text, head->labels, head->label_count, &package->config);
    if (status == 0) {
        package->config.arch.layer_mix = package->config.arch.layer_mix || head->layer_mix;
        status = ser_params_plan(&package->config.arch, &package->params);
    }
    if (status == 0) {
        package->bound = ser_mem_alloc(package->params.count, sizeof package->bound[0]);
        status = package->bound != NULL ? 0 : SER_ERR_MEMORY;
    }
    return finish(status, package);
}

void ser_package_clear(ser_package *package)
{
    ser_config_clear(&package->config);
    ser_params_clear(&package->params);
    ser_tensors_close(&package->tensors);
    ser_mem_free(package->bound);
    package->bound = NULL;
}
