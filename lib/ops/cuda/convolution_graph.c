/* SPDX-License-Identifier: MIT */
#include "ops/cuda/convolution_graph.h"

#include <dlfcn.h>
#include <string.h>

/* --- The library --- */

#define TEXT(x)                #x
#define NAME_OF_VERSION(major) "libcudnn_graph.so." TEXT(major)

const char *ser_cudnn_load(cudnn_library *library)
{
    static const struct {
        const char *name;
        size_t at;
    } functions[] = {
#define CUDNN_ENTRY(name) {#name, offsetof(cudnn_library, name)},
        CUDNN_FUNCTIONS(CUDNN_ENTRY)
#undef CUDNN_ENTRY
    };
    /* It is never unloaded: threads and the driver keep pointers into it. */
    void *file = dlopen(NAME_OF_VERSION(CUDNN_MAJOR), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const char *why = file == NULL ? dlerror() : NULL;
    for (size_t i = 0; why == NULL && i < sizeof functions / sizeof *functions; i++) {
        void *function = dlsym(file, functions[i].name);
        why = function == NULL ? dlerror() : NULL;
        memcpy((char *)library + functions[i].at, &function, sizeof function);
    }
    return why;
}

/* --- Parts --- */

enum { ROWS_STEP = 128 }; /* of a tile: no engine seen works on less at a time */

/*
 * Multiply-adds of a call from which on an engine is compiled, one to five seconds in every process
 * (cuDNN 9.19 on one core): large batches only, so that a few clips are answered at once. Sixteen clips of 5 s in layer 1 of wav2vec 2.0: 8000 rows each, 3 * 512
 * products in each of 512 channels. A part is four of them, 32000 rows: large enough to fill a card
 * several times over.
 */
static const int64_t LEAST_WORK = (int64_t)16 * 8000 * 3 * 512 * 512;
static const int64_t PART_WORK = (int64_t)4 * 8000 * 3 * 512 * 512;

/* Of a linear layer, which comes once per block of a network with the same engine: 32 clips of 5 s,
 * 250 rows each, in a feed-forward layer of wav2vec 2.0. 4096 rows fill a card nearly as often as a
 * part above, and whole numbers of them come close to the rows of 32 and 64 such clips. */
static const int64_t LEAST_LINEAR_WORK = (int64_t)32 * 250 * 768 * 3072;
static const int64_t LINEAR_PART_WORK = (int64_t)4096 * 768 * 3072;

/* Of x or y in a part, so that byte offsets stay below 2^31. */
static const int64_t MOST_ELEMENTS = (int64_t)1 << 29;

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t ser_cudnn_parts(const cudnn_part *part, int64_t rows)
{
    return (rows + part->rows - 1) / part->rows;
}

bool ser_cudnn_cut(const cudnn_part *call, bool always, cudnn_part *part)
{
    if (call->in % 8 != 0 || call->out % 8 != 0 || call->rows <= 0) {
        return false;
    }
    const bool linear = call->kernel == 1;
    const int64_t work = call->kernel * call->in * call->out; /* per row */
    const int64_t least = linear ? LEAST_LINEAR_WORK : LEAST_WORK;
    int64_t rows = (linear ? LINEAR_PART_WORK : PART_WORK) / work;
    rows = smaller(rows, MOST_ELEMENTS / (call->stride * call->in));
    rows = smaller(rows, MOST_ELEMENTS / call->out) / ROWS_STEP * ROWS_STEP;
    *part = *call;
    part->rows = smaller(rows > 0 ? rows : ROWS_STEP, call->rows);
    /* What is made twice, because the last part begins early, must not be more than a fused pass
     * can save. */
    const int64_t twice = ser_cudnn_parts(part, call->rows) * part->rows - call->rows;
    return always || (call->rows * work >= least && twice * 4 <= call->rows);
}

/* --- Descriptors --- */

cudnnStatus_t ser_cudnn_make(const cudnn_library *library, cudnnBackendDescriptorType_t type,
                             const cudnn_attribute *list, cudnnBackendDescriptor_t *descriptor)
{
    cudnnStatus_t status = library->cudnnBackendCreateDescriptor(type, descriptor);
    if (status != CUDNN_STATUS_SUCCESS) {
        *descriptor = NULL;
        return status;
    }
    for (; status == CUDNN_STATUS_SUCCESS && list->count > 0; list++) {
        status = library->cudnnBackendSetAttribute(*descriptor, list->name, list->type, list->count,
                                                   list->values);
    }
    if (status == CUDNN_STATUS_SUCCESS) {
        status = library->cudnnBackendFinalize(*descriptor);
    }
    if (status != CUDNN_STATUS_SUCCESS) {
        library->cudnnBackendDestroyDescriptor(*descriptor);
        *descriptor = NULL;
    }
    return status;
}

/* One that belongs to the graph. After a failure nothing more is made. */
static cudnnBackendDescriptor_t add(cudnn_graph *graph, cudnnBackendDescriptorType_t type,
                                    const cudnn_attribute *list)
{
    cudnnBackendDescriptor_t descriptor = NULL;
    if (graph->status == CUDNN_STATUS_SUCCESS) {
        graph->status = ser_cudnn_make(graph->library, type, list, &descriptor);
    }
    if (descriptor != NULL) {
        graph->descriptors[graph->count] = descriptor;
        graph->count++;
    }
    return descriptor;
}

/* A matrix [rows, channels] as an image that is one row high: cuDNN's order of dimensions is
 * (image, channel, height, width), the strides say that channels are neighbours. */
static cudnnBackendDescriptor_t add_tensor(cudnn_graph *graph, int64_t id, const int64_t size[3])
{
    const int64_t alignment = 16;
    const bool between = id == CUDNN_Z || id == CUDNN_S;
    const cudnnDataType_t type = between ? CUDNN_DATA_FLOAT : CUDNN_DATA_BFLOAT16;
    const int64_t dimensions[4] = {size[0], size[1], 1, size[2]};
    const int64_t strides[4] = {size[1] * size[2], 1, size[1] * size[2], size[1]};
    const cudnn_attribute list[] = {
        {CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type},
        {CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dimensions},
        {CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides},
        {CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id},
        {CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment},
        {CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &between},
        {.count = 0},
    };
    return add(graph, CUDNN_BACKEND_TENSOR_DESCRIPTOR, list);
}

/* z = conv(x, w), in f32 */
static cudnnBackendDescriptor_t add_convolution(cudnn_graph *graph, const cudnn_part *part,
                                                cudnnBackendDescriptor_t z)
{
    const int64_t x_size[3] = {1, part->in, (part->rows - 1) * part->stride + part->kernel};
    const int64_t w_size[3] = {part->out, part->in, part->kernel};
    const cudnnBackendDescriptor_t x = add_tensor(graph, CUDNN_X, x_size);
    const cudnnBackendDescriptor_t w = add_tensor(graph, CUDNN_W, w_size);
    const int64_t spatial = 2;
    const int64_t strides[2] = {1, part->stride};
    const int64_t zeros[2] = {0, 0};
    const int64_t ones[2] = {1, 1};
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION; /* w is not turned round */
    const float alpha = 1.0f;
    const float beta = 0.0f;
    const cudnn_attribute convolution[] = {
        {CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &spatial},
        {CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type},
        {CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode},
        {CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, zeros},
        {CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, zeros},
        {CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, ones},
        {CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, strides},
        {.count = 0},
    };
    const cudnnBackendDescriptor_t c =
        add(graph, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, convolution);
    const cudnn_attribute operation[] = {
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &x},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &w},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &z},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &alpha},
        {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &beta},
        {.count = 0},
    };
    return add(graph, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, operation);
}

