/* SPDX-License-Identifier: MIT */
/* convolution_choice.c: which config of cuDNN is taken, and whether any, by times that the test
 * gives out; what is kept of it, and what is not. */
#include "fake_queue.h"
#include "harness.h"

/* Milliseconds of a part, and of the other way with 16 clips of layer 1: 4 parts, 128,000 rows. */
static void set_costs(double ampere, double hopper, double large)
{
    device.cudnn->only_record = true;
    device.cudnn->cost[FAKE_AMPERE] = ampere;
    device.cudnn->cost[FAKE_HOPPER] = hopper;
    device.cudnn->cost[FAKE_AMPERE_LARGE] = large;
    device.cudnn->cost[FAKE_LATE] = 0.001; /* comes after those that are tried */
}

static const double two_ms[] = {2.0};
static const double one_ms[] = {1.0};

static other_way slow(void)
{
    return (other_way){.costs = two_ms, .count = 1};
}

static other_way quick(void)
{
    return (other_way){.costs = one_ms, .count = 1};
}

static void open_choice(void)
{
    open_queue();
    keep_choices();
    set_costs(0.3, 0.4, 0.5);
}

/* Run it, and say by which config. */
static int32_t ran(const cuda_convolution *call)
{
    device.cudnn->ran = -1;
    assert_ok(ser_convolution_run(&device.queue, call));
    return device.cudnn->ran;
}

static void check_said(const char *text)
{
    ck_assert_msg(strstr(device.lines_of, text) != NULL, "not \"%s\": %s", text, device.lines_of);
}

/* --- Measuring --- */

START_TEST(test_fused_is_faster)
{
    const cuda_convolution call = large_call(16);
    other_way other = slow();
    ck_assert(ready(&call, &other));
    ck_assert_int_eq(device.cudnn->plans, 3);
    ck_assert_int_eq(ran(&call), FAKE_AMPERE); /* the fastest, not the first one tried */
    check_said("512 to 512 channels, kernel 3, stride 2, 32000 rows at a time: fused for 128000 "
               "rows: 1.200 ms fused, 2.000 ms as product and pass");
    const int32_t runs = other.runs;
    ck_assert(ready(&call, &other));
    ck_assert_int_eq(other.runs, runs);
    ck_assert_int_eq(device.cudnn->plans, 3);
}
END_TEST

START_TEST(test_product_is_faster)
{
    const cuda_convolution call = large_call(16);
    other_way other = quick();
    ck_assert(!ready(&call, &other));
    check_said("product and pass for 128000 rows: 1.200 ms fused, 1.000 ms as product and pass");
    const int32_t runs = other.runs;
    ck_assert(!ready(&call, &other));
    ck_assert_int_eq(other.runs, runs);
    ck_assert_int_eq(device.cudnn->plans, 3);
}
END_TEST

/* The first of six runs loads kernels, and the scratch is cleared before each: neither counts. The
 * card may be slow at first. */
START_TEST(test_shortest_time)
{
    static const double costs[] = {0.01, 9.0, 9.0,  9.0, 9.0, 9.0, 0.01, 5.0, 6.0, 3.0,
                                   6.0,  5.0, 0.01, 4.0, 4.0, 4.0, 4.0,  4.0, 0.01};
    const cuda_convolution call = large_call(16);
    other_way other = {.costs = costs, .count = 19};
    ck_assert(ready(&call, &other));
    ck_assert_int_eq(other.runs, 18);
    ck_assert_int_ge(device.cleared, 18 * 4);
    check_said("1.200 ms fused, 3.000 ms as product and pass");
}
END_TEST

START_TEST(test_linear)
{
    const cuda_convolution call = linear_call(64);
    cuda_convolution without = call;
    other_way other = slow();
    without.bias = (ser_tensor){0};
    ck_assert(ready(&call, &other));
    check_said("768 to 3072 channels, kernel 1, stride 1, bias, 4096 rows at a time: fused for "
               "16000 rows: 1.200 ms fused");
    const int32_t runs = other.runs;
    ck_assert(ready(&without, &other)); /* is another shape */
    ck_assert_int_gt(other.runs, runs);
}
END_TEST

