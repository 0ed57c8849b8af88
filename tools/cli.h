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
    CLI_PRESET,  /* int32_t = minimum */
    CLI_HELP,    /* print the help and stop */
    CLI_VERSION  /* print the version and stop */
} cli_kind;

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

/* Set the members of `*values` that the command line names; operands start at argv[*first]. */
int cli_parse(const cli_program *program, int argc, char **argv, void *values, int *first);

/* Print the help to standard output; the exit code. */
int cli_help(const cli_program *program);

/* Keep descriptors 0 to 2 from being taken by other files, let writes to a closed pipe fail with
 * EPIPE, and take the locale's character set (only that: numbers stay locale-free). */
void cli_start(const char *program);

/* Flush standard output: 0, or MESSAGE_EXIT_IO with a message unless the reader has gone. */
int cli_finish_output(void);

#endif
