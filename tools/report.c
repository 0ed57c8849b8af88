/* SPDX-License-Identifier: MIT */
#include "report.h"

#include <math.h>
#include <stdlib.h>

#include "escape.h"
#include "report_parts.h"
#include "sink.h"
#include "text.h"

const char report_dependent_warning[] =
    "Speaker-dependent: voices of the training clips are tested as well. These numbers say little "
    "about other people and cannot be compared with speaker-independent ones.";

const char *report_name(const run_report *run)
{
    return run->name != NULL ? run->name : "speech emotion classifier";
}

const char *report_protocol(const run_report *run, const report_part *part)
{
    if (part != NULL && part->protocol != NULL) {
        return part->protocol;
    }
    return run->protocol != NULL ? run->protocol : "protocol not stated";
}

static char *numbered(const char *name, int32_t i)
{
    char number[16];
    snprintf(number, sizeof number, "%d", (int)i + 1);
    return text_copy(name != NULL ? name : i < 0 ? "" : number);
}

char *report_group_name(const run_report *run, int32_t i)
{
    bool named = run->groups != NULL && i >= 0 && (size_t)i < run->group_count;
    return numbered(named ? run->groups[i] : NULL, i);
}

char *report_corpus_name(const run_report *run, int32_t i)
{
    bool named = i >= 0 && (size_t)i < run->corpus_count;
    return numbered(named ? run->corpora[i].name : NULL, i);
}

double report_uar(const metrics_result *r)
{
    return r->uar;
}

double report_accuracy(const metrics_result *r)
{
    return r->accuracy;
}

double report_macro_f1(const metrics_result *r)
{
    return r->macro_f1;
}

report_spread report_fold_spread(const run_report *run, double (*score)(const metrics_result *))
{
    double sum = 0.0;
    double squares = 0.0;
    double count = 0.0;
    for (size_t i = 0; i < run->fold_count; i++) {
        double value = score(run->folds[i].metrics);
        sum += isfinite(value) ? value : 0.0;
        count += isfinite(value) ? 1.0 : 0.0;
    }
    double mean = sum / count; /* NaN without folds */
    for (size_t i = 0; i < run->fold_count; i++) {
        double value = score(run->folds[i].metrics);
        squares += isfinite(value) ? (value - mean) * (value - mean) : 0.0;
    }
    return (report_spread){mean, count > 1.0 ? sqrt(squares / (count - 1.0)) : NAN};
}

/* ---- CSV ---- */

void report_put_confusion_csv(FILE *f, const run_report *run)
{
    const metrics_result *r = run->parts[0].metrics;
    fputs("label", f);
    for (size_t k = 0; k < r->classes; k++) {
        putc(',', f);
        escape_csv(f, run->labels[k]);
    }
    for (size_t k = 0; k < r->classes; k++) {
        fputs("\r\n", f);
        escape_csv(f, run->labels[k]);
        for (size_t j = 0; j < r->classes; j++) {
            fprintf(f, ",%lld", (long long)r->confusion[k * r->classes + j]);
        }
    }
    fputs("\r\n", f);
}

static void put_owned_csv(FILE *f, char *text)
{
    escape_csv(f, text);
    putc(',', f);
    free(text);
}

static void put_clip(FILE *f, const run_report *run, const report_clip *clip)
{
    char number[TEXT_NUMBER_SIZE];
    const metrics_row *row = clip->row;
    put_owned_csv(f, text_copy(clip->path));
    put_owned_csv(f, report_corpus_name(run, row->corpus));
    put_owned_csv(f, text_copy(clip->fold != NULL ? clip->fold : ""));
    put_owned_csv(f, report_group_name(run, row->group));
    put_owned_csv(f, text_copy(run->labels[row->label]));
    escape_csv(f, run->labels[metrics_prediction(row, run->label_count)]);
    for (size_t k = 0; k < run->label_count; k++) {
        bool allowed = row->allowed == NULL || row->allowed[k] != 0;
        bool written = allowed && isfinite(row->probabilities[k]);
        fprintf(f, ",%s", written ? text_float(number, row->probabilities[k]) : "");
    }
    fputs("\r\n", f);
}

void report_put_heldout(FILE *f, const run_report *run)
{
    fputs("path,corpus,fold,speaker,label,predicted", f);
    for (size_t k = 0; k < run->label_count; k++) {
        putc(',', f);
        escape_csv(f, run->labels[k]);
    }
    fputs("\r\n", f);
    for (size_t i = 0; i < run->clip_count; i++) {
        put_clip(f, run, &run->clips[i]);
    }
}

/* ---- files ---- */

static int write_file(const char *directory, const char *name, const run_report *run,
                      void (*put)(FILE *, const run_report *))
{
    sink out;
    char *path = text_join(directory, "/", name);
    int code = sink_open(&out, path);
    free(path);
    if (code != 0) {
        return code;
    }
    escape_locale numbers;
    escape_locale_enter(&numbers);
    put(out.stream, run);
    escape_locale_leave(&numbers);
    code = sink_commit(&out);
    sink_discard(&out);
    return code;
}

int report_write_json(const char *directory, const run_report *run)
{
    return write_file(directory, "report.json", run, report_put_json);
}

int report_write_card(const char *directory, const run_report *run)
{
    return write_file(directory, "README.md", run, report_put_card);
}

int report_write_confusion_csv(const char *directory, const run_report *run)
{
    return run->part_count == 0
               ? 0
               : write_file(directory, "confusion.csv", run, report_put_confusion_csv);
}

int report_write_confusion_svg(const char *directory, const run_report *run)
{
    return run->part_count == 0
               ? 0
               : write_file(directory, "confusion.svg", run, report_put_confusion_svg);
}

int report_write_curves_svg(const char *directory, const run_report *run)
{
    return run->curves == NULL || run->curves->epochs == 0
               ? 0
               : write_file(directory, "curves.svg", run, report_put_curves_svg);
}

int report_write_heldout(const char *directory, const run_report *run)
{
    return run->clip_count == 0 ? 0 : write_file(directory, "heldout.csv", run, report_put_heldout);
}

int report_write(const char *directory, const run_report *run)
{
    static int (*const writers[])(const char *, const run_report *) = {
        report_write_heldout,    report_write_confusion_csv, report_write_confusion_svg,
        report_write_curves_svg, report_write_json,          report_write_card,
    };
    int code = 0;
    for (size_t i = 0; i < sizeof writers / sizeof writers[0] && code == 0; i++) {
        code = writers[i](directory, run);
    }
    return code;
}
