/* SPDX-License-Identifier: MIT */
/* What the writers of report.h share among themselves. */
#ifndef SER_TOOLS_REPORT_PARTS_H
#define SER_TOOLS_REPORT_PARTS_H

#include <stdio.h>

#include "report.h"

void report_put_json(FILE *f, const run_report *run);
void report_put_card(FILE *f, const run_report *run);
void report_put_confusion_csv(FILE *f, const run_report *run);
void report_put_confusion_svg(FILE *f, const run_report *run);
void report_put_curves_svg(FILE *f, const run_report *run);
void report_put_heldout(FILE *f, const run_report *run);

/* Never NULL. */
const char *report_name(const run_report *run);
const char *report_protocol(const run_report *run, const report_part *part);

/* What must stand beside numbers of a speaker-dependent split. */
extern const char report_dependent_warning[];

/* Name of speaker or corpus `i`, or its number from 1; "" for -1. The caller frees. */
char *report_group_name(const run_report *run, int32_t i);
char *report_corpus_name(const run_report *run, int32_t i);

/* Mean and sample standard deviation (NaN for one) of a score over the folds that have it. */
typedef struct report_spread {
    double mean;
    double deviation;
} report_spread;

report_spread report_fold_spread(const run_report *run, double (*score)(const metrics_result *));
double report_uar(const metrics_result *r);
double report_accuracy(const metrics_result *r);
double report_macro_f1(const metrics_result *r);

#endif
