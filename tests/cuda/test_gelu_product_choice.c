/* SPDX-License-Identifier: MIT */
/* gelu_product_choice.c: which variant is taken, and whether any, by times that the test gives out;
 * what is kept of it, and what is not. Nothing is computed: ways only move a clock. */
#include "harness.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "ops/cuda/algorithms.h"
#include "ops/cuda/gelu_product.h"
#include "ops/cuda/products.h"

enum { SCRATCH = 64, OTHER = -1 };

struct ser_products {
    ser_algorithms *algorithms;
};

static struct {
    cuda_queue queue;
    ser_context context;
    struct ser_products products;
    char scratch[SCRATCH];
    double clock;                        /* milliseconds */
    double costs[GELU_PRODUCT_VARIANTS]; /* by shape */
    double times[GELU_PRODUCT_VARIANTS]; /* of a run */
    bool fails[GELU_PRODUCT_VARIANTS];
    int runs[GELU_PRODUCT_VARIANTS];
    double other_time;
    bool other_fails, no_events;
    int other_runs;
    int ran;             /* the last one */
    int events, cleared; /* that are alive; how often the scratch was */
    int measuring;       /* how deep */
    void (*wait)(void);  /* happens while one waits for others who measure, once */
    char lines[8192];
} fake;

/* --- What is needed of the rest of the backend --- */

double ser_gelu_product_cost(const cuda_queue *queue, const cuda_convolution *call, int variant)
{
    ck_assert_ptr_eq(queue, &fake.queue);
    return call->y.cols % 8 == 0 ? fake.costs[variant] : (double)INFINITY;
}

const char *ser_gelu_product_name(int variant)
{
    static const char *const names[GELU_PRODUCT_VARIANTS] = {"zero",  "one",  "two",
                                                             "three", "four", "five"};
    ck_assert(variant >= 0 && variant < GELU_PRODUCT_VARIANTS);
    return names[variant];
}

int ser_gelu_product_run(cuda_queue *queue, const cuda_convolution *call, int variant)
{
    ck_assert_ptr_eq(queue, &fake.queue);
    ck_assert(isfinite(ser_gelu_product_cost(queue, call, variant)));
    fake.clock += fake.times[variant];
    fake.runs[variant]++;
    fake.ran = variant;
    return fake.fails[variant] ? ser_fail(SER_ERR_DEVICE, "as it was told") : 0;
}

int ser_cuda_status(ser_context *context, cudaError_t error, const char *what)
{
    ck_assert_ptr_eq(context, &fake.context);
    return error == cudaSuccess ? 0 : ser_fail(SER_ERR_DEVICE, "%s", what);
}

struct ser_algorithms *ser_products_algorithms(const ser_context *context)
{
    return context->products->algorithms;
}

void ser_products_begin_measuring(ser_context *context)
{
    void (*wait)(void) = fake.wait;
    ck_assert_ptr_eq(context, &fake.context);
    fake.wait = NULL;
    if (wait != NULL) {
        wait();
    }
    fake.measuring++;
}

void ser_products_end_measuring(ser_context *context)
{
    ck_assert_ptr_eq(context, &fake.context);
    fake.measuring--;
}

size_t ser_products_scratch(const ser_queue *queue)
{
    ck_assert_ptr_eq(queue, &fake.queue.base);
    return SCRATCH;
}

/* --- What is needed of CUDA --- */

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    if (fake.no_events) {
        return cudaErrorMemoryAllocation;
    }
    double *time = calloc(1, sizeof *time);
    ck_assert_ptr_nonnull(time);
    *event = (cudaEvent_t)(void *)time;
    fake.events++;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free((void *)event);
    fake.events--;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ck_assert_ptr_eq(stream, fake.queue.stream);
    *(double *)(void *)event = fake.clock;
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *time, cudaEvent_t start, cudaEvent_t stop)
{
    *time = (float)(*(double *)(void *)stop - *(double *)(void *)start);
    return cudaSuccess;
}

