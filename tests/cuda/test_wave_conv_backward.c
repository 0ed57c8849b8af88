/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 4 };

static const int32_t types[] = {SER_F32, SER_BF16};
static const int32_t norms[] = {SER_CONV_NORM_NONE, SER_CONV_NORM_CLIP, SER_CONV_NORM_LAYER};

typedef struct shape {
    int32_t norm;
    bool bias;
    int32_t kernel, stride;
    int64_t channels;
    int64_t padded;        /* frames; padded * stride must hold the samples of all */
    int32_t frames[BATCH]; /* of each clip */
} shape;

enum { DW, DBIAS, DGAMMA, DBETA, GRADIENTS };

static const char *const names[GRADIENTS] = {"dw", "dbias", "dgamma", "dbeta"};

typedef struct twin_args {
    twin pcm, w, bias, gamma, beta;
    twin_rows in, out;
    twin gradient[GRADIENTS]; /* absent ones without data */
    ser_wave_conv_args cpu, gpu;
} twin_args;

static ser_tensor *gradient_of(ser_wave_conv_args *args, int which)
{
    ser_tensor *const all[] = {&args->dw, &args->dbias, &args->dgamma, &args->dbeta};
    return all[which];
}

/* Samples of a clip that make its frames, and some more that make no other. */
static int32_t samples_of(const shape *s, int64_t clip)
{
    const int32_t exact = (s->frames[clip] - 1) * s->stride + s->kernel;
    const int64_t most = s->padded * s->stride;
    const int32_t samples = exact + (int32_t)clip % s->stride;
    return s->frames[clip] == 0 ? 0 : samples <= most ? samples : exact;
}

/* Forward's inputs; pcm NULL: random. NaN behind each clip. */
static twin_args inputs_of(const shape *s, const float *pcm)
{
    int32_t in[BATCH];
    const int64_t padded_in = s->padded * s->stride;
    for (int64_t b = 0; b < BATCH; b++) {
        in[b] = samples_of(s, b);
        ck_assert_int_le(in[b], padded_in);
    }
    twin_args t = {.pcm = pcm != NULL ? twin_values(BATCH * padded_in, 1, SER_F32, pcm)
                                      : twin_input(BATCH * padded_in, 1, SER_F32, 1, 1.0F, 0),
                   .w = twin_input(s->channels, s->kernel, SER_F32, 2, 1.0F, 0),
                   .in = twin_rows_of(BATCH, padded_in, in),
                   .out = twin_rows_of(BATCH, s->padded, s->frames)};
    if (s->bias) {
        t.bias = twin_input(1, s->channels, SER_F32, 3, 0.5F, 0);
    }
    if (s->norm != SER_CONV_NORM_NONE) {
        t.gamma = twin_input(1, s->channels, SER_F32, 4, 1.0F, 0);
        t.beta = twin_input(1, s->channels, SER_F32, 5, 1.0F, 0);
    }
    twin_fill_padding(&t.pcm, &t.in, NAN);
    t.cpu = (ser_wave_conv_args){.pcm = t.pcm.cpu,
                                 .rows_in = t.in.cpu,
                                 .rows_out = t.out.cpu,
                                 .kernel = s->kernel,
                                 .stride = s->stride,
                                 .norm = s->norm,
                                 .w = t.w.cpu,
                                 .bias = t.bias.cpu,
                                 .gamma = t.gamma.cpu,
                                 .beta = t.beta.cpu};
    t.gpu = t.cpu;
    t.gpu.pcm = t.pcm.gpu;
    t.gpu.rows_in = t.in.gpu;
    t.gpu.rows_out = t.out.gpu;
    t.gpu.w = t.w.gpu;
    t.gpu.bias = t.bias.gpu;
    t.gpu.gamma = t.gamma.gpu;
    t.gpu.beta = t.beta.gpu;
    return t;
}

