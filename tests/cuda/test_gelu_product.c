/* SPDX-License-Identifier: MIT */
/* GELU(x W^T + b) by one kernel, in each of its variants, through the ops that use it. */
#include "fixture.h"

#include "ops/cuda/cuda.h"
#include "ops/cuda/gelu_product.h"

static const char *const variants[] = {"128x256", "128x128", "128x64", "64x96", "64x64", "64x32"};
enum { VARIANTS = sizeof variants / sizeof *variants };

static void choose(const char *variant)
{
    setenv("SER_GELU_PRODUCT", variant, 1);
}

static void poison(const twin *y)
{
    const size_t bytes = (size_t)(y->gpu.rows * y->gpu.cols) * 2;
    void *nan = ser_mem_alloc_raw(bytes, 1);
    ck_assert_ptr_nonnull(nan);
    memset(nan, 0xFF, bytes);
    assert_ok(gpu.ops->upload(gpu.queue, y->gpu.data, nan, bytes));
    assert_ok(gpu.ops->sync(gpu.queue));
    ser_mem_free(nan);
}

/* Runs a test's call on the card. */
typedef void (*runner)(const void *test);

/* y's bytes by every variant are those by the first one, and the values that the CPU has made. */
static void check_variants(runner run, const void *test, const twin *y, const twin_rows *rows)
{
    const void *first = NULL;
    for (int v = 0; v < VARIANTS; v++) {
        poison(y);
        choose(variants[v]);
        run(test);
        twin_check(variants[v], y, rows, BF16_TOLERANCE, rows != NULL);
        twin_check_slack(variants[v], y);
        const void *bytes = gpu_bytes(&y->gpu);
        first = first == NULL ? bytes : first;
        if (memcmp(bytes, first, (size_t)(y->gpu.rows * y->gpu.cols) * 2) != 0) {
            ck_abort_msg("%s: other bits than %s", variants[v], variants[0]);
        }
    }
    unsetenv("SER_GELU_PRODUCT");
}

/* Whether the kernel makes a difference to y: the sums of the other way are rounded before the GELU.
 * By itself the emulation takes the other way, since it measures nothing. */
static bool differs(runner run, const void *test, const ser_tensor *y)
{
    const size_t bytes = (size_t)(y->rows * y->cols) * 2;
    choose("1");
    run(test);
    const void *one = gpu_bytes(y);
    choose("0");
    run(test);
    const void *zero = gpu_bytes(y);
    unsetenv("SER_GELU_PRODUCT");
    run(test);
    ck_assert(gpu.ops != &ser_cuda_ops || memcmp(gpu_bytes(y), zero, bytes) == 0);
    return memcmp(one, zero, bytes) != 0;
}

/* --- Linear layers --- */

typedef struct linear {
    twin x, y;
    twin_weight w;
    ser_linear_args cpu, gpu;
} linear;

/* One clip. */
static linear linear_of(int64_t m, int64_t n, int64_t k, bool bias)
{
    const int32_t all = (int32_t)m;
    const twin_rows rows = twin_rows_of(1, m, &all);
    linear t = {.x = twin_input(m, k, SER_BF16, 1, 1.0F, 0),
                .y = twin_output(m, n, SER_BF16),
                .w = twin_weight_of(n, k, 1, SER_BF16, 2, 3.0F / sqrtf((float)k))};
    t.cpu = (ser_linear_args){.x = t.x.cpu, .y = t.y.cpu, .activation = SER_ACT_GELU};
    t.gpu = (ser_linear_args){.x = t.x.gpu, .y = t.y.gpu, .activation = SER_ACT_GELU};
    t.cpu.w = t.w.cpu;
    t.gpu.w = t.w.gpu;
    t.cpu.rows = rows.cpu;
    t.gpu.rows = rows.gpu;
    if (bias) {
        const twin b = twin_input(1, n, SER_BF16, 3, 1.0F, 0);
        t.cpu.bias = b.cpu;
        t.gpu.bias = twin_values(1, n, SER_F32, b.cpu.data).gpu;
        t.gpu.bias_bf16 = b.gpu;
    }
    return t;
}

static void run_linear(const void *test)
{
    const linear *t = test;
    RUN_GPU(ser_linear_fwd, &t->gpu);
}

static void check_linear(int64_t m, int64_t n, int64_t k, bool bias)
{
    linear t = linear_of(m, n, k, bias);
    RUN_CPU(ser_linear_fwd, &t.cpu);
    check_variants(run_linear, &t, &t.y, NULL);
    twins_free();
}

