/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include "ops/cuda/cuda.h"

static const int32_t types[] = {SER_F32, SER_BF16};

typedef struct geometry {
    int32_t kernel, stride, padding;
    int64_t in, out, frames, batch; /* channels, padded output frames, clips */
} geometry;

typedef struct variant {
    int32_t type, norm;
    bool bias, saved;
} variant;

typedef struct twin_args {
    twin x, y, z;
    twin_rows rows_in, rows_out;
    ser_conv_args cpu, gpu;
} twin_args;

enum { MOST_CLIPS = 3 };

/* A long clip, a short one, one in between: what fits and gives a frame. */
static void set_rows(const geometry *g, twin_args *t)
{
    const int32_t padded = (int32_t)g->frames * g->stride;
    const int32_t most = padded - g->padding;
    const int32_t lengths[MOST_CLIPS] = {most, g->kernel + 1, padded / 2 + g->kernel};
    int32_t in[MOST_CLIPS];
    int32_t out[MOST_CLIPS];
    for (int64_t b = 0; b < g->batch; b++) {
        in[b] = lengths[b] < most ? lengths[b] : most;
        const int32_t room = in[b] + 2 * g->padding - g->kernel;
        out[b] = room >= 0 ? room / g->stride + 1 : 0;
    }
    t->rows_in = twin_rows_of(g->batch, padded, in);
    t->rows_out = twin_rows_of(g->batch, g->frames, out);
}

static void set_vectors(const geometry *g, const variant *v, twin_args *t)
{
    if (v->bias) {
        const twin bias = twin_input(1, g->out, SER_F32, 3, 0.5F, 0);
        t->cpu.bias = bias.cpu;
        t->gpu.bias = bias.gpu;
    }
    if (v->norm == SER_CONV_NORM_LAYER) {
        const twin gamma = twin_input(1, g->out, SER_F32, 4, 1.0F, 0);
        const twin beta = twin_input(1, g->out, SER_F32, 5, 1.0F, 0);
        t->cpu.gamma = gamma.cpu;
        t->gpu.gamma = gamma.gpu;
        t->cpu.beta = beta.cpu;
        t->gpu.beta = beta.gpu;
    }
    if (v->saved) {
        t->z = twin_output(t->y.cpu.rows, g->out, v->type);
        t->cpu.z = t->z.cpu;
        t->gpu.z = t->z.gpu;
    }
}

/* Without padding not even the invalid rows of x matter. */
static twin_args args_of(const geometry *g, const variant *v)
{
    const int64_t padded = g->frames * g->stride;
    const float scale = 2.0F / sqrtf((float)(g->kernel * g->in)); /* sums of order 1 */
    const twin_weight w = twin_weight_of(g->out, g->kernel * g->in, 1, v->type, 2, scale);
    twin_args t = {.x = twin_input(g->batch * padded, g->in, v->type, 1, 1.0F, g->padding),
                   .y = twin_output(g->batch * g->frames, g->out, v->type)};
    set_rows(g, &t);
    twin_fill_padding(&t.x, &t.rows_in, g->padding > 0 ? 0.0F : NAN);
    t.cpu = (ser_conv_args){.x = t.x.cpu,
                            .rows_in = t.rows_in.cpu,
                            .rows_out = t.rows_out.cpu,
                            .kernel = g->kernel,
                            .stride = g->stride,
                            .padding = g->padding,
                            .norm = v->norm,
                            .w = w.cpu,
                            .y = t.y.cpu};
    t.gpu = t.cpu;
    t.gpu.x = t.x.gpu;
    t.gpu.rows_in = t.rows_in.gpu;
    t.gpu.rows_out = t.rows_out.gpu;
    t.gpu.w = w.gpu;
    t.gpu.y = t.y.gpu;
    set_vectors(g, v, &t);
    return t;
}