/* to = mode(from), or mode(from, other) with one value of `other` per channel; in f32 */
static cudnnBackendDescriptor_t add_pointwise(cudnn_graph *graph, cudnnPointwiseMode_t mode,
                                              cudnnBackendDescriptor_t from,
                                              cudnnBackendDescriptor_t other,
                                              cudnnBackendDescriptor_t to)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnn_attribute pointwise[] = {
        {CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode},
        {CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type},
        {.count = 0},
    };
    const cudnnBackendDescriptor_t p = add(graph, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, pointwise);
    const cudnn_attribute operation[] = {
        {CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &p},
        {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &from},
        {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &to},
        {CUDNN_ATTR_OPERATION_POINTWISE_BDESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, other != NULL ? 1 : 0,
         &other},
        {.count = 0},
    };
    return add(graph, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, operation);
}

/* y = s / 2 (1 + erf(s / sqrt(2))); CUDNN_POINTWISE_GELU_APPROX_TANH_FWD would be the other one */
cudnnStatus_t ser_cudnn_graph_build(cudnn_graph *graph, const cudnn_part *part)
{
    const int64_t size[3] = {1, part->out, part->rows};
    const int64_t bias_size[3] = {1, part->out, 1};
    const cudnnBackendDescriptor_t z = add_tensor(graph, CUDNN_Z, size);
    const cudnnBackendDescriptor_t y = add_tensor(graph, CUDNN_Y, size);
    cudnnBackendDescriptor_t s = z;
    cudnnBackendDescriptor_t operations[3] = {add_convolution(graph, part, z)};
    int64_t count = 1;
    if (part->bias != 0) {
        const cudnnBackendDescriptor_t bias = add_tensor(graph, CUDNN_BIAS, bias_size);
        s = add_tensor(graph, CUDNN_S, size);
        operations[count++] = add_pointwise(graph, CUDNN_POINTWISE_ADD, z, bias, s);
    }
    operations[count++] = add_pointwise(graph, CUDNN_POINTWISE_GELU_FWD, s, NULL, y);
    const cudnn_attribute list[] = {
        {CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, count, operations},
        {CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, graph->handle != NULL ? 1 : 0,
         &graph->handle},
        {.count = 0},
    };
    graph->operations = add(graph, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, list);
    return graph->status;
}

