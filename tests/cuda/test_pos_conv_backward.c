/* SPDX-License-Identifier: MIT */
/*
 * Which code runs depends on the type, the width, the kernel, the padded length and on how many
 * blocks there are; the lists below name what they are for.
 */
#include "fixture.h"

typedef struct sizes {
    int32_t groups;
    int64_t width;
    int32_t kernel;
    int64_t padded;
    int32_t valid[3];
} sizes;

/* Shorter kernels over groups of at most 48 channels never have their taps split over blocks, so
 * that no bit of dx depends on the batch. */
enum { BATCH = 3, SPLIT_KERNEL = 32 };

/* What z is: 20 and -20, whose GELU' is 1 and 0, so dz has no rounding of its own in bf16; or
 * anything. */
enum z_values { EXACT_Z, ANY_Z };

static const int32_t types[] = {SER_F32, SER_BF16};

static size_t size_of(int32_t type)
{
    return type == SER_BF16 ? 2 : 4;
}

/* bf16: dx is one rounding to eight bits, at most 2^-8 of it; with a rounded dz as much again, for
 * dw and dbias too, which are f32. */
static double bound_dx(int32_t type, enum z_values z)
{
    return type == SER_F32 ? F32_TOLERANCE : z == EXACT_Z ? 0x1.01p-8 : BF16_TOLERANCE;
}

static double bound_parameter(int32_t type, enum z_values z)
{
    return type == SER_F32 || z == EXACT_Z ? F32_TOLERANCE : BF16_TOLERANCE;
}

/* All that an op needs, with the same numbers for the same seeds. */
typedef struct setup {
    twin x, z, dy, dx, dw, dbias;
    twin_rows rows;
    twin_weight w;
    ser_pos_conv_args cpu, gpu;
} setup;

static twin z_of(int64_t rows, int64_t cols, int32_t type, enum z_values z)
{
    const size_t count = (size_t)(rows * cols);
    float *values = ser_mem_alloc(count, sizeof *values);
    harness_fill(values, count, 2, 4.0F);
    for (size_t i = 0; z == EXACT_Z && i < count; i++) {
        values[i] = values[i] < -2.0F ? -20.0F : 20.0F;
    }
    const twin t = twin_values(rows, cols, type, values);
    ser_mem_free(values);
    return t;
}

/* Fresh gradients, those of the parameters not zero. */
static void set_gradients(setup *u, int32_t type)
{
    const int64_t channels = u->cpu.dy.cols;
    u->dx = twin_output(u->cpu.dy.rows, channels, type);
    u->dw = twin_input(channels, u->cpu.kernel * (channels / u->cpu.groups), SER_F32, 5, 1.0F, 0);
    u->dbias = twin_input(1, channels, SER_F32, 6, 1.0F, 0);
    u->cpu.dx = u->dx.cpu;
    u->cpu.dw = u->dw.cpu;
    u->cpu.dbias = u->dbias.cpu;
    u->gpu.dx = u->dx.gpu;
    u->gpu.dw = u->dw.gpu;
    u->gpu.dbias = u->dbias.gpu;
}

static setup set_up(const sizes *s, int64_t batch, int32_t type, enum z_values z, float scale)
{
    const int64_t channels = s->groups * s->width;
    const int64_t inputs = s->kernel * s->width;
    setup u = {
        .x = twin_input(batch * s->padded, channels, type, 1, 1.0F, 0),
        .z = z_of(batch * s->padded, channels, type, z),
        .dy = twin_input(batch * s->padded, channels, type, 3, scale, 0),
        .rows = twin_rows_of(batch, s->padded, s->valid),
        .w = twin_weight_of(s->width, inputs, s->groups, type, 4, 2.0F / sqrtf((float)inputs))};
    twin_fill_padding(&u.x, &u.rows, NAN);
    twin_fill_padding(&u.z, &u.rows, NAN);
    twin_fill_padding(&u.dy, &u.rows, NAN);
    u.cpu = (ser_pos_conv_args){.x = u.x.cpu,
                                .rows = u.rows.cpu,
                                .kernel = s->kernel,
                                .groups = s->groups,
                                .w = u.w.cpu,
                                .z = u.z.cpu,
                                .dy = u.dy.cpu};
    u.gpu = u.cpu;
    u.gpu.x = u.x.gpu;
    u.gpu.rows = u.rows.gpu;
    u.gpu.w = u.w.gpu;
    u.gpu.z = u.z.gpu;
    u.gpu.dy = u.dy.gpu;
    set_gradients(&u, type);
    return u;
}

