/* SPDX-License-Identifier: MIT */
/*
 * Manifests: data sets as CSV files (RFC 4180, UTF-8, a header line) with the columns
 *
 *     path, label                   required
 *     speaker                       who speaks; splits and the leak detector need it
 *     split                         train, validation (val, dev), test or unused: --split column
 *     start, end                    seconds, where a clip is a stretch of its file
 *     text                          which words are said
 *     repetition                    1, 2, ...: takes of the same speaker, text, label and intensity
 *     intensity                     low, normal (medium) or strong (high)
 *     corpus                        several corpora in one manifest
 *
 * in any order; other columns are ignored and named. Every error tells file and line.
 */
#ifndef SER_TOOLS_MANIFEST_H
#define SER_TOOLS_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "dataset.h"

/* All zero is the default. */
typedef struct manifest_options {
    const char *root;         /* where relative paths start; NULL: the manifest's folder */
    const char *corpus;       /* name without a corpus column; NULL: the file's name, bare */
    const char *group_column; /* the column that takes the place of `speaker`; NULL: speaker */
    char delimiter;           /* ',', ';' or '\t'; 0: ',' */
    bool confine;             /* refuse absolute paths, "..", and links that lead out of `root` */
    bool skip_bad;            /* leave out (and note) rows whose file is missing */
} manifest_options;

/* Add the clips of a manifest; `options` NULL: defaults. After a failure the data set is good for
 * dataset_free only. */
int dataset_add_manifest(dataset *ds, const char *file, const manifest_options *options);

/* Print one field, quoted where RFC 4180 wants it. `guard` puts an apostrophe before text that a
 * spreadsheet would take for a formula (it starts with = + - @ TAB or CR). */
void manifest_put_field(FILE *f, const char *text, bool guard);

/* Write the clips as a manifest that dataset_add_manifest reads back, with `parts` (one
 * dataset_part per clip; NULL: none) as the column split. */
int manifest_write(const dataset *ds, const uint8_t *parts, const char *file, bool guard);

#endif
