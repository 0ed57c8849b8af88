/* SPDX-License-Identifier: MIT */
/* Which config of cuDNN serves a shape, and whether it is faster than the way without. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "ops/cuda/algorithms.h"
#include "ops/cuda/convolution_plans.h"
#include "ops/cuda/products.h"

enum {
    MOST_TRIES = 3, /* configs that are compiled: to be measured, or before all are given up */
    ROUNDS = 3,
};

_Static_assert(sizeof(cudnn_verdict) == sizeof(((product_choice *)0)->algorithm),
               "a verdict is kept in the place of an algorithm");

/* --- Words --- */

/* A line about a shape. */
__attribute__((format(printf, 3, 4))) static void
tell(const cuda_queue *queue, const cudnn_entry *e, const char *format, ...)
{
    const cudnn_part *part = &e->part;
    char text[2 * CUDNN_TEXT];
    va_list values;
    va_start(values, format);
    (void)vsnprintf(text, sizeof text, format, values);
    va_end(values);
    ser_log(
        SER_LOG_DEBUG,
        "cuda:%d: convolution of %lld to %lld channels, kernel %lld, stride %lld%s, %lld rows at "
        "a time: %s",
        queue->base.context->index, (long long)part->in, (long long)part->out,
        (long long)part->kernel, (long long)part->stride, part->bias != 0 ? ", bias" : "",
        (long long)part->rows, text);
}

/* What cuDNN has refused for it; engine -1: all. */
static void tell_failure(const cuda_queue *queue, const cudnn_entry *e, int64_t engine,
                         cudnnStatus_t status)
{
    const cudnn_library *library = &queue->convolutions->library;
    char text[CUDNN_TEXT];
    char name[48] = "cuDNN";
    if (engine >= 0) {
        (void)snprintf(name, sizeof name, "cuDNN's engine %lld", (long long)engine);
    }
    tell(queue, e, "without %s: %s: %s", name, library->cudnnGetErrorString(status),
         ser_cudnn_reason(library, text));
    cudaGetLastError(); /* it must not show up in a later call; one that stays will */
}

static void tell_times(const cuda_queue *queue, const cudnn_entry *e, const char *whence)
{
    const cudnn_verdict *v = &e->verdict;
    tell(queue, e, "%s%s for %llu rows: %.3f ms fused, %.3f ms as product and pass",
         ser_convolution_pays(e, (int64_t)v->rows) ? "fused" : "product and pass", whence,
         (unsigned long long)v->rows, 1e-6 * (double)v->fused, 1e-6 * (double)v->other);
}

/* --- Verdicts --- */

static product_key key_of(const cuda_queue *queue, const cudnn_part *part)
{
    return (product_key){.m = part->rows,
                         .n = part->out,
                         .k = part->in,
                         .entries = part->kernel,
                         .lda = part->stride,
                         .ldb = part->bias,
                         .ldd = (int64_t)queue->convolutions->library.cudnnGetVersion(),
                         .flags = SER_ALGORITHMS_CONVOLUTION};
}

bool ser_convolution_pays(const cudnn_entry *e, int64_t rows)
{
    const cudnn_verdict *v = &e->verdict;
    if (!e->measured) {
        return true;
    }
    const double parts = (double)ser_cudnn_parts(&e->part, rows);
    return (double)v->fused / (double)v->parts * parts <
           (double)v->other / (double)v->rows * (double)rows;
}

void ser_convolution_recall(const cuda_queue *queue, cudnn_entry *e)
{
    product_choice choice;
    const product_key key = key_of(queue, &e->part);
    e->measured = ser_algorithms_find(ser_products_algorithms(queue->base.context), &key, &choice);
    if (e->measured) {
        memcpy(&e->verdict, choice.algorithm, sizeof e->verdict);
        e->measured = e->verdict.parts > 0 && e->verdict.rows > 0;
    }
    if (e->measured) {
        tell_times(queue, e, ", as it was");
    }
}

