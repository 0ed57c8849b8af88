/* SPDX-License-Identifier: MIT */
#include "model/archive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zip.h>

#include "base/fail.h"
#include "base/mem.h"
#include "model/json.h"
#include "model/safetensors.h"
#include "model/torch_bin.h"

enum {
    MAX_RECORDS = SER_MAX_TENSORS + 64,
    PREVIEW_SIZE = 100,
    BUFFER_SIZE = 1 << 16,
    LOCAL_SIZE = 30,      /* of a local header without its name */
    END_SIZE = 22,        /* of the end record without a comment */
    LOCATOR_SIZE = 20,    /* of the zip64 locator, right before it */
    END64_SIZE = 56,      /* of the zip64 end record */
    MAX_COMMENT = 0xFFFF, /* behind an end record */
    MAX_SIGNATURES = 16,  /* of end records in the data before the real one, by chance */
    END_ENTRIES = 10,     /* where an end record has the number of its entries, */
    END_COMMENT = 20,     /* the length of its comment, */
    END64_ENTRIES = 32,   /* a zip64 end record the number of entries, */
    LOCATOR_OFFSET = 8,   /* and the locator that record's place */
};

/* The file as libzip sees it, with the last run of bytes that libzip has read from it. */
typedef struct source {
    const ser_file *file;
    uint64_t position;
    uint64_t run_start, run_end;
    zip_error_t error;
    int status; /* of our own read that failed */
} source;

static uint64_t little_endian(const unsigned char *bytes, size_t count)
{
    uint64_t result = 0;
    for (size_t i = count; i > 0; i--) {
        result = result << 8 | bytes[i - 1];
    }
    return result;
}

static int check_count(const ser_file *file, uint64_t count)
{
    return count <= MAX_RECORDS ? 0
                                : ser_fail(SER_ERR_CAPACITY,
                                           "%s: a zip archive of %llu records, "
                                           "limit %d",
                                           file->name, (unsigned long long)count, MAX_RECORDS);
}

/* The number of entries that the zip64 end record has, where there is one. */
static int check_end64(const ser_file *file, const unsigned char *locator)
{
    unsigned char end64[END64_SIZE];
    uint64_t offset = little_endian(locator + LOCATOR_OFFSET, 8);
    if (file->size < sizeof end64 || offset > file->size - sizeof end64) {
        return ser_fail(SER_ERR_FORMAT, "%s: no zip64 end record where it should be", file->name);
    }
    int status = ser_file_read(file, offset, end64, sizeof end64);
    if (status == 0 && memcmp(end64, "PK\6\6", 4) != 0) {
        return ser_fail(SER_ERR_FORMAT, "%s: no zip64 end record where it should be", file->name);
    }
    return status != 0 ? status : check_count(file, little_endian(end64 + END64_ENTRIES, 8));
}

static bool is_end(const unsigned char *bytes)
{
    return memcmp(bytes, "PK\5\6", 4) == 0;
}

static bool has_locator(const unsigned char *tail, size_t at)
{
    return at >= LOCATOR_SIZE && memcmp(tail + at - LOCATOR_SIZE, "PK\6\7", 4) == 0;
}

/*
 * One end record without a comment ends the file, and nothing before it could be taken for one:
 * libzip would try each, and make room for as many entries as it claims.
 */
static int check_tail(const ser_file *file, const unsigned char *tail, size_t size)
{
    size_t end = size - END_SIZE;
    int signatures = 0;
    if (!is_end(tail + end) || little_endian(tail + end + END_COMMENT, 2) != 0) {
        return ser_fail(SER_ERR_FORMAT,
                        "%s: does not end as a zip archive does (cut off, or bytes behind it)",
                        file->name);
    }
    for (size_t i = 0; i < end; i++) {
        if (is_end(tail + i) && (++signatures > MAX_SIGNATURES || has_locator(tail, i) ||
                                 little_endian(tail + i + END_COMMENT, 2) == size - END_SIZE - i)) {
            return ser_fail(SER_ERR_FORMAT, "%s: a zip archive with two ends", file->name);
        }
    }
    return has_locator(tail, end) ? check_end64(file, tail + end - LOCATOR_SIZE)
                                  : check_count(file, little_endian(tail + end + END_ENTRIES, 2));
}

