/* SPDX-License-Identifier: MIT */
#include "ops/cpu/gemm.h"

#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "ops/cpu/cpu.h"
#include "ops/cpu/onednn.h"

/*
 * Blocking after Goto & van de Geijn 2008 (Anatomy of High-Performance Matrix Multiplication): a
 * panel of W, BLOCK_K deep (16 KB at 16 columns), stays in the first-level cache while all tiles of
 * a block of packed rows (144 KB) stream past it from the second; a chunk of W is shared by all
 * threads in the third.
 */
enum {
    BLOCK_K = 256,
    BLOCK_ROWS = 144, /* a multiple of every mr */
    CHUNK_COLUMNS = 512
};

int64_t ser_gemm_packed_size(const ser_kernels *kernels, int64_t n, int64_t k)
{
    return cpu_ceil_div(n, kernels->nr) * kernels->nr * k;
}

void ser_gemm_pack(const ser_kernels *kernels, const float *w, int64_t row_step, int64_t col_step,
                   int64_t n, int64_t k, float *to)
{
    const int64_t nr = kernels->nr;
    for (int64_t first = 0; first < n; first += nr) {
        int64_t count = cpu_min(nr, n - first);
        for (int64_t j = 0; j < k; j++) {
            const float *from = w + first * row_step + j * col_step;
            for (int64_t i = 0; i < count; i++) {
                to[i] = from[i * row_step];
            }
            memset(to + count, 0, (size_t)(nr - count) * sizeof(float));
            to += nr;
        }
    }
}

void ser_gemm_unpack(const ser_kernels *kernels, const float *from, int64_t n, int64_t k, float *w)
{
    const int64_t nr = kernels->nr;
    for (int64_t first = 0; first < n; first += nr) {
        int64_t count = cpu_min(nr, n - first);
        for (int64_t j = 0; j < k; j++, from += nr) {
            for (int64_t i = 0; i < count; i++) {
                w[(first + i) * k + j] = from[i];
            }
        }
    }
}

int64_t ser_gemm_block_scratch(void)
{
    return (int64_t)BLOCK_ROWS * BLOCK_K;
}

/* Up to BLOCK_ROWS rows and BLOCK_K of k: pack the rows once, then every panel past all tiles. */
static void run_packed(const ser_kernels *kernels, const gemm_block *block, int64_t row,
                       int64_t rows, int64_t k0, float *packed)
{
    const int64_t mr = kernels->mr;
    const int64_t nr = kernels->nr;
    const int64_t depth = cpu_min(BLOCK_K, block->k - k0);
    const int64_t tiles = cpu_ceil_div(rows, mr);
    for (int64_t t = 0; t < tiles; t++) {
        kernels->pack_rows(block->a + (row + t * mr) * block->lda + k0, block->lda,
                           cpu_min(mr, rows - t * mr), depth, packed + t * mr * depth);
    }
    ser_tile_args tile = {.ldc = block->ldc,
                          .k = depth,
                          .first = k0 == 0,
                          .last = k0 + depth == block->k,
                          .activation = block->activation};
    for (int64_t p = block->first_panel; p < block->last_panel; p++) {
        tile.b = block->b + (p * block->k + k0) * nr;
        tile.n = (int32_t)cpu_min(nr, block->n - p * nr);
        tile.bias = block->bias != NULL ? block->bias + p * nr : NULL;
        for (int64_t t = 0; t < tiles; t++) {
            tile.a = packed + t * mr * depth;
            tile.m = (int32_t)cpu_min(mr, rows - t * mr);
            tile.c = block->c + (row + t * mr) * block->ldc + p * nr;
            kernels->gemm_tile(&tile);
        }
    }
}

void ser_gemm_run_block(const ser_kernels *kernels, const gemm_block *block, float *scratch)
{
    for (int64_t row = 0; row < block->m; row += BLOCK_ROWS) {
        int64_t rows = cpu_min(BLOCK_ROWS, block->m - row);
        for (int64_t k0 = 0; k0 < block->k; k0 += BLOCK_K) {
            run_packed(kernels, block, row, rows, k0, scratch);
        }
    }
}

/* How a call is cut in tasks: per entry `blocks` even blocks of whole tiles, times chunks of
 * panels. */
typedef struct split {
    int64_t tiles_per_block;
    int64_t blocks; /* of the largest entry */
    int64_t panels, panels_per_chunk, chunks;
} split;

static split split_call(const ser_kernels *kernels, const gemm_call *call, int threads)
{
    split s = {.tiles_per_block = BLOCK_ROWS / kernels->mr,
               .panels = cpu_ceil_div(call->n, kernels->nr),
               .panels_per_chunk = CHUNK_COLUMNS / kernels->nr};
    const int64_t tiles = cpu_ceil_div(call->max_rows, kernels->mr);
    for (;;) {
        s.blocks = cpu_ceil_div(tiles, s.tiles_per_block);
        s.chunks = cpu_ceil_div(s.panels, s.panels_per_chunk);
        if (s.blocks * s.chunks * call->entries >= 3 * (int64_t)threads || threads == 1) {
            return s;
        }
        if (s.panels_per_chunk > 4) {
            s.panels_per_chunk /= 2;
        } else if (s.tiles_per_block > 3) {
            s.tiles_per_block /= 2;
        } else {
            return s;
        }
    }
}

