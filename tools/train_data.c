/* SPDX-License-Identifier: MIT */
#include "train_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "datareport.h"
#include "manifest.h"
#include "message.h"
#include "progress.h"
#include "stop.h"
#include "text.h"

static int add_rules(const train_options *o, label_rules *rules)
{
    const struct {
        const cli_words *words;
        int (*add)(label_rules *, const char *);
    } kinds[] = {{&o->aliases, labels_add_alias},
                 {&o->merges, labels_add_merge},
                 {&o->drops, labels_add_drop}};
    int code = 0;
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        for (size_t i = 0; code == 0 && i < kinds[k].words->count; i++) {
            code = kinds[k].add(rules, kinds[k].words->items[i]);
        }
    }
    return code;
}

static int add_manifest(const train_options *o, dataset *ds, const char *file)
{
    const char *word = o->delimiter != NULL ? o->delimiter : ",";
    manifest_options options = {
        .root = o->manifest_root,
        .group_column = o->group_column,
        .delimiter = word[0] == 't' ? '\t' : word[0],
        .confine = o->confine != 0,
        .skip_bad = o->skip_bad != 0,
    };
    return dataset_add_manifest(ds, file, &options);
}

static int add_corpora(const train_options *o, dataset *ds)
{
    int code = 0;
    for (size_t i = 0; code == 0 && i < o->datasets.count; i++) {
        char *name = text_copy(o->datasets.items[i]);
        char *place = strchr(name, '=');
        *place++ = '\0';
        code = strcmp(name, "manifest") == 0 ? add_manifest(o, ds, place)
                                             : dataset_add_preset(ds, name, place);
        free(name);
    }
    return code;
}

static int check_repeats(const train_options *o, const dataset *ds)
{
    for (size_t i = 0; i < o->repeats.count; i++) {
        const char *word = o->repeats.items[i];
        size_t length = strcspn(word, "=");
        bool known = false;
        for (size_t c = 0; c < ds->corpus_count; c++) {
            const char *name = ds->corpora[c].name;
            known = known || (strlen(name) == length && strncmp(name, word, length) == 0);
        }
        if (!known) {
            return message_usage("--repeat %s: no such corpus in this run", word);
        }
    }
    return 0;
}

static void show_scan(size_t done, size_t total, void *user)
{
    (void)total;
    progress_update(user, (int64_t)done, "reading all clips once");
}

static int scan_clips(const train_options *o, train_data *data)
{
    progress bar;
    scan_options options;
    scan_options_init(&options);
    options.threads = (size_t)o->loader_threads;
    options.progress = show_scan;
    options.user = &bar;
    options.stop = stop_requested;
    progress_start(&bar, !o->quiet && !o->no_progress, STDERR_FILENO, "clips",
                   (int64_t)data->set.count);
    int status = scan_run(&data->set, &options, &data->audio);
    progress_end(&bar);
    if (stop_requested() != 0) {
        return 128 + stop_requested();
    }
    if (status != 0) {
        message_error("%s", ser_error_message());
        return message_exit_code(status);
    }
    return scan_check(&data->audio, &data->set, o->skip_bad != 0);
}

int train_data_load(const train_options *o, train_data *data)
{
    int code = add_rules(o, &data->set.rules);
    if (code == 0) {
        code = add_corpora(o, &data->set);
    }
    if (code == 0) {
        code = dataset_finish(&data->set);
    }
    if (code == 0) {
        code = check_repeats(o, &data->set);
    }
    return code == 0 ? scan_clips(o, data) : code;
}

static bool has_column(const dataset *ds)
{
    for (size_t i = 0; i < ds->count; i++) {
        if (ds->clips[i].split != DATASET_NO_SPLIT) {
            return true;
        }
    }
    return false;
}

int train_data_split(const train_options *o, const train_data *data, train_split *s)
{
    *s = (train_split){0};
    const char *text = o->split;
    if (text == NULL && o->eval_only) {
        text = "none";
    } else if (text == NULL) {
        text = has_column(&data->set) ? "column" : o->cv ? "emobox6" : "emobox6:1";
    }
    if (strcmp(text, "none") == 0) {
        s->all = true;
        return 0;
    }
    int code = split_parse(text, &s->spec);
    s->spec.validation_none = o->validation == TRAIN_VALIDATION_NONE;
    return code;
}

