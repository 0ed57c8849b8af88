/* SPDX-License-Identifier: MIT */
/* The checked front of ops_rows.c, over a backend that only counts. */
#include <math.h>

#include "harness.h"
#include "ops/ops.h"

static int calls;

#define FAKE_OP(slot, args_type)                                                                   \
    static int fake_##slot(ser_queue *queue, const args_type *args)                                \
    {                                                                                              \
        (void)queue;                                                                               \
        (void)args;                                                                                \
        calls++;                                                                                   \
        return 0;                                                                                  \
    }

FAKE_OP(residual_norm, ser_residual_norm_args)
FAKE_OP(attention, ser_attention_args)
FAKE_OP(layer_mix, ser_layer_mix_args)
FAKE_OP(attn_pool, ser_attn_pool_args)
FAKE_OP(cross_entropy, ser_cross_entropy_args)
FAKE_OP(dropout, ser_dropout_args)
FAKE_OP(span_mask, ser_span_mask_args)
FAKE_OP(sum_squares, ser_sum_squares_args)
FAKE_OP(adamw, ser_adamw_args)

static size_t no_scratch(const ser_queue *queue, enum ser_op op, const void *args)
{
    (void)queue;
    (void)op;
    (void)args;
    return 0;
}

static const ser_ops fake_ops = {
    .version = SER_OPS_VERSION,
    .bf16 = true,
    .name = "fake",
    .scratch = no_scratch,
    .residual_norm_fwd = fake_residual_norm,
    .residual_norm_bwd = fake_residual_norm,
    .attention_fwd = fake_attention,
    .attention_bwd = fake_attention,
    .layer_mix_fwd = fake_layer_mix,
    .layer_mix_bwd = fake_layer_mix,
    .attn_pool_fwd = fake_attn_pool,
    .attn_pool_bwd = fake_attn_pool,
    .cross_entropy_fwd = fake_cross_entropy,
    .cross_entropy_bwd = fake_cross_entropy,
    .dropout_fwd = fake_dropout,
    .dropout_bwd = fake_dropout,
    .span_mask = fake_span_mask,
    .sum_squares = fake_sum_squares,
    .adamw = fake_adamw,
};

static ser_queue queue;
static float memory[8192];
static const int32_t valid[2] = {3, 4};
static const ser_step step = {.seed = 1};
static float *next_free;

static void setup(void)
{
    queue = (ser_queue){.ops = &fake_ops};
    calls = 0;
    next_free = memory;
}

/* A tensor of its own memory. */
static ser_tensor tensor(int64_t rows, int64_t cols)
{
    ser_tensor t = ser_tensor_f32(next_free, rows, cols);
    next_free += rows * cols;
    ck_assert(next_free <= memory + sizeof memory / sizeof memory[0]);
    return t;
}

static ser_rows rows_of(int64_t padded)
{
    return (ser_rows){.batch = 2, .padded = padded, .valid = valid};
}

/* One wrong member at a time: `change` spoils good arguments, and the message says `part`. */
#define refuse(call, label, type, good, change, part)                                              \
    do {                                                                                           \
        type a = (good);                                                                           \
        change;                                                                                    \
        const int before = calls;                                                                  \
        assert_fails(call(&queue, &a), SER_ERR_INTERNAL, part);                                    \
        ck_assert_msg(strncmp(ser_fail_text(), label ":", sizeof label) == 0, "%s",                \
                      ser_fail_text());                                                            \
        ck_assert_int_eq(calls, before);                                                           \
    } while (0)