/* Gradients that have something in them already. */
static void set_gradients(const shape *s, twin_args *t)
{
    const bool normed = s->norm != SER_CONV_NORM_NONE;
    for (int i = 0; i < GRADIENTS; i++) {
        if (i > DBIAS && !normed) {
            continue;
        }
        const int64_t rows = i == DW ? s->channels : 1;
        const int64_t cols = i == DW ? s->kernel : s->channels;
        t->gradient[i] = twin_input(rows, cols, SER_F32, 7 + (uint64_t)i, 0.5F, 0);
        *gradient_of(&t->cpu, i) = t->gradient[i].cpu;
        *gradient_of(&t->gpu, i) = t->gradient[i].gpu;
    }
}

/* Backward's arguments. z is what the CPU's forward saved, rounded for bf16; NaN in the invalid rows
 * of what comes in. */
static twin_args args_of(const shape *s, int32_t type, const float *pcm)
{
    twin_args t = inputs_of(s, pcm);
    const int64_t rows = BATCH * s->padded;
    ser_wave_conv_args forward = t.cpu;
    forward.y = twin_output(rows, s->channels, SER_F32).cpu;
    forward.z = twin_output(rows, s->channels, SER_F32).cpu;
    RUN_CPU(ser_wave_conv_fwd, &forward);
    twin z = twin_values(rows, s->channels, type, forward.z.data);
    twin dy = twin_input(rows, s->channels, type, 6, 1.0F, 0);
    twin_fill_padding(&z, &t.out, NAN);
    twin_fill_padding(&dy, &t.out, NAN);
    t.cpu.z = z.cpu;
    t.gpu.z = z.gpu;
    t.cpu.dy = dy.cpu;
    t.gpu.dy = dy.gpu;
    set_gradients(s, &t);
    return t;
}

/* f32: sums of up to 2200 terms in two orders. bf16: the inputs are the same numbers and the
 * gradients f32, so that only GELU' differs, by 1e-4 at most (wave_gelu.cuh), in terms that cancel. */
static double tolerance(int32_t type)
{
    return type == SER_BF16 ? 5e-4 : 5e-6;
}

static void check_gradients(const twin_args *t, double allowed)
{
    for (int i = 0; i < GRADIENTS; i++) {
        if (t->gradient[i].cpu.data != NULL) {
            twin_check(names[i], &t->gradient[i], NULL, allowed, false);
            twin_check_slack(names[i], &t->gradient[i]);
        }
    }
}

static void check_content(const shape *s, int32_t type, const float *pcm)
{
    const twin_args t = args_of(s, type, pcm);
    RUN_CPU(ser_wave_conv_bwd, &t.cpu);
    RUN_GPU(ser_wave_conv_bwd, &t.gpu);
    check_gradients(&t, tolerance(type));
    twins_free();
}

static void check_shape(shape s)
{
    for (int i = 0; i < 2; i++) {
        check_content(&s, types[i], NULL);
    }
}

/* Clips of a chunk of 256 frames, of one less and one more; more taps than one block makes; channels
 * by fours and not. */
START_TEST(test_group_norm)
{
    check_shape((shape){SER_CONV_NORM_CLIP, false, 10, 5, 512, 40, {39, 5, 0, 34}});
    check_shape((shape){SER_CONV_NORM_CLIP, true, 10, 5, 24, 600, {599, 512, 513, 2}});
    check_shape((shape){SER_CONV_NORM_CLIP, false, 3, 2, 132, 260, {258, 255, 256, 257}});
    check_shape((shape){SER_CONV_NORM_CLIP, true, 7, 3, 7, 40, {38, 3, 38, 9}});
    check_shape((shape){SER_CONV_NORM_CLIP, true, 64, 16, 33, 80, {77, 9, 70, 40}});
    check_shape((shape){SER_CONV_NORM_CLIP, false, 1, 1, 1, 130, {130, 129, 128, 9}});
}
END_TEST

