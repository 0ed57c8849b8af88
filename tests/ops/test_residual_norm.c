/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { PADDED = 23, BATCH = 2 };
static const int32_t valid[] = {23, 11};

static void reference_of(const ser_residual_norm_args *a, const float *x, const float *h,
                         double *sum, double *y)
{
    const int64_t n = a->x.cols;
    for (int64_t r = 0; r < a->x.rows; r++) {
        double mean = 0.0;
        double square = 0.0;
        for (int64_t i = 0; i < n; i++) {
            sum[r * n + i] = (double)x[r * n + i] + (h != NULL ? (double)h[r * n + i] : 0.0);
            mean += sum[r * n + i] / (double)n;
        }
        for (int64_t i = 0; i < n; i++) {
            square += (sum[r * n + i] - mean) * (sum[r * n + i] - mean) / (double)n;
        }
        for (int64_t i = 0; i < n; i++) {
            y[r * n + i] = (sum[r * n + i] - mean) / sqrt(square + (double)a->eps) *
                               (double)((const float *)a->gamma.data)[i] +
                           (double)((const float *)a->beta.data)[i];
        }
    }
}

static void check_case(int64_t n, bool with_h, bool with_sum, bool with_y, bool in_place)
{
    ser_tensor x = matrix(BATCH * PADDED, n, 1, 0);
    ser_tensor h = with_h ? matrix(BATCH * PADDED, n, 2, 0) : (ser_tensor){0};
    ser_residual_norm_args args = {
        .x = x,
        .h = h,
        .rows = {.batch = BATCH, .padded = PADDED, .valid = valid},
        .gamma = matrix(1, n, 3, 0),
        .beta = matrix(1, n, 4, 0),
        .eps = 1e-5F,
    };
    if (with_sum) {
        args.sum = in_place ? x : poisoned(BATCH * PADDED, n);
    }
    if (with_y) {
        args.y = in_place && !with_sum ? x : poisoned(BATCH * PADDED, n);
    }
    fill_padding(&x, &args.rows, NAN);
    float *x_copy = content(&x);
    double *sum = ser_mem_alloc((size_t)(x.rows * n), sizeof *sum);
    double *y = ser_mem_alloc((size_t)(x.rows * n), sizeof *y);
    reference_of(&args, x_copy, h.data, sum, y);
    queue->planning = true;
    assert_ok(ser_residual_norm_fwd(queue, &args));
    assert_ok(ser_queue_reserve(queue, NULL));
    assert_ok(ser_residual_norm_fwd(queue, &args)); /* once: it may work in place */
    if (with_sum) {
        check_rows(&args.sum, sum, &args.rows, false);
    }
    if (with_y) {
        check_rows(&args.y, y, &args.rows, false);
    }
    ser_mem_free(sum);
    ser_mem_free(y);
    matrices_free();
}

START_TEST(test_all_forms)
{
    for (int form = 0; form < 16; form++) {
        const bool with_sum = (form & 2) != 0;
        const bool with_y = (form & 4) != 0;
        if (with_sum || with_y) {
            check_case(70, (form & 1) != 0, with_sum, with_y, (form & 8) != 0);
        }
    }
    check_case(1, true, true, true, false);
    check_case(768, true, true, true, true);
}
END_TEST

/* A constant row has no variance: the result is beta. */
START_TEST(test_constant_row)
{
    const int32_t one[] = {1};
    ser_tensor x = matrix(1, 40, 1, 0);
    for (int i = 0; i < 40; i++) {
        ((float *)x.data)[i] = 1000.0F;
    }
    ser_residual_norm_args args = {.x = x,
                                   .rows = {.batch = 1, .padded = 1, .valid = one},
                                   .gamma = matrix(1, 40, 3, 0),
                                   .beta = matrix(1, 40, 4, 0),
                                   .eps = 1e-5F,
                                   .y = poisoned(1, 40)};
    RUN(ser_residual_norm_fwd, &args);
    ck_assert_double_lt(harness_relative_error(args.y.data, args.beta.data, 40), 1e-6);
}
END_TEST

static const ser_step step = {.seed = 77, .number = 3};

/* What may lie on what. */
enum { APART, DX_ON_DY, DX_ON_DSUM, DX_ON_DY_DH_ON_DSUM, DX_ON_DSUM_DH_ON_DY, DH_ON_DY };

/* The forms of the op in training: what is there, and where the gradients go. */
typedef struct form {
    int64_t n;
    bool h, y, dsum, dh, dgamma, dbeta;
    float p;
    int place;
} form;

