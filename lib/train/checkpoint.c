/* SPDX-License-Identifier: MIT */
/*
 * What a checkpoint holds (checkpoint_files.h says how it gets to the disk):
 *
 * - model.safetensors: the model as it is, of use on its own; frozen weights are restored from it.
 * - state.safetensors: of every trained parameter, in the flat layout of net/training.h and therefore
 *   as a list of values: weight.NAME (exact where a device computes with rounded ones), moment1.NAME,
 *   moment2.NAME and, where there is an average, average.NAME.
 * - state.json: counters, and the caller's note. With the seed in the options they place every random
 *   number: there is no generator whose state would have to be kept.
 * - manifest.json
 *
 * Reading takes every file into memory and checks it there, so that nothing can change between the
 * check and the use.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/safetensors.h"
#include "train/checkpoint_files.h"
#include "train/trainer.h"

enum { MAX_STATE = 16 << 20 /* bytes of state.json */, ARRAYS = 4 };

#define MAX_BATCHES (INT64_C(1) << 53) /* far from where counting would overflow */

static const struct {
    enum ser_training_array array;
    const char *name;
} arrays[ARRAYS] = {
    {SER_TRAINING_WEIGHT, "weight"},
    {SER_TRAINING_MOMENT1, "moment1"},
    {SER_TRAINING_MOMENT2, "moment2"},
    {SER_TRAINING_AVERAGE, "average"}, /* the last, as it may not be there */
};

static size_t array_count(const ser_trainer *t)
{
    return t->options.average > 0.0F ? ARRAYS : ARRAYS - 1;
}

static const ser_params *params_of(const ser_trainer *t)
{
    return ser_net_params(t->model->net);
}

/* The tensors of state.safetensors: entry i is arrays[i % count] of the trained parameter i / count. */
typedef struct state_list {
    const ser_trainer *trainer;
    ser_params tensors;
    size_t *parameters; /* [trained parameters] */
    size_t arrays;      /* per parameter */
} state_list;

static void clear_list(state_list *list)
{
    ser_mem_free(list->parameters);
    ser_params_clear(&list->tensors);
}

static int name_tensor(const char *array, const ser_param *param, ser_param *tensor)
{
    *tensor = (ser_param){.rank = 1, .shape = {ser_param_elements(param), 1, 1}};
    int length = snprintf(tensor->name, sizeof tensor->name, "%s.%s", array, param->name);
    return length > 0 && (size_t)length < sizeof tensor->name
               ? 0
               : ser_fail(SER_ERR_INTERNAL, "%s.%s: too long a name", array, param->name);
}

static int make_list(const ser_trainer *t, state_list *list)
{
    const ser_params *params = params_of(t);
    *list = (state_list){.trainer = t, .arrays = array_count(t)};
    list->parameters = ser_mem_alloc(params->count, sizeof *list->parameters);
    list->tensors.list = ser_mem_alloc(params->count, ARRAYS * sizeof *list->tensors.list);
    if (list->parameters == NULL || list->tensors.list == NULL) {
        clear_list(list);
        return SER_ERR_MEMORY;
    }
    size_t trained = 0;
    int status = 0;
    for (size_t i = 0; i < params->count && status == 0; i++) {
        if (!ser_training_is_trained(t->training, i)) {
            continue;
        }
        list->parameters[trained++] = i;
        for (size_t k = 0; k < list->arrays && status == 0; k++) {
            status = name_tensor(arrays[k].name, &params->list[i],
                                 &list->tensors.list[list->tensors.count++]);
        }
    }
    if (status != 0) {
        clear_list(list);
    }
    return status;
}

/* --- Writing --- */

static int get_array(const void *user, size_t index, float *values)
{
    const state_list *list = user;
    return ser_training_get(list->trainer->training, arrays[index % list->arrays].array,
                            list->parameters[index / list->arrays], values);
}