START_TEST(test_linear)
{
    check_linear(1, 8, 8, true);
    check_linear(63, 24, 24, false);
    check_linear(64, 72, 40, true);
    check_linear(65, 32, 64, true);
    check_linear(129, 136, 104, true);
    check_linear(2, 96, 768, false);
    check_linear(250, 384, 72, true);
    check_linear(17, 264, 200, true);
}
END_TEST

/* Tiles in groups of eight, the last one smaller. */
START_TEST(test_many_tiles)
{
    check_linear(1100, 264, 8, true);
}
END_TEST

/* A row's bits depend on nothing but its own inputs: alone, among others, beside NaN. */
START_TEST(test_rows_alone)
{
    enum { M = 70, N = 40, K = 136, ROW = 66 };
    for (int v = 0; v < VARIANTS; v++) {
        choose(variants[v]);
        linear t = linear_of(M, N, K, true);
        const int32_t one = 1;
        const int32_t before = ROW;
        RUN_GPU(ser_linear_fwd, &t.gpu);
        const uint16_t *all = gpu_bytes(&t.gpu.y);
        RUN_GPU(ser_linear_fwd, &t.gpu);
        ck_assert_mem_eq(gpu_bytes(&t.gpu.y), all, sizeof(uint16_t) * M * N);

        const twin_rows rest = twin_rows_of(1, M, &before);
        const twin part = twin_part(t.x, 0, M);
        twin x = part;
        twin_fill_padding(&x, &rest, NAN);
        RUN_GPU(ser_linear_fwd, &t.gpu);
        ck_assert_mem_eq(gpu_bytes(&t.gpu.y), all, sizeof(uint16_t) * ROW * N);

        linear again = linear_of(M, N, K, true);
        again.gpu.x = twin_part(again.x, ROW, 1).gpu;
        again.gpu.y = twin_part(again.y, 0, 1).gpu;
        again.gpu.rows = twin_rows_of(1, 1, &one).gpu;
        RUN_GPU(ser_linear_fwd, &again.gpu);
        ck_assert_mem_eq(gpu_bytes(&again.gpu.y), all + ROW * N, sizeof(uint16_t) * N);
        twins_free();
    }
    unsetenv("SER_GELU_PRODUCT");
}
END_TEST

/* What is no number, or larger than all, comes out as a product and a pass would make it. */
START_TEST(test_extreme_values)
{
    enum { M = 9, N = 24, K = 16 };
    const float in[M] = {NAN, INFINITY, -INFINITY, 3e38F, -3e38F, 1e-38F, -1e-38F, 0.0F, -8.0F};
    linear t = linear_of(M, N, K, true);
    float *x = t.x.cpu.data;
    for (int64_t row = 0; row < M; row++) {
        x[row * K + 3] = in[row];
    }
    t.gpu.x = twin_values(M, K, SER_BF16, x).gpu;
    choose("0");
    RUN_GPU(ser_linear_fwd, &t.gpu);
    const float *expected = gpu_values(&t.gpu.y);
    int kinds[3] = {0, 0, 0};
    for (int v = 0; v < VARIANTS; v++) {
        choose(variants[v]);
        RUN_GPU(ser_linear_fwd, &t.gpu);
        const float *y = gpu_values(&t.gpu.y);
        for (int64_t i = 0; i < M * N; i++) {
            const double tolerance = BF16_TOLERANCE * fmax(1.0, fabs((double)expected[i]));
            const bool same = isnan(expected[i]) ? isnan(y[i])
                              : isinf(expected[i])
                                  ? y[i] == expected[i]
                                  : fabs((double)y[i] - (double)expected[i]) <= tolerance;
            kinds[isnan(expected[i]) ? 0 : isinf(expected[i]) ? 1 : 2]++;
            ck_assert_msg(same, "%s: y[%d, %d] is %g, not %g", variants[v], (int)(i / N),
                          (int)(i % N), (double)y[i], (double)expected[i]);
        }
    }
    ck_assert_int_gt(kinds[0],
                     VARIANTS * N); /* all of NaN, the half of infinities that is negative */
    ck_assert_int_gt(kinds[1], 0);
    ck_assert_int_gt(kinds[2], 0);
    unsetenv("SER_GELU_PRODUCT");
}
END_TEST

/* A recording computes from what x holds at replay. */
START_TEST(test_recorded)
{
    ser_graph *graph;
    linear t = linear_of(20, 40, 24, true);
    const twin later = twin_input(20, 24, SER_BF16, 77, 1.0F, 0);
    choose("64x32");
    RUN_GPU(ser_linear_fwd, &t.gpu);
    assert_ok(gpu.ops->capture_begin(gpu.queue));
    const int status = ser_linear_fwd(gpu.queue, &t.gpu);
    assert_ok(gpu.ops->capture_end(gpu.queue, status != 0, &graph));
    assert_ok(status);
    assert_ok(gpu.ops->upload(gpu.queue, t.x.gpu.data, gpu_bytes(&later.gpu), 20 * 24 * 2));
    assert_ok(gpu.ops->replay(gpu.queue, graph));
    assert_ok(gpu.ops->sync(gpu.queue));
    gpu.ops->graph_free(gpu.context, graph);
    t.cpu.x = later.cpu;
    RUN_CPU(ser_linear_fwd, &t.cpu);
    twin_check("y", &t.y, NULL, BF16_TOLERANCE, false);
    unsetenv("SER_GELU_PRODUCT");
}
END_TEST

