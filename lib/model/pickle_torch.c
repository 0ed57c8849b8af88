/* SPDX-License-Identifier: MIT */
#include "model/pickle_machine.h"

#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"

enum { SYMBOL_ORDERED_DICT, SYMBOL_TENSOR, SYMBOL_PARAMETER, SYMBOL_FIRST_STORAGE };

/* All symbols that a pickle may name. */
static const struct {
    const char *module, *name;
    const char *dtype; /* of a storage */
    uint32_t width;
} symbols[] = {
    {"collections", "OrderedDict", NULL, 0},
    {"torch._utils", "_rebuild_tensor_v2", NULL, 0},
    {"torch._utils", "_rebuild_parameter", NULL, 0},
    {"torch", "FloatStorage", "F32", 4},
    {"torch", "HalfStorage", "F16", 2},
    {"torch", "BFloat16Storage", "BF16", 2},
    {"torch", "DoubleStorage", "F64", 8},
    {"torch", "LongStorage", "I64", 8},
    {"torch", "IntStorage", "I32", 4},
    {"torch", "ShortStorage", "I16", 2},
    {"torch", "CharStorage", "I8", 1},
    {"torch", "ByteStorage", "U8", 1},
    {"torch", "BoolStorage", "BOOL", 1},
};

enum { SYMBOL_COUNT = sizeof symbols / sizeof symbols[0] };

static bool equals(const unsigned char *text, size_t length, const char *expected)
{
    return length == strlen(expected) && memcmp(text, expected, length) == 0;
}

/* "module\nname\n": a tag if it is in the table, and nothing else. */
int ser_pickle_op_global(ser_pickle_machine *m)
{
    const unsigned char *module = &m->data[m->position];
    size_t room = m->size - m->position;
    const unsigned char *end = memchr(module, '\n', room);
    const unsigned char *last =
        end != NULL ? memchr(end + 1, '\n', room - (size_t)(end + 1 - module)) : NULL;
    if (last == NULL) {
        return ser_pickle_bad(m, "the pickle ends within it");
    }
    size_t module_length = (size_t)(end - module);
    size_t name_length = (size_t)(last - end) - 1;
    m->position += (size_t)(last - module) + 1;
    for (size_t i = 0; i < SYMBOL_COUNT; i++) {
        if (equals(module, module_length, symbols[i].module) &&
            equals(end + 1, name_length, symbols[i].name)) {
            return ser_pickle_push(m, (ser_pickle_value){.tag = SER_PICKLE_SYMBOL, .index = i});
        }
    }
    char text[2][SER_PICKLE_PREVIEW_SIZE];
    return ser_fail(SER_ERR_UNSUPPORTED,
                    "%s: global \"%s.%s\" at byte %zu is not allowed: only tensors are read",
                    m->name, ser_pickle_preview(module, module_length, text[0]),
                    ser_pickle_preview(end + 1, name_length, text[1]), m->op_position);
}

/* "cpu", "cuda:0": where the storage was, which is all the same to us. */
static bool is_location(const ser_pickle_value *v)
{
    uint32_t i = 0;
    if (v->tag != SER_PICKLE_TEXT || v->count > 16) {
        return false;
    }
    while (i < v->count && v->text[i] >= 'a' && v->text[i] <= 'z') {
        i++;
    }
    bool device = i > 0;
    if (device && i < v->count && v->text[i] == ':') {
        for (i++, device = i < v->count; i < v->count && device; i++) {
            device = device && v->text[i] >= '0' && v->text[i] <= '9';
        }
    }
    return device && i == v->count;
}

static bool is_key(const ser_pickle_value *v)
{
    bool digits = v->tag == SER_PICKLE_TEXT && v->count > 0 && v->count <= 20;
    for (uint32_t i = 0; digits && i < v->count; i++) {
        digits = v->text[i] >= '0' && v->text[i] <= '9';
    }
    return digits;
}

