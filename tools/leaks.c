/* SPDX-License-Identifier: MIT */
#include "leaks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "text.h"

const char *const leak_names[LEAK_KINDS] = {"speaker", "repetition", "file",
                                            "audio",   "alike",      "labels"};

/*
 * Prints of the same recording in another encoding: measured on RAVDESS, 64 kbit/s MP3 and the
 * original rate differ in up to 8 bits of 256, Opus at 24 kbit/s in 9 as a rule; no two different
 * recordings of like length in RAVDESS and CREMA-D differ in fewer than 17.
 */
enum {
    ALIKE_BITS = 12,
    ALIKE_SAMPLES = 160,    /* difference in length: padding of encoders, rounding of rates */
    ALIKE_ONES = 24,        /* a print with fewer bits set is of silence, mostly */
    ALIKE_NEIGHBOURS = 2000 /* by length; bounds the work where all clips are of one length */
};

typedef struct search {
    const dataset *ds;
    const uint8_t *parts;
    const scan *audio;
    leak_report *report;
    size_t *order; /* clip numbers, as the current search sorts them */
    size_t count;
} search;

/* The examples are those whose first clips come first, in whatever order they are found. */
static void add_example(leak_finding *f, size_t a, size_t b)
{
    size_t i = f->example_count < LEAK_EXAMPLES ? f->example_count++ : LEAK_EXAMPLES;
    for (; i > 0 && f->examples[i - 1][0] > a; i--) {
        if (i < LEAK_EXAMPLES) {
            memcpy(f->examples[i], f->examples[i - 1], sizeof f->examples[i]);
        }
    }
    if (i < LEAK_EXAMPLES) {
        f->examples[i][0] = a;
        f->examples[i][1] = b;
    }
}

static void find_speakers(search *s)
{
    const dataset *ds = s->ds;
    leak_finding *f = &s->report->findings[LEAK_SPEAKER];
    /* Per speaker: clip number + 1 of the first clip, and of the first in another part. */
    size_t *first = text_alloc(ds->speaker_count, sizeof *first);
    size_t *other = text_alloc(ds->speaker_count, sizeof *other);
    size_t *clips = text_alloc(ds->speaker_count, sizeof *clips);
    for (size_t i = 0; i < ds->count; i++) {
        int32_t speaker = ds->clips[i].speaker;
        if (speaker < 0 || s->parts[i] == DATASET_UNUSED) {
            continue;
        }
        clips[speaker]++;
        if (first[speaker] == 0) {
            first[speaker] = i + 1;
        } else if (other[speaker] == 0 && s->parts[first[speaker] - 1] != s->parts[i]) {
            other[speaker] = i + 1;
        }
    }
    for (size_t i = 0; i < ds->speaker_count; i++) {
        if (other[i] != 0) {
            f->count++;
            f->clips += clips[i];
            add_example(f, first[i] - 1, other[i] - 1);
        }
    }
    free(clips);
    free(other);
    free(first);
}

static int compare_size(size_t a, size_t b)
{
    return (a > b) - (a < b);
}

/* Takes of one thing have equal keys: corpus, speaker, emotion, text, intensity. */
static int compare_takes(const dataset_clip *x, const dataset_clip *y)
{
    int order = (x->corpus > y->corpus) - (x->corpus < y->corpus);
    order = order != 0 ? order : (x->speaker > y->speaker) - (x->speaker < y->speaker);
    order = order != 0 ? order : (x->emotion > y->emotion) - (x->emotion < y->emotion);
    order = order != 0 ? order : (x->intensity > y->intensity) - (x->intensity < y->intensity);
    if (order == 0 && x->text != y->text) {
        order = (uintptr_t)x->text < (uintptr_t)y->text ? -1 : 1;
    }
    return order;
}

static int by_takes(const void *a, const void *b, void *user)
{
    const search *s = user;
    size_t i = *(const size_t *)a;
    size_t j = *(const size_t *)b;
    int order = compare_takes(&s->ds->clips[i], &s->ds->clips[j]);
    return order != 0 ? order : compare_size(i, j);
}

static int by_stretch(const void *a, const void *b, void *user)
{
    const search *s = user;
    size_t i = *(const size_t *)a;
    size_t j = *(const size_t *)b;
    const dataset_clip *x = &s->ds->clips[i];
    const dataset_clip *y = &s->ds->clips[j];
    if (x->path != y->path) {
        return (uintptr_t)x->path < (uintptr_t)y->path ? -1 : 1;
    }
    int order = (x->start > y->start) - (x->start < y->start);
    return order != 0 ? order : compare_size(i, j);
}

static int compare_audio(const scan_entry *x, const scan_entry *y)
{
    int order = (x->hash > y->hash) - (x->hash < y->hash);
    return order != 0 ? order : (x->samples > y->samples) - (x->samples < y->samples);
}

static int by_audio(const void *a, const void *b, void *user)
{
    const search *s = user;
    size_t i = *(const size_t *)a;
    size_t j = *(const size_t *)b;
    int order = compare_audio(&s->audio->entries[i], &s->audio->entries[j]);
    return order != 0 ? order : compare_size(i, j);
}

