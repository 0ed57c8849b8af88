/* SPDX-License-Identifier: MIT */
#include "ops/cpu/onednn.h"

#include <stdlib.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "ops/cpu/cpu.h"

#ifdef SER_HAVE_ONEDNN

#include <dnnl.h>

/*
 * Every product is cut in tasks of the same shape, CHUNK_ROWS rows times up to CHUNK_COLUMNS
 * outputs, each one serial primitive on packed weights. Rows are copied to a dense block first
 * (oneDNN refuses rows that overlap, and the copy stays in the cache); the result goes to a dense
 * block from which bias, activation and the store to C take one pass. One shape for all rows is
 * also what keeps a row's bits independent of its batch.
 */
enum { CHUNK_ROWS = 64, CHUNK_COLUMNS = 256 };

struct onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t desc_ref;
#else
typedef const dnnl_memory_desc_t *desc_ref;
#endif

/*
 * oneDNN starts a team of its own in every call that it thinks is not yet parallel. Ours are, or
 * they are meant to be serial; and a team does not survive a fork. These two stand around all calls
 * that compute; the number of threads that OpenMP would take belongs to the calling thread alone.
 */
static int serial_begin(void)
{
#ifdef _OPENMP
    const int outer = omp_get_max_threads();
    omp_set_num_threads(1);
    return outer;
#else
    return 1;
#endif
}

static void serial_end(int outer)
{
#ifdef _OPENMP
    omp_set_num_threads(outer);
#else
    (void)outer;
#endif
}

/* A product [CHUNK_ROWS, k] x [k, n]. */
typedef struct shape {
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    desc_ref source, packed, result, scratchpad;
} shape;

struct onednn_weight {
    struct onednn *onednn;
    ser_weight_spec spec;
    int64_t chunks;        /* per group */
    shape whole, rest;     /* outputs of a whole chunk, and of the last one if it is smaller */
    dnnl_memory_t *packed; /* [groups * chunks] */
    size_t scratchpad;     /* bytes, the larger of the two shapes */
};

static int check(dnnl_status_t status, const char *what)
{
    if (status == dnnl_success) {
        return 0;
    }
    return ser_fail(status == dnnl_out_of_memory ? SER_ERR_MEMORY : SER_ERR_INTERNAL,
                    "oneDNN %s failed with status %d", what, (int)status);
}

#define TRY(call, what)                                                                            \
    do {                                                                                           \
        int status_ = check((call), (what));                                                       \
        if (status_ != 0) {                                                                        \
            return status_;                                                                        \
        }                                                                                          \
    } while (0)

/* ---- the differences between oneDNN 2.x and 3.x ---- */

#if DNNL_VERSION_MAJOR >= 3

static int matrix_desc(dnnl_memory_desc_t *desc, int64_t rows, int64_t cols, dnnl_format_tag_t tag)
{
    const dnnl_dims_t dims = {rows, cols};
    return check(dnnl_memory_desc_create_with_tag(desc, 2, dims, dnnl_f32, tag),
                 "memory descriptor");
}

static int matmul_desc(dnnl_primitive_desc_t *desc, dnnl_engine_t engine, int64_t n, int64_t k,
                       dnnl_primitive_attr_t attr)
{
    dnnl_memory_desc_t a = NULL;
    dnnl_memory_desc_t b = NULL;
    dnnl_memory_desc_t c = NULL;
    int status = matrix_desc(&a, CHUNK_ROWS, k, dnnl_ab);
    status = status != 0 ? status : matrix_desc(&b, k, n, dnnl_format_tag_any);
    status = status != 0 ? status : matrix_desc(&c, CHUNK_ROWS, n, dnnl_ab);
    if (status == 0) {
        status =
            check(dnnl_matmul_primitive_desc_create(desc, engine, a, b, NULL, c, attr), "matmul");
    }
    dnnl_memory_desc_destroy(a);
    dnnl_memory_desc_destroy(b);
    dnnl_memory_desc_destroy(c);
    return status;
}

