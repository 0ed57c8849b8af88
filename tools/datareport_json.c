/* SPDX-License-Identifier: MIT */
#include "datareport.h"

#include <stdlib.h>

#include "text.h"

/* Names of files may hold bytes that are no text: \xHH. */
static json_t *text_value(const char *text)
{
    char *safe = text_printable(text);
    json_t *value = json_string(safe);
    free(safe);
    return value;
}

static json_t *size_value(size_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *group_object(const data_report *r, const data_group *g)
{
    json_t *o = json_object();
    json_object_set_new(o, "clips", size_value(g->clips));
    for (int part = 0; r->fold != NULL && part < DATASET_PARTS; part++) {
        json_object_set_new(o, dataset_part_names[part], size_value(g->parts[part]));
    }
    if (r->audio != NULL) {
        json_object_set_new(o, "seconds", json_real(g->seconds));
    }
    return o;
}

static json_t *corpora_array(const data_report *r, const data_facts *facts)
{
    const dataset *ds = r->data;
    json_t *list = json_array();
    for (size_t i = 0; i < ds->corpus_count; i++) {
        json_t *o = group_object(r, &facts->corpora[i]);
        json_t *labels = json_object();
        for (size_t j = 0; j < ds->label_count; j++) {
            size_t clips = facts->corpus_labels[i * ds->label_count + j].clips;
            if ((ds->corpora[i].label_mask >> j & 1U) != 0) {
                json_object_set_new(labels, ds->labels[j], size_value(clips));
            }
        }
        json_object_set_new(o, "name", text_value(ds->corpora[i].name));
        json_object_set_new(o, "source", text_value(ds->corpora[i].source));
        json_object_set_new(o, "speakers", size_value(facts->corpus_speakers[i]));
        json_object_set_new(o, "labels", labels);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *labels_array(const data_report *r, const data_facts *facts)
{
    json_t *list = json_array();
    for (size_t i = 0; i < r->data->label_count; i++) {
        json_t *o = group_object(r, &facts->labels[i]);
        json_object_set_new(o, "label", text_value(r->data->labels[i]));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *speakers_array(const data_report *r, const data_facts *facts)
{
    const dataset *ds = r->data;
    json_t *list = json_array();
    for (size_t c = 0; c < ds->corpus_count; c++) {
        size_t count = 0;
        int32_t *sorted = dataset_speakers_sorted(ds, (int32_t)c, &count);
        for (size_t i = 0; i < count; i++) {
            json_t *o = group_object(r, &facts->speakers[sorted[i]]);
            json_object_set_new(o, "corpus", text_value(ds->corpora[c].name));
            json_object_set_new(o, "speaker", text_value(ds->speakers[sorted[i]].name));
            json_array_append_new(list, o);
        }
        free(sorted);
    }
    return list;
}

static json_t *quantiles_object(const double quantiles[DATA_QUANTILES])
{
    static const char *const names[DATA_QUANTILES] = {"min", "p5", "median", "p95", "max"};
    json_t *o = json_object();
    for (size_t i = 0; i < DATA_QUANTILES; i++) {
        json_object_set_new(o, names[i], json_real(quantiles[i]));
    }
    return o;
}

static json_t *flags_object(const data_report *r, const data_facts *facts)
{
    json_t *o = json_object();
    for (size_t bit = 0; bit < DATA_FLAGS; bit++) {
        json_t *examples = json_array();
        for (size_t i = 0; i < facts->flags[bit] && i < DATA_EXAMPLES; i++) {
            const char *path = r->data->clips[facts->flag_examples[bit][i]].path;
            json_array_append_new(examples, text_value(path));
        }
        json_t *entry = json_object();
        json_object_set_new(entry, "clips", size_value(facts->flags[bit]));
        json_object_set_new(entry, "examples", examples);
        json_object_set_new(o, data_flag_name(bit), entry);
    }
    return o;
}

static json_t *unreadable_array(const data_report *r)
{
    json_t *list = json_array();
    for (size_t i = 0; i < r->audio->count; i++) {
        const scan_entry *e = &r->audio->entries[i];
        if (e->done && e->status != 0) {
            json_t *o = json_object();
            json_object_set_new(o, "file", text_value(r->data->clips[i].path));
            json_object_set_new(o, "reason", text_value(e->error));
            json_array_append_new(list, o);
        }
    }
    return list;
}

static json_t *audio_object(const data_report *r, const data_facts *facts)
{
    json_t *o = json_object();
    json_t *rates = json_object();
    for (size_t i = 0; i < facts->rate_count; i++) {
        char name[TEXT_NUMBER_SIZE];
        snprintf(name, sizeof name, "%d", (int)facts->rates[i]);
        json_object_set_new(rates, name, size_value(facts->rate_clips[i]));
    }
    if (facts->other_rates > 0) {
        json_object_set_new(rates, "other", size_value(facts->other_rates));
    }
    json_object_set_new(o, "seconds", json_real(facts->all.seconds));
    json_object_set_new(o, "clip_seconds", quantiles_object(facts->durations));
    json_object_set_new(o, "level_dbfs", quantiles_object(facts->levels));
    json_object_set_new(o, "sampling_rates", rates);
    json_object_set_new(o, "mono", size_value(facts->mono));
    json_object_set_new(o, "stereo", size_value(facts->stereo));
    json_object_set_new(o, "duplicates", size_value(facts->duplicates));
    json_object_set_new(o, "flags", flags_object(r, facts));
    json_object_set_new(o, "unreadable", unreadable_array(r));
    return o;
}

static json_t *split_object(const split *s)
{
    json_t *o = json_object();
    json_object_set_new(o, "name", text_value(s->name));
    json_object_set_new(o, "protocol", text_value(s->protocol));
    json_object_set_new(o, "speaker_independent", json_boolean(s->speaker_independent));
    for (int part = 0; part < DATASET_PARTS; part++) {
        json_object_set_new(o, dataset_part_names[part], size_value(s->counts[part]));
    }
    return o;
}

static json_t *leaks_object(const data_report *r)
{
    json_t *o = json_object();
    json_object_set_new(o, "audio_compared", json_boolean(r->leaks->audio_checked));
    for (int kind = 0; kind < LEAK_KINDS; kind++) {
        const leak_finding *finding = &r->leaks->findings[kind];
        json_t *entry = json_object();
        json_object_set_new(entry, "count", size_value(finding->count));
        json_object_set_new(entry, "clips", size_value(finding->clips));
        json_object_set_new(entry, "refusing", json_boolean(finding->refusing));
        if (finding->count > 0 && r->fold != NULL) {
            char *text = leaks_describe(r->leaks, (leak_kind)kind, r->data, r->fold->parts);
            json_object_set_new(entry, "text", text_value(text));
            free(text);
        }
        json_object_set_new(o, leak_names[kind], entry);
    }
    return o;
}

json_t *data_report_json(const data_report *r)
{
    data_facts facts;
    data_facts_compute(r, &facts);
    json_t *o = json_object();
    json_object_set_new(o, "clips", size_value(r->data->count));
    json_object_set_new(o, "skipped", size_value(r->data->skipped_count));
    json_object_set_new(o, "dropped", size_value(r->data->dropped));
    json_object_set_new(o, "corpora", corpora_array(r, &facts));
    json_object_set_new(o, "labels", labels_array(r, &facts));
    json_object_set_new(o, "speakers", speakers_array(r, &facts));
    if (r->fold != NULL) {
        json_object_set_new(o, "split", split_object(r->fold));
    }
    if (r->audio != NULL) {
        json_object_set_new(o, "audio", audio_object(r, &facts));
    }
    if (r->leaks != NULL) {
        json_object_set_new(o, "leaks", leaks_object(r));
    }
    data_facts_free(&facts);
    return o;
}
