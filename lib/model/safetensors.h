/* SPDX-License-Identifier: MIT */
/*
 * The safetensors format (https://huggingface.co/docs/safetensors): a little-endian u64 N, N bytes
 * of JSON, then the data of the tensors without gaps up to the end of the file. Everything that the
 * header says is checked against the file before anything is allocated by it. Stricter than the
 * reference reader on purpose: duplicate keys, unknown keys of a tensor and ranks above 8 are
 * errors. White space before the header's brace is accepted, as there.
 */
#ifndef SER_MODEL_SAFETENSORS_H
#define SER_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "model/file.h"
#include "net/params.h"

enum {
    SER_MAX_RANK = 8,
    SER_MAX_TENSORS = 65536,
    SER_DEFAULT_HEADER = 16 << 20,  /* bytes */
    SER_MAX_HEADER = 100 * 1000000, /* bytes; the reference reader's own limit */
};

typedef struct ser_tensor_entry {
    const char *name;
    const char *dtype; /* as spelled in the file; a static string */
    int32_t rank;
    uint64_t shape[SER_MAX_RANK];
    uint64_t elements;
    uint64_t offset; /* of the first byte, in the file */
    uint64_t size;   /* bytes of all elements */
    bool strided; /* element i lies sum(i[d] * stride[d]) elements behind the first (strided.h) */
    uint64_t stride[SER_MAX_RANK];
} ser_tensor_entry;

/* An open file of tensors: what torch_bin.c makes of a PyTorch archive, too. */
typedef struct ser_safetensors {
    ser_file file;
    ser_tensor_entry *list; /* sorted by name */
    size_t count;
    char *names;      /* what the entries' names point into */
    json_t *metadata; /* object of strings, or NULL */
} ser_safetensors;

/*
 * Read and check the header. Takes over `file`, which is closed on failure. Errors: FORMAT
 * (damaged), CAPACITY (header above `max_header` bytes, more than SER_MAX_TENSORS tensors), IO,
 * MEMORY.
 */
int ser_safetensors_open(ser_file *file, uint64_t max_header, ser_safetensors *safetensors);
void ser_safetensors_close(ser_safetensors *safetensors);

const ser_tensor_entry *ser_safetensors_find(const ser_safetensors *safetensors, const char *name);

/* A value of `__metadata__`; NULL if absent. */
const char *ser_safetensors_metadata(const ser_safetensors *safetensors, const char *key);

/* Whether ser_safetensors_read can convert the tensor: F32, F16 or BF16. */
bool ser_tensor_is_readable(const ser_tensor_entry *entry);

/* The values of a tensor as float, into entry->elements floats; no other memory is needed. */
int ser_safetensors_read(const ser_safetensors *safetensors, const ser_tensor_entry *entry,
                         float *values);

/* What ser_safetensors_write writes: parameters as F32, asked for one at a time. */
typedef struct ser_tensor_source {
    const ser_params *params;
    const char *const (*metadata)[2]; /* key, value */
    size_t metadata_count;
    int (*get)(const void *user, size_t index, float *values);
    const void *user;
} ser_tensor_source;

/* Replace the file at `path` as a whole (writer.h), laid out as the reference writer does: header
 * padded to 8 bytes with blanks, tensors in the order of their names. */
int ser_safetensors_write(const char *path, const ser_tensor_source *source);

#endif
