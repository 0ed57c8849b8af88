/* SPDX-License-Identifier: MIT */
/* The inputs of a tool: named files, directories walked for audio, standard input. */
#ifndef SER_TOOLS_FILES_H
#define SER_TOOLS_FILES_H

#include <stddef.h>

/* One input. A directory without audio, or one that cannot be read, stands here with its error. */
typedef struct file_entry {
    char *path;
    int status; /* 0 or SER_ERR_IO */
    char *error;
} file_entry;

typedef struct file_list {
    file_entry *entries;
    size_t count;
    size_t capacity;
} file_list;

/*
 * Append what the operands name, in their order. A file is taken whatever it is called; a directory
 * gives the files in and below it whose names end like audio and do not start with a dot, sorted by
 * name, each directory once per path that leads to it without a loop. "-" may appear once.
 * CLI_CONTINUE or an exit code.
 */
int files_collect(file_list *list, char **operands, int count);

void files_free(file_list *list);

#endif
