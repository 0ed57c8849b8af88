/* SPDX-License-Identifier: MIT */
/* Device, memory, queue, weights and recording of the CUDA backend, and every way in which they
 * fail. Errors are injected, so this runs in the emulation only. */
#include "emulator.h"
#include "fixture.h"
#include "ops/cuda/cuda.h"

static ser_context *context;
static ser_queue *queue;
static const char *name;

static void setup(void)
{
    emulator_reset();
    unsetenv("CUDA_VISIBLE_DEVICES");
    setenv("SER_EARLY_LAUNCH", "1", 1);
    context = NULL;
    queue = NULL;
}

static void open_queue(void)
{
    assert_ok(ser_cuda_ops.open(0, &context, &name));
    assert_ok(ser_cuda_ops.queue_create(context, 1, &queue));
}

static void teardown(void)
{
    ser_cuda_ops.queue_free(queue);
    if (context != NULL) {
        ser_cuda_ops.close(context);
    }
    emulator_reset();
    ck_assert_int_eq(ser_mem_live(), 0);
    ck_assert_uint_eq(emulator_live(), 0);
}

/* --- Opening --- */

#define assert_not_opened(part)                                                                    \
    do {                                                                                           \
        assert_fails(ser_cuda_ops.open(0, &context, &name), SER_ERR_DEVICE, part);                 \
        ck_assert_ptr_null(context);                                                               \
        ck_assert_int_eq(ser_cuda_ops.count(), 0);                                                 \
        ck_assert_msg(strstr(ser_fail_text(), part) != NULL, "count: %s", ser_fail_text());        \
    } while (0)

START_TEST(test_no_driver)
{
    emulator_device(0, 0, 9, 0, "none", 0);
    assert_not_opened("no NVIDIA driver");
}
END_TEST

START_TEST(test_old_driver)
{
    emulator_device(1, 11080, 9, 0, "GPU", 0);
    assert_not_opened("the NVIDIA driver supports CUDA 11.8, libser needs 13.0");
}
END_TEST

START_TEST(test_no_gpu)
{
    emulator_device(0, 13000, 9, 0, "none", 0);
    assert_not_opened("finds no GPU");
}
END_TEST

START_TEST(test_hidden_gpu)
{
    emulator_device(0, 13000, 9, 0, "none", 0);
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    assert_not_opened("CUDA_VISIBLE_DEVICES is \"\"");
    unsetenv("CUDA_VISIBLE_DEVICES");
}
END_TEST

START_TEST(test_forked)
{
    emulator_fail("cudaGetDeviceCount", 1, cudaErrorInitializationError);
    assert_fails(ser_cuda_ops.open(0, &context, &name), SER_ERR_DEVICE, "forked");
}
END_TEST

START_TEST(test_driver_not_reloaded)
{
    emulator_fail("cudaGetDeviceCount", 1, cudaErrorSystemDriverMismatch);
    assert_fails(ser_cuda_ops.open(0, &context, &name), SER_ERR_DEVICE, "restart the machine");
}
END_TEST

START_TEST(test_old_gpu)
{
    emulator_device(1, 13000, 7, 5, "Old GPU", 0);
    assert_fails(ser_cuda_ops.open(0, &context, &name), SER_ERR_DEVICE,
                 "Old GPU has compute capability 7.5, libser needs 8.0");
    ck_assert_int_eq(ser_cuda_ops.count(), 0);
}
END_TEST

START_TEST(test_index)
{
    emulator_device(2, 13000, 9, 0, "GPU", 0);
    ck_assert_int_eq(ser_cuda_ops.count(), 2);
    assert_fails(ser_cuda_ops.open(2, &context, &name), SER_ERR_DEVICE,
                 "cuda:2: there is no such GPU, the last one is cuda:1");
    assert_ok(ser_cuda_ops.open(1, &context, &name));
    ck_assert_msg(strncmp(name, "cuda:1 (GPU, sm_90", 18) == 0, "%s", name);
}
END_TEST

START_TEST(test_busy)
{
    emulator_fail("cudaFree", 1, cudaErrorDevicesUnavailable);
    assert_fails(ser_cuda_ops.open(0, &context, &name), SER_ERR_DEVICE, "busy or closed");
}
END_TEST

