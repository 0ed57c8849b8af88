/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include "ops/cuda/cuda.h"

static const int32_t types[] = {SER_F32, SER_BF16};

typedef struct size {
    int64_t padded;
    int32_t valid0, valid1;
    int64_t k, n;
    int32_t activation;
    bool bias;
} size;

typedef struct twin_args {
    twin x, y;
    twin_rows rows;
    ser_linear_args cpu, gpu;
} twin_args;

/* The bias is rounded where y is bf16: there it is added in that type. */
static void set_bias(twin_args *t, int64_t n, int32_t type)
{
    const twin rounded = twin_input(1, n, type, 3, 1.0F, 0);
    t->cpu.bias = rounded.cpu;
    t->gpu.bias = twin_values(1, n, SER_F32, rounded.cpu.data).gpu;
    if (type == SER_BF16) {
        t->gpu.bias_bf16 = rounded.gpu;
    }
}

/* Two clips, NaN in their invalid rows. */
static twin_args args_of(const size *s, int32_t type)
{
    const int32_t valid[] = {s->valid0, s->valid1};
    const float scale = 1.0F / sqrtf((float)s->k); /* sums of order 1 */
    const twin_weight w = twin_weight_of(s->n, s->k, 1, type, 2, scale);
    twin_args t = {.x = twin_input(2 * s->padded, s->k, type, 1, 1.0F, 0),
                   .y = twin_output(2 * s->padded, s->n, type),
                   .rows = twin_rows_of(2, s->padded, valid)};
    twin_fill_padding(&t.x, &t.rows, NAN);
    t.cpu = (ser_linear_args){
        .x = t.x.cpu, .rows = t.rows.cpu, .w = w.cpu, .activation = s->activation, .y = t.y.cpu};
    t.gpu = (ser_linear_args){
        .x = t.x.gpu, .rows = t.rows.gpu, .w = w.gpu, .activation = s->activation, .y = t.y.gpu};
    if (s->bias) {
        set_bias(&t, s->n, type);
    }
    return t;
}

static void check_size(size s, int32_t type)
{
    const twin_args t = args_of(&s, type);
    RUN_CPU(ser_linear_fwd, &t.cpu);
    RUN_GPU(ser_linear_fwd, &t.gpu);
    twin_check("y", &t.y, &t.rows, tolerance_of(type), false);
    twin_check_slack("y", &t.y);
    twins_free();
}

START_TEST(test_agrees_with_cpu)
{
    for (int i = 0; i < 2; i++) {
        check_size((size){1, 1, 1, 1, 1, SER_ACT_NONE, true}, types[i]);
        check_size((size){1, 1, 0, 24, 8, SER_ACT_NONE, true}, types[i]);
        check_size((size){7, 7, 5, 3, 17, SER_ACT_RELU, true}, types[i]);
        check_size((size){20, 19, 1, 64, 33, SER_ACT_GELU, true}, types[i]);
        check_size((size){9, 9, 8, 517, 35, SER_ACT_TANH, true}, types[i]);
        check_size((size){10, 3, 10, 96, 64, SER_ACT_NONE, false}, types[i]);
        check_size((size){5, 5, 5, 768, 40, SER_ACT_GELU, false}, types[i]);
    }
}
END_TEST

/* The activation goes through packs of eight elements, several blocks of them. */
START_TEST(test_many_elements)
{
    for (int i = 0; i < 2; i++) {
        check_size((size){150, 149, 20, 5, 64, SER_ACT_GELU, true}, types[i]);
        check_size((size){115, 113, 115, 2, 33, SER_ACT_TANH, true}, types[i]);
    }
}
END_TEST

