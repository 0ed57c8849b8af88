/* SPDX-License-Identifier: MIT */
#include "manifest.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "csvtable.h"
#include "message.h"
#include "sink.h"
#include "text.h"

typedef enum field_id {
    FIELD_PATH,
    FIELD_LABEL,
    FIELD_SPEAKER,
    FIELD_SPLIT,
    FIELD_START,
    FIELD_END,
    FIELD_TEXT,
    FIELD_REPETITION,
    FIELD_INTENSITY,
    FIELD_CORPUS,
    FIELDS
} field_id;

static const char *const field_names[FIELDS] = {"path",      "label", "speaker", "split",
                                                "start",     "end",   "text",    "repetition",
                                                "intensity", "corpus"};

enum {
    CORPUS_LIMIT = 256,
    LISTED_LIMIT = 10 /* lines about one kind of fault */
};

/* A label that is not known, and where it was first seen. */
typedef struct unknown_label {
    char *text;
    int32_t line;
    size_t rows;
} unknown_label;

typedef struct manifest {
    dataset *ds;
    const manifest_options *options;
    const char *file;
    csv_table table;
    size_t columns[FIELDS]; /* CSV_TABLE_NONE: not there */
    char *root;
    char *real_root; /* NULL without `confine` */
    char *corpus;    /* of rows that name none */
    size_t rows;
    size_t missing;
    const char *last_path;  /* was looked at already, ... */
    const char *last_fault; /* ... and found so; NULL: good */
    unknown_label unknown[LISTED_LIMIT];
    size_t unknown_count; /* of those in the list */
    size_t unknown_more;  /* rows with other unknown labels */
} manifest;

/* The field that a column holds, or FIELDS. */
static field_id field_of(const manifest *m, const char *name)
{
    const char *group = m->options->group_column;
    if (group != NULL && strcmp(name, group) == 0) {
        return FIELD_SPEAKER;
    }
    for (int i = 0; i < FIELDS; i++) {
        if (strcmp(name, field_names[i]) == 0 && (i != FIELD_SPEAKER || group == NULL)) {
            return (field_id)i;
        }
    }
    return FIELDS;
}

static void check_required(manifest *m)
{
    static const char delimiters[] = ",;\t";
    csv_table *t = &m->table;
    for (const char *d = delimiters; t->column_count == 1 && *d != '\0'; d++) {
        if (strchr(t->names[0], *d) != NULL) {
            csv_table_fail(t,
                           "one column only; the delimiter seems to be %s: say so with "
                           "--delimiter",
                           *d == '\t'  ? "a tab"
                           : *d == ';' ? "';'"
                                       : "','");
        }
    }
    for (int i = FIELD_PATH; i <= FIELD_LABEL; i++) {
        if (m->columns[i] == CSV_TABLE_NONE) {
            csv_table_fail(t, "the header has no column '%s' (path and label are needed)",
                           field_names[i]);
        }
    }
    if (m->options->group_column != NULL && m->columns[FIELD_SPEAKER] == CSV_TABLE_NONE) {
        csv_table_fail(t, "the header has no column '%s', which --group-column names",
                       m->options->group_column);
    }
}

static void on_header(csv_table *t, void *user)
{
    manifest *m = user;
    char *ignored = NULL;
    for (size_t i = 0; i < t->column_count; i++) {
        field_id id = field_of(m, t->names[i]);
        if (id != FIELDS) {
            m->columns[id] = i;
            continue;
        }
        char *longer =
            text_join(ignored != NULL ? ignored : "", ignored != NULL ? ", " : "", t->names[i]);
        free(ignored);
        ignored = longer;
    }
    t->raw_column = m->columns[FIELD_PATH];
    check_required(m);
    if (ignored != NULL && t->code == MESSAGE_EXIT_OK) {
        message_warning("%s: these columns are ignored: %s", m->file, ignored);
    }
    free(ignored);
}

/* The value of the current row; "" where the column is not there. */
static const char *value_of(const manifest *m, field_id id)
{
    return m->columns[id] != CSV_TABLE_NONE ? m->table.values[m->columns[id]] : "";
}

