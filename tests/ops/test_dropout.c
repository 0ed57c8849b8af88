/* SPDX-License-Identifier: MIT */
#include "ops/cpu/cpu.h"

#include "fixture.h"

enum { PADDED = 9, BATCH = 3 };
static const int32_t valid[] = {9, 1, 6};
static const ser_rows rows = {.batch = BATCH, .padded = PADDED, .valid = valid};
/* Both halves of every counter word in use; the number is beyond the 24 bits that count. */
static const ser_step step = {.seed = UINT64_C(0xFEDCBA9876543210),
                              .number = (UINT64_C(5) << 24) + 1234567};

static ser_dropout dropout_of(float p)
{
    return (ser_dropout){.p = p, .op = 0xABCDEF, .step = &step};
}

static void fill(const ser_tensor *x, float value)
{
    for (int64_t i = 0; i < x->rows * x->cols; i++) {
        ((float *)x->data)[i] = value;
    }
}

/* Ones become 0 or 65536 / (65536 - t), where base/rng.h says. */
static void check_mask(int64_t n, float p)
{
    ser_tensor x = matrix(BATCH * PADDED, n, 1, 0);
    fill(&x, 1.0F);
    fill_padding(&x, &rows, NAN);
    ser_dropout_args args = {
        .x = x, .rows = rows, .dropout = dropout_of(p), .y = poisoned(BATCH * PADDED, n)};
    RUN(ser_dropout_fwd, &args);
    for (int64_t e = 0; e < x.rows * n; e++) {
        const int64_t r = e / n;
        const bool real = r % PADDED < valid[r / PADDED];
        const double wanted = real ? dropout_factor(&args.dropout, (uint64_t)e) : 0.0;
        ck_assert_msg(((float *)args.y.data)[e] == (float)wanted, "n %d: element %d is %g, not %g",
                      (int)n, (int)e, (double)((float *)args.y.data)[e], wanted);
    }
    matrices_free();
}

START_TEST(test_mask_is_that_of_the_generator)
{
    const int64_t sizes[] = {1, 8, 13, 70, 511, 512, 1027};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_mask(sizes[i], 0.1F);
    }
    check_mask(70, 0.5F);
    check_mask(70, 1e-6F);     /* less than one in 65536: nothing */
    check_mask(70, 0.99999F);  /* all but one in 65536 */
    check_mask(70, 0.999999F); /* everything */
}
END_TEST

/* Far elements use the high word of the counter. */
START_TEST(test_mask_of_far_elements)
{
    enum { COUNT = 700 };
    const uint64_t first = (UINT64_C(1) << 35) - 333; /* block 2^32 lies within */
    const ser_dropout dropout = dropout_of(0.3F);
    ser_dropout_mask drawn;
    float x[COUNT];
    float y[COUNT];
    for (int i = 0; i < COUNT; i++) {
        x[i] = 1.0F;
    }
    const ser_dropout_row row = {
        .mask = ser_cpu_dropout_mask(&dropout, &drawn), .first = first, .n = COUNT, .x = x, .y = y};
    cpu_queue_of(queue)->kernels->training->dropout(&row);
    for (uint64_t i = 0; i < COUNT; i++) {
        ck_assert(y[i] == (float)dropout_factor(&dropout, first + i));
    }
}
END_TEST

/* How many of 200,000 elements are dropped, and how many by both of two masks. */
START_TEST(test_statistics)
{
    enum { COUNT = 200000 };
    const ser_step next = {.seed = step.seed, .number = step.number + 1};
    const ser_step other_seed = {.seed = step.seed + 1, .number = step.number};
    const ser_dropout masks[] = {dropout_of(0.1F),
                                 {.p = 0.1F, .op = 0xABCDEE, .step = &step},
                                 {.p = 0.1F, .op = 0xABCDEF, .step = &next},
                                 {.p = 0.1F, .op = 0xABCDEF, .step = &other_seed}};
    const int32_t all[] = {200};
    float *y[4];
    for (int m = 0; m < 4; m++) {
        ser_tensor x = matrix(200, COUNT / 200, 1, 0);
        fill(&x, 1.0F);
        ser_dropout_args args = {.x = x,
                                 .rows = {.batch = 1, .padded = 200, .valid = all},
                                 .dropout = masks[m],
                                 .y = poisoned(200, COUNT / 200)};
        RUN(ser_dropout_fwd, &args);
        y[m] = args.y.data;
        int dropped = 0;
        int both = 0;
        for (int i = 0; i < COUNT; i++) {
            dropped += y[m][i] == 0.0F;
            both += m > 0 && y[m][i] == 0.0F && y[0][i] == 0.0F;
        }
        /* five standard deviations of a binomial */
        ck_assert_double_eq_tol(dropped, 0.1 * COUNT, 5.0 * sqrt(COUNT * 0.1 * 0.9));
        if (m > 0) {
            ck_assert_double_eq_tol(both, 0.01 * COUNT, 5.0 * sqrt(COUNT * 0.01 * 0.99));
        }
    }
}
END_TEST