/* ("storage", class, key, location, elements) */
int ser_pickle_op_storage(ser_pickle_machine *m)
{
    const ser_pickle_value *top = NULL;
    int status = ser_pickle_pop(m, 1, &top);
    if (status != 0) {
        return status;
    }
    bool is_tuple = top->tag == SER_PICKLE_TUPLE;
    const ser_pickle_value *args = &m->items[is_tuple ? top->index : 0];
    if (!is_tuple || top->count != 5 || args[0].tag != SER_PICKLE_TEXT ||
        !equals(args[0].text, args[0].count, "storage") || args[1].tag != SER_PICKLE_SYMBOL ||
        args[1].index < SYMBOL_FIRST_STORAGE || args[4].tag != SER_PICKLE_INT ||
        args[4].integer < 0) {
        return ser_pickle_bad(m, "not (\"storage\", class, key, location, number of elements)");
    }
    if (!is_key(&args[2])) {
        return ser_pickle_bad(m, "a storage's key must be 1 to 20 digits");
    }
    if (!is_location(&args[3])) {
        return ser_pickle_bad(m, "a storage's location must be a device such as cpu or cuda:0");
    }
    status = ser_pickle_reserve(m, &m->storages, m->storage_count, &m->storage_capacity,
                                sizeof *m->storages);
    if (status != 0) {
        return status;
    }
    ser_pickle_storage *s = &m->storages[m->storage_count];
    *s = (ser_pickle_storage){.symbol = args[1].index, .elements = (uint64_t)args[4].integer};
    memcpy(s->key, args[2].text, args[2].count);
    return ser_pickle_push(
        m, (ser_pickle_value){.tag = SER_PICKLE_STORAGE, .index = m->storage_count++});
}

static bool is_empty_dict(const ser_pickle_machine *m, const ser_pickle_value *v)
{
    return (v->tag == SER_PICKLE_DICT || v->tag == SER_PICKLE_ORDERED_DICT) &&
           m->dicts[v->index].count == 0;
}

/* A tuple of up to SER_MAX_RANK numbers, none negative; its length, or -1. */
static int32_t read_numbers(const ser_pickle_machine *m, const ser_pickle_value *tuple,
                            uint64_t *numbers)
{
    if (tuple->tag != SER_PICKLE_TUPLE || tuple->count > SER_MAX_RANK) {
        return -1;
    }
    for (size_t i = 0; i < tuple->count; i++) {
        const ser_pickle_value *item = &m->items[tuple->index + i];
        if (item->tag != SER_PICKLE_INT || item->integer < 0) {
            return -1;
        }
        numbers[i] = (uint64_t)item->integer;
    }
    return (int32_t)tuple->count;
}

/* _rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks[, metadata]); metadata
 * would say that values are to be negated or conjugated. */
static int rebuild_tensor(ser_pickle_machine *m, const ser_pickle_value *args, size_t count)
{
    ser_pickle_tensor tensor = {.rank = 0};
    if (count < 6 || count > 7 || args[0].tag != SER_PICKLE_STORAGE ||
        args[1].tag != SER_PICKLE_INT || args[1].integer < 0 || args[4].tag != SER_PICKLE_BOOL ||
        !is_empty_dict(m, &args[5]) ||
        (count == 7 && args[6].tag != SER_PICKLE_NONE && !is_empty_dict(m, &args[6]))) {
        return ser_pickle_bad(m, "not the arguments of a tensor");
    }
    tensor.rank = read_numbers(m, &args[2], tensor.shape);
    if (tensor.rank < 0 || read_numbers(m, &args[3], tensor.stride) != tensor.rank) {
        return ser_pickle_bad(
            m, "shape and stride must be equally many numbers, at most %d, none negative",
            SER_MAX_RANK);
    }
    if (m->tensor_count == SER_MAX_TENSORS) {
        return ser_fail(SER_ERR_CAPACITY, "%s: more than %d tensors", m->name, SER_MAX_TENSORS);
    }
    int status =
        ser_pickle_reserve(m, &m->tensors, m->tensor_count, &m->tensor_capacity, sizeof tensor);
    if (status != 0) {
        return status;
    }
    const ser_pickle_storage *s = &m->storages[args[0].index];
    memcpy(tensor.key, s->key, sizeof tensor.key);
    tensor.dtype = symbols[s->symbol].dtype;
    tensor.width = symbols[s->symbol].width;
    tensor.storage_elements = s->elements;
    tensor.offset = (uint64_t)args[1].integer;
    m->tensors[m->tensor_count] = tensor;
    return ser_pickle_push(
        m, (ser_pickle_value){.tag = SER_PICKLE_TENSOR, .index = m->tensor_count++});
}

