/* SPDX-License-Identifier: MIT */
#include "base/fail.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TEXT_SIZE = 2048 };

static _Thread_local char thread_text[TEXT_SIZE];

/* Cut a text that filled its buffer back to a whole UTF-8 character. */
static void trim_partial_utf8(char *text, size_t length)
{
    size_t i = length;
    while (i > 0 && ((unsigned char)text[i - 1] & 0xC0U) == 0x80U) {
        i--;
    }
    if (i > 0 && ((unsigned char)text[i - 1] & 0x80U) != 0) {
        text[i - 1] = '\0';
    }
}

static void finish(int written)
{
    if (written < 0) {
        thread_text[0] = '\0';
    } else if (written >= TEXT_SIZE) {
        trim_partial_utf8(thread_text, TEXT_SIZE - 1);
    }
}

int ser_fail(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    finish(vsnprintf(thread_text, TEXT_SIZE, format, args));
    va_end(args);
    return status;
}

int ser_fail_prefix(int status, const char *format, ...)
{
    char old[TEXT_SIZE];
    memcpy(old, thread_text, TEXT_SIZE);
    va_list args;
    va_start(args, format);
    int used = vsnprintf(thread_text, TEXT_SIZE, format, args);
    va_end(args);
    if (used >= 0 && used < TEXT_SIZE) {
        int rest = snprintf(thread_text + used, (size_t)(TEXT_SIZE - used), "%s", old);
        used = rest < 0 ? rest : used + rest;
    }
    finish(used);
    return status;
}

const char *ser_fail_text(void)
{
    return thread_text;
}