static void check_variant(const geometry *g, const variant *v)
{
    const twin_args t = args_of(g, v);
    RUN_CPU(ser_conv_fwd, &t.cpu);
    RUN_GPU(ser_conv_fwd, &t.gpu);
    twin_check("y", &t.y, &t.rows_out, tolerance_of(v->type), true);
    twin_check_slack("y", &t.y);
    if (v->saved) {
        twin_check("z", &t.z, &t.rows_out, tolerance_of(v->type), true);
        twin_check_slack("z", &t.z);
    }
    twins_free();
}

static void check_geometry(geometry g)
{
    for (int i = 0; i < 16; i++) {
        const variant v = {.type = types[i & 1],
                           .norm = (i & 2) != 0 ? SER_CONV_NORM_LAYER : SER_CONV_NORM_NONE,
                           .bias = (i & 4) != 0,
                           .saved = (i & 8) != 0};
        check_variant(&g, &v);
    }
}

START_TEST(test_wav2vec2_kernels)
{
    check_geometry((geometry){3, 2, 0, 16, 16, 7, 3}); /* 21 rows in two phases: one is left */
    check_geometry((geometry){3, 2, 0, 8, 33, 6, 2});
    check_geometry((geometry){2, 2, 0, 20, 8, 5, 3});
    check_geometry((geometry){10, 5, 0, 1, 16, 7, 3});
    check_geometry((geometry){10, 5, 0, 33, 20, 4, 1});
}
END_TEST

START_TEST(test_padded_kernels)
{
    check_geometry((geometry){3, 2, 1, 33, 20, 7, 3});
    check_geometry((geometry){3, 1, 1, 8, 1, 7, 2}); /* 14 rows in three phases: two are left */
    check_geometry((geometry){5, 3, 2, 20, 16, 5, 3});
    check_geometry((geometry){5, 1, 2, 3, 8, 4, 1}); /* fewer rows than phases */
}
END_TEST

/* With numbers behind x, what is made of them would show behind y. */
START_TEST(test_nothing_is_written_behind)
{
    for (int i = 0; i < 4; i++) {
        const geometry g = {3, 1 + i / 2, 1, 4, 8, 7, 1}; /* one row is left over */
        const variant v = {types[i & 1], SER_CONV_NORM_NONE, false, true};
        twin_args t = args_of(&g, &v);
        const int64_t rows = t.x.cpu.rows;
        const twin x = twin_part(twin_input(rows + 9, 4, v.type, 1, 1.0F, 1), 0, rows);
        t.gpu.x = x.gpu;
        RUN_GPU(ser_conv_fwd, &t.gpu);
        twin_check_slack("y", &t.y);
        twin_check_slack("z", &t.z);
        twins_free();
    }
}
END_TEST

START_TEST(test_kernels_without_overlap)
{
    check_geometry((geometry){1, 1, 0, 1, 1, 9, 3});
    check_geometry((geometry){1, 1, 0, 16, 33, 9, 1});
    check_geometry((geometry){2, 3, 0, 5, 8, 6, 3});
}
END_TEST

/* Should the product library not take entries whose rows interleave, they go one by one. */
START_TEST(test_entries_apart)
{
    setenv("SER_EMULATION_REFUSE_INTERLEAVED", "1", 1);
    check_geometry((geometry){3, 2, 0, 8, 16, 7, 3});
    check_geometry((geometry){3, 1, 1, 8, 1, 7, 2});
    check_geometry((geometry){2, 2, 0, 8, 8, 7, 2});
    unsetenv("SER_EMULATION_REFUSE_INTERLEAVED");
}
END_TEST