static int write_tensors(const ser_trainer *t, const char *path)
{
    static const char *const metadata[][2] = {{"format", "ser-checkpoint"}};
    state_list list;
    int status = make_list(t, &list);
    if (status == 0) {
        const ser_tensor_source source = {.params = &list.tensors,
                                          .metadata = metadata,
                                          .metadata_count = 1,
                                          .get = get_array,
                                          .user = &list};
        status = ser_safetensors_write(path, &source);
        clear_list(&list);
    }
    return status;
}

static int write_state(const ser_trainer *t, const ser_checkpoint_place *place, const char *note)
{
    ser_record state;
    int status = ser_record_create(SER_CHECKPOINT_STATE, &state);
    const struct {
        const char *key;
        int64_t value;
    } integers[] = {{"version", SER_CHECKPOINT_VERSION},
                    {"step", t->step},
                    {"batches", t->batches},
                    {"updates", (int64_t)ser_training_updates(t->training)}};
    for (size_t i = 0; i < sizeof integers / sizeof integers[0] && status == 0; i++) {
        status = ser_record_put_integer(&state, integers[i].key, integers[i].value);
    }
    if (status == 0) {
        status = ser_record_put_number(&state, "rate_factor", t->rate_factor);
    }
    if (status == 0) {
        status = ser_record_put_number(&state, "average", (double)t->options.average);
    }
    if (status == 0) {
        status = ser_record_put_integer(&state, "library", SER_VERSION_NUMBER);
    }
    if (status == 0 && note != NULL) {
        status = ser_record_put_text(&state, "note", note);
    }
    if (status == 0) {
        status = ser_checkpoint_write_record(place, &state, SER_CHECKPOINT_STATE);
    }
    ser_record_clear(&state);
    return status;
}

static int write_files(const ser_trainer *t, const ser_checkpoint_place *place, const char *note)
{
    char *model = ser_checkpoint_file(place, SER_CHECKPOINT_MODEL);
    char *tensors = ser_checkpoint_file(place, SER_CHECKPOINT_TENSORS);
    int status = model != NULL && tensors != NULL ? 0 : SER_ERR_MEMORY;
    /* The smallest first: a note that cannot be written is known at once. */
    if (status == 0) {
        status = write_state(t, place, note);
    }
    if (status == 0) {
        status = ser_model_write(t->model, NULL, model);
    }
    if (status == 0) {
        status = write_tensors(t, tensors);
    }
    ser_mem_free(model);
    ser_mem_free(tensors);
    return status == 0 ? ser_checkpoint_seal(place) : status;
}

int ser_checkpoint_write(ser_trainer *trainer, const char *path, const char *note)
{
    ser_checkpoint_place place;
    int status = ser_checkpoint_place_open(path, &place);
    if (status != 0) {
        return status;
    }
    status = ser_checkpoint_begin(&place);
    if (status == 0) {
        status = write_files(trainer, &place, note);
    }
    if (status == 0) {
        status = ser_checkpoint_publish(&place, true);
    }
    ser_checkpoint_place_close(&place);
    return status;
}

/* --- Reading --- */

/* A checkpoint in memory, each file checked against the manifest. */
typedef struct contents {
    char *directory, *manifest_name, *state_name; /* owned */
    ser_record manifest, state;
    unsigned char *bytes[2]; /* of the two files below */
    ser_safetensors model, tensors;
    int64_t step, batches, updates;
    double rate_factor, average;
    char *note; /* owned, or NULL */
} contents;

static const contents no_contents = {.model = {.file = {.fd = -1}},
                                     .tensors = {.file = {.fd = -1}}};

static void clear_contents(contents *c)
{
    ser_safetensors_close(&c->model);
    ser_safetensors_close(&c->tensors);
    ser_record_clear(&c->manifest);
    ser_record_clear(&c->state);
    ser_mem_free(c->bytes[0]);
    ser_mem_free(c->bytes[1]);
    ser_mem_free(c->directory);
    ser_mem_free(c->manifest_name);
    ser_mem_free(c->state_name);
    ser_mem_free(c->note);
    *c = no_contents;
}