/* Row-major [n, k], seen as its transpose [k, n]. */
static int plain_memory(dnnl_memory_t *memory, dnnl_engine_t engine, int64_t n, int64_t k,
                        void *data)
{
    dnnl_memory_desc_t desc = NULL;
    int status = matrix_desc(&desc, k, n, dnnl_ba);
    if (status == 0) {
        status = check(dnnl_memory_create(memory, desc, engine, data), "memory");
    }
    dnnl_memory_desc_destroy(desc);
    return status;
}

#else

static int matrix_desc(dnnl_memory_desc_t *desc, int64_t rows, int64_t cols, dnnl_format_tag_t tag)
{
    const dnnl_dims_t dims = {rows, cols};
    return check(dnnl_memory_desc_init_by_tag(desc, 2, dims, dnnl_f32, tag), "memory descriptor");
}

static int matmul_desc(dnnl_primitive_desc_t *desc, dnnl_engine_t engine, int64_t n, int64_t k,
                       dnnl_primitive_attr_t attr)
{
    dnnl_memory_desc_t a;
    dnnl_memory_desc_t b;
    dnnl_memory_desc_t c;
    dnnl_matmul_desc_t matmul;
    int status = matrix_desc(&a, CHUNK_ROWS, k, dnnl_ab);
    status = status != 0 ? status : matrix_desc(&b, k, n, dnnl_format_tag_any);
    status = status != 0 ? status : matrix_desc(&c, CHUNK_ROWS, n, dnnl_ab);
    if (status != 0) {
        return status;
    }
    TRY(dnnl_matmul_desc_init(&matmul, &a, &b, NULL, &c), "matmul");
    return check(dnnl_primitive_desc_create(desc, &matmul, attr, engine, NULL), "matmul");
}

static int plain_memory(dnnl_memory_t *memory, dnnl_engine_t engine, int64_t n, int64_t k,
                        void *data)
{
    dnnl_memory_desc_t desc;
    int status = matrix_desc(&desc, k, n, dnnl_ba);
    return status != 0 ? status : check(dnnl_memory_create(memory, &desc, engine, data), "memory");
}

#endif

/* ---- the same for both ---- */

static dnnl_status_t reorder_desc(dnnl_primitive_desc_t *desc, dnnl_engine_t engine,
                                  dnnl_memory_t from, dnnl_memory_t to)
{
    desc_ref a;
    desc_ref b;
    dnnl_memory_get_memory_desc(from, &a);
    dnnl_memory_get_memory_desc(to, &b);
    return dnnl_reorder_primitive_desc_create(desc, a, engine, b, engine, NULL);
}

static int shape_create(shape *s, dnnl_engine_t engine, int64_t n, int64_t k)
{
    dnnl_primitive_attr_t attr = NULL;
    TRY(dnnl_primitive_attr_create(&attr), "attributes");
    /* scratch memory comes from the queue, so that threads can run one primitive together */
    int status = check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user),
                       "attributes");
    if (status == 0) {
        status = matmul_desc(&s->desc, engine, n, k, attr);
    }
    dnnl_primitive_attr_destroy(attr);
    if (status != 0) {
        return status;
    }
    TRY(dnnl_primitive_create(&s->primitive, s->desc), "matmul");
    s->source = dnnl_primitive_desc_query_md(s->desc, dnnl_query_src_md, 0);
    s->packed = dnnl_primitive_desc_query_md(s->desc, dnnl_query_weights_md, 0);
    s->result = dnnl_primitive_desc_query_md(s->desc, dnnl_query_dst_md, 0);
    s->scratchpad = dnnl_primitive_desc_query_md(s->desc, dnnl_query_scratchpad_md, 0);
    return 0;
}

static void shape_destroy(shape *s)
{
    if (s->primitive != NULL) {
        dnnl_primitive_destroy(s->primitive);
    }
    if (s->desc != NULL) {
        dnnl_primitive_desc_destroy(s->desc);
    }
}

static int wanted(void)
{
    const char *choice = getenv("SER_GEMM");
    if (choice != NULL) {
        return strcmp(choice, "onednn") == 0;
    }
    return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core;
}

