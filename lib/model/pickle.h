/* SPDX-License-Identifier: MIT */
/*
 * The pickle of a PyTorch state dict: names and the views of storages that are their tensors.
 *
 * A pickle is a program. This reader runs none of it that could do anything: 31 opcodes of protocol
 * 2, and of the symbols that they may name only OrderedDict, the two functions that rebuild a
 * tensor and the classes of storages, all of them plain tags here; nothing is called, imported or
 * looked up. It does not recurse, and its memory is bounded by the limits below.
 */
#ifndef SER_MODEL_PICKLE_H
#define SER_MODEL_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "model/safetensors.h"

enum {
    SER_PICKLE_MAX_VALUES = 64 * SER_MAX_TENSORS, /* on the stack, in tuples and dicts: each */
    SER_PICKLE_MAX_DEPTH = 64,                    /* of containers within containers */
    SER_PICKLE_KEY_SIZE = 24,
};

/* The elements offset + sum(i[d] * stride[d]) of a storage, 0 <= i[d] < shape[d]; not checked
 * against the storage's size. */
typedef struct ser_pickle_tensor {
    const char *name;
    char key[SER_PICKLE_KEY_SIZE]; /* of the storage: 1 to 20 digits */
    const char *dtype;             /* static: "F32" */
    uint32_t width;                /* bytes of an element */
    uint64_t storage_elements;
    uint64_t offset;
    int32_t rank;
    uint64_t shape[SER_MAX_RANK];
    uint64_t stride[SER_MAX_RANK];
} ser_pickle_tensor;

typedef struct ser_pickle {
    ser_pickle_tensor *list; /* sorted by name */
    size_t count;
    char *names; /* what the tensors' names point into */
} ser_pickle;

/*
 * `name` stands in messages. Errors: FORMAT (damaged, or no dict of tensors), UNSUPPORTED (an
 * opcode, symbol or protocol outside the list), CAPACITY, MEMORY. On failure *pickle is empty.
 */
int ser_pickle_read(const char *name, const unsigned char *data, size_t size, ser_pickle *pickle);
void ser_pickle_clear(ser_pickle *pickle);

#endif
