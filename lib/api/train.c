/* SPDX-License-Identifier: MIT */
#include <ser/train.h>

#include <math.h>
#include <string.h>

#include "api/options.h"
#include "base/fail.h"
#include "base/mem.h"
#include "train/trainer.h"

enum { MAX_CLIPS = 4096, MAX_NOTE = 1 << 20 };

static const ser_trainer_options defaults = {
    .struct_size = sizeof(ser_trainer_options),
    .steps = 1000,
    .warmup_steps = -1,
    .schedule = SER_SCHEDULE_LINEAR,
    .accumulate = 1,
    .rate = 3e-5F,
    .layer_decay = 1.0F,
    .weight_decay = 0.01F,
    .beta1 = 0.9F,
    .beta2 = 0.999F,
    .eps = 1e-8F,
    .clip_norm = 1.0F,
    .projection_dropout = 0.1F,
    .hidden_dropout = 0.1F,
    .attention_dropout = 0.1F,
    .classifier_dropout = 0.1F,
    .mask_time_probability = 0.05F,
    .mask_time_length = 10,
    .mask_channel_length = 10,
    .freeze_features = 1,
    .cache_bytes = UINT64_C(2) << 30,
    .max_skipped = 10,
    .augment = {.struct_size = sizeof(ser_augment_options)},
};

void ser_trainer_options_init(ser_trainer_options *options, size_t size)
{
    ser_options_give(options, size, &defaults, sizeof defaults);
}

/* --- Options --- */

typedef struct real_limit {
    const char *name;
    float value;
    double least, most;
} real_limit;

typedef struct whole_limit {
    const char *name;
    int64_t value, least, most;
} whole_limit;

/* `part` is "" or "augment." */
static int check_reals(const char *part, const real_limit *limits, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const real_limit *l = &limits[i];
        if (!((double)l->value >= l->least && (double)l->value <= l->most)) {
            return ser_fail(SER_ERR_ARGUMENT, "ser_trainer_options: %s%s is %g, not within %g..%g",
                            part, l->name, (double)l->value, l->least, l->most);
        }
    }
    return 0;
}

static int check_wholes(const char *part, const whole_limit *limits, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const whole_limit *l = &limits[i];
        if (l->value < l->least || l->value > l->most) {
            return ser_fail(SER_ERR_ARGUMENT,
                            "ser_trainer_options: %s%s is %lld, not within %lld..%lld", part,
                            l->name, (long long)l->value, (long long)l->least, (long long)l->most);
        }
    }
    return 0;
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Below 1 by more than a float's spacing there. */
static const double almost_one = 0.999999;

static int check_counts(const ser_trainer_options *o)
{
    const whole_limit limits[] = {
        {"steps", o->steps, 1, INT32_MAX},
        {"warmup_steps", o->warmup_steps, -1, o->steps},
        {"schedule", o->schedule, SER_SCHEDULE_CONSTANT, SER_SCHEDULE_COSINE},
        {"accumulate", o->accumulate, 1, 65536},
        {"mask_time_length", o->mask_time_length, 1, 65536},
        {"mask_channel_length", o->mask_channel_length, 1, 65536},
        {"freeze_features", o->freeze_features, 0, 1},
        {"freeze_layers", o->freeze_layers, -1, INT32_MAX},
        {"max_skipped", o->max_skipped, 1, INT32_MAX},
    };
    return check_wholes("", limits, COUNT(limits));
}

static int check_rates(const ser_trainer_options *o)
{
    const real_limit limits[] = {
        {"rate", o->rate, 0.0, 1.0},
        {"head_rate", o->head_rate, 0.0, 1.0},
        {"layer_decay", o->layer_decay, 0.0, 1.0},
        {"weight_decay", o->weight_decay, 0.0, 1.0},
        {"beta1", o->beta1, 0.0, almost_one},
        {"beta2", o->beta2, 0.0, almost_one},
        {"eps", o->eps, 1e-12, 1.0},
        {"clip_norm", o->clip_norm, 0.0, 1e30},
        {"average", o->average, 0.0, almost_one},
        {"label_smoothing", o->label_smoothing, 0.0, almost_one},
        {"projection_dropout", o->projection_dropout, 0.0, almost_one},
        {"hidden_dropout", o->hidden_dropout, 0.0, almost_one},
        {"attention_dropout", o->attention_dropout, 0.0, almost_one},
        {"activation_dropout", o->activation_dropout, 0.0, almost_one},
        {"classifier_dropout", o->classifier_dropout, 0.0, almost_one},
        {"layer_drop", o->layer_drop, 0.0, almost_one},
        {"mask_time_probability", o->mask_time_probability, 0.0, 1.0},
        {"mask_channel_probability", o->mask_channel_probability, 0.0, 1.0},
    };
    return check_reals("", limits, COUNT(limits));
}

