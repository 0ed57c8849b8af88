/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 4 };

static const int32_t types[] = {SER_F32, SER_BF16};

typedef struct shape {
    int32_t norm;
    bool bias;
    int32_t kernel, stride;
    int64_t channels;
    int64_t padded;        /* frames; padded * stride must hold the samples of all */
    int32_t frames[BATCH]; /* of each clip */
} shape;

/* Content; NULL: random. */
typedef struct content {
    const float *pcm; /* [BATCH * padded * stride] */
    const float *w;   /* [channels, kernel] */
} content;

typedef struct twin_args {
    twin pcm, y, z;
    twin_rows rows;
    ser_wave_conv_args cpu, gpu;
} twin_args;

static twin matrix(int64_t rows, int64_t cols, const float *values, uint64_t seed, float scale)
{
    return values != NULL ? twin_values(rows, cols, SER_F32, values)
                          : twin_input(rows, cols, SER_F32, seed, scale, 0);
}

/* Samples of a clip that make its frames, and some more that make no other. */
static int32_t samples_of(const shape *s, int64_t clip)
{
    const int32_t exact = (s->frames[clip] - 1) * s->stride + s->kernel;
    const int64_t most = s->padded * s->stride;
    const int32_t samples = exact + (int32_t)clip % s->stride;
    return s->frames[clip] == 0 ? 0 : samples <= most ? samples : exact;
}

static void set_vectors(const shape *s, twin_args *t)
{
    if (s->bias) {
        const twin bias = twin_input(1, s->channels, SER_F32, 3, 0.5F, 0);
        t->cpu.bias = bias.cpu;
        t->gpu.bias = bias.gpu;
    }
    if (s->norm != SER_CONV_NORM_NONE) {
        const twin gamma = twin_input(1, s->channels, SER_F32, 4, 1.0F, 0);
        const twin beta = twin_input(1, s->channels, SER_F32, 5, 1.0F, 0);
        t->cpu.gamma = gamma.cpu;
        t->gpu.gamma = gamma.gpu;
        t->cpu.beta = beta.cpu;
        t->gpu.beta = beta.gpu;
    }
}

/* NaN behind each clip. */
static twin_args args_of(const shape *s, int32_t type, content c)
{
    int32_t in[BATCH];
    for (int64_t b = 0; b < BATCH; b++) {
        in[b] = samples_of(s, b);
        ck_assert_int_le(in[b], s->padded * s->stride);
    }
    const int64_t padded_in = s->padded * s->stride;
    const twin w = matrix(s->channels, s->kernel, c.w, 2, 1.0F);
    const twin_rows samples = twin_rows_of(BATCH, padded_in, in);
    twin_args t = {.pcm = matrix(BATCH * padded_in, 1, c.pcm, 1, 1.0F),
                   .y = twin_output(BATCH * s->padded, s->channels, type),
                   .z = twin_output(BATCH * s->padded, s->channels, type),
                   .rows = twin_rows_of(BATCH, s->padded, s->frames)};
    twin_fill_padding(&t.pcm, &samples, NAN);
    t.cpu = (ser_wave_conv_args){.pcm = t.pcm.cpu,
                                 .rows_in = samples.cpu,
                                 .rows_out = t.rows.cpu,
                                 .kernel = s->kernel,
                                 .stride = s->stride,
                                 .norm = s->norm,
                                 .w = w.cpu,
                                 .y = t.y.cpu};
    t.gpu = t.cpu;
    t.gpu.pcm = t.pcm.gpu;
    t.gpu.rows_in = samples.gpu;
    t.gpu.rows_out = t.rows.gpu;
    t.gpu.w = w.gpu;
    t.gpu.y = t.y.gpu;
    set_vectors(s, &t);
    return t;
}

/* bf16: y is rounded once, by 2^-8 at most; before that GELU is right to 1.6e-5 (wave_gelu.cuh).
 * f32: two orders of at most 400 products. */
