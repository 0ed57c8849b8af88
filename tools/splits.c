/* SPDX-License-Identifier: MIT */
/* Speakers are put in folds; a fold is tested, the next one validates, the others train. */
#include "splits.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "text.h"

enum {
    RAVDESS_ACTORS = 24,
    FOLDS_MAX = 1000,
    ALWAYS_TRAINS = -1, /* a "fold" that is never tested */
    LISTED_SPEAKERS = 24
};

/* Test fold of RAVDESS actors 1 to 24: EmoBox (Ma et al. 2024), data/ravdess, folds 1 to 6. */
static const int8_t emobox_folds[RAVDESS_ACTORS + 1] = {0, 1, 5, 4, 2, 4, 6, 4, 3, 3, 2, 1, 2,
                                                        6, 2, 5, 5, 6, 5, 3, 1, 1, 6, 3, 4};

/* The same of Luna-Jimenez et al. 2022 (Applied Sciences 12, 327), folds 0 to 4. */
static const int8_t luna_folds[RAVDESS_ACTORS + 1] = {0, 4, 0, 1, 4, 0, 1, 1, 3, 4, 2, 2, 2,
                                                      1, 0, 0, 0, 3, 1, 2, 2, 3, 4, 3, 3};

/* How one fold treats the speakers. */
typedef struct plan {
    const split_spec *spec;
    const dataset *ds;
    int32_t *folds; /* [ds->speaker_count], from 0, or ALWAYS_TRAINS */
    int32_t count;
    int32_t test;
    int32_t validation;  /* ALWAYS_TRAINS - 1 if there is none */
    int32_t loso_corpus; /* whose speaker is left out */
} plan;

/* A text that grows. */
__attribute__((format(printf, 2, 3))) static void add_text(char **text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char part[512];
    vsnprintf(part, sizeof part, format, args);
    va_end(args);
    char *longer = text_join(*text, part, "");
    free(*text);
    *text = longer;
}

static int bad_spec(const char *text)
{
    return message_usage("--split %s: not one of emobox6:K (K 1 to 6), luna5:K (K 0 to 4), loso:A, "
                         "actors:N:K (K 0 to N-1), random:SEED, column",
                         text);
}

/* "" or ":K" with K in [minimum, maximum]. */
static bool parse_fold(const char *text, int32_t minimum, int32_t maximum, int32_t *fold)
{
    int64_t number = -1;
    if (text[0] == '\0') {
        *fold = -1;
        return true;
    }
    bool good = text[0] == ':' && text_parse_integer(text + 1, &number) && number >= minimum &&
                number <= maximum;
    *fold = (int32_t)(good ? number : -1);
    return good;
}

/* "N" or "N:K". */
static bool parse_actors(const char *text, split_spec *spec)
{
    char *copy = text_copy(text);
    size_t digits = strcspn(copy, ":");
    int64_t folds = 0;
    copy[digits] = '\0';
    bool good = text_parse_integer(copy, &folds) && folds >= 2 && folds <= FOLDS_MAX;
    free(copy);
    spec->folds = (int32_t)(good ? folds : 0);
    return good && parse_fold(text + digits, 0, spec->folds - 1, &spec->fold);
}

static bool parse_loso(const char *text, split_spec *spec)
{
    if (text[0] == '\0') {
        return true;
    }
    size_t length = strlen(text + 1);
    if (text[0] != ':' || length == 0 || length >= SPLIT_SPEAKER_SIZE) {
        return false;
    }
    memcpy(spec->speaker, text + 1, length + 1);
    return true;
}

static bool starts(const char *text, const char *prefix, const char **rest)
{
    size_t length = strlen(prefix);
    *rest = text + length;
    return strncmp(text, prefix, length) == 0;
}

int split_parse(const char *text, split_spec *spec)
{
    const char *rest = NULL;
    bool good = false;
    int64_t seed = 0;
    *spec = (split_spec){.fold = -1};
    if (starts(text, "emobox6", &rest)) {
        spec->kind = SPLIT_EMOBOX6;
        spec->folds = 6;
        good = parse_fold(rest, 1, 6, &spec->fold);
    } else if (starts(text, "luna5", &rest)) {
        spec->kind = SPLIT_LUNA5;
        spec->folds = 5;
        good = parse_fold(rest, 0, 4, &spec->fold);
    } else if (starts(text, "actors:", &rest)) {
        spec->kind = SPLIT_ACTORS;
        good = parse_actors(rest, spec);
    } else if (starts(text, "loso", &rest)) {
        spec->kind = SPLIT_LOSO;
        good = parse_loso(rest, spec);
    } else if (starts(text, "random:", &rest)) {
        spec->kind = SPLIT_RANDOM;
        good = text_parse_integer(rest, &seed) && seed >= 0;
        spec->seed = (uint64_t)seed;
    } else {
        spec->kind = SPLIT_COLUMN;
        good = strcmp(text, "column") == 0;
    }
    return good ? MESSAGE_EXIT_OK : bad_spec(text);
}

