/* SPDX-License-Identifier: MIT */
/* Everything that reads a model, up to the network. A libFuzzer target (-Dfuzz=true), also driven
 * by the mutations of test_mutations.c. */
#include "fuzz_model.h"

#include <string.h>

#include <ser/common.h>

#include "base/mem.h"
#include "model/import.h"
#include "model/package.h"

static void insist(int condition)
{
    if (!condition) {
        __builtin_trap();
    }
}

/* A bad file is the file's fault: never out of memory, an I/O error or a fault of ours. */
static void insist_on_status(int status)
{
    insist(status == 0 || status == SER_ERR_FORMAT || status == SER_ERR_VERSION ||
           status == SER_ERR_DATA || status == SER_ERR_MISMATCH || status == SER_ERR_UNSUPPORTED ||
           status == SER_ERR_CAPACITY);
}

static int read_model_file(const uint8_t *data, size_t size)
{
    ser_package package;
    int status = ser_package_open_memory(data, size, SER_DEFAULT_HEADER, &package);
    for (size_t i = 0; status == 0 && i < package.params.count; i++) {
        const ser_tensor_ref *ref = &package.bound[i];
        float *values = ser_mem_alloc_raw((size_t)ref->entry->elements, sizeof *values);
        insist(values != NULL);
        insist(ser_safetensors_read(ref->file, ref->entry, values) == 0);
        ser_mem_free(values);
    }
    ser_package_clear(&package);
    return status;
}

/* Printing and parsing again must change nothing. */
static void insist_on_same(const ser_config *config)
{
    ser_config again;
    char *once = ser_config_print(config);
    insist(once != NULL);
    insist(ser_config_parse("config", once, strlen(once), &again) == 0);
    char *twice = ser_config_print(&again);
    insist(twice != NULL && strcmp(once, twice) == 0);
    ser_config_clear(&again);
    ser_mem_free(once);
    ser_mem_free(twice);
}

static int read_config(const char *text, size_t size)
{
    ser_config config;
    int status = ser_config_parse("config", text, size, &config);
    if (status == 0) {
        insist_on_same(&config);
        ser_config_clear(&config);
    }
    return status;
}

static int read_import(const char *text, size_t size)
{
    ser_import import;
    int status = ser_import_read_config("config.json", text, size, true, &import);
    if (status == 0 && import.classifier) {
        insist_on_same(&import.config);
    }
    ser_config_clear(&import.config);
    return status;
}

static int read_preprocessor(const char *text, size_t size)
{
    ser_front_end front_end = ser_default_front_end;
    bool nested = size > 0 && text[size - 1] == '\n';
    return ser_import_read_preprocessor("preprocessor_config.json", text, size, nested, &front_end);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    int64_t live = ser_mem_live();
    const char *text = (const char *)data + 1;
    switch (data[0] % FUZZ_ROUTES) {
    case FUZZ_MODEL_FILE: insist_on_status(read_model_file(data + 1, size - 1)); break;
    case FUZZ_CONFIG: insist_on_status(read_config(text, size - 1)); break;
    case FUZZ_IMPORT: insist_on_status(read_import(text, size - 1)); break;
    default: insist_on_status(read_preprocessor(text, size - 1)); break;
    }
    insist(ser_mem_live() == live);
    return 0;
}
