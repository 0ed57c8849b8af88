/* SPDX-License-Identifier: MIT */
/* convolutions.c over a cuDNN that runs on the CPU (fake_cudnn.h): what is computed where, how
 * calls are cut in parts, and that every failure of cuDNN is answered by doing without it. */
#include <dlfcn.h>
#include <math.h>

#include "fake_cudnn.h"
#include "harness.h"
#include "ops/cuda/convolution_graph.h"
#include "ops/cuda/convolutions.h"

static fake_cudnn *fake;
static ser_context context;
static cuda_queue queue;
static char last_line[512];
static int lines;

/* What convolutions.c needs of the rest of the backend and of CUDA. */
int ser_cuda_status(ser_context *c, cudaError_t error, const char *what)
{
    (void)c;
    (void)error;
    return ser_fail(SER_ERR_DEVICE, "%s", what);
}

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

static void remember(int32_t level, const char *text, void *user)
{
    (void)user;
    ck_assert_int_eq(level, SER_LOG_DEBUG);
    snprintf(last_line, sizeof last_line, "%s", text);
    lines++;
}

static void open_queue(void)
{
    void *library = dlopen("libcudnn_graph.so.9", RTLD_NOW);
    ck_assert_msg(library != NULL, "%s", dlerror());
    void *function = dlsym(library, "fake_cudnn_state");
    ck_assert_msg(function != NULL, "this is not the fake");
    fake_cudnn_function *fake_state;
    memcpy(&fake_state, &function, sizeof function);
    fake = fake_state();
    *fake = (fake_cudnn){0};
    queue = (cuda_queue){.base.context = &context};
    ser_log_set_handler(remember, NULL);
    ser_log_set_level(SER_LOG_DEBUG);
    lines = 0;
    setenv("SER_CUDNN", "1", 1);
}

static void close_queue(void)
{
    const int32_t failed = fake->no_handle ? 1 : 0;
    ser_convolutions_free(queue.convolutions);
    ck_assert_int_eq(fake->descriptors, 0);
    ck_assert_int_eq(fake->handles, failed);
    ck_assert_int_eq(ser_mem_live(), 0);
}

/* --- What is computed --- */

enum { BATCH = 3, IN = 8, OUT = 16, KERNEL = 3, STRIDE = 2, ROWS = 7, PADDING = 1 };
enum { X_ROWS = BATCH * ROWS * STRIDE, SLACK = KERNEL };

static uint16_t x_memory[(PADDING + X_ROWS + SLACK) * IN];
static uint16_t w_memory[OUT * KERNEL * IN];
static uint16_t y_memory[(BATCH * ROWS + 1) * OUT];
static const int32_t valid_in[BATCH] = {13, 6, 1};
static const int32_t valid_out[BATCH] = {7, 3, 1};
static ser_weight weight = {.bf16 = w_memory};