START_TEST(test_full)
{
    emulator_fail("cudaFree", 1, cudaErrorMemoryAllocation);
    assert_fails(ser_cuda_ops.open(0, &context, &name), SER_ERR_DEVICE, "no memory left to start");
    assert_ok(ser_cuda_ops.open(0, &context, &name));
}
END_TEST

START_TEST(test_unknown_error)
{
    emulator_fail("cudaGetDeviceProperties", 1, cudaErrorUnknown);
    assert_fails(ser_cuda_ops.open(0, &context, &name), SER_ERR_DEVICE, "cudaErrorUnknown");
}
END_TEST

START_TEST(test_no_memory_on_the_host)
{
    for (uint64_t nth = 1;; nth++) {
        ser_mem_fail_at(nth, false);
        int status = ser_cuda_ops.open(0, &context, &name);
        status = status == 0 ? ser_cuda_ops.queue_create(context, 1, &queue) : status;
        const bool failed = status != 0;
        ser_mem_fail_at(0, false);
        if (!failed) {
            ck_assert_uint_gt(nth, 2);
            break;
        }
        ck_assert_int_eq(status, SER_ERR_MEMORY);
        if (context != NULL) {
            ser_cuda_ops.close(context);
            context = NULL;
        }
        queue = NULL;
    }
}
END_TEST

/* --- Memory --- */

START_TEST(test_out_of_memory_is_not_fatal)
{
    void *memory;
    void *small;
    open_queue();
    emulator_memory_limit(1 << 20);
    assert_fails(ser_cuda_ops.alloc(context, 3 << 20, &memory), SER_ERR_MEMORY,
                 "out of device memory: 3.0 MiB are needed at once, 1.0 of");
    ck_assert_ptr_null(memory);
    assert_ok(ser_cuda_ops.alloc(context, 1 << 10, &small));
    assert_ok(ser_cuda_ops.zero(queue, small, 1 << 10));
    assert_ok(ser_cuda_ops.sync(queue));
    ser_cuda_ops.free(context, small);
    queue->planned = 3 << 20;
    assert_fails(ser_queue_reserve(queue, NULL), SER_ERR_MEMORY, "3.0 MiB are needed");
    queue->planned = queue->planned > 1000 ? queue->planned : 1000; /* as planning does */
    assert_ok(ser_queue_reserve(queue, NULL));
    emulator_fail("cudaMallocHost", 1, cudaErrorMemoryAllocation);
    assert_fails(ser_cuda_ops.host_alloc(context, 100, &memory), SER_ERR_MEMORY, "page-locked");
    assert_ok(ser_cuda_ops.host_alloc(context, 100, &memory));
    ser_cuda_ops.host_free(context, memory);
}
END_TEST

START_TEST(test_transfers)
{
    float host[100];
    float back[100] = {0};
    void *device;
    open_queue();
    harness_fill(host, 100, 1, 1.0F);
    assert_ok(ser_cuda_ops.alloc(context, sizeof host, &device));
    assert_ok(ser_cuda_ops.upload(queue, device, host, sizeof host));
    assert_ok(ser_cuda_ops.zero(queue, device, 40));
    assert_ok(ser_cuda_ops.download(queue, back, device, sizeof back));
    assert_ok(ser_cuda_ops.sync(queue));
    for (int i = 0; i < 10; i++) {
        ck_assert(back[i] == 0.0F);
    }
    ck_assert_mem_eq(back + 10, host + 10, 90 * sizeof *host);
    ser_cuda_ops.free(context, device);
}
END_TEST

/* --- A device that dies --- */

