/* SPDX-License-Identifier: MIT */
/* The runtime API but for streams: errors, devices, memory; and what tests control. */
#include "emulator_internal.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

emulator_state emulator_now;

namespace
{

constexpr int runtime_version = 13000;

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

struct injection {
    char function[64];
    int after;
    cudaError_t error;
};
injection injections[16];

const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable",
     "CUDA-capable device(s) is/are busy or unavailable"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorInvalidPtx, "cudaErrorInvalidPtx", "a PTX JIT compilation failed"},
    {cudaErrorUnsupportedPtxVersion, "cudaErrorUnsupportedPtxVersion",
     "the provided PTX was compiled with an unsupported toolchain."},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorAssert, "cudaErrorAssert", "device-side assert triggered"},
    {cudaErrorHardwareStackError, "cudaErrorHardwareStackError", "hardware stack error"},
    {cudaErrorIllegalInstruction, "cudaErrorIllegalInstruction",
     "an illegal instruction was encountered"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorInvalidAddressSpace, "cudaErrorInvalidAddressSpace",
     "operation not supported on global/shared address space"},
    {cudaErrorInvalidPc, "cudaErrorInvalidPc", "invalid program counter"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotPermitted, "cudaErrorNotPermitted", "operation not permitted"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorNvlinkUncorrectable, "cudaErrorNvlinkUncorrectable", "uncorrectable NVLink error"},
    {cudaErrorTensorMemoryLeak, "cudaErrorTensorMemoryLeak", "tensor memory was not freed"},
    {cudaErrorMpsClientTerminated, "cudaErrorMpsClientTerminated", "MPS client was terminated"},
    {cudaErrorSystemNotReady, "cudaErrorSystemNotReady", "system not yet initialized"},
    {cudaErrorSystemDriverMismatch, "cudaErrorSystemDriverMismatch",
     "system has unsupported display driver / cuda driver combination"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge",
     "operation would result in a merge of separate capture sequences"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture was not ended in the same stream as it began"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

void set_default_device()
{
    emulator_now.device_count = 1;
    emulator_now.driver = runtime_version;
    emulator_now.major = 9;
    emulator_now.minor = 0;
    snprintf(emulator_now.name, sizeof emulator_now.name, "Emulated GPU");
    emulator_now.memory = static_cast<size_t>(80) << 30;
    emulator_now.limit = 0;
    emulator_now.compiled = 0;
}

void set_order()
{
    const char *seed = getenv("SER_EMULATION_ORDER");
    emulator_order(seed ? strtoull(seed, nullptr, 0) : 0);
}

__attribute__((constructor)) void begin()
{
    set_default_device();
    set_order();
}

bool is_sticky(cudaError_t error)
{
    return error == cudaErrorECCUncorrectable || error == cudaErrorIllegalAddress ||
           error == cudaErrorLaunchTimeout || error == cudaErrorAssert ||
           (error >= cudaErrorHardwareStackError && error <= cudaErrorLaunchFailure);
}

cudaError_t injected(const char *function)
{
    cudaError_t error = cudaSuccess;

    for (injection &i : injections) {
        if (i.after == 0 || strcmp(i.function, function) != 0 || --i.after > 0) {
            continue;
        }
        error = i.error;
    }
    if (is_sticky(error)) {
        emulator_lose(error);
    }
    return error;
}

cudaError_t driver_error()
{
    if (emulator_now.driver / 1000 < runtime_version / 1000) {
        return cudaErrorInsufficientDriver;
    }
    return emulator_now.device_count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

bool is_device(int device)
{
    return device >= 0 && device < emulator_now.device_count;
}

} // namespace

emulator_lock::emulator_lock()
{
    pthread_mutex_lock(&mutex);
}

emulator_lock::~emulator_lock()
{
    pthread_mutex_unlock(&mutex);
}

cudaError_t emulator_enter(const char *function)
{
    const cudaError_t error = injected(function);

    if (error) {
        return error;
    }
    return emulator_now.sticky ? emulator_now.sticky : driver_error();
}

cudaError_t emulator_leave(cudaError_t error)
{
    if (error) {
        last_error = error;
    }
    return error;
}

void emulator_lose(cudaError_t error)
{
    if (!emulator_now.sticky) {
        emulator_now.sticky = error;
    }
}

/* -- Control */

void emulator_fail(const char *function, int nth, cudaError_t error)
{
    const emulator_lock lock;

    for (injection &i : injections) {
        if (i.after == 0) {
            snprintf(i.function, sizeof i.function, "%s", function);
            i.after = nth;
            i.error = error;
            return;
        }
    }
    emulator_fatal("too many injected errors");
}

void emulator_device(int count, int driver_version, int major, int minor, const char *name,
                     size_t memory)
{
    const emulator_lock lock;

    emulator_now.device_count = count;
    emulator_now.driver = driver_version;
    emulator_now.major = major;
    emulator_now.minor = minor;
    snprintf(emulator_now.name, sizeof emulator_now.name, "%s", name ? name : "Emulated GPU");
    if (memory > 0) {
        emulator_now.memory = memory;
    }
}

void emulator_memory_limit(size_t bytes)
{
    const emulator_lock lock;
    emulator_now.limit = bytes;
}

uint64_t emulator_launches()
{
    const emulator_lock lock;
    return emulator_now.launches;
}

uint64_t emulator_early_launches()
{
    const emulator_lock lock;
    return emulator_now.early_launches;
}

void emulator_compiled_for(int capability)
{
    const emulator_lock lock;
    emulator_now.compiled = capability;
}

size_t emulator_live()
{
    const emulator_lock lock;
    return emulator_blocks() + emulator_now.handles;
}

size_t emulator_memory_used()
{
    const emulator_lock lock;
    return emulator_device_bytes();
}

size_t emulator_memory_peak()
{
    const emulator_lock lock;
    return emulator_now.peak;
}

void emulator_shuffle(uint64_t seed)
{
    const emulator_lock lock;
    emulator_order(seed);
}

void emulator_reset()
{
    const emulator_lock lock;

    set_default_device();
    set_order();
    memset(injections, 0, sizeof injections);
    emulator_now.sticky = cudaSuccess;
    emulator_now.launches = emulator_now.early_launches = 0;
    emulator_now.peak = emulator_device_bytes();
    last_error = cudaSuccess;
}

/* -- Errors */

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &known : errors) {
        if (known.error == error) {
            return known.name;
        }
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &known : errors) {
        if (known.error == error) {
            return known.text;
        }
    }
    return "unrecognized error code";
}

