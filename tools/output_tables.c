/* SPDX-License-Identifier: MIT */
/* Results for spreadsheets, scoring tools and annotation programs. */
#include "output.h"

#include <stdlib.h>
#include <string.h>

#include "text.h"

/* RFC 4180: commas between fields, CR LF behind lines, quotes where a field needs them. */
static void put_field(FILE *f, const char *text)
{
    if (text[strcspn(text, ",\"\r\n ")] == '\0') {
        fputs(text, f);
        return;
    }
    putc('"', f);
    for (; *text != '\0'; text++) {
        fputs(*text == '"' ? "\"" : "", f);
        putc(*text, f);
    }
    putc('"', f);
}

static void csv_begin(output *o)
{
    FILE *f = o->sink.stream;
    fputs("file,start,end,label,score,duration,sampling_rate,channels,flags", f);
    for (size_t i = 0; i < o->setup.label_count; i++) {
        putc(',', f);
        put_field(f, o->names[i]);
    }
    fputs("\r\n", f);
}

static void csv_row(output *o, const output_row *row)
{
    FILE *f = o->sink.stream;
    char number[TEXT_NUMBER_SIZE];
    char *file = text_printable(row->file);
    put_field(f, file);
    free(file);
    fprintf(f, ",%s", text_double(number, row->start));
    fprintf(f, ",%s,", text_double(number, row->end));
    put_field(f, o->names[o->order[0]]);
    fprintf(f, ",%s", text_float(number, row->scores[o->order[0]]));
    fprintf(f, ",%s,%d,%d,", text_double(number, row->duration), (int)row->sampling_rate,
            (int)row->channels);
    bool first = true;
    for (int bit = 0; bit < OUTPUT_FLAG_BITS; bit++) {
        if ((row->flags >> bit & 1) != 0 && output_flag_name(bit) != NULL) {
            fprintf(f, "%s%s", first ? "" : "|", output_flag_name(bit));
            first = false;
        }
    }
    for (size_t i = 0; i < o->setup.label_count; i++) {
        fprintf(f, ",%s", text_float(number, row->scores[i]));
    }
    fputs("\r\n", f);
}

/* A field of a format that separates by blanks. */
static void put_word(FILE *f, const char *text)
{
    fputs(*text == '\0' ? "<NA>" : "", f);
    for (; *text != '\0'; text++) {
        putc(*text == ' ' ? '_' : *text, f);
    }
}

/* Rich Transcription Time Marked: type file channel onset duration orthography subtype name score
 * look-ahead. */
static void rttm_row(output *o, const output_row *row)
{
    FILE *f = o->sink.stream;
    char *stem = output_stem(row->file);
    char *file = text_printable(stem);
    fputs("SPEAKER ", f);
    put_word(f, file);
    fprintf(f, " %d %.3f %.3f <NA> <NA> ", o->setup.channel >= 0 ? (int)o->setup.channel + 1 : 1,
            row->start, row->duration);
    put_word(f, o->names[o->order[0]]);
    fprintf(f, " %.6f <NA>\n", (double)row->scores[o->order[0]]);
    free(file);
    free(stem);
}

static void audacity_row(output *o, const output_row *row)
{
    fprintf(o->sink.stream, "%.6f\t%.6f\t%s\n", row->start, row->end, o->names[o->order[0]]);
}

/* A TextGrid starts with its count of intervals, so they are kept until the file is complete. */
static void textgrid_row(output *o, const output_row *row)
{
    if (o->rows == o->interval_capacity) {
        size_t capacity = o->rows > 0 ? 2 * o->rows : 64;
        output_interval *intervals = text_alloc(capacity, sizeof *intervals);
        if (o->rows > 0) {
            memcpy(intervals, o->intervals, o->rows * sizeof *intervals);
        }
        free(o->intervals);
        o->intervals = intervals;
        o->interval_capacity = capacity;
    }
    o->intervals[o->rows] =
        (output_interval){.start = row->start, .end = row->end, .label = o->order[0]};
}

/* Neighbours that overlap meet in the middle of what they share. */
static void tile(output_interval *intervals, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        double middle = 0.5 * (intervals[i - 1].end + intervals[i].start);
        intervals[i - 1].end = middle;
        intervals[i].start = middle;
    }
}

static void put_span(FILE *f, const char *indent, double start, double end)
{
    char number[TEXT_NUMBER_SIZE];
    fprintf(f, "%sxmin = %s\n", indent, text_double(number, start));
    fprintf(f, "%sxmax = %s\n", indent, text_double(number, end));
}

static void put_interval(FILE *f, size_t index, double start, double end, const char *label)
{
    fprintf(f, "        intervals [%zu]:\n", index);
    put_span(f, "            ", start, end);
    fputs("            text = \"", f);
    for (; *label != '\0'; label++) {
        fputs(*label == '"' ? "\"" : "", f);
        putc(*label, f);
    }
    fputs("\"\n", f);
}

/* Intervals must cover the tier from 0 on: what --offset skipped is an empty one. */
static void textgrid_end(output *o)
{
    FILE *f = o->sink.stream;
    output_interval *intervals = o->intervals;
    tile(intervals, o->rows);
    double end = intervals[o->rows - 1].end;
    size_t skipped = intervals[0].start > 0.0 ? 1 : 0;
    fputs("File type = \"ooTextFile\"\nObject class = \"TextGrid\"\n\n", f);
    put_span(f, "", 0.0, end);
    fputs("tiers? <exists>\nsize = 1\nitem []:\n    item [1]:\n        class = \"IntervalTier\"\n"
          "        name = \"emotion\"\n",
          f);
    put_span(f, "        ", 0.0, end);
    fprintf(f, "        intervals: size = %zu\n", o->rows + skipped);
    if (skipped > 0) {
        put_interval(f, 1, 0.0, intervals[0].start, "");
    }
    for (size_t i = 0; i < o->rows; i++) {
        put_interval(f, i + 1 + skipped, intervals[i].start, intervals[i].end,
                     o->names[intervals[i].label]);
    }
}

const output_writer output_csv = {.begin = csv_begin, .row = csv_row};
const output_writer output_rttm = {.row = rttm_row};
const output_writer output_audacity = {.suffix = ".txt", .row = audacity_row};
const output_writer output_textgrid = {
    .suffix = ".TextGrid", .row = textgrid_row, .file_end = textgrid_end};