START_TEST(test_layer_norm)
{
    check_shape((shape){SER_CONV_NORM_LAYER, true, 10, 5, 512, 40, {39, 1, 0, 34}});
    check_shape((shape){SER_CONV_NORM_LAYER, false, 10, 5, 24, 520, {519, 512, 513, 2}});
    check_shape((shape){SER_CONV_NORM_LAYER, true, 3, 2, 130, 260, {258, 255, 256, 257}});
    check_shape((shape){SER_CONV_NORM_LAYER, true, 11, 4, 36, 30, {27, 3, 0, 9}});
    check_shape((shape){SER_CONV_NORM_LAYER, true, 80, 40, 8, 20, {19, 3, 0, 9}});
}
END_TEST

START_TEST(test_no_norm)
{
    check_shape((shape){SER_CONV_NORM_NONE, true, 10, 5, 512, 40, {39, 1, 0, 34}});
    check_shape((shape){SER_CONV_NORM_NONE, false, 7, 3, 67, 300, {298, 1, 2, 257}});
    check_shape((shape){SER_CONV_NORM_NONE, true, 3, 2, 520, 10, {9, 1, 8, 3}});
    check_shape((shape){SER_CONV_NORM_NONE, true, 400, 320, 16, 20, {18, 1, 3, 14}});
    check_shape((shape){SER_CONV_NORM_NONE, false, 2, 1300, 8, 20, {20, 1, 8, 19}});
}
END_TEST

/* Without variance the norm multiplies with 1 / sqrt(eps). */
START_TEST(test_silence)
{
    const shape s = {SER_CONV_NORM_CLIP, true, 10, 5, 16, 300, {299, 1, 2, 280}};
    const shape single = {SER_CONV_NORM_CLIP, true, 10, 5, 16, 2, {1, 1, 1, 1}};
    static const float pcm[BATCH * 300 * 5];
    for (int i = 0; i < 2; i++) {
        check_content(&s, types[i], pcm);
        check_content(&single, types[i], pcm);
    }
}
END_TEST

/* --- The group norm's gradients by their definition, in double --- */

typedef struct channel {
    double dw[16];
    double dgamma, dbeta;
} channel;

static double normal_cdf(double x)
{
    return 0.5 * erfc(-x / sqrt(2.0));
}

static double gelu_gradient(double x)
{
    return normal_cdf(x) + x * exp(-0.5 * x * x) / sqrt(2.0 * acos(-1.0));
}

/* What clip b gives channel c, from the samples. */
static void add_clip(const ser_wave_conv_args *a, int64_t b, int64_t c, channel *sum)
{
    const float *x = (const float *)a->pcm.data + b * a->rows_in.padded;
    const float *w = (const float *)a->w.data + c * a->kernel;
    const double gamma = (double)((const float *)a->gamma.data)[c];
    const double beta = (double)((const float *)a->beta.data)[c];
    const int32_t frames = a->rows_out.valid[b];
    double z[1024];
    double du[1024];
    double mean = 0.0;
    double square = 0.0;
    double total = 0.0;
    double along = 0.0;
    for (int t = 0; t < frames; t++) {
        z[t] = 0.0;
        for (int k = 0; k < a->kernel; k++) {
            z[t] += (double)w[k] * (double)x[t * a->stride + k];
        }
        mean += z[t] / frames;
    }
    for (int t = 0; t < frames; t++) {
        square += (z[t] - mean) * (z[t] - mean) / frames;
    }
    const double inverse = 1.0 / sqrt(square + 1e-5);
    for (int t = 0; t < frames; t++) {
        const int64_t at = (b * a->rows_out.padded + t) * a->w.rows + c;
        z[t] = (z[t] - mean) * inverse;
        du[t] = (double)((const float *)a->dy.data)[at] * gelu_gradient(z[t] * gamma + beta);
        total += du[t];
        along += du[t] * z[t];
    }
    sum->dbeta += total;
    sum->dgamma += along;
    for (int t = 0; t < frames; t++) {
        const double dz = gamma * inverse * (du[t] - total / frames - z[t] * along / frames);
        for (int k = 0; k < a->kernel; k++) {
            sum->dw[k] += dz * (double)x[t * a->stride + k];
        }
    }
}

