/* SPDX-License-Identifier: MIT */
/* report.json. Reals have 15 significant digits, what is not finite is null. */
#include "report_parts.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include <jansson.h>

#include "message.h"
#include "text.h"

enum { FORMAT_VERSION = 1, REAL_DIGITS = 15 };

/* jansson answers NULL without memory, and takes NULL: nothing may be left out in silence. */
static json_t *need(json_t *value)
{
    if (value == NULL) {
        message_error("out of memory for report.json");
        _exit(MESSAGE_EXIT_DEVICE);
    }
    return value;
}

static void put(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, need(value)) != 0) {
        (void)need(NULL);
    }
}

static void append(json_t *array, json_t *value)
{
    if (json_array_append_new(array, need(value)) != 0) {
        (void)need(NULL);
    }
}

static json_t *text(const char *value)
{
    if (value == NULL) {
        return json_null();
    }
    char *clean = text_printable(value);
    json_t *string = json_string(clean);
    free(clean);
    return string;
}

/* As a value; `owned` is freed. */
static json_t *owned_text(char *owned)
{
    json_t *string = text(owned);
    free(owned);
    return string;
}

/* A key that a user named. */
static void put_named(json_t *object, const char *key, json_t *value)
{
    char *clean = text_printable(key);
    put(object, clean, value);
    free(clean);
}

static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *interval(metrics_interval i)
{
    json_t *pair = need(json_array());
    append(pair, real(i.low));
    append(pair, real(i.high));
    return pair;
}

/* Integers of JSON are signed in jansson. */
static json_t *seed(uint64_t value)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRIu64, value);
    return value <= INT64_MAX ? json_integer((json_int_t)value) : json_string(digits);
}

/* ---- scores ---- */

static json_t *confusion(const metrics_result *r)
{
    json_t *rows = need(json_array());
    for (size_t k = 0; k < r->classes; k++) {
        json_t *row = need(json_array());
        for (size_t j = 0; j < r->classes; j++) {
            append(row, json_integer(r->confusion[k * r->classes + j]));
        }
        append(rows, row);
    }
    return rows;
}

static json_t *classes(const run_report *run, const metrics_result *r)
{
    json_t *list = need(json_array());
    for (size_t k = 0; k < r->classes; k++) {
        const metrics_class *c = &r->per_class[k];
        json_t *entry = need(json_object());
        put(entry, "label", text(run->labels[k]));
        put(entry, "allowed", json_boolean(c->allowed));
        put(entry, "recall", real(c->recall));
        put(entry, "precision", real(c->precision));
        put(entry, "f1", real(c->f1));
        put(entry, "support", json_integer(c->support));
        put(entry, "predicted", json_integer(c->predicted));
        append(list, entry);
    }
    return list;
}

static json_t *speakers(const run_report *run, const metrics_result *r)
{
    json_t *list = need(json_array());
    for (size_t g = 0; g < r->group_count; g++) {
        const metrics_group *group = &r->per_group[g];
        if (group->clips > 0) {
            json_t *entry = need(json_object());
            put(entry, "speaker", owned_text(report_group_name(run, (int32_t)g)));
            put(entry, "corpus", owned_text(report_corpus_name(run, group->corpus)));
            put(entry, "clips", json_integer(group->clips));
            put(entry, "correct", json_integer(group->correct));
            put(entry, "uar", real(group->uar));
            put(entry, "accuracy", real(group->accuracy));
            append(list, entry);
        }
    }
    return list;
}

static json_t *bins(const metrics_result *r)
{
    json_t *list = need(json_array());
    for (size_t i = 0; i < METRICS_BINS; i++) {
        json_t *entry = need(json_object());
        put(entry, "clips", json_integer(r->bins[i].clips));
        put(entry, "confidence", real(r->bins[i].confidence));
        put(entry, "accuracy", real(r->bins[i].accuracy));
        append(list, entry);
    }
    return list;
}

static void put_scores(json_t *object, const run_report *run, const metrics_result *r)
{
    put(object, "clips", json_integer(r->clips));
    put(object, "correct", json_integer(r->correct));
    put(object, "speaker_count", json_integer((json_int_t)r->speakers));
    put(object, "uar", real(r->uar));
    put(object, "uar_interval", interval(r->uar_interval));
    put(object, "accuracy", real(r->accuracy));
    put(object, "accuracy_interval", interval(r->accuracy_interval));
    put(object, "macro_f1", real(r->macro_f1));
    put(object, "weighted_f1", real(r->weighted_f1));
    put(object, "nll", real(r->nll));
    put(object, "brier", real(r->brier));
    put(object, "ece", real(r->ece));
    put(object, "confidence", real(r->confidence));
    put(object, "bootstrap_replicates", json_integer(r->replicates));
    put(object, "bootstrap_units", json_integer((json_int_t)r->units));
    put(object, "classes", classes(run, r));
    put(object, "confusion", confusion(r));
    put(object, "speakers", speakers(run, r));
    put(object, "calibration", bins(r));
}

