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

#include "base/fail.h"
#include "base/fork.h"
#include "base/mem.h"
#include "train/inputs.h"
#include "train/masks.h"
#include "train/schedule.h"
#include "train/trainer.h"

/* What one pass over a batch needs and gives. */
typedef struct pass {
    const ser_batch *batch;
    ser_inputs inputs;
    ser_masks masks;
    float *losses;        /* [count] */
    float *probabilities; /* [count, labels] */
} pass;

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

static int start_pass(ser_trainer *t, const ser_batch *batch, pass *p)
{
    size_t count = (size_t)batch->count;
    *p = (pass){.batch = batch};
    p->losses = ser_mem_alloc(count, sizeof *p->losses);
    p->probabilities = ser_mem_alloc(count, t->model->config.label_count * sizeof *p->losses);
    if (p->losses == NULL || p->probabilities == NULL) {
        return SER_ERR_MEMORY;
    }
    return ser_inputs_find(t, batch, &p->inputs);
}

static void end_pass(pass *p)
{
    ser_inputs_clear(&p->inputs);
    ser_masks_clear(&p->masks);
    ser_mem_free(p->losses);
    ser_mem_free(p->probabilities);
}

/* What evaluation and training have in common. */
static ser_training_batch describe(const pass *p)
{
    const ser_batch *batch = p->batch;
    const float *const *features = p->inputs.features;
    return (ser_training_batch){
        .count = batch->count,
        .samples = features == NULL ? (const float *const *)batch->samples : NULL,
        .lengths = batch->lengths,
        .features = features,
        .targets = batch->targets,
        .mask = batch->mask,
        .scale = 1.0F,
    };
}