int ser_onednn_open(struct onednn **onednn)
{
    *onednn = NULL;
    if (!wanted()) {
        return 0;
    }
    struct onednn *o = ser_mem_alloc(1, sizeof *o);
    if (o == NULL) {
        return SER_ERR_MEMORY;
    }
    int status = check(dnnl_engine_create(&o->engine, dnnl_cpu, 0), "engine");
    if (status == 0) {
        status =
            check(dnnl_stream_create(&o->stream, o->engine, dnnl_stream_default_flags), "stream");
    }
    if (status != 0) {
        ser_onednn_close(o);
        return status;
    }
    *onednn = o;
    return 0;
}

void ser_onednn_close(struct onednn *onednn)
{
    if (onednn != NULL) {
        if (onednn->stream != NULL) {
            dnnl_stream_destroy(onednn->stream);
        }
        if (onednn->engine != NULL) {
            dnnl_engine_destroy(onednn->engine);
        }
        ser_mem_free(onednn);
    }
}

static int64_t chunk_columns(const struct onednn_weight *weight, int64_t chunk)
{
    return cpu_min(CHUNK_COLUMNS, weight->spec.rows - chunk * CHUNK_COLUMNS);
}

static const shape *chunk_shape(const struct onednn_weight *weight, int64_t chunk)
{
    return chunk_columns(weight, chunk) == CHUNK_COLUMNS ? &weight->whole : &weight->rest;
}

static int create_parts(struct onednn_weight *w)
{
    dnnl_engine_t engine = w->onednn->engine;
    const int64_t rest = w->spec.rows % CHUNK_COLUMNS;
    int status = 0;
    if (w->spec.rows >= CHUNK_COLUMNS) {
        status = shape_create(&w->whole, engine, CHUNK_COLUMNS, w->spec.cols);
        w->scratchpad = status == 0 ? dnnl_memory_desc_get_size(w->whole.scratchpad) : 0;
    }
    if (status == 0 && rest > 0) {
        status = shape_create(&w->rest, engine, rest, w->spec.cols);
        size_t size = status == 0 ? dnnl_memory_desc_get_size(w->rest.scratchpad) : 0;
        w->scratchpad = size > w->scratchpad ? size : w->scratchpad;
    }
    w->packed = ser_mem_alloc((size_t)(w->spec.groups * w->chunks), sizeof(*w->packed));
    if (status == 0 && w->packed == NULL) {
        status = SER_ERR_MEMORY;
    }
    for (int64_t i = 0; status == 0 && i < w->spec.groups * w->chunks; i++) {
        status = check(dnnl_memory_create(&w->packed[i], chunk_shape(w, i % w->chunks)->packed,
                                          engine, DNNL_MEMORY_ALLOCATE),
                       "packed weights");
    }
    return status;
}

int ser_onednn_weight_create(struct onednn *onednn, const ser_weight_spec *spec,
                             struct onednn_weight **weight)
{
    struct onednn_weight *w = ser_mem_alloc(1, sizeof *w);
    if (w == NULL) {
        return SER_ERR_MEMORY;
    }
    w->onednn = onednn;
    w->spec = *spec;
    w->chunks = cpu_ceil_div(spec->rows, CHUNK_COLUMNS);
    const int outer = serial_begin();
    int status = create_parts(w);
    serial_end(outer);
    if (status != 0) {
        ser_onednn_weight_free(w);
        return status;
    }
    *weight = w;
    return 0;
}

void ser_onednn_weight_free(struct onednn_weight *weight)
{
    if (weight == NULL) {
        return;
    }
    for (int64_t i = 0; weight->packed != NULL && i < weight->spec.groups * weight->chunks; i++) {
        if (weight->packed[i] != NULL) {
            dnnl_memory_destroy(weight->packed[i]);
        }
    }
    ser_mem_free(weight->packed);
    shape_destroy(&weight->whole);
    shape_destroy(&weight->rest);
    ser_mem_free(weight);
}