/* --- Convolutions --- */

typedef struct conv {
    twin x, y;
    twin_rows rows_in, rows_out;
    ser_conv_args cpu, gpu;
} conv;

enum { CLIPS = 4 };

/* NaN in the invalid rows of x, unless they are the padding of the next clip, and around it. */
static conv conv_of(int32_t kernel, int32_t stride, int32_t padding, int64_t in, int64_t out,
                    int32_t frames)
{
    const int32_t padded = frames * stride;
    const int32_t lengths[CLIPS] = {padded - padding, kernel - 2 * padding, 0,
                                    padded / 2 < kernel ? kernel : padded / 2};
    int32_t valid[CLIPS];
    for (int i = 0; i < CLIPS; i++) {
        const int32_t room = lengths[i] + 2 * padding - kernel;
        valid[i] = lengths[i] > 0 && room >= 0 ? room / stride + 1 : 0;
    }
    const twin_weight w =
        twin_weight_of(out, kernel * in, 1, SER_BF16, 2, 3.0F / sqrtf((float)(kernel * in)));
    conv t = {.x = twin_input(CLIPS * padded, in, SER_BF16, 1, 1.0F, padding),
              .y = twin_output(CLIPS * (int64_t)frames, out, SER_BF16),
              .rows_in = twin_rows_of(CLIPS, padded, lengths),
              .rows_out = twin_rows_of(CLIPS, frames, valid)};
    twin_fill_padding(&t.x, &t.rows_in, padding > 0 ? 0.0F : NAN);
    t.cpu = (ser_conv_args){.x = t.x.cpu,
                            .rows_in = t.rows_in.cpu,
                            .rows_out = t.rows_out.cpu,
                            .kernel = kernel,
                            .stride = stride,
                            .padding = padding,
                            .norm = SER_CONV_NORM_NONE,
                            .w = w.cpu,
                            .y = t.y.cpu};
    t.gpu = t.cpu;
    t.gpu.x = t.x.gpu;
    t.gpu.rows_in = t.rows_in.gpu;
    t.gpu.rows_out = t.rows_out.gpu;
    t.gpu.w = w.gpu;
    t.gpu.y = t.y.gpu;
    ck_assert_int_eq(valid[1], 1);
    ck_assert_int_eq(valid[2], 0);
    return t;
}

static void run_conv(const void *test)
{
    const conv *t = test;
    RUN_GPU(ser_conv_fwd, &t->gpu);
}

static void check_conv(int32_t kernel, int32_t stride, int32_t padding, int64_t in, int64_t out,
                       int32_t frames)
{
    conv t = conv_of(kernel, stride, padding, in, out, frames);
    RUN_CPU(ser_conv_fwd, &t.cpu);
    check_variants(run_conv, &t, &t.y, &t.rows_out);
    twins_free();
}

START_TEST(test_conv)
{
    check_conv(3, 2, 0, 16, 40, 33); /* rows that overlap */
    check_conv(2, 2, 0, 40, 72, 17); /* and that do not */
    check_conv(3, 1, 1, 8, 8, 65);
    check_conv(5, 1, 2, 24, 136, 9);
    check_conv(1, 1, 0, 8, 104, 70);
    check_conv(2, 3, 0, 16, 24, 5); /* rows apart */
    check_conv(3, 2, 1, 512, 16, 3);
}
END_TEST

/* --- Which calls it does --- */

static bool linear_differs(int64_t n, int64_t k, int32_t activation)
{
    linear t = linear_of(30, n, k, true);
    t.gpu.activation = activation;
    const bool result = differs(run_linear, &t, &t.gpu.y);
    twins_free();
    return result;
}

static bool conv_differs(int64_t in, int64_t out)
{
    conv t = conv_of(3, 2, 0, in, out, 20);
    const bool result = differs(run_conv, &t, &t.gpu.y);
    twins_free();
    return result;
}