/* 0.3 ms for a part of four clips, against 0.085 ms a clip: what a call's last part makes twice
 * decides, whichever call was measured. */
START_TEST(test_calls_of_one_shape)
{
    static const struct {
        int64_t batch;
        bool fused;
    } calls[] = {{16, true}, {17, false}, {20, true}, {21, false}, {25, true}, {33, true}};
    static const double costs[] = {0.085 * 16, 0.085 * 17};
    for (int i = 0; i < 2; i++) {
        const cuda_convolution first = large_call(calls[i].batch);
        other_way other = {.costs = &costs[i], .count = 1};
        keep_choices();
        start_again();
        ck_assert_int_eq(ready(&first, &other), calls[i].fused);
        const int32_t runs = other.runs;
        for (size_t j = 0; j < sizeof calls / sizeof *calls; j++) {
            const cuda_convolution call = large_call(calls[j].batch);
            ck_assert_int_eq(ready(&call, &other), calls[j].fused);
        }
        ck_assert_int_eq(other.runs, runs);
    }
}
END_TEST

START_TEST(test_small_calls_are_not_measured)
{
    const cuda_convolution small = small_call();
    const cuda_convolution fifteen = large_call(15);
    const cuda_convolution linear = linear_call(31);
    other_way other = slow();
    ck_assert(!ready(&small, &other) && !ready(&fifteen, &other) && !ready(&linear, &other));
    ck_assert_int_eq(other.runs, 0);
    ck_assert_ptr_null(device.queue.convolutions);
}
END_TEST

/* --- Keeping --- */

START_TEST(test_fused_is_kept)
{
    const cuda_convolution call = large_call(16);
    const cuda_convolution wasteful = large_call(17);
    other_way other = slow();
    set_costs(0.4, 0.5, 0.3); /* an engine that two configs have */
    ck_assert(ready(&call, &other));
    const int32_t runs = other.runs;
    start_again();
    set_costs(0.4, 0.1, 0.3); /* is not looked at again */
    ck_assert(ready(&call, &other));
    ck_assert(ready(&wasteful, &other));
    ck_assert_int_eq(device.cudnn->plans, 1);
    ck_assert_int_eq(device.cudnn->runs, 0);
    ck_assert_int_eq(other.runs, runs);
    ck_assert_int_eq(ran(&call), FAKE_AMPERE_LARGE);
    check_said("fused, as it was for 128000 rows: 1.200 ms fused, 2.000 ms as product and pass");
    check_said("cuDNN's engine 7");
}
END_TEST

START_TEST(test_product_is_kept)
{
    const cuda_convolution call = large_call(16);
    other_way other = quick();
    ck_assert(!ready(&call, &other));
    const int32_t runs = other.runs;
    start_again();
    set_costs(0.01, 0.01, 0.01);
    ck_assert(!ready(&call, &other));
    ck_assert_int_eq(other.runs, runs);
    ck_assert_int_eq(device.cudnn->handles, 0); /* cuDNN has not even been started */
    check_said("product and pass, as it was for");
}
END_TEST

/* The product won where the last part makes most of its rows twice; the plan is built when a call
 * comes that does not. */
START_TEST(test_kept_for_another_call)
{
    static const double costs[] = {0.085 * 17};
    const cuda_convolution wasteful = large_call(17);
    const cuda_convolution whole = large_call(20);
    other_way other = {.costs = costs, .count = 1};
    ck_assert(!ready(&wasteful, &other));
    start_again();
    ck_assert(!ready(&wasteful, &other));
    device.queue.capturing = true;
    ck_assert(!ready(&whole, &other));
    device.queue.capturing = false;
    ck_assert_int_eq(device.cudnn->plans, 0);
    ck_assert(ready(&whole, &other));
    ck_assert_int_eq(device.cudnn->plans, 1);
    ck_assert(!ready(&wasteful, &other));
    ck_assert_int_eq(ran(&whole), FAKE_AMPERE);
}
END_TEST

