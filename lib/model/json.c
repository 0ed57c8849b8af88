/* SPDX-License-Identifier: MIT */
#include "model/json.h"

#include <stdio.h>
#include <string.h>

#include "base/fail.h"

enum { MAX_KEY = 48 }; /* longer ones are nobody's typing error */

/*
 * How many values a text can hold at most: every value follows an opening bracket or a comma.
 * jansson takes up to some hundred bytes for two characters of hostile text ("{},{},"), so this
 * bounds memory before the parser runs.
 */
static size_t count_values(const char *text, size_t length)
{
    size_t count = 1;
    bool quoted = false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (quoted) {
            i += c == '\\' ? 1 : 0;
            quoted = c != '"';
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[' || c == ',') {
            count++;
        }
    }
    return count;
}

static int parse_failure(const char *name, const json_error_t *error)
{
    char text[JSON_ERROR_TEXT_LENGTH];
    enum json_error_code code = json_error_code(error);
    if (code == json_error_out_of_memory) {
        return ser_fail(SER_ERR_MEMORY, "%s: out of memory while parsing JSON", name);
    }
    int status = code == json_error_numeric_overflow ? SER_ERR_DATA : SER_ERR_FORMAT;
    return ser_fail(status, "%s: line %d, column %d (byte %d): %s", name, error->line,
                    error->column, error->position,
                    ser_text_preview(error->text, text, sizeof text));
}

int ser_json_parse(const char *name, const char *text, size_t length, size_t max_values,
                   json_t **root)
{
    size_t values = count_values(text, length);
    if (values > max_values) {
        return ser_fail(SER_ERR_CAPACITY, "%s: about %zu JSON values, limit %zu", name, values,
                        max_values);
    }
    json_error_t error;
    json_t *tree = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (tree == NULL) {
        return parse_failure(name, &error);
    }
    if (!json_is_object(tree)) {
        json_decref(tree);
        return ser_fail(SER_ERR_FORMAT, "%s: line 1, column 1 (byte 0): an array, not an object",
                        name);
    }
    *root = tree;
    return 0;
}

const char *ser_text_preview(const char *text, char *buffer, size_t size)
{
    size_t n = 0;
    while (n + 1 < size && text[n] != '\0') {
        unsigned char c = (unsigned char)text[n];
        buffer[n] = c < 0x20 || c == 0x7F ? '?' : text[n];
        n++;
    }
    /* Do not end within a UTF-8 character. */
    while (n > 0 && text[n] != '\0' && ((unsigned char)text[n] & 0xC0U) == 0x80U) {
        n--;
    }
    buffer[n] = '\0';
    return buffer;
}

const char *ser_json_preview(const json_t *value, char buffer[SER_JSON_PREVIEW_SIZE])
{
    /* jansson leaves out the pieces that do not fit and returns the whole length. */
    memset(buffer, 0, SER_JSON_PREVIEW_SIZE);
    const size_t room = SER_JSON_PREVIEW_SIZE - sizeof "...";
    size_t needed =
        json_dumpb(value, buffer, room,
                   JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9));
    if (needed > room) {
        memcpy(buffer + strlen(buffer), "...", sizeof "...");
    }
    return buffer;
}

static int wrong(const ser_json *json, const char *key, const json_t *value, const char *expected)
{
    char preview[SER_JSON_PREVIEW_SIZE];
    return ser_fail(SER_ERR_DATA, "%s: %s%s is %s, must be %s", json->name, json->path, key,
                    ser_json_preview(value, preview), expected);
}

static int wrong_number(const ser_json *json, const char *key, const json_t *value,
                        const char *kind, const ser_json_field *field)
{
    char preview[SER_JSON_PREVIEW_SIZE];
    return ser_fail(SER_ERR_DATA, "%s: %s%s is %s, must be %s within %.10g..%.10g", json->name,
                    json->path, key, ser_json_preview(value, preview), kind, field->min,
                    field->max);
}

/* Compared as integers: a double cannot hold every 64-bit one. */
static bool integer_within(const json_t *value, const ser_json_field *field)
{
    return json_is_integer(value) && json_integer_value(value) >= (json_int_t)field->min &&
           json_integer_value(value) <= (json_int_t)field->max;
}

static int read_int(const ser_json *json, const ser_json_field *field, const json_t *value)
{
    if (!integer_within(value, field)) {
        return wrong_number(json, field->key, value, "an integer", field);
    }
    *(int32_t *)field->value = (int32_t)json_integer_value(value);
    return 0;
}

static int read_real(const ser_json *json, const ser_json_field *field, const json_t *value)
{
    double x = json_number_value(value);
    if (!json_is_number(value) || !(x >= field->min && x <= field->max)) {
        return wrong_number(json, field->key, value, "a number", field);
    }
    if (field->type == SER_JSON_FLOAT) {
        *(float *)field->value = (float)x;
    } else {
        *(double *)field->value = x;
    }
    return 0;
}