/* On a signal that is an offset and little else: no more is lost than what z lost in forward, being
 * f32. Sums of du p with the offset in p would lose ten times as much. */
static void check_offset(float offset, double allowed)
{
    const shape s = {SER_CONV_NORM_CLIP, false, 10, 5, 8, 600, {599, 400, 20, 133}};
    static float pcm[BATCH * 600 * 5];
    harness_fill(pcm, BATCH * 600 * 5, 11, 0.1F);
    for (int i = 0; i < BATCH * 600 * 5; i++) {
        pcm[i] += offset;
    }
    const twin_args t = args_of(&s, SER_F32, pcm);
    const float *before = gpu_values(&t.gpu.dw);
    const float *before_gamma = gpu_values(&t.gpu.dgamma);
    RUN_GPU(ser_wave_conv_bwd, &t.gpu);
    const float *dw = gpu_values(&t.gpu.dw);
    const float *dgamma = gpu_values(&t.gpu.dgamma);
    double scale = 0.0;
    double largest = 0.0;
    for (int64_t c = 0; c < s.channels; c++) {
        channel sum = {.dgamma = 0.0};
        for (int64_t b = 0; b < BATCH; b++) {
            add_clip(&t.cpu, b, c, &sum);
        }
        for (int k = 0; k < s.kernel; k++) {
            const int64_t at = c * s.kernel + k;
            const double got = (double)dw[at] - (double)before[at];
            scale = fmax(scale, fabs(sum.dw[k]));
            largest = fmax(largest, isnan(got) ? INFINITY : fabs(got - sum.dw[k]));
        }
        ck_assert_double_eq_tol((double)dgamma[c] - (double)before_gamma[c], sum.dgamma,
                                allowed * 100.0);
    }
    ck_assert_msg(largest <= allowed * scale, "offset %g: %g of %g", (double)offset, largest,
                  scale);
    twins_free();
}

START_TEST(test_offsets_do_not_spoil_the_gradients)
{
    check_offset(0.0F, 1e-6);
    check_offset(1.0F, 1.5e-6);
    check_offset(100.0F, 8e-5);
}
END_TEST

/* --- GELU' of either type, through a channel for every argument --- */

static void check_gelu_gradient(int32_t type, double allowed)
{
    enum { COUNT = 3000 };
    const shape s = {SER_CONV_NORM_NONE, false, 1, 1, COUNT, 1, {1, 0, 0, 0}};
    static float values[BATCH * COUNT];
    static float ones[BATCH * COUNT];
    static const float zeros[COUNT];
    const float pcm[BATCH] = {1.0F, 0.0F, 0.0F, 0.0F};
    const float ends[] = {INFINITY, -INFINITY, NAN, 1e30F, -1e30F, 3e38F, -3e38F, -0.0F};
    for (int i = 0; i < COUNT; i++) {
        values[i] = (float)(i - COUNT / 2) / 128.0F;
        ones[i] = 1.0F;
    }
    memcpy(values, ends, sizeof ends);
    twin_args t = inputs_of(&s, pcm);
    const twin z = twin_values(BATCH, COUNT, type, values);
    t.gpu.z = z.gpu;
    t.gpu.dy = twin_values(BATCH, COUNT, type, ones).gpu;
    t.gpu.dbias = twin_values(1, COUNT, SER_F32, zeros).gpu;
    t.gpu.dw = twin_values(COUNT, 1, SER_F32, zeros).gpu;
    RUN_GPU(ser_wave_conv_bwd, &t.gpu);
    const float *dbias = gpu_values(&t.gpu.dbias);
    ck_assert_mem_eq(gpu_bytes(&t.gpu.dw), dbias, COUNT * sizeof *dbias);
    const double limits[] = {1.0, 0.0, NAN, 1.0, 0.0, 1.0, 0.0, 0.5};
    for (int i = 0; i < COUNT; i++) {
        const double x = (double)((const float *)z.cpu.data)[i]; /* as it was rounded */
        const double expected = i < 8 ? limits[i] : gelu_gradient(x);
        const double away = fabs((double)dbias[i] - expected);
        if (isnan(expected) ? !isnan(dbias[i]) : !(away <= allowed)) {
            ck_abort_msg("GELU'(%g) is %.9g, not %.9g", x, (double)dbias[i], expected);
        }
    }
    twins_free();
}

