/* SPDX-License-Identifier: MIT */
/*
 * Streams, their capture, events, and what is submitted to them. Work is done at once, so that a
 * stream is always idle, but for one that has waited for another stream: its work is done as late as
 * the events allow, when somebody waits for it. What depends on it without having said so, or takes
 * from it what it still needs, computes something wrong.
 */
#include "emulator_internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct capture {
    cudaStream_t origin;
    CUgraph_st *graph;
    cudaStreamCaptureMode mode;
    pthread_t thread;
    bool invalid;
    uint64_t id;
    capture *next;
};

struct CUstream_st {
    CUstream_st *next;
    capture *in;
    /* Pieces of work so far, and how many of them the origin of the capture has waited for. */
    uint64_t work, joined;
    bool late;       /* it has waited for another stream */
    CUgraph_st kept; /* and this is what it has not done, or not recorded, yet */
};

struct CUevent_st {
    unsigned flags;
    bool recorded;
    double time;
    uint64_t capture_id; /* 0: not of a capture */
    cudaStream_t stream;
    uint64_t work;
};

namespace
{

cudaStream_t streams;
capture *captures;
uint64_t capture_ids;

bool is_legacy(cudaStream_t stream)
{
    return !stream || stream == cudaStreamLegacy;
}

bool is_stream(cudaStream_t stream)
{
    for (cudaStream_t s = streams; s; s = s->next) {
        if (s == stream) {
            return true;
        }
    }
    return false;
}

capture *find_capture(uint64_t id)
{
    for (capture *c = captures; c; c = c->next) {
        if (c->id == id) {
            return c;
        }
    }
    return nullptr;
}

cudaError_t invalidate(capture *c, cudaError_t error)
{
    c->invalid = true;
    return error;
}

/* A stream that waits, or the legacy one, where some capture is under way. */
cudaError_t legacy_error(cudaStream_t stream)
{
    if (!is_legacy(stream)) {
        return is_stream(stream) ? cudaSuccess : cudaErrorInvalidResourceHandle;
    }
    for (capture *c = captures; c; c = c->next) {
        if (c->mode != cudaStreamCaptureModeRelaxed) {
            return invalidate(c, cudaErrorStreamCaptureImplicit);
        }
    }
    return cudaSuccess;
}

void end(capture *c)
{
    capture **link = &captures;

    while (*link != c) {
        link = &(*link)->next;
    }
    *link = c->next;
    for (cudaStream_t s = streams; s; s = s->next) {
        if (s->in == c) {
            s->in = nullptr;
            s->late = false;
            emulator_clear(&s->kept);
        }
    }
    free(c);
}

bool has_unjoined(const capture *c)
{
    for (cudaStream_t s = streams; s; s = s->next) {
        if (s->in == c && s != c->origin && s->joined != s->work) {
            return true;
        }
    }
    return false;
}

double seconds()
{
    timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void keep(cudaStream_t stream, const emulator_node *node)
{
    if (!emulator_append(&stream->kept, node)) {
        emulator_fatal("no memory");
    }
}

/* Do, or record, what the stream has kept. */
cudaError_t catch_up(cudaStream_t stream)
{
    cudaError_t error = cudaSuccess;

    if (!stream->in) {
        error = stream->kept.first ? emulator_run_graph(&stream->kept) : cudaSuccess;
        stream->late = false;
    }
    for (const emulator_node *node = stream->kept.first; stream->in && node; node = node->next) {
        if (!emulator_append(stream->in->graph, node)) {
            emulator_fatal("no memory");
        }
    }
    emulator_clear(&stream->kept);
    return error;
}

cudaError_t record(cudaStream_t stream, const emulator_node *node)
{
    capture *c = stream->in;

    if (c->invalid) {
        return cudaErrorStreamCaptureInvalidated;
    }
    if (!emulator_node_valid(node, true)) {
        fprintf(stderr, "emulation: captured copy or fill of memory that the runtime did not "
                        "allocate, or beyond its end\n");
        return invalidate(c, cudaErrorStreamCaptureUnsupported);
    }
    emulator_log_node("recorded ", node);
    stream->work++;
    if (stream != c->origin) {
        keep(stream, node);
    } else if (!emulator_append(c->graph, node)) {
        emulator_fatal("no memory");
    }
    return cudaSuccess;
}

cudaError_t create_stream(const char *function, cudaStream_t *stream)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(function);

    if (error) {
        return emulator_leave(error);
    }
    *stream = static_cast<cudaStream_t>(calloc(1, sizeof **stream));
    if (!*stream) {
        return emulator_leave(cudaErrorMemoryAllocation);
    }
    (*stream)->next = streams;
    streams = *stream;
    emulator_now.handles++;
    return cudaSuccess;
}

cudaError_t create_event(const char *function, cudaEvent_t *event, unsigned flags)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(function);

