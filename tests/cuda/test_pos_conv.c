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

/* Shorter kernels over groups of at most 48 channels are never split over blocks, so that no bit
 * depends on the batch. */
enum { BATCH = 3, SPLIT_KERNEL = 32 };

static const int32_t types[] = {SER_F32, SER_BF16};

/* bf16: sums are f32 over products that are exact, so what differs is one rounding of the result to
 * eight bits: at most 2^-8 of it. */
static double bound(int32_t type)
{
    return type == SER_BF16 ? 0x1.01p-8 : F32_TOLERANCE;
}

static size_t size_of(int32_t type)
{
    return type == SER_BF16 ? 2 : 4;
}

/* All that an op needs, with the same weights, bias and input for the same seed. */
typedef struct setup {
    twin x, bias, y, z;
    twin_rows rows;
    twin_weight w;
    ser_pos_conv_args cpu, gpu;
} setup;

static setup set_up(const sizes *s, int64_t batch, int32_t type, float scale)
{
    const int64_t channels = s->groups * s->width;
    const int64_t inputs = s->kernel * s->width;
    setup u = {
        .x = twin_input(batch * s->padded, channels, type, 1, scale, 0),
        .bias = twin_input(1, channels, SER_F32, 2, scale, 0),
        .y = twin_output(batch * s->padded, channels, type),
        .z = twin_output(batch * s->padded, channels, type),
        .rows = twin_rows_of(batch, s->padded, s->valid),
        .w = twin_weight_of(s->width, inputs, s->groups, type, 3, 2.0F / sqrtf((float)inputs))};
    twin_fill_padding(&u.x, &u.rows, NAN);
    u.cpu = (ser_pos_conv_args){.x = u.x.cpu,
                                .rows = u.rows.cpu,
                                .kernel = s->kernel,
                                .groups = s->groups,
                                .w = u.w.cpu,
                                .bias = u.bias.cpu,
                                .y = u.y.cpu,
                                .z = u.z.cpu};
    u.gpu = u.cpu;
    u.gpu.x = u.x.gpu;
    u.gpu.rows = u.rows.gpu;
    u.gpu.w = u.w.gpu;
    u.gpu.bias = u.bias.gpu;
    u.gpu.y = u.y.gpu;
    u.gpu.z = u.z.gpu;
    return u;
}

static void check_sizes(const sizes *s, int32_t type, float scale)
{
    setup u = set_up(s, BATCH, type, scale);
    RUN_CPU(ser_pos_conv_fwd, &u.cpu);
    RUN_GPU(ser_pos_conv_fwd, &u.gpu);
    twin_check("y", &u.y, &u.rows, bound(type), true);
    twin_check("z", &u.z, &u.rows, bound(type), true);
    twin_check_slack("y", &u.y);
    twin_check_slack("z", &u.z);
    const twin alone = twin_output(u.y.gpu.rows, u.y.gpu.cols, type);
    u.gpu.y = alone.gpu;
    u.gpu.z = (ser_tensor){0}; /* not saved: the same y */
    RUN_GPU(ser_pos_conv_fwd, &u.gpu);
    ck_assert_mem_eq(gpu_bytes(&alone.gpu), gpu_bytes(&u.y.gpu),
                     (size_t)(alone.gpu.rows * alone.gpu.cols) * size_of(type));
    twins_free();
}

/* Tensor cores in bf16: each of their widths, full and with zeros, with each of the three sizes of
 * tiles; short and long kernels; clips much shorter than the kernel. */
static const sizes tensor_sizes[] = {
    {2, 48, 128, 61, {61, 1, 13}}, /* the taps are split */
    {1, 48, 64, 130, {130, 1, 61}},   {1, 40, 4, 100, {99, 64, 100}},
    {1, 64, 128, 13, {13, 5, 1}},     {1, 64, 9, 61, {60, 61, 17}},
    {1, 56, 40, 70, {64, 70, 65}},    {1, 64, 35, 130, {129, 64, 2}},
    {3, 24, 16, 61, {61, 13, 60}},    {2, 32, 64, 100, {97, 100, 33}},
    {1, 32, 80, 140, {140, 128, 16}}, {5, 8, 128, 64, {64, 63, 16}},
    {2, 16, 5, 300, {300, 260, 100}}, /* three tiles, one without a frame */
    {4, 16, 31, 130, {130, 1, 61}},   {2, 16, 1, 61, {61, 13, 1}},
    {3, 16, 2, 1, {1, 1, 1}},
};