static int read_choice(const ser_json *json, const ser_json_field *field, const json_t *value)
{
    char list[256] = "one of";
    size_t used = strlen(list);
    for (int32_t i = 0; field->choices[i] != NULL; i++) {
        const char *choice = field->choices[i];
        if (json_is_string(value) && strcmp(json_string_value(value), choice) == 0) {
            *(int32_t *)field->value = i;
            return 0;
        }
        size_t length = strlen(choice);
        if (used + length + 4 < sizeof list) {
            list[used++] = i > 0 ? ',' : ' ';
            list[used++] = '"';
            memcpy(list + used, choice, length);
            used += length;
            list[used++] = '"';
        }
    }
    list[used] = '\0';
    int status = wrong(json, field->key, value, list);
    return json_is_string(value) && field->choice_status != 0 ? field->choice_status : status;
}

static int read_ints(const ser_json *json, const ser_json_field *field, const json_t *value)
{
    ser_json_ints *ints = field->value;
    size_t count = json_array_size(value);
    if (!json_is_array(value) || count > (size_t)ints->capacity) {
        return ser_fail(SER_ERR_DATA, "%s: %s%s must be an array of at most %d integers",
                        json->name, json->path, field->key, ints->capacity);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(value, i);
        if (!integer_within(item, field)) {
            char key[96];
            (void)snprintf(key, sizeof key, "%s[%zu]", field->key, i);
            return wrong_number(json, key, item, "an integer", field);
        }
        ints->values[i] = (int32_t)json_integer_value(item);
    }
    ints->count = (int32_t)count;
    return 0;
}

static int read_borrowed(const ser_json *json, const ser_json_field *field, json_t *value)
{
    static const struct {
        enum ser_json_type type;
        json_type is;
        const char *expected;
    } kinds[] = {
        {SER_JSON_OBJECT, JSON_OBJECT, "an object"},
        {SER_JSON_ARRAY, JSON_ARRAY, "an array"},
        {SER_JSON_STRING, JSON_STRING, "a text"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (field->type == kinds[i].type && json_typeof(value) != kinds[i].is) {
            return wrong(json, field->key, value, kinds[i].expected);
        }
    }
    if (field->type == SER_JSON_STRING) {
        *(const char **)field->value = json_string_value(value);
    } else {
        *(json_t **)field->value = value;
    }
    return 0;
}

static int read_field(const ser_json *json, const ser_json_field *field)
{
    json_t *value = json_object_get(json->object, field->key);
    if (json_is_null(value) && (field->flags & SER_JSON_NULLABLE) != 0) {
        value = NULL;
    }
    if (value == NULL) {
        return (field->flags & (SER_JSON_OPTIONAL | SER_JSON_NULLABLE)) != 0
                   ? 0
                   : ser_fail(SER_ERR_DATA, "%s: %s%s is missing", json->name, json->path,
                              field->key);
    }
    switch (field->type) {
    case SER_JSON_IGNORED: return 0;
    case SER_JSON_INT32: return read_int(json, field, value);
    case SER_JSON_DOUBLE:
    case SER_JSON_FLOAT: return read_real(json, field, value);
    case SER_JSON_CHOICE: return read_choice(json, field, value);
    case SER_JSON_INTS: return read_ints(json, field, value);
    case SER_JSON_BOOL:
        if (!json_is_boolean(value)) {
            return wrong(json, field->key, value, "true or false");
        }
        *(bool *)field->value = json_is_true(value);
        return 0;
    default: return read_borrowed(json, field, value);
    }
}

/* Levenshtein distance of two short texts. */
static size_t distance(const char *a, const char *b)
{
    size_t row[MAX_KEY + 1];
    size_t columns = strlen(b);
    for (size_t j = 0; j <= columns; j++) {
        row[j] = j;
    }
    for (size_t i = 0; a[i] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < columns; j++) {
            size_t change = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            size_t gap = (row[j] < diagonal ? row[j] : diagonal) + 1;
            row[j + 1] = change < gap ? change : gap;
        }
    }
    return row[columns];
}

static int unknown_key(const ser_json *json, const char *key, const ser_json_field *fields,
                       size_t count)
{
    const char *nearest = NULL;
    size_t least = strlen(key) / 2 + 1; /* more changes make it another word */
    for (size_t i = 0; i < count && strlen(key) <= MAX_KEY; i++) {
        size_t d = distance(key, fields[i].key);
        if (d < least) {
            least = d;
            nearest = fields[i].key;
        }
    }
    char preview[SER_JSON_PREVIEW_SIZE];
    (void)ser_text_preview(key, preview, sizeof preview);
    if (nearest == NULL) {
        return ser_fail(SER_ERR_DATA, "%s: %s%s: unknown key", json->name, json->path, preview);
    }
    return ser_fail(SER_ERR_DATA, "%s: %s%s: unknown key; did you mean \"%s\"?", json->name,
                    json->path, preview, nearest);
}

static bool is_known(const char *key, const ser_json_field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(key, fields[i].key) == 0) {
            return true;
        }
    }
    return false;
}

int ser_json_read(const ser_json *json, const ser_json_field *fields, size_t count, bool closed)
{
    for (void *at = closed ? json_object_iter(json->object) : NULL; at != NULL;
         at = json_object_iter_next(json->object, at)) {
        const char *key = json_object_iter_key(at);
        if (!is_known(key, fields, count)) {
            return unknown_key(json, key, fields, count);
        }
    }
    for (size_t i = 0; i < count; i++) {
        int status = read_field(json, &fields[i]);
        if (status != 0) {
            return status;
        }
    }
    return 0;
}