static void add_noise(const ser_trainer *t, const pass *p, ser_training_batch *batch)
{
    const ser_batch *made = p->batch;
    const ser_augment_options *augment = &t->options.augment;
    batch->mel_warp = made->mel_warp;
    batch->mel_offset = made->mel_offset;
    if (made->mel_time != NULL) {
        batch->mel_time = (ser_spans){made->mel_time, augment->mel_time_spans};
    }
    if (made->mel_channel != NULL) {
        batch->mel_channel = (ser_spans){made->mel_channel, augment->mel_channel_spans};
    }
    batch->hidden_time = (ser_spans){p->masks.time, p->masks.time_count};
    batch->hidden_channel = (ser_spans){p->masks.channel, p->masks.channel_count};
    batch->dropped_layers = p->masks.dropped;
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

static void summarise(const ser_trainer *t, const pass *p, ser_step_result *result)
{
    const size_t labels = t->model->config.label_count;
    const ser_batch *batch = p->batch;
    double sum = 0.0;
    result->bad_clip = -1;
    for (int64_t b = 0; b < batch->count; b++) {
        const float *row = p->probabilities + (size_t)b * labels;
        sum += (double)p->losses[b];
        result->correct += batch->labels[b] >= 0 && likeliest(row, labels) == batch->labels[b];
    }
    result->loss = batch->weight > 0.0 ? sum / batch->weight : sum;
}

/* The id of the first clip whose loss is not finite, or NULL. */
static const uint64_t *find_bad(const pass *p)
{
    int64_t b = 0;
    while (b < p->batch->count && isfinite(p->losses[b])) {
        b++;
    }
    return b < p->batch->count ? &p->batch->ids[b] : NULL;
}

/* The average starts as the weights after the first update (as PyTorch's AveragedModel), not as the
 * random ones before it. */
static int update(ser_trainer *t, double factor, ser_step_result *result)
{
    const ser_update arguments = {
        .rate = (float)factor,
        .clip = t->options.clip_norm,
        .gradient_scale = t->weight_sum > 0.0 ? (float)(1.0 / t->weight_sum) : 0.0F,
        .average = t->step > 0 ? t->options.average : 0.0F,
    };
    bool skipped = false;
    int status = ser_training_update(t->training, &arguments, &result->gradient_norm, &skipped);
    if (status != 0) {
        (void)drop_gradients(t); /* whatever failed, the next update starts anew */
        return status;
    }
    if (skipped) {
        return skip(t, NULL, result);
    }
    t->step++;
    t->accumulated = 0;
    t->weight_sum = 0.0;
    t->skipped = 0;
    t->bad_clip_count = 0;
    result->updated = 1;
    return 0;
}

static int finish_step(ser_trainer *t, const pass *p, ser_step_result *result)
{
    double factor =
        t->rate_factor * ser_schedule_factor(t->options.schedule, t->options.warmup_steps,
                                             t->options.steps, t->step);
    int status = 0;
    summarise(t, p, result);
    result->rate = factor * (double)t->options.rate;
    result->head_rate = factor * (double)t->options.head_rate;
    const uint64_t *bad = find_bad(p);
    if (bad != NULL) {
        status = skip(t, bad, result);
    } else {
        t->accumulated++;
        t->weight_sum += p->batch->weight;
        status = t->accumulated == t->options.accumulate ? update(t, factor, result) : 0;
    }
    result->step = t->step;
    return status;
}

static int forward_backward(ser_trainer *t, pass *p)
{
    const ser_batch *made = p->batch;
    int status = ser_masks_draw(&t->model->config.arch, &t->options, (uint64_t)t->batches,
                                made->lengths, made->count, &p->masks);
    if (status != 0) {
        return status;
    }
    ser_training_batch batch = describe(p);
    add_noise(t, p, &batch);
    status = ser_training_accumulate(t->training, &batch, p->losses, p->probabilities);
    if (status != 0) {
        (void)drop_gradients(t); /* half of a backward pass is in them */
        return status;
    }
    t->batches++;
    return 0;
}

int ser_trainer_step_batch(ser_trainer *trainer, const ser_batch *batch, ser_step_result *result)
{
    pass p;
    ser_step_result own = {.struct_size = sizeof own};
    int status = check_batch(trainer, batch, "ser_train_step");
    if (status == 0 && trainer->uses_average) {
        status = ser_fail(SER_ERR_ARGUMENT, "ser_train_step: the average of the weights is in use; "
                                            "call ser_trainer_use_average(trainer, 0) first");
    }
    if (status == 0) {
        status = check_targets(trainer, batch);
    }
    if (status != 0) {
        return status;
    }
    status = start_pass(trainer, batch, &p);
    if (status == 0) {
        status = forward_backward(trainer, &p);
    }
    if (status == 0) {
        status = finish_step(trainer, &p, &own);
    }
    end_pass(&p);
    if (status == 0) {
        *result = own;
    }
    return status;
}

/* --- Evaluation --- */

static int check_outputs(const ser_trainer *t, const pass *p)
{
    const size_t labels = t->model->config.label_count;
    for (int64_t b = 0; b < p->batch->count; b++) {
        bool finite = isfinite(p->losses[b]) != 0;
        for (size_t k = 0; k < labels; k++) {
            finite = finite && isfinite(p->probabilities[(size_t)b * labels + k]);
        }
        if (!finite) {
            return ser_fail(SER_ERR_NUMERIC,
                            "ser_trainer_evaluate: clip %llu: the network gave NaN or infinity",
                            (unsigned long long)p->batch->ids[b]);
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

int ser_trainer_evaluate_batch(ser_trainer *trainer, const ser_batch *batch, float *losses,
                               float *probabilities)
{
    pass p;
    int status = check_batch(trainer, batch, "ser_trainer_evaluate");
    if (status != 0) {
        return status;
    }
    status = start_pass(trainer, batch, &p);
    if (status == 0) {
        const ser_training_batch arguments = describe(&p);
        status = ser_training_evaluate(trainer->training, &arguments, p.losses, p.probabilities);
    }
    if (status == 0) {
        status = check_outputs(trainer, &p);
    }
    if (status == 0) {
        give(p.losses, (size_t)batch->count, losses);
        give(p.probabilities, (size_t)batch->count * trainer->model->config.label_count,
             probabilities);
    }
    end_pass(&p);
    return status;
}
