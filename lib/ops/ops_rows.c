/* SPDX-License-Identifier: MIT */
/* The checked front of the ops that go row by row, of attention, the loss and the optimiser; see
 * ops.c. */
#include "ops/check.h"

static void check_dropout(checker *c, const ser_dropout *dropout)
{
    check_that(c, dropout->p >= 0.0F && dropout->p < 1.0F, "dropout.p is not in [0, 1)");
    if (dropout->p > 0.0F) {
        check_that(c, dropout->op < UINT32_C(1) << 24, "dropout.op does not fit in 24 bits");
        check_that(c, dropout->step != NULL || c->queue->planning, "dropout.step is absent");
    }
}

/* For outputs that may be an input, but no other part of it. */
static void check_same_or_apart(checker *c, const char *what, const ser_tensor *a,
                                const ser_tensor *b)
{
    if (a->data != b->data) {
        check_apart(c, what, a, b);
    }
}

/* Memory that is not a tensor; not there yet while planning. */
static void check_memory(checker *c, const char *what, const void *memory)
{
    check_that(c, memory != NULL || c->queue->planning, what);
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
    check_like(&c, "h", &args->h, &args->x);
    check_like(&c, "sum", &args->sum, &args->x);
    check_like(&c, "y", &args->y, &args->x);
    bool normed = present(&c, &args->y);
    check_that(&c, normed || present(&c, &args->sum), "neither sum nor y is asked for");
    if (normed) {
        check_vector(&c, "gamma", &args->gamma, channels);
        check_vector(&c, "beta", &args->beta, channels);
        check_that(&c, args->eps >= 0.0F, "eps is negative");
        check_apart(&c, "sum and y overlap", &args->sum, &args->y);
    }
    check_dropout(&c, &args->dropout);
    check_optional(&c, "stats", &args->stats, rows, 2);
    check_f32(&c, "stats", &args->stats);
    return ready(queue, SER_OP_RESIDUAL_NORM, args, &c) ? queue->ops->residual_norm_fwd(queue, args)
                                                        : c.status;
}

