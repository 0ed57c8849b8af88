/* SPDX-License-Identifier: MIT */
/*
 * The CPU ops at the shapes of wav2vec2-base, one 5 s clip, as a share of the multiply-add peak
 * that is probed in the same run between them. Usage: bench_ops [threads] [rounds]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/fail.h"
#include "base/mem.h"
#include "ops/ops.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct bench {
    const char *name;
    double gflop;
    double best; /* seconds */
    int (*run)(ser_queue *queue, const void *args);
    const void *args;
} bench;

static ser_context *context;
static ser_queue *queue;

static void *must(void *memory)
{
    if (memory == NULL) {
        fprintf(stderr, "%s\n", ser_fail_text());
        exit(1);
    }
    return memory;
}

static void must_not_fail(int status)
{
    if (status != 0) {
        fprintf(stderr, "%s\n", ser_fail_text());
        exit(1);
    }
}

static ser_tensor tensor(int64_t rows, int64_t cols)
{
    float *x = must(ser_mem_alloc((size_t)((rows + 8) * cols), sizeof *x));
    for (int64_t i = 0; i < rows * cols; i++) {
        x[i] = (float)(i % 17) * 0.01F - 0.08F;
    }
    return ser_tensor_f32(x, rows, cols);
}

static ser_weight *weight(int64_t rows, int64_t cols, int64_t groups)
{
    ser_weight *w = NULL;
    ser_tensor values = tensor(rows * groups, cols);
    must_not_fail(ser_cpu_ops.weight_create(
        context, &(ser_weight_spec){.rows = rows, .cols = cols, .groups = groups}, &w));
    must_not_fail(ser_cpu_ops.weight_set(queue, w, values.data));
    ser_mem_free(values.data);
    return w;
}

/* Multiply-adds in registers only, twelve independent chains of one vector each: the core's peak.
 */
#define PEAK(name, lanes, attribute)                                                               \
    attribute static double name(void)                                                             \
    {                                                                                              \
        typedef float vec __attribute__((vector_size(lanes * 4)));                                 \
        enum { CHAINS = 12, STEPS = 2000000 };                                                     \
        vec x[CHAINS];                                                                             \
        volatile float first = 0.0F;                                                               \
        for (int j = 0; j < CHAINS; j++) {                                                         \
            x[j] = (vec){0} + first; /* not known to be equal */                                   \
        }                                                                                          \
        const vec a = (vec){0} + 0.999F;                                                           \
        const vec b = (vec){0} + 0.001F;                                                           \
        const double start = now();                                                                \
        for (int i = 0; i < STEPS; i++) {                                                          \
            _Pragma("GCC unroll 16") for (int j = 0; j < CHAINS; j++)                              \
            {                                                                                      \
                x[j] = x[j] * a + b;                                                               \
            }                                                                                      \
        }                                                                                          \
        const double seconds = now() - start;                                                      \
        volatile float sink = 0.0F;                                                                \
        for (int j = 0; j < CHAINS; j++) {                                                         \
            sink = sink + x[j][0];                                                                 \
        }                                                                                          \
        return 2e-9 * CHAINS * STEPS * lanes / seconds;                                            \
    }

#if defined(__x86_64__)
PEAK(peak_avx512, 16, __attribute__((target("avx512f,fma"))))
PEAK(peak_avx2, 8, __attribute__((target("avx2,fma"))))
#endif
PEAK(peak_plain, 4, )

/* GFLOP/s of one core. */
static double peak(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) {
        return peak_avx512();
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return peak_avx2();
    }
#endif
    return peak_plain();
}

static int run_linear(ser_queue *q, const void *args)
{
    return ser_linear_fwd(q, args);
}

static int run_conv(ser_queue *q, const void *args)
{
    return ser_conv_fwd(q, args);
}

static int run_wave_conv(ser_queue *q, const void *args)
{
    return ser_wave_conv_fwd(q, args);
}

static int run_pos_conv(ser_queue *q, const void *args)
{
    return ser_pos_conv_fwd(q, args);
}

static int run_attention(ser_queue *q, const void *args)
{
    return ser_attention_fwd(q, args);
}

static int run_norm(ser_queue *q, const void *args)
{
    return ser_residual_norm_fwd(q, args);
}

static void plan(const bench *b)
{
    queue->planning = true;
    must_not_fail(b->run(queue, b->args));
    must_not_fail(ser_queue_reserve(queue));
}