static char *name_of(const split_spec *spec)
{
    char *name = text_copy("");
    switch (spec->kind) {
    case SPLIT_EMOBOX6: add_text(&name, "emobox6:%d", (int)spec->fold); break;
    case SPLIT_LUNA5: add_text(&name, "luna5:%d", (int)spec->fold); break;
    case SPLIT_ACTORS: add_text(&name, "actors:%d:%d", (int)spec->folds, (int)spec->fold); break;
    case SPLIT_LOSO: add_text(&name, "loso:%s", spec->speaker); break;
    case SPLIT_RANDOM: add_text(&name, "random:%llu", (unsigned long long)spec->seed); break;
    case SPLIT_COLUMN: add_text(&name, "column"); break;
    }
    return name;
}

/* Whether this corpus has folds of its own in the literature. */
static bool has_published_folds(const split_spec *spec, const dataset_corpus *corpus)
{
    return (spec->kind == SPLIT_EMOBOX6 || spec->kind == SPLIT_LUNA5) &&
           strcmp(corpus->name, "ravdess") == 0;
}

static int assign_published(plan *p, int32_t speaker)
{
    const dataset_speaker *s = &p->ds->speakers[speaker];
    if (s->number < 1 || s->number > RAVDESS_ACTORS) {
        message_error("ravdess: speaker '%s' is none of the actors 01 to 24 that %s is about",
                      s->name, p->spec->kind == SPLIT_EMOBOX6 ? "emobox6" : "luna5");
        return MESSAGE_EXIT_DATA;
    }
    p->folds[speaker] =
        p->spec->kind == SPLIT_EMOBOX6 ? emobox_folds[s->number] - 1 : luna_folds[s->number];
    return MESSAGE_EXIT_OK;
}

static bool all_numbers(const dataset *ds, const int32_t *speakers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (ds->speakers[speakers[i]].number < 0) {
            return false;
        }
    }
    return true;
}

static int assign_corpus(plan *p, int32_t corpus)
{
    size_t count = 0;
    int code = MESSAGE_EXIT_OK;
    int32_t *sorted = dataset_speakers_sorted(p->ds, corpus, &count);
    bool by_number = p->spec->kind == SPLIT_ACTORS && all_numbers(p->ds, sorted, count);
    bool published = has_published_folds(p->spec, &p->ds->corpora[corpus]);
    for (size_t i = 0; i < count && code == MESSAGE_EXIT_OK; i++) {
        int32_t number = by_number ? p->ds->speakers[sorted[i]].number : (int32_t)i;
        if (published) {
            code = assign_published(p, sorted[i]);
        } else if (p->spec->kind != SPLIT_LOSO) {
            p->folds[sorted[i]] = number % p->count;
        } else {
            p->folds[sorted[i]] = corpus == p->loso_corpus ? (int32_t)i : ALWAYS_TRAINS;
        }
    }
    free(sorted);
    return code;
}

/* Find "A" or "CORPUS/A"; -1 after a message. */
static int32_t find_speaker(const dataset *ds, const char *name)
{
    int32_t found = -1;
    size_t matches = 0;
    for (size_t i = 0; i < ds->speaker_count; i++) {
        const dataset_speaker *s = &ds->speakers[i];
        char *full = text_join(ds->corpora[s->corpus].name, "/", s->name);
        bool same = strcmp(full, name) == 0;
        free(full);
        if (same || strcmp(s->name, name) == 0) {
            found = (int32_t)i;
            matches = same ? 1 : matches + 1;
        }
        if (same) {
            break;
        }
    }
    if (matches != 1) {
        message_usage("--split loso:%s: %s", name,
                      matches == 0 ? "no speaker of this name"
                                   : "several corpora have such a speaker; write CORPUS/SPEAKER");
        return -1;
    }
    return found;
}

