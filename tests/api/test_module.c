/* SPDX-License-Identifier: MIT */
/* The CUDA module as an application meets it: missing, broken, of another release, and working (its
 * emulation). A module that was loaded stays loaded, so the failures come first. */
#include <math.h>
#include <stdbool.h>

#include "harness.h"

static char log_text[4096];
static int32_t log_level;

static void keep_line(int32_t level, const char *line, void *user)
{
    (void)user;
    if (strncmp(line, "device:", 7) == 0) {
        log_level = level;
        snprintf(log_text, sizeof log_text, "%s", line);
    }
}

static int open_kind(int32_t kind, ser_device **device)
{
    ser_device_options options;
    ser_device_options_init(&options, sizeof options);
    options.kind = kind;
    options.threads = 1;
    return ser_device_open(&options, device);
}

/* CUDA is refused with `part` in the message; AUTO takes the CPU and says the same at `level`. */
static void check_refused(const char *folder, const char *part, int32_t level)
{
    ser_device *device = NULL;
    setenv("SER_MODULE_PATH", folder, 1);
    assert_fails(open_kind(SER_DEVICE_CUDA, &device), SER_ERR_DEVICE, part);
    ck_assert_ptr_null(device);
    ck_assert_int_eq(ser_device_count(SER_DEVICE_CUDA), 0);
    ser_log_set_handler(keep_line, NULL);
    ser_log_set_level(SER_LOG_DEBUG);
    assert_ok(open_kind(SER_DEVICE_AUTO, &device));
    ser_log_set_handler(NULL, NULL);
    ck_assert_int_eq(ser_device_kind(device), SER_DEVICE_CPU);
    ck_assert_msg(strstr(log_text, part) != NULL, "the log says: %s", log_text);
    ck_assert_int_eq(log_level, level);
    ser_device_free(&device);
}

/* A folder with `file` as its module. */
static const char *folder_with(const char *file)
{
    char buffer[65536];
    const char *path = harness_tmpfile("libser-cuda.so");
    FILE *from = fopen(file, "rb");
    FILE *to = fopen(path, "wb");
    ck_assert_ptr_nonnull(from);
    ck_assert_ptr_nonnull(to);
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, from)) > 0;) {
        ck_assert_uint_eq(fwrite(buffer, 1, n, to), n);
    }
    fclose(from);
    ck_assert_int_eq(fclose(to), 0);
    return harness_tmpdir();
}

START_TEST(test_missing)
{
    check_refused("/nowhere", "libser-cuda.so is not in /nowhere", SER_LOG_INFO);
}
END_TEST

START_TEST(test_not_a_library)
{
    check_refused(folder_with(harness_data("api/foreign_module.c")), "cannot be loaded",
                  SER_LOG_WARNING);
}
END_TEST

START_TEST(test_of_another_release)
{
    check_refused(folder_with(getenv("SER_OTHER_RELEASE")), "has interface 1, this libser needs",
                  SER_LOG_WARNING);
}
END_TEST

START_TEST(test_something_else)
{
    check_refused(folder_with(getenv("SER_STRANGER")), "is not a module of libser",
                  SER_LOG_WARNING);
}
END_TEST

/* The real one, where it was built; without driver or GPU it must say so. */
START_TEST(test_without_driver_or_gpu)
{
    const char *folder = getenv("SER_REAL_MODULE");
    ser_device *device = NULL;
    setenv("SER_MODULE_PATH", folder, 1);
    if (ser_device_count(SER_DEVICE_CUDA) > 0) {
        assert_ok(open_kind(SER_DEVICE_CUDA, &device));
        ck_assert_int_eq(ser_device_kind(device), SER_DEVICE_CUDA);
        ser_device_free(&device);
        return;
    }
    assert_fails(open_kind(SER_DEVICE_CUDA, &device), SER_ERR_DEVICE, "cuda: ");
    ck_assert_msg(strstr(ser_error_message(), "driver") != NULL ||
                      strstr(ser_error_message(), "GPU") != NULL,
                  "%s", ser_error_message());
    check_refused(folder, ser_error_message(), SER_LOG_INFO);
}
END_TEST

/* --- The emulated one --- */

/* A clip of coloured noise. */
static ser_audio *clip(void)
{
    enum { COUNT = 12000 };
    static float samples[COUNT];
    ser_audio *audio = NULL;
    uint64_t state = 3;
    for (int i = 0; i < COUNT; i++) {
        samples[i] = 0.1F * harness_random(&state) + (i > 0 ? 0.8F * samples[i - 1] : 0.0F);
    }
    assert_ok(ser_audio_from_samples(samples, COUNT, 1, 16000, NULL, &audio));
    return audio;
}