static void check_sizes(const sizes *s, int32_t type, enum z_values z, float scale)
{
    setup u = set_up(s, BATCH, type, z, scale);
    RUN_CPU(ser_pos_conv_bwd, &u.cpu);
    RUN_GPU(ser_pos_conv_bwd, &u.gpu);
    twin_check("dx", &u.dx, &u.rows, bound_dx(type, z), true);
    twin_check("dw", &u.dw, NULL, bound_parameter(type, z), false);
    twin_check("dbias", &u.dbias, NULL, bound_parameter(type, z), false);
    twin_check_slack("dx", &u.dx);
    twin_check_slack("dw", &u.dw);
    twin_check_slack("dbias", &u.dbias);
    twins_free();
}

/* Tensor cores in bf16: each of their widths, full and with zeros; for dx as in test_pos_conv.c.
 * For dw: kernels that fill the sets of taps, leave half of one out and begin one; one, two and
 * three chunks of 128 frames; clips much shorter than the kernel. */
static const sizes tensor_sizes[] = {
    {2, 48, 128, 61, {61, 1, 13}}, /* the taps are split */
    {1, 48, 41, 150, {150, 1, 129}}, {1, 40, 4, 100, {99, 64, 100}},
    {1, 64, 25, 130, {129, 64, 2}},  {1, 56, 9, 61, {60, 61, 17}},
    {3, 24, 16, 61, {61, 13, 60}},   {1, 32, 80, 140, {140, 128, 16}},
    {5, 8, 128, 40, {40, 39, 16}},   {2, 16, 5, 300, {300, 260, 100}},
    {4, 16, 31, 130, {130, 1, 61}},  {2, 16, 1, 61, {61, 13, 1}},
    {3, 16, 2, 1, {1, 1, 1}},
};

/* Others, and all in f32. */
static const sizes portable_sizes[] = {
    {2, 20, 7, 61, {61, 13, 1}}, {2, 7, 3, 130, {130, 1, 128}}, {1, 72, 18, 20, {20, 13, 1}},
    {2, 1, 1, 13, {13, 1, 12}},  {1, 33, 37, 70, {70, 65, 64}}, {3, 5, 40, 13, {13, 1, 9}},
    {1, 8, 3000, 9, {9, 1, 5}}, /* the slice would not fit */
};

/* So many frames in so few blocks that every card shares them out. */
static const sizes shared_sizes[] = {
    {1, 8, 3, 520, {520, 385, 1}},
    {1, 5, 3, 260, {260, 200, 1}},
};

START_TEST(test_tensor_sizes)
{
    for (size_t i = 0; i < sizeof tensor_sizes / sizeof *tensor_sizes; i++) {
        check_sizes(&tensor_sizes[i], SER_BF16, EXACT_Z, 1.0F);
    }
}
END_TEST

START_TEST(test_portable_sizes)
{
    for (size_t i = 0; i < sizeof portable_sizes / sizeof *portable_sizes; i++) {
        check_sizes(&portable_sizes[i], SER_F32, ANY_Z, 1.0F);
        check_sizes(&portable_sizes[i], SER_BF16, EXACT_Z, 1.0F);
    }
}
END_TEST

START_TEST(test_shared_chunks)
{
    for (int t = 0; t < 2; t++) {
        for (size_t i = 0; i < sizeof shared_sizes / sizeof *shared_sizes; i++) {
            check_sizes(&shared_sizes[i], types[t], EXACT_Z, 1.0F);
        }
    }
}
END_TEST

START_TEST(test_any_z)
{
    check_sizes(&(sizes){1, 48, 35, 61, {61, 13, 1}}, SER_F32, ANY_Z, 1.0F);
    check_sizes(&(sizes){4, 16, 31, 40, {40, 1, 21}}, SER_F32, ANY_Z, 1.0F);
    check_sizes(&(sizes){4, 16, 31, 40, {40, 1, 21}}, SER_BF16, ANY_Z, 1.0F);
    check_sizes(&(sizes){2, 20, 9, 61, {61, 40, 21}}, SER_BF16, ANY_Z, 1.0F);
}
END_TEST

