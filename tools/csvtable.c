/* SPDX-License-Identifier: MIT */
#include "csvtable.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "message.h"
#include "text.h"

/* A field of a megabyte is a quote that was never closed. */
enum { FIELD_LIMIT = 1 << 20, COLUMN_LIMIT = 1024, BUFFER_SIZE = 1 << 16 };

void csv_table_fail(csv_table *t, const char *format, ...)
{
    if (t->code != MESSAGE_EXIT_OK) {
        return;
    }
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    message_error("%s: line %lld: %s", t->file, (long long)t->row_line, text);
    t->code = MESSAGE_EXIT_DATA;
}

static bool check_bytes(csv_table *t, const char *text, size_t length)
{
    char place[64];
    snprintf(place, sizeof place, "field %zu", t->column + 1);
    const char *name = t->header_done && t->column < t->column_count ? t->names[t->column] : place;
    if (memchr(text, '\0', length) != NULL) {
        csv_table_fail(t, "%s: a NUL byte", name);
        return false;
    }
    bool raw = t->header_done && t->column == t->raw_column;
    for (size_t i = 0; i < length && !raw;) {
        size_t bytes = text_utf8(text + i, NULL);
        if (bytes == 0) {
            csv_table_fail(t, "%s: byte %zu (0x%02x) is not UTF-8; save the file as UTF-8", name,
                           i + 1, (unsigned char)text[i]);
            return false;
        }
        i += bytes;
    }
    return true;
}

static void keep_name(csv_table *t, const char *text)
{
    if (t->names == NULL) {
        t->names = text_alloc(COLUMN_LIMIT, sizeof *t->names);
    }
    if (t->column_count == COLUMN_LIMIT) {
        csv_table_fail(t, "more than %d columns", (int)COLUMN_LIMIT);
        return;
    }
    t->names[t->column_count++] = text_copy(text);
}

static void keep_value(csv_table *t, const char *text, size_t length)
{
    size_t i = t->column;
    if (i >= t->column_count) {
        return; /* counted, and refused at the end of the row */
    }
    if (length + 1 > t->sizes[i]) {
        free(t->values[i]);
        t->sizes[i] = 2 * (length + 1);
        t->values[i] = text_alloc(t->sizes[i], 1);
    }
    memcpy(t->values[i], text, length);
    t->values[i][length] = '\0';
}

static void on_field(void *bytes, size_t length, void *user)
{
    csv_table *t = user;
    const char *text = bytes != NULL ? bytes : "";
    if (t->code != MESSAGE_EXIT_OK || !check_bytes(t, text, length)) {
        return;
    }
    if (t->header_done) {
        keep_value(t, text, length);
    } else {
        keep_name(t, text);
    }
    t->column++;
}

static void finish_header(csv_table *t)
{
    for (size_t i = 0; i < t->column_count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (strcmp(t->names[i], t->names[j]) == 0) {
                csv_table_fail(t, "the column '%s' is there twice", t->names[i]);
            }
        }
    }
    t->values = text_alloc(t->column_count, sizeof *t->values);
    t->sizes = text_alloc(t->column_count, sizeof *t->sizes);
    t->header_done = true;
    if (t->code == MESSAGE_EXIT_OK) {
        t->header(t, t->user);
    }
}

static void on_row(int terminator, void *user)
{
    csv_table *t = user;
    (void)terminator;
    t->row_ended = true;
    if (t->code != MESSAGE_EXIT_OK) {
        return;
    }
    if (!t->header_done) {
        finish_header(t);
    } else if (t->column != t->column_count) {
        csv_table_fail(t, "%zu field%s where the header has %zu", t->column,
                       t->column == 1 ? "" : "s", t->column_count);
    } else {
        t->row(t, t->user);
    }
    t->column = 0;
}

static void report_parser(csv_table *t)
{
    if (csv_error(&t->parser) == CSV_ENOMEM) {
        csv_table_fail(t, "out of memory");
    } else {
        csv_table_fail(t, "a quote where none may be: a field with quotes in it is quoted as a "
                          "whole, and those in it are doubled (RFC 4180)");
    }
}

