/* SPDX-License-Identifier: MIT */
#include "datareport.h"

#include <stdlib.h>
#include <string.h>

#include "text.h"

static void put_name(FILE *f, const char *name, int width)
{
    char *safe = text_printable(name);
    int columns = text_columns(safe);
    fprintf(f, "  %s%*s", safe, columns < width ? width - columns : 0, "");
    free(safe);
}

static void print_corpora(const data_report *r, const data_facts *facts, FILE *f)
{
    const dataset *ds = r->data;
    fprintf(f, "\n  %-16s %8s %8s %9s\n", "corpus", "clips", "hours", "speakers");
    for (size_t i = 0; i < ds->corpus_count; i++) {
        put_name(f, ds->corpora[i].name, 16);
        fprintf(f, " %8zu %8.2f %9zu\n", facts->corpora[i].clips, facts->corpora[i].seconds / 3600,
                facts->corpus_speakers[i]);
    }
}

static void print_group(const data_report *r, const data_group *g, FILE *f)
{
    fprintf(f, " %8zu", g->clips);
    for (int part = DATASET_TRAIN; r->fold != NULL && part < DATASET_PARTS; part++) {
        fprintf(f, " %10zu", g->parts[part]);
    }
    if (r->fold != NULL) {
        fprintf(f, " %10zu", g->parts[DATASET_UNUSED]);
    }
    putc('\n', f);
}

static void print_labels(const data_report *r, const data_facts *facts, FILE *f)
{
    const dataset *ds = r->data;
    fprintf(f, "\n  %-16s %8s", "label", "clips");
    if (r->fold != NULL) {
        fprintf(f, " %10s %10s %10s %10s", "train", "validation", "test", "unused");
    }
    putc('\n', f);
    for (size_t i = 0; i < ds->label_count; i++) {
        put_name(f, ds->labels[i], 16);
        print_group(r, &facts->labels[i], f);
    }
    put_name(f, "all", 16);
    print_group(r, &facts->all, f);
}

static void print_speakers(const data_report *r, const data_facts *facts, FILE *f)
{
    size_t fewest = SIZE_MAX;
    size_t most = 0;
    size_t count = 0;
    for (size_t i = 0; i < r->data->speaker_count; i++) {
        size_t clips = facts->speakers[i].clips;
        if (clips > 0) {
            count++;
            fewest = clips < fewest ? clips : fewest;
            most = clips > most ? clips : most;
        }
    }
    fprintf(f, "\n  %zu speakers", count);
    if (count > 0) {
        fprintf(f, " with %zu to %zu clips", fewest, most);
    }
    if (facts->unknown.clips > 0) {
        fprintf(f, ", %zu clips without a speaker", facts->unknown.clips);
    }
    putc('\n', f);
}

static void print_flags(const data_report *r, const data_facts *facts, FILE *f)
{
    for (size_t bit = 0; bit < DATA_FLAGS; bit++) {
        if (facts->flags[bit] == 0) {
            continue;
        }
        fprintf(f, "  %zu clips %s:", facts->flags[bit], data_flag_text(bit));
        for (size_t i = 0; i < facts->flags[bit] && i < DATA_EXAMPLES; i++) {
            char *path = text_printable(r->data->clips[facts->flag_examples[bit][i]].path);
            fprintf(f, " %s", path);
            free(path);
        }
        fprintf(f, "%s\n", facts->flags[bit] > DATA_EXAMPLES ? " ..." : "");
    }
}

static void print_audio(const data_report *r, const data_facts *facts, FILE *f)
{
    const double *d = facts->durations;
    const double *l = facts->levels;
    fprintf(f, "  %.2f hours; seconds per clip %.2f to %.2f, median %.2f, 90 %% in %.2f to %.2f\n",
            facts->all.seconds / 3600, d[0], d[4], d[2], d[1], d[3]);
    fprintf(f, "  level (RMS) %.0f to %.0f dBFS, median %.0f\n  sampling rates:", l[0], l[4], l[2]);
    for (size_t i = 0; i < facts->rate_count; i++) {
        fprintf(f, "%s %d Hz (%zu)", i > 0 ? "," : "", (int)facts->rates[i], facts->rate_clips[i]);
    }
    if (facts->other_rates > 0) {
        fprintf(f, ", others (%zu)", facts->other_rates);
    }
    fprintf(f, "; mono %zu, stereo or more %zu\n", facts->mono, facts->stereo);
    if (facts->unreadable > 0) {
        fprintf(f, "  %zu clips cannot be decoded\n", facts->unreadable);
    }
    if (facts->duplicates > 0) {
        fprintf(f, "  %zu clips have the samples of an earlier clip\n", facts->duplicates);
    }
    print_flags(r, facts, f);
}

static void print_leaks(const data_report *r, FILE *f)
{
    for (int kind = 0; kind < LEAK_KINDS && r->fold != NULL; kind++) {
        const leak_finding *finding = &r->leaks->findings[kind];
        if (finding->count > 0) {
            char *text = leaks_describe(r->leaks, (leak_kind)kind, r->data, r->fold->parts);
            char *safe = text_printable(text);
            fprintf(f, "  %s%s\n", finding->refusing ? "LEAK: " : "", safe);
            free(safe);
            free(text);
        }
    }
    if (r->leaks->refusing == 0) {
        fprintf(f, "  no leak found between the parts%s\n",
                r->leaks->audio_checked ? "" : " (audio was not compared)");
    }
}

void data_report_print(const data_report *r, FILE *f)
{
    data_facts facts;
    data_facts_compute(r, &facts);
    const dataset *ds = r->data;
    fprintf(f, "Data: %zu clips, %zu labels", ds->count, ds->label_count);
    if (ds->skipped_count + ds->dropped > 0) {
        fprintf(f, "; left out: %zu unusable, %zu dropped by label", ds->skipped_count,
                ds->dropped);
    }
    putc('\n', f);
    if (r->fold != NULL) {
        char *protocol = text_printable(r->fold->protocol);
        fprintf(f, "Split %s: %s\n", r->fold->name, protocol);
        free(protocol);
    }
    print_corpora(r, &facts, f);
    print_labels(r, &facts, f);
    print_speakers(r, &facts, f);
    if (r->audio != NULL) {
        print_audio(r, &facts, f);
    }
    if (r->leaks != NULL) {
        print_leaks(r, f);
    }
    data_facts_free(&facts);
}