/* Gradients whose squares are beyond float's range. */
START_TEST(test_extremes)
{
    const sizes s = {2, 24, 16, 61, {61, 13, 60}};
    for (int t = 0; t < 2; t++) {
        check_sizes(&s, types[t], ANY_Z, 1e30F);
        check_sizes(&s, types[t], ANY_Z, 1e-30F);
    }
}
END_TEST

static void check_bytes(const char *name, const ser_tensor *got, const void *expected)
{
    const size_t size = (size_t)(got->rows * got->cols) * size_of(got->type);
    ck_assert_msg(memcmp(gpu_bytes(got), expected, size) == 0, "%s: other bits", name);
}

/* Each alone: the same bits, and nothing else is written. */
static void check_absent(const sizes *s, int32_t type)
{
    const setup all = set_up(s, BATCH, type, ANY_Z, 1.0F);
    RUN_GPU(ser_pos_conv_bwd, &all.gpu);
    for (int wanted = 0; wanted < 3; wanted++) {
        setup one = all;
        set_gradients(&one, type);
        ser_pos_conv_args args = one.gpu;
        args.dx = wanted == 0 ? args.dx : (ser_tensor){0};
        args.dw = wanted == 1 ? args.dw : (ser_tensor){0};
        args.dbias = wanted == 2 ? args.dbias : (ser_tensor){0};
        args.x = wanted == 1 ? args.x : (ser_tensor){0};
        const void *dx = gpu_bytes(&one.gpu.dx);
        const void *dw = gpu_bytes(&one.gpu.dw);
        const void *dbias = gpu_bytes(&one.gpu.dbias);
        RUN_GPU(ser_pos_conv_bwd, &args);
        check_bytes("dx", &one.gpu.dx, wanted == 0 ? gpu_bytes(&all.gpu.dx) : dx);
        check_bytes("dw", &one.gpu.dw, wanted == 1 ? gpu_bytes(&all.gpu.dw) : dw);
        check_bytes("dbias", &one.gpu.dbias, wanted == 2 ? gpu_bytes(&all.gpu.dbias) : dbias);
    }
    twins_free();
}

/* What is absent is missing, the rest has the same bits twice. */
START_TEST(test_absent_and_repeated)
{
    for (int t = 0; t < 2; t++) {
        check_absent(&(sizes){2, 48, 64, 40, {40, 1, 13}}, types[t]);
        check_absent(&(sizes){2, 7, 5, 40, {40, 1, 13}}, types[t]);
        check_absent(&shared_sizes[0], types[t]);
    }
}
END_TEST

/* The second clip's dx: as a batch of its own, without padding. */
static void check_alone(const sizes *s, int32_t type)
{
    const int64_t channels = s->groups * s->width;
    const size_t size = (size_t)(s->valid[1] * channels);
    const setup u = set_up(s, BATCH, type, ANY_Z, 1.0F);
    RUN_GPU(ser_pos_conv_bwd, &u.gpu);
    const twin second = twin_part(u.dx, s->padded, s->valid[1]);
    sizes one = *s;
    one.padded = one.valid[0] = s->valid[1];
    setup alone = set_up(&one, 1, type, ANY_Z, 1.0F);
    alone.gpu.x = twin_part(u.x, s->padded, s->valid[1]).gpu;
    alone.gpu.z = twin_part(u.z, s->padded, s->valid[1]).gpu;
    alone.gpu.dy = twin_part(u.dy, s->padded, s->valid[1]).gpu;
    RUN_GPU(ser_pos_conv_bwd, &alone.gpu);
    if (type == SER_F32 || s->kernel < SPLIT_KERNEL) {
        check_bytes("dx", &alone.gpu.dx, gpu_bytes(&second.gpu));
    }
    memcpy(alone.dx.cpu.data, gpu_values(&second.gpu), size * sizeof(float));
    twin_check("dx", &alone.dx, NULL, bound_dx(type, ANY_Z), false);
    twins_free();
}

