/* SPDX-License-Identifier: MIT */
#include "dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "message.h"
#include "sink.h"
#include "text.h"

const char *const dataset_part_names[DATASET_PARTS] = {"unused", "train", "validation", "test"};

struct dataset_index {
    int32_t *speakers; /* open addressing over (corpus, name): number + 1, 0 is empty */
    size_t capacity;
    intern_pool keys; /* "CORPUS KEY" of dataset_first */
};

/* Room for one more element: a block of twice the capacity where `count` has reached it. */
static void *grown(void *old, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity) {
        return old;
    }
    *capacity = count > 0 ? 2 * count : 16;
    void *block = text_alloc(*capacity, size);
    if (count > 0) {
        memcpy(block, old, count * size);
    }
    free(old);
    return block;
}

/* For lists without a capacity: full when their length is 0 or a power of two from 16 on. */
static void *grown_list(void *old, size_t count, size_t size)
{
    bool full = count == 0 || (count >= 16 && (count & (count - 1)) == 0);
    size_t capacity = full ? count : count + 1;
    return grown(old, count, &capacity, size);
}

static struct dataset_index *index_of(dataset *ds)
{
    if (ds->index == NULL) {
        ds->index = text_alloc(1, sizeof *ds->index);
    }
    return ds->index;
}

int32_t dataset_corpus_index(dataset *ds, const char *name, const char *preset, const char *source)
{
    for (size_t i = 0; i < ds->corpus_count; i++) {
        if (strcmp(ds->corpora[i].name, name) == 0) {
            return (int32_t)i;
        }
    }
    ds->corpora = grown_list(ds->corpora, ds->corpus_count, sizeof *ds->corpora);
    ds->corpora[ds->corpus_count] = (dataset_corpus){
        .name = intern(&ds->strings, name, NULL),
        .preset = preset != NULL ? intern(&ds->strings, preset, NULL) : NULL,
        .source = intern(&ds->strings, source, NULL),
    };
    return (int32_t)ds->corpus_count++;
}

/* The slot of the speaker, or the empty one where it belongs. `name` is of the pool. */
static int32_t *speaker_slot(const dataset *ds, int32_t corpus, const char *name)
{
    const struct dataset_index *index = ds->index;
    uint64_t hash = XXH3_64bits_withSeed(name, strlen(name), (XXH64_hash_t)corpus);
    size_t i = (size_t)hash & (index->capacity - 1);
    for (; index->speakers[i] != 0; i = (i + 1) & (index->capacity - 1)) {
        const dataset_speaker *s = &ds->speakers[index->speakers[i] - 1];
        if (s->corpus == corpus && s->name == name) {
            break;
        }
    }
    return &index->speakers[i];
}

static void grow_speaker_slots(dataset *ds, struct dataset_index *index)
{
    free(index->speakers);
    index->capacity = index->capacity > 0 ? 2 * index->capacity : 64;
    index->speakers = text_alloc(index->capacity, sizeof *index->speakers);
    for (size_t i = 0; i < ds->speaker_count; i++) {
        *speaker_slot(ds, ds->speakers[i].corpus, ds->speakers[i].name) = (int32_t)i + 1;
    }
}

int32_t dataset_speaker_index(dataset *ds, int32_t corpus, const char *name)
{
    struct dataset_index *index = index_of(ds);
    if (2 * (ds->speaker_count + 1) > index->capacity) {
        grow_speaker_slots(ds, index);
    }
    name = intern(&ds->strings, name, NULL);
    int32_t *slot = speaker_slot(ds, corpus, name);
    if (*slot == 0) {
        int64_t number = -1;
        if (strlen(name) > 9 || !text_parse_integer(name, &number) || number < 0) {
            number = -1;
        }
        ds->speakers = grown_list(ds->speakers, ds->speaker_count, sizeof *ds->speakers);
        ds->speakers[ds->speaker_count] =
            (dataset_speaker){.name = name, .corpus = corpus, .number = (int32_t)number};
        *slot = (int32_t)++ds->speaker_count;
    }
    return *slot - 1;
}

int32_t dataset_emotion_index(dataset *ds, const char *label)
{
    for (size_t i = 0; i < ds->emotion_count; i++) {
        if (strcmp(ds->emotions[i], label) == 0) {
            return (int32_t)i;
        }
    }
    ds->emotions = grown_list(ds->emotions, ds->emotion_count, sizeof *ds->emotions);
    ds->emotions[ds->emotion_count] = intern(&ds->strings, label, NULL);
    return (int32_t)ds->emotion_count++;
}

