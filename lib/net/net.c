/* SPDX-License-Identifier: MIT */
/* The network as a whole: its life, and the pipeline. */
#include "net/net.h"

#include "base/fail.h"
#include "base/mem.h"
#include "net/workspace.h"

void ser_device_memory_free(const ser_ops *ops, ser_context *context, void **memory)
{
    if (*memory != NULL) {
        ops->free(context, *memory);
    }
    *memory = NULL;
}

static int create_transfer(ser_net *net, int32_t threads)
{
    ser_transfer *t = ser_mem_alloc(1, sizeof *t);
    if (t == NULL) {
        return SER_ERR_MEMORY;
    }
    if (pthread_mutex_init(&t->lock, NULL) != 0) {
        ser_mem_free(t);
        return ser_fail(SER_ERR_MEMORY, "out of memory: no lock could be made");
    }
    net->transfer = t;
    int status = net->ops->queue_create(net->context, threads, &t->queue);
    if (status != 0) {
        t->queue = NULL;
    }
    return status;
}

static void free_transfer(ser_net *net)
{
    ser_transfer *t = net->transfer;
    if (t == NULL) {
        return;
    }
    ser_net_staging_free(net);
    if (t->queue != NULL) {
        net->ops->queue_free(t->queue);
    }
    pthread_mutex_destroy(&t->lock);
    ser_mem_free(t);
}

/* What the ops cannot do with an otherwise valid arch. */
static int check_arch(const ser_arch *arch)
{
    if (arch->conv_count < 1) {
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "features.conv_dim: at least one convolution is needed");
    }
    if (arch->features == SER_FEATURES_CONV && arch->conv_padding[0] != 0) {
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "features.conv_padding: the convolution on the waveform cannot be padded");
    }
    if (arch->features == SER_FEATURES_CONV && arch->conv_norm == SER_NORM_GROUP &&
        arch->conv_kernel[0] > SER_MAX_WAVE_KERNEL) {
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "features.conv_kernel: the first is %d, limit %d with group norm",
                        arch->conv_kernel[0], SER_MAX_WAVE_KERNEL);
    }
    if (arch->features == SER_FEATURES_LOGMEL && arch->conv_norm != SER_NORM_LAYER) {
        return ser_fail(SER_ERR_UNSUPPORTED, "features.norm: log-mel features know \"layer\" only");
    }
    return 0;
}

int ser_net_create(const ser_ops *ops, ser_context *context, int32_t threads, const ser_arch *arch,
                   int32_t type, ser_net **net)
{
    *net = NULL;
    int status = check_arch(arch);
    if (status == 0 && type == SER_BF16 && !ops->bf16) {
        status = ser_fail(SER_ERR_INTERNAL, "net: %s has no bf16", ops->name);
    }
    if (status != 0) {
        return status;
    }
    ser_net *n = ser_mem_alloc(1, sizeof *n);
    if (n == NULL) {
        return SER_ERR_MEMORY;
    }
    n->ops = ops;
    n->context = context;
    n->arch = *arch;
    n->type = type;
    status = ser_params_plan(arch, &n->params);
    if (status == 0) {
        n->slots = ser_mem_alloc(n->params.count, sizeof *n->slots);
        n->blocks = ser_mem_alloc((size_t)arch->layers, sizeof *n->blocks);
        status =
            n->slots != NULL && n->blocks != NULL ? create_transfer(n, threads) : SER_ERR_MEMORY;
    }
    if (status == 0) {
        status = ser_net_place(n);
    }
    if (status == 0) {
        status = ser_net_place_derived(n);
    }
    if (status != 0) {
        ser_net_free(n);
        return status;
    }
    *net = n;
    return 0;
}

void ser_net_free(ser_net *net)
{
    if (net == NULL) {
        return;
    }
    ser_net_release_weights(net);
    free_transfer(net);
    ser_mem_free(net->blocks);
    ser_mem_free(net->slots);
    ser_params_clear(&net->params);
    ser_mem_free(net);
}

const ser_arch *ser_net_arch(const ser_net *net)
{
    return &net->arch;
}

const ser_params *ser_net_params(const ser_net *net)
{
    return &net->params;
}

