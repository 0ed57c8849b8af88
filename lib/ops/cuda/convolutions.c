/* SPDX-License-Identifier: MIT */
/* The convolutions of a queue: which calls are cuDNN's, its opening, plans run part by part. */
#include "ops/cuda/convolutions.h"

#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "ops/cuda/convolution_plans.h"

enum { ALIGNMENT = 16 }; /* bytes; what the graph says of its tensors */

/* --- Calls --- */

static bool asked_for(const char *choice)
{
    const char *asked = getenv("SER_CUDNN");
    return asked != NULL && strcmp(asked, choice) == 0;
}

bool ser_convolutions_forced(void)
{
    return asked_for("1");
}

static bool wanted(const cuda_convolution *call, cudnn_part *part)
{
    const cudnn_part whole = {.in = call->x.cols,
                              .out = call->y.cols,
                              .kernel = call->kernel,
                              .stride = call->stride,
                              .rows = call->y.rows,
                              .bias = call->bias.rows > 0};
    return (asked_for("auto") || asked_for("1")) &&
           ser_cudnn_cut(&whole, ser_convolutions_forced(), part);
}

static bool is_aligned(const cuda_convolution *call)
{
    const uintptr_t all = (uintptr_t)call->x.data | (uintptr_t)call->w->bf16 |
                          (uintptr_t)call->bias.data | (uintptr_t)call->y.data;
    return all % ALIGNMENT == 0;
}

/* --- Opening --- */

const char *ser_cudnn_reason(const cudnn_library *library, char text[CUDNN_TEXT])
{
    text[0] = '\0';
    library->cudnnGetLastErrorString(text, CUDNN_TEXT);
    text[CUDNN_TEXT - 1] = '\0';
    return text;
}

/* The queue's plans, with the library; NULL when there is no memory for them. */
static ser_convolutions *convolutions_of(cuda_queue *queue)
{
    if (queue->convolutions == NULL) {
        queue->convolutions = ser_mem_alloc(1, sizeof *queue->convolutions);
    }
    ser_convolutions *c = queue->convolutions;
    if (c != NULL && !c->loaded) {
        const char *why = ser_cudnn_load(&c->library);
        c->loaded = true;
        c->usable = why == NULL;
        if (why != NULL) {
            ser_log(SER_LOG_DEBUG, "cuda:%d: convolutions without cuDNN: %s",
                    queue->base.context->index, why);
        }
    }
    return c;
}

bool ser_convolutions_open(const cuda_queue *queue, ser_convolutions *c)
{
    char text[CUDNN_TEXT];
    if (c->opened) {
        return c->usable;
    }
    c->opened = true;
    cudnnStatus_t status = c->library.cudnnCreate(&c->handle);
    if (status == CUDNN_STATUS_SUCCESS) {
        status = c->library.cudnnSetStream(c->handle, queue->stream);
        if (status != CUDNN_STATUS_SUCCESS) {
            c->library.cudnnDestroy(c->handle);
        }
    }
    if (status != CUDNN_STATUS_SUCCESS) {
        c->handle = NULL;
        c->usable = false;
        ser_log(SER_LOG_DEBUG, "cuda:%d: convolutions without cuDNN %zu: %s: %s",
                queue->base.context->index, c->library.cudnnGetVersion(),
                c->library.cudnnGetErrorString(status), ser_cudnn_reason(&c->library, text));
    }
    return c->usable;
}

/* --- Running --- */

static int fail_cudnn(const cuda_queue *queue, cudnnStatus_t status)
{
    const cudnn_library *library = &queue->convolutions->library;
    char text[CUDNN_TEXT];
    ser_cudnn_reason(library, text);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
        return ser_cuda_status(queue->base.context, error, "a convolution");
    }
    return ser_fail(SER_ERR_DEVICE, "cuda:%d: a convolution: %s: %s", queue->base.context->index,
                    library->cudnnGetErrorString(status), text);
}

