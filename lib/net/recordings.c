/* SPDX-License-Identifier: MIT */
/*
 * A run from inputs in host memory to outputs in host memory. On backends that can record, a shape
 * runs plainly the first time (algorithms may be measured then), is recorded the second, and from
 * then on is one replay: nothing is planned, allocated or waited for but the outputs.
 *
 * A prediction's transfers are part of its recording, which so belongs to one of the two images.
 * Training has them apart.
 */
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "net/workspace.h"

/* --- Outputs --- */

static size_t elements(const ser_tensor *tensor)
{
    return (size_t)(tensor->rows * tensor->cols);
}

/* What a run leaves for the host, and where it is noted. */
typedef struct output {
    const ser_tensor *tensor;
    const float **host;
} output;

enum { OUTPUTS = 5 };

static void list_outputs(ser_stages *s, const ser_run *run, output list[OUTPUTS])
{
    static const ser_tensor none = {0};
    const bool training = run->input != NULL;
    const bool any = !run->features_only;
    list[0] = (output){any && !training ? &s->alpha : &none, &s->outputs.alpha};
    list[1] = (output){any && !training ? &s->pooled : &none, &s->outputs.pooled};
    list[2] = (output){any && !training ? &s->logits : &none, &s->outputs.logits};
    list[3] = (output){any ? &s->probabilities : &none, &s->outputs.probabilities};
    list[4] = (output){any && training ? &s->loss : &none, &s->outputs.loss};
}

static void free_results(ser_workspace *w, int32_t image)
{
    if (w->results[image] != NULL) {
        w->queue->ops->host_free(w->queue->context, w->results[image]);
    }
    w->results[image] = NULL;
    w->results_size[image] = 0;
}

void ser_results_free(ser_workspace *workspace)
{
    free_results(workspace, 0);
    free_results(workspace, 1);
}

/* Whether the host prepares the next run while this one is under way. */
static bool in_turn(const ser_run *run)
{
    return run->input != NULL || run->in_turn;
}

/* Outputs are read where they are if that is the host's memory, unless they are to outlive the
 * preparation of the next run. */
static bool stays(const ser_workspace *w, const ser_run *run)
{
    return w->queue->ops->host_memory && !in_turn(run);
}

/* Bytes from a prediction's first output to the end of its last. */
static size_t span_of(const output list[OUTPUTS])
{
    const ser_tensor *first = list[0].tensor;
    const ser_tensor *last = list[3].tensor;
    return first->data == NULL ? 0
                               : (size_t)((const char *)last->data - (const char *)first->data) +
                                     elements(last) * sizeof(float);
}

static size_t results_size(ser_workspace *w, const ser_run *run)
{
    output list[OUTPUTS];
    size_t size = 0;
    list_outputs(&w->stages, run, list);
    for (size_t i = 0; i < OUTPUTS; i++) {
        size += elements(list[i].tensor) * sizeof(float);
    }
    return run->input != NULL ? size : span_of(list);
}

/* Host memory for the outputs of the shape at hand. */
static int reserve_results(ser_workspace *w, const ser_run *run)
{
    ser_queue *queue = w->queue;
    const size_t size = results_size(w, run);
    if (stays(w, run) || size <= w->results_size[w->image]) {
        return 0;
    }
    int status = queue->ops->sync(queue); /* a transfer may still write to the old one */
    if (run->input == NULL) {
        ser_recordings_free(w); /* a prediction's know the old memory */
    }
    free_results(w, w->image);
    void *memory = NULL;
    status = status == 0 ? queue->ops->host_alloc(queue->context, size, &memory) : status;
    w->results[w->image] = status == 0 ? memory : NULL;
    w->results_size[w->image] = status == 0 ? size : 0;
    return status;
}

/* A prediction's lie one behind the other on the device, and likewise on the host. */
static int fetch_together(ser_workspace *w, const output list[OUTPUTS])
{
    const char *first = list[0].tensor->data;
    for (size_t i = 0; i < OUTPUTS; i++) {
        const char *data = list[i].tensor->data;
        *list[i].host =
            data != NULL ? (float *)(void *)((char *)w->results[w->image] + (data - first)) : NULL;
    }
    return first == NULL
               ? 0
               : w->queue->ops->download(w->queue, w->results[w->image], first, span_of(list));
}