static int check_end(const ser_file *file)
{
    size_t size = MAX_COMMENT + END_SIZE + LOCATOR_SIZE;
    if (file->size < END_SIZE) {
        return ser_fail(SER_ERR_FORMAT, "%s: not a zip archive: %llu bytes", file->name,
                        (unsigned long long)file->size);
    }
    size = file->size < size ? (size_t)file->size : size;
    unsigned char *tail = ser_mem_alloc_raw(size, 1);
    int status = tail != NULL ? ser_file_read(file, file->size - size, tail, size) : SER_ERR_MEMORY;
    if (status == 0) {
        status = check_tail(file, tail, size);
    }
    ser_mem_free(tail);
    return status;
}

static zip_int64_t read_source(source *s, void *data, zip_uint64_t length)
{
    uint64_t rest = s->file->size - s->position;
    size_t count = length < rest ? (size_t)length : (size_t)rest;
    int status = ser_file_read(s->file, s->position, data, count);
    if (status != 0) {
        s->status = status;
        zip_error_set(&s->error, ZIP_ER_READ, 0);
        return -1;
    }
    if (s->position != s->run_end) {
        s->run_start = s->position;
    }
    s->position += count;
    s->run_end = s->position;
    return (zip_int64_t)count;
}

static zip_int64_t stat_source(const source *s, zip_stat_t *stat)
{
    zip_stat_init(stat);
    stat->valid = ZIP_STAT_SIZE;
    stat->size = s->file->size;
    return (zip_int64_t)sizeof *stat;
}

static zip_int64_t seek_source(source *s, void *data, zip_uint64_t length)
{
    zip_int64_t position =
        zip_source_seek_compute_offset(s->position, s->file->size, data, length, &s->error);
    if (position < 0) {
        return -1;
    }
    s->position = (uint64_t)position;
    return 0;
}

static zip_int64_t serve(void *user, void *data, zip_uint64_t length, zip_source_cmd_t command)
{
    source *s = user;
    switch (command) {
    case ZIP_SOURCE_OPEN: s->position = 0; return 0;
    case ZIP_SOURCE_READ: return read_source(s, data, length);
    case ZIP_SOURCE_STAT: return stat_source(s, data);
    case ZIP_SOURCE_SEEK: return seek_source(s, data, length);
    case ZIP_SOURCE_TELL: return (zip_int64_t)s->position;
    case ZIP_SOURCE_ERROR: return zip_error_to_data(&s->error, data, length);
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE: return 0;
    case ZIP_SOURCE_SUPPORTS:
        return zip_source_make_command_bitmap(
            ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_CLOSE, ZIP_SOURCE_STAT, ZIP_SOURCE_ERROR,
            ZIP_SOURCE_FREE, ZIP_SOURCE_SEEK, ZIP_SOURCE_TELL, ZIP_SOURCE_SUPPORTS, -1);
    default: zip_error_set(&s->error, ZIP_ER_OPNOTSUPP, 0); return -1;
    }
}

/* What libzip says, unless the failure was our own read. */
static int fail_as(const source *s, const char *record, zip_error_t *error)
{
    char preview[PREVIEW_SIZE];
    int code = zip_error_code_zip(error);
    const char *what = code == ZIP_ER_EXISTS ? "two records of one name"
                       : code == ZIP_ER_CRC  ? "wrong CRC"
                                             : zip_error_strerror(error);
    if (s->status != 0) {
        return s->status;
    }
    if (code == ZIP_ER_MEMORY) {
        return ser_fail(SER_ERR_MEMORY, "%s: out of memory", s->file->name);
    }
    if (record == NULL) {
        return ser_fail(SER_ERR_FORMAT, "%s: damaged zip archive: %s", s->file->name, what);
    }
    return ser_fail(SER_ERR_FORMAT, "%s: record \"%s\": %s", s->file->name,
                    ser_text_preview(record, preview, sizeof preview), what);
}