static void note_unknown(manifest *m, const char *label)
{
    for (size_t i = 0; i < m->unknown_count; i++) {
        if (strcmp(m->unknown[i].text, label) == 0) {
            m->unknown[i].rows++;
            return;
        }
    }
    if (m->unknown_count == LISTED_LIMIT) {
        m->unknown_more++;
        return;
    }
    m->unknown[m->unknown_count++] =
        (unknown_label){.text = text_copy(label), .line = (int32_t)m->table.row_line, .rows = 1};
}

static double seconds_of(manifest *m, field_id id)
{
    double seconds = 0.0;
    const char *text = value_of(m, id);
    if (text[0] == '\0') {
        return 0.0;
    }
    if (!text_parse_double(text, &seconds) || seconds < 0.0 || seconds > 1e9) {
        csv_table_fail(&m->table, "%s '%s': not a number of seconds from 0 to 1e9", field_names[id],
                       text);
    }
    return seconds;
}

static int8_t split_of(manifest *m)
{
    static const struct {
        const char *name;
        dataset_part part;
    } parts[] = {{"train", DATASET_TRAIN},    {"validation", DATASET_VALIDATION},
                 {"val", DATASET_VALIDATION}, {"dev", DATASET_VALIDATION},
                 {"test", DATASET_TEST},      {"unused", DATASET_UNUSED}};
    const char *text = value_of(m, FIELD_SPLIT);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (strcmp(parts[i].name, text) == 0) {
            return (int8_t)parts[i].part;
        }
    }
    if (text[0] != '\0') {
        csv_table_fail(&m->table, "split '%s': not train, validation (val, dev), test or unused",
                       text);
    }
    return DATASET_NO_SPLIT;
}

static int8_t intensity_of(manifest *m)
{
    static const struct {
        const char *name;
        dataset_intensity intensity;
    } names[] = {{"", DATASET_INTENSITY_UNKNOWN},      {"low", DATASET_INTENSITY_LOW},
                 {"normal", DATASET_INTENSITY_NORMAL}, {"medium", DATASET_INTENSITY_NORMAL},
                 {"strong", DATASET_INTENSITY_STRONG}, {"high", DATASET_INTENSITY_STRONG}};
    const char *text = value_of(m, FIELD_INTENSITY);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(names[i].name, text) == 0) {
            return (int8_t)names[i].intensity;
        }
    }
    csv_table_fail(&m->table, "intensity '%s': not low, normal (medium) or strong (high)", text);
    return DATASET_INTENSITY_UNKNOWN;
}

static int32_t repetition_of(manifest *m)
{
    int64_t number = 0;
    const char *text = value_of(m, FIELD_REPETITION);
    if (text[0] != '\0' && (!text_parse_integer(text, &number) || number < 1 || number > 1000000)) {
        csv_table_fail(&m->table, "repetition '%s': not an integer from 1 to 1000000", text);
    }
    return (int32_t)number;
}

/* Whether some component of the path is "..". */
static bool climbs(const char *path)
{
    for (const char *p = path; (p = strstr(p, "..")) != NULL; p += 2) {
        if ((p == path || p[-1] == '/') && (p[2] == '\0' || p[2] == '/')) {
            return true;
        }
    }
    return false;
}

/* With --confine: whether the file, links followed, is below the root. */
static bool check_inside(manifest *m, const char *written, const char *path)
{
    if (written[0] == '/' || climbs(written)) {
        csv_table_fail(&m->table, "path '%s': --confine refuses absolute paths and '..'", written);
        return false;
    }
    char *real = realpath(path, NULL);
    if (real == NULL) {
        return true; /* is reported as missing */
    }
    size_t length = strlen(m->real_root);
    bool inside = strncmp(real, m->real_root, length) == 0 &&
                  (real[length] == '/' || m->real_root[length - 1] == '/');
    free(real);
    if (!inside) {
        csv_table_fail(&m->table, "path '%s': a link leads out of %s, which --confine refuses",
                       written, m->root);
    }
    return inside;
}

/* Why the file cannot be used, or NULL. */
static const char *fault_of(const char *path)
{
    struct stat facts;
    if (stat(path, &facts) != 0) {
        return strerror(errno);
    }
    return S_ISREG(facts.st_mode) ? NULL : "not a regular file";
}

