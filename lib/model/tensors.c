/* SPDX-License-Identifier: MIT */
#include "model/tensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/json.h"
#include "model/torch_bin.h"

enum { MAX_FILE_NAME = 256, PREVIEW_SIZE = 100 };

/* How the tensors of a directory may lie there; the first that is there is it. */
typedef struct layout {
    const char *single, *index; /* one file, or the list of several */
    int (*open)(ser_file *file, uint64_t max_header, ser_safetensors *tensors);
} layout;

static const layout layouts[] = {
    {"model.safetensors", "model.safetensors.index.json", ser_safetensors_open},
    {"pytorch_model.bin", "pytorch_model.bin.index.json", ser_torch_bin_open},
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const ser_tensor_ref *)a)->entry->name,
                  ((const ser_tensor_ref *)b)->entry->name);
}

/* One sorted list of what all files hold; a name in two files is an error. */
static int collect(ser_tensors *tensors)
{
    size_t total = 0;
    for (size_t i = 0; i < tensors->file_count; i++) {
        total += tensors->files[i].count;
    }
    tensors->list = ser_mem_alloc(total, sizeof tensors->list[0]);
    if (tensors->list == NULL) {
        return SER_ERR_MEMORY;
    }
    for (size_t i = 0; i < tensors->file_count; i++) {
        const ser_safetensors *file = &tensors->files[i];
        for (size_t j = 0; j < file->count; j++) {
            tensors->list[tensors->count++] = (ser_tensor_ref){file, &file->list[j]};
        }
    }
    qsort(tensors->list, total, sizeof tensors->list[0], by_name);
    for (size_t i = 1; i < total; i++) {
        if (by_name(&tensors->list[i - 1], &tensors->list[i]) == 0) {
            char preview[PREVIEW_SIZE];
            return ser_fail(
                SER_ERR_FORMAT, "%s: tensor \"%s\" is in two shards", tensors->name,
                ser_text_preview(tensors->list[i].entry->name, preview, sizeof preview));
        }
    }
    return 0;
}

static int open_first(ser_tensors *tensors, const char *name, const layout *kind, ser_file *file,
                      uint64_t max_header)
{
    tensors->name = ser_mem_strdup(name);
    tensors->files = ser_mem_alloc(1, sizeof tensors->files[0]);
    if (tensors->name == NULL || tensors->files == NULL) {
        ser_file_close(file);
        return SER_ERR_MEMORY;
    }
    int status = kind->open(file, max_header, &tensors->files[0]);
    if (status == 0) {
        tensors->file_count = 1;
        status = collect(tensors);
    }
    return status;
}

int ser_tensors_open(ser_file *file, uint64_t max_header, ser_tensors *tensors)
{
    *tensors = (ser_tensors){0};
    char *name = ser_mem_strdup(file->name);
    if (name == NULL) {
        ser_file_close(file);
        return SER_ERR_MEMORY;
    }
    int status = open_first(tensors, name, &layouts[0], file, max_header);
    ser_mem_free(name);
    if (status != 0) {
        ser_tensors_close(tensors);
    }
    return status;
}

/* A name that cannot leave the directory. */
static bool is_plain_name(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL &&
           strchr(name, '\\') == NULL && strlen(name) < MAX_FILE_NAME;
}

static int find_shard(const ser_tensors *tensors, const char *const *names, const char *name)
{
    for (size_t i = 0; i < tensors->file_count; i++) {
        if (strcmp(names[i], name) == 0) {
            return (int)i;
        }
    }
    return -1;
}

typedef struct shard_context {
    int directory;
    const char *path;
    uint64_t max_header;
    const layout *layout;
    const char *names[SER_MAX_SHARDS]; /* borrowed from the index */
} shard_context;

static int open_shard(ser_tensors *tensors, shard_context *context, const char *name)
{
    char preview[PREVIEW_SIZE];
    if (!is_plain_name(name)) {
        return ser_fail(SER_ERR_FORMAT, "%s/%s: shard \"%s\" is not a plain file name",
                        context->path, context->layout->index,
                        ser_text_preview(name, preview, sizeof preview));
    }
    if (tensors->file_count == SER_MAX_SHARDS) {
        return ser_fail(SER_ERR_CAPACITY, "%s/%s: more than %d shards", context->path,
                        context->layout->index, SER_MAX_SHARDS);
    }
    ser_file file;
    int status =
        ser_file_open_at(context->directory, context->path, name, SER_FILE_NO_SYMLINK, &file);
    if (status == 0) {
        status =
            context->layout->open(&file, context->max_header, &tensors->files[tensors->file_count]);
    }
    if (status == 0) {
        context->names[tensors->file_count++] = name;
    }
    return status;
}