int32_t ser_net_type(const ser_net *net)
{
    return net->type;
}

static void backward(ser_pass *pass)
{
    ser_tensor gradient = ser_classifier_backward(pass, pass->dlogits);
    gradient = ser_pooling_backward(pass, gradient);
    if (ser_pass_reaches(pass, ser_stage_end(pass->arch))) {
        gradient = ser_transformer_backward(pass, gradient);
    }
    if (ser_pass_reaches(pass, pass->arch->conv_count - 1)) {
        ser_features_backward(pass, gradient);
    }
    ser_pass_join(pass);
}

ser_pass ser_pass_of(ser_workspace *workspace, const ser_run *run)
{
    ser_pass pass = {.workspace = workspace,
                     .net = workspace->net,
                     .arch = &workspace->net->arch,
                     .queue = workspace->queue,
                     .run = run,
                     .tape = run->tape};
    ser_geometry_plan(pass.arch, run->batch, run->longest, &pass.geometry);
    return pass;
}

int ser_workspace_run(ser_workspace *workspace, const ser_run *run)
{
    ser_pass pass = ser_pass_of(workspace, run);
    ser_stages *stages = &workspace->stages;
    ser_pass_begin(&pass);
    ser_tensor x = ser_features_forward(&pass);
    stages->rows = ser_pass_frame_rows(&pass);
    stages->outputs.padded = stages->rows.padded;
    stages->valid_host = workspace->valid + (pass.arch->conv_count + 1) * run->batch;
    if (run->features_only) {
        stages->features = x;
        return pass.status;
    }
    x = ser_transformer_forward(&pass, x);
    if (pass.arch->classifier_count > 0) {
        x = ser_pooling_forward(&pass, x);
        ser_classifier_forward(&pass, x);
    }
    if (run->tape != NULL) {
        backward(&pass);
    }
    if (run->update != NULL && pass.status == 0) {
        pass.status = ser_training_apply(run->update, pass.input.step);
    }
    return pass.status;
}

static int reserve_valid(ser_workspace *workspace, int64_t batch)
{
    size_t count = ((size_t)workspace->net->arch.conv_count + 2) * (size_t)batch + 1;
    if (count <= workspace->valid_count) {
        return 0;
    }
    int32_t *valid = ser_mem_alloc(count, sizeof *valid);
    if (valid == NULL) {
        return SER_ERR_MEMORY;
    }
    ser_mem_free(workspace->valid);
    workspace->valid = valid;
    workspace->valid_count = count;
    return 0;
}

static int reserve_arena(ser_workspace *workspace)
{
    const ser_net *net = workspace->net;
    ser_arena *arena = &workspace->arena;
    if (arena->peak <= arena->size) {
        return 0;
    }
    int status = net->ops->sync(workspace->queue); /* earlier work may still use the old one */
    if (status != 0) {
        return status;
    }
    ser_recordings_free(workspace);
    ser_device_memory_free(net->ops, net->context, &arena->memory);
    arena->size = 0;
    status = net->ops->alloc(net->context, arena->peak, &arena->memory);
    if (status != 0) {
        arena->memory = NULL;
        return status;
    }
    arena->size = arena->peak;
    return 0;
}

static void release_scratch(ser_queue *queue, size_t planned)
{
    if (queue != NULL) {
        ser_device_memory_free(queue->ops, queue->context, &queue->scratch);
        queue->scratch_size = 0;
        queue->planned = planned;
    }
}

typedef struct scratch_sizes {
    size_t queue, branch;
} scratch_sizes;

static scratch_sizes sizes_of(const ser_queue *queue)
{
    return (scratch_sizes){.queue = queue->scratch_size,
                           .branch = queue->branch != NULL ? queue->branch->scratch_size : 0};
}

/* A batch that does not fit may have taken what a smaller one needs. The scratch that was there
 * before, for other work of the queue too, comes back with the next plan. */
