/* SPDX-License-Identifier: MIT */
/*
 * Every op of the CUDA table beside the CPU's: the same inputs on both, outputs poisoned, NaN all
 * around. Device memory is reached by uploads and downloads only, so the same programs run in the
 * emulation (tests/emulation) and, with SER_TEST_CUDA=1, on the first card through the module.
 *
 * A twin holds one tensor on both devices. A bf16 twin's input values are rounded before either
 * side sees them; the CPU's copy is f32 always, so what differs is the arithmetic alone.
 */
#ifndef SER_TESTS_CUDA_FIXTURE_H
#define SER_TESTS_CUDA_FIXTURE_H

#include <math.h>
#include <stdbool.h>

#include "harness.h"
#include "ops/ops.h"

/*
 * Largest difference, relative to the largest value of the tensor. f32: two summation orders of up
 * to a few thousand terms. bf16: one rounding of the result is up to 2^-8 of it; intermediates that are
 * stored in bf16 (probabilities, products before a norm) add as much again.
 */
#define F32_TOLERANCE  2e-5
#define BF16_TOLERANCE 8e-3

static inline double tolerance_of(int32_t type)
{
    return type == SER_BF16 ? BF16_TOLERANCE : F32_TOLERANCE;
}

typedef struct side {
    const ser_ops *ops;
    ser_context *context;
    ser_queue *queue;
} side;

extern side cpu, gpu;

typedef struct twin {
    ser_tensor cpu;
    ser_tensor gpu;
} twin;

typedef struct twin_rows {
    ser_rows cpu;
    ser_rows gpu;
} twin_rows;

typedef struct twin_weight {
    ser_weight *cpu;
    ser_weight *gpu;
} twin_weight;

/* Checked fixture: open both sides; free everything and see that nothing leaked. */
void fixture_open(void);
void fixture_close(void);

/* Random values in [-scale, scale), `front` zero rows before them, NaN all around. */
twin twin_input(int64_t rows, int64_t cols, int32_t type, uint64_t seed, float scale,
                int64_t front);
/* Given values. */
twin twin_values(int64_t rows, int64_t cols, int32_t type, const float *values);
/* Poison: NaN on both sides. */
twin twin_output(int64_t rows, int64_t cols, int32_t type);
/* Absent on both sides. */
twin twin_absent(void);
/* The same tensor seen from `first` on, with fewer or as many rows. */
twin twin_part(twin whole, int64_t first, int64_t rows);

/* valid[batch] on both devices. */
twin_rows twin_rows_of(int64_t batch, int64_t padded, const int32_t *valid);

/* Overwrite the invalid rows of an input with `value` on both sides. */
void twin_fill_padding(twin *x, const twin_rows *rows, float value);

/* A packed weight of random values, rounded to bf16 where `type` says so. */
twin_weight twin_weight_of(int64_t rows, int64_t cols, int64_t groups, int32_t type, uint64_t seed,
                           float scale);

/* Any `size` bytes in the GPU's memory, freed with the rest. */
void *gpu_copy(const void *host, size_t size);

/* The GPU's values of a tensor as f32; freed with the rest. */
float *gpu_values(const ser_tensor *x);
/* The raw bytes (for "same bits twice"). */
void *gpu_bytes(const ser_tensor *x);

/* Fails the test unless the valid rows agree within `tolerance` (relative to the largest value of
 * the CPU's tensor); with `zeros` the GPU's other rows must be zero. rows NULL: all rows. */
void twin_check(const char *name, const twin *y, const twin_rows *rows, double tolerance,
                bool zeros);

/* Fails the test unless both sides have dropped (made zero) the same elements of the valid rows, about
 * a share p of them, and, in f32, have the same bits. No value was zero before. */
void twin_check_dropped(const twin *y, const twin_rows *rows, float p);

/* Fails the test if the GPU wrote into the NaN around the tensor. */
void twin_check_slack(const char *name, const twin *y);

/* Free what was made since the last call, so that one test can go through many sizes. */
void twins_free(void);

/* Fill the scratch with NaN. */
void side_poison(const side *s);

/* Plan, reserve, poison the scratch, run, and wait. */
#define RUN_ON(s, op, args)                                                                        \
    do {                                                                                           \
        (s).queue->planning = true;                                                                \
        assert_ok(op((s).queue, args));                                                            \
        assert_ok(ser_queue_reserve((s).queue, NULL));                                             \
        side_poison(&(s));                                                                         \
        assert_ok(op((s).queue, args));                                                            \
        assert_ok((s).ops->sync((s).queue));                                                       \
    } while (0)
#define RUN_CPU(op, args) RUN_ON(cpu, op, args)
#define RUN_GPU(op, args) RUN_ON(gpu, op, args)

/* A suite of one op with the checked fixture. */
#define CUDA_SUITE(name, ...)                                                                      \
    int main(void)                                                                                 \
    {                                                                                              \
        const TTest *tests[] = {__VA_ARGS__};                                                      \
        Suite *suite = suite_create(name);                                                         \
        TCase *tcase = tcase_create(name);                                                         \
        tcase_add_checked_fixture(tcase, fixture_open, fixture_close);                             \
        tcase_set_timeout(tcase, 240);                                                             \
        for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {                                \
            tcase_add_test(tcase, tests[i]);                                                       \
        }                                                                                          \
        suite_add_tcase(suite, tcase);                                                             \
        return harness_run(suite);                                                                 \
    }

#endif
