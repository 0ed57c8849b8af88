/* SPDX-License-Identifier: MIT */
/* The backward half of whole networks against finite differences of their loss, and what a step
 * leaves alone. */
#include "random_net.h"

#include <math.h>

#include "net/training.h"

enum { CLIPS = 3, MAX_LABELS = 8 };

static const int64_t lengths[CLIPS] = {5000, 9000, 7200};

typedef struct fixture {
    random_net random;
    const ser_params *params;
    int64_t labels;
    float *samples[CLIPS];
    float targets[CLIPS * MAX_LABELS];
    float mask[CLIPS * MAX_LABELS];
    ser_training_batch batch;
    float *rates, *decays;
} fixture;

static void open_fixture(fixture *f, int kind)
{
    *f = (fixture){.labels = 0};
    random_net_open(kind, 11, &f->random);
    const ser_arch *arch = ser_net_arch(f->random.net);
    f->params = ser_net_params(f->random.net);
    f->labels = arch->classifier_size[arch->classifier_count - 1];
    f->rates = calloc(f->params->count, sizeof *f->rates);
    f->decays = calloc(f->params->count, sizeof *f->decays);
    for (int b = 0; b < CLIPS; b++) {
        f->samples[b] = malloc((size_t)lengths[b] * sizeof(float));
        random_clip(f->samples[b], lengths[b], 40 + (uint64_t)b);
        for (int64_t k = 0; k < f->labels; k++) {
            const bool allowed = b != 1 || k != 0; /* clip 1 does not know class 0 */
            f->mask[b * f->labels + k] = allowed;
            f->targets[b * f->labels + k] = !allowed ? 0.0F : k == b + 1 ? 0.8F : 0.05F;
        }
    }
    f->batch = (ser_training_batch){.count = CLIPS,
                                    .samples = (const float *const *)f->samples,
                                    .lengths = lengths,
                                    .targets = f->targets,
                                    .mask = f->mask,
                                    .scale = 1.0F,
                                    .seed = 7,
                                    .step = 3};
}

static void close_fixture(fixture *f)
{
    for (int b = 0; b < CLIPS; b++) {
        free(f->samples[b]);
    }
    free(f->rates);
    free(f->decays);
    random_net_close(&f->random);
}

static bool measured(const ser_param *param)
{
    return param->role == SER_PARAM_MEL_MEAN || param->role == SER_PARAM_MEL_STD;
}

static ser_training *train_all(fixture *f)
{
    ser_training *training;
    for (size_t i = 0; i < f->params->count; i++) {
        f->rates[i] = measured(&f->params->list[i]) ? 0.0F : 1e-3F;
        f->decays[i] = f->params->list[i].rank > 1 ? 0.1F : 0.0F;
    }
    const ser_training_options options = {.rates = f->rates,
                                          .decays = f->decays,
                                          .beta1 = 0.9F,
                                          .beta2 = 0.999F,
                                          .eps = 1e-8F,
                                          .average = true};
    assert_ok(ser_training_create(f->random.net, &options, 2, &training));
    return training;
}

static double total_loss(ser_training *training, const fixture *f)
{
    float losses[CLIPS];
    assert_ok(ser_training_evaluate(training, &f->batch, losses, NULL));
    double total = 0.0;
    for (int b = 0; b < CLIPS; b++) {
        total += (double)losses[b];
    }
    return total;
}

/* The loss's slope along the gradient of one parameter, by central differences, is the gradient's
 * norm. */