void dataset_append(dataset *ds, const dataset_clip *clip)
{
    ds->clips = grown(ds->clips, ds->count, &ds->capacity, sizeof *ds->clips);
    ds->clips[ds->count++] = *clip;
}

void dataset_skip_clip(dataset *ds, const dataset_skip *skip)
{
    ds->skipped = grown_list(ds->skipped, ds->skipped_count, sizeof *ds->skipped);
    ds->skipped[ds->skipped_count++] = (dataset_skip){
        .path = intern(&ds->strings, skip->path, NULL),
        .reason = intern(&ds->strings, skip->reason, NULL),
        .source = skip->source != NULL ? intern(&ds->strings, skip->source, NULL) : NULL,
        .line = skip->line,
    };
}

bool dataset_first(dataset *ds, int32_t corpus, const char *key)
{
    char number[TEXT_NUMBER_SIZE];
    snprintf(number, sizeof number, "%d ", (int)corpus);
    char *full = text_join(number, key, "");
    bool fresh = false;
    intern(&index_of(ds)->keys, full, &fresh);
    free(full);
    return fresh;
}

static void free_index(dataset *ds)
{
    if (ds->index != NULL) {
        free(ds->index->speakers);
        intern_free(&ds->index->keys);
        free(ds->index);
        ds->index = NULL;
    }
}

/* "neutral, calm, happy"; the caller frees. */
static char *join_names(const char *const *names, size_t count)
{
    char *list = text_copy("");
    for (size_t i = 0; i < count; i++) {
        char *longer = text_join(list, i > 0 ? ", " : "", names[i]);
        free(list);
        list = longer;
    }
    return list;
}

/* What every emotion is called after all merges; a merge that changes nothing is a mistake. */
static int merge_emotions(const dataset *ds, const char **merged)
{
    for (size_t i = 0; i < ds->emotion_count; i++) {
        merged[i] = ds->emotions[i];
    }
    for (size_t m = 0; m < ds->rules.merge_count; m++) {
        const label_rule *rule = &ds->rules.merges[m];
        bool used = false;
        for (size_t i = 0; i < ds->emotion_count; i++) {
            if (strcmp(merged[i], rule->from) == 0) {
                merged[i] = rule->to;
                used = true;
            }
        }
        if (!used) {
            char *list = join_names(ds->emotions, ds->emotion_count);
            message_error("--merge %s=%s: no clip is labelled '%s' (there are: %s)", rule->from,
                          rule->to, rule->from, list);
            free(list);
            return MESSAGE_EXIT_USAGE;
        }
    }
    return MESSAGE_EXIT_OK;
}