/* A speaker-independent split needs to know who speaks. */
static int check_speakers(const dataset *ds, const char *name)
{
    size_t unknown = 0;
    size_t first = 0;
    for (size_t i = ds->count; i-- > 0;) {
        if (ds->clips[i].speaker < 0) {
            unknown++;
            first = i;
        }
    }
    if (unknown == 0) {
        return MESSAGE_EXIT_OK;
    }
    message_error("--split %s needs to know who speaks: %zu of %zu clips name no speaker, the "
                  "first is %s; random:SEED and column do without",
                  name, unknown, ds->count, ds->clips[first].path);
    return MESSAGE_EXIT_DATA;
}

static int make_plan(plan *p)
{
    const split_spec *spec = p->spec;
    int code = MESSAGE_EXIT_OK;
    p->count = spec->folds;
    p->test = spec->kind == SPLIT_EMOBOX6 ? spec->fold - 1 : spec->fold;
    p->loso_corpus = -1;
    int32_t left_out = -1;
    if (spec->kind == SPLIT_LOSO) {
        left_out = find_speaker(p->ds, spec->speaker);
        if (left_out < 0) {
            return MESSAGE_EXIT_USAGE;
        }
        size_t count = 0;
        p->loso_corpus = p->ds->speakers[left_out].corpus;
        free(dataset_speakers_sorted(p->ds, p->loso_corpus, &count));
        p->count = (int32_t)count;
    }
    p->folds = text_alloc(p->ds->speaker_count, sizeof *p->folds);
    for (size_t i = 0; i < p->ds->corpus_count && code == MESSAGE_EXIT_OK; i++) {
        code = assign_corpus(p, (int32_t)i);
    }
    if (code == MESSAGE_EXIT_OK && left_out >= 0) {
        p->test = p->folds[left_out];
    }
    p->validation = spec->validation_none ? ALWAYS_TRAINS - 1 : (p->test + 1) % p->count;
    return code;
}

static dataset_part part_of(const plan *p, int32_t speaker)
{
    int32_t fold = p->folds[speaker];
    return fold == p->test         ? DATASET_TEST
           : fold == p->validation ? DATASET_VALIDATION
                                   : DATASET_TRAIN;
}

/* ", test speakers 04 10 12 14"; a long list is cut. */
static void list_speakers(const plan *p, int32_t corpus, dataset_part part, char **text)
{
    size_t count = 0;
    size_t listed = 0;
    int32_t *sorted = dataset_speakers_sorted(p->ds, corpus, &count);
    for (size_t i = 0; i < count; i++) {
        if (part_of(p, sorted[i]) != part) {
            continue;
        }
        if (listed == 0) {
            add_text(text, ", %s speakers", dataset_part_names[part]);
        }
        if (listed++ < LISTED_SPEAKERS) {
            add_text(text, " %s", p->ds->speakers[sorted[i]].name);
        }
    }
    if (listed > LISTED_SPEAKERS) {
        add_text(text, " ... (%zu)", listed);
    } else if (listed == 0) {
        add_text(text, ", no %s speakers", dataset_part_names[part]);
    }
    free(sorted);
}

static void describe_corpus(const plan *p, int32_t corpus, char **text)
{
    const split_spec *spec = p->spec;
    const dataset_corpus *c = &p->ds->corpora[corpus];
    add_text(text, "%s: ", c->name);
    if (spec->kind == SPLIT_LOSO && corpus != p->loso_corpus) {
        add_text(text, "all speakers train");
        return;
    }
    if (has_published_folds(spec, c)) {
        add_text(text,
                 spec->kind == SPLIT_EMOBOX6 ? "EmoBox fold %d of 6"
                                             : "Luna-Jimenez fold %d of 0 to 4",
                 (int)spec->fold);
    } else if (spec->kind == SPLIT_LOSO) {
        add_text(text, "leave one speaker out");
    } else if (spec->kind == SPLIT_ACTORS) {
        add_text(text, "speakers modulo %d, fold %d", (int)p->count, (int)spec->fold);
    } else {
        add_text(text, "fold %d of %d by speaker order", (int)p->test + 1, (int)p->count);
    }
    list_speakers(p, corpus, DATASET_TEST, text);
    if (!spec->validation_none) {
        list_speakers(p, corpus, DATASET_VALIDATION, text);
    }
}

static int apply_speakers(const split_spec *spec, const dataset *ds, split *out)
{
    plan p = {.spec = spec, .ds = ds};
    int code = check_speakers(ds, out->name);
    code = code == MESSAGE_EXIT_OK ? make_plan(&p) : code;
    for (size_t i = 0; i < ds->count && code == MESSAGE_EXIT_OK; i++) {
        out->parts[i] = (uint8_t)part_of(&p, ds->clips[i].speaker);
    }
    for (size_t i = 0; i < ds->corpus_count && code == MESSAGE_EXIT_OK; i++) {
        describe_corpus(&p, (int32_t)i, &out->protocol);
        add_text(&out->protocol, "; ");
    }
    free(p.folds);
    return code;
}