int ser_residual_norm_bwd(ser_queue *queue, const ser_residual_norm_args *args)
{
    checker c = check_begin(queue, "residual_norm_bwd", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    int64_t channels = args->x.cols;
    const bool normed = present(&c, &args->dy);
    check_tensor(&c, "x", &args->x, rows, channels);
    check_optional(&c, "sum", &args->sum, rows, channels);
    check_optional(&c, "dy", &args->dy, rows, channels);
    check_optional(&c, "dy2", &args->dy2, rows, channels);
    check_optional(&c, "dsum", &args->dsum, rows, channels);
    check_optional(&c, "dx", &args->dx, rows, channels);
    check_optional(&c, "dh", &args->dh, rows, channels);
    check_like(&c, "sum", &args->sum, &args->x);
    check_like(&c, "dy", &args->dy, &args->x);
    check_like(&c, "dy2", &args->dy2, &args->x);
    check_like(&c, "dsum", &args->dsum, &args->x);
    check_like(&c, "dx", &args->dx, &args->x);
    check_like(&c, "dh", &args->dh, &args->x);
    check_gradient(&c, "dgamma", &args->dgamma, 1, channels);
    check_gradient(&c, "dbeta", &args->dbeta, 1, channels);
    check_dropout(&c, &args->dropout);
    check_that(&c, normed || present(&c, &args->dsum), "neither dy nor dsum is given");
    if (normed) {
        check_that(&c, present(&c, &args->sum) || !present(&c, &args->h),
                   "sum was not saved by forward");
        check_vector(&c, "gamma", &args->gamma, channels);
        check_tensor(&c, "stats", &args->stats, rows, 2);
        check_f32(&c, "stats", &args->stats);
    } else {
        check_that(&c, !present(&c, &args->dgamma) && !present(&c, &args->dbeta),
                   "dgamma or dbeta without dy");
    }
    check_that(&c, !present(&c, &args->dy2) || (normed && !present(&c, &args->dsum)),
               "dy2 without dy, or with dsum");
    check_apart(&c, "dx and dh overlap", &args->dx, &args->dh);
    check_same_or_apart(&c, "dx and dy overlap", &args->dx, &args->dy);
    check_same_or_apart(&c, "dx and dy2 overlap", &args->dx, &args->dy2);
    check_same_or_apart(&c, "dh and dy2 overlap", &args->dh, &args->dy2);
    check_same_or_apart(&c, "dx and dsum overlap", &args->dx, &args->dsum);
    check_same_or_apart(&c, "dh and dy overlap", &args->dh, &args->dy);
    check_same_or_apart(&c, "dh and dsum overlap", &args->dh, &args->dsum);
    return ready(queue, SER_OP_RESIDUAL_NORM, args, &c) ? queue->ops->residual_norm_bwd(queue, args)
                                                        : c.status;
}

/* What both directions of attention want; the rows of the batch. */
static int64_t check_attention(checker *c, const ser_attention_args *args)
{
    int64_t rows = check_rows(c, "rows", &args->rows);
    int64_t channels = args->y.cols;
    check_range(c, "heads", args->heads, 1);
    check_tensor(c, "qkv", &args->qkv, rows, 3 * channels);
    check_tensor(c, "y", &args->y, rows, channels);
    check_like(c, "y", &args->y, &args->qkv);
    check_that(c, c->status != 0 || channels % args->heads == 0,
               "heads do not divide the channels");
    check_that(c, args->scale > 0.0F, "scale is not positive");
    check_apart(c, "qkv and y overlap", &args->qkv, &args->y);
    check_dropout(c, &args->dropout);
    check_f32(c, "lse", &args->lse);
    return rows;
}

int ser_attention_fwd(ser_queue *queue, const ser_attention_args *args)
{
    checker c = check_begin(queue, "attention", args);
    if (c.status != 0) {
        return c.status;
    }
    check_optional(&c, "lse", &args->lse, check_attention(&c, args), args->heads);
    return ready(queue, SER_OP_ATTENTION, args, &c) ? queue->ops->attention_fwd(queue, args)
                                                    : c.status;
}

int ser_attention_bwd(ser_queue *queue, const ser_attention_args *args)
{
    checker c = check_begin(queue, "attention_bwd", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_attention(&c, args);
    int64_t channels = args->y.cols;
    check_tensor(&c, "lse", &args->lse, rows, args->heads);
    check_tensor(&c, "dy", &args->dy, rows, channels);
    check_tensor(&c, "dqkv", &args->dqkv, rows, 3 * channels);
    check_like(&c, "dy", &args->dy, &args->qkv);
    check_like(&c, "dqkv", &args->dqkv, &args->qkv);
    check_f32(&c, "lse", &args->lse);
    check_apart(&c, "qkv and dqkv overlap", &args->qkv, &args->dqkv);
    check_apart(&c, "y and dqkv overlap", &args->y, &args->dqkv);
    check_apart(&c, "dy and dqkv overlap", &args->dy, &args->dqkv);
    return ready(queue, SER_OP_ATTENTION, args, &c) ? queue->ops->attention_bwd(queue, args)
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
    check_that(&c, c.status != 0 || args->y.type == SER_F32 || args->y.type == args->x.type,
               "y is of another type than x");
    check_vector(&c, "w", &args->w, args->w.cols);
    check_that(&c, args->index >= 0 && args->index < args->w.cols, "no weight has this index");
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    return ready(queue, SER_OP_LAYER_MIX, args, &c) ? queue->ops->layer_mix_fwd(queue, args)
                                                    : c.status;
}

int ser_layer_mix_bwd(ser_queue *queue, const ser_layer_mix_args *args)
{
    checker c = check_begin(queue, "layer_mix_bwd", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    int64_t channels = args->dy.cols;
    check_tensor(&c, "dy", &args->dy, rows, channels);
    check_vector(&c, "w", &args->w, args->w.cols);
    check_that(&c, args->index >= 0 && args->index < args->w.cols, "no weight has this index");
    check_optional(&c, "dx", &args->dx, rows, channels);
    check_optional_vector(&c, "dw", &args->dw, args->w.cols);
    if (present(&c, &args->dw)) {
        check_tensor(&c, "x", &args->x, rows, channels);
        check_vector(&c, "dots", &args->dots, args->w.cols);
    }
    const ser_tensor *like = present(&c, &args->dx) ? &args->dx : &args->x;
    check_like(&c, "x", &args->x, like);
    const bool fitting = args->dy.type == SER_F32 || args->dy.type == like->type;
    check_that(&c, c.status != 0 || fitting || !present(&c, like), "dy is of another type than x");
    check_apart(&c, "dy and dx overlap", &args->dy, &args->dx);
    check_apart(&c, "x and dx overlap", &args->x, &args->dx);
    return ready(queue, SER_OP_LAYER_MIX, args, &c) ? queue->ops->layer_mix_bwd(queue, args)
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
    check_f32(&c, "y", &args->y);
    if (present(&c, &args->w)) {
        check_tensor(&c, "u", &args->u, rows, args->u.cols);
        check_like(&c, "u", &args->u, &args->x);
        check_vector(&c, "w", &args->w, args->u.cols);
        check_optional_vector(&c, "b", &args->b, 1);
    }
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    check_apart(&c, "u and alpha overlap", &args->u, &args->alpha);
    return ready(queue, SER_OP_ATTN_POOL, args, &c) ? queue->ops->attn_pool_fwd(queue, args)
                                                    : c.status;
}

int ser_attn_pool_bwd(ser_queue *queue, const ser_attn_pool_args *args)
{
    checker c = check_begin(queue, "attn_pool_bwd", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    check_tensor(&c, "x", &args->x, rows, args->x.cols);
    check_tensor(&c, "alpha", &args->alpha, rows, 1);
    check_f32(&c, "alpha", &args->alpha);
    check_tensor(&c, "dy", &args->dy, args->rows.batch, args->x.cols);
    check_f32(&c, "dy", &args->dy);
    check_optional(&c, "dx", &args->dx, rows, args->x.cols);
    check_optional(&c, "du", &args->du, rows, args->u.cols);
    check_like(&c, "dx", &args->dx, &args->x);
    check_like(&c, "du", &args->du, &args->x);
    if (present(&c, &args->w)) {
        check_tensor(&c, "u", &args->u, rows, args->u.cols);
        check_vector(&c, "w", &args->w, args->u.cols);
        check_optional_vector(&c, "dw", &args->dw, args->u.cols);
        check_optional_vector(&c, "db", &args->db, 1);
        check_that(&c, args->du.data == NULL || args->u.data != args->x.data,
                   "u is x, so dx has what du would hold");
    } else {
        check_that(&c, !present(&c, &args->dw) && !present(&c, &args->db), "dw or db without w");
    }
    check_apart(&c, "x and dx overlap", &args->x, &args->dx);
    check_apart(&c, "u and dx overlap", &args->u, &args->dx);
    check_apart(&c, "u and du overlap", &args->u, &args->du);
    check_apart(&c, "dx and du overlap", &args->dx, &args->du);
    return ready(queue, SER_OP_ATTN_POOL, args, &c) ? queue->ops->attn_pool_bwd(queue, args)
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
    check_f32(&c, "logits", logits);
    check_tensor(&c, "probabilities", &args->probabilities, logits->rows, logits->cols);
    check_f32(&c, "probabilities", &args->probabilities);
    check_apart(&c, "logits and probabilities overlap", logits, &args->probabilities);
    check_optional(&c, "mask", &args->mask, logits->rows, logits->cols);
    check_f32(&c, "mask", &args->mask);
    if (present(&c, &args->loss)) {
        check_tensor(&c, "loss", &args->loss, logits->rows, 1);
        check_f32(&c, "loss", &args->loss);
        check_tensor(&c, "targets", &args->targets, logits->rows, logits->cols);
        check_f32(&c, "targets", &args->targets);
    }
    return ready(queue, SER_OP_CROSS_ENTROPY, args, &c) ? queue->ops->cross_entropy_fwd(queue, args)
                                                        : c.status;
}

int ser_cross_entropy_bwd(ser_queue *queue, const ser_cross_entropy_args *args)
{
    checker c = check_begin(queue, "cross_entropy_bwd", args);
    if (c.status != 0) {
        return c.status;
    }
    const ser_tensor *p = &args->probabilities;
    check_tensor(&c, "probabilities", p, p->rows, p->cols);
    check_tensor(&c, "targets", &args->targets, p->rows, p->cols);
    check_f32(&c, "targets", &args->targets);
    check_optional(&c, "loss", &args->loss, p->rows, 1);
    check_f32(&c, "loss", &args->loss);
    check_tensor(&c, "dlogits", &args->dlogits, p->rows, p->cols);
    check_f32(&c, "dlogits", &args->dlogits);
    check_apart(&c, "probabilities and dlogits overlap", p, &args->dlogits);
    check_apart(&c, "targets and dlogits overlap", &args->targets, &args->dlogits);
    return ready(queue, SER_OP_CROSS_ENTROPY, args, &c) ? queue->ops->cross_entropy_bwd(queue, args)
                                                        : c.status;
}

static void check_activation(checker *c, int32_t activation)
{
    check_that(c, activation >= SER_ACT_NONE && activation <= SER_ACT_TANH, "unknown activation");
}

int ser_dropout_fwd(ser_queue *queue, const ser_dropout_args *args)
{
    checker c = check_begin(queue, "dropout", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    check_tensor(&c, "x", &args->x, rows, args->x.cols);
    check_tensor(&c, "y", &args->y, rows, args->x.cols);
    check_like(&c, "y", &args->y, &args->x);
    check_activation(&c, args->activation);
    check_dropout(&c, &args->dropout);
    check_same_or_apart(&c, "x and y overlap", &args->x, &args->y);
    return ready(queue, SER_OP_DROPOUT, args, &c) ? queue->ops->dropout_fwd(queue, args) : c.status;
}

int ser_dropout_bwd(ser_queue *queue, const ser_dropout_args *args)
{
    checker c = check_begin(queue, "dropout_bwd", args);
    if (c.status != 0) {
        return c.status;
    }
    int64_t rows = check_rows(&c, "rows", &args->rows);
    check_tensor(&c, "dy", &args->dy, rows, args->dy.cols);
    check_tensor(&c, "dx", &args->dx, rows, args->dy.cols);
    check_like(&c, "dx", &args->dx, &args->dy);
    check_activation(&c, args->activation);
    check_dropout(&c, &args->dropout);
    check_same_or_apart(&c, "dy and dx overlap", &args->dy, &args->dx);
    if (args->activation != SER_ACT_NONE || present(&c, &args->y)) {
        check_tensor(&c, "x", &args->x, rows, args->dy.cols);
        check_like(&c, "x", &args->x, &args->dy);
        check_apart(&c, "x and dx overlap", &args->x, &args->dx);
    }
    check_optional(&c, "y", &args->y, rows, args->dy.cols);
    check_like(&c, "y", &args->y, &args->dy);
    check_apart(&c, "x and y overlap", &args->x, &args->y);
    check_same_or_apart(&c, "dy and y overlap", &args->dy, &args->y);
    check_apart(&c, "dx and y overlap", &args->dx, &args->y);
    return ready(queue, SER_OP_DROPOUT, args, &c) ? queue->ops->dropout_bwd(queue, args) : c.status;
}

int ser_gather(ser_queue *queue, const ser_gather_args *args)
{
    checker c = check_begin(queue, "gather", args);
    if (c.status != 0) {
        return c.status;
    }
    check_tensor(&c, "y", &args->y, check_rows(&c, "rows", &args->rows), args->y.cols);
    check_memory(&c, "sources are absent", args->sources);
    return ready(queue, SER_OP_GATHER, args, &c) ? queue->ops->gather(queue, args) : c.status;
}

int ser_span_mask(ser_queue *queue, const ser_span_mask_args *args)
{
    checker c = check_begin(queue, "span_mask", args);
    if (c.status != 0) {
        return c.status;
    }
    check_tensor(&c, "x", &args->x, check_rows(&c, "rows", &args->rows), args->x.cols);
    check_range(&c, "time_spans", args->time_spans, 0);
    check_range(&c, "channel_spans", args->channel_spans, 0);
    if (args->time_spans > 0) {
        check_memory(&c, "time is absent", args->time);
    }
    if (args->channel_spans > 0) {
        check_memory(&c, "channel is absent", args->channel);
    }
    return ready(queue, SER_OP_SPAN_MASK, args, &c) ? queue->ops->span_mask(queue, args) : c.status;
}

int ser_sum_squares(ser_queue *queue, const ser_sum_squares_args *args)
{
    checker c = check_begin(queue, "sum_squares", args);
    if (c.status != 0) {
        return c.status;
    }
    check_range(&c, "count", args->count, 1);
    check_memory(&c, "x is absent", args->x);
    check_memory(&c, "sum is absent", args->sum);
    return ready(queue, SER_OP_SUM_SQUARES, args, &c) ? queue->ops->sum_squares(queue, args)
                                                      : c.status;
}

int ser_adamw(ser_queue *queue, const ser_adamw_args *args)
{
    checker c = check_begin(queue, "adamw", args);
    if (c.status != 0) {
        return c.status;
    }
    check_range(&c, "count", args->count, 1);
    check_range(&c, "range_count", args->range_count, 1);
    check_that(&c, args->rounded == NULL || queue->ops->bf16, "rounded weights need bf16");
    check_that(&c, args->beta1 >= 0.0 && args->beta1 < 1.0, "beta1 is not in [0, 1)");
    check_that(&c, args->beta2 >= 0.0 && args->beta2 < 1.0, "beta2 is not in [0, 1)");
    check_that(&c, args->eps >= 0.0F, "eps is negative");
    check_memory(&c, "w is absent", args->w);
    check_memory(&c, "m is absent", args->m);
    check_memory(&c, "v is absent", args->v);
    check_memory(&c, "gradient is absent", args->gradient);
    check_memory(&c, "ranges is absent", args->ranges);
    check_memory(&c, "step is absent", args->step);
    check_memory(&c, "sum is absent", args->sum);
    check_memory(&c, "skipped is absent", args->skipped);
    return ready(queue, SER_OP_ADAMW, args, &c) ? queue->ops->adamw(queue, args) : c.status;
}