/* Queue the copies to the host, if its memory is another. */
static int fetch_outputs(ser_workspace *w, const ser_run *run)
{
    output list[OUTPUTS];
    float *host = w->results[w->image];
    int status = 0;
    list_outputs(&w->stages, run, list);
    if (run->input == NULL && !stays(w, run)) {
        return fetch_together(w, list);
    }
    for (size_t i = 0; i < OUTPUTS && status == 0; i++) {
        const ser_tensor *tensor = list[i].tensor;
        if (tensor->data == NULL || stays(w, run)) {
            *list[i].host = tensor->data;
            continue;
        }
        *list[i].host = host;
        status =
            w->queue->ops->download(w->queue, host, tensor->data, elements(tensor) * sizeof(float));
        host += elements(tensor);
    }
    return status;
}

/* --- Shapes --- */

/* Beyond 5000 samples at most a 12th is added to what the network computes, and 13 shapes cover a
 * doubling of lengths. */
int64_t ser_rounded_length(int64_t longest)
{
    int64_t step = 400;
    while (step * 25 < longest) {
        step *= 2;
    }
    return (longest + step - 1) / step * step;
}

int64_t ser_workspace_rounded(const ser_workspace *workspace, int64_t longest)
{
    const bool records = workspace->queue->ops->capture_begin != NULL && !workspace->keep_stages;
    return records ? ser_rounded_length(longest) : longest;
}

enum {
    PART_INPUT = 1,
    PART_TAPE = 2,
    PART_UPDATE = 4,
    PART_FEATURES_ONLY = 8,
    PART_SOURCES = 16,
    PART_FEATURES = 32,
    PART_TARGETS = 64,
    PART_MASK = 128,
    PART_MEL_WARP = 256,
    PART_OTHER_IMAGE = 512,
};

static ser_run_shape shape_of(const ser_workspace *w, const ser_run *run)
{
    const ser_training_batch *input = run->input;
    ser_run_shape shape = {.batch = run->batch, .longest = run->longest};
    shape.parts = (run->tape != NULL ? PART_TAPE : 0) | (run->update != NULL ? PART_UPDATE : 0) |
                  (run->features_only ? PART_FEATURES_ONLY : 0) |
                  (input == NULL && w->image != 0 ? PART_OTHER_IMAGE : 0);
    if (input != NULL) {
        shape.parts |=
            PART_INPUT | (input->sources != NULL ? PART_SOURCES : 0) |
            (input->features ? PART_FEATURES : 0) | (input->targets != NULL ? PART_TARGETS : 0) |
            (input->mask != NULL ? PART_MASK : 0) | (input->mel_warp != NULL ? PART_MEL_WARP : 0);
        memcpy(&shape.scale, &input->scale, sizeof input->scale);
        shape.mel_time = input->mel_time.count;
        shape.mel_channel = input->mel_channel.count;
        shape.hidden_time = input->hidden_time.count;
        shape.hidden_channel = input->hidden_channel.count;
    }
    return shape;
}

/* Which blocks layerdrop leaves out differs from step to step: such steps are not worth recording. */
static bool may_record(const ser_workspace *w, const ser_run *run)
{
    if (w->queue->ops->capture_begin == NULL || w->keep_stages) {
        return false;
    }
    const bool *dropped = run->input != NULL ? run->input->dropped_layers : NULL;
    bool any = false;
    for (int32_t i = 0; dropped != NULL && i < w->net->arch.layers; i++) {
        any = any || dropped[i];
    }
    return !any;
}

/* --- Recordings --- */

static ser_recording *find(ser_workspace *w, const ser_run *run)
{
    const ser_run_shape shape = shape_of(w, run);
    for (size_t i = 0; i < SER_RECORDINGS && may_record(w, run); i++) {
        if (memcmp(&w->recordings[i].shape, &shape, sizeof shape) == 0) {
            return &w->recordings[i];
        }
    }
    return NULL;
}

static void forget(ser_workspace *w, ser_recording *r)
{
    if (r->graph != NULL) {
        w->queue->ops->graph_free(w->queue->context, r->graph);
    }
    *r = (ser_recording){.used = 0};
}

void ser_recordings_free(ser_workspace *workspace)
{
    for (size_t i = 0; i < SER_RECORDINGS; i++) {
        forget(workspace, &workspace->recordings[i]);
    }
}

/* Remember a shape in the place of the one that was used the longest time ago. */
static void note(ser_workspace *w, const ser_run *run)
{
    ser_recording *oldest = &w->recordings[0];
    for (size_t i = 1; i < SER_RECORDINGS; i++) {
        oldest = w->recordings[i].used < oldest->used ? &w->recordings[i] : oldest;
    }
    forget(w, oldest);
    oldest->shape = shape_of(w, run);
    oldest->used = w->calls;
}

