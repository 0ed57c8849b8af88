/* SPDX-License-Identifier: MIT */
#include "fixture.h"

START_TEST(test_probabilities)
{
    const float logits[2][5] = {{1.0F, 2.0F, 3.0F, -4.0F, 0.0F},
                                {1e4F, -1e4F, 9999.0F, 0.0F, 1e4F}};
    ser_tensor z = matrix(2, 5, 1, 0);
    memcpy(z.data, logits, sizeof logits);
    ser_cross_entropy_args args = {.logits = z, .probabilities = poisoned(2, 5)};
    RUN(ser_cross_entropy_fwd, &args);
    for (int b = 0; b < 2; b++) {
        double top = b == 0 ? 3.0 : 1e4;
        double total = 0.0;
        for (int i = 0; i < 5; i++) {
            total += exp((double)logits[b][i] - top);
        }
        for (int i = 0; i < 5; i++) {
            ck_assert_double_eq_tol((double)((float *)args.probabilities.data)[b * 5 + i],
                                    exp((double)logits[b][i] - top) / total, 1e-6);
        }
    }
}
END_TEST

enum { BATCH = 4, K = 7 };

static const float mask_values[BATCH][K] = {
    {1, 1, 0, 1, 0, 1, 1}, {0, 0, 0, 1, 1, 0, 0}, {1, 1, 1, 1, 1, 1, 1}, {0, 0, 0, 0, 0, 0, 1}};

/* Random logits and targets; masked logits are NaN and masked targets 0. */
static ser_cross_entropy_args training_args(bool masked, float spread)
{
    ser_cross_entropy_args args = {.logits = matrix(BATCH, K, 1, 0),
                                   .probabilities = poisoned(BATCH, K),
                                   .targets = matrix(BATCH, K, 2, 0),
                                   .loss = poisoned(BATCH, 1),
                                   .scale = 0.3F,
                                   .dlogits = poisoned(BATCH, K)};
    if (masked) {
        args.mask = matrix(BATCH, K, 3, 0);
        memcpy(args.mask.data, mask_values, sizeof mask_values);
    }
    for (int e = 0; e < BATCH * K; e++) {
        ((float *)args.logits.data)[e] *= spread;
        if (masked && mask_values[e / K][e % K] == 0.0F) {
            ((float *)args.logits.data)[e] = NAN;
            ((float *)args.targets.data)[e] = 0.0F;
        }
    }
    return args;
}

/* -sum_k t_k log p_k of a row in double, and p. */
static double row_loss(const ser_cross_entropy_args *args, const double *z, int64_t b, double p[K])
{
    const float *t = (const float *)args->targets.data + b * K;
    const float *mask = args->mask.data != NULL ? mask_values[b] : NULL;
    double top = -HUGE_VAL;
    double total = 0.0;
    double loss = 0.0;
    for (int k = 0; k < K; k++) {
        top = mask == NULL || mask[k] != 0.0F ? fmax(top, z[b * K + k]) : top;
    }
    for (int k = 0; k < K; k++) {
        p[k] = mask == NULL || mask[k] != 0.0F ? exp(z[b * K + k] - top) : 0.0;
        total += p[k];
    }
    for (int k = 0; k < K; k++) {
        p[k] /= total;
        loss += t[k] != 0.0F ? (double)t[k] * (log(total) - (z[b * K + k] - top)) : 0.0;
    }
    return loss;
}

static const ser_cross_entropy_args *differentiated;
static double *z64;

static double scaled_loss(void)
{
    double loss = 0.0;
    double p[K];
    for (int64_t b = 0; b < BATCH; b++) {
        loss += (double)differentiated->scale * row_loss(differentiated, z64, b, p);
    }
    return loss;
}

static void check_loss(bool masked, float spread)
{
    ser_cross_entropy_args args = training_args(masked, spread);
    RUN(ser_cross_entropy_fwd, &args);
    RUN(ser_cross_entropy_bwd, &args);
    z64 = doubles(&args.logits);
    for (int64_t b = 0; b < BATCH; b++) {
        double p[K];
        const double loss = row_loss(&args, z64, b, p);
        const float *got = (const float *)args.probabilities.data + b * K;
        ck_assert_double_eq_tol((double)((float *)args.loss.data)[b], loss,
                                1e-6 * fmax(1.0, fabs(loss)));
        ck_assert_double_lt(harness_relative_error64(got, p, K), TOLERANCE);
        for (int k = 0; masked && k < K; k++) {
            ck_assert(mask_values[b][k] != 0.0F || got[k] == 0.0F);
        }
    }
    differentiated = &args;
    check_differences("dlogits", scaled_loss, z64, BATCH * K, args.dlogits.data, NULL);
    matrices_free();
}

START_TEST(test_loss_and_gradient)
{
    check_loss(false, 2.0F);
    check_loss(true, 2.0F);
    check_loss(false, 300.0F); /* probabilities that f32 cannot hold */
    check_loss(true, 300.0F);
}
END_TEST