/* Where cuDNN can do the work it does; what it cannot is done as ever. */
START_TEST(test_fused)
{
    setenv("SER_CUDNN", "1", 1);
    check_geometry((geometry){3, 2, 0, 16, 16, 7, 3});
    check_geometry((geometry){3, 2, 1, 8, 24, 7, 3});
    check_geometry((geometry){2, 2, 0, 24, 8, 5, 3});
    check_geometry((geometry){5, 1, 2, 8, 8, 4, 1});
    check_geometry((geometry){1, 1, 0, 16, 40, 9, 3});
    check_geometry((geometry){3, 2, 0, 12, 16, 7, 3});
    check_geometry((geometry){3, 2, 0, 16, 12, 7, 3});
    unsetenv("SER_CUDNN");
}
END_TEST

/* Whether it makes a difference to y that cuDNN may be used: sums are rounded to bf16 before the
 * GELU if that is a pass of its own. */
static bool is_fused(const geometry *g, const variant *v)
{
    const twin_args t = args_of(g, v);
    const size_t bytes = (size_t)(t.y.gpu.rows * g->out) * (v->type == SER_BF16 ? 2 : 4);
    setenv("SER_CUDNN", "1", 1);
    RUN_GPU(ser_conv_fwd, &t.gpu);
    const void *first = gpu_bytes(&t.gpu.y);
    unsetenv("SER_CUDNN");
    RUN_GPU(ser_conv_fwd, &t.gpu);
    const bool differs = memcmp(gpu_bytes(&t.gpu.y), first, bytes) != 0;
    twins_free();
    return differs;
}

START_TEST(test_what_is_fused)
{
    const geometry good = {3, 2, 1, 16, 40, 7, 3};
    const geometry odd = {3, 2, 1, 16, 44, 7, 3};
    if (gpu.ops != &ser_cuda_ops) {
        return; /* the module's cuDNN may be missing, or unable */
    }
    ck_assert(is_fused(&good, &(variant){SER_BF16, SER_CONV_NORM_NONE, false, false}));
    ck_assert(!is_fused(&odd, &(variant){SER_BF16, SER_CONV_NORM_NONE, false, false}));
    ck_assert(!is_fused(&good, &(variant){SER_F32, SER_CONV_NORM_NONE, false, false}));
    ck_assert(!is_fused(&good, &(variant){SER_BF16, SER_CONV_NORM_LAYER, false, false}));
    ck_assert(!is_fused(&good, &(variant){SER_BF16, SER_CONV_NORM_NONE, true, false}));
    ck_assert(!is_fused(&good, &(variant){SER_BF16, SER_CONV_NORM_NONE, false, true}));
}
END_TEST

/* From one pack per lane to rows that no warp has room for, even and odd. */
START_TEST(test_many_channels)
{
    const int64_t channels[] = {256, 264, 515, 776, 1024, 1025, 2056};
    for (size_t i = 0; i < sizeof channels / sizeof *channels; i++) {
        const geometry g = {2, 2, 0, 4, channels[i], 3, 3};
        for (int j = 0; j < 4; j++) {
            const variant v = {types[j & 1], SER_CONV_NORM_LAYER, true, (j & 2) != 0};
            check_variant(&g, &v);
        }
        check_variant(&g, &(variant){types[i & 1], SER_CONV_NORM_NONE, true, false});
    }
}
END_TEST

START_TEST(test_clip_without_frames)
{
    const geometry g = {3, 2, 0, 8, 16, 4, 2};
    const int32_t in[] = {2, 8};
    const int32_t out[] = {0, 3};
    for (int i = 0; i < 4; i++) {
        const variant v = {types[i & 1], i / 2 == 0 ? SER_CONV_NORM_NONE : SER_CONV_NORM_LAYER,
                           true, true};
        twin_args t = args_of(&g, &v);
        t.rows_in = twin_rows_of(2, 8, in);
        t.rows_out = twin_rows_of(2, 4, out);
        twin_fill_padding(&t.x, &t.rows_in, NAN);
        t.cpu.rows_in = t.rows_in.cpu;
        t.cpu.rows_out = t.rows_out.cpu;
        t.gpu.rows_in = t.rows_in.gpu;
        t.gpu.rows_out = t.rows_out.gpu;
        RUN_CPU(ser_conv_fwd, &t.cpu);
        RUN_GPU(ser_conv_fwd, &t.gpu);
        twin_check("y", &t.y, &t.rows_out, tolerance_of(v.type), true);
        twin_check("z", &t.z, &t.rows_out, tolerance_of(v.type), true);
        twins_free();
    }
}
END_TEST