    if (error) {
        return emulator_leave(error);
    }
    *event = static_cast<cudaEvent_t>(calloc(1, sizeof **event));
    if (!*event) {
        return emulator_leave(cudaErrorMemoryAllocation);
    }
    (*event)->flags = flags;
    emulator_now.handles++;
    return cudaSuccess;
}

} // namespace

cudaError_t emulator_catch_up()
{
    cudaError_t error = cudaSuccess;

    for (cudaStream_t s = streams; s; s = s->next) {
        if (!s->in && !error) {
            error = catch_up(s);
        }
    }
    return error;
}

cudaError_t emulator_capture_forbids()
{
    for (capture *c = captures; c; c = c->next) {
        if (c->mode == cudaStreamCaptureModeGlobal ||
            (c->mode == cudaStreamCaptureModeThreadLocal &&
             pthread_equal(c->thread, pthread_self()))) {
            return invalidate(c, cudaErrorStreamCaptureUnsupported);
        }
    }
    return cudaSuccess;
}

/* -- Work */

cudaError_t emulator_submit(cudaStream_t stream, const emulator_node *node)
{
    const cudaError_t error = legacy_error(stream);

    if (error) {
        return error;
    }
    if (!is_legacy(stream) && stream->in) {
        return record(stream, node);
    }
    if (!emulator_node_valid(node, false)) {
        return cudaErrorInvalidValue;
    }
    emulator_log_node("", node);
    if (!is_legacy(stream) && stream->late) {
        keep(stream, node);
    } else {
        emulator_run_node(node);
    }
    return cudaSuccess;
}

cudaError_t emulator_submit_graph(cudaStream_t stream, const CUgraph_st *graph)
{
    cudaError_t error = legacy_error(stream);

    if (error) {
        return error;
    }
    if (is_legacy(stream) || !stream->in) {
        size_t count = 0;
        for (const emulator_node *node = graph->first; node; node = node->next) {
            count++;
        }
        emulator_log("graph of %zu nodes\n", count);
        error = is_legacy(stream) ? cudaSuccess : catch_up(stream);
        return error ? error : emulator_run_graph(graph);
    }
    for (const emulator_node *node = graph->first; !error && node; node = node->next) {
        error = record(stream, node);
    }
    return error;
}

/* -- Streams */

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return create_stream(__func__, stream);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int)
{
    return create_stream(__func__, stream);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int, int)
{
    return create_stream(__func__, stream);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);

    if (error && !emulator_now.sticky) {
        return emulator_leave(error);
    }
    if (!is_stream(stream)) {
        return emulator_leave(error ? error : cudaErrorInvalidResourceHandle);
    }
    if (!stream->in && !error) {
        catch_up(stream); /* a card finishes it, too */
    }
    if (stream->in && stream->in->origin == stream) {
        emulator_clear(stream->in->graph);
        free(stream->in->graph);
        end(stream->in);
    } else if (stream->in) {
        stream->in->invalid = true;
    }
    cudaStream_t *link = &streams;
    while (*link != stream) {
        link = &(*link)->next;
    }
    *link = stream->next;
    emulator_clear(&stream->kept);
    free(stream);
    emulator_now.handles--;
    return emulator_leave(error);
}

