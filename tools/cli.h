/* SPDX-License-Identifier: MIT */
/*
 * Command lines from one table: it drives getopt_long, --help, range checks and the tests that hold
 * the man page and the shell completion against it.
 */
#ifndef SER_TOOLS_CLI_H
#define SER_TOOLS_CLI_H

#include <stddef.h>
#include <stdint.h>

typedef enum cli_kind {
    CLI_END,     /* closes the table */
    CLI_GROUP,   /* a heading: `help` */
    CLI_FLAG,    /* int32_t = 1 */
    CLI_CHOICE,  /* int32_t = index into `choices` */
    CLI_INTEGER, /* int32_t in [minimum, maximum] */
    CLI_NUMBER,  /* double in [minimum, maximum] */
    CLI_TEXT,    /* const char *, borrowed from argv */
    CLI_LIST,    /* cli_words: one more word each time */
    CLI_PAIR,    /* cli_words: one more "NAME=VALUE", also given as the two words NAME VALUE */
    CLI_PRESET,  /* int32_t = minimum */
    CLI_HELP,    /* print the help and stop */
    CLI_VERSION  /* print the version and stop */
} cli_kind;

/* What a repeated option collected. */
typedef struct cli_words {
    char **items; /* [count], owned */
    size_t count;
} cli_words;

/* How an option stands to files of options: see cli_config.h. */
enum {
    CLI_SETTING, /* what comes out depends on it */
    CLI_MACHINE, /* where, how fast, how much is said: results do not depend on it */
    CLI_COMMAND  /* on the command line only */
};

typedef struct cli_option {
    cli_kind kind;
    char letter;      /* short name, or 0 */
    const char *name; /* long name */
    const char *argument;
    size_t offset; /* of the member that is set in the caller's struct */
    double minimum;
    double maximum;
    const char *const *choices; /* ends with NULL */
    const char *help;
    int32_t scope; /* CLI_SETTING, ... */
} cli_option;

typedef struct cli_program {
    const char *name;
    const char *usage; /* what follows the name in the first line */
    const char *summary;
    const cli_option *options;
    const char *footer;
} cli_program;

/* The command line is complete: go on. Other answers are exit codes. */
enum { CLI_CONTINUE = -1 };

/* Set the members of `*values` that the command line names; operands start at argv[*first]. May be
 * called again for the same command line. */
int cli_parse(const cli_program *program, int argc, char **argv, void *values, int *first);

/* The option whose name is most like `name`; NULL if none is. */
const char *cli_nearest(const cli_option *options, const char *name);

/* Append a copy; free all. */
void cli_words_add(cli_words *words, const char *word);
void cli_words_free(cli_words *words);

/* Print the help to standard output; the exit code. */
int cli_help(const cli_program *program);

/* Keep descriptors 0 to 2 from being taken by other files, let writes to a closed pipe fail with
 * EPIPE, and take the locale's character set (only that: numbers stay locale-free). */
void cli_start(const char *program);

/* Flush standard output: 0, or MESSAGE_EXIT_IO with a message unless the reader has gone. */
int cli_finish_output(void);

#endif
