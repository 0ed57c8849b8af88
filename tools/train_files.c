/* SPDX-License-Identifier: MIT */
/* What a run writes and reads while it trains: checkpoints, the best model, anomalies. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "message.h"
#include "text.h"
#include "train_setup.h"

/* 0: `w->state` is that of the checkpoint; else it is not, after a message. */
static int restore_one(train_work *w, const char *path, bool *other_data)
{
    const char *note = NULL;
    int status = ser_trainer_restore(w->trainer, path, &note);
    if (status != 0) {
        message_warning("%s: cannot be used: %s", path, ser_error_message());
        return status;
    }
    if (train_state_read(&w->state, note, w->digest, other_data)) {
        return 0;
    }
    if (*other_data) {
        message_error("%s: the clips, labels or parts differ from those of the run; it cannot go "
                      "on with others",
                      path);
    } else {
        message_warning("%s: cannot be used: it was not saved by ser-train", path);
    }
    return SER_ERR_DATA;
}

int train_work_restore(train_work *w, bool *found)
{
    size_t count = 0;
    int64_t *steps = run_dir_checkpoints(w->dir, &count);
    bool other_data = false;
    int code = 0;
    *found = false;
    for (size_t i = 0; i < count && !*found && !other_data; i++) {
        char *path = run_dir_checkpoint(w->dir, steps[i]);
        *found = restore_one(w, path, &other_data) == 0;
        if (*found) {
            w->saved = steps[i];
            code = w->state.best_epoch > 0 ? run_dir_take_best(w->dir, steps[i]) : 0;
            train_say(w->session, "going on from %s: epoch %" PRId64 " of %d%s", path,
                      w->state.epoch + (w->state.finished ? 0 : 1),
                      (int)w->session->options->epochs,
                      w->state.finished ? ", which was the last" : "");
        }
        free(path);
    }
    free(steps);
    if (count > 0 && !*found) {
        message_error("%s: none of its %zu checkpoints can be used%s", w->dir->path, count,
                      other_data ? "" : "; --force starts again");
        return MESSAGE_EXIT_DATA;
    }
    int64_t last = *found ? w->saved : -1;
    code = code == 0 ? run_dir_trim(w->dir, "metrics.jsonl", last, w->state.epoch) : code;
    return code == 0 ? run_dir_trim(w->dir, "anomalies.jsonl", last, w->state.epoch) : code;
}

/* Before the checkpoint itself, which flushes the folder of both. */
static void keep_best_with(train_work *w, int64_t step)
{
    int error = w->state.best_epoch > 0 ? run_dir_keep_best(w->dir, step) : 0;
    if (error != 0 && !w->best_alone) {
        message_warning("best.safetensors cannot be kept with the checkpoints: %s",
                        strerror(error));
        w->best_alone = true;
    }
}

void train_work_save(train_work *w)
{
    int64_t step = ser_trainer_steps(w->trainer);
    keep_best_with(w, step);
    char *path = run_dir_checkpoint(w->dir, step);
    char *note = train_state_note(&w->state, w->digest);
    int status = ser_trainer_save(w->trainer, path, note);
    w->save_failed = status != 0;
    if (status != 0) {
        message_warning("the checkpoint was not written, and training goes on: %s",
                        ser_error_message());
    } else {
        w->saved = step;
        w->saved_at = train_clock();
        run_dir_rotate(w->dir, step, (size_t)w->session->options->keep);
    }
    free(note);
    free(path);
}

/* What the model file tells about its training: nothing that depends on place, time or machine, so
 * that the same run gives the same bytes. */