static int parse_state(contents *c)
{
    const ser_record *state = &c->state;
    const char *note = NULL;
    int status = ser_record_integer(state, "step", 0, &c->step);
    status = status == 0 ? ser_record_integer(state, "batches", 0, &c->batches) : status;
    status = status == 0 ? ser_record_integer(state, "updates", 0, &c->updates) : status;
    status = status == 0 ? ser_record_number(state, "rate_factor", &c->rate_factor) : status;
    status = status == 0 ? ser_record_number(state, "average", &c->average) : status;
    if (status == 0 && ser_record_has(state, "note")) {
        status = ser_record_text(state, "note", &note);
    }
    if (status == 0 && note != NULL) {
        c->note = ser_mem_strdup(note);
        status = c->note != NULL ? 0 : SER_ERR_MEMORY;
    }
    return status;
}

static int load_state(contents *c)
{
    unsigned char *text = NULL;
    size_t size = 0;
    c->state_name = ser_mem_format("%s/%s", c->directory, SER_CHECKPOINT_STATE);
    if (c->state_name == NULL) {
        return SER_ERR_MEMORY;
    }
    int status = ser_checkpoint_load(c->directory, &c->manifest, SER_CHECKPOINT_STATE, MAX_STATE,
                                     &text, &size);
    if (status == 0) {
        status = ser_record_parse(c->state_name, (const char *)text, size, &c->state);
    }
    ser_mem_free(text);
    return status == 0 ? parse_state(c) : status;
}

/* One of the two files of tensors. `weights` bounds its size before memory is taken. */
static int load_tensors(const contents *c, const char *file, uint64_t weights,
                        unsigned char **bytes, ser_safetensors *tensors)
{
    size_t size = 0;
    int status = ser_checkpoint_load(c->directory, &c->manifest, file,
                                     SER_MAX_HEADER + weights * sizeof(float), bytes, &size);
    if (status != 0) {
        return status;
    }
    ser_file memory;
    char *name = ser_mem_format("%s/%s", c->directory, file);
    status = name != NULL ? ser_file_wrap(*bytes, size, name, &memory) : SER_ERR_MEMORY;
    ser_mem_free(name);
    return status == 0 ? ser_safetensors_open(&memory, SER_MAX_HEADER, tensors) : status;
}

static int load(const ser_trainer *t, const char *directory, contents *c)
{
    const uint64_t weights = t->model->parameter_count;
    *c = no_contents;
    c->directory = ser_mem_strdup(directory);
    int status = c->directory != NULL ? 0 : SER_ERR_MEMORY;
    if (status == 0) {
        status = ser_checkpoint_read_manifest(directory, &c->manifest, &c->manifest_name);
    }
    if (status == 0) {
        status = load_state(c);
    }
    if (status == 0) {
        status = load_tensors(c, SER_CHECKPOINT_MODEL, weights, &c->bytes[0], &c->model);
    }
    if (status == 0) {
        status =
            load_tensors(c, SER_CHECKPOINT_TENSORS, ARRAYS * weights, &c->bytes[1], &c->tensors);
    }
    if (status != 0) {
        clear_contents(c);
    }
    return status;
}

/* --- Finding --- */

typedef struct search {
    const ser_trainer *trainer;
    const ser_checkpoint_place *place;
    contents best;
} search;

/* A sibling that cannot be read is not a complete checkpoint: passed over. */
static void try_sibling(void *user, const char *name)
{
    search *s = user;
    contents found;
    char *directory = ser_checkpoint_sibling(s->place, name);
    if (directory != NULL && load(s->trainer, directory, &found) == 0) {
        contents *worse = &found;
        if (s->best.directory == NULL || found.batches > s->best.batches) {
            contents old = s->best;
            s->best = found;
            found = old;
        }
        clear_contents(worse);
    }
    ser_mem_free(directory);
}