static ser_residual_norm_args training_args(const form *f)
{
    const int64_t total = BATCH * PADDED;
    const ser_tensor absent = {0};
    return (ser_residual_norm_args){
        .x = matrix(total, f->n, 1, 0),
        .h = f->h ? matrix(total, f->n, 2, 0) : absent,
        .rows = {.batch = BATCH, .padded = PADDED, .valid = valid},
        .gamma = f->y ? matrix(1, f->n, 3, 0) : absent,
        .beta = f->y ? matrix(1, f->n, 4, 0) : absent,
        .eps = 1e-5F,
        .sum = f->h ? poisoned(total, f->n) : absent,
        .y = f->y ? poisoned(total, f->n) : absent,
        .dropout = {.p = f->p, .op = 9, .step = &step},
        .stats = f->y ? poisoned(total, 2) : absent,
        .dy = f->y ? matrix(total, f->n, 5, 0) : absent,
        .dsum = f->dsum ? matrix(total, f->n, 6, 0) : absent,
        .dgamma = f->dgamma ? matrix(1, f->n, 7, 0) : absent,
        .dbeta = f->dbeta ? matrix(1, f->n, 8, 0) : absent,
    };
}

/* Where dx and dh go. */
static void place_gradients(const form *f, ser_residual_norm_args *a)
{
    const ser_tensor place = poisoned(BATCH * PADDED, f->n);
    const ser_tensor other = poisoned(BATCH * PADDED, f->n);
    a->dx = f->place == DX_ON_DY || f->place == DX_ON_DY_DH_ON_DSUM     ? a->dy
            : f->place == DX_ON_DSUM || f->place == DX_ON_DSUM_DH_ON_DY ? a->dsum
                                                                        : place;
    if (f->dh) {
        a->dh = f->place == DX_ON_DY_DH_ON_DSUM                           ? a->dsum
                : f->place == DX_ON_DSUM_DH_ON_DY || f->place == DH_ON_DY ? a->dy
                                                                          : other;
    }
}

/* loss = sum over the valid rows of dy y + dsum sum, in double */
static const ser_residual_norm_args *differentiated;
static double *x64, *h64, *gamma64, *beta64, *dy64, *dsum64;

static double loss_of_row(const ser_residual_norm_args *a, int64_t r, double *sum)
{
    const int64_t n = a->x.cols;
    double mean = 0.0;
    double square = 0.0;
    double loss = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t e = r * n + i;
        const double factor = h64 != NULL ? dropout_factor(&a->dropout, (uint64_t)e) : 0.0;
        sum[i] = x64[e] + (h64 != NULL ? h64[e] * factor : 0.0);
        mean += sum[i] / (double)n;
        loss += dsum64 != NULL ? dsum64[e] * sum[i] : 0.0;
    }
    for (int64_t i = 0; i < n; i++) {
        square += (sum[i] - mean) * (sum[i] - mean) / (double)n;
    }
    for (int64_t i = 0; dy64 != NULL && i < n; i++) {
        const double xhat = (sum[i] - mean) / sqrt(square + (double)a->eps);
        loss += dy64[r * n + i] * (xhat * gamma64[i] + beta64[i]);
    }
    return loss;
}

static double loss(void)
{
    const ser_residual_norm_args *a = differentiated;
    double *sum = ser_mem_alloc((size_t)a->x.cols, sizeof *sum);
    double total = 0.0;
    for (int64_t r = 0; r < a->x.rows; r++) {
        if (r % PADDED < valid[r / PADDED]) {
            total += loss_of_row(a, r, sum);
        }
    }
    ser_mem_free(sum);
    return total;
}

static double *doubles_or_null(const ser_tensor *x)
{
    return x->data != NULL ? doubles(x) : NULL;
}