static double tolerance(int32_t type)
{
    return type == SER_BF16 ? 4.0e-3 : 3e-6;
}

/* Without z and with it, which must not change y. */
static void check_shape(shape s, int32_t type)
{
    twin_args t = args_of(&s, type, (content){NULL, NULL});
    const size_t size = (size_t)(t.y.gpu.rows * s.channels) * (type == SER_BF16 ? 2 : 4);
    RUN_CPU(ser_wave_conv_fwd, &t.cpu);
    RUN_GPU(ser_wave_conv_fwd, &t.gpu);
    twin_check("y", &t.y, &t.rows, tolerance(type), true);
    twin_check_slack("y", &t.y);
    const void *y = gpu_bytes(&t.y.gpu);
    t.y = twin_output(t.y.cpu.rows, s.channels, type);
    t.cpu.y = t.y.cpu;
    t.gpu.y = t.y.gpu;
    t.cpu.z = t.z.cpu;
    t.gpu.z = t.z.gpu;
    RUN_CPU(ser_wave_conv_fwd, &t.cpu);
    RUN_GPU(ser_wave_conv_fwd, &t.gpu);
    ck_assert_mem_eq(gpu_bytes(&t.y.gpu), y, size);
    twin_check("z", &t.z, &t.rows, tolerance(type), true);
    twin_check_slack("z", &t.z);
    twin_check_slack("y", &t.y);
    twins_free();
}

START_TEST(test_group_norm)
{
    for (int i = 0; i < 2; i++) {
        check_shape((shape){SER_CONV_NORM_CLIP, false, 10, 5, 512, 70, {69, 5, 0, 64}}, types[i]);
        check_shape((shape){SER_CONV_NORM_CLIP, true, 10, 5, 24, 600, {599, 512, 513, 2}},
                    types[i]);
        check_shape((shape){SER_CONV_NORM_CLIP, false, 3, 2, 32, 1100, {1099, 3, 1025, 7}},
                    types[i]);
        check_shape((shape){SER_CONV_NORM_CLIP, true, 7, 3, 7, 40, {38, 3, 38, 9}}, types[i]);
        check_shape((shape){SER_CONV_NORM_CLIP, false, 64, 16, 24, 80, {77, 9, 70, 40}}, types[i]);
        check_shape((shape){SER_CONV_NORM_CLIP, false, 1, 1, 1, 130, {130, 129, 128, 9}}, types[i]);
    }
}
END_TEST

START_TEST(test_layer_norm)
{
    for (int i = 0; i < 2; i++) {
        check_shape((shape){SER_CONV_NORM_LAYER, true, 10, 5, 512, 70, {69, 1, 0, 64}}, types[i]);
        check_shape((shape){SER_CONV_NORM_LAYER, false, 10, 5, 24, 150, {149, 128, 65, 2}},
                    types[i]);
        check_shape((shape){SER_CONV_NORM_LAYER, true, 3, 2, 7, 40, {39, 8, 7, 9}}, types[i]);
        check_shape((shape){SER_CONV_NORM_LAYER, true, 64, 16, 32, 70, {67, 1, 65, 40}}, types[i]);
        check_shape((shape){SER_CONV_NORM_LAYER, true, 7, 3, 36, 30, {28, 3, 0, 9}}, types[i]);
        check_shape((shape){SER_CONV_NORM_LAYER, true, 80, 40, 8, 20, {19, 3, 0, 9}}, types[i]);
    }
}
END_TEST

