/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/safetensors.h"
#include "model/writer.h"

enum { PADDING = 8 };

static int compare_params(const void *a, const void *b)
{
    const ser_param *const *x = a;
    const ser_param *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* The parameters in the order of their names; the reference sorts by the type's size first, and
 * ours are all F32. Freed with ser_mem_free; NULL when out of memory. */
static const ser_param **sort_params(const ser_params *params)
{
    const ser_param **order = ser_mem_alloc(params->count, sizeof order[0]);
    if (order != NULL) {
        for (size_t i = 0; i < params->count; i++) {
            order[i] = &params->list[i];
        }
        qsort(order, params->count, sizeof order[0], compare_params);
    }
    return order;
}

static json_t *metadata_object(const ser_tensor_source *source)
{
    json_t *object = json_object();
    for (size_t i = 0; i < source->metadata_count; i++) {
        if (json_object_set_new(object, source->metadata[i][0],
                                json_string(source->metadata[i][1])) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *shape_array(const ser_param *param)
{
    json_t *shape = json_array();
    for (int32_t i = 0; i < param->rank; i++) {
        if (json_array_append_new(shape, json_integer(param->shape[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    }
    return shape;
}

static json_t *header_object(const ser_tensor_source *source, const ser_param **order)
{
    json_t *root = json_object();
    int failed = json_object_set_new(root, "__metadata__", metadata_object(source));
    json_int_t offset = 0;
    for (size_t i = 0; i < source->params->count && failed == 0; i++) {
        json_int_t end = offset + ser_param_elements(order[i]) * (json_int_t)sizeof(float);
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape",
                                  shape_array(order[i]), "data_offsets", offset, end);
        failed = json_object_set_new(root, order[i]->name, entry);
        offset = end;
    }
    if (failed != 0) {
        json_decref(root);
        return NULL;
    }
    return root;
}

/* Length, JSON and blanks up to a multiple of 8 bytes. */
static int write_header(ser_writer *writer, const ser_tensor_source *source,
                        const ser_param **order)
{
    int status = SER_ERR_MEMORY;
    unsigned char *block = NULL;
    json_t *root = header_object(source, order);
    size_t length = root != NULL ? json_dumpb(root, NULL, 0, JSON_COMPACT) : 0;
    uint64_t padded = (length + PADDING - 1) / PADDING * PADDING;
    if (length == 0) {
        (void)ser_fail(SER_ERR_MEMORY, "%s: out of memory for the header, or a text is not UTF-8",
                       writer->path);
        goto done;
    }
    block = ser_mem_alloc_raw(sizeof padded + (size_t)padded, 1);
    if (block == NULL) {
        goto done;
    }
    memcpy(block, &padded, sizeof padded);
    memset(block + sizeof padded, ' ', (size_t)padded);
    (void)json_dumpb(root, (char *)block + sizeof padded, length, JSON_COMPACT);
    status = ser_writer_append(writer, block, sizeof padded + (size_t)padded);
done:
    ser_mem_free(block);
    json_decref(root);
    return status;
}

static int write_tensors(ser_writer *writer, const ser_tensor_source *source,
                         const ser_param **order)
{
    int64_t largest = 0;
    for (size_t i = 0; i < source->params->count; i++) {
        int64_t elements = ser_param_elements(order[i]);
        largest = elements > largest ? elements : largest;
    }
    float *values = ser_mem_alloc_raw((size_t)largest, sizeof(float));
    int status = values != NULL ? 0 : SER_ERR_MEMORY;
    for (size_t i = 0; i < source->params->count && status == 0; i++) {
        status = source->get(source->user, (size_t)(order[i] - source->params->list), values);
        if (status == 0) {
            status = ser_writer_append(writer, values,
                                       (size_t)ser_param_elements(order[i]) * sizeof(float));
        }
    }
    ser_mem_free(values);
    return status;
}

int ser_safetensors_write(const char *path, const ser_tensor_source *source)
{
    ser_writer writer;
    const ser_param **order = sort_params(source->params);
    if (order == NULL) {
        return SER_ERR_MEMORY;
    }
    int status = ser_writer_open(path, &writer);
    if (status == 0) {
        status = write_header(&writer, source, order);
        if (status == 0) {
            status = write_tensors(&writer, source, order);
        }
        if (status == 0) {
            status = ser_writer_commit(&writer);
        } else {
            ser_writer_abort(&writer);
        }
    }
    ser_mem_free(order);
    return status;
}