void ser_cudnn_graph_free(cudnn_graph *graph)
{
    while (graph->count > 0) {
        graph->count--;
        graph->library->cudnnBackendDestroyDescriptor(graph->descriptors[graph->count]);
    }
    graph->operations = NULL;
}

/* --- Engines --- */

enum {
    NOTES = 32, /* more than there are */
    /* The most shared memory of a block on Ampere: a config with more is made for later cards. */
    AMPERE_SHARED = 163 << 10,
};

/* Engines that split their sums over blocks differ from run to run (NONDETERMINISTIC), others round
 * sums or factors to less than they have. A note that is not known yet is no recommendation. */
static const uint32_t ALLOWED = UINT32_C(1) << CUDNN_NUMERICAL_NOTE_TENSOR_CORE |
                                UINT32_C(1) << CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP;

static uint32_t bit(int32_t note)
{
    return note >= 0 && note < NOTES ? UINT32_C(1) << note : 0;
}

/* The engine's number and notes. */
static cudnnStatus_t describe_engine(const cudnn_library *library, cudnn_config *config)
{
    cudnnBackendNumericalNote_t numerical[NOTES];
    cudnnBackendBehaviorNote_t behavior[NOTES];
    cudnnBackendDescriptor_t engine = NULL;
    int64_t count = 0;
    cudnnStatus_t status =
        library->cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine);
    if (status != CUDNN_STATUS_SUCCESS) {
        return status;
    }
    status = library->cudnnBackendGetAttribute(config->descriptor, CUDNN_ATTR_ENGINECFG_ENGINE,
                                               CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &engine);
    if (status == CUDNN_STATUS_SUCCESS) {
        status = library->cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX,
                                                   CUDNN_TYPE_INT64, 1, &count, &config->engine);
    }
    if (status == CUDNN_STATUS_SUCCESS) {
        count = 0;
        status =
            library->cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                              CUDNN_TYPE_NUMERICAL_NOTE, NOTES, &count, numerical);
    }
    for (int64_t i = 0; status == CUDNN_STATUS_SUCCESS && i < smaller(count, NOTES); i++) {
        config->numerical |= bit((int32_t)numerical[i]);
    }
    if (status == CUDNN_STATUS_SUCCESS) {
        count = 0;
        status =
            library->cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
                                              CUDNN_TYPE_BEHAVIOR_NOTE, NOTES, &count, behavior);
    }
    for (int64_t i = 0; status == CUDNN_STATUS_SUCCESS && i < smaller(count, NOTES); i++) {
        config->behavior |= bit((int32_t)behavior[i]);
    }
    library->cudnnBackendDestroyDescriptor(engine);
    return status;
}

/* Fill the rest of a config that has its descriptor. False if it is not to be used. */
static bool describe(const cudnn_library *library, cudnn_config *config)
{
    int64_t count = 0;
    return describe_engine(library, config) == CUDNN_STATUS_SUCCESS &&
           library->cudnnBackendGetAttribute(
               config->descriptor, CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &count,
               &config->workspace) == CUDNN_STATUS_SUCCESS &&
           library->cudnnBackendGetAttribute(
               config->descriptor, CUDNN_ATTR_ENGINECFG_SHARED_MEMORY_USED, CUDNN_TYPE_INT32, 1,
               &count, &config->shared) == CUDNN_STATUS_SUCCESS &&
           config->workspace <= CUDNN_WORKSPACE_LIMIT && (config->numerical & ~ALLOWED) == 0 &&
           (config->numerical & bit(CUDNN_NUMERICAL_NOTE_TENSOR_CORE)) != 0;
}

static bool is_known(const cudnn_config *config, const cudnn_config *configs, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        if (configs[i].engine == config->engine && configs[i].shared == config->shared) {
            return true;
        }
    }
    return false;
}

/* Ask the heuristics. What they add to the `kept` configs that are there stands behind them, in
 * their order; returns how many there are then. */