static void check_poison(cudaError_t error)
{
    void *memory;
    open_queue();
    assert_ok(ser_cuda_ops.alloc(context, 100, &memory));
    emulator_fail("cudaStreamSynchronize", 1, error);
    assert_fails(ser_cuda_ops.sync(queue), SER_ERR_DEVICE, "cannot be used any more");
    assert_fails(ser_cuda_ops.zero(queue, memory, 100), SER_ERR_DEVICE, "the device failed");
    assert_fails(ser_cuda_ops.sync(queue), SER_ERR_DEVICE, cudaGetErrorString(error));
    void *more;
    assert_fails(ser_cuda_ops.alloc(context, 100, &more), SER_ERR_DEVICE, "restart the program");
    emulator_reset(); /* on a card memory goes with the context; here the counts must agree */
    ser_cuda_ops.free(context, memory);
    ser_cuda_ops.queue_free(queue);
    ser_cuda_ops.close(context);
    queue = NULL;
    context = NULL;
}

START_TEST(test_poisoned)
{
    check_poison(cudaErrorIllegalAddress);
    check_poison(cudaErrorLaunchFailure);
    check_poison(cudaErrorECCUncorrectable);
    check_poison(cudaErrorMisalignedAddress);
    check_poison(cudaErrorNvlinkUncorrectable);
    check_poison(cudaErrorMpsClientTerminated);
}
END_TEST

START_TEST(test_a_passing_error_does_not_poison)
{
    open_queue();
    emulator_fail("cudaStreamSynchronize", 1, cudaErrorInvalidValue);
    assert_fails(ser_cuda_ops.sync(queue), SER_ERR_DEVICE, "waiting for the device");
    assert_ok(ser_cuda_ops.sync(queue));
}
END_TEST

START_TEST(test_no_code_for_this_card)
{
    void *memory;
    open_queue();
    assert_ok(ser_cuda_ops.alloc(context, 128, &memory));
    const ser_tensor x = ser_tensor_f32(memory, 1, 16);
    const ser_tensor y = {.data = (char *)memory + 64, .rows = 1, .cols = 16, .type = SER_BF16};
    emulator_fail("cudaLaunchKernelEx", 1, cudaErrorNoKernelImageForDevice);
    assert_fails(ser_cuda_ops.convert(queue, &x, &y), SER_ERR_DEVICE,
                 "no code for compute capability 9.0");
    ser_cuda_ops.free(context, memory);
}
END_TEST

/* --- Weights --- */

START_TEST(test_weights_keep_every_bit)
{
    enum { COUNT = 2 * 3 * 5 };
    const ser_weight_spec spec = {.rows = 3, .cols = 5, .groups = 2, .type = SER_BF16};
    float values[COUNT];
    float back[COUNT];
    void *device;
    ser_weight *weight;
    open_queue();
    harness_fill(values, COUNT, 3, 1.0F);
    assert_ok(ser_cuda_ops.alloc(context, sizeof values, &device));
    assert_ok(ser_cuda_ops.weight_create(context, &spec, &weight));
    ck_assert_ptr_nonnull(weight->bf16);
    assert_ok(ser_cuda_ops.upload(queue, device, values, sizeof values));
    assert_ok(ser_cuda_ops.weight_set(queue, weight, device));
    assert_ok(ser_cuda_ops.zero(queue, device, sizeof values));
    assert_ok(ser_cuda_ops.weight_get(queue, weight, device));
    assert_ok(ser_cuda_ops.download(queue, back, device, sizeof back));
    assert_ok(ser_cuda_ops.sync(queue));
    ck_assert_mem_eq(values, back, sizeof values);
    ck_assert_int_eq(ser_weight_get_spec(weight)->groups, 2);
    ser_cuda_ops.weight_free(context, weight);
    ser_cuda_ops.free(context, device);
    emulator_memory_limit(1);
    assert_fails(ser_cuda_ops.weight_create(context, &spec, &weight), SER_ERR_MEMORY, "memory");
    const ser_weight_spec huge = {.rows = INT64_MAX / 2, .cols = 5, .groups = 2};
    assert_fails(ser_cuda_ops.weight_create(context, &huge, &weight), SER_ERR_MEMORY, "exceeds");
}
END_TEST

