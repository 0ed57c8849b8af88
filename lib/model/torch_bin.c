/* SPDX-License-Identifier: MIT */
#include "model/torch_bin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/archive.h"
#include "model/json.h"
#include "model/pickle.h"

enum { PREVIEW_SIZE = 100, MAX_BYTEORDER = 16 };

/* Files that are no zip archive, told by their first bytes. */
static int check_start(const ser_file *file)
{
    unsigned char start[8] = {0};
    size_t count = file->size < sizeof start ? (size_t)file->size : sizeof start;
    int status = ser_file_read(file, 0, start, count);
    if (status != 0 || memcmp(start, "PK\3\4", 4) == 0) {
        return status;
    }
    if (start[0] == 0x80 && start[1] >= 2 && start[1] <= 5) {
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "%s: the format of PyTorch before 1.6 (a bare pickle); " SER_TORCH_CONVERT,
                        file->name, SER_TORCH_LOAD);
    }
    return ser_fail(SER_ERR_FORMAT, "%s: not a zip archive of torch.save()%s", file->name,
                    memcmp(start, "version ", 8) == 0
                        ? " (it looks like a Git LFS pointer: fetch the file itself)"
                        : "");
}

static int check_byteorder(const ser_archive *archive)
{
    const ser_record *record = ser_archive_find(archive, "byteorder");
    char text[MAX_BYTEORDER + 1] = {0};
    size_t size = record != NULL && record->size < MAX_BYTEORDER ? (size_t)record->size : 0;
    int status = record != NULL ? ser_file_read(archive->file, record->offset, text, size) : 0;
    if (status != 0 || record == NULL || strcmp(text, "little") == 0) {
        return status;
    }
    return strcmp(text, "big") == 0
               ? ser_fail(SER_ERR_UNSUPPORTED, "%s: big-endian tensors; " SER_TORCH_CONVERT,
                          archive->file->name, SER_TORCH_LOAD)
               : ser_fail(SER_ERR_FORMAT, "%s: byteorder is neither \"little\" nor \"big\"",
                          archive->file->name);
}

static int bad_tensor(const ser_file *file, const ser_pickle_tensor *tensor, const char *fault)
{
    char preview[PREVIEW_SIZE];
    return ser_fail(SER_ERR_FORMAT, "%s: tensor \"%s\": %s", file->name,
                    ser_text_preview(tensor->name, preview, sizeof preview), fault);
}

/* Elements, bytes and layout of a view; false if a product overflows, also one that a dimension of 0
 * would hide, or the view leaves its storage. */
static bool measure(const ser_pickle_tensor *tensor, ser_tensor_entry *entry)
{
    bool fits = true;
    bool empty = false;
    uint64_t last = tensor->offset; /* the highest position of an element */
    uint64_t product = 1;
    entry->strided = false;
    for (int32_t d = tensor->rank - 1; d >= 0; d--) {
        uint64_t size = tensor->shape[d];
        uint64_t reach = 0;
        empty = empty || size == 0;
        entry->strided = entry->strided || (size > 1 && tensor->stride[d] != product);
        fits = fits && (size < 2 || (!__builtin_mul_overflow(size - 1, tensor->stride[d], &reach) &&
                                     !__builtin_mul_overflow(product, size, &product)));
        fits = fits && !__builtin_add_overflow(last, reach, &last);
    }
    if (!fits || __builtin_mul_overflow(product, (uint64_t)tensor->width, &entry->size)) {
        return false;
    }
    entry->elements = empty ? 0 : product;
    entry->size = empty ? 0 : entry->size;
    entry->strided = entry->strided && !empty;
    return empty ? tensor->offset <= tensor->storage_elements : last < tensor->storage_elements;
}

