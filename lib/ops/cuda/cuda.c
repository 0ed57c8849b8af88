/* SPDX-License-Identifier: MIT */
/* The CUDA backend: device, memory, weights, and on the last page the table. */
#include "ops/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "ops/cuda/convolutions.h"
#include "ops/cuda/products.h"

enum { LEAST_MAJOR = 8 }; /* Ampere: bf16 tensor cores, cp.async */

/* --- Device --- */

/* Why there is no device to use, in words that say what to do. */
static int fail_devices(cudaError_t error)
{
    int driver = 0;
    int runtime = 0;
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (error == cudaErrorInsufficientDriver && driver == 0) {
        return ser_fail(SER_ERR_DEVICE, "cuda: there is no NVIDIA driver on this machine; install "
                                        "one, or use the CPU");
    }
    if (error == cudaErrorInsufficientDriver) {
        return ser_fail(SER_ERR_DEVICE,
                        "cuda: the NVIDIA driver supports CUDA %d.%d, libser needs %d.%d: update "
                        "the driver, or use the CPU",
                        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    }
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (error == cudaErrorNoDevice && visible != NULL) {
        return ser_fail(SER_ERR_DEVICE,
                        "cuda: no GPU is visible: CUDA_VISIBLE_DEVICES is \"%.64s\"; name a GPU "
                        "there or unset it",
                        visible);
    }
    if (error == cudaErrorNoDevice) {
        return ser_fail(SER_ERR_DEVICE,
                        "cuda: the driver finds no GPU in this machine; use the CPU");
    }
    if (error == cudaErrorInitializationError) {
        return ser_fail(SER_ERR_DEVICE,
                        "cuda: the driver cannot be initialised; a process forked from one that "
                        "used the GPU cannot use it: fork first, or exec");
    }
    if (error == cudaErrorSystemDriverMismatch) {
        return ser_fail(SER_ERR_DEVICE,
                        "cuda: the loaded NVIDIA driver is not the installed one; restart the "
                        "machine, or use the CPU");
    }
    return ser_fail(SER_ERR_DEVICE, "cuda: %s (%s)", cudaGetErrorString(error),
                    cudaGetErrorName(error));
}

static int count_devices(int *count)
{
    *count = 0;
    const cudaError_t error = cudaGetDeviceCount(count);
    if (error != cudaSuccess || *count == 0) {
        *count = 0;
        return fail_devices(error != cudaSuccess ? error : cudaErrorNoDevice);
    }
    return 0;
}

static int attribute(int32_t index, enum cudaDeviceAttr which)
{
    int value = 0;
    return cudaDeviceGetAttribute(&value, which, index) == cudaSuccess ? value : 0;
}

static int cuda_count(void)
{
    int all;
    int usable = 0;
    if (count_devices(&all) != 0) {
        return 0;
    }
    for (int i = 0; i < all; i++) {
        usable += attribute(i, cudaDevAttrComputeCapabilityMajor) >= LEAST_MAJOR;
    }
    if (usable == 0) {
        ser_fail(SER_ERR_DEVICE,
                 "cuda: no GPU here has compute capability %d.0 or higher (Ampere); use the CPU",
                 (int)LEAST_MAJOR);
    }
    return usable;
}

/* What the context must know of its device. */
static int describe(ser_context *context)
{
    struct cudaDeviceProp properties;
    const cudaError_t error = cudaGetDeviceProperties(&properties, context->index);
    if (error != cudaSuccess) {
        return ser_cuda_status(context, error, "reading the properties of the device");
    }
    context->major = properties.major;
    context->minor = properties.minor;
    context->multiprocessors = properties.multiProcessorCount;
    context->shared_limit = properties.sharedMemPerBlockOptin;
    if (properties.major < LEAST_MAJOR) {
        return ser_fail(SER_ERR_DEVICE,
                        "cuda:%d: %s has compute capability %d.%d, libser needs %d.0 (Ampere) or "
                        "higher; choose another GPU, or use the CPU",
                        context->index, properties.name, properties.major, properties.minor,
                        (int)LEAST_MAJOR);
    }
    snprintf(context->name, sizeof context->name, "cuda:%d (%s, sm_%d%d, %.0f GiB)", context->index,
             properties.name, properties.major, properties.minor,
             (double)properties.totalGlobalMem / (1024.0 * 1024.0 * 1024.0));
    return 0;
}

/* The first call that makes the driver build a context: the place where a taken GPU shows. */
static int start(ser_context *context)
{
    cudaError_t error = cudaSetDevice(context->index);
    error = error == cudaSuccess ? cudaFree(NULL) : error;
    if (error == cudaErrorDevicesUnavailable) {
        cudaGetLastError();
        return ser_fail(SER_ERR_DEVICE,
                        "cuda:%d: the GPU is busy or closed to this process (exclusive mode, or a "
                        "MIG slice that is not ours); choose another, or use the CPU",
                        context->index);
    }
    if (error == cudaErrorMemoryAllocation) { /* nothing of ours is there to be freed */
        cudaGetLastError();
        return ser_fail(SER_ERR_DEVICE,
                        "cuda:%d: the GPU has no memory left to start on: end what else uses it, "
                        "choose another, or use the CPU",
                        context->index);
    }
    return ser_cuda_status(context, error, "starting the device");
}

static void cuda_close(ser_context *context)
{
    if (context != NULL) {
        ser_products_close(context->products);
        ser_mem_free(context);
    }
}

static int cuda_open(int32_t index, ser_context **context, const char **name)
{
    int count;
    int status = count_devices(&count);
    if (status != 0) {
        return status;
    }
    if (index >= count) {
        return ser_fail(SER_ERR_DEVICE, "cuda:%d: there is no such GPU, the last one is cuda:%d",
                        index, count - 1);
    }
    ser_context *c = ser_mem_alloc(1, sizeof *c);
    if (c == NULL) {
        return SER_ERR_MEMORY;
    }
    c->index = index;
    status = describe(c);
    status = status == 0 ? start(c) : status;
    status = status == 0 ? ser_products_open(c, &c->products) : status;
    if (status != 0) {
        cuda_close(c);
        return status;
    }
    *context = c;
    *name = c->name;
    return 0;
}

/* --- Memory --- */

bool ser_cuda_can_release(const ser_context *context)
{
    return cudaSetDevice(context->index) == cudaSuccess ||
           __atomic_load_n(&context->failed, __ATOMIC_RELAXED) != 0;
}

void ser_cuda_free(ser_context *context, void *memory)
{
    if (memory != NULL && ser_cuda_can_release(context)) {
        cudaFree(memory);
    }
    cudaGetLastError();
}

static int cuda_host_alloc(ser_context *context, size_t size, void **memory)
{
    *memory = NULL;
    int status = ser_cuda_enter(context);
    if (status != 0) {
        return status;
    }
    const cudaError_t error = cudaMallocHost(memory, size > 0 ? size : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return ser_fail(SER_ERR_MEMORY, "cuda:%d: %zu bytes of host memory cannot be page-locked",
                        context->index, size);
    }
    return ser_cuda_status(context, error, "allocating page-locked memory");
}

static void cuda_host_free(ser_context *context, void *memory)
{
    if (memory != NULL && ser_cuda_can_release(context)) {
        cudaFreeHost(memory);
    }
    cudaGetLastError();
}

/* --- Weights --- */

static void cuda_weight_free(ser_context *context, ser_weight *weight)
{
    if (weight != NULL) {
        ser_cuda_free(context, weight->own_f32);
        ser_cuda_free(context, weight->own_bf16);
        ser_mem_free(weight);
    }
}

static void cuda_weight_lend(ser_weight *weight, float *f32, void *bf16)
{
    weight->f32 = f32 != NULL ? f32 : weight->own_f32;
    weight->bf16 = f32 == NULL ? weight->own_bf16 : weight->spec.type == SER_BF16 ? bf16 : NULL;
}

static int cuda_weight_create(ser_context *context, const ser_weight_spec *spec,
                              ser_weight **weight)
{
    size_t bytes = 0;
    if (__builtin_mul_overflow(spec->rows, spec->cols, &bytes) ||
        __builtin_mul_overflow(bytes, spec->groups, &bytes) ||
        __builtin_mul_overflow(bytes, sizeof(float), &bytes)) {
        return ser_fail(SER_ERR_MEMORY, "out of memory: a weight exceeds the address space");
    }
    ser_weight *w = ser_mem_alloc(1, sizeof *w);
    if (w == NULL) {
        return SER_ERR_MEMORY;
    }
    w->spec = *spec;
    void *memory = NULL;
    int status = ser_cuda_alloc(context, bytes, &memory);
    w->own_f32 = memory;
    if (status == 0 && spec->type == SER_BF16) {
        status = ser_cuda_alloc(context, bytes / 2, &w->own_bf16);
    }
    if (status != 0) {
        cuda_weight_free(context, w);
        return status;
    }
    cuda_weight_lend(w, NULL, NULL);
    *weight = w;
    return 0;
}

static size_t weight_bytes(const ser_weight *weight)
{
    return (size_t)(weight->spec.rows * weight->spec.cols * weight->spec.groups) * sizeof(float);
}

static int cuda_weight_set(ser_queue *queue, ser_weight *weight, const float *device)
{
    int status =
        ser_cuda_copy(queue, weight->f32, device, weight_bytes(weight), cudaMemcpyDeviceToDevice);
    if (status == 0 && weight->bf16 != NULL) {
        const int64_t rows = weight->spec.rows * weight->spec.groups;
        const ser_tensor from = ser_tensor_f32(weight->f32, rows, weight->spec.cols);
        const ser_tensor to = {
            .data = weight->bf16, .rows = rows, .cols = weight->spec.cols, .type = SER_BF16};
        status = ser_cuda_convert(queue, &from, &to);
    }
    return status;
}

static int cuda_weight_get(ser_queue *queue, const ser_weight *weight, float *device)
{
    return ser_cuda_copy(queue, device, weight->f32, weight_bytes(weight),
                         cudaMemcpyDeviceToDevice);
}

/* --- The table --- */

static size_t cuda_scratch(const ser_queue *queue, enum ser_op op, const void *args)
{
    switch (op) {
    case SER_OP_LOG_MEL: return ser_cuda_log_mel_scratch(queue, args);
    case SER_OP_WAVE_CONV: return ser_cuda_wave_conv_scratch(queue, args);
    case SER_OP_CONV: return ser_cuda_conv_scratch(queue, args);
    case SER_OP_LINEAR: return ser_cuda_linear_scratch(queue, args);
    case SER_OP_POS_CONV: return ser_cuda_pos_conv_scratch(queue, args);
    case SER_OP_WEIGHT_NORM: return ser_cuda_weight_norm_scratch(queue, args);
    case SER_OP_RESIDUAL_NORM: return ser_cuda_residual_norm_scratch(queue, args);
    case SER_OP_ATTENTION: return ser_cuda_attention_scratch(queue, args);
    case SER_OP_LAYER_MIX: return ser_cuda_layer_mix_scratch(queue, args);
    case SER_OP_ATTN_POOL: return ser_cuda_attn_pool_scratch(queue, args);
    case SER_OP_SUM_SQUARES: return ser_cuda_sum_squares_scratch(queue, args);
    default: return 0;
    }
}

const ser_ops ser_cuda_ops = {
    .version = SER_OPS_VERSION,
    .bf16 = true,
    .name = "cuda",
    .count = cuda_count,
    .open = cuda_open,
    .close = cuda_close,
    .alloc = ser_cuda_alloc,
    .free = ser_cuda_free,
    .host_alloc = cuda_host_alloc,
    .host_free = cuda_host_free,
    .queue_create = ser_cuda_queue_create,
    .queue_free = ser_cuda_queue_free,
    .upload = ser_cuda_upload,
    .download = ser_cuda_download,
    .zero = ser_cuda_zero,
    .sync = ser_cuda_sync,
    .branch = ser_cuda_branch,
    .fork = ser_cuda_fork,
    .join = ser_cuda_join,
    .capture_begin = ser_cuda_capture_begin,
    .capture_end = ser_cuda_capture_end,
    .replay = ser_cuda_replay,
    .graph_free = ser_cuda_graph_free,
    .weight_create = cuda_weight_create,
    .weight_free = cuda_weight_free,
    .weight_set = cuda_weight_set,
    .weight_get = cuda_weight_get,
    .weight_lend = cuda_weight_lend,
    .convert = ser_cuda_convert,
    .scratch = cuda_scratch,
    .gather = ser_cuda_gather,
    .log_mel_fwd = ser_cuda_log_mel_fwd,
    .mel_warp_fwd = ser_cuda_mel_warp_fwd,
    .wave_conv_fwd = ser_cuda_wave_conv_fwd,
    .wave_conv_bwd = ser_cuda_wave_conv_bwd,
    .conv_fwd = ser_cuda_conv_fwd,
    .conv_bwd = ser_cuda_conv_bwd,
    .linear_fwd = ser_cuda_linear_fwd,
    .linear_bwd = ser_cuda_linear_bwd,
    .pos_conv_fwd = ser_cuda_pos_conv_fwd,
    .pos_conv_bwd = ser_cuda_pos_conv_bwd,
    .weight_norm_fwd = ser_cuda_weight_norm_fwd,
    .weight_norm_bwd = ser_cuda_weight_norm_bwd,
    .residual_norm_fwd = ser_cuda_residual_norm_fwd,
    .residual_norm_bwd = ser_cuda_residual_norm_bwd,
    .attention_fwd = ser_cuda_attention_fwd,
    .attention_bwd = ser_cuda_attention_bwd,
    .layer_mix_fwd = ser_cuda_layer_mix_fwd,
    .layer_mix_bwd = ser_cuda_layer_mix_bwd,
    .attn_pool_fwd = ser_cuda_attn_pool_fwd,
    .attn_pool_bwd = ser_cuda_attn_pool_bwd,
    .cross_entropy_fwd = ser_cuda_cross_entropy_fwd,
    .cross_entropy_bwd = ser_cuda_cross_entropy_bwd,
    .dropout_fwd = ser_cuda_dropout_fwd,
    .dropout_bwd = ser_cuda_dropout_bwd,
    .span_mask = ser_cuda_span_mask,
    .sum_squares = ser_cuda_sum_squares,
    .adamw = ser_cuda_adamw,
};
