/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 4 };

static const int32_t types[] = {SER_F32, SER_BF16};
static const double PI = 3.14159265358979323846;

typedef struct shape {
    int32_t frame, hop, fft;
    int64_t bins;
    int64_t padded;        /* frames */
    int32_t frames[BATCH]; /* of each clip */
} shape;

typedef struct twin_args {
    twin y;
    twin_rows rows;
    int64_t samples; /* padded */
    ser_log_mel_args cpu, gpu;
} twin_args;

/* A weight of given values. */
static void set_weights(int64_t rows, int64_t cols, int64_t groups, const float *values,
                        const ser_weight **on_cpu, const ser_weight **on_gpu)
{
    const size_t size = (size_t)(rows * cols * groups) * sizeof *values;
    const twin_weight w = twin_weight_of(rows, cols, groups, SER_F32, 1, 1.0F);
    assert_ok(cpu.ops->weight_set(cpu.queue, w.cpu, values));
    assert_ok(gpu.ops->weight_set(gpu.queue, w.gpu, gpu_copy(values, size)));
    assert_ok(gpu.ops->sync(gpu.queue));
    *on_cpu = w.cpu;
    *on_gpu = w.gpu;
}

/* The window times cosines and sines around the middle of the frame, as ops.h has it. */
static void set_dft(const shape *s, twin_args *t)
{
    const int64_t freqs = s->fft / 2 + 1;
    const int64_t half = s->frame / 2;
    float *values = ser_mem_alloc((size_t)(2 * freqs * half), sizeof *values);
    for (int64_t f = 0; f < freqs; f++) {
        for (int64_t j = 1; j <= half; j++) {
            const double window = 0.5 - 0.5 * cos(2.0 * PI * (double)j / s->frame);
            const double phase = 2.0 * PI * (double)f * ((double)j - s->frame / 2.0) / s->fft;
            values[f * half + j - 1] = (float)(window * cos(phase));
            values[(freqs + f) * half + j - 1] = (float)(window * sin(phase));
        }
    }
    set_weights(freqs, half, 2, values, &t->cpu.dft, &t->gpu.dft);
    ser_mem_free(values);
}

/* Triangles of equal width: each reaches the peaks of its neighbours, none is below zero. */
static void set_mel(const shape *s, twin_args *t)
{
    const int64_t freqs = s->fft / 2 + 1;
    const double step = (double)freqs / (double)(s->bins + 1);
    float *values = ser_mem_alloc((size_t)(s->bins * freqs), sizeof *values);
    for (int64_t b = 0; b < s->bins; b++) {
        for (int64_t f = 0; f < freqs; f++) {
            const double away = fabs((double)f - step * (double)(b + 1)) / fmax(step, 1.0);
            values[b * freqs + f] = away < 1.0 ? (float)(1.0 - away) : 0.0F;
        }
    }
    set_weights(s->bins, freqs, 1, values, &t->cpu.mel, &t->gpu.mel);
    ser_mem_free(values);
}

/* Statistics of the bins: means around -6, deviations around 2. */
static twin vector(int64_t bins, uint64_t seed, float middle)
{
    float *values = ser_mem_alloc((size_t)bins, sizeof *values);
    harness_fill(values, (size_t)bins, seed, 0.5F);
    for (int64_t i = 0; i < bins; i++) {
        values[i] += middle;
    }
    const twin t = twin_values(1, bins, SER_F32, values);
    ser_mem_free(values);
    return t;
}

static int32_t samples_of(const shape *s, int64_t clip)
{
    return s->frames[clip] > 0 ? s->frame + (s->frames[clip] - 1) * s->hop + (int32_t)clip : 0;
}