/* SplitMix64 (Steele, Lea and Flood 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static void shuffle(size_t *items, size_t count, uint64_t seed)
{
    uint64_t state = seed;
    for (size_t i = count; i > 1; i--) {
        size_t j = (size_t)(next_random(&state) % i);
        size_t item = items[i - 1];
        items[i - 1] = items[j];
        items[j] = item;
    }
}

/* Clip numbers grouped by (corpus, label); group g is [starts[g], starts[g + 1]). */
static size_t *group_clips(const dataset *ds, size_t *starts)
{
    size_t groups = ds->corpus_count * ds->label_count;
    size_t *clips = text_alloc(ds->count, sizeof *clips);
    size_t *next = text_alloc(groups + 1, sizeof *next);
    for (size_t i = 0; i < ds->count; i++) {
        const dataset_clip *c = &ds->clips[i];
        starts[(size_t)c->corpus * ds->label_count + (size_t)c->label + 1]++;
    }
    for (size_t g = 0; g < groups; g++) {
        starts[g + 1] += starts[g];
        next[g] = starts[g];
    }
    for (size_t i = 0; i < ds->count; i++) {
        const dataset_clip *c = &ds->clips[i];
        clips[next[(size_t)c->corpus * ds->label_count + (size_t)c->label]++] = i;
    }
    free(next);
    return clips;
}

/* A tenth of `count`, rounded. */
static size_t tenth(size_t count)
{
    return (count + 5) / 10;
}

/* 10 % of every group test and 10 % validate; the rounding is carried from label to label, so that
 * a corpus as a whole is divided exactly. */
static void apply_random(const split_spec *spec, const dataset *ds, split *out)
{
    size_t groups = ds->corpus_count * ds->label_count;
    size_t *starts = text_alloc(groups + 1, sizeof *starts);
    size_t *clips = group_clips(ds, starts);
    for (size_t g = 0; g < groups; g++) {
        size_t count = starts[g + 1] - starts[g];
        size_t before = starts[g] - starts[g - g % ds->label_count]; /* in this corpus */
        size_t share = tenth(before + count) - tenth(before);
        share = share < count / 3 ? share : count / 3; /* few clips rather train */
        size_t *group = clips + starts[g];
        uint64_t state = spec->seed;
        shuffle(group, count, next_random(&state) ^ g % ds->label_count);
        for (size_t i = 0; i < count; i++) {
            dataset_part part = i < share       ? DATASET_TEST
                                : i < 2 * share ? DATASET_VALIDATION
                                                : DATASET_TRAIN;
            bool trains = part == DATASET_VALIDATION && spec->validation_none;
            out->parts[group[i]] = (uint8_t)(trains ? DATASET_TRAIN : part);
        }
    }
    free(clips);
    free(starts);
    add_text(&out->protocol,
             "random split of the clips of every label and corpus, seed %llu: %s; the same people "
             "and both takes of a sentence are in several parts, so that results are higher than "
             "for new speakers; ",
             (unsigned long long)spec->seed,
             spec->validation_none ? "90 % training, 10 % test"
                                   : "80 % training, 10 % validation, 10 % test");
}

static void describe_column(const dataset *ds, const bool *has_column, split *out)
{
    for (size_t i = 0; i < ds->corpus_count; i++) {
        add_text(&out->protocol, "%s: %s; ", ds->corpora[i].name,
                 has_column[i] ? "parts as the split column of its manifest says"
                               : "all clips train");
    }
}

static int check_column(const dataset *ds, const bool *has_column)
{
    bool any = false;
    for (size_t i = 0; i < ds->corpus_count; i++) {
        any = any || has_column[i];
    }
    if (!any) {
        message_error("--split column: no manifest has a column 'split'");
        return MESSAGE_EXIT_DATA;
    }
    for (size_t i = 0; i < ds->count; i++) {
        const dataset_clip *c = &ds->clips[i];
        if (has_column[c->corpus] && c->split == DATASET_NO_SPLIT) {
            message_error("%s: line %d: the column 'split' is empty, which --split column does not "
                          "allow (write unused)",
                          ds->corpora[c->corpus].source, (int)c->line);
            return MESSAGE_EXIT_DATA;
        }
    }
    return MESSAGE_EXIT_OK;
}

