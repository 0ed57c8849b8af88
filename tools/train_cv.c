/* SPDX-License-Identifier: MIT */
#include "train_cv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "datareport.h"
#include "escape.h"
#include "message.h"
#include "metrics.h"
#include "stop.h"
#include "text.h"
#include "train_eval.h"
#include "train_report.h"
#include "train_run.h"

static void print_data(const train_session *s, const train_fold *fold)
{
    data_report report = {&s->data.set, &s->data.audio, &fold->split, &fold->leaks};
    if (!s->options->quiet) {
        data_report_print(&report, stderr);
    }
}

/* config.json is there before anything else, so that --resume finds it. */
static int start_files(const train_session *s, const run_dir *dir, bool forget)
{
    if (forget) {
        run_dir_clear(dir);
    }
    json_t *config = train_options_json(s->options);
    int code = run_dir_write_json(dir, "config.json", config);
    json_decref(config);
    if (code == 0 && s->data.set.skipped_count > 0) {
        char *path = run_dir_file(dir, "skipped.jsonl");
        code = dataset_write_skipped(&s->data.set, path);
        free(path);
    }
    return code;
}

static int score_test(train_session *s, const train_fold *fold, const run_dir *dir,
                      train_scores *scores)
{
    if (fold->split.counts[DATASET_TEST] == 0) {
        return 0;
    }
    char *best = run_dir_file(dir, "best.safetensors");
    int code = train_score_model(s, best, &fold->split, DATASET_TEST, scores);
    free(best);
    return code;
}

/* Train a fold in its directory, score it, write its report. */
static int run_fold(train_session *s, const train_fold *fold, const run_dir *dir, bool silent,
                    train_scores *scores, train_result *result)
{
    int code = run_dir_prepare(dir);
    if (code == 0) {
        code = train_run(s, fold, dir, result);
    }
    double scoring = train_clock();
    if (code == 0) {
        code = score_test(s, fold, dir, scores);
    }
    train_report report = {
        .session = s,
        .fold = fold,
        .protocol = fold->split.protocol,
        .speaker_independent = fold->split.speaker_independent,
        .part = "test",
        .scores = scores,
        .state = &result->state,
        .temperature = result->state.best_epoch > 0 ? result->state.temperature : 0.0,
        .parameters = result->parameters,
        .stopped = result->late ? "The time limit came before the end of training." : NULL,
        .silent = silent,
        .training_seconds = result->seconds,
        .scoring_seconds = train_clock() - scoring,
    };
    return code == 0 && !(silent && result->late) ? train_report_write(&report, dir) : code;
}

int train_single(train_session *s, const run_dir *dir)
{
    const train_options *o = s->options;
    train_split which;
    train_fold fold = {0};
    train_scores scores = {0};
    train_result result = {0};
    int code = train_data_split(o, &s->data, &which);
    if (code == 0 && o->cv) { /* with --dry-run: the first fold will do */
        split_spec all = which.spec;
        split_fold(&all, &s->data.set, 0, &which.spec);
    }
    if (code == 0) {
        code = train_fold_make(o, &s->data, &which, DATASET_TRAIN, &fold);
    }
    if (code == 0) {
        print_data(s, &fold);
        code = o->dry_run ? train_try(s, &fold) : start_files(s, dir, o->force != 0);
    }
    if (code == 0 && !o->dry_run) {
        code = run_fold(s, &fold, dir, false, &scores, &result);
    }
    train_result_free(&result);
    train_scores_free(&scores);
    train_fold_free(&fold);
    return code;
}

/* ---- all folds ---- */

typedef struct cross {
    train_session *session;
    const run_dir *dir;
    train_split which;
    size_t fold_count;        /* of the split */
    bool *wanted;             /* [fold_count] */
    train_fold_scores *folds; /* [done], of those that were wanted */
    size_t done;
    train_scores pooled;
    bool speaker_independent;
    bool late;
} cross;

static int choose_folds(cross *c)
{
    const char *list = c->session->options->folds;
    c->wanted = text_alloc(c->fold_count, sizeof *c->wanted);
    memset(c->wanted, list == NULL, c->fold_count);
    char *words = text_copy(list != NULL ? list : "");
    int code = 0;
    for (char *rest = words, *word; list != NULL && code == 0 && (word = strsep(&rest, ","));) {
        int64_t number = 0;
        if (text_parse_integer(word, &number) && number >= 1 && number <= (int64_t)c->fold_count) {
            c->wanted[number - 1] = true;
        } else {
            code =
                message_usage("--folds: '%s' is not a number from 1 to %zu", word, c->fold_count);
        }
    }
    free(words);
    return code;
}

static int make_fold(const cross *c, size_t i, train_fold *fold)
{
    train_split which = {0};
    split_fold(&c->which.spec, &c->session->data.set, i, &which.spec);
    return train_fold_make(c->session->options, &c->session->data, &which, DATASET_TRAIN, fold);
}

/* All folds are checked before the first one is trained. */
static int check_folds(cross *c)
{
    int code = 0;
    c->speaker_independent = true;
    for (size_t i = 0; code == 0 && i < c->fold_count; i++) {
        train_fold fold = {0};
        code = c->wanted[i] ? make_fold(c, i, &fold) : 0;
        if (code == 0 && c->wanted[i]) {
            c->speaker_independent = c->speaker_independent && fold.split.speaker_independent;
            train_say(c->session, "fold %zu of %zu: %s", i + 1, c->fold_count, fold.split.protocol);
        }
        train_fold_free(&fold);
    }
    return code;
}