static bool listed(const char *const *names, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Canonical order first, then the order of appearance. Only emotions that some clip has. */
static void order_labels(dataset *ds, const char *const *merged, const bool *seen)
{
    ds->labels = text_alloc(ds->emotion_count, sizeof *ds->labels);
    for (size_t c = 0; c < LABELS_CANONICAL + 1; c++) {
        for (size_t i = 0; i < ds->emotion_count; i++) {
            bool turn = c == LABELS_CANONICAL || strcmp(merged[i], labels_canonical[c]) == 0;
            if (seen[i] && turn && !listed(ds->labels, ds->label_count, merged[i])) {
                ds->labels[ds->label_count++] = intern(&ds->strings, merged[i], NULL);
            }
        }
    }
}

static int check_labels(const dataset *ds)
{
    if (ds->label_count > DATASET_LABELS_MAX) {
        message_error("the data set has %zu labels; the limit is %d", ds->label_count,
                      (int)DATASET_LABELS_MAX);
        return MESSAGE_EXIT_DATA;
    }
    if (ds->label_count < 2) {
        message_error("every clip is labelled '%s': there is nothing to tell apart; at least two "
                      "labels are needed",
                      ds->labels[0]);
        return MESSAGE_EXIT_DATA;
    }
    for (size_t i = 0; i < ds->rules.drop_count; i++) {
        if (ds->rules.drops[i].hits == 0) {
            message_warning("--drop %s: no clip has this label", ds->rules.drops[i].from);
        }
    }
    return MESSAGE_EXIT_OK;
}

/* Masks and counts of the corpora, from the clips. */
static void count_corpora(dataset *ds)
{
    for (size_t i = 0; i < ds->corpus_count; i++) {
        ds->corpora[i].clip_count = 0;
        ds->corpora[i].label_mask = 0;
    }
    for (size_t i = 0; i < ds->count; i++) {
        dataset_corpus *corpus = &ds->corpora[ds->clips[i].corpus];
        corpus->clip_count++;
        corpus->label_mask |= (uint64_t)1 << ds->clips[i].label;
    }
}

static void number_clips(dataset *ds, const char *const *merged)
{
    int32_t *label_of = text_alloc(ds->emotion_count, sizeof *label_of);
    for (size_t i = 0; i < ds->emotion_count; i++) {
        for (size_t j = 0; j < ds->label_count; j++) {
            if (strcmp(ds->labels[j], merged[i]) == 0) {
                label_of[i] = (int32_t)j;
            }
        }
    }
    for (size_t i = 0; i < ds->count; i++) {
        ds->clips[i].label = label_of[ds->clips[i].emotion];
    }
    free(label_of);
    count_corpora(ds);
}

int dataset_finish(dataset *ds)
{
    if (ds->count == 0) {
        if (ds->dropped > 0) {
            message_error("no clips are left: --drop takes out all %zu", ds->dropped);
        } else {
            message_error("there are no clips: name a data set with --dataset");
        }
        return MESSAGE_EXIT_DATA;
    }
    const char **merged = text_alloc(ds->emotion_count, sizeof *merged);
    bool *seen = text_alloc(ds->emotion_count, sizeof *seen);
    for (size_t i = 0; i < ds->count; i++) {
        seen[ds->clips[i].emotion] = true;
    }
    int code = merge_emotions(ds, merged);
    if (code == MESSAGE_EXIT_OK) {
        order_labels(ds, merged, seen);
        code = check_labels(ds);
    }
    if (code == MESSAGE_EXIT_OK) {
        number_clips(ds, merged);
    }
    free(seen);
    free(merged);
    free_index(ds);
    return code;
}

void dataset_keep(dataset *ds, const bool *keep)
{
    size_t kept = 0;
    for (size_t i = 0; i < ds->count; i++) {
        if (keep[i]) {
            ds->clips[kept++] = ds->clips[i];
        }
    }
    ds->count = kept;
    count_corpora(ds);
}

/* Numbers by value, before names, which go by their natural order ("spk2" before "spk10"). */
static int by_speaker(const void *a, const void *b, void *user)
{
    const dataset_speaker *speakers = user;
    const dataset_speaker *x = &speakers[*(const int32_t *)a];
    const dataset_speaker *y = &speakers[*(const int32_t *)b];
    if ((x->number >= 0) != (y->number >= 0)) {
        return x->number >= 0 ? -1 : 1;
    }
    if (x->number != y->number) {
        return x->number < y->number ? -1 : 1;
    }
    return strverscmp(x->name, y->name);
}

int32_t *dataset_speakers_sorted(const dataset *ds, int32_t corpus, size_t *count)
{
    int32_t *sorted = text_alloc(ds->speaker_count, sizeof *sorted);
    *count = 0;
    for (size_t i = 0; i < ds->speaker_count; i++) {
        if (ds->speakers[i].corpus == corpus) {
            sorted[(*count)++] = (int32_t)i;
        }
    }
    qsort_r(sorted, *count, sizeof *sorted, by_speaker, ds->speakers);
    return sorted;
}

int dataset_write_skipped(const dataset *ds, const char *path)
{
    sink s = {0};
    int code = sink_open(&s, path);
    if (code != MESSAGE_EXIT_OK) {
        return code;
    }
    for (size_t i = 0; i < ds->skipped_count; i++) {
        const dataset_skip *skip = &ds->skipped[i];
        fputs("{\"file\": ", s.stream);
        text_json(s.stream, skip->path);
        fputs(", \"reason\": ", s.stream);
        text_json(s.stream, skip->reason);
        if (skip->source != NULL) {
            fputs(", \"manifest\": ", s.stream);
            text_json(s.stream, skip->source);
            fprintf(s.stream, ", \"line\": %d", (int)skip->line);
        }
        fputs("}\n", s.stream);
    }
    code = sink_commit(&s);
    sink_discard(&s);
    return code;
}

void dataset_free(dataset *ds)
{
    free(ds->clips);
    free(ds->labels);
    free(ds->emotions);
    free(ds->corpora);
    free(ds->speakers);
    free(ds->skipped);
    labels_free(&ds->rules);
    intern_free(&ds->strings);
    free_index(ds);
    *ds = (dataset){0};
}
