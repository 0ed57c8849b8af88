/* SPDX-License-Identifier: MIT */
#include "escape.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

void escape_csv(FILE *f, const char *text)
{
    char *clean = text_printable(text);
    if (clean[strcspn(clean, ",\" ")] == '\0') {
        fputs(clean, f);
        free(clean);
        return;
    }
    putc('"', f);
    for (const char *c = clean; *c != '\0'; c++) {
        fputs(*c == '"' ? "\"" : "", f);
        putc(*c, f);
    }
    putc('"', f);
    free(clean);
}

/* Not characters of XML 1.0, and nothing that YAML or a viewer should meet. */
static bool is_noncharacter(uint32_t code)
{
    return (code & 0xfffe) == 0xfffe || (code >= 0xfdd0 && code <= 0xfdef);
}

/* Every character of the printable form, through `put`. */
static void each(FILE *f, const char *text, void (*put)(FILE *, const char *, size_t, uint32_t))
{
    char *clean = text_printable(text);
    for (const char *c = clean; *c != '\0';) {
        uint32_t code = 0;
        size_t length = text_utf8(c, &code);
        if (is_noncharacter(code)) {
            for (size_t i = 0; i < length; i++) {
                put(f, "\\", 1, '\\');
                fprintf(f, "x%02x", (unsigned char)c[i]);
            }
        } else {
            put(f, c, length, code);
        }
        c += length;
    }
    free(clean);
}

static void put_xml(FILE *f, const char *text, size_t length, uint32_t code)
{
    switch (code) {
    case '&': fputs("&amp;", f); break;
    case '<': fputs("&lt;", f); break;
    case '>': fputs("&gt;", f); break;
    case '"': fputs("&quot;", f); break;
    case '\'': fputs("&#39;", f); break;
    default: fwrite(text, 1, length, f);
    }
}

void escape_xml(FILE *f, const char *text)
{
    each(f, text, put_xml);
}

static void put_markdown(FILE *f, const char *text, size_t length, uint32_t code)
{
    if (code < 0x80 && strchr("\\`*_{}[]<>|~&$#", (int)code) != NULL) {
        putc('\\', f);
    }
    fwrite(text, 1, length, f);
}

void escape_markdown(FILE *f, const char *text)
{
    each(f, text, put_markdown);
}

void escape_markdown_code(FILE *f, const char *text)
{
    char *clean = text_printable(text);
    size_t longest = 2;
    for (const char *c = clean; *c != '\0'; c += *c != '\0') {
        size_t run = strspn(c, "`");
        longest = run > longest ? run : longest;
        c += run;
    }
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < longest + 1; i++) {
            putc('`', f);
        }
        putc('\n', f);
        if (side == 0) {
            fprintf(f, "%s\n", clean);
        }
    }
    free(clean);
}

static void put_yaml(FILE *f, const char *text, size_t length, uint32_t code)
{
    if (code == '"' || code == '\\') {
        fprintf(f, "\\%c", (char)code);
    } else if (code == 0x2028 || code == 0x2029 || code == 0xfeff) { /* breaks and marks of YAML */
        fprintf(f, "\\u%04x", (unsigned)code);
    } else {
        fwrite(text, 1, length, f);
    }
}

void escape_yaml(FILE *f, const char *text)
{
    putc('"', f);
    each(f, text, put_yaml);
    putc('"', f);
}

int escape_columns(const char *text, size_t bytes)
{
    int columns = 0;
    for (size_t i = 0; i < bytes;) {
        uint32_t code = 0;
        size_t length = text_utf8(text + i, &code);
        i += length > 0 ? length : 1;
        bool combining = code >= 0x300 && code < 0x370;
        columns += combining ? 0 : code >= 0x1100 && (code < 0x2000 || code >= 0x2e80) ? 2 : 1;
    }
    return columns;
}

char *escape_short(const char *text, int limit)
{
    char *clean = text_printable(text);
    size_t end = strlen(clean);
    if (escape_columns(clean, end) <= limit) {
        return clean;
    }
    while (end > 0 && escape_columns(clean, end) > limit - 1) {
        do {
            end--;
        } while (end > 0 && ((unsigned char)clean[end] & 0xc0) == 0x80);
    }
    clean[end] = '\0';
    char *cut = text_join(clean, "\xe2\x80\xa6", "");
    free(clean);
    return cut;
}

void escape_locale_enter(escape_locale *l)
{
    l->plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    l->before = uselocale(l->plain); /* after a failure: 0, which changes nothing */
}

void escape_locale_leave(escape_locale *l)
{
    uselocale(l->before);
    if (l->plain != (locale_t)0) {
        freelocale(l->plain);
    }
}
