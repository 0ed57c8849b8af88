/* SPDX-License-Identifier: MIT */
/*
 * Data sets: clips with a label, a speaker and what else is known about them before their audio is
 * read. Several corpora may go into one; each labels its clips with some of the classes.
 *
 *     dataset ds = {0};
 *     labels_add_merge(&ds.rules, "calm=neutral");       rules first, ...
 *     dataset_add_preset(&ds, "ravdess", "RAVDESS/");    ... then corpora, ...
 *     dataset_add_manifest(&ds, "mine.csv", NULL);       (manifest.h)
 *     dataset_finish(&ds);                               ... then numbers for the classes
 *     scan_run (scan.h), split_apply (splits.h), leaks_find (leaks.h), data_report_* (datareport.h)
 *     dataset_free(&ds);
 *
 * Functions that answer int give 0, or an exit code (message.h) after a message to the user.
 */
#ifndef SER_TOOLS_DATASET_H
#define SER_TOOLS_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "intern.h"
#include "labels.h"

/* What a clip is used for. */
typedef enum dataset_part {
    DATASET_UNUSED,
    DATASET_TRAIN,
    DATASET_VALIDATION,
    DATASET_TEST,
    DATASET_PARTS /* their number */
} dataset_part;

/* "unused", "train", "validation", "test". */
extern const char *const dataset_part_names[DATASET_PARTS];

typedef enum dataset_intensity {
    DATASET_INTENSITY_UNKNOWN,
    DATASET_INTENSITY_LOW,
    DATASET_INTENSITY_NORMAL,
    DATASET_INTENSITY_STRONG
} dataset_intensity;

/* dataset_clip.split of a clip whose corpus says nothing. */
enum { DATASET_NO_SPLIT = -1 };

/* Strings belong to the data set's pool: equal strings have equal addresses. */
typedef struct dataset_clip {
    const char *path;   /* as it is opened */
    const char *text;   /* which words are said: statement, sentence or text id; NULL: not known */
    double start;       /* seconds; a stretch of the file, ... */
    double end;         /* ... to here; 0: to the end of the file */
    int32_t label;      /* in dataset.labels, after dataset_finish */
    int32_t emotion;    /* in dataset.emotions: the label before any merge */
    int32_t corpus;     /* in dataset.corpora */
    int32_t speaker;    /* in dataset.speakers; -1: not known */
    int32_t repetition; /* from 1; 0: not known */
    int32_t line;       /* of the manifest; 0: found by a walk */
    int8_t intensity;   /* dataset_intensity */
    int8_t split;       /* the manifest's split column: dataset_part, or DATASET_NO_SPLIT */
} dataset_clip;

typedef struct dataset_corpus {
    const char *name;    /* of the preset, the manifest's stem or its corpus column */
    const char *preset;  /* NULL: from a manifest */
    const char *source;  /* directory or manifest file that was added first */
    uint64_t label_mask; /* bit i: some clip has label i; set by dataset_finish */
    size_t clip_count;   /* set by dataset_finish */
} dataset_corpus;

/* Speakers of different corpora are different people, whatever they are called. */
typedef struct dataset_speaker {
    const char *name;
    int32_t corpus;
    int32_t number; /* the name as a number; -1: it is none */
} dataset_speaker;

/* A clip that was left out, for skipped.jsonl. */
typedef struct dataset_skip {
    const char *path;
    const char *reason;
    const char *source; /* manifest, or NULL */
    int32_t line;
} dataset_skip;

/* All zero is an empty data set. Read by everybody, changed by the functions below only. */
typedef struct dataset {
    dataset_clip *clips;
    size_t count;
    size_t capacity;
    const char **labels; /* the classes, after dataset_finish: canonical order, then appearance */
    size_t label_count;
    const char **emotions; /* labels before merges */
    size_t emotion_count;
    dataset_corpus *corpora;
    size_t corpus_count;
    dataset_speaker *speakers; /* in order of appearance */
    size_t speaker_count;
    dataset_skip *skipped;
    size_t skipped_count;
    size_t dropped; /* clips that a drop rule took out */
    label_rules rules;
    intern_pool strings;
    struct dataset_index *index; /* speakers and clips by name, while corpora are added */
} dataset;

/* Most classes of a data set: bits of label_mask. */
enum { DATASET_LABELS_MAX = 64 };

/* "ravdess", "crema-d", "tess", "savee", "emo-db"; ends with NULL. */
extern const char *const dataset_preset_names[];

/* One line about where a preset's clips come from and how their files are called; NULL: no such
 * preset. */
const char *dataset_preset_describe(const char *preset);

/*
 * Add the clips of a known corpus in and below `directory`, by the names of the files: any audio
 * extension, sorted walk, a clip that is found twice taken once. Says what was skipped and warns if
 * the count is not the published one.
 */
int dataset_add_preset(dataset *ds, const char *preset, const char *directory);

/* Apply the rules, number the classes that are left and leave out dropped clips. Once, after all
 * corpora. Errors: no clip, a single class, too many classes, rules about labels that nothing has.
 */
int dataset_finish(dataset *ds);

/* Keep the clips whose `keep` is true; for what leaves out unreadable files. */
void dataset_keep(dataset *ds, const bool *keep);

/* Speaker numbers of a corpus in the order of number, then name. `*count` of them; caller frees. */
int32_t *dataset_speakers_sorted(const dataset *ds, int32_t corpus, size_t *count);

/* What was left out, one JSON object per line, in place of the file `path`. */
int dataset_write_skipped(const dataset *ds, const char *path);

void dataset_free(dataset *ds);

/* For what adds corpora: */

/* The corpus of this name, added if need be. */
int32_t dataset_corpus_index(dataset *ds, const char *name, const char *preset, const char *source);

/* The speaker of this name in a corpus, added if need be. */
int32_t dataset_speaker_index(dataset *ds, int32_t corpus, const char *name);

/* The number of a label in ds->emotions, added if need be. */
int32_t dataset_emotion_index(dataset *ds, const char *label);

/* Append a clip (strings already in the pool). */
void dataset_append(dataset *ds, const dataset_clip *clip);

/* Note a clip that is left out. Texts are copied. */
void dataset_skip_clip(dataset *ds, const dataset_skip *skip);

/* True the first time that `key` is given for a corpus. */
bool dataset_first(dataset *ds, int32_t corpus, const char *key);

#endif
