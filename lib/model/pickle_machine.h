/* SPDX-License-Identifier: MIT */
/* The machine that runs a pickle: what pickle.c (opcodes) and pickle_torch.c (symbols, storages,
 * tensors) share. */
#ifndef SER_MODEL_PICKLE_MACHINE_H
#define SER_MODEL_PICKLE_MACHINE_H

#include <stdbool.h>

#include "model/pickle.h"

enum { SER_PICKLE_PREVIEW_SIZE = 80 };

enum ser_pickle_tag {
    SER_PICKLE_NONE,
    SER_PICKLE_BOOL,
    SER_PICKLE_INT,
    SER_PICKLE_FLOAT,
    SER_PICKLE_TEXT,
    SER_PICKLE_TUPLE,
    SER_PICKLE_LIST,
    SER_PICKLE_DICT,
    SER_PICKLE_ORDERED_DICT,
    SER_PICKLE_SYMBOL,
    SER_PICKLE_STORAGE,
    SER_PICKLE_TENSOR
};

/* What a value may be, told by `tag`; texts point into the pickle. */
typedef struct ser_pickle_value {
    uint8_t tag;
    uint8_t depth;  /* of a tuple: containers from here down */
    uint32_t count; /* bytes of a text, items of a tuple */
    union {
        int64_t integer;
        const unsigned char *text;
        size_t index; /* of a tuple's first item; of a dict, storage, tensor or symbol */
    };
} ser_pickle_value;

typedef struct ser_pickle_pair {
    ser_pickle_value key, item;
    size_t next; /* in the same dict, unless it is the last one */
} ser_pickle_pair;

typedef struct ser_pickle_dict {
    size_t first, last, count;
    uint8_t depth;
} ser_pickle_dict;

typedef struct ser_pickle_storage {
    size_t symbol;
    char key[SER_PICKLE_KEY_SIZE];
    uint64_t elements;
} ser_pickle_storage;

typedef struct ser_pickle_machine {
    const char *name;
    const unsigned char *data;
    size_t size, position;
    size_t op_position; /* of the opcode that is being done */
    bool stopped;
    ser_pickle_value *stack;
    size_t stack_count, stack_capacity;
    size_t marks[SER_PICKLE_MAX_DEPTH]; /* heights of the stack */
    size_t mark_count;
    ser_pickle_value *memo;
    size_t memo_count, memo_capacity;
    ser_pickle_value *items;
    size_t item_count, item_capacity;
    ser_pickle_pair *pairs;
    size_t pair_count, pair_capacity;
    ser_pickle_dict *dicts;
    size_t dict_count, dict_capacity;
    ser_pickle_storage *storages;
    size_t storage_count, storage_capacity;
    ser_pickle_tensor *tensors;
    size_t tensor_count, tensor_capacity;
} ser_pickle_machine;

/* A fault of the opcode that is being done: FORMAT. */
int ser_pickle_bad(const ser_pickle_machine *m, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Bytes of the pickle for a message: printable ASCII, so that nothing looks like what it is not. */
const char *ser_pickle_preview(const unsigned char *text, size_t length,
                               char buffer[SER_PICKLE_PREVIEW_SIZE]);

/* Room for one more element of an array. */
int ser_pickle_reserve(ser_pickle_machine *m, void *block, size_t count, size_t *capacity,
                       size_t size);

int ser_pickle_push(ser_pickle_machine *m, ser_pickle_value v);
int ser_pickle_push_dict(ser_pickle_machine *m, enum ser_pickle_tag tag);

/* The upper `count` values, which stay where they are until the next push. */
int ser_pickle_pop(ser_pickle_machine *m, size_t count, const ser_pickle_value **values);

/* The opcodes that know PyTorch (pickle_torch.c). */
int ser_pickle_op_global(ser_pickle_machine *m);
int ser_pickle_op_storage(ser_pickle_machine *m);
int ser_pickle_op_reduce(ser_pickle_machine *m);

/* The tensors of the one value that is left. */
int ser_pickle_take(const ser_pickle_machine *m, ser_pickle *pickle);

#endif