static void check_backward(const form *f)
{
    ser_residual_norm_args args = training_args(f);
    fill_padding(&args.x, &args.rows, NAN);
    RUN(ser_residual_norm_fwd, &args);
    x64 = doubles(&args.x);
    h64 = doubles_or_null(&args.h);
    gamma64 = doubles_or_null(&args.gamma);
    beta64 = doubles_or_null(&args.beta);
    dy64 = doubles_or_null(&args.dy);
    dsum64 = doubles_or_null(&args.dsum);
    const ser_tensor *incoming[] = {&args.dy, &args.dsum, &args.stats, &args.sum};
    for (int i = 0; i < 4; i++) {
        if (incoming[i]->data != NULL) {
            fill_padding(incoming[i], &args.rows, NAN);
        }
    }
    const float *dgamma = f->dgamma ? content(&args.dgamma) : NULL;
    const float *dbeta = f->dbeta ? content(&args.dbeta) : NULL;
    place_gradients(f, &args);
    queue->planning = true;
    assert_ok(ser_residual_norm_bwd(queue, &args));
    assert_ok(ser_queue_reserve(queue, NULL));
    assert_ok(ser_residual_norm_bwd(queue, &args)); /* once: it works in place */
    differentiated = &args;
    check_row_differences("dx", loss, x64, &args.dx, &args.rows, true);
    if (f->dh) {
        check_row_differences("dh", loss, h64, &args.dh, &args.rows, true);
    }
    if (f->dgamma) {
        check_differences("dgamma", loss, gamma64, f->n, args.dgamma.data, dgamma);
    }
    if (f->dbeta) {
        check_differences("dbeta", loss, beta64, f->n, args.dbeta.data, dbeta);
    }
    matrices_free();
}

START_TEST(test_gradients)
{
    const form forms[] = {
        {.n = 13, .h = true, .y = true, .dh = true, .dgamma = true, .dbeta = true, .p = 0.3F},
        {.n = 9, .y = true, .dgamma = true, .dbeta = true},
        {.n = 8, .h = true, .y = true, .dsum = true, .dh = true, .dgamma = true, .p = 0.1F},
        {.n = 5, .h = true, .y = true, .dsum = true, .dbeta = true},
        {.n = 7, .h = true, .y = true, .dsum = true, .dh = true},
        {.n = 6, .h = true, .dsum = true, .dh = true, .p = 0.5F},
        {.n = 6, .h = true, .dsum = true, .dh = true},
        {.n = 1, .h = true, .y = true, .dsum = true, .dh = true, .dgamma = true, .dbeta = true},
        {.n = 17, .y = true, .dgamma = true, .dbeta = true, .place = DX_ON_DY},
        {.n = 11, .h = true, .dsum = true, .dh = true, .p = 0.5F, .place = DX_ON_DSUM},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        check_backward(&forms[i]);
    }
    for (int place = DX_ON_DY; place <= DH_ON_DY; place++) {
        form f = {
            .n = 10, .h = true, .y = true, .dsum = true, .dh = true, .dgamma = true, .p = 0.2F};
        f.place = place;
        check_backward(&f);
        f.p = 0.0F;
        check_backward(&f);
    }
}
END_TEST

/* At sizes of real networks, against the formula in double. */
START_TEST(test_large_gradients)
{
    enum { N = 770 };
    const form f = {.n = N, .h = true, .y = true, .dgamma = true, .dbeta = true, .p = 0.1F};
    ser_residual_norm_args args = training_args(&f);
    place_gradients(&f, &args);
    args.dh = (ser_tensor){0};
    const float *dgamma = content(&args.dgamma);
    const float *dbeta = content(&args.dbeta);
    RUN(ser_residual_norm_fwd, &args);
    queue->planning = true;
    assert_ok(ser_residual_norm_bwd(queue, &args));
    assert_ok(ser_queue_reserve(queue, NULL));
    assert_ok(ser_residual_norm_bwd(queue, &args));
    double *dx = ser_mem_alloc((size_t)(args.x.rows * N), sizeof *dx);
    double sums[2][N] = {{0}};
    for (int64_t r = 0; r < args.x.rows; r++) {
        if (r % PADDED >= valid[r / PADDED]) {
            continue;
        }
        const float *s = (const float *)args.sum.data + r * N;
        const float *dy = (const float *)args.dy.data + r * N;
        const float *gamma = args.gamma.data;
        double mean = 0.0;
        double square = 0.0;
        for (int i = 0; i < N; i++) {
            mean += (double)s[i] / N;
        }
        for (int i = 0; i < N; i++) {
            square += ((double)s[i] - mean) * ((double)s[i] - mean) / N;
        }
        const double inverse = 1.0 / sqrt(square + (double)args.eps);
        ck_assert_double_eq_tol((double)((float *)args.stats.data)[2 * r], mean, 1e-6);
        ck_assert_double_eq_tol((double)((float *)args.stats.data)[2 * r + 1], inverse, 1e-5);
        double means[2] = {0};
        for (int i = 0; i < N; i++) {
            const double xhat = ((double)s[i] - mean) * inverse;
            means[0] += (double)dy[i] * (double)gamma[i] / N;
            means[1] += (double)dy[i] * (double)gamma[i] * xhat / N;
            sums[0][i] += (double)dy[i] * xhat;
            sums[1][i] += (double)dy[i];
        }
        for (int i = 0; i < N; i++) {
            const double xhat = ((double)s[i] - mean) * inverse;
            dx[r * N + i] =
                inverse * ((double)dy[i] * (double)gamma[i] - means[0] - xhat * means[1]);
        }
    }
    check_rows(&args.dx, dx, &args.rows, true);
    check_gradient("dgamma", args.dgamma.data, dgamma, sums[0], N);
    check_gradient("dbeta", args.dbeta.data, dbeta, sums[1], N);
    ser_mem_free(dx);
}
END_TEST