/* Stricter than a card: the thread that captures does not wait for its other streams either. */
static cudaError_t wait_error(cudaStream_t stream)
{
    const cudaError_t error = legacy_error(stream);

    if (error) {
        return error;
    }
    if (!is_legacy(stream) && stream->in) {
        return invalidate(stream->in, cudaErrorStreamCaptureUnsupported);
    }
    for (capture *c = captures; c; c = c->next) {
        if (c->mode != cudaStreamCaptureModeRelaxed && pthread_equal(c->thread, pthread_self())) {
            return invalidate(c, cudaErrorStreamCaptureUnsupported);
        }
    }
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error) {
        error = wait_error(stream);
    }
    return emulator_leave(error || is_legacy(stream) ? error : catch_up(stream));
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);

    return emulator_leave(error ? error : wait_error(stream));
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error && is_legacy(stream)) {
        error = cudaErrorStreamCaptureUnsupported;
    }
    if (!error && !is_stream(stream)) {
        error = cudaErrorInvalidResourceHandle;
    }
    if (!error && stream->in) {
        error = cudaErrorIllegalState;
    }
    if (error) {
        return emulator_leave(error);
    }
    capture *c = static_cast<capture *>(calloc(1, sizeof *c));
    CUgraph_st *graph = static_cast<CUgraph_st *>(calloc(1, sizeof *graph));
    if (!c || !graph) {
        emulator_fatal("no memory");
    }
    *c = capture{stream, graph, mode, pthread_self(), false, ++capture_ids, captures};
    captures = c;
    stream->in = c;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    *graph = nullptr;
    if (!error && !is_stream(stream)) {
        error = cudaErrorInvalidResourceHandle;
    }
    if (!is_stream(stream) || !stream->in) {
        return emulator_leave(error ? error : cudaErrorIllegalState);
    }
    capture *c = stream->in;
    if (!error && c->mode != cudaStreamCaptureModeRelaxed &&
        !pthread_equal(c->thread, pthread_self())) {
        return emulator_leave(cudaErrorStreamCaptureWrongThread);
    }
    if (!error && c->origin != stream) {
        return emulator_leave(invalidate(c, cudaErrorStreamCaptureUnmatched));
    }
    if (!error) {
        error = c->invalid        ? cudaErrorStreamCaptureInvalidated
                : has_unjoined(c) ? cudaErrorStreamCaptureUnjoined
                                  : cudaSuccess;
    }
    if (error) {
        emulator_clear(c->graph);
        free(c->graph);
    } else {
        *graph = c->graph;
        emulator_now.handles++;
    }
    end(c);
    return emulator_leave(error);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error) {
        error = legacy_error(stream);
    }
    *status = error || is_legacy(stream) || !stream->in ? cudaStreamCaptureStatusNone
              : stream->in->invalid                     ? cudaStreamCaptureStatusInvalidated
                                                        : cudaStreamCaptureStatusActive;
    return emulator_leave(error);
}

/* -- Events */

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return create_event(__func__, event, cudaEventDefault);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    return create_event(__func__, event, flags);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error) {
        error = event ? legacy_error(stream) : cudaErrorInvalidResourceHandle;
    }
    if (!error && !is_legacy(stream) && stream->in && stream->in->invalid) {
        error = cudaErrorStreamCaptureInvalidated;
    }
    if (error) {
        return emulator_leave(error);
    }
    const bool captured = !is_legacy(stream) && stream->in;
    event->capture_id = captured ? stream->in->id : 0;
    event->stream = stream;
    event->work = captured ? stream->work : 0;
    event->recorded = true;
    event->time = seconds();
    return cudaSuccess;
}

/* Waiting for an event of a capture takes the stream into it, or back to its origin. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error) {
        error = event ? legacy_error(stream) : cudaErrorInvalidResourceHandle;
    }
    if (error || !event->recorded) {
        return emulator_leave(error);
    }
    capture *from = event->capture_id ? find_capture(event->capture_id) : nullptr;
    capture *in = is_legacy(stream) ? nullptr : stream->in;
    if (!from && in) {
        error = invalidate(in, cudaErrorStreamCaptureIsolation);
    } else if (from && is_legacy(stream)) {
        error = invalidate(from, cudaErrorStreamCaptureImplicit);
    } else if (from && in && in != from) {
        error = invalidate(in, invalidate(from, cudaErrorStreamCaptureMerge));
    } else if (is_legacy(stream) || stream == event->stream || !is_stream(event->stream)) {
        return emulator_leave(cudaSuccess);
    } else if (stream == (from ? from->origin : nullptr)) {
        event->stream->joined = max(event->stream->joined, event->work);
        error = catch_up(event->stream);
    } else if (from) {
        stream->work += !in;
        stream->in = from;
    } else if (event->stream->late) {
        error = catch_up(event->stream);
    } else {
        stream->late = true;
    }
    return emulator_leave(error);
}

static cudaError_t event_error(cudaEvent_t event)
{
    if (!event) {
        return cudaErrorInvalidResourceHandle;
    }
    capture *c = event->capture_id ? find_capture(event->capture_id) : nullptr;
    return c ? invalidate(c, cudaErrorCapturedEvent) : cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error) {
        error = event_error(event);
    }
    if (!error && is_stream(event->stream) && !event->stream->in) {
        error = catch_up(event->stream);
    }
    return emulator_leave(error);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error) {
        error = emulator_capture_forbids();
    }
    return emulator_leave(error ? error : event_error(event));
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t stop)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error && (!start || !stop || !start->recorded || !stop->recorded ||
                   ((start->flags | stop->flags) & cudaEventDisableTiming))) {
        error = cudaErrorInvalidResourceHandle;
    }
    if (!error) {
        *milliseconds = static_cast<float>(1e3 * (stop->time - start->time));
    }
    return emulator_leave(error);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);

    if (!event || (error && !emulator_now.sticky)) {
        return emulator_leave(error ? error : cudaErrorInvalidResourceHandle);
    }
    free(event);
    emulator_now.handles--;
    return emulator_leave(error);
}