/* The path of the current row as it is opened, in the pool; NULL: leave the row out. */
static const char *resolve_path(manifest *m)
{
    const char *written = value_of(m, FIELD_PATH);
    if (written[0] == '\0') {
        csv_table_fail(&m->table, "the path is empty");
        return NULL;
    }
    char *joined = written[0] == '/' ? text_copy(written) : text_join(m->root, "/", written);
    const char *path = NULL;
    if (m->real_root == NULL || check_inside(m, written, joined)) {
        path = intern(&m->ds->strings, joined, NULL);
    }
    free(joined);
    if (path == NULL || (path == m->last_path && m->last_fault == NULL)) {
        return path;
    }
    m->last_path = path;
    m->last_fault = fault_of(path);
    if (m->last_fault == NULL) {
        return path;
    }
    if (m->missing++ < LISTED_LIMIT && !m->options->skip_bad) {
        message_error("%s: line %lld: %s: %s", m->file, (long long)m->table.row_line, path,
                      m->last_fault);
    }
    dataset_skip_clip(m->ds, &(dataset_skip){.path = path,
                                             .reason = m->last_fault,
                                             .source = m->file,
                                             .line = (int32_t)m->table.row_line});
    return NULL;
}

static int32_t corpus_of(manifest *m)
{
    const char *name = value_of(m, FIELD_CORPUS);
    name = name[0] != '\0' ? name : m->corpus;
    int32_t corpus = dataset_corpus_index(m->ds, name, NULL, m->file);
    if (m->ds->corpus_count > CORPUS_LIMIT) {
        csv_table_fail(&m->table, "more than %d corpora: is the column 'corpus' what it should be?",
                       (int)CORPUS_LIMIT);
    }
    return corpus;
}

/* The class of the current row; NULL: leave it out. */
static const char *resolve_label(manifest *m)
{
    const char *text = value_of(m, FIELD_LABEL);
    bool dropped = false;
    if (text[strspn(text, " \t")] == '\0') {
        csv_table_fail(&m->table, "the label is empty");
        return NULL;
    }
    const char *label = labels_resolve(&m->ds->rules, text, &dropped);
    if (dropped) {
        m->ds->dropped++;
    } else if (label == NULL) {
        note_unknown(m, text);
    }
    return label;
}

static void on_row(csv_table *t, void *user)
{
    manifest *m = user;
    m->rows++;
    dataset_clip clip = {
        .start = seconds_of(m, FIELD_START),
        .end = seconds_of(m, FIELD_END),
        .split = split_of(m),
        .intensity = intensity_of(m),
        .repetition = repetition_of(m),
        .line = (int32_t)t->row_line,
    };
    if (value_of(m, FIELD_END)[0] != '\0' && clip.end <= clip.start) {
        csv_table_fail(t, "end %s is not after start %s", value_of(m, FIELD_END),
                       clip.start > 0.0 ? value_of(m, FIELD_START) : "0");
    }
    const char *label = m->table.code == MESSAGE_EXIT_OK ? resolve_label(m) : NULL;
    clip.path = label != NULL ? resolve_path(m) : NULL;
    if (clip.path == NULL || m->table.code != MESSAGE_EXIT_OK) {
        return;
    }
    const char *text = value_of(m, FIELD_TEXT);
    const char *speaker = value_of(m, FIELD_SPEAKER);
    clip.text = text[0] != '\0' ? intern(&m->ds->strings, text, NULL) : NULL;
    clip.corpus = corpus_of(m);
    clip.speaker = speaker[0] != '\0' ? dataset_speaker_index(m->ds, clip.corpus, speaker) : -1;
    clip.emotion = dataset_emotion_index(m->ds, label);
    dataset_append(m->ds, &clip);
}