static int check_augment(const ser_augment_options *a)
{
    const real_limit reals[] = {
        {"speed_probability", a->speed_probability, 0.0, 1.0},
        {"speed", a->speed, 0.0, 0.5},
        {"gain_db", a->gain_db, 0.0, 60.0},
        {"noise_probability", a->noise_probability, 0.0, 1.0},
        {"noise_snr_low", a->noise_snr_low, -20.0, 120.0},
        {"noise_snr_high", a->noise_snr_high, (double)a->noise_snr_low, 120.0},
        {"silence_probability", a->silence_probability, 0.0, 1.0},
        {"silence", a->silence, 0.0, 60.0},
        {"crop_probability", a->crop_probability, 0.0, 1.0},
        {"crop", a->crop, 0.0, 60.0},
        {"lowpass_probability", a->lowpass_probability, 0.0, 1.0},
        {"lowpass_low", a->lowpass_low, a->lowpass_probability > 0.0F ? 100.0 : 0.0, 8000.0},
        {"max_seconds", a->max_seconds, 0.0, 3600.0},
        {"mel_warp", a->mel_warp, 0.0, 0.5},
        {"mel_tilt", a->mel_tilt, 0.0, 10.0},
        {"mel_ripple", a->mel_ripple, 0.0, 10.0},
    };
    const whole_limit wholes[] = {
        {"mel_channel_spans", a->mel_channel_spans, 0, 100},
        {"mel_channel_width", a->mel_channel_width, a->mel_channel_spans > 0 ? 1 : 0, 1024},
        {"mel_time_spans", a->mel_time_spans, 0, 100},
        {"mel_time_width", a->mel_time_width, a->mel_time_spans > 0 ? 1 : 0, 65536},
    };
    int status = check_reals("augment.", reals, COUNT(reals));
    return status == 0 ? check_wholes("augment.", wholes, COUNT(wholes)) : status;
}

static int check_class_weights(const ser_model *model, const float *weights)
{
    bool some = weights == NULL;
    for (size_t k = 0; weights != NULL && k < ser_model_label_count(model); k++) {
        if (!(weights[k] >= 0.0F && weights[k] <= 1e6F)) {
            return ser_fail(SER_ERR_ARGUMENT,
                            "ser_trainer_options: class_weights[%zu] is %g, not within 0..1e6", k,
                            (double)weights[k]);
        }
        some = some || weights[k] > 0.0F;
    }
    return some ? 0 : ser_fail(SER_ERR_ARGUMENT, "ser_trainer_options: class_weights are all 0");
}

static int take_options(const ser_model *model, const ser_trainer_options *given,
                        ser_trainer_options *own)
{
    *own = defaults;
    int status = ser_options_take(own, sizeof *own, given, "ser_trainer_options");
    if (status == 0) {
        status = check_counts(own);
    }
    if (status == 0) {
        status = check_rates(own);
    }
    if (status == 0) {
        status = check_augment(&own->augment);
    }
    return status == 0 ? check_class_weights(model, own->class_weights) : status;
}

static int is_null(const char *function, const char *argument)
{
    return ser_fail(SER_ERR_ARGUMENT, "%s: %s is NULL", function, argument);
}

int ser_trainer_create(ser_model *model, const ser_trainer_options *options, ser_trainer **trainer)
{
    if (trainer == NULL) {
        return is_null("ser_trainer_create", "trainer");
    }
    *trainer = NULL;
    if (model == NULL) {
        return is_null("ser_trainer_create", "model");
    }
    ser_trainer_options own;
    int status = take_options(model, options, &own);
    return status == 0 ? ser_trainer_make(model, &own, trainer) : status;
}

/* --- Batches --- */

