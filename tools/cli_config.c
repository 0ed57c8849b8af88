/* SPDX-License-Identifier: MIT */
#include "cli_config.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "text.h"

static const cli_option *find(const cli_option *options, const char *name)
{
    for (; options->kind != CLI_END; options++) {
        if (options->name != NULL && strcmp(options->name, name) == 0) {
            return options;
        }
    }
    return NULL;
}

static int read_choice(const char *where, const cli_option *row, const char *word, int32_t *value)
{
    for (int32_t i = 0; word != NULL && row->choices[i] != NULL; i++) {
        if (strcmp(word, row->choices[i]) == 0) {
            *value = i;
            return CLI_CONTINUE;
        }
    }
    return message_usage("%s: not one of the choices of --%s", where, row->name);
}

static int read_number(const char *where, const cli_option *row, const json_t *item, void *member)
{
    bool whole = row->kind == CLI_INTEGER;
    double number = json_number_value(item);
    if (!(whole ? json_is_integer(item) : json_is_number(item)) ||
        !(number >= row->minimum && number <= row->maximum)) {
        return whole ? message_usage("%s: not a whole number from %.0f to %.0f", where,
                                     row->minimum, row->maximum)
                     : message_usage("%s: not a number from %g to %g", where, row->minimum,
                                     row->maximum);
    }
    if (whole) {
        *(int32_t *)member = (int32_t)json_integer_value(item);
    } else {
        *(double *)member = number;
    }
    return CLI_CONTINUE;
}

static int read_words(const char *where, const cli_option *row, const json_t *item,
                      cli_words *words)
{
    cli_words_free(words);
    if (!json_is_array(item)) {
        return message_usage("%s: not a list of texts", where);
    }
    for (size_t i = 0; i < json_array_size(item); i++) {
        const char *word = json_string_value(json_array_get(item, i));
        if (word == NULL || (row->kind == CLI_PAIR && strchr(word, '=') == NULL)) {
            return message_usage("%s[%zu]: not a text%s", where, i,
                                 row->kind == CLI_PAIR ? " of the form NAME=VALUE" : "");
        }
        cli_words_add(words, word);
    }
    return CLI_CONTINUE;
}

static int read_value(const char *where, const cli_option *row, const json_t *item, void *member)
{
    switch (row->kind) {
    case CLI_FLAG:
        if (!json_is_boolean(item)) {
            return message_usage("%s: neither true nor false", where);
        }
        *(int32_t *)member = json_is_true(item);
        return CLI_CONTINUE;
    case CLI_TEXT:
        if (!json_is_string(item)) {
            return message_usage("%s: not a text", where);
        }
        *(const char **)member = json_string_value(item);
        return CLI_CONTINUE;
    case CLI_CHOICE: return read_choice(where, row, json_string_value(item), member);
    case CLI_INTEGER:
    case CLI_NUMBER: return read_number(where, row, item, member);
    default: return read_words(where, row, item, member);
    }
}

static int unknown_key(const cli_program *program, const char *file, const char *key)
{
    const cli_option *row = find(program->options, key);
    const char *nearest = row == NULL ? cli_nearest(program->options, key) : NULL;
    if (row != NULL) {
        return message_usage("%s: '%s' belongs on the command line", file, key);
    }
    return message_usage("%s: unknown key '%s'%s%s%s", file, key,
                         nearest != NULL ? "; did you mean '" : "", nearest != NULL ? nearest : "",
                         nearest != NULL ? "'?" : "");
}

int cli_config_read(const cli_program *program, const char *file, void *values, json_t **keep)
{
    json_error_t error;
    *keep = json_load_file(file, JSON_REJECT_DUPLICATES, &error);
    if (*keep == NULL && error.line <= 0) {
        message_error("%s", error.text);
        return MESSAGE_EXIT_IO;
    }
    if (!json_is_object(*keep)) {
        return *keep == NULL ? message_usage("%s: line %d: %s", file, error.line, error.text)
                             : message_usage("%s: not a JSON object", file);
    }
    const char *key;
    json_t *item;
    int code = CLI_CONTINUE;
    json_object_foreach(*keep, key, item)
    {
        const cli_option *row = find(program->options, key);
        if (row == NULL || row->scope == CLI_COMMAND) {
            return unknown_key(program, file, key);
        }
        char *where = text_join(file, ": ", key);
        if (!json_is_null(item)) {
            code = read_value(where, row, item, (char *)values + row->offset);
        }
        free(where);
        if (code != CLI_CONTINUE) {
            break;
        }
    }
    return code;
}

/* JSON is UTF-8: other bytes, as names of files may hold, become \xHH. */
static json_t *text_value(const char *text)
{
    json_t *value = json_string(text);
    if (value == NULL) {
        char *printable = text_printable(text);
        value = json_string(printable);
        free(printable);
    }
    return value;
}

static json_t *words_value(const cli_words *words)
{
    json_t *list = words->count > 0 ? json_array() : NULL;
    for (size_t i = 0; i < words->count; i++) {
        json_array_append_new(list, text_value(words->items[i]));
    }
    return list;
}

/* NULL: nothing is set. */
static json_t *value_of(const cli_option *row, const void *member)
{
    const char *text;
    switch (row->kind) {
    case CLI_FLAG: return json_boolean(*(const int32_t *)member);
    case CLI_CHOICE: return json_string(row->choices[*(const int32_t *)member]);
    case CLI_INTEGER: return json_integer(*(const int32_t *)member);
    case CLI_NUMBER: return json_real(*(const double *)member);
    case CLI_TEXT:
        text = *(const char *const *)member;
        return text != NULL ? text_value(text) : NULL;
    case CLI_LIST:
    case CLI_PAIR: return words_value(member);
    default: return NULL;
    }
}

json_t *cli_config_object(const cli_program *program, const void *values, bool machine)
{
    json_t *object = json_object();
    for (const cli_option *row = program->options; row->kind != CLI_END; row++) {
        bool wanted = row->scope == CLI_SETTING || (row->scope == CLI_MACHINE && machine);
        json_t *value =
            wanted && row->name != NULL ? value_of(row, (const char *)values + row->offset) : NULL;
        if (value != NULL) {
            json_object_set_new(object, row->name, value);
        }
    }
    return object;
}

/* Files hold 15 digits of a number, so that 3e-5 stays that. */
static bool same_value(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b)) {
        double x = json_number_value(a);
        double y = json_number_value(b);
        return fabs(x - y) <= 1e-14 * fmax(fabs(x), fabs(y));
    }
    return (a == NULL && b == NULL) || json_equal(a, b);
}

const char *cli_config_difference(const cli_program *program, const json_t *a, const json_t *b)
{
    for (const cli_option *row = program->options; row->kind != CLI_END; row++) {
        if (row->name == NULL || row->scope != CLI_SETTING) {
            continue;
        }
        if (!same_value(json_object_get(a, row->name), json_object_get(b, row->name))) {
            return row->name;
        }
    }
    return NULL;
}
