/* SPDX-License-Identifier: MIT */
/* In place of archive.c in a libser without libzip. */
#include "model/archive.h"

#include "base/fail.h"
#include "model/torch_bin.h"

int ser_archive_read(const ser_file *file, ser_archive *archive)
{
    *archive = (ser_archive){.file = file};
    return ser_fail(SER_ERR_UNSUPPORTED,
                    "%s: this libser was built without libzip, which reads such files "
                    "(-Dtorch_bin); " SER_TORCH_CONVERT,
                    file->name, SER_TORCH_LOAD);
}

void ser_archive_clear(ser_archive *archive)
{
    *archive = (ser_archive){.file = NULL};
}

ser_record *ser_archive_find(const ser_archive *archive, const char *name)
{
    (void)archive;
    (void)name;
    return NULL;
}
