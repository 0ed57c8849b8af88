/* SPDX-License-Identifier: MIT */
/* Work as it is recorded: launches, copies and fills, executed now or as parts of a graph. */
#include "emulator_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CUgraphExec_st {
    CUgraph_st graph;
};

namespace
{

size_t span(size_t pitch, size_t width, size_t height)
{
    return (height - 1) * pitch + width;
}

bool on_side(emulator_space space, bool inside, bool device, bool any)
{
    if (space != EMULATOR_UNTRACKED && !inside) {
        return false;
    }
    return any || (space == EMULATOR_DEVICE) == device;
}

} // namespace

bool emulator_node_valid(const emulator_node *node, bool captured)
{
    bool to_inside, from_inside;

    if (node->kind == emulator_node::launch || node->width == 0 || node->height == 0) {
        return true;
    }
    const emulator_space to =
        emulator_find(node->to, span(node->to_pitch, node->width, node->height), &to_inside);
    if (node->kind == emulator_node::fill) {
        return to == EMULATOR_DEVICE && to_inside;
    }
    const emulator_space from =
        emulator_find(node->from, span(node->from_pitch, node->width, node->height), &from_inside);
    const cudaMemcpyKind kind = node->direction;
    if (captured && (to == EMULATOR_UNTRACKED || from == EMULATOR_UNTRACKED)) {
        return false;
    }
    return on_side(to, to_inside,
                   kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice,
                   kind == cudaMemcpyDefault) &&
           on_side(from, from_inside,
                   kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice,
                   kind == cudaMemcpyDefault);
}

void emulator_run_node(const emulator_node *node)
{
    if (node->kind == emulator_node::launch) {
        emulator_execute(&node->kernel, node->arguments);
        emulator_now.launches++;
        emulator_now.early_launches += node->kernel.early;
        return;
    }
    if (node->width == 0) {
        return;
    }
    for (size_t row = 0; row < node->height; row++) {
        char *to = node->to + row * node->to_pitch;
        if (node->kind == emulator_node::copy) {
            memmove(to, node->from + row * node->from_pitch, node->width);
        } else {
            memset(to, node->value, node->width);
        }
    }
}

bool emulator_append(CUgraph_st *graph, const emulator_node *node)
{
    emulator_node *copy = static_cast<emulator_node *>(malloc(sizeof *copy));

    if (!copy) {
        return false;
    }
    *copy = *node;
    copy->next = nullptr;
    if (node->arguments) {
        void *arguments = malloc(node->arguments_size);
        if (!arguments) {
            free(copy);
            return false;
        }
        copy->arguments = memcpy(arguments, node->arguments, node->arguments_size);
    }
    if (graph->last) {
        graph->last->next = copy;
    } else {
        graph->first = copy;
    }
    graph->last = copy;
    return true;
}

void emulator_clear(CUgraph_st *graph)
{
    for (emulator_node *node = graph->first, *next; node; node = next) {
        next = node->next;
        free(const_cast<void *>(node->arguments));
        free(node);
    }
    graph->first = graph->last = nullptr;
}

cudaError_t emulator_run_graph(const CUgraph_st *graph)
{
    for (const emulator_node *node = graph->first; node; node = node->next) {
        if (!emulator_node_valid(node, true)) {
            fprintf(stderr, "emulation: a graph copies or fills memory that was freed\n");
            emulator_lose(cudaErrorIllegalAddress);
            return cudaErrorIllegalAddress;
        }
        emulator_run_node(node);
    }
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    const emulator_lock lock;
    cudaError_t error = emulator_enter(__func__);

    if (!error && (!exec || !graph)) {
        error = cudaErrorInvalidValue;
    }
    if (error) {
        return emulator_leave(error);
    }
    *exec = static_cast<cudaGraphExec_t>(calloc(1, sizeof **exec));
    bool done = *exec != nullptr;
    for (const emulator_node *node = graph->first; done && node; node = node->next) {
        done = emulator_append(&(*exec)->graph, node);
    }
    if (!done) {
        emulator_fatal("no memory");
    }
    emulator_now.handles++;
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);

    return emulator_leave(error ? error : exec ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);

    if (error || !exec) {
        return emulator_leave(error ? error : cudaErrorInvalidValue);
    }
    return emulator_leave(emulator_submit_graph(stream, &exec->graph));
}

/* Handles go even when the context is lost. */
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);

    if (!graph || (error && !emulator_now.sticky)) {
        return emulator_leave(error ? error : cudaErrorInvalidValue);
    }
    emulator_clear(graph);
    free(graph);
    emulator_now.handles--;
    return emulator_leave(error);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    const emulator_lock lock;
    const cudaError_t error = emulator_enter(__func__);

    if (!exec || (error && !emulator_now.sticky)) {
        return emulator_leave(error ? error : cudaErrorInvalidValue);
    }
    emulator_clear(&exec->graph);
    free(exec);
    emulator_now.handles--;
    return emulator_leave(error);
}