/* A class that is not in the mask must not exist: the same numbers without its column. */
START_TEST(test_mask_equals_fewer_classes)
{
    ser_cross_entropy_args args = training_args(true, 2.0F);
    ser_cross_entropy_args few = {.logits = matrix(1, 2, 1, 0), .probabilities = poisoned(1, 2)};
    memcpy(few.logits.data, (float *)args.logits.data + K + 3, 2 * sizeof(float));
    RUN(ser_cross_entropy_fwd, &args);
    RUN(ser_cross_entropy_fwd, &few);
    ck_assert_mem_eq((float *)args.probabilities.data + K + 3, few.probabilities.data,
                     2 * sizeof(float));
}
END_TEST

START_TEST(test_no_class_at_all)
{
    ser_cross_entropy_args args = training_args(true, 2.0F);
    memset(args.mask.data, 0, K * sizeof(float));
    memset(args.targets.data, 0, K * sizeof(float));
    RUN(ser_cross_entropy_fwd, &args);
    RUN(ser_cross_entropy_bwd, &args);
    ck_assert(((float *)args.loss.data)[0] == 0.0F);
    for (int k = 0; k < K; k++) {
        ck_assert(((float *)args.probabilities.data)[k] == 0.0F);
        ck_assert(((float *)args.dlogits.data)[k] == 0.0F);
    }
}
END_TEST

/* A damaged network must not look healthy. */
/* A target that the network holds for impossible: the probabilities alone would not show it. */
START_TEST(test_infinite_loss_stops_the_update)
{
    float p[] = {0.25F, 0.75F, 1.0F, 0.0F};
    float targets[] = {0.0F, 1.0F, 0.0F, 1.0F};
    float losses[] = {0.3F, INFINITY};
    ser_tensor dlogits = poisoned(2, 2);
    const ser_cross_entropy_args args = {.probabilities = ser_tensor_f32(p, 2, 2),
                                         .targets = ser_tensor_f32(targets, 2, 2),
                                         .loss = ser_tensor_f32(losses, 2, 1),
                                         .scale = 2.0F,
                                         .dlogits = dlogits};
    RUN(ser_cross_entropy_bwd, &args);
    const float *d = dlogits.data;
    ck_assert(d[0] == 0.5F && d[1] == -0.5F && isnan(d[2]) && isnan(d[3]));
}
END_TEST

START_TEST(test_nan_survives)
{
    ser_cross_entropy_args args = training_args(false, 2.0F);
    ((float *)args.logits.data)[K + 2] = NAN;
    RUN(ser_cross_entropy_fwd, &args);
    ck_assert(isnan(((float *)args.loss.data)[1]));
    ck_assert(isnan(((float *)args.probabilities.data)[K]));
    ck_assert(isfinite(((float *)args.loss.data)[0]));
}
END_TEST

/*
 * torch.nn.functional.cross_entropy(z, [3, 0, 2], weight=w, label_smoothing=0.1) of PyTorch 2.11:
 * smoothing e and class weights w are targets (1 - e) w_y [k = y] + (e / K) w_k and the scale
 * 1 / sum of w_y.
 */
START_TEST(test_agrees_with_pytorch)
{
    enum { CLIPS = 3, CLASSES = 4 };
    const float z[CLIPS][CLASSES] = {
        {1.5F, -0.5F, 0.25F, 2.0F}, {0.0F, 3.0F, -1.0F, 0.5F}, {-2.0F, 0.75F, 1.0F, -0.25F}};
    const float w[CLASSES] = {1.0F, 0.5F, 2.0F, 0.25F};
    const int y[CLIPS] = {3, 0, 2};
    const double loss = 1.5272881926419477;
    const double gradient[CLIPS * CLASSES] = {
        0.0242487323561,  0.000476595855671, -0.00623335419404, -0.0184919740177,
        -0.271379846173,  0.261996742236,    -0.0105155328988,  0.019898636836,
        0.00602365968332, 0.210707674746,    -0.29373820007,    0.0770068656407};
    const float smoothing = 0.1F;
    ser_cross_entropy_args args = {.logits = matrix(CLIPS, CLASSES, 1, 0),
                                   .probabilities = poisoned(CLIPS, CLASSES),
                                   .targets = matrix(CLIPS, CLASSES, 2, 0),
                                   .loss = poisoned(CLIPS, 1),
                                   .dlogits = poisoned(CLIPS, CLASSES)};
    memcpy(args.logits.data, z, sizeof z);
    float weights = 0.0F;
    for (int b = 0; b < CLIPS; b++) {
        weights += w[y[b]];
        for (int k = 0; k < CLASSES; k++) {
            ((float *)args.targets.data)[b * CLASSES + k] =
                (k == y[b] ? (1.0F - smoothing) * w[k] : 0.0F) + smoothing / CLASSES * w[k];
        }
    }
    args.scale = 1.0F / weights;
    RUN(ser_cross_entropy_fwd, &args);
    RUN(ser_cross_entropy_bwd, &args);
    double total = 0.0;
    for (int b = 0; b < CLIPS; b++) {
        total += (double)((float *)args.loss.data)[b];
    }
    ck_assert_double_eq_tol(total * (double)args.scale, loss, 1e-6);
    check_gradient("dlogits", args.dlogits.data, NULL, gradient, CLIPS * CLASSES);
}
END_TEST

OP_SUITE("cross_entropy", test_probabilities, test_loss_and_gradient,
         test_mask_equals_fewer_classes, test_no_class_at_all, test_infinite_loss_stops_the_update,
         test_nan_survives, test_agrees_with_pytorch)
