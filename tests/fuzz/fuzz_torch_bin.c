/* SPDX-License-Identifier: MIT */
/* A pytorch_model.bin of any bytes. A libFuzzer target (-Dfuzz=true), also driven by the mutations
 * of tests/model/test_torch_mutations.c; tests/golden/torch_bin has seeds, each to be put behind a
 * zero byte. */
#include "fuzz_torch_bin.h"

#include <ser/common.h>

#include "base/mem.h"
#include "model/pickle.h"
#include "model/torch_bin.h"

enum { MAX_ELEMENTS = 1 << 22 };

static void insist(int condition)
{
    if (!condition) {
        __builtin_trap();
    }
}

static int is_documented(int status)
{
    return status == 0 || status == SER_ERR_FORMAT || status == SER_ERR_UNSUPPORTED ||
           status == SER_ERR_CAPACITY;
}

/* Every tensor lies within the file and can be read into a buffer of its size. */
static void read_tensors(const ser_safetensors *tensors)
{
    uint64_t total = 0;
    for (size_t i = 0; i < tensors->count; i++) {
        const ser_tensor_entry *entry = &tensors->list[i];
        total += entry->size;
        insist(total <= tensors->file.size * SER_TORCH_MAX_SHARING);
        insist(entry->offset <= tensors->file.size);
        insist(entry->rank >= 0 && entry->rank <= SER_MAX_RANK);
        if (ser_tensor_is_readable(entry) && entry->elements <= MAX_ELEMENTS) {
            float *values = ser_mem_alloc_raw((size_t)entry->elements, sizeof *values);
            insist(values != NULL);
            insist(ser_safetensors_read(tensors, entry, values) == 0);
            ser_mem_free(values);
        }
    }
}

static int read_archive(const uint8_t *data, size_t size)
{
    ser_file file;
    ser_safetensors tensors;
    insist(ser_file_wrap(data, size, "input", &file) == 0);
    int status = ser_torch_bin_open(&file, SER_DEFAULT_HEADER, &tensors);
    if (status == 0) {
        read_tensors(&tensors);
    }
    ser_safetensors_close(&tensors);
    return status;
}

static int read_pickle(const uint8_t *data, size_t size)
{
    ser_pickle pickle;
    int status = ser_pickle_read("input", data, size, &pickle);
    for (size_t i = 0; i < pickle.count; i++) {
        insist(pickle.list[i].name[0] != '\0' && pickle.list[i].width > 0);
    }
    ser_pickle_clear(&pickle);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    int64_t live = ser_mem_live();
    int status = data[0] % FUZZ_TORCH_ROUTES == FUZZ_ARCHIVE ? read_archive(data + 1, size - 1)
                                                             : read_pickle(data + 1, size - 1);
    insist(is_documented(status));
    insist(ser_mem_live() == live);
    return 0;
}
