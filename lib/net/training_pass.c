/* SPDX-License-Identifier: MIT */
/* Batches through a network that is being trained: with gradients, without, or features only. */
#include "net/training_state.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"

/* --- Steps --- */

static int check_batch(const ser_training *training, const ser_training_batch *batch, ser_run *run)
{
    const int64_t least = ser_arch_min_samples(&training->net->arch);
    if (batch->count < 1) {
        return ser_fail(SER_ERR_INTERNAL, "net: a batch of %lld clips", (long long)batch->count);
    }
    for (int64_t b = 0; b < batch->count; b++) {
        const int64_t length = batch->lengths[b];
        if (length < least || length > INT32_MAX) {
            return ser_fail(SER_ERR_INTERNAL, "net: clip %lld has %lld samples, not %lld..%d",
                            (long long)b, (long long)length, (long long)least, INT32_MAX);
        }
        run->longest = length > run->longest ? length : run->longest;
    }
    /* The dropouts' numbers depend on it: with a backward half it is the same on every backend. */
    run->longest = run->tape != NULL ? ser_rounded_length(run->longest)
                                     : ser_workspace_rounded(training->workspace, run->longest);
    run->batch = batch->count;
    run->samples = batch->samples;
    run->counts = batch->lengths;
    run->input = batch;
    return 0;
}

static int make_run(ser_training *training, const ser_training_batch *batch, bool update,
                    ser_run *run)
{
    *run = (ser_run){.tape = &training->tape, .update = update ? training : NULL};
    return batch->targets != NULL
               ? check_batch(training, batch, run)
               : ser_fail(SER_ERR_INTERNAL, "net: a training batch without targets");
}

/* Whether `count` of the run's clips fit. */
static bool fits(ser_training *training, const ser_run *run, int64_t count)
{
    ser_run fewer = *run;
    ser_training_batch batch = *run->input;
    batch.count = count;
    fewer.input = &batch;
    fewer.batch = count;
    return ser_workspace_plan(training->workspace, &fewer) == 0;
}

int ser_training_make_room(ser_training *training, const ser_run *run)
{
    int status = ser_workspace_prepare(training->workspace, run);
    if (status != SER_ERR_MEMORY || run->batch == 1) {
        return status;
    }
    char reason[256];
    snprintf(reason, sizeof reason, "%s", ser_fail_text());
    int64_t most = 0;
    for (int64_t beyond = run->batch; beyond - most > 1;) {
        const int64_t middle = most + (beyond - most) / 2;
        if (fits(training, run, middle)) {
            most = middle;
        } else {
            beyond = middle;
        }
    }
    return ser_fail(SER_ERR_MEMORY,
                    "%s; %lld clips of %.1f s are too many for one batch here, %lld fit", reason,
                    (long long)run->batch, (double)run->longest / 16000.0, (long long)most);
}

int ser_training_prepare(ser_training *training, const ser_training_batch *batch, bool update)
{
    ser_run run;
    int status = make_run(training, batch, update, &run);
    return status == 0 ? ser_training_make_room(training, &run) : status;
}

/* The dropouts' counter and, with an update, the optimiser's numbers. */
static ser_step step_of(const ser_training *training, const ser_training_batch *batch,
                        const ser_update *update)
{
    const ser_training_options *options = &training->options;
    const double t = (double)(training->updates + 1);
    ser_step step = {.seed = batch->seed, .number = batch->step};
    if (update != NULL) {
        step.rate = update->rate;
        step.correction1 = (float)(1.0 / (1.0 - pow((double)options->beta1, t)));
        step.correction2 = (float)(1.0 / (1.0 - pow((double)options->beta2, t)));
        step.gradient_scale = update->gradient_scale;
        step.clip = update->clip;
        step.average = update->average;
    }
    return step;
}

/* What belongs to the run just launched. */
static int note_launch(ser_training *training, const ser_run *run, const ser_update *update)
{
    ser_queue *queue = training->workspace->queue;
    training->outputs = training->workspace->stages.outputs;
    training->clips = run->batch;
    training->gradient_scale = update != NULL ? update->gradient_scale : 0.0F;
    training->updates_weights = update != NULL;
    return update != NULL ? queue->ops->download(queue, training->report, training->update,
                                                 sizeof *training->report)
                          : 0;
}

int ser_training_launch(ser_training *training, const ser_training_batch *batch,
                        const ser_update *update)
{
    ser_run run;
    const ser_step step = step_of(training, batch, update);
    int status = make_run(training, batch, update != NULL, &run);
    run.step = &step;
    status = status == 0 ? ser_workspace_launch(training->workspace, &run) : status;
    return status == 0 ? note_launch(training, &run, update) : status;
}

/* The outputs of what was launched last, once it is done. */
static void copy_outputs(const ser_training *training, float *losses, float *probabilities)
{
    const ser_arch *arch = &training->net->arch;
    const size_t clips = (size_t)training->clips;
    const size_t labels = (size_t)arch->classifier_size[arch->classifier_count - 1];
    if (losses != NULL && training->outputs.loss != NULL) {
        memcpy(losses, training->outputs.loss, clips * sizeof *losses);
    }
    if (probabilities != NULL) {
        memcpy(probabilities, training->outputs.probabilities,
               clips * labels * sizeof *probabilities);
    }
}