static void keep(const cuda_queue *queue, const cudnn_entry *e)
{
    product_choice choice = {.workspace = (uint64_t)e->plan.workspace};
    const product_key key = key_of(queue, &e->part);
    memcpy(choice.algorithm, &e->verdict, sizeof e->verdict);
    ser_algorithms_put(ser_products_algorithms(queue->base.context), &key, &choice);
}

/* --- Measuring --- */

/* A plan on trial. No plan: it has failed. */
typedef struct trial {
    const cudnn_part *part;
    const cuda_convolution *call;
    cudnn_plan plan;
    float time; /* milliseconds, the shortest */
} trial;

static int run_trial(cuda_queue *queue, const void *data)
{
    const trial *t = data;
    return ser_convolution_run_plan(queue, t->part, &t->plan, t->call);
}

static bool shorten(cuda_queue *queue, const cuda_way *way, float *shortest)
{
    float time;
    if (ser_measure(queue, way, &time) != 0) {
        return false;
    }
    *shortest = time < *shortest ? time : *shortest;
    return true;
}

/*
 * Time both ways in turn: a card that has waited for the compiler may first have to gain speed.
 * False if the other way fails; it runs next, and says so if it is the device that failed.
 */
static bool time_trials(cuda_queue *queue, const cudnn_entry *e, const cuda_way *other,
                        float *other_time, trial *trials, int32_t count)
{
    bool runs = true;
    for (int32_t round = 0; round < ROUNDS && runs; round++) {
        runs = shorten(queue, other, other_time);
        for (int32_t i = 0; i < count && runs; i++) {
            trial *t = &trials[i];
            if (t->plan.descriptor != NULL &&
                !shorten(queue, &(cuda_way){run_trial, t}, &t->time)) {
                tell(queue, e, "without config %d of cuDNN: it does not run", (int)i);
                ser_cudnn_plan_free(&e->graph, &t->plan);
            }
        }
    }
    return runs;
}

static uint64_t nanoseconds(float milliseconds)
{
    return (uint64_t)(1e6 * (double)milliseconds + 0.5);
}

/* The fastest trial's plan becomes the entry's. */
static void take_fastest(cudnn_entry *e, trial *trials, int32_t count, const cudnn_config *configs)
{
    float best = INFINITY;
    for (int32_t i = 0; i < count; i++) {
        trial *t = &trials[i];
        if (t->plan.descriptor != NULL && t->time < best) {
            const cudnn_plan slower = e->plan;
            e->plan = t->plan;
            t->plan = slower;
            best = t->time;
            e->verdict.config = (uint64_t)i;
            e->verdict.engine = (uint64_t)configs[i].engine;
            e->verdict.shared = (uint64_t)configs[i].shared;
            e->verdict.fused = nanoseconds(best);
        }
    }
}

/* Build the plans of the first configs, and time them and the other way. Where either fails nothing
 * is kept. */
static void measure(cuda_queue *queue, cudnn_entry *e, const cuda_convolution *call,
                    const cuda_way *other, cudnn_config *configs, int32_t count)
{
    trial trials[MOST_TRIES];
    float other_time = INFINITY;
    int32_t built = 0;
    const int32_t tries = count < MOST_TRIES ? count : MOST_TRIES;
    for (int32_t i = 0; i < tries; i++) {
        trials[i] = (trial){.part = &e->part, .call = call, .time = INFINITY};
        const cudnnStatus_t status = ser_cudnn_plan_build(&e->graph, &configs[i], &trials[i].plan);
        if (status == CUDNN_STATUS_SUCCESS) {
            built++;
        } else {
            tell_failure(queue, e, configs[i].engine, status);
        }
    }
    e->measured = false;
    e->verdict = (cudnn_verdict){.parts = (uint64_t)ser_cudnn_parts(&e->part, call->y.rows),
                                 .rows = (uint64_t)call->y.rows};
    if (built > 0 && time_trials(queue, e, other, &other_time, trials, tries)) {
        take_fastest(e, trials, tries, configs);
        e->verdict.other = nanoseconds(other_time);
        e->measured = e->plan.descriptor != NULL;
    }
    for (int32_t i = 0; i < tries; i++) {
        ser_cudnn_plan_free(&e->graph, &trials[i].plan);
    }
    if (e->measured) {
        keep(queue, e);
        tell_times(queue, e, "");
    } else {
        tell(queue, e, "product and pass: nothing could be measured");
    }
}