/* Two of them with so long a stride that a block has fewer frames. */
START_TEST(test_no_norm)
{
    for (int i = 0; i < 2; i++) {
        check_shape((shape){SER_CONV_NORM_NONE, true, 10, 5, 512, 70, {69, 1, 0, 64}}, types[i]);
        check_shape((shape){SER_CONV_NORM_NONE, false, 7, 3, 67, 70, {68, 1, 2, 65}}, types[i]);
        check_shape((shape){SER_CONV_NORM_NONE, true, 3, 2, 520, 10, {9, 1, 8, 3}}, types[i]);
        check_shape((shape){SER_CONV_NORM_NONE, true, 400, 320, 16, 70, {69, 1, 33, 64}}, types[i]);
        check_shape((shape){SER_CONV_NORM_NONE, false, 2, 1300, 8, 20, {20, 1, 8, 19}}, types[i]);
    }
}
END_TEST

START_TEST(test_unwieldy_strides_are_refused)
{
    const shape s = {SER_CONV_NORM_NONE, false, 3, 100000, 8, 1, {1, 1, 1, 0}};
    const twin_args t = args_of(&s, SER_F32, (content){NULL, NULL});
    gpu.queue->planning = true;
    assert_ok(ser_wave_conv_fwd(gpu.queue, &t.gpu));
    assert_ok(ser_queue_reserve(gpu.queue, NULL));
    assert_fails(ser_wave_conv_fwd(gpu.queue, &t.gpu), SER_ERR_UNSUPPORTED, "stride 100000");
}
END_TEST

/* --- The norms by their definition, in double --- */

/* z of one clip [frames, channels] */
static void convolve(const ser_wave_conv_args *a, int64_t clip, double *z)
{
    const float *x = (const float *)a->pcm.data + clip * a->rows_in.padded;
    const float *w = a->w.data;
    const float *bias = a->bias.data;
    for (int64_t t = 0; t < a->rows_out.valid[clip]; t++) {
        for (int64_t c = 0; c < a->w.rows; c++) {
            double sum = bias != NULL ? (double)bias[c] : 0.0;
            for (int k = 0; k < a->kernel; k++) {
                sum += (double)x[t * a->stride + k] * (double)w[c * a->kernel + k];
            }
            z[t * a->w.rows + c] = sum;
        }
    }
}

/* `count` values `step` apart: to mean 0 and variance 1. */
static void standardise(double *z, int64_t count, int64_t step)
{
    double mean = 0.0;
    double square = 0.0;
    for (int64_t i = 0; i < count; i++) {
        mean += z[i * step] / (double)count;
    }
    for (int64_t i = 0; i < count; i++) {
        square += (z[i * step] - mean) * (z[i * step] - mean) / (double)count;
    }
    for (int64_t i = 0; i < count; i++) {
        z[i * step] = (z[i * step] - mean) / sqrt(square + 1e-5);
    }
}

static double gelu(double x)
{
    return 0.5 * x * erfc(-x / sqrt(2.0));
}

/* Largest difference to the definition over the valid frames. */
static double largest_error(const ser_wave_conv_args *a, const float *y)
{
    const int64_t channels = a->w.rows;
    const bool by_clip = a->norm == SER_CONV_NORM_CLIP;
    double *z = ser_mem_alloc((size_t)(a->rows_out.padded * channels), sizeof *z);
    double largest = 0.0;
    for (int64_t b = 0; b < a->rows_out.batch; b++) {
        const int64_t frames = a->rows_out.valid[b];
        convolve(a, b, z);
        for (int64_t g = 0; g < (by_clip ? channels : frames) && frames > 0; g++) {
            standardise(z + (by_clip ? g : g * channels), by_clip ? frames : channels,
                        by_clip ? channels : 1);
        }
        for (int64_t i = 0; i < frames * channels; i++) {
            const double gamma = (double)((const float *)a->gamma.data)[i % channels];
            const double beta = (double)((const float *)a->beta.data)[i % channels];
            const double away =
                (double)y[b * a->rows_out.padded * channels + i] - gelu(z[i] * gamma + beta);
            largest = isfinite(away) ? fmax(largest, fabs(away)) : INFINITY;
        }
    }
    ser_mem_free(z);
    return largest;
}

