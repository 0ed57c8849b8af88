/* SPDX-License-Identifier: MIT */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ser/common.h>

#include "message.h"
#include "text.h"

enum { FIRST_VALUE = 256, HELP_COLUMN = 27, HELP_WIDTH = 80 };

static int takes_argument(const cli_option *option)
{
    return option->argument != NULL;
}

static size_t count_rows(const cli_option *options)
{
    size_t count = 0;
    while (options[count].kind != CLI_END) {
        count++;
    }
    return count;
}

/* What getopt_long wants; its value is the row's number, so that both spellings find the row. */
static struct option *long_options(const cli_option *options, size_t count)
{
    struct option *list = text_alloc(count + 1, sizeof *list);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (options[i].name != NULL) {
            list[used].name = options[i].name;
            list[used].has_arg = takes_argument(&options[i]) ? required_argument : no_argument;
            list[used++].val = FIRST_VALUE + (int)i;
        }
    }
    return list;
}

static char *short_options(const cli_option *options, size_t count)
{
    char *letters = text_alloc(2 * count + 2, 1);
    char *end = letters;
    *end++ = ':'; /* a missing argument is reported as ':' */
    for (size_t i = 0; i < count; i++) {
        if (options[i].letter != 0) {
            *end++ = options[i].letter;
            if (takes_argument(&options[i])) {
                *end++ = ':';
            }
        }
    }
    return letters;
}

static const cli_option *find_row(const cli_option *options, size_t count, int value)
{
    if (value >= FIRST_VALUE && (size_t)(value - FIRST_VALUE) < count) {
        return &options[value - FIRST_VALUE];
    }
    for (size_t i = 0; i < count; i++) {
        if (options[i].letter != 0 && options[i].letter == value) {
            return &options[i];
        }
    }
    return NULL;
}

const char *cli_nearest(const cli_option *options, const char *name)
{
    const char *best = NULL;
    size_t least = strlen(name) / 2 + 1; /* more edits than that are no likeness */
    for (; options->kind != CLI_END; options++) {
        size_t distance = options->name != NULL ? text_distance(name, options->name) : least;
        if (distance < least) {
            least = distance;
            best = options->name;
        }
    }
    return best;
}

/* Prefixes of long names are allowed while they mean one option. */
static int complain_unknown(const cli_option *options, const char *word)
{
    if (optopt != 0) {
        return message_usage("unknown option '-%c'", optopt);
    }
    char *name = text_copy(word + 2);
    name[strcspn(name, "=")] = '\0';
    size_t matches = 0;
    for (const cli_option *row = options; row->kind != CLI_END; row++) {
        matches += row->name != NULL && strncmp(row->name, name, strlen(name)) == 0;
    }
    const char *nearest = cli_nearest(options, name);
    int code;
    if (matches > 1) {
        code = message_usage("option '--%s' could be one of %zu", name, matches);
    } else if (nearest != NULL) {
        code = message_usage("unknown option '--%s'; did you mean '--%s'?", name, nearest);
    } else {
        code = message_usage("unknown option '--%s'", name);
    }
    free(name);
    return code;
}

static int complain(const cli_option *options, size_t count, int problem, const char *word)
{
    const cli_option *row = find_row(options, count, optopt);
    if (problem == ':' && row != NULL) {
        return message_usage("--%s needs an argument: %s", row->name, row->argument);
    }
    if (row != NULL && optopt >= FIRST_VALUE) {
        return message_usage("--%s takes no argument", row->name);
    }
    return complain_unknown(options, word);
}

static int set_choice(const cli_option *option, const char *word, int32_t *value)
{
    char list[256] = "";
    for (int32_t i = 0; option->choices[i] != NULL; i++) {
        if (strcmp(word, option->choices[i]) == 0) {
            *value = i;
            return CLI_CONTINUE;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "", option->choices[i]);
    }
    return message_usage("--%s: '%s' is not one of %s", option->name, word, list);
}

static int set_integer(const cli_option *option, const char *word, int32_t *value)
{
    int64_t number = 0;
    if (!text_parse_integer(word, &number) || (double)number < option->minimum ||
        (double)number > option->maximum) {
        return message_usage("--%s: '%s' is not a whole number from %.0f to %.0f", option->name,
                             word, option->minimum, option->maximum);
    }
    *value = (int32_t)number;
    return CLI_CONTINUE;
}

static int set_number(const cli_option *option, const char *word, double *value)
{
    double number = 0.0;
    if (!text_parse_double(word, &number) || number < option->minimum || number > option->maximum) {
        return message_usage("--%s: '%s' is not a number from %g to %g", option->name, word,
                             option->minimum, option->maximum);
    }
    *value = number;
    return CLI_CONTINUE;
}

void cli_words_add(cli_words *words, const char *word)
{
    char **items = text_alloc(words->count + 1, sizeof *items);
    if (words->count > 0) {
        memcpy(items, words->items, words->count * sizeof *items);
    }
    free(words->items);
    words->items = items;
    words->items[words->count++] = text_copy(word);
}