START_TEST(test_gelu_gradient)
{
    check_gelu_gradient(SER_F32, 3e-7);
    check_gelu_gradient(SER_BF16, 1e-4);
}
END_TEST

/* --- Against differences of the GPU's own forward --- */

/* sum of dy y, with value `at` of a parameter moved by `step` */
static double loss(const ser_wave_conv_args *args, const twin *parameter, int64_t at, float step,
                   const float *dy)
{
    float *value = (float *)parameter->cpu.data + at;
    const float kept = *value;
    const size_t size = (size_t)(parameter->cpu.rows * parameter->cpu.cols) * sizeof(float);
    double total = 0.0;
    *value += step;
    assert_ok(gpu.ops->upload(gpu.queue, parameter->gpu.data, parameter->cpu.data, size));
    assert_ok(gpu.ops->sync(gpu.queue));
    RUN_GPU(ser_wave_conv_fwd, args);
    const float *y = gpu_values(&args->y);
    for (int64_t r = 0; r < args->y.rows; r++) {
        for (int64_t i = 0; i < args->y.cols && y[r * args->y.cols + i] != 0.0F; i++) {
            total += (double)y[r * args->y.cols + i] * (double)dy[r * args->y.cols + i];
        }
    }
    *value = kept;
    assert_ok(gpu.ops->upload(gpu.queue, parameter->gpu.data, parameter->cpu.data, size));
    assert_ok(gpu.ops->sync(gpu.queue));
    return total;
}

static void check_differences(shape s)
{
    const float step = 0.0078125F;
    twin_args t = inputs_of(&s, NULL);
    const int64_t rows = BATCH * s.padded;
    twin dy = twin_input(rows, s.channels, SER_F32, 6, 1.0F, 0);
    ser_wave_conv_args forward = t.gpu;
    forward.y = twin_output(rows, s.channels, SER_F32).gpu;
    forward.z = t.gpu.z = twin_output(rows, s.channels, SER_F32).gpu;
    RUN_GPU(ser_wave_conv_fwd, &forward);
    forward.z = (ser_tensor){.data = NULL};
    t.gpu.dy = dy.gpu;
    set_gradients(&s, &t);
    RUN_GPU(ser_wave_conv_bwd, &t.gpu);
    const twin *parameters[GRADIENTS] = {&t.w, &t.bias, &t.gamma, &t.beta};
    for (int p = 0; p < GRADIENTS; p++) {
        if (parameters[p]->cpu.data == NULL) {
            continue;
        }
        const float *start = t.gradient[p].cpu.data;
        const float *got = gpu_values(&t.gradient[p].gpu);
        for (int64_t i = 0; i < t.gradient[p].cpu.rows * t.gradient[p].cpu.cols; i++) {
            const double above = loss(&forward, parameters[p], i, step, dy.cpu.data);
            const double below = loss(&forward, parameters[p], i, -step, dy.cpu.data);
            const double expected = (above - below) / (2.0 * (double)step);
            const double away = (double)got[i] - (double)start[i] - expected;
            if (!(fabs(away) <= 2e-3 * (1.0 + fabs(expected)))) {
                ck_abort_msg("%s[%d] is off by %g from %g", names[p], (int)i, away, expected);
            }
        }
    }
    twins_free();
}