/* Rows `first` and following of y. */
static cudnnStatus_t run_part(const cuda_queue *queue, const cudnn_plan *plan,
                              const cuda_convolution *call, int64_t first)
{
    const cudnn_library *library = &queue->convolutions->library;
    const int64_t ids[4] = {CUDNN_X, CUDNN_W, CUDNN_Y, CUDNN_BIAS};
    uint16_t *x = call->x.data; /* bf16 */
    uint16_t *y = call->y.data;
    void *const pointers[4] = {x + (first * call->stride - call->padding) * call->x.cols,
                               call->w->bf16, y + first * call->y.cols, call->bias.data};
    const int64_t count = call->bias.rows > 0 ? 4 : 3;
    const cudnn_attribute list[] = {
        {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, ids},
        {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, pointers},
        {CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &queue->base.scratch},
        {.count = 0},
    };
    cudnnBackendDescriptor_t pack = NULL;
    cudnnStatus_t status =
        ser_cudnn_make(library, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, list, &pack);
    if (status == CUDNN_STATUS_SUCCESS) {
        status = library->cudnnBackendExecute(queue->convolutions->handle, plan->descriptor, pack);
        library->cudnnBackendDestroyDescriptor(pack);
    }
    return status;
}

int ser_convolution_run_plan(cuda_queue *queue, const cudnn_part *part, const cudnn_plan *plan,
                             const cuda_convolution *call)
{
    const int64_t last = call->y.rows - part->rows; /* rows made twice get the same values twice */
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    for (int64_t row = 0; row < call->y.rows && status == CUDNN_STATUS_SUCCESS; row += part->rows) {
        status = run_part(queue, plan, call, row < last ? row : last);
    }
    if (status != CUDNN_STATUS_SUCCESS) {
        return fail_cudnn(queue, status);
    }
    return call->ends != NULL ? ser_cuda_zero_padding(&queue->base, &call->y, call->ends) : 0;
}

/* --- Entries --- */

static cudnn_entry *find(ser_convolutions *c, const cudnn_part *part)
{
    for (int32_t i = 0; i < c->count; i++) {
        if (memcmp(&c->entries[i].part, part, sizeof *part) == 0) {
            return &c->entries[i];
        }
    }
    return NULL;
}

/* NULL: there are enough. */
static cudnn_entry *add(const cuda_queue *queue, ser_convolutions *c, const cudnn_part *part)
{
    if (c->count == CUDNN_PLANS) {
        return NULL;
    }
    cudnn_entry *e = &c->entries[c->count];
    c->count++;
    *e = (cudnn_entry){.part = *part};
    if (!ser_convolutions_forced()) {
        ser_convolution_recall(queue, e);
    }
    return e;
}

/* --- The header's functions --- */

bool ser_convolution_ready(cuda_queue *queue, const cuda_convolution *call, const cuda_way *other)
{
    cudnn_part part;
    if (!wanted(call, &part) || !is_aligned(call)) {
        return false;
    }
    /* cuDNN allocates and loads code when it is opened and when a plan is built. */
    ser_convolutions *c = queue->capturing ? queue->convolutions : convolutions_of(queue);
    if (c == NULL || !c->usable) {
        return false;
    }
    cudnn_entry *e = find(c, &part);
    if (e == NULL && !queue->capturing) {
        e = add(queue, c, &part);
    }
    if (e == NULL || !ser_convolution_pays(e, call->y.rows)) {
        return false;
    }
    if (!e->settled && !queue->capturing) {
        ser_convolution_settle(queue, e, call, other);
    }
    return e->plan.descriptor != NULL && ser_convolution_pays(e, call->y.rows);
}

size_t ser_convolutions_scratch(const ser_queue *queue, const cuda_convolution *call)
{
    cudnn_part part;
    (void)queue; /* planning comes before the first plan is built, whose need is not known yet */
    return wanted(call, &part) ? CUDNN_WORKSPACE_LIMIT : 0;
}

int ser_convolution_run(cuda_queue *queue, const cuda_convolution *call)
{
    cudnn_part part;
    ser_convolutions *c = queue->convolutions;
    const cudnn_entry *e = c != NULL && wanted(call, &part) ? find(c, &part) : NULL;
    if (e == NULL || e->plan.descriptor == NULL) {
        return ser_fail(SER_ERR_INTERNAL,
                        "cuda: a convolution was not asked for before it was run");
    }
    return ser_convolution_run_plan(queue, &part, &e->plan, call);
}

void ser_convolutions_free(ser_convolutions *convolutions)
{
    if (convolutions == NULL) {
        return;
    }
    for (int32_t i = 0; i < convolutions->count; i++) {
        cudnn_entry *e = &convolutions->entries[i];
        ser_cudnn_plan_free(&e->graph, &e->plan);
        ser_cudnn_graph_free(&e->graph);
    }
    if (convolutions->handle != NULL) {
        convolutions->library.cudnnDestroy(convolutions->handle);
    }
    ser_mem_free(convolutions);
}