/* One piece that ends behind a CR or LF, or with the buffer: at most one row ends in it. */
static void parse_piece(csv_table *t, const char *piece, size_t length)
{
    t->line += t->after_cr && piece[0] != '\n' ? 1 : 0;
    if (!t->row_open) {
        t->row_line = t->line;
    }
    if (t->line >= INT32_MAX) {
        csv_table_fail(t, "more than %d lines", INT32_MAX - 1);
    }
    t->row_ended = false;
    if (csv_parse(&t->parser, piece, length, on_field, on_row, t) != length) {
        report_parser(t);
    }
    if (csv_get_buffer_size(&t->parser) > FIELD_LIMIT) {
        csv_table_fail(t, "a field of more than %d bytes: is a quote not closed?",
                       (int)FIELD_LIMIT);
    }
    bool newline = piece[0] == '\n' || piece[0] == '\r';
    t->row_open = !t->row_ended && (t->row_open || !newline);
    t->after_cr = piece[length - 1] == '\r';
    t->line += piece[length - 1] == '\n' ? 1 : 0;
}

static void parse_buffer(csv_table *t, const char *buffer, size_t length)
{
    size_t begin = 0;
    for (size_t i = 0; i < length && t->code == MESSAGE_EXIT_OK; i++) {
        if (buffer[i] == '\n' || buffer[i] == '\r' || i + 1 == length) {
            parse_piece(t, buffer + begin, i + 1 - begin);
            begin = i + 1;
        }
    }
}

/* Bytes at the start of the file that are not text. */
static size_t skip_mark(csv_table *t, const char *buffer, size_t length)
{
    if (length >= 3 && memcmp(buffer, "\xef\xbb\xbf", 3) == 0) {
        return 3;
    }
    if (length >= 2 && (memcmp(buffer, "\xff\xfe", 2) == 0 || memcmp(buffer, "\xfe\xff", 2) == 0)) {
        csv_table_fail(t, "this is UTF-16; save the file as UTF-8");
    }
    return 0;
}

static void parse_file(csv_table *t, FILE *f)
{
    char *buffer = text_alloc(BUFFER_SIZE, 1);
    size_t length = 0;
    bool first = true;
    while (t->code == MESSAGE_EXIT_OK && (length = fread(buffer, 1, BUFFER_SIZE, f)) > 0) {
        size_t mark = first ? skip_mark(t, buffer, length) : 0;
        first = false;
        if (t->code == MESSAGE_EXIT_OK && length > mark) {
            parse_buffer(t, buffer + mark, length - mark);
        }
    }
    if (t->code == MESSAGE_EXIT_OK && ferror(f)) {
        message_error("%s: line %lld: %s", t->file, (long long)t->line, strerror(errno));
        t->code = MESSAGE_EXIT_IO;
    }
    free(buffer);
    if (t->code == MESSAGE_EXIT_OK && csv_fini(&t->parser, on_field, on_row, t) != 0) {
        csv_table_fail(t, "the file ends within a quoted field that begins on this line");
    }
}

/* Blanks are part of a field (RFC 4180, section 2, rule 4). */
static int no_space(unsigned char c)
{
    (void)c;
    return 0;
}

static FILE *open_table(csv_table *t)
{
    FILE *f = fopen(t->file, "rbe");
    struct stat facts;
    if (f != NULL && fstat(fileno(f), &facts) == 0 && S_ISDIR(facts.st_mode)) {
        fclose(f);
        f = NULL;
        errno = EISDIR;
    }
    if (f == NULL) {
        message_error("%s: %s", t->file, strerror(errno));
        t->code = MESSAGE_EXIT_IO;
        return NULL;
    }
    return f;
}

int csv_table_read(csv_table *t)
{
    FILE *f = open_table(t);
    if (f == NULL) {
        return t->code;
    }
    t->line = 1;
    t->row_line = 1;
    t->raw_column = CSV_TABLE_NONE;
    if (csv_init(&t->parser, CSV_STRICT | CSV_STRICT_FINI | CSV_APPEND_NULL) != 0) {
        message_error("%s: the CSV parser cannot start", t->file);
        t->code = MESSAGE_EXIT_DEVICE;
    } else {
        csv_set_space_func(&t->parser, no_space);
        csv_set_blk_size(&t->parser, 1 << 14);
        csv_set_delim(&t->parser, t->delimiter != 0 ? (unsigned char)t->delimiter : ',');
        parse_file(t, f);
        csv_free(&t->parser);
    }
    fclose(f);
    return t->code;
}

void csv_table_free(csv_table *t)
{
    for (size_t i = 0; i < t->column_count; i++) {
        free(t->names[i]);
        if (t->values != NULL) {
            free(t->values[i]);
        }
    }
    free(t->names);
    free(t->values);
    free(t->sizes);
    *t = (csv_table){0};
}
