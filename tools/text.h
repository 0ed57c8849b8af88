/* SPDX-License-Identifier: MIT */
/* Text that is the same in every locale: numbers, names of files as bytes, widths, spelling. */
#ifndef SER_TOOLS_TEXT_H
#define SER_TOOLS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { TEXT_NUMBER_SIZE = 32 };

/* Zeroed memory, or the end of the process with exit code 4. */
void *text_alloc(size_t count, size_t size);
char *text_copy(const char *text);
char *text_join(const char *a, const char *b, const char *c);

/* Length in bytes of the valid UTF-8 sequence at `text` (surrogates and overlong forms are not
 * valid), or 0; never reads beyond a terminating NUL. `*code` may be NULL. */
size_t text_utf8(const char *text, uint32_t *code);

/* A copy for people and line formats: controls and bytes that are not UTF-8 become \xHH. */
char *text_printable(const char *text);

/* A JSON string, in quotes, always valid UTF-8. A byte 0xNN that is not UTF-8, as names of files
 * may hold, becomes the lone surrogate \udcNN: what Python's os.fsencode turns back into the byte.
 */
void text_json(FILE *f, const char *text);

/* Columns on a terminal; one per character where the locale does not know better. */
int text_columns(const char *text);

/* Columns and bytes of the first character of `text`, which is not empty. */
int text_width(const char *text, size_t *bytes);

/* The shortest decimal number that reads back as `value`; "null" if it is not finite. */
const char *text_double(char buffer[TEXT_NUMBER_SIZE], double value);
const char *text_float(char buffer[TEXT_NUMBER_SIZE], float value);

/* The whole of `text` as a decimal number, in the C locale, without blanks, signs "+", hexadecimal
 * or names such as "inf". False leaves `*value` as it was. */
bool text_parse_double(const char *text, double *value);
bool text_parse_integer(const char *text, int64_t *value);

/* Edits (insert, delete, replace, swap neighbours) that turn `a` into `b`. */
size_t text_distance(const char *a, const char *b);

#endif
