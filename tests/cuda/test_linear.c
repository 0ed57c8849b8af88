/* SPDX-License-Identifier: MIT */
#include "fixture.h"

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
START_TEST(test_recorded)
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
END_TEST

CUDA_SUITE("linear", test_agrees_with_cpu, test_many_elements, test_same_bits_twice,
           test_extreme_values, test_nan_survives_every_activation, test_recorded)
