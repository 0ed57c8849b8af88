/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include "base/rng.h"

enum { SLACK = 64, MAX_MATRICES = 256, MAX_WEIGHTS = 64 };

ser_context *context;
ser_queue *queue;
static void *blocks[MAX_MATRICES];
static int block_count;
static ser_weight *weights[MAX_WEIGHTS];
static int weight_count;

void fixture_open(void)
{
    const char *name;
    assert_ok(ser_cpu_ops.open(0, &context, &name));
    assert_ok(ser_cpu_ops.queue_create(context, 2, &queue));
}

void fixture_threads(int32_t threads)
{
    ser_cpu_ops.queue_free(queue);
    assert_ok(ser_cpu_ops.queue_create(context, threads, &queue));
}

void matrices_free(void)
{
    while (block_count > 0) {
        ser_mem_free(blocks[--block_count]);
    }
    while (weight_count > 0) {
        ser_cpu_ops.weight_free(context, weights[--weight_count]);
    }
}

void fixture_close(void)
{
    matrices_free();
    ser_cpu_ops.queue_free(queue);
    ser_cpu_ops.close(context);
    ck_assert_int_eq(ser_mem_live(), 0);
}

static ser_tensor allocate(int64_t rows, int64_t cols, int64_t front)
{
    int64_t before = (SLACK + front) * cols;
    before = (before + 15) / 16 * 16; /* the first element is aligned */
    int64_t total = before + (rows + SLACK) * cols;
    float *block = ser_mem_alloc_raw((size_t)total, sizeof(float));
    ck_assert_ptr_nonnull(block);
    ck_assert_int_lt(block_count, MAX_MATRICES);
    blocks[block_count++] = block;
    for (int64_t i = 0; i < total; i++) {
        block[i] = NAN;
    }
    return ser_tensor_f32(block + before, rows, cols);
}

ser_tensor matrix(int64_t rows, int64_t cols, uint64_t seed, int64_t front)
{
    ser_tensor x = allocate(rows, cols, front);
    float *data = x.data;
    memset(data - front * cols, 0, (size_t)(front * cols) * sizeof(float));
    harness_fill(data, (size_t)(rows * cols), seed, 1.0F);
    return x;
}

ser_tensor poisoned(int64_t rows, int64_t cols)
{
    return allocate(rows, cols, 0);
}

void fill_padding(const ser_tensor *x, const ser_rows *rows, float value)
{
    float *data = x->data;
    for (int64_t b = 0; b < rows->batch; b++) {
        for (int64_t i = (b * rows->padded + rows->valid[b]) * x->cols;
             i < (b + 1) * rows->padded * x->cols; i++) {
            data[i] = value;
        }
    }
}

ser_weight *weight_of(int64_t rows, int64_t cols, int64_t groups, const float *values)
{
    const ser_weight_spec spec = {.rows = rows, .cols = cols, .groups = groups};
    ser_weight *weight = NULL;
    assert_ok(ser_cpu_ops.weight_create(context, &spec, &weight));
    ck_assert_int_lt(weight_count, MAX_WEIGHTS);
    weights[weight_count++] = weight;
    assert_ok(ser_cpu_ops.weight_set(queue, weight, values));
    return weight;
}

void poison_scratch(void)
{
    if (queue->scratch != NULL) {
        memset(queue->scratch, 0xFF, queue->scratch_size); /* all bits set is a NaN */
    }
}

void check_rows(const ser_tensor *y, const double *reference, const ser_rows *rows, bool zeros)
{
    const float *data = y->data;
    for (int64_t b = 0; b < rows->batch; b++) {
        const int64_t first = b * rows->padded * y->cols;
        const int64_t valid = rows->valid[b] * y->cols;
        double error = harness_relative_error64(data + first, reference + first, (size_t)valid);
        ck_assert_msg(error < TOLERANCE, "clip %d: relative error %g", (int)b, error);
        for (int64_t i = valid; zeros && i < rows->padded * y->cols; i++) {
            ck_assert_msg(data[first + i] == 0.0F, "clip %d: padding holds %g", (int)b,
                          (double)data[first + i]);
        }
    }
}

float *content(const ser_tensor *x)
{
    ser_tensor copy = allocate(x->rows, x->cols, 0);
    memcpy(copy.data, x->data, (size_t)(x->rows * x->cols) * sizeof(float));
    return copy.data;
}

double *doubles(const ser_tensor *x)
{
    const int64_t count = x->rows * x->cols;
    double *values = ser_mem_alloc((size_t)count, sizeof *values);
    ck_assert_ptr_nonnull(values);
    ck_assert_int_lt(block_count, MAX_MATRICES);
    blocks[block_count++] = values;
    for (int64_t i = 0; i < count; i++) {
        values[i] = (double)((const float *)x->data)[i];
    }
    return values;
}

void check_gradient(const char *name, const float *gradient, const float *before,
                    const double *reference, int64_t count)
{
    double scale = 0.0;
    for (int64_t i = 0; i < count; i++) {
        scale = fmax(scale, fabs(reference[i]));
    }
    for (int64_t i = 0; i < count; i++) {
        const double got = (double)gradient[i] - (before != NULL ? (double)before[i] : 0.0);
        ck_assert_msg(fabs(got - reference[i]) <= TOLERANCE * fmax(scale, 1e-3),
                      "%s[%lld] is %.9g, not %.9g", name, (long long)i, got, reference[i]);
    }
}

void check_differences(const char *name, double (*loss)(void), double *values, int64_t count,
                       const float *gradient, const float *before)
{
    const double step = 1e-5;
    double *slopes = ser_mem_alloc((size_t)count, sizeof *slopes);
    ck_assert_ptr_nonnull(slopes);
    for (int64_t i = 0; i < count; i++) {
        const double value = values[i];
        values[i] = value + step;
        const double above = loss();
        values[i] = value - step;
        slopes[i] = (above - loss()) / (2.0 * step);
        values[i] = value;
    }
    check_gradient(name, gradient, before, slopes, count);
    ser_mem_free(slopes);
}

void check_row_differences(const char *name, double (*loss)(void), double *values,
                           const ser_tensor *dx, const ser_rows *rows, bool zeros)
{
    for (int64_t b = 0; b < rows->batch; b++) {
        const int64_t first = b * rows->padded * dx->cols;
        const int64_t valid = rows->valid[b] * dx->cols;
        const float *data = (const float *)dx->data + first;
        check_differences(name, loss, values + first, valid, data, NULL);
        for (int64_t i = valid; i < rows->padded * dx->cols; i++) {
            ck_assert_msg(zeros ? data[i] == 0.0F : !isnan(data[i]),
                          "%s: padding of clip %d holds %g", name, (int)b, (double)data[i]);
        }
    }
}

double gelu_reference(double x)
{
    return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
}

double dropout_factor(const ser_dropout *dropout, uint64_t element)
{
    if (dropout->p <= 0.0F) {
        return 1.0;
    }
    uint32_t words[4];
    ser_rng_block(dropout->step->seed,
                  ser_rng_stream(SER_RNG_DROPOUT, dropout->op,
                                 (uint32_t)(dropout->step->number % (1U << 24))),
                  element / 8, words);
    const uint32_t word = words[element / 2 % 4];
    const uint32_t number = element % 2 == 0 ? word & 0xFFFF : word >> 16;
    const uint32_t threshold = (uint32_t)lround(65536.0 * (double)dropout->p);
    return number < threshold ? 0.0 : 65536.0 / (65536.0 - threshold);
}
