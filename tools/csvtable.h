/* SPDX-License-Identifier: MIT */
/* CSV files with a header line, read strictly (RFC 4180, UTF-8), row by row, in bounded memory. */
#ifndef SER_TOOLS_CSVTABLE_H
#define SER_TOOLS_CSVTABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <csv.h>

/* A column number that is none. */
#define CSV_TABLE_NONE SIZE_MAX

/* Set the first group of members, zero the rest. */
typedef struct csv_table {
    const char *file;
    char delimiter;    /* 0: ',' */
    size_t raw_column; /* may hold any bytes but NUL, as names of files do; set by `header` */
    void (*header)(struct csv_table *t, void *user); /* names are complete */
    void (*row)(struct csv_table *t, void *user);    /* values are those of `row_line` */
    void *user;

    int code; /* exit code of the first failure, after which nothing more is called */
    char **names;
    size_t column_count;
    char **values; /* [column_count] */
    size_t *sizes;
    size_t column; /* of the next field */
    bool header_done;
    struct csv_parser parser;
    int64_t line;     /* of the bytes that are parsed now, from 1 */
    int64_t row_line; /* where the current row began */
    bool row_open;
    bool row_ended; /* within the current piece */
    bool after_cr;
} csv_table;

/* Read the whole file: MESSAGE_EXIT_OK, or the code of a failure that was reported with its line.
 * Rows with more or fewer fields than the header, NUL bytes, bytes that are not UTF-8, stray and
 * unclosed quotes and UTF-16 are failures; a byte order mark and blank lines are passed over. */
int csv_table_read(csv_table *t);

/* Report a failure of the current row, unless there was one before. */
__attribute__((format(printf, 2, 3))) void csv_table_fail(csv_table *t, const char *format, ...);

void csv_table_free(csv_table *t);

#endif