START_TEST(test_same_bits_twice)
{
    for (int i = 0; i < 2; i++) {
        const twin_args t = args_of(&(size){12, 12, 9, 120, 40, SER_ACT_GELU, true}, types[i]);
        const size_t bytes = 24 * 40 * (types[i] == SER_BF16 ? 2 : 4);
        RUN_GPU(ser_linear_fwd, &t.gpu);
        const void *first = gpu_bytes(&t.gpu.y);
        RUN_GPU(ser_linear_fwd, &t.gpu);
        const char *second = gpu_bytes(&t.gpu.y);
        for (int clip = 0; clip < 2; clip++) {
            const size_t at = (size_t)clip * bytes / 2;
            const size_t valid = bytes / 24 * (clip == 0 ? 12 : 9);
            ck_assert_mem_eq(second + at, (const char *)first + at, valid);
        }
        twins_free();
    }
}
END_TEST

/* --- Fused with the activation --- */

/* Where cuDNN can do the work it does; what it cannot is done as ever. */
START_TEST(test_fused)
{
    setenv("SER_CUDNN", "1", 1);
    for (int i = 0; i < 2; i++) {
        check_size((size){20, 19, 1, 64, 40, SER_ACT_GELU, true}, types[i]);
        check_size((size){5, 5, 5, 768, 8, SER_ACT_GELU, false}, types[i]);
        check_size((size){1, 1, 1, 8, 24, SER_ACT_GELU, true}, types[i]);
        check_size((size){7, 3, 7, 12, 24, SER_ACT_GELU, true}, types[i]);
        check_size((size){7, 3, 7, 24, 12, SER_ACT_GELU, true}, types[i]);
        check_size((size){6, 6, 5, 16, 24, SER_ACT_NONE, true}, types[i]);
        check_size((size){6, 6, 5, 16, 24, SER_ACT_RELU, true}, types[i]);
        check_size((size){6, 6, 5, 16, 24, SER_ACT_TANH, true}, types[i]);
    }
    unsetenv("SER_CUDNN");
}
END_TEST

/* Whether it makes a difference to y that cuDNN may be used: sums are rounded to bf16 before the
 * activation if it is a pass of its own. */
static bool is_fused(size s, int32_t type)
{
    const twin_args t = args_of(&s, type);
    const size_t bytes = (size_t)(s.padded * s.n) * (type == SER_BF16 ? 2 : 4); /* of one clip */
    setenv("SER_CUDNN", "1", 1);
    RUN_GPU(ser_linear_fwd, &t.gpu);
    const void *first = gpu_bytes(&t.gpu.y);
    unsetenv("SER_CUDNN");
    RUN_GPU(ser_linear_fwd, &t.gpu);
    const bool differs = memcmp(gpu_bytes(&t.gpu.y), first, bytes) != 0;
    twins_free();
    return differs;
}

START_TEST(test_what_is_fused)
{
    if (gpu.ops != &ser_cuda_ops) {
        return; /* the module's cuDNN may be missing, or unable */
    }
    ck_assert(is_fused((size){20, 20, 1, 64, 40, SER_ACT_GELU, true}, SER_BF16));
    ck_assert(is_fused((size){20, 20, 1, 64, 40, SER_ACT_GELU, false}, SER_BF16));
    ck_assert(!is_fused((size){20, 20, 1, 64, 40, SER_ACT_GELU, true}, SER_F32));
    ck_assert(!is_fused((size){20, 20, 1, 64, 40, SER_ACT_RELU, true}, SER_BF16));
    ck_assert(!is_fused((size){20, 20, 1, 64, 44, SER_ACT_GELU, true}, SER_BF16));
}
END_TEST

static double activation_of(double x, int32_t activation)
{
    switch (activation) {
    case SER_ACT_GELU: return 0.5 * x * erfc(-x / sqrt(2.0));
    case SER_ACT_RELU: return x > 0.0 ? x : 0.0;
    case SER_ACT_TANH: return tanh(x);
    default: return x;
    }
}

