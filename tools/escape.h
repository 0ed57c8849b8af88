/* SPDX-License-Identifier: MIT */
/* Text and numbers that go into CSV, XML, Markdown and YAML, whatever the bytes and the locale.
 * Controls and bytes that are not UTF-8 become \xHH everywhere, as text_printable() has it. */
#ifndef SER_TOOLS_ESCAPE_H
#define SER_TOOLS_ESCAPE_H

#include <locale.h>
#include <stddef.h>
#include <stdio.h>

/* A field of RFC 4180, in quotes where it needs them. */
void escape_csv(FILE *f, const char *text);

/* Content of an element or, between double quotes, of an attribute; XML 1.0. */
void escape_xml(FILE *f, const char *text);

/* Plain words of CommonMark and of its tables, anywhere but at the start of a line. */
void escape_markdown(FILE *f, const char *text);

/* A block of code, with a fence longer than any that the text holds. */
void escape_markdown_code(FILE *f, const char *text);

/* A double-quoted scalar: a language "no" stays a word. */
void escape_yaml(FILE *f, const char *text);

/* Columns of a fixed-width font that the first bytes of printable text take, in every locale alike:
 * two for ideographs and the like, none for combining accents. */
int escape_columns(const char *text, size_t bytes);

/* A printable copy of at most `limit` columns, the last one an ellipsis if it was cut. */
char *escape_short(const char *text, int limit);

/* From enter to leave the calling thread's locale is C: its numbers have points. */
typedef struct escape_locale {
    locale_t plain;
    locale_t before;
} escape_locale;

void escape_locale_enter(escape_locale *l);
void escape_locale_leave(escape_locale *l);

#endif
