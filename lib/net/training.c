/* SPDX-License-Identifier: MIT */
/* The trainable state of a network: flat arrays, the update, the state for checkpoints. */
#include "net/training_state.h"

#include <string.h>

#include "base/fail.h"
#include "base/mem.h"

static const ser_param *param_of(const ser_training *training, size_t i)
{
    return &training->net->params.list[i];
}

/* --- Memory --- */

static int allocate(ser_training *training, size_t elements, size_t size, void **memory)
{
    ser_queue *queue = training->workspace->queue;
    size_t bytes;
    if (!ser_mul_size(elements, size, &bytes)) {
        return ser_fail(SER_ERR_MEMORY, "out of memory: the parameters exceed the address space");
    }
    int status = queue->ops->alloc(queue->context, bytes, memory);
    if (status != 0) {
        *memory = NULL;
        return status;
    }
    training->memory += bytes;
    return queue->ops->zero(queue, *memory, bytes);
}

static int allocate_arrays(ser_training *training)
{
    const ser_net *net = training->net;
    const int64_t width = net->arch.hidden_size / net->arch.position_groups;
    const size_t folded = (size_t)(net->arch.hidden_size * net->arch.position_kernel * width);
    float **arrays[] = {&training->w, &training->gradient, &training->m, &training->v,
                        training->options.average ? &training->average : NULL};
    int status = 0;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays && status == 0; i++) {
        if (arrays[i] != NULL) {
            void *memory = NULL;
            status = allocate(training, training->count, sizeof(float), &memory);
            *arrays[i] = memory;
        }
    }
    void *memory = NULL;
    if (status == 0 && net->type == SER_BF16) {
        status = allocate(training, training->count, sizeof *training->rounded, &memory);
        training->rounded = memory;
    }
    if (status == 0 && training->folds_position) {
        status = allocate(training, folded, sizeof(float), &memory);
        training->position_dw = memory;
    }
    if (status == 0) {
        status = allocate(training, 1, sizeof(ser_update_state), &memory);
        training->update = memory;
    }
    if (status == 0) {
        status =
            allocate(training, (size_t)training->range_count, sizeof(ser_adamw_range), &memory);
        training->ranges = memory;
    }
    if (status == 0) {
        const ser_ops *ops = training->workspace->queue->ops;
        status =
            ops->host_alloc(training->workspace->queue->context, sizeof *training->report, &memory);
        training->report = status == 0 ? memory : NULL;
    }
    return status;
}

static void release_arrays(ser_training *training)
{
    ser_queue *queue = training->workspace->queue;
    void *arrays[] = {training->w,      training->gradient, training->m,
                      training->v,      training->average,  training->position_dw,
                      training->update, training->ranges,   training->rounded};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        ser_device_memory_free(queue->ops, queue->context, &arrays[i]);
    }
    if (training->report != NULL) {
        queue->ops->host_free(queue->context, training->report);
    }
}

/* --- Moving --- */

int ser_training_copy(ser_training *training, float *to, const float *from, size_t elements)
{
    ser_queue *queue = training->workspace->queue;
    if (queue->ops->host_memory) {
        memcpy(to, from, elements * sizeof *to);
        return 0;
    }
    const ser_tensor source =
        ser_tensor_f32((void *)(uintptr_t)from, 1, (int64_t)elements); /* only read */
    const ser_tensor target = ser_tensor_f32(to, 1, (int64_t)elements);
    return queue->ops->convert(queue, &source, &target);
}

int ser_training_permute(const ser_net *net, size_t index, float *values, bool to_flat)
{
    const ser_param *param = &net->params.list[index];
    const int64_t taps = net->slots[index].taps;
    if (net->slots[index].weight == NULL || taps <= 1) {
        return 0;
    }
    const int64_t channels = param->shape[1];
    return ser_net_transpose_rows(values, param->shape[0], to_flat ? channels : taps,
                                  to_flat ? taps : channels);
}

/* The network's current values into the flat weights (and the average). */
static int fetch_weights(ser_training *training)
{
    const ser_net *net = training->net;
    int status = 0;
    for (size_t i = 0; i < net->params.count && status == 0; i++) {
        const ser_param *param = param_of(training, i);
        const size_t elements = (size_t)ser_param_elements(param);
        if (training->offsets[i] == SER_NOWHERE) {
            continue;
        }
        float *host = ser_mem_alloc_raw(elements, sizeof *host);
        status = host == NULL ? SER_ERR_MEMORY : ser_net_get(net, i, host);
        if (status == 0) {
            status = ser_training_permute(net, i, host, true);
        }
        if (status == 0) {
            status = ser_net_upload(net, training->w + training->offsets[i], host, elements);
        }
        if (status == 0 && training->average != NULL) {
            status = ser_net_upload(net, training->average + training->offsets[i], host, elements);
        }
        ser_mem_free(host);
    }
    return status;
}

