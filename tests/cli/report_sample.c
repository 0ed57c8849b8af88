/* SPDX-License-Identifier: MIT */
#include "report_sample.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const plain_labels[SAMPLE_CLASSES] = {
    "neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"};
/* Markup, quotes, line breaks, ideographs, a byte that is not UTF-8, a word of YAML, a long one. */
static const char *const nasty_labels[SAMPLE_CLASSES] = {
    "<b>&amp;",
    "a,b \"c\"",
    "\xe4\xb8\xad\xe6\x96\x87 \xc3\xa9",
    "bad\377byte",
    "no",
    "tab\tand\nline",
    "`pipe|star*_x_`",
    "a very long label that no cell of any table could ever hold"};

static const char nasty_path[] =
    "dir \"q\", <x>/\xc3\xa4\xff\n%02d.wav"; /* a format: a number goes in */
static const uint8_t second_mask[SAMPLE_CLASSES] = {1, 0, 1, 1, 1, 1, 1, 0};

static double uniform(uint32_t *state)
{
    *state = *state * 1664525U + 1013904223U;
    return (double)(*state >> 8) / (double)(1 << 24);
}

/* Softmax of noise with some evidence for the true class. */
static void make_row(sample *s, size_t i, uint32_t *state, bool nasty)
{
    int32_t group = (int32_t)(i / SAMPLE_PER_GROUP);
    int32_t corpus = group >= 24;
    int32_t label = (int32_t)(i % SAMPLE_CLASSES);
    while (corpus == 1 && second_mask[label] == 0) {
        label = (label + 1) % SAMPLE_CLASSES;
    }
    float logits[SAMPLE_CLASSES];
    for (int k = 0; k < SAMPLE_CLASSES; k++) {
        logits[k] = (float)(3.0 * uniform(state) + (k == label ? 1.2 + 0.05 * (group % 12) : 0.0) +
                            (k == (label + 1) % SAMPLE_CLASSES ? 0.6 : 0.0));
    }
    const uint8_t *mask = corpus == 1 ? second_mask : NULL;
    metrics_softmax(logits, mask, SAMPLE_CLASSES, 1.0, s->probabilities[i]);
    s->rows[i] = (metrics_row){.label = label,
                               .group = group,
                               .corpus = corpus,
                               .probabilities = s->probabilities[i],
                               .allowed = mask};
    snprintf(s->paths[i], sizeof s->paths[i], nasty ? nasty_path : "clips/%03d.wav", (int)i);
    s->clips[i] = (report_clip){s->paths[i], s->fold_names[group % SAMPLE_FOLDS], &s->rows[i]};
    s->class_clips[corpus][label]++;
}

static void compute(metrics_result *r, const metrics_row *rows, size_t count)
{
    metrics_set set = {rows, count, SAMPLE_CLASSES, SAMPLE_GROUPS, 2};
    if (metrics_compute(r, &set, 1, 1000) != 0) {
        exit(EXIT_FAILURE);
    }
}

static void make_scores(sample *s)
{
    compute(&s->pooled, s->rows, SAMPLE_ROWS);
    compute(&s->validation, s->rows, 5 * SAMPLE_PER_GROUP);
    size_t used = 0;
    for (int fold = 0; fold < SAMPLE_FOLDS; fold++) {
        size_t first = used;
        for (size_t i = 0; i < SAMPLE_ROWS; i++) {
            if (s->rows[i].group % SAMPLE_FOLDS == fold) {
                s->sorted[used++] = s->rows[i];
            }
        }
        compute(&s->fold_results[fold], s->sorted + first, used - first);
        s->folds[fold] = (report_part){s->fold_names[fold], NULL, &s->fold_results[fold]};
    }
    s->parts[0] = (report_part){"all folds", NULL, &s->pooled};
    s->parts[1] = (report_part){"validation",
                                "Clips of the validation speakers, on which the epoch was chosen.",
                                &s->validation};
}

static void make_curves(sample *s)
{
    for (int i = 0; i < SAMPLE_EPOCHS; i++) {
        double x = i / (double)SAMPLE_EPOCHS;
        s->curves[0][i] = 0.4 + 1.7 * exp(-4.0 * x);
        s->curves[1][i] = i % 2 == 0 ? 0.9 + 1.2 * exp(-5.0 * x) + 0.3 * x : NAN;
        s->curves[2][i] = 0.92 - 0.8 * exp(-4.0 * x);
        s->curves[3][i] = 0.62 - 0.5 * exp(-5.0 * x) + 0.01 * sin(9.0 * i);
        s->curves[4][i] = i < 3 ? 1e-4 * (i + 1) : 3e-4 * (1.0 - x);
    }
    s->curves[1][17] = 1.1; /* between two gaps of the line */
    s->curves[1][16] = s->curves[1][18] = NAN;
    s->curve_set = (report_curves){.epochs = SAMPLE_EPOCHS,
                                   .train_loss = s->curves[0],
                                   .validation_loss = s->curves[1],
                                   .train_uar = s->curves[2],
                                   .validation_uar = s->curves[3],
                                   .learning_rate = s->curves[4],
                                   .best_epoch = 22};
    s->run.curves = &s->curve_set;
}