/* Takes so long that no time may contain it. */
cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t stream)
{
    ck_assert_ptr_eq(to, fake.scratch);
    ck_assert_uint_eq(size, sizeof fake.scratch);
    ck_assert_ptr_eq(stream, fake.queue.stream);
    memset(to, value, size);
    fake.clock += 1000.0;
    fake.cleared++;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    ck_assert_ptr_eq(stream, fake.queue.stream);
    return cudaSuccess;
}

/* --- The fixture --- */

static void remember(int32_t level, const char *text, void *user)
{
    const size_t length = strlen(fake.lines);
    (void)user;
    ck_assert_int_eq(level, SER_LOG_DEBUG);
    snprintf(fake.lines + length, sizeof fake.lines - length, "%s\n", text);
}

static void open_table(void)
{
    assert_ok(ser_algorithms_open("a card", &fake.products.algorithms));
}

/* What another process sees. */
static void start_again(void)
{
    ser_algorithms_close(fake.products.algorithms);
    fake.lines[0] = '\0';
    open_table();
}

/* Variants 1 to 5 are tried. */
static void open_choice(void)
{
    static int count;
    char name[32];
    memset(&fake, 0, sizeof fake);
    for (int i = 0; i < GELU_PRODUCT_VARIANTS; i++) {
        fake.costs[i] = i == 0 ? 2.5 : 1.0 + 0.1 * i;
        fake.times[i] = 1.0 + 0.1 * i;
    }
    fake.other_time = 2.0;
    fake.context.products = &fake.products;
    fake.queue = (cuda_queue){.base.context = &fake.context, .base.scratch = fake.scratch};
    unsetenv("SER_GELU_PRODUCT");
    snprintf(name, sizeof name, "gelu-choices-%d", count++);
    setenv("SER_CACHE_DIR", harness_tmpfile(name), 1);
    ser_log_set_handler(remember, NULL);
    ser_log_set_level(SER_LOG_DEBUG);
    open_table();
}

static void close_choice(void)
{
    ser_algorithms_close(fake.products.algorithms);
    ser_log_set_handler(NULL, NULL);
    ck_assert_int_eq(fake.events, 0);
    ck_assert_int_eq(fake.measuring, 0);
    ck_assert_int_eq(ser_mem_live(), 0);
}

/* --- Calls --- */

static const ser_rows ends = {.batch = 1, .padded = 250};

static cuda_convolution call_of(int64_t rows)
{
    return (cuda_convolution){.x = {NULL, rows, 768, SER_BF16},
                              .kernel = 1,
                              .stride = 1,
                              .bias = {NULL, 1, 3072, SER_BF16},
                              .y = {NULL, rows, 3072, SER_BF16}};
}

static int run_other(cuda_queue *queue, const void *data)
{
    ck_assert_ptr_eq(queue, &fake.queue);
    ck_assert_ptr_eq(data, &fake);
    fake.clock += fake.other_time;
    fake.other_runs++;
    fake.ran = OTHER;
    return fake.other_fails ? ser_fail(SER_ERR_DEVICE, "as it was told") : 0;
}

static int all_runs(void)
{
    int sum = fake.other_runs;
    for (int i = 0; i < GELU_PRODUCT_VARIANTS; i++) {
        sum += fake.runs[i];
    }
    return sum;
}

static int call_it(const cuda_convolution *call)
{
    const cuda_way other = {run_other, &fake};
    fake.ran = -2;
    return ser_gelu_product(&fake.queue, call, &other);
}

/* Which one it was that ran last, and made y. */
static int ran(const cuda_convolution *call)
{
    assert_ok(call_it(call));
    return fake.ran;
}

/* The same, and nothing else has run. */
static int ran_alone(const cuda_convolution *call)
{
    const int before = all_runs();
    const int which = ran(call);
    ck_assert_int_eq(all_runs(), before + 1);
    return which;
}

static void check_said(const char *text)
{
    ck_assert_msg(strstr(fake.lines, text) != NULL, "not \"%s\": %s", text, fake.lines);
}

/* --- Measuring --- */

