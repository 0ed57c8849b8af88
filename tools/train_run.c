/* SPDX-License-Identifier: MIT */
#include "train_run.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <jansson.h>

#include "message.h"
#include "stop.h"
#include "text.h"
#include "train_setup.h"

static volatile sig_atomic_t save_asked;

static void on_signal(int number)
{
    (void)number;
    save_asked = 1;
}

void train_run_install(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of write() */
}

/* Clips of all epochs that are done. */
static int64_t clips_done(const train_work *w)
{
    return w->state.epoch * (int64_t)w->pool.count + w->state.clips;
}

/* On a terminal only; elsewhere the line of each epoch is enough. */
static void start_bar(train_work *w)
{
    const train_options *o = w->session->options;
    double share = (double)w->steps * o->accumulate / ((double)w->batches * o->epochs);
    int64_t total = llround((double)w->pool.count * o->epochs * fmin(share, 1.0));
    progress_start(&w->bar, !o->quiet && !o->no_progress, STDERR_FILENO, "clips", total);
    w->bar.enabled = w->bar.enabled && w->bar.screen.interactive;
    w->bar.done = clips_done(w);
    w->bar.rated_done = w->bar.done;
}

static void show(train_work *w, double loss)
{
    char detail[96];
    snprintf(detail, sizeof detail, "epoch %" PRId64 "/%d, loss %.3f", w->state.epoch + 1,
             (int)w->session->options->epochs, loss);
    progress_update(&w->bar, clips_done(w), detail);
}

static void log_step(const train_work *w, const ser_step_result *step)
{
    json_t *line = json_object();
    json_object_set_new(line, "kind", json_string("step"));
    json_object_set_new(line, "step", json_integer(step->step));
    json_object_set_new(line, "epoch", json_integer(w->state.epoch + 1));
    json_object_set_new(line, "loss", run_dir_real(step->loss));
    json_object_set_new(line, "lr", run_dir_real(step->rate));
    json_object_set_new(line, "lr_head", run_dir_real(step->head_rate));
    json_object_set_new(line, "gradient_norm", run_dir_real(step->gradient_norm));
    run_dir_append(w->dir, "metrics.jsonl", line);
}

/* True if `step` is a multiple of `every`, which is not 0. */
static bool is_due(int64_t step, int32_t every)
{
    return every > 0 && step % every == 0;
}

static void count_step(train_work *w, int64_t clips, const ser_step_result *step)
{
    train_state *state = &w->state;
    state->rate = step->rate;
    state->head_rate = step->head_rate;
    state->loss_sum += step->loss * (double)clips;
    state->clips += clips;
    state->correct += step->correct;
    w->epoch_clips += clips;
    if (step->updated) {
        w->skipped = 0;
        w->bad_count = 0;
        state->gradient_norm = step->gradient_norm;
        if (is_due(step->step, w->session->options->log_every)) {
            log_step(w, step);
        }
    }
}

/* Take in what the oldest step under way gave. After a step that was skipped the rest of its update's
 * batches are left out (`*dropping`), so that updates begin at multiples of --accumulate again. */
static int take_result(train_work *w, const loader_plan *plan, bool *dropping)
{
    ser_step_result step = {.struct_size = sizeof step};
    size_t b = (size_t)w->state.batch;
    int32_t found = 0;
    int status = ser_train_collect(w->trainer, &step, &found);
    if (status != 0 || !found) {
        return status != 0 ? train_fail(status) : 0;
    }
    if (step.skipped) {
        train_work_note_skip(w, plan, &step);
        w->state.skipped++;
        w->skipped++;
        *dropping = (w->state.batch + 1) % w->session->options->accumulate != 0;
    } else {
        count_step(w, (int64_t)(plan->starts[b + 1] - plan->starts[b]), &step);
        show(w, step.loss);
    }
    w->state.batch++;
    return w->skipped >= w->session->options->max_skipped ? train_work_give_up(w) : 0;
}

/* Between updates: what signals, --save-every and --time-limit ask for. An exit code ends the run.
 */
static int between_updates(train_work *w)
{
    const train_options *o = w->session->options;
    bool asked = save_asked != 0;
    w->late = train_session_late(w->session);
    save_asked = 0;
    if (asked || w->late || stop_requested() != 0 ||
        is_due(ser_trainer_steps(w->trainer), o->save_every)) {
        train_work_save(w);
        if (asked && !w->save_failed) {
            train_say(w->session, "checkpoint of step %" PRId64 " written", w->saved);
        }
    }
    return stop_requested() != 0 ? 128 + stop_requested() : 0;
}

/* `ahead`: steps under way, each an update. */
static bool epoch_goes_on(const train_work *w, const loader_plan *plan, int64_t ahead)
{
    return !w->late && (size_t)(w->state.batch + ahead) < plan->batches &&
           ser_trainer_steps(w->trainer) + ahead < w->steps;
}

/* Whether the step under way must be over before the next one: something may have to be saved after
 * it (also one that is skipped), or it decides whether the batches of its update that follow are left
 * out. On a CPU it is over anyway. */
static bool must_wait(const train_work *w)
{
    const train_options *o = w->session->options;
    const int64_t steps = ser_trainer_steps(w->trainer);
    return ser_device_kind(w->session->device) == SER_DEVICE_CPU || o->accumulate > 1 ||
           save_asked != 0 || stop_requested() != 0 || train_session_late(w->session) ||
           is_due(steps, o->save_every) || is_due(steps + 1, o->save_every);
}