START_TEST(test_extreme_values)
{
    enum { N = 10 };
    const float in[N] = {-1e30F, -100.0F, -6.0F, -1e-20F, 0.0F, 1e-20F, 6.0F, 100.0F, 1e30F, -9.0F};
    for (int32_t activation = SER_ACT_NONE; activation <= SER_ACT_TANH; activation++) {
        const int32_t valid[] = {N};
        const float one = 1.0F;
        const twin x = twin_values(N, 1, SER_F32, in);
        twin y = twin_output(N, 1, SER_F32);
        const twin_rows rows = twin_rows_of(1, N, valid);
        const ser_weight_spec spec = {.rows = 1, .cols = 1, .groups = 1};
        ser_weight *w;
        assert_ok(gpu.ops->weight_create(gpu.context, &spec, &w));
        assert_ok(gpu.ops->weight_set(gpu.queue, w, gpu_copy(&one, sizeof one)));
        const ser_linear_args args = {
            .x = x.gpu, .rows = rows.gpu, .w = w, .activation = activation, .y = y.gpu};
        RUN_GPU(ser_linear_fwd, &args);
        gpu.ops->weight_free(gpu.context, w);
        const float *got = gpu_values(&y.gpu);
        for (int i = 0; i < N; i++) {
            const double expected = activation_of((double)in[i], activation);
            ck_assert_msg(fabs((double)got[i] - expected) <= 2e-6 * fmax(1.0, fabs(expected)),
                          "activation %d of %g is %g", activation, (double)in[i], (double)got[i]);
        }
        twins_free();
    }
}
END_TEST

/* By which a prediction that went wrong is recognised. */
START_TEST(test_nan_survives_every_activation)
{
    for (int32_t activation = SER_ACT_NONE; activation <= SER_ACT_TANH; activation++) {
        for (int i = 0; i < 2; i++) {
            twin_args t = args_of(&(size){3, 3, 3, 4, 11, activation, true}, types[i]);
            const int32_t none[] = {2, 0};
            const twin_rows wrong = twin_rows_of(2, 3, none);
            twin_fill_padding(&t.x, &wrong, NAN);
            RUN_GPU(ser_linear_fwd, &t.gpu);
            const float *y = gpu_values(&t.gpu.y);
            for (int j = 0; j < 6 * 11; j++) {
                ck_assert_int_eq(isnan(y[j]) != 0, j / 11 >= 2);
            }
            twins_free();
        }
    }
}
END_TEST

/* A recording computes from what x holds at replay. */
static void check_recorded(void)
{
    for (int i = 0; i < 2; i++) {
        ser_graph *graph;
        const twin_args t = args_of(&(size){6, 6, 4, 40, 24, SER_ACT_GELU, true}, types[i]);
        const twin later = twin_input(12, 40, types[i], 77, 1.0F, 0);
        const size_t bytes = 12 * 40 * (types[i] == SER_BF16 ? 2 : 4);
        RUN_GPU(ser_linear_fwd, &t.gpu);
        assert_ok(gpu.ops->capture_begin(gpu.queue));
        const int status = ser_linear_fwd(gpu.queue, &t.gpu);
        assert_ok(gpu.ops->capture_end(gpu.queue, status != 0, &graph));
        assert_ok(status);
        memcpy(t.x.cpu.data, later.cpu.data, 12 * 40 * sizeof(float));
        assert_ok(gpu.ops->upload(gpu.queue, t.x.gpu.data, gpu_bytes(&later.gpu), bytes));
        assert_ok(gpu.ops->replay(gpu.queue, graph));
        assert_ok(gpu.ops->sync(gpu.queue));
        gpu.ops->graph_free(gpu.context, graph);
        RUN_CPU(ser_linear_fwd, &t.cpu);
        twin_check("y", &t.y, &t.rows, tolerance_of(types[i]), false);
        twins_free();
    }
}

START_TEST(test_recorded)
{
    check_recorded();
    setenv("SER_CUDNN", "1", 1);
    check_recorded();
    unsetenv("SER_CUDNN");
}
END_TEST

/* --- Backward --- */

typedef struct gradients {
    twin x, dy, dx, dw, dbias;
    twin_rows rows;
    ser_linear_args cpu, gpu;
} gradients;

