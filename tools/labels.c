/* SPDX-License-Identifier: MIT */
#include "labels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "text.h"

const char *const labels_canonical[LABELS_CANONICAL + 1] = {
    "neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised", NULL};

/* What data sets and their papers call them, in the form of labels_normalize. The classes behind
 * the canonical ones have no place in a fixed order: they are numbered as they appear. */
static const struct {
    const char *label;
    const char *names[8];
} known[] = {
    {"neutral", {"neutral", "neu", "neut", "neutrality"}},
    {"calm", {"calm", "calmness", "relaxed"}},
    {"happy", {"happy", "happiness", "hap", "joy", "joyful"}},
    {"sad", {"sad", "sadness"}},
    {"angry", {"angry", "anger", "ang", "mad"}},
    {"fearful", {"fearful", "fear", "fea", "afraid", "scared"}},
    {"disgust", {"disgust", "disgusted", "dis"}},
    {"surprised",
     {"surprised", "surprise", "sur", "ps", "pleasant surprise", "pleasant surprised",
      "pleasantly surprised"}},
    {"boredom", {"boredom", "bored", "bor"}},
    {"contempt", {"contempt", "contemptuous"}},
    {"excited", {"excited", "excitement", "exc"}},
    {"frustrated", {"frustrated", "frustration", "fru"}},
    {"amused", {"amused", "amusement"}},
    {"sleepy", {"sleepy", "sleepiness"}},
    {"other", {"other", "oth"}},
};

enum { KNOWN = sizeof known / sizeof known[0], NAMES = sizeof known[0].names / sizeof(char *) };

bool labels_normalize(const char *text, char normal[LABELS_SIZE])
{
    size_t length = 0;
    for (text += strspn(text, " \t"); *text != '\0'; text++) {
        if (length + 1 == LABELS_SIZE) {
            return false;
        }
        char c = *text;
        if (c >= 'A' && c <= 'Z') {
            c = (char)(c - 'A' + 'a');
        }
        normal[length++] = c == '_' || c == '-' || c == '\t' ? ' ' : c;
    }
    while (length > 0 && normal[length - 1] == ' ') {
        length--;
    }
    normal[length] = '\0';
    return length > 0;
}

static const char *known_label(const char *normal)
{
    for (size_t i = 0; i < KNOWN; i++) {
        for (size_t j = 0; j < NAMES && known[i].names[j] != NULL; j++) {
            if (strcmp(known[i].names[j], normal) == 0) {
                return known[i].label;
            }
        }
    }
    return NULL;
}

static label_rule *find_rule(label_rule *rules, size_t count, const char *from)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(rules[i].from, from) == 0) {
            return &rules[i];
        }
    }
    return NULL;
}

/* The class that `normal` stands for, or NULL. */
static const char *class_of(const label_rules *rules, const char *normal)
{
    const label_rule *alias = find_rule(rules->aliases, rules->alias_count, normal);
    return alias != NULL ? alias->to : known_label(normal);
}

const char *labels_resolve(label_rules *rules, const char *text, bool *dropped)
{
    char normal[LABELS_SIZE];
    *dropped = false;
    if (!labels_normalize(text, normal)) {
        return NULL;
    }
    const char *label = class_of(rules, normal);
    label_rule *drop = find_rule(rules->drops, rules->drop_count, label != NULL ? label : normal);
    if (drop != NULL) {
        drop->hits++;
        *dropped = true;
        return NULL;
    }
    return label;
}

/* Whether `name` is nearer to `text` than *best edits; a third of its letters may differ. */
static bool nearer(const char *text, const char *name, size_t *best)
{
    size_t distance = text_distance(text, name);
    size_t length = strlen(name);
    if (distance >= *best || distance > (length > 5 ? length / 3 : 1)) {
        return false;
    }
    *best = distance;
    return true;
}

const char *labels_nearest(const label_rules *rules, const char *text, const char **label)
{
    char normal[LABELS_SIZE];
    const char *nearest = NULL;
    size_t best = LABELS_SIZE;
    if (!labels_normalize(text, normal)) {
        return NULL;
    }
    for (size_t i = 0; i < KNOWN; i++) {
        for (size_t j = 0; j < NAMES && known[i].names[j] != NULL; j++) {
            if (nearer(normal, known[i].names[j], &best)) {
                nearest = known[i].names[j];
                *label = known[i].label;
            }
        }
    }
    for (size_t i = 0; i < rules->alias_count; i++) {
        if (nearer(normal, rules->aliases[i].from, &best)) {
            nearest = rules->aliases[i].from;
            *label = rules->aliases[i].to;
        }
    }
    return nearest;
}

static void append(label_rule **list, size_t *count, const char *from, const char *to)
{
    label_rule *rules = text_alloc(*count + 1, sizeof *rules);
    if (*count > 0) {
        memcpy(rules, *list, *count * sizeof *rules);
    }
    free(*list);
    rules[*count] = (label_rule){.from = text_copy(from), .to = to != NULL ? text_copy(to) : NULL};
    *list = rules;
    ++*count;
}

