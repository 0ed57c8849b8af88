/* SPDX-License-Identifier: MIT */
/* The checked front of the table, over a backend that only counts. */
#include "harness.h"

#include "ops/ops.h"

struct ser_weight {
    ser_weight_spec spec;
};

static size_t asked_scratch;
static int calls, syncs;
static void *freed;

static size_t fake_scratch(const ser_queue *queue, enum ser_op op, const void *args)
{
    (void)queue;
    (void)op;
    (void)args;
    return asked_scratch;
}

static int fake_alloc(ser_context *context, size_t size, void **memory)
{
    (void)context;
    *memory = ser_mem_alloc_raw(size, 1);
    return *memory != NULL ? 0 : SER_ERR_MEMORY;
}

static void fake_free(ser_context *context, void *memory)
{
    (void)context;
    freed = memory;
    ser_mem_free(memory);
}

static int fake_sync(ser_queue *queue)
{
    (void)queue;
    syncs++;
    return 0;
}

#define FAKE_OP(name)                                                                              \
    static int fake_##name(ser_queue *queue, const ser_##name##_args *args)                        \
    {                                                                                              \
        (void)queue;                                                                               \
        (void)args;                                                                                \
        calls++;                                                                                   \
        return 0;                                                                                  \
    }

FAKE_OP(log_mel)
FAKE_OP(wave_conv)
FAKE_OP(conv)
FAKE_OP(linear)
FAKE_OP(pos_conv)

static const ser_ops fake_ops = {
    .version = SER_OPS_VERSION,
    .bf16 = true,
    .name = "fake",
    .alloc = fake_alloc,
    .free = fake_free,
    .sync = fake_sync,
    .scratch = fake_scratch,
    .log_mel_fwd = fake_log_mel,
    .wave_conv_fwd = fake_wave_conv,
    .conv_fwd = fake_conv,
    .linear_fwd = fake_linear,
    .pos_conv_fwd = fake_pos_conv,
};

static ser_queue queue;
static float memory[8192];
static int32_t valid[2] = {3, 4};
static float *next_free;

