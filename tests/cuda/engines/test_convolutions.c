/* SPDX-License-Identifier: MIT */
/* convolutions.c over a cuDNN that runs on the CPU (fake_cudnn.h): what is computed where, how
 * calls are cut in parts, and that every failure of cuDNN is answered by doing without it. */
#include <math.h>

#include "fake_queue.h"
#include "harness.h"

/* --- What is computed --- */

/* The clip alone, with w as the contract has it: [out][tap][in]. */
static double expected(const cuda_convolution *call, int64_t clip, int64_t row, int64_t channel)
{
    double z = call->bias.rows > 0 ? (double)of_bf16(bias_memory[channel]) : 0.0;
    for (int64_t tap = 0; tap < call->kernel; tap++) {
        const int64_t at = row * call->stride + tap - call->padding;
        for (int64_t c = 0; c < IN && at >= 0 && at < valid_in[clip]; c++) {
            z += (double)of_bf16(x_memory[(PADDING + clip * ROWS * call->stride + at) * IN + c]) *
                 (double)of_bf16(w_memory[(channel * call->kernel + tap) * IN + c]);
        }
    }
    return 0.5 * z * (1.0 + erf(z / sqrt(2.0)));
}

/* On the valid rows; the others are zero, or anything where they are not asked for. */
static void check_values(const cuda_convolution *call)
{
    for (int64_t i = 0; i < BATCH * ROWS * OUT; i++) {
        const int64_t clip = i / (ROWS * OUT);
        const int64_t row = i / OUT % ROWS;
        const double want = expected(call, clip, row, i % OUT);
        if (row < valid_out[clip]) { /* half a bf16's last place, and the f32 between */
            ck_assert_double_le(fabs((double)of_bf16(y_memory[i]) - want), fabs(want) / 255.0);
        } else if (call->ends != NULL) {
            ck_assert_uint_eq(y_memory[i], 0);
        }
    }
    for (int64_t i = BATCH * ROWS * OUT; i < (BATCH * ROWS + 1) * OUT; i++) {
        ck_assert_uint_eq(y_memory[i], 0xFFFF);
    }
}

/* Ready without the other way, which is not asked for unless it is measured. */
static bool is_ready(const cuda_convolution *call)
{
    return ready(call, NULL);
}

static void check_call(const cuda_convolution *call)
{
    fill_memory();
    ck_assert(is_ready(call));
    assert_ok(ser_convolution_run(&device.queue, call));
    check_values(call);
}

START_TEST(test_values)
{
    cuda_convolution call = small_call();
    check_call(&call);
    call.bias = (ser_tensor){bias_memory, 1, OUT, SER_BF16};
    check_call(&call);
    ck_assert_int_eq(device.cudnn->plans, 2);
}
END_TEST

/* Kernel 1: on the same memory, row by row. */
START_TEST(test_linear_values)
{
    cuda_convolution call = small_call();
    call.kernel = call.stride = 1;
    call.padding = 0;
    call.x.rows = call.y.rows;
    call.ends = NULL;
    for (int i = 0; i < 2; i++) {
        check_call(&call);
        call.bias = (ser_tensor){bias_memory, 1, OUT, SER_BF16};
    }
}
END_TEST

/* What lies at an odd place is not what the graph says of its tensors. */
START_TEST(test_alignment)
{
    const cuda_convolution good = small_call();
    ck_assert(is_ready(&good));
    for (int i = 0; i < 4; i++) {
        cuda_convolution call = good;
        ser_weight moved = *call.w;
        moved.bf16 = w_memory + (i == 0 ? 4 : 0);
        call.w = &moved;
        call.x.data = x_memory + PADDING * IN + (i == 1 ? 4 : 0);
        call.y.data = y_memory + (i == 2 ? 4 : 0);
        call.bias = (ser_tensor){bias_memory + (i == 3 ? 4 : 0), 1, OUT, SER_BF16};
        ck_assert(!is_ready(&call));
    }
}
END_TEST

/* --- Parts --- */

START_TEST(test_parts)
{
    static const int64_t first[5] = {0, 32000, 64000, 96000, 104000}; /* the last begins early */
    const cuda_convolution call = large_call(17);
    device.cudnn->only_record = true;
    setenv("SER_CUDNN", "auto", 1);
    ck_assert(is_ready(&call));
    assert_ok(ser_convolution_run(&device.queue, &call));
    ck_assert_int_eq(device.cudnn->runs, 5);
    for (int i = 0; i < 5; i++) {
        ck_assert_uint_eq((uintptr_t)device.cudnn->x[i],
                          0x10000000 + (uintptr_t)(first[i] * 2 - 1) * 512 * 2);
        ck_assert_uint_eq((uintptr_t)device.cudnn->y[i],
                          0x40000000 + (uintptr_t)first[i] * 512 * 2);
        ck_assert_ptr_eq(device.cudnn->w[i], w_memory);
    }
}
END_TEST

/* 64 clips of 250 frames in parts of 4096. */
START_TEST(test_linear_parts)
{
    static const int64_t first[4] = {0, 4096, 8192, 16000 - 4096};
    const cuda_convolution call = linear_call(64);
    device.cudnn->only_record = true;
    setenv("SER_CUDNN", "auto", 1);
    ck_assert(is_ready(&call));
    assert_ok(ser_convolution_run(&device.queue, &call));
    ck_assert_int_eq(device.cudnn->runs, 4);
    for (int i = 0; i < 4; i++) {
        ck_assert_uint_eq((uintptr_t)device.cudnn->x[i],
                          0x10000000 + (uintptr_t)first[i] * 768 * 2);
        ck_assert_uint_eq((uintptr_t)device.cudnn->y[i],
                          0x40000000 + (uintptr_t)first[i] * 3072 * 2);
        ck_assert_ptr_eq(device.cudnn->w[i], w_memory);
        ck_assert_ptr_eq(device.cudnn->bias[i], bias_memory);
    }
}
END_TEST

