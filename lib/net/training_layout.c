/* SPDX-License-Identifier: MIT */
/* Where each trained parameter lies in the flat arrays, and the network's views of them. */
#include "net/training_state.h"

#include "base/fail.h"
#include "base/mem.h"

enum { ALIGNMENT = 128 }; /* elements: 256 bytes where they are rounded to bf16 (workspace.c) */

static const ser_param *param_of(const ser_training *training, size_t i)
{
    return &training->net->params.list[i];
}

/* Parameters that share one matrix or vector: q, k and v, which stand two apart in the list. */
static size_t part_count(const ser_param *param)
{
    return param->role == SER_PARAM_Q_WEIGHT || param->role == SER_PARAM_Q_BIAS ? 3 : 1;
}

static bool is_follower(const ser_param *param)
{
    return param->role == SER_PARAM_K_WEIGHT || param->role == SER_PARAM_K_BIAS ||
           param->role == SER_PARAM_V_WEIGHT || param->role == SER_PARAM_V_BIAS;
}

static bool group_is_trained(const ser_training *training, size_t leader)
{
    bool trained = false;
    for (size_t part = 0; part < part_count(param_of(training, leader)); part++) {
        trained = trained || training->options.rates[leader + 2 * part] > 0.0F;
    }
    return trained;
}