/* Everything wanted; dw and dbias hold numbers already. NaN in the invalid rows of inputs. */
static gradients gradients_of(const size *s, int32_t type)
{
    const int32_t valid[] = {s->valid0, s->valid1};
    const int64_t rows = 2 * s->padded;
    const float scale = 1.0F / sqrtf((float)s->n);
    const twin_weight w = twin_weight_of(s->n, s->k, 1, type, 2, scale);
    gradients g = {.x = twin_input(rows, s->k, type, 1, 1.0F, 0),
                   .dy = twin_input(rows, s->n, type, 3, 1.0F, 0),
                   .dx = twin_output(rows, s->k, type),
                   .dw = twin_input(s->n, s->k, SER_F32, 4, 1.0F, 0),
                   .dbias = twin_input(1, s->n, SER_F32, 5, 1.0F, 0),
                   .rows = twin_rows_of(2, s->padded, valid)};
    twin_fill_padding(&g.x, &g.rows, NAN);
    twin_fill_padding(&g.dy, &g.rows, NAN);
    g.cpu = (ser_linear_args){.x = g.x.cpu,
                              .rows = g.rows.cpu,
                              .w = w.cpu,
                              .dy = g.dy.cpu,
                              .dx = g.dx.cpu,
                              .dw = g.dw.cpu,
                              .dbias = g.dbias.cpu};
    g.gpu = (ser_linear_args){.x = g.x.gpu,
                              .rows = g.rows.gpu,
                              .w = w.gpu,
                              .dy = g.dy.gpu,
                              .dx = g.dx.gpu,
                              .dw = g.dw.gpu,
                              .dbias = g.dbias.gpu};
    return g;
}

/* dw and dbias are sums in f32 of products that f32 holds, in every type: only dx is rounded. */
static void check_gradients(size s, int32_t type)
{
    const gradients g = gradients_of(&s, type);
    RUN_CPU(ser_linear_bwd, &g.cpu);
    RUN_GPU(ser_linear_bwd, &g.gpu);
    twin_check("dx", &g.dx, &g.rows, tolerance_of(type), false);
    twin_check("dw", &g.dw, NULL, F32_TOLERANCE, false);
    twin_check("dbias", &g.dbias, NULL, F32_TOLERANCE, false);
    twin_check("x", &g.x, &g.rows, 0.0, false); /* only padding may be overwritten */
    twin_check("dy", &g.dy, &g.rows, 0.0, false);
    twin_check_slack("x", &g.x);
    twin_check_slack("dy", &g.dy);
    twin_check_slack("dx", &g.dx);
    twin_check_slack("dw", &g.dw);
    twin_check_slack("dbias", &g.dbias);
    twins_free();
}

START_TEST(test_gradients_agree_with_cpu)
{
    for (int i = 0; i < 2; i++) {
        check_gradients((size){.padded = 1, .valid0 = 1, .valid1 = 1, .k = 1, .n = 1}, types[i]);
        check_gradients((size){.padded = 1, .valid0 = 1, .valid1 = 1, .k = 40, .n = 5}, types[i]);
        check_gradients((size){.padded = 7, .valid0 = 7, .valid1 = 5, .k = 3, .n = 17}, types[i]);
        check_gradients((size){.padded = 9, .valid0 = 1, .valid1 = 8, .k = 24, .n = 16}, types[i]);
        check_gradients((size){.padded = 30, .valid0 = 0, .valid1 = 30, .k = 33, .n = 8}, types[i]);
        check_gradients((size){.padded = 75, .valid0 = 74, .valid1 = 9, .k = 8, .n = 64}, types[i]);
    }
}
END_TEST

