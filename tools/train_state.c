/* SPDX-License-Identifier: MIT */
#include "train_state.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "run_dir.h"
#include "text.h"

enum { VERSION = 1, DIGEST_SIZE = 17 };

static void grow(train_state *s, int64_t epochs)
{
    train_epoch *history = text_alloc((size_t)epochs + 1, sizeof *history);
    if (s->history != NULL && s->epoch > 0) {
        memcpy(history, s->history, (size_t)s->epoch * sizeof *history);
    }
    free(s->history);
    s->history = history;
}

void train_state_next_epoch(train_state *s, const train_epoch *done)
{
    grow(s, s->epoch + 1);
    s->history[s->epoch++] = *done;
    s->batch = 0;
    s->loss_sum = 0.0;
    s->clips = 0;
    s->correct = 0;
    s->skipped = 0;
}

static json_t *history_value(const train_state *s)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < s->epoch; i++) {
        const train_epoch *e = &s->history[i];
        const double values[] = {e->train_loss,     e->train_accuracy, e->validation_loss,
                                 e->validation_uar, e->rate,           e->head_rate};
        json_t *row = json_array();
        for (size_t k = 0; k < sizeof values / sizeof values[0]; k++) {
            json_array_append_new(row, run_dir_real(values[k]));
        }
        json_array_append_new(list, row);
    }
    return list;
}

char *train_state_note(const train_state *s, uint64_t digest)
{
    char data[DIGEST_SIZE];
    snprintf(data, sizeof data, "%016" PRIx64, digest);
    json_t *note = json_object();
    json_object_set_new(note, "version", json_integer(VERSION));
    json_object_set_new(note, "data", json_string(data));
    json_object_set_new(note, "epoch", json_integer(s->epoch));
    json_object_set_new(note, "batch", json_integer(s->batch));
    json_object_set_new(note, "loss_sum", run_dir_real(s->loss_sum));
    json_object_set_new(note, "clips", json_integer(s->clips));
    json_object_set_new(note, "correct", json_integer(s->correct));
    json_object_set_new(note, "skipped", json_integer(s->skipped));
    json_object_set_new(note, "rate", run_dir_real(s->rate));
    json_object_set_new(note, "head_rate", run_dir_real(s->head_rate));
    json_object_set_new(note, "gradient_norm", run_dir_real(s->gradient_norm));
    json_object_set_new(note, "best_epoch", json_integer(s->best_epoch));
    json_object_set_new(note, "best_uar", run_dir_real(s->best_uar));
    json_object_set_new(note, "temperature", run_dir_real(s->temperature));
    json_object_set_new(note, "finished", json_boolean(s->finished));
    json_object_set_new(note, "history", history_value(s));
    /* 17 digits bring every double back as it was. */
    char *text = json_dumps(note, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(note);
    return text;
}

static double real_of(const json_t *value)
{
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static bool read_history(train_state *s, const json_t *list)
{
    int64_t epochs = (int64_t)json_array_size(list);
    if (epochs != s->epoch) {
        return false;
    }
    s->epoch = 0;
    grow(s, epochs);
    for (int64_t i = 0; i < epochs; i++) {
        const json_t *row = json_array_get(list, (size_t)i);
        s->history[i] = (train_epoch){
            .train_loss = real_of(json_array_get(row, 0)),
            .train_accuracy = real_of(json_array_get(row, 1)),
            .validation_loss = real_of(json_array_get(row, 2)),
            .validation_uar = real_of(json_array_get(row, 3)),
            .rate = real_of(json_array_get(row, 4)),
            .head_rate = real_of(json_array_get(row, 5)),
        };
    }
    s->epoch = epochs;
    return true;
}

static int64_t integer_of(const json_t *note, const char *key)
{
    return (int64_t)json_integer_value(json_object_get(note, key));
}

bool train_state_read(train_state *s, const char *note, uint64_t digest, bool *other_data)
{
    char data[DIGEST_SIZE];
    snprintf(data, sizeof data, "%016" PRIx64, digest);
    json_t *root = note != NULL ? json_loads(note, 0, NULL) : NULL;
    const char *theirs = json_string_value(json_object_get(root, "data"));
    *other_data = theirs != NULL && strcmp(theirs, data) != 0;
    bool good = theirs != NULL && !*other_data && integer_of(root, "version") == VERSION;
    if (good) {
        train_state_free(s);
        s->epoch = integer_of(root, "epoch");
        s->batch = integer_of(root, "batch");
        s->loss_sum = real_of(json_object_get(root, "loss_sum"));
        s->clips = integer_of(root, "clips");
        s->correct = integer_of(root, "correct");
        s->skipped = integer_of(root, "skipped");
        s->rate = real_of(json_object_get(root, "rate"));
        s->head_rate = real_of(json_object_get(root, "head_rate"));
        s->gradient_norm = real_of(json_object_get(root, "gradient_norm"));
        s->best_epoch = integer_of(root, "best_epoch");
        s->best_uar = real_of(json_object_get(root, "best_uar"));
        s->temperature = real_of(json_object_get(root, "temperature"));
        s->finished = json_is_true(json_object_get(root, "finished"));
        good = s->epoch >= 0 && s->batch >= 0 && read_history(s, json_object_get(root, "history"));
    }
    json_decref(root);
    return good;
}

void train_state_free(train_state *s)
{
    free(s->history);
    *s = (train_state){0};
}
