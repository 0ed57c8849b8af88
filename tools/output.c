/* SPDX-License-Identifier: MIT */
#include "output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ser/audio.h>
#include <ser/predict.h>
#include <ser/stream.h>

#include "cli.h"
#include "message.h"
#include "text.h"

const char *const output_format_names[] = {"text",     "jsonl",    "csv", "rttm",
                                           "audacity", "textgrid", NULL};

static const output_writer *const writers[] = {&output_text, &output_jsonl,    &output_csv,
                                               &output_rttm, &output_audacity, &output_textgrid};

static const struct {
    int32_t flag;
    const char *name;
    const char *text;
} flags[] = {
    {SER_AUDIO_TRUNCATED, "truncated", "the audio is damaged or ends early; the rest was used"},
    {SER_AUDIO_SILENT, "silent", "nothing but silence; the answer means nothing"},
    {SER_AUDIO_CLIPPED, "clipped", "more than 1 % of the samples are clipped"},
    {SER_AUDIO_DC_OFFSET, "dc_offset", "strong DC offset"},
    {SER_AUDIO_NONFINITE, "nonfinite", "NaN or infinite samples were taken as 0"},
    {SER_AUDIO_CANCELLED, "cancelled", "the channels cancel each other; try --channel 0"},
    {SER_AUDIO_SHORT, "short", "too short for the model; padded with silence"},
    {SER_PREDICTION_WINDOWED, "windowed",
     "longer than one piece of the model: a mean over windows; see --window"},
    {SER_STREAM_GATED, "gated", "quieter than --gate: not computed"},
};

const char *output_flag_name(int bit)
{
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        if (flags[i].flag == (int32_t)1 << bit) {
            return flags[i].name;
        }
    }
    return NULL;
}

const char *output_flag_text(int bit)
{
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        if (flags[i].flag == (int32_t)1 << bit) {
            return flags[i].text;
        }
    }
    return NULL;
}

char *output_stem(const char *file)
{
    const char *slash = strrchr(file, '/');
    char *stem = text_copy(slash != NULL ? slash + 1 : file);
    char *dot = strrchr(stem, '.');
    if (dot != NULL && dot != stem) {
        *dot = '\0';
    }
    return stem;
}

static bool is_directory(const char *path)
{
    struct stat facts;
    size_t length = strlen(path);
    return (length > 0 && path[length - 1] == '/') ||
           (stat(path, &facts) == 0 && S_ISDIR(facts.st_mode));
}

static char *file_in(const char *directory, const char *file, const char *suffix)
{
    char *stem = output_stem(strcmp(file, "-") == 0 ? "stdin" : file);
    size_t length = strlen(directory);
    const char *slash = length > 0 && directory[length - 1] == '/' ? "" : "/";
    char *folder = text_join(directory, slash, stem);
    char *path = text_join(folder, suffix, "");
    free(folder);
    free(stem);
    return path;
}

static int compare_names(const void *a, const void *b)
{
    const char *const *x = a;
    const char *const *y = b;
    return strcmp(*x, *y);
}

/* Two inputs must not end in one output. */
static int check_names(const char *directory, const char *suffix, const file_list *files)
{
    char **names = text_alloc(files->count, sizeof *names);
    for (size_t i = 0; i < files->count; i++) {
        names[i] = file_in(directory, files->entries[i].path, suffix);
    }
    qsort(names, files->count, sizeof *names, compare_names);
    int code = CLI_CONTINUE;
    for (size_t i = 1; i < files->count && code == CLI_CONTINUE; i++) {
        if (strcmp(names[i - 1], names[i]) == 0) {
            code = message_usage("two inputs would both be written to %s; run them one by one",
                                 names[i]);
        }
    }
    for (size_t i = 0; i < files->count; i++) {
        free(names[i]);
    }
    free(names);
    return code;
}

