/* SPDX-License-Identifier: MIT */
/* Plans of cuDNN for the convolutions of a queue: built once, remembered, run part by part. */
#include "ops/cuda/convolutions.h"

#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "ops/cuda/convolution_graph.h"

enum {
    MOST_PLANS = 16, /* a network has a few shapes of filters, and parts make of them a few more */
    MOST_TRIES = 3,  /* configs that are compiled before a shape is given up */
    TEXT_SIZE = 512,
};

/* A shape that has been seen. No plan: it is not to be tried again. */
typedef struct entry {
    cudnn_part part;
    cudnn_graph graph;
    cudnn_plan plan;
} entry;

struct ser_convolutions {
    cudnn_library library;
    cudnnHandle_t handle; /* NULL: there is no cuDNN for this queue */
    int32_t count;
    entry entries[MOST_PLANS];
};

static bool wanted(const ser_conv_args *args, cudnn_part *part)
{
    const char *choice = getenv("SER_CUDNN");
    if (choice != NULL && strcmp(choice, "0") == 0) {
        return false;
    }
    return ser_cudnn_cut(args, choice != NULL && strcmp(choice, "1") == 0, part);
}

/* What cuDNN says about its last failure on this thread. */
static const char *reason(const cudnn_library *library, char text[TEXT_SIZE])
{
    text[0] = '\0';
    library->cudnnGetLastErrorString(text, TEXT_SIZE);
    text[TEXT_SIZE - 1] = '\0';
    return text;
}

/* --- Opening --- */

static void open_library(const cuda_queue *queue, ser_convolutions *c)
{
    const int32_t device = queue->base.context->index;
    char text[TEXT_SIZE];
    const char *why = ser_cudnn_load(&c->library);
    if (why != NULL) {
        ser_log(SER_LOG_DEBUG, "cuda:%d: convolutions without cuDNN: %s", device, why);
        return;
    }
    cudnnStatus_t status = c->library.cudnnCreate(&c->handle);
    if (status == CUDNN_STATUS_SUCCESS) {
        status = c->library.cudnnSetStream(c->handle, queue->stream);
        if (status != CUDNN_STATUS_SUCCESS) {
            c->library.cudnnDestroy(c->handle);
        }
    }
    if (status != CUDNN_STATUS_SUCCESS) {
        c->handle = NULL;
        ser_log(SER_LOG_DEBUG, "cuda:%d: convolutions without cuDNN %zu: %s: %s", device,
                c->library.cudnnGetVersion(), c->library.cudnnGetErrorString(status),
                reason(&c->library, text));
    }
}

/* The queue's plans; NULL when there is no memory for them. */
static ser_convolutions *convolutions_of(cuda_queue *queue)
{
    if (queue->convolutions == NULL) {
        queue->convolutions = ser_mem_alloc(1, sizeof *queue->convolutions);
        if (queue->convolutions != NULL) {
            open_library(queue, queue->convolutions);
        }
    }
    return queue->convolutions;
}

/* --- Plans --- */

static entry *find(ser_convolutions *c, const cudnn_part *part)
{
    for (int32_t i = 0; c != NULL && i < c->count; i++) {
        const cudnn_part *p = &c->entries[i].part;
        if (p->in == part->in && p->out == part->out && p->kernel == part->kernel &&
            p->stride == part->stride && p->rows == part->rows) {
            return &c->entries[i];
        }
    }
    return NULL;
}

/* Build the entry's plan with the first config for which that works. */
static cudnnStatus_t plan(entry *e, cudnn_config *chosen)
{
    cudnn_config configs[CUDNN_CONFIGS];
    cudnnStatus_t status = ser_cudnn_graph_build(&e->graph, &e->part);
    if (status != CUDNN_STATUS_SUCCESS) {
        return status;
    }
    const int32_t count = ser_cudnn_configs(&e->graph, configs);
    status = CUDNN_STATUS_NOT_SUPPORTED;
    for (int32_t i = 0; i < count && i < MOST_TRIES && status != CUDNN_STATUS_SUCCESS; i++) {
        *chosen = configs[i];
        status = ser_cudnn_plan_build(&e->graph, &configs[i], &e->plan);
    }
    ser_cudnn_configs_free(&e->graph, configs, count);
    return status;
}

