/* SPDX-License-Identifier: MIT */
/*
 * What the op tests share: a CPU queue, matrices between slack that is full of NaN, and a run that
 * plans first. Each test program is run once per instruction set and product engine (meson.build
 * sets SER_CPU_ISA and SER_GEMM); references are plain loops in double precision in the tests.
 */
#ifndef SER_TESTS_OPS_FIXTURE_H
#define SER_TESTS_OPS_FIXTURE_H

#include <math.h>
#include <stdbool.h>

#include "harness.h"
#include "ops/ops.h"

/* f32 against double references: sums of up to a few thousand terms. */
#define TOLERANCE 2e-5

extern ser_context *context;
extern ser_queue *queue;

/* Checked fixture: open the context and a queue with two threads; the reverse. */
void fixture_open(void);
void fixture_close(void);

/* Another queue's thread count for the same tests: 1 or 2. */
void fixture_threads(int32_t threads);

/* A [rows, cols] matrix with random content, `front` rows of zeros before it and NaN all around. */
ser_tensor matrix(int64_t rows, int64_t cols, uint64_t seed, int64_t front);
/* The same full of NaN, for outputs. */
ser_tensor poisoned(int64_t rows, int64_t cols);
/* Free every matrix since the last call. */
void matrices_free(void);

/* Overwrite the invalid rows with `value`. */
void fill_padding(const ser_tensor *x, const ser_rows *rows, float value);

/* The weight of `spec` packed from host values. */
ser_weight *weight_of(int64_t rows, int64_t cols, int64_t groups, const float *values);

/* Fails the test unless the valid rows agree with the reference within TOLERANCE, and, with
 * `zeros`, the others are zero. */
void check_rows(const ser_tensor *y, const double *reference, const ser_rows *rows, bool zeros);

/* Copy of a matrix's content. */
float *content(const ser_tensor *x);

double gelu_reference(double x);

/* A matrix's content in double precision, freed with the matrices. */
double *doubles(const ser_tensor *x);

/* Fails the test unless gradient - before (NULL: 0) is the reference within TOLERANCE of its
 * largest value. */
void check_gradient(const char *name, const float *gradient, const float *before,
                    const double *reference, int64_t count);

/* The same with central differences of the loss by values[0 .. count) as the reference. */
void check_differences(const char *name, double (*loss)(void), double *values, int64_t count,
                       const float *gradient, const float *before);

/* The same for the valid rows of dx; the others must be written, with `zeros` as zero. */
void check_row_differences(const char *name, double (*loss)(void), double *values,
                           const ser_tensor *dx, const ser_rows *rows, bool zeros);

/* What an element is multiplied with, from base/rng.h as ops.h says. */
double dropout_factor(const ser_dropout *dropout, uint64_t element);

/* Fill the queue's scratch with NaN. */
void poison_scratch(void);

/* Plan, reserve, then run an op with the shared queue. */
#define RUN(op, args)                                                                              \
    do {                                                                                           \
        queue->planning = true;                                                                    \
        assert_ok(op(queue, args));                                                                \
        assert_ok(ser_queue_reserve(queue, NULL));                                                 \
        poison_scratch();                                                                          \
        assert_ok(op(queue, args));                                                                \
    } while (0)

/* A suite of one op with the checked fixture. */
#define OP_SUITE(name, ...)                                                                        \
    int main(void)                                                                                 \
    {                                                                                              \
        const TTest *tests[] = {__VA_ARGS__};                                                      \
        Suite *suite = suite_create(name);                                                         \
        TCase *tcase = tcase_create(name);                                                         \
        tcase_add_checked_fixture(tcase, fixture_open, fixture_close);                             \
        tcase_set_timeout(tcase, 120);                                                             \
        for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {                                \
            tcase_add_test(tcase, tests[i]);                                                       \
        }                                                                                          \
        suite_add_tcase(suite, tcase);                                                             \
        return harness_run(suite);                                                                 \
    }

#endif
