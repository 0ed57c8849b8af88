/* SPDX-License-Identifier: MIT */
#include "train/trainer.h"

#include <string.h>

#include "base/fail.h"
#include "base/fork.h"
#include "base/mem.h"
#include "train/cache.h"
#include "train/groups.h"
#include "train/levels.h"

/* --- Life --- */

/* The options with everything filled in that follows from others; pointers become our own. */
static int keep_options(ser_trainer *t, const ser_trainer_options *options)
{
    size_t labels = t->model->config.label_count;
    t->options = *options;
    t->options.freeze = NULL; /* used up by the groups */
    if (t->options.head_rate <= 0.0F) {
        t->options.head_rate = t->options.rate;
    }
    if (t->options.warmup_steps < 0) {
        t->options.warmup_steps = t->options.steps / 10;
    }
    if (options->class_weights != NULL) {
        t->class_weights = ser_mem_alloc(labels, sizeof *t->class_weights);
        if (t->class_weights == NULL) {
            return SER_ERR_MEMORY;
        }
        memcpy(t->class_weights, options->class_weights, labels * sizeof *t->class_weights);
        t->options.class_weights = t->class_weights;
    }
    return 0;
}

static int make_training(ser_trainer *t, const ser_trainer_options *options)
{
    const ser_trainer_options *o = &t->options;
    const ser_params *params = ser_net_params(t->model->net);
    float *rates = ser_mem_alloc(params->count, sizeof *rates);
    float *decays = ser_mem_alloc(params->count, sizeof *decays);
    int status = SER_ERR_MEMORY;
    if (rates != NULL && decays != NULL) {
        status = ser_groups_plan(&t->model->config.arch, params, options, rates, decays);
    }
    if (status == 0) {
        const ser_training_options training = {
            .rates = rates,
            .decays = decays,
            .beta1 = o->beta1,
            .beta2 = o->beta2,
            .eps = o->eps,
            .average = o->average > 0.0F,
            .projection_dropout = o->projection_dropout,
            .hidden_dropout = o->hidden_dropout,
            .attention_dropout = o->attention_dropout,
            .activation_dropout = o->activation_dropout,
            .classifier_dropout = o->classifier_dropout,
        };
        status =
            ser_training_create(t->model->net, &training, t->model->device->threads, &t->training);
        t->training = status == 0 ? t->training : NULL;
    }
    ser_mem_free(rates);
    ser_mem_free(decays);
    return status;
}

/* Parameter `role` of the front end; the model has log-mels. */
static size_t find_param(const ser_params *params, int32_t role)
{
    size_t i = 0;
    while (params->list[i].role != role) {
        i++;
    }
    return i;
}

static int read_mel_std(ser_trainer *t)
{
    const ser_params *params = ser_net_params(t->model->net);
    if (t->mel_std == NULL) {
        return 0;
    }
    return ser_net_get(t->model->net, find_param(params, SER_PARAM_MEL_STD), t->mel_std);
}

/* What frozen convolutions give stays on the device, else samples, if its memory is another. */
static int make_cache(ser_trainer *t)
{
    const ser_device *device = t->model->device;
    t->caches_features = t->model->config.arch.features == SER_FEATURES_CONV &&
                         ser_training_features_frozen(t->training);
    const bool useful = t->caches_features || !device->ops->host_memory;
    return useful && t->options.cache_bytes > 0
               ? ser_clip_cache_create(device->ops, device->context, t->options.cache_bytes,
                                       &t->cache)
               : 0;
}

static int make_parts(ser_trainer *t, const ser_trainer_options *options)
{
    const ser_arch *arch = &t->model->config.arch;
    int status = keep_options(t, options);
    if (status == 0) {
        status = make_training(t, options);
    }
    if (status == 0) {
        status = make_cache(t);
    }
    if (status == 0 && arch->features == SER_FEATURES_LOGMEL) {
        t->mel_std = ser_mem_alloc((size_t)arch->mel.bins, sizeof *t->mel_std);
        status = t->mel_std != NULL ? read_mel_std(t) : SER_ERR_MEMORY;
    }
    return status;
}