/* The weight is where it was told to be, and later what it was before. */
START_TEST(test_weights_in_lent_memory)
{
    enum { COUNT = 15 };
    const ser_weight_spec spec = {.rows = 3, .cols = 5, .groups = 1, .type = SER_BF16};
    float values[COUNT], others[COUNT], back[COUNT];
    void *lent;
    ser_weight *weight;
    open_queue();
    harness_fill(values, COUNT, 3, 1.0F);
    harness_fill(others, COUNT, 4, 1.0F);
    assert_ok(ser_cuda_ops.alloc(context, 3 * sizeof others, &lent));
    float *spare = (float *)lent + COUNT;
    uint16_t *rounded = (uint16_t *)(spare + COUNT);
    assert_ok(ser_cuda_ops.weight_create(context, &spec, &weight));
    assert_ok(ser_cuda_ops.upload(queue, spare, values, sizeof values));
    assert_ok(ser_cuda_ops.weight_set(queue, weight, spare));
    const void *own = weight->bf16;
    assert_ok(ser_cuda_ops.upload(queue, lent, others, sizeof others));
    ser_cuda_ops.weight_lend(weight, lent, rounded);
    ck_assert_ptr_eq(cuda_weight_data(weight, SER_F32), lent);
    ck_assert_ptr_eq(cuda_weight_data(weight, SER_BF16), rounded);
    assert_ok(ser_cuda_ops.weight_get(queue, weight, spare));
    assert_ok(ser_cuda_ops.download(queue, back, spare, sizeof back));
    assert_ok(ser_cuda_ops.sync(queue));
    ck_assert_mem_eq(others, back, sizeof back);
    ser_cuda_ops.weight_lend(weight, NULL, NULL);
    ck_assert_ptr_eq(cuda_weight_data(weight, SER_BF16), own);
    assert_ok(ser_cuda_ops.weight_get(queue, weight, spare));
    assert_ok(ser_cuda_ops.download(queue, back, spare, sizeof back));
    assert_ok(ser_cuda_ops.sync(queue));
    ck_assert_mem_eq(values, back, sizeof back);
    ser_cuda_ops.weight_free(context, weight);
    ser_cuda_ops.free(context, lent);
}
END_TEST

/* --- Recording --- */

START_TEST(test_a_recording_does_its_work_on_new_content)
{
    enum { COUNT = 64 };
    float *staging;
    float *result;
    void *memory;
    ser_graph *graph;
    open_queue();
    assert_ok(ser_cuda_ops.host_alloc(context, COUNT * sizeof(float), (void **)&staging));
    assert_ok(ser_cuda_ops.host_alloc(context, COUNT * sizeof(float), (void **)&result));
    assert_ok(ser_cuda_ops.alloc(context, 2 * COUNT * sizeof(float), &memory));
    const ser_tensor x = ser_tensor_f32(memory, 1, COUNT);
    const ser_tensor y = ser_tensor_f32((float *)memory + COUNT, 1, COUNT);
    memset(result, 0, COUNT * sizeof *result);
    assert_ok(ser_cuda_ops.capture_begin(queue));
    assert_ok(ser_cuda_ops.upload(queue, x.data, staging, COUNT * sizeof *staging));
    assert_ok(ser_cuda_ops.convert(queue, &x, &y));
    assert_ok(ser_cuda_ops.download(queue, result, y.data, COUNT * sizeof *result));
    assert_ok(ser_cuda_ops.capture_end(queue, false, &graph));
    assert_ok(ser_cuda_ops.sync(queue));
    ck_assert(result[0] == 0.0F);
    for (uint64_t turn = 0; turn < 3; turn++) {
        harness_fill(staging, COUNT, turn, 1.0F);
        assert_ok(ser_cuda_ops.replay(queue, graph));
        assert_ok(ser_cuda_ops.sync(queue));
        ck_assert_mem_eq(staging, result, COUNT * sizeof *result);
    }
    ser_cuda_ops.graph_free(context, graph);
    ser_cuda_ops.free(context, memory);
    ser_cuda_ops.host_free(context, staging);
    ser_cuda_ops.host_free(context, result);
}
END_TEST

static void open_branch(void)
{
    unsetenv("SER_EARLY_LAUNCH");
    open_queue();
    assert_ok(ser_cuda_ops.branch(queue));
    ck_assert_ptr_nonnull(queue->branch);
}