static double act_reference(double x, int32_t activation)
{
    switch (activation) {
    case SER_ACT_GELU: return gelu_reference(x);
    case SER_ACT_RELU: return x > 0.0 ? x : 0.0;
    case SER_ACT_TANH: return tanh(x);
    default: return x;
    }
}

static double *reference_of(const ser_dropout_args *args, const double *x)
{
    const int64_t count = args->y.rows * args->y.cols;
    double *y = ser_mem_alloc((size_t)count, sizeof *y);
    for (int64_t e = 0; e < count; e++) {
        y[e] = act_reference(x[e], args->activation) * dropout_factor(&args->dropout, (uint64_t)e);
    }
    return y;
}

/* loss = sum of dy y over the valid rows */
static const ser_dropout_args *differentiated;
static double *x64;

static double loss(void)
{
    const ser_dropout_args *args = differentiated;
    double *y = reference_of(args, x64);
    double sum = 0.0;
    for (int64_t e = 0; e < args->dy.rows * args->dy.cols; e++) {
        if (cpu_row_is_valid(&args->rows, e / args->dy.cols)) {
            sum += y[e] * (double)((float *)args->dy.data)[e];
        }
    }
    ser_mem_free(y);
    return sum;
}

static void check_both(int64_t n, int32_t activation, float p)
{
    ser_dropout_args args = {.x = matrix(BATCH * PADDED, n, 3, 0),
                             .rows = rows,
                             .activation = activation,
                             .dropout = dropout_of(p),
                             .y = poisoned(BATCH * PADDED, n),
                             .dy = matrix(BATCH * PADDED, n, 4, 0),
                             .dx = poisoned(BATCH * PADDED, n)};
    for (int64_t i = 0; i < args.x.rows * n; i++) {
        ((float *)args.x.data)[i] *= 3.0F;
    }
    fill_padding(&args.x, &rows, NAN);
    fill_padding(&args.dy, &rows, NAN);
    RUN(ser_dropout_fwd, &args);
    RUN(ser_dropout_bwd, &args);
    x64 = doubles(&args.x);
    double *y = reference_of(&args, x64);
    check_rows(&args.y, y, &rows, true);
    ser_mem_free(y);
    differentiated = &args;
    check_row_differences("dx", loss, x64, &args.dx, &rows, true);
    matrices_free();
}

START_TEST(test_gradients)
{
    for (int32_t activation = SER_ACT_NONE; activation <= SER_ACT_TANH; activation++) {
        check_both(13, activation, 0.3F);
        check_both(9, activation, 0.0F);
    }
}
END_TEST

/* Backward's y has forward's bits and zeros for padding, and costs dx no bit; one of the two takes
 * dy's place. */
static void check_again(int64_t n, int32_t activation, float p, bool over_dy)
{
    const size_t size = (size_t)(BATCH * PADDED * n) * sizeof(float);
    ser_dropout_args args = {.x = matrix(BATCH * PADDED, n, 3, 0),
                             .rows = rows,
                             .activation = activation,
                             .dropout = dropout_of(p),
                             .y = poisoned(BATCH * PADDED, n)};
    fill_padding(&args.x, &rows, NAN);
    RUN(ser_dropout_fwd, &args);
    fill_padding(&args.y, &rows, 0.0F);
    ser_dropout_args alone = args;
    alone.y = (ser_tensor){0};
    alone.dy = matrix(BATCH * PADDED, n, 4, 0);
    fill_padding(&alone.dy, &rows, NAN);
    alone.dx = poisoned(BATCH * PADDED, n);
    RUN(ser_dropout_bwd, &alone);
    ser_dropout_args both = alone;
    both.y = over_dy ? both.dy : poisoned(BATCH * PADDED, n);
    both.dx = over_dy ? poisoned(BATCH * PADDED, n) : both.dy;
    RUN(ser_dropout_bwd, &both);
    ck_assert_mem_eq(both.y.data, args.y.data, size);
    ck_assert_mem_eq(both.dx.data, alone.dx.data, size);
    matrices_free();
}