static int open_fold(const cross *c, size_t i, run_dir *dir)
{
    const train_options *o = c->session->options;
    char name[32];
    snprintf(name, sizeof name, "fold%zu", i + 1);
    char *path = run_dir_file(c->dir, name);
    int code = run_dir_open(dir, path,
                            o->resume  ? RUN_DIR_RESUME
                            : o->force ? RUN_DIR_FORCE
                                       : RUN_DIR_FRESH);
    free(path);
    return code;
}

static void print_fold(const cross *c, const train_fold_scores *fold)
{
    const train_data *data = &c->session->data;
    metrics_names names = {.protocol = fold->protocol, .part = "test", .labels = data->labels};
    escape_locale numbers;
    escape_locale_enter(&numbers);
    if (!c->session->options->quiet) {
        metrics_print_line(stderr, &fold->scores.metrics, &names);
    }
    escape_locale_leave(&numbers);
}

static void keep_fold(cross *c, const train_fold *fold, train_fold_scores *done)
{
    done->name = text_copy(fold->split.name);
    done->protocol = text_copy(fold->split.protocol);
    print_fold(c, done);
    train_scores_append(c->session, &c->pooled, &done->scores);
    c->folds[c->done++] = *done;
}

/* report.json is the last that a fold writes before the card: with it, the fold is finished. */
static int do_fold(cross *c, size_t i)
{
    train_session *s = c->session;
    run_dir dir = {.lock = -1};
    train_fold fold = {0};
    train_fold_scores done = {0};
    train_result result = {0};
    int code = make_fold(c, i, &fold);
    if (code == 0) {
        code = open_fold(c, i, &dir);
    }
    if (code == 0 && s->options->resume && run_dir_has(&dir, "report.json")) {
        train_say(s, "fold %zu of %zu is finished", i + 1, c->fold_count);
        code = score_test(s, &fold, &dir, &done.scores);
    } else if (code == 0) {
        train_say(s, "fold %zu of %zu", i + 1, c->fold_count);
        code = start_files(s, &dir, s->options->force != 0);
        code = code == 0 ? run_fold(s, &fold, &dir, true, &done.scores, &result) : code;
        c->late = result.late;
    }
    if (code == 0 && !c->late) {
        keep_fold(c, &fold, &done);
    } else {
        train_scores_free(&done.scores);
    }
    train_result_free(&result);
    train_fold_free(&fold);
    run_dir_close(&dir);
    return code;
}

/* Folds share no test clip: the pool holds each clip once. */
static int check_pool(const cross *c)
{
    bool *seen = text_alloc(c->session->data.set.count + 1, sizeof *seen);
    int code = 0;
    for (size_t i = 0; code == 0 && i < c->pooled.count; i++) {
        size_t clip = c->pooled.clips[i];
        if (seen[clip]) {
            message_error("%s: tested in two folds", c->session->data.set.clips[clip].path);
            code = MESSAGE_EXIT_DATA;
        }
        seen[clip] = true;
    }
    free(seen);
    return code;
}

static char *describe_pool(const cross *c)
{
    const train_options *o = c->session->options;
    const dataset *ds = &c->session->data.set;
    char *corpora = text_copy("");
    for (size_t i = 0; i < ds->corpus_count; i++) {
        char *longer = text_join(corpora, i > 0 ? ", " : "", ds->corpora[i].name);
        free(corpora);
        corpora = longer;
    }
    char text[256];
    snprintf(text, sizeof text, ": %s, test clips of %zu of %zu folds pooled; %s",
             o->split != NULL ? o->split : "emobox6", c->done, c->fold_count,
             c->speaker_independent ? "each clip is scored by the model of a fold in which its "
                                      "speaker neither trained nor validated"
                                    : "speakers stand in several parts");
    char *whole = text_join(corpora, text, "");
    free(corpora);
    return whole;
}

static int report_pool(cross *c)
{
    int code = check_pool(c);
    if (code == 0) {
        code = train_scores_measure(c->session, &c->pooled, METRICS_REPLICATES);
    }
    char *protocol = describe_pool(c);
    train_report report = {.session = c->session,
                           .protocol = protocol,
                           .speaker_independent = c->speaker_independent,
                           .part = "all folds",
                           .scores = &c->pooled,
                           .folds = c->folds,
                           .fold_count = c->done};
    code = code == 0 ? train_report_write(&report, c->dir) : code;
    free(protocol);
    return code;
}

static int run_folds(cross *c)
{
    int code = choose_folds(c);
    if (code == 0) {
        code = check_folds(c);
    }
    if (code == 0) {
        code = start_files(c->session, c->dir, c->session->options->force != 0);
    }
    c->folds = text_alloc(c->fold_count, sizeof *c->folds);
    for (size_t i = 0; code == 0 && !c->late && i < c->fold_count; i++) {
        code = c->wanted[i] ? do_fold(c, i) : 0;
    }
    if (code == 0 && c->late) {
        train_say(c->session, "%zu folds are finished; --resume goes on", c->done);
        return 0;
    }
    return code == 0 ? report_pool(c) : code;
}

int train_cross(train_session *s, const run_dir *dir)
{
    cross c = {.session = s, .dir = dir};
    int code = train_data_split(s->options, &s->data, &c.which);
    if (code == 0) {
        c.fold_count = split_fold_count(&c.which.spec, &s->data.set);
        code = c.fold_count < 2
                   ? message_usage("--cv: the split has no folds; use emobox6, luna5, loso or "
                                   "actors:N")
                   : run_folds(&c);
    }
    for (size_t i = 0; i < c.done; i++) {
        free(c.folds[i].name);
        free(c.folds[i].protocol);
        train_scores_free(&c.folds[i].scores);
    }
    train_scores_free(&c.pooled);
    free(c.folds);
    free(c.wanted);
    return code;
}