int ser_pickle_op_reduce(ser_pickle_machine *m)
{
    const ser_pickle_value *top = NULL;
    int status = ser_pickle_pop(m, 2, &top);
    if (status != 0) {
        return status;
    }
    if (top[0].tag != SER_PICKLE_SYMBOL || top[1].tag != SER_PICKLE_TUPLE) {
        return ser_pickle_bad(m, "not a symbol and a tuple of arguments");
    }
    const ser_pickle_value *args = &m->items[top[1].index];
    size_t count = top[1].count;
    switch (top[0].index) {
    case SYMBOL_ORDERED_DICT:
        return count == 0 ? ser_pickle_push_dict(m, SER_PICKLE_ORDERED_DICT)
                          : ser_pickle_bad(m, "OrderedDict with arguments is not read");
    case SYMBOL_TENSOR: return rebuild_tensor(m, args, count);
    case SYMBOL_PARAMETER: /* (tensor, requires_grad, hooks) is the tensor */
        if (count != 3 || args[0].tag != SER_PICKLE_TENSOR || args[1].tag != SER_PICKLE_BOOL ||
            !is_empty_dict(m, &args[2])) {
            return ser_pickle_bad(m, "not the arguments of a parameter");
        }
        return ser_pickle_push(m, args[0]);
    default: return ser_pickle_bad(m, "%s is not a function", symbols[top[0].index].name);
    }
}

static bool is_name(const ser_pickle_value *key)
{
    bool fine = key->count > 0;
    for (uint32_t i = 0; i < key->count; i++) {
        fine = fine && key->text[i] > 0x20 && key->text[i] < 0x7F;
    }
    return fine;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const ser_pickle_tensor *)a)->name, ((const ser_pickle_tensor *)b)->name);
}

/* The pairs of the last value left, a dict, with copies of their names. */
static int copy_tensors(const ser_pickle_machine *m, const ser_pickle_dict *d, ser_pickle *pickle)
{
    char text[SER_PICKLE_PREVIEW_SIZE];
    char *next = pickle->names;
    size_t at = d->first;
    for (; pickle->count < d->count; at = m->pairs[at].next) {
        const ser_pickle_value *key = &m->pairs[at].key;
        const ser_pickle_value *item = &m->pairs[at].item;
        if (!is_name(key)) {
            return ser_fail(SER_ERR_FORMAT, "%s: \"%s\" is no name of a tensor", m->name,
                            ser_pickle_preview(key->text, key->count, text));
        }
        if (item->tag != SER_PICKLE_TENSOR) {
            return ser_fail(SER_ERR_FORMAT, "%s: \"%s\" is no tensor: not a state dict", m->name,
                            ser_pickle_preview(key->text, key->count, text));
        }
        ser_pickle_tensor *tensor = &pickle->list[pickle->count++];
        *tensor = m->tensors[item->index];
        tensor->name = next;
        memcpy(next, key->text, key->count);
        next[key->count] = '\0';
        next += key->count + 1;
    }
    qsort(pickle->list, pickle->count, sizeof pickle->list[0], by_name);
    for (size_t i = 1; i < pickle->count; i++) {
        if (by_name(&pickle->list[i - 1], &pickle->list[i]) == 0) {
            const char *name = pickle->list[i].name;
            return ser_fail(SER_ERR_FORMAT, "%s: duplicate tensor \"%s\"", m->name,
                            ser_pickle_preview((const unsigned char *)name, strlen(name), text));
        }
    }
    return 0;
}

int ser_pickle_take(const ser_pickle_machine *m, ser_pickle *pickle)
{
    const ser_pickle_value *top = &m->stack[0];
    if (top->tag != SER_PICKLE_DICT && top->tag != SER_PICKLE_ORDERED_DICT) {
        return ser_fail(SER_ERR_FORMAT, "%s: no dict of tensors", m->name);
    }
    const ser_pickle_dict *d = &m->dicts[top->index];
    if (d->count > SER_MAX_TENSORS) {
        return ser_fail(SER_ERR_CAPACITY, "%s: %zu tensors, limit %d", m->name, d->count,
                        SER_MAX_TENSORS);
    }
    size_t names_size = 0;
    size_t at = d->first;
    for (size_t i = 0; i < d->count; i++, at = m->pairs[at].next) {
        names_size += (size_t)m->pairs[at].key.count + 1;
    }
    if (names_size > m->size) { /* texts that all differ fit into the pickle that spells them */
        return ser_fail(SER_ERR_FORMAT, "%s: duplicate tensors: %zu bytes of names in %zu", m->name,
                        names_size, m->size);
    }
    pickle->list = ser_mem_alloc(d->count, sizeof pickle->list[0]);
    pickle->names = ser_mem_alloc_raw(names_size, 1);
    return pickle->list != NULL && pickle->names != NULL ? copy_tensors(m, d, pickle)
                                                         : SER_ERR_MEMORY;
}