/* The next name of a comma-separated list, normalized: 1; 0 at its end; -1 after a message. */
static int next_name(const char *option, const char *spec, const char **rest,
                     char name[LABELS_SIZE])
{
    if (*rest == NULL) {
        return 0;
    }
    size_t length = strcspn(*rest, ",");
    char *item = text_copy(*rest);
    item[length] = '\0';
    *rest = (*rest)[length] == ',' ? *rest + length + 1 : NULL;
    bool good = labels_normalize(item, name);
    free(item);
    if (!good) {
        message_usage("%s '%s': a label has 1 to %d characters", option, spec, LABELS_SIZE - 1);
    }
    return good ? 1 : -1;
}

/* Split "A,B=C" at '='; the caller frees `*from`. */
static int split_rule(const char *option, const char *spec, char **from, char to[LABELS_SIZE])
{
    const char *equal = strchr(spec, '=');
    if (equal == NULL || strchr(equal + 1, '=') != NULL || strchr(equal + 1, ',') != NULL ||
        !labels_normalize(equal + 1, to)) {
        return message_usage("%s '%s': not of the form FROM=TO or FROM,FROM=TO, such as "
                             "calm=neutral",
                             option, spec);
    }
    *from = text_copy(spec);
    (*from)[equal - spec] = '\0';
    return MESSAGE_EXIT_OK;
}

static const char *class_or_same(const label_rules *rules, const char *name)
{
    const char *label = class_of(rules, name);
    return label != NULL ? label : name;
}

int labels_add_alias(label_rules *rules, const char *spec)
{
    char *from = NULL;
    char to[LABELS_SIZE];
    char name[LABELS_SIZE];
    int code = split_rule("--alias", spec, &from, to);
    if (code != MESSAGE_EXIT_OK) {
        return code;
    }
    int more = 0;
    for (const char *rest = from; (more = next_name("--alias", spec, &rest, name)) > 0;) {
        const label_rule *old = find_rule(rules->aliases, rules->alias_count, name);
        const char *label = class_or_same(rules, to);
        if (old != NULL && strcmp(old->to, label) != 0) {
            message_usage("--alias '%s': '%s' stands for '%s' already", spec, name, old->to);
            more = -1;
            break;
        }
        append(&rules->aliases, &rules->alias_count, name, label);
        if (class_of(rules, label) == NULL) {
            append(&rules->aliases, &rules->alias_count, label, label);
        }
    }
    free(from);
    return more < 0 ? MESSAGE_EXIT_USAGE : MESSAGE_EXIT_OK;
}

int labels_add_merge(label_rules *rules, const char *spec)
{
    char *from = NULL;
    char to[LABELS_SIZE];
    char name[LABELS_SIZE];
    int code = split_rule("--merge", spec, &from, to);
    if (code != MESSAGE_EXIT_OK) {
        return code;
    }
    int more = 0;
    for (const char *rest = from; (more = next_name("--merge", spec, &rest, name)) > 0;) {
        const char *source = class_or_same(rules, name);
        const char *target = class_or_same(rules, to);
        if (strcmp(source, target) == 0) {
            message_usage("--merge '%s': '%s' and '%s' are the same label", spec, name, to);
            more = -1;
            break;
        }
        append(&rules->merges, &rules->merge_count, source, target);
    }
    free(from);
    return more < 0 ? MESSAGE_EXIT_USAGE : MESSAGE_EXIT_OK;
}

int labels_add_drop(label_rules *rules, const char *spec)
{
    char name[LABELS_SIZE];
    int more = 0;
    for (const char *rest = spec; (more = next_name("--drop", spec, &rest, name)) > 0;) {
        append(&rules->drops, &rules->drop_count, class_or_same(rules, name), NULL);
    }
    return more < 0 ? MESSAGE_EXIT_USAGE : MESSAGE_EXIT_OK;
}

int labels_add_name(label_rules *rules, const char *spec)
{
    char name[LABELS_SIZE];
    int more = 0;
    for (const char *rest = spec; (more = next_name("--label", spec, &rest, name)) > 0;) {
        if (class_of(rules, name) == NULL) {
            append(&rules->aliases, &rules->alias_count, name, name);
        }
    }
    return more < 0 ? MESSAGE_EXIT_USAGE : MESSAGE_EXIT_OK;
}

static void free_rules(label_rule *rules, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(rules[i].from);
        free(rules[i].to);
    }
    free(rules);
}

void labels_free(label_rules *rules)
{
    free_rules(rules->aliases, rules->alias_count);
    free_rules(rules->merges, rules->merge_count);
    free_rules(rules->drops, rules->drop_count);
    *rules = (label_rules){0};
}

char *labels_file_name(const char *label)
{
    char *name = text_alloc(3 * strlen(label) + 1, 1);
    char *end = name;
    for (; *label != '\0'; label++) {
        char c = *label;
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
            c == '_' || c == '-') {
            *end++ = c;
        } else {
            end += sprintf(end, "%%%02x", (unsigned char)c);
        }
    }
    return name;
}
