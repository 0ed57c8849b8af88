/* SPDX-License-Identifier: MIT */
/* Scores for a terminal. No number without the sentence that says how it came about. */
#include "metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "escape.h"
#include "text.h"

enum {
    NAME_COLUMNS = 28,   /* of the longest name */
    HEADING_COLUMNS = 6, /* of a predicted class over the confusion table */
    CONFUSION_LIMIT = 20 /* classes; a wider table helps nobody */
};

const char *metrics_percent(char buffer[METRICS_PERCENT_SIZE], double share)
{
    if (!isfinite(share)) {
        return "-";
    }
    snprintf(buffer, METRICS_PERCENT_SIZE, "%.1f %%", 100.0 * share);
    return buffer;
}

const char *metrics_unit_name(const metrics_result *result)
{
    return result->units == result->speakers ? "speakers"
           : result->speakers > 0            ? "speakers and single clips of unknown ones"
                                             : "clips, speakers unknown: too narrow";
}

/* A printable copy of name `i`, or its number from 1. */
static char *name_of(const char *const *names, size_t i)
{
    char number[24];
    if (names != NULL && names[i] != NULL) {
        return text_printable(names[i]);
    }
    snprintf(number, sizeof number, "%zu", i + 1);
    return text_copy(number);
}

static int widest(const char *const *names, size_t count, int least)
{
    for (size_t i = 0; i < count; i++) {
        char *name = name_of(names, i);
        int columns = escape_columns(name, strlen(name));
        least = columns > least ? columns : least;
        free(name);
    }
    return least < NAME_COLUMNS ? least : NAME_COLUMNS;
}

/* On the left or the right of `columns`, cut to them without an ellipsis. */
static void put_cell(FILE *f, const char *text, int columns, bool right)
{
    size_t end = strlen(text);
    while (escape_columns(text, end) > columns) {
        do {
            end--;
        } while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80);
    }
    int blank = columns - escape_columns(text, end);
    fprintf(f, "%*s", right ? blank : 0, "");
    fwrite(text, 1, end, f);
    fprintf(f, "%*s", right ? 0 : blank, "");
}

static void put_name(FILE *f, const char *const *names, size_t i, int columns)
{
    char *name = name_of(names, i);
    char *cut = escape_short(name, columns);
    put_cell(f, cut, columns, false);
    free(cut);
    free(name);
}

static void put_protocol(FILE *f, const metrics_names *names)
{
    const char *protocol = names->protocol != NULL ? names->protocol : "protocol not stated";
    char *text = text_printable(protocol);
    size_t length = strlen(text);
    fprintf(f, "%s%s", text, length > 0 && strchr(".!?", text[length - 1]) != NULL ? "" : ".");
    free(text);
}

static void put_part(FILE *f, const metrics_names *names)
{
    if (names->part != NULL) {
        char *part = text_printable(names->part);
        fprintf(f, "%s: ", part);
        free(part);
    }
}

static void put_heading(FILE *f, const metrics_result *r, const metrics_names *names)
{
    put_protocol(f, names);
    putc('\n', f);
    put_part(f, names);
    fprintf(f, "%lld clip%s of ", (long long)r->clips, r->clips == 1 ? "" : "s");
    if (r->speakers > 0) {
        fprintf(f, "%zu speaker%s%s", r->speakers, r->speakers == 1 ? "" : "s",
                r->units > r->speakers ? " and of others who are not named" : "");
    } else {
        fputs("speakers who are not named", f);
    }
    fputs("\n\n", f);
}

static void put_interval(FILE *f, metrics_interval interval)
{
    if (isfinite(interval.low)) {
        fprintf(f, "  95 %% interval %.1f to %.1f", 100.0 * interval.low, 100.0 * interval.high);
    }
}

static void put_summary(FILE *f, const metrics_result *r)
{
    char number[METRICS_PERCENT_SIZE];
    fprintf(f, "  UAR          %7s", metrics_percent(number, r->uar));
    put_interval(f, r->uar_interval);
    if (r->replicates > 0) {
        fprintf(f, "  (bootstrap over %zu %s)", r->units, metrics_unit_name(r));
    }
    fprintf(f, "\n  accuracy     %7s", metrics_percent(number, r->accuracy));
    put_interval(f, r->accuracy_interval);
    fprintf(f, "\n  macro F1     %7s\n", metrics_percent(number, r->macro_f1));
    fprintf(f, "  weighted F1  %7s\n", metrics_percent(number, r->weighted_f1));
    if (r->clips > 0) {
        fprintf(f, "  calibration  %7s  expected error (ECE)", metrics_percent(number, r->ece));
        fprintf(f, ", mean confidence %s", metrics_percent(number, r->confidence));
        fprintf(f, ", log loss %.3f, Brier score %.3f\n", r->nll, r->brier);
    }
}