START_TEST(test_gradients_agree_with_differences)
{
    check_differences((shape){SER_CONV_NORM_CLIP, true, 4, 2, 4, 24, {23, 12, 0, 17}});
    check_differences((shape){SER_CONV_NORM_LAYER, true, 3, 2, 5, 10, {9, 1, 0, 8}});
    check_differences((shape){SER_CONV_NORM_NONE, true, 4, 3, 4, 10, {9, 1, 0, 8}});
}
END_TEST

/* --- What is added, and what is not --- */

START_TEST(test_same_bits_twice)
{
    for (int i = 0; i < 6; i++) {
        const shape s = {norms[i / 2], true, 10, 5, 24, 300, {299, 256, 64, 1}};
        const twin_args t = args_of(&s, types[i % 2], NULL);
        const twin_args again = args_of(&s, types[i % 2], NULL);
        RUN_GPU(ser_wave_conv_bwd, &t.gpu);
        RUN_GPU(ser_wave_conv_bwd, &again.gpu);
        for (int g = 0; g < GRADIENTS; g++) {
            const ser_tensor *x = &t.gradient[g].gpu;
            if (x->data != NULL) {
                ck_assert_mem_eq(gpu_bytes(x), gpu_bytes(&again.gradient[g].gpu),
                                 (size_t)(x->rows * x->cols) * sizeof(float));
            }
        }
        twins_free();
    }
}
END_TEST

/* Each gradient alone has the bits that it has among all, and the others are left as they were. */
static void check_alone(int32_t norm, int wanted)
{
    const shape s = {norm, true, 10, 5, 12, 20, {17, 1, 0, 18}};
    const twin_args all = args_of(&s, SER_F32, NULL);
    twin_args alone = args_of(&s, SER_F32, NULL);
    for (int g = 0; g < GRADIENTS; g++) {
        if (g != wanted) {
            *gradient_of(&alone.gpu, g) = (ser_tensor){.data = NULL};
        }
    }
    RUN_GPU(ser_wave_conv_bwd, &all.gpu);
    RUN_GPU(ser_wave_conv_bwd, &alone.gpu);
    for (int g = 0; g < GRADIENTS; g++) {
        const ser_tensor *x = &alone.gradient[g].gpu;
        if (x->data != NULL) {
            const void *expected =
                g == wanted ? gpu_bytes(&all.gradient[g].gpu) : alone.gradient[g].cpu.data;
            ck_assert_mem_eq(gpu_bytes(x), expected, (size_t)(x->rows * x->cols) * sizeof(float));
        }
    }
    twins_free();
}

START_TEST(test_absent_gradients_are_not_made)
{
    for (int i = 0; i < 3; i++) {
        for (int g = 0; g <= GRADIENTS; g++) {
            check_alone(norms[i], g);
        }
    }
}
END_TEST

START_TEST(test_empty_clips_add_nothing)
{
    for (int i = 0; i < 3; i++) {
        const shape s = {norms[i], true, 10, 5, 12, 20, {0, 0, 0, 0}};
        const twin_args t = args_of(&s, SER_F32, NULL);
        RUN_GPU(ser_wave_conv_bwd, &t.gpu);
        for (int g = 0; g < GRADIENTS; g++) {
            const twin *x = &t.gradient[g];
            if (x->cpu.data != NULL) {
                ck_assert_mem_eq(gpu_bytes(&x->gpu), x->cpu.data,
                                 (size_t)(x->cpu.rows * x->cpu.cols) * sizeof(float));
            }
        }
        twins_free();
    }
}
END_TEST

CUDA_SUITE("cuda_wave_conv_backward", test_group_norm, test_layer_norm, test_no_norm, test_silence,
           test_offsets_do_not_spoil_the_gradients, test_gelu_gradient,
           test_gradients_agree_with_differences, test_same_bits_twice,
           test_absent_gradients_are_not_made, test_empty_clips_add_nothing)
