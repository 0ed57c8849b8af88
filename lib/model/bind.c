/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/json.h"
#include "model/tensors.h"

enum {
    NAME_SIZE = SER_PARAM_NAME_SIZE + 32,
    PREVIEW_SIZE = 90,
    MAX_LISTED = 10,
    OWN_PREFIX = sizeof "wav2vec2." - 1, /* of every parameter that is not of the head */
};

/* What does not match, for one message at the end. */
typedef struct report {
    char text[1600];
    size_t used;
    size_t faults;
} report;

static void note(report *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void note(report *r, const char *format, ...)
{
    if (r->faults++ >= MAX_LISTED) {
        return;
    }
    va_list args;
    va_start(args, format);
    size_t room = sizeof r->text - r->used;
    int n = snprintf(r->text + r->used, room, "%s", r->used > 0 ? "; " : "");
    if (n >= 0 && (size_t)n < room) {
        r->used += (size_t)n;
        room -= (size_t)n;
        n = vsnprintf(r->text + r->used, room, format, args);
        r->used += n >= 0 && (size_t)n < room ? (size_t)n : 0;
    }
    va_end(args);
}

/* How the file may spell a parameter: one name, or two for the weight norm's factors. */
typedef struct spellings {
    char name[2][NAME_SIZE];
    int count;
} spellings;

static void spell_head(const char *name, spellings *s)
{
    static const char *const foreign[][2] = {
        {"layer_mix.weight", "layer_weights"},    {"classifier.0.weight", "projector.weight"},
        {"classifier.0.bias", "projector.bias"},  {"classifier.1.weight", "classifier.weight"},
        {"classifier.1.bias", "classifier.bias"},
    };
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        if (strcmp(name, foreign[i][0]) == 0) {
            (void)snprintf(s->name[0], NAME_SIZE, "%s", foreign[i][1]);
        }
    }
}

static spellings spell(const ser_param *param, const ser_naming *naming)
{
    spellings s = {.count = 1};
    if (param->head) {
        (void)snprintf(s.name[0], NAME_SIZE, "%s", param->name);
        if (naming->foreign_head) {
            spell_head(param->name, &s);
        }
        return s;
    }
    (void)snprintf(s.name[0], NAME_SIZE, "%s%s", naming->prefix, param->name + OWN_PREFIX);
    if (param->role == SER_PARAM_POSITION_G || param->role == SER_PARAM_POSITION_V) {
        /* "...weight_g" -> "...parametrizations.weight.original0": PyTorch since 2.0 */
        int stem = (int)(strlen(s.name[0]) - strlen("weight_g"));
        (void)snprintf(s.name[1], NAME_SIZE, "%.*sparametrizations.weight.original%d", stem,
                       s.name[0], param->role == SER_PARAM_POSITION_V);
        s.count = 2;
    }
    return s;
}

static void print_shape(char *text, size_t size, const uint64_t *shape, int32_t rank)
{
    size_t used = 0;
    text[0] = '\0';
    for (int32_t i = 0; i < rank && used + 1 < size; i++) {
        int n = snprintf(text + used, size - used, "%s%" PRIu64, i > 0 ? ", " : "", shape[i]);
        used += n > 0 ? (size_t)n : 0;
    }
}

static void check_shape(const ser_param *param, const ser_tensor_entry *entry, report *r)
{
    bool same = entry->rank == param->rank;
    uint64_t wanted[3] = {0};
    for (int32_t i = 0; i < param->rank; i++) {
        wanted[i] = (uint64_t)param->shape[i];
        same = same && entry->shape[i] == wanted[i];
    }
    if (!same) {
        char is[200];
        char must_be[80];
        print_shape(is, sizeof is, entry->shape, entry->rank);
        print_shape(must_be, sizeof must_be, wanted, param->rank);
        note(r, "%s has the shape [%s], not [%s]", entry->name, is, must_be);
    }
}

