/* SPDX-License-Identifier: MIT */
/*
 * The products of the backward ops. dW = dY^T X sums over rows: blocks of rows of both are copied to
 * panels, mr and nr columns wide, and the register tile of the forward products does the rest.
 * dX = dY W is the forward product with W^T, packed anew for each call: one value is moved for some
 * hundred multiply-adds.
 */
#include "ops/cpu/gemm.h"

#include <string.h>

#include "ops/cpu/cpu.h"
#include "ops/cpu/onednn.h"

/* Blocking as in gemm.c: DEPTH rows of nr columns in the first-level cache, DEPTH x BLOCK_N in the
 * second, DEPTH x CHUNK_K from the third. */
enum {
    DEPTH = 256,
    BLOCK_N = 144, /* a multiple of every mr */
    CHUNK_K = 512  /* a multiple of every nr */
};

/* Rough cost on one core of a value in a sum. */
#define CPU_NS_PER_SUM 0.2

/* The next up to DEPTH valid rows: where they start in a and in b. */
typedef struct row_block {
    int64_t entry, row; /* the first one that is not in the block */
    int64_t count;
    int64_t a[DEPTH], b[DEPTH];
} row_block;

static void next_rows(const gemm_tn_call *call, row_block *block)
{
    block->count = 0;
    while (block->entry < call->entries && block->count < DEPTH) {
        int64_t rows = call->rows != NULL ? call->rows[block->entry] : call->max_rows;
        if (block->row >= rows) {
            block->entry++;
            block->row = 0;
            continue;
        }
        block->a[block->count] = block->entry * call->a_pitch + block->row * call->lda;
        block->b[block->count] = block->entry * call->b_pitch + block->row * call->ldb;
        block->count++;
        block->row++;
    }
}

/* Tiles [first_tile, last_tile) of n times panels [first_panel, last_panel) of k. */
typedef struct tn_part {
    const float *a, *b;
    float *c;
    int64_t first_tile, last_tile;
    int64_t first_panel, last_panel;
} tn_part;

/* One block of rows; `b` holds its packed panels already, `a` is room for packed tiles. */
static void run_rows(const ser_kernels *kernels, const gemm_tn_call *call, const tn_part *part,
                     const row_block *rows, float *a, const float *b)
{
    const int64_t mr = kernels->mr;
    const int64_t nr = kernels->nr;
    const int64_t step = BLOCK_N / mr;
    ser_tile_args tile = {.ldc = call->k, .k = rows->count};
    for (int64_t first = part->first_tile; first < part->last_tile; first += step) {
        const int64_t last = cpu_min(first + step, part->last_tile);
        for (int64_t t = first; t < last; t++) {
            kernels->pack_columns(part->a + t * mr, rows->a, rows->count,
                                  cpu_min(mr, call->n - t * mr), mr,
                                  a + (t - first) * mr * rows->count);
        }
        for (int64_t p = part->first_panel; p < part->last_panel; p++) {
            tile.b = b + (p - part->first_panel) * nr * rows->count;
            tile.n = (int32_t)cpu_min(nr, call->k - p * nr);
            for (int64_t t = first; t < last; t++) {
                tile.a = a + (t - first) * mr * rows->count;
                tile.m = (int32_t)cpu_min(mr, call->n - t * mr);
                tile.c = part->c + t * mr * call->k + p * nr;
                kernels->gemm_tile(&tile);
            }
        }
    }
}

static void run_part(const ser_kernels *kernels, const gemm_tn_call *call, const tn_part *part,
                     float *scratch)
{
    const int64_t nr = kernels->nr;
    float *b = scratch + (int64_t)DEPTH * BLOCK_N;
    row_block rows = {0};
    for (next_rows(call, &rows); rows.count > 0; next_rows(call, &rows)) {
        for (int64_t p = part->first_panel; p < part->last_panel; p++) {
            kernels->pack_columns(part->b + p * nr, rows.b, rows.count,
                                  cpu_min(nr, call->k - p * nr), nr,
                                  b + (p - part->first_panel) * nr * rows.count);
        }
        run_rows(kernels, call, part, &rows, scratch, b);
    }
}