/* staging -> x by the queue, x -> y by its branch, y -> result by the queue. */
static void copy_by_the_branch(const ser_tensor *x, const ser_tensor *y, const float *staging,
                               float *result)
{
    const size_t size = (size_t)x->cols * sizeof *result;
    assert_ok(ser_cuda_ops.upload(queue, x->data, staging, size));
    assert_ok(ser_cuda_ops.fork(queue));
    assert_ok(ser_cuda_ops.convert(queue->branch, x, y));
    assert_ok(ser_cuda_ops.join(queue));
    assert_ok(ser_cuda_ops.download(queue, result, y->data, size));
}

START_TEST(test_a_branch_runs_between_fork_and_join)
{
    enum { COUNT = 64 };
    float *host;
    void *memory;
    ser_graph *graph;
    open_branch();
    assert_ok(ser_cuda_ops.host_alloc(context, 2 * COUNT * sizeof(float), (void **)&host));
    assert_ok(ser_cuda_ops.alloc(context, 2 * COUNT * sizeof(float), &memory));
    const ser_tensor x = ser_tensor_f32(memory, 1, COUNT);
    const ser_tensor y = ser_tensor_f32((float *)memory + COUNT, 1, COUNT);
    harness_fill(host, COUNT, 1, 1.0F);
    copy_by_the_branch(&x, &y, host, host + COUNT);
    assert_ok(ser_cuda_ops.sync(queue));
    ck_assert_mem_eq(host, host + COUNT, COUNT * sizeof *host);
    assert_ok(ser_cuda_ops.capture_begin(queue));
    copy_by_the_branch(&x, &y, host, host + COUNT);
    assert_ok(ser_cuda_ops.capture_end(queue, false, &graph));
    for (uint64_t turn = 2; turn < 4; turn++) {
        harness_fill(host, COUNT, turn, 1.0F);
        assert_ok(ser_cuda_ops.replay(queue, graph));
        assert_ok(ser_cuda_ops.sync(queue));
        ck_assert_mem_eq(host, host + COUNT, COUNT * sizeof *host);
    }
    ser_cuda_ops.graph_free(context, graph);
    ser_cuda_ops.free(context, memory);
    ser_cuda_ops.host_free(context, host);
}
END_TEST

/* A pass that failed between fork and join: waiting for the queue waits for the branch; a recording
 * that ends so is refused, and the next one is not hurt. */
START_TEST(test_a_branch_that_was_not_joined)
{
    float values[2] = {3.0F, 0.0F};
    float *memory;
    ser_graph *graph;
    open_branch();
    assert_ok(ser_cuda_ops.alloc(context, sizeof values, (void **)&memory));
    const ser_tensor x = ser_tensor_f32(memory, 1, 1);
    const ser_tensor y = ser_tensor_f32(memory + 1, 1, 1);
    assert_ok(ser_cuda_ops.upload(queue, memory, values, sizeof values));
    assert_ok(ser_cuda_ops.fork(queue));
    assert_ok(ser_cuda_ops.convert(queue->branch, &x, &y));
    assert_ok(ser_cuda_ops.sync(queue));
    assert_ok(ser_cuda_ops.download(queue, values, memory, sizeof values));
    assert_ok(ser_cuda_ops.sync(queue));
    ck_assert(values[1] == 3.0F);
    for (int joined = 0; joined < 2; joined++) {
        assert_ok(ser_cuda_ops.capture_begin(queue));
        assert_ok(ser_cuda_ops.fork(queue));
        assert_ok(ser_cuda_ops.convert(queue->branch, &x, &y));
        if (joined) {
            assert_ok(ser_cuda_ops.join(queue));
            assert_ok(ser_cuda_ops.capture_end(queue, false, &graph));
        } else {
            ck_assert_int_ne(ser_cuda_ops.capture_end(queue, false, &graph), 0);
        }
    }
    ser_cuda_ops.graph_free(context, graph);
    assert_ok(ser_cuda_ops.sync(queue));
    ser_cuda_ops.free(context, memory);
}
END_TEST

