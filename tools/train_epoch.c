/* SPDX-License-Identifier: MIT */
/* The end of an epoch. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "text.h"
#include "train_eval.h"
#include "train_setup.h"

static bool is_last(const train_work *w)
{
    return w->state.epoch + 1 >= w->session->options->epochs ||
           ser_trainer_steps(w->trainer) >= w->steps;
}

static bool is_evaluated(const train_work *w)
{
    int64_t every = w->session->options->eval_every;
    return w->fold->split.counts[DATASET_VALIDATION] > 0 &&
           ((w->state.epoch + 1) % every == 0 || is_last(w));
}

/* A model that cannot be written is not the best one: a later epoch may be. */
static int keep_best(train_work *w, const train_scores *scores)
{
    double uar = scores->metrics.uar;
    double temperature = 1.0;
    if (w->state.best_epoch > 0 && !(uar > w->state.best_uar)) {
        return 0;
    }
    int code = train_scores_temperature(w->session, scores, &temperature);
    if (code != 0) {
        return code;
    }
    if (train_work_write_model(w, temperature) == 0) {
        w->state.best_epoch = w->state.epoch + 1;
        w->state.best_uar = uar;
        w->state.temperature = temperature;
    }
    return 0;
}

static int validate(train_work *w, train_epoch *epoch, train_scores *scores)
{
    int code = train_score(w->session, w->trainer, &w->fold->split, DATASET_VALIDATION, scores);
    if (code == 0) {
        code = train_scores_measure(w->session, scores, 0);
    }
    if (code == 0) {
        epoch->validation_loss = scores->metrics.nll;
        epoch->validation_uar = scores->metrics.uar;
        code = keep_best(w, scores);
    }
    return code;
}

static double clips_per_second(const train_work *w, double seconds)
{
    return seconds > 0.0 ? (double)w->epoch_clips / seconds : NAN;
}

/* Called when the state has gone on to the next epoch. */
static void write_line(const train_work *w, const train_epoch *e, const train_scores *scores,
                       int64_t skipped, double seconds)
{
    const metrics_result *m = scores->count > 0 ? &scores->metrics : NULL;
    json_t *line = json_object();
    json_object_set_new(line, "kind", json_string("epoch"));
    json_object_set_new(line, "step", json_integer(ser_trainer_steps(w->trainer)));
    json_object_set_new(line, "epoch", json_integer(w->state.epoch));
    json_object_set_new(line, "train_loss", run_dir_real(e->train_loss));
    json_object_set_new(line, "train_accuracy", run_dir_real(e->train_accuracy));
    json_object_set_new(line, "validation_loss", run_dir_real(e->validation_loss));
    json_object_set_new(line, "validation_uar", run_dir_real(e->validation_uar));
    json_object_set_new(line, "validation_accuracy", run_dir_real(m ? m->accuracy : NAN));
    json_object_set_new(line, "validation_macro_f1", run_dir_real(m ? m->macro_f1 : NAN));
    json_object_set_new(line, "validation_ece", run_dir_real(m ? m->ece : NAN));
    json_object_set_new(line, "best", json_boolean(w->state.best_epoch == w->state.epoch));
    json_object_set_new(line, "lr", run_dir_real(e->rate));
    json_object_set_new(line, "lr_head", run_dir_real(e->head_rate));
    json_object_set_new(line, "gradient_norm", run_dir_real(w->state.gradient_norm));
    json_object_set_new(line, "skipped", json_integer(skipped));
    json_object_set_new(line, "seconds", run_dir_real(seconds));
    json_object_set_new(line, "clips_per_second", run_dir_real(clips_per_second(w, seconds)));
    run_dir_append(w->dir, "metrics.jsonl", line);
}

static void say_epoch(const train_work *w, const train_epoch *e, double seconds)
{
    char validation[128] = "";
    if (isfinite(e->validation_uar)) {
        snprintf(validation, sizeof validation, "; validation UAR %.1f %%, loss %.3f%s",
                 100.0 * e->validation_uar, e->validation_loss,
                 w->state.best_epoch == w->state.epoch ? " (best)" : "");
    }
    train_say(w->session,
              "epoch %" PRId64 "/%d: loss %.3f, accuracy %.1f %%%s; lr %.2g, %.1f clips/s",
              w->state.epoch, (int)w->session->options->epochs, e->train_loss,
              100.0 * e->train_accuracy, validation, e->rate, clips_per_second(w, seconds));
}

static bool out_of_patience(const train_work *w)
{
    int64_t patience = w->session->options->patience;
    return patience > 0 && w->state.best_epoch > 0 &&
           w->state.epoch - w->state.best_epoch >= patience;
}

int train_work_end_epoch(train_work *w)
{
    train_state *state = &w->state;
    train_scores scores = {0};
    double clips = (double)state->clips;
    int64_t skipped = state->skipped;
    double seconds = train_clock() - w->epoch_started;
    bool last = is_last(w);
    train_epoch epoch = {.train_loss = state->loss_sum / clips,
                         .train_accuracy = (double)state->correct / clips,
                         .validation_loss = NAN,
                         .validation_uar = NAN,
                         .rate = state->rate,
                         .head_rate = state->head_rate};
    int code = is_evaluated(w) ? validate(w, &epoch, &scores) : 0;
    if (code == 0) {
        train_state_next_epoch(state, &epoch);
        write_line(w, &epoch, &scores, skipped, seconds);
        say_epoch(w, &epoch, seconds);
        state->finished = last || out_of_patience(w);
    }
    train_scores_free(&scores);
    return code;
}
