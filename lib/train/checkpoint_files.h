/* SPDX-License-Identifier: MIT */
/*
 * A checkpoint as a directory that is complete or not there.
 *
 * It is made beside its place, NAME, as NAME.tmp-PID: each file is written, flushed and closed with
 * every result checked; manifest.json, with the sizes and XXH3 sums of the others, comes last. So a
 * directory with a manifest that agrees with its files is complete. Then it takes its place:
 *
 * - by one rename, where NAME is not there yet;
 * - by exchanging the two names in one step (renameat2), after which NAME.tmp-PID is the old one;
 * - where the file system cannot exchange: NAME becomes NAME.trash-PID, then NAME.tmp-PID becomes
 *   NAME. Between the two NAME is missing, but both are complete under their other names.
 *
 * Only then are the old one and what killed processes have left behind removed, manifest.json first.
 * Hence, at any moment after the first save, either NAME is complete, or NAME is missing and one of
 * NAME.tmp-* and NAME.trash-* is: reading looks at these if, and only if, NAME is not there, and takes
 * the complete one that has seen the most batches.
 */
#ifndef SER_TRAIN_CHECKPOINT_FILES_H
#define SER_TRAIN_CHECKPOINT_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/record.h"

#define SER_CHECKPOINT_MODEL    "model.safetensors"
#define SER_CHECKPOINT_TENSORS  "state.safetensors"
#define SER_CHECKPOINT_STATE    "state.json"
#define SER_CHECKPOINT_MANIFEST "manifest.json"

enum { SER_CHECKPOINT_VERSION = 1 };

/* Where a checkpoint stands. */
typedef struct ser_checkpoint_place {
    char *path;       /* owned; as given, without slashes at its end */
    const char *name; /* the last part of it */
    int parent;       /* the directory that holds it; -1: not open */
    char *temporary;  /* owned name of the directory that is being made, or NULL */
} ser_checkpoint_place;

/* Errors: ARGUMENT if `path` ends in ".", ".." or nothing; IO. */
int ser_checkpoint_place_open(const char *path, ser_checkpoint_place *place);

/* Also removes the temporary directory, if it has not been published. */
void ser_checkpoint_place_close(ser_checkpoint_place *place);

/* Make the temporary directory. IO if something is there that is not a checkpoint. */
int ser_checkpoint_begin(ser_checkpoint_place *place);

/* The path of a file in the temporary directory, or of the directory `name` beside NAME; to be freed
 * with ser_mem_free. NULL when out of memory. */
char *ser_checkpoint_file(const ser_checkpoint_place *place, const char *file);
char *ser_checkpoint_sibling(const ser_checkpoint_place *place, const char *name);

/* Write a record as a file in the temporary directory. */
int ser_checkpoint_write_record(const ser_checkpoint_place *place, const ser_record *record,
                                const char *file);

/* Write manifest.json about the other three files. */
int ser_checkpoint_seal(const ser_checkpoint_place *place);

/* The temporary directory takes its place; leftovers go. `can_exchange` false: as on a file system
 * that cannot. */
int ser_checkpoint_publish(ser_checkpoint_place *place, bool can_exchange);

/* Names beside NAME that may be checkpoints: calls `visit` with each NAME.tmp-* and NAME.trash-*. */
int ser_checkpoint_each_sibling(const ser_checkpoint_place *place,
                                void (*visit)(void *user, const char *name), void *user);

/* The file `file` of the checkpoint `directory` (a path), checked against the manifest; `*bytes` is to
 * be freed with ser_mem_free. MISMATCH for a wrong size, one above `limit`, or a wrong sum. */
int ser_checkpoint_load(const char *directory, const ser_record *manifest, const char *file,
                        uint64_t limit, unsigned char **bytes, size_t *size);

/* The manifest of the checkpoint `directory`, format and version checked. `*name` is owned and
 * stands in the record. */
int ser_checkpoint_read_manifest(const char *directory, ser_record *manifest, char **name);

#endif
