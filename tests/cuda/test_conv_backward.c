/* SPDX-License-Identifier: MIT */
#include "fixture.h"

static const int32_t types[] = {SER_F32, SER_BF16};

enum { MOST_CLIPS = 3 };

typedef struct geometry {
    int32_t kernel, stride, padding;
    int64_t in, out, frames, batch; /* channels, padded output frames, clips */
} geometry;

typedef struct variant {
    int32_t type, norm;
} variant;

typedef struct twin_args {
    twin x, z, dy, gamma, beta, dx, dw, dbias, dgamma, dbeta;
    twin_rows rows_in, rows_out;
    ser_conv_args cpu, gpu;
} twin_args;

/* A long clip, a short one, one in between: what fits and gives a frame. */
static void set_rows(const geometry *g, twin_args *t)
{
    const int32_t padded = (int32_t)g->frames * g->stride;
    const int32_t most = padded - g->padding;
    const int32_t lengths[MOST_CLIPS] = {most, g->kernel, padded / 2 + g->kernel};
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

/* NaN in the invalid rows. The CPU needs x's zeros there, where the convolution has padding; the
 * GPU must make them itself. */
static void fill_padding(const geometry *g, twin_args *t)
{
    const ser_rows *rows = &t->rows_in.cpu;
    twin_fill_padding(&t->x, &t->rows_in, NAN);
    twin_fill_padding(&t->z, &t->rows_out, NAN);
    twin_fill_padding(&t->dy, &t->rows_out, NAN);
    for (int64_t b = 0; b < g->batch && g->padding > 0; b++) {
        const int64_t first = b * rows->padded + rows->valid[b];
        float *x = (float *)t->x.cpu.data + first * g->in;
        memset(x, 0, (size_t)((rows->padded - rows->valid[b]) * g->in) * sizeof *x);
    }
}

static ser_conv_args side_of(const geometry *g, const variant *v, const twin_args *t, bool on_gpu)
{
    const bool normed = v->norm == SER_CONV_NORM_LAYER;
#define OF(twin) (on_gpu ? (twin).gpu : (twin).cpu)
    ser_conv_args args = {.x = OF(t->x),
                          .rows_in = OF(t->rows_in),
                          .rows_out = OF(t->rows_out),
                          .kernel = g->kernel,
                          .stride = g->stride,
                          .padding = g->padding,
                          .norm = v->norm,
                          .z = OF(t->z),
                          .dy = OF(t->dy),
                          .dx = OF(t->dx),
                          .dw = OF(t->dw),
                          .dbias = OF(t->dbias)};
    if (normed) {
        args.gamma = OF(t->gamma);
        args.beta = OF(t->beta);
        args.dgamma = OF(t->dgamma);
        args.dbeta = OF(t->dbeta);
    }
#undef OF
    return args;
}

/* z is any numbers: backward takes it as it comes. What is added to holds numbers already. */
static twin_args args_of(const geometry *g, const variant *v)
{
    const int64_t rows_in = g->batch * g->frames * g->stride;
    const int64_t rows_out = g->batch * g->frames;
    const float scale = 2.0F / sqrtf((float)(g->kernel * g->out));
    const twin_weight w = twin_weight_of(g->out, g->kernel * g->in, 1, v->type, 2, scale);
    twin_args t = {.x = twin_input(rows_in, g->in, v->type, 1, 1.0F, g->padding),
                   .z = twin_input(rows_out, g->out, v->type, 3, 2.0F, 0),
                   .dy = twin_input(rows_out, g->out, v->type, 4, 1.0F, 0),
                   .gamma = twin_input(1, g->out, SER_F32, 5, 1.0F, 0),
                   .beta = twin_input(1, g->out, SER_F32, 6, 1.0F, 0),
                   .dx = twin_output(rows_in, g->in, v->type),
                   .dw = twin_input(g->out, g->kernel * g->in, SER_F32, 7, 1.0F, 0),
                   .dbias = twin_input(1, g->out, SER_F32, 8, 1.0F, 0),
                   .dgamma = twin_input(1, g->out, SER_F32, 9, 1.0F, 0),
                   .dbeta = twin_input(1, g->out, SER_F32, 10, 1.0F, 0)};
    set_rows(g, &t);
    fill_padding(g, &t);
    t.cpu = side_of(g, v, &t, false);
    t.gpu = side_of(g, v, &t, true);
    t.cpu.w = w.cpu;
    t.gpu.w = w.gpu;
    return t;
}

/* dgamma and dbeta are f32 throughout; dbias and dw add up a dz that is rounded to the type. */
static void check_gradients(const twin_args *t, int32_t type)
{
    const double tolerance = tolerance_of(type);
    RUN_CPU(ser_conv_bwd, &t->cpu);
    RUN_GPU(ser_conv_bwd, &t->gpu);
    twin_check("dx", &t->dx, &t->rows_in, tolerance, true);
    twin_check("dw", &t->dw, NULL, tolerance, false);
    twin_check("dbias", &t->dbias, NULL, tolerance, false);
    twin_check("dgamma", &t->dgamma, NULL, F32_TOLERANCE, false);
    twin_check("dbeta", &t->dbeta, NULL, F32_TOLERANCE, false);
    twin_check("x", &t->x, &t->rows_in, 0.0, false); /* only padding may be overwritten */
    twin_check("z", &t->z, &t->rows_out, 0.0, false);
    twin_check("dy", &t->dy, &t->rows_out, 0.0, false);
    twin_check_slack("dx", &t->dx);
    twin_check_slack("dw", &t->dw);
    twin_check_slack("dbias", &t->dbias);
    twin_check_slack("dgamma", &t->dgamma);
    twin_check_slack("dbeta", &t->dbeta);
}

static void check_variant(geometry g, variant v)
{
    const twin_args t = args_of(&g, &v);
    check_gradients(&t, v.type);
    twins_free();
}

/* The norm of one channel has no derivative but rounding. */
static void check_geometry(geometry g)
{
    for (int i = 0; i < (g.out > 1 ? 4 : 2); i++) {
        check_variant(g, (variant){.type = types[i & 1],
                                   .norm = i < 2 ? SER_CONV_NORM_NONE : SER_CONV_NORM_LAYER});
    }
}

START_TEST(test_wav2vec2_kernels)
{
    check_geometry((geometry){3, 2, 0, 16, 16, 7, 3}); /* 21 rows in two phases: one is left */
    check_geometry((geometry){3, 2, 0, 8, 33, 6, 2});
    check_geometry((geometry){2, 2, 0, 20, 8, 5, 3});
    check_geometry((geometry){10, 5, 0, 3, 16, 7, 3});
}
END_TEST

START_TEST(test_padded_kernels)
{
    check_geometry((geometry){3, 2, 1, 33, 20, 7, 3});
    check_geometry((geometry){3, 1, 1, 8, 1, 7, 2});
    check_geometry((geometry){5, 3, 2, 20, 16, 5, 3}); /* three groups of phases */
    check_geometry((geometry){5, 2, 2, 8, 16, 6, 3});
    check_geometry((geometry){5, 1, 2, 3, 8, 4, 1}); /* fewer rows than phases */
    check_geometry((geometry){4, 3, 3, 5, 8, 5, 2}); /* a row before the first frame of x */
    check_geometry((geometry){2, 2, 1, 8, 8, 5, 3});
}
END_TEST

START_TEST(test_kernels_without_overlap)
{
    check_geometry((geometry){1, 1, 0, 1, 1, 9, 3});
    check_geometry((geometry){1, 1, 0, 16, 33, 9, 1});
    check_geometry((geometry){2, 3, 0, 5, 8, 6, 3}); /* some frames are never seen */
    check_geometry((geometry){2, 5, 1, 4, 8, 4, 2});
}
END_TEST

/* Should the product library not take entries whose rows interleave, they go one by one. */
START_TEST(test_entries_apart)
{
    setenv("SER_EMULATION_REFUSE_INTERLEAVED", "1", 1);
    check_geometry((geometry){3, 2, 0, 8, 16, 7, 3});
    check_geometry((geometry){3, 1, 1, 8, 1, 7, 2});
    unsetenv("SER_EMULATION_REFUSE_INTERLEAVED");
}
END_TEST

/* From one pack per lane to rows that no warp has room for, even and odd. */
START_TEST(test_many_channels)
{
    const int64_t channels[] = {256, 264, 515, 776, 1024, 1025, 2056};
    for (size_t i = 0; i < sizeof channels / sizeof *channels; i++) {
        const geometry g = {2, 2, 0, 2, channels[i], 4, 3};
        check_variant(g, (variant){types[0], SER_CONV_NORM_LAYER});
        check_variant(g, (variant){types[1], SER_CONV_NORM_LAYER});
        check_variant(g, (variant){types[i & 1], SER_CONV_NORM_NONE});
    }
}
END_TEST

/* So many that a block takes several rows per warp, whole clips apart. */
START_TEST(test_many_rows)
{
    for (int i = 0; i < 2; i++) {
        check_variant((geometry){3, 2, 1, 2, 8, 3100, 3}, (variant){types[i], SER_CONV_NORM_LAYER});
        check_variant((geometry){3, 2, 1, 2, 9, 700, 3}, (variant){types[i], SER_CONV_NORM_LAYER});
    }
}
END_TEST

START_TEST(test_clip_without_frames)
{
    const int32_t in[] = {2, 8};
    const int32_t out[] = {0, 3};
    for (int i = 0; i < 4; i++) {
        const geometry g = {3, 2, 0, 8, 16, 4, 2};
        const variant v = {types[i & 1], i / 2 == 0 ? SER_CONV_NORM_NONE : SER_CONV_NORM_LAYER};
        twin_args t = args_of(&g, &v);
        t.rows_in = twin_rows_of(2, 8, in);
        t.rows_out = twin_rows_of(2, 4, out);
        fill_padding(&g, &t);
        t.cpu.rows_in = t.rows_in.cpu;
        t.cpu.rows_out = t.rows_out.cpu;
        t.gpu.rows_in = t.rows_in.gpu;
        t.gpu.rows_out = t.rows_out.gpu;
        check_gradients(&t, v.type);
        twins_free();
    }
}
END_TEST

/* Far out GELU is 0 or z and its derivative 0 or 1; a row of equal values has no deviation. */
START_TEST(test_extreme_values)
{
    enum { N = 8 };
    const float far[2 * N] = {-1e30F, -1e4F, -20.0F, -1e-30F, 1e-30F, 20.0F, 1e4F, 1e30F,
                              3.0F,   3.0F,  3.0F,   3.0F,    3.0F,   3.0F,  3.0F, 3.0F};
    for (int i = 0; i < 4; i++) {
        const geometry g = {1, 1, 0, 4, N, 1, 1};
        const variant v = {types[i & 1], i / 2 == 0 ? SER_CONV_NORM_NONE : SER_CONV_NORM_LAYER};
        twin_args t = args_of(&g, &v);
        t.z = twin_values(1, N, v.type, far + (i / 2 == 0 ? 0 : N));
        t.cpu.z = t.z.cpu;
        t.gpu.z = t.z.gpu;
        check_gradients(&t, v.type);
        twins_free();
    }
}
END_TEST

static void expect_bytes(const ser_tensor *got, const void *expected)
{
    const size_t size = (size_t)(got->rows * got->cols) * (got->type == SER_BF16 ? 2 : 4);
    ck_assert_mem_eq(gpu_bytes(got), expected, size);
}

/* What a gradient is does not depend on which others are wanted; with no dw no x is there. */
START_TEST(test_absent_gradients_are_not_made)
{
    const geometry g = {3, 2, 1, 8, 16, 7, 3};
    for (int i = 0; i < 2; i++) {
        const variant v = {types[i], SER_CONV_NORM_LAYER};
        const ser_tensor absent = {0};
        const twin_args all = args_of(&g, &v);
        RUN_GPU(ser_conv_bwd, &all.gpu);
        const void *dx = gpu_bytes(&all.gpu.dx);
        const void *dw = gpu_bytes(&all.gpu.dw);
        const void *dbias = gpu_bytes(&all.gpu.dbias);
        const void *dgamma = gpu_bytes(&all.gpu.dgamma);
        const void *dbeta = gpu_bytes(&all.gpu.dbeta);
        twin_args only = args_of(&g, &v); /* a frozen layer */
        only.gpu.x = only.gpu.dw = only.gpu.dbias = only.gpu.dgamma = only.gpu.dbeta = absent;
        RUN_GPU(ser_conv_bwd, &only.gpu);
        expect_bytes(&only.dx.gpu, dx);
        twin_check("dw", &only.dw, NULL, 0.0, false); /* as it was */
        twin_check("dgamma", &only.dgamma, NULL, 0.0, false);
        only = args_of(&g, &v); /* the lowest layer, with a frozen gamma */
        only.gpu.dx = only.gpu.dgamma = absent;
        RUN_GPU(ser_conv_bwd, &only.gpu);
        expect_bytes(&only.dw.gpu, dw);
        expect_bytes(&only.dbias.gpu, dbias);
        expect_bytes(&only.dbeta.gpu, dbeta);
        twin_check("dgamma", &only.dgamma, NULL, 0.0, false);
        only = args_of(&g, &v);
        only.gpu.x = only.gpu.dx = only.gpu.dw = only.gpu.dbias = only.gpu.dbeta = absent;
        RUN_GPU(ser_conv_bwd, &only.gpu);
        expect_bytes(&only.dgamma.gpu, dgamma);
        twin_check("dbeta", &only.dbeta, NULL, 0.0, false);
        twins_free();
    }
}
END_TEST

/* A recording gives the bits of a call, and adds to what is there at replay. */
START_TEST(test_recorded)
{
    const geometry g = {3, 2, 1, 8, 16, 40, 3};
    for (int i = 0; i < 4; i++) {
        ser_graph *graph;
        const variant v = {types[i & 1], i / 2 == 0 ? SER_CONV_NORM_NONE : SER_CONV_NORM_LAYER};
        const twin_args t = args_of(&g, &v);
        const twin_args again = args_of(&g, &v);
        RUN_GPU(ser_conv_bwd, &t.gpu);
        assert_ok(gpu.ops->capture_begin(gpu.queue));
        const int status = ser_conv_bwd(gpu.queue, &again.gpu);
        assert_ok(gpu.ops->capture_end(gpu.queue, status != 0, &graph));
        assert_ok(status);
        side_poison(&gpu);
        assert_ok(gpu.ops->replay(gpu.queue, graph));
        assert_ok(gpu.ops->sync(gpu.queue));
        gpu.ops->graph_free(gpu.context, graph);
        expect_bytes(&again.dx.gpu, gpu_bytes(&t.dx.gpu));
        expect_bytes(&again.dw.gpu, gpu_bytes(&t.dw.gpu));
        expect_bytes(&again.dbias.gpu, gpu_bytes(&t.dbias.gpu));
        expect_bytes(&again.dgamma.gpu, gpu_bytes(&t.dgamma.gpu));
        expect_bytes(&again.dbeta.gpu, gpu_bytes(&t.dbeta.gpu));
        twins_free();
    }
}
END_TEST

/* A clip's dx does not depend on the other clips. */
START_TEST(test_clips_do_not_mix)
{
    const geometry g = {5, 2, 2, 8, 16, 6, 3};
    for (int i = 0; i < 2; i++) {
        const variant v = {types[i], SER_CONV_NORM_LAYER};
        const size_t clip = (size_t)(12 * 8) * (v.type == SER_BF16 ? 2 : 4);
        twin_args t = args_of(&g, &v);
        RUN_GPU(ser_conv_bwd, &t.gpu);
        const char *dx = gpu_bytes(&t.dx.gpu);
        const int32_t none[] = {t.rows_out.cpu.valid[0], 0, t.rows_out.cpu.valid[2]};
        const twin_rows others = twin_rows_of(3, 6, none);
        twin_fill_padding(&t.dy, &others, 1e3F);
        RUN_GPU(ser_conv_bwd, &t.gpu);
        const char *after = gpu_bytes(&t.dx.gpu);
        ck_assert_mem_eq(after, dx, clip);
        ck_assert_mem_ne(after + clip, dx + clip, clip);
        ck_assert_mem_eq(after + 2 * clip, dx + 2 * clip, clip);
        twins_free();
    }
}
END_TEST

/* --- Differences of the GPU's own forward, in f32 --- */

typedef struct model {
    const geometry *g;
    twin_args t;
    twin bias, y, dy;
    float *w; /* on the host */
    ser_weight *weight;
    ser_conv_args forward;
} model;

static model model_of(const geometry *g, int32_t norm)
{
    const variant v = {SER_F32, norm};
    const int64_t count = g->out * g->kernel * g->in;
    const float scale = 2.0F / sqrtf((float)(g->kernel * g->in));
    model m = {.g = g,
               .t = args_of(g, &v),
               .bias = twin_input(1, g->out, SER_F32, 11, 0.5F, 0),
               .y = twin_output(g->batch * g->frames, g->out, SER_F32),
               .w = twin_input(1, count, SER_F32, 12, scale, 0).cpu.data,
               .weight = twin_weight_of(g->out, g->kernel * g->in, 1, SER_F32, 2, scale).gpu};
    twin_fill_padding(&m.t.x, &m.t.rows_in, 0.0F);
    m.t.gpu.w = m.weight;
    m.forward = m.t.gpu;
    m.forward.bias = m.bias.gpu;
    m.forward.y = m.y.gpu;
    m.forward.dy = m.forward.dx = m.forward.dw = m.forward.dbias = (ser_tensor){0};
    m.forward.dgamma = m.forward.dbeta = (ser_tensor){0};
    return m;
}

/* sum of dy * y over the valid rows */
static double loss(const model *m)
{
    const ser_rows *rows = &m->t.rows_out.cpu;
    const size_t size = (size_t)(m->g->out * m->g->kernel * m->g->in) * sizeof(float);
    double total = 0.0;
    assert_ok(gpu.ops->weight_set(gpu.queue, m->weight, gpu_copy(m->w, size)));
    RUN_GPU(ser_conv_fwd, &m->forward);
    const float *y = gpu_values(&m->forward.y);
    const float *dy = m->t.dy.cpu.data;
    for (int64_t i = 0; i < m->forward.y.rows * m->g->out; i++) {
        const int64_t row = i / m->g->out;
        if (row % rows->padded < rows->valid[row / rows->padded]) {
            total += (double)y[i] * (double)dy[i];
        }
    }
    return total;
}

/*
 * Along a random direction of `count` values the loss changes as the gradient says. Steps of 2^-6
 * leave an error of h^2 times the third derivative, and the rounding of y (6e-8 of some 50 values
 * of order 1) over 2 h: both below 1e-3 of a sum of that many terms of order 1.
 */
static void check_direction(const char *name, model *m, float *values, const ser_tensor *device,
                            int64_t count, const float *gradient, const float *before)
{
    const float h = 0x1p-6F;
    float *direction = twin_input(1, count, SER_F32, 13, 1.0F, 0).cpu.data;
    double expected = 0.0;
    double losses[2];
    double scale = 1.0;
    for (int step = 0; step < 2; step++) {
        for (int64_t i = 0; i < count; i++) {
            values[i] += (step == 0 ? h : -2.0F * h) * direction[i];
        }
        if (device != NULL) {
            const size_t size = (size_t)count * sizeof(float);
            assert_ok(gpu.ops->upload(gpu.queue, device->data, values, size));
        }
        losses[step] = loss(m);
    }
    for (int64_t i = 0; i < count; i++) {
        const double own = (double)gradient[i] - (before != NULL ? (double)before[i] : 0.0);
        values[i] += h * direction[i];
        expected += own * (double)direction[i];
        scale += fabs(own * (double)direction[i]) / sqrt((double)count);
    }
    if (device != NULL) {
        const size_t size = (size_t)count * sizeof(float);
        assert_ok(gpu.ops->upload(gpu.queue, device->data, values, size));
    }
    const double got = (losses[0] - losses[1]) / (2.0 * (double)h);
    ck_assert_msg(fabs(got - expected) <= 2e-3 * scale, "%s: a difference of %g, not %g (%g)", name,
                  got, expected, scale);
}

static void check_differences(geometry g, int32_t norm)
{
    model m = model_of(&g, norm);
    const int64_t weights = g.out * g.kernel * g.in;
    loss(&m); /* makes z */
    RUN_GPU(ser_conv_bwd, &m.t.gpu);
    const ser_conv_args *a = &m.t.gpu;
    const twin_args *t = &m.t;
    const twin dw = twin_input(g.out, g.kernel * g.in, SER_F32, 7, 1.0F, 0); /* as before */
    const float *dx = gpu_values(&a->dx); /* zeros in padding, as is wanted of the direction */
    check_direction("dw", &m, m.w, NULL, weights, gpu_values(&a->dw), dw.cpu.data);
    check_direction("dbias", &m, m.bias.cpu.data, &m.bias.gpu, g.out, gpu_values(&a->dbias),
                    t->dbias.cpu.data);
    if (norm == SER_CONV_NORM_LAYER) {
        check_direction("dgamma", &m, t->gamma.cpu.data, &t->gamma.gpu, g.out,
                        gpu_values(&a->dgamma), t->dgamma.cpu.data);
        check_direction("dbeta", &m, t->beta.cpu.data, &t->beta.gpu, g.out, gpu_values(&a->dbeta),
                        t->dbeta.cpu.data);
    }
    for (int64_t b = 0; b < g.batch; b++) {
        const int64_t first = b * t->rows_in.cpu.padded;
        const twin clip = twin_part(t->x, first, t->rows_in.cpu.valid[b]);
        check_direction("dx", &m, clip.cpu.data, &clip.gpu, clip.cpu.rows * g.in, dx + first * g.in,
                        NULL);
    }
    twins_free();
}

START_TEST(test_gradients_are_the_forwards_derivatives)
{
    check_differences((geometry){3, 2, 0, 4, 8, 5, 2}, SER_CONV_NORM_NONE);
    check_differences((geometry){3, 2, 1, 4, 8, 5, 2}, SER_CONV_NORM_LAYER);
    check_differences((geometry){5, 3, 2, 3, 11, 4, 2}, SER_CONV_NORM_LAYER);
}
END_TEST

CUDA_SUITE("conv_backward", test_wav2vec2_kernels, test_padded_kernels,
           test_kernels_without_overlap, test_entries_apart, test_many_channels, test_many_rows,
           test_clip_without_frames, test_extreme_values, test_absent_gradients_are_not_made,
           test_recorded, test_clips_do_not_mix, test_gradients_are_the_forwards_derivatives)