/* Even parts of a group's product: chunks of tiles times chunks of panels. */
typedef struct tn_split {
    int64_t tiles, tile_chunks;
    int64_t panels, panel_chunks;
} tn_split;

static tn_split split_tn(const ser_kernels *kernels, const gemm_tn_call *call, int threads)
{
    const int64_t least_tiles = 48 / kernels->mr; /* each value of b serves so many of a */
    tn_split s = {.tiles = cpu_ceil_div(call->n, kernels->mr),
                  .tile_chunks = 1,
                  .panels = cpu_ceil_div(call->k, kernels->nr),
                  .panel_chunks = cpu_ceil_div(call->k, CHUNK_K)};
    while (threads > 1 && s.tile_chunks * s.panel_chunks * call->groups < 3 * (int64_t)threads) {
        if (s.tiles >= 2 * s.tile_chunks * least_tiles) {
            s.tile_chunks *= 2;
        } else if (s.panels >= 4 * s.panel_chunks) {
            s.panel_chunks *= 2;
        } else {
            break;
        }
    }
    return s;
}

static void run_task(const ser_kernels *kernels, const gemm_tn_call *call, const tn_split *s,
                     int64_t task, float *scratch)
{
    const int64_t i = task % s->tile_chunks;
    const int64_t j = task / s->tile_chunks % s->panel_chunks;
    const int64_t group = task / s->tile_chunks / s->panel_chunks;
    const tn_part part = {.a = call->a + group * call->a_group,
                          .b = call->b + group * call->b_group,
                          .c = call->c + group * call->c_group,
                          .first_tile = s->tiles * i / s->tile_chunks,
                          .last_tile = s->tiles * (i + 1) / s->tile_chunks,
                          .first_panel = s->panels * j / s->panel_chunks,
                          .last_panel = s->panels * (j + 1) / s->panel_chunks};
    run_part(kernels, call, &part, scratch);
}

int64_t ser_gemm_tn_block_scratch(void)
{
    return (int64_t)DEPTH * (BLOCK_N + CHUNK_K);
}

void ser_gemm_tn_run_block(const ser_kernels *kernels, const gemm_tn_call *call, float *scratch)
{
    const tn_split s = split_tn(kernels, call, 1);
    for (int64_t task = 0; task < s.panel_chunks * call->groups; task++) {
        run_task(kernels, call, &s, task, scratch);
    }
}

size_t ser_gemm_tn_scratch(const ser_queue *queue)
{
    return (size_t)cpu_queue_of(queue)->threads * (size_t)ser_gemm_tn_block_scratch() *
           sizeof(float);
}

void ser_gemm_tn_run(const ser_queue *queue, const gemm_tn_call *call)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const double work =
        (double)(call->entries * call->max_rows * call->groups) * (double)call->n * (double)call->k;
    const int threads = cpu_threads_for(queue, work * CPU_NS_PER_MULTIPLY_ADD);
    const tn_split s = split_tn(kernels, call, threads);
    const int64_t tasks = s.tile_chunks * s.panel_chunks * call->groups;
    float *scratch = queue->scratch;
    CPU_PARALLEL_FOR(threads, schedule(dynamic))
    for (int64_t task = 0; task < tasks; task++) {
        run_task(kernels, call, &s, task, scratch + cpu_thread() * ser_gemm_tn_block_scratch());
    }
}

int64_t ser_gemm_transposed_size(const ser_kernels *kernels, const gemm_transpose *t)
{
    return ser_gemm_packed_size(kernels, t->width, t->taps * t->weight->spec.rows);
}

int64_t ser_gemm_plain_size(const ser_weight *weight)
{
    const ser_weight_spec *spec = &weight->spec;
    return weight->onednn != NULL ? cpu_ceil_div(spec->rows * spec->cols * spec->groups, 16) * 16
                                  : 0;
}