static void measure(bench *b)
{
    double start = now();
    must_not_fail(b->run(queue, b->args));
    double seconds = now() - start;
    if (b->best == 0.0 || seconds < b->best) {
        b->best = seconds;
    }
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    const int rounds = argc > 2 ? atoi(argv[2]) : 20;
    const char *name;
    must_not_fail(ser_cpu_ops.open(0, &context, &name));
    must_not_fail(ser_cpu_ops.queue_create(context, threads, &queue));

    static const int32_t frames[] = {249}, l0[] = {15999}, l1[] = {7999}, samples[] = {80000};
    const ser_rows rows = {.batch = 1, .padded = 250, .valid = frames};
    const ser_rows rows0 = {.batch = 1, .padded = 16000, .valid = l0};
    const ser_rows rows1 = {.batch = 1, .padded = 8000, .valid = l1};
    ser_tensor h = tensor(250, 768);
    ser_tensor wide = tensor(250, 3072);
    ser_tensor features = tensor(16000, 512);
    ser_tensor bias = tensor(1, 3072);
    ser_tensor bias768 = ser_tensor_f32(bias.data, 1, 768);
    ser_tensor bias512 = ser_tensor_f32(bias.data, 1, 512);
    const ser_linear_args qkv = {
        .x = h, .rows = rows, .w = weight(2304, 768, 1), .y = tensor(250, 2304)};
    const ser_linear_args ffn_in = {.x = h,
                                    .rows = rows,
                                    .w = weight(3072, 768, 1),
                                    .bias = bias,
                                    .activation = SER_ACT_GELU,
                                    .y = wide};
    const ser_linear_args ffn_out = {.x = wide, .rows = rows, .w = weight(768, 3072, 1), .y = h};
    const ser_conv_args conv1 = {.x = features,
                                 .rows_in = rows0,
                                 .rows_out = rows1,
                                 .kernel = 3,
                                 .stride = 2,
                                 .w = weight(512, 1536, 1),
                                 .y = tensor(8000, 512)};
    const ser_wave_conv_args conv0 = {.pcm = tensor(80000, 1),
                                      .rows_in = {.batch = 1, .padded = 80000, .valid = samples},
                                      .rows_out = rows0,
                                      .kernel = 10,
                                      .stride = 5,
                                      .norm = SER_CONV_NORM_CLIP,
                                      .w = tensor(512, 10),
                                      .gamma = bias512,
                                      .beta = bias512,
                                      .y = features};
    const ser_pos_conv_args position = {.x = h,
                                        .rows = rows,
                                        .kernel = 128,
                                        .groups = 16,
                                        .w = weight(48, 128 * 48, 16),
                                        .bias = bias768,
                                        .y = tensor(250, 768)};
    const ser_attention_args attention = {
        .qkv = qkv.y, .rows = rows, .heads = 12, .scale = 0.125F, .y = tensor(250, 768)};
    const ser_residual_norm_args norm = {.x = h,
                                         .h = attention.y,
                                         .rows = rows,
                                         .gamma = bias768,
                                         .beta = bias768,
                                         .eps = 1e-5F,
                                         .y = tensor(250, 768)};
    bench benches[] = {
        {.name = "wave_conv 10/5 + norm + gelu",
         .gflop = 0.164,
         .run = run_wave_conv,
         .args = &conv0},
        {.name = "conv 3/2 512x512 (layer 1)", .gflop = 12.58, .run = run_conv, .args = &conv1},
        {.name = "pos_conv 128, 16 groups", .gflop = 2.35, .run = run_pos_conv, .args = &position},
        {.name = "linear 768 -> 2304", .gflop = 0.881, .run = run_linear, .args = &qkv},
        {.name = "linear 768 -> 3072 + gelu", .gflop = 1.175, .run = run_linear, .args = &ffn_in},
        {.name = "linear 3072 -> 768", .gflop = 1.175, .run = run_linear, .args = &ffn_out},
        {.name = "attention 12 heads", .gflop = 0.19, .run = run_attention, .args = &attention},
        {.name = "residual_norm", .gflop = 0.0, .run = run_norm, .args = &norm},
    };
    const int count = sizeof benches / sizeof *benches;
    double top = 0.0;
    for (int r = 0; r < rounds; r++) {
        const double probe = peak() * threads;
        top = probe > top ? probe : top;
        for (int i = 0; i < count; i++) {
            plan(&benches[i]);
            measure(&benches[i]);
        }
    }
    printf("%s, %d thread(s), best of %d, peak %.0f GFLOP/s\n", name, threads, rounds, top);
    for (int i = 0; i < count; i++) {
        const double rate = benches[i].gflop / benches[i].best;
        printf("%-32s %9.3f ms %8.1f GFLOP/s %5.0f %%\n", benches[i].name, 1e3 * benches[i].best,
               rate, 100.0 * rate / top);
    }
    return 0;
}
