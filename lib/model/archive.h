/* SPDX-License-Identifier: MIT */
/* The records of a zip archive as torch.save() writes it: stored, not compressed, all below one
 * root. */
#ifndef SER_MODEL_ARCHIVE_H
#define SER_MODEL_ARCHIVE_H

#include <stddef.h>
#include <stdint.h>

#include "model/file.h"

typedef struct ser_record {
    const char *name;  /* below the root: "data/0" */
    uint64_t offset;   /* of its first byte, in the file */
    uint64_t size;     /* bytes */
    const char *dtype; /* of the tensors in it, once one is known; static */
} ser_record;

typedef struct ser_archive {
    const ser_file *file; /* borrowed */
    ser_record *list;     /* sorted by name */
    size_t count;
    char *names; /* what the records' names point into */
} ser_archive;

/*
 * Check the archive and every record: its two headers agree, its CRC is right, it shares no byte
 * with another. Errors: FORMAT, UNSUPPORTED (compressed, encrypted, TorchScript, or a libser
 * without libzip), CAPACITY (too many records), IO, MEMORY. Clear *archive in any case.
 */
int ser_archive_read(const ser_file *file, ser_archive *archive);
void ser_archive_clear(ser_archive *archive);

ser_record *ser_archive_find(const ser_archive *archive, const char *name);

#endif
