/* SPDX-License-Identifier: MIT */
/* The checked front of the products' training members, over a backend that only counts; all that
 * prediction needs is in test_ops_checks.c. */
#include "harness.h"

#include "ops/ops.h"

struct ser_weight {
    ser_weight_spec spec;
};

static int calls;

static size_t no_scratch(const ser_queue *queue, enum ser_op op, const void *args)
{
    (void)queue;
    (void)op;
    (void)args;
    return 0;
}

#define FAKE_OP(name, type)                                                                        \
    static int fake_##name(ser_queue *queue, const type *args)                                     \
    {                                                                                              \
        (void)queue;                                                                               \
        (void)args;                                                                                \
        calls++;                                                                                   \
        return 0;                                                                                  \
    }

FAKE_OP(mel_warp_fwd, ser_mel_warp_args)
FAKE_OP(wave_conv_fwd, ser_wave_conv_args)
FAKE_OP(wave_conv_bwd, ser_wave_conv_args)
FAKE_OP(conv_fwd, ser_conv_args)
FAKE_OP(conv_bwd, ser_conv_args)
FAKE_OP(linear_bwd, ser_linear_args)
FAKE_OP(pos_conv_fwd, ser_pos_conv_args)
FAKE_OP(pos_conv_bwd, ser_pos_conv_args)
FAKE_OP(weight_norm_fwd, ser_weight_norm_args)
FAKE_OP(weight_norm_bwd, ser_weight_norm_args)

static const ser_ops fake_ops = {
    .version = SER_OPS_VERSION,
    .bf16 = true,
    .name = "fake",
    .scratch = no_scratch,
    .mel_warp_fwd = fake_mel_warp_fwd,
    .wave_conv_fwd = fake_wave_conv_fwd,
    .wave_conv_bwd = fake_wave_conv_bwd,
    .conv_fwd = fake_conv_fwd,
    .conv_bwd = fake_conv_bwd,
    .linear_bwd = fake_linear_bwd,
    .pos_conv_fwd = fake_pos_conv_fwd,
    .pos_conv_bwd = fake_pos_conv_bwd,
    .weight_norm_fwd = fake_weight_norm_fwd,
    .weight_norm_bwd = fake_weight_norm_bwd,
};