/* Bind one parameter; the tensors that it uses are marked. */
static int bind_param(const ser_tensors *tensors, const ser_param *param, const ser_naming *naming,
                      bool *used, ser_tensor_ref *bound, report *r)
{
    spellings s = spell(param, naming);
    const ser_tensor_ref *found = NULL;
    for (int i = 0; i < s.count; i++) {
        const ser_tensor_ref *ref = ser_tensors_find(tensors, s.name[i]);
        if (ref == NULL) {
            continue;
        }
        used[ref - tensors->list] = true;
        if (found != NULL) {
            note(r, "%s is there a second time as %s", found->entry->name, s.name[i]);
        }
        found = ref;
    }
    if (found == NULL) {
        note(r, "%s is missing", s.name[0]);
        return 0;
    }
    check_shape(param, found->entry, r);
    if (!ser_tensor_is_readable(found->entry)) {
        return ser_fail(SER_ERR_UNSUPPORTED, "%s: tensor \"%s\" is %s; F32, F16 and BF16 are read",
                        found->file->file.name, found->entry->name, found->entry->dtype);
    }
    *bound = *found;
    return 0;
}

static bool matches(const char *name, const char *pattern)
{
    size_t length = strlen(pattern);
    if (length > 0 && pattern[length - 1] == '*') {
        return strncmp(name, pattern, length - 1) == 0;
    }
    return strcmp(name, pattern) == 0;
}

/* The pattern that lets a tensor be there that no parameter needs; NULL if none does. */
static const char *find_extra(const char *name, const ser_naming *naming)
{
    static const char in_training_only[] = "masked_spec_embed";
    size_t prefix = strlen(naming->prefix);
    if (strncmp(name, naming->prefix, prefix) == 0 &&
        strcmp(name + prefix, in_training_only) == 0) {
        return in_training_only;
    }
    for (const char *const *pattern = naming->extras; pattern != NULL && *pattern != NULL;
         pattern++) {
        if (matches(name, *pattern)) {
            return *pattern;
        }
    }
    return NULL;
}

/* What was left aside, by pattern: the tensors come sorted by name, so equals stand together. */
static void list_skipped(const ser_tensors *tensors, const bool *used, const ser_naming *naming)
{
    report skipped = {.used = 0};
    const char *last = NULL;
    size_t count = 0;
    for (size_t i = 0; i < tensors->count; i++) {
        const char *extra = used[i] ? NULL : find_extra(tensors->list[i].entry->name, naming);
        if (extra != NULL && extra != last) {
            note(&skipped, "%s", extra);
            last = extra;
        }
        count += extra != NULL;
    }
    if (count > 0) {
        ser_log(SER_LOG_INFO, "%s: %zu tensors not needed: %s%s", tensors->name, count,
                skipped.text, skipped.faults > MAX_LISTED ? " ..." : "");
    }
}

/* A head that other programs write under the same class name. */
static const char *explain(const ser_tensors *tensors)
{
    return ser_tensors_find(tensors, "classifier.dense.weight") != NULL &&
                   ser_tensors_find(tensors, "classifier.output.weight") != NULL
               ? " (classifier.dense and classifier.output are the head of a custom class, not of "
                 "...ForSequenceClassification: its weights cannot be used)"
               : "";
}

int ser_tensors_bind(const ser_tensors *tensors, const ser_params *params, const ser_naming *naming,
                     ser_tensor_ref *bound)
{
    report r = {.used = 0};
    bool *used = ser_mem_alloc(tensors->count, sizeof used[0]);
    int status = used != NULL ? 0 : SER_ERR_MEMORY;
    for (size_t i = 0; i < params->count && status == 0; i++) {
        bound[i] = (ser_tensor_ref){0};
        if (!params->list[i].head || !naming->skip_head) {
            status = bind_param(tensors, &params->list[i], naming, used, &bound[i], &r);
        }
    }
    for (size_t i = 0; i < tensors->count && status == 0; i++) {
        const char *name = tensors->list[i].entry->name;
        if (!used[i] && find_extra(name, naming) == NULL) {
            char preview[PREVIEW_SIZE];
            note(&r, "%s is unknown", ser_text_preview(name, preview, sizeof preview));
        }
    }
    if (status == 0 && r.faults == 0) {
        list_skipped(tensors, used, naming);
    }
    ser_mem_free(used);
    if (status == 0 && r.faults > 0) {
        char more[40] = "";
        if (r.faults > MAX_LISTED) {
            (void)snprintf(more, sizeof more, "; and %zu more", r.faults - MAX_LISTED);
        }
        return ser_fail(SER_ERR_MISMATCH, "%s: the tensors do not fit the configuration: %s%s%s",
                        tensors->name, r.text, more, explain(tensors));
    }
    return status;
}