/* Only dh, and only parameters, are wanted: nothing else is computed, and the numbers stay. */
START_TEST(test_absent_gradients)
{
    const form f = {.n = 21,
                    .h = true,
                    .y = true,
                    .dsum = true,
                    .dh = true,
                    .dgamma = true,
                    .dbeta = true,
                    .p = 0.2F};
    ser_residual_norm_args all = training_args(&f);
    RUN(ser_residual_norm_fwd, &all);
    place_gradients(&f, &all);
    ser_residual_norm_args only_dh = all;
    only_dh.dx = only_dh.dgamma = only_dh.dbeta = (ser_tensor){0};
    only_dh.dh = poisoned(BATCH * PADDED, f.n);
    ser_residual_norm_args only_gamma = all;
    only_gamma.dx = only_gamma.dh = only_gamma.dbeta = (ser_tensor){0};
    only_gamma.dgamma.data = content(&all.dgamma);
    queue->planning = true;
    assert_ok(ser_residual_norm_bwd(queue, &all));
    assert_ok(ser_queue_reserve(queue, NULL));
    assert_ok(ser_residual_norm_bwd(queue, &all));
    assert_ok(ser_residual_norm_bwd(queue, &only_dh));
    assert_ok(ser_residual_norm_bwd(queue, &only_gamma));
    ck_assert_mem_eq(only_dh.dh.data, all.dh.data, (size_t)(BATCH * PADDED * f.n) * sizeof(float));
    ck_assert_mem_eq(only_gamma.dgamma.data, all.dgamma.data, (size_t)f.n * sizeof(float));
}
END_TEST

/* A gradient in two parts is their sum, also where dx takes the place of the second. */
START_TEST(test_two_parts)
{
    const form f = {
        .n = 45, .h = true, .y = true, .dh = true, .dgamma = true, .dbeta = true, .p = 0.2F};
    ser_residual_norm_args whole = training_args(&f);
    RUN(ser_residual_norm_fwd, &whole);
    place_gradients(&f, &whole);
    ser_residual_norm_args parts = whole;
    parts.dy = matrix(BATCH * PADDED, f.n, 5, 0);
    parts.dy2 = matrix(BATCH * PADDED, f.n, 6, 0);
    for (int64_t i = 0; i < BATCH * PADDED * f.n; i++) {
        ((float *)whole.dy.data)[i] += ((const float *)parts.dy2.data)[i];
    }
    fill_padding(&parts.dy2, &parts.rows, NAN);
    parts.dx = parts.dy2;
    parts.dh = poisoned(BATCH * PADDED, f.n);
    parts.dgamma.data = content(&whole.dgamma);
    parts.dbeta.data = content(&whole.dbeta);
    RUN(ser_residual_norm_bwd, &whole);
    RUN(ser_residual_norm_bwd, &parts);
    const size_t size = (size_t)(BATCH * PADDED * f.n) * sizeof(float);
    ck_assert_mem_eq(parts.dx.data, whole.dx.data, size);
    ck_assert_mem_eq(parts.dh.data, whole.dh.data, size);
    ck_assert_mem_eq(parts.dgamma.data, whole.dgamma.data, (size_t)f.n * sizeof(float));
    ck_assert_mem_eq(parts.dbeta.data, whole.dbeta.data, (size_t)f.n * sizeof(float));
}
END_TEST

