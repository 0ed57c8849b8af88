/* SPDX-License-Identifier: MIT */
/* Results in the formats of ser-predict. */
#ifndef SER_TOOLS_OUTPUT_H
#define SER_TOOLS_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "files.h"
#include "sink.h"
#include "terminal.h"

/* Formats, in the order of output_format_names. */
enum { OUTPUT_TEXT, OUTPUT_JSONL, OUTPUT_CSV, OUTPUT_RTTM, OUTPUT_AUDACITY, OUTPUT_TEXTGRID };
extern const char *const output_format_names[];

/* What holds for all rows. Borrowed while the output is open. */
typedef struct output_setup {
    int32_t format;
    const char *path;          /* --output; NULL: standard output */
    const char *const *labels; /* [label_count], the classes of the answer */
    size_t label_count;
    size_t top; /* classes to show; 0: as many as suit the format */
    bool attention;
    bool segments;   /* one row per window */
    bool several;    /* more than one input */
    bool live;       /* rows are windows of a source that goes on: JSON says which event it is */
    int32_t channel; /* --channel, or -1 */
    const char *device;
    const char *model;
    terminal screen; /* of standard output */
} output_setup;

/* One clip or window. Times are seconds from the start of the file. */
typedef struct output_row {
    const char *file;
    double start;
    double end;
    double duration;
    const float *scores; /* [label_count], sum 1; NULL: not computed, as `flags` say */
    int32_t flags;       /* SER_AUDIO_* and SER_PREDICTION_* */
    int32_t sampling_rate;
    int32_t channels;
    const float *attention; /* [attention_count] or NULL */
    size_t attention_count;
    double attention_start;
    double attention_step;
} output_row;

typedef struct output_interval {
    double start;
    double end;
    size_t label;
} output_interval;

struct output_writer;

/* Open results; the members are for the writers. */
typedef struct output {
    output_setup setup;
    const struct output_writer *writer;
    sink sink;
    bool sink_open;
    char **names;  /* the labels, safe to print */
    size_t *order; /* label numbers of the current row, best first */
    size_t rows;   /* of the current file */
    size_t blocks; /* files written before it */
    output_interval *intervals;
    size_t interval_capacity;
} output;

/* One format. NULL members do nothing. */
typedef struct output_writer {
    const char *suffix; /* of the files where every input has its own; NULL: all share one */
    void (*begin)(output *o);
    void (*row)(output *o, const output_row *row);
    void (*failure)(output *o, const char *file, int status, const char *message);
    void (*file_end)(output *o);
} output_writer;

extern const output_writer output_text;
extern const output_writer output_jsonl;
extern const output_writer output_csv;
extern const output_writer output_rttm;
extern const output_writer output_audacity;
extern const output_writer output_textgrid;

/* Whether the options and inputs can be written in this format; CLI_CONTINUE or an exit code. */
int output_check(int32_t format, const char *path, bool attention, const file_list *files);

/* The functions below answer 0 or an exit code, after a message where one is due. */
int output_open(output *o, const output_setup *setup);
int output_put_row(output *o, const output_row *row);
void output_put_failure(output *o, const char *file, int status, const char *message);
/* After the last row of a file. */
int output_end_file(output *o);
int output_flush(output *o);
int output_commit(output *o);
/* Free everything; results that were not committed to a file are gone. */
void output_close(output *o);

/* For the writers: name of flag bit `bit`, NULL if it has none; a sentence about it for people. */
const char *output_flag_name(int bit);
const char *output_flag_text(int bit);
enum { OUTPUT_FLAG_BITS = 31 };

/* Set o->order by `scores`: best first, equal ones in the model's order. */
void output_sort(output *o, const float *scores);

/* Parts of the text for other displays; they print to o->sink.stream. `bar` is the columns of a
 * bar, to which output_text_bar() adds those of output_text_bar_extra(). */
void output_text_bar(const output *o, size_t label, double score, int bar, bool first);
int output_text_bar_extra(const output *o);
void output_text_attention(const output *o, const output_row *row);
void output_text_time(char text[32], double seconds);

/* The file's name without directory and extension, for formats that know no paths; caller frees. */
char *output_stem(const char *file);

#endif
