/* SPDX-License-Identifier: MIT */
/* The checked front of the ops that go row by row, of attention, the loss and the optimiser; see
 * ops.c. */
#include "ops/check.h"

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