static float of_bf16(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint16_t random_bf16(uint64_t *state)
{
    const float x = harness_random(state);
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static ser_conv_args small_call(void)
{
    return (ser_conv_args){
        .x = {x_memory + PADDING * IN, X_ROWS, IN, SER_BF16},
        .rows_in = {BATCH, ROWS * STRIDE, valid_in},
        .rows_out = {BATCH, ROWS, valid_out},
        .kernel = KERNEL,
        .stride = STRIDE,
        .padding = PADDING,
        .w = &weight,
        .y = {y_memory, BATCH * ROWS, OUT, SER_BF16},
    };
}

/* Zeros in front and between the clips, NaN behind the matrix. */
static void fill_small_call(void)
{
    uint64_t state = 1;
    memset(x_memory, 0, sizeof x_memory);
    for (int64_t row = 0; row < X_ROWS + SLACK; row++) {
        const bool behind = row >= X_ROWS;
        const bool there = !behind && row % (ROWS * STRIDE) < valid_in[row / (ROWS * STRIDE)];
        for (int64_t c = 0; c < IN && (behind || there); c++) {
            x_memory[(PADDING + row) * IN + c] = behind ? 0x7FC0 : random_bf16(&state);
        }
    }
    for (int64_t i = 0; i < OUT * KERNEL * IN; i++) {
        w_memory[i] = random_bf16(&state);
    }
    memset(y_memory, 0xFF, sizeof y_memory); /* NaN */
}

/* The clip alone, with w as the contract has it: [out][tap][in]. */
static double expected(int64_t clip, int64_t row, int64_t channel)
{
    double z = 0.0;
    for (int64_t tap = 0; tap < KERNEL; tap++) {
        const int64_t at = row * STRIDE + tap - PADDING;
        for (int64_t c = 0; c < IN && at >= 0 && at < valid_in[clip]; c++) {
            z += (double)of_bf16(x_memory[(PADDING + clip * ROWS * STRIDE + at) * IN + c]) *
                 (double)of_bf16(w_memory[(channel * KERNEL + tap) * IN + c]);
        }
    }
    return 0.5 * z * (1.0 + erf(z / sqrt(2.0)));
}

START_TEST(test_values)
{
    const ser_conv_args args = small_call();
    fill_small_call();
    ck_assert(ser_convolution_ready(&queue, &args));
    assert_ok(ser_convolution_run(&queue, &args));
    for (int64_t i = 0; i < BATCH * ROWS * OUT; i++) {
        const int64_t clip = i / (ROWS * OUT);
        const int64_t row = i / OUT % ROWS;
        const double want = expected(clip, row, i % OUT);
        if (row < valid_out[clip]) { /* half a bf16's last place, and the f32 between */
            ck_assert_double_le(fabs((double)of_bf16(y_memory[i]) - want), fabs(want) / 255.0);
        }
    }
    for (int64_t i = BATCH * ROWS * OUT; i < (BATCH * ROWS + 1) * OUT; i++) {
        ck_assert_uint_eq(y_memory[i], 0xFFFF);
    }
}
END_TEST

/* --- Parts --- */

/* A call of layer 1 of wav2vec 2.0 on memory that is not there. */
static ser_conv_args large_call(int64_t batch)
{
    ser_conv_args args = small_call();
    args.x = (ser_tensor){(void *)(uintptr_t)0x10000000, batch * 16000, 512, SER_BF16};
    args.y = (ser_tensor){(void *)(uintptr_t)0x40000000, batch * 8000, 512, SER_BF16};
    args.rows_in = (ser_rows){batch, 16000, NULL};
    args.rows_out = (ser_rows){batch, 8000, NULL};
    args.padding = 1;
    return args;
}

START_TEST(test_parts)
{
    static const int64_t first[4] = {0, 32000, 64000, 72000}; /* the last one begins early */
    const ser_conv_args args = large_call(13);
    fake->only_record = true;
    unsetenv("SER_CUDNN");
    ck_assert(ser_convolution_ready(&queue, &args));
    assert_ok(ser_convolution_run(&queue, &args));
    ck_assert_int_eq(fake->runs, 4);
    for (int i = 0; i < 4; i++) {
        ck_assert_uint_eq((uintptr_t)fake->x[i],
                          0x10000000 + (uintptr_t)(first[i] * 2 - 1) * 512 * 2);
        ck_assert_uint_eq((uintptr_t)fake->y[i], 0x40000000 + (uintptr_t)first[i] * 512 * 2);
        ck_assert_ptr_eq(fake->w[i], w_memory);
    }
}
END_TEST

START_TEST(test_one_plan_for_all_batches)
{
    const ser_conv_args eight = large_call(8);
    const ser_conv_args many = large_call(64);
    fake->only_record = true;
    ck_assert(ser_convolution_ready(&queue, &eight));
    ck_assert(ser_convolution_ready(&queue, &many));
    ck_assert_int_eq(fake->plans, 1);
    assert_ok(ser_convolution_run(&queue, &eight));
    ck_assert_int_eq(fake->runs, 2);
    assert_ok(ser_convolution_run(&queue, &many));
    ck_assert_int_eq(fake->runs, 18);
}
END_TEST

/* --- Choice --- */

START_TEST(test_choice)
{
    const ser_conv_args args = small_call();
    ck_assert(ser_convolution_ready(&queue, &args));
    ck_assert_int_eq(fake->engine, 2); /* deterministic, within the limit, of the newest kind */
    ck_assert_int_eq(fake->heuristics, 1);
    ck_assert_ptr_nonnull(strstr(last_line, "engine 2, 4096 bytes"));
    ck_assert_int_ge((int)ser_convolutions_scratch(&queue.base, &args), 4096);
}
END_TEST

START_TEST(test_next_config)
{
    const ser_conv_args args = small_call();
    fill_small_call();
    fake->bad_plans = 1;
    ck_assert(ser_convolution_ready(&queue, &args));
    ck_assert_int_eq(fake->engine, 7);
    assert_ok(ser_convolution_run(&queue, &args));
}
END_TEST

START_TEST(test_environment)
{
    const ser_conv_args large = large_call(8);
    const ser_conv_args small = small_call();
    setenv("SER_CUDNN", "0", 1);
    ck_assert(!ser_convolution_ready(&queue, &large));
    ck_assert_int_eq((int)ser_convolutions_scratch(&queue.base, &large), 0);
    unsetenv("SER_CUDNN");
    ck_assert(!ser_convolution_ready(&queue, &small));
    ck_assert_ptr_null(queue.convolutions); /* cuDNN has not even been loaded */
    ck_assert(ser_convolution_ready(&queue, &large));
}
END_TEST

/* --- Failures --- */

/* Asking twice tries once and says so once. */
static void check_given_up(const char *why)
{
    const ser_conv_args args = small_call();
    const int before = lines;
    ck_assert(!ser_convolution_ready(&queue, &args));
    ck_assert_int_eq(lines, before + 1);
    ck_assert_msg(strstr(last_line, why) != NULL, "%s", last_line);
    ck_assert(!ser_convolution_ready(&queue, &args));
    ck_assert_int_eq(lines, before + 1);
    assert_fails(ser_convolution_run(&queue, &args), SER_ERR_INTERNAL, "asked");
}

START_TEST(test_no_handle)
{
    fake->no_handle = true;
    check_given_up("without cuDNN 91900: FAILED: as it was told");
    ck_assert_int_eq(fake->handles, 1);
}
END_TEST

START_TEST(test_no_engine)
{
    fake->no_engine = true;
    check_given_up("engine -1: NOT_SUPPORTED");
    ck_assert_int_eq(fake->heuristics, 2); /* both modes */
}
END_TEST

START_TEST(test_no_plan)
{
    fake->bad_plans = 100;
    check_given_up("engine 7: NOT_SUPPORTED: as it was told");
    ck_assert_int_eq(fake->plans, 2);
}
END_TEST

START_TEST(test_no_run)
{
    const ser_conv_args args = small_call();
    ck_assert(ser_convolution_ready(&queue, &args));
    fake->no_run = true;
    assert_fails(ser_convolution_run(&queue, &args), SER_ERR_DEVICE, "FAILED: as it was told");
}
END_TEST

START_TEST(test_no_memory)
{
    const ser_conv_args args = small_call();
    ser_mem_fail_at(1, false);
    ck_assert(!ser_convolution_ready(&queue, &args));
    ck_assert(ser_convolution_ready(&queue, &args));
}
END_TEST

START_TEST(test_more_shapes_than_plans)
{
    ser_conv_args args = small_call();
    for (int i = 0; i < 40; i++) {
        args.rows_out.padded = i + 1;
        args.rows_in.padded = args.rows_out.padded * STRIDE;
        ck_assert_int_eq(ser_convolution_ready(&queue, &args), i < 16);
    }
}
END_TEST

START_TEST(test_capture)
{
    const ser_conv_args args = small_call();
    ser_conv_args other = args;
    other.rows_out.batch = other.rows_in.batch = 1;
    queue.capturing = true;
    ck_assert(!ser_convolution_ready(&queue, &args));
    ck_assert_ptr_null(queue.convolutions);
    queue.capturing = false;
    ck_assert(ser_convolution_ready(&queue, &args));
    queue.capturing = true;
    ck_assert(ser_convolution_ready(&queue, &args));
    ck_assert(!ser_convolution_ready(&queue, &other));
    ck_assert_int_eq(fake->plans, 1);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {test_values,    test_parts,       test_one_plan_for_all_batches,
                            test_choice,    test_next_config, test_environment,
                            test_no_handle, test_no_engine,   test_no_plan,
                            test_no_run,    test_no_memory,   test_more_shapes_than_plans,
                            test_capture};
    Suite *suite = suite_create("convolutions");
    TCase *tcase = tcase_create("convolutions");
    tcase_add_checked_fixture(tcase, open_queue, close_queue);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        tcase_add_test(tcase, tests[i]);
    }
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