START_TEST(test_which_queues_have_a_branch)
{
    setenv("SER_BRANCH", "0", 1);
    unsetenv("SER_EARLY_LAUNCH");
    open_queue();
    assert_ok(ser_cuda_ops.branch(queue));
    ck_assert_ptr_null(queue->branch);
    unsetenv("SER_BRANCH");
    emulator_fail("cudaStreamCreateWithFlags", 1, cudaErrorMemoryAllocation);
    assert_fails(ser_cuda_ops.branch(queue), SER_ERR_MEMORY, "stream");
    ck_assert_ptr_null(queue->branch);
    emulator_fail("cudaEventCreateWithFlags", 2, cudaErrorMemoryAllocation);
    assert_fails(ser_cuda_ops.branch(queue), SER_ERR_MEMORY, "events");
}
END_TEST

START_TEST(test_a_failed_recording_leaves_the_queue_usable)
{
    ser_graph *graph = NULL;
    open_queue();
    assert_ok(ser_cuda_ops.capture_begin(queue));
    assert_ok(ser_cuda_ops.capture_end(queue, true, &graph));
    ck_assert_ptr_null(graph);
    emulator_fail("cudaGraphInstantiate", 1, cudaErrorMemoryAllocation);
    assert_ok(ser_cuda_ops.capture_begin(queue));
    assert_fails(ser_cuda_ops.capture_end(queue, false, &graph), SER_ERR_MEMORY, "recording");
    ck_assert_ptr_null(graph);
    emulator_fail("cudaStreamBeginCapture", 1, cudaErrorInvalidValue);
    assert_fails(ser_cuda_ops.capture_begin(queue), SER_ERR_DEVICE, "record");
    assert_ok(ser_cuda_ops.sync(queue));
}
END_TEST

/* --- Kernels that start early --- */

/* A softmax over four classes; the status of its launch. */
static int run_softmax(void *memory)
{
    ser_cross_entropy_args args = {
        .logits = ser_tensor_f32(memory, 1, 4),
        .probabilities = ser_tensor_f32((float *)memory + 4, 1, 4),
    };
    assert_ok(ser_cuda_ops.zero(queue, memory, 8 * sizeof(float)));
    return ser_cuda_ops.cross_entropy_fwd(queue, &args);
}

/* How many of its launches, and those of a recording of it, may start early. */
static uint64_t early_launches(int major, int minor, int compiled)
{
    float result[4] = {0};
    void *memory;
    ser_graph *graph;
    emulator_device(1, 13000, major, minor, "GPU", 0);
    emulator_compiled_for(compiled);
    open_queue();
    assert_ok(ser_cuda_ops.alloc(context, 8 * sizeof(float), &memory));
    const uint64_t before = emulator_early_launches();
    assert_ok(run_softmax(memory));
    assert_ok(ser_cuda_ops.capture_begin(queue));
    assert_ok(run_softmax(memory));
    assert_ok(ser_cuda_ops.capture_end(queue, false, &graph));
    assert_ok(ser_cuda_ops.replay(queue, graph));
    assert_ok(ser_cuda_ops.download(queue, result, (float *)memory + 4, sizeof result));
    assert_ok(ser_cuda_ops.sync(queue));
    ck_assert(result[0] == 0.25F && result[3] == 0.25F);
    const uint64_t count = emulator_early_launches() - before;
    ser_cuda_ops.graph_free(context, graph);
    ser_cuda_ops.free(context, memory);
    ser_cuda_ops.queue_free(queue);
    ser_cuda_ops.close(context);
    queue = NULL;
    context = NULL;
    return count;
}

START_TEST(test_which_cards_start_early)
{
    ck_assert_uint_eq(early_launches(8, 0, 0), 0);
    ck_assert_uint_eq(early_launches(8, 9, 0), 0);
    ck_assert_uint_eq(early_launches(9, 0, 0), 2);
    ck_assert_uint_eq(early_launches(12, 0, 0), 2);
    ck_assert_uint_eq(early_launches(9, 0, 80), 0); /* such code would not wait */
    setenv("SER_EARLY_LAUNCH", "0", 1);
    ck_assert_uint_eq(early_launches(9, 0, 0), 0);
    unsetenv("SER_EARLY_LAUNCH");
    ck_assert_uint_eq(early_launches(9, 0, 0), 0);
}
END_TEST

