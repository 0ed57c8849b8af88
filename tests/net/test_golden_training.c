/* SPDX-License-Identifier: MIT */
/* Gradients of whole networks and ten AdamW steps against PyTorch in float64; the files are made by
 * golden/training_golden.py. */
#include "harness.h"

#include <math.h>

#include "model/model.h"
#include "model/safetensors.h"
#include "net/training.h"

static const struct {
    const char *name, *model;
} goldens[] = {
    {"attention_pool", "attention_pool.model.safetensors"},
    {"large", "large"},
    {"logmel", "logmel.model.safetensors"},
};

enum { GOLDENS = sizeof goldens / sizeof *goldens, CLIPS = 3, MAX_CLASSES = 16, STEPS = 10 };

/* As in training_golden.py. */
static const float RATE = 1e-3F, DECAY = 0.05F, SMOOTHING = 0.1F;

/* $SER_TEST_DEVICE=cuda runs the same on a card, or on its emulation; $SER_TEST_PRECISION=bf16. */
static bool on_cuda(void)
{
    const char *device = getenv("SER_TEST_DEVICE");
    return device != NULL && strcmp(device, "cuda") == 0;
}

static bool in_bf16(void)
{
    const char *precision = getenv("SER_TEST_PRECISION");
    return precision != NULL && strcmp(precision, "bf16") == 0;
}

typedef struct fixture {
    ser_safetensors file;
    ser_device *device;
    ser_model *model;
    ser_training *training;
    float *samples[CLIPS];
    int64_t lengths[CLIPS];
    float targets[CLIPS * MAX_CLASSES];
    ser_training_batch batch;
} fixture;

static float *read_values(const fixture *f, const char *name, size_t *count)
{
    const ser_tensor_entry *entry = ser_safetensors_find(&f->file, name);
    ck_assert_msg(entry != NULL, "no %s", name);
    float *values = malloc((size_t)entry->elements * sizeof *values);
    assert_ok(ser_safetensors_read(&f->file, entry, values));
    *count = (size_t)entry->elements;
    return values;
}

/* PyTorch's cross_entropy with class weights w and label smoothing e: targets_k = (1 - e) w_y
 * [k == y] + e / K w_k, divided by the sum of the w_y. */
static void set_targets(fixture *f)
{
    size_t classes;
    size_t count;
    float *weight = read_values(f, "class_weight", &classes);
    float *labels = read_values(f, "labels", &count);
    float total = 0.0F;
    for (int b = 0; b < CLIPS; b++) {
        for (size_t k = 0; k < classes; k++) {
            f->targets[(size_t)b * classes + k] =
                SMOOTHING / (float)classes * weight[k] +
                (k == (size_t)labels[b] ? (1.0F - SMOOTHING) * weight[k] : 0.0F);
        }
        total += weight[(size_t)labels[b]];
    }
    f->batch.targets = f->targets;
    f->batch.scale = 1.0F / total;
    free(labels);
    free(weight);
}

static void make_trainable(fixture *f)
{
    const ser_params *params = ser_net_params(f->model->net);
    float *rates = calloc(params->count, sizeof *rates);
    float *decays = calloc(params->count, sizeof *decays);
    for (size_t i = 0; i < params->count; i++) {
        const ser_param *param = &params->list[i];
        const bool fixed = param->role == SER_PARAM_MEL_MEAN || param->role == SER_PARAM_MEL_STD;
        rates[i] = fixed ? 0.0F : RATE;
        decays[i] = param->rank >= 2 && param->role != SER_PARAM_POSITION_G ? DECAY : 0.0F;
    }
    const ser_training_options options = {
        .rates = rates, .decays = decays, .beta1 = 0.9F, .beta2 = 0.98F, .eps = 1e-8F};
    assert_ok(ser_training_create(f->model->net, &options, 2, &f->training));
    free(decays);
    free(rates);
}