START_TEST(test_calls)
{
    ck_assert(linear_differs(40, 64, SER_ACT_GELU));
    ck_assert(!linear_differs(40, 64, SER_ACT_NONE));
    ck_assert(!linear_differs(40, 64, SER_ACT_RELU));
    ck_assert(!linear_differs(44, 64, SER_ACT_GELU));
    ck_assert(!linear_differs(40, 60, SER_ACT_GELU));
    ck_assert(conv_differs(16, 40));
    ck_assert(!conv_differs(12, 40));
    ck_assert(!conv_differs(16, 44));
}
END_TEST

/* No op asks for a bias and zeros at once. */
START_TEST(test_bias_and_ends)
{
    enum { M = 12, N = 24, K = 16 };
    const int32_t valid[] = {2, 0, 4};
    if (gpu.ops != &ser_cuda_ops) {
        return; /* inside the module it is not to be called */
    }
    linear t = linear_of(M, N, K, true);
    const twin_rows rows = twin_rows_of(3, 4, valid);
    twin_fill_padding(&t.x, &rows, NAN);
    const cuda_convolution call = {.x = t.x.gpu,
                                   .kernel = 1,
                                   .stride = 1,
                                   .w = t.w.gpu,
                                   .bias = t.gpu.bias_bf16,
                                   .y = t.y.gpu,
                                   .ends = &rows.gpu};
    RUN_CPU(ser_linear_fwd, &t.cpu);
    for (int v = 0; v < GELU_PRODUCT_VARIANTS; v++) {
        poison(&t.y);
        assert_ok(ser_gelu_product_run(cuda_queue_of(gpu.queue), &call, v));
        assert_ok(gpu.ops->sync(gpu.queue));
        twin_check(variants[v], &t.y, &rows, BF16_TOLERANCE, true);
    }
}
END_TEST

/* --- Costs --- */

static cuda_convolution call_of(int64_t m, int64_t n, int64_t k, ser_weight *w)
{
    void *data = (void *)(uintptr_t)4096;
    w->bf16 = data;
    return (cuda_convolution){
        .x = {data, m, k, SER_BF16}, .kernel = 1, .stride = 1, .w = w, .y = {data, m, n, SER_BF16}};
}

static const char *cheapest(const cuda_queue *queue, int64_t m, int64_t n, int64_t k)
{
    ser_weight w = {.bf16 = NULL};
    const cuda_convolution call = call_of(m, n, k, &w);
    int best = 0;
    for (int i = 1; i < GELU_PRODUCT_VARIANTS; i++) {
        if (ser_gelu_product_cost(queue, &call, i) < ser_gelu_product_cost(queue, &call, best)) {
            best = i;
        }
    }
    return isfinite(ser_gelu_product_cost(queue, &call, best)) ? ser_gelu_product_name(best) : "";
}

/* Of wav2vec2-base on a card with 132 multiprocessors: one round of tiles where there is one. */
START_TEST(test_costs)
{
    ser_context context = {.multiprocessors = 132, .shared_limit = 227 << 10};
    const cuda_queue queue = {.base.context = &context};
    if (gpu.ops != &ser_cuda_ops) {
        return; /* inside the module it is not to be called */
    }
    for (int i = 0; i < VARIANTS; i++) {
        ck_assert_str_eq(ser_gelu_product_name(i), variants[i]);
    }
    ck_assert_str_eq(cheapest(&queue, 250, 3072, 768), "64x96");
    ck_assert_str_eq(cheapest(&queue, 16000, 3072, 768), "128x128");
    ck_assert_str_eq(cheapest(&queue, 4000, 512, 1536), "128x128");
    ck_assert_str_eq(cheapest(&queue, 2000, 512, 1536), "128x64");
    ck_assert_str_eq(cheapest(&queue, 1000, 512, 1536), "64x64");
    ck_assert_str_eq(cheapest(&queue, 250, 512, 1024), "64x32");
    ck_assert_str_eq(cheapest(&queue, 250, 3072, 764), "");
    ck_assert_str_eq(cheapest(&queue, INT64_C(1) << 31, 3072, 768), "");
    context.shared_limit = 48 << 10;
    ck_assert_str_eq(cheapest(&queue, 250, 3072, 768), "");
    context.shared_limit = 99 << 10; /* sm_86, 89, 120 */
    ser_weight w = {.bf16 = NULL};
    cuda_convolution call = call_of(250, 3072, 768, &w);
    for (int i = 0; i < GELU_PRODUCT_VARIANTS; i++) {
        ck_assert(isfinite(ser_gelu_product_cost(&queue, &call, i)));
    }
    call.y.data = (char *)call.y.data + 8;
    ck_assert(!isfinite(ser_gelu_product_cost(&queue, &call, 0)));
}
END_TEST

CUDA_SUITE("gelu_product", test_linear, test_many_tiles, test_rows_alone, test_extreme_values,
           test_recorded, test_conv, test_calls, test_bias_and_ends, test_costs)
