/* SPDX-License-Identifier: MIT */
#include "net/workspace.h"

#include <string.h>

#include "base/fail.h"
#include "base/mem.h"

enum {
    ALIGNMENT = 256, /* what device memory has: the choice of an algorithm may depend on it */
};

static bool round_up(size_t size, size_t *rounded)
{
    size_t sum;
    if (!ser_add_size(size, ALIGNMENT - 1, &sum)) {
        return false;
    }
    *rounded = sum - sum % ALIGNMENT;
    return true;
}

/* Index of the first gap that is large enough, and where it starts; `end`: only behind everything. */
static int32_t find_gap(const ser_arena *arena, size_t size, bool end, size_t *start)
{
    int32_t i = 0;
    *start = arena->floor > ALIGNMENT ? arena->floor : ALIGNMENT; /* 0 would be NULL in planning */
    for (; i < arena->count; i++) {
        if (!end && arena->blocks[i].start >= *start && arena->blocks[i].start - *start >= size) {
            break;
        }
        *start = arena->blocks[i].end > *start ? arena->blocks[i].end : *start;
    }
    return i;
}

static int arena_take(ser_arena *arena, size_t size, bool keep, size_t *start)
{
    int32_t at = find_gap(arena, size, keep, start);
    ser_arena_block block = {.start = *start};
    if (!ser_add_size(*start, size, &block.end)) {
        return ser_fail(SER_ERR_MEMORY, "out of memory: a batch is larger than the address space");
    }
    if (keep) {
        arena->floor = block.end;
    } else if (arena->count == SER_ARENA_BLOCKS) {
        return ser_fail(SER_ERR_INTERNAL, "net: more than %d tensors are in use at once",
                        SER_ARENA_BLOCKS);
    } else {
        for (int32_t i = arena->count; i > at; i--) {
            arena->blocks[i] = arena->blocks[i - 1];
        }
        arena->blocks[at] = block;
        arena->count++;
    }
    arena->peak = block.end > arena->peak ? block.end : arena->peak;
    return 0;
}

static void arena_give(ser_arena *arena, size_t address)
{
    for (int32_t i = 0; i < arena->count; i++) {
        if (address >= arena->blocks[i].start && address < arena->blocks[i].end) {
            arena->count--;
            for (; i < arena->count; i++) {
                arena->blocks[i] = arena->blocks[i + 1];
            }
        }
    }
}

static uintptr_t arena_base(const ser_pass *pass)
{
    return pass->queue->planning ? 0 : (uintptr_t)pass->workspace->arena.memory;
}

static void *take_bytes(ser_pass *pass, size_t size, bool keep)
{
    ser_arena *arena = &pass->workspace->arena;
    size_t start;
    size_t rounded;
    if (pass->status != 0) {
        return NULL;
    }
    if (!round_up(size, &rounded)) {
        pass->status =
            ser_fail(SER_ERR_MEMORY, "out of memory: a batch is larger than the address space");
        return NULL;
    }
    pass->status = arena_take(arena, rounded, keep || arena->keep, &start);
    if (pass->status == 0 && !pass->queue->planning && start + rounded > arena->size) {
        pass->status = ser_fail(SER_ERR_INTERNAL, "net: a pass needs more memory than was planned");
    }
    return pass->status == 0 ? (void *)(arena_base(pass) + start) : NULL;
}

void *ser_pass_take_bytes(ser_pass *pass, size_t size)
{
    return take_bytes(pass, size, true);
}

/* What surrounds a tensor: zero rows before it and rows of anything behind it. */
typedef struct surroundings {
    int64_t front, back;
    bool keep;
    bool input; /* the host's image brings the zeros */
} surroundings;

static size_t element_size(int32_t type)
{
    return type == SER_BF16 ? 2 : 4;
}

static ser_tensor take(ser_pass *pass, int32_t type, int64_t rows, int64_t cols,
                       surroundings around)
{
    size_t row;
    size_t before;
    size_t body;
    size_t size;
    bool fits = rows >= 0 && cols >= 0 && ser_mul_size((size_t)cols, element_size(type), &row) &&
                ser_mul_size((size_t)around.front, row, &before) && round_up(before, &before) &&
                ser_mul_size((size_t)rows + (size_t)around.back, row, &body) &&
                ser_add_size(before, body, &size);
    if (!fits && pass->status == 0) {
        pass->status = ser_fail(SER_ERR_MEMORY,
                                "out of memory: a tensor of [%lld, %lld] exceeds the address space",
                                (long long)rows, (long long)cols);
    }
    char *block = take_bytes(pass, fits ? size : 0, around.keep);
    if (block == NULL) {
        return (ser_tensor){0};
    }
    if (before > 0 && !around.input && !pass->queue->planning) {
        pass->status = pass->queue->ops->zero(pass->queue, block, before);
    }
    return (ser_tensor){
        .data = (void *)((uintptr_t)block + before), .rows = rows, .cols = cols, .type = type};
}