/* Others, and all in f32. */
static const sizes portable_sizes[] = {
    {2, 20, 7, 61, {61, 13, 1}}, {2, 7, 3, 130, {130, 1, 128}},    {1, 72, 18, 20, {20, 13, 1}},
    {2, 1, 1, 13, {13, 1, 12}},  {1, 33, 5, 140, {140, 128, 129}}, {3, 5, 40, 13, {13, 1, 9}},
    {1, 8, 5000, 9, {9, 1, 5}}, /* the slice would not fit */
};

START_TEST(test_tensor_sizes)
{
    for (size_t i = 0; i < sizeof tensor_sizes / sizeof *tensor_sizes; i++) {
        check_sizes(&tensor_sizes[i], SER_BF16, 1.0F);
    }
}
END_TEST

START_TEST(test_portable_sizes)
{
    for (size_t i = 0; i < sizeof portable_sizes / sizeof *portable_sizes; i++) {
        check_sizes(&portable_sizes[i], SER_F32, 1.0F);
        check_sizes(&portable_sizes[i], SER_BF16, 1.0F);
    }
}
END_TEST

START_TEST(test_f32)
{
    check_sizes(&tensor_sizes[0], SER_F32, 1.0F);
    check_sizes(&(sizes){4, 16, 31, 130, {130, 1, 61}}, SER_F32, 1.0F);
    check_sizes(&(sizes){1, 64, 16, 13, {13, 5, 1}}, SER_F32, 1.0F);
}
END_TEST

/* Enough blocks that no card gains from splitting the taps. */
START_TEST(test_many_groups)
{
    check_sizes(&(sizes){64, 16, 128, 16, {16, 1, 9}}, SER_BF16, 1.0F);
}
END_TEST

/* GELU's two ends, and values whose squares are beyond float's range. */
START_TEST(test_extremes)
{
    for (int t = 0; t < 2; t++) {
        check_sizes(&tensor_sizes[7], types[t], 40.0F);
        check_sizes(&tensor_sizes[7], types[t], 1e30F);
        check_sizes(&tensor_sizes[7], types[t], 1e-30F);
    }
}
END_TEST

/* What other clips hold changes no bit of the second one. */
static void check_neighbours(const sizes *s, int32_t type)
{
    const int64_t channels = s->groups * s->width;
    const int64_t count = BATCH * s->padded * channels;
    const setup u = set_up(s, BATCH, type, 1.0F);
    RUN_GPU(ser_pos_conv_fwd, &u.gpu);
    const twin second = twin_part(u.y, s->padded, s->valid[1]);
    const void *before = gpu_bytes(&second.gpu);
    const float *values = u.x.cpu.data;
    float *changed = ser_mem_alloc((size_t)count, sizeof *changed);
    for (int64_t i = 0; i < count; i++) {
        changed[i] = i / channels / s->padded == 1 ? values[i] : INFINITY;
    }
    setup other = u;
    other.gpu.x = twin_values(BATCH * s->padded, channels, type, changed).gpu;
    ser_mem_free(changed);
    RUN_GPU(ser_pos_conv_fwd, &other.gpu);
    ck_assert_mem_eq(gpu_bytes(&second.gpu), before,
                     (size_t)(s->valid[1] * channels) * size_of(type));
    twins_free();
}