#define assert_refused(op, type, good, change, part)                                               \
    refuse(ser_##op##_fwd, #op, type, good, change, part)
#define assert_bwd_refused(op, type, good, change, part)                                           \
    refuse(ser_##op##_bwd, #op "_bwd", type, good, change, part)

/* A dropout that is out of range in each way. */
#define assert_dropout_checked(assertion, stem, type, good)                                        \
    do {                                                                                           \
        assertion(stem, type, good, a.dropout.p = 1.0F, "dropout.p");                              \
        assertion(stem, type, good, a.dropout.p = -0.1F, "dropout.p");                             \
        assertion(stem, type, good, a.dropout.p = (float)NAN, "dropout.p");                        \
        assertion(stem, type, good, a.dropout.op = 1U << 24, "dropout.op");                        \
        assertion(stem, type, good, a.dropout.step = NULL, "dropout.step");                        \
    } while (0)

START_TEST(residual_norm)
{
    ser_residual_norm_args good = {.x = tensor(8, 6),
                                   .h = tensor(8, 6),
                                   .rows = rows_of(4),
                                   .gamma = tensor(1, 6),
                                   .beta = tensor(1, 6),
                                   .eps = 1e-5F,
                                   .y = tensor(8, 6)};
    assert_refused(residual_norm, ser_residual_norm_args, good, a.y.data = NULL,
                   "neither sum nor y");
    assert_refused(residual_norm, ser_residual_norm_args, good, a.h.rows = 7, "h is [7, 6]");
    assert_refused(residual_norm, ser_residual_norm_args, good, a.eps = -1.0F, "eps");
    assert_refused(residual_norm, ser_residual_norm_args, good, a.beta.cols = 5, "beta is [1, 5]");
    assert_refused(residual_norm, ser_residual_norm_args, good, a.sum = a.y, "sum and y overlap");
    assert_ok(ser_residual_norm_fwd(&queue, &good));
    good.sum = good.h;
    good.y = good.x;
    assert_ok(ser_residual_norm_fwd(&queue, &good)); /* in place is allowed here */
    good.y = (ser_tensor){0};
    good.gamma = (ser_tensor){0};
    assert_ok(ser_residual_norm_fwd(&queue, &good)); /* only the sum */
}
END_TEST

START_TEST(attention)
{
    ser_attention_args good = {
        .qkv = tensor(8, 18), .rows = rows_of(4), .heads = 2, .scale = 0.5F, .y = tensor(8, 6)};
    assert_refused(attention, ser_attention_args, good, a.heads = 4, "heads do not divide");
    assert_refused(attention, ser_attention_args, good, a.heads = 0, "heads is 0");
    assert_refused(attention, ser_attention_args, good, a.scale = 0.0F, "scale");
    assert_refused(attention, ser_attention_args, good, a.qkv.cols = 12,
                   "qkv is [8, 12], not [8, 18]");
    assert_refused(attention, ser_attention_args, good, a.y.data = memory + 10, "overlap");
    assert_ok(ser_attention_fwd(&queue, &good));
}
END_TEST

START_TEST(layer_mix)
{
    ser_layer_mix_args good = {
        .x = tensor(8, 6), .rows = rows_of(4), .w = tensor(1, 3), .index = 2, .y = tensor(8, 6)};
    assert_refused(layer_mix, ser_layer_mix_args, good, a.index = 3, "index");
    assert_refused(layer_mix, ser_layer_mix_args, good, a.index = -1, "index");
    assert_refused(layer_mix, ser_layer_mix_args, good, a.w.rows = 2, "w is [2, 3], not [1, 3]");
    assert_refused(layer_mix, ser_layer_mix_args, good, a.y = a.x, "overlap");
    assert_ok(ser_layer_mix_fwd(&queue, &good));
}
END_TEST

START_TEST(attn_pool)
{
    ser_attn_pool_args good = {.x = tensor(8, 6),
                               .u = tensor(8, 5),
                               .rows = rows_of(4),
                               .w = tensor(1, 5),
                               .b = tensor(1, 1),
                               .alpha = tensor(8, 1),
                               .y = tensor(2, 6)};
    assert_refused(attn_pool, ser_attn_pool_args, good, a.alpha.rows = 2, "alpha is [2, 1]");
    assert_refused(attn_pool, ser_attn_pool_args, good, a.y.rows = 8, "y is [8, 6], not [2, 6]");
    assert_refused(attn_pool, ser_attn_pool_args, good, a.w.cols = 6, "w is [1, 6], not [1, 5]");
    assert_refused(attn_pool, ser_attn_pool_args, good, a.u.data = NULL, "u is absent");
    assert_refused(attn_pool, ser_attn_pool_args, good, a.b.cols = 2, "b is [1, 2]");
    assert_ok(ser_attn_pool_fwd(&queue, &good));
    good.w = (ser_tensor){0}; /* the mean */
    good.b = (ser_tensor){0};
    assert_ok(ser_attn_pool_fwd(&queue, &good));
}
END_TEST

START_TEST(cross_entropy)
{
    ser_cross_entropy_args good = {.logits = tensor(2, 8), .probabilities = tensor(2, 8)};
    assert_refused(cross_entropy, ser_cross_entropy_args, good, a.probabilities.cols = 7,
                   "probabilities is [2, 7]");
    assert_refused(cross_entropy, ser_cross_entropy_args, good, a.probabilities = a.logits,
                   "overlap");
    assert_refused(cross_entropy, ser_cross_entropy_args, good, a.logits.rows = 0, "logits is 0");
    assert_ok(ser_cross_entropy_fwd(&queue, &good));
}
END_TEST

static ser_residual_norm_args good_residual_norm(void)
{
    return (ser_residual_norm_args){.x = tensor(8, 6),
                                    .h = tensor(8, 6),
                                    .rows = rows_of(4),
                                    .gamma = tensor(1, 6),
                                    .beta = tensor(1, 6),
                                    .eps = 1e-5F,
                                    .sum = tensor(8, 6),
                                    .y = tensor(8, 6),
                                    .dropout = {.p = 0.1F, .op = 3, .step = &step},
                                    .stats = tensor(8, 2),
                                    .dy = tensor(8, 6),
                                    .dsum = tensor(8, 6),
                                    .dx = tensor(8, 6),
                                    .dh = tensor(8, 6),
                                    .dgamma = tensor(1, 6),
                                    .dbeta = tensor(1, 6)};
}

START_TEST(residual_norm_training)
{
    typedef ser_residual_norm_args args;
    args good = good_residual_norm();
    assert_dropout_checked(assert_refused, residual_norm, args, good);
    assert_refused(residual_norm, args, good, a.stats.cols = 1, "stats is [8, 1], not [8, 2]");
    assert_refused(residual_norm, args, good, a.stats.type = SER_BF16, "stats is not f32");
    assert_ok(ser_residual_norm_fwd(&queue, &good));

    assert_dropout_checked(assert_bwd_refused, residual_norm, args, good);
    assert_bwd_refused(residual_norm, args, good, a.stats.data = NULL, "stats is absent");
    assert_bwd_refused(residual_norm, args, good, a.gamma.data = NULL, "gamma is absent");
    assert_bwd_refused(residual_norm, args, good, a.sum.data = NULL, "sum was not saved");
    assert_bwd_refused(residual_norm, args, good, a.dx.rows = 7, "dx is [7, 6]");
    assert_bwd_refused(residual_norm, args, good, a.dh.cols = 5, "dh is [8, 5]");
    assert_bwd_refused(residual_norm, args, good, a.dgamma.cols = 5, "dgamma is [1, 5]");
    assert_bwd_refused(residual_norm, args, good, a.dbeta.type = SER_BF16, "dbeta is not f32");
    assert_bwd_refused(residual_norm, args, good, a.dy.data = NULL, "dgamma or dbeta without dy");
    assert_bwd_refused(residual_norm, args, good, a.dy.data = a.dsum.data = NULL,
                       "neither dy nor dsum");
    assert_bwd_refused(residual_norm, args, good, a.dy2 = a.dy, "dy2 without dy, or with dsum");
    assert_bwd_refused(residual_norm, args, good, (a.dy2 = tensor(8, 5), a.dsum.data = NULL),
                       "dy2 is [8, 5]");
    assert_bwd_refused(residual_norm, args, good, a.dh = a.dx, "dx and dh overlap");
    assert_bwd_refused(residual_norm, args, good, a.dx.data = (float *)a.dy.data + 6,
                       "dx and dy overlap");
    assert_bwd_refused(residual_norm, args, good, a.dx.data = (float *)a.dsum.data + 6, "overlap");
    assert_bwd_refused(residual_norm, args, good, a.dh.data = (float *)a.dy.data - 6, "overlap");
    assert_bwd_refused(residual_norm, args, good,
                       (a.dx.data = NULL, a.dh.data = (float *)a.dsum.data + 1),
                       "dh and dsum overlap");
    assert_ok(ser_residual_norm_bwd(&queue, &good));
    good.dx = good.dsum; /* in place is allowed here */
    good.dh = good.dy;
    good.dgamma = good.dbeta = (ser_tensor){0};
    assert_ok(ser_residual_norm_bwd(&queue, &good));
    good.dy = (ser_tensor){0}; /* only the sum was asked for */
    good.stats = good.gamma = good.dh = (ser_tensor){0};
    assert_ok(ser_residual_norm_bwd(&queue, &good));
    ck_assert_int_eq(calls, 4);
}
END_TEST

START_TEST(attention_training)
{
    typedef ser_attention_args args;
    args good = {.qkv = tensor(8, 18),
                 .rows = rows_of(4),
                 .heads = 2,
                 .scale = 0.5F,
                 .y = tensor(8, 6),
                 .dropout = {.p = 0.1F, .op = 3, .step = &step},
                 .lse = tensor(8, 2),
                 .dy = tensor(8, 6),
                 .dqkv = tensor(8, 18)};
    assert_dropout_checked(assert_refused, attention, args, good);
    assert_refused(attention, args, good, a.lse.cols = 3, "lse is [8, 3], not [8, 2]");
    assert_refused(attention, args, good, a.lse.type = SER_BF16, "lse is not f32");
    assert_ok(ser_attention_fwd(&queue, &good));

    assert_dropout_checked(assert_bwd_refused, attention, args, good);
    assert_bwd_refused(attention, args, good, a.lse.data = NULL, "lse is absent");
    assert_bwd_refused(attention, args, good, a.dy.cols = 7, "dy is [8, 7], not [8, 6]");
    assert_bwd_refused(attention, args, good, a.dqkv.data = NULL, "dqkv is absent");
    assert_bwd_refused(attention, args, good, a.dqkv = a.qkv, "qkv and dqkv overlap");
    assert_bwd_refused(attention, args, good, a.dy.data = a.dqkv.data, "dy and dqkv overlap");
    assert_bwd_refused(attention, args, good, a.y.data = a.dqkv.data, "y and dqkv overlap");
    assert_bwd_refused(attention, args, good, a.heads = 4, "heads do not divide");
    assert_ok(ser_attention_bwd(&queue, &good));
}
END_TEST

START_TEST(layer_mix_bwd)
{
    typedef ser_layer_mix_args args;
    args good = {.x = tensor(8, 6),
                 .rows = rows_of(4),
                 .w = tensor(1, 3),
                 .index = 2,
                 .dy = tensor(8, 6),
                 .dx = tensor(8, 6),
                 .dots = tensor(1, 3),
                 .dw = tensor(1, 3)};
    assert_bwd_refused(layer_mix, args, good, a.index = 3, "index");
    assert_bwd_refused(layer_mix, args, good, a.dots.data = NULL, "dots is absent");
    assert_bwd_refused(layer_mix, args, good, a.x.data = NULL, "x is absent");
    assert_bwd_refused(layer_mix, args, good, a.dw.cols = 2, "dw is [1, 2], not [1, 3]");
    assert_bwd_refused(layer_mix, args, good, a.dx.rows = 2, "dx is [2, 6], not [8, 6]");
    assert_bwd_refused(layer_mix, args, good, a.dx = a.dy, "dy and dx overlap");
    assert_bwd_refused(layer_mix, args, good, a.dx = a.x, "x and dx overlap");
    assert_ok(ser_layer_mix_bwd(&queue, &good));
    good.dw = good.dots = good.x = (ser_tensor){0}; /* frozen weights */
    assert_ok(ser_layer_mix_bwd(&queue, &good));
}
END_TEST

START_TEST(attn_pool_bwd)
{
    typedef ser_attn_pool_args args;
    args good = {.x = tensor(8, 6),
                 .u = tensor(8, 5),
                 .rows = rows_of(4),
                 .w = tensor(1, 5),
                 .b = tensor(1, 1),
                 .alpha = tensor(8, 1),
                 .dy = tensor(2, 6),
                 .dx = tensor(8, 6),
                 .du = tensor(8, 5),
                 .dw = tensor(1, 5),
                 .db = tensor(1, 1)};
    assert_bwd_refused(attn_pool, args, good, a.dy.rows = 8, "dy is [8, 6], not [2, 6]");
    assert_bwd_refused(attn_pool, args, good, a.alpha.data = NULL, "alpha is absent");
    assert_bwd_refused(attn_pool, args, good, a.dx.cols = 5, "dx is [8, 5], not [8, 6]");
    assert_bwd_refused(attn_pool, args, good, a.du.cols = 6, "du is [8, 6], not [8, 5]");
    assert_bwd_refused(attn_pool, args, good, a.dw.cols = 6, "dw is [1, 6], not [1, 5]");
    assert_bwd_refused(attn_pool, args, good, a.db.cols = 2, "db is [1, 2]");
    assert_bwd_refused(attn_pool, args, good, a.w.data = NULL, "dw or db without w");
    assert_bwd_refused(attn_pool, args, good, a.dx = a.x, "x and dx overlap");
    assert_bwd_refused(attn_pool, args, good, a.du = a.u, "u and du overlap");
    assert_bwd_refused(attn_pool, args, good, a.du.data = a.dx.data, "dx and du overlap");
    assert_ok(ser_attn_pool_bwd(&queue, &good));
    good.u = good.x;
    good.w = good.dw = tensor(1, 6);
    assert_bwd_refused(attn_pool, args, good, a.du.cols = 6, "u is x");
    good.du = (ser_tensor){0};
    assert_ok(ser_attn_pool_bwd(&queue, &good));
}
END_TEST

START_TEST(cross_entropy_training)
{
    typedef ser_cross_entropy_args args;
    args good = {.logits = tensor(2, 8),
                 .mask = tensor(2, 8),
                 .probabilities = tensor(2, 8),
                 .targets = tensor(2, 8),
                 .loss = tensor(2, 1),
                 .scale = 0.5F,
                 .dlogits = tensor(2, 8)};
    assert_refused(cross_entropy, args, good, a.mask.cols = 7, "mask is [2, 7], not [2, 8]");
    assert_refused(cross_entropy, args, good, a.mask.type = SER_BF16, "mask is not f32");
    assert_refused(cross_entropy, args, good, a.targets.data = NULL, "targets is absent");
    assert_refused(cross_entropy, args, good, a.targets.rows = 1, "targets is [1, 8]");
    assert_refused(cross_entropy, args, good, a.loss.cols = 2, "loss is [2, 2], not [2, 1]");
    assert_ok(ser_cross_entropy_fwd(&queue, &good));

    assert_bwd_refused(cross_entropy, args, good, a.targets.data = NULL, "targets is absent");
    assert_bwd_refused(cross_entropy, args, good, a.targets.type = SER_BF16, "targets is not f32");
    assert_bwd_refused(cross_entropy, args, good, a.dlogits.cols = 9, "dlogits is [2, 9]");
    assert_bwd_refused(cross_entropy, args, good, a.dlogits = a.probabilities, "overlap");
    assert_bwd_refused(cross_entropy, args, good, a.dlogits = a.targets, "overlap");
    assert_bwd_refused(cross_entropy, args, good, a.probabilities.data = NULL,
                       "probabilities is absent");
    assert_ok(ser_cross_entropy_bwd(&queue, &good));
}
END_TEST

START_TEST(dropout)
{
    typedef ser_dropout_args args;
    args good = {.x = tensor(8, 6),
                 .rows = rows_of(4),
                 .activation = SER_ACT_TANH,
                 .dropout = {.p = 0.1F, .op = 3, .step = &step},
                 .y = tensor(8, 6),
                 .dy = tensor(8, 6),
                 .dx = tensor(8, 6)};
    assert_dropout_checked(assert_refused, dropout, args, good);
    assert_refused(dropout, args, good, a.activation = 9, "activation");
    assert_refused(dropout, args, good, a.y.rows = 7, "y is [7, 6], not [8, 6]");
    assert_refused(dropout, args, good, a.x.data = NULL, "x is absent");
    assert_refused(dropout, args, good, a.y.data = (float *)a.x.data + 6, "x and y overlap");
    assert_ok(ser_dropout_fwd(&queue, &good));

    assert_dropout_checked(assert_bwd_refused, dropout, args, good);
    assert_bwd_refused(dropout, args, good, a.activation = -1, "activation");
    assert_bwd_refused(dropout, args, good, a.x.data = NULL, "x is absent");
    assert_bwd_refused(dropout, args, good, a.dx = a.x, "x and dx overlap");
    assert_bwd_refused(dropout, args, good, a.dx.cols = 5, "dx is [8, 5], not [8, 6]");
    assert_bwd_refused(dropout, args, good, a.dy.data = NULL, "dy is absent");
    assert_bwd_refused(dropout, args, good, a.dx.data = (float *)a.dy.data + 6, "overlap");
    assert_bwd_refused(dropout, args, good, a.y.cols = 5, "y is [8, 5], not [8, 6]");
    assert_bwd_refused(dropout, args, good, a.y.data = (float *)a.x.data + 6, "x and y overlap");
    assert_bwd_refused(dropout, args, good, a.y.data = (float *)a.dy.data + 6, "dy and y overlap");
    assert_bwd_refused(dropout, args, good, a.y = a.dx, "dx and y overlap");
    assert_bwd_refused(dropout, args, good, a.y = a.dx = a.dy, "dx and y overlap");
    assert_ok(ser_dropout_bwd(&queue, &good));
    good.y = good.dy; /* in place */
    assert_ok(ser_dropout_bwd(&queue, &good));
    good.activation = SER_ACT_NONE;
    good.y = good.x; /* in place is allowed here */
    assert_ok(ser_dropout_fwd(&queue, &good));
    good.dx = good.dy;
    good.y = tensor(8, 6);
    assert_bwd_refused(dropout, args, good, a.x.data = NULL, "x is absent");
    good.y = good.x = (ser_tensor){0};
    good.dropout = (ser_dropout){0}; /* p is 0: no step is needed */
    assert_ok(ser_dropout_bwd(&queue, &good));
}
END_TEST

START_TEST(span_mask)
{
    typedef ser_span_mask_args args;
    const int32_t spans[4] = {0};
    args good = {.x = tensor(8, 6),
                 .rows = rows_of(4),
                 .time = spans,
                 .time_spans = 1,
                 .channel = spans,
                 .channel_spans = 1};
#define assert_mask_refused(change, part)                                                          \
    refuse(ser_span_mask, "span_mask", args, good, change, part)
    assert_mask_refused(a.x.data = NULL, "x is absent");
    assert_mask_refused(a.time = NULL, "time is absent");
    assert_mask_refused(a.channel = NULL, "channel is absent");
    assert_mask_refused(a.time_spans = -1, "time_spans is -1");
    assert_mask_refused(a.channel_spans = -1, "channel_spans is -1");
    assert_ok(ser_span_mask(&queue, &good));
}
END_TEST

START_TEST(sum_squares)
{
    typedef ser_sum_squares_args args;
    double sum = 0.0;
    args good = {.x = memory, .count = 5, .sum = &sum};
#define assert_sum_refused(change, part)                                                           \
    refuse(ser_sum_squares, "sum_squares", args, good, change, part)
    assert_sum_refused(a.x = NULL, "x is absent");
    assert_sum_refused(a.sum = NULL, "sum is absent");
    assert_sum_refused(a.count = 0, "count is 0");
    assert_ok(ser_sum_squares(&queue, &good));
}
END_TEST

START_TEST(adamw)
{
    typedef ser_adamw_args args;
    const ser_adamw_range range = {.end = 5, .rate = 1.0F};
    const double sum = 1.0;
    int32_t skipped;
    args good = {.w = memory,
                 .m = memory + 10,
                 .v = memory + 20,
                 .gradient = memory + 30,
                 .count = 5,
                 .ranges = &range,
                 .range_count = 1,
                 .beta1 = 0.9,
                 .beta2 = 0.999,
                 .eps = 1e-8F,
                 .step = &step,
                 .sum = &sum,
                 .skipped = &skipped};
#define assert_adamw_refused(change, part) refuse(ser_adamw, "adamw", args, good, change, part)
    assert_adamw_refused(a.w = NULL, "w is absent");
    assert_adamw_refused(a.m = NULL, "m is absent");
    assert_adamw_refused(a.v = NULL, "v is absent");
    assert_adamw_refused(a.gradient = NULL, "gradient is absent");
    assert_adamw_refused(a.ranges = NULL, "ranges is absent");
    assert_adamw_refused(a.step = NULL, "step is absent");
    assert_adamw_refused(a.sum = NULL, "sum is absent");
    assert_adamw_refused(a.skipped = NULL, "skipped is absent");
    assert_adamw_refused(a.count = 0, "count is 0");
    assert_adamw_refused(a.range_count = 0, "range_count is 0");
    assert_adamw_refused(a.beta1 = 1.0, "beta1");
    assert_adamw_refused(a.beta2 = -0.1, "beta2");
    assert_adamw_refused(a.eps = -1.0F, "eps");
    assert_ok(ser_adamw(&queue, &good));
}
END_TEST

/* Shapes alone are enough to plan, and no arguments never are. */
START_TEST(planning_and_nothing)
{
    ser_residual_norm_args norm = good_residual_norm();
    ser_tensor *tensors[] = {&norm.x,     &norm.h,      &norm.gamma, &norm.beta, &norm.sum,
                             &norm.y,     &norm.dy,     &norm.dsum,  &norm.dx,   &norm.dh,
                             &norm.stats, &norm.dgamma, &norm.dbeta};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        tensors[i]->data = NULL;
    }
    norm.rows.valid = NULL;
    norm.dropout.step = NULL;
    queue.planning = true;
    assert_ok(ser_residual_norm_fwd(&queue, &norm));
    assert_ok(ser_residual_norm_bwd(&queue, &norm));
    assert_ok(ser_sum_squares(&queue, &(ser_sum_squares_args){.count = 3}));
    assert_ok(ser_adamw(&queue, &(ser_adamw_args){.count = 3, .range_count = 1}));
    ck_assert_int_eq(calls, 0);
    queue.planning = false;
    assert_fails(ser_residual_norm_bwd(&queue, NULL), SER_ERR_INTERNAL, "no arguments");
    assert_fails(ser_attention_bwd(&queue, NULL), SER_ERR_INTERNAL, "no arguments");
    assert_fails(ser_layer_mix_bwd(&queue, NULL), SER_ERR_INTERNAL, "no arguments");
    assert_fails(ser_attn_pool_bwd(&queue, NULL), SER_ERR_INTERNAL, "no arguments");
    assert_fails(ser_cross_entropy_bwd(&queue, NULL), SER_ERR_INTERNAL, "no arguments");
    assert_fails(ser_dropout_fwd(&queue, NULL), SER_ERR_INTERNAL, "no arguments");
    assert_fails(ser_dropout_bwd(&queue, NULL), SER_ERR_INTERNAL, "no arguments");
    assert_fails(ser_span_mask(&queue, NULL), SER_ERR_INTERNAL, "no arguments");
    assert_fails(ser_sum_squares(&queue, NULL), SER_ERR_INTERNAL, "no arguments");
    assert_fails(ser_adamw(&queue, NULL), SER_ERR_INTERNAL, "no arguments");
}
END_TEST

int main(void)
{
    const TTest *tests[] = {residual_norm,
                            residual_norm_training,
                            attention,
                            attention_training,
                            layer_mix,
                            layer_mix_bwd,
                            attn_pool,
                            attn_pool_bwd,
                            cross_entropy,
                            cross_entropy_training,
                            dropout,
                            span_mask,
                            sum_squares,
                            adamw,
                            planning_and_nothing};
    Suite *suite = suite_create("ops_rows");
    TCase *tc = tcase_create("checks");
    tcase_add_checked_fixture(tc, setup, NULL);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        tcase_add_test(tc, tests[i]);
    }
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