START_TEST(test_own_is_faster)
{
    const cuda_convolution call = call_of(250);
    fake.times[3] = 0.5;
    ck_assert_int_eq(ran(&call), 3);
    check_said("cuda:0: GELU of 250 rows, 768 to 3072 channels, kernel 1, stride 1, bias: three: "
               "0.5000 ms in one kernel, 2.0000 ms as product and pass");
    ck_assert_int_eq(fake.runs[0], 0); /* costs more than twice as much as the least */
    ck_assert_int_eq(fake.runs[1], 2 * 6);
    ck_assert_int_eq(fake.other_runs, 2 * 6);
    ck_assert_int_ge(fake.cleared, 6 * 2 * 5);
    ck_assert_int_eq(ran_alone(&call), 3);
}
END_TEST

START_TEST(test_other_is_faster)
{
    const cuda_convolution call = call_of(250);
    fake.other_time = 1.05;
    ck_assert_int_eq(ran(&call), OTHER);
    check_said("bias: product and pass: 1.1000 ms in one kernel, 1.0500 ms as product and pass");
    ck_assert_int_eq(ran_alone(&call), OTHER);
}
END_TEST

/* At most five, whatever they cost. */
START_TEST(test_tries)
{
    const cuda_convolution call = call_of(250);
    fake.costs[0] = 1.0;
    fake.times[5] = 0.1;
    ck_assert_int_eq(ran(&call), 0);
    ck_assert_int_eq(fake.runs[5], 0);
}
END_TEST

START_TEST(test_shapes)
{
    cuda_convolution call = call_of(250);
    cuda_convolution calls[5] = {call, call, call, call, call};
    calls[0].x.rows = calls[0].y.rows = 251;
    calls[1].bias = (ser_tensor){0};
    calls[2].ends = &ends;
    calls[3].kernel = 2; /* k */
    calls[4].stride = 2; /* lda */
    ck_assert_int_eq(ran(&call), 1);
    for (int i = 0; i < 5; i++) {
        const int before = all_runs();
        ck_assert_int_eq(ran(&calls[i]), 1);
        ck_assert_int_gt(all_runs(), before + 1);
        ck_assert_int_eq(ran_alone(&calls[i]), 1);
    }
    call.y.cols = 12; /* none can do it */
    ck_assert_int_eq(ran_alone(&call), OTHER);
}
END_TEST

/* --- Keeping --- */

START_TEST(test_kept)
{
    const cuda_convolution call = call_of(250);
    const cuda_convolution large = call_of(2500);
    ck_assert_int_eq(ran(&call), 1);
    fake.other_time = 0.1;
    ck_assert_int_eq(ran(&large), OTHER);
    start_again();
    fake.other_time = 100.0;
    fake.times[4] = 0.01;
    ck_assert_int_eq(ran_alone(&call), 1);
    check_said("one, as it was: 1.1000 ms in one kernel, 2.0000 ms as product and pass");
    ck_assert_int_eq(ran_alone(&large), OTHER);
    check_said("product and pass, as it was: 1.1000 ms in one kernel, 0.1000 ms as");
    fake.lines[0] = '\0';
    ck_assert_int_eq(ran_alone(&call), 1);
    ck_assert_str_eq(fake.lines, "");
}
END_TEST

/* A kept variant that the call cannot have, because of its addresses for instance. */
START_TEST(test_kept_for_another_call)
{
    const cuda_convolution call = call_of(250);
    ck_assert_int_eq(ran(&call), 1);
    start_again();
    fake.costs[1] = (double)INFINITY;
    ck_assert_int_eq(ran(&call), 2);
    for (int i = 0; i < GELU_PRODUCT_VARIANTS; i++) {
        fake.costs[i] = (double)INFINITY;
    }
    ck_assert_int_eq(ran_alone(&call), OTHER);
}
END_TEST

/* Another queue has measured it while this one waited for its turn. */
static void measure_elsewhere(void)
{
    const cuda_convolution call = call_of(250);
    ck_assert_int_eq(ran(&call), 1);
    fake.other_time = 0.1;
}

START_TEST(test_two_queues)
{
    const cuda_convolution call = call_of(250);
    fake.wait = measure_elsewhere;
    ck_assert_int_eq(ran(&call), 1);
    ck_assert_int_eq(fake.runs[2], 2 * 6);
}
END_TEST