int ser_trainer_make(ser_model *model, const ser_trainer_options *options, ser_trainer **trainer)
{
    *trainer = NULL;
    int status = ser_fork_check(model->fork_generation, "the model");
    if (status == 0 && model->config.arch.classifier_count < 1) {
        status =
            ser_fail(SER_ERR_UNSUPPORTED, "the model is a bare backbone: it has no classifier");
    }
    if (status == 0) {
        status = ser_model_take(model);
    }
    if (status != 0) {
        return status;
    }
    ser_trainer *t = ser_mem_alloc(1, sizeof *t);
    if (t == NULL) {
        ser_model_give_back(model);
        return SER_ERR_MEMORY;
    }
    ser_model_acquire(model);
    t->model = model;
    t->rate_factor = 1.0;
    atomic_init(&t->cancelled, false);
    status = make_parts(t, options);
    if (status != 0) {
        ser_trainer_release(t);
        return status;
    }
    *trainer = t;
    return 0;
}

void ser_trainer_release(ser_trainer *trainer)
{
    if (trainer == NULL) {
        return;
    }
    ser_training_free(trainer->training); /* waits */
    ser_pending_clear(trainer, &trainer->pending);
    ser_clip_cache_free(trainer->cache);
    ser_model_give_back(trainer->model);
    ser_model_release(trainer->model);
    ser_levels_free(trainer->levels);
    ser_mem_free(trainer->class_weights);
    ser_mem_free(trainer->mel_std);
    ser_mem_free(trainer->note);
    ser_mem_free(trainer);
}

ser_batch_source ser_trainer_source(const ser_trainer *trainer)
{
    return (ser_batch_source){.owner = trainer,
                              .config = &trainer->model->config,
                              .options = trainer->options,
                              .class_weights = trainer->class_weights,
                              .mel_std = trainer->mel_std,
                              .caches = trainer->cache != NULL};
}

/* --- Levels of the log-mels --- */

static int check_before_first_step(const ser_trainer *t, const char *function)
{
    if (t->batches > 0) {
        return ser_fail(SER_ERR_ARGUMENT, "%s: the levels are fixed by the first step", function);
    }
    return ser_fork_check(t->model->fork_generation, "the trainer");
}

int ser_trainer_observe_batch(ser_trainer *trainer, const ser_batch *batch)
{
    const ser_arch *arch = &trainer->model->config.arch;
    int status = check_before_first_step(trainer, "ser_trainer_observe");
    if (status != 0 || arch->features != SER_FEATURES_LOGMEL) {
        return status;
    }
    if (batch->owner != trainer || batch->bins != trainer->model->config.arch.mel.bins ||
        batch->augmented) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_trainer_observe: the batch %s",
                        batch->augmented ? "is augmented" : "belongs to another trainer");
    }
    if (trainer->levels == NULL) {
        status = ser_levels_create(trainer->model->device, arch, &trainer->levels);
    }
    return status != 0 ? status
                       : ser_levels_add(trainer->levels, (const float *const *)batch->samples,
                                        batch->lengths, batch->ids, batch->count);
}

static int set_levels(ser_trainer *t, const float *mean, const float *std)
{
    ser_net *net = t->model->net;
    const ser_params *params = ser_net_params(net);
    int status = ser_net_set(net, find_param(params, SER_PARAM_MEL_MEAN), mean);
    if (status == 0) {
        status = ser_net_set(net, find_param(params, SER_PARAM_MEL_STD), std);
    }
    return status == 0 ? read_mel_std(t) : status;
}