/* The positional convolution's weight from its two parameters, where they are trained. */
static int fold_position(ser_training *training)
{
    const ser_weight_norm_args args = ser_net_position_fold(training->net);
    return training->folds_position ? ser_weight_norm_fwd(training->workspace->queue, &args) : 0;
}

/* What the optimiser does not write itself follows the flat weights: packed matrices, if the backend
 * has such, and the positional convolution's. */
static int refresh(ser_training *training)
{
    const ser_net *net = training->net;
    ser_queue *queue = training->workspace->queue;
    int status = 0;
    if (queue->ops->weight_lend != NULL) {
        return fold_position(training);
    }
    for (size_t i = 0; i < net->params.count && status == 0; i++) {
        if (training->offsets[i] != SER_NOWHERE && net->slots[i].weight != NULL &&
            net->slots[i].part == 0) {
            status = queue->ops->weight_set(queue, net->slots[i].weight,
                                            training->w + training->offsets[i]);
        }
    }
    return status == 0 ? fold_position(training) : status;
}

/* The whole of w rounded, when others than the optimiser wrote it. */
static int round_weights(ser_training *training)
{
    ser_queue *queue = training->workspace->queue;
    if (training->rounded == NULL) {
        return 0;
    }
    const ser_tensor from = ser_tensor_f32(training->w, 1, (int64_t)training->count);
    const ser_tensor to = {
        .data = training->rounded, .rows = 1, .cols = (int64_t)training->count, .type = SER_BF16};
    return queue->ops->convert(queue, &from, &to);
}

int ser_training_repack(ser_training *training)
{
    ser_queue *queue = training->workspace->queue;
    bool moved = false;
    ser_queue_plan(queue);
    int status = fold_position(training);
    int reserved = ser_queue_reserve(queue, &moved); /* also ends the planning */
    if (moved) {
        ser_recordings_free(training->workspace);
    }
    status = status == 0 ? reserved : status;
    status = status == 0 ? round_weights(training) : status;
    status = status == 0 ? refresh(training) : status;
    return status == 0 ? queue->ops->sync(queue) : status; /* others may read them next */
}

/* --- Life --- */

static int copy_options(ser_training *training, const ser_training_options *options)
{
    const size_t count = training->net->params.count;
    float *rates = ser_mem_alloc_raw(count, sizeof *rates);
    float *decays = ser_mem_alloc_raw(count, sizeof *decays);
    training->options = *options;
    training->options.rates = rates;
    training->options.decays = decays;
    training->offsets = ser_mem_alloc_raw(count, sizeof *training->offsets);
    training->homes = ser_mem_alloc(count, sizeof *training->homes);
    if (rates == NULL || decays == NULL || training->offsets == NULL || training->homes == NULL) {
        return SER_ERR_MEMORY;
    }
    memcpy(rates, options->rates, count * sizeof *rates);
    memcpy(decays, options->decays, count * sizeof *decays);
    for (size_t i = 0; i < count; i++) {
        training->homes[i] = training->net->slots[i].vector.data;
    }
    return 0;
}

static int make_tape(ser_training *training)
{
    const ser_arch *arch = &training->net->arch;
    training->tape.options = &training->options;
    training->tape.blocks = ser_mem_alloc((size_t)arch->layers + 1, sizeof *training->tape.blocks);
    training->tape.hidden = ser_mem_alloc((size_t)arch->layers + 1, sizeof *training->tape.hidden);
    return training->tape.blocks != NULL && training->tape.hidden != NULL ? 0 : SER_ERR_MEMORY;
}

