/* SPDX-License-Identifier: MIT */
/* The checked front of the table: what every op demands of its arguments, verified once for all
 * backends. Here the products: features, linear layers, positions; the rest is in ops_rows.c. */
#include "ops/check.h"

int ser_log_mel_fwd(ser_queue *queue, const ser_log_mel_args *args)
{
    checker c = check_begin(queue, "log_mel", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t bins = args->y.cols;
    check_range(&c, "frame", args->frame, 2);
    check_range(&c, "hop", args->hop, 1);
    check_tensor(&c, "pcm", &args->pcm, check_rows(&c, "rows_in", &args->rows_in), 1);
    check_f32(&c, "pcm", &args->pcm);
    check_tensor(&c, "y", &args->y, check_rows(&c, "rows_out", &args->rows_out), bins);
    check_equal(&c, "rows_out.batch", args->rows_out.batch, args->rows_in.batch);
    check_that(&c, args->mel != NULL && args->dft != NULL, "dft or mel is absent");
    if (c.status == 0) {
        int64_t freqs = ser_weight_get_spec(args->mel)->cols;
        check_weight(&c, "dft", args->dft, freqs, args->frame / 2, 2);
        check_weight(&c, "mel", args->mel, bins, freqs, 1);
    }
    check_vector(&c, "mean", &args->mean, bins);
    check_vector(&c, "std", &args->std, bins);
    check_apart(&c, "pcm and y overlap", &args->pcm, &args->y);
    return ready(queue, SER_OP_LOG_MEL, args, &c) ? queue->ops->log_mel_fwd(queue, args) : c.status;
}

int ser_mel_warp_fwd(ser_queue *queue, const ser_mel_warp_args *args)
{
    checker c = check_begin(queue, "mel_warp", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    check_tensor(&c, "x", &args->x, rows, args->x.cols);
    check_tensor(&c, "warp", &args->warp, args->rows.batch, 1);
    check_f32(&c, "warp", &args->warp);
    check_tensor(&c, "offset", &args->offset, args->rows.batch, args->x.cols);
    check_f32(&c, "offset", &args->offset);
    check_tensor(&c, "y", &args->y, rows, args->x.cols);
    check_like(&c, "y", &args->y, &args->x);
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    return ready(queue, SER_OP_MEL_WARP, args, &c) ? queue->ops->mel_warp_fwd(queue, args)
                                                   : c.status;
}

/* What a convolution saves for backward before norm and GELU. */
static void check_saved(checker *c, const ser_tensor *z, const ser_tensor *y)
{
    check_optional(c, "z", z, y->rows, y->cols);
    check_like(c, "z", z, y);
    check_apart(c, "z and y overlap", z, y);
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

static void check_norm_gradients(checker *c, int32_t norm, const ser_tensor *dgamma,
                                 const ser_tensor *dbeta, int64_t channels)
{
    check_optional_vector(c, "dgamma", dgamma, channels);
    check_optional_vector(c, "dbeta", dbeta, channels);
    check_that(c, norm != SER_CONV_NORM_NONE || (!present(c, dgamma) && !present(c, dbeta)),
               "dgamma or dbeta without a norm");
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

static void check_wave_filters(checker *c, const ser_wave_conv_args *args, int64_t channels)
{
    check_tensor(c, "w", &args->w, channels, args->kernel);
    check_f32(c, "w", &args->w);
    check_that(c, args->norm != SER_CONV_NORM_CLIP || args->kernel <= SER_MAX_WAVE_KERNEL,
               "kernel is too long for the group norm");
    check_optional_vector(c, "bias", &args->bias, channels);
    bool allowed = args->norm == SER_CONV_NORM_NONE || args->norm == SER_CONV_NORM_CLIP ||
                   args->norm == SER_CONV_NORM_LAYER;
    check_conv_norm(c, args->norm, allowed, &args->gamma, &args->beta, channels);
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
    check_wave_filters(&c, args, channels);
    check_saved(&c, &args->z, &args->y);
    check_apart(&c, "pcm and y overlap", &args->pcm, &args->y);
    return ready(queue, SER_OP_WAVE_CONV, args, &c) ? queue->ops->wave_conv_fwd(queue, args)
                                                    : c.status;
}

int ser_wave_conv_bwd(ser_queue *queue, const ser_wave_conv_args *args)
{
    checker c = check_begin(queue, "wave_conv_bwd", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t channels = args->dy.cols;
    int64_t rows_out = check_rows(&c, "rows_out", &args->rows_out);
    check_tensor(&c, "pcm", &args->pcm, check_rows(&c, "rows_in", &args->rows_in), 1);
    check_f32(&c, "pcm", &args->pcm);
    check_geometry(&c, &args->rows_in, &args->rows_out, args->kernel, args->stride);
    check_tensor(&c, "dy", &args->dy, rows_out, channels);
    check_tensor(&c, "z", &args->z, rows_out, channels);
    check_like(&c, "z", &args->z, &args->dy);
    check_wave_filters(&c, args, channels);
    check_gradient(&c, "dw", &args->dw, channels, args->kernel);
    check_optional_vector(&c, "dbias", &args->dbias, channels);
    check_norm_gradients(&c, args->norm, &args->dgamma, &args->dbeta, channels);
    return ready(queue, SER_OP_WAVE_CONV, args, &c) ? queue->ops->wave_conv_bwd(queue, args)
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
    check_like(&c, "y", &args->y, &args->x);
    check_weight(&c, "w", args->w, channels, args->kernel * args->x.cols, 1);
    check_weight_type(&c, args->w, &args->x);
    check_optional_vector(&c, "bias", &args->bias, channels);
    bool allowed = args->norm == SER_CONV_NORM_NONE || args->norm == SER_CONV_NORM_LAYER;
    check_conv_norm(&c, args->norm, allowed, &args->gamma, &args->beta, channels);
    check_saved(&c, &args->z, &args->y);
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    check_apart(&c, "x and z overlap", &args->x, &args->z);
    return ready(queue, SER_OP_CONV, args, &c) ? queue->ops->conv_fwd(queue, args) : c.status;
}

int ser_conv_bwd(ser_queue *queue, const ser_conv_args *args)
{
    checker c = check_begin(queue, "conv_bwd", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows_in = check_rows(&c, "rows_in", &args->rows_in);
    int64_t rows_out = check_rows(&c, "rows_out", &args->rows_out);
    int64_t channels = args->dy.cols;
    check_geometry(&c, &args->rows_in, &args->rows_out, args->kernel, args->stride);
    check_range(&c, "padding", args->padding, 0);
    check_tensor(&c, "dy", &args->dy, rows_out, channels);
    check_tensor(&c, "z", &args->z, rows_out, channels);
    check_that(&c, args->w != NULL, "w is absent");
    int64_t inputs = c.status == 0 ? ser_weight_get_spec(args->w)->cols / args->kernel : 0;
    check_weight(&c, "w", args->w, channels, args->kernel * inputs, 1);
    bool allowed = args->norm == SER_CONV_NORM_NONE || args->norm == SER_CONV_NORM_LAYER;
    check_conv_norm(&c, args->norm, allowed, &args->gamma, &args->beta, channels);
    check_optional(&c, "dx", &args->dx, rows_in, inputs);
    if (present(&c, &args->dw)) {
        check_tensor(&c, "x", &args->x, rows_in, inputs);
        check_gradient(&c, "dw", &args->dw, channels, args->kernel * inputs);
    }
    check_like(&c, "z", &args->z, &args->dy);
    check_like(&c, "x", &args->x, &args->dy);
    check_like(&c, "dx", &args->dx, &args->dy);
    check_weight_type(&c, args->w, &args->dy);
    check_norm_gradients(&c, args->norm, &args->dgamma, &args->dbeta, channels);
    check_optional_vector(&c, "dbias", &args->dbias, channels);
    check_apart(&c, "dy and dx overlap", &args->dy, &args->dx);
    check_apart(&c, "z and dx overlap", &args->z, &args->dx);
    return ready(queue, SER_OP_CONV, args, &c) ? queue->ops->conv_bwd(queue, args) : c.status;
}

/* Its copy in bf16 is there exactly when it is used. */
static void check_bias_bf16(checker *c, const ser_linear_args *args)
{
    const bool wanted = args->y.type == SER_BF16 && present(c, &args->bias);
    check_that(c, wanted == present(c, &args->bias_bf16),
               wanted ? "bias_bf16 is absent" : "bias_bf16 without need");
    check_optional(c, "bias_bf16", &args->bias_bf16, 1, args->y.cols);
    check_that(c, !wanted || args->bias_bf16.type == SER_BF16, "bias_bf16 is not bf16");
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
    check_like(&c, "y", &args->y, &args->x);
    check_weight(&c, "w", args->w, args->y.cols, args->x.cols, 1);
    check_weight_type(&c, args->w, &args->x);
    check_optional_vector(&c, "bias", &args->bias, args->y.cols);
    check_bias_bf16(&c, args);
    check_that(&c, args->activation >= SER_ACT_NONE && args->activation <= SER_ACT_TANH,
               "unknown activation");
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    return ready(queue, SER_OP_LINEAR, args, &c) ? queue->ops->linear_fwd(queue, args) : c.status;
}

int ser_linear_bwd(ser_queue *queue, const ser_linear_args *args)
{
    checker c = check_begin(queue, "linear_bwd", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    int64_t outputs = args->dy.cols;
    check_tensor(&c, "dy", &args->dy, rows, outputs);
    check_that(&c, args->w != NULL, "w is absent");
    int64_t inputs = c.status == 0 ? ser_weight_get_spec(args->w)->cols : 0;
    check_weight(&c, "w", args->w, outputs, inputs, 1);
    check_that(&c, args->activation == SER_ACT_NONE, "an activation has no backward here");
    check_optional(&c, "dx", &args->dx, rows, inputs);
    if (present(&c, &args->dw)) {
        check_tensor(&c, "x", &args->x, rows, inputs);
        check_gradient(&c, "dw", &args->dw, outputs, inputs);
    }
    check_like(&c, "x", &args->x, &args->dy);
    check_like(&c, "dx", &args->dx, &args->dy);
    check_weight_type(&c, args->w, &args->dy);
    check_optional_vector(&c, "dbias", &args->dbias, outputs);
    check_apart(&c, "dy and dx overlap", &args->dy, &args->dx);
    return ready(queue, SER_OP_LINEAR, args, &c) ? queue->ops->linear_bwd(queue, args) : c.status;
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
        check_weight_type(&c, args->w, &args->x);
    }
    check_like(&c, "y", &args->y, &args->x);
    check_saved(&c, &args->z, &args->y);
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    check_apart(&c, "x and z overlap", &args->x, &args->z);
    return ready(queue, SER_OP_POS_CONV, args, &c) ? queue->ops->pos_conv_fwd(queue, args)
                                                   : c.status;
}

int ser_pos_conv_bwd(ser_queue *queue, const ser_pos_conv_args *args)
{
    checker c = check_begin(queue, "pos_conv_bwd", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    int64_t channels = args->dy.cols;
    check_range(&c, "kernel", args->kernel, 1);
    check_range(&c, "groups", args->groups, 1);
    check_tensor(&c, "dy", &args->dy, rows, channels);
    check_tensor(&c, "z", &args->z, rows, channels);
    check_optional(&c, "dx", &args->dx, rows, channels);
    check_optional_vector(&c, "dbias", &args->dbias, channels);
    if (c.status == 0) {
        int64_t width = channels / args->groups;
        check_that(&c, width * args->groups == channels, "groups do not divide the channels");
        check_weight(&c, "w", args->w, width, args->kernel * width, args->groups);
        check_gradient(&c, "dw", &args->dw, channels, args->kernel * width);
    }
    if (present(&c, &args->dw)) {
        check_tensor(&c, "x", &args->x, rows, channels);
    }
    check_like(&c, "x", &args->x, &args->dy);
    check_like(&c, "z", &args->z, &args->dy);
    check_like(&c, "dx", &args->dx, &args->dy);
    check_weight_type(&c, args->w, &args->dy);
    check_apart(&c, "dy and dx overlap", &args->dy, &args->dx);
    check_apart(&c, "z and dx overlap", &args->z, &args->dx);
    return ready(queue, SER_OP_POS_CONV, args, &c) ? queue->ops->pos_conv_bwd(queue, args)
                                                   : c.status;
}

/* What both directions of weight_norm demand. */
static void check_weight_norm(checker *c, const ser_weight_norm_args *args)
{
    check_range(c, "kernel", args->kernel, 1);
    check_range(c, "groups", args->groups, 1);
    check_vector(c, "g", &args->g, args->kernel);
    int64_t channels = args->v.rows;
    int64_t width = c->status == 0 ? channels / args->groups : 0;
    check_that(c, c->status != 0 || width * args->groups == channels,
               "groups do not divide the channels");
    check_tensor(c, "v", &args->v, channels, args->kernel * width);
    check_f32(c, "v", &args->v);
}

int ser_weight_norm_fwd(ser_queue *queue, const ser_weight_norm_args *args)
{
    checker c = check_begin(queue, "weight_norm", args);
    if (c.status != 0) {
        return c.status;
    }
    check_weight_norm(&c, args);
    if (c.status == 0) {
        int64_t width = args->v.rows / args->groups;
        check_weight(&c, "w", args->w, width, args->kernel * width, args->groups);
    }
    return ready(queue, SER_OP_WEIGHT_NORM, args, &c) ? queue->ops->weight_norm_fwd(queue, args)
                                                      : c.status;
}

int ser_weight_norm_bwd(ser_queue *queue, const ser_weight_norm_args *args)
{
    checker c = check_begin(queue, "weight_norm_bwd", args);
    if (c.status != 0) {
        return c.status;
    }
    check_weight_norm(&c, args);
    check_tensor(&c, "dw", &args->dw, args->v.rows, args->v.cols);
    check_f32(&c, "dw", &args->dw);
    check_optional_vector(&c, "dg", &args->dg, args->kernel);
    check_gradient(&c, "dv", &args->dv, args->v.rows, args->v.cols);
    check_apart(&c, "dw and dv overlap", &args->dw, &args->dv);
    return ready(queue, SER_OP_WEIGHT_NORM, args, &c) ? queue->ops->weight_norm_bwd(queue, args)
                                                      : c.status;
}

void ser_queue_plan(ser_queue *queue)
{
    for (; queue != NULL; queue = queue->branch) {
        queue->planning = true;
    }
}

static int reserve_scratch(ser_queue *queue, bool *moved)
{
    queue->planning = false;
    if (queue->planned <= queue->scratch_size) {
        return 0;
    }
    const size_t before = queue->scratch_size;
    int status = queue->ops->sync(queue); /* earlier work may still read the old scratch */
    if (status != 0) {
        queue->planned = before;
        return status;
    }
    queue->ops->free(queue->context, queue->scratch);
    queue->scratch = NULL;
    queue->scratch_size = 0;
    *moved = true;
    status = queue->ops->alloc(queue->context, queue->planned, &queue->scratch);
    if (status == 0) {
        queue->scratch_size = queue->planned;
    } else {
        queue->scratch = NULL;
        queue->planned = before; /* what does not fit must not be asked for again by what does */
    }
    return status;
}

int ser_queue_reserve(ser_queue *queue, bool *moved)
{
    bool any = false;
    int status = 0;
    for (; queue != NULL; queue = queue->branch) {
        const int reserved = reserve_scratch(queue, &any);
        status = status == 0 ? reserved : status;
    }
    if (any && moved != NULL) {
        *moved = true;
    }
    return status;
}

const ser_weight_spec *ser_weight_get_spec(const ser_weight *weight)
{
    return (const ser_weight_spec *)(const void *)weight;
}