static int open_zip(source *s, zip_t **zip)
{
    zip_error_t error;
    zip_error_init(&error);
    *zip = NULL;
    zip_source_t *stream = zip_source_function_create(serve, s, &error);
    if (stream != NULL) {
        *zip = zip_open_from_source(stream, ZIP_RDONLY | ZIP_CHECKCONS, &error);
        if (*zip == NULL) {
            zip_source_free(stream);
        }
    }
    int status = *zip != NULL ? 0 : fail_as(s, NULL, &error);
    zip_error_fini(&error);
    return status;
}

/* The size of an entry, which must be stored as it is. */
static int check_entry(const ser_file *file, zip_t *zip, size_t index, zip_stat_t *stat)
{
    const zip_uint64_t needed = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_CRC |
                                ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    char preview[PREVIEW_SIZE];
    if (zip_stat_index(zip, index, ZIP_FL_ENC_RAW, stat) != 0 || (stat->valid & needed) != needed) {
        return ser_fail(SER_ERR_FORMAT, "%s: damaged zip archive: record %zu", file->name, index);
    }
    (void)ser_text_preview(stat->name, preview, sizeof preview);
    if (stat->encryption_method != ZIP_EM_NONE || stat->comp_method != ZIP_CM_STORE) {
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "%s: record \"%s\" is %s; records must be stored as they are", file->name,
                        preview,
                        stat->encryption_method != ZIP_EM_NONE ? "encrypted" : "compressed");
    }
    if (stat->size != stat->comp_size) {
        return ser_fail(SER_ERR_FORMAT, "%s: record \"%s\": two sizes", file->name, preview);
    }
    return 0;
}

/* "archive/" of the first entry, which must stand before all names. */
static size_t root_length(const char *name)
{
    const char *slash = strchr(name, '/');
    return slash != NULL ? (size_t)(slash - name) + 1 : 0;
}

/* Names and sizes, the names in full; all bytes together cannot be more than the file. */
static int list_records(const ser_file *file, zip_t *zip, size_t count, ser_archive *archive)
{
    size_t names_size = 0;
    uint64_t total = 0;
    zip_stat_t stat;
    archive->list = ser_mem_alloc(count, sizeof archive->list[0]);
    if (archive->list == NULL) {
        return SER_ERR_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        int status = check_entry(file, zip, i, &stat);
        if (status != 0) {
            return status;
        }
        if (stat.size > file->size - total) {
            return ser_fail(SER_ERR_FORMAT, "%s: records larger than the file", file->name);
        }
        total += stat.size;
        names_size += strlen(stat.name) + 1;
        archive->list[archive->count++] = (ser_record){.size = stat.size};
    }
    archive->names = ser_mem_alloc_raw(names_size, 1);
    if (archive->names == NULL) {
        return SER_ERR_MEMORY;
    }
    char *next = archive->names;
    for (size_t i = 0; i < count; i++) {
        const char *name = zip_get_name(zip, i, ZIP_FL_ENC_RAW);
        size_t size = strlen(name) + 1;
        archive->list[i].name = memcpy(next, name, size);
        next += size;
    }
    return 0;
}

/* Read a record through libzip, which compares its CRC, and see where its bytes lie. */
static int check_record(source *s, zip_t *zip, size_t index, void *buffer, ser_record *record)
{
    uint64_t size = 0;
    zip_int64_t count;
    zip_file_t *stream = zip_fopen_index(zip, index, 0);
    if (stream == NULL) {
        return fail_as(s, record->name, zip_get_error(zip));
    }
    s->run_start = s->run_end = UINT64_MAX;
    while ((count = zip_fread(stream, buffer, BUFFER_SIZE)) > 0) {
        size += (uint64_t)count;
    }
    int status = count < 0 ? fail_as(s, record->name, zip_file_get_error(stream)) : 0;
    (void)zip_fclose(stream);
    if (status != 0 || size == 0) {
        return status;
    }
    record->offset = s->run_start;
    if (size != record->size || s->run_end - s->run_start != size) {
        return ser_fail(SER_ERR_FORMAT, "%s: record \"%s\" is not in one piece", s->file->name,
                        record->name);
    }
    return 0;
}

