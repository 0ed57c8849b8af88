/* SPDX-License-Identifier: MIT */
/*
 * Steps and evaluation. The loss of an update over batches B is PyTorch's weighted mean,
 *
 *     sum of all clips' losses in B / sum of their clip weight * class weight,
 *
 * so the gradients of the summed losses are added up, and the update scales them.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/fork.h"
#include "base/log.h"
#include "base/mem.h"
#include "train/cache.h"
#include "train/inputs.h"
#include "train/masks.h"
#include "train/schedule.h"
#include "train/trainer.h"

static int check_batch(ser_trainer *t, const ser_batch *batch, const char *function)
{
    const ser_config *config = &t->model->config;
    if (batch->owner != t || batch->label_count != config->label_count ||
        batch->bins != config->arch.mel.bins) {
        return ser_fail(SER_ERR_ARGUMENT, "%s: the batch belongs to another trainer", function);
    }
    int status = ser_fork_check(t->model->fork_generation, "the trainer");
    if (status == 0 && atomic_exchange(&t->cancelled, false)) {
        status = ser_fail(SER_ERR_CANCELLED, "%s: cancelled", function);
    }
    return status;
}

/* A class of weight 0 has no targets either, but a label. */
static bool has_target(const ser_batch *batch, int64_t clip, size_t labels)
{
    const float *targets = batch->targets + (size_t)clip * labels;
    bool found = batch->labels[clip] >= 0;
    for (size_t k = 0; k < labels; k++) {
        found = found || targets[k] != 0.0F;
    }
    return found;
}

static int check_targets(const ser_trainer *t, const ser_batch *batch)
{
    for (int64_t b = 0; b < batch->count; b++) {
        if (!has_target(batch, b, t->model->config.label_count)) {
            return ser_fail(SER_ERR_ARGUMENT,
                            "ser_train_step: clip %lld of the batch (id %llu) has neither a label "
                            "nor targets",
                            (long long)b, (unsigned long long)batch->ids[b]);
        }
    }
    return 0;
}

/* What evaluation and training have in common. */
static ser_training_batch describe(const ser_batch *batch, const ser_inputs *inputs)
{
    return (ser_training_batch){
        .count = batch->count,
        .samples = (const float *const *)batch->samples,
        .lengths = batch->lengths,
        .sources = inputs->sources,
        .features = inputs->sources != NULL && inputs->features,
        .targets = batch->targets,
        .mask = batch->mask,
        .scale = 1.0F,
    };
}

static void add_noise(const ser_trainer *t, const ser_batch *made, const ser_masks *masks,
                      ser_training_batch *batch)
{
    const ser_augment_options *augment = &t->options.augment;
    batch->mel_warp = made->mel_warp;
    batch->mel_offset = made->mel_offset;
    if (made->mel_time != NULL) {
        batch->mel_time = (ser_spans){made->mel_time, augment->mel_time_spans};
    }
    if (made->mel_channel != NULL) {
        batch->mel_channel = (ser_spans){made->mel_channel, augment->mel_channel_spans};
    }
    batch->hidden_time = (ser_spans){masks->time, masks->time_count};
    batch->hidden_channel = (ser_spans){masks->channel, masks->channel_count};
    batch->dropped_layers = masks->dropped;
    batch->seed = t->options.seed;
    batch->step = (uint64_t)t->batches;
}

/* --- Steps that are not finite --- */

static int drop_gradients(ser_trainer *t)
{
    t->accumulated = 0;
    t->weight_sum = 0.0;
    return ser_training_clear(t->training);
}

static void note_bad_clip(ser_trainer *t, uint64_t id)
{
    if (t->bad_clip_count == SER_NAMED_CLIPS) {
        for (int32_t i = 1; i < SER_NAMED_CLIPS; i++) {
            t->bad_clips[i - 1] = t->bad_clips[i];
        }
        t->bad_clip_count--;
    }
    t->bad_clips[t->bad_clip_count++] = id;
}