static void make_corpora(sample *s, bool nasty)
{
    s->corpora[0] = (report_corpus){.name = nasty ? "RAV|DESS\x01 & co" : "ravdess",
                                    .licence = "CC BY-NC-SA 4.0",
                                    .source = "https://doi.org/10.5281/zenodo.1188976",
                                    .clips = 576,
                                    .speakers = 24,
                                    .seconds = 5329.5,
                                    .train = 384,
                                    .validation = 96,
                                    .test = 96,
                                    .class_clips = s->class_clips[0]};
    s->corpora[1] = (report_corpus){.name = "crema-d",
                                    .clips = 288,
                                    .speakers = 12,
                                    .seconds = NAN,
                                    .train = 192,
                                    .validation = 48,
                                    .test = 48,
                                    .class_clips = s->class_clips[1],
                                    .allowed = second_mask};
    s->run.corpora = s->corpora;
    s->run.corpus_count = 2;
}

static void make_texts(run_report *run, bool nasty)
{
    static const char *const languages[] = {"en", "no"};
    static const report_time times[] = {{"training", 5025.25}, {"evaluation", 61.5}};
    static const report_text versions[] = {{"libser", "0.2.0"}, {"oneDNN", "2.7.3"}};
    static const report_text notes[] = {{"Recipe", "Two corpora, *one* model."}};
    run->name = nasty ? "mo<del> \"1\"\n# x" : "sample-run";
    run->licence = "cc-by-nc-sa-4.0";
    run->base_model = nasty ? "me/base: \"x\"\\y \xff" : "facebook/wav2vec2-base";
    run->languages = languages;
    run->language_count = 2;
    run->command = nasty ? "ser-train -o 'a```b\xff'\n" : "ser-train --cv -o run/";
    run->config = json_loads(nasty ? "{\"a|b\": \"x*y\\n\", \"o\": {\"p\": [1, 2]}, \"e\": {}}"
                                   : "{\"rate\": 1e-05, \"augment\": {\"gain_db\": 6.0, \"noise\": "
                                     "true}, \"layers\": [1, 2]}",
                             0, NULL);
    run->data = json_pack("{s:i}", "duplicates", 2);
    run->seed = nasty ? UINT64_MAX : 7;
    run->parameters = 448824;
    run->temperature = 1.25;
    run->labels = nasty ? nasty_labels : plain_labels;
    run->label_count = SAMPLE_CLASSES;
    run->times = times;
    run->time_count = 2;
    run->versions = versions;
    run->version_count = 2;
    run->notes = notes;
    run->note_count = 1;
}

sample *sample_new(bool nasty)
{
    static const char protocol[] =
        "RAVDESS and CREMA-D, six folds by actor, all folds pooled: each clip was scored by a "
        "model "
        "that never heard its speaker; epochs chosen on the actors of the next fold.";
    uint32_t state = 11;
    sample *s = calloc(1, sizeof *s);
    if (s == NULL) {
        exit(EXIT_FAILURE);
    }
    for (int i = 0; i < SAMPLE_FOLDS; i++) {
        snprintf(s->fold_names[i], sizeof s->fold_names[i], "fold %d of %d", i + 1, SAMPLE_FOLDS);
    }
    for (int i = 0; i < SAMPLE_GROUPS; i++) {
        snprintf(s->speakers[i], sizeof s->speakers[i], nasty ? "p%d<\xfe" : "%02d", i + 1);
        s->groups[i] = s->speakers[i];
    }
    for (size_t i = 0; i < SAMPLE_ROWS; i++) {
        make_row(s, i, &state, nasty);
    }
    make_texts(&s->run, nasty);
    s->run.protocol = nasty ? "P & <Q> | *r*\n- \"s\" \xff" : protocol;
    s->run.speaker_independent = !nasty;
    s->run.groups = s->groups;
    s->run.group_count = SAMPLE_GROUPS;
    make_scores(s);
    make_corpora(s, nasty);
    make_curves(s);
    s->run.parts = s->parts;
    s->run.part_count = 2;
    s->run.folds = s->folds;
    s->run.fold_count = SAMPLE_FOLDS;
    s->run.clips = s->clips;
    s->run.clip_count = SAMPLE_ROWS;
    return s;
}

void sample_free(sample *s)
{
    metrics_free(&s->pooled);
    metrics_free(&s->validation);
    for (int i = 0; i < SAMPLE_FOLDS; i++) {
        metrics_free(&s->fold_results[i]);
    }
    json_decref(s->run.config);
    json_decref(s->run.data);
    free(s);
}
