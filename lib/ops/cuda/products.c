/* SPDX-License-Identifier: MIT */
/*
 * Matrix products by cuBLASLt. The library is column-major: what it sees of a row-major matrix is
 * its transpose. So d = a b^T is asked for as d^T = b a^T; the library's A is b, its B is a.
 */
#include "ops/cuda/products.h"

#include <cublasLt.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "ops/cuda/algorithms.h"
#include "ops/cuda/measure.h"

enum {
    CANDIDATES = 8,
    LARGEST_ALIGNMENT = 8, /* 256 bytes, more is not asked about */
};

/* What NVIDIA recommends for Hopper (cuBLAS documentation, cublasSetWorkspace). */
static const size_t WORKSPACE = (size_t)32 << 20;

_Static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(((product_choice *)0)->algorithm),
               "an algorithm is what the cache keeps");

struct ser_products {
    int32_t device;
    cublasLtHandle_t handle;
    ser_algorithms *algorithms;
    pthread_mutex_t measuring; /* recursive: what is measured may begin with a choice of its own */
};

/* A product as the library wants it. */
typedef struct problem {
    cuda_queue *queue;
    const cuda_product *product;
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t a, b, d;
} problem;

/* --- Failures --- */

static int cublas_status(ser_context *context, cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS) {
        return 0;
    }
    if (status == CUBLAS_STATUS_EXECUTION_FAILED || status == CUBLAS_STATUS_INTERNAL_ERROR) {
        const int failed = ser_cuda_status(context, cudaGetLastError(), what);
        if (failed != 0) {
            return failed;
        }
    }
    const char *text = cublasLtGetStatusString(status);
    switch (status) {
    case CUBLAS_STATUS_ALLOC_FAILED:
        return ser_fail(SER_ERR_MEMORY, "cuda:%d: %s: out of memory (cuBLASLt: %s)", context->index,
                        what, text);
    case CUBLAS_STATUS_INVALID_VALUE:
        return ser_fail(SER_ERR_INTERNAL, "cuda:%d: %s: cuBLASLt: %s", context->index, what, text);
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return ser_fail(SER_ERR_UNSUPPORTED, "cuda:%d: %s: cuBLASLt: %s", context->index, what,
                        text);
    default:
        return ser_fail(SER_ERR_DEVICE, "cuda:%d: %s: cuBLASLt: %s", context->index, what, text);
    }
}

static int fail_unknown(const problem *p)
{
    const cuda_product *product = p->product;
    return ser_fail(SER_ERR_UNSUPPORTED,
                    "cuda:%d: cuBLASLt has no algorithm for %lld products of [%lld, %lld] and "
                    "[%lld, %lld]",
                    p->queue->base.context->index, (long long)product->entries,
                    (long long)product->m, (long long)product->k, (long long)product->n,
                    (long long)product->k);
}

/* --- Describing --- */

static cudaDataType_t data_type(int32_t type)
{
    return type == SER_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

typedef struct matrix {
    int32_t type;
    int64_t rows, cols, ld, pitch; /* row-major */
} matrix;

static cublasStatus_t describe_matrix(cublasLtMatrixLayout_t layout, const matrix *m,
                                      int64_t entries)
{
    const int32_t count = (int32_t)entries;
    cublasStatus_t status = cublasLtMatrixLayoutInit(layout, data_type(m->type), (uint64_t)m->cols,
                                                     (uint64_t)m->rows, m->ld);
    if (status == CUBLAS_STATUS_SUCCESS && entries > 1) {
        status = cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                  &count, sizeof count);
    }
    if (status == CUBLAS_STATUS_SUCCESS && entries > 1) {
        status = cublasLtMatrixLayoutSetAttribute(
            layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &m->pitch, sizeof m->pitch);
    }
    return status;
}

static cublasLtEpilogue_t epilogue_of(const cuda_product *product)
{
    if (product->bias != NULL) {
        return product->relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
    }
    return product->relu ? CUBLASLT_EPILOGUE_RELU : CUBLASLT_EPILOGUE_DEFAULT;
}