static char *describe_training(const train_work *w, double temperature)
{
    const train_data *data = &w->session->data;
    json_t *corpora = json_array();
    for (size_t i = 0; i < data->set.corpus_count; i++) {
        json_array_append_new(corpora, json_string(data->set.corpora[i].name));
    }
    char digest[17];
    snprintf(digest, sizeof digest, "%016" PRIx64, w->digest);
    json_t *object = json_object();
    json_object_set_new(object, "libser", json_string(ser_version_string()));
    json_object_set_new(object, "corpora", corpora);
    json_object_set_new(object, "data", json_string(digest));
    json_object_set_new(object, "protocol", json_string(w->fold->split.protocol));
    json_object_set_new(object, "split", json_string(w->fold->split.name));
    json_object_set_new(object, "step", json_integer(ser_trainer_steps(w->trainer)));
    json_object_set_new(object, "temperature", run_dir_real(temperature));
    json_t *recipe = train_options_recipe(w->session->options);
    json_object_del(recipe, "split"); /* the same one whether it was named or the default */
    json_object_set_new(object, "recipe", recipe);
    char *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(15));
    json_decref(object);
    return text;
}

int train_work_write_model(train_work *w, double temperature)
{
    char *path = run_dir_file(w->dir, "best.safetensors");
    char *training = describe_training(w, temperature);
    int status = ser_trainer_save_model(w->trainer, path, temperature, training);
    free(training);
    free(path);
    return status != 0 ? train_fail(status) : 0;
}

static void remember_bad(train_work *w, size_t clip)
{
    if (w->bad_count == TRAIN_BAD_CLIPS) {
        memmove(w->bad_clips, w->bad_clips + 1, (TRAIN_BAD_CLIPS - 1) * sizeof *w->bad_clips);
        w->bad_count--;
    }
    w->bad_clips[w->bad_count++] = clip;
}

static json_t *path_value(const train_work *w, size_t clip)
{
    char *path = text_printable(w->session->data.set.clips[clip].path);
    json_t *value = json_string(path);
    free(path);
    return value;
}

void train_work_note_skip(train_work *w, const loader_plan *plan, const ser_step_result *step)
{
    size_t b = (size_t)w->state.batch;
    size_t bad = step->bad_clip >= 0 ? loader_clip_of(&w->session->data, (uint64_t)step->bad_clip)
                                     : plan->pool->clips[plan->order[plan->starts[b]]];
    const char *path = w->session->data.set.clips[bad].path;
    json_t *clips = json_array();
    for (size_t i = plan->starts[b]; i < plan->starts[b + 1]; i++) {
        json_array_append_new(clips, path_value(w, plan->pool->clips[plan->order[i]]));
    }
    json_t *line = json_object();
    json_object_set_new(line, "step", json_integer(ser_trainer_steps(w->trainer)));
    json_object_set_new(line, "epoch", json_integer(w->state.epoch + 1));
    json_object_set_new(line, "batch", json_integer(w->state.batch));
    json_object_set_new(line, "what", json_string(step->bad_clip >= 0 ? "loss" : "gradient"));
    json_object_set_new(line, "clip", step->bad_clip >= 0 ? path_value(w, bad) : json_null());
    json_object_set_new(line, "clips", clips);
    run_dir_append(w->dir, "anomalies.jsonl", line);
    remember_bad(w, bad);
    message_warning("step skipped, nothing changed: the %s is not finite, %s %s",
                    step->bad_clip >= 0 ? "loss" : "gradient",
                    step->bad_clip >= 0 ? "first of" : "in the batch of", path);
}

int train_work_give_up(const train_work *w)
{
    char *list = text_copy("");
    for (size_t i = 0; i < w->bad_count; i++) {
        const char *path = w->session->data.set.clips[w->bad_clips[i]].path;
        char *longer = text_join(list, i > 0 ? ", " : "", path);
        free(list);
        list = longer;
    }
    char *checkpoint = w->saved >= 0 ? run_dir_checkpoint(w->dir, w->saved) : text_copy("none");
    message_error("%d steps in a row gave NaN or infinity; clips: %s; last good checkpoint: %s; a "
                  "lower --lr or --clip-norm may help",
                  (int)w->skipped, list, checkpoint);
    free(checkpoint);
    free(list);
    return MESSAGE_EXIT_NUMERIC;
}
