/* SPDX-License-Identifier: MIT */
/* --dry-run: everything but writing. */
#include <sys/resource.h>

#include "message.h"
#include "train_setup.h"

enum { MIB = 1 << 20 };

/* Weights as they are computed with, and for each trained one a gradient and the two moments of
 * AdamW (and its average), all in 4 bytes. */
static void tell_memory(const train_work *w)
{
    const train_options *o = w->session->options;
    double weights = 4.0 * (double)ser_model_parameter_count(w->model) / MIB;
    double each = o->average > 0.0 ? 4.0 : 3.0;
    double state = 4.0 * each * (double)ser_trainer_trained_count(w->trainer) / MIB;
    double audio = 0.0;
    for (size_t i = 0; i < w->session->data.set.count; i++) {
        audio += 4.0 * (double)w->session->data.audio.entries[i].samples / MIB;
    }
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    train_say(w->session,
              "memory: weights %.0f MiB, gradients and optimiser %.0f MiB, decoded clips %.0f of "
              "at most %d MiB; highest so far %.0f MiB%s, with the longest batch",
              weights, state, audio, (int)o->cache_mb, (double)usage.ru_maxrss / 1024.0,
              ser_device_kind(w->session->device) == SER_DEVICE_CPU ? "" : " of the host's");
}

static int step_once(train_work *w, const loader_plan *plan)
{
    train_session *s = w->session;
    loader_setup setup = {.trainer = w->trainer,
                          .data = &s->data,
                          .cache = s->cache,
                          .plan = plan,
                          .augment = true,
                          .threads = 1};
    ser_batch *batch = NULL;
    ser_step_result step = {.struct_size = sizeof step};
    loader *l = loader_start(&setup);
    int code = loader_next(l, &batch);
    loader_free(&l);
    int status = code == 0 ? ser_train_step(w->trainer, batch, &step) : 0;
    ser_batch_free(&batch);
    if (status != 0) {
        return train_fail(status);
    }
    if (code == 0 && step.skipped) {
        message_error("the first step gave NaN or infinity");
        code = MESSAGE_EXIT_NUMERIC;
    }
    return code;
}

int train_try(train_session *s, const train_fold *fold)
{
    train_work w = {.session = s, .fold = fold};
    loader_plan plan = {0};
    int code = train_work_open(&w);
    if (code == 0) {
        code = train_work_observe(&w, 1);
    }
    if (code == 0) {
        loader_plan_sort(&plan, &w.pool, (size_t)s->options->batch_size);
        code = step_once(&w, &plan);
    }
    if (code == 0) {
        train_say(s,
                  "dry run: %llu weights, %llu of them trained; %zu batches per epoch, %lld "
                  "updates in all",
                  (unsigned long long)ser_model_parameter_count(w.model),
                  (unsigned long long)ser_trainer_trained_count(w.trainer), w.batches,
                  (long long)w.steps);
        tell_memory(&w);
    }
    loader_plan_free(&plan);
    train_work_close(&w);
    return code;
}
