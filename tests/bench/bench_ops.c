/* SPDX-License-Identifier: MIT */
/*
 * The CPU ops at the shapes of wav2vec2-base, as a share of the multiply-add peak that is probed in
 * the same run between them: prediction with one 5 s clip, then the products of a training step with
 * eight, and those of the small network. Usage: bench_ops [threads] [rounds]
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
    char name[48];
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

#define RUN_OP(op, type)                                                                           \
    static int run_##op(ser_queue *q, const void *args)                                            \
    {                                                                                              \
        return ser_##op(q, (const type *)args);                                                    \
    }

RUN_OP(linear_fwd, ser_linear_args)
RUN_OP(linear_bwd, ser_linear_args)
RUN_OP(conv_fwd, ser_conv_args)
RUN_OP(conv_bwd, ser_conv_args)
RUN_OP(wave_conv_fwd, ser_wave_conv_args)
RUN_OP(wave_conv_bwd, ser_wave_conv_args)
RUN_OP(pos_conv_fwd, ser_pos_conv_args)
RUN_OP(pos_conv_bwd, ser_pos_conv_args)
RUN_OP(weight_norm_fwd, ser_weight_norm_args)
RUN_OP(weight_norm_bwd, ser_weight_norm_args)
RUN_OP(attention_fwd, ser_attention_args)
RUN_OP(residual_norm_fwd, ser_residual_norm_args)

static void plan(const bench *b)
{
    queue->planning = true;
    must_not_fail(b->run(queue, b->args));
    must_not_fail(ser_queue_reserve(queue, NULL));
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

static bench benches[64];
static int count;

static void add(const char *name, double gflop, int (*run)(ser_queue *, const void *),
                const void *args)
{
    bench *b = &benches[count++];
    snprintf(b->name, sizeof b->name, "%s", name);
    b->gflop = gflop;
    b->run = run;
    b->args = args;
}

/* One clip of 5 s. */
static void add_prediction(void)
{
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
    static ser_linear_args qkv;
    qkv =
        (ser_linear_args){.x = h, .rows = rows, .w = weight(2304, 768, 1), .y = tensor(250, 2304)};
    static ser_linear_args ffn_in;
    ffn_in = (ser_linear_args){.x = h,
                               .rows = rows,
                               .w = weight(3072, 768, 1),
                               .bias = bias,
                               .activation = SER_ACT_GELU,
                               .y = wide};
    static ser_linear_args ffn_out;
    ffn_out = (ser_linear_args){.x = wide, .rows = rows, .w = weight(768, 3072, 1), .y = h};
    static ser_conv_args conv1;
    conv1 = (ser_conv_args){.x = features,
                            .rows_in = rows0,
                            .rows_out = rows1,
                            .kernel = 3,
                            .stride = 2,
                            .w = weight(512, 1536, 1),
                            .y = tensor(8000, 512)};
    static ser_wave_conv_args conv0;
    conv0 = (ser_wave_conv_args){.pcm = tensor(80000, 1),
                                 .rows_in = {.batch = 1, .padded = 80000, .valid = samples},
                                 .rows_out = rows0,
                                 .kernel = 10,
                                 .stride = 5,
                                 .norm = SER_CONV_NORM_CLIP,
                                 .w = tensor(512, 10),
                                 .gamma = bias512,
                                 .beta = bias512,
                                 .y = features};
    static ser_pos_conv_args position;
    position = (ser_pos_conv_args){.x = h,
                                   .rows = rows,
                                   .kernel = 128,
                                   .groups = 16,
                                   .w = weight(48, 128 * 48, 16),
                                   .bias = bias768,
                                   .y = tensor(250, 768)};
    static ser_attention_args attention;
    attention = (ser_attention_args){
        .qkv = qkv.y, .rows = rows, .heads = 12, .scale = 0.125F, .y = tensor(250, 768)};
    static ser_residual_norm_args norm;
    norm = (ser_residual_norm_args){.x = h,
                                    .h = attention.y,
                                    .rows = rows,
                                    .gamma = bias768,
                                    .beta = bias768,
                                    .eps = 1e-5F,
                                    .y = tensor(250, 768)};
    add("wave_conv 10/5 + norm + gelu", 0.164, run_wave_conv_fwd, &conv0);
    add("conv 3/2 512x512 (layer 1)", 12.58, run_conv_fwd, &conv1);
    add("pos_conv 128, 16 groups", 2.35, run_pos_conv_fwd, &position);
    add("linear 768 -> 2304", 0.881, run_linear_fwd, &qkv);
    add("linear 768 -> 3072 + gelu", 1.175, run_linear_fwd, &ffn_in);
    add("linear 3072 -> 768", 1.175, run_linear_fwd, &ffn_out);
    add("attention 12 heads", 0.19, run_attention_fwd, &attention);
    add("residual_norm", 0.0, run_residual_norm_fwd, &norm);
}

enum { MAX_CLIPS = 32 };

/* `clips` clips with one frame of padding each. */
static ser_rows clips_of(int64_t clips, int64_t padded)
{
    int32_t *valid = must(ser_mem_alloc(MAX_CLIPS, sizeof *valid));
    for (int i = 0; i < MAX_CLIPS; i++) {
        valid[i] = (int32_t)padded - 1;
    }
    return (ser_rows){.batch = clips, .padded = padded, .valid = valid};
}

static void *kept(const void *args, size_t size)
{
    void *copy = must(ser_mem_alloc(1, size));
    memcpy(copy, args, size);
    return copy;
}