cudaError_t cudaPeekAtLastError()
{
    const emulator_lock lock;
    return emulator_now.sticky ? emulator_now.sticky : last_error;
}

cudaError_t cudaGetLastError()
{
    const emulator_lock lock;
    const cudaError_t error = emulator_now.sticky ? emulator_now.sticky : last_error;

    last_error = cudaSuccess;
    return error;
}

/* -- Devices */

cudaError_t cudaDriverGetVersion(int *version)
{
    const emulator_lock lock;
    const cudaError_t error = injected(__func__);

    *version = emulator_now.driver;
    return emulator_leave(error);
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    const emulator_lock lock;
    const cudaError_t error = injected(__func__);

    *version = runtime_version;
    return emulator_leave(error);
}

cudaError_t cudaGetDeviceCount(int *count)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);

    *count = error ? 0 : emulator_now.device_count;
    return emulator_leave(error);
}

cudaError_t cudaSetDevice(int device)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error && !is_device(device)) {
        error = cudaErrorInvalidDevice;
    }
    if (!error) {
        current_device = device;
    }
    return emulator_leave(error);
}

cudaError_t cudaGetDevice(int *device)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);

    *device = current_device;
    return emulator_leave(error);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    const emulator_lock lock;
    const struct {
        cudaDeviceAttr attribute;
        int value;
    } known[] = {
        {cudaDevAttrMaxThreadsPerBlock, 1024},
        {cudaDevAttrMaxSharedMemoryPerBlock, 48 * 1024},
        {cudaDevAttrWarpSize, 32},
        {cudaDevAttrMultiProcessorCount, 132},
        {cudaDevAttrIntegrated, 0},
        {cudaDevAttrComputeMode, 0},
        {cudaDevAttrConcurrentKernels, 1},
        {cudaDevAttrEccEnabled, 1},
        {cudaDevAttrPciBusId, 1 + device},
        {cudaDevAttrPciDeviceId, 0},
        {cudaDevAttrL2CacheSize, 50 << 20},
        {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
        {cudaDevAttrUnifiedAddressing, 1},
        {cudaDevAttrPciDomainId, 0},
        {cudaDevAttrComputeCapabilityMajor, emulator_now.major},
        {cudaDevAttrComputeCapabilityMinor, emulator_now.minor},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor,
         static_cast<int>(emulator_shared_limit()) + 1024},
        {cudaDevAttrMaxRegistersPerMultiprocessor, 65536},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int>(emulator_shared_limit())},
        {cudaDevAttrMaxBlocksPerMultiprocessor, 32},
        {cudaDevAttrReservedSharedMemoryPerBlock, 1024},
    };
    const cudaError_t error = emulator_enter(__func__);

    if (error) {
        return emulator_leave(error);
    }
    if (!is_device(device)) {
        return emulator_leave(cudaErrorInvalidDevice);
    }
    for (const auto &k : known) {
        if (k.attribute == attribute) {
            *value = k.value;
            return cudaSuccess;
        }
    }
    return emulator_leave(cudaErrorInvalidValue);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);

    if (error) {
        return emulator_leave(error);
    }
    if (!is_device(device)) {
        return emulator_leave(cudaErrorInvalidDevice);
    }
    *properties = cudaDeviceProp{};
    memcpy(properties->name, emulator_now.name, sizeof properties->name);
    for (int i = 0; i < 16; i++) {
        properties->uuid.bytes[i] = static_cast<char>(i == 15 ? device : 0x10 + i);
    }
    properties->totalGlobalMem = emulator_now.memory;
    properties->sharedMemPerBlock = 48 * 1024;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->major = emulator_now.major;
    properties->minor = emulator_now.minor;
    properties->multiProcessorCount = 132;
    properties->l2CacheSize = 50 << 20;
    properties->sharedMemPerMultiprocessor = emulator_shared_limit() + 1024;
    properties->sharedMemPerBlockOptin = emulator_shared_limit();
    properties->pciBusID = 1 + device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);

    *least = 0;
    *greatest = -5;
    return emulator_leave(error);
}