static int reorder(const struct onednn *onednn, dnnl_memory_t from, dnnl_memory_t to)
{
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    TRY(reorder_desc(&desc, onednn->engine, from, to), "reorder");
    int status = check(dnnl_primitive_create(&primitive, desc), "reorder");
    dnnl_primitive_desc_destroy(desc);
    if (status == 0) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
        status = check(dnnl_primitive_execute(primitive, onednn->stream, 2, args), "reorder");
        dnnl_stream_wait(onednn->stream);
        dnnl_primitive_destroy(primitive);
    }
    return status;
}

/* Pack (or unpack) every chunk; `w` is row-major [groups * rows, cols]. */
static int transfer(const struct onednn_weight *weight, float *w, bool pack)
{
    const int outer = serial_begin();
    int status = 0;
    for (int64_t i = 0; status == 0 && i < weight->spec.groups * weight->chunks; i++) {
        const int64_t row =
            i / weight->chunks * weight->spec.rows + i % weight->chunks * CHUNK_COLUMNS;
        dnnl_memory_t plain = NULL;
        status =
            plain_memory(&plain, weight->onednn->engine, chunk_columns(weight, i % weight->chunks),
                         weight->spec.cols, w + row * weight->spec.cols);
        if (status == 0) {
            status = pack ? reorder(weight->onednn, plain, weight->packed[i])
                          : reorder(weight->onednn, weight->packed[i], plain);
            dnnl_memory_destroy(plain);
        }
    }
    serial_end(outer);
    return status;
}

int ser_onednn_weight_set(struct onednn_weight *weight, const float *w)
{
    /* oneDNN's memory takes no const pointer; packing only reads. */
    float *source;
    memcpy(&source, &w, sizeof source);
    return transfer(weight, source, true);
}

int ser_onednn_weight_get(const struct onednn_weight *weight, float *w)
{
    return transfer(weight, w, false);
}

/* One thread's part of the scratch: rows, result, scratchpad. */
static size_t thread_scratch(const struct onednn_weight *weight)
{
    return cpu_round((size_t)(CHUNK_ROWS * weight->spec.cols) * sizeof(float)) +
           (size_t)(CHUNK_ROWS * CHUNK_COLUMNS) * sizeof(float) + cpu_round(weight->scratchpad);
}

size_t ser_onednn_scratch(const ser_queue *queue, const struct onednn_weight *weight)
{
    size_t size = (size_t)cpu_queue_of(queue)->threads * thread_scratch(weight);
    size_t own = ser_gemm_scratch(queue); /* callers use ser_gemm_run on the same scratch */
    return size > own ? size : own;
}

static int execute(const struct onednn_weight *weight, const shape *s, dnnl_memory_t packed,
                   float *rows, float *result, void *scratchpad)
{
    dnnl_engine_t engine = weight->onednn->engine;
    dnnl_memory_t memory[3] = {NULL, NULL, NULL};
    int status = check(dnnl_memory_create(&memory[0], s->source, engine, rows), "memory");
    if (status == 0) {
        status = check(dnnl_memory_create(&memory[1], s->result, engine, result), "memory");
    }
    if (status == 0) {
        status = check(dnnl_memory_create(&memory[2], s->scratchpad, engine, scratchpad), "memory");
    }
    if (status == 0) {
        const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, memory[0]},
                                        {DNNL_ARG_WEIGHTS, packed},
                                        {DNNL_ARG_DST, memory[1]},
                                        {DNNL_ARG_SCRATCHPAD, memory[2]}};
        status =
            check(dnnl_primitive_execute(s->primitive, weight->onednn->stream, 4, args), "matmul");
    }
    for (int i = 0; i < 3; i++) {
        if (memory[i] != NULL) {
            dnnl_memory_destroy(memory[i]);
        }
    }
    return status;
}

