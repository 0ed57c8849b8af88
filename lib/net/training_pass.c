/* SPDX-License-Identifier: MIT */
/* Batches through a network that is being trained: with gradients, without, or features only. */
#include "net/training_state.h"

#include "base/fail.h"

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
    run->batch = batch->count;
    run->samples = batch->samples;
    run->counts = batch->lengths;
    run->input = batch;
    return 0;
}

/* The dropouts' counter; the optimiser's part of the step comes with the update. */
static int upload_counter(ser_training *training, const ser_training_batch *batch)
{
    ser_queue *queue = training->workspace->queue;
    const ser_step step = {.seed = batch->seed, .number = batch->step};
    int status = queue->ops->upload(queue, &training->update->step, &step, sizeof step);
    return status == 0 ? queue->ops->sync(queue) : status;
}

static int run_pass(ser_training *training, const ser_run *run)
{
    ser_workspace *workspace = training->workspace;
    int status = ser_workspace_plan(workspace, run);
    if (status == 0) {
        status = ser_workspace_run(workspace, run);
    }
    int waited = workspace->queue->ops->sync(workspace->queue);
    return status == 0 ? waited : status;
}

static int fetch(ser_training *training, const ser_training_batch *batch, float *losses,
                 float *probabilities)
{
    const ser_stages *stages = &training->workspace->stages;
    int status = 0;
    if (losses != NULL && batch->targets != NULL) {
        status =
            ser_workspace_download(training->workspace, &stages->loss, 0, batch->count, losses);
    }
    if (status == 0 && probabilities != NULL) {
        status = ser_workspace_download(training->workspace, &stages->probabilities, 0,
                                        batch->count, probabilities);
    }
    return status;
}

int ser_training_accumulate(ser_training *training, const ser_training_batch *batch, float *losses,
                            float *probabilities)
{
    ser_run run = {.tape = &training->tape};
    if (batch->targets == NULL) {
        return ser_fail(SER_ERR_INTERNAL, "net: a training batch without targets");
    }
    int status = check_batch(training, batch, &run);
    status = status == 0 ? upload_counter(training, batch) : status;
    status = status == 0 ? run_pass(training, &run) : status;
    return status == 0 ? fetch(training, batch, losses, probabilities) : status;
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
    status = status == 0 ? run_pass(training, &run) : status;
    return status == 0 ? fetch(training, &plain, losses, probabilities) : status;
}

int ser_training_features(ser_training *training, const ser_training_batch *batch,
                          float *const *features)
{
    const ser_training_batch plain = {
        .count = batch->count, .samples = batch->samples, .lengths = batch->lengths};
    ser_run run = {.features_only = true};
    int status = check_batch(training, &plain, &run);
    status = status == 0 ? run_pass(training, &run) : status;
    const ser_stages *stages = &training->workspace->stages;
    for (int64_t b = 0; b < batch->count && status == 0; b++) {
        status = ser_workspace_download(
            training->workspace, &stages->features, b * stages->rows.padded,
            ser_arch_frames(&training->net->arch, batch->lengths[b]), features[b]);
    }
    return status;
}

bool ser_training_features_frozen(const ser_training *training)
{
    return training->tape.first >= training->net->arch.conv_count;
}