/* y does not depend on whether z is saved. */
START_TEST(test_same_bits_twice)
{
    const geometry g = {3, 2, 1, 16, 40, 7, 3};
    for (int i = 0; i < 4; i++) {
        const variant v = {types[i & 1], i / 2 == 0 ? SER_CONV_NORM_NONE : SER_CONV_NORM_LAYER,
                           true, true};
        twin_args t = args_of(&g, &v);
        const size_t bytes = (size_t)(t.y.gpu.rows * g.out) * (v.type == SER_BF16 ? 2 : 4);
        RUN_GPU(ser_conv_fwd, &t.gpu);
        const void *first = gpu_bytes(&t.gpu.y);
        RUN_GPU(ser_conv_fwd, &t.gpu);
        ck_assert_mem_eq(gpu_bytes(&t.gpu.y), first, bytes);
        t.gpu.z = (ser_tensor){0};
        RUN_GPU(ser_conv_fwd, &t.gpu);
        ck_assert_mem_eq(gpu_bytes(&t.gpu.y), first, bytes);
        twins_free();
    }
}
END_TEST

/* Large values with a small deviation: the variance is not a difference of large numbers. */
START_TEST(test_norm_of_nearly_equal_values)
{
    const geometry g = {1, 1, 0, 2, 96, 4, 1};
    const variant v = {SER_F32, SER_CONV_NORM_LAYER, true, false};
    twin_args t = args_of(&g, &v);
    float bias[96];
    for (int i = 0; i < 96; i++) {
        bias[i] = 512.0F + (float)(i % 7) / 64.0F;
    }
    const twin large = twin_values(1, 96, SER_F32, bias);
    const float nothing[8] = {0};
    const twin x = twin_values(4, 2, SER_F32, nothing);
    t.cpu.bias = large.cpu;
    t.gpu.bias = large.gpu;
    t.cpu.x = x.cpu;
    t.gpu.x = x.gpu;
    RUN_CPU(ser_conv_fwd, &t.cpu);
    RUN_GPU(ser_conv_fwd, &t.gpu);
    /* A sum of 49,152 is rounded to 2^-9, its mean to 4e-5: 2e-3 of the deviation, 1 / 32. */
    twin_check("y", &t.y, &t.rows_out, 5e-3, true);
}
END_TEST

START_TEST(test_zero_padding)
{
    const int32_t valid[] = {9, 0, 4, 8};
    const int64_t widths[] = {1, 7, 8, 20, 512};
    if (gpu.ops != &ser_cuda_ops) {
        return; /* inside the module it is not to be called */
    }
    for (int i = 0; i < 10; i++) {
        const int64_t width = widths[i / 2];
        const twin_rows rows = twin_rows_of(4, 9, valid);
        const twin y = twin_input(36, width, types[i & 1], 1, 1.0F, 0);
        assert_ok(ser_cuda_zero_padding(gpu.queue, &y.gpu, &rows.gpu));
        assert_ok(gpu.ops->sync(gpu.queue));
        twin_check("y", &y, &rows, 0.0, true);
        twin_check_slack("y", &y);
        twins_free();
    }
}
END_TEST

CUDA_SUITE("conv", test_wav2vec2_kernels, test_padded_kernels, test_nothing_is_written_behind,
           test_kernels_without_overlap, test_entries_apart, test_fused, test_what_is_fused,
           test_many_channels, test_clip_without_frames, test_same_bits_twice,
           test_norm_of_nearly_equal_values, test_zero_padding)