void cli_words_free(cli_words *words)
{
    for (size_t i = 0; i < words->count; i++) {
        free(words->items[i]);
    }
    free(words->items);
    *words = (cli_words){0};
}

/* A word without "=" is the name, and the next word of the command line the value. */
static int add_pair(const cli_option *option, const char *word, int argc, char **argv,
                    cli_words *words)
{
    if (strchr(word, '=') != NULL) {
        cli_words_add(words, word);
        return CLI_CONTINUE;
    }
    if (optind >= argc) {
        return message_usage("--%s %s: needs a second argument: %s", option->name, word,
                             option->argument);
    }
    char *pair = text_join(word, "=", argv[optind++]);
    cli_words_add(words, pair);
    free(pair);
    return CLI_CONTINUE;
}

/* The members are reached as the kinds of cli_kind promise. */
static int set_value(const cli_program *program, const cli_option *option, const char *word,
                     void *values)
{
    void *member = (char *)values + option->offset;
    switch (option->kind) {
    case CLI_CHOICE: return set_choice(option, word, member);
    case CLI_INTEGER: return set_integer(option, word, member);
    case CLI_NUMBER: return set_number(option, word, member);
    case CLI_HELP: return cli_help(program);
    case CLI_FLAG: *(int32_t *)member = 1; return CLI_CONTINUE;
    case CLI_PRESET: *(int32_t *)member = (int32_t)option->minimum; return CLI_CONTINUE;
    case CLI_TEXT: *(const char **)member = word; return CLI_CONTINUE;
    case CLI_LIST: cli_words_add(member, word); return CLI_CONTINUE;
    case CLI_VERSION:
        printf("%s (libser) %s\n", program->name, ser_version_string());
        return cli_finish_output();
    case CLI_END:
    case CLI_PAIR:
    case CLI_GROUP: break;
    }
    return CLI_CONTINUE;
}

int cli_parse(const cli_program *program, int argc, char **argv, void *values, int *first)
{
    size_t count = count_rows(program->options);
    struct option *names = long_options(program->options, count);
    char *letters = short_options(program->options, count);
    int code = CLI_CONTINUE;
    opterr = 0;
    optind = 0; /* from the start, also the second time */
    while (code == CLI_CONTINUE) {
        int value = getopt_long(argc, argv, letters, names, NULL);
        if (value == -1) {
            break;
        }
        if (value == '?' || value == ':') {
            code = complain(program->options, count, value, argv[optind - 1]);
            break;
        }
        const cli_option *row = find_row(program->options, count, value);
        code = row->kind == CLI_PAIR
                   ? add_pair(row, optarg, argc, argv, (void *)((char *)values + row->offset))
                   : set_value(program, row, optarg, values);
    }
    *first = optind;
    free(letters);
    free(names);
    return code;
}

/* Words of `text` from column `column` on, continued at HELP_COLUMN. */
static void print_wrapped(const char *text, int column)
{
    printf("%*s", column < HELP_COLUMN ? HELP_COLUMN - column : 0, "");
    column = HELP_COLUMN;
    for (const char *blank = ""; *text != '\0'; blank = " ") {
        int word = (int)strcspn(text, " ");
        if (column + (int)strlen(blank) + word > HELP_WIDTH) {
            printf("\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
            blank = "";
        }
        column += printf("%s%.*s", blank, word, text);
        text += word;
        text += *text == ' ';
    }
    printf("\n");
}

static void print_option(const cli_option *option)
{
    char left[96];
    char letter[8] = "    ";
    if (option->letter != 0) {
        snprintf(letter, sizeof letter, "-%c, ", option->letter);
    }
    int column =
        snprintf(left, sizeof left, "  %s--%s%s%s", letter, option->name,
                 takes_argument(option) ? " " : "", takes_argument(option) ? option->argument : "");
    printf("%s", left);
    if (column > HELP_COLUMN - 2) {
        printf("\n");
        column = 0;
    }
    print_wrapped(option->help, column);
}

int cli_help(const cli_program *program)
{
    printf("Usage: %s %s\n%s\n", program->name, program->usage, program->summary);
    for (const cli_option *option = program->options; option->kind != CLI_END; option++) {
        if (option->kind == CLI_GROUP) {
            printf("\n%s:\n", option->help);
        } else {
            print_option(option);
        }
    }
    printf("\n%s", program->footer);
    return cli_finish_output();
}

void cli_start(const char *program)
{
    message_init(program);
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF) {
            /* Opened the wrong way round, so that using it still fails. */
            int null = open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
            (void)null;
        }
    }
    signal(SIGPIPE, SIG_IGN);
    setlocale(LC_CTYPE, "");
}

int cli_finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return MESSAGE_EXIT_OK;
    }
    if (errno != EPIPE) {
        message_error("standard output: cannot write: %s", strerror(errno));
    }
    return MESSAGE_EXIT_IO;
}