int ser_trainer_settle_levels(ser_trainer *trainer)
{
    const ser_arch *arch = &trainer->model->config.arch;
    int status = check_before_first_step(trainer, "ser_trainer_settle");
    if (status != 0 || arch->features != SER_FEATURES_LOGMEL) {
        return status;
    }
    if (trainer->levels == NULL) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_trainer_settle: no batch has been observed");
    }
    size_t bins = (size_t)arch->mel.bins;
    float *mean = ser_mem_alloc(2 * bins, sizeof *mean);
    if (mean == NULL) {
        return SER_ERR_MEMORY;
    }
    ser_levels_result(trainer->levels, mean, mean + bins);
    status = set_levels(trainer, mean, mean + bins);
    ser_mem_free(mean);
    if (status == 0) {
        ser_levels_free(trainer->levels);
        trainer->levels = NULL;
    }
    return status;
}

/* --- The moving average --- */

int ser_trainer_choose_average(ser_trainer *trainer, bool use)
{
    int status = ser_fork_check(trainer->model->fork_generation, "the trainer");
    status = status == 0 ? ser_trainer_settle_step(trainer) : status;
    if (status != 0 || trainer->options.average <= 0.0F || use == trainer->uses_average) {
        return status;
    }
    status = ser_training_swap_average(trainer->training);
    trainer->uses_average = status == 0 ? use : trainer->uses_average;
    return status;
}

/* Do `work` with or without the average in use, and leave things as they were. */
static int with_average(ser_trainer *t, bool use,
                        int (*work)(ser_trainer *t, const void *arguments), const void *arguments)
{
    bool used = t->uses_average;
    int status = ser_trainer_choose_average(t, use);
    if (status != 0) {
        return status;
    }
    status = work(t, arguments);
    if (t->uses_average != used) {
        int back = ser_trainer_choose_average(t, used);
        status = status == 0 ? back : status;
    }
    return status;
}

/* --- Files --- */

typedef struct file_arguments {
    const char *path, *note;
    const ser_model_changes *changes;
} file_arguments;

static int write_checkpoint(ser_trainer *t, const void *arguments)
{
    const file_arguments *a = arguments;
    return ser_checkpoint_write(t, a->path, a->note);
}

int ser_trainer_write_checkpoint(ser_trainer *trainer, const char *path, const char *note)
{
    const file_arguments a = {.path = path, .note = note};
    int status = ser_trainer_settle_step(trainer);
    if (status != 0) {
        return status;
    }
    if (trainer->accumulated > 0) {
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "ser_trainer_save: %d of %d batches of an update are accumulated; save "
                        "between updates",
                        trainer->accumulated, trainer->options.accumulate);
    }
    return with_average(trainer, false, write_checkpoint, &a);
}

static int read_checkpoint(ser_trainer *t, const void *arguments)
{
    const file_arguments *a = arguments;
    int status = ser_checkpoint_read(t, a->path);
    if (status != 0) {
        return status;
    }
    t->accumulated = 0;
    t->result_count = 0;
    t->skipped = 0;
    t->bad_clip_count = 0;
    t->weight_sum = 0.0;
    if (t->cache != NULL) {
        ser_clip_cache_clear(t->cache); /* of the convolutions that were replaced */
    }
    status = ser_training_clear(t->training);
    return status == 0 ? read_mel_std(t) : status;
}

int ser_trainer_read_checkpoint(ser_trainer *trainer, const char *path)
{
    const file_arguments a = {.path = path};
    const int status = ser_fork_check(trainer->model->fork_generation, "the trainer");
    if (status == 0) {
        (void)ser_trainer_settle_step(trainer); /* whatever it gave is replaced */
    }
    return status == 0 ? with_average(trainer, false, read_checkpoint, &a) : status;
}

static int write_model(ser_trainer *t, const void *arguments)
{
    const file_arguments *a = arguments;
    return ser_model_write(t->model, a->changes, a->path);
}

int ser_trainer_write_model(ser_trainer *trainer, const char *path,
                            const ser_model_changes *changes)
{
    const file_arguments a = {.path = path, .changes = changes};
    return with_average(trainer, true, write_model, &a);
}