static void open_fixture(fixture *f, int which)
{
    char path[4096];
    char model[4096];
    ser_file file;
    int directory;
    ser_model_options options;
    *f = (fixture){.batch = {.count = CLIPS}};
    /* harness_data's answer lasts until its next call */
    snprintf(model, sizeof model, "%s/%s", harness_data("golden"), goldens[which].model);
    snprintf(path, sizeof path, "%s/%s.training.safetensors", harness_data("golden"),
             goldens[which].name);
    assert_ok(ser_file_open(path, &file, &directory));
    assert_ok(ser_safetensors_open(&file, SER_DEFAULT_HEADER, &f->file));
    assert_ok(ser_device_create(on_cuda() ? SER_DEVICE_CUDA : SER_DEVICE_CPU, 0, 2, &f->device));
    ser_model_options_init(&options, sizeof options);
    options.precision = in_bf16() ? SER_PRECISION_BF16 : SER_PRECISION_F32;
    assert_ok(ser_model_open(f->device, model, &options, &f->model));
    for (int b = 0; b < CLIPS; b++) {
        size_t count;
        snprintf(path, sizeof path, "input.%d", b);
        f->samples[b] = read_values(f, path, &count);
        f->lengths[b] = (int64_t)count;
    }
    f->batch.samples = (const float *const *)f->samples;
    f->batch.lengths = f->lengths;
    set_targets(f);
    make_trainable(f);
}

static void close_fixture(fixture *f)
{
    ser_training_free(f->training);
    ser_model_release(f->model);
    ser_device_release(f->device);
    ser_safetensors_close(&f->file);
    for (int b = 0; b < CLIPS; b++) {
        free(f->samples[b]);
    }
}

/* Largest difference over the largest reference value of a tensor. */
static double gradient_error(const fixture *f, size_t index, const ser_param *param)
{
    char name[128];
    size_t count;
    snprintf(name, sizeof name, "grad.%s", param->name);
    float *wanted = read_values(f, name, &count);
    ck_assert_uint_eq(count, (size_t)ser_param_elements(param));
    float *own = malloc(count * sizeof *own);
    assert_ok(ser_training_gradient(f->training, index, own));
    double worst = 0.0;
    double top = 0.0;
    for (size_t i = 0; i < count; i++) {
        const double difference = fabs((double)own[i] - (double)wanted[i]);
        worst = difference > worst || isnan(difference) ? difference : worst;
        top = fmax(top, fabs((double)wanted[i]));
    }
    free(own);
    free(wanted);
    /* Softmax does not see a shift: these gradients are 0 but for rounding. */
    const bool shift = param->role == SER_PARAM_K_BIAS || param->role == SER_PARAM_POOL_SCORE_BIAS;
    return shift ? worst : worst / top;
}

START_TEST(gradients)
{
    fixture f;
    open_fixture(&f, _i);
    const ser_params *params = ser_net_params(f.model->net);
    ser_training_result result = {.losses = NULL};
    assert_ok(ser_training_step(f.training, &f.batch, NULL, &result));
    for (size_t i = 0; i < params->count; i++) {
        if (ser_training_is_trained(f.training, i)) {
            const double error = gradient_error(&f, i, &params->list[i]);
            ck_assert_msg(error <= 1e-4, "%s: %s: relative error %g", goldens[_i].name,
                          params->list[i].name, error);
        }
    }
    close_fixture(&f);
}
END_TEST

START_TEST(ten_steps)
{
    fixture f;
    size_t count;
    open_fixture(&f, _i);
    float *losses = read_values(&f, "losses", &count);
    float *norms = read_values(&f, "norms", &count);
    ck_assert_uint_eq(count, STEPS);
    const ser_update update = {.rate = 1.0F, .clip = 1.0F, .gradient_scale = 1.0F};
    for (int step = 0; step < STEPS; step++) {
        float own[CLIPS];
        ser_training_result result = {.losses = own};
        assert_ok(ser_training_step(f.training, &f.batch, &update, &result));
        const double loss =
            ((double)own[0] + (double)own[1] + (double)own[2]) * (double)f.batch.scale;
        ck_assert(!result.skipped);
        ck_assert_msg(fabs(loss - (double)losses[step]) <= 1e-4 * (double)losses[step],
                      "%s: step %d: loss %.7f, not %.7f", goldens[_i].name, step, loss,
                      (double)losses[step]);
        ck_assert_double_eq_tol(result.norm, (double)norms[step], 1e-3 * (double)norms[step]);
    }
    ck_assert_uint_eq(ser_training_updates(f.training), STEPS);
    free(norms);
    free(losses);
    close_fixture(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("golden_training");
    TCase *tcase = tcase_create("golden_training");
    tcase_set_timeout(tcase, 300);
    tcase_add_loop_test(tcase, gradients, 0, GOLDENS);
    tcase_add_loop_test(tcase, ten_steps, 0, GOLDENS);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