START_TEST(test_alone)
{
    for (int t = 0; t < 2; t++) {
        check_alone(&(sizes){4, 16, 31, 150, {3, 61, 150}}, types[t]);
        check_alone(&(sizes){2, 48, 15, 70, {70, 50, 2}}, types[t]);
        check_alone(&(sizes){2, 20, 9, 80, {3, 61, 80}}, types[t]);
        check_alone(&(sizes){1, 48, 128, 64, {64, 30, 1}}, types[t]);
    }
}
END_TEST

/* A recording reads the lengths of its replay, not those of its making. */
START_TEST(test_recorded)
{
    const sizes s = {2, 16, 31, 40, {40, 1, 13}};
    const int32_t valid[] = {2, 40, 39};
    setup u = set_up(&s, BATCH, SER_BF16, EXACT_Z, 1.0F);
    const setup whole =
        set_up(&(sizes){2, 16, 31, 40, {40, 40, 40}}, BATCH, SER_BF16, EXACT_Z, 1.0F);
    ser_graph *graph = NULL;
    u.gpu.x = whole.gpu.x;
    u.gpu.z = whole.gpu.z;
    u.gpu.dy = whole.gpu.dy;
    RUN_GPU(ser_pos_conv_bwd, &u.gpu);
    set_gradients(&u, SER_BF16);
    assert_ok(gpu.ops->capture_begin(gpu.queue));
    assert_ok(ser_pos_conv_bwd(gpu.queue, &u.gpu));
    assert_ok(gpu.ops->capture_end(gpu.queue, false, &graph));
    assert_ok(gpu.ops->upload(gpu.queue, (void *)(uintptr_t)u.rows.gpu.valid, valid, sizeof valid));
    assert_ok(gpu.ops->replay(gpu.queue, graph));
    assert_ok(gpu.ops->sync(gpu.queue));
    u.rows.cpu = twin_rows_of(BATCH, s.padded, valid).cpu;
    u.cpu.x = whole.cpu.x;
    u.cpu.z = whole.cpu.z;
    u.cpu.dy = whole.cpu.dy;
    u.cpu.rows = u.rows.cpu;
    RUN_CPU(ser_pos_conv_bwd, &u.cpu);
    twin_check("dx", &u.dx, &u.rows, bound_dx(SER_BF16, EXACT_Z), true);
    twin_check("dw", &u.dw, NULL, F32_TOLERANCE, false);
    twin_check("dbias", &u.dbias, NULL, F32_TOLERANCE, false);
    gpu.ops->graph_free(gpu.context, graph);
}
END_TEST

/* --- Differences of forward --- */

/* Forward's inputs in f32, and those of backward that do not follow from them. */
typedef struct point {
    sizes s;
    int64_t frames, channels, weights;
    float *x, *w, *bias;
    const float *dy;
    ser_tensor z; /* of the last loss() */
} point;

static float *random_values(int64_t count, uint64_t seed, float scale)
{
    float *values = ser_mem_alloc((size_t)count, sizeof *values);
    harness_fill(values, (size_t)count, seed, scale);
    return values;
}

/* sum of dy * y over the valid rows, y by the GPU's forward. */
static double loss(point *p, twin_weight *w)
{
    const twin x = twin_values(p->frames, p->channels, SER_F32, p->x);
    const twin bias = twin_values(1, p->channels, SER_F32, p->bias);
    const twin y = twin_output(p->frames, p->channels, SER_F32);
    const twin z = twin_output(p->frames, p->channels, SER_F32);
    const void *weights = gpu_copy(p->w, (size_t)p->weights * sizeof(float));
    *w = twin_weight_of(p->s.width, p->s.kernel * p->s.width, p->s.groups, SER_F32, 1, 1.0F);
    assert_ok(gpu.ops->weight_set(gpu.queue, w->gpu, weights));
    const ser_pos_conv_args args = {.x = x.gpu,
                                    .rows = twin_rows_of(BATCH, p->s.padded, p->s.valid).gpu,
                                    .kernel = p->s.kernel,
                                    .groups = p->s.groups,
                                    .w = w->gpu,
                                    .bias = bias.gpu,
                                    .y = y.gpu,
                                    .z = z.gpu};
    RUN_GPU(ser_pos_conv_fwd, &args);
    const float *got = gpu_values(&y.gpu);
    double total = 0.0;
    for (int64_t i = 0; i < p->frames * p->channels; i++) {
        const int64_t row = i / p->channels;
        if (row % p->s.padded < p->s.valid[row / p->s.padded]) {
            total += (double)got[i] * (double)p->dy[i];
        }
    }
    p->z = z.gpu;
    return total;
}

