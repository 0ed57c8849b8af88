/* SPDX-License-Identifier: MIT */
/* The queue of the CUDA backend: a stream, its branch, transfers, recording. */
#include <stdlib.h>
#include <string.h>

#include <ser/common.h>

#include "base/mem.h"
#include "ops/cuda/convolutions.h"

enum { EARLY_MAJOR = 9 }; /* Hopper: programmatic dependent launch */

/* --- Life --- */

/* Only where it is asked for: what graphs make of it no card has shown yet (tests/gpu/TODO.md). */
static enum cuda_early early_at_first(const ser_context *context)
{
    const char *asked = getenv("SER_EARLY_LAUNCH");
    const bool wanted = asked != NULL && strcmp(asked, "1") == 0;
    return wanted && context->major >= EARLY_MAJOR ? CUDA_EARLY_UNKNOWN : CUDA_EARLY_OFF;
}

/* PTX of an older card, translated for one that has no code of its own here, does not wait. */
bool ser_cuda_starts_early(ser_queue *queue, const void *kernel)
{
    cuda_queue *q = cuda_queue_of(queue);
    if (q->early == CUDA_EARLY_UNKNOWN) {
        struct cudaFuncAttributes code = {.ptxVersion = 0};
        if (cudaFuncGetAttributes(&code, kernel) != cudaSuccess) {
            cudaGetLastError(); /* the launch will say it */
            return false;
        }
        q->early = code.ptxVersion >= 10 * EARLY_MAJOR ? CUDA_EARLY_ON : CUDA_EARLY_OFF;
    }
    return q->early == CUDA_EARLY_ON;
}

void ser_cuda_refuse_early(ser_queue *queue)
{
    cuda_queue_of(queue)->early = CUDA_EARLY_OFF;
}

int ser_cuda_queue_create(ser_context *context, int32_t threads, ser_queue **queue)
{
    (void)threads;
    int status = ser_cuda_enter(context);
    if (status != 0) {
        return status;
    }
    cuda_queue *q = ser_mem_alloc(1, sizeof *q);
    if (q == NULL) {
        return SER_ERR_MEMORY;
    }
    status = ser_cuda_status(context, cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking),
                             "creating a stream");
    if (status != 0) {
        ser_mem_free(q);
        return status;
    }
    q->base.ops = &ser_cuda_ops;
    q->base.context = context;
    q->early = early_at_first(context);
    *queue = &q->base;
    return 0;
}

static void destroy_event(cudaEvent_t event)
{
    if (event != NULL) {
        cudaEventDestroy(event);
    }
}

void ser_cuda_queue_free(ser_queue *queue)
{
    if (queue == NULL) {
        return;
    }
    cuda_queue *q = cuda_queue_of(queue);
    ser_cuda_queue_free(queue->branch);
    if (cudaSetDevice(queue->context->index) == cudaSuccess) {
        cudaStreamSynchronize(q->stream);
        ser_convolutions_free(q->convolutions); /* cuDNN is not called on a failed device */
    }
    if (ser_cuda_can_release(queue->context)) {
        destroy_event(q->forked);
        destroy_event(q->finished);
        cudaStreamDestroy(q->stream);
    }
    cudaGetLastError();
    ser_cuda_free(queue->context, queue->scratch);
    ser_mem_free(q);
}

int ser_cuda_copy(ser_queue *queue, void *to, const void *from, size_t size,
                  enum cudaMemcpyKind kind)
{
    int status = ser_cuda_enter(queue->context);
    if (status != 0 || size == 0) {
        return status;
    }
    return ser_cuda_status(queue->context,
                           cudaMemcpyAsync(to, from, size, kind, cuda_queue_of(queue)->stream),
                           "a transfer");
}

int ser_cuda_upload(ser_queue *queue, void *device, const void *host, size_t size)
{
    return ser_cuda_copy(queue, device, host, size, cudaMemcpyHostToDevice);
}

int ser_cuda_download(ser_queue *queue, void *host, const void *device, size_t size)
{
    return ser_cuda_copy(queue, host, device, size, cudaMemcpyDeviceToHost);
}

int ser_cuda_zero(ser_queue *queue, void *device, size_t size)
{
    int status = ser_cuda_enter(queue->context);
    if (status != 0 || size == 0) {
        return status;
    }
    return ser_cuda_status(queue->context,
                           cudaMemsetAsync(device, 0, size, cuda_queue_of(queue)->stream),
                           "clearing memory");
}

int ser_cuda_sync(ser_queue *queue)
{
    int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    cuda_queue *q = cuda_queue_of(queue);
    cudaError_t error = cudaStreamSynchronize(q->stream);
    if (error == cudaSuccess && q->forks) { /* a pass that failed half way */
        error = cudaStreamSynchronize(cuda_queue_of(queue->branch)->stream);
        q->forks = error != cudaSuccess;
    }
    return ser_cuda_status(queue->context, error, "waiting for the device");
}