int ser_training_create(ser_net *net, const ser_training_options *options, int32_t threads,
                        ser_training **training)
{
    *training = NULL;
    if (!net->finished || net->arch.classifier_count == 0) {
        return ser_fail(SER_ERR_INTERNAL,
                        "net: only a finished network with a head can be trained");
    }
    ser_training *t = ser_mem_alloc(1, sizeof *t);
    if (t == NULL) {
        return SER_ERR_MEMORY;
    }
    ser_adamw_range *ranges = NULL;
    t->net = net;
    int status = copy_options(t, options);
    status = status == 0 ? ser_training_lay_out(t, &ranges) : status;
    status = status == 0 ? make_tape(t) : status;
    if (status == 0) {
        status = ser_workspace_create(net, 1, ser_arch_min_samples(&net->arch), threads, false,
                                      &t->workspace);
    }
    status = status == 0 ? allocate_arrays(t) : status;
    if (status == 0 && net->ops->branch != NULL) {
        status = net->ops->branch(t->workspace->queue);
    }
    if (status == 0) {
        ser_queue *queue = t->workspace->queue;
        status =
            queue->ops->upload(queue, t->ranges, ranges, (size_t)t->range_count * sizeof *ranges);
        status = status == 0 ? queue->ops->sync(queue) : status;
    }
    status = status == 0 ? fetch_weights(t) : status;
    ser_mem_free(ranges);
    if (status != 0) {
        ser_training_free(t);
        return status;
    }
    ser_training_tie(t);
    t->tied = true;
    status = ser_training_repack(t); /* so that a restored run starts from the same bits */
    if (status != 0) {
        ser_training_free(t);
        return status;
    }
    *training = t;
    return 0;
}

void ser_training_free(ser_training *training)
{
    if (training == NULL) {
        return;
    }
    if (training->tied) {
        (void)ser_training_untie(training); /* takes no memory: only a lost device can fail here */
    }
    if (training->workspace != NULL) {
        release_arrays(training);
    }
    ser_workspace_free(training->workspace);
    ser_mem_free(training->tape.blocks);
    ser_mem_free(training->tape.hidden);
    ser_mem_free(training->homes);
    ser_mem_free(training->offsets);
    ser_mem_free((void *)(uintptr_t)training->options.decays);
    ser_mem_free((void *)(uintptr_t)training->options.rates);
    ser_mem_free(training);
}

/* --- Update --- */

static int run_update(ser_training *training, const ser_step *step)
{
    ser_queue *queue = training->workspace->queue;
    const ser_training_options *options = &training->options;
    const ser_sum_squares_args squares = {
        .x = training->gradient, .count = (int64_t)training->count, .sum = &training->update->sum};
    const ser_adamw_args adamw = {
        .w = training->w,
        .m = training->m,
        .v = training->v,
        .ema = training->average,
        .rounded = training->rounded,
        .gradient = training->gradient,
        .count = (int64_t)training->count,
        .ranges = training->ranges,
        .range_count = training->range_count,
        .beta1 = options->beta1,
        .beta2 = options->beta2,
        .eps = options->eps,
        .step = step,
        .sum = &training->update->sum,
        .skipped = &training->update->skipped,
    };
    int status = ser_sum_squares(queue, &squares);
    return status == 0 ? ser_adamw(queue, &adamw) : status;
}

/* q, k and v have a place together; the gradient of one that is frozen must not count in the norm. */
static int clear_frozen(ser_training *training)
{
    ser_queue *queue = training->workspace->queue;
    int status = 0;
    for (size_t i = 0; i < training->net->params.count && status == 0; i++) {
        if (training->offsets[i] != SER_NOWHERE && training->options.rates[i] <= 0.0F) {
            const size_t elements = (size_t)ser_param_elements(param_of(training, i));
            status = queue->ops->zero(queue, training->gradient + training->offsets[i],
                                      elements * sizeof(float));
        }
    }
    return status;
}

int ser_training_apply(ser_training *training, const ser_step *step)
{
    ser_queue *queue = training->workspace->queue;
    if (queue->planning) {
        int status = run_update(training, step);
        return status == 0 ? fold_position(training) : status;
    }
    int status = clear_frozen(training);
    status =
        status == 0 ? queue->ops->zero(queue, training->update, sizeof *training->update) : status;
    status = status == 0 ? run_update(training, step) : status;
    status = status == 0 ? refresh(training) : status; /* harmless if nothing was changed */
    return status == 0 ? ser_training_clear(training) : status;
}

int ser_training_clear(ser_training *training)
{
    ser_queue *queue = training->workspace->queue;
    return queue->ops->zero(queue, training->gradient, training->count * sizeof(float));
}