/* Probabilities of the shipped model on a kind of device. */
static void predict(int32_t kind, int32_t precision, float *probabilities)
{
    ser_device *device = NULL;
    ser_model *model = NULL;
    ser_predictor *predictor = NULL;
    ser_model_options options;
    ser_audio *audio = clip();
    ser_model_options_init(&options, sizeof options);
    options.precision = precision;
    assert_ok(open_kind(kind, &device));
    assert_ok(ser_model_load(device, getenv("SER_MODEL"), &options, &model));
    assert_ok(ser_predictor_create(model, NULL, &predictor));
    for (int turn = 0; turn < 3; turn++) { /* plain, recorded, replayed */
        assert_ok(ser_predict(predictor, audio, probabilities, 8));
    }
    ser_predictor_free(&predictor);
    ser_model_free(&model);
    ser_device_free(&device);
    ser_audio_free(&audio);
}

START_TEST(test_predictions)
{
    float wanted[8];
    float got[8];
    setenv("SER_MODULE_PATH", getenv("SER_EMULATED_MODULE"), 1);
    predict(SER_DEVICE_CPU, SER_PRECISION_AUTO, wanted);
    predict(SER_DEVICE_CUDA, SER_PRECISION_F32, got);
    for (int k = 0; k < 8; k++) {
        ck_assert_float_eq_tol(got[k], wanted[k], 1e-5F);
    }
    predict(SER_DEVICE_CUDA, SER_PRECISION_AUTO, got);
    bool differs = false;
    for (int k = 0; k < 8; k++) {
        ck_assert_float_eq_tol(got[k], wanted[k], 2e-2F);
        differs = differs || fabsf(got[k] - wanted[k]) > 1e-5F;
    }
    ck_assert(differs); /* so it was bf16 */
}
END_TEST

START_TEST(test_auto_prefers_the_gpu)
{
    ser_device *device = NULL;
    setenv("SER_MODULE_PATH", getenv("SER_EMULATED_MODULE"), 1);
    ck_assert_int_eq(ser_device_count(SER_DEVICE_CUDA), 1);
    assert_ok(open_kind(SER_DEVICE_AUTO, &device));
    ck_assert_int_eq(ser_device_kind(device), SER_DEVICE_CUDA);
    ck_assert_msg(strncmp(ser_device_name(device), "cuda:0 (", 8) == 0, "%s",
                  ser_device_name(device));
    ser_device_free(&device);
}
END_TEST

/* Three steps; losses [3]. */
static void train_on(int32_t kind, int32_t precision, double *losses)
{
    enum { COUNT = 9000 };
    ser_device *device = NULL;
    ser_model *model = NULL;
    ser_trainer *trainer = NULL;
    ser_audio *audio = NULL;
    ser_batch *batch = NULL;
    float samples[COUNT];
    ser_model_options options;
    for (int i = 0; i < COUNT; i++) {
        samples[i] = 0.3F * sinf((float)i * 0.07F * (1.0F + (float)i * 1e-5F));
    }
    ser_model_options_init(&options, sizeof options);
    options.precision = precision;
    assert_ok(open_kind(kind, &device));
    assert_ok(ser_model_load(device, getenv("SER_MODEL"), &options, &model));
    assert_ok(ser_trainer_create(model, NULL, &trainer));
    assert_ok(ser_audio_from_samples(samples, COUNT, 1, 16000, NULL, &audio));
    const ser_clip clip = {.struct_size = sizeof clip, .audio = audio, .id = 1, .label = 2};
    assert_ok(ser_batch_create(trainer, &clip, 1, 0, 0, &batch));
    for (int i = 0; i < 3; i++) {
        ser_step_result result = {.struct_size = sizeof result};
        assert_ok(ser_train_step(trainer, batch, &result));
        losses[i] = result.loss;
    }
    ser_batch_free(&batch);
    ser_audio_free(&audio);
    ser_trainer_free(&trainer);
    ser_model_free(&model);
    ser_device_free(&device);
}

START_TEST(test_training)
{
    double cpu[3], f32[3], bf16[3];
    setenv("SER_MODULE_PATH", getenv("SER_EMULATED_MODULE"), 1);
    train_on(SER_DEVICE_CPU, SER_PRECISION_AUTO, cpu);
    train_on(SER_DEVICE_CUDA, SER_PRECISION_F32, f32);
    train_on(SER_DEVICE_AUTO, SER_PRECISION_AUTO, bf16);
    for (int i = 0; i < 3; i++) {
        ck_assert_double_eq_tol(f32[i], cpu[i], 1e-4 * cpu[i]);
        ck_assert_double_eq_tol(bf16[i], cpu[i], 5e-2 * cpu[i]);
        ck_assert(bf16[i] != f32[i]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("module");
    TCase *tcase = tcase_create("module");
    tcase_set_timeout(tcase, 120);
    const TTest *tests[] = {test_missing,
                            test_not_a_library,
                            test_of_another_release,
                            test_something_else,
                            test_without_driver_or_gpu,
                            test_predictions,
                            test_auto_prefers_the_gpu,
                            test_training};
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        const bool built = getenv("SER_REAL_MODULE") != NULL;
        if (built || tests[i] != test_without_driver_or_gpu) {
            tcase_add_test(tcase, tests[i]);
        }
    }
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