/* --- Runs --- */

static int upload_inputs(ser_workspace *w)
{
    const void *image = w->images[w->image];
    return image == NULL ? 0
                         : w->queue->ops->upload(w->queue, w->arena.memory, image, w->input_size);
}

/* What is recorded. */
static int run_body(ser_workspace *w, const ser_run *run)
{
    const bool training = run->input != NULL;
    int status = training ? 0 : upload_inputs(w);
    status = status == 0 ? ser_workspace_run(w, run) : status;
    return status == 0 && !training ? fetch_outputs(w, run) : status;
}

/* A shape that cannot be recorded is not tried again: *r says so. */
static void record(ser_workspace *w, const ser_run *run, ser_recording *r)
{
    ser_queue *queue = w->queue;
    int status = queue->ops->capture_begin(queue);
    if (status == 0) {
        int run_status = run_body(w, run);
        status = queue->ops->capture_end(queue, run_status != 0, &r->graph);
        status = run_status != 0 ? run_status : status;
    }
    if (status != 0) {
        r->graph = NULL;
        r->refused = true;
        ser_log(SER_LOG_DEBUG, "net: a batch of %lld clips is not recorded: %s",
                (long long)run->batch, ser_fail_text());
        return;
    }
    r->stages = w->stages;
}

static int replay(ser_workspace *w, const ser_run *run, const ser_recording *r)
{
    const int64_t batch = run->batch;
    w->stages = r->stages;
    w->stages.valid_host = w->valid + (w->net->arch.conv_count + 1) * batch;
    w->stages.mel_valid_host = w->valid + batch;
    return w->queue->ops->replay(w->queue, r->graph);
}

/* Memory for the run and its outputs. A recording has the former, but the latter may be those of the
 * other image. */
static int make_room(ser_workspace *w, const ser_run *run)
{
    const ser_recording *r = find(w, run);
    int status = 0;
    if (r != NULL && r->graph != NULL) {
        w->stages = r->stages;
        w->batch = 0; /* they are not those of the last plan */
    } else {
        status = ser_workspace_plan(w, run); /* may forget all recordings */
    }
    return status == 0 ? reserve_results(w, run) : status;
}

int ser_workspace_prepare(ser_workspace *workspace, const ser_run *run)
{
    ser_workspace *w = workspace;
    const int32_t image = w->image;
    int status = 0;
    w->calls++;
    if (run->features_only) { /* has the image of the run before, whose outputs may be unread */
        status = w->queue->ops->sync(w->queue);
    } else {
        w->image = in_turn(run) ? 1 - w->image : 0;
    }
    status = status == 0 ? make_room(w, run) : status;
    if (status != 0) {
        w->image = image; /* the next run must not have that of the one under way */
        return status;
    }
    ser_pass pass = ser_pass_of(w, run);
    ser_pass_begin(&pass);
    ser_pass_fill(&pass);
    return pass.status;
}

/* The step is written now: it may rest on what the step before gave. */
static int fill_step(ser_workspace *w, const ser_run *run)
{
    if (run->step == NULL) {
        return 0;
    }
    ser_pass pass = ser_pass_of(w, run);
    ser_pass_begin(&pass);
    ser_pass_fill_step(&pass);
    return pass.status;
}

int ser_workspace_launch(ser_workspace *workspace, const ser_run *run)
{
    ser_workspace *w = workspace;
    const bool training = run->input != NULL;
    int status = fill_step(w, run);
    status = status == 0 && training ? upload_inputs(w) : status;
    ser_recording *r = find(w, run);
    if (status == 0 && r != NULL && r->graph == NULL && !r->refused) {
        record(w, run, r); /* what fails there fails below, or did not matter */
    }
    if (r != NULL) {
        r->used = w->calls;
    }
    if (status == 0) {
        status = r != NULL && r->graph != NULL ? replay(w, run, r) : run_body(w, run);
    }
    if (status == 0 && r == NULL && may_record(w, run)) {
        note(w, run);
    }
    return status == 0 && training ? fetch_outputs(w, run) : status;
}

int ser_workspace_predict(ser_workspace *workspace, const ser_run *run)
{
    int status = ser_workspace_prepare(workspace, run);
    status = status == 0 ? ser_workspace_launch(workspace, run) : status;
    /* the outputs are there, or nothing is under way */
    int waited = workspace->queue->ops->sync(workspace->queue);
    return status == 0 ? waited : status;
}
