/* SPDX-License-Identifier: MIT */
/* Results for a person: bars, one block per file, one line per window. */
#include "output.h"

#include <math.h>
#include <stdlib.h>

#include "text.h"

enum { BAR_LIMIT = 40, SEGMENT_BAR_LIMIT = 20, LEVELS_LIMIT = 100, SEVERAL_TOP = 3 };

static const char bold[] = "\033[1m";
static const char dim[] = "\033[2m";
static const char plain[] = "\033[0m";

static const char *style(const output *o, const char *sequence)
{
    return o->setup.screen.color ? sequence : "";
}

static int label_columns(const output *o)
{
    int widest = 0;
    for (size_t i = 0; i < o->setup.label_count; i++) {
        int columns = text_columns(o->names[i]);
        widest = columns > widest ? columns : widest;
    }
    return widest;
}

/* What is left of the line for a bar when `used` columns are taken. */
static int bar_columns(const output *o, int used, int limit)
{
    int left = o->setup.screen.columns - 1 - used;
    return left < 4 ? 4 : left > limit ? limit : left;
}

void output_text_time(char text[32], double seconds)
{
    long long hundredths = llround(seconds * 100.0);
    long long minutes = hundredths / 6000;
    if (minutes >= 60) {
        snprintf(text, 32, "%lld:%02lld:%02lld.%02lld", minutes / 60, minutes % 60,
                 hundredths / 100 % 60, hundredths % 100);
    } else {
        snprintf(text, 32, "%lld:%02lld.%02lld", minutes, hundredths / 100 % 60, hundredths % 100);
    }
}

void output_text_bar(const output *o, size_t label, double score, int bar, bool first)
{
    FILE *f = o->sink.stream;
    int name_columns = label_columns(o);
    char blocks[3 * BAR_LIMIT + 1];
    terminal_bar(&o->setup.screen, score, bar, blocks);
    fprintf(f, "%s%s%*s  %s %5.1f %%%s", first ? style(o, bold) : "", o->names[label],
            name_columns - text_columns(o->names[label]), "", blocks, 100.0 * score,
            first ? style(o, plain) : "");
}

int output_text_bar_extra(const output *o)
{
    return label_columns(o) + 10; /* two blanks, " 100.0 %" */
}

static size_t shown(const output *o, size_t otherwise)
{
    size_t top = o->setup.top > 0 ? o->setup.top : otherwise;
    return top < o->setup.label_count ? top : o->setup.label_count;
}

static void put_heading(const output *o, const output_row *row)
{
    FILE *f = o->sink.stream;
    char *name = text_printable(row->file);
    fprintf(f, "%s%s%s", style(o, bold), name, style(o, plain));
    if (!o->setup.segments) {
        char length[32];
        output_text_time(length, row->duration);
        fprintf(f, "  %s%s%s", style(o, dim), length, style(o, plain));
    }
    fprintf(f, "\n");
    free(name);
}

static void put_clip(const output *o, const output_row *row)
{
    int bar = bar_columns(o, output_text_bar_extra(o) + 2, BAR_LIMIT);
    size_t count = shown(o, o->setup.several ? SEVERAL_TOP : o->setup.label_count);
    for (size_t i = 0; i < count; i++) {
        fprintf(o->sink.stream, "  ");
        output_text_bar(o, o->order[i], (double)row->scores[o->order[i]], bar, i == 0);
        fprintf(o->sink.stream, "\n");
    }
}

static void put_segment(const output *o, const output_row *row)
{
    FILE *f = o->sink.stream;
    char start[32];
    char end[32];
    char span[72];
    output_text_time(start, row->start);
    output_text_time(end, row->end);
    int used = snprintf(span, sizeof span, "  %8s - %8s  ", start, end);
    fprintf(f, "%s", span);
    if (row->scores == NULL) {
        fprintf(f, "-\n");
        return;
    }
    output_text_bar(o, o->order[0], (double)row->scores[o->order[0]],
                    bar_columns(o, used + output_text_bar_extra(o) + 2, SEGMENT_BAR_LIMIT), false);
    for (size_t i = 1; i < shown(o, 1); i++) {
        size_t label = o->order[i];
        fprintf(f, ", %s %.1f %%", o->names[label], 100.0 * (double)row->scores[label]);
    }
    fprintf(f, "\n");
}

/* Weight per column of the line, the highest one full. */
void output_text_attention(const output *o, const output_row *row)
{
    FILE *f = o->sink.stream;
    if (row->attention == NULL) {
        fprintf(f, "  attention: none for the mean of several windows; use --window\n");
        return;
    }
    double sums[LEVELS_LIMIT] = {0};
    size_t columns = (size_t)bar_columns(o, 36, LEVELS_LIMIT);
    columns = columns < row->attention_count ? columns : row->attention_count;
    double highest = 0.0;
    for (size_t i = 0; i < row->attention_count; i++) {
        size_t column = i * columns / row->attention_count;
        sums[column] += (double)row->attention[i];
        highest = fmax(highest, sums[column]);
    }
    char from[32];
    char to[32];
    output_text_time(from, row->attention_start);
    output_text_time(to, row->attention_start +
                             row->attention_step * (double)(row->attention_count - 1));
    fprintf(f, "  attention  %s |", from);
    for (size_t i = 0; i < columns; i++) {
        char level[4];
        terminal_level(&o->setup.screen, highest > 0.0 ? sums[i] / highest : 0.0, level);
        fprintf(f, "%s", level);
    }
    fprintf(f, "| %s\n", to);
}

static void put_notes(const output *o, int32_t flags)
{
    for (int bit = 0; bit < OUTPUT_FLAG_BITS; bit++) {
        if ((flags >> bit & 1) != 0 && output_flag_name(bit) != NULL) {
            fprintf(o->sink.stream, "  %s%s: %s%s\n", style(o, dim), output_flag_name(bit),
                    output_flag_text(bit), style(o, plain));
        }
    }
}

static void put_row(output *o, const output_row *row)
{
    if (o->rows == 0) {
        if (o->blocks > 0) {
            fprintf(o->sink.stream, "\n");
        }
        put_heading(o, row);
    }
    if (o->setup.segments) {
        put_segment(o, row);
    } else {
        put_clip(o, row);
    }
    if (o->setup.attention && row->scores != NULL) {
        output_text_attention(o, row);
    }
    put_notes(o, row->flags);
}

const output_writer output_text = {.row = put_row};
