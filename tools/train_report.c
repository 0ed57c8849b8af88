/* SPDX-License-Identifier: MIT */
#include "train_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "datareport.h"
#include "escape.h"
#include "message.h"
#include "report.h"
#include "report_parts.h"
#include "text.h"

enum { COLUMNS = 6, LANGUAGES = 2, NOTES = 2 };

/* What is known about the corpora that have presets. */
typedef struct corpus_facts {
    const char *preset;
    const char *licence;
    const char *source;
    const char *language;
} corpus_facts;

static const corpus_facts known_corpora[] = {
    {"ravdess", "CC BY-NC-SA 4.0",
     "Livingstone and Russo (2018), RAVDESS, PLoS ONE 13(5): e0196391, Zenodo record 1188976",
     "en"},
    {"crema-d", "Open Database License 1.0",
     "Cao et al. (2014), CREMA-D, IEEE Transactions on Affective Computing 5(4)", "en"},
    {"tess", "CC BY-NC-ND 4.0", "Pichora-Fuller and Dupuis (2020), TESS, University of Toronto",
     "en"},
    {"savee", NULL, "Haq and Jackson (2010), SAVEE, University of Surrey", "en"},
    {"emo-db", NULL, "Burkhardt et al. (2005), A database of German emotional speech, Interspeech",
     "de"},
};

static const corpus_facts *facts_of(const dataset_corpus *corpus)
{
    for (size_t i = 0; i < sizeof known_corpora / sizeof known_corpora[0]; i++) {
        if (corpus->preset != NULL && strcmp(corpus->preset, known_corpora[i].preset) == 0) {
            return &known_corpora[i];
        }
    }
    return NULL;
}

/* What the pointers of a run_report lead to. */
typedef struct material {
    run_report run;
    report_corpus *corpora;
    int64_t *class_clips; /* [corpora, labels] */
    const char **groups;
    const char *languages[LANGUAGES];
    report_part part;
    report_part *folds;
    report_clip *clips;
    double *columns; /* [COLUMNS, epochs] */
    report_curves curves;
    report_time times[2];
    report_text versions[2];
    report_text notes[NOTES];
} material;

static void count_clips(const train_report *r, material *m)
{
    const train_data *data = &r->session->data;
    size_t labels = data->label_count;
    for (size_t i = 0; i < data->set.count; i++) {
        const dataset_clip *clip = &data->set.clips[i];
        report_corpus *corpus = &m->corpora[clip->corpus];
        uint8_t part = r->fold != NULL ? r->fold->split.parts[i] : DATASET_UNUSED;
        corpus->clips++;
        corpus->seconds += scan_seconds(&data->audio.entries[i]);
        corpus->train += part == DATASET_TRAIN;
        corpus->validation += part == DATASET_VALIDATION;
        corpus->test += part == DATASET_TEST;
        m->class_clips[(size_t)clip->corpus * labels + (size_t)train_data_label(data, i)]++;
    }
    for (size_t i = 0; i < data->set.speaker_count; i++) {
        m->groups[i] = data->set.speakers[i].name;
        m->corpora[data->set.speakers[i].corpus].speakers++;
    }
}

static void add_language(material *m, const char *language)
{
    bool known = false;
    for (size_t i = 0; i < m->run.language_count; i++) {
        known = known || strcmp(m->languages[i], language) == 0;
    }
    if (!known && m->run.language_count < LANGUAGES) {
        m->languages[m->run.language_count++] = language;
    }
}

static void fill_corpora(const train_report *r, material *m)
{
    const train_data *data = &r->session->data;
    size_t count = data->set.corpus_count;
    size_t labels = data->label_count;
    m->corpora = text_alloc(count + 1, sizeof *m->corpora);
    m->class_clips = text_alloc(count * labels + 1, sizeof *m->class_clips);
    m->groups = text_alloc(data->set.speaker_count + 1, sizeof *m->groups);
    for (size_t c = 0; c < count; c++) {
        const corpus_facts *facts = facts_of(&data->set.corpora[c]);
        m->corpora[c] = (report_corpus){
            .name = data->set.corpora[c].name,
            .licence = facts != NULL ? facts->licence : NULL,
            .source = facts != NULL ? facts->source : NULL,
            .class_clips = m->class_clips + c * labels,
            .allowed = data->restricted[c] ? data->masks + c * labels : NULL,
        };
        if (facts != NULL) {
            add_language(m, facts->language);
        }
    }
    count_clips(r, m);
    m->run.corpora = m->corpora;
    m->run.corpus_count = count;
    m->run.groups = m->groups;
    m->run.group_count = data->set.speaker_count;
    m->run.languages = m->languages;
}

static void fill_scores(const train_report *r, material *m)
{
    const dataset *ds = &r->session->data.set;
    if (r->scores == NULL || r->scores->count == 0) {
        return;
    }
    m->part = (report_part){.name = r->part, .metrics = &r->scores->metrics};
    m->run.parts = &m->part;
    m->run.part_count = 1;
    m->clips = text_alloc(r->scores->count, sizeof *m->clips);
    for (size_t i = 0; i < r->scores->count; i++) {
        m->clips[i].path = ds->clips[r->scores->clips[i]].path;
        m->clips[i].row = &r->scores->rows[i];
    }
    m->run.clips = m->clips;
    m->run.clip_count = r->scores->count;
}

