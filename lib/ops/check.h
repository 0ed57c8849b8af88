/* SPDX-License-Identifier: MIT */
/* How the checked front (ops.c, ops_rows.c) examines the arguments of an op: the first complaint
 * stays in `status`, later checks are skipped. Private to lib/ops. */
#ifndef SER_OPS_CHECK_H
#define SER_OPS_CHECK_H

#include "base/fail.h"
#include "ops/ops.h"

/* One op's arguments under examination; the first complaint stays in `status`, later checks are
 * skipped. */
typedef struct checker {
    const ser_queue *queue;
    const char *op;
    int status;
} checker;

static inline checker check_begin(const ser_queue *queue, const char *op, const void *args)
{
    checker c = {.queue = queue, .op = op};
    if (args == NULL) {
        c.status = ser_fail(SER_ERR_INTERNAL, "%s: no arguments", op);
    }
    return c;
}

static inline size_t element_size(const ser_tensor *t)
{
    return t->type == SER_BF16 ? 2 : 4;
}

/* While planning, memory is not there yet: a shape alone makes a tensor present. */
static inline bool present(const checker *c, const ser_tensor *t)
{
    return t->data != NULL || (c->queue->planning && t->rows > 0);
}

static inline void check_that(checker *c, bool holds, const char *what)
{
    if (c->status == 0 && !holds) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s", c->op, what);
    }
}

static inline void check_range(checker *c, const char *name, int64_t value, int64_t least)
{
    if (c->status == 0 && value < least) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is %lld, at least %lld is needed", c->op,
                             name, (long long)value, (long long)least);
    }
}

static inline void check_equal(checker *c, const char *name, int64_t value, int64_t wanted)
{
    if (c->status == 0 && value != wanted) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is %lld, not %lld", c->op, name,
                             (long long)value, (long long)wanted);
    }
}

static inline void check_type(checker *c, const char *name, const ser_tensor *t)
{
    if (c->status == 0 && t->type == SER_BF16 && !c->queue->ops->bf16) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is bf16, which %s does not have", c->op,
                             name, c->queue->ops->name);
    }
}

/* The activations of one call have one type. */
static inline void check_like(checker *c, const char *name, const ser_tensor *t,
                              const ser_tensor *other)
{
    if (c->status == 0 && present(c, t) && t->type != other->type) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is of type %d, the others of %d", c->op,
                             name, t->type, other->type);
    }
}

static inline void check_optional(checker *c, const char *name, const ser_tensor *t, int64_t rows,
                                  int64_t cols)
{
    if (c->status != 0 || !present(c, t)) {
        return;
    }
    check_type(c, name, t);
    if (t->rows != rows || t->cols != cols) {
        c->status =
            ser_fail(SER_ERR_INTERNAL, "%s: %s is [%lld, %lld], not [%lld, %lld]", c->op, name,
                     (long long)t->rows, (long long)t->cols, (long long)rows, (long long)cols);
    } else if (t->type != SER_F32 && t->type != SER_BF16) {
        c->status =
            ser_fail(SER_ERR_INTERNAL, "%s: %s has the unknown type %d", c->op, name, t->type);
    }
}

static inline void check_tensor(checker *c, const char *name, const ser_tensor *t, int64_t rows,
                                int64_t cols)
{
    if (c->status == 0 && !present(c, t)) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is absent", c->op, name);
    }
    check_range(c, name, rows, 1);
    check_range(c, name, cols, 1);
    check_optional(c, name, t, rows, cols);
}

/* Vectors of parameters and samples are f32 in every precision. */
static inline void check_f32(checker *c, const char *name, const ser_tensor *t)
{
    if (c->status == 0 && present(c, t) && t->type != SER_F32) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is not f32", c->op, name);
    }
}

static inline void check_vector(checker *c, const char *name, const ser_tensor *t, int64_t cols)
{
    check_tensor(c, name, t, 1, cols);
    check_f32(c, name, t);
}

static inline void check_optional_vector(checker *c, const char *name, const ser_tensor *t,
                                         int64_t cols)
{
    check_optional(c, name, t, 1, cols);
    check_f32(c, name, t);
}

/* Gradients of parameters are f32 in every precision, or absent. */
static inline void check_gradient(checker *c, const char *name, const ser_tensor *t, int64_t rows,
                                  int64_t cols)
{
    check_optional(c, name, t, rows, cols);
    check_f32(c, name, t);
}

static inline void check_weight(checker *c, const char *name, const ser_weight *weight,
                                int64_t rows, int64_t cols, int64_t groups)
{
    if (c->status != 0) {
        return;
    }
    if (weight == NULL) {
        c->status = ser_fail(SER_ERR_INTERNAL, "%s: %s is absent", c->op, name);
        return;
    }
    const ser_weight_spec *spec = ser_weight_get_spec(weight);
    if (spec->rows != rows || spec->cols != cols || spec->groups != groups) {
        c->status =
            ser_fail(SER_ERR_INTERNAL, "%s: %s is %lld of [%lld, %lld], not %lld of [%lld, %lld]",
                     c->op, name, (long long)spec->groups, (long long)spec->rows,
                     (long long)spec->cols, (long long)groups, (long long)rows, (long long)cols);
    }
}

/* The weight has elements of the type that x multiplies them with. */
static inline void check_weight_type(checker *c, const ser_weight *weight, const ser_tensor *x)
{
    check_that(c,
               c->status != 0 || x->type == SER_F32 || ser_weight_get_spec(weight)->type == x->type,
               "the weight was made for f32 activations only");
}

/* Number of rows of a [batch * padded, C] matrix; 0 after a complaint. */
static inline int64_t check_rows(checker *c, const char *name, const ser_rows *rows)
{
    int64_t product = 0;
    check_range(c, name, rows->batch, 1);
    check_range(c, name, rows->padded, 1);
    check_that(c, rows->valid != NULL || c->queue->planning, "the valid lengths are absent");
    check_that(c, !__builtin_mul_overflow(rows->batch, rows->padded, &product),
               "batch * padded is out of range");
    return c->status == 0 ? product : 0;
}

static inline void check_apart(checker *c, const char *what, const ser_tensor *a,
                               const ser_tensor *b)
{
    if (c->status != 0 || a->data == NULL || b->data == NULL) {
        return;
    }
    uintptr_t a_start = (uintptr_t)a->data;
    uintptr_t b_start = (uintptr_t)b->data;
    uintptr_t a_end = a_start + (uintptr_t)(a->rows * a->cols) * element_size(a);
    uintptr_t b_end = b_start + (uintptr_t)(b->rows * b->cols) * element_size(b);
    check_that(c, a_end <= b_start || b_end <= a_start, what);
}

/* Whether the op is to run now. While planning it only records its need. */
static inline bool ready(ser_queue *queue, enum ser_op op, const void *args, checker *c)
{
    if (c->status != 0) {
        return false;
    }
    size_t need = queue->ops->scratch(queue, op, args);
    if (queue->planning) {
        queue->planned = need > queue->planned ? need : queue->planned;
        return false;
    }
    if (need > queue->scratch_size) {
        c->status =
            ser_fail(SER_ERR_INTERNAL, "%s: %zu bytes of scratch are needed, %zu were planned",
                     c->op, need, queue->scratch_size);
        return false;
    }
    return true;
}

#endif