START_TEST(test_one_plan_for_all_batches)
{
    const cuda_convolution few = large_call(16);
    const cuda_convolution many = large_call(64);
    device.cudnn->only_record = true;
    ck_assert(is_ready(&few));
    ck_assert(is_ready(&many));
    ck_assert_int_eq(device.cudnn->plans, 1);
    assert_ok(ser_convolution_run(&device.queue, &few));
    ck_assert_int_eq(device.cudnn->runs, 4);
    assert_ok(ser_convolution_run(&device.queue, &many));
    ck_assert_int_eq(device.cudnn->runs, 20);
}
END_TEST

/* --- Choice --- */

START_TEST(test_choice)
{
    const cuda_convolution call = small_call();
    ck_assert(is_ready(&call));
    ck_assert_int_eq(device.cudnn->engine,
                     2); /* deterministic, within the limit, of the newest kind */
    ck_assert_int_eq(device.cudnn->heuristics, 2); /* and those to fall back to */
    ck_assert_ptr_nonnull(strstr(device.line, "engine 2, 4096 bytes"));
    ck_assert_int_ge((int)ser_convolutions_scratch(&device.queue.base, &call), 4096);
}
END_TEST

START_TEST(test_choice_of_the_fallback)
{
    const cuda_convolution call = small_call();
    device.cudnn->hopper_by_fallback = true;
    ck_assert(is_ready(&call));
    ck_assert_int_eq(device.cudnn->engine, 2);
}
END_TEST

START_TEST(test_next_config)
{
    const cuda_convolution call = small_call();
    fill_memory();
    device.cudnn->bad_plans = 1;
    ck_assert(is_ready(&call));
    ck_assert_int_eq(device.cudnn->engine, 7);
    assert_ok(ser_convolution_run(&device.queue, &call));
}
END_TEST

START_TEST(test_environment)
{
    const cuda_convolution large = large_call(16);
    const cuda_convolution small = small_call();
    setenv("SER_CUDNN", "0", 1);
    ck_assert(!is_ready(&large));
    ck_assert_int_eq((int)ser_convolutions_scratch(&device.queue.base, &large), 0);
    setenv("SER_CUDNN", "auto", 1);
    ck_assert(!is_ready(&small));
    ck_assert_ptr_null(device.queue.convolutions); /* cuDNN has not even been loaded */
    ck_assert(is_ready(&large));
}
END_TEST

/* --- Failures --- */

/* Asking twice tries once and says so once, in so many lines. */
static void check_given_up(const char *why, int lines)
{
    const cuda_convolution call = small_call();
    ck_assert(!is_ready(&call));
    ck_assert_int_eq(device.lines, lines);
    ck_assert_msg(strstr(device.line, why) != NULL, "%s", device.line);
    ck_assert(!is_ready(&call));
    ck_assert_int_eq(device.lines, lines);
    assert_fails(ser_convolution_run(&device.queue, &call), SER_ERR_INTERNAL, "asked");
}

START_TEST(test_no_handle)
{
    device.cudnn->no_handle = true;
    check_given_up("without cuDNN 91900: FAILED: as it was told", 1);
    ck_assert_int_eq(device.cudnn->handles, 1);
}
END_TEST

START_TEST(test_no_engine)
{
    device.cudnn->no_engine = true;
    check_given_up("without cuDNN: NOT_SUPPORTED", 1);
    ck_assert_int_eq(device.cudnn->heuristics, 3); /* all modes */
}
END_TEST

START_TEST(test_no_plan)
{
    device.cudnn->bad_plans = 100;
    check_given_up("engine 7: NOT_SUPPORTED: as it was told", 3);
    ck_assert_int_eq(device.cudnn->plans, 3);
}
END_TEST

START_TEST(test_no_run)
{
    const cuda_convolution call = small_call();
    ck_assert(is_ready(&call));
    device.cudnn->no_run = true;
    assert_fails(ser_convolution_run(&device.queue, &call), SER_ERR_DEVICE,
                 "FAILED: as it was told");
}
END_TEST

START_TEST(test_no_memory)
{
    const cuda_convolution call = small_call();
    ser_mem_fail_at(1, false);
    ck_assert(!is_ready(&call));
    ck_assert(is_ready(&call));
}
END_TEST

START_TEST(test_more_shapes_than_plans)
{
    cuda_convolution call = small_call();
    for (int i = 0; i < 40; i++) {
        call.y.rows = i + 1;
        ck_assert_int_eq(is_ready(&call), i < 16);
    }
}
END_TEST

START_TEST(test_capture)
{
    const cuda_convolution call = small_call();
    cuda_convolution other = call;
    other.y.rows = ROWS;
    device.queue.capturing = true;
    ck_assert(!is_ready(&call));
    ck_assert_ptr_null(device.queue.convolutions);
    device.queue.capturing = false;
    ck_assert(is_ready(&call));
    device.queue.capturing = true;
    ck_assert(is_ready(&call));
    ck_assert(!is_ready(&other));
    ck_assert_int_eq(device.cudnn->plans, 1);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {test_values,       test_linear_values,
                            test_alignment,    test_parts,
                            test_linear_parts, test_one_plan_for_all_batches,
                            test_choice,       test_choice_of_the_fallback,
                            test_next_config,  test_environment,
                            test_no_handle,    test_no_engine,
                            test_no_plan,      test_no_run,
                            test_no_memory,    test_more_shapes_than_plans,
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