/* Of another version of cuDNN, or where engines have changed. */
START_TEST(test_other_engines)
{
    const cuda_convolution call = large_call(16);
    other_way other = slow();
    set_costs(0.4, 0.3, 0.5);
    ck_assert(ready(&call, &other));
    int32_t runs = other.runs;
    start_again();
    device.cudnn->more_shared = 1024; /* the kept config's */
    ck_assert(ready(&call, &other));
    ck_assert_int_gt(other.runs, runs);
    runs = other.runs;
    start_again();
    ck_assert(ready(&call, &other)); /* the new one was kept */
    ck_assert_int_eq(other.runs, runs);
    start_again();
    device.cudnn->version = 92000;
    ck_assert(ready(&call, &other));
    ck_assert_int_gt(other.runs, runs);
}
END_TEST

/* Nothing that would not last: then the order of the heuristics decides. */
START_TEST(test_no_place)
{
    const cuda_convolution call = large_call(16);
    other_way other = quick();
    setenv("SER_CACHE_DIR", "", 1);
    ser_log_set_level(SER_LOG_ERROR); /* that there is none, says the table */
    start_again();
    ck_assert(ready(&call, &other));
    ck_assert_int_eq(other.runs, 0);
    ck_assert_int_eq(device.cudnn->plans, 1);
    ck_assert_int_eq(ran(&call), FAKE_HOPPER);
}
END_TEST

START_TEST(test_forced)
{
    const cuda_convolution call = large_call(16);
    const cuda_convolution linear = linear_call(64);
    other_way other = quick();
    other_way late = slow();
    ck_assert(!ready(&call, &other));
    ck_assert(ready(&linear, &late));
    start_again();
    setenv("SER_CUDNN", "0", 1);
    ck_assert(!ready(&linear, &late));
    unsetenv("SER_CUDNN");
    ck_assert(!ready(&linear, &late));
    setenv("SER_CUDNN", "1", 1);
    const int32_t runs = other.runs;
    ck_assert(ready(&call, &other));
    ck_assert_int_eq(other.runs, runs);
    ck_assert_int_eq(device.cudnn->plans, 1);
    ck_assert_int_eq(ran(&call), FAKE_HOPPER);
}
END_TEST

/* Another queue has measured it while this one waited for its turn. */
static void measure_elsewhere(void)
{
    const cuda_convolution call = large_call(16);
    other_way other = slow();
    cuda_queue waiting = device.queue;
    device.queue.convolutions = NULL;
    ck_assert(ready(&call, &other));
    ck_assert_int_gt(other.runs, 0);
    ser_convolutions_free(device.queue.convolutions);
    device.queue = waiting;
}

START_TEST(test_two_queues)
{
    const cuda_convolution call = large_call(16);
    other_way other = slow();
    device.wait = measure_elsewhere;
    ck_assert(ready(&call, &other));
    ck_assert_int_eq(other.runs, 0);
    ck_assert_int_eq(device.cudnn->plans, 3 + 1);
    ck_assert_int_eq(ran(&call), FAKE_AMPERE);
}
END_TEST

/* --- Recording --- */

START_TEST(test_recording)
{
    const cuda_convolution call = large_call(16);
    const cuda_convolution linear = linear_call(64);
    other_way other = slow();
    ck_assert(ready(&linear, &other));
    const int32_t runs = other.runs;
    for (int i = 0; i < 2; i++) {
        device.queue.capturing = true;
        ck_assert(!ready(&call, &other)); /* neither measured nor, the second time, built */
        ck_assert_int_eq(other.runs, i == 0 ? runs : 2 * runs);
        ck_assert_int_eq(device.cudnn->plans, i == 0 ? 3 : 0);
        device.queue.capturing = false;
        ck_assert(ready(&call, &other));
        device.queue.capturing = true;
        ck_assert(ready(&call, &other));
        device.queue.capturing = false;
        ck_assert_int_eq(other.runs, 2 * runs);
        start_again();
    }
}
END_TEST