/* Central differences along random directions of `count` values against the gradient's product with
 * the direction; a step of 2^-7 costs up to 1e-4 by curvature and 1e-5 by roundings of y. */
static void check_directions(const char *name, point *p, float *values, int64_t count,
                             const float *gradient)
{
    const float step = 0x1p-7F;
    float *before = random_values(count, 0, 0.0F);
    memcpy(before, values, (size_t)count * sizeof *before);
    for (uint64_t seed = 20; seed < 24; seed++) {
        float *direction = random_values(count, seed, 1.0F);
        twin_weight w;
        double ends[2];
        double expected = 0.0;
        double size = 0.0;
        for (int end = 0; end < 2; end++) {
            for (int64_t i = 0; i < count; i++) {
                values[i] = before[i] + (end == 0 ? step : -step) * direction[i];
            }
            ends[end] = loss(p, &w);
        }
        for (int64_t i = 0; i < count; i++) {
            const double term = (double)gradient[i] * (double)direction[i];
            expected += term;
            size += term * term;
        }
        const double difference = (ends[0] - ends[1]) / (2.0 * (double)step);
        ck_assert_msg(fabs(difference - expected) <= 3e-3 * sqrt(size),
                      "%s: difference %.9g, gradient %.9g of %.3g", name, difference, expected,
                      sqrt(size));
        ser_mem_free(direction);
    }
    memcpy(values, before, (size_t)count * sizeof *before);
    ser_mem_free(before);
}

static void check_differences(const sizes *s)
{
    const int64_t channels = s->groups * s->width;
    const int64_t frames = BATCH * s->padded;
    const int64_t weights = channels * s->kernel * s->width;
    const float spread = 2.0F / sqrtf((float)(s->kernel * s->width));
    float *dy = random_values(frames * channels, 9, 1.0F);
    point p = {.s = *s,
               .frames = frames,
               .channels = channels,
               .weights = weights,
               .x = random_values(frames * channels, 7, 1.0F),
               .w = random_values(weights, 8, spread),
               .bias = random_values(channels, 10, 1.0F),
               .dy = dy};
    float *zeros = random_values(weights + channels, 0, 0.0F);
    const twin dx = twin_output(frames, channels, SER_F32);
    const twin dw = twin_values(channels, s->kernel * s->width, SER_F32, zeros);
    const twin dbias = twin_values(1, channels, SER_F32, zeros);
    twin_weight w;
    loss(&p, &w);
    const ser_pos_conv_args args = {.x = twin_values(frames, channels, SER_F32, p.x).gpu,
                                    .rows = twin_rows_of(BATCH, s->padded, s->valid).gpu,
                                    .kernel = s->kernel,
                                    .groups = s->groups,
                                    .w = w.gpu,
                                    .z = p.z,
                                    .dy = twin_values(frames, channels, SER_F32, dy).gpu,
                                    .dx = dx.gpu,
                                    .dw = dw.gpu,
                                    .dbias = dbias.gpu};
    RUN_GPU(ser_pos_conv_bwd, &args);
    check_directions("dx", &p, p.x, frames * channels, gpu_values(&dx.gpu));
    check_directions("dw", &p, p.w, weights, gpu_values(&dw.gpu));
    check_directions("dbias", &p, p.bias, channels, gpu_values(&dbias.gpu));
    ser_mem_free(p.x);
    ser_mem_free(p.w);
    ser_mem_free(p.bias);
    ser_mem_free(dy);
    ser_mem_free(zeros);
    twins_free();
}

START_TEST(test_differences)
{
    check_differences(&(sizes){2, 5, 4, 11, {11, 1, 7}});
    check_differences(&(sizes){1, 7, 5, 11, {10, 3, 11}});
    check_differences(&(sizes){3, 4, 16, 9, {9, 1, 7}});
    check_differences(&(sizes){1, 17, 1, 5, {5, 1, 4}});
}
END_TEST

CUDA_SUITE("cuda_pos_conv_backward", test_tensor_sizes, test_portable_sizes, test_shared_chunks,
           test_any_z, test_extremes, test_absent_and_repeated, test_alone, test_recorded,
           test_differences)