static int apply_column(const split_spec *spec, const dataset *ds, split *out)
{
    bool *has_column = text_alloc(ds->corpus_count, sizeof *has_column);
    for (size_t i = 0; i < ds->count; i++) {
        if (ds->clips[i].split != DATASET_NO_SPLIT) {
            has_column[ds->clips[i].corpus] = true;
        }
    }
    int code = check_column(ds, has_column);
    for (size_t i = 0; i < ds->count && code == MESSAGE_EXIT_OK; i++) {
        const dataset_clip *c = &ds->clips[i];
        int part = has_column[c->corpus] ? c->split : DATASET_TRAIN;
        bool trains = part == DATASET_VALIDATION && spec->validation_none;
        out->parts[i] = (uint8_t)(trains ? DATASET_TRAIN : part);
    }
    if (code == MESSAGE_EXIT_OK) {
        describe_column(ds, has_column, out);
    }
    free(has_column);
    return code;
}

/* No speaker in two parts, and none unknown. */
static bool is_independent(const split *s, const dataset *ds)
{
    uint8_t *seen = text_alloc(ds->speaker_count, 1);
    bool independent = true;
    for (size_t i = 0; i < ds->count; i++) {
        int32_t speaker = ds->clips[i].speaker;
        if (s->parts[i] == DATASET_UNUSED) {
            continue;
        }
        if (speaker < 0 || (seen[speaker] != 0 && seen[speaker] != s->parts[i])) {
            independent = false;
            break;
        }
        seen[speaker] = s->parts[i];
    }
    free(seen);
    return independent;
}

static void finish(split *s, const split_spec *spec, const dataset *ds)
{
    for (size_t i = 0; i < ds->count; i++) {
        s->counts[s->parts[i]]++;
    }
    s->speaker_independent = is_independent(s, ds);
    add_text(&s->protocol, "%s%s", spec->validation_none ? "no validation part; " : "",
             s->speaker_independent ? "speaker-independent" : "speaker-dependent");
}

int split_apply(const split_spec *spec, const dataset *ds, split *out)
{
    bool by_fold =
        spec->kind == SPLIT_EMOBOX6 || spec->kind == SPLIT_LUNA5 || spec->kind == SPLIT_ACTORS;
    int code = MESSAGE_EXIT_OK;
    *out = (split){0};
    if ((by_fold && spec->fold < 0) || (spec->kind == SPLIT_LOSO && spec->speaker[0] == '\0')) {
        return message_usage("--split: name the fold, such as emobox6:2, or run all with --cv");
    }
    out->parts = text_alloc(ds->count, 1);
    out->protocol = text_copy("");
    out->name = name_of(spec);
    switch (spec->kind) {
    case SPLIT_RANDOM: apply_random(spec, ds, out); break;
    case SPLIT_COLUMN: code = apply_column(spec, ds, out); break;
    default: code = apply_speakers(spec, ds, out); break;
    }
    if (code != MESSAGE_EXIT_OK) {
        split_free(out);
        return code;
    }
    finish(out, spec, ds);
    return MESSAGE_EXIT_OK;
}

size_t split_fold_count(const split_spec *spec, const dataset *ds)
{
    switch (spec->kind) {
    case SPLIT_RANDOM:
    case SPLIT_COLUMN: return 1;
    case SPLIT_LOSO: return ds->speaker_count;
    default: return (size_t)spec->folds;
    }
}

/* The i-th speaker, corpus by corpus, each in sorted order. */
static const dataset_speaker *nth_speaker(const dataset *ds, size_t i)
{
    const dataset_speaker *found = NULL;
    for (size_t c = 0; c < ds->corpus_count && found == NULL; c++) {
        size_t count = 0;
        int32_t *sorted = dataset_speakers_sorted(ds, (int32_t)c, &count);
        if (i < count) {
            found = &ds->speakers[sorted[i]];
        }
        i -= i < count ? 0 : count;
        free(sorted);
    }
    return found;
}

void split_fold(const split_spec *spec, const dataset *ds, size_t i, split_spec *fold)
{
    *fold = *spec;
    if (spec->kind == SPLIT_LOSO) {
        const dataset_speaker *s = nth_speaker(ds, i);
        if (s != NULL) {
            snprintf(fold->speaker, sizeof fold->speaker, "%s/%s", ds->corpora[s->corpus].name,
                     s->name);
        }
    } else if (spec->kind != SPLIT_RANDOM && spec->kind != SPLIT_COLUMN) {
        fold->fold = (int32_t)i + (spec->kind == SPLIT_EMOBOX6 ? 1 : 0);
    }
}