/* The bias has one element per row of the library's D, a column of ours; it is d's type. */
static cublasStatus_t describe_operation(problem *p)
{
    const cuda_product *product = p->product;
    const struct {
        cublasLtMatmulDescAttributes_t attribute;
        const void *value;
        size_t size;
    } settings[] = {
        {CUBLASLT_MATMUL_DESC_TRANSA,
         &(cublasOperation_t){product->b_across ? CUBLAS_OP_N : CUBLAS_OP_T},
         sizeof(cublasOperation_t)},
        {CUBLASLT_MATMUL_DESC_TRANSB,
         &(cublasOperation_t){product->a_across ? CUBLAS_OP_T : CUBLAS_OP_N},
         sizeof(cublasOperation_t)},
        {CUBLASLT_MATMUL_DESC_EPILOGUE, &(cublasLtEpilogue_t){epilogue_of(product)},
         sizeof(cublasLtEpilogue_t)},
        {CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product->bias, sizeof product->bias},
    };
    const size_t count = sizeof settings / sizeof *settings - (product->bias == NULL);
    cublasStatus_t status = cublasLtMatmulDescInit(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    for (size_t i = 0; i < count && status == CUBLAS_STATUS_SUCCESS; i++) {
        status = cublasLtMatmulDescSetAttribute(&p->operation, settings[i].attribute,
                                                settings[i].value, settings[i].size);
    }
    return status;
}

static cublasStatus_t describe(problem *p)
{
    const cuda_product *x = p->product;
    const matrix a = {x->type, x->a_across ? x->k : x->m, x->a_across ? x->m : x->k, x->lda,
                      x->a_pitch};
    const matrix b = {x->type, x->b_across ? x->k : x->n, x->b_across ? x->n : x->k, x->ldb,
                      x->b_pitch};
    const matrix d = {x->d_type, x->m, x->n, x->ldd, x->d_pitch};
    cublasStatus_t status = describe_operation(p);
    status = status == CUBLAS_STATUS_SUCCESS ? describe_matrix(&p->a, &a, x->entries) : status;
    status = status == CUBLAS_STATUS_SUCCESS ? describe_matrix(&p->b, &b, x->entries) : status;
    return status == CUBLAS_STATUS_SUCCESS ? describe_matrix(&p->d, &d, x->entries) : status;
}

/* Logarithm of the alignment in bytes of every row of every entry. */
static uint32_t alignment_of(const void *data, int64_t ld, int64_t pitch, int32_t type)
{
    const uint64_t size = cuda_element_size(type);
    const uint64_t all = (uintptr_t)data | (uint64_t)ld * size | (uint64_t)pitch * size |
                         (uint64_t)1 << LARGEST_ALIGNMENT;
    return (uint32_t)__builtin_ctzll(all);
}

static product_key key_of(const cuda_product *x)
{
    const int64_t several = x->entries > 1; /* a pitch means nothing for one entry */
    const product_key key = {
        .m = x->m,
        .n = x->n,
        .k = x->k,
        .entries = x->entries,
        .lda = x->lda,
        .a_pitch = x->a_pitch * several,
        .ldb = x->ldb,
        .b_pitch = x->b_pitch * several,
        .ldd = x->ldd,
        .d_pitch = x->d_pitch * several,
        .flags = (uint32_t)(x->type == SER_BF16) | (uint32_t)(x->d_type == SER_BF16) << 1 |
                 (uint32_t)x->a_across << 2 | (uint32_t)x->b_across << 3 |
                 (uint32_t)x->accumulate << 4 | (uint32_t)(x->bias != NULL) << 5 |
                 (uint32_t)x->relu << 6,
        .alignments = alignment_of(x->a, x->lda, x->a_pitch * several, x->type) |
                      alignment_of(x->b, x->ldb, x->b_pitch * several, x->type) << 8 |
                      alignment_of(x->d, x->ldd, x->d_pitch * several, x->d_type) << 16 |
                      alignment_of(x->bias, 0, 0, x->d_type) << 24,
    };
    return key;
}

/* --- Running --- */

static cublasStatus_t multiply(problem *p, const uint64_t *algorithm, void *d)
{
    const cuda_product *product = p->product;
    cublasLtMatmulAlgo_t algo;
    const float one = 1.0F;
    const float beta = product->accumulate ? 1.0F : 0.0F;
    memcpy(&algo, algorithm, sizeof algo);
    return cublasLtMatmul(p->queue->base.context->products->handle, &p->operation, &one, product->b,
                          &p->b, product->a, &p->a, &beta, d, &p->d, d, &p->d, &algo,
                          p->queue->base.scratch, WORKSPACE, p->queue->stream);
}

/* --- Choosing --- */

/* Sums are kept in f32: parts of them are not rounded to the type of d. */
static cublasStatus_t describe_preference(cublasLtMatmulPreference_t preference, uint32_t aligned)
{
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        int place; /* in `aligned` */
    } sides[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 8},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 0},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 16},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 16},
    };
    const uint64_t workspace = WORKSPACE;
    const uint32_t reductions =
        CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasStatus_t status = cublasLtMatmulPreferenceInit(preference);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    }
    for (size_t i = 0; i < sizeof sides / sizeof *sides && status == CUBLAS_STATUS_SUCCESS; i++) {
        const uint32_t bytes = 1U << (aligned >> sides[i].place & 0xFFU);
        status = cublasLtMatmulPreferenceSetAttribute(preference, sides[i].attribute, &bytes,
                                                      sizeof bytes);
    }
    return status;
}