int ser_gemm_plain(ser_queue *queue, const ser_weight *weight, float *plain)
{
    return weight->onednn != NULL ? ser_gemm_weight_get(queue, weight, plain) : 0;
}

/* Where W[row, col] of a group is, row a multiple of nr, and how to go on from there. */
typedef struct element {
    const float *at;
    int64_t row_step, col_step;
} element;

static element find_element(const ser_kernels *kernels, const ser_weight *weight,
                            const float *plain, int64_t group, int64_t row, int64_t col)
{
    const ser_weight_spec *spec = &weight->spec;
    if (weight->onednn != NULL) {
        return (element){plain + (group * spec->rows + row) * spec->cols + col, spec->cols, 1};
    }
    return (element){weight->panels + group * weight->panel_pitch + row * spec->cols +
                         col * kernels->nr,
                     1, kernels->nr};
}

/* Rows [row, row + count) of W to as many lines of a panel of W^T: columns col .. col + width. */
static void transpose_block(element from, int64_t count, int64_t width, int64_t nr, float *to)
{
    for (int64_t i = 0; i < count; i++) {
        for (int64_t j = 0; j < width; j++) {
            to[i * nr + j] = from.at[i * from.row_step + j * from.col_step];
        }
        memset(to + i * nr + width, 0, (size_t)(nr - width) * sizeof(float));
    }
}

void ser_gemm_transpose(const ser_queue *queue, const gemm_transpose *t, const float *plain,
                        float *to)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const ser_weight_spec *spec = &t->weight->spec;
    const int64_t nr = kernels->nr;
    const int64_t panels = cpu_ceil_div(t->width, nr);
    const int64_t pieces = spec->groups * panels * t->taps;
    const int threads = cpu_threads_for(queue, (double)(pieces * nr * spec->rows));
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t piece = 0; piece < pieces; piece++) {
        const int64_t tap = piece % t->taps;
        const int64_t p = piece / t->taps % panels;
        const int64_t group = piece / t->taps / panels;
        const int64_t col = (t->first + tap * t->step) * t->width + p * nr;
        float *lines = to + piece * spec->rows * nr;
        for (int64_t row = 0; row < spec->rows; row += nr) {
            transpose_block(find_element(kernels, t->weight, plain, group, row, col),
                            cpu_min(nr, spec->rows - row), cpu_min(nr, t->width - p * nr), nr,
                            lines + row * nr);
        }
    }
}

/* Columns of a row that are summed together, and rows that are summed before they go to the total. */
enum { SUM_COLUMNS = 512, SUM_ROWS = 128 };

static void sum_chunk(const ser_kernels *kernels, const gemm_columns *columns, int64_t first,
                      int64_t n)
{
    float total[SUM_COLUMNS] = {0};
    float part[SUM_COLUMNS] = {0};
    int64_t pending = 0;
    for (int64_t e = 0; e < columns->entries; e++) {
        for (int64_t r = 0; r < columns->rows[e]; r++) {
            kernels->add(part, columns->x + e * columns->pitch + r * columns->ld + first, n, part);
            if (++pending == SUM_ROWS) {
                kernels->add(total, part, n, total);
                memset(part, 0, sizeof part);
                pending = 0;
            }
        }
    }
    kernels->add(total, part, n, total);
    kernels->add(columns->sum + first, total, n, columns->sum + first);
}

void ser_gemm_sum_columns(const ser_queue *queue, const gemm_columns *columns)
{
    const ser_kernels *kernels = cpu_queue_of(queue)->kernels;
    const double values = (double)(columns->entries * columns->max_rows * columns->n);
    const int threads = cpu_threads_for(queue, values * CPU_NS_PER_SUM);
    const int64_t width =
        cpu_min(SUM_COLUMNS, cpu_ceil_div(cpu_ceil_div(columns->n, threads), 16) * 16);
    const int64_t chunks = cpu_ceil_div(columns->n, width);
    CPU_PARALLEL_FOR(threads, schedule(static))
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        sum_chunk(kernels, columns, chunk * width, cpu_min(width, columns->n - chunk * width));
    }
}