/* Filters whose taps add up to nearly nothing, on a signal that is an offset and little else: the
 * output is a thousandth of what is summed. Only what f32 products leave of it may be lost. */
static void check_offset(int32_t norm, float offset, float scale, double allowed)
{
    const shape s = {norm, norm == SER_CONV_NORM_LAYER, 10, 5, 8, 700, {699, 600, 2, 33}};
    float pcm[BATCH * 700 * 5];
    float w[8 * 10];
    harness_fill(pcm, BATCH * 700 * 5, 11, scale);
    harness_fill(w, 8 * 10, 12, 1.0F);
    for (int i = 0; i < BATCH * 700 * 5; i++) {
        pcm[i] += offset;
    }
    for (int c = 0; c < 8; c++) {
        float sum = 0.0F;
        for (int k = 0; k < 9; k++) {
            sum += w[c * 10 + k];
        }
        w[c * 10 + 9] = 1e-4F - sum;
    }
    const twin_args t = args_of(&s, SER_F32, (content){pcm, w});
    RUN_CPU(ser_wave_conv_fwd, &t.cpu);
    RUN_GPU(ser_wave_conv_fwd, &t.gpu);
    const double own = largest_error(&t.cpu, gpu_values(&t.y.gpu));
    const double other = largest_error(&t.cpu, t.y.cpu.data);
    ck_assert_msg(own <= allowed, "offset %g: %g from the definition (CPU: %g)", (double)offset,
                  own, other);
    ck_assert_double_le(own, 4.0 * other + 1e-5);
    twins_free();
}

START_TEST(test_offsets_do_not_spoil_the_norm)
{
    check_offset(SER_CONV_NORM_CLIP, 0.0F, 0.1F, 1e-5);
    check_offset(SER_CONV_NORM_CLIP, 1.0F, 0.1F, 2e-5);
    check_offset(SER_CONV_NORM_CLIP, 100.0F, 0.1F, 1e-3);
    check_offset(SER_CONV_NORM_LAYER, 0.0F, 0.1F, 1e-5);
    check_offset(SER_CONV_NORM_LAYER, 1.0F, 0.1F, 1e-5);
    check_offset(SER_CONV_NORM_LAYER, 100.0F, 0.1F, 3e-4);
}
END_TEST

/* No variance: y is GELU(beta), up to what the fold's factor of 1 / sqrt(eps) makes of rounding. */
static void check_no_variance(const shape *s, int32_t type, const float *pcm, double allowed)
{
    const twin_args t = args_of(s, type, (content){pcm, NULL});
    RUN_GPU(ser_wave_conv_fwd, &t.gpu);
    const float *y = gpu_values(&t.y.gpu);
    double largest = 0.0;
    for (int64_t b = 0; b < BATCH; b++) {
        for (int64_t i = 0; i < s->frames[b] * s->channels; i++) {
            const double expected = gelu((double)((const float *)t.cpu.beta.data)[i % s->channels]);
            const double away = (double)y[b * s->padded * s->channels + i] - expected;
            largest = isfinite(away) ? fmax(largest, fabs(away)) : INFINITY;
        }
    }
    ck_assert_double_le(largest, allowed);
    twins_free();
}

static void check_constant(float value, int32_t type, double allowed)
{
    const shape s = {SER_CONV_NORM_CLIP, true, 10, 5, 16, 600, {599, 1, 2, 599}};
    float pcm[BATCH * 600 * 5];
    for (int i = 0; i < BATCH * 600 * 5; i++) {
        pcm[i] = value;
    }
    check_no_variance(&s, type, pcm, allowed);
}

START_TEST(test_constant_signals)
{
    check_constant(0.0F, SER_F32, 1e-6);
    check_constant(0.0F, SER_BF16, 4e-3);
    check_constant(0.5F, SER_F32, 3e-4);
    check_constant(-0.3F, SER_BF16, 5e-3);
}
END_TEST

