/* SPDX-License-Identifier: MIT */
#include "text.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "message.h"

void *text_alloc(size_t count, size_t size)
{
    void *block = calloc(count > 0 ? count : 1, size > 0 ? size : 1);
    if (block == NULL) {
        message_error("out of memory: %zu elements of %zu bytes were asked for", count, size);
        _exit(MESSAGE_EXIT_DEVICE);
    }
    return block;
}

char *text_copy(const char *text)
{
    return text_join(text, "", "");
}

char *text_join(const char *a, const char *b, const char *c)
{
    size_t na = strlen(a);
    size_t nb = strlen(b);
    size_t nc = strlen(c);
    char *joined = text_alloc(na + nb + nc + 1, 1);
    memcpy(joined, a, na);
    memcpy(joined + na, b, nb);
    memcpy(joined + na + nb, c, nc);
    return joined;
}

size_t text_utf8(const char *text, uint32_t *code)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (length == 0 || s[0] > 0xf4) {
        return 0;
    }
    uint32_t value = length == 1 ? s[0] : s[0] & (0x7fU >> length);
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) {
            return 0;
        }
        value = value << 6 | (s[i] & 0x3fU);
    }
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (value < smallest[length] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) {
        return 0;
    }
    if (code != NULL) {
        *code = value;
    }
    return length;
}

char *text_printable(const char *text)
{
    char *copy = text_alloc(4 * strlen(text) + 1, 1); /* a byte becomes four at most */
    char *end = copy;
    while (*text != '\0') {
        uint32_t code = 0;
        size_t length = text_utf8(text, &code);
        if (length == 0 || code < 0x20 || (code >= 0x7f && code < 0xa0)) {
            for (size_t i = 0; i < (length > 0 ? length : 1); i++) {
                end += sprintf(end, "\\x%02x", (unsigned char)*text++);
            }
        } else {
            memcpy(end, text, length);
            end += length;
            text += length;
        }
    }
    *end = '\0';
    return copy;
}

void text_json(FILE *f, const char *text)
{
    putc('"', f);
    while (*text != '\0') {
        uint32_t code = 0;
        size_t length = text_utf8(text, &code);
        if (length == 0) {
            fprintf(f, "\\udc%02x", (unsigned char)*text++);
            continue;
        }
        if (code < 0x20 || (code >= 0x7f && code < 0xa0)) { /* C0 and C1 controls */
            fprintf(f, "\\u%04x", (unsigned)code);
        } else if (code == '"' || code == '\\') {
            fprintf(f, "\\%c", (char)code);
        } else {
            fwrite(text, 1, length, f);
        }
        text += length;
    }
    putc('"', f);
}

int text_width(const char *text, size_t *bytes)
{
    mbstate_t state = {0};
    wchar_t wide = 0;
    *bytes = mbrtowc(&wide, text, strlen(text), &state);
    if (*bytes == (size_t)-1 || *bytes == (size_t)-2) { /* not of the locale's character set */
        *bytes = text_utf8(text, NULL);
        *bytes = *bytes > 0 ? *bytes : 1;
        return 1;
    }
    int width = wcwidth(wide);
    return width >= 0 ? width : 1;
}

int text_columns(const char *text)
{
    int columns = 0;
    while (*text != '\0') {
        size_t bytes;
        columns += text_width(text, &bytes);
        text += bytes;
    }
    return columns;
}

const char *text_double(char buffer[TEXT_NUMBER_SIZE], double value)
{
    if (!isfinite(value)) {
        return "null";
    }
    /* 15 digits are kept by every double, 17 tell all of them apart. */
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(buffer, TEXT_NUMBER_SIZE, "%.*g", digits, value);
        if (strtod(buffer, NULL) == value) {
            break;
        }
    }
    return buffer;
}

const char *text_float(char buffer[TEXT_NUMBER_SIZE], float value)
{
    if (!isfinite(value)) {
        return "null";
    }
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(buffer, TEXT_NUMBER_SIZE, "%.*g", digits, (double)value);
        if (strtof(buffer, NULL) == value) {
            break;
        }
    }
    return buffer;
}

bool text_parse_double(const char *text, double *value)
{
    bool starts = text[0] == '-' || text[0] == '.' || (text[0] >= '0' && text[0] <= '9');
    if (!starts || text[strspn(text, "0123456789.eE+-")] != '\0') {
        return false;
    }
    char *end = NULL;
    double number = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(number)) {
        return false;
    }
    *value = number;
    return true;
}

bool text_parse_integer(const char *text, int64_t *value)
{
    const char *digits = text[0] == '-' ? text + 1 : text;
    if (digits[0] == '\0' || digits[strspn(digits, "0123456789")] != '\0') {
        return false;
    }
    errno = 0;
    long long number = strtoll(text, NULL, 10);
    if (errno != 0) {
        return false;
    }
    *value = number;
    return true;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t text_distance(const char *a, const char *b)
{
    size_t rows = strlen(a) + 1;
    size_t columns = strlen(b) + 1;
    size_t *d = text_alloc(rows * columns, sizeof *d);
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < columns; j++) {
            size_t *cell = &d[i * columns + j];
            if (i == 0 || j == 0) {
                *cell = i + j;
                continue;
            }
            size_t replace = cell[-(ptrdiff_t)columns - 1] + (a[i - 1] != b[j - 1]);
            *cell = smaller(replace, smaller(cell[-1], cell[-(ptrdiff_t)columns]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                *cell = smaller(*cell, d[(i - 2) * columns + j - 2] + 1);
            }
        }
    }
    size_t distance = d[rows * columns - 1];
    free(d);
    return distance;
}
