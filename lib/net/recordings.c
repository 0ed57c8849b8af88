/* SPDX-License-Identifier: MIT */
/*
 * A prediction from the clips in host memory to the answer in host memory. On backends that can
 * record, a shape runs plainly the first time (algorithms may be measured then), is recorded the
 * second, and from then on is one replay: nothing is planned, allocated or waited for but the
 * answer.
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

/* Host memory for the outputs of the shape at hand. */
static int reserve_results(ser_workspace *w)
{
    const ser_stages *s = &w->stages;
    ser_queue *queue = w->queue;
    const size_t size = (elements(&s->alpha) + elements(&s->pooled) + elements(&s->logits) +
                         elements(&s->probabilities)) *
                        sizeof(float);
    if (queue->ops->host_memory || size <= w->results_size) {
        return 0;
    }
    ser_recordings_free(w); /* they know the old memory, which goes with them */
    void *memory = NULL;
    int status = queue->ops->host_alloc(queue->context, size, &memory);
    w->results = status == 0 ? memory : NULL;
    w->results_size = status == 0 ? size : 0;
    return status;
}

/* Queue the copies to the host, if its memory is another. */
static int fetch_outputs(ser_workspace *w)
{
    ser_stages *s = &w->stages;
    const ser_tensor *tensors[] = {&s->alpha, &s->pooled, &s->logits, &s->probabilities};
    const float **to[] = {&s->outputs.alpha, &s->outputs.pooled, &s->outputs.logits,
                          &s->outputs.probabilities};
    float *host = w->results;
    int status = 0;
    for (size_t i = 0; i < sizeof to / sizeof *to && status == 0; i++) {
        if (w->queue->ops->host_memory || tensors[i]->data == NULL) {
            *to[i] = tensors[i]->data;
            continue;
        }
        *to[i] = host;
        status = w->queue->ops->download(w->queue, host, tensors[i]->data,
                                         elements(tensors[i]) * sizeof(float));
        host += elements(tensors[i]);
    }
    return status;
}

/* --- Recordings --- */

/* Beyond 5000 samples at most a 12th is added to what the network computes, and 13 shapes cover a
 * doubling of lengths. */
static int64_t rounded(int64_t longest)
{
    int64_t step = 400;
    while (step * 25 < longest) {
        step *= 2;
    }
    return (longest + step - 1) / step * step;
}

static ser_recording *find(ser_workspace *w, const ser_run *run)
{
    for (size_t i = 0; i < SER_RECORDINGS; i++) {
        ser_recording *r = &w->recordings[i];
        if (r->batch == run->batch && r->longest == run->longest) {
            return r;
        }
    }
    return NULL;
}

static void forget(ser_workspace *w, ser_recording *r)
{
    if (r->graph != NULL) {
        w->queue->ops->graph_free(w->queue->context, r->graph);
    }
    *r = (ser_recording){.batch = 0};
}

void ser_recordings_free(ser_workspace *workspace)
{
    for (size_t i = 0; i < SER_RECORDINGS; i++) {
        forget(workspace, &workspace->recordings[i]);
    }
    if (workspace->results != NULL) {
        workspace->queue->ops->host_free(workspace->queue->context, workspace->results);
    }
    workspace->results = NULL;
    workspace->results_size = 0;
}

/* Remember a shape in the place of the one that was used the longest time ago. */
static void note(ser_workspace *w, const ser_run *run)
{
    ser_recording *oldest = &w->recordings[0];
    for (size_t i = 1; i < SER_RECORDINGS; i++) {
        oldest = w->recordings[i].used < oldest->used ? &w->recordings[i] : oldest;
    }
    forget(w, oldest);
    oldest->batch = run->batch;
    oldest->longest = run->longest;
    oldest->used = w->calls;
}

static int run_and_fetch(ser_workspace *w, const ser_run *run)
{
    int status = ser_workspace_run(w, run);
    return status == 0 ? fetch_outputs(w) : status;
}

/* Planned and run call by call. */
static int run_plainly(ser_workspace *w, const ser_run *run)
{
    int status = ser_workspace_plan(w, run);
    status = status == 0 ? reserve_results(w) : status;
    return status == 0 ? run_and_fetch(w, run) : status;
}

/* A shape that cannot be recorded is not tried again: *r says so. */
static int record(ser_workspace *w, const ser_run *run, ser_recording *r)
{
    ser_queue *queue = w->queue;
    int status = queue->ops->capture_begin(queue);
    if (status == 0) {
        int run_status = run_and_fetch(w, run);
        status = queue->ops->capture_end(queue, run_status != 0, &r->graph);
        status = run_status != 0 ? run_status : status;
    }
    if (status != 0) {
        r->graph = NULL;
        r->refused = true;
        ser_log(SER_LOG_DEBUG, "net: a batch of %lld clips is not recorded: %s",
                (long long)run->batch, ser_fail_text());
        return status;
    }
    r->stages = w->stages;
    return 0;
}

static int replay(ser_workspace *w, const ser_run *run, ser_recording *r)
{
    ser_pass pass = ser_pass_of(w, run);
    ser_pass_begin(&pass);
    ser_pass_fill(&pass);
    w->stages = r->stages;
    w->stages.valid_host = w->valid + (pass.arch->conv_count + 1) * run->batch;
    w->stages.mel_valid_host = w->valid + run->batch;
    return pass.status == 0 ? w->queue->ops->replay(w->queue, r->graph) : pass.status;
}

static int predict_recorded(ser_workspace *w, const ser_run *run)
{
    ser_recording *r = find(w, run);
    if (r != NULL && r->graph == NULL && !r->refused) {
        int status = ser_workspace_plan(w, run); /* may forget all recordings */
        r = status == 0 ? find(w, run) : NULL;
        if (r != NULL) {
            (void)record(w, run, r); /* what fails there fails below, or did not matter */
        }
    }
    if (r != NULL) {
        r->used = w->calls;
    }
    if (r != NULL && r->graph != NULL) {
        return replay(w, run, r);
    }
    int status = run_plainly(w, run);
    if (status == 0 && find(w, run) == NULL) {
        note(w, run);
    }
    return status;
}

int ser_workspace_predict(ser_workspace *workspace, ser_run *run)
{
    const ser_ops *ops = workspace->queue->ops;
    workspace->calls++;
    int status;
    if (ops->capture_begin != NULL && !workspace->keep_stages) {
        run->longest = rounded(run->longest);
        status = predict_recorded(workspace, run);
    } else {
        status = run_plainly(workspace, run);
    }
    int waited = ops->sync(workspace->queue); /* the outputs are there, or nothing is under way */
    return status == 0 ? waited : status;
}