/* The caller's clips may be shorter or longer structs than ours; all are of one size. */
static int take_clips(const ser_clip *clips, size_t count, ser_clip *own)
{
    const unsigned char *at = (const unsigned char *)clips;
    size_t stride;
    memcpy(&stride, at, sizeof stride);
    for (size_t i = 0; i < count; i++, at += stride) {
        size_t size;
        memcpy(&size, at, sizeof size);
        if (size != stride || size < sizeof size || size > 4096) {
            return ser_fail(SER_ERR_ARGUMENT,
                            "ser_batch_create: clip %zu: struct_size is %zu; set it to "
                            "sizeof(ser_clip)",
                            i, size);
        }
        own[i] = (ser_clip){.struct_size = sizeof own[i]};
        int status = ser_options_take(&own[i], sizeof own[i], at, "ser_clip");
        if (status != 0) {
            return status;
        }
        if (own[i].audio == NULL) {
            return ser_fail(SER_ERR_ARGUMENT, "ser_batch_create: clip %zu: audio is NULL", i);
        }
    }
    return 0;
}

static int check_batch_arguments(const ser_trainer *trainer, const ser_clip *clips, size_t count,
                                 int64_t epoch, int32_t augment)
{
    if (trainer == NULL || clips == NULL) {
        return is_null("ser_batch_create", trainer == NULL ? "trainer" : "clips");
    }
    if (count < 1 || count > MAX_CLIPS) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_batch_create: count is %zu, not within 1..%d", count,
                        MAX_CLIPS);
    }
    if (epoch < 0 || epoch > INT32_MAX) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_batch_create: epoch is %lld, not within 0..%d",
                        (long long)epoch, INT32_MAX);
    }
    if (augment != 0 && augment != 1) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_batch_create: augment is %d, must be 0 or 1",
                        augment);
    }
    return 0;
}

int ser_batch_create(const ser_trainer *trainer, const ser_clip *clips, size_t count, int64_t epoch,
                     int32_t augment, ser_batch **batch)
{
    if (batch == NULL) {
        return is_null("ser_batch_create", "batch");
    }
    *batch = NULL;
    int status = check_batch_arguments(trainer, clips, count, epoch, augment);
    if (status != 0) {
        return status;
    }
    ser_clip *own = ser_mem_alloc(count, sizeof *own);
    status = own != NULL ? take_clips(clips, count, own) : SER_ERR_MEMORY;
    if (status == 0) {
        const ser_batch_source source = ser_trainer_source(trainer);
        status = ser_batch_make(&source, own, count, epoch, augment != 0, batch);
    }
    ser_mem_free(own);
    return status;
}

void ser_batch_free(ser_batch **batch)
{
    if (batch != NULL) {
        ser_batch_release(*batch);
        *batch = NULL;
    }
}

/* --- Steps --- */

static int check_pair(const char *function, const ser_trainer *trainer, const ser_batch *batch)
{
    if (trainer == NULL || batch == NULL) {
        return is_null(function, trainer == NULL ? "trainer" : "batch");
    }
    return 0;
}

int ser_trainer_observe(ser_trainer *trainer, const ser_batch *batch)
{
    int status = check_pair("ser_trainer_observe", trainer, batch);
    return status == 0 ? ser_trainer_observe_batch(trainer, batch) : status;
}

int ser_trainer_settle(ser_trainer *trainer)
{
    return trainer != NULL ? ser_trainer_settle_levels(trainer)
                           : is_null("ser_trainer_settle", "trainer");
}

int ser_train_step(ser_trainer *trainer, const ser_batch *batch, ser_step_result *result)
{
    ser_step_result own;
    int status = check_pair("ser_train_step", trainer, batch);
    if (status == 0 && result != NULL) {
        status = ser_result_check(result, "ser_step_result");
    }
    if (status == 0) {
        status = ser_trainer_step_batch(trainer, batch, &own);
    }
    if (status == 0 && result != NULL) {
        status = ser_result_give(result, &own, sizeof own, "ser_step_result");
    }
    return status;
}

int ser_train_submit(ser_trainer *trainer, const ser_batch *batch)
{
    int status = check_pair("ser_train_submit", trainer, batch);
    return status == 0 ? ser_trainer_submit_batch(trainer, batch) : status;
}