/* What a gradient is does not depend on which others are wanted; with no dw no x is there. */
START_TEST(test_absent_gradients_are_not_made)
{
    const size s = {.padded = 9, .valid0 = 9, .valid1 = 4, .k = 20, .n = 12};
    for (int i = 0; i < 2; i++) {
        const size_t dx_size = (size_t)(9 * 20) * (types[i] == SER_BF16 ? 2 : 4);
        const gradients all = gradients_of(&s, types[i]);
        RUN_GPU(ser_linear_bwd, &all.gpu);
        const void *dx = gpu_bytes(&all.gpu.dx);
        const void *dw = gpu_bytes(&all.gpu.dw);
        const void *dbias = gpu_bytes(&all.gpu.dbias);
        gradients only = gradients_of(&s, types[i]);
        only.gpu.x = only.gpu.dw = only.gpu.dbias = (ser_tensor){0};
        RUN_GPU(ser_linear_bwd, &only.gpu);
        ck_assert_mem_eq(gpu_bytes(&only.dx.gpu), dx, dx_size); /* the first clip's */
        only = gradients_of(&s, types[i]);
        only.gpu.dx = only.gpu.dbias = (ser_tensor){0};
        RUN_GPU(ser_linear_bwd, &only.gpu);
        ck_assert_mem_eq(gpu_bytes(&only.dw.gpu), dw, 12 * 20 * sizeof(float));
        twin_check("dbias", &only.dbias, NULL, 0.0, false); /* as it was */
        only = gradients_of(&s, types[i]);
        only.gpu.x = only.gpu.dx = only.gpu.dw = (ser_tensor){0};
        RUN_GPU(ser_linear_bwd, &only.gpu);
        ck_assert_mem_eq(gpu_bytes(&only.dbias.gpu), dbias, 12 * sizeof(float));
        twin_check("dw", &only.dw, NULL, 0.0, false);
        only.gpu.dbias = (ser_tensor){0};
        RUN_GPU(ser_linear_bwd, &only.gpu); /* nothing to do */
        twins_free();
    }
}
END_TEST

/* A recording adds to what is there at replay, and gives the same bits as a call. */
START_TEST(test_recorded_gradients)
{
    const size s = {.padded = 40, .valid0 = 39, .valid1 = 17, .k = 24, .n = 20};
    for (int i = 0; i < 2; i++) {
        ser_graph *graph;
        const size_t dx_size = (size_t)(39 * 24) * (types[i] == SER_BF16 ? 2 : 4);
        const gradients g = gradients_of(&s, types[i]);
        const gradients again = gradients_of(&s, types[i]);
        RUN_GPU(ser_linear_bwd, &g.gpu);
        assert_ok(gpu.ops->capture_begin(gpu.queue));
        const int status = ser_linear_bwd(gpu.queue, &again.gpu);
        assert_ok(gpu.ops->capture_end(gpu.queue, status != 0, &graph));
        assert_ok(status);
        side_poison(&gpu);
        assert_ok(gpu.ops->replay(gpu.queue, graph));
        assert_ok(gpu.ops->sync(gpu.queue));
        gpu.ops->graph_free(gpu.context, graph);
        ck_assert_mem_eq(gpu_bytes(&again.dx.gpu), gpu_bytes(&g.dx.gpu), dx_size);
        ck_assert_mem_eq(gpu_bytes(&again.dw.gpu), gpu_bytes(&g.dw.gpu), 20 * 24 * sizeof(float));
        ck_assert_mem_eq(gpu_bytes(&again.dbias.gpu), gpu_bytes(&g.dbias.gpu), 20 * sizeof(float));
        twins_free();
    }
}
END_TEST

/* Sum of dy * y over the valid rows, y by the GPU's forward. */
static double loss(const ser_linear_args *args, const twin *dy, const twin_rows *rows)
{
    double total = 0.0;
    RUN_GPU(ser_linear_fwd, args);
    const float *y = gpu_values(&args->y);
    const float *weights = dy->cpu.data;
    for (int64_t i = 0; i < args->y.rows * args->y.cols; i++) {
        const int64_t row = i / args->y.cols;
        if (row % rows->cpu.padded < rows->cpu.valid[row / rows->cpu.padded]) {
            total += (double)y[i] * (double)weights[i];
        }
    }
    return total;
}