/* Give every trained group its place; ranges follow each other without gaps. */
static void lay_out(ser_training *training, ser_adamw_range *ranges)
{
    const ser_training_options *options = &training->options;
    size_t end = 0;
    int32_t count = 0;
    for (size_t i = 0; i < training->net->params.count; i++) {
        const ser_param *param = param_of(training, i);
        if (is_follower(param)) {
            continue; /* placed with its q */
        }
        const bool trained = group_is_trained(training, i);
        const size_t elements = (size_t)ser_param_elements(param);
        for (size_t part = 0; part < part_count(param); part++) {
            const size_t at = i + 2 * part;
            training->offsets[at] = trained ? end : SER_NOWHERE;
            if (trained) {
                ranges[count++] = (ser_adamw_range){.begin = (int64_t)end,
                                                    .rate = options->rates[at],
                                                    .decay = options->decays[at]};
                training->trained += options->rates[at] > 0.0F ? elements : 0;
                end += elements;
            }
        }
        end = (end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    for (int32_t r = 0; r < count; r++) {
        ranges[r].end = r + 1 < count ? ranges[r + 1].begin : (int64_t)end;
    }
    training->count = end;
    training->range_count = count;
}

/* The lowest stage with something trained. */
static int32_t first_stage(const ser_training *training)
{
    int32_t first = INT32_MAX;
    for (size_t i = 0; i < training->net->params.count; i++) {
        if (training->offsets[i] != SER_NOWHERE) {
            int32_t stage = ser_stage_of(&training->net->arch, param_of(training, i));
            first = stage < first ? stage : first;
        }
    }
    return first;
}

static bool trains_position(const ser_training *training)
{
    for (size_t i = 0; i < training->net->params.count; i++) {
        const int32_t role = param_of(training, i)->role;
        if ((role == SER_PARAM_POSITION_G || role == SER_PARAM_POSITION_V) &&
            training->offsets[i] != SER_NOWHERE) {
            return true;
        }
    }
    return false;
}

int ser_training_lay_out(ser_training *training, ser_adamw_range **ranges)
{
    ser_net *net = training->net;
    *ranges = ser_mem_alloc(net->params.count, sizeof **ranges);
    if (*ranges == NULL) {
        return SER_ERR_MEMORY;
    }
    for (size_t i = 0; i < net->params.count; i++) {
        if (ser_net_gradient_of(net, param_of(training, i)) == NULL &&
            training->options.rates[i] > 0.0F) {
            return ser_fail(SER_ERR_ARGUMENT, "%s is measured, not trained",
                            param_of(training, i)->name);
        }
    }
    lay_out(training, *ranges);
    if (training->count == 0) {
        return ser_fail(SER_ERR_ARGUMENT, "nothing is left to train: every parameter is frozen");
    }
    training->folds_position = trains_position(training);
    training->tape.first = first_stage(training);
    return 0;
}

/* Where the backend can, matrices and rounded biases are read where the optimiser writes them. */
static void lend(ser_training *training)
{
    ser_net *net = training->net;
    uint16_t *rounded = training->rounded;
    for (size_t i = 0; i < net->params.count && net->ops->weight_lend != NULL; i++) {
        const size_t offset = training->offsets[i];
        if (offset != SER_NOWHERE && net->slots[i].weight != NULL && net->slots[i].part == 0) {
            net->ops->weight_lend(net->slots[i].weight, training->w + offset,
                                  rounded != NULL ? rounded + offset : NULL);
        }
    }
    if (rounded != NULL) {
        ser_net_lend_biases(net, training->w, training->count, rounded);
    }
}

/* The reverse; the network has the trained values. */
static int take_back(ser_training *training)
{
    ser_net *net = training->net;
    ser_queue *queue = training->workspace->queue;
    int status = 0;
    for (size_t i = 0; i < net->params.count && net->ops->weight_lend != NULL; i++) {
        const size_t offset = training->offsets[i];
        if (offset != SER_NOWHERE && net->slots[i].weight != NULL && net->slots[i].part == 0) {
            net->ops->weight_lend(net->slots[i].weight, NULL, NULL);
            const int set = net->ops->weight_set(queue, net->slots[i].weight, training->w + offset);
            status = status == 0 ? set : status;
        }
    }
    ser_net_take_biases(net);
    const int refreshed = ser_net_refresh_biases(net, queue);
    return status == 0 ? refreshed : status;
}

void ser_training_tie(ser_training *training)
{
    ser_net *net = training->net;
    for (size_t i = 0; i < net->params.count; i++) {
        const ser_param *param = param_of(training, i);
        const size_t offset = training->offsets[i];
        if (offset == SER_NOWHERE || is_follower(param)) {
            continue;
        }
        const int64_t parts = (int64_t)part_count(param);
        const int64_t elements = parts * ser_param_elements(param);
        const int64_t rows = param->rank > 1 ? parts * param->shape[0] : 1;
        *ser_net_gradient_of(net, param) =
            ser_tensor_f32(training->gradient + offset, rows, elements / rows);
        if (net->slots[i].weight == NULL) {
            ser_net_vector_of(net, param)->data = training->w + offset;
        }
    }
    for (size_t i = 0; i < net->params.count; i++) {
        if (training->offsets[i] != SER_NOWHERE && net->slots[i].weight == NULL) {
            net->slots[i].vector.data = training->w + training->offsets[i];
        }
    }
    lend(training);
    if (training->folds_position) {
        const int64_t width = net->arch.hidden_size / net->arch.position_groups;
        net->position.dw = ser_tensor_f32(training->position_dw, net->arch.hidden_size,
                                          net->arch.position_kernel * width);
    }
}

int ser_training_untie(ser_training *training)
{
    ser_net *net = training->net;
    int status = 0;
    for (size_t i = 0; i < net->params.count; i++) {
        const ser_param *param = param_of(training, i);
        if (training->offsets[i] == SER_NOWHERE) {
            continue;
        }
        *ser_net_gradient_of(net, param) = (ser_tensor){0};
        if (net->slots[i].weight != NULL) {
            continue;
        }
        const size_t elements = (size_t)ser_param_elements(param);
        float *home = training->homes[i];
        if (!is_follower(param)) {
            ser_net_vector_of(net, param)->data = home;
        }
        net->slots[i].vector.data = home;
        int moved = ser_training_copy(training, home, training->w + training->offsets[i], elements);
        status = status == 0 ? moved : status;
    }
    net->position.dw = (ser_tensor){0};
    const int taken = take_back(training);
    status = status == 0 ? taken : status;
    ser_queue *queue = training->workspace->queue;
    const int waited = queue->ops->sync(queue);
    return status == 0 ? waited : status;
}
