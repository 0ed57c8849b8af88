/* SPDX-License-Identifier: MIT */
#include "model/safetensors.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/json.h"
#include "model/strided.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors files are little-endian, and this reader does not swap bytes"
#endif

enum {
    LENGTH_SIZE = 8, /* of the header's length in front of it */
    /* A tensor is an object of three values, one array of two and one of up to SER_MAX_RANK. */
    MAX_HEADER_VALUES = SER_MAX_TENSORS * (6 + SER_MAX_RANK),
    PREVIEW_SIZE = 100,
};

/* Every type of the format; what we cannot convert may still lie in a file that we read from. */
static const struct {
    const char *name;
    uint32_t bits;
} dtypes[] = {
    {"F32", 32},    {"F16", 16},    {"BF16", 16},   {"F64", 64},    {"I64", 64},
    {"I32", 32},    {"I16", 16},    {"I8", 8},      {"U64", 64},    {"U32", 32},
    {"U16", 16},    {"U8", 8},      {"BOOL", 8},    {"C64", 64},    {"F8_E5M2", 8},
    {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},
};

static int bad_tensor(const ser_safetensors *st, const char *tensor, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int bad_tensor(const ser_safetensors *st, const char *tensor, const char *format, ...)
{
    char preview[PREVIEW_SIZE];
    char fault[200];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(fault, sizeof fault, format, args);
    va_end(args);
    return ser_fail(SER_ERR_FORMAT, "%s: tensor \"%s\": %s", st->file.name,
                    ser_text_preview(tensor, preview, sizeof preview), fault);
}

static int read_dtype(const ser_safetensors *st, ser_tensor_entry *entry, json_t *value,
                      uint32_t *bits)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (json_is_string(value) && strcmp(json_string_value(value), dtypes[i].name) == 0) {
            entry->dtype = dtypes[i].name;
            *bits = dtypes[i].bits;
            return 0;
        }
    }
    char preview[SER_JSON_PREVIEW_SIZE];
    return bad_tensor(st, entry->name, "dtype %s is unknown", ser_json_preview(value, preview));
}

/* An array of up to `limit` non-negative integers of at most 63 bits. */
static int read_integers(const ser_safetensors *st, const ser_tensor_entry *entry,
                         const json_t *array, size_t limit, uint64_t *values, const char *fault)
{
    size_t count = json_array_size(array);
    if (!json_is_array(array) || count > limit) {
        return bad_tensor(st, entry->name, "%s", fault);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(array, i);
        if (!json_is_integer(item) || json_integer_value(item) < 0) {
            return bad_tensor(st, entry->name, "%s", fault);
        }
        values[i] = (uint64_t)json_integer_value(item);
    }
    return 0;
}

/* The shape and its product; bytes = elements * bits / 8 must be whole and fit. */
static int read_shape(const ser_safetensors *st, ser_tensor_entry *entry, const json_t *array,
                      uint32_t bits)
{
    int status = read_integers(st, entry, array, SER_MAX_RANK, entry->shape,
                               "shape must be an array of at most 8 non-negative integers");
    if (status != 0) {
        return status;
    }
    entry->rank = (int32_t)json_array_size(array);
    uint64_t elements = 1;
    bool fits = true;
    for (int32_t i = 0; i < entry->rank; i++) {
        /* Checked even where a later 0 would make the product small: the reference does so too. */
        fits = fits && !__builtin_mul_overflow(elements, entry->shape[i], &elements);
    }
    uint64_t total_bits;
    if (!fits || __builtin_mul_overflow(elements, (uint64_t)bits, &total_bits)) {
        return bad_tensor(st, entry->name, "the product of its shape overflows");
    }
    if (total_bits % 8 != 0) {
        return bad_tensor(st, entry->name, "its elements do not fill whole bytes");
    }
    entry->elements = elements;
    entry->size = total_bits / 8;
    return 0;
}

static int read_entry(const ser_safetensors *st, json_t *object, ser_tensor_entry *entry)
{
    json_t *dtype = json_object_get(object, "dtype");
    json_t *shape = json_object_get(object, "shape");
    json_t *offsets = json_object_get(object, "data_offsets");
    if (dtype == NULL || shape == NULL || offsets == NULL || json_object_size(object) != 3) {
        return bad_tensor(st, entry->name,
                          "must be an object with dtype, shape and data_offsets and nothing else");
    }
    uint32_t bits = 0;
    uint64_t range[2] = {0, 0};
    int status = read_dtype(st, entry, dtype, &bits);
    if (status == 0) {
        status = read_shape(st, entry, shape, bits);
    }
    if (status == 0) {
        status = read_integers(st, entry, offsets, 2, range,
                               "data_offsets must be two non-negative integers");
    }
    if (status != 0) {
        return status;
    }
    if (json_array_size(offsets) != 2 || range[0] > range[1]) {
        return bad_tensor(st, entry->name, "data_offsets must be two integers, begin and end");
    }
    if (range[1] - range[0] != entry->size) {
        return bad_tensor(
            st, entry->name, "%llu bytes between data_offsets, but its shape needs %llu",
            (unsigned long long)(range[1] - range[0]), (unsigned long long)entry->size);
    }
    entry->offset = range[0];
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const ser_tensor_entry *)a)->name, ((const ser_tensor_entry *)b)->name);
}

