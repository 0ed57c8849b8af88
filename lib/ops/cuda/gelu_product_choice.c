/* SPDX-License-Identifier: MIT */
/* Which variant of gelu_product makes a shape, and whether any is faster than the way without. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "ops/cuda/algorithms.h"
#include "ops/cuda/gelu_product.h"
#include "ops/cuda/products.h"

enum {
    OTHER = -1, /* in place of a variant */
    MOST_TRIES = 5,
    ROUNDS = 2,
};

/* A variant whose cost is further above the least is not tried. */
static const double HOPELESS = 2.0;

/* What was measured, in nanoseconds. */
typedef struct gelu_verdict {
    uint64_t variant; /* + 1; 0: the other way */
    uint64_t own;     /* of the fastest variant */
    uint64_t other;
    uint64_t zero[5];
} gelu_verdict;

_Static_assert(sizeof(gelu_verdict) == sizeof(((product_choice *)0)->algorithm),
               "a verdict is kept in the place of an algorithm");

/* A variant on trial, and its shortest time in milliseconds: infinite once it has failed. */
typedef struct trial {
    const cuda_convolution *call;
    int variant;
    bool runs;
    float time;
} trial;

/* --- Words --- */

static void tell(const cuda_queue *queue, const cuda_convolution *call, const gelu_verdict *v,
                 const char *whence)
{
    ser_log(SER_LOG_DEBUG,
            "cuda:%d: GELU of %lld rows, %lld to %lld channels, kernel %lld, stride %lld%s: %s%s: "
            "%.4f ms in one kernel, %.4f ms as product and pass",
            queue->base.context->index, (long long)call->y.rows, (long long)call->x.cols,
            (long long)call->y.cols, (long long)call->kernel, (long long)call->stride,
            call->bias.rows > 0 ? ", bias" : "",
            v->variant > 0 ? ser_gelu_product_name((int)v->variant - 1) : "product and pass",
            whence, 1e-6 * (double)v->own, 1e-6 * (double)v->other);
}

/* --- Verdicts --- */

static product_key key_of(const cuda_convolution *call)
{
    return (product_key){.m = call->y.rows,
                         .n = call->y.cols,
                         .k = call->kernel * call->x.cols,
                         .lda = call->stride * call->x.cols,
                         .entries = GELU_PRODUCT_VERSION,
                         .flags = SER_ALGORITHMS_GELU_PRODUCT | (uint32_t)(call->bias.rows > 0) |
                                  (uint32_t)(call->ends != NULL) << 1};
}

static bool can_do(const cuda_queue *queue, const cuda_convolution *call, uint64_t variant)
{
    return variant < GELU_PRODUCT_VARIANTS &&
           isfinite(ser_gelu_product_cost(queue, call, (int)variant));
}

/* The shape's verdict, if there is one that this call can have. */
static bool recall(const cuda_queue *queue, const cuda_convolution *call, gelu_verdict *v)
{
    ser_algorithms *algorithms = ser_products_algorithms(queue->base.context);
    const product_key key = key_of(call);
    product_choice choice;
    if (algorithms == NULL || !ser_algorithms_find(algorithms, &key, &choice)) {
        return false;
    }
    memcpy(v, choice.algorithm, sizeof *v);
    if (v->variant > 0 && !can_do(queue, call, v->variant - 1)) {
        return false;
    }
    if (choice.loaded) {
        choice.loaded = false;
        ser_algorithms_put(algorithms, &key, &choice);
        tell(queue, call, v, ", as it was");
    }
    return true;
}

static void keep(const cuda_queue *queue, const cuda_convolution *call, const gelu_verdict *v)
{
    const product_key key = key_of(call);
    product_choice choice = {.workspace = 0};
    memcpy(choice.algorithm, v, sizeof *v);
    ser_algorithms_put(ser_products_algorithms(queue->base.context), &key, &choice);
    tell(queue, call, v, "");
}

/* --- Measuring --- */

