/* SPDX-License-Identifier: MIT */
/* The checked front of the table: what every op demands of its arguments, verified once for all
 * backends. */
#include "ops/ops.h"

#include "base/fail.h"

/* One op's arguments under examination; the first complaint stays in `status`, later checks are
 * skipped. */
typedef struct checker {
    const ser_queue *queue;
    const char *op;
    int status;
} checker;

static checker check_begin(const ser_queue *queue, const char *op, const void *args)
{
    checker c = {.queue = queue, .op = op};
    if (args == NULL) {
        c.status = ser_fail(SER_ERR_INTERNAL, "%s: no arguments", op);
    }
    return c;
}

static size_t element_size(const ser_tensor *t)
{
    return t->type == SER_BF16 ? 2 : 4;
}

/* While planning, memory is not there yet: a shape alone makes a tensor present. */
static bool present(const checker *c, const ser_tensor *t)
{
    return t->data != NULL || (c->queue->planning && t->rows > 0);
}

static void check_that(checker *c, bool holds, const char *what)
{
    if (c->status == 0 && !holds) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s", c->op, what);
    }
}

static void check_range(checker *c, const char *name, int64_t value, int64_t least)
{
    if (c->status == 0 && value < least) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is %lld, at least %lld is needed", c->op,
                             name, (long long)value, (long long)least);
    }
}

static void check_equal(checker *c, const char *name, int64_t value, int64_t wanted)
{
    if (c->status == 0 && value != wanted) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is %lld, not %lld", c->op, name,
                             (long long)value, (long long)wanted);
    }
}

static void check_optional(checker *c, const char *name, const ser_tensor *t, int64_t rows,
                           int64_t cols)
{
    if (c->status != 0 || !present(c, t)) {
        return;
    }
    if (t->rows != rows || t->cols != cols) {
        c->status =
            ser_fail(SER_ERR_INTERNAL, "%s: %s is [%lld, %lld], not [%lld, %lld]", c->op, name,
                     (long long)t->rows, (long long)t->cols, (long long)rows, (long long)cols);
    } else if (t->type != SER_F32 && t->type != SER_BF16) {
        c->status =
            ser_fail(SER_ERR_INTERNAL, "%s: %s has the unknown type %d", c->op, name, t->type);
    }
}

static void check_tensor(checker *c, const char *name, const ser_tensor *t, int64_t rows,
                         int64_t cols)
{
    if (c->status == 0 && !present(c, t)) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is absent", c->op, name);
    }
    check_range(c, name, rows, 1);
    check_range(c, name, cols, 1);
    check_optional(c, name, t, rows, cols);
}

/* Vectors of parameters and samples are f32 in every precision. */
static void check_f32(checker *c, const char *name, const ser_tensor *t)
{
    if (c->status == 0 && present(c, t) && t->type != SER_F32) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is not f32", c->op, name);
    }
}

static void check_vector(checker *c, const char *name, const ser_tensor *t, int64_t cols)
{
    check_tensor(c, name, t, 1, cols);
    check_f32(c, name, t);
}

static void check_optional_vector(checker *c, const char *name, const ser_tensor *t, int64_t cols)
{
    check_optional(c, name, t, 1, cols);
    check_f32(c, name, t);
}

static void check_weight(checker *c, const char *name, const ser_weight *weight, int64_t rows,
                         int64_t cols, int64_t groups)
{
    if (c->status != 0) {
        return;
    }
    if (weight == NULL) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is absent", c->op, name);
        return;
    }
    const ser_weight_spec *spec = ser_weight_get_spec(weight);
    if (spec->rows != rows || spec->cols != cols || spec->groups != groups) {
        c->status =
            ser_fail(SER_ERR_INTERNAL, "%s: %s is %lld of [%lld, %lld], not %lld of [%lld, %lld]",
                     c->op, name, (long long)spec->groups, (long long)spec->rows,
                     (long long)spec->cols, (long long)groups, (long long)rows, (long long)cols);
    }
}

/* Number of rows of a [batch * padded, C] matrix; 0 after a complaint. */
static int64_t check_rows(checker *c, const char *name, const ser_rows *rows)
{
    int64_t product = 0;
    check_range(c, name, rows->batch, 1);
    check_range(c, name, rows->padded, 1);
    check_that(c, rows->valid != NULL || c->queue->planning, "the valid lengths are absent");
    check_that(c, !__builtin_mul_overflow(rows->batch, rows->padded, &product),
               "batch * padded is out of range");
    return c->status == 0 ? product : 0;
}

