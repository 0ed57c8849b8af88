/* SPDX-License-Identifier: MIT */
#include "fake_queue.h"

#include <dlfcn.h>

#include "harness.h"
#include "ops/cuda/algorithms.h"
#include "ops/cuda/products.h"

enum { SCRATCH = 512, SLACK = KERNEL, X_ROWS = BATCH * ROWS * STRIDE };

struct ser_products {
    ser_algorithms *algorithms;
};

fake_device device;
static struct ser_products products;
static char scratch[SCRATCH];

/* --- What is needed of the rest of the backend --- */

int ser_cuda_status(ser_context *context, cudaError_t error, const char *what)
{
    (void)context;
    return error == cudaSuccess ? 0 : ser_fail(SER_ERR_DEVICE, "%s", what);
}

int ser_cuda_zero_padding(ser_queue *queue, const ser_tensor *y, const ser_rows *rows)
{
    ck_assert_ptr_eq(queue, &device.queue.base);
    for (int64_t row = 0; row < rows->batch * rows->padded && !device.cudnn->only_record; row++) {
        if (row % rows->padded >= rows->valid[row / rows->padded]) {
            memset((uint16_t *)y->data + row * y->cols, 0, (size_t)y->cols * sizeof(uint16_t));
        }
    }
    return 0;
}

struct ser_algorithms *ser_products_algorithms(const ser_context *context)
{
    return context->products->algorithms;
}

void ser_products_begin_measuring(ser_context *context)
{
    void (*wait)(void) = device.wait;
    ck_assert_ptr_eq(context, &device.context);
    device.wait = NULL;
    if (wait != NULL) {
        wait();
    }
    device.measuring++;
}

void ser_products_end_measuring(ser_context *context)
{
    ck_assert_ptr_eq(context, &device.context);
    device.measuring--;
}

size_t ser_products_scratch(const ser_queue *queue)
{
    (void)queue;
    return SCRATCH;
}

/* --- What is needed of CUDA --- */

cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    if (device.no_events) {
        return cudaErrorMemoryAllocation;
    }
    double *time = calloc(1, sizeof *time);
    ck_assert_ptr_nonnull(time);
    *event = (cudaEvent_t)(void *)time;
    device.events++;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free((void *)event);
    device.events--;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ck_assert_ptr_eq(stream, device.queue.stream);
    *(double *)(void *)event = device.cudnn->clock;
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
    ck_assert_ptr_eq(to, scratch);
    ck_assert_uint_eq(size, sizeof scratch);
    ck_assert_ptr_eq(stream, device.queue.stream);
    memset(to, value, size);
    device.cudnn->clock += 1000.0;
    device.cleared++;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    ck_assert_ptr_eq(stream, device.queue.stream);
    return cudaSuccess;
}

/* --- The fixture --- */

static void remember(int32_t level, const char *text, void *user)
{
    (void)user;
    ck_assert_int_eq(level, SER_LOG_DEBUG);
    snprintf(device.line, sizeof device.line, "%s", text);
    const size_t length = strlen(device.lines_of);
    snprintf(device.lines_of + length, sizeof device.lines_of - length, "%s\n", text);
    device.lines++;
}

static void open_choices(void)
{
    assert_ok(ser_algorithms_open("a card", &products.algorithms));
}

void open_queue(void)
{
    void *library = dlopen("libcudnn_graph.so.9", RTLD_NOW);
    ck_assert_msg(library != NULL, "%s", dlerror());
    void *function = dlsym(library, "fake_cudnn_state");
    ck_assert_msg(function != NULL, "this is not the fake");
    fake_cudnn_function *fake_state;
    memcpy(&fake_state, &function, sizeof function);
    device = (fake_device){.cudnn = fake_state(), .context.products = &products};
    device.queue = (cuda_queue){.base.context = &device.context, .base.scratch = scratch};
    *device.cudnn = (fake_cudnn){0};
    setenv("SER_CUDNN", "1", 1);
    setenv("SER_CACHE_DIR", "", 1);
    ser_log_set_handler(NULL, NULL);
    open_choices();
    ser_log_set_handler(remember, NULL);
    ser_log_set_level(SER_LOG_DEBUG);
}