static size_t ones(const uint64_t *print)
{
    size_t count = 0;
    for (size_t i = 0; i < SCAN_PRINT_WORDS; i++) {
        count += (size_t)__builtin_popcountll(print[i]);
    }
    return count;
}

static int by_length(const void *a, const void *b, void *user)
{
    const search *s = user;
    size_t i = *(const size_t *)a;
    size_t j = *(const size_t *)b;
    const scan_entry *x = &s->audio->entries[i];
    const scan_entry *y = &s->audio->entries[j];
    if (x->samples != y->samples) {
        return x->samples < y->samples ? -1 : 1;
    }
    int order = compare_size(ones(x->print), ones(y->print));
    return order != 0 ? order : compare_size(i, j);
}

static bool is_take(const search *s, size_t i)
{
    const dataset_clip *c = &s->ds->clips[i];
    return c->repetition > 0 && c->speaker >= 0 && c->text != NULL;
}

static bool is_audible(const search *s, size_t i)
{
    const scan_entry *e = &s->audio->entries[i];
    return e->done && e->status == 0 && (e->flags & SER_AUDIO_SILENT) == 0;
}

static bool is_printed(const search *s, size_t i)
{
    return is_audible(s, i) && ones(s->audio->entries[i].print) >= ALIKE_ONES;
}

static bool is_any(const search *s, size_t i)
{
    (void)s;
    (void)i;
    return true;
}

/* The clips in use that `wanted` likes, sorted. */
static void sort_clips(search *s, bool (*wanted)(const search *s, size_t i),
                       int (*compare)(const void *a, const void *b, void *user))
{
    s->count = 0;
    for (size_t i = 0; i < s->ds->count; i++) {
        if (s->parts[i] != DATASET_UNUSED && wanted(s, i)) {
            s->order[s->count++] = i;
        }
    }
    qsort_r(s->order, s->count, sizeof *s->order, compare, s);
}

/* A group of equal clips, order[begin, end): a finding if two stand in different parts. */
static void check_parts(search *s, leak_kind kind, size_t begin, size_t end)
{
    leak_finding *f = &s->report->findings[kind];
    for (size_t i = begin + 1; i < end; i++) {
        if (s->parts[s->order[i]] != s->parts[s->order[begin]]) {
            f->count++;
            f->clips += end - begin;
            add_example(f, s->order[begin], s->order[i]);
            return;
        }
    }
}

static void check_labels(search *s, size_t begin, size_t end)
{
    leak_finding *f = &s->report->findings[LEAK_LABELS];
    const dataset_clip *clips = s->ds->clips;
    for (size_t i = begin + 1; i < end; i++) {
        if (clips[s->order[i]].label != clips[s->order[begin]].label) {
            f->count++;
            f->clips += end - begin;
            add_example(f, s->order[begin], s->order[i]);
            return;
        }
    }
}

static void find_repetitions(search *s)
{
    const dataset_clip *clips = s->ds->clips;
    sort_clips(s, is_take, by_takes);
    for (size_t begin = 0, end = 0; begin < s->count; begin = end) {
        for (end = begin + 1; end < s->count; end++) {
            if (compare_takes(&clips[s->order[begin]], &clips[s->order[end]]) != 0) {
                break;
            }
        }
        check_parts(s, LEAK_REPETITION, begin, end);
    }
}

/* One file, order[begin, end) by start: does a stretch begin before one of another part ends? */
static void check_file(search *s, size_t begin, size_t end)
{
    leak_finding *f = &s->report->findings[LEAK_FILE];
    double ends[DATASET_PARTS] = {0}; /* where the stretches of a part end so far */
    size_t last[DATASET_PARTS] = {0}; /* which of them does */
    for (size_t i = begin; i < end; i++) {
        const dataset_clip *x = &s->ds->clips[s->order[i]];
        size_t part = s->parts[s->order[i]];
        for (size_t other = 0; other < DATASET_PARTS; other++) {
            if (other != part && ends[other] > x->start) {
                f->count++;
                f->clips += end - begin;
                add_example(f, last[other], s->order[i]);
                return;
            }
        }
        double until = x->end > 0.0 ? x->end : HUGE_VAL;
        if (until > ends[part]) {
            ends[part] = until;
            last[part] = s->order[i];
        }
    }
}

static void find_files(search *s)
{
    const dataset_clip *clips = s->ds->clips;
    sort_clips(s, is_any, by_stretch);
    for (size_t begin = 0, end = 0; begin < s->count; begin = end) {
        for (end = begin + 1; end < s->count; end++) {
            if (clips[s->order[begin]].path != clips[s->order[end]].path) {
                break;
            }
        }
        check_file(s, begin, end);
    }
}

static void find_audio(search *s)
{
    const scan_entry *entries = s->audio->entries;
    sort_clips(s, is_audible, by_audio);
    for (size_t begin = 0, end = 0; begin < s->count; begin = end) {
        for (end = begin + 1; end < s->count; end++) {
            if (compare_audio(&entries[s->order[begin]], &entries[s->order[end]]) != 0) {
                break;
            }
        }
        check_parts(s, LEAK_AUDIO, begin, end);
        check_labels(s, begin, end);
    }
}