/* --- Work beside the queue's --- */

/* A kernel that starts early looks at the one before it in its stream only, so such queues have no
 * branch. SER_BRANCH=0: none has, to see what it is worth. */
static bool wants_branch(const cuda_queue *q)
{
    const char *asked = getenv("SER_BRANCH");
    return q->early == CUDA_EARLY_OFF && (asked == NULL || strcmp(asked, "0") != 0);
}

int ser_cuda_branch(ser_queue *queue)
{
    cuda_queue *q = cuda_queue_of(queue);
    if (queue->branch != NULL || !wants_branch(q)) {
        return 0;
    }
    int status = ser_cuda_queue_create(queue->context, 0, &queue->branch);
    if (status != 0) {
        queue->branch = NULL;
        return status;
    }
    q->beside = cuda_queue_of(queue->branch);
    q->beside->beside = q;
    cudaError_t error = cudaEventCreateWithFlags(&q->forked, cudaEventDisableTiming);
    if (error == cudaSuccess) {
        error = cudaEventCreateWithFlags(&q->finished, cudaEventDisableTiming);
    }
    return ser_cuda_status(queue->context, error, "creating events");
}

/* What `to` gets from now on waits for what `from` has got. */
static int follow(ser_queue *queue, cudaStream_t from, cudaEvent_t event, cudaStream_t to)
{
    int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    cudaError_t error = cudaEventRecord(event, from);
    if (error == cudaSuccess) {
        error = cudaStreamWaitEvent(to, event, 0);
    }
    return ser_cuda_status(queue->context, error, "ordering two streams");
}

int ser_cuda_fork(ser_queue *queue)
{
    cuda_queue *q = cuda_queue_of(queue);
    q->forks = true;
    return follow(queue, q->stream, q->forked, q->beside->stream);
}

int ser_cuda_join(ser_queue *queue)
{
    cuda_queue *q = cuda_queue_of(queue);
    if (!q->forks) {
        return 0;
    }
    const int status = follow(queue, q->beside->stream, q->finished, q->stream);
    q->forks = status != 0;
    return status;
}

/* --- Recording --- */

struct ser_graph {
    cudaGraphExec_t executable;
};

static void set_capturing(cuda_queue *q, bool capturing)
{
    q->capturing = capturing;
    if (q->beside != NULL) {
        q->beside->capturing = capturing;
        q->forks = false; /* what is recorded has nothing to do with what was queued */
    }
}

int ser_cuda_capture_begin(ser_queue *queue)
{
    cuda_queue *q = cuda_queue_of(queue);
    int status = ser_cuda_enter(queue->context);
    if (status == 0) {
        /* Thread-local: other threads may allocate meanwhile. */
        status = ser_cuda_status(
            queue->context, cudaStreamBeginCapture(q->stream, cudaStreamCaptureModeThreadLocal),
            "starting to record");
    }
    set_capturing(q, status == 0);
    return status;
}

void ser_cuda_graph_free(ser_context *context, ser_graph *graph)
{
    if (graph == NULL) {
        return;
    }
    if (graph->executable != NULL && ser_cuda_can_release(context)) {
        cudaGraphExecDestroy(graph->executable);
    }
    cudaGetLastError();
    ser_mem_free(graph);
}

int ser_cuda_capture_end(ser_queue *queue, bool failed, ser_graph **graph)
{
    cuda_queue *q = cuda_queue_of(queue);
    cudaGraph_t recorded = NULL;
    *graph = NULL;
    set_capturing(q, false);
    const cudaError_t ended = cudaStreamEndCapture(q->stream, &recorded);
    if (failed) {
        cudaGetLastError();
        if (recorded != NULL) {
            cudaGraphDestroy(recorded);
        }
        return 0; /* the failure has been told already */
    }
    int status = ser_cuda_status(queue->context, ended, "recording");
    ser_graph *g = status == 0 ? ser_mem_alloc(1, sizeof *g) : NULL;
    if (status == 0 && g == NULL) {
        status = SER_ERR_MEMORY;
    }
    if (status == 0) {
        status = ser_cuda_status(queue->context, cudaGraphInstantiate(&g->executable, recorded, 0),
                                 "preparing a recording");
    }
    if (recorded != NULL) {
        cudaGraphDestroy(recorded);
    }
    if (status != 0 && status != SER_ERR_MEMORY) {
        ser_cuda_refuse_early(queue);
    }
    if (status != 0) {
        ser_mem_free(g);
        return status;
    }
    *graph = g;
    return 0;
}

int ser_cuda_replay(ser_queue *queue, ser_graph *graph)
{
    int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return ser_cuda_status(queue->context,
                           cudaGraphLaunch(graph->executable, cuda_queue_of(queue)->stream),
                           "a replay");
}