/* Exchange the arrays piece by piece, through the memory of the activations: no pass is under way. */
static int swap_arrays(ser_training *training)
{
    ser_workspace *workspace = training->workspace;
    const ser_run least = {.batch = 1, .longest = ser_arch_min_samples(&training->net->arch)};
    /* a batch that did not fit has given the memory back */
    int status = workspace->arena.size == 0 ? ser_workspace_plan(workspace, &least) : 0;
    const size_t room = workspace->arena.size / sizeof(float);
    float *spare = workspace->arena.memory;
    for (size_t at = 0; at < training->count && status == 0; at += room) {
        const size_t n = training->count - at < room ? training->count - at : room;
        status = ser_training_copy(training, spare, training->w + at, n);
        status = status == 0
                     ? ser_training_copy(training, training->w + at, training->average + at, n)
                     : status;
        status =
            status == 0 ? ser_training_copy(training, training->average + at, spare, n) : status;
    }
    return status;
}

int ser_training_swap_average(ser_training *training)
{
    if (training->average == NULL) {
        return ser_fail(SER_ERR_UNSUPPORTED, "net: no moving average is kept");
    }
    int status = swap_arrays(training);
    return status == 0 ? ser_training_repack(training) : status;
}

/* --- State --- */

bool ser_training_is_trained(const ser_training *training, size_t parameter)
{
    return parameter < training->net->params.count && training->offsets[parameter] != SER_NOWHERE;
}

uint64_t ser_training_trained_count(const ser_training *training)
{
    return training->trained;
}

static float *array_of(const ser_training *training, enum ser_training_array array)
{
    switch (array) {
    case SER_TRAINING_WEIGHT: return training->w;
    case SER_TRAINING_MOMENT1: return training->m;
    case SER_TRAINING_MOMENT2: return training->v;
    case SER_TRAINING_AVERAGE: return training->average;
    }
    return NULL;
}

/* Where the parameter lies in the array, and how many values it has. */
static int locate(const ser_training *training, enum ser_training_array array, size_t parameter,
                  float **values, size_t *count)
{
    float *base = array_of(training, array);
    if (base == NULL || !ser_training_is_trained(training, parameter)) {
        return ser_fail(SER_ERR_INTERNAL, "net: parameter %zu has no array %d", parameter,
                        (int)array);
    }
    *values = base + training->offsets[parameter];
    *count = (size_t)ser_param_elements(param_of(training, parameter));
    return 0;
}

int ser_training_get(const ser_training *training, enum ser_training_array array, size_t parameter,
                     float *values)
{
    float *device = NULL;
    size_t count = 0;
    int status = locate(training, array, parameter, &device, &count);
    return status == 0 ? ser_net_download(training->net, values, device, count) : status;
}

int ser_training_set(ser_training *training, enum ser_training_array array, size_t parameter,
                     const float *values)
{
    float *device = NULL;
    size_t count = 0;
    int status = locate(training, array, parameter, &device, &count);
    return status == 0 ? ser_net_upload(training->net, device, values, count) : status;
}

uint64_t ser_training_updates(const ser_training *training)
{
    return training->updates;
}

int ser_training_resume(ser_training *training, uint64_t updates)
{
    training->updates = updates;
    int status = ser_training_clear(training);
    return status == 0 ? ser_training_repack(training) : status;
}

int ser_training_gradient(ser_training *training, size_t parameter, float *values)
{
    if (!ser_training_is_trained(training, parameter)) {
        return ser_fail(SER_ERR_INTERNAL, "net: parameter %zu is not trained", parameter);
    }
    int status =
        ser_net_download(training->net, values, training->gradient + training->offsets[parameter],
                         (size_t)ser_param_elements(param_of(training, parameter)));
    return status == 0 ? ser_training_permute(training->net, parameter, values, false) : status;
}

int ser_training_place(ser_training *training, size_t parameter, const float *values)
{
    if (!ser_training_is_trained(training, parameter)) {
        return ser_fail(SER_ERR_INTERNAL, "net: parameter %zu is not trained", parameter);
    }
    const size_t count = (size_t)ser_param_elements(param_of(training, parameter));
    float *flat = ser_mem_alloc_raw(count, sizeof *flat);
    int status = SER_ERR_MEMORY;
    if (flat != NULL) {
        memcpy(flat, values, count * sizeof *flat);
        status = ser_training_permute(training->net, parameter, flat, true);
    }
    if (status == 0) {
        status = ser_training_set(training, SER_TRAINING_WEIGHT, parameter, flat);
    }
    ser_mem_free(flat);
    return status == 0 ? ser_training_repack(training) : status;
}

uint64_t ser_training_memory(const ser_training *training)
{
    const ser_queue *queue = training->workspace->queue;
    const size_t branch = queue->branch != NULL ? queue->branch->scratch_size : 0;
    return training->memory + training->workspace->arena.size + queue->scratch_size + branch;
}
