/* SPDX-License-Identifier: MIT */
/* Options from and to JSON files: one object whose keys are the long names of the option table. */
#ifndef SER_TOOLS_CLI_CONFIG_H
#define SER_TOOLS_CLI_CONFIG_H

#include <stdbool.h>

#include <jansson.h>

#include "cli.h"

/*
 * Set the members of `*values` that the file names; null leaves a member as it is. Texts are
 * borrowed from `*keep`, which the caller frees after the last use of them. Unknown keys, and those
 * of the command line only, are errors that name the nearest. CLI_CONTINUE or an exit code.
 */
int cli_config_read(const cli_program *program, const char *file, void *values, json_t **keep);

/* All options with their values, in the order of the table; those that are not set (texts that are
 * NULL, empty lists) are left out. `machine`: those that do not change results too. */
json_t *cli_config_object(const cli_program *program, const void *values, bool machine);

/* The first setting, in the order of the table, whose value differs; NULL: none. */
const char *cli_config_difference(const cli_program *program, const json_t *a, const json_t *b);

#endif