static json_t *part(const run_report *run, const report_part *p)
{
    json_t *object = need(json_object());
    put(object, "name", text(p->name));
    put(object, "protocol", text(report_protocol(run, p)));
    put_scores(object, run, p->metrics);
    json_t *corpora = need(json_array());
    for (size_t c = 0; c < p->metrics->corpus_count; c++) {
        json_t *entry = need(json_object());
        put(entry, "name", owned_text(report_corpus_name(run, (int32_t)c)));
        put_scores(entry, run, &p->metrics->per_corpus[c]);
        append(corpora, entry);
    }
    put(object, "corpora", corpora);
    return object;
}

static json_t *parts(const run_report *run, const report_part *list, size_t count)
{
    json_t *array = need(json_array());
    for (size_t i = 0; i < count; i++) {
        append(array, part(run, &list[i]));
    }
    return array;
}

static json_t *spread(const run_report *run, double (*score)(const metrics_result *))
{
    report_spread s = report_fold_spread(run, score);
    json_t *object = need(json_object());
    put(object, "mean", real(s.mean));
    put(object, "deviation", real(s.deviation));
    return object;
}

static json_t *fold_spread(const run_report *run)
{
    json_t *object = need(json_object());
    put(object, "uar", spread(run, report_uar));
    put(object, "accuracy", spread(run, report_accuracy));
    put(object, "macro_f1", spread(run, report_macro_f1));
    return object;
}

/* ---- the run ---- */

static json_t *strings(const char *const *list, size_t count)
{
    json_t *array = need(json_array());
    for (size_t i = 0; i < count; i++) {
        append(array, text(list[i]));
    }
    return array;
}

static json_t *corpora(const run_report *run)
{
    json_t *array = need(json_array());
    for (size_t c = 0; c < run->corpus_count; c++) {
        const report_corpus *corpus = &run->corpora[c];
        json_t *entry = need(json_object());
        put(entry, "name", text(corpus->name));
        put(entry, "licence", text(corpus->licence));
        put(entry, "source", text(corpus->source));
        put(entry, "clips", json_integer(corpus->clips));
        put(entry, "speakers", json_integer(corpus->speakers));
        put(entry, "seconds", real(corpus->seconds));
        put(entry, "train", json_integer(corpus->train));
        put(entry, "validation", json_integer(corpus->validation));
        put(entry, "test", json_integer(corpus->test));
        json_t *labels = need(json_object());
        for (size_t k = 0; k < run->label_count && corpus->class_clips != NULL; k++) {
            if (corpus->allowed == NULL || corpus->allowed[k] != 0) {
                put_named(labels, run->labels[k], json_integer(corpus->class_clips[k]));
            }
        }
        put(entry, "labels", labels);
        append(array, entry);
    }
    return array;
}

static json_t *borrowed(json_t *value)
{
    return value != NULL ? json_incref(value) : json_null();
}

static json_t *training(const report_curves *curves)
{
    if (curves == NULL) {
        return json_null();
    }
    json_t *object = need(json_object());
    put(object, "epochs", json_integer((json_int_t)curves->epochs));
    put(object, "best_epoch",
        curves->best_epoch > 0 ? json_integer(curves->best_epoch) : json_null());
    return object;
}

static void put_run(json_t *root, const run_report *run)
{
    put(root, "format", json_string("ser-report"));
    put(root, "version", json_integer(FORMAT_VERSION));
    put(root, "name", text(report_name(run)));
    put(root, "protocol", text(report_protocol(run, NULL)));
    put(root, "speaker_independent", json_boolean(run->speaker_independent));
    put(root, "warning", text(run->speaker_independent ? NULL : report_dependent_warning));
    put(root, "command", text(run->command));
    put(root, "seed", seed(run->seed));
    put(root, "licence", text(run->licence));
    put(root, "base_model", text(run->base_model));
    put(root, "languages", strings(run->languages, run->language_count));
    put(root, "labels", strings(run->labels, run->label_count));
    put(root, "parameters", run->parameters > 0 ? json_integer(run->parameters) : json_null());
    put(root, "temperature", run->temperature > 0.0 ? real(run->temperature) : json_null());
    put(root, "corpora", corpora(run));
    put(root, "data", borrowed(run->data));
    put(root, "config", borrowed(run->config));
    put(root, "training", training(run->curves));
    json_t *times = need(json_object());
    for (size_t i = 0; i < run->time_count; i++) {
        put_named(times, run->times[i].name, real(run->times[i].seconds));
    }
    put(root, "seconds", times);
    json_t *versions = need(json_object());
    for (size_t i = 0; i < run->version_count; i++) {
        put_named(versions, run->versions[i].name, text(run->versions[i].text));
    }
    put(root, "versions", versions);
}

void report_put_json(FILE *f, const run_report *run)
{
    json_t *root = need(json_object());
    put_run(root, run);
    put(root, "parts", parts(run, run->parts, run->part_count));
    put(root, "folds", parts(run, run->folds, run->fold_count));
    put(root, "fold_spread", run->fold_count > 0 ? fold_spread(run) : json_null());
    if (json_dumpf(root, f, JSON_INDENT(2) | JSON_REAL_PRECISION(REAL_DIGITS)) != 0) {
        (void)need(NULL); /* the stream is in memory */
    }
    putc('\n', f);
    json_decref(root);
}