/* pcm [BATCH * samples]; NULL: noise. NaN behind each clip. */
static twin_args args_of(const shape *s, int32_t type, const float *pcm)
{
    int32_t in[BATCH];
    twin_args t = {.samples = 0};
    for (int64_t b = 0; b < BATCH; b++) {
        in[b] = samples_of(s, b);
        t.samples = in[b] > t.samples ? in[b] : t.samples;
    }
    t.samples += 5;
    twin x = pcm != NULL ? twin_values(BATCH * t.samples, 1, SER_F32, pcm)
                         : twin_input(BATCH * t.samples, 1, SER_F32, 1, 0.3F, 0);
    const twin_rows samples = twin_rows_of(BATCH, t.samples, in);
    const twin mean = vector(s->bins, 4, -6.0F);
    const twin std = vector(s->bins, 5, 2.0F);
    twin_fill_padding(&x, &samples, NAN);
    t.y = twin_output(BATCH * s->padded, s->bins, type);
    t.rows = twin_rows_of(BATCH, s->padded, s->frames);
    t.cpu = (ser_log_mel_args){.pcm = x.cpu,
                               .rows_in = samples.cpu,
                               .rows_out = t.rows.cpu,
                               .frame = s->frame,
                               .hop = s->hop,
                               .floor = 1e-7F,
                               .mean = mean.cpu,
                               .std = std.cpu,
                               .y = t.y.cpu};
    t.gpu = t.cpu;
    t.gpu.pcm = x.gpu;
    t.gpu.rows_in = samples.gpu;
    t.gpu.rows_out = t.rows.gpu;
    t.gpu.mean = mean.gpu;
    t.gpu.std = std.gpu;
    t.gpu.y = t.y.gpu;
    set_dft(s, &t);
    set_mel(s, &t);
    return t;
}

/* The ln makes relative errors of the power absolute ones: sums of `frame` and `freqs` f32 terms,
 * which cancel to a tenth in noise, leave 1e-5 of a y of order 1. bf16 rounds y once, by 2^-8 at
 * most. */
static double tolerance(int32_t type)
{
    return type == SER_BF16 ? 4e-3 : 3e-5;
}

static void check_shape(shape s, int32_t type)
{
    const twin_args t = args_of(&s, type, NULL);
    RUN_CPU(ser_log_mel_fwd, &t.cpu);
    RUN_GPU(ser_log_mel_fwd, &t.gpu);
    twin_check("y", &t.y, &t.rows, tolerance(type), true);
    twin_check_slack("y", &t.y);
    twins_free();
}

START_TEST(test_agrees_with_cpu)
{
    for (int i = 0; i < 2; i++) {
        check_shape((shape){400, 160, 512, 80, 7, {7, 1, 3, 6}}, types[i]); /* ser-mini */
        check_shape((shape){41, 16, 64, 9, 150, {150, 1, 0, 129}}, types[i]);
        check_shape((shape){64, 64, 64, 33, 66, {65, 64, 63, 2}}, types[i]);
        check_shape((shape){3, 5, 4, 1, 70, {66, 1, 1, 70}}, types[i]);
        check_shape((shape){2, 1, 2, 2, 5, {5, 4, 2, 1}}, types[i]);
    }
}
END_TEST

/* Spectra of more than 64 MiB are made in parts. */
START_TEST(test_large_batch)
{
    check_shape((shape){2, 1, 2048, 2, 2100, {2099, 2000, 1, 2100}}, SER_F32);
}
END_TEST

/* Zeros: every cell is ln(floor). Beside it a clip of full scale. */
START_TEST(test_silence)
{
    const shape s = {400, 160, 512, 80, 4, {4, 3, 1, 2}};
    float pcm[BATCH * 1100] = {0.0F};
    const int64_t samples = args_of(&s, SER_F32, pcm).samples;
    ck_assert_int_le(BATCH * samples, BATCH * 1100);
    twins_free();
    harness_fill(pcm + samples, (size_t)samples, 7, 1.0F);
    for (int i = 0; i < 2; i++) {
        const twin_args t = args_of(&s, types[i], pcm);
        RUN_CPU(ser_log_mel_fwd, &t.cpu);
        RUN_GPU(ser_log_mel_fwd, &t.gpu);
        twin_check("y", &t.y, &t.rows, tolerance(types[i]), true);
        const float *y = gpu_values(&t.y.gpu);
        ck_assert_mem_eq(y, y + 3 * 80, 80 * sizeof *y); /* the frames of silence are equal */
        twins_free();
    }
}
END_TEST