static void report_unknown(manifest *m)
{
    for (size_t i = 0; i < m->unknown_count; i++) {
        const unknown_label *u = &m->unknown[i];
        const char *label = NULL;
        const char *nearest = labels_nearest(&m->ds->rules, u->text, &label);
        char hint[4 * LABELS_SIZE];
        if (nearest != NULL && strcmp(nearest, label) != 0) {
            snprintf(hint, sizeof hint, "did you mean '%s' (%s)?", nearest, label);
        } else if (nearest != NULL) {
            snprintf(hint, sizeof hint, "did you mean '%s'?", nearest);
        } else {
            snprintf(hint, sizeof hint,
                     "map it with --alias, take it as it is with --alias %s=%s or leave it "
                     "out with --drop",
                     u->text, u->text);
        }
        message_error("%s: line %d: the label '%s' is not known (%zu row%s); %s", m->file,
                      (int)u->line, u->text, u->rows, u->rows == 1 ? "" : "s", hint);
    }
    if (m->unknown_more > 0) {
        message_error("%s: %zu more rows with other labels that are not known", m->file,
                      m->unknown_more);
    }
    m->table.code = MESSAGE_EXIT_DATA;
}

static int by_stretch(const void *a, const void *b)
{
    const dataset_clip *x = *(const dataset_clip *const *)a;
    const dataset_clip *y = *(const dataset_clip *const *)b;
    int order = x->path != y->path ? ((uintptr_t)x->path < (uintptr_t)y->path ? -1 : 1)
                                   : (x->start > y->start) - (x->start < y->start);
    order = order != 0 ? order : (x->end > y->end) - (x->end < y->end);
    order = order != 0 ? order : x->split - y->split;
    return order != 0 ? order : x->line - y->line;
}

/* The same stretch of a file twice within one split: legal, and mostly a mistake. */
static void warn_of_duplicates(const manifest *m, size_t before)
{
    size_t count = m->ds->count - before;
    const dataset_clip **rows = text_alloc(count, sizeof *rows);
    const dataset_clip *example = NULL;
    size_t twice = 0;
    for (size_t i = 0; i < count; i++) {
        rows[i] = &m->ds->clips[before + i];
    }
    qsort(rows, count, sizeof *rows, by_stretch);
    for (size_t i = 1; i < count; i++) {
        const dataset_clip *a = rows[i - 1];
        const dataset_clip *b = rows[i];
        if (a->path == b->path && !(a->start < b->start) && !(a->end < b->end) &&
            a->split == b->split) {
            twice++;
            example = example == NULL || b->line < example->line ? b : example;
        }
    }
    free(rows);
    if (twice > 0) {
        message_warning("%s: line %d: %s is there already (%zu such rows); it counts as often",
                        m->file, (int)example->line, example->path, twice);
    }
}

static void finish_file(manifest *m, size_t before)
{
    if (m->unknown_count > 0) {
        report_unknown(m);
    }
    if (m->missing > 0 && !m->options->skip_bad) {
        message_error("%s: %zu of %zu files are missing; --skip-bad leaves them out", m->file,
                      m->missing, m->rows);
        m->table.code = m->table.code == MESSAGE_EXIT_OK ? MESSAGE_EXIT_IO : m->table.code;
    } else if (m->missing > 0) {
        message_warning("%s: %zu of %zu files are missing and left out", m->file, m->missing,
                        m->rows);
    }
    if (m->table.code == MESSAGE_EXIT_OK && m->rows == 0) {
        message_error("%s: %s", m->file,
                      m->table.header_done ? "no rows below the header"
                                           : "empty: a header line with path and label is needed");
        m->table.code = MESSAGE_EXIT_DATA;
    }
    if (m->table.code == MESSAGE_EXIT_OK) {
        warn_of_duplicates(m, before);
    }
}

static char *folder_of(const char *file)
{
    const char *slash = strrchr(file, '/');
    char *folder = text_copy(slash != NULL ? file : ".");
    if (slash != NULL) {
        folder[slash > file ? slash - file : 1] = '\0';
    }
    return folder;
}

/* The file's name without folder and extension. */
static char *stem_of(const char *file)
{
    const char *slash = strrchr(file, '/');
    char *stem = text_copy(slash != NULL ? slash + 1 : file);
    char *dot = strrchr(stem, '.');
    if (dot != NULL && dot > stem) {
        *dot = '\0';
    }
    return stem;
}