static int put_all(const train_data *data, dataset_part part, split *s)
{
    s->parts = text_alloc(data->set.count, sizeof *s->parts);
    memset(s->parts, (int)part, data->set.count);
    s->counts[part] = data->set.count;
    s->name = text_copy("none");
    char *text = text_copy("");
    for (size_t i = 0; i < data->set.corpus_count; i++) {
        char *longer = text_join(text, i > 0 ? ", " : "", data->set.corpora[i].name);
        free(text);
        text = longer;
    }
    s->protocol = text_join(text,
                            part == DATASET_TEST
                                ? ": all clips are scored, by a model of which this run does not "
                                  "know what it was trained on"
                                : ": all clips train, nothing is tested",
                            "");
    s->speaker_independent = true; /* of what is known */
    free(text);
    return 0;
}

int train_fold_make(const train_options *o, const train_data *data, const train_split *s,
                    dataset_part whole, train_fold *fold)
{
    *fold = (train_fold){0};
    int code = s->all ? put_all(data, whole, &fold->split)
                      : split_apply(&s->spec, &data->set, &fold->split);
    if (code != 0) {
        return code;
    }
    leaks_find(&data->set, fold->split.parts, &data->audio, &fold->leaks);
    code = leaks_check(&fold->leaks, &data->set, fold->split.parts, o->allow_leaks != 0);
    return code == 0 && !o->eval_only ? split_check(&fold->split, &data->set, !s->all) : code;
}

void train_fold_free(train_fold *fold)
{
    split_free(&fold->split);
}

/* The model's class for each of the data set's labels. */
static int match_labels(train_data *data, const ser_model *model)
{
    const dataset *ds = &data->set;
    data->label_of = text_alloc(ds->label_count, sizeof *data->label_of);
    for (size_t i = 0; i < ds->label_count; i++) {
        size_t k = 0;
        while (k < data->label_count && strcmp(ds->labels[i], data->labels[k]) != 0) {
            k++;
        }
        if (k == data->label_count) {
            message_error("%s: the model has no class '%s', which the clips have; --merge or "
                          "--drop it",
                          ser_model_path(model), ds->labels[i]);
            return MESSAGE_EXIT_DATA;
        }
        data->label_of[i] = (int32_t)k;
    }
    return 0;
}

static void forget_binding(train_data *data)
{
    for (size_t i = 0; i < data->label_count; i++) {
        free((char *)(uintptr_t)data->labels[i]);
    }
    free(data->labels);
    free(data->label_of);
    free(data->masks);
    free(data->restricted);
    data->labels = NULL;
    data->label_count = 0;
    data->label_of = NULL;
    data->masks = NULL;
    data->restricted = NULL;
}

static bool is_bound(const train_data *data, const ser_model *model)
{
    bool same = data->masks != NULL && data->label_count == ser_model_label_count(model);
    for (size_t i = 0; same && i < data->label_count; i++) {
        same = strcmp(data->labels[i], ser_model_label(model, i)) == 0;
    }
    return same;
}

int train_data_bind(train_data *data, const ser_model *model)
{
    const dataset *ds = &data->set;
    if (is_bound(data, model)) {
        return 0; /* scores point to the masks */
    }
    forget_binding(data);
    size_t count = ser_model_label_count(model);
    data->labels = text_alloc(count, sizeof *data->labels);
    for (size_t i = 0; i < count; i++) {
        data->labels[i] = text_copy(ser_model_label(model, i));
    }
    data->label_count = count;
    int code = match_labels(data, model);
    if (code != 0) {
        return code;
    }
    data->masks = text_alloc(ds->corpus_count * count, sizeof *data->masks);
    data->restricted = text_alloc(ds->corpus_count, sizeof *data->restricted);
    for (size_t c = 0; c < ds->corpus_count; c++) {
        size_t allowed = 0;
        for (size_t i = 0; i < ds->label_count; i++) {
            bool has = (ds->corpora[c].label_mask >> i & 1) != 0;
            allowed += has;
            data->masks[c * count + (size_t)data->label_of[i]] |= has;
        }
        data->restricted[c] = allowed < count;
    }
    return 0;
}

int32_t train_data_label(const train_data *data, size_t clip)
{
    return data->label_of[data->set.clips[clip].label];
}

const uint8_t *train_data_mask(const train_data *data, size_t clip)
{
    size_t corpus = (size_t)data->set.clips[clip].corpus;
    return data->restricted[corpus] ? data->masks + corpus * data->label_count : NULL;
}

size_t *train_data_clips(const train_data *data, const split *s, dataset_part part, size_t *count)
{
    size_t *clips = text_alloc(s->counts[part] + 1, sizeof *clips);
    *count = 0;
    for (size_t i = 0; i < data->set.count; i++) {
        if (s->parts[i] == part) {
            clips[(*count)++] = i;
        }
    }
    return clips;
}

void train_data_free(train_data *data)
{
    forget_binding(data);
    scan_free(&data->audio);
    dataset_free(&data->set);
}