static void check_apart(checker *c, const char *what, const ser_tensor *a, const ser_tensor *b)
{
    if (c->status != 0 || a->data == NULL || b->data == NULL) {
        return;
    }
    uintptr_t a_start = (uintptr_t)a->data;
    uintptr_t b_start = (uintptr_t)b->data;
    uintptr_t a_end = a_start + (uintptr_t)(a->rows * a->cols) * element_size(a);
    uintptr_t b_end = b_start + (uintptr_t)(b->rows * b->cols) * element_size(b);
    check_that(c, a_end <= b_start || b_end <= a_start, what);
}

/* Whether the op is to run now. While planning it only records its need. */
static bool ready(ser_queue *queue, enum ser_op op, const void *args, checker *c)
{
    if (c->status != 0) {
        return false;
    }
    size_t need = queue->ops->scratch(queue, op, args);
    if (queue->planning) {
        queue->planned = need > queue->planned ? need : queue->planned;
        return false;
    }
    if (need > queue->scratch_size) {
        c->status =
            ser_fail(SER_ERR_INTERNAL, "%s: %zu bytes of scratch are needed, %zu were planned",
                     c->op, need, queue->scratch_size);
        return false;
    }
    return true;
}

int ser_log_mel_fwd(ser_queue *queue, const ser_log_mel_args *args)
{
    checker c = check_begin(queue, "log_mel", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t bins = args->y.cols;
    check_range(&c, "frame", args->frame, 1);
    check_range(&c, "hop", args->hop, 1);
    check_tensor(&c, "pcm", &args->pcm, check_rows(&c, "rows_in", &args->rows_in), 1);
    check_f32(&c, "pcm", &args->pcm);
    check_tensor(&c, "y", &args->y, check_rows(&c, "rows_out", &args->rows_out), bins);
    check_equal(&c, "rows_out.batch", args->rows_out.batch, args->rows_in.batch);
    check_that(&c, args->mel != NULL && args->dft != NULL, "dft or mel is absent");
    if (c.status == 0) {
        int64_t freqs = ser_weight_get_spec(args->mel)->cols;
        check_weight(&c, "dft", args->dft, 2 * freqs, args->frame, 1);
        check_weight(&c, "mel", args->mel, bins, freqs, 1);
    }
    check_vector(&c, "mean", &args->mean, bins);
    check_vector(&c, "std", &args->std, bins);
    check_apart(&c, "pcm and y overlap", &args->pcm, &args->y);
    return ready(queue, SER_OP_LOG_MEL, args, &c) ? queue->ops->log_mel_fwd(queue, args) : c.status;
}

/* gamma and beta are there exactly when the norm wants them. */
static void check_conv_norm(checker *c, int32_t norm, bool allowed, const ser_tensor *gamma,
                            const ser_tensor *beta, int64_t channels)
{
    check_that(c, allowed, "this norm is not for this op");
    if (norm != SER_CONV_NORM_NONE) {
        check_vector(c, "gamma", gamma, channels);
        check_vector(c, "beta", beta, channels);
    } else {
        check_that(c, !present(c, gamma) && !present(c, beta), "gamma or beta without a norm");
    }
}

/* One matrix at every level: no clip has rows of its own that its output does not cover. */
static void check_geometry(checker *c, const ser_rows *in, const ser_rows *out, int32_t kernel,
                           int32_t stride)
{
    check_range(c, "kernel", kernel, 1);
    check_range(c, "stride", stride, 1);
    check_equal(c, "rows_out.batch", out->batch, in->batch);
    check_equal(c, "rows_in.padded", in->padded, out->padded * stride);
}

int ser_wave_conv_fwd(ser_queue *queue, const ser_wave_conv_args *args)
{
    checker c = check_begin(queue, "wave_conv", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t channels = args->y.cols;
    check_tensor(&c, "pcm", &args->pcm, check_rows(&c, "rows_in", &args->rows_in), 1);
    check_f32(&c, "pcm", &args->pcm);
    check_tensor(&c, "y", &args->y, check_rows(&c, "rows_out", &args->rows_out), channels);
    check_geometry(&c, &args->rows_in, &args->rows_out, args->kernel, args->stride);
    check_tensor(&c, "w", &args->w, channels, args->kernel);
    check_f32(&c, "w", &args->w);
    check_that(&c, args->norm != SER_CONV_NORM_CLIP || args->kernel <= SER_MAX_WAVE_KERNEL,
               "kernel is too long for the group norm");
    check_optional_vector(&c, "bias", &args->bias, channels);
    bool allowed = args->norm == SER_CONV_NORM_NONE || args->norm == SER_CONV_NORM_CLIP ||
                   args->norm == SER_CONV_NORM_LAYER;
    check_conv_norm(&c, args->norm, allowed, &args->gamma, &args->beta, channels);
    check_apart(&c, "pcm and y overlap", &args->pcm, &args->y);
    return ready(queue, SER_OP_WAVE_CONV, args, &c) ? queue->ops->wave_conv_fwd(queue, args)
                                                    : c.status;
}

int ser_conv_fwd(ser_queue *queue, const ser_conv_args *args)
{
    checker c = check_begin(queue, "conv", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t channels = args->y.cols;
    check_tensor(&c, "x", &args->x, check_rows(&c, "rows_in", &args->rows_in), args->x.cols);
    check_tensor(&c, "y", &args->y, check_rows(&c, "rows_out", &args->rows_out), channels);
    check_geometry(&c, &args->rows_in, &args->rows_out, args->kernel, args->stride);
    check_range(&c, "padding", args->padding, 0);
    check_weight(&c, "w", args->w, channels, args->kernel * args->x.cols, 1);
    check_optional_vector(&c, "bias", &args->bias, channels);
    bool allowed = args->norm == SER_CONV_NORM_NONE || args->norm == SER_CONV_NORM_LAYER;
    check_conv_norm(&c, args->norm, allowed, &args->gamma, &args->beta, channels);
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    return ready(queue, SER_OP_CONV, args, &c) ? queue->ops->conv_fwd(queue, args) : c.status;
}

int ser_linear_fwd(ser_queue *queue, const ser_linear_args *args)
{
    checker c = check_begin(queue, "linear", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    check_tensor(&c, "x", &args->x, rows, args->x.cols);
    check_tensor(&c, "y", &args->y, rows, args->y.cols);
    check_weight(&c, "w", args->w, args->y.cols, args->x.cols, 1);
    check_optional_vector(&c, "bias", &args->bias, args->y.cols);
    check_that(&c, args->activation >= SER_ACT_NONE && args->activation <= SER_ACT_TANH,
               "unknown activation");
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    return ready(queue, SER_OP_LINEAR, args, &c) ? queue->ops->linear_fwd(queue, args) : c.status;
}

int ser_pos_conv_fwd(ser_queue *queue, const ser_pos_conv_args *args)
{
    checker c = check_begin(queue, "pos_conv", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    int64_t channels = args->x.cols;
    check_range(&c, "kernel", args->kernel, 1);
    check_range(&c, "groups", args->groups, 1);
    check_tensor(&c, "x", &args->x, rows, channels);
    check_tensor(&c, "y", &args->y, rows, channels);
    check_vector(&c, "bias", &args->bias, channels);
    if (c.status == 0) {
        int64_t width = channels / args->groups;
        check_that(&c, width * args->groups == channels, "groups do not divide the channels");
        check_weight(&c, "w", args->w, width, args->kernel * width, args->groups);
    }
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    return ready(queue, SER_OP_POS_CONV, args, &c) ? queue->ops->pos_conv_fwd(queue, args)
                                                   : c.status;
}

int ser_residual_norm_fwd(ser_queue *queue, const ser_residual_norm_args *args)
{
    checker c = check_begin(queue, "residual_norm", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    int64_t channels = args->x.cols;
    check_tensor(&c, "x", &args->x, rows, channels);
    check_optional(&c, "h", &args->h, rows, channels);
    check_optional(&c, "sum", &args->sum, rows, channels);
    check_optional(&c, "y", &args->y, rows, channels);
    bool normed = present(&c, &args->y);
    check_that(&c, normed || present(&c, &args->sum), "neither sum nor y is asked for");
    if (normed) {
        check_vector(&c, "gamma", &args->gamma, channels);
        check_vector(&c, "beta", &args->beta, channels);
        check_that(&c, args->eps >= 0.0F, "eps is negative");
        check_apart(&c, "sum and y overlap", &args->sum, &args->y);
    }
    return ready(queue, SER_OP_RESIDUAL_NORM, args, &c) ? queue->ops->residual_norm_fwd(queue, args)
                                                        : c.status;
}

int ser_attention_fwd(ser_queue *queue, const ser_attention_args *args)
{
    checker c = check_begin(queue, "attention", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    int64_t channels = args->y.cols;
    check_range(&c, "heads", args->heads, 1);
    check_tensor(&c, "qkv", &args->qkv, rows, 3 * channels);
    check_tensor(&c, "y", &args->y, rows, channels);
    check_that(&c, c.status != 0 || channels % args->heads == 0,
               "heads do not divide the channels");
    check_that(&c, args->scale > 0.0F, "scale is not positive");
    check_apart(&c, "qkv and y overlap", &args->qkv, &args->y);
    return ready(queue, SER_OP_ATTENTION, args, &c) ? queue->ops->attention_fwd(queue, args)
                                                    : c.status;
}

int ser_layer_mix_fwd(ser_queue *queue, const ser_layer_mix_args *args)
{
    checker c = check_begin(queue, "layer_mix", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    check_tensor(&c, "x", &args->x, rows, args->x.cols);
    check_tensor(&c, "y", &args->y, rows, args->x.cols);
    check_vector(&c, "w", &args->w, args->w.cols);
    check_that(&c, args->index >= 0 && args->index < args->w.cols, "no weight has this index");
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    return ready(queue, SER_OP_LAYER_MIX, args, &c) ? queue->ops->layer_mix_fwd(queue, args)
                                                    : c.status;
}

int ser_attn_pool_fwd(ser_queue *queue, const ser_attn_pool_args *args)
{
    checker c = check_begin(queue, "attn_pool", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    check_tensor(&c, "x", &args->x, rows, args->x.cols);
    check_tensor(&c, "alpha", &args->alpha, rows, 1);
    check_f32(&c, "alpha", &args->alpha);
    check_tensor(&c, "y", &args->y, args->rows.batch, args->x.cols);
    if (present(&c, &args->w)) {
        check_tensor(&c, "u", &args->u, rows, args->u.cols);
        check_vector(&c, "w", &args->w, args->u.cols);
        check_optional_vector(&c, "b", &args->b, 1);
    }
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    check_apart(&c, "u and alpha overlap", &args->u, &args->alpha);
    return ready(queue, SER_OP_ATTN_POOL, args, &c) ? queue->ops->attn_pool_fwd(queue, args)
                                                    : c.status;
}

int ser_cross_entropy_fwd(ser_queue *queue, const ser_cross_entropy_args *args)
{
    checker c = check_begin(queue, "cross_entropy", args);
    if (c.status != 0) {
        return c.status;
    }
    const ser_tensor *logits = &args->logits;
    check_tensor(&c, "logits", logits, logits->rows, logits->cols);
    check_tensor(&c, "probabilities", &args->probabilities, logits->rows, logits->cols);
    check_apart(&c, "logits and probabilities overlap", logits, &args->probabilities);
    return ready(queue, SER_OP_CROSS_ENTROPY, args, &c) ? queue->ops->cross_entropy_fwd(queue, args)
                                                        : c.status;
}

int ser_queue_reserve(ser_queue *queue)
{
    queue->planning = false;
    if (queue->planned <= queue->scratch_size) {
        return 0;
    }
    int status = queue->ops->sync(queue); /* earlier work may still read the old scratch */
    if (status != 0) {
        return status;
    }
    queue->ops->free(queue->context, queue->scratch);
    queue->scratch = NULL;
    queue->scratch_size = 0;
    status = queue->ops->alloc(queue->context, queue->planned, &queue->scratch);
    if (status == 0) {
        queue->scratch_size = queue->planned;
    } else {
        queue->scratch = NULL;
    }
    return status;
}

const ser_weight_spec *ser_weight_get_spec(const ser_weight *weight)
{
    return (const ser_weight_spec *)(const void *)weight;
}
