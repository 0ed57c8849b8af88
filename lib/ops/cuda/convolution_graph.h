/* SPDX-License-Identifier: MIT */
/*
 * y = GELU(conv(x) + bias) as an operation graph of cuDNN, and the engines that can run it. Needs
 * no device and no context: convolutions.c runs the graph on a card, tests/cuda/engines asks which
 * engines it has on cards that are not there.
 */
#ifndef SER_OPS_CUDA_CONVOLUTION_GRAPH_H
#define SER_OPS_CUDA_CONVOLUTION_GRAPH_H

#include <cudnn_graph.h>
#include <stdbool.h>

/* What is used of cuDNN. */
#define CUDNN_FUNCTIONS(F)                                                                         \
    F(cudnnCreate)                                                                                 \
    F(cudnnDestroy)                                                                                \
    F(cudnnSetStream)                                                                              \
    F(cudnnGetVersion)                                                                             \
    F(cudnnGetErrorString)                                                                         \
    F(cudnnGetLastErrorString)                                                                     \
    F(cudnnBackendCreateDescriptor)                                                                \
    F(cudnnBackendDestroyDescriptor)                                                               \
    F(cudnnBackendSetAttribute)                                                                    \
    F(cudnnBackendGetAttribute)                                                                    \
    F(cudnnBackendFinalize)                                                                        \
    F(cudnnBackendExecute)

typedef struct cudnn_library {
#define CUDNN_MEMBER(name) __typeof__(&name) name;
    CUDNN_FUNCTIONS(CUDNN_MEMBER)
#undef CUDNN_MEMBER
} cudnn_library;

/*
 * Load libcudnn_graph: NULL, or why it cannot be used (borrowed, until the thread's next dlopen).
 * It is loaded when it is needed, not linked: small problems never pay for it, and a machine
 * without cuDNN does without. And it is this part and not libcudnn, because that one ends the
 * process when another part is missing; libcudnn_graph returns a status.
 */
const char *ser_cudnn_load(cudnn_library *library);

/*
 * A call, or a part of one. Clips lie one below the other and padded_in == padded_out * stride, so
 * all rows of y are one convolution without padding; a linear layer is one with kernel 1 and stride
 * 1. And since no row of y depends on another, they can be made some at a time, the last part
 * beginning early enough to be whole. So a card compiles one engine for all batches and lengths,
 * even for all layers with the same channels, and no part comes near 2^31 elements. (The engines
 * that cuDNN offers for one long image and for an image per clip are the same.)
 */
typedef struct cudnn_part {
    int64_t in, out; /* channels */
    int64_t kernel, stride;
    int64_t rows; /* of y */
    int64_t bias; /* 1: there is one, 0: none. No gaps: parts are compared as bytes */
} cudnn_part;

/* The part that a call is made of. False if there is none (channels are not in eights), or if it is
 * not worth an engine that must be compiled; `always`: that is not asked. Looks at shapes only,
 * which is what decides the bits of the result. */
bool ser_cudnn_cut(const cudnn_part *call, bool always, cudnn_part *part);

/* How many parts `rows` rows take. */
int64_t ser_cudnn_parts(const cudnn_part *part, int64_t rows);

typedef struct cudnn_attribute {
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t count; /* 0 ends a list */
    const void *values;
} cudnn_attribute;

/* A finished descriptor with these attributes; NULL after a failure. */
cudnnStatus_t ser_cudnn_make(const cudnn_library *library, cudnnBackendDescriptorType_t type,
                             const cudnn_attribute *list, cudnnBackendDescriptor_t *descriptor);

enum { CUDNN_GRAPH_DESCRIPTORS = 16 };

typedef struct cudnn_graph {
    const cudnn_library *library;
    cudnnHandle_t handle;                /* of a device, or NULL: */
    cudnnBackendDescriptor_t properties; /* the description of one; not owned */
    cudnnBackendDescriptor_t operations;
    cudnnBackendDescriptor_t descriptors[CUDNN_GRAPH_DESCRIPTORS]; /* all that it is made of */
    int32_t count;
    cudnnStatus_t status; /* of the first call that failed */
} cudnn_graph;

/* The identifiers of the graph's tensors: x [(rows - 1) * stride + kernel, in], w
 * [out, kernel * in] tap-major, y [rows, out], bias [1, out]. z = conv(x, w) and s = z + bias are
 * between the operations and never in memory. */
enum { CUDNN_X = 1, CUDNN_W, CUDNN_Z, CUDNN_Y, CUDNN_BIAS, CUDNN_S };

/* Fill `graph`, which holds library and handle or properties and is zero otherwise. What has been
 * made is to be freed even if this fails. */
cudnnStatus_t ser_cudnn_graph_build(cudnn_graph *graph, const cudnn_part *part);
void ser_cudnn_graph_free(cudnn_graph *graph);

/* An engine with its settings. Notes are sets of bits: 1 << CUDNN_NUMERICAL_NOTE_... */
typedef struct cudnn_config {
    cudnnBackendDescriptor_t descriptor;
    int64_t engine;
    int64_t workspace; /* bytes */
    int32_t shared;    /* bytes of shared memory in a block */
    uint32_t numerical, behavior;
} cudnn_config;

enum {
    CUDNN_CONFIGS = 16,
    CUDNN_WORKSPACE_LIMIT = 32 << 20, /* bytes; as products.c, in the same scratch */
};

/*
 * The configs that may be used, the one to be preferred first: all run on tensor cores, sum in f32,
 * give the same bits in every run and keep to the limit. Returns how many; free them.
 */
int32_t ser_cudnn_configs(const cudnn_graph *graph, cudnn_config configs[CUDNN_CONFIGS]);
void ser_cudnn_configs_free(const cudnn_graph *graph, cudnn_config *configs, int32_t count);

/* A plan that can be executed; an engine that is compiled at run time is compiled here. It takes
 * the config's descriptor over, and must be freed before the graph. */
typedef struct cudnn_plan {
    cudnnBackendDescriptor_t descriptor;
    cudnnBackendDescriptor_t config;
    int64_t workspace; /* bytes */
} cudnn_plan;

cudnnStatus_t ser_cudnn_plan_build(const cudnn_graph *graph, cudnn_config *config,
                                   cudnn_plan *plan);
void ser_cudnn_plan_free(const cudnn_graph *graph, cudnn_plan *plan);

#endif