static int check_records(source *s, zip_t *zip, ser_archive *archive)
{
    void *buffer = ser_mem_alloc_raw(BUFFER_SIZE, 1);
    int status = buffer != NULL ? 0 : SER_ERR_MEMORY;
    for (size_t i = 0; i < archive->count && status == 0; i++) {
        status = check_record(s, zip, i, buffer, &archive->list[i]);
    }
    ser_mem_free(buffer);
    return status;
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = ((const ser_record *)a)->offset;
    uint64_t y = ((const ser_record *)b)->offset;
    return (x > y) - (x < y);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const ser_record *)a)->name, ((const ser_record *)b)->name);
}

/* Each record with the least that its header takes lies behind the end of the one before. */
static int check_overlaps(ser_archive *archive)
{
    uint64_t end = 0;
    qsort(archive->list, archive->count, sizeof archive->list[0], by_offset);
    for (size_t i = 0; i < archive->count; i++) {
        const ser_record *record = &archive->list[i];
        if (record->size == 0) {
            continue;
        }
        uint64_t header = LOCAL_SIZE + (uint64_t)strlen(record->name);
        if (record->offset < header || record->offset - header < end) {
            char preview[PREVIEW_SIZE];
            return ser_fail(SER_ERR_FORMAT, "%s: record \"%s\" overlaps another",
                            archive->file->name,
                            ser_text_preview(record->name, preview, sizeof preview));
        }
        end = record->offset + record->size;
    }
    return 0;
}

static int strip_root(ser_archive *archive)
{
    size_t length = archive->count > 0 ? root_length(archive->list[0].name) : 0;
    const char *root = archive->count > 0 ? archive->list[0].name : "";
    for (size_t i = archive->count; i > 0; i--) {
        ser_record *record = &archive->list[i - 1];
        if (length == 0 || strncmp(record->name, root, length) != 0) {
            char preview[PREVIEW_SIZE];
            return ser_fail(SER_ERR_FORMAT,
                            "%s: record \"%s\" is not in the folder of the others: not written by "
                            "torch.save()",
                            archive->file->name,
                            ser_text_preview(record->name, preview, sizeof preview));
        }
        record->name += length;
    }
    qsort(archive->list, archive->count, sizeof archive->list[0], by_name);
    return 0;
}

static int read_zip(source *s, zip_t *zip, ser_archive *archive)
{
    if (zip_name_locate(zip, "constants.pkl", ZIP_FL_NODIR | ZIP_FL_ENC_RAW) >= 0) {
        return ser_fail(SER_ERR_UNSUPPORTED, "%s: a TorchScript program; " SER_TORCH_CONVERT,
                        s->file->name,
                        "torch.jit.load('pytorch_model.bin', map_location='cpu').state_dict()");
    }
    zip_int64_t count = zip_get_num_entries(zip, 0);
    int status = check_count(s->file, (uint64_t)count);
    if (status == 0) {
        status = list_records(s->file, zip, (size_t)count, archive);
    }
    if (status == 0) {
        status = check_records(s, zip, archive);
    }
    if (status == 0) {
        status = check_overlaps(archive);
    }
    return status != 0 ? status : strip_root(archive);
}

int ser_archive_read(const ser_file *file, ser_archive *archive)
{
    *archive = (ser_archive){.file = file};
    int status = check_end(file);
    if (status != 0) {
        return status;
    }
    zip_t *zip = NULL;
    source s = {.file = file, .run_start = UINT64_MAX, .run_end = UINT64_MAX};
    zip_error_init(&s.error);
    status = open_zip(&s, &zip);
    if (status == 0) {
        status = read_zip(&s, zip, archive);
        zip_discard(zip);
    }
    zip_error_fini(&s.error);
    return status;
}

void ser_archive_clear(ser_archive *archive)
{
    ser_mem_free(archive->list);
    ser_mem_free(archive->names);
    *archive = (ser_archive){.list = NULL};
}

ser_record *ser_archive_find(const ser_archive *archive, const char *name)
{
    ser_record key = {.name = name};
    return bsearch(&key, archive->list, archive->count, sizeof key, by_name);
}
