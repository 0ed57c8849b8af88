/* SPDX-License-Identifier: MIT */
#include "zipper.h"

#include "model/torch_bin.h"

enum { LOCAL = 30, CENTRAL = 46 };

void put_number(unsigned char *to, uint64_t value, size_t width)
{
    for (size_t i = 0; i < width; i++) {
        to[i] = (unsigned char)(value >> (8 * i));
    }
}

uint64_t get_number(const unsigned char *from, size_t width)
{
    uint64_t value = 0;
    for (size_t i = width; i > 0; i--) {
        value = value << 8 | from[i - 1];
    }
    return value;
}

uint32_t zip_crc(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    uint32_t crc = 0xFFFFFFFFU;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xEDB88320U : 0);
        }
    }
    return ~crc;
}

/* What both headers have in common, from the flags to the length of the name. */
static void put_common(unsigned char *to, const zip_part *part, size_t claimed, size_t name)
{
    put_number(to, part->flags, 2);
    put_number(to + 2, part->method, 2);
    put_number(to + 8, zip_crc(part->data, part->size) ^ part->crc_fault, 4);
    put_number(to + 12, part->size + claimed, 4);
    put_number(to + 16, part->size + claimed, 4);
    put_number(to + 20, name, 2);
}

static size_t put_local(unsigned char *to, const zip_part *part)
{
    const char *name = part->local_name != NULL ? part->local_name : part->name;
    (void)memcpy(to, "PK\3\4", 4);
    put_common(to + 6, part, part->claimed + part->claimed_local, strlen(name));
    put_number(to + 8, part->method + part->local_method, 2);
    (void)memcpy(to + LOCAL, name, strlen(name));
    if (part->size > 0) {
        (void)memcpy(to + LOCAL + strlen(name), part->data, part->size);
    }
    return LOCAL + strlen(name) + part->size;
}

static size_t put_central(unsigned char *to, const zip_part *part, size_t place)
{
    (void)memcpy(to, "PK\1\2", 4);
    put_common(to + 8, part, part->claimed, strlen(part->name));
    put_number(to + 42, place + (size_t)(ptrdiff_t)part->place_fault, 4);
    (void)memcpy(to + CENTRAL, part->name, strlen(part->name));
    return CENTRAL + strlen(part->name);
}

blob zip_write(const zip_part *list, size_t count)
{
    size_t room = ZIP_END;
    size_t *places = calloc(count + 1, sizeof *places);
    for (size_t i = 0; i < count; i++) {
        room += LOCAL + CENTRAL + 300 + list[i].size;
    }
    blob b = {calloc(room, 1), 0};
    ck_assert(b.data != NULL && places != NULL);
    for (size_t i = 0; i < count; i++) {
        places[i] = list[i].at != NULL ? places[list[i].at - list] : b.size;
        b.size += list[i].at != NULL ? 0 : put_local(b.data + b.size, &list[i]);
    }
    size_t directory = b.size;
    for (size_t i = 0; i < count; i++) {
        b.size += put_central(b.data + b.size, &list[i], places[i]);
    }
    unsigned char *end = b.data + b.size;
    (void)memcpy(end, "PK\5\6", 4);
    put_number(end + 8, count, 2);
    put_number(end + 10, count, 2);
    put_number(end + 12, b.size - directory, 4);
    put_number(end + 16, directory, 4);
    b.size += ZIP_END;
    free(places);
    return b;
}

blob golden_blob(const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "golden/torch_bin/%s", name);
    FILE *file = fopen(harness_data(path), "rb");
    ck_assert_msg(file != NULL, "%s", path);
    blob b = {malloc(1 << 17), 0};
    ck_assert_ptr_nonnull(b.data);
    b.size = fread(b.data, 1, 1 << 17, file);
    ck_assert_uint_lt(b.size, 1 << 17);
    (void)fclose(file);
    return b;
}

size_t zip_take_apart(const blob *archive, zip_part *list, char (*names)[64], size_t limit)
{
    const unsigned char *end = archive->data + archive->size - ZIP_END;
    const unsigned char *at = archive->data + get_number(end + 16, 4);
    size_t count = (size_t)get_number(end + 10, 2);
    ck_assert_uint_le(count, limit);
    for (size_t i = 0; i < count; i++) {
        ck_assert(memcmp(at, "PK\1\2", 4) == 0);
        size_t name = (size_t)get_number(at + 28, 2);
        const unsigned char *local = archive->data + get_number(at + 42, 4);
        ck_assert_uint_lt(name, 64);
        (void)memcpy(names[i], at + CENTRAL, name);
        names[i][name] = '\0';
        list[i] = (zip_part){
            .name = names[i],
            .data = local + LOCAL + get_number(local + 26, 2) + get_number(local + 28, 2),
            .size = (size_t)get_number(at + 24, 4),
        };
        at += CENTRAL + name + get_number(at + 30, 2) + get_number(at + 32, 2);
    }
    return count;
}

int torch_open(const blob *b, ser_safetensors *tensors)
{
    ser_file file;
    int64_t live = ser_mem_live();
    assert_ok(ser_file_wrap(b->data, b->size, "file.bin", &file));
    int status = ser_torch_bin_open(&file, SER_DEFAULT_HEADER, tensors);
    ck_assert(!ser_file_is_open(&file)); /* taken over */
    if (status != 0) {
        ck_assert_int_eq(ser_mem_live(), live);
        ck_assert(tensors->list == NULL && tensors->count == 0);
    }
    return status;
}

int torch_status(blob b)
{
    ser_safetensors tensors;
    int status = torch_open(&b, &tensors);
    ser_safetensors_close(&tensors);
    blob_free(&b);
    return status;
}
