/* SPDX-License-Identifier: MIT */
/* Untrusted JSON: parsed within bounds, and objects read by a table of the keys they may have. */
#ifndef SER_MODEL_JSON_H
#define SER_MODEL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

enum {
    SER_JSON_MAX_SIZE = 16 << 20, /* bytes of a JSON file */
    SER_JSON_MAX_VALUES = 200000, /* values in one, which bounds the parser's memory */
    SER_JSON_PREVIEW_SIZE = 64,
};

/*
 * Parse `text`, which must hold one object. Duplicate keys are refused. Errors: FORMAT with line,
 * column and byte; DATA for a number beyond 64 bits or double; CAPACITY for more than `max_values`
 * values; MEMORY. `name` stands in messages. Release *root with json_decref.
 */
int ser_json_parse(const char *name, const char *text, size_t length, size_t max_values,
                   json_t **root);

/* An object of a file: `path` leads to it and is "" or ends in a dot, such as "encoder.". */
typedef struct ser_json {
    const char *name;
    const char *path;
    json_t *object;
} ser_json;

enum ser_json_type {
    SER_JSON_IGNORED,
    SER_JSON_INT32,  /* int32_t, within min..max */
    SER_JSON_DOUBLE, /* double or integer, within min..max */
    SER_JSON_FLOAT,  /* the same into a float */
    SER_JSON_BOOL,   /* bool */
    SER_JSON_CHOICE, /* int32_t, the position of the text in `choices` (NULL-terminated) */
    SER_JSON_STRING, /* const char *, borrowed from the tree */
    SER_JSON_OBJECT, /* json_t *, borrowed */
    SER_JSON_ARRAY,  /* json_t *, borrowed */
    SER_JSON_INTS,   /* ser_json_ints, its values within min..max */
};

enum {
    SER_JSON_OPTIONAL = 1, /* an absent key leaves the value as it is */
    SER_JSON_NULLABLE = 2, /* null counts as absent */
};

typedef struct ser_json_ints {
    int32_t *values; /* [capacity] */
    int32_t capacity;
    int32_t count; /* set when read */
} ser_json_ints;

typedef struct ser_json_field {
    const char *key;
    enum ser_json_type type;
    int flags;
    double min, max;
    const char *const *choices;
    int choice_status; /* of a text that is none of the choices; 0 means SER_ERR_DATA */
    void *value;
} ser_json_field;

/*
 * Read all `fields` of an object. With `closed`, a key that is in no field is an error that
 * suggests the nearest one. Errors: DATA, naming path, value and what was expected.
 */
int ser_json_read(const ser_json *json, const ser_json_field *fields, size_t count, bool closed);

/* The value as short JSON text for a message; "..." stands for what does not fit. */
const char *ser_json_preview(const json_t *value, char buffer[SER_JSON_PREVIEW_SIZE]);

/* Copy untrusted text for a message: cut to `size`, control characters replaced by '?'. */
const char *ser_text_preview(const char *text, char *buffer, size_t size);

#endif