static bool is_missing(const char *path)
{
    struct stat st;
    return lstat(path, &st) != 0 && errno == ENOENT;
}

/* `path`, or what a killed save has left beside it (checkpoint_files.h). */
static int find(const ser_trainer *t, const char *path, contents *c)
{
    ser_checkpoint_place place;
    *c = no_contents;
    if (!is_missing(path)) {
        return load(t, path, c);
    }
    int status = ser_checkpoint_place_open(path, &place);
    if (status != 0) {
        return status;
    }
    search s = {.trainer = t, .place = &place, .best = no_contents};
    status = ser_checkpoint_each_sibling(&place, try_sibling, &s);
    if (status == 0 && s.best.directory == NULL) {
        status = ser_fail(SER_ERR_IO, "%s: there is no checkpoint", path);
    }
    if (status == 0) {
        *c = s.best;
        ser_log(SER_LOG_WARNING, "%s is missing; the checkpoint is read from %s", path,
                c->directory);
    }
    ser_checkpoint_place_close(&place);
    return status;
}

/* --- Checking --- */

/* What must be the same, as text; to be freed with ser_mem_free. NULL when out of memory. */
static char *essence(const ser_config *config)
{
    ser_config copy = *config;
    copy.training = NULL;
    return ser_config_print(&copy);
}

static bool same_labels(const ser_config *a, const ser_config *b)
{
    bool same = a->label_count == b->label_count;
    for (size_t k = 0; same && k < a->label_count; k++) {
        same = strcmp(a->labels[k], b->labels[k]) == 0;
    }
    return same;
}

static int compare_configs(const ser_config *own, const ser_config *other, const char *name)
{
    if (!same_labels(own, other)) {
        return ser_fail(SER_ERR_MISMATCH, "%s: its labels are not the model's", name);
    }
    char *a = essence(own);
    char *b = essence(other);
    int status = a != NULL && b != NULL ? 0 : SER_ERR_MEMORY;
    if (status == 0 && strcmp(a, b) != 0) {
        status = ser_fail(SER_ERR_MISMATCH,
                          "%s: its architecture or audio front end is not the model's", name);
    }
    ser_mem_free(a);
    ser_mem_free(b);
    return status;
}

static int check_config(const ser_trainer *t, const ser_safetensors *model)
{
    const char *text = ser_safetensors_metadata(model, "config");
    if (text == NULL) {
        return ser_fail(SER_ERR_FORMAT, "%s: no config in its metadata", model->file.name);
    }
    ser_config config;
    int status = ser_config_parse(model->file.name, text, strlen(text), &config);
    if (status == 0) {
        status = compare_configs(&t->model->config, &config, model->file.name);
        ser_config_clear(&config);
    }
    return status;
}

/* Every tensor is there, f32 and of the right size, and there are no others. */
static int check_tensors(const ser_safetensors *file, const ser_params *params)
{
    for (size_t i = 0; i < params->count; i++) {
        const ser_param *param = &params->list[i];
        const ser_tensor_entry *entry = ser_safetensors_find(file, param->name);
        if (entry == NULL) {
            return ser_fail(SER_ERR_MISMATCH, "%s: %s is missing", file->file.name, param->name);
        }
        if (strcmp(entry->dtype, "F32") != 0 ||
            entry->elements != (uint64_t)ser_param_elements(param)) {
            return ser_fail(SER_ERR_MISMATCH, "%s: %s is %llu values of %s, not %lld of F32",
                            file->file.name, param->name, (unsigned long long)entry->elements,
                            entry->dtype, (long long)ser_param_elements(param));
        }
    }
    return file->count == params->count
               ? 0
               : ser_fail(SER_ERR_MISMATCH,
                          "%s: %zu tensors, not %zu: other parameters were trained",
                          file->file.name, file->count, params->count);
}