static bool alike(const scan_entry *x, const scan_entry *y)
{
    size_t bits = 0;
    for (size_t i = 0; i < SCAN_PRINT_WORDS; i++) {
        bits += (size_t)__builtin_popcountll(x->print[i] ^ y->print[i]);
    }
    return bits <= ALIKE_BITS && compare_audio(x, y) != 0;
}

static void note_alike(search *s, size_t a, size_t b)
{
    const dataset_clip *clips = s->ds->clips;
    size_t first = a < b ? a : b;
    size_t second = a < b ? b : a;
    if (s->parts[a] != s->parts[b]) {
        leak_finding *f = &s->report->findings[LEAK_ALIKE];
        f->count++;
        f->clips += 2;
        add_example(f, first, second);
    }
    if (clips[a].label != clips[b].label) {
        leak_finding *f = &s->report->findings[LEAK_LABELS];
        f->count++;
        f->clips += 2;
        add_example(f, first, second);
    }
}

static void find_alike(search *s)
{
    const scan_entry *entries = s->audio->entries;
    sort_clips(s, is_printed, by_length);
    for (size_t i = 0; i < s->count; i++) {
        const scan_entry *x = &entries[s->order[i]];
        for (size_t j = i + 1; j < s->count && j - i <= ALIKE_NEIGHBOURS; j++) {
            const scan_entry *y = &entries[s->order[j]];
            if (y->samples - x->samples > ALIKE_SAMPLES) {
                break;
            }
            if (alike(x, y)) {
                note_alike(s, s->order[i], s->order[j]);
            }
        }
    }
}

void leaks_find(const dataset *ds, const uint8_t *parts, const scan *audio, leak_report *report)
{
    *report = (leak_report){.audio_checked = audio != NULL};
    search s = {.ds = ds, .parts = parts, .audio = audio, .report = report};
    s.order = text_alloc(ds->count, sizeof *s.order);
    find_speakers(&s);
    find_repetitions(&s);
    find_files(&s);
    if (audio != NULL) {
        find_audio(&s);
        find_alike(&s);
    }
    free(s.order);
    for (int kind = LEAK_SPEAKER; kind <= LEAK_AUDIO; kind++) {
        report->findings[kind].refusing = report->findings[kind].count > 0;
        report->refusing += report->findings[kind].count > 0;
    }
}

/* What is in two parts, for one and for many. */
static const char *const what[LEAK_KINDS][2] = {
    {"speaker is in two parts", "speakers are in two parts"},
    {"sentence has takes in two parts", "sentences have takes in two parts"},
    {"file has overlapping stretches in two parts",
     "files have overlapping stretches in two parts"},
    {"recording is in two parts", "recordings are in two parts"},
    {"pair of clips in two parts is nearly the same audio",
     "pairs of clips in two parts are nearly the same audio"},
    {"recording has two labels", "recordings have two labels"},
};

char *leaks_describe(const leak_report *report, leak_kind kind, const dataset *ds,
                     const uint8_t *parts)
{
    const leak_finding *f = &report->findings[kind];
    char number[TEXT_NUMBER_SIZE];
    snprintf(number, sizeof number, "%zu ", f->count);
    char *text = text_join(number, what[kind][f->count == 1 ? 0 : 1], "");
    for (size_t i = 0; i < f->example_count; i++) {
        const dataset_clip *a = &ds->clips[f->examples[i][0]];
        const dataset_clip *b = &ds->clips[f->examples[i][1]];
        const char *note_a = kind == LEAK_LABELS ? ds->labels[a->label]
                                                 : dataset_part_names[parts[f->examples[i][0]]];
        const char *note_b = kind == LEAK_LABELS ? ds->labels[b->label]
                                                 : dataset_part_names[parts[f->examples[i][1]]];
        char *example = NULL;
        if (asprintf(&example, "%s%s%s%s (%s) and %s (%s)", i == 0 ? ": " : "; ",
                     kind == LEAK_SPEAKER ? ds->speakers[a->speaker].name : "",
                     kind == LEAK_SPEAKER ? ", " : "", a->path, note_a, b->path, note_b) < 0) {
            break;
        }
        char *longer = text_join(text, example, "");
        free(example);
        free(text);
        text = longer;
    }
    return text;
}

int leaks_check(const leak_report *report, const dataset *ds, const uint8_t *parts, bool allow)
{
    for (int kind = 0; kind < LEAK_KINDS; kind++) {
        const leak_finding *f = &report->findings[kind];
        if (f->count == 0) {
            continue;
        }
        char *text = leaks_describe(report, (leak_kind)kind, ds, parts);
        if (f->refusing && !allow) {
            message_error("leak: %s", text);
        } else {
            message_warning("%s%s", f->refusing ? "leak: " : "", text);
        }
        free(text);
    }
    if (report->refusing > 0 && !allow) {
        message_error("numbers from this split would be too good; choose another split, or go on "
                      "with --allow-leaks");
        return MESSAGE_EXIT_DATA;
    }
    return MESSAGE_EXIT_OK;
}