cudaError_t cudaDeviceSynchronize()
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error) {
        error = emulator_capture_forbids();
    }
    return emulator_leave(error ? error : emulator_catch_up());
}

/* -- Memory */

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);
    const size_t limit = emulator_now.limit ? emulator_now.limit : emulator_now.memory;
    const size_t used = emulator_device_bytes();

    *total = emulator_now.memory;
    *available = used < limit ? limit - used : 0;
    return emulator_leave(error);
}

static cudaError_t allocate(const char *function, void **memory, size_t size, emulator_space space)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(function);
    const size_t limit = emulator_now.limit ? emulator_now.limit : emulator_now.memory;
    const size_t used = emulator_device_bytes();

    if (!error) {
        error = emulator_capture_forbids();
    }
    if (!error && !memory) {
        error = cudaErrorInvalidValue;
    }
    if (error) {
        return emulator_leave(error);
    }
    *memory = nullptr;
    if (size == 0) {
        return cudaSuccess;
    }
    if (space == EMULATOR_DEVICE && (used > limit || size > limit - used)) {
        return emulator_leave(cudaErrorMemoryAllocation);
    }
    *memory = emulator_allocate(size, space);
    emulator_now.peak = max(emulator_now.peak, emulator_device_bytes());
    return emulator_leave(*memory ? cudaSuccess : cudaErrorMemoryAllocation);
}

/* Of a lost context, too, nothing stays allocated; the caller sees the error all the same. */
static cudaError_t release(const char *function, void *memory, emulator_space space)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(function);

    if (!error) {
        error = emulator_capture_forbids();
    }
    if (error && !emulator_now.sticky) {
        return emulator_leave(error);
    }
    if (!error) {
        error = emulator_catch_up(); /* a card waits before it frees, too */
    }
    if (memory && !emulator_release(memory, space) && !error) {
        error = cudaErrorInvalidValue;
    }
    return emulator_leave(error);
}

cudaError_t cudaMalloc(void **memory, size_t size)
{
    return allocate(__func__, memory, size, EMULATOR_DEVICE);
}

cudaError_t cudaFree(void *memory)
{
    return release(__func__, memory, EMULATOR_DEVICE);
}

cudaError_t cudaMallocHost(void **memory, size_t size)
{
    return allocate(__func__, memory, size, EMULATOR_PINNED);
}

cudaError_t cudaHostAlloc(void **memory, size_t size, unsigned int)
{
    return allocate(__func__, memory, size, EMULATOR_PINNED);
}

cudaError_t cudaFreeHost(void *memory)
{
    return release(__func__, memory, EMULATOR_PINNED);
}