static int check(const ser_trainer *t, const contents *c, const state_list *list)
{
    if ((c->average > 0.0) != (t->options.average > 0.0F)) {
        return ser_fail(SER_ERR_MISMATCH, "%s: average is %g, but the trainer's is %g",
                        c->state_name, c->average, (double)t->options.average);
    }
    if (!(c->rate_factor >= 0.0 && c->rate_factor <= 1e6)) { /* as ser_trainer_set_rate */
        return ser_fail(SER_ERR_FORMAT, "%s: rate_factor is %g, not within 0..1e6", c->state_name,
                        c->rate_factor);
    }
    if (c->step > INT32_MAX || c->updates > INT32_MAX || c->batches > MAX_BATCHES) {
        return ser_fail(SER_ERR_FORMAT, "%s: step, updates or batches out of range", c->state_name);
    }
    int status = check_config(t, &c->model);
    if (status == 0) {
        status = check_tensors(&c->model, params_of(t));
    }
    return status == 0 ? check_tensors(&c->tensors, &list->tensors) : status;
}

/* --- Applying --- */

/* Values of a tensor that check_tensors has seen. */
static int read_values(const ser_safetensors *file, const char *name, float *values)
{
    return ser_safetensors_read(file, ser_safetensors_find(file, name), values);
}

/* Weights that are not trained, where they differ; `values` has room for two of any. */
static int apply_frozen(ser_trainer *t, const contents *c, float *values, size_t room)
{
    const ser_params *params = params_of(t);
    ser_net *net = t->model->net;
    bool changed = false;
    int status = 0;
    for (size_t i = 0; i < params->count && status == 0; i++) {
        const size_t count = (size_t)ser_param_elements(&params->list[i]);
        if (ser_training_is_trained(t->training, i)) {
            continue;
        }
        status = read_values(&c->model, params->list[i].name, values);
        if (status == 0) {
            status = ser_net_get(net, i, values + room);
        }
        if (status == 0 && memcmp(values, values + room, count * sizeof *values) != 0) {
            status = ser_net_set(net, i, values);
            changed = true;
        }
    }
    return status == 0 && changed ? ser_net_finish(net) : status;
}

static int apply_trained(ser_trainer *t, const contents *c, const state_list *list, float *values)
{
    int status = 0;
    for (size_t i = 0; i < list->tensors.count && status == 0; i++) {
        status = read_values(&c->tensors, list->tensors.list[i].name, values);
        if (status == 0) {
            status = ser_training_set(t->training, arrays[i % list->arrays].array,
                                      list->parameters[i / list->arrays], values);
        }
    }
    return status == 0 ? ser_training_resume(t->training, (uint64_t)c->updates) : status;
}

static size_t largest(const ser_params *params)
{
    size_t most = 0;
    for (size_t i = 0; i < params->count; i++) {
        size_t count = (size_t)ser_param_elements(&params->list[i]);
        most = count > most ? count : most;
    }
    return most;
}

static int apply(ser_trainer *t, contents *c, const state_list *list)
{
    const size_t room = largest(params_of(t));
    float *values = ser_mem_alloc_raw(room, 2 * sizeof *values);
    int status = values != NULL ? apply_frozen(t, c, values, room) : SER_ERR_MEMORY;
    if (status == 0) {
        status = apply_trained(t, c, list, values);
    }
    ser_mem_free(values);
    if (status == 0) {
        t->step = c->step;
        t->batches = c->batches;
        t->rate_factor = c->rate_factor;
        ser_mem_free(t->note);
        t->note = c->note;
        c->note = NULL;
    }
    return status;
}

int ser_checkpoint_read(ser_trainer *trainer, const char *path)
{
    contents c;
    state_list list;
    int status = find(trainer, path, &c);
    if (status != 0) {
        return status;
    }
    status = make_list(trainer, &list);
    if (status == 0) {
        status = check(trainer, &c, &list);
        if (status == 0) {
            status = apply(trainer, &c, &list);
        }
        clear_list(&list);
    }
    clear_contents(&c);
    return status;
}