static void setup(void)
{
    queue = (ser_queue){.ops = &fake_ops};
    asked_scratch = 0;
    calls = 0;
    syncs = 0;
    freed = NULL;
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

static struct ser_weight weight(int64_t rows, int64_t cols, int64_t groups)
{
    return (struct ser_weight){{.rows = rows, .cols = cols, .groups = groups}};
}

/* One wrong member at a time: `change` spoils good arguments, and the message says `part`. */
#define assert_refused(op, type, good, change, part)                                               \
    do {                                                                                           \
        type a = (good);                                                                           \
        change;                                                                                    \
        assert_fails(ser_##op##_fwd(&queue, &a), SER_ERR_INTERNAL, part);                          \
        ck_assert_msg(strncmp(ser_fail_text(), #op ":", sizeof #op) == 0, "%s", ser_fail_text());  \
        ck_assert_int_eq(calls, 0);                                                                \
    } while (0)

static struct ser_weight w1, w2;

static ser_tensor tensor_bf16(int64_t rows, int64_t cols)
{
    ser_tensor t = tensor(rows, cols);
    t.type = SER_BF16;
    return t;
}

static ser_linear_args good_linear(void)
{
    w1 = weight(5, 7, 1);
    return (ser_linear_args){.x = tensor(8, 7),
                             .rows = rows_of(4),
                             .w = &w1,
                             .bias = tensor(1, 5),
                             .activation = SER_ACT_GELU,
                             .y = tensor(8, 5)};
}

static ser_linear_args good_linear_bf16(void)
{
    ser_linear_args args = good_linear();
    w1.spec.type = SER_BF16;
    args.x = tensor_bf16(8, 7);
    args.y = tensor_bf16(8, 5);
    args.bias_bf16 = tensor_bf16(1, 5);
    return args;
}

START_TEST(linear_bf16)
{
    ser_linear_args good = good_linear_bf16();
    assert_ok(ser_linear_fwd(&queue, &good));
    calls = 0;
    assert_refused(linear, ser_linear_args, good, a.y.type = SER_F32, "y is of type 0");
    assert_refused(linear, ser_linear_args, good, a.x.type = SER_F32, "y is of type 1");
    assert_refused(linear, ser_linear_args, good, a.bias_bf16.data = NULL, "bias_bf16 is absent");
    assert_refused(linear, ser_linear_args, good, a.bias_bf16.cols = 4, "bias_bf16 is [1, 4]");
    assert_refused(linear, ser_linear_args, good, a.bias_bf16.type = SER_F32, "is not bf16");
    assert_refused(linear, ser_linear_args, good, a.bias.data = NULL, "without need");
    w1.spec.type = SER_F32;
    assert_refused(linear, ser_linear_args, good, (void)a, "for f32 activations only");
    static ser_ops without;
    without = *queue.ops;
    without.bf16 = false;
    ser_queue plain = queue;
    plain.ops = &without;
    assert_fails(ser_linear_fwd(&plain, &good), SER_ERR_INTERNAL, "which fake does not have");
}
END_TEST

START_TEST(linear)
{
    ser_linear_args good = good_linear();
    assert_refused(linear, ser_linear_args, good, a.x.rows = 9, "x is [9, 7], not [8, 7]");
    assert_refused(linear, ser_linear_args, good, a.x.data = NULL, "x is absent");
    assert_refused(linear, ser_linear_args, good, a.y.cols = 6,
                   "w is 1 of [5, 7], not 1 of [6, 7]");
    assert_refused(linear, ser_linear_args, good, a.y.type = 7, "unknown type 7");
    assert_refused(linear, ser_linear_args, good, a.w = NULL, "w is absent");
    assert_refused(linear, ser_linear_args, good, a.bias.cols = 4, "bias is [1, 4], not [1, 5]");
    assert_refused(linear, ser_linear_args, good, a.bias.type = SER_BF16, "bias is not f32");
    assert_refused(linear, ser_linear_args, good, a.activation = 9, "activation");
    assert_refused(linear, ser_linear_args, good, a.y.data = a.x.data, "overlap");
    assert_refused(linear, ser_linear_args, good, a.rows.valid = NULL, "valid lengths");
    assert_refused(linear, ser_linear_args, good, a.rows.batch = 0, "rows is 0");
    assert_refused(linear, ser_linear_args, good, a.rows.padded = INT64_MAX, "out of range");
    assert_fails(ser_linear_fwd(&queue, NULL), SER_ERR_INTERNAL, "linear: no arguments");
    assert_ok(ser_linear_fwd(&queue, &good));
    good.bias = (ser_tensor){0};
    assert_ok(ser_linear_fwd(&queue, &good));
    ck_assert_int_eq(calls, 2);
}
END_TEST

START_TEST(log_mel)
{
    w1 = weight(5, 3, 2);
    w2 = weight(3, 5, 1);
    ser_log_mel_args good = {.pcm = tensor(40, 1),
                             .rows_in = rows_of(20),
                             .rows_out = rows_of(4),
                             .frame = 6,
                             .hop = 2,
                             .floor = 1e-7F,
                             .dft = &w1,
                             .mel = &w2,
                             .mean = tensor(1, 3),
                             .std = tensor(1, 3),
                             .y = tensor(8, 3)};
    assert_refused(log_mel, ser_log_mel_args, good, a.frame = 5,
                   "dft is 2 of [5, 3], not 2 of [5, 2]");
    assert_refused(log_mel, ser_log_mel_args, good, a.hop = 0, "hop is 0");
    assert_refused(log_mel, ser_log_mel_args, good, a.mel = NULL, "dft or mel is absent");
    assert_refused(log_mel, ser_log_mel_args, good, a.pcm.cols = 2, "pcm is [40, 2]");
    assert_refused(log_mel, ser_log_mel_args, good, a.pcm.type = SER_BF16, "pcm is not f32");
    assert_refused(log_mel, ser_log_mel_args, good, a.rows_out.batch = 1,
                   "y is [8, 3], not [4, 3]");
    assert_refused(log_mel, ser_log_mel_args, good, a.std.data = NULL, "std is absent");
    assert_ok(ser_log_mel_fwd(&queue, &good));
}
END_TEST

START_TEST(wave_conv)
{
    ser_wave_conv_args good = {.pcm = tensor(40, 1),
                               .rows_in = rows_of(20),
                               .rows_out = rows_of(4),
                               .kernel = 10,
                               .stride = 5,
                               .norm = SER_CONV_NORM_CLIP,
                               .w = tensor(3, 10),
                               .gamma = tensor(1, 3),
                               .beta = tensor(1, 3),
                               .y = tensor(8, 3)};
    assert_refused(wave_conv, ser_wave_conv_args, good, a.stride = 4,
                   "rows_in.padded is 20, not 16");
    assert_refused(wave_conv, ser_wave_conv_args, good, a.kernel = 9, "w is [3, 10], not [3, 9]");
    assert_refused(wave_conv, ser_wave_conv_args, good, a.norm = 7, "norm");
    assert_refused(wave_conv, ser_wave_conv_args, good, a.norm = SER_CONV_NORM_NONE,
                   "without a norm");
    assert_refused(wave_conv, ser_wave_conv_args, good, a.gamma.data = NULL, "gamma is absent");
    assert_refused(wave_conv, ser_wave_conv_args, good, a.y.data = a.pcm.data, "overlap");
    assert_ok(ser_wave_conv_fwd(&queue, &good));
}
END_TEST

START_TEST(conv)
{
    w1 = weight(3, 15, 1);
    ser_conv_args good = {.x = tensor(16, 5),
                          .rows_in = rows_of(8),
                          .rows_out = rows_of(4),
                          .kernel = 3,
                          .stride = 2,
                          .padding = 1,
                          .norm = SER_CONV_NORM_NONE,
                          .w = &w1,
                          .bias = tensor(1, 3),
                          .y = tensor(8, 3)};
    assert_refused(conv, ser_conv_args, good, a.kernel = 0, "kernel is 0");
    assert_refused(conv, ser_conv_args, good, a.kernel = 2, "not 1 of [3, 10]");
    assert_refused(conv, ser_conv_args, good, a.stride = 1, "rows_in.padded is 8, not 4");
    assert_refused(conv, ser_conv_args, good, a.padding = -1, "padding is -1");
    assert_refused(conv, ser_conv_args, good, a.norm = SER_CONV_NORM_CLIP, "norm");
    assert_refused(conv, ser_conv_args, good, a.norm = SER_CONV_NORM_LAYER, "gamma is absent");
    assert_refused(conv, ser_conv_args, good, a.beta = a.bias, "without a norm");
    assert_ok(ser_conv_fwd(&queue, &good));
}
END_TEST

START_TEST(pos_conv)
{
    w1 = weight(3, 12, 2);
    ser_pos_conv_args good = {.x = tensor(8, 6),
                              .rows = rows_of(4),
                              .kernel = 4,
                              .groups = 2,
                              .w = &w1,
                              .bias = tensor(1, 6),
                              .y = tensor(8, 6)};
    assert_refused(pos_conv, ser_pos_conv_args, good, a.groups = 4, "groups do not divide");
    assert_refused(pos_conv, ser_pos_conv_args, good, a.groups = 3, "not 3 of [2, 8]");
    assert_refused(pos_conv, ser_pos_conv_args, good, a.bias.data = NULL, "bias is absent");
    assert_refused(pos_conv, ser_pos_conv_args, good, a.y.data = a.x.data, "overlap");
    assert_ok(ser_pos_conv_fwd(&queue, &good));
}
END_TEST

START_TEST(planning_records_the_largest_need_and_runs_nothing)
{
    ser_linear_args args = good_linear();
    args.x.data = NULL;
    args.y.data = NULL;
    args.bias.data = NULL;
    args.rows.valid = NULL;
    queue.planning = true;
    asked_scratch = 1000;
    assert_ok(ser_linear_fwd(&queue, &args));
    asked_scratch = 300;
    assert_ok(ser_linear_fwd(&queue, &args));
    ck_assert_int_eq(calls, 0);
    ck_assert_uint_eq(queue.planned, 1000);
    args.x.rows = 3;
    assert_fails(ser_linear_fwd(&queue, &args), SER_ERR_INTERNAL, "x is [3, 7]");
    assert_ok(ser_queue_reserve(&queue, NULL));
    ck_assert(!queue.planning);
    ck_assert_uint_eq(queue.scratch_size, 1000);
    ck_assert_ptr_nonnull(queue.scratch);
    args = good_linear();
    assert_ok(ser_linear_fwd(&queue, &args));
    ck_assert_int_eq(calls, 1);
    asked_scratch = 1001;
    assert_fails(ser_linear_fwd(&queue, &args), SER_ERR_INTERNAL, "1001 bytes of scratch");
    ser_mem_free(queue.scratch);
}
END_TEST

START_TEST(reserve_grows_never_shrinks_and_survives_failure)
{
    int64_t live = ser_mem_live();
    assert_ok(ser_queue_reserve(&queue, NULL));
    ck_assert_ptr_null(queue.scratch);
    queue.planned = 100;
    assert_ok(ser_queue_reserve(&queue, NULL));
    void *first = queue.scratch;
    queue.planned = 50;
    assert_ok(ser_queue_reserve(&queue, NULL));
    ck_assert_ptr_eq(queue.scratch, first);
    ck_assert_uint_eq(queue.scratch_size, 100);
    queue.planned = 200;
    queue.planning = true;
    ser_mem_fail_at(1, false);
    assert_fails(ser_queue_reserve(&queue, NULL), SER_ERR_MEMORY, "out of memory");
    ck_assert_ptr_null(queue.scratch);
    ck_assert_uint_eq(queue.scratch_size, 0);
    ck_assert(!queue.planning);
    ck_assert_ptr_eq(freed, first);
    ck_assert_int_eq(syncs, 2);
    ck_assert_uint_eq(queue.planned, 100); /* what did not fit is not asked for again */
    assert_ok(ser_queue_reserve(&queue, NULL));
    ck_assert_uint_eq(queue.scratch_size, 100);
    queue.planned = 200;
    assert_ok(ser_queue_reserve(&queue, NULL));
    ck_assert_uint_eq(queue.scratch_size, 200);
    ser_mem_free(queue.scratch);
    ck_assert_int_eq(ser_mem_live(), live);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ops_checks");
    TCase *tc = tcase_create("checks");
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, linear);
    tcase_add_test(tc, linear_bf16);
    tcase_add_test(tc, log_mel);
    tcase_add_test(tc, wave_conv);
    tcase_add_test(tc, conv);
    tcase_add_test(tc, pos_conv);
    tcase_add_test(tc, planning_records_the_largest_need_and_runs_nothing);
    tcase_add_test(tc, reserve_grows_never_shrinks_and_survives_failure);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