/* A tensor without bytes may share its offset with the one that begins there, and comes first. */
static int by_offset(const void *a, const void *b)
{
    const ser_tensor_entry *x = a;
    const ser_tensor_entry *y = b;
    if (x->offset != y->offset) {
        return x->offset < y->offset ? -1 : 1;
    }
    return x->size == y->size ? 0 : (x->size < y->size ? -1 : 1);
}

/* In the order of their offsets the tensors must fill the data exactly. `start`: where the data
 * does. */
static int check_layout(ser_safetensors *st, uint64_t start)
{
    qsort(st->list, st->count, sizeof st->list[0], by_offset);
    uint64_t available = st->file.size - start;
    uint64_t end = 0;
    for (size_t i = 0; i < st->count; i++) {
        ser_tensor_entry *entry = &st->list[i];
        if (entry->offset != end) {
            return bad_tensor(st, entry->name, "data_offsets %s",
                              entry->offset < end ? "overlap another tensor's"
                                                  : "leave a gap before it");
        }
        if (entry->size > available - end) {
            return bad_tensor(st, entry->name, "ends beyond the file, which has %llu bytes of data",
                              (unsigned long long)available);
        }
        end += entry->size;
        entry->offset += start;
    }
    if (end != available) {
        return ser_fail(SER_ERR_FORMAT, "%s: %llu bytes behind the last tensor", st->file.name,
                        (unsigned long long)(available - end));
    }
    return 0;
}

static int take_metadata(ser_safetensors *st, json_t *metadata)
{
    if (!json_is_object(metadata)) {
        return ser_fail(SER_ERR_FORMAT, "%s: __metadata__ must be an object of texts",
                        st->file.name);
    }
    for (void *at = json_object_iter(metadata); at != NULL;
         at = json_object_iter_next(metadata, at)) {
        if (!json_is_string(json_object_iter_value(at))) {
            char preview[PREVIEW_SIZE];
            return ser_fail(SER_ERR_FORMAT, "%s: __metadata__.%s must be a text", st->file.name,
                            ser_text_preview(json_object_iter_key(at), preview, sizeof preview));
        }
    }
    st->metadata = json_incref(metadata);
    return 0;
}

/* Entries and copies of their names; all names together are shorter than the header. */
static int read_entries(ser_safetensors *st, json_t *root, size_t header_size)
{
    size_t count = json_object_size(root);
    if (count > SER_MAX_TENSORS) {
        return ser_fail(SER_ERR_CAPACITY, "%s: %zu tensors, limit %d", st->file.name, count,
                        SER_MAX_TENSORS);
    }
    st->list = ser_mem_alloc(count, sizeof st->list[0]);
    st->names = ser_mem_alloc_raw(header_size, 1);
    if (st->list == NULL || st->names == NULL) {
        return SER_ERR_MEMORY;
    }
    char *next = st->names;
    for (void *at = json_object_iter(root); at != NULL; at = json_object_iter_next(root, at)) {
        const char *key = json_object_iter_key(at);
        json_t *value = json_object_iter_value(at);
        int status;
        if (strcmp(key, "__metadata__") == 0) {
            status = take_metadata(st, value);
        } else {
            ser_tensor_entry *entry = &st->list[st->count++];
            size_t size = strlen(key) + 1;
            memcpy(next, key, size);
            entry->name = next;
            next += size;
            status = read_entry(st, value, entry);
        }
        if (status != 0) {
            return status;
        }
    }
    return 0;
}

/* What people have put in the place of a safetensors file. */
static const char *hint(const unsigned char start[LENGTH_SIZE])
{
    if (memcmp(start, "PK\3\4", 4) == 0) {
        return " (it begins like a zip archive: a pickled PyTorch checkpoint?)";
    }
    if (start[0] == 0x80 && start[1] >= 2 && start[1] <= 5) {
        return " (it begins like a Python pickle)";
    }
    if (memcmp(start, "GGUF", 4) == 0) {
        return " (it begins like a GGUF file)";
    }
    return memcmp(start, "version ", 8) == 0
               ? " (it looks like a Git LFS pointer: fetch the file itself)"
               : "";
}

static int read_header_size(const ser_safetensors *st, uint64_t max_header, size_t *header_size)
{
    unsigned char start[LENGTH_SIZE];
    if (st->file.size < LENGTH_SIZE) {
        return ser_fail(SER_ERR_FORMAT, "%s: not a safetensors file: %llu bytes, less than 8",
                        st->file.name, (unsigned long long)st->file.size);
    }
    int status = ser_file_read(&st->file, 0, start, sizeof start);
    if (status != 0) {
        return status;
    }
    uint64_t size;
    memcpy(&size, start, sizeof size);
    if (size < 2 || size > st->file.size - LENGTH_SIZE) {
        return ser_fail(SER_ERR_FORMAT,
                        "%s: not a safetensors file: a header of %llu bytes in a file of %llu%s",
                        st->file.name, (unsigned long long)size, (unsigned long long)st->file.size,
                        hint(start));
    }
    if (size > max_header) {
        return ser_fail(SER_ERR_CAPACITY,
                        "%s: a header of %llu bytes, limit %llu (max_header_size)", st->file.name,
                        (unsigned long long)size, (unsigned long long)max_header);
    }
    *header_size = (size_t)size;
    return 0;
}