static int32_t ask(const cudnn_graph *graph, cudnnBackendHeurMode_t mode,
                   cudnn_config configs[CUDNN_CONFIGS], int32_t kept)
{
    const cudnn_library *library = graph->library;
    cudnnBackendDescriptor_t results[CUDNN_CONFIGS] = {NULL};
    cudnnBackendDescriptor_t heuristics = NULL;
    int64_t count = 0;
    const int32_t before = kept;
    const cudnn_attribute list[] = {
        {CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
         &graph->operations},
        {CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode},
        {CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR,
         graph->properties != NULL ? 1 : 0, &graph->properties},
        {.count = 0},
    };
    cudnnStatus_t status =
        ser_cudnn_make(library, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, list, &heuristics);
    for (int32_t i = 0; i < CUDNN_CONFIGS && status == CUDNN_STATUS_SUCCESS; i++) {
        status =
            library->cudnnBackendCreateDescriptor(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &results[i]);
    }
    if (status == CUDNN_STATUS_SUCCESS) {
        status = library->cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                                   CUDNN_TYPE_BACKEND_DESCRIPTOR, CUDNN_CONFIGS,
                                                   &count, results);
    }
    for (int32_t i = 0; i < CUDNN_CONFIGS; i++) {
        cudnn_config config = {.descriptor = results[i]};
        if (status == CUDNN_STATUS_SUCCESS && i < count && kept < CUDNN_CONFIGS &&
            describe(library, &config) && !is_known(&config, configs, before)) {
            configs[kept] = config;
            kept++;
        } else if (results[i] != NULL) {
            library->cudnnBackendDestroyDescriptor(results[i]);
        }
    }
    if (heuristics != NULL) {
        library->cudnnBackendDestroyDescriptor(heuristics);
    }
    return kept;
}

/*
 * The heuristics' order says which configs are measured, and where a measured choice cannot be kept
 * which one is taken: two engines that are nearly as fast would take turns from run to run, and
 * with them the last bits of every result. One correction, which is as constant: on Hopper the
 * heuristics (9.19) rank the configs of this graph alike for every shape, and those first that fit
 * an Ampere, which cannot use what Hopper has new for products; with a bias they name only these,
 * and the one that is Hopper's own is left to those that they fall back to. So these are asked for
 * as well, and what needs more shared memory than Ampere has goes first.
 */
static void prefer_new(cudnn_config configs[CUDNN_CONFIGS], int32_t count)
{
    cudnn_config sorted[CUDNN_CONFIGS];
    int32_t at = 0;
    for (int32_t pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < count; i++) {
            if ((configs[i].shared > AMPERE_SHARED) == (pass == 0)) {
                sorted[at] = configs[i];
                at++;
            }
        }
    }
    memcpy(configs, sorted, (size_t)count * sizeof *configs);
}

int32_t ser_cudnn_configs(const cudnn_graph *graph, cudnn_config configs[CUDNN_CONFIGS])
{
    int32_t count = ask(graph, CUDNN_HEUR_MODE_A, configs, 0);
    if (count == 0) {
        count = ask(graph, CUDNN_HEUR_MODE_B, configs, 0);
    }
    count = ask(graph, CUDNN_HEUR_MODE_FALLBACK, configs, count);
    prefer_new(configs, count);
    return count;
}

void ser_cudnn_configs_free(const cudnn_graph *graph, cudnn_config *configs, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        if (configs[i].descriptor != NULL) {
            graph->library->cudnnBackendDestroyDescriptor(configs[i].descriptor);
        }
    }
}

/* --- Plans --- */

cudnnStatus_t ser_cudnn_plan_build(const cudnn_graph *graph, cudnn_config *config, cudnn_plan *plan)
{
    const cudnn_library *library = graph->library;
    int64_t count = 0;
    const bool there = graph->handle != NULL;
    const cudnn_attribute list[] = {
        {CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
         &config->descriptor},
        {there ? CUDNN_ATTR_EXECUTION_PLAN_HANDLE : CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP,
         there ? CUDNN_TYPE_HANDLE : CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
         there ? (const void *)&graph->handle : &graph->properties},
        {.count = 0},
    };
    cudnnStatus_t status =
        ser_cudnn_make(library, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, list, &plan->descriptor);
    if (status == CUDNN_STATUS_SUCCESS) {
        status = library->cudnnBackendGetAttribute(plan->descriptor,
                                                   CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                                   CUDNN_TYPE_INT64, 1, &count, &plan->workspace);
        if (status == CUDNN_STATUS_SUCCESS && plan->workspace > CUDNN_WORKSPACE_LIMIT) {
            status = CUDNN_STATUS_NOT_SUPPORTED;
        }
        if (status != CUDNN_STATUS_SUCCESS) {
            ser_cudnn_plan_free(graph, plan);
        } else {
            plan->config = config->descriptor;
            config->descriptor = NULL;
        }
    }
    return status;
}

void ser_cudnn_plan_free(const cudnn_graph *graph, cudnn_plan *plan)
{
    if (plan->descriptor != NULL) {
        graph->library->cudnnBackendDestroyDescriptor(plan->descriptor);
    }
    if (plan->config != NULL) {
        graph->library->cudnnBackendDestroyDescriptor(plan->config);
    }
    *plan = (cudnn_plan){0};
}