/* After a failure that may come from it, what is launched or recorded next does without. */
static void check_refused(const char *function, bool recording)
{
    void *memory;
    ser_graph *graph = NULL;
    open_queue();
    assert_ok(ser_cuda_ops.alloc(context, 8 * sizeof(float), &memory));
    assert_ok(run_softmax(memory));
    const uint64_t before = emulator_early_launches();
    ck_assert_uint_eq(before, 1);
    emulator_fail(function, 1, cudaErrorInvalidValue);
    if (recording) {
        assert_ok(ser_cuda_ops.capture_begin(queue));
        assert_ok(run_softmax(memory));
        assert_fails(ser_cuda_ops.capture_end(queue, false, &graph), SER_ERR_DEVICE, "recording");
    } else {
        assert_fails(run_softmax(memory), SER_ERR_DEVICE, "a kernel launch");
    }
    assert_ok(run_softmax(memory));
    ck_assert_uint_eq(emulator_early_launches(), before);
    ser_cuda_ops.free(context, memory);
    ser_cuda_ops.queue_free(queue);
    ser_cuda_ops.close(context);
    queue = NULL;
    context = NULL;
    emulator_reset();
}

START_TEST(test_what_fails_is_done_without_starting_early)
{
    check_refused("cudaLaunchKernelEx", false);
    check_refused("cudaGraphInstantiate", true);
    check_refused("cudaStreamEndCapture", true);
}
END_TEST

/* Memory is no reason: nothing else is given up for it. */
START_TEST(test_no_memory_for_a_recording_keeps_early_starts)
{
    void *memory;
    ser_graph *graph = NULL;
    open_queue();
    assert_ok(ser_cuda_ops.alloc(context, 8 * sizeof(float), &memory));
    emulator_fail("cudaGraphInstantiate", 1, cudaErrorMemoryAllocation);
    assert_ok(ser_cuda_ops.capture_begin(queue));
    assert_ok(run_softmax(memory));
    assert_fails(ser_cuda_ops.capture_end(queue, false, &graph), SER_ERR_MEMORY, "recording");
    assert_ok(run_softmax(memory));
    ck_assert_uint_eq(emulator_early_launches(), 1);
    ser_cuda_ops.free(context, memory);
}
END_TEST

/* What a kernel was compiled for cannot be learnt: it starts late, the next one asks again. */
START_TEST(test_unknown_code_starts_late)
{
    void *memory;
    open_queue();
    assert_ok(ser_cuda_ops.alloc(context, 8 * sizeof(float), &memory));
    emulator_fail("cudaFuncGetAttributes", 1, cudaErrorInvalidDeviceFunction);
    assert_ok(run_softmax(memory));
    ck_assert_uint_eq(emulator_early_launches(), 0);
    assert_ok(run_softmax(memory));
    ck_assert_uint_eq(emulator_early_launches(), 1);
    ser_cuda_ops.free(context, memory);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {test_no_driver,
                            test_old_driver,
                            test_no_gpu,
                            test_hidden_gpu,
                            test_forked,
                            test_driver_not_reloaded,
                            test_old_gpu,
                            test_index,
                            test_busy,
                            test_full,
                            test_unknown_error,
                            test_no_memory_on_the_host,
                            test_out_of_memory_is_not_fatal,
                            test_transfers,
                            test_poisoned,
                            test_a_passing_error_does_not_poison,
                            test_no_code_for_this_card,
                            test_weights_keep_every_bit,
                            test_weights_in_lent_memory,
                            test_a_recording_does_its_work_on_new_content,
                            test_a_branch_runs_between_fork_and_join,
                            test_a_branch_that_was_not_joined,
                            test_which_queues_have_a_branch,
                            test_a_failed_recording_leaves_the_queue_usable,
                            test_which_cards_start_early,
                            test_what_fails_is_done_without_starting_early,
                            test_no_memory_for_a_recording_keeps_early_starts,
                            test_unknown_code_starts_late};
    Suite *suite = suite_create("cuda_device");
    TCase *tcase = tcase_create("device");
    tcase_add_checked_fixture(tcase, setup, teardown);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        tcase_add_test(tcase, tests[i]);
    }
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
