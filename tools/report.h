/* SPDX-License-Identifier: MIT */
/*
 * The files of a training run that people read: report.json, confusion.csv, confusion.svg,
 * curves.svg, heldout.csv and README.md, the model card.
 *
 * Each file is replaced as a whole when it is complete, through sink.h: after a full disk the old
 * one is still there. Text may hold any bytes; controls and what is not UTF-8 are written as \xHH.
 * Numbers are the same in every locale, and what is NaN or infinite is null or empty.
 */
#ifndef SER_TOOLS_REPORT_H
#define SER_TOOLS_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "metrics.h"

/* A name and what belongs to it. */
typedef struct report_text {
    const char *name;
    const char *text;
} report_text;

typedef struct report_time {
    const char *name; /* "training", "evaluation" */
    double seconds;
} report_time;

/* What one corpus gave to the run. */
typedef struct report_corpus {
    const char *name;
    const char *licence; /* NULL: unknown */
    const char *source;  /* citation, DOI or address; NULL: unknown */
    int64_t clips;
    int64_t speakers;
    double seconds; /* of audio */
    int64_t train;  /* clips per part */
    int64_t validation;
    int64_t test;
    const int64_t *class_clips; /* [label_count] */
    const uint8_t *allowed;     /* [label_count]; NULL: labels all of them */
} report_corpus;

/* Scores of one part of the data, with the sentence that says what they are scores of. */
typedef struct report_part {
    const char *name;              /* "test", "validation", "fold 2 of 6", "all folds" */
    const char *protocol;          /* NULL: that of the run */
    const metrics_result *metrics; /* never NULL */
} report_part;

/* One value per epoch, [epochs]; a NULL array is not drawn, and a line passes over a NaN. */
typedef struct report_curves {
    size_t epochs;
    const double *train_loss;
    const double *validation_loss;
    const double *train_uar;
    const double *validation_uar;
    const double *learning_rate;
    const double *backbone_learning_rate; /* where it differs from that of the head */
    int64_t best_epoch;                   /* from 1; 0: none */
} report_curves;

/* A clip of the main part, which the trained model or that of its fold had not seen. */
typedef struct report_clip {
    const char *path;
    const char *fold;       /* NULL: none */
    const metrics_row *row; /* probabilities, mask, label, speaker, corpus */
} report_clip;

/* Everything; all of it borrowed. */
typedef struct run_report {
    const char *name;         /* of the model; NULL: "speech emotion classifier" */
    const char *protocol;     /* a sentence, printed with every number */
    bool speaker_independent; /* no tested speaker was trained on; else a warning in every file */
    const char *licence;      /* of the weights, a Hugging Face identifier; NULL: "other" */
    const char *base_model;   /* NULL: trained from scratch */
    const char *const *languages; /* [language_count] of the clips, "en" */
    size_t language_count;
    const char *const *tags; /* [tag_count], added to the usual ones */
    size_t tag_count;
    const char *command; /* the command line */
    json_t *config;      /* the effective configuration, an object; NULL: none */
    json_t *data;        /* data_report_json(), or NULL */
    uint64_t seed;
    int64_t parameters;        /* of the model; 0: not said */
    double temperature;        /* fitted on validation data; 0: none */
    const char *const *labels; /* [label_count] */
    size_t label_count;
    const char *const *groups; /* speakers: [as the rows' groups], NULL: numbered */
    size_t group_count;
    const report_corpus *corpora; /* [corpus_count], as the rows' corpora */
    size_t corpus_count;
    const report_part *parts; /* [part_count], the main one (test, or all folds pooled) first */
    size_t part_count;
    const report_part *folds; /* [fold_count] */
    size_t fold_count;
    const report_clip *clips; /* [clip_count] */
    size_t clip_count;
    const report_curves *curves; /* NULL: nothing was trained */
    const report_time *times;    /* [time_count] */
    size_t time_count;
    const report_text
        *versions; /* [version_count]: "libser" "0.2.0", "oneDNN" "2.7.3", "CPU" "..." */
    size_t version_count;
    const report_text *notes; /* [note_count]: sections of the card, a heading and Markdown */
    size_t note_count;
} run_report;

/* All files for which there is something to write, into an existing directory. Stops at the first
 * that fails, after a message: 0 or an exit code. */
int report_write(const char *directory, const run_report *run);

/* One of them, as report_write() does it. */
int report_write_json(const char *directory, const run_report *run);
int report_write_card(const char *directory, const run_report *run);          /* README.md */
int report_write_confusion_csv(const char *directory, const run_report *run); /* of parts[0] */
int report_write_confusion_svg(const char *directory, const run_report *run);
int report_write_curves_svg(const char *directory, const run_report *run);
int report_write_heldout(const char *directory, const run_report *run);

#endif