static int parse_header(ser_safetensors *st, size_t size)
{
    json_t *root = NULL;
    char *text = ser_mem_alloc_raw(size, 1);
    if (text == NULL) {
        return SER_ERR_MEMORY;
    }
    int status = ser_file_read(&st->file, LENGTH_SIZE, text, size);
    if (status == 0) {
        status = ser_json_parse(st->file.name, text, size, MAX_HEADER_VALUES, &root);
    }
    ser_mem_free(text);
    if (status == SER_ERR_DATA) {
        status = SER_ERR_FORMAT; /* a number beyond 64 bits: no file is that large */
    }
    if (status == 0) {
        status = read_entries(st, root, size);
    }
    json_decref(root);
    return status;
}

int ser_safetensors_open(ser_file *file, uint64_t max_header, ser_safetensors *safetensors)
{
    ser_safetensors st = {.file = *file};
    *file = (ser_file){.fd = -1};
    *safetensors = (ser_safetensors){.file = {.fd = -1}};
    size_t header_size = 0;
    int status = read_header_size(&st, max_header, &header_size);
    if (status == 0) {
        status = parse_header(&st, header_size);
    }
    if (status == 0) {
        status = check_layout(&st, LENGTH_SIZE + (uint64_t)header_size);
    }
    if (status != 0) {
        ser_safetensors_close(&st);
        return status;
    }
    qsort(st.list, st.count, sizeof st.list[0], by_name);
    *safetensors = st;
    return 0;
}

void ser_safetensors_close(ser_safetensors *safetensors)
{
    ser_file_close(&safetensors->file);
    ser_mem_free(safetensors->list);
    ser_mem_free(safetensors->names);
    json_decref(safetensors->metadata);
    *safetensors = (ser_safetensors){.file = {.fd = -1}};
}

const ser_tensor_entry *ser_safetensors_find(const ser_safetensors *safetensors, const char *name)
{
    ser_tensor_entry key = {.name = name};
    return bsearch(&key, safetensors->list, safetensors->count, sizeof key, by_name);
}

const char *ser_safetensors_metadata(const ser_safetensors *safetensors, const char *key)
{
    return json_string_value(json_object_get(safetensors->metadata, key));
}

bool ser_tensor_is_readable(const ser_tensor_entry *entry)
{
    return strcmp(entry->dtype, "F32") == 0 || strcmp(entry->dtype, "F16") == 0 ||
           strcmp(entry->dtype, "BF16") == 0;
}

/* IEEE binary16 -> binary32, exact. */
static uint32_t widen_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000U) << 16;
    uint32_t exponent = (half >> 10) & 0x1FU;
    uint32_t fraction = half & 0x3FFU;
    if (exponent == 0x1F) {
        return sign | 0x7F800000U | fraction << 13;
    }
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24 */
        float value = (float)fraction * 0x1p-24F;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        return sign | bits;
    }
    return sign | (exponent + 127 - 15) << 23 | fraction << 13;
}

/* In place: the 16-bit values lie in the upper half of the buffer, and the write never passes the
 * read. */
static void widen(float *values, uint64_t count, bool is_half)
{
    unsigned char *bytes = (unsigned char *)values;
    for (uint64_t i = 0; i < count; i++) {
        uint16_t narrow;
        memcpy(&narrow, bytes + 2 * (count + i), sizeof narrow);
        uint32_t wide = is_half ? widen_half(narrow) : (uint32_t)narrow << 16;
        memcpy(bytes + 4 * i, &wide, sizeof wide);
    }
}

int ser_safetensors_read(const ser_safetensors *safetensors, const ser_tensor_entry *entry,
                         float *values)
{
    if (!ser_tensor_is_readable(entry)) {
        char preview[PREVIEW_SIZE];
        return ser_fail(SER_ERR_UNSUPPORTED, "%s: tensor \"%s\" is %s; F32, F16 and BF16 are read",
                        safetensors->file.name,
                        ser_text_preview(entry->name, preview, sizeof preview), entry->dtype);
    }
    size_t size = (size_t)entry->size;
    bool is_wide = strcmp(entry->dtype, "F32") == 0;
    unsigned char *raw = (unsigned char *)values + (is_wide ? 0 : size);
    int status = entry->strided ? ser_strided_read(&safetensors->file, entry, raw)
                                : ser_file_read(&safetensors->file, entry->offset, raw, size);
    if (status == 0 && !is_wide) {
        widen(values, entry->elements, strcmp(entry->dtype, "F16") == 0);
    }
    return status;
}
