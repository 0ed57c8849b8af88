/* SPDX-License-Identifier: MIT */
#include "train_eval.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "message.h"
#include "progress.h"
#include "stop.h"
#include "text.h"
#include "train_report.h"

enum { SCORING_BATCH = 16 };

static void point_rows(const train_session *s, train_scores *out)
{
    size_t labels = s->data.label_count;
    for (size_t i = 0; i < out->count; i++) {
        size_t clip = out->clips[i];
        const dataset_clip *facts = &s->data.set.clips[clip];
        out->rows[i] = (metrics_row){
            .label = train_data_label(&s->data, clip),
            .group = facts->speaker,
            .corpus = facts->corpus,
            .probabilities = out->probabilities + i * labels,
            .logits = out->logs + i * labels,
            .allowed = train_data_mask(&s->data, clip),
        };
    }
}

static void allocate(const train_session *s, train_scores *out)
{
    size_t values = out->count * s->data.label_count;
    out->probabilities = text_alloc(values + 1, sizeof *out->probabilities);
    out->logs = text_alloc(values + 1, sizeof *out->logs);
    out->rows = text_alloc(out->count + 1, sizeof *out->rows);
    point_rows(s, out);
}

/* The probabilities of batch b go to where the clips stand. */
static void place(const train_session *s, const loader_plan *plan, size_t b,
                  const float *probabilities, train_scores *out)
{
    size_t labels = s->data.label_count;
    for (size_t i = plan->starts[b]; i < plan->starts[b + 1]; i++) {
        const float *from = probabilities + (i - plan->starts[b]) * labels;
        size_t to = plan->order[i] * labels;
        memcpy(out->probabilities + to, from, labels * sizeof *from);
        for (size_t k = 0; k < labels; k++) {
            out->logs[to + k] = logf(fmaxf(from[k], FLT_MIN));
        }
    }
}

static int score_batches(const train_session *s, ser_trainer *trainer, const loader_plan *plan,
                         train_scores *out)
{
    const train_options *o = s->options;
    loader_setup setup = {.trainer = trainer,
                          .data = &s->data,
                          .cache = s->cache,
                          .plan = plan,
                          .threads = (size_t)o->loader_threads};
    float *probabilities = text_alloc(SCORING_BATCH * s->data.label_count, sizeof *probabilities);
    progress bar;
    progress_start(&bar, !o->quiet && !o->no_progress, STDERR_FILENO, "clips", (int64_t)out->count);
    loader *batches = loader_start(&setup);
    int code = 0;
    for (size_t b = 0; code == 0 && b < plan->batches; b++) {
        ser_batch *batch = NULL;
        code = stop_requested() != 0 ? 128 + stop_requested() : loader_next(batches, &batch);
        int status = code == 0 ? ser_trainer_evaluate(trainer, batch, NULL, probabilities) : 0;
        code = status != 0 ? train_fail(status) : code;
        if (code == 0) {
            place(s, plan, b, probabilities, out);
            progress_update(&bar, (int64_t)plan->starts[b + 1], "scoring");
        }
        ser_batch_free(&batch);
    }
    loader_free(&batches);
    progress_end(&bar);
    free(probabilities);
    return code;
}

int train_score(const train_session *s, ser_trainer *trainer, const split *fold, dataset_part part,
                train_scores *out)
{
    *out = (train_scores){.clips = train_data_clips(&s->data, fold, part, &out->count)};
    loader_pool pool;
    loader_plan plan;
    loader_pool_make(&pool, &s->data, fold, part, NULL);
    out->count = pool.count;
    allocate(s, out);
    loader_plan_sort(&plan, &pool, SCORING_BATCH);
    int status = ser_trainer_use_average(trainer, 1);
    int code = status != 0 ? train_fail(status) : score_batches(s, trainer, &plan, out);
    status = ser_trainer_use_average(trainer, 0);
    if (status != 0 && code == 0) {
        code = train_fail(status);
    }
    loader_plan_free(&plan);
    loader_pool_free(&pool);
    return code;
}

static metrics_set set_of(const train_session *s, const train_scores *scores)
{
    return (metrics_set){.rows = scores->rows,
                         .count = scores->count,
                         .classes = s->data.label_count,
                         .groups = s->data.set.speaker_count,
                         .corpora = s->data.set.corpus_count};
}

int train_scores_measure(const train_session *s, train_scores *out, int32_t replicates)
{
    metrics_set set = set_of(s, out);
    metrics_free(&out->metrics);
    return metrics_compute(&out->metrics, &set, (uint64_t)s->options->seed, replicates);
}

