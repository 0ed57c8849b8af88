/* SPDX-License-Identifier: MIT */
/*
 * What a set of scored clips says about a classifier of emotions.
 *
 * A clip's probabilities are those of the classes which its corpus labels: classes outside its mask
 * count as absent and the rest is scaled to sum 1, which is the softmax over the mask alone. The
 * prediction is the most probable of them, the first of equals. Numbers depend on nothing but their
 * input: not on the order of threads, nor on the locale.
 */
#ifndef SER_TOOLS_METRICS_H
#define SER_TOOLS_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { METRICS_BINS = 15, METRICS_REPLICATES = 10000 };

/* One scored clip; all it points to is borrowed. */
typedef struct metrics_row {
    int32_t label;              /* true class */
    int32_t group;              /* speaker; -1: not known */
    int32_t corpus;             /* 0 where there is only one */
    const float *probabilities; /* [classes]; what stands outside the mask is not read */
    const float *logits;        /* [classes], for metrics_fit_temperature() alone; log-probabilities
                                   are as good */
    const uint8_t *allowed;     /* [classes], not 0 in the mask; NULL: all */
} metrics_row;

typedef struct metrics_set {
    const metrics_row *rows;
    size_t count;
    size_t classes;
    size_t groups;  /* of all corpora together */
    size_t corpora; /* from 2 on, each has its own result as well */
} metrics_set;

/* NaN is "not defined": an interval of one group, the UAR of no clip. */
typedef struct metrics_interval {
    double low;
    double high;
} metrics_interval;

/* With tp clips of a class found, fn missed and fp others taken for it. */
typedef struct metrics_class {
    bool allowed;      /* some clip could have been given this class */
    int64_t support;   /* tp + fn */
    int64_t predicted; /* tp + fp */
    int64_t correct;   /* tp */
    double recall;     /* tp / support; not defined without support */
    double precision;  /* tp / predicted; 0 if never predicted, not defined without support too */
    double f1;         /* 2 tp / (support + predicted); not defined if both are 0 */
} metrics_class;

/* Clips whose confidence, the largest probability, is in (i / 15, (i + 1) / 15]. */
typedef struct metrics_bin {
    int64_t clips;
    double confidence; /* mean; not defined without clips, as below */
    double accuracy;
} metrics_bin;

typedef struct metrics_group {
    int32_t corpus; /* of its first clip */
    int64_t clips;
    int64_t correct;
    double accuracy;
    double uar;
} metrics_group;

typedef struct metrics_result {
    size_t classes;
    int64_t clips;
    int64_t correct;
    size_t speakers;    /* groups that have clips */
    size_t units;       /* the same, and each clip whose speaker is not known */
    double uar;         /* mean recall of the classes that have support */
    double accuracy;    /* correct / clips */
    double macro_f1;    /* mean F1 of the classes where it is defined */
    double weighted_f1; /* mean F1, each class weighted by its support */
    double nll;         /* mean of -ln p(true class); p below FLT_MIN counts as FLT_MIN */
    double brier; /* mean over clips of sum over classes of (p - [true])^2: 0 to 2 (Brier 1950) */
    /* Expected calibration error: sum over bins of |B| / n * |acc(B) - conf(B)| (Guo et al., "On
     * calibration of modern neural networks", ICML 2017, section 2). */
    double ece;
    double confidence; /* mean largest probability */
    metrics_bin bins[METRICS_BINS];
    /* 95 % percentile intervals of the bootstrap over speakers: `units` of them are drawn with
     * replacement, all their clips pooled, and the statistic is taken again (over the classes that
     * the draw holds). A unit is never split: clips of one voice are not independent. */
    metrics_interval uar_interval;
    metrics_interval accuracy_interval;
    int32_t replicates;       /* of the bootstrap; 0: no intervals */
    int64_t *confusion;       /* [classes][classes]: true, predicted */
    metrics_class *per_class; /* [classes] */
    size_t group_count;
    metrics_group *per_group;          /* [group_count]; those of other corpora have no clips */
    size_t corpus_count;               /* 0 if there is but one */
    struct metrics_result *per_corpus; /* [corpus_count] */
} metrics_result;

/* All scores of `set`; `replicates` 0 leaves the intervals out. An empty set is no error. Answers 0
 * or, after a message that names the row, MESSAGE_EXIT_NUMERIC for probabilities that are negative,
 * not finite or all 0, MESSAGE_EXIT_DATA for anything else that cannot be; `*result` is then empty.
 */
int metrics_compute(metrics_result *result, const metrics_set *set, uint64_t seed,
                    int32_t replicates);

void metrics_free(metrics_result *result);

/* The class that counts as the answer to a row. */
size_t metrics_prediction(const metrics_row *row, size_t classes);

/* Softmax over the allowed classes of logits / temperature; 0 for the others. */
void metrics_softmax(const float *logits, const uint8_t *allowed, size_t classes,
                     double temperature, float *probabilities);

typedef struct metrics_temperature {
    double temperature; /* 1 for an empty set */
    bool bounded;       /* the best lies outside 0.05 .. 20, and this is the bound */
    double nll_before;  /* at temperature 1 */
    double nll_after;
} metrics_temperature;

/* The temperature that minimises the mean of -ln softmax(logits / T)[true class] (Guo et al. 2017,
 * section 4.2), from the logits of clips that were not trained on. Fails as metrics_compute(). */
int metrics_fit_temperature(metrics_temperature *fit, const metrics_set *set);

/* ---- tables for a terminal ---- */

enum { METRICS_PERCENT_SIZE = 16 };

/* "64.1 %", or "-" for what is not defined. */
const char *metrics_percent(char buffer[METRICS_PERCENT_SIZE], double share);

/* Names that people know; borrowed. Anything that is NULL is left out or numbered. */
typedef struct metrics_names {
    const char *protocol;       /* a sentence: corpus, split, who was tested on whom */
    const char *part;           /* "test", "validation", "fold 2 of 6" */
    const char *const *labels;  /* [classes] */
    const char *const *groups;  /* [groups] */
    const char *const *corpora; /* [corpora] */
} metrics_names;

/* What the bootstrap drew: "speakers", or something longer where some are not known. */
const char *metrics_unit_name(const metrics_result *result);

/* Protocol, UAR, accuracy, F1, calibration; then classes, confusion, results per corpus. */
void metrics_print(FILE *f, const metrics_result *result, const metrics_names *names);

/* Protocol, then one line per speaker. */
void metrics_print_groups(FILE *f, const metrics_result *result, const metrics_names *names);

/* "PROTOCOL. test: UAR 64.1 % [59.3, 69.2], accuracy 63.8 %, macro F1 63.1 %, 240 clips". */
void metrics_print_line(FILE *f, const metrics_result *result, const metrics_names *names);

#endif