/* Forward, then backward with only dx, then with only dw. */
static void add_linear(int64_t clips, int64_t padded, int64_t k, int64_t n)
{
    const int64_t rows = clips * padded;
    ser_linear_args args = {
        .x = tensor(rows, k), .rows = clips_of(clips, padded), .w = weight(n, k, 1)};
    const double gflop = 2e-9 * (double)(rows * k) * (double)n;
    char name[48];
    args.y = tensor(rows, n);
    snprintf(name, sizeof name, "linear %d x %d -> %d", (int)rows, (int)k, (int)n);
    add(name, gflop, run_linear_fwd, kept(&args, sizeof args));
    args.dy = args.y;
    args.dx = tensor(rows, k);
    add("  dx", gflop, run_linear_bwd, kept(&args, sizeof args));
    args.dx = (ser_tensor){0};
    args.dw = tensor(n, k);
    args.dbias = tensor(1, n);
    add("  dw, dbias", gflop, run_linear_bwd, kept(&args, sizeof args));
}

static void add_conv(int64_t clips, int64_t padded, int32_t kernel, int64_t in, int64_t out)
{
    const int64_t rows = clips * padded;
    ser_conv_args args = {.x = tensor(2 * rows, in),
                          .rows_in = clips_of(clips, 2 * padded),
                          .rows_out = clips_of(clips, padded),
                          .kernel = kernel,
                          .stride = 2,
                          .w = weight(out, kernel * in, 1),
                          .y = tensor(rows, out),
                          .z = tensor(rows, out)};
    const double gflop = 2e-9 * (double)(rows * kernel * in) * (double)out;
    char name[48];
    snprintf(name, sizeof name, "conv %d/2 %d x %d -> %d", kernel, (int)rows, (int)in, (int)out);
    add(name, gflop, run_conv_fwd, kept(&args, sizeof args));
    args.dy = args.y;
    args.dx = tensor(2 * rows, in);
    add("  dx", gflop, run_conv_bwd, kept(&args, sizeof args));
    args.dx = (ser_tensor){0};
    args.dw = tensor(out, kernel * in);
    add("  dw", gflop, run_conv_bwd, kept(&args, sizeof args));
}

static void add_wave_conv(int64_t clips)
{
    const int64_t rows = clips * 16000;
    ser_wave_conv_args args = {.pcm = tensor(5 * rows, 1),
                               .rows_in = clips_of(clips, 80000),
                               .rows_out = clips_of(clips, 16000),
                               .kernel = 10,
                               .stride = 5,
                               .norm = SER_CONV_NORM_CLIP,
                               .w = tensor(512, 10),
                               .gamma = tensor(1, 512),
                               .beta = tensor(1, 512),
                               .y = tensor(rows, 512),
                               .z = tensor(rows, 512)};
    add("wave_conv + group norm, 2 clips", 1e-9 * (double)rows * 10240, run_wave_conv_fwd,
        kept(&args, sizeof args));
    args.dy = args.y;
    args.dw = tensor(512, 10);
    args.dgamma = tensor(1, 512);
    add("  dw, dgamma", 1e-9 * (double)rows * 10240, run_wave_conv_bwd, kept(&args, sizeof args));
}

static void add_pos_conv(int64_t clips)
{
    const int64_t rows = clips * 250;
    ser_pos_conv_args args = {.x = tensor(rows, 768),
                              .rows = clips_of(clips, 250),
                              .kernel = 128,
                              .groups = 16,
                              .w = weight(48, 128 * 48, 16),
                              .bias = tensor(1, 768),
                              .y = tensor(rows, 768),
                              .z = tensor(rows, 768)};
    const double gflop = 2e-9 * (double)(rows * 768) * 6144;
    add("pos_conv, 8 clips", gflop, run_pos_conv_fwd, kept(&args, sizeof args));
    args.dy = args.y;
    args.dx = tensor(rows, 768);
    add("  dx", gflop, run_pos_conv_bwd, kept(&args, sizeof args));
    args.dx = (ser_tensor){0};
    args.dw = tensor(768, 6144);
    add("  dw", gflop, run_pos_conv_bwd, kept(&args, sizeof args));
    ser_weight_norm_args norm = {.g = tensor(1, 128),
                                 .v = tensor(768, 6144),
                                 .kernel = 128,
                                 .groups = 16,
                                 .w = weight(48, 128 * 48, 16)};
    add("weight_norm", 0.0, run_weight_norm_fwd, kept(&norm, sizeof norm));
    norm.dw = args.dw;
    norm.dg = tensor(1, 128);
    norm.dv = tensor(768, 6144);
    add("  dg, dv", 0.0, run_weight_norm_bwd, kept(&norm, sizeof norm));
}

static void add_training(void)
{
    add_linear(8, 250, 768, 2304);
    add_linear(8, 250, 768, 768);
    add_linear(8, 250, 768, 3072);
    add_linear(8, 250, 3072, 768);
    add_linear(32, 33, 128, 256);
    add_linear(32, 33, 256, 128);
    add_conv(2, 8000, 3, 512, 512);
    add_conv(32, 66, 3, 96, 128);
    add_wave_conv(2);
    add_pos_conv(8);
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    const int rounds = argc > 2 ? atoi(argv[2]) : 20;
    const char *name;
    must_not_fail(ser_cpu_ops.open(0, &context, &name));
    must_not_fail(ser_cpu_ops.queue_create(context, threads, &queue));
    add_prediction();
    add_training();
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
