/* SPDX-License-Identifier: MIT */
#include "files.h"

#include <errno.h>
#include <fts.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include <ser/common.h>

#include "cli.h"
#include "message.h"
#include "text.h"

static const char *const extensions[] = {"wav",  "wave", "flac", "ogg", "oga", "opus", "mp3", "aif",
                                         "aiff", "aifc", "au",   "snd", "caf", "w64",  "rf64"};

static bool sounds_like_audio(const char *name)
{
    const char *dot = strrchr(name, '.');
    if (dot == NULL || name[0] == '.') {
        return false; /* names like "._clip.wav" are side files of other systems */
    }
    for (size_t i = 0; i < sizeof extensions / sizeof extensions[0]; i++) {
        if (strcasecmp(dot + 1, extensions[i]) == 0) {
            return true;
        }
    }
    return false;
}

static void append(file_list *list, const char *path, const char *error)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity > 0 ? 2 * list->capacity : 64;
        file_entry *entries = text_alloc(capacity, sizeof *entries);
        if (list->count > 0) {
            memcpy(entries, list->entries, list->count * sizeof *entries);
        }
        free(list->entries);
        list->entries = entries;
        list->capacity = capacity;
    }
    file_entry *entry = &list->entries[list->count++];
    entry->path = text_copy(path);
    entry->status = error != NULL ? SER_ERR_IO : SER_OK;
    entry->error = error != NULL ? text_copy(error) : NULL;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static void visit(file_list *list, FTS *walk, FTSENT *entry)
{
    switch (entry->fts_info) {
    case FTS_D:
        if (entry->fts_level > FTS_ROOTLEVEL && entry->fts_name[0] == '.') {
            fts_set(walk, entry, FTS_SKIP);
        }
        break;
    case FTS_F:
    case FTS_SLNONE: /* a dangling link: its failure is reported when it is opened */
        if (sounds_like_audio(entry->fts_name)) {
            append(list, entry->fts_path, NULL);
        }
        break;
    case FTS_DNR:
    case FTS_ERR:
    case FTS_NS: append(list, entry->fts_path, strerror(entry->fts_errno)); break;
    default: /* loops, sockets, the way back up */ break;
    }
}

static void walk_directory(file_list *list, char *path)
{
    size_t before = list->count;
    char *roots[] = {path, NULL};
    FTS *walk = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, by_name);
    if (walk == NULL) {
        append(list, path, strerror(errno));
        return;
    }
    for (FTSENT *entry; (entry = fts_read(walk)) != NULL;) {
        visit(list, walk, entry);
    }
    fts_close(walk);
    if (list->count == before) {
        append(list, path,
               "no audio files in this directory (wav, flac, ogg, opus, mp3, aiff, au, caf, "
               "w64); name files of other kinds one by one");
    }
}

int files_collect(file_list *list, char **operands, int count)
{
    bool standard_input = false;
    for (int i = 0; i < count; i++) {
        struct stat facts;
        if (strcmp(operands[i], "-") == 0) {
            if (standard_input) {
                return message_usage("'-' (standard input) can be given only once");
            }
            standard_input = true;
            append(list, "-", NULL);
        } else if (stat(operands[i], &facts) == 0 && S_ISDIR(facts.st_mode)) {
            walk_directory(list, operands[i]);
        } else {
            append(list, operands[i], NULL);
        }
    }
    return CLI_CONTINUE;
}

void files_free(file_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->entries[i].path);
        free(list->entries[i].error);
    }
    free(list->entries);
    *list = (file_list){0};
}