/* --- Settling --- */

/* The configs for the entry's graph; 0: there is none, or something failed. */
static int32_t ask(const cuda_queue *queue, cudnn_entry *e, cudnn_config configs[CUDNN_CONFIGS])
{
    ser_convolutions *c = queue->convolutions;
    int32_t count = 0;
    if (!ser_convolutions_open(queue, c)) {
        return 0;
    }
    e->graph = (cudnn_graph){.library = &c->library, .handle = c->handle};
    cudnnStatus_t status = ser_cudnn_graph_build(&e->graph, &e->part);
    if (status == CUDNN_STATUS_SUCCESS) {
        count = ser_cudnn_configs(&e->graph, configs);
        status = count > 0 ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
    }
    if (status != CUDNN_STATUS_SUCCESS) {
        tell_failure(queue, e, -1, status);
    }
    return count;
}

/* The config that a kept verdict means; NULL: there is none, or the heuristics have others now. */
static cudnn_config *meant(const cudnn_entry *e, cudnn_config *configs, int32_t count)
{
    const cudnn_verdict *v = &e->verdict;
    if (!e->measured || v->config >= (uint64_t)count) {
        return NULL;
    }
    cudnn_config *config = &configs[v->config];
    const bool same =
        (uint64_t)config->engine == v->engine && (uint64_t)config->shared == v->shared;
    return same ? config : NULL;
}

/* The plan of the first of these configs for which that works. */
static void build(const cuda_queue *queue, cudnn_entry *e, cudnn_config *configs, int32_t count)
{
    for (int32_t i = 0; i < count && e->plan.descriptor == NULL; i++) {
        const cudnnStatus_t status = ser_cudnn_plan_build(&e->graph, &configs[i], &e->plan);
        if (status == CUDNN_STATUS_SUCCESS) {
            tell(queue, e, "cuDNN's engine %lld, %lld bytes of scratch",
                 (long long)configs[i].engine, (long long)e->plan.workspace);
        } else {
            tell_failure(queue, e, configs[i].engine, status);
        }
    }
}

static void choose(cuda_queue *queue, cudnn_entry *e, const cuda_convolution *call,
                   const cuda_way *other, cudnn_config *configs, int32_t count)
{
    ser_context *context = queue->base.context;
    cudnn_config *kept = meant(e, configs, count);
    const bool lasting =
        !ser_convolutions_forced() && ser_algorithms_lasting(ser_products_algorithms(context));
    if (kept == NULL && lasting) {
        ser_products_begin_measuring(context);
        ser_convolution_recall(queue, e); /* another queue may just have measured it */
        kept = meant(e, configs, count);
        if (kept == NULL) {
            measure(queue, e, call, other, configs, count);
        }
        ser_products_end_measuring(context);
    } else if (kept == NULL) {
        e->measured = false;
        build(queue, e, configs, count < MOST_TRIES ? count : MOST_TRIES);
    }
    if (kept != NULL) {
        build(queue, e, kept, 1);
    }
}

void ser_convolution_settle(cuda_queue *queue, cudnn_entry *e, const cuda_convolution *call,
                            const cuda_way *other)
{
    cudnn_config configs[CUDNN_CONFIGS];
    const int32_t count = ask(queue, e, configs);
    e->settled = true;
    if (count > 0) {
        choose(queue, e, call, other, configs, count);
        ser_cudnn_configs_free(&e->graph, configs, count);
    }
    if (e->plan.descriptor == NULL) {
        ser_cudnn_graph_free(&e->graph);
    }
}