int ser_training_wait(ser_training *training, ser_training_result *result)
{
    ser_queue *queue = training->workspace->queue;
    int status = queue->ops->sync(queue);
    if (status != 0) {
        return status;
    }
    copy_outputs(training, result->losses, result->probabilities);
    result->norm = 0.0;
    result->skipped = false;
    if (training->updates_weights) {
        result->norm = sqrt(training->report->sum) * (double)training->gradient_scale;
        result->skipped = training->report->skipped != 0;
        training->updates += training->report->skipped == 0;
        training->updates_weights = false;
    }
    return 0;
}

int ser_training_step(ser_training *training, const ser_training_batch *batch,
                      const ser_update *update, ser_training_result *result)
{
    ser_queue *queue = training->workspace->queue;
    int status = ser_training_prepare(training, batch, update != NULL);
    status = status == 0 ? ser_training_launch(training, batch, update) : status;
    if (status != 0) {
        (void)queue->ops->sync(queue); /* nothing is under way that reads the batch */
        return status;
    }
    return ser_training_wait(training, result);
}

/* --- Without gradients --- */

/* A run whose outputs are wanted at once. */
static int run_now(ser_training *training, const ser_run *run)
{
    ser_workspace *workspace = training->workspace;
    int status = ser_training_make_room(training, run);
    status = status == 0 ? ser_workspace_launch(workspace, run) : status;
    int waited = workspace->queue->ops->sync(workspace->queue);
    return status == 0 ? waited : status;
}

int ser_training_evaluate(ser_training *training, const ser_training_batch *batch, float *losses,
                          float *probabilities)
{
    ser_training_batch plain = *batch;
    plain.mel_warp = NULL;
    plain.mel_offset = NULL;
    plain.mel_time = plain.mel_channel = plain.hidden_time = plain.hidden_channel =
        (ser_spans){.list = NULL};
    plain.dropped_layers = NULL;
    ser_run run = {.tape = NULL};
    int status = check_batch(training, &plain, &run);
    status = status == 0 ? run_now(training, &run) : status;
    if (status == 0) {
        training->outputs = training->workspace->stages.outputs;
        training->clips = run.batch;
        copy_outputs(training, losses, probabilities);
    }
    return status;
}

/* --- What stays on the device --- */

/* Queue a copy of what the convolutions gave to where it stays. */
static int keep_features(ser_training *training, int64_t frames, void *features)
{
    ser_queue *queue = training->workspace->queue;
    ser_tensor from = training->workspace->stages.features;
    from.rows = frames;
    if (queue->ops->host_memory) {
        memcpy(features, from.data, (size_t)(frames * from.cols) * sizeof(float));
        return 0;
    }
    ser_tensor to = from;
    to.data = features;
    return queue->ops->convert(queue, &from, &to);
}

int ser_training_features(ser_training *training, const float *samples, int64_t length,
                          void *features)
{
    const ser_training_batch batch = {.count = 1, .samples = &samples, .lengths = &length};
    ser_queue *queue = training->workspace->queue;
    ser_run run = {.features_only = true};
    int status = check_batch(training, &batch, &run);
    status = status == 0 ? run_now(training, &run) : status;
    if (status == 0) {
        const int64_t frames = ser_arch_frames(&training->net->arch, length);
        status = keep_features(training, frames, features);
    }
    const int waited = queue->ops->sync(queue);
    return status == 0 ? waited : status;
}

/* Whether every sample is a whole number of 1 / 32768 that 16 bits hold. */
static bool fits_16_bits(const float *samples, int64_t length)
{
    bool fits = true;
    for (int64_t i = 0; i < length && fits; i++) {
        const float scaled = samples[i] * 32768.0F;
        fits = scaled >= -32768.0F && scaled <= 32767.0F && scaled == rintf(scaled);
    }
    return fits;
}

int32_t ser_training_samples_type(const float *samples, int64_t length)
{
    return fits_16_bits(samples, length) ? SER_SOURCE_I16 : SER_SOURCE_F32;
}

static int16_t *narrow(const float *samples, int64_t length)
{
    int16_t *whole = ser_mem_alloc_raw((size_t)length, sizeof *whole);
    for (int64_t i = 0; i < length && whole != NULL; i++) {
        whole[i] = (int16_t)(samples[i] * 32768.0F);
    }
    return whole;
}

int ser_training_samples(ser_training *training, const float *samples, int64_t length, int32_t type,
                         void *memory)
{
    ser_queue *queue = training->workspace->queue;
    int16_t *whole = type == SER_SOURCE_I16 ? narrow(samples, length) : NULL;
    if (type == SER_SOURCE_I16 && whole == NULL) {
        return SER_ERR_MEMORY;
    }
    const size_t size = (size_t)length * (whole != NULL ? sizeof *whole : sizeof *samples);
    int status =
        queue->ops->upload(queue, memory, whole != NULL ? (const void *)whole : samples, size);
    const int waited = queue->ops->sync(queue);
    ser_mem_free(whole);
    return status == 0 ? waited : status;
}

bool ser_training_features_frozen(const ser_training *training)
{
    return training->tape.first >= training->net->arch.conv_count;
}