int output_check(int32_t format, const char *path, bool attention, const file_list *files)
{
    const char *suffix = writers[format]->suffix;
    const char *name = output_format_names[format];
    bool directory = path != NULL && is_directory(path);
    if (attention && format != OUTPUT_TEXT && format != OUTPUT_JSONL) {
        return message_usage("--attention goes with --format text or jsonl, not %s", name);
    }
    if (directory && suffix == NULL) {
        return message_usage("--output: %s is a directory; --format %s writes one file", path,
                             name);
    }
    if (suffix != NULL && files->count > 1 && !directory) {
        return message_usage(
            "--format %s holds one input, not %zu; give --output DIRECTORY/ for one "
            "file each",
            name, files->count);
    }
    return directory ? check_names(path, suffix, files) : CLI_CONTINUE;
}

static bool one_file_each(const output *o)
{
    return o->writer->suffix != NULL && o->setup.path != NULL && is_directory(o->setup.path);
}

static int open_sink(output *o, const char *path)
{
    int code = sink_open(&o->sink, path);
    o->sink_open = code == 0;
    if (code == 0 && o->writer->begin != NULL) {
        o->writer->begin(o);
    }
    return code;
}

int output_open(output *o, const output_setup *setup)
{
    *o = (output){.setup = *setup, .writer = writers[setup->format], .sink = {.fd = -1}};
    o->order = text_alloc(setup->label_count, sizeof *o->order);
    o->names = text_alloc(setup->label_count, sizeof *o->names);
    for (size_t i = 0; i < setup->label_count; i++) {
        o->names[i] = text_printable(setup->labels[i]);
    }
    if (!one_file_each(o)) {
        return open_sink(o, setup->path);
    }
    if (mkdir(setup->path, 0777) != 0 && errno != EEXIST) {
        message_error("%s: cannot make this directory: %s", setup->path, strerror(errno));
        return MESSAGE_EXIT_IO;
    }
    return 0;
}

void output_sort(output *o, const float *scores)
{
    for (size_t i = 0; i < o->setup.label_count; i++) {
        size_t place = i;
        for (; place > 0 && scores[o->order[place - 1]] < scores[i]; place--) {
            o->order[place] = o->order[place - 1];
        }
        o->order[place] = i;
    }
}

int output_put_row(output *o, const output_row *row)
{
    if (!o->sink_open) {
        char *path = file_in(o->setup.path, row->file, o->writer->suffix);
        int code = open_sink(o, path);
        free(path);
        if (code != 0) {
            return code;
        }
    }
    if (row->scores != NULL) {
        output_sort(o, row->scores);
    }
    o->writer->row(o, row);
    o->rows++;
    return 0;
}

/* What is known of a file that failed half-way is dropped where the file has its own output. */
void output_put_failure(output *o, const char *file, int status, const char *message)
{
    o->blocks += o->rows > 0;
    o->rows = 0;
    if (!one_file_each(o)) {
        if (o->writer->failure != NULL) {
            o->writer->failure(o, file, status, message);
        }
    } else if (o->sink_open) {
        sink_discard(&o->sink);
        o->sink_open = false;
    }
}

int output_end_file(output *o)
{
    if (o->writer->file_end != NULL && o->rows > 0) {
        o->writer->file_end(o);
    }
    o->rows = 0;
    o->blocks++;
    return one_file_each(o) && o->sink_open ? output_commit(o) : 0;
}

int output_flush(output *o)
{
    return o->sink_open ? sink_flush(&o->sink) : 0;
}

int output_commit(output *o)
{
    if (!o->sink_open) {
        return 0;
    }
    int code = sink_commit(&o->sink);
    sink_discard(&o->sink);
    o->sink_open = false;
    return code;
}

void output_close(output *o)
{
    if (o->sink_open) {
        sink_discard(&o->sink);
    }
    for (size_t i = 0; o->names != NULL && i < o->setup.label_count; i++) {
        free(o->names[i]);
    }
    free(o->names);
    free(o->order);
    free(o->intervals);
    *o = (output){.sink = {.fd = -1}};
}
