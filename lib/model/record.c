/* SPDX-License-Identifier: MIT */
#include "model/record.h"

#include <math.h>

#include "base/fail.h"
#include "base/mem.h"

enum { MAX_VALUES = 1000 };

static int put(ser_record *record, const char *key, json_t *value)
{
    return json_object_set_new(record->object, key, value) == 0
               ? 0
               : ser_fail(SER_ERR_MEMORY, "%s: out of memory", record->name);
}

int ser_record_create(const char *name, ser_record *record)
{
    *record = (ser_record){.name = name, .object = json_object()};
    return record->object != NULL ? 0 : ser_fail(SER_ERR_MEMORY, "%s: out of memory", name);
}

int ser_record_parse(const char *name, const char *text, size_t length, ser_record *record)
{
    *record = (ser_record){.name = name};
    return ser_json_parse(name, text, length, MAX_VALUES, &record->object);
}

void ser_record_clear(ser_record *record)
{
    json_decref(record->object);
    record->object = NULL;
}

int ser_record_put_text(ser_record *record, const char *key, const char *text)
{
    json_t *value = json_string(text);
    if (value == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "%s: %s is not UTF-8", record->name, key);
    }
    return put(record, key, value);
}

int ser_record_put_integer(ser_record *record, const char *key, int64_t value)
{
    return put(record, key, json_integer(value));
}

int ser_record_put_number(ser_record *record, const char *key, double value)
{
    return put(record, key, json_real(value));
}

int ser_record_put_child(ser_record *record, const char *key, ser_record *child)
{
    *child = (ser_record){.name = record->name, .object = json_object()};
    return put(record, key, child->object);
}

bool ser_record_has(const ser_record *record, const char *key)
{
    return json_object_get(record->object, key) != NULL;
}

static int wrong(const ser_record *record, const char *key, const char *expected)
{
    const json_t *value = json_object_get(record->object, key);
    if (value == NULL) {
        return ser_fail(SER_ERR_FORMAT, "%s: %s is missing", record->name, key);
    }
    char preview[SER_JSON_PREVIEW_SIZE];
    return ser_fail(SER_ERR_FORMAT, "%s: %s is %s, must be %s", record->name, key,
                    ser_json_preview(value, preview), expected);
}

int ser_record_text(const ser_record *record, const char *key, const char **text)
{
    const char *value = json_string_value(json_object_get(record->object, key));
    if (value == NULL) {
        return wrong(record, key, "a text");
    }
    *text = value;
    return 0;
}

int ser_record_integer(const ser_record *record, const char *key, int64_t least, int64_t *value)
{
    const json_t *item = json_object_get(record->object, key);
    if (!json_is_integer(item) || json_integer_value(item) < least) {
        return wrong(record, key, "an integer in range");
    }
    *value = json_integer_value(item);
    return 0;
}

int ser_record_number(const ser_record *record, const char *key, double *value)
{
    const json_t *item = json_object_get(record->object, key);
    if (!json_is_number(item) || !isfinite(json_number_value(item))) {
        return wrong(record, key, "a number");
    }
    *value = json_number_value(item);
    return 0;
}

int ser_record_child(const ser_record *record, const char *key, ser_record *child)
{
    json_t *item = json_object_get(record->object, key);
    if (!json_is_object(item)) {
        return wrong(record, key, "an object");
    }
    *child = (ser_record){.name = record->name, .object = item};
    return 0;
}

int ser_record_print(const ser_record *record, char **text, size_t *length)
{
    const size_t flags = JSON_INDENT(1) | JSON_REAL_PRECISION(17);
    size_t size = json_dumpb(record->object, NULL, 0, flags);
    if (size == 0) {
        return ser_fail(SER_ERR_MEMORY, "%s: out of memory", record->name);
    }
    *text = ser_mem_alloc_raw(size, 1);
    if (*text == NULL) {
        return SER_ERR_MEMORY;
    }
    *length = json_dumpb(record->object, *text, size, flags);
    return 0;
}