/* Algorithms that the library thinks of, the most promising first. */
static int suggest(problem *p, const product_key *key, product_choice choices[CANDIDATES],
                   int *count)
{
    ser_context *context = p->queue->base.context;
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    int found = 0;
    *count = 0;
    cublasStatus_t status = describe_preference(&preference, key->alignments);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status =
            cublasLtMatmulAlgoGetHeuristic(context->products->handle, &p->operation, &p->b, &p->a,
                                           &p->d, &p->d, &preference, CANDIDATES, results, &found);
    }
    if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED) {
        return cublas_status(context, status, "choosing an algorithm");
    }
    for (int i = 0; i < found && status == CUBLAS_STATUS_SUCCESS; i++) {
        if (results[i].state == CUBLAS_STATUS_SUCCESS && results[i].workspaceSize <= WORKSPACE) {
            product_choice *choice = &choices[(*count)++];
            *choice = (product_choice){.workspace = results[i].workspaceSize};
            memcpy(choice->algorithm, &results[i].algo, sizeof results[i].algo);
        }
    }
    return *count > 0 ? 0 : fail_unknown(p);
}

/* Whether an algorithm from the file is one that this library can run. */
static bool is_usable(problem *p, const product_choice *choice)
{
    cublasLtMatmulHeuristicResult_t result;
    memcpy(&result.algo, choice->algorithm, sizeof result.algo);
    return cublasLtMatmulAlgoCheck(p->queue->base.context->products->handle, &p->operation, &p->b,
                                   &p->a, &p->d, &p->d, &result.algo,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= WORKSPACE;
}

/* A product with an algorithm, and what the library said about it last. */
typedef struct trial {
    problem *problem;
    const product_choice *choice;
    void *d;
    cublasStatus_t *said;
} trial;

static int run_trial(cuda_queue *queue, const void *data)
{
    const trial *t = data;
    (void)queue;
    *t->said = multiply(t->problem, t->choice->algorithm, t->d);
    return *t->said == CUBLAS_STATUS_SUCCESS ? 0 : SER_ERR_UNSUPPORTED;
}

/* The shortest time of one algorithm; infinite if it does not run. */
static int measure_one(problem *p, const product_choice *choice, void *d, float *shortest)
{
    cublasStatus_t said = CUBLAS_STATUS_SUCCESS;
    const trial t = {.problem = p, .choice = choice, .d = d, .said = &said};
    const int status = ser_measure(p->queue, &(cuda_way){run_trial, &t}, shortest);
    if (said == CUBLAS_STATUS_NOT_SUPPORTED || said == CUBLAS_STATUS_INVALID_VALUE ||
        said == CUBLAS_STATUS_ARCH_MISMATCH) {
        cudaGetLastError();
        return 0;
    }
    return said == CUBLAS_STATUS_SUCCESS
               ? status
               : cublas_status(p->queue->base.context, said, "measuring a product");
}

/* Where measured products go: d itself, unless that would add to it. NULL: nowhere. */
static void *take_target(const problem *p)
{
    const cuda_product *x = p->product;
    void *target = x->d;
    if (x->accumulate) {
        const int64_t last = (x->entries - 1) * x->d_pitch + (x->m - 1) * x->ldd + x->n;
        const size_t size = (size_t)last * cuda_element_size(x->d_type);
        if (ser_cuda_alloc(p->queue->base.context, size, &target) != 0) {
            return NULL;
        }
        cudaMemsetAsync(target, 0, size, p->queue->stream);
    }
    return target;
}

/* Move the fastest to the front. */
static int measure(problem *p, product_choice *choices, int count)
{
    float best = INFINITY;
    int status = 0;
    void *target = take_target(p);
    if (target == NULL) {
        return 0;
    }
    for (int i = 0; i < count && status == 0; i++) {
        float time;
        status = measure_one(p, &choices[i], target, &time);
        if (status == 0 && time < best) {
            best = time;
            choices[0] = choices[i];
        }
    }
    if (target != p->product->d) {
        cudaFree(target);
    }
    return status;
}

/* While recording nothing is measured, and what was not measured is not kept. */
static int choose(problem *p, const product_key *key, product_choice *choice)
{
    ser_algorithms *algorithms = p->queue->base.context->products->algorithms;
    product_choice choices[CANDIDATES];
    int count;
    int status = suggest(p, key, choices, &count);
    if (status == 0 && count > 1 && !p->queue->capturing && ser_algorithms_lasting(algorithms)) {
        status = measure(p, choices, count);
    }
    if (status == 0) {
        *choice = choices[0];
    }
    if (status == 0 && !p->queue->capturing) {
        ser_algorithms_put(algorithms, key, choice);
    }
    return status;
}

static bool find(problem *p, const product_key *key, product_choice *choice)
{
    ser_algorithms *algorithms = p->queue->base.context->products->algorithms;
    bool found = ser_algorithms_find(algorithms, key, choice);
    if (found && choice->loaded) {
        found = is_usable(p, choice);
        choice->loaded = false;
        if (found) {
            ser_algorithms_put(algorithms, key, choice);
        }
    }
    return found;
}

static int find_or_choose(problem *p, const product_key *key, product_choice *choice)
{
    ser_context *context = p->queue->base.context;
    int status = 0;
    if (find(p, key, choice)) {
        return 0;
    }
    ser_products_begin_measuring(context);
    if (!find(p, key, choice)) { /* another thread may just have done it */
        status = choose(p, key, choice);
    }
    ser_products_end_measuring(context);
    return status;
}

/* --- The header's functions --- */

static void make_recursive(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attributes;
    (void)pthread_mutexattr_init(&attributes);
    (void)pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    (void)pthread_mutex_init(mutex, &attributes);
    (void)pthread_mutexattr_destroy(&attributes);
}

int ser_products_open(ser_context *context, ser_products **products)
{
    struct cudaDeviceProp properties;
    char identity[SER_ALGORITHMS_IDENTITY];
    int status = ser_cuda_status(context, cudaGetDeviceProperties(&properties, context->index),
                                 "reading the properties of the device");
    ser_products *p = status == 0 ? ser_mem_alloc(1, sizeof *p) : NULL;
    if (p == NULL) {
        return status != 0 ? status : SER_ERR_MEMORY;
    }
    (void)snprintf(identity, sizeof identity, "%.120s-sm_%d%d-%dsm-cublasLt%zu", properties.name,
                   context->major, context->minor, context->multiprocessors, cublasLtGetVersion());
    make_recursive(&p->measuring);
    p->device = context->index;
    status = cublas_status(context, cublasLtCreate(&p->handle), "starting cuBLASLt");
    status = status == 0 ? ser_algorithms_open(identity, &p->algorithms) : status;
    if (status != 0) {
        ser_products_close(p);
        return status;
    }
    *products = p;
    return 0;
}

void ser_products_close(ser_products *products)
{
    if (products == NULL) {
        return;
    }
    ser_algorithms_close(products->algorithms);
    /* A handle belongs to its device. In a forked process there is none, and nothing to destroy. */
    if (products->handle != NULL && cudaSetDevice(products->device) == cudaSuccess) {
        (void)cublasLtDestroy(products->handle);
    }
    cudaGetLastError();
    (void)pthread_mutex_destroy(&products->measuring);
    ser_mem_free(products);
}

struct ser_algorithms *ser_products_algorithms(const ser_context *context)
{
    return context->products->algorithms;
}

void ser_products_begin_measuring(ser_context *context)
{
    (void)pthread_mutex_lock(&context->products->measuring);
}

void ser_products_end_measuring(ser_context *context)
{
    (void)pthread_mutex_unlock(&context->products->measuring);
}

size_t ser_products_scratch(const ser_queue *queue)
{
    (void)queue;
    return WORKSPACE;
}

int ser_product_run(cuda_queue *queue, const cuda_product *product)
{
    ser_context *context = queue->base.context;
    problem p = {.queue = queue, .product = product};
    product_choice choice;
    const product_key key = key_of(product);
    int status = cublas_status(context, describe(&p), "describing a product");
    status = status == 0 ? find_or_choose(&p, &key, &choice) : status;
    if (status == SER_ERR_UNSUPPORTED &&
        (product->entries == 1 || product->d_pitch >= product->ldd)) {
        ser_log(SER_LOG_DEBUG, "%s: a product of [%lld, %lld, %lld] by plain loops", context->name,
                (long long)product->m, (long long)product->n, (long long)product->k);
        return ser_product_plain(queue, product);
    }
    if (status != 0) {
        return status;
    }
    return cublas_status(context, multiply(&p, choice.algorithm, product->d), "a matrix product");
}