/* One line of the index: the shard must hold the tensor that the index places in it. */
static int check_mapping(ser_tensors *tensors, shard_context *context, const char *tensor,
                         const json_t *value)
{
    char preview[PREVIEW_SIZE];
    const char *name = json_string_value(value);
    if (name == NULL) {
        return ser_fail(SER_ERR_FORMAT, "%s/%s: weight_map.%s must be a text", context->path,
                        context->layout->index, ser_text_preview(tensor, preview, sizeof preview));
    }
    int shard = find_shard(tensors, context->names, name);
    if (shard < 0) {
        int status = open_shard(tensors, context, name);
        if (status != 0) {
            return status;
        }
        shard = (int)tensors->file_count - 1;
    }
    if (ser_safetensors_find(&tensors->files[shard], tensor) == NULL) {
        return ser_fail(SER_ERR_FORMAT, "%s/%s: tensor \"%s\" is not in its shard, %s",
                        context->path, context->layout->index,
                        ser_text_preview(tensor, preview, sizeof preview), name);
    }
    return 0;
}

static int open_shards(ser_tensors *tensors, shard_context *context, json_t *root)
{
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0) {
        return ser_fail(SER_ERR_FORMAT, "%s/%s: weight_map must be an object that names shards",
                        context->path, context->layout->index);
    }
    for (void *at = json_object_iter(map); at != NULL; at = json_object_iter_next(map, at)) {
        int status =
            check_mapping(tensors, context, json_object_iter_key(at), json_object_iter_value(at));
        if (status != 0) {
            return status;
        }
    }
    int status = collect(tensors);
    if (status == 0 && tensors->count != json_object_size(map)) {
        return ser_fail(SER_ERR_FORMAT, "%s/%s: names %zu tensors, but the shards hold %zu",
                        context->path, context->layout->index, json_object_size(map),
                        tensors->count);
    }
    return status;
}

static int open_index(ser_tensors *tensors, shard_context *context, const ser_file *index)
{
    char *text = NULL;
    size_t length = 0;
    json_t *root = NULL;
    tensors->name = ser_mem_strdup(context->path);
    tensors->files = ser_mem_alloc(SER_MAX_SHARDS, sizeof tensors->files[0]);
    if (tensors->name == NULL || tensors->files == NULL) {
        return SER_ERR_MEMORY;
    }
    int status = ser_file_read_text(index, SER_JSON_MAX_SIZE, &text, &length);
    if (status == 0) {
        status = ser_json_parse(index->name, text, length, SER_JSON_MAX_VALUES, &root);
    }
    if (status == 0) {
        status = open_shards(tensors, context, root);
    }
    json_decref(root);
    ser_mem_free(text);
    return status;
}

/* *found: whether the directory has tensors in this layout. */
static int open_layout(ser_tensors *tensors, shard_context *context, bool *found)
{
    ser_file file;
    int status = ser_file_open_at(context->directory, context->path, context->layout->single,
                                  SER_FILE_OPTIONAL, &file);
    *found = status != 0 || ser_file_is_open(&file);
    if (*found) {
        return status != 0 ? status
                           : open_first(tensors, context->path, context->layout, &file,
                                        context->max_header);
    }
    status = ser_file_open_at(context->directory, context->path, context->layout->index,
                              SER_FILE_OPTIONAL, &file);
    *found = status != 0 || ser_file_is_open(&file);
    if (status == 0 && *found) {
        status = open_index(tensors, context, &file);
        ser_file_close(&file);
    }
    return status;
}

static int open_directory(ser_tensors *tensors, shard_context *context)
{
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        bool found;
        context->layout = &layouts[i];
        int status = open_layout(tensors, context, &found);
        if (status != 0 || found) {
            return status;
        }
    }
    return ser_fail(SER_ERR_IO,
                    "%s: neither model.safetensors nor pytorch_model.bin, nor the "
                    "index of either",
                    context->path);
}

int ser_tensors_open_directory(int directory, const char *path, uint64_t max_header,
                               ser_tensors *tensors)
{
    shard_context context = {.directory = directory, .path = path, .max_header = max_header};
    *tensors = (ser_tensors){0};
    int status = open_directory(tensors, &context);
    if (status != 0) {
        ser_tensors_close(tensors);
    }
    return status;
}

void ser_tensors_close(ser_tensors *tensors)
{
    for (size_t i = 0; i < tensors->file_count; i++) {
        ser_safetensors_close(&tensors->files[i]);
    }
    ser_mem_free(tensors->files);
    ser_mem_free(tensors->list);
    ser_mem_free(tensors->name);
    *tensors = (ser_tensors){0};
}

const ser_tensor_ref *ser_tensors_find(const ser_tensors *tensors, const char *name)
{
    ser_tensor_entry entry = {.name = name};
    ser_tensor_ref key = {.entry = &entry};
    return bsearch(&key, tensors->list, tensors->count, sizeof key, by_name);
}