/* --- Failures --- */

START_TEST(test_engines_that_do_not_run)
{
    const cuda_convolution call = large_call(16);
    other_way other = slow();
    device.cudnn->no_run_of[FAKE_AMPERE] = true;
    ck_assert(ready(&call, &other));
    check_said("without config 1 of cuDNN: it does not run");
    ck_assert_int_eq(ran(&call), FAKE_HOPPER);
}
END_TEST

START_TEST(test_engines_that_are_not_built)
{
    const cuda_convolution call = large_call(16);
    other_way other = slow();
    set_costs(0.2, 0.3, 0.4);
    device.cudnn->bad_plans = 2; /* of Hopper, and the first of Ampere */
    ck_assert(ready(&call, &other));
    ck_assert_int_eq(ran(&call), FAKE_AMPERE_LARGE);
    start_again();
    ck_assert(ready(&call, &other));
    ck_assert_int_eq(ran(&call), FAKE_AMPERE_LARGE);
}
END_TEST

/* What failed is not kept, and not tried again in this process. */
static void check_not_kept(const cuda_convolution *call, other_way *other)
{
    ck_assert(!ready(call, other));
    const int32_t plans = device.cudnn->plans;
    const int32_t runs = other->runs;
    ck_assert(!ready(call, other));
    ck_assert_int_eq(device.cudnn->plans, plans);
    ck_assert_int_eq(other->runs, runs);
    start_again();
    other->fails = device.no_events = device.cudnn->no_run = false;
    device.cudnn->bad_plans = 0;
    ck_assert(ready(call, other));
    ck_assert_int_gt(other->runs, runs);
}

START_TEST(test_no_engine_runs)
{
    const cuda_convolution call = large_call(16);
    other_way other = slow();
    device.cudnn->no_run = true;
    check_not_kept(&call, &other);
}
END_TEST

START_TEST(test_no_engine_is_built)
{
    const cuda_convolution call = large_call(16);
    other_way other = slow();
    device.cudnn->bad_plans = 100;
    check_not_kept(&call, &other);
}
END_TEST

START_TEST(test_product_does_not_run)
{
    const cuda_convolution call = large_call(16);
    other_way other = slow();
    other.fails = true;
    ck_assert(!ready(&call, &other));
    ck_assert_int_eq(other.runs, 1);
    check_said("product and pass: nothing could be measured");
    start_again();
    check_not_kept(&call, &other);
}
END_TEST

START_TEST(test_no_events)
{
    const cuda_convolution call = large_call(16);
    other_way other = slow();
    device.no_events = true;
    check_not_kept(&call, &other);
}
END_TEST

/* The plan that was kept cannot be built now. */
START_TEST(test_kept_plan_is_not_built)
{
    const cuda_convolution call = large_call(16);
    other_way other = slow();
    ck_assert(ready(&call, &other));
    start_again();
    const int32_t runs = other.runs;
    device.cudnn->bad_plans = 1;
    ck_assert(!ready(&call, &other));
    ck_assert_int_eq(device.cudnn->plans, 1);
    start_again();
    ck_assert(ready(&call, &other));
    ck_assert_int_eq(other.runs, runs);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {test_fused_is_faster,
                            test_product_is_faster,
                            test_shortest_time,
                            test_linear,
                            test_calls_of_one_shape,
                            test_small_calls_are_not_measured,
                            test_fused_is_kept,
                            test_product_is_kept,
                            test_kept_for_another_call,
                            test_other_engines,
                            test_no_place,
                            test_forced,
                            test_two_queues,
                            test_recording,
                            test_engines_that_do_not_run,
                            test_engines_that_are_not_built,
                            test_no_engine_runs,
                            test_no_engine_is_built,
                            test_product_does_not_run,
                            test_no_events,
                            test_kept_plan_is_not_built};
    Suite *suite = suite_create("convolution_choice");
    TCase *tcase = tcase_create("convolution_choice");
    tcase_add_checked_fixture(tcase, open_choice, close_queue);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        tcase_add_test(tcase, tests[i]);
    }
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