/* Rows [row, row + CHUNK_ROWS) of one entry times one chunk of the weights. */
static int run_task(const ser_kernels *kernels, const struct onednn_weight *weight,
                    const gemm_call *call, int64_t entry, int64_t row, int64_t chunk, char *scratch)
{
    const int64_t valid = call->rows != NULL ? call->rows[entry] : call->max_rows;
    if (row >= valid) {
        return 0;
    }
    const int64_t count = cpu_min(CHUNK_ROWS, valid - row);
    const int64_t group = weight->spec.groups > 1 ? entry : 0;
    const int64_t n = chunk_columns(weight, chunk);
    float *rows = (float *)(void *)scratch;
    float *result =
        (float *)(void *)(scratch + cpu_round((size_t)(CHUNK_ROWS * call->k) * sizeof(float)));
    const float *a = call->a + entry * call->a_pitch + row * call->lda;
    for (int64_t i = 0; i < count; i++) {
        memcpy(rows + i * call->k, a + i * call->lda, (size_t)call->k * sizeof(float));
    }
    memset(rows + count * call->k, 0, (size_t)((CHUNK_ROWS - count) * call->k) * sizeof(float));
    int status =
        execute(weight, chunk_shape(weight, chunk), weight->packed[group * weight->chunks + chunk],
                rows, result, result + CHUNK_ROWS * CHUNK_COLUMNS);
    if (status != 0) {
        return status;
    }
    const float *bias = call->bias;
    if (bias != NULL) {
        bias += entry * call->bias_pitch + chunk * CHUNK_COLUMNS;
    }
    float *c = call->c + entry * call->c_pitch + row * call->ldc + chunk * CHUNK_COLUMNS;
    for (int64_t i = 0; i < count; i++) {
        kernels->bias_act(result + i * n, bias, n, call->activation, c + i * call->ldc);
    }
    return 0;
}

int ser_onednn_run(const ser_queue *queue, const struct onednn_weight *weight,
                   const gemm_call *call)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const int64_t blocks = cpu_ceil_div(call->max_rows, CHUNK_ROWS);
    const int64_t tasks = blocks * call->entries * weight->chunks;
    const double work = (double)(call->entries * call->max_rows * call->k) * (double)call->n;
    const int threads = cpu_threads_for(queue, work * CPU_NS_PER_MULTIPLY_ADD);
    const size_t pitch = thread_scratch(weight);
    int failed = 0;
    const int outer = serial_begin(); /* inherited by the team */
    CPU_PARALLEL_FOR(threads, schedule(dynamic) reduction(min : failed))
    for (int64_t task = 0; task < tasks; task++) {
        int status = run_task(kernels, weight, call, task / blocks % call->entries,
                              task % blocks * CHUNK_ROWS, task / blocks / call->entries,
                              (char *)queue->scratch + (size_t)cpu_thread() * pitch);
        failed = status < failed ? status : failed;
    }
    serial_end(outer);
    return failed == 0 ? 0 : ser_fail(failed, "oneDNN product failed");
}

#else

int ser_onednn_open(struct onednn **onednn)
{
    *onednn = NULL;
    return 0;
}

void ser_onednn_close(struct onednn *onednn)
{
    (void)onednn;
}

static int absent(void)
{
    return ser_fail(SER_ERR_INTERNAL, "this build has no oneDNN");
}

int ser_onednn_weight_create(struct onednn *onednn, const ser_weight_spec *spec,
                             struct onednn_weight **weight)
{
    (void)onednn;
    (void)spec;
    *weight = NULL;
    return absent();
}

void ser_onednn_weight_free(struct onednn_weight *weight)
{
    (void)weight;
}

int ser_onednn_weight_set(struct onednn_weight *weight, const float *w)
{
    (void)weight;
    (void)w;
    return absent();
}

int ser_onednn_weight_get(const struct onednn_weight *weight, float *w)
{
    (void)weight;
    (void)w;
    return absent();
}

size_t ser_onednn_scratch(const ser_queue *queue, const struct onednn_weight *weight)
{
    (void)queue;
    (void)weight;
    return 0;
}

int ser_onednn_run(const ser_queue *queue, const struct onednn_weight *weight,
                   const gemm_call *call)
{
    (void)queue;
    (void)weight;
    (void)call;
    return absent();
}

#endif
