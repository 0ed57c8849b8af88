/* SPDX-License-Identifier: MIT */
/* CUDA errors in libser's words, and which of them a device does not survive. */
#include "base/fail.h"
#include "ops/cuda/cuda.h"

/*
 * Errors after which every call on the context fails until the process ends (CUDA Runtime API,
 * cudaError: "the process must be terminated and relaunched"). ECC and NVLink errors are treated alike:
 * what has been computed cannot be trusted.
 */
static bool poisons(cudaError_t error)
{
    switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorMpsClientTerminated:
    case cudaErrorLaunchFailure: return true;
    default: return false;
    }
}

static int fail_dead(const ser_context *context, cudaError_t error)
{
    return ser_fail(SER_ERR_DEVICE,
                    "cuda:%d: the device failed (%s) and cannot be used any more by this process: "
                    "free what uses it and restart the program",
                    context->index, cudaGetErrorString(error));
}

int ser_cuda_status(ser_context *context, cudaError_t error, const char *what)
{
    if (error == cudaSuccess) {
        return 0;
    }
    cudaGetLastError(); /* an error that is not sticky must not show up in a later call */
    if (poisons(error)) {
        int32_t none = 0;
        __atomic_compare_exchange_n(&context->failed, &none, (int32_t)error, false,
                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
        return ser_fail(SER_ERR_DEVICE,
                        "cuda:%d: %s: %s; the device cannot be used any more by this process: free "
                        "what uses it and restart the program",
                        context->index, what, cudaGetErrorString(error));
    }
    if (error == cudaErrorMemoryAllocation) {
        return ser_fail(SER_ERR_MEMORY, "cuda:%d: %s: out of device memory", context->index, what);
    }
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion) {
        return ser_fail(SER_ERR_DEVICE,
                        "cuda:%d: %s: this libser has no code for compute capability %d.%d; update "
                        "the driver or libser, or use the CPU",
                        context->index, what, context->major, context->minor);
    }
    return ser_fail(SER_ERR_DEVICE, "cuda:%d: %s: %s (%s)", context->index, what,
                    cudaGetErrorString(error), cudaGetErrorName(error));
}

int ser_cuda_enter(ser_context *context)
{
    const int32_t failed = __atomic_load_n(&context->failed, __ATOMIC_RELAXED);
    if (failed != 0) {
        return fail_dead(context, (cudaError_t)failed);
    }
    return ser_cuda_status(context, cudaSetDevice(context->index), "choosing the device");
}

int ser_cuda_alloc(ser_context *context, size_t size, void **memory)
{
    const double mib = 1024.0 * 1024.0;
    *memory = NULL;
    int status = ser_cuda_enter(context);
    if (status != 0) {
        return status;
    }
    const cudaError_t error = cudaMalloc(memory, size > 0 ? size : 1);
    if (error != cudaErrorMemoryAllocation) {
        return ser_cuda_status(context, error, "allocating memory");
    }
    cudaGetLastError();
    size_t free_bytes = 0;
    size_t total = 0;
    if (cudaMemGetInfo(&free_bytes, &total) != cudaSuccess) {
        cudaGetLastError();
    }
    return ser_fail(SER_ERR_MEMORY,
                    "cuda:%d: out of device memory: %.1f MiB are needed at once, %.1f of %.1f MiB "
                    "are free; use smaller batches or another device",
                    context->index, (double)size / mib, (double)free_bytes / mib,
                    (double)total / mib);
}