/* The loss is linear in x: a difference has no error but the rounding of y, about 1e-6 of 20. */
START_TEST(test_dx_is_the_forwards_derivative)
{
    const size s = {.padded = 5, .valid0 = 5, .valid1 = 2, .k = 7, .n = 6};
    const gradients g = gradients_of(&s, SER_F32);
    ser_linear_args forward = {
        .x = g.x.gpu, .rows = g.rows.gpu, .w = g.gpu.w, .y = twin_output(10, 6, SER_F32).gpu};
    RUN_GPU(ser_linear_bwd, &g.gpu);
    const float *dx = gpu_values(&g.dx.gpu);
    float *x = g.x.cpu.data;
    for (int64_t i = 0; i < 7 * 7; i += 5) {
        const float old = x[i];
        double losses[2];
        for (int j = 0; j < 2; j++) {
            x[i] = old + (j == 0 ? -0.5F : 0.5F);
            assert_ok(gpu.ops->upload(gpu.queue, g.x.gpu.data, x, 70 * sizeof(float)));
            losses[j] = loss(&forward, &g.dy, &g.rows);
        }
        x[i] = old;
        ck_assert_double_eq_tol(losses[1] - losses[0], (double)dx[i], 2e-5);
    }
}
END_TEST

/* --- Column sums --- */

static void check_column_sums(int64_t padded, const int32_t valid[3], int64_t cols, int32_t type)
{
    const twin_rows rows = twin_rows_of(3, padded, valid);
    twin x = twin_input(3 * padded, cols, type, 6, 1.0F, 0);
    twin sums = twin_input(1, cols, SER_F32, 7, 1.0F, 0);
    float *expected = sums.cpu.data;
    const float *values = x.cpu.data;
    twin_fill_padding(&x, &rows, NAN);
    for (int64_t c = 0; c < cols; c++) {
        double sum = (double)expected[c];
        for (int64_t r = 0; r < 3 * padded; r++) {
            sum += r % padded < valid[r / padded] ? (double)values[r * cols + c] : 0.0;
        }
        expected[c] = (float)sum;
    }
    const size_t bytes = ser_cuda_column_sums_scratch(gpu.queue, &x.gpu);
    const twin scratch = twin_output(1, (int64_t)(bytes / sizeof(float)), SER_F32);
    assert_ok(ser_cuda_column_sums(gpu.queue, &x.gpu, &rows.gpu, sums.gpu.data, scratch.gpu.data));
    assert_ok(gpu.ops->sync(gpu.queue));
    twin_check("sums", &sums, NULL, F32_TOLERANCE, false);
    twin_check_slack("sums", &sums);
    twin_check_slack("scratch", &scratch);
    twins_free();
}

START_TEST(test_column_sums)
{
    const int64_t cols[] = {1, 4, 7, 8, 40, 130, 256, 264, 517, 768};
    if (gpu.ops != &ser_cuda_ops) {
        return; /* inside the module it is not to be called */
    }
    for (size_t i = 0; i < 2 * sizeof cols / sizeof *cols; i++) {
        check_column_sums(1, (int32_t[]){1, 0, 1}, cols[i / 2], types[i & 1]);
        check_column_sums(37, (int32_t[]){1, 37, 20}, cols[i / 2], types[i & 1]);
    }
    for (int i = 0; i < 2; i++) { /* several rounds of every thread */
        check_column_sums(900, (int32_t[]){900, 333, 0}, 8, types[i]);
        check_column_sums(700, (int32_t[]){0, 699, 700}, 264, types[i]);
        check_column_sums(650, (int32_t[]){650, 1, 500}, 3, types[i]);
    }
}
END_TEST

CUDA_SUITE("linear", test_agrees_with_cpu, test_many_elements, test_same_bits_twice, test_fused,
           test_what_is_fused, test_extreme_values, test_nan_survives_every_activation,
           test_recorded, test_gradients_agree_with_cpu, test_absent_gradients_are_not_made,
           test_recorded_gradients, test_dx_is_the_forwards_derivative, test_column_sums)