ser_tensor ser_pass_take_as(ser_pass *pass, int32_t type, int64_t rows, int64_t cols)
{
    return take(pass, type, rows, cols, (surroundings){.back = SER_SLACK_ROWS});
}

ser_tensor ser_pass_take(ser_pass *pass, int64_t rows, int64_t cols)
{
    return ser_pass_take_as(pass, pass->net->type, rows, cols);
}

ser_tensor ser_pass_take_place(ser_pass *pass, int64_t rows, int64_t cols, int64_t front,
                               int64_t back)
{
    return take(pass, SER_F32, rows, cols,
                (surroundings){.front = front, .back = back, .keep = true, .input = true});
}

static ser_tensor take_level(ser_pass *pass, int32_t level, int64_t cols, bool keep)
{
    const ser_arch *arch = pass->arch;
    int64_t rows = pass->geometry.batch * pass->geometry.padded[level];
    surroundings around = {.back = SER_SLACK_ROWS, .keep = keep};
    if (level < arch->conv_count) {
        /* The last output row reads kernel - stride - padding rows beyond the matrix. */
        around.front = arch->conv_padding[level];
        around.back += arch->conv_kernel[level];
    }
    return take(pass, pass->net->type, rows, cols, around);
}

ser_tensor ser_pass_take_level(ser_pass *pass, int32_t level, int64_t cols)
{
    return take_level(pass, level, cols, false);
}

bool ser_pass_reaches(const ser_pass *pass, int32_t stage)
{
    return pass->tape != NULL && stage >= pass->tape->first;
}

ser_tensor ser_pass_save_as(ser_pass *pass, int32_t type, int32_t stage, int64_t rows, int64_t cols)
{
    return take(pass, type, rows, cols,
                (surroundings){.back = SER_SLACK_ROWS, .keep = ser_pass_reaches(pass, stage)});
}

ser_tensor ser_pass_save(ser_pass *pass, int32_t stage, int64_t rows, int64_t cols)
{
    return ser_pass_save_as(pass, pass->net->type, stage, rows, cols);
}

ser_tensor ser_pass_save_level(ser_pass *pass, int32_t stage, int32_t level, int64_t cols)
{
    return take_level(pass, level, cols, ser_pass_reaches(pass, stage));
}

ser_tensor ser_pass_take_output(ser_pass *pass, ser_tensor place, int32_t stage, int64_t rows,
                                int64_t cols)
{
    return place.data != NULL ? place : ser_pass_save_as(pass, SER_F32, stage, rows, cols);
}

void ser_pass_give(ser_pass *pass, ser_tensor tensor)
{
    if (tensor.data != NULL) {
        arena_give(&pass->workspace->arena, (uintptr_t)tensor.data - arena_base(pass));
    }
}

void ser_pass_hold(ser_pass *pass, ser_tensor tensor)
{
    if (tensor.data == NULL) {
        return;
    }
    if (pass->queue->branch == NULL) {
        ser_pass_give(pass, tensor);
    } else if (pass->held_count < SER_HELD_TENSORS) {
        pass->held[pass->held_count++] = tensor;
    } else if (pass->status == 0) {
        pass->status = ser_fail(SER_ERR_INTERNAL, "net: more than %d tensors wait for a join",
                                SER_HELD_TENSORS);
    }
}

void ser_pass_join(ser_pass *pass)
{
    ser_queue *queue = pass->queue;
    if (queue->branch != NULL && !queue->planning && pass->status == 0) {
        pass->status = queue->ops->join(queue);
    }
    while (pass->held_count > 0) {
        ser_pass_give(pass, pass->held[--pass->held_count]);
    }
}

void ser_pass_show(ser_pass *pass, ser_tensor *stage, ser_tensor tensor)
{
    if (pass->workspace->keep_stages) {
        *stage = tensor;
    }
}

static ser_rows rows_of(const ser_pass *pass, int32_t row, int64_t padded)
{
    int64_t batch = pass->geometry.batch;
    const int32_t *valid = pass->valid != NULL ? pass->valid + row * batch : NULL;
    return (ser_rows){.batch = batch, .padded = padded, .valid = valid};
}

ser_rows ser_pass_sample_rows(const ser_pass *pass)
{
    return rows_of(pass, 0, pass->geometry.samples);
}

ser_rows ser_pass_level_rows(const ser_pass *pass, int32_t level)
{
    return rows_of(pass, 1 + level, pass->geometry.padded[level]);
}