int train_scores_temperature(const train_session *s, const train_scores *scores,
                             double *temperature)
{
    metrics_set set = set_of(s, scores);
    metrics_temperature fit;
    int code = metrics_fit_temperature(&fit, &set);
    *temperature = code == 0 ? fit.temperature : 1.0;
    return code;
}

int train_score_model(train_session *s, const char *path, const split *fold, dataset_part part,
                      train_scores *out)
{
    ser_model *model = NULL;
    ser_trainer *trainer = NULL;
    ser_trainer_options options;
    *out = (train_scores){0};
    int code = train_model_load(s, path, &model);
    if (code != 0) {
        ser_model_free(&model);
        return code;
    }
    ser_trainer_options_init(&options, sizeof options);
    options.freeze_layers = -1; /* nothing is trained: no state for the optimiser of the backbone */
    options.cache_bytes = 0;
    int status = ser_trainer_create(model, &options, &trainer);
    code = status != 0 ? train_fail(status) : train_score(s, trainer, fold, part, out);
    ser_trainer_free(&trainer);
    ser_model_free(&model);
    return code == 0 ? train_scores_measure(s, out, METRICS_REPLICATES) : code;
}

void train_scores_append(const train_session *s, train_scores *all, const train_scores *more)
{
    size_t labels = s->data.label_count;
    train_scores sum = {.count = all->count + more->count};
    sum.clips = text_alloc(sum.count + 1, sizeof *sum.clips);
    const train_scores *parts[] = {all, more};
    for (size_t p = 0, first = 0; p < 2; first += parts[p++]->count) {
        for (size_t i = 0; i < parts[p]->count; i++) {
            sum.clips[first + i] = parts[p]->clips[i];
        }
    }
    allocate(s, &sum);
    for (size_t p = 0, first = 0; p < 2; first += parts[p++]->count) {
        for (size_t i = 0; i < parts[p]->count * labels; i++) {
            sum.probabilities[first * labels + i] = parts[p]->probabilities[i];
            sum.logs[first * labels + i] = parts[p]->logs[i];
        }
    }
    train_scores_free(all);
    *all = sum;
}

void train_scores_free(train_scores *scores)
{
    metrics_free(&scores->metrics);
    free(scores->clips);
    free(scores->probabilities);
    free(scores->logs);
    free(scores->rows);
    *scores = (train_scores){0};
}

static const dataset_part wanted_parts[] = {DATASET_TEST, DATASET_VALIDATION, DATASET_TRAIN};

/* With --part all, every clip is one of the part that is scored. */
static int choose_part(train_session *s, train_fold *fold, dataset_part *part)
{
    const train_options *o = s->options;
    train_split which;
    int code = train_data_split(o, &s->data, &which);
    *part = o->part == TRAIN_PART_ALL ? DATASET_TEST : wanted_parts[o->part];
    which.all = which.all || o->part == TRAIN_PART_ALL;
    if (code == 0) {
        code = train_fold_make(o, &s->data, &which, *part, fold);
    }
    if (code == 0 && fold->split.counts[*part] == 0) {
        message_error("split %s: no clip is in the %s part", fold->split.name,
                      dataset_part_names[*part]);
        code = MESSAGE_EXIT_DATA;
    }
    return code;
}

static int report_scores(train_session *s, const train_fold *fold, dataset_part part,
                         const train_scores *scores)
{
    run_dir dir = {.lock = -1};
    int code = 0;
    if (s->options->output != NULL) {
        code = run_dir_open(&dir, s->options->output,
                            s->options->force ? RUN_DIR_SHARED : RUN_DIR_FRESH);
    }
    train_report report = {.session = s,
                           .fold = fold,
                           .protocol = fold->split.protocol,
                           .speaker_independent = fold->split.speaker_independent,
                           .part = dataset_part_names[part],
                           .scores = scores,
                           .temperature = 0.0};
    if (code == 0) {
        code = train_report_write(&report, &dir);
    }
    run_dir_close(&dir);
    return code;
}

int train_eval_only(train_session *s)
{
    train_fold fold = {0};
    train_scores scores = {0};
    dataset_part part = DATASET_TEST;
    int code = choose_part(s, &fold, &part);
    if (code == 0) {
        code = train_score_model(s, s->options->model, &fold.split, part, &scores);
    }
    if (code == 0) {
        code = report_scores(s, &fold, part, &scores);
    }
    train_scores_free(&scores);
    train_fold_free(&fold);
    return code;
}