static int read_manifest(manifest *m)
{
    size_t before = m->ds->count;
    if (m->options->confine) {
        m->real_root = realpath(m->root, NULL);
        if (m->real_root == NULL) {
            message_error("%s: %s: %s", m->file, m->root, strerror(errno));
            return MESSAGE_EXIT_IO;
        }
    }
    if (csv_table_read(&m->table) == MESSAGE_EXIT_OK) {
        finish_file(m, before);
    }
    return m->table.code;
}

int dataset_add_manifest(dataset *ds, const char *file, const manifest_options *options)
{
    static const manifest_options defaults;
    options = options != NULL ? options : &defaults;
    manifest m = {.ds = ds, .options = options, .file = file};
    m.table = (csv_table){.file = file,
                          .delimiter = options->delimiter,
                          .header = on_header,
                          .row = on_row,
                          .user = &m};
    m.root = options->root != NULL ? text_copy(options->root) : folder_of(file);
    m.corpus = options->corpus != NULL ? text_copy(options->corpus) : stem_of(file);
    for (size_t i = 0; i < FIELDS; i++) {
        m.columns[i] = CSV_TABLE_NONE;
    }
    int code = read_manifest(&m);
    for (size_t i = 0; i < m.unknown_count; i++) {
        free(m.unknown[i].text);
    }
    csv_table_free(&m.table);
    free(m.corpus);
    free(m.real_root);
    free(m.root);
    return code;
}

void manifest_put_field(FILE *f, const char *text, bool guard)
{
    bool formula = guard && text[0] != '\0' && strchr("=+-@\t\r", text[0]) != NULL;
    bool quoted = text[strcspn(text, ",;\t\"\r\n")] != '\0' || text[0] == ' ';
    if (quoted) {
        putc('"', f);
    }
    if (formula) {
        putc('\'', f);
    }
    for (; *text != '\0'; text++) {
        if (*text == '"') {
            putc('"', f);
        }
        putc(*text, f);
    }
    if (quoted) {
        putc('"', f);
    }
}

static void put_clip(const dataset *ds, const dataset_clip *clip, const char *part, FILE *f,
                     bool guard)
{
    static const char *const intensities[] = {"", "low", "normal", "strong"};
    char start[TEXT_NUMBER_SIZE];
    char end[TEXT_NUMBER_SIZE];
    char repetition[TEXT_NUMBER_SIZE] = "";
    char *real = realpath(clip->path, NULL);
    if (clip->repetition > 0) {
        snprintf(repetition, sizeof repetition, "%d", (int)clip->repetition);
    }
    const char *const fields[] = {
        real != NULL ? real : clip->path,
        ds->labels[clip->label],
        clip->speaker >= 0 ? ds->speakers[clip->speaker].name : "",
        part,
        clip->start > 0.0 ? text_double(start, clip->start) : "",
        clip->end > 0.0 ? text_double(end, clip->end) : "",
        clip->text != NULL ? clip->text : "",
        repetition,
        intensities[clip->intensity],
        ds->corpora[clip->corpus].name,
    };
    for (size_t i = 0; i < FIELDS; i++) {
        if (i > 0) {
            putc(',', f);
        }
        manifest_put_field(f, fields[i], guard);
    }
    fputs("\r\n", f);
    free(real);
}

int manifest_write(const dataset *ds, const uint8_t *parts, const char *file, bool guard)
{
    enum { ROWS_PER_FLUSH = 1000 };
    sink s = {0};
    int code = sink_open(&s, file);
    if (code != MESSAGE_EXIT_OK) {
        return code;
    }
    for (size_t i = 0; i < FIELDS; i++) {
        fprintf(s.stream, "%s%s", i > 0 ? "," : "", field_names[i]);
    }
    fputs("\r\n", s.stream);
    for (size_t i = 0; i < ds->count && code == MESSAGE_EXIT_OK; i++) {
        put_clip(ds, &ds->clips[i], parts != NULL ? dataset_part_names[parts[i]] : "", s.stream,
                 guard);
        if (i % ROWS_PER_FLUSH == ROWS_PER_FLUSH - 1) {
            code = sink_flush(&s);
        }
    }
    code = code == MESSAGE_EXIT_OK ? sink_commit(&s) : code;
    sink_discard(&s);
    return code;
}