/* Task number `task`: chunks of W outermost, so that threads share the same part of W at a time. */
static void run_task(const ser_kernels *kernels, const gemm_call *call, const split *s,
                     int64_t task, float *scratch)
{
    const int64_t block = task % s->blocks;
    const int64_t entry = task / s->blocks % call->entries;
    const int64_t chunk = task / s->blocks / call->entries;
    const int64_t rows = call->rows != NULL ? call->rows[entry] : call->max_rows;
    const int64_t tiles = cpu_ceil_div(rows, kernels->mr);
    const int64_t blocks = cpu_ceil_div(tiles, s->tiles_per_block);
    if (block >= blocks) {
        return;
    }
    const int64_t begin = tiles * block / blocks * kernels->mr;
    const int64_t end = cpu_min(tiles * (block + 1) / blocks * kernels->mr, rows);
    const gemm_block part = {
        .a = call->a + entry * call->a_pitch + begin * call->lda,
        .lda = call->lda,
        .b = call->b + entry * call->b_pitch,
        .bias = call->bias != NULL ? call->bias + entry * call->bias_pitch : NULL,
        .c = call->c + entry * call->c_pitch + begin * call->ldc,
        .ldc = call->ldc,
        .m = end - begin,
        .n = call->n,
        .k = call->k,
        .first_panel = chunk * s->panels_per_chunk,
        .last_panel = cpu_min((chunk + 1) * s->panels_per_chunk, s->panels),
        .activation = call->activation,
    };
    ser_gemm_run_block(kernels, &part, scratch);
}

size_t ser_gemm_scratch(const ser_queue *queue)
{
    return (size_t)cpu_queue_of(queue)->threads * (size_t)ser_gemm_block_scratch() * sizeof(float);
}

void ser_gemm_run(const ser_queue *queue, const gemm_call *call)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const double work =
        (double)call->entries * (double)call->max_rows * (double)call->n * (double)call->k;
    const int threads = cpu_threads_for(queue, work * CPU_NS_PER_MULTIPLY_ADD);
    const split s = split_call(kernels, call, threads);
    const int64_t tasks = s.blocks * s.chunks * call->entries;
    float *scratch = queue->scratch;
    CPU_PARALLEL_FOR(threads, schedule(dynamic))
    for (int64_t task = 0; task < tasks; task++) {
        run_task(kernels, call, &s, task, scratch + cpu_thread() * ser_gemm_block_scratch());
    }
}

size_t ser_gemm_weight_scratch(const ser_queue *queue, const ser_weight *weight)
{
    return weight->onednn != NULL ? ser_onednn_scratch(queue, weight->onednn)
                                  : ser_gemm_scratch(queue);
}

int ser_gemm_run_weight(const ser_queue *queue, const ser_weight *weight, gemm_call *call)
{
    call->n = weight->spec.rows;
    call->k = weight->spec.cols;
    if (weight->onednn != NULL) {
        return ser_onednn_run(queue, weight->onednn, call);
    }
    call->b = weight->panels;
    call->b_pitch = weight->spec.groups > 1 ? weight->panel_pitch : 0;
    ser_gemm_run(queue, call);
    return 0;
}

int ser_gemm_weight_create(ser_context *context, const ser_weight_spec *spec, ser_weight **weight)
{
    ser_weight *w = ser_mem_alloc(1, sizeof *w);
    if (w == NULL) {
        return SER_ERR_MEMORY;
    }
    w->spec = *spec;
    int status = 0;
    if (context->onednn != NULL) {
        status = ser_onednn_weight_create(context->onednn, spec, &w->onednn);
    } else {
        w->panel_pitch = ser_gemm_packed_size(context->kernels, spec->rows, spec->cols);
        w->panels = ser_mem_alloc_raw((size_t)(w->panel_pitch * spec->groups), sizeof(float));
        status = w->panels == NULL ? SER_ERR_MEMORY : 0;
    }
    if (status != 0) {
        ser_gemm_weight_free(context, w);
        return status;
    }
    *weight = w;
    return 0;
}

void ser_gemm_weight_free(ser_context *context, ser_weight *weight)
{
    (void)context;
    if (weight != NULL) {
        ser_onednn_weight_free(weight->onednn);
        ser_mem_free(weight->panels);
        ser_mem_free(weight);
    }
}

int ser_gemm_weight_set(ser_queue *queue, ser_weight *weight, const float *w)
{
    if (weight->onednn != NULL) {
        return ser_onednn_weight_set(weight->onednn, w);
    }
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const ser_weight_spec *spec = &weight->spec;
    const int64_t nr = kernels->nr;
    const int64_t panels = cpu_ceil_div(spec->rows, nr);
    const double values = (double)(spec->groups * spec->rows * spec->cols);
    const int threads = cpu_threads_for(queue, values * CPU_NS_PER_VALUE);
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t i = 0; i < spec->groups * panels; i++) {
        const int64_t row = i % panels * nr;
        ser_gemm_pack(kernels, w + (i / panels * spec->rows + row) * spec->cols, spec->cols, 1,
                      cpu_min(nr, spec->rows - row), spec->cols,
                      weight->panels + i / panels * weight->panel_pitch + row * spec->cols);
    }
    return 0;
}

int ser_gemm_weight_get(ser_queue *queue, const ser_weight *weight, float *w)
{
    if (weight->onednn != NULL) {
        return ser_onednn_weight_get(weight->onednn, w);
    }
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const ser_weight_spec *spec = &weight->spec;
    for (int64_t g = 0; g < spec->groups; g++) {
        ser_gemm_unpack(kernels, weight->panels + g * weight->panel_pitch, spec->rows, spec->cols,
                        w + g * spec->rows * spec->cols);
    }
    return 0;
}
