/* SPDX-License-Identifier: MIT */
#include "ops/cuda/measure.h"

#include <math.h>

#include "ops/cuda/products.h"

enum { REPEATS = 5, DELAYS = 4 };

typedef struct stopwatch {
    cudaEvent_t start[REPEATS], stop[REPEATS];
} stopwatch;

static cudaError_t make_events(stopwatch *watch)
{
    cudaError_t error = cudaSuccess;
    for (int i = 0; i < REPEATS && error == cudaSuccess; i++) {
        error = cudaEventCreate(&watch->start[i]);
        error = error == cudaSuccess ? cudaEventCreate(&watch->stop[i]) : error;
    }
    return error;
}

static void destroy_events(stopwatch *watch)
{
    for (int i = 0; i < REPEATS; i++) {
        if (watch->start[i] != NULL) {
            cudaEventDestroy(watch->start[i]);
        }
        if (watch->stop[i] != NULL) {
            cudaEventDestroy(watch->stop[i]);
        }
    }
}

static cudaError_t clear_scratch(cuda_queue *queue)
{
    return cudaMemsetAsync(queue->base.scratch, 0, ser_products_scratch(&queue->base),
                           queue->stream);
}

/*
 * In the network the weights come from memory, so the scratch is cleared before every run, which
 * takes the place of most of them in the cache. That keeps the device busy, too, while what follows
 * is queued: the times are the kernels' own.
 */
static int queue_runs(cuda_queue *queue, const cuda_way *way, const stopwatch *watch)
{
    cudaError_t error = cudaSuccess;
    int status = 0;
    for (int i = 0; i < DELAYS && error == cudaSuccess; i++) {
        error = clear_scratch(queue);
    }
    for (int i = 0; i < REPEATS && error == cudaSuccess && status == 0; i++) {
        error = clear_scratch(queue);
        error = error == cudaSuccess ? cudaEventRecord(watch->start[i], queue->stream) : error;
        status = error == cudaSuccess ? way->run(queue, way->data) : 0;
        error = error == cudaSuccess ? cudaEventRecord(watch->stop[i], queue->stream) : error;
    }
    return status != 0 ? status : ser_cuda_status(queue->base.context, error, "measuring");
}

static int read_times(cuda_queue *queue, const stopwatch *watch, float *shortest)
{
    cudaError_t error = cudaStreamSynchronize(queue->stream);
    for (int i = 0; i < REPEATS && error == cudaSuccess; i++) {
        float time = INFINITY;
        error = cudaEventElapsedTime(&time, watch->start[i], watch->stop[i]);
        *shortest = time < *shortest ? time : *shortest;
    }
    return ser_cuda_status(queue->base.context, error, "measuring");
}

/* What runs beside it would slow down what is measured. */
static int wait_for_other(const cuda_queue *queue)
{
    const cudaError_t error =
        queue->beside != NULL ? cudaStreamSynchronize(queue->beside->stream) : cudaSuccess;
    return ser_cuda_status(queue->base.context, error, "waiting for the device");
}

int ser_measure(cuda_queue *queue, const cuda_way *way, float *shortest)
{
    stopwatch watch = {{NULL}, {NULL}};
    *shortest = INFINITY;
    int status = wait_for_other(queue);
    status = status == 0
                 ? ser_cuda_status(queue->base.context, make_events(&watch), "creating events")
                 : status;
    status = status == 0 ? way->run(queue, way->data) : status;
    status = status == 0 ? queue_runs(queue, way, &watch) : status;
    status = status == 0 ? read_times(queue, &watch, shortest) : status;
    if (status != 0) { /* runs before the one that failed may be under way, with what goes now */
        cudaStreamSynchronize(queue->stream);
    }
    destroy_events(&watch);
    return status;
}