/* A NaN or an infinity reaches its whole clip through the level, and nothing else. */
START_TEST(test_senseless_samples_stay_in_their_clip)
{
    const shape s = {40, 16, 64, 9, 70, {70, 40, 65, 1}};
    const twin_args plain = args_of(&s, SER_F32, NULL);
    float *pcm = plain.cpu.pcm.data;
    pcm[plain.samples + 100] = NAN;
    pcm[2 * plain.samples + 100] = INFINITY;
    for (int i = 0; i < 2; i++) {
        const twin_args t = args_of(&s, types[i], pcm);
        RUN_GPU(ser_log_mel_fwd, &t.gpu);
        const float *y = gpu_values(&t.y.gpu);
        for (int64_t b = 0; b < BATCH; b++) {
            for (int64_t r = 0; r < s.padded * s.bins; r++) {
                const float value = y[b * s.padded * s.bins + r];
                const bool senseless = (b == 1 || b == 2) && r < s.frames[b] * s.bins;
                if (isfinite(value) == senseless) {
                    ck_abort_msg("clip %d, cell %d: %g", (int)b, (int)r, (double)value);
                }
            }
        }
    }
}
END_TEST

/* With the products of the emulation a clip has the same bits alone, under any padding; a card may
 * choose another algorithm for another number of rows. */
START_TEST(test_clip_is_the_same_alone)
{
    const shape s = {40, 16, 64, 9, 200, {200, 130, 65, 1}};
    const twin_args t = args_of(&s, SER_F32, NULL);
    RUN_GPU(ser_log_mel_fwd, &t.gpu);
    const float *y = gpu_values(&t.y.gpu);
    for (int64_t b = 0; b < BATCH; b++) {
        const int64_t padded = s.frames[b] + 3 * b;
        const int32_t in = samples_of(&s, b);
        const twin out = twin_output(padded, s.bins, SER_F32);
        const float *pcm = (const float *)t.cpu.pcm.data + b * t.samples;
        ser_log_mel_args alone = t.gpu;
        alone.pcm = twin_values(in, 1, SER_F32, pcm).gpu;
        alone.rows_in = twin_rows_of(1, in, &in).gpu;
        alone.rows_out = twin_rows_of(1, padded, &s.frames[b]).gpu;
        alone.y = out.gpu;
        RUN_GPU(ser_log_mel_fwd, &alone);
        const float *own = gpu_values(&out.gpu);
        const float *among = y + b * s.padded * s.bins;
        for (int64_t i = 0; i < s.frames[b] * s.bins; i++) {
            const double away = fabs((double)own[i] - (double)among[i]);
            if (!(getenv("SER_TEST_CUDA") == NULL ? away == 0.0 : away < 1e-4)) {
                ck_abort_msg("clip %d, cell %d: %g apart", (int)b, (int)i, away);
            }
        }
    }
}
END_TEST

START_TEST(test_same_bits_twice)
{
    const shape s = {41, 16, 64, 9, 150, {150, 1, 0, 129}};
    for (int i = 0; i < 2; i++) {
        const twin_args t = args_of(&s, types[i], NULL);
        const size_t size = (size_t)(t.y.gpu.rows * t.y.gpu.cols) * (i == 0 ? 4 : 2);
        RUN_GPU(ser_log_mel_fwd, &t.gpu);
        const void *first = gpu_bytes(&t.y.gpu);
        RUN_GPU(ser_log_mel_fwd, &t.gpu);
        ck_assert_mem_eq(gpu_bytes(&t.y.gpu), first, size);
        twins_free();
    }
}
END_TEST

CUDA_SUITE("cuda_log_mel", test_agrees_with_cpu, test_large_batch, test_silence,
           test_senseless_samples_stay_in_their_clip, test_clip_is_the_same_alone,
           test_same_bits_twice)