/* A tensor of the pickle as a place in the file. */
static int place(const ser_archive *archive, const ser_pickle_tensor *tensor,
                 ser_tensor_entry *entry)
{
    char name[SER_PICKLE_KEY_SIZE + 8];
    uint64_t bytes;
    (void)snprintf(name, sizeof name, "data/%s", tensor->key);
    ser_record *record = ser_archive_find(archive, name);
    if (record == NULL) {
        return bad_tensor(archive->file, tensor, "its storage is not in the archive");
    }
    if (__builtin_mul_overflow(tensor->storage_elements, (uint64_t)tensor->width, &bytes) ||
        bytes != record->size) {
        return bad_tensor(archive->file, tensor, "its storage has another size than its record");
    }
    if (record->dtype != NULL && strcmp(record->dtype, tensor->dtype) != 0) {
        return bad_tensor(archive->file, tensor, "its storage has another type elsewhere");
    }
    record->dtype = tensor->dtype;
    if (!measure(tensor, entry)) {
        return bad_tensor(archive->file, tensor, "it reaches beyond its storage");
    }
    if (entry->elements > tensor->storage_elements) {
        return bad_tensor(archive->file, tensor, "it has more elements than its storage");
    }
    entry->name = tensor->name;
    entry->dtype = tensor->dtype;
    entry->rank = tensor->rank;
    entry->offset = record->offset + tensor->offset * tensor->width;
    memcpy(entry->shape, tensor->shape, sizeof entry->shape);
    memcpy(entry->stride, tensor->stride, sizeof entry->stride);
    return 0;
}

static int place_all(const ser_archive *archive, const ser_pickle *pickle, ser_safetensors *tensors)
{
    uint64_t limit;
    uint64_t total = 0;
    tensors->list = ser_mem_alloc(pickle->count, sizeof tensors->list[0]);
    if (tensors->list == NULL) {
        return SER_ERR_MEMORY;
    }
    if (__builtin_mul_overflow(archive->file->size, (uint64_t)SER_TORCH_MAX_SHARING, &limit)) {
        limit = UINT64_MAX;
    }
    for (size_t i = 0; i < pickle->count; i++) {
        ser_tensor_entry *entry = &tensors->list[tensors->count++];
        int status = place(archive, &pickle->list[i], entry);
        if (status != 0) {
            return status;
        }
        if (entry->size > limit - total) {
            return ser_fail(SER_ERR_CAPACITY,
                            "%s: tensors that share storages, together more than %d times the file",
                            archive->file->name, SER_TORCH_MAX_SHARING);
        }
        total += entry->size;
    }
    return 0;
}

static int read_pickle(const ser_archive *archive, uint64_t max_header, ser_pickle *pickle)
{
    const ser_record *record = ser_archive_find(archive, "data.pkl");
    if (record == NULL) {
        return ser_fail(SER_ERR_FORMAT, "%s: no data.pkl: not written by torch.save()",
                        archive->file->name);
    }
    if (record->size > max_header) {
        return ser_fail(
            SER_ERR_CAPACITY, "%s: data.pkl of %llu bytes, limit %llu (max_header_size)",
            archive->file->name, (unsigned long long)record->size, (unsigned long long)max_header);
    }
    size_t size = (size_t)record->size;
    unsigned char *data = ser_mem_alloc_raw(size, 1);
    char *name = ser_mem_format("%s: data.pkl", archive->file->name);
    int status = data != NULL && name != NULL ? 0 : SER_ERR_MEMORY;
    if (status == 0) {
        status = ser_file_read(archive->file, record->offset, data, size);
    }
    if (status == 0) {
        status = ser_pickle_read(name, data, size, pickle);
    }
    ser_mem_free(name);
    ser_mem_free(data);
    return status;
}

static int list_tensors(const ser_archive *archive, uint64_t max_header, ser_safetensors *tensors)
{
    ser_pickle pickle = {NULL, 0, NULL};
    int status = check_byteorder(archive);
    if (status == 0) {
        status = read_pickle(archive, max_header, &pickle);
    }
    if (status == 0) {
        status = place_all(archive, &pickle, tensors);
    }
    tensors->names = pickle.names; /* what the entries point to */
    pickle.names = NULL;
    ser_pickle_clear(&pickle);
    return status;
}

int ser_torch_bin_open(ser_file *file, uint64_t max_header, ser_safetensors *tensors)
{
    ser_safetensors result = {.file = *file};
    *file = (ser_file){.fd = -1};
    *tensors = (ser_safetensors){.file = {.fd = -1}};
    ser_archive archive = {.file = &result.file};
    int status = check_start(&result.file);
    if (status == 0) {
        status = ser_archive_read(&result.file, &archive);
    }
    if (status == 0) {
        status = list_tensors(&archive, max_header, &result);
    }
    ser_archive_clear(&archive);
    if (status != 0) {
        ser_safetensors_close(&result);
        return status;
    }
    *tensors = result;
    return 0;
}