ser_rows ser_pass_frame_rows(const ser_pass *pass)
{
    return ser_pass_level_rows(pass, pass->arch->conv_count);
}

ser_rows ser_pass_clip_rows(const ser_pass *pass)
{
    ser_rows rows = rows_of(pass, pass->arch->conv_count + 2, pass->geometry.batch);
    rows.batch = 1; /* all clips as the rows of one */
    return rows;
}

void ser_pass_linear_to(ser_pass *pass, ser_tensor x, ser_rows rows, const ser_affine *layer,
                        int32_t activation, ser_tensor y)
{
    const ser_linear_args args = {
        .x = x,
        .rows = rows,
        .w = layer->w,
        .bias = layer->bias,
        .bias_bf16 = y.type == SER_BF16 ? layer->bias_bf16 : (ser_tensor){0},
        .activation = activation,
        .y = y,
    };
    if (pass->status == 0) {
        pass->status = ser_linear_fwd(pass->queue, &args);
    }
}

ser_tensor ser_pass_linear(ser_pass *pass, ser_tensor x, ser_rows rows, const ser_affine *layer,
                           int32_t activation)
{
    ser_tensor y = ser_pass_take_as(pass, x.type, x.rows, ser_weight_get_spec(layer->w)->rows);
    ser_pass_linear_to(pass, x, rows, layer, activation, y);
    return y;
}

void ser_pass_linear_backward(ser_pass *pass, ser_tensor x, ser_rows rows, const ser_affine *layer,
                              ser_tensor dy, ser_tensor dx)
{
    const ser_linear_args args = {
        .x = x,
        .rows = rows,
        .w = layer->w,
        .dy = dy,
        .dx = dx,
        .dw = layer->dw,
        .dbias = layer->dbias,
    };
    if (pass->status == 0) {
        pass->status = ser_linear_bwd(pass->queue, &args);
    }
}

void ser_pass_linear_backward_data(ser_pass *pass, ser_rows rows, const ser_affine *layer,
                                   ser_tensor dy, ser_tensor dx)
{
    ser_affine apart = *layer;
    apart.dw = (ser_tensor){0};
    apart.dbias = (ser_tensor){0};
    if (dx.rows > 0) {
        ser_pass_linear_backward(pass, (ser_tensor){0}, rows, &apart, dy, dx);
    }
}

void ser_pass_linear_backward_sums(ser_pass *pass, ser_tensor x, ser_rows rows,
                                   const ser_affine *layer, ser_tensor dy)
{
    ser_queue *queue = pass->queue;
    if (layer->dw.rows == 0 && layer->dbias.rows == 0) {
        return;
    }
    if (queue->branch != NULL) {
        if (pass->status == 0 && !queue->planning) {
            pass->status = queue->ops->fork(queue);
        }
        pass->queue = queue->branch;
    }
    ser_pass_linear_backward(pass, x, rows, layer, dy, (ser_tensor){0});
    pass->queue = queue;
}

void ser_pass_linear_backward_apart(ser_pass *pass, ser_tensor x, ser_rows rows,
                                    const ser_affine *layer, ser_tensor dy, ser_tensor dx)
{
    ser_pass_linear_backward_sums(pass, x, rows, layer, dy);
    ser_pass_linear_backward_data(pass, rows, layer, dy, dx);
}

ser_dropout ser_pass_dropout_key(const ser_pass *pass, float p, uint32_t op)
{
    return (ser_dropout){.p = p, .op = op, .step = pass->input.step};
}

void ser_pass_dropout(ser_pass *pass, ser_tensor x, ser_rows rows, ser_drop drop, ser_tensor y)
{
    const ser_dropout_args args = {
        .x = x,
        .rows = rows,
        .activation = drop.activation,
        .dropout = ser_pass_dropout_key(pass, drop.p, drop.op),
        .y = y,
    };
    bool changes = drop.activation != SER_ACT_NONE || drop.p > 0.0F || x.data != y.data;
    if (pass->status == 0 && changes) {
        pass->status = ser_dropout_fwd(pass->queue, &args);
    }
}

void ser_pass_dropout_backward_again(ser_pass *pass, ser_tensor x, ser_rows rows, ser_drop drop,
                                     ser_tensor dy, ser_tensor dx, ser_tensor y)
{
    const ser_dropout_args args = {
        .x = x,
        .rows = rows,
        .activation = drop.activation,
        .dropout = ser_pass_dropout_key(pass, drop.p, drop.op),
        .y = y,
        .dy = dy,
        .dx = dx,
    };
    if (pass->status == 0) {
        pass->status = ser_dropout_bwd(pass->queue, &args);
    }
}