START_TEST(test_single_frames)
{
    const shape s = {SER_CONV_NORM_CLIP, false, 10, 5, 24, 2, {1, 1, 1, 1}};
    const shape wide = {SER_CONV_NORM_CLIP, false, 64, 16, 7, 5, {1, 1, 1, 1}};
    check_no_variance(&s, SER_F32, NULL, 3e-4);
    check_no_variance(&s, SER_BF16, NULL, 5e-3);
    check_no_variance(&wide, SER_F32, NULL, 1e-3);
}
END_TEST

/* --- GELU of either type, through a filter of one tap --- */

static void check_gelu(int32_t type, double relative, double absolute)
{
    enum { COUNT = 4000 };
    const shape s = {SER_CONV_NORM_NONE, false, 1, 1, 8, COUNT, {COUNT, COUNT, 3, 0}};
    float pcm[BATCH * COUNT] = {0.0F};
    float w[8] = {1.0F, 1.0F, -1.0F, 0.5F, 0.25F, 4.0F, 1e4F, 1e30F};
    for (int i = 0; i < COUNT; i++) {
        pcm[i] = (float)(i - COUNT / 2) / 256.0F;
        pcm[COUNT + i] = (float)(i - COUNT / 2) / 4096.0F;
    }
    pcm[2 * COUNT] = NAN;
    pcm[2 * COUNT + 1] = INFINITY;
    pcm[2 * COUNT + 2] = 3e38F;
    const twin_args t = args_of(&s, type, (content){pcm, w});
    RUN_GPU(ser_wave_conv_fwd, &t.gpu);
    const float *y = gpu_values(&t.y.gpu);
    for (int64_t i = 0; i < 2 * COUNT * 8; i++) {
        const double exact = gelu((double)(pcm[i / 8] * w[i % 8]));
        const double away = fabs((double)y[i] - exact);
        if (!(away <= relative * fabs(exact) + absolute)) {
            ck_abort_msg("GELU(%g) is %.9g, not %.9g", (double)(pcm[i / 8] * w[i % 8]),
                         (double)y[i], exact);
        }
    }
    for (int64_t i = 0; i < 8; i++) {
        const float *at = y + 2 * COUNT * 8 + i;
        ck_assert(isnan(at[0]));
        if (w[i] > 0.0F) {
            ck_assert_msg(at[8] == INFINITY, "GELU(inf) is %g", (double)at[8]);
            ck_assert_msg(at[16] >= 7e37F, "GELU(%g) is %g", (double)(3e38F * w[i]),
                          (double)at[16]);
        } else {
            ck_assert_msg(at[16] == 0.0F, "GELU(-3e38) is %g", (double)at[16]);
            if (type == SER_BF16) { /* the f32 formula has inf * 0 there, as PyTorch's */
                ck_assert_msg(at[8] == 0.0F, "GELU(-inf) is %g", (double)at[8]);
            }
        }
    }
    twins_free();
}

START_TEST(test_gelu)
{
    check_gelu(SER_F32, 1e-6, 3e-7);
    check_gelu(SER_BF16, 1.0 / 256.0, 1.7e-5);
}
END_TEST

/* --- Clips do not see each other --- */