void close_queue(void)
{
    const int32_t failed = device.cudnn->no_handle ? 1 : 0;
    ser_convolutions_free(device.queue.convolutions);
    ser_algorithms_close(products.algorithms);
    ck_assert_int_eq(device.cudnn->descriptors, 0);
    ck_assert_int_eq(device.cudnn->handles, failed);
    ck_assert_int_eq(device.events, 0);
    ck_assert_int_eq(device.measuring, 0);
    ck_assert_int_eq(ser_mem_live(), 0);
}

void keep_choices(void)
{
    static int count;
    char name[32];
    snprintf(name, sizeof name, "choices-%d", count++);
    ser_algorithms_close(products.algorithms);
    setenv("SER_CACHE_DIR", harness_tmpfile(name), 1);
    open_choices();
    ck_assert(ser_algorithms_lasting(products.algorithms));
    setenv("SER_CUDNN", "auto", 1);
}

void start_again(void)
{
    ser_convolutions_free(device.queue.convolutions);
    ser_algorithms_close(products.algorithms);
    device.queue.convolutions = NULL;
    ck_assert_int_eq(device.cudnn->handles, 0);
    device.cudnn->heuristics = device.cudnn->plans = device.cudnn->runs = 0;
    device.cleared = device.lines = 0;
    device.line[0] = device.lines_of[0] = '\0';
    open_choices();
}

/* --- Calls --- */

_Alignas(16) uint16_t x_memory[(PADDING + X_ROWS + SLACK) * IN];
_Alignas(16) uint16_t w_memory[OUT * KERNEL * IN];
_Alignas(16) uint16_t bias_memory[OUT];
_Alignas(16) uint16_t y_memory[(BATCH * ROWS + 1) * OUT];
const int32_t valid_in[BATCH] = {13, 6, 1};
const int32_t valid_out[BATCH] = {7, 3, 1};
static const ser_rows ends = {BATCH, ROWS, valid_out};
static ser_weight weight = {.bf16 = w_memory};

float of_bf16(uint16_t half)
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

void fill_memory(void)
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
    for (int64_t i = 0; i < OUT; i++) {
        bias_memory[i] = random_bf16(&state);
    }
    memset(y_memory, 0xFF, sizeof y_memory); /* NaN */
}

cuda_convolution small_call(void)
{
    return (cuda_convolution){
        .x = {x_memory + PADDING * IN, X_ROWS, IN, SER_BF16},
        .kernel = KERNEL,
        .stride = STRIDE,
        .padding = PADDING,
        .w = &weight,
        .y = {y_memory, BATCH * ROWS, OUT, SER_BF16},
        .ends = &ends,
    };
}

cuda_convolution large_call(int64_t batch)
{
    cuda_convolution call = small_call();
    call.x = (ser_tensor){(void *)(uintptr_t)0x10000000, batch * 16000, 512, SER_BF16};
    call.y = (ser_tensor){(void *)(uintptr_t)0x40000000, batch * 8000, 512, SER_BF16};
    return call;
}

cuda_convolution linear_call(int64_t batch)
{
    return (cuda_convolution){
        .x = {(void *)(uintptr_t)0x10000000, batch * 250, 768, SER_BF16},
        .kernel = 1,
        .stride = 1,
        .w = &weight,
        .bias = {bias_memory, 1, 3072, SER_BF16},
        .y = {(void *)(uintptr_t)0x40000000, batch * 250, 3072, SER_BF16},
    };
}

/* --- The other way --- */

/* Its y is not what is wanted: it must not stay where the call is run fused. */
static int run_other(cuda_queue *queue, const void *data)
{
    other_way *other = *(other_way *const *)data;
    ck_assert_ptr_eq(queue, &device.queue);
    ck_assert_int_eq(device.measuring, 1);
    const int32_t last = other->count - 1;
    device.cudnn->clock += other->costs[other->runs < last ? other->runs : last];
    other->runs++;
    if (!device.cudnn->only_record) {
        memset(y_memory, 0xFF, BATCH * ROWS * OUT * sizeof *y_memory);
    }
    return other->fails ? ser_fail(SER_ERR_DEVICE, "as it was told") : 0;
}

bool ready(const cuda_convolution *call, other_way *other)
{
    const cuda_way way = {run_other, &other};
    return ser_convolution_ready(&device.queue, call, &way);
}