static void fill_folds(const train_report *r, material *m)
{
    size_t clip = 0;
    m->folds = text_alloc(r->fold_count + 1, sizeof *m->folds);
    for (size_t i = 0; i < r->fold_count; i++) {
        const train_fold_scores *fold = &r->folds[i];
        m->folds[i] = (report_part){
            .name = fold->name, .protocol = fold->protocol, .metrics = &fold->scores.metrics};
        for (size_t k = 0; k < fold->scores.count; k++) {
            m->clips[clip++].fold = fold->name;
        }
    }
    m->run.folds = m->folds;
    m->run.fold_count = r->fold_count;
}

static void fill_curves(const train_report *r, material *m)
{
    if (r->state == NULL || r->state->epoch == 0) {
        return;
    }
    size_t epochs = (size_t)r->state->epoch;
    m->columns = text_alloc(COLUMNS * epochs, sizeof *m->columns);
    bool rates_differ = false;
    for (size_t i = 0; i < epochs; i++) {
        const train_epoch *e = &r->state->history[i];
        const double values[COLUMNS] = {e->train_loss,     e->train_accuracy, e->validation_loss,
                                        e->validation_uar, e->head_rate,      e->rate};
        for (size_t k = 0; k < COLUMNS; k++) {
            m->columns[k * epochs + i] = values[k];
        }
        rates_differ = rates_differ || e->rate < e->head_rate || e->rate > e->head_rate;
    }
    m->curves = (report_curves){
        .epochs = epochs,
        .train_loss = m->columns,
        .validation_loss = m->columns + 2 * epochs,
        .validation_uar = m->columns + 3 * epochs,
        .learning_rate = m->columns + 4 * epochs,
        .backbone_learning_rate = rates_differ ? m->columns + 5 * epochs : NULL,
        .best_epoch = r->state->best_epoch,
    };
    m->run.curves = &m->curves;
}

static const char best_epoch_rule[] =
    "The model is the one of the epoch with the highest UAR on validation clips. Clips that are "
    "tested chose nothing.";
static const char last_step_rule[] =
    "The model is that of the last step: nothing was chosen by looking at any clip.";

static void fill_notes(const train_report *r, material *m)
{
    if (r->state == NULL && r->fold_count == 0) {
        return;
    }
    bool chosen = r->state != NULL ? r->state->best_epoch > 0
                                   : r->session->options->validation != TRAIN_VALIDATION_NONE;
    m->notes[m->run.note_count++] =
        (report_text){"Choice of the model", chosen ? best_epoch_rule : last_step_rule};
    if (r->stopped != NULL) {
        m->notes[m->run.note_count++] = (report_text){"Unfinished", r->stopped};
    }
    m->run.notes = m->notes;
}

static void fill_facts(const train_report *r, material *m)
{
    const train_session *s = r->session;
    const train_options *o = s->options;
    run_report *run = &m->run;
    run->protocol = r->protocol;
    run->speaker_independent = r->speaker_independent;
    run->base_model = o->backbone != NULL ? o->backbone : o->init;
    run->command = s->command;
    run->config = train_options_json(o);
    run->seed = (uint64_t)o->seed;
    run->parameters = (int64_t)r->parameters;
    run->temperature = r->temperature;
    run->labels = s->data.labels;
    run->label_count = s->data.label_count;
    m->times[0] = (report_time){"training", r->training_seconds};
    m->times[1] = (report_time){"scoring", r->scoring_seconds};
    run->times = m->times;
    run->time_count = 2;
    m->versions[0] = (report_text){"libser", ser_version_string()};
    m->versions[1] = (report_text){"device", ser_device_name(s->device)};
    run->versions = m->versions;
    run->version_count = 2;
    if (r->fold != NULL) {
        data_report data = {&s->data.set, &s->data.audio, &r->fold->split, &r->fold->leaks};
        run->data = data_report_json(&data);
    }
}

static void fill(const train_report *r, material *m)
{
    *m = (material){0};
    fill_facts(r, m);
    fill_corpora(r, m);
    fill_scores(r, m);
    fill_folds(r, m);
    fill_curves(r, m);
    fill_notes(r, m);
}

static void release(material *m)
{
    json_decref(m->run.config);
    json_decref(m->run.data);
    free(m->corpora);
    free(m->class_clips);
    free(m->groups);
    free(m->folds);
    free(m->clips);
    free(m->columns);
}

static void print_scores(const train_report *r, const material *m)
{
    const train_data *data = &r->session->data;
    if (m->run.part_count == 0) {
        return;
    }
    const char **corpora = text_alloc(data->set.corpus_count + 1, sizeof *corpora);
    for (size_t c = 0; c < data->set.corpus_count; c++) {
        corpora[c] = data->set.corpora[c].name;
    }
    metrics_names names = {.protocol = r->protocol,
                           .part = r->part,
                           .labels = data->labels,
                           .groups = m->groups,
                           .corpora = corpora};
    metrics_print(stdout, &r->scores->metrics, &names);
    if (r->session->options->verbose) {
        metrics_print_groups(stdout, &r->scores->metrics, &names);
    }
    free(corpora);
}

static void print(const train_report *r, const material *m)
{
    escape_locale numbers;
    escape_locale_enter(&numbers);
    if (r->session->options->json) {
        report_put_json(stdout, &m->run);
    } else {
        print_scores(r, m);
    }
    escape_locale_leave(&numbers);
}

int train_report_write(const train_report *report, const run_dir *dir)
{
    material m;
    fill(report, &m);
    int code = dir->path != NULL ? report_write(dir->path, &m.run) : 0;
    if (!report->silent) {
        print(report, &m);
    }
    release(&m);
    int printed = cli_finish_output();
    return code != 0 ? code : printed;
}