START_TEST(test_no_place)
{
    const cuda_convolution call = call_of(250);
    setenv("SER_CACHE_DIR", "", 1);
    ser_log_set_level(SER_LOG_ERROR); /* that there is none, says the table */
    start_again();
    ck_assert_int_eq(ran_alone(&call), OTHER);
    ser_algorithms_close(fake.products.algorithms);
    fake.products.algorithms = NULL; /* as in the emulation */
    ck_assert_int_eq(ran_alone(&call), OTHER);
}
END_TEST

START_TEST(test_forced)
{
    cuda_convolution call = call_of(250);
    fake.costs[4] = 0.9;
    setenv("SER_GELU_PRODUCT", "0", 1);
    ck_assert_int_eq(ran_alone(&call), OTHER);
    setenv("SER_GELU_PRODUCT", "1", 1);
    ck_assert_int_eq(ran_alone(&call), 4);
    setenv("SER_GELU_PRODUCT", "five", 1);
    ck_assert_int_eq(ran_alone(&call), 5);
    setenv("SER_GELU_PRODUCT", "auto", 1);
    ck_assert_int_eq(ran(&call), 1); /* nothing was kept */
    setenv("SER_GELU_PRODUCT", "0", 1);
    ck_assert_int_eq(ran_alone(&call), OTHER);
    call.y.cols = 12;
    setenv("SER_GELU_PRODUCT", "1", 1);
    ck_assert_int_eq(ran_alone(&call), OTHER);
    setenv("SER_GELU_PRODUCT", "five", 1);
    ck_assert_int_eq(ran_alone(&call), OTHER);
}
END_TEST

/* --- Recording --- */

START_TEST(test_recording)
{
    const cuda_convolution call = call_of(250);
    fake.queue.capturing = true;
    ck_assert_int_eq(ran_alone(&call), OTHER);
    fake.queue.capturing = false;
    ck_assert_int_eq(ran(&call), 1);
    fake.queue.capturing = true;
    ck_assert_int_eq(ran_alone(&call), 1);
    start_again();
    ck_assert_int_eq(ran_alone(&call), 1);
}
END_TEST

/* --- Failures --- */

START_TEST(test_variant_does_not_run)
{
    const cuda_convolution call = call_of(250);
    fake.fails[1] = true;
    fake.times[1] = 0.1;
    ck_assert_int_eq(ran(&call), 2);
    check_said("cuda:0: GELU in one kernel: one does not run");
    ck_assert_int_eq(fake.runs[1], 1);
}
END_TEST

START_TEST(test_none_runs)
{
    const cuda_convolution call = call_of(250);
    for (int i = 0; i < GELU_PRODUCT_VARIANTS; i++) {
        fake.fails[i] = true;
    }
    ck_assert_int_eq(ran(&call), OTHER);
    ck_assert_int_eq(ran_alone(&call), OTHER);
}
END_TEST

/* Then the call fails as it would have without a choice, and nothing is kept. */
START_TEST(test_other_does_not_run)
{
    const cuda_convolution call = call_of(250);
    fake.other_fails = true;
    ck_assert_int_eq(call_it(&call), SER_ERR_DEVICE);
    ck_assert_int_eq(fake.ran, OTHER);
    ck_assert_int_eq(all_runs(), 2);
    fake.other_fails = false;
    ck_assert_int_eq(ran(&call), 1);
}
END_TEST

START_TEST(test_no_events)
{
    const cuda_convolution call = call_of(250);
    fake.no_events = true;
    ck_assert_int_eq(ran_alone(&call), OTHER);
    start_again();
    fake.no_events = false;
    ck_assert_int_eq(ran(&call), 1);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {test_own_is_faster,
                            test_other_is_faster,
                            test_tries,
                            test_shapes,
                            test_kept,
                            test_kept_for_another_call,
                            test_two_queues,
                            test_no_place,
                            test_forced,
                            test_recording,
                            test_variant_does_not_run,
                            test_none_runs,
                            test_other_does_not_run,
                            test_no_events};
    Suite *suite = suite_create("gelu_product_choice");
    TCase *tcase = tcase_create("gelu_product_choice");
    tcase_add_checked_fixture(tcase, open_choice, close_choice);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        tcase_add_test(tcase, tests[i]);
    }
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
