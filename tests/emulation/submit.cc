/* SPDX-License-Identifier: MIT */
/* Launches, copies and fills as the API takes them, made into nodes; the log of what is submitted. */
#include "emulator_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

namespace
{

emulator_node copy_node(void *to, const void *from, size_t size, cudaMemcpyKind kind)
{
    emulator_node node{};

    node.kind = emulator_node::copy;
    node.to = static_cast<char *>(to);
    node.from = static_cast<const char *>(from);
    node.width = size;
    node.height = 1;
    node.direction = kind;
    return node;
}

emulator_node fill_node(void *memory, int value, size_t size)
{
    emulator_node node{};

    node.kind = emulator_node::fill;
    node.to = static_cast<char *>(memory);
    node.width = size;
    node.height = 1;
    node.value = value;
    return node;
}

/* A call that returns when the work is done. */
cudaError_t run_now(const char *function, const emulator_node *node)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(function);

    if (!error) {
        error = emulator_capture_forbids();
    }
    return emulator_leave(error ? error : emulator_submit(nullptr, node));
}

cudaError_t submit(const char *function, cudaStream_t stream, const emulator_node *node)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(function);

    return emulator_leave(error ? error : emulator_submit(stream, node));
}

/* Processes that name the same file all append to it. */
FILE *open_log()
{
    const char *path = getenv("SER_EMULATION_LOG");
    FILE *file = path && *path ? fopen(path, "a") : nullptr;

    if (path && *path && !file) {
        emulator_fatal("SER_EMULATION_LOG: nothing can be appended to %s", path);
    }
    return file;
}

/* Whether the kernel may start before the one in front of it has finished. */
bool is_early(const cudaLaunchConfig_t *config)
{
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const cudaLaunchAttribute *attribute = &config->attrs[i];
        if (attribute->id == cudaLaunchAttributeProgrammaticStreamSerialization) {
            return attribute->val.programmaticStreamSerializationAllowed != 0;
        }
    }
    return false;
}

const char *direction_name(cudaMemcpyKind kind)
{
    switch (kind) {
    case cudaMemcpyHostToDevice: return "host to device";
    case cudaMemcpyDeviceToHost: return "device to host";
    case cudaMemcpyDeviceToDevice: return "device to device";
    default: return "any direction";
    }
}

} // namespace

/* -- The log */

void emulator_log(const char *format, ...)
{
    static FILE *const file = open_log();
    va_list arguments;

    if (file) {
        va_start(arguments, format);
        vfprintf(file, format, arguments);
        va_end(arguments);
        fflush(file);
    }
}

void emulator_log_node(const char *how, const emulator_node *node)
{
    const emulator_kernel *k = &node->kernel;

    if (node->kind == emulator_node::launch) {
        emulator_log("%slaunch %s, grid %u %u %u, block %u %u %u, shared %zu%s\n", how,
                     emulator_kernel_name(k->function), k->grid.x, k->grid.y, k->grid.z, k->block.x,
                     k->block.y, k->block.z, k->shared, k->early ? ", early" : "");
    } else if (node->kind == emulator_node::copy) {
        emulator_log("%scopy %zu bytes, %s\n", how, node->width * node->height,
                     direction_name(node->direction));
    } else {
        emulator_log("%sfill %zu bytes\n", how, node->width * node->height);
    }
}

/* -- The API */

cudaError_t emulator_launch(const cudaLaunchConfig_t *config, const void *function,
                            void (*run)(const void *), const void *arguments, size_t size)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter("cudaLaunchKernelEx");
    emulator_node node{};

    if (!error) {
        error = emulator_check_launch(config, function);
    }
    if (error) {
        return emulator_leave(error);
    }
    node.kind = emulator_node::launch;
    node.kernel = emulator_kernel{run,
                                  function,
                                  config->gridDim,
                                  config->blockDim,
                                  config->dynamicSmemBytes,
                                  is_early(config)};
    node.arguments = arguments;
    node.arguments_size = size;
    return emulator_leave(emulator_submit(config->stream, &node));
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind)
{
    const emulator_node node = copy_node(to, from, size, kind);
    return run_now(__func__, &node);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    const emulator_node node = copy_node(to, from, size, kind);
    return submit(__func__, stream, &node);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    emulator_node node = copy_node(to, from, width, kind);

    if (width > to_pitch || width > from_pitch) {
        return emulator_leave(cudaErrorInvalidValue);
    }
    node.to_pitch = to_pitch;
    node.from_pitch = from_pitch;
    node.height = height;
    return submit(__func__, stream, &node);
}

cudaError_t cudaMemset(void *memory, int value, size_t size)
{
    const emulator_node node = fill_node(memory, value, size);
    return run_now(__func__, &node);
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t stream)
{
    const emulator_node node = fill_node(memory, value, size);
    return submit(__func__, stream, &node);
}