void ser_pass_dropout_backward(ser_pass *pass, ser_tensor x, ser_rows rows, ser_drop drop,
                               ser_tensor dy, ser_tensor dx)
{
    bool changes = drop.activation != SER_ACT_NONE || drop.p > 0.0F || dy.data != dx.data;
    if (changes) {
        ser_pass_dropout_backward_again(pass, x, rows, drop, dy, dx, (ser_tensor){0});
    }
}

void ser_pass_add(ser_pass *pass, ser_tensor x, ser_tensor h, ser_rows rows)
{
    const ser_residual_norm_args args = {.x = x, .h = h, .rows = rows, .sum = x};
    if (pass->status == 0) {
        pass->status = ser_residual_norm_fwd(pass->queue, &args);
    }
}

void ser_pass_mask(ser_pass *pass, ser_tensor x, ser_rows rows, const int32_t *time,
                   int32_t time_spans, const int32_t *channel, int32_t channel_spans)
{
    const ser_span_mask_args args = {
        .x = x,
        .rows = rows,
        .time = time,
        .time_spans = time_spans,
        .channel = channel,
        .channel_spans = channel_spans,
    };
    if (pass->status == 0 && time_spans + channel_spans > 0) {
        pass->status = ser_span_mask(pass->queue, &args);
    }
}

int ser_workspace_create(const ser_net *net, int64_t max_batch, int64_t max_samples,
                         int32_t threads, bool keep_stages, ser_workspace **workspace)
{
    *workspace = NULL;
    ser_workspace *w = ser_mem_alloc(1, sizeof *w);
    if (w == NULL) {
        return SER_ERR_MEMORY;
    }
    w->net = net;
    w->keep_stages = keep_stages;
    w->arena.keep = keep_stages;
    int status = net->ops->queue_create(net->context, threads, &w->queue);
    if (status != 0) {
        w->queue = NULL;
        goto fail;
    }
    if (keep_stages) {
        w->stages.hidden = ser_mem_alloc((size_t)net->arch.layers + 1, sizeof *w->stages.hidden);
        w->stages.hidden_count = net->arch.layers + 1;
        if (w->stages.hidden == NULL) {
            status = SER_ERR_MEMORY;
            goto fail;
        }
    }
    const ser_run first = {.batch = max_batch, .longest = max_samples};
    status = ser_workspace_plan(w, &first);
    if (status != 0) {
        goto fail;
    }
    *workspace = w;
    return 0;

fail:
    ser_workspace_free(w);
    return status;
}

void ser_workspace_free(ser_workspace *workspace)
{
    if (workspace == NULL) {
        return;
    }
    ser_queue *queue = workspace->queue;
    if (queue != NULL) {
        queue->ops->sync(queue); /* a failed call may have left work that uses what goes now */
        ser_recordings_free(workspace);
        ser_results_free(workspace);
        ser_inputs_free(workspace);
        ser_device_memory_free(queue->ops, queue->context, &workspace->arena.memory);
        ser_device_memory_free(queue->ops, queue->context, &queue->scratch);
        queue->scratch_size = 0;
        queue->ops->queue_free(queue);
    }
    ser_mem_free(workspace->stages.hidden);
    ser_mem_free(workspace->valid);
    ser_mem_free(workspace);
}

/* The upper half of an f32. */
static void expand_bf16(const uint16_t *from, float *to, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(to + i, &bits, sizeof bits);
    }
}

static int download_bf16(ser_workspace *workspace, const void *device, size_t count, float *host)
{
    ser_queue *queue = workspace->queue;
    uint16_t *halves = ser_mem_alloc_raw(count, sizeof *halves);
    if (halves == NULL) {
        return SER_ERR_MEMORY;
    }
    int status = queue->ops->download(queue, halves, device, count * sizeof *halves);
    status = status == 0 ? queue->ops->sync(queue) : status;
    if (status == 0) {
        expand_bf16(halves, host, count);
    }
    ser_mem_free(halves);
    return status;
}

int ser_workspace_download(ser_workspace *workspace, const ser_tensor *tensor, int64_t first,
                           int64_t rows, float *host)
{
    ser_queue *queue = workspace->queue;
    if (tensor->data == NULL) {
        return ser_fail(SER_ERR_INTERNAL, "net: this stage was not kept");
    }
    const size_t count = (size_t)(rows * tensor->cols);
    const size_t before = (size_t)(first * tensor->cols) * element_size(tensor->type);
    const void *device = (const void *)((uintptr_t)tensor->data + before);
    if (tensor->type == SER_BF16) {
        return download_bf16(workspace, device, count, host);
    }
    int status = queue->ops->download(queue, host, device, count * sizeof(float));
    return status == 0 ? queue->ops->sync(queue) : status;
}