static void give_back(ser_workspace *workspace, scratch_sizes before)
{
    ser_queue *queue = workspace->queue;
    queue->ops->sync(queue); /* earlier work may still use what goes now */
    ser_recordings_free(workspace);
    ser_inputs_free(workspace);
    ser_device_memory_free(queue->ops, queue->context, &workspace->arena.memory);
    workspace->arena.size = 0;
    release_scratch(queue, before.queue);
    release_scratch(queue->branch, before.branch);
}

int ser_workspace_plan(ser_workspace *workspace, const ser_run *run)
{
    const bool prediction = run->input == NULL && run->tape == NULL && !run->features_only;
    const int32_t images = run->input != NULL || run->in_turn ? 2 : 1;
    if (prediction && workspace->batch == run->batch && workspace->longest == run->longest) {
        return ser_inputs_reserve(workspace, images);
    }
    workspace->batch = 0;
    int status = reserve_valid(workspace, run->batch);
    if (status != 0) {
        return status;
    }
    bool moved = false;
    const scratch_sizes scratch = sizes_of(workspace->queue);
    ser_queue_plan(workspace->queue);
    status = ser_workspace_run(workspace, run);
    int reserved = ser_queue_reserve(workspace->queue, &moved); /* also ends the planning */
    if (moved) {
        ser_recordings_free(workspace);
    }
    status = status == 0 ? reserved : status;
    status = status == 0 ? reserve_arena(workspace) : status;
    status = status == 0 ? ser_inputs_reserve(workspace, images) : status;
    if (status == 0 && prediction) {
        workspace->batch = run->batch;
        workspace->longest = run->longest;
    }
    if (status == SER_ERR_MEMORY) {
        give_back(workspace, scratch);
    }
    return status;
}

static int check_clips(const ser_net *net, int64_t batch, const int64_t *counts, int64_t *longest)
{
    if (!net->finished) {
        return ser_fail(SER_ERR_INTERNAL, "net: forward before finish");
    }
    if (batch < 1) {
        return ser_fail(SER_ERR_INTERNAL, "net: a batch of %lld clips", (long long)batch);
    }
    int64_t least = ser_arch_min_samples(&net->arch);
    *longest = 0;
    for (int64_t b = 0; b < batch; b++) {
        if (counts[b] < least || counts[b] > INT32_MAX) {
            return ser_fail(SER_ERR_INTERNAL, "net: clip %lld has %lld samples, not %lld..%d",
                            (long long)b, (long long)counts[b], (long long)least, INT32_MAX);
        }
        *longest = counts[b] > *longest ? counts[b] : *longest;
    }
    return 0;
}

int ser_net_forward(const ser_net *net, ser_workspace *workspace, int64_t batch,
                    const float *const *samples, const int64_t *counts, const ser_stages **stages)
{
    ser_run run = {.batch = batch, .samples = samples, .counts = counts};
    int status = check_clips(net, batch, counts, &run.longest);
    if (status == 0) {
        run.longest = ser_workspace_rounded(workspace, run.longest);
        status = ser_workspace_predict(workspace, &run);
    }
    if (status == 0) {
        *stages = &workspace->stages;
    }
    return status;
}

int ser_net_prepare(const ser_net *net, ser_workspace *workspace, const ser_clips *clips,
                    bool alone)
{
    ser_run *run = &workspace->prepared;
    *run = (ser_run){
        .batch = clips->count, .counts = clips->samples, .clips = clips, .in_turn = !alone};
    int status = check_clips(net, clips->count, clips->samples, &run->longest);
    if (status == 0) {
        run->longest = ser_workspace_rounded(workspace, run->longest);
        status = ser_workspace_prepare(workspace, run);
    }
    run->clips = NULL; /* they are written */
    run->counts = NULL;
    run->batch = status == 0 ? run->batch : 0;
    return status;
}

int ser_net_launch(ser_workspace *workspace, ser_outputs *outputs)
{
    ser_run *run = &workspace->prepared;
    if (run->batch == 0) {
        return ser_fail(SER_ERR_INTERNAL, "net: launch before prepare");
    }
    int status = ser_workspace_launch(workspace, run);
    *outputs = workspace->stages.outputs;
    run->batch = 0;
    return status;
}

int ser_net_wait(ser_workspace *workspace)
{
    return workspace->queue->ops->sync(workspace->queue);
}