static int run_trial(cuda_queue *queue, const void *data)
{
    const trial *t = data;
    return ser_gelu_product_run(queue, t->call, t->variant);
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

/* All ways in turn: a card that was idle may first have to gain speed. False if the other way fails;
 * it runs next, and says so. */
static bool time_trials(cuda_queue *queue, const cuda_way *other, float *other_time, trial *trials,
                        int count)
{
    for (int round = 0; round < ROUNDS; round++) {
        if (!shorten(queue, other, other_time)) {
            return false;
        }
        for (int i = 0; i < count; i++) {
            trial *t = &trials[i];
            if (t->runs && !shorten(queue, &(cuda_way){run_trial, t}, &t->time)) {
                t->runs = false;
                t->time = INFINITY;
                ser_log(SER_LOG_DEBUG, "cuda:%d: GELU in one kernel: %s does not run",
                        queue->base.context->index, ser_gelu_product_name(t->variant));
            }
        }
    }
    return true;
}

/* Those that may be the fastest for the call, by their costs; 0: none can do it. */
static int select_trials(const cuda_queue *queue, const cuda_convolution *call, trial *trials)
{
    double least = INFINITY;
    int count = 0;
    for (int i = 0; i < GELU_PRODUCT_VARIANTS; i++) {
        least = fmin(least, ser_gelu_product_cost(queue, call, i));
    }
    for (int i = 0; i < GELU_PRODUCT_VARIANTS && count < MOST_TRIES && isfinite(least); i++) {
        if (ser_gelu_product_cost(queue, call, i) <= HOPELESS * least) {
            trials[count++] = (trial){.call = call, .variant = i, .runs = true, .time = INFINITY};
        }
    }
    return count;
}

static uint64_t nanoseconds(float milliseconds)
{
    return isfinite(milliseconds) ? (uint64_t)(1e6 * (double)milliseconds + 0.5) : 0;
}

/* A failure keeps nothing. */
static bool measure(cuda_queue *queue, const cuda_convolution *call, const cuda_way *other,
                    gelu_verdict *v)
{
    trial trials[MOST_TRIES];
    float other_time = INFINITY;
    float best = INFINITY;
    const int count = select_trials(queue, call, trials);
    if (count == 0 || !time_trials(queue, other, &other_time, trials, count)) {
        return false;
    }
    *v = (gelu_verdict){.other = nanoseconds(other_time)};
    for (int i = 0; i < count; i++) {
        if (trials[i].time < best) {
            best = trials[i].time;
            v->own = nanoseconds(best);
            v->variant = best < other_time ? (uint64_t)trials[i].variant + 1 : 0;
        }
    }
    keep(queue, call, v);
    return true;
}

/* --- Choosing --- */

static int choose(cuda_queue *queue, const cuda_convolution *call, const cuda_way *other)
{
    ser_context *context = queue->base.context;
    ser_algorithms *algorithms = ser_products_algorithms(context);
    gelu_verdict v;
    bool known = recall(queue, call, &v);
    if (!known && !queue->capturing && algorithms != NULL && ser_algorithms_lasting(algorithms)) {
        ser_products_begin_measuring(context);
        known = recall(queue, call, &v); /* another queue may just have measured it */
        known = known || measure(queue, call, other, &v);
        ser_products_end_measuring(context);
    }
    return known ? (int)v.variant - 1 : OTHER;
}

/* By its cost alone. */
static int cheapest(const cuda_queue *queue, const cuda_convolution *call)
{
    double least = INFINITY;
    int variant = OTHER;
    for (int i = 0; i < GELU_PRODUCT_VARIANTS; i++) {
        const double cost = ser_gelu_product_cost(queue, call, i);
        if (cost < least) {
            least = cost;
            variant = i;
        }
    }
    return variant;
}

/* Whether the environment decides, and how. */
static bool forced(const cuda_queue *queue, const cuda_convolution *call, int *variant)
{
    const char *asked = getenv("SER_GELU_PRODUCT");
    *variant = OTHER;
    if (asked == NULL || strcmp(asked, "0") == 0) {
        return asked != NULL;
    }
    if (strcmp(asked, "1") == 0) {
        *variant = cheapest(queue, call);
        return true;
    }
    for (int i = 0; i < GELU_PRODUCT_VARIANTS; i++) {
        if (strcmp(asked, ser_gelu_product_name(i)) == 0) {
            *variant = can_do(queue, call, (uint64_t)i) ? i : OTHER;
            return true;
        }
    }
    return false;
}

int ser_gelu_product(cuda_queue *queue, const cuda_convolution *call, const cuda_way *other)
{
    int variant;
    if (!forced(queue, call, &variant)) {
        variant = choose(queue, call, other);
    }
    return variant == OTHER ? other->run(queue, other->data)
                            : ser_gelu_product_run(queue, call, variant);
}