/* A clip has the same bits alone, with another padding. */
static void check_alone(int32_t norm, int32_t type)
{
    const shape s = {norm, true, 10, 5, 16, 600, {599, 513, 64, 1}};
    const twin_args t = args_of(&s, type, (content){NULL, NULL});
    const size_t row = 16 * (type == SER_BF16 ? 2 : 4);
    RUN_GPU(ser_wave_conv_fwd, &t.gpu);
    const char *y = gpu_bytes(&t.y.gpu);
    for (int64_t b = 0; b < BATCH; b++) {
        const int64_t padded = s.frames[b] + 1 + b;
        const int32_t in = samples_of(&s, b);
        ser_wave_conv_args alone = t.gpu;
        twin x = twin_values(padded * s.stride, 1, SER_F32,
                             (const float *)t.pcm.cpu.data + b * s.padded * s.stride);
        const twin_rows rows_in = twin_rows_of(1, padded * s.stride, &in);
        twin_fill_padding(&x, &rows_in, 1e30F);
        alone.pcm = x.gpu;
        alone.rows_in = rows_in.gpu;
        alone.rows_out = twin_rows_of(1, padded, &s.frames[b]).gpu;
        alone.y = twin_output(padded, s.channels, type).gpu;
        RUN_GPU(ser_wave_conv_fwd, &alone);
        ck_assert_mem_eq(gpu_bytes(&alone.y), y + (size_t)(b * s.padded) * row,
                         (size_t)s.frames[b] * row);
    }
    twins_free();
}

START_TEST(test_clip_is_the_same_alone)
{
    for (int i = 0; i < 2; i++) {
        check_alone(SER_CONV_NORM_CLIP, types[i]);
        check_alone(SER_CONV_NORM_LAYER, types[i]);
        check_alone(SER_CONV_NORM_NONE, types[i]);
    }
}
END_TEST

/* Sample 50 of clip 1 is NaN: with the group norm so is the clip, else the frames above it. */
static void check_senseless(int32_t norm, int32_t type)
{
    const shape s = {norm, false, 10, 5, 16, 20, {19, 17, 1, 12}};
    const twin_args plain = args_of(&s, type, (content){NULL, NULL});
    float *pcm = plain.pcm.cpu.data;
    pcm[20 * 5 + 50] = NAN;
    const twin_args t = args_of(&s, type, (content){pcm, NULL});
    RUN_GPU(ser_wave_conv_fwd, &t.gpu);
    const float *y = gpu_values(&t.y.gpu);
    for (int64_t i = 0; i < BATCH * 20 * 16; i++) {
        const int64_t clip = i / 16 / 20;
        const int64_t frame = i / 16 % 20;
        const bool above = norm == SER_CONV_NORM_CLIP ? frame < 17 : frame == 9 || frame == 10;
        if (clip == 1 && above ? !isnan(y[i]) : !isfinite(y[i])) {
            ck_abort_msg("clip %d, frame %d: %g", (int)clip, (int)frame, (double)y[i]);
        }
    }
    twins_free();
}

START_TEST(test_same_bits_twice)
{
    for (int i = 0; i < 6; i++) {
        const int32_t norm = i / 2;
        const shape s = {norm, true, 10, 5, 24, 600, {599, 513, 64, 1}};
        const twin_args t = args_of(&s, types[i % 2], (content){NULL, NULL});
        const size_t size = BATCH * 600 * 24 * (types[i % 2] == SER_BF16 ? 2 : 4);
        RUN_GPU(ser_wave_conv_fwd, &t.gpu);
        const void *first = gpu_bytes(&t.y.gpu);
        RUN_GPU(ser_wave_conv_fwd, &t.gpu);
        ck_assert_mem_eq(gpu_bytes(&t.y.gpu), first, size);
        twins_free();
    }
}
END_TEST

START_TEST(test_senseless_samples_stay_where_they_are)
{
    for (int i = 0; i < 2; i++) {
        check_senseless(SER_CONV_NORM_CLIP, types[i]);
        check_senseless(SER_CONV_NORM_LAYER, types[i]);
        check_senseless(SER_CONV_NORM_NONE, types[i]);
    }
}
END_TEST

CUDA_SUITE("cuda_wave_conv", test_group_norm, test_layer_norm, test_no_norm,
           test_unwieldy_strides_are_refused, test_offsets_do_not_spoil_the_norm,
           test_constant_signals, test_single_frames, test_gelu, test_clip_is_the_same_alone,
           test_same_bits_twice, test_senseless_samples_stay_where_they_are)