static void put_classes(FILE *f, const metrics_result *r, const metrics_names *names)
{
    char number[METRICS_PERCENT_SIZE];
    int columns = widest(names->labels, r->classes, 5);
    fputs("\n  ", f);
    put_cell(f, "class", columns, false);
    fputs("   recall  precision       F1    clips\n", f);
    for (size_t k = 0; k < r->classes; k++) {
        const metrics_class *c = &r->per_class[k];
        if (c->allowed) {
            fputs("  ", f);
            put_name(f, names->labels, k, columns);
            fprintf(f, "  %7s", metrics_percent(number, c->recall));
            fprintf(f, "    %7s", metrics_percent(number, c->precision));
            fprintf(f, "  %7s  %7lld\n", metrics_percent(number, c->f1), (long long)c->support);
        }
    }
}

static void put_confusion(FILE *f, const metrics_result *r, const metrics_names *names)
{
    int columns = widest(names->labels, r->classes, 16);
    size_t shown = 0;
    for (size_t k = 0; k < r->classes; k++) {
        shown += r->per_class[k].allowed;
    }
    if (shown == 0 || shown > CONFUSION_LIMIT) {
        return;
    }
    fputs("\n  ", f);
    put_cell(f, "true \\ predicted", columns, false);
    for (size_t k = 0; k < r->classes; k++) {
        if (r->per_class[k].allowed) {
            char *name = name_of(names->labels, k);
            putc(' ', f);
            put_cell(f, name, HEADING_COLUMNS, true);
            free(name);
        }
    }
    for (size_t k = 0; k < r->classes; k++) {
        if (!r->per_class[k].allowed) {
            continue;
        }
        fputs("\n  ", f);
        put_name(f, names->labels, k, columns);
        for (size_t j = 0; j < r->classes; j++) {
            if (r->per_class[j].allowed) {
                fprintf(f, " %*lld", HEADING_COLUMNS, (long long)r->confusion[k * r->classes + j]);
            }
        }
    }
    putc('\n', f);
}

/* UAR with its interval, accuracy and macro F1 on one line. */
static void put_short(FILE *f, const metrics_result *r)
{
    char number[METRICS_PERCENT_SIZE];
    fprintf(f, "UAR %s", metrics_percent(number, r->uar));
    if (isfinite(r->uar_interval.low)) {
        fprintf(f, " [%.1f, %.1f]", 100.0 * r->uar_interval.low, 100.0 * r->uar_interval.high);
    }
    fprintf(f, ", accuracy %s", metrics_percent(number, r->accuracy));
    fprintf(f, ", macro F1 %s, %lld clip%s", metrics_percent(number, r->macro_f1),
            (long long)r->clips, r->clips == 1 ? "" : "s");
}

static void put_corpora(FILE *f, const metrics_result *r, const metrics_names *names)
{
    int columns = widest(names->corpora, r->corpus_count, 0);
    for (size_t c = 0; c < r->corpus_count; c++) {
        fputs(c == 0 ? "\n  " : "  ", f);
        put_name(f, names->corpora, c, columns);
        fputs("  ", f);
        put_short(f, &r->per_corpus[c]);
        putc('\n', f);
    }
}

void metrics_print(FILE *f, const metrics_result *result, const metrics_names *names)
{
    escape_locale numbers;
    escape_locale_enter(&numbers);
    put_heading(f, result, names);
    put_summary(f, result);
    put_classes(f, result, names);
    put_confusion(f, result, names);
    put_corpora(f, result, names);
    escape_locale_leave(&numbers);
}

void metrics_print_groups(FILE *f, const metrics_result *result, const metrics_names *names)
{
    char number[METRICS_PERCENT_SIZE];
    escape_locale numbers;
    escape_locale_enter(&numbers);
    int columns = widest(names->groups, result->group_count, 7);
    int corpus_columns = widest(names->corpora, result->corpus_count, 0);
    put_heading(f, result, names);
    fputs("  ", f);
    put_cell(f, "speaker", columns, false);
    fputs("      UAR  accuracy    clips\n", f);
    for (size_t g = 0; g < result->group_count; g++) {
        const metrics_group *group = &result->per_group[g];
        if (group->clips == 0) {
            continue;
        }
        fputs("  ", f);
        put_name(f, names->groups, g, columns);
        fprintf(f, "  %7s", metrics_percent(number, group->uar));
        fprintf(f, "   %7s  %7lld", metrics_percent(number, group->accuracy),
                (long long)group->clips);
        if (corpus_columns > 0) {
            fputs("  ", f);
            put_name(f, names->corpora, (size_t)group->corpus, corpus_columns);
        }
        putc('\n', f);
    }
    escape_locale_leave(&numbers);
}

void metrics_print_line(FILE *f, const metrics_result *result, const metrics_names *names)
{
    escape_locale numbers;
    escape_locale_enter(&numbers);
    put_protocol(f, names);
    putc(' ', f);
    put_part(f, names);
    put_short(f, result);
    putc('\n', f);
    escape_locale_leave(&numbers);
}
