/* SPDX-License-Identifier: MIT */
/*
 * What a pass reads from the host, and where a prediction leaves what the host reads. The inputs lie
 * at the start of the arena, in the same order on the device and in their host image, so that one
 * transfer moves them all and a recorded pass finds new content where it found the old.
 */
#include <string.h>

#include "net/workspace.h"

/* --- Places --- */

static ser_tensor place_matrix(ser_pass *pass, const float *host, int64_t rows, int64_t cols)
{
    return host != NULL ? ser_pass_take_place(pass, rows, cols, 0, SER_SLACK_ROWS)
                        : (ser_tensor){0};
}

static const int32_t *place_spans(ser_pass *pass, ser_spans spans)
{
    const size_t count = 2 * (size_t)spans.count * (size_t)pass->geometry.batch;
    return spans.list != NULL && count > 0 ? ser_pass_take_bytes(pass, count * sizeof(int32_t))
                                           : NULL;
}

static void place_training(ser_pass *pass, const ser_training_batch *batch)
{
    const ser_arch *arch = pass->arch;
    const int64_t labels =
        arch->classifier_count > 0 ? arch->classifier_size[arch->classifier_count - 1] : 0;
    ser_pass_input *input = &pass->input;
    input->targets = place_matrix(pass, batch->targets, batch->count, labels);
    input->mask = place_matrix(pass, batch->mask, batch->count, labels);
    input->mel_warp = place_matrix(pass, batch->mel_warp, batch->count, 1);
    input->mel_offset = place_matrix(pass, batch->mel_offset, batch->count, arch->mel.bins);
    input->mel_time = place_spans(pass, batch->mel_time);
    input->mel_channel = place_spans(pass, batch->mel_channel);
    input->hidden_time = place_spans(pass, batch->hidden_time);
    input->hidden_channel = place_spans(pass, batch->hidden_channel);
}

static bool has_sources(const ser_pass *pass)
{
    return pass->run->input != NULL && pass->run->input->sources != NULL;
}

static void place_samples(ser_pass *pass)
{
    const ser_arch *arch = pass->arch;
    const bool on_samples = arch->features == SER_FEATURES_CONV;
    pass->input.pcm = ser_pass_take_place(pass, pass->geometry.batch * pass->geometry.samples, 1,
                                          on_samples ? arch->conv_padding[0] : 0,
                                          (on_samples ? arch->conv_kernel[0] : 0) + SER_SLACK_ROWS);
}

static void place_sources(ser_pass *pass)
{
    const size_t batch = (size_t)pass->geometry.batch;
    pass->input.sources = ser_pass_take_bytes(pass, batch * sizeof *pass->input.sources);
}

/* One transfer moves these, too; what slack they need is behind the last. */
static void place_outputs(ser_pass *pass)
{
    const ser_arch *arch = pass->arch;
    const int64_t batch = pass->geometry.batch;
    const int64_t labels = arch->classifier_size[arch->classifier_count - 1];
    const int64_t widest = arch->hidden_size > labels ? arch->hidden_size : labels;
    ser_pass_output *output = &pass->output;
    output->alpha =
        ser_pass_take_place(pass, batch * pass->geometry.padded[arch->conv_count], 1, 0, 0);
    output->pooled = ser_pass_take_place(pass, batch, arch->hidden_size, 0, 0);
    output->logits = ser_pass_take_place(pass, batch, labels, 0, 0);
    output->probabilities = ser_pass_take_place(pass, batch, labels, 0, 0);
    ser_pass_take_place(pass, SER_SLACK_ROWS, widest, 0, 0);
}

void ser_pass_begin(ser_pass *pass)
{
    ser_workspace *w = pass->workspace;
    w->arena.count = 0;
    w->arena.peak = 0;
    w->arena.floor = 0;
    const size_t count = (size_t)(pass->arch->conv_count + 2) * (size_t)pass->geometry.batch + 1;
    pass->valid = ser_pass_take_bytes(pass, count * sizeof(int32_t));
    if (pass->run->tape != NULL) {
        pass->input.step = ser_pass_take_bytes(pass, sizeof *pass->input.step);
    }
    if (pass->run->input != NULL) {
        place_training(pass, pass->run->input);
    }
    if (has_sources(pass)) {
        place_sources(pass);
    } else {
        place_samples(pass);
    }
    w->input_size = w->arena.floor;
    const bool prediction = pass->run->input == NULL && !pass->run->features_only;
    if (prediction && pass->arch->classifier_count > 0) {
        place_outputs(pass);
    }
    if (has_sources(pass) && !pass->run->input->features) {
        place_samples(pass); /* not from the host: gathered */
    }
}

/* --- Content --- */

/* Where the host writes what will be at `device`. */
static void *image_of(const ser_pass *pass, const void *device)
{
    const ser_workspace *w = pass->workspace;
    const size_t at = (uintptr_t)device - (uintptr_t)w->arena.memory;
    const void *image = w->images[w->image];
    return (char *)(uintptr_t)(image != NULL ? image : w->arena.memory) + at;
}

static void fill(const ser_pass *pass, const void *device, const void *host, size_t size)
{
    if (device != NULL && host != NULL) {
        memcpy(image_of(pass, device), host, size);
    }
}