int ser_train_collect(ser_trainer *trainer, ser_step_result *result, int32_t *found)
{
    ser_step_result own;
    bool any = false;
    if (trainer == NULL || result == NULL || found == NULL) {
        return is_null("ser_train_collect", trainer == NULL  ? "trainer"
                                            : result == NULL ? "result"
                                                             : "found");
    }
    int status = ser_result_check(result, "ser_step_result");
    status = status == 0 ? ser_trainer_collect_result(trainer, &own, &any) : status;
    if (status == 0 && any) {
        status = ser_result_give(result, &own, sizeof own, "ser_step_result");
    }
    if (status == 0) {
        *found = any;
    }
    return status;
}

int ser_trainer_evaluate(ser_trainer *trainer, const ser_batch *batch, float *losses,
                         float *probabilities)
{
    int status = check_pair("ser_trainer_evaluate", trainer, batch);
    return status == 0 ? ser_trainer_evaluate_batch(trainer, batch, losses, probabilities) : status;
}

int ser_trainer_use_average(ser_trainer *trainer, int32_t use)
{
    if (trainer == NULL) {
        return is_null("ser_trainer_use_average", "trainer");
    }
    if (use != 0 && use != 1) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_trainer_use_average: use is %d, must be 0 or 1",
                        use);
    }
    return ser_trainer_choose_average(trainer, use != 0);
}

int ser_trainer_set_rate(ser_trainer *trainer, double factor)
{
    if (trainer == NULL) {
        return is_null("ser_trainer_set_rate", "trainer");
    }
    if (!(factor >= 0.0 && factor <= 1e6)) {
        return ser_fail(SER_ERR_ARGUMENT, "ser_trainer_set_rate: factor is %g, not within 0..1e6",
                        factor);
    }
    trainer->rate_factor = factor;
    return 0;
}

void ser_trainer_cancel(ser_trainer *trainer)
{
    if (trainer != NULL) {
        atomic_store(&trainer->cancelled, true);
    }
}

int64_t ser_trainer_steps(const ser_trainer *trainer)
{
    return trainer != NULL ? trainer->step : 0;
}

uint64_t ser_trainer_trained_count(const ser_trainer *trainer)
{
    return trainer != NULL ? ser_training_trained_count(trainer->training) : 0;
}

/* --- Files --- */

static int check_path(const char *function, const ser_trainer *trainer, const char *path)
{
    if (trainer == NULL || path == NULL) {
        return is_null(function, trainer == NULL ? "trainer" : "path");
    }
    return path[0] != '\0' ? 0 : ser_fail(SER_ERR_ARGUMENT, "%s: path is empty", function);
}

int ser_trainer_save(ser_trainer *trainer, const char *path, const char *note)
{
    int status = check_path("ser_trainer_save", trainer, path);
    if (status == 0 && note != NULL && strlen(note) > MAX_NOTE) {
        status = ser_fail(SER_ERR_ARGUMENT, "ser_trainer_save: note has %zu bytes, limit %d",
                          strlen(note), MAX_NOTE);
    }
    return status == 0 ? ser_trainer_write_checkpoint(trainer, path, note) : status;
}

int ser_trainer_restore(ser_trainer *trainer, const char *path, const char **note)
{
    int status = check_path("ser_trainer_restore", trainer, path);
    if (status == 0) {
        status = ser_trainer_read_checkpoint(trainer, path);
    }
    if (status == 0 && note != NULL) {
        *note = trainer->note;
    }
    return status;
}

int ser_trainer_save_model(ser_trainer *trainer, const char *path, double temperature,
                           const char *training)
{
    int status = check_path("ser_trainer_save_model", trainer, path);
    if (status == 0 && !(temperature >= 1e-3 && temperature <= 1e3)) {
        status = ser_fail(SER_ERR_ARGUMENT,
                          "ser_trainer_save_model: temperature is %g, not within 0.001..1000",
                          temperature);
    }
    const ser_model_changes changes = {.temperature = temperature, .training = training};
    return status == 0 ? ser_trainer_write_model(trainer, path, &changes) : status;
}

void ser_trainer_free(ser_trainer **trainer)
{
    if (trainer != NULL) {
        ser_trainer_release(*trainer);
        *trainer = NULL;
    }
}