static int fail_numeric(const ser_trainer *t)
{
    char clips[24 * SER_NAMED_CLIPS] = "";
    size_t used = 0;
    for (int32_t i = 0; i < t->bad_clip_count; i++) {
        int n = snprintf(clips + used, sizeof clips - used, "%s%llu", i > 0 ? ", " : "",
                         (unsigned long long)t->bad_clips[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    return ser_fail(SER_ERR_NUMERIC,
                    "%d step%s in a row gave NaN or infinity (limit max_skipped, %d): %s%s",
                    t->skipped, t->skipped == 1 ? "" : "s", t->options.max_skipped,
                    used > 0 ? "the loss of clips " : "the gradients of finite losses", clips);
}

/* Nothing has changed, and what was accumulated for this update is lost. `clip` NULL: no loss is to
 * blame, but the gradients. */
static int skip(ser_trainer *t, const uint64_t *clip, ser_step_result *result)
{
    int status = drop_gradients(t);
    result->skipped = 1;
    t->skipped++;
    if (clip != NULL) {
        note_bad_clip(t, *clip);
        result->bad_clip = (int64_t)*clip;
    }
    if (status == 0 && t->skipped >= t->options.max_skipped) {
        status = fail_numeric(t);
    }
    return status;
}

/* --- Steps --- */

static int64_t likeliest(const float *probabilities, size_t labels)
{
    size_t best = 0;
    for (size_t k = 1; k < labels; k++) {
        best = probabilities[k] > probabilities[best] ? k : best;
    }
    return (int64_t)best;
}

static void summarise(const ser_trainer *t, const ser_pending *p, ser_step_result *result)
{
    const size_t labels = t->model->config.label_count;
    double sum = 0.0;
    result->bad_clip = -1;
    for (int64_t b = 0; b < p->count; b++) {
        const float *row = p->probabilities + (size_t)b * labels;
        sum += (double)p->losses[b];
        result->correct += p->labels[b] >= 0 && likeliest(row, labels) == p->labels[b];
    }
    result->loss = p->weight > 0.0 ? sum / p->weight : sum;
    result->rate = p->factor * (double)t->options.rate;
    result->head_rate = p->factor * (double)t->options.head_rate;
}

/* The id of the first clip whose loss is not finite, or NULL. */
static const uint64_t *find_bad(const ser_pending *p)
{
    int64_t b = 0;
    while (b < p->count && isfinite(p->losses[b])) {
        b++;
    }
    return b < p->count ? &p->ids[b] : NULL;
}

static void note_update(ser_trainer *t, ser_step_result *result)
{
    t->step++;
    t->accumulated = 0;
    t->weight_sum = 0.0;
    t->skipped = 0;
    t->bad_clip_count = 0;
    result->updated = 1;
}

/* A loss that is not finite makes the gradient so too, so that nothing was changed; but where no
 * gradient reaches what is trained, as with every block dropped, the step is one of decay alone. */
static int finish_step(ser_trainer *t, const ser_pending *p, const ser_training_result *given,
                       ser_step_result *result)
{
    const uint64_t *bad = find_bad(p);
    const bool changed = p->updates && !given->skipped;
    int status = 0;
    summarise(t, p, result);
    if (bad != NULL && !changed) {
        status = skip(t, bad, result);
    } else if (!p->updates) {
        t->accumulated++;
        t->weight_sum += p->weight;
    } else {
        result->gradient_norm = given->norm;
        if (given->skipped) {
            status = skip(t, NULL, result);
        } else {
            note_update(t, result);
        }
    }
    result->step = t->step;
    return status;
}

/* --- Under way --- */

void ser_pending_clear(const ser_trainer *trainer, ser_pending *pending)
{
    ser_pending *p = pending;
    ser_inputs_clear(trainer, &p->inputs);
    ser_mem_free(p->ids);
    ser_mem_free(p->labels);
    ser_mem_free(p->losses);
    ser_mem_free(p->probabilities);
    *p = (ser_pending){.launched = false};
}

int ser_trainer_settle_step(ser_trainer *trainer)
{
    ser_trainer *t = trainer;
    ser_pending *p = &t->pending;
    ser_step_result own = {.struct_size = sizeof own};
    if (!p->launched) {
        return 0;
    }
    ser_training_result given = {.losses = p->losses, .probabilities = p->probabilities};
    int status = ser_fork_check(t->model->fork_generation, "the trainer");
    if (status != 0) {
        return status; /* the step is the parent's */
    }
    status = ser_training_wait(t->training, &given);
    if (status == 0) {
        status = finish_step(t, p, &given, &own);
    } else {
        (void)drop_gradients(t); /* whatever failed, the next update starts anew */
    }
    ser_pending_clear(t, p);
    if (status == 0) {
        t->results[t->result_count++] = own;
    }
    return status;
}

/* A copy of the batch's small things: the caller may free it once the step is launched. */
static int start_pending(ser_trainer *t, const ser_batch *batch, ser_pending *p)
{
    const size_t count = (size_t)batch->count;
    *p = (ser_pending){.count = batch->count, .weight = batch->weight};
    p->ids = ser_mem_alloc(count, sizeof *p->ids);
    p->labels = ser_mem_alloc(count, sizeof *p->labels);
    p->losses = ser_mem_alloc(count, sizeof *p->losses);
    p->probabilities = ser_mem_alloc(count, t->model->config.label_count * sizeof *p->losses);
    if (p->ids == NULL || p->labels == NULL || p->losses == NULL || p->probabilities == NULL) {
        return SER_ERR_MEMORY;
    }
    memcpy(p->ids, batch->ids, count * sizeof *p->ids);
    memcpy(p->labels, batch->labels, count * sizeof *p->labels);
    return ser_inputs_find(t, batch, &p->inputs);
}

/* Whether the next batch does, if nothing goes wrong with the step under way. */
static bool completes_update(const ser_trainer *t)
{
    const ser_pending *p = &t->pending;
    const int32_t accumulated = !p->launched ? t->accumulated : p->updates ? 0 : t->accumulated + 1;
    return accumulated + 1 == t->options.accumulate;
}

/* The average starts as the weights after the first update (as PyTorch's AveragedModel), not as the
 * random ones before it. */
static int launch(ser_trainer *t, const ser_training_batch *batch, ser_pending *p)
{
    const double weight = t->weight_sum + p->weight;
    p->factor = t->rate_factor * ser_schedule_factor(t->options.schedule, t->options.warmup_steps,
                                                     t->options.steps, t->step);
    p->updates = completes_update(t);
    const ser_update update = {
        .rate = (float)p->factor,
        .clip = t->options.clip_norm,
        .gradient_scale = weight > 0.0 ? (float)(1.0 / weight) : 0.0F,
        .average = t->step > 0 ? t->options.average : 0.0F,
    };
    return ser_training_launch(t->training, batch, p->updates ? &update : NULL);
}

/*
 * Everything that the host can do is done beside the step that is under way; its outcome is looked at
 * before the next one is launched, because rates, averages and the number of batches in an update
 * follow from it.
 */
static int follow(ser_trainer *t, const ser_training_batch *batch, ser_pending *p)
{
    const bool expected = completes_update(t);
    int status = ser_training_prepare(t->training, batch, expected);
    status = status == 0 ? ser_trainer_settle_step(t) : status;
    if (status == 0 && completes_update(t) != expected) { /* that step was skipped */
        status = ser_training_prepare(t->training, batch, !expected);
    }
    if (status != 0) {
        return status;
    }
    p->launched = true;
    status = launch(t, batch, p);
    if (status != 0) {
        (void)drop_gradients(t); /* half of a backward pass may be in them */
    }
    return status;
}

static int submit(ser_trainer *t, const ser_batch *made, ser_pending *p)
{
    ser_masks masks = {.dropped = NULL};
    int status = start_pending(t, made, p);
    if (status == 0) {
        status = ser_masks_draw(&t->model->config.arch, &t->options, (uint64_t)t->batches,
                                made->lengths, made->count, &masks);
    }
    if (status == 0) {
        ser_training_batch batch = describe(made, &p->inputs);
        add_noise(t, made, &masks, &batch);
        status = follow(t, &batch, p);
    }
    ser_masks_clear(&masks);
    return status;
}

/* A batch that does not fit may, without what stays of the clips; no number depends on that. */
static bool has_cache(const ser_trainer *t)
{
    return t->cache != NULL && ser_clip_cache_bytes(t->cache) > 0;
}

static int give_up_cache(ser_trainer *t)
{
    int status = ser_trainer_settle_step(t); /* which may read it */
    if (status == 0) {
        ser_log(
            SER_LOG_WARNING,
            "train: a batch needs the memory of the cache: the %llu MiB that stayed of clips are "
            "given up (cache_bytes sets its limit)",
            (unsigned long long)(ser_clip_cache_bytes(t->cache) >> 20));
        ser_clip_cache_close(t->cache);
    }
    return status;
}

static int check_submission(ser_trainer *t, const ser_batch *batch)
{
    int status = check_batch(t, batch, "ser_train_step");
    if (status == 0 && t->uses_average) {
        status = ser_fail(SER_ERR_ARGUMENT, "ser_train_step: the average of the weights is in use; "
                                            "call ser_trainer_use_average(trainer, 0) first");
    }
    if (status == 0 && t->result_count + t->pending.launched >= SER_RESULTS) {
        status = ser_fail(SER_ERR_ARGUMENT,
                          "ser_train_submit: %d results wait for ser_train_collect", SER_RESULTS);
    }
    return status == 0 ? check_targets(t, batch) : status;
}

int ser_trainer_submit_batch(ser_trainer *trainer, const ser_batch *batch)
{
    ser_pending next = {.launched = false};
    int status = check_submission(trainer, batch);
    if (status != 0) {
        return status;
    }
    status = submit(trainer, batch, &next);
    if (status == SER_ERR_MEMORY && !next.launched && has_cache(trainer)) {
        ser_pending_clear(trainer, &next);
        status = give_up_cache(trainer);
        status = status == 0 ? submit(trainer, batch, &next) : status;
    }
    if (status != 0) {
        ser_pending_clear(trainer, &next);
        return status;
    }
    trainer->pending = next;
    trainer->batches++;
    return 0;
}

int ser_trainer_collect_result(ser_trainer *trainer, ser_step_result *result, bool *found)
{
    *found = false;
    int status = trainer->result_count == 0 ? ser_trainer_settle_step(trainer) : 0;
    if (status == 0 && trainer->result_count > 0) {
        *result = trainer->results[0];
        *found = true;
        trainer->result_count--;
        memmove(trainer->results, trainer->results + 1,
                (size_t)trainer->result_count * sizeof *trainer->results);
    }
    return status;
}

int ser_trainer_step_batch(ser_trainer *trainer, const ser_batch *batch, ser_step_result *result)
{
    int status = ser_trainer_submit_batch(trainer, batch);
    status = status == 0 ? ser_trainer_settle_step(trainer) : status;
    if (status == 0) {
        *result = trainer->results[--trainer->result_count];
    }
    return status;
}

/* --- Evaluation --- */

/* The outputs of an evaluation. */
typedef struct outputs {
    float *losses;        /* [count] */
    float *probabilities; /* [count, labels] */
} outputs;

static int check_outputs(const ser_trainer *t, const ser_batch *batch, const outputs *o)
{
    const size_t labels = t->model->config.label_count;
    for (int64_t b = 0; b < batch->count; b++) {
        bool finite = isfinite(o->losses[b]) != 0;
        for (size_t k = 0; k < labels; k++) {
            finite = finite && isfinite(o->probabilities[(size_t)b * labels + k]);
        }
        if (!finite) {
            return ser_fail(SER_ERR_NUMERIC,
                            "ser_trainer_evaluate: clip %llu: the network gave NaN or infinity",
                            (unsigned long long)batch->ids[b]);
        }
    }
    return 0;
}

static void give(const float *values, size_t count, float *to)
{
    for (size_t i = 0; i < count && to != NULL; i++) {
        to[i] = values[i];
    }
}

static int evaluate(ser_trainer *t, const ser_batch *batch, const outputs *o)
{
    ser_inputs inputs;
    int status = ser_inputs_find(t, batch, &inputs);
    if (status == 0) {
        const ser_training_batch arguments = describe(batch, &inputs);
        status = ser_training_evaluate(t->training, &arguments, o->losses, o->probabilities);
    }
    ser_inputs_clear(t, &inputs);
    return status == 0 ? check_outputs(t, batch, o) : status;
}

int ser_trainer_evaluate_batch(ser_trainer *trainer, const ser_batch *batch, float *losses,
                               float *probabilities)
{
    int status = check_batch(trainer, batch, "ser_trainer_evaluate");
    status = status == 0 ? ser_trainer_settle_step(trainer) : status;
    if (status != 0) {
        return status;
    }
    const size_t count = (size_t)batch->count;
    const size_t labels = trainer->model->config.label_count;
    const outputs own = {ser_mem_alloc(count, sizeof *losses),
                         ser_mem_alloc(count, labels * sizeof *losses)};
    status = own.losses != NULL && own.probabilities != NULL ? evaluate(trainer, batch, &own)
                                                             : SER_ERR_MEMORY;
    if (status == SER_ERR_MEMORY && own.probabilities != NULL && has_cache(trainer)) {
        status = give_up_cache(trainer);
        status = status == 0 ? evaluate(trainer, batch, &own) : status;
    }
    if (status == 0) {
        give(own.losses, count, losses);
        give(own.probabilities, count * labels, probabilities);
    }
    ser_mem_free(own.losses);
    ser_mem_free(own.probabilities);
    return status;
}