static ser_queue queue;
static float memory[8192];
static int32_t valid[2] = {3, 4};
static float *next_free;
static struct ser_weight weight;

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
#define assert_refused(op, name, type, good, change, part)                                         \
    do {                                                                                           \
        type a = (good);                                                                           \
        change;                                                                                    \
        const int before = calls;                                                                  \
        assert_fails(ser_##op(&queue, &a), SER_ERR_INTERNAL, part);                                \
        ck_assert_msg(strncmp(ser_fail_text(), name ":", sizeof name) == 0, "%s",                  \
                      ser_fail_text());                                                            \
        ck_assert_int_eq(calls, before);                                                           \
    } while (0)

#define absent ((ser_tensor){0})

START_TEST(linear)
{
    weight.spec = (ser_weight_spec){.rows = 5, .cols = 7, .groups = 1};
    const ser_linear_args good = {.x = tensor(8, 7),
                                  .rows = rows_of(4),
                                  .w = &weight,
                                  .dy = tensor(8, 5),
                                  .dx = tensor(8, 7),
                                  .dw = tensor(5, 7),
                                  .dbias = tensor(1, 5)};
#define REFUSED(change, part)                                                                      \
    assert_refused(linear_bwd, "linear_bwd", ser_linear_args, good, change, part)
    REFUSED(a.dy.data = NULL, "dy is absent");
    REFUSED(a.dy.rows = 4, "dy is [4, 5], not [8, 5]");
    REFUSED(a.dy.cols = 6, "w is 1 of [5, 7], not 1 of [6, 7]");
    REFUSED(a.w = NULL, "w is absent");
    REFUSED(a.activation = SER_ACT_GELU, "activation");
    REFUSED(a.dx.cols = 6, "dx is [8, 6], not [8, 7]");
    REFUSED(a.x.data = NULL, "x is absent");
    REFUSED(a.x.cols = 6, "x is [8, 6], not [8, 7]");
    REFUSED(a.dw.rows = 4, "dw is [4, 7], not [5, 7]");
    REFUSED(a.dw.type = SER_BF16, "dw is not f32");
    REFUSED(a.dbias.cols = 4, "dbias is [1, 4], not [1, 5]");
    REFUSED(a.dbias.type = SER_BF16, "dbias is not f32");
    REFUSED(a.dx.data = a.dy.data, "dy and dx overlap");
    REFUSED(a.rows.valid = NULL, "valid lengths");
#undef REFUSED
    assert_fails(ser_linear_bwd(&queue, NULL), SER_ERR_INTERNAL, "linear_bwd: no arguments");
    assert_ok(ser_linear_bwd(&queue, &good));
    ser_linear_args frozen = good;
    frozen.x = frozen.dw = frozen.dbias = absent;
    assert_ok(ser_linear_bwd(&queue, &frozen));
    ck_assert_int_eq(calls, 2);
}
END_TEST

START_TEST(conv)
{
    weight.spec = (ser_weight_spec){.rows = 3, .cols = 15, .groups = 1};
    const ser_conv_args good = {.x = tensor(16, 5),
                                .rows_in = rows_of(8),
                                .rows_out = rows_of(4),
                                .kernel = 3,
                                .stride = 2,
                                .padding = 1,
                                .norm = SER_CONV_NORM_LAYER,
                                .w = &weight,
                                .gamma = tensor(1, 3),
                                .beta = tensor(1, 3),
                                .y = tensor(8, 3),
                                .z = tensor(8, 3),
                                .dy = tensor(8, 3),
                                .dx = tensor(16, 5),
                                .dw = tensor(3, 15),
                                .dbias = tensor(1, 3),
                                .dgamma = tensor(1, 3),
                                .dbeta = tensor(1, 3)};
#define REFUSED(change, part)                                                                      \
    assert_refused(conv_bwd, "conv_bwd", ser_conv_args, good, change, part)
    REFUSED(a.dy.data = NULL, "dy is absent");
    REFUSED(a.z.data = NULL, "z is absent");
    REFUSED(a.z.cols = 4, "z is [8, 4], not [8, 3]");
    REFUSED(a.kernel = 0, "kernel is 0");
    REFUSED(a.kernel = 2, "w is 1 of [3, 15], not 1 of [3, 14]");
    REFUSED(a.stride = 3, "rows_in.padded is 8, not 12");
    REFUSED(a.padding = -1, "padding is -1");
    REFUSED(a.w = NULL, "w is absent");
    REFUSED(a.norm = SER_CONV_NORM_CLIP, "norm");
    REFUSED(a.norm = SER_CONV_NORM_NONE, "without a norm");
    REFUSED((a.norm = SER_CONV_NORM_NONE, a.gamma = a.beta = absent),
            "dgamma or dbeta without a norm");
    REFUSED(a.gamma.data = NULL, "gamma is absent");
    REFUSED(a.dx.rows = 8, "dx is [8, 5], not [16, 5]");
    REFUSED(a.dx.cols = 4, "dx is [16, 4], not [16, 5]");
    REFUSED(a.x.data = NULL, "x is absent");
    REFUSED(a.dw.cols = 5, "dw is [3, 5], not [3, 15]");
    REFUSED(a.dw.type = SER_BF16, "dw is not f32");
    REFUSED(a.dgamma.cols = 2, "dgamma is [1, 2]");
    REFUSED(a.dbeta.cols = 2, "dbeta is [1, 2]");
    REFUSED(a.dbias.cols = 2, "dbias is [1, 2]");
    REFUSED(a.dx.data = a.dy.data, "dy and dx overlap");
    REFUSED(a.z.data = a.dx.data, "z and dx overlap");
#undef REFUSED
    assert_refused(conv_fwd, "conv", ser_conv_args, good, a.z.rows = 4, "z is [4, 3], not [8, 3]");
    assert_refused(conv_fwd, "conv", ser_conv_args, good, a.z = a.y, "z and y overlap");
    assert_refused(conv_fwd, "conv", ser_conv_args, good, a.z.data = a.x.data, "x and z overlap");
    assert_fails(ser_conv_bwd(&queue, NULL), SER_ERR_INTERNAL, "conv_bwd: no arguments");
    assert_ok(ser_conv_fwd(&queue, &good));
    assert_ok(ser_conv_bwd(&queue, &good));
    ser_conv_args frozen = good;
    frozen.x = frozen.dw = frozen.dbias = frozen.dgamma = frozen.dbeta = absent;
    assert_ok(ser_conv_bwd(&queue, &frozen));
    ck_assert_int_eq(calls, 3);
}
END_TEST

START_TEST(wave_conv)
{
    const ser_wave_conv_args good = {.pcm = tensor(40, 1),
                                     .rows_in = rows_of(20),
                                     .rows_out = rows_of(4),
                                     .kernel = 10,
                                     .stride = 5,
                                     .norm = SER_CONV_NORM_CLIP,
                                     .w = tensor(3, 10),
                                     .gamma = tensor(1, 3),
                                     .beta = tensor(1, 3),
                                     .y = tensor(8, 3),
                                     .z = tensor(8, 3),
                                     .dy = tensor(8, 3),
                                     .dw = tensor(3, 10),
                                     .dbias = tensor(1, 3),
                                     .dgamma = tensor(1, 3),
                                     .dbeta = tensor(1, 3)};
#define REFUSED(change, part)                                                                      \
    assert_refused(wave_conv_bwd, "wave_conv_bwd", ser_wave_conv_args, good, change, part)
    REFUSED(a.dy.data = NULL, "dy is absent");
    REFUSED(a.z.data = NULL, "z is absent");
    REFUSED(a.pcm.data = NULL, "pcm is absent");
    REFUSED(a.stride = 4, "rows_in.padded is 20, not 16");
    REFUSED(a.w.cols = 9, "w is [3, 9], not [3, 10]");
    REFUSED(a.norm = 7, "norm");
    REFUSED((a.norm = SER_CONV_NORM_NONE, a.gamma = a.beta = absent),
            "dgamma or dbeta without a norm");
    REFUSED(a.beta.data = NULL, "beta is absent");
    REFUSED(a.dw.cols = 9, "dw is [3, 9]");
    REFUSED(a.dw.type = SER_BF16, "dw is not f32");
    REFUSED(a.dbias.cols = 2, "dbias is [1, 2]");
    REFUSED(a.dgamma.cols = 2, "dgamma is [1, 2]");
    REFUSED(a.dbeta.type = SER_BF16, "dbeta is not f32");
#undef REFUSED
    assert_refused(wave_conv_fwd, "wave_conv", ser_wave_conv_args, good, a.z.cols = 4,
                   "z is [8, 4], not [8, 3]");
    assert_refused(wave_conv_fwd, "wave_conv", ser_wave_conv_args, good, a.z = a.y,
                   "z and y overlap");
    assert_fails(ser_wave_conv_bwd(&queue, NULL), SER_ERR_INTERNAL, "wave_conv_bwd: no arguments");
    assert_ok(ser_wave_conv_fwd(&queue, &good));
    assert_ok(ser_wave_conv_bwd(&queue, &good));
    ck_assert_int_eq(calls, 2);
}
END_TEST

START_TEST(pos_conv)
{
    weight.spec = (ser_weight_spec){.rows = 3, .cols = 12, .groups = 2};
    const ser_pos_conv_args good = {.x = tensor(8, 6),
                                    .rows = rows_of(4),
                                    .kernel = 4,
                                    .groups = 2,
                                    .w = &weight,
                                    .bias = tensor(1, 6),
                                    .y = tensor(8, 6),
                                    .z = tensor(8, 6),
                                    .dy = tensor(8, 6),
                                    .dx = tensor(8, 6),
                                    .dw = tensor(6, 12),
                                    .dbias = tensor(1, 6)};
#define REFUSED(change, part)                                                                      \
    assert_refused(pos_conv_bwd, "pos_conv_bwd", ser_pos_conv_args, good, change, part)
    REFUSED(a.dy.data = NULL, "dy is absent");
    REFUSED(a.z.data = NULL, "z is absent");
    REFUSED(a.kernel = 0, "kernel is 0");
    REFUSED(a.groups = 0, "groups is 0");
    REFUSED(a.groups = 4, "groups do not divide");
    REFUSED(a.groups = 3, "not 3 of [2, 8]");
    REFUSED(a.dx.rows = 4, "dx is [4, 6]");
    REFUSED(a.dw.cols = 24, "dw is [6, 24], not [6, 12]");
    REFUSED(a.dw.type = SER_BF16, "dw is not f32");
    REFUSED(a.x.data = NULL, "x is absent");
    REFUSED(a.dbias.cols = 3, "dbias is [1, 3]");
    REFUSED(a.dx.data = a.dy.data, "dy and dx overlap");
    REFUSED(a.z.data = a.dx.data, "z and dx overlap");
#undef REFUSED
    assert_refused(pos_conv_fwd, "pos_conv", ser_pos_conv_args, good, a.z.rows = 4, "z is [4, 6]");
    assert_refused(pos_conv_fwd, "pos_conv", ser_pos_conv_args, good, a.z = a.y, "z and y overlap");
    assert_refused(pos_conv_fwd, "pos_conv", ser_pos_conv_args, good, a.z.data = a.x.data,
                   "x and z overlap");
    assert_fails(ser_pos_conv_bwd(&queue, NULL), SER_ERR_INTERNAL, "pos_conv_bwd: no arguments");
    assert_ok(ser_pos_conv_fwd(&queue, &good));
    assert_ok(ser_pos_conv_bwd(&queue, &good));
    ser_pos_conv_args frozen = good;
    frozen.x = frozen.dw = frozen.dbias = absent;
    assert_ok(ser_pos_conv_bwd(&queue, &frozen));
    ck_assert_int_eq(calls, 3);
}
END_TEST

START_TEST(weight_norm)
{
    weight.spec = (ser_weight_spec){.rows = 3, .cols = 12, .groups = 2};
    const ser_weight_norm_args good = {.g = tensor(1, 4),
                                       .v = tensor(6, 12),
                                       .kernel = 4,
                                       .groups = 2,
                                       .w = &weight,
                                       .dw = tensor(6, 12),
                                       .dg = tensor(1, 4),
                                       .dv = tensor(6, 12)};
#define REFUSED(change, part)                                                                      \
    assert_refused(weight_norm_fwd, "weight_norm", ser_weight_norm_args, good, change, part)
    REFUSED(a.kernel = 0, "kernel is 0");
    REFUSED(a.groups = 0, "groups is 0");
    REFUSED(a.groups = 4, "groups do not divide");
    REFUSED(a.g.cols = 3, "g is [1, 3], not [1, 4]");
    REFUSED(a.v.cols = 24, "v is [6, 24], not [6, 12]");
    REFUSED(a.v.type = SER_BF16, "v is not f32");
    REFUSED(a.w = NULL, "w is absent");
    REFUSED((a.groups = 1, a.v = tensor(6, 24)), "w is 2 of [3, 12], not 1 of [6, 24]");
#undef REFUSED
#define REFUSED(change, part)                                                                      \
    assert_refused(weight_norm_bwd, "weight_norm_bwd", ser_weight_norm_args, good, change, part)
    REFUSED(a.g.data = NULL, "g is absent");
    REFUSED(a.dw.data = NULL, "dw is absent");
    REFUSED(a.dw.rows = 3, "dw is [3, 12], not [6, 12]");
    REFUSED(a.dw.type = SER_BF16, "dw is not f32");
    REFUSED(a.dg.cols = 3, "dg is [1, 3]");
    REFUSED(a.dv.cols = 4, "dv is [6, 4], not [6, 12]");
    REFUSED(a.dv.type = SER_BF16, "dv is not f32");
    REFUSED(a.dv = a.dw, "dw and dv overlap");
#undef REFUSED
    assert_fails(ser_weight_norm_fwd(&queue, NULL), SER_ERR_INTERNAL, "weight_norm: no arguments");
    assert_fails(ser_weight_norm_bwd(&queue, NULL), SER_ERR_INTERNAL, "no arguments");
    assert_ok(ser_weight_norm_fwd(&queue, &good));
    ser_weight_norm_args backward = good;
    backward.w = NULL;
    assert_ok(ser_weight_norm_bwd(&queue, &backward));
    ck_assert_int_eq(calls, 2);
}
END_TEST

START_TEST(mel_warp)
{
    const ser_mel_warp_args good = {.x = tensor(8, 6),
                                    .rows = rows_of(4),
                                    .warp = tensor(2, 1),
                                    .offset = tensor(2, 6),
                                    .y = tensor(8, 6)};
#define REFUSED(change, part)                                                                      \
    assert_refused(mel_warp_fwd, "mel_warp", ser_mel_warp_args, good, change, part)
    REFUSED(a.x.rows = 4, "x is [4, 6], not [8, 6]");
    REFUSED(a.warp.rows = 1, "warp is [1, 1], not [2, 1]");
    REFUSED(a.warp.type = SER_BF16, "warp is not f32");
    REFUSED(a.offset.data = NULL, "offset is absent");
    REFUSED(a.offset.cols = 5, "offset is [2, 5], not [2, 6]");
    REFUSED(a.offset.type = SER_BF16, "offset is not f32");
    REFUSED(a.y.cols = 5, "y is [8, 5], not [8, 6]");
    REFUSED(a.y = a.x, "x and y overlap");
#undef REFUSED
    assert_fails(ser_mel_warp_fwd(&queue, NULL), SER_ERR_INTERNAL, "mel_warp: no arguments");
    assert_ok(ser_mel_warp_fwd(&queue, &good));
    ck_assert_int_eq(calls, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("product_checks");
    TCase *tc = tcase_create("checks");
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, linear);
    tcase_add_test(tc, conv);
    tcase_add_test(tc, wave_conv);
    tcase_add_test(tc, pos_conv);
    tcase_add_test(tc, weight_norm);
    tcase_add_test(tc, mel_warp);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