static void fill_matrix(const ser_pass *pass, const ser_tensor *to, const float *host)
{
    fill(pass, to->data, host, (size_t)(to->rows * to->cols) * sizeof(float));
}

static void fill_spans(const ser_pass *pass, const int32_t *to, ser_spans spans)
{
    const size_t count = 2 * (size_t)spans.count * (size_t)pass->geometry.batch;
    fill(pass, to, spans.list, count * sizeof(int32_t));
}

static void fill_training(const ser_pass *pass, const ser_training_batch *batch)
{
    const ser_pass_input *input = &pass->input;
    fill_matrix(pass, &input->targets, batch->targets);
    fill_matrix(pass, &input->mask, batch->mask);
    fill_matrix(pass, &input->mel_warp, batch->mel_warp);
    fill_matrix(pass, &input->mel_offset, batch->mel_offset);
    fill_spans(pass, input->mel_time, batch->mel_time);
    fill_spans(pass, input->mel_channel, batch->mel_channel);
    fill_spans(pass, input->hidden_time, batch->hidden_time);
    fill_spans(pass, input->hidden_channel, batch->hidden_channel);
}

/* A clip with zeros behind it. */
static void fill_clip(const ser_pass *pass, int64_t clip)
{
    const ser_run *run = pass->run;
    const ser_tensor *to = &pass->input.pcm;
    const int64_t padded = to->rows / pass->geometry.batch;
    const size_t count = (size_t)run->counts[clip];
    float *image = (float *)image_of(pass, to->data) + clip * padded;
    if (run->clips != NULL) {
        run->clips->write(run->clips->source, clip, image);
    } else {
        memcpy(image, run->samples[clip], count * sizeof *image);
    }
    memset(image + count, 0, ((size_t)padded - count) * sizeof *image);
}

static void fill_clips(const ser_pass *pass)
{
    const ser_run *run = pass->run;
    const ser_arch *arch = pass->arch;
    const ser_pass_input *input = &pass->input;
    if (input->sources != NULL) {
        fill(pass, input->sources, run->input->sources,
             (size_t)run->batch * sizeof *input->sources);
        return;
    }
    if (arch->features == SER_FEATURES_CONV) {
        const size_t front = (size_t)arch->conv_padding[0] * sizeof(float);
        memset((char *)image_of(pass, input->pcm.data) - front, 0, front);
    }
    for (int64_t b = 0; b < run->batch; b++) {
        fill_clip(pass, b);
    }
}

/* Valid lengths of a clip at every level, into its column of the table. */
static void set_lengths(const ser_pass *pass, int64_t clip)
{
    int32_t *valid = pass->workspace->valid;
    const int64_t batch = pass->geometry.batch;
    int64_t lengths[SER_MAX_CONVS + 1];
    ser_geometry_lengths(pass->arch, pass->run->counts[clip], lengths);
    valid[clip] = (int32_t)pass->run->counts[clip];
    for (int32_t i = 0; i <= pass->arch->conv_count; i++) {
        valid[(1 + i) * batch + clip] = (int32_t)lengths[i];
    }
}

void ser_pass_fill(ser_pass *pass)
{
    ser_workspace *w = pass->workspace;
    if (pass->status != 0) {
        return;
    }
    const size_t count = (size_t)(pass->arch->conv_count + 2) * (size_t)pass->geometry.batch + 1;
    for (int64_t b = 0; b < pass->geometry.batch; b++) {
        set_lengths(pass, b);
    }
    w->valid[count - 1] = (int32_t)pass->geometry.batch;
    fill(pass, pass->valid, w->valid, count * sizeof(int32_t));
    if (pass->run->input != NULL) {
        fill_training(pass, pass->run->input);
    }
    fill_clips(pass);
}

void ser_pass_fill_step(ser_pass *pass)
{
    if (pass->status == 0 && pass->run->step != NULL) {
        fill(pass, pass->input.step, pass->run->step, sizeof *pass->run->step);
    }
}

/* --- Memory of the images --- */

int ser_inputs_reserve(ser_workspace *workspace, int32_t images)
{
    ser_queue *queue = workspace->queue;
    const bool there = workspace->images[images - 1] != NULL;
    size_t size = workspace->input_size;
    if (queue->ops->host_memory || (there && size <= workspace->image_size)) {
        return 0;
    }
    size = size > workspace->image_size ? size : workspace->image_size;
    int status = queue->ops->sync(queue); /* a transfer may still read the old ones */
    ser_recordings_free(workspace);
    ser_inputs_free(workspace);
    for (int32_t i = 0; i < images && status == 0; i++) {
        status = queue->ops->host_alloc(queue->context, size, &workspace->images[i]);
        if (status != 0) {
            workspace->images[i] = NULL;
        } else {
            memset(workspace->images[i], 0, size); /* gaps between inputs are transferred too */
        }
    }
    workspace->image_size = status == 0 ? size : 0;
    return status;
}

void ser_inputs_free(ser_workspace *workspace)
{
    ser_queue *queue = workspace->queue;
    for (int32_t i = 0; i < 2; i++) {
        if (workspace->images[i] != NULL) {
            queue->ops->host_free(queue->context, workspace->images[i]);
        }
        workspace->images[i] = NULL;
    }
    workspace->image_size = 0;
}