static void check_direction(ser_training *training, fixture *f, size_t index)
{
    const ser_param *param = &f->params->list[index];
    const size_t count = (size_t)ser_param_elements(param);
    float *before = malloc(count * sizeof *before);
    float *moved = malloc(count * sizeof *moved);
    float *gradient = malloc(count * sizeof *gradient);
    assert_ok(ser_training_gradient(training, index, gradient));
    double norm = 0.0;
    for (size_t i = 0; i < count; i++) {
        norm += (double)gradient[i] * (double)gradient[i];
    }
    norm = sqrt(norm);
    /* Softmax does not see a shift; all else moves the loss. */
    ck_assert_msg(norm > 1e-5 || param->role == SER_PARAM_K_BIAS ||
                      param->role == SER_PARAM_POOL_SCORE_BIAS,
                  "%s: no gradient", param->name);
    assert_ok(ser_net_get(f->random.net, index, before));
    double losses[2];
    double size = 0.0;
    for (size_t i = 0; i < count; i++) {
        size += (double)before[i] * (double)before[i];
    }
    const double h = 2e-2 * (sqrt(size) + 0.1) / sqrt((double)count);
    for (int side = 0; side < 2; side++) {
        const double step = norm > 0.0 ? (side == 0 ? h : -h) / norm : 0.0;
        for (size_t i = 0; i < count; i++) {
            moved[i] = (float)((double)before[i] + step * (double)gradient[i]);
        }
        assert_ok(ser_training_place(training, index, moved));
        losses[side] = total_loss(training, f);
    }
    assert_ok(ser_training_place(training, index, before));
    const double slope = (losses[0] - losses[1]) / (2.0 * h);
    ck_assert_msg(fabs(slope - norm) < 2e-2 * norm + 2e-4, "%s: slope %g, gradient %g", param->name,
                  slope, norm);
    free(gradient);
    free(moved);
    free(before);
}

static void check_kind(int kind)
{
    fixture f;
    open_fixture(&f, kind);
    ser_training *training = train_all(&f);
    float losses[CLIPS];
    ser_training_result result = {.losses = losses};
    assert_ok(ser_training_step(training, &f.batch, NULL, &result));
    ck_assert_double_eq_tol((double)losses[0] + (double)losses[1] + (double)losses[2],
                            total_loss(training, &f), 1e-5);
    for (size_t i = 0; i < f.params->count; i++) {
        if (!measured(&f.params->list[i])) {
            check_direction(training, &f, i);
        }
    }
    ser_training_free(training);
    close_fixture(&f);
}

START_TEST(gradients_base)
{
    check_kind(NET_BASE);
}
END_TEST

START_TEST(gradients_large)
{
    check_kind(NET_LARGE);
}
END_TEST

START_TEST(gradients_logmel)
{
    check_kind(NET_LOGMEL);
}
END_TEST

/* q, k and v share a place in the arrays; a frozen one adds nothing to the norm that is clipped. */
START_TEST(frozen_keys_do_not_count)
{
    fixture f;
    open_fixture(&f, NET_BASE);
    for (size_t i = 0; i < f.params->count; i++) {
        const int32_t role = f.params->list[i].role;
        f.rates[i] = role == SER_PARAM_Q_WEIGHT || role == SER_PARAM_V_WEIGHT ? 1e-3F : 0.0F;
    }
    const ser_training_options options = {
        .rates = f.rates, .decays = f.decays, .beta1 = 0.9F, .beta2 = 0.999F, .eps = 1e-8F};
    ser_training *training;
    assert_ok(ser_training_create(f.random.net, &options, 1, &training));
    ser_training_result result = {.losses = NULL};
    assert_ok(ser_training_step(training, &f.batch, NULL, &result));
    double sum = 0.0;
    for (size_t i = 0; i < f.params->count; i++) {
        const size_t count = (size_t)ser_param_elements(&f.params->list[i]);
        float *gradient = malloc(count * sizeof *gradient);
        if (f.rates[i] > 0.0F) {
            assert_ok(ser_training_gradient(training, i, gradient));
            for (size_t k = 0; k < count; k++) {
                sum += (double)gradient[k] * (double)gradient[k];
            }
        }
        free(gradient);
    }
    const ser_update update = {.rate = 1.0F, .gradient_scale = 1.0F};
    assert_ok(ser_training_clear(training));
    assert_ok(ser_training_step(training, &f.batch, &update, &result));
    ck_assert(!result.skipped);
    ck_assert_double_eq_tol(result.norm, sqrt(sum), 1e-9 * result.norm);
    ser_training_free(training);
    close_fixture(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("training");
    TCase *tcase = tcase_create("training");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, gradients_base);
    tcase_add_test(tcase, gradients_large);
    tcase_add_test(tcase, gradients_logmel);
    tcase_add_test(tcase, frozen_keys_do_not_count);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
