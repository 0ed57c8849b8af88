/* SPDX-License-Identifier: MIT */
/* What a data set holds, before anything is trained on it: for people and as JSON. */
#ifndef SER_TOOLS_DATAREPORT_H
#define SER_TOOLS_DATAREPORT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "dataset.h"
#include "leaks.h"
#include "scan.h"
#include "splits.h"

/* What is reported on. Members may be NULL but for `data`. */
typedef struct data_report {
    const dataset *data;
    const scan *audio;
    const split *fold;
    const leak_report *leaks;
} data_report;

/* A page of text: classes by part, corpora, speakers, durations, oddities of the audio. */
void data_report_print(const data_report *r, FILE *f);

/* The same and more (every speaker too); the caller frees. */
json_t *data_report_json(const data_report *r);

/* The numbers behind both: */

enum { DATA_FLAGS = 8, DATA_QUANTILES = 5, DATA_RATES = 16, DATA_EXAMPLES = 3 };

/* Of one corpus, label or speaker. Clips that no part uses count in `clips` only. */
typedef struct data_group {
    size_t clips;
    size_t parts[DATASET_PARTS]; /* zero without a split */
    double seconds;              /* zero without a scan */
} data_group;

typedef struct data_facts {
    data_group all;
    data_group *corpora;       /* [corpus_count] */
    data_group *labels;        /* [label_count] */
    data_group *corpus_labels; /* [corpus_count][label_count] */
    data_group *speakers;      /* [speaker_count] */
    data_group unknown;        /* clips without a speaker */
    size_t *corpus_speakers;   /* [corpus_count]: with at least one clip */
    /* From here on without a scan all zero; unreadable clips count only as that. */
    size_t readable;
    size_t unreadable;
    double durations[DATA_QUANTILES]; /* seconds: minimum, 5 %, median, 95 %, maximum */
    double levels[DATA_QUANTILES];    /* RMS in dB of full scale, of clips that are not silent */
    size_t flags[DATA_FLAGS];         /* clips by bit of SER_AUDIO_*, then QUIET */
    size_t flag_examples[DATA_FLAGS][DATA_EXAMPLES]; /* clip numbers */
    int32_t rates[DATA_RATES];                       /* Hz, rising; rarer ones beyond are lumped */
    size_t rate_clips[DATA_RATES];
    size_t rate_count;
    size_t other_rates; /* clips */
    size_t mono;
    size_t stereo;     /* two channels or more */
    size_t duplicates; /* clips whose samples are those of an earlier clip */
} data_facts;

void data_facts_compute(const data_report *r, data_facts *facts);
void data_facts_free(data_facts *facts);

/* The bit above those of SER_AUDIO_*: a peak under -60 dB of full scale, such as coded silence. */
enum { DATA_FLAG_QUIET = DATA_FLAGS - 1 };

/* Name of a bit for JSON, and what it means. */
const char *data_flag_name(size_t bit);
const char *data_flag_text(size_t bit);

#endif