static void add(const cuda_queue *queue, ser_convolutions *c, const cudnn_part *part)
{
    char text[TEXT_SIZE];
    cudnn_config chosen = {.engine = -1};
    entry *e = &c->entries[c->count];
    c->count++;
    *e = (entry){.part = *part, .graph = {.library = &c->library, .handle = c->handle}};
    const cudnnStatus_t status = plan(e, &chosen);
    if (status == CUDNN_STATUS_SUCCESS) {
        ser_log(
            SER_LOG_DEBUG,
            "cuda:%d: convolution of %lld to %lld channels, kernel %lld, stride %lld, %lld rows at "
            "a time: cuDNN's engine %lld, %lld bytes of scratch",
            queue->base.context->index, (long long)part->in, (long long)part->out,
            (long long)part->kernel, (long long)part->stride, (long long)part->rows,
            (long long)chosen.engine, (long long)e->plan.workspace);
        return;
    }
    ser_log(
        SER_LOG_DEBUG,
        "cuda:%d: convolution of %lld to %lld channels, kernel %lld, stride %lld without cuDNN: "
        "engine %lld: %s: %s",
        queue->base.context->index, (long long)part->in, (long long)part->out,
        (long long)part->kernel, (long long)part->stride, (long long)chosen.engine,
        c->library.cudnnGetErrorString(status), reason(&c->library, text));
    ser_cudnn_graph_free(&e->graph);
    cudaGetLastError(); /* it must not show up in a later call; one that stays will */
}

bool ser_convolution_ready(cuda_queue *queue, const ser_conv_args *args)
{
    cudnn_part part;
    if (!wanted(args, &part)) {
        return false;
    }
    /* cuDNN allocates and loads code when it is opened and when a plan is built. */
    ser_convolutions *c = queue->capturing ? queue->convolutions : convolutions_of(queue);
    if (c == NULL || c->handle == NULL) {
        return false;
    }
    if (find(c, &part) == NULL && !queue->capturing && c->count < MOST_PLANS) {
        add(queue, c, &part);
    }
    const entry *e = find(c, &part);
    return e != NULL && e->plan.descriptor != NULL;
}

size_t ser_convolutions_scratch(const ser_queue *queue, const ser_conv_args *args)
{
    cudnn_part part;
    (void)queue; /* planning comes before the first plan is built, whose need is not known yet */
    return wanted(args, &part) ? CUDNN_WORKSPACE_LIMIT : 0;
}

/* --- Running --- */

static int fail_cudnn(const cuda_queue *queue, cudnnStatus_t status)
{
    const cudnn_library *library = &queue->convolutions->library;
    char text[TEXT_SIZE];
    if (status == CUDNN_STATUS_SUCCESS) {
        return 0;
    }
    reason(library, text);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
        return ser_cuda_status(queue->base.context, error, "a convolution");
    }
    return ser_fail(SER_ERR_DEVICE, "cuda:%d: a convolution: %s: %s", queue->base.context->index,
                    library->cudnnGetErrorString(status), text);
}

/* Rows `first` and following of y. */
static cudnnStatus_t run_part(const cuda_queue *queue, const entry *e, const ser_conv_args *args,
                              int64_t first)
{
    const cudnn_library *library = &queue->convolutions->library;
    const int64_t ids[3] = {CUDNN_X, CUDNN_W, CUDNN_Y};
    uint16_t *x = args->x.data; /* bf16 */
    uint16_t *y = args->y.data;
    void *const pointers[3] = {x + (first * args->stride - args->padding) * args->x.cols,
                               args->w->bf16, y + first * args->y.cols};
    const cudnn_attribute list[] = {
        {CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 3, ids},
        {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 3, pointers},
        {CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &queue->base.scratch},
        {.count = 0},
    };
    cudnnBackendDescriptor_t pack = NULL;
    cudnnStatus_t status =
        ser_cudnn_make(library, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, list, &pack);
    if (status == CUDNN_STATUS_SUCCESS) {
        status =
            library->cudnnBackendExecute(queue->convolutions->handle, e->plan.descriptor, pack);
        library->cudnnBackendDestroyDescriptor(pack);
    }
    return status;
}

int ser_convolution_run(cuda_queue *queue, const ser_conv_args *args)
{
    cudnn_part part;
    const entry *e = wanted(args, &part) ? find(queue->convolutions, &part) : NULL;
    if (e == NULL || e->plan.descriptor == NULL) {
        return ser_fail(SER_ERR_INTERNAL,
                        "cuda: a convolution was not asked for before it was run");
    }
    const int64_t total = args->rows_out.batch * args->rows_out.padded;
    cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
    for (int64_t row = 0; row < total && status == CUDNN_STATUS_SUCCESS; row += part.rows) {
        const int64_t last = total - part.rows; /* rows made twice get the same values twice */
        status = run_part(queue, e, args, row < last ? row : last);
    }
    return fail_cudnn(queue, status);
}

void ser_convolutions_free(ser_convolutions *convolutions)
{
    if (convolutions == NULL) {
        return;
    }
    for (int32_t i = 0; i < convolutions->count; i++) {
        entry *e = &convolutions->entries[i];
        ser_cudnn_plan_free(&e->graph, &e->plan);
        ser_cudnn_graph_free(&e->graph);
    }
    if (convolutions->handle != NULL) {
        convolutions->library.cudnnDestroy(convolutions->handle);
    }
    ser_mem_free(convolutions);
}