/* Without dropout the members of training change no bit of what prediction computes. */
START_TEST(test_training_agrees_with_prediction)
{
    const form f = {.n = 45, .h = true, .y = true};
    ser_residual_norm_args training = training_args(&f);
    ser_residual_norm_args prediction = {.x = training.x,
                                         .h = training.h,
                                         .rows = training.rows,
                                         .gamma = training.gamma,
                                         .beta = training.beta,
                                         .eps = training.eps,
                                         .sum = poisoned(BATCH * PADDED, f.n),
                                         .y = poisoned(BATCH * PADDED, f.n)};
    RUN(ser_residual_norm_fwd, &training);
    RUN(ser_residual_norm_fwd, &prediction);
    const size_t size = (size_t)(BATCH * PADDED * f.n) * sizeof(float);
    ck_assert_mem_eq(training.sum.data, prediction.sum.data, size);
    ck_assert_mem_eq(training.y.data, prediction.y.data, size);
}
END_TEST

/* No variance: 1 / sqrt(eps) is what the gradients are multiplied with. */
START_TEST(test_gradient_of_a_constant_row)
{
    enum { N = 40 };
    const int32_t one[] = {1};
    ser_residual_norm_args args = {.x = matrix(1, N, 1, 0),
                                   .rows = {.batch = 1, .padded = 1, .valid = one},
                                   .gamma = matrix(1, N, 3, 0),
                                   .beta = matrix(1, N, 4, 0),
                                   .eps = 1e-5F,
                                   .y = poisoned(1, N),
                                   .stats = poisoned(1, 2),
                                   .dy = matrix(1, N, 5, 0),
                                   .dx = poisoned(1, N)};
    double mean = 0.0;
    double dx[N];
    for (int i = 0; i < N; i++) {
        ((float *)args.x.data)[i] = -3000.0F;
        dx[i] = (double)((float *)args.dy.data)[i] * (double)((float *)args.gamma.data)[i];
        mean += dx[i] / N;
    }
    for (int i = 0; i < N; i++) {
        dx[i] = (dx[i] - mean) / sqrt((double)args.eps);
    }
    RUN(ser_residual_norm_fwd, &args);
    RUN(ser_residual_norm_bwd, &args);
    check_gradient("dx", args.dx.data, NULL, dx, N);
}
END_TEST

START_TEST(test_same_bits_with_any_threads)
{
    enum { FRAMES = 500, N = 768 };
    const int32_t frames[] = {FRAMES, 123};
    ser_residual_norm_args args[2];
    for (int i = 0; i < 2; i++) {
        fixture_threads(2 - i);
        args[i] = (ser_residual_norm_args){.x = matrix(2 * FRAMES, N, 1, 0),
                                           .h = matrix(2 * FRAMES, N, 2, 0),
                                           .rows = {.batch = 2, .padded = FRAMES, .valid = frames},
                                           .gamma = matrix(1, N, 3, 0),
                                           .beta = matrix(1, N, 4, 0),
                                           .eps = 1e-5F,
                                           .sum = poisoned(2 * FRAMES, N),
                                           .y = poisoned(2 * FRAMES, N),
                                           .dropout = {.p = 0.1F, .op = 4, .step = &step},
                                           .stats = poisoned(2 * FRAMES, 2),
                                           .dy = matrix(2 * FRAMES, N, 5, 0),
                                           .dx = poisoned(2 * FRAMES, N),
                                           .dh = poisoned(2 * FRAMES, N)};
        args[i].dgamma = ser_tensor_f32(ser_mem_alloc(N, sizeof(float)), 1, N);
        args[i].dbeta = ser_tensor_f32(ser_mem_alloc(N, sizeof(float)), 1, N);
        RUN(ser_residual_norm_fwd, &args[i]);
        RUN(ser_residual_norm_bwd, &args[i]);
    }
    const size_t size = 2 * FRAMES * N * sizeof(float);
    ck_assert_mem_eq(args[0].sum.data, args[1].sum.data, size);
    ck_assert_mem_eq(args[0].dx.data, args[1].dx.data, size);
    ck_assert_mem_eq(args[0].dh.data, args[1].dh.data, size);
    ck_assert_mem_eq(args[0].dgamma.data, args[1].dgamma.data, N * sizeof(float));
    ck_assert_mem_eq(args[0].dbeta.data, args[1].dbeta.data, N * sizeof(float));
    for (int i = 0; i < 2; i++) {
        ser_mem_free(args[i].dgamma.data);
        ser_mem_free(args[i].dbeta.data);
    }
}
END_TEST

OP_SUITE("residual_norm", test_all_forms, test_constant_row, test_gradients, test_large_gradients,
         test_absent_gradients, test_two_parts, test_training_agrees_with_prediction,
         test_gradient_of_a_constant_row, test_same_bits_with_any_threads)