/* One batch into the trainer; results follow one step later, but where somebody waits for them. */
static int run_batch(train_work *w, const loader_plan *plan, const ser_batch *batch, int64_t *ahead,
                     bool *dropping)
{
    int status = ser_train_submit(w->trainer, batch);
    int code = status != 0 ? train_fail(status) : 0;
    if (code == 0 && *ahead > 0) {
        code = take_result(w, plan, dropping);
    }
    *ahead = 1;
    if (code == 0 && must_wait(w)) {
        code = take_result(w, plan, dropping);
        *ahead = 0;
    }
    return code;
}

static int run_batches(train_work *w, const loader_plan *plan, loader *l)
{
    int64_t group = w->session->options->accumulate;
    int64_t ahead = 0;
    bool dropping = false;
    int code = 0;
    while (code == 0 && epoch_goes_on(w, plan, ahead)) {
        ser_batch *batch = NULL;
        code = loader_next(l, &batch);
        if (code == 0 && dropping) {
            w->state.batch++;
        } else if (code == 0) {
            code = run_batch(w, plan, batch, &ahead, &dropping);
        }
        ser_batch_free(&batch);
        if (code == 0 && !epoch_goes_on(w, plan, ahead) && ahead > 0) {
            code = take_result(w, plan, &dropping);
            ahead = 0;
        }
        if (code == 0 && ahead == 0 && w->state.batch % group == 0) {
            dropping = false;
            code = between_updates(w);
        }
    }
    return code;
}

static int run_epoch(train_work *w)
{
    train_session *s = w->session;
    const train_options *o = s->options;
    loader_plan plan;
    loader_plan_shuffle(&plan, &w->pool, (size_t)o->batch_size, (size_t)o->accumulate,
                        (uint64_t)o->seed, w->state.epoch);
    w->epoch_started = train_clock();
    w->epoch_clips = 0;
    int code = 0;
    if (epoch_goes_on(w, &plan, 0)) {
        loader_setup setup = {.trainer = w->trainer,
                              .data = &s->data,
                              .cache = s->cache,
                              .plan = &plan,
                              .first = (size_t)w->state.batch,
                              .epoch = w->state.epoch,
                              .augment = true,
                              .distinct = train_options_augments(o),
                              .threads = (size_t)o->loader_threads};
        loader *l = loader_start(&setup);
        code = run_batches(w, &plan, l);
        loader_free(&l);
    }
    loader_plan_free(&plan);
    return code;
}

/* Writing a checkpoint may take longer than the epoch, which can be done again. */
static bool is_worth_saving(const train_work *w)
{
    return w->state.finished || train_clock() - w->saved_at >= w->session->options->save_seconds;
}

/* Where a signal stopped the end of the epoch, it is done again when the run goes on. Signals are
 * looked for once, so that none ends the run without a checkpoint. */
static int end_epoch(train_work *w)
{
    int code = train_work_end_epoch(w);
    int signal_number = stop_requested();
    if (signal_number != 0 || (code == 0 && is_worth_saving(w))) {
        train_work_save(w);
    }
    if (code == 0 && signal_number != 0 && !w->state.finished) {
        code = 128 + signal_number;
    }
    return code;
}

static int run_epochs(train_work *w)
{
    int code = 0;
    start_bar(w);
    while (code == 0 && !w->state.finished && !w->late) {
        code = run_epoch(w);
        if (code == 0 && !w->late) {
            code = end_epoch(w);
        }
    }
    progress_end(&w->bar);
    return code;
}

/* Without validation the last step is the best; before the first validation it is all there is. */
static int finish(train_work *w)
{
    int code = w->state.best_epoch == 0 ? train_work_write_model(w, 1.0) : 0;
    if (w->save_failed && (code == 0)) {
        train_work_save(w); /* once more */
        code = w->save_failed ? MESSAGE_EXIT_IO : 0;
    }
    if (code == 0 && w->late && !w->state.finished) {
        train_say(w->session, "the time limit is over after step %" PRId64 "; --resume goes on",
                  ser_trainer_steps(w->trainer));
    }
    return code;
}

static int begin(train_work *w)
{
    bool found = false;
    int code = w->session->options->resume ? train_work_restore(w, &found) : 0;
    if (code == 0 && !found) {
        code = train_work_observe(w, SIZE_MAX);
    }
    return code;
}

static void say_stopped(const train_work *w, int code)
{
    char *path = w->saved >= 0 ? run_dir_checkpoint(w->dir, w->saved) : NULL;
    message_error("stopped after step %" PRId64 "; %s%s%s", ser_trainer_steps(w->trainer),
                  path != NULL ? "--resume goes on from " : "no checkpoint was written",
                  path != NULL ? path : "", code >= 128 && w->save_failed ? ", an older one" : "");
    free(path);
}

int train_run(train_session *s, const train_fold *fold, const run_dir *dir, train_result *result)
{
    double started = train_clock();
    train_work w = {.session = s, .fold = fold, .dir = dir, .saved_at = started};
    *result = (train_result){0};
    int code = train_work_open(&w);
    if (code == 0) {
        code = begin(&w);
    }
    if (code == 0) {
        result->parameters = ser_model_parameter_count(w.model);
        code = run_epochs(&w);
        code = code == 0 ? finish(&w) : code;
    }
    if (code >= 128 && w.trainer != NULL) {
        say_stopped(&w, code);
        code = w.save_failed ? MESSAGE_EXIT_IO : code;
    }
    result->late = w.late && !w.state.finished;
    result->seconds = train_clock() - started;
    result->state = w.state;
    w.state = (train_state){0};
    train_work_close(&w);
    return code;
}

void train_result_free(train_result *result)
{
    train_state_free(&result->state);
}
