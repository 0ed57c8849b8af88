/* SPDX-License-Identifier: MIT */
#include "train_setup.h"

#include <stdlib.h>
#include <unistd.h>

#include "message.h"
#include "stop.h"
#include "text.h"

static int plan_steps(train_work *w)
{
    const train_options *o = w->session->options;
    w->batches = loader_plan_batches(&w->pool, (size_t)o->batch_size, (size_t)o->accumulate);
    if (w->batches == 0) {
        return message_usage("--accumulate %d: an epoch has %zu clips, too few for that many "
                             "batches of %d",
                             (int)o->accumulate, w->pool.count, (int)o->batch_size);
    }
    w->steps = (int64_t)(w->batches / (size_t)o->accumulate) * o->epochs;
    if (o->max_steps > 0 && o->max_steps < w->steps) {
        w->steps = o->max_steps;
    }
    return 0;
}

static int create_trainer(train_work *w)
{
    const train_options *o = w->session->options;
    ser_trainer_options options;
    train_options_fill(o, w->steps, &options);
    int status = ser_trainer_create(w->model, &options, &w->trainer);
    return status != 0 ? train_fail(status) : 0;
}

int train_work_open(train_work *w)
{
    train_session *s = w->session;
    w->saved = -1;
    w->digest = scan_digest(&s->data.audio, &s->data.set, w->fold->split.parts);
    int code = train_model_create(s, &w->model);
    if (code == 0) {
        loader_pool_make(&w->pool, &s->data, &w->fold->split, DATASET_TRAIN, s->options);
        code = plan_steps(w);
    }
    return code == 0 ? create_trainer(w) : code;
}

void train_work_close(train_work *w)
{
    ser_trainer_free(&w->trainer);
    ser_model_free(&w->model);
    loader_pool_free(&w->pool);
    train_state_free(&w->state);
}

static int observe_batches(train_work *w, const loader_plan *plan, size_t batches)
{
    train_session *s = w->session;
    loader_setup setup = {.trainer = w->trainer,
                          .data = &s->data,
                          .cache = s->cache,
                          .plan = plan,
                          .threads = (size_t)s->options->loader_threads};
    progress bar;
    progress_start(&bar, !s->options->quiet && !s->options->no_progress, STDERR_FILENO, "clips",
                   (int64_t)plan->starts[batches]);
    loader *l = loader_start(&setup);
    int code = 0;
    for (size_t b = 0; code == 0 && b < batches; b++) {
        ser_batch *batch = NULL;
        code = stop_requested() != 0 ? 128 + stop_requested() : loader_next(l, &batch);
        int status = code == 0 ? ser_trainer_observe(w->trainer, batch) : 0;
        code = status != 0 ? train_fail(status) : code;
        ser_batch_free(&batch);
        progress_update(&bar, (int64_t)plan->starts[b + 1], "measuring levels");
    }
    loader_free(&l);
    progress_end(&bar);
    return code;
}

int train_work_observe(train_work *w, size_t batches)
{
    const train_options *o = w->session->options;
    if (o->arch == NULL || !train_model_has_levels(w->model)) {
        return 0;
    }
    loader_pool pool;
    loader_plan plan;
    loader_pool_make(&pool, &w->session->data, &w->fold->split, DATASET_TRAIN, NULL);
    loader_plan_sort(&plan, &pool, (size_t)o->batch_size);
    int code = observe_batches(w, &plan, batches < plan.batches ? batches : plan.batches);
    int status = code == 0 ? ser_trainer_settle(w->trainer) : 0;
    loader_plan_free(&plan);
    loader_pool_free(&pool);
    return status != 0 ? train_fail(status) : code;
}
