/* SPDX-License-Identifier: MIT */
/* Small JSON files of our own, such as a checkpoint's manifest: objects of texts, numbers and objects. */
#ifndef SER_MODEL_RECORD_H
#define SER_MODEL_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/json.h"

typedef struct ser_record {
    const char *name; /* stands in messages; borrowed */
    json_t *object;
} ser_record;

/* An empty record; clear with ser_record_clear. */
int ser_record_create(const char *name, ser_record *record);

/* Errors as for ser_json_parse. */
int ser_record_parse(const char *name, const char *text, size_t length, ser_record *record);

/* Safe on a zeroed or cleared one. */
void ser_record_clear(ser_record *record);

/* A text that is not UTF-8 is an ARGUMENT error. */
int ser_record_put_text(ser_record *record, const char *key, const char *text);
int ser_record_put_integer(ser_record *record, const char *key, int64_t value);
int ser_record_put_number(ser_record *record, const char *key, double value);

/* Put an object, which becomes a part of `record`; `child` is borrowed from it. */
int ser_record_put_child(ser_record *record, const char *key, ser_record *child);

bool ser_record_has(const ser_record *record, const char *key);

/* Errors: FORMAT, naming the key, if it is missing or something else. Texts and children are borrowed.
 * A text may be empty; integers are `least` or more, numbers finite. */
int ser_record_text(const ser_record *record, const char *key, const char **text);
int ser_record_integer(const ser_record *record, const char *key, int64_t least, int64_t *value);
int ser_record_number(const ser_record *record, const char *key, double *value);
int ser_record_child(const ser_record *record, const char *key, ser_record *child);

/* JSON text of `*length` bytes, to be freed with ser_mem_free; numbers read back as they are. */
int ser_record_print(const ser_record *record, char **text, size_t *length);

#endif