/* The second clip as a batch of its own, without padding. */
static void check_alone(const sizes *s, int32_t type)
{
    const int64_t channels = s->groups * s->width;
    const setup u = set_up(s, BATCH, type, 1.0F);
    RUN_GPU(ser_pos_conv_fwd, &u.gpu);
    const twin second = twin_part(u.y, s->padded, s->valid[1]);
    sizes one = *s;
    one.padded = one.valid[0] = s->valid[1];
    setup alone = set_up(&one, 1, type, 1.0F);
    alone.gpu.x = twin_part(u.x, s->padded, s->valid[1]).gpu;
    RUN_GPU(ser_pos_conv_fwd, &alone.gpu);
    if (type == SER_F32 || s->kernel < SPLIT_KERNEL) {
        ck_assert_mem_eq(gpu_bytes(&alone.y.gpu), gpu_bytes(&second.gpu),
                         (size_t)(s->valid[1] * channels) * size_of(type));
    }
    memcpy(alone.y.cpu.data, gpu_values(&second.gpu),
           (size_t)(s->valid[1] * channels) * sizeof(float));
    twin_check("y", &alone.y, NULL, bound(type), false);
    twins_free();
}

static const sizes some_sizes[] = {
    {4, 16, 31, 150, {3, 61, 150}},
    {2, 48, 15, 70, {70, 50, 2}},
    {2, 20, 9, 150, {3, 61, 150}},
    {2, 48, 128, 64, {64, 30, 1}},
};

START_TEST(test_neighbours)
{
    for (int t = 0; t < 2; t++) {
        for (size_t i = 0; i < sizeof some_sizes / sizeof *some_sizes; i++) {
            check_neighbours(&some_sizes[i], types[t]);
        }
    }
}
END_TEST

START_TEST(test_alone)
{
    for (int t = 0; t < 2; t++) {
        for (size_t i = 0; i < sizeof some_sizes / sizeof *some_sizes; i++) {
            check_alone(&some_sizes[i], types[t]);
        }
    }
}
END_TEST

START_TEST(test_bits_repeat)
{
    for (int t = 0; t < 2; t++) {
        const setup u = set_up(&tensor_sizes[0], BATCH, types[t], 1.0F);
        RUN_GPU(ser_pos_conv_fwd, &u.gpu);
        const void *first = gpu_bytes(&u.y.gpu);
        RUN_GPU(ser_pos_conv_fwd, &u.gpu);
        ck_assert_mem_eq(gpu_bytes(&u.y.gpu), first,
                         (size_t)(u.y.gpu.rows * u.y.gpu.cols) * size_of(types[t]));
    }
}
END_TEST

/* A recording reads the lengths of its replay, not those of its making. */
START_TEST(test_recorded)
{
    const sizes s = {2, 48, 128, 40, {40, 1, 13}};
    setup u = set_up(&s, BATCH, SER_BF16, 1.0F);
    const int32_t valid[] = {2, 40, 39};
    ser_graph *graph = NULL;
    RUN_GPU(ser_pos_conv_fwd, &u.gpu);
    assert_ok(gpu.ops->capture_begin(gpu.queue));
    assert_ok(ser_pos_conv_fwd(gpu.queue, &u.gpu));
    assert_ok(gpu.ops->capture_end(gpu.queue, false, &graph));
    const twin x = twin_input(BATCH * s.padded, 96, SER_BF16, 7, 1.0F, 0);
    const void *bytes = gpu_bytes(&x.gpu);
    assert_ok(gpu.ops->upload(gpu.queue, u.x.gpu.data, bytes, (size_t)(BATCH * s.padded * 96 * 2)));
    assert_ok(gpu.ops->upload(gpu.queue, (void *)(uintptr_t)u.rows.gpu.valid, valid, sizeof valid));
    assert_ok(gpu.ops->replay(gpu.queue, graph));
    assert_ok(gpu.ops->sync(gpu.queue));
    u.rows.cpu = twin_rows_of(BATCH, s.padded, valid).cpu;
    u.cpu.x = x.cpu;
    u.cpu.rows = u.rows.cpu;
    RUN_CPU(ser_pos_conv_fwd, &u.cpu);
    twin_check("y", &u.y, &u.rows, bound(SER_BF16), true);
    gpu.ops->graph_free(gpu.context, graph);
}
END_TEST

CUDA_SUITE("cuda_pos_conv", test_tensor_sizes, test_portable_sizes, test_f32, test_many_groups,
           test_extremes, test_neighbours, test_alone, test_bits_repeat, test_recorded)