START_TEST(test_forward_made_again)
{
    const int64_t sizes[] = {1, 13, 64, 1027};
    for (int32_t activation = SER_ACT_NONE; activation <= SER_ACT_TANH; activation++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            check_again(sizes[i], activation, 0.3F, true);
            check_again(sizes[i], activation, 0.3F, false);
            check_again(sizes[i], activation, 0.0F, i % 2 > 0);
        }
    }
}
END_TEST

START_TEST(test_in_place)
{
    enum { N = 37 };
    ser_tensor x = matrix(BATCH * PADDED, N, 3, 0);
    ser_dropout_args apart = {
        .x = x, .rows = rows, .dropout = dropout_of(0.4F), .y = poisoned(BATCH * PADDED, N)};
    RUN(ser_dropout_fwd, &apart);
    ser_dropout_args backward = {.rows = rows, /* x is not needed without an activation */
                                 .dropout = apart.dropout,
                                 .dy = {content(&x), BATCH * PADDED, N, SER_F32}};
    backward.dx = backward.dy;
    ser_dropout_args in_place = apart;
    in_place.y = x;
    RUN(ser_dropout_bwd, &backward);
    assert_ok(ser_dropout_fwd(queue, &in_place));
    ck_assert_mem_eq(x.data, apart.y.data, BATCH * PADDED * N * sizeof(float));
    ck_assert_mem_eq(backward.dx.data, apart.y.data, BATCH * PADDED * N * sizeof(float));
}
END_TEST

/* Slopes where the formulas run out of range. */
START_TEST(test_extreme_values)
{
    enum { N = 10 };
    const int32_t one[] = {1};
    const float points[N] = {1e4F,   -1e4F, INFINITY, -INFINITY, 1e30F,
                             -1e30F, 15.0F, -15.0F,   0.0F,      NAN};
    const double slopes[4][N] = {{0},
                                 {1, 0, 1, 0, 1, 0, 1, 0, 0.5, NAN},
                                 {1, 0, 1, 0, 1, 0, 1, 0, 0, 0},
                                 {0, 0, 0, 0, 0, 0, 0, 0, 1, NAN}};
    for (int32_t activation = SER_ACT_GELU; activation <= SER_ACT_TANH; activation++) {
        ser_dropout_args args = {.x = matrix(1, N, 3, 0),
                                 .rows = {.batch = 1, .padded = 1, .valid = one},
                                 .activation = activation,
                                 .dy = matrix(1, N, 4, 0),
                                 .dx = poisoned(1, N)};
        memcpy(args.x.data, points, sizeof points);
        fill(&args.dy, 1.0F);
        RUN(ser_dropout_bwd, &args);
        for (int i = 0; i < N; i++) {
            const double got = (double)((float *)args.dx.data)[i];
            ck_assert_msg(isnan(slopes[activation][i]) ? isnan(got)
                                                       : fabs(got - slopes[activation][i]) < 1e-6,
                          "activation %d: slope at %g is %g", (int)activation, (double)points[i],
                          got);
        }
    }
}
END_TEST

START_TEST(test_same_bits_with_any_threads)
{
    enum { FRAMES = 600, N = 1001 };
    const int32_t frames[] = {FRAMES, 333};
    ser_dropout_args args = {.x = matrix(2 * FRAMES, N, 1, 0),
                             .rows = {.batch = 2, .padded = FRAMES, .valid = frames},
                             .activation = SER_ACT_GELU,
                             .dropout = dropout_of(0.1F),
                             .y = poisoned(2 * FRAMES, N),
                             .dy = matrix(2 * FRAMES, N, 2, 0),
                             .dx = poisoned(2 * FRAMES, N)};
    RUN(ser_dropout_fwd, &args);
    RUN(ser_dropout_bwd, &args);
    ser_dropout_args alone = args;
    alone.y = poisoned(2 * FRAMES, N);
    alone.dx = poisoned(2 * FRAMES, N);
    fixture_threads(1);
    RUN(ser_dropout_fwd, &alone);
    RUN(ser_dropout_bwd, &alone);
    ck_assert_mem_eq(args.y.data, alone.y.data, 2 * FRAMES * N * sizeof(float));
    ck_assert_mem_eq(args.dx.data, alone.dx.data, 2 * FRAMES * N * sizeof(float));
}
END_TEST

OP_SUITE("dropout", test_mask_is_that_of_the_generator, test_mask_of_far_elements, test_statistics,
         test_gradients, test_forward_made_again, test_in_place, test_extreme_values,
         test_same_bits_with_any_threads)
