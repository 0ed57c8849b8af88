/* SPDX-License-Identifier: MIT */
/* Kernels as the runtime API sees them: their attributes, and what a launch must keep to. */
#include "emulator_internal.h"

#include <stdlib.h>

namespace
{

constexpr size_t shared_default = 48 * 1024;

/* Functions that have opted in to more dynamic shared memory. */
struct opted {
    const void *function;
    size_t shared;
};
opted *functions;
size_t count;

opted *find(const void *function)
{
    for (size_t i = 0; i < count; i++) {
        if (functions[i].function == function) {
            return &functions[i];
        }
    }
    return nullptr;
}

/* The module holds code for compute capability 8.0 and later. */
cudaError_t image_error(const void *function)
{
    if (!function) {
        return cudaErrorInvalidDeviceFunction;
    }
    return emulator_now.major < 8 ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}

bool is_grid(dim3 grid, dim3 block)
{
    return grid.x > 0 && grid.x <= 0x7fffffffu && grid.y > 0 && grid.y <= 65535 && grid.z > 0 &&
           grid.z <= 65535 && block.x > 0 && block.x <= 1024 && block.y > 0 && block.y <= 1024 &&
           block.z > 0 && block.z <= 64 && block.x * block.y * block.z <= 1024;
}

cudaError_t attributes_error(const cudaLaunchConfig_t *config)
{
    if (config->numAttrs > 0 && !config->attrs) {
        return cudaErrorInvalidValue;
    }
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const auto &cluster = config->attrs[i].val.clusterDim;
        if (config->attrs[i].id == cudaLaunchAttributeClusterDimension &&
            (cluster.x != 1 || cluster.y != 1 || cluster.z != 1)) {
            return cudaErrorNotSupported;
        }
    }
    return cudaSuccess;
}

} // namespace

/* CUDA C++ programming guide, "Technical specifications per compute capability". */
size_t emulator_shared_limit()
{
    const int capability = emulator_now.major * 10 + emulator_now.minor;

    if (capability < 80) {
        return 64 * 1024;
    }
    if (capability == 80 || capability == 87) {
        return 163 * 1024;
    }
    if (capability < 90 || emulator_now.major == 12) {
        return 99 * 1024;
    }
    return 227 * 1024;
}

cudaError_t emulator_check_launch(const cudaLaunchConfig_t *config, const void *function)
{
    const opted *known = find(function);
    const cudaError_t error = image_error(function);

    if (error) {
        return error;
    }
    if (!config) {
        return cudaErrorInvalidValue;
    }
    if (!is_grid(config->gridDim, config->blockDim)) {
        return cudaErrorInvalidConfiguration;
    }
    if (config->dynamicSmemBytes > (known ? known->shared : shared_default) ||
        config->dynamicSmemBytes > emulator_shared_limit()) {
        return cudaErrorInvalidValue;
    }
    return attributes_error(config);
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error) {
        error = image_error(function);
    }
    if (!error && (value < 0 || (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize &&
                                 static_cast<size_t>(value) > emulator_shared_limit()))) {
        error = cudaErrorInvalidValue;
    }
    if (error || attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
        return emulator_leave(error);
    }
    opted *known = find(function);
    if (!known) {
        void *grown = realloc(functions, (count + 1) * sizeof *functions);
        if (!grown) {
            return emulator_leave(cudaErrorMemoryAllocation);
        }
        functions = static_cast<opted *>(grown);
        known = &functions[count++];
        known->function = function;
    }
    known->shared = static_cast<size_t>(value);
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);
    const opted *known = find(function);

    if (!error) {
        error = image_error(function);
    }
    *attributes = cudaFuncAttributes{};
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 64;
    attributes->binaryVersion = emulator_now.major * 10 + emulator_now.minor;
    attributes->ptxVersion =
        emulator_now.compiled ? emulator_now.compiled : attributes->binaryVersion;
    attributes->maxDynamicSharedSizeBytes =
        static_cast<int>(known ? known->shared : shared_default);
    return emulator_leave(error);
}
