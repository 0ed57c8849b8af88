/* SPDX-License-Identifier: MIT */
/* The contract of ser/train.h, over the shared library alone. */
#include "api.h"

#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CLIPS = 4, LABELS = 3 };

static const char *const labels[LABELS] = {"a", "b", "c"};

static const char config[] =
    "{\"features\": {\"type\": \"logmel\", \"mel\": {\"frame\": 400, \"hop\": 160, \"fft\": 512,"
    "  \"bins\": 16, \"low\": 50, \"high\": 7600, \"floor\": 1e-5}, \"conv_dim\": [8],"
    "  \"conv_kernel\": [3], \"conv_stride\": [2], \"conv_padding\": [1], \"conv_bias\": true,"
    "  \"norm\": \"layer\"},"
    " \"encoder\": {\"hidden_size\": 8, \"num_hidden_layers\": 1, \"num_attention_heads\": 2,"
    "  \"intermediate_size\": 8, \"norm\": \"pre\", \"position_kernel\": 3,"
    "  \"position_groups\": 2},"
    " \"pooling\": {\"type\": \"attention\"},"
    " \"classifier\": {\"sizes\": [], \"activation\": \"none\"}}";

static ser_device *device;
static ser_model *model;
static ser_trainer *trainer;
static ser_audio *audios[CLIPS];
static ser_clip clips[CLIPS];
static ser_batch *batch;

static void setup(void)
{
    device = api_device(1);
    assert_ok(ser_model_create_from_config(device, config, labels, LABELS, NULL, &model));
    assert_ok(ser_trainer_create(model, NULL, &trainer));
    for (unsigned i = 0; i < CLIPS; i++) {
        audios[i] = api_clip(3000 + 100 * i, i);
        clips[i] = (ser_clip){.struct_size = sizeof clips[i],
                              .audio = audios[i],
                              .id = 1 + i,
                              .label = (int32_t)i % LABELS};
    }
    assert_ok(ser_batch_create(trainer, clips, CLIPS, 0, 1, &batch));
}

static void teardown(void)
{
    ser_batch_free(&batch);
    ser_trainer_free(&trainer);
    ser_model_free(&model);
    ser_device_free(&device);
    for (int i = 0; i < CLIPS; i++) {
        ser_audio_free(&audios[i]);
    }
}

START_TEST(a_step_and_its_result)
{
    float losses[CLIPS], p[CLIPS * LABELS];
    ser_step_result result = {.struct_size = sizeof result};
    assert_ok(ser_train_step(trainer, batch, &result));
    ck_assert_uint_eq(result.struct_size, sizeof result);
    ck_assert_int_eq(result.step, 1);
    ck_assert_int_eq(result.updated, 1);
    ck_assert(result.loss > 0.0 && result.gradient_norm > 0.0 && result.rate > 0.0);
    ck_assert_int_eq(result.bad_clip, -1);
    assert_ok(ser_train_step(trainer, batch, NULL));
    ck_assert_int_eq(ser_trainer_steps(trainer), 2);
    assert_ok(ser_trainer_evaluate(trainer, batch, losses, p));
    for (int i = 0; i < CLIPS; i++) {
        double sum = 0.0;
        for (int k = 0; k < LABELS; k++) {
            sum += (double)p[i * LABELS + k];
        }
        ck_assert_double_eq_tol(sum, 1.0, 1e-5);
        ck_assert_double_eq_tol((double)losses[i], -log((double)p[i * LABELS + i % LABELS]), 1e-4);
    }
}
END_TEST

/* Programs of another age have shorter or longer results and clips. */
START_TEST(structs_of_other_lengths)
{
    union {
        unsigned char bytes[2 * sizeof(ser_step_result)];
        size_t size;
        ser_step_result result;
    } r;
    int64_t step = 0;
    memset(&r, 0xAB, sizeof r);
    r.size = 16;
    assert_ok(ser_train_step(trainer, batch, &r.result));
    memcpy(&step, r.bytes + 8, sizeof step);
    ck_assert_int_eq(step, 1);
    ck_assert_int_eq(r.bytes[16], 0xAB);
    r.size = sizeof(ser_step_result) + 8;
    assert_ok(ser_train_step(trainer, batch, &r.result));
    ck_assert_int_eq(r.bytes[sizeof(ser_step_result)], 0);
    r.size = 0;
    assert_fails(ser_train_step(trainer, batch, &r.result), SER_ERR_ARGUMENT, "struct_size");
    ck_assert_int_eq(ser_trainer_steps(trainer), 2); /* no step was made for nothing */

    struct {
        ser_clip known;
        int64_t unknown;
    } longer[2] = {{clips[0], 0}, {clips[1], 0}};
    ser_batch *other;
    longer[0].known.struct_size = longer[1].known.struct_size = sizeof longer[0];
    assert_ok(ser_batch_create(trainer, &longer[0].known, 2, 0, 0, &other));
    ser_batch_free(&other);
    longer[1].unknown = 1;
    assert_fails(ser_batch_create(trainer, &longer[0].known, 2, 0, 0, &other), SER_ERR_UNSUPPORTED,
                 "newer");
    longer[1].known.struct_size = sizeof(ser_clip);
    assert_fails(ser_batch_create(trainer, &longer[0].known, 2, 0, 0, &other), SER_ERR_ARGUMENT,
                 "clip 1: struct_size");
    clips[0].struct_size = 0;
    assert_fails(ser_batch_create(trainer, clips, 2, 0, 0, &other), SER_ERR_ARGUMENT,
                 "clip 0: struct_size is 0");
}
END_TEST

START_TEST(null_and_ranges_of_batches)
{
    ser_batch *other = batch;
    assert_fails(ser_batch_create(NULL, clips, 1, 0, 0, &other), SER_ERR_ARGUMENT,
                 "trainer is NULL");
    ck_assert_ptr_null(other);
    assert_fails(ser_batch_create(trainer, NULL, 1, 0, 0, &other), SER_ERR_ARGUMENT,
                 "clips is NULL");
    assert_fails(ser_batch_create(trainer, clips, 1, 0, 0, NULL), SER_ERR_ARGUMENT,
                 "batch is NULL");
    assert_fails(ser_batch_create(trainer, clips, 0, 0, 0, &other), SER_ERR_ARGUMENT, "count is 0");
    assert_fails(ser_batch_create(trainer, clips, 4097, 0, 0, &other), SER_ERR_ARGUMENT, "4097");
    assert_fails(ser_batch_create(trainer, clips, 1, -1, 0, &other), SER_ERR_ARGUMENT,
                 "epoch is -1");
    assert_fails(ser_batch_create(trainer, clips, 1, 0, 2, &other), SER_ERR_ARGUMENT,
                 "augment is 2");
    clips[1].label = LABELS;
    assert_fails(ser_batch_create(trainer, clips, 2, 0, 0, &other), SER_ERR_ARGUMENT, "clip 1");
    clips[1].label = 0;
    clips[1].audio = NULL;
    assert_fails(ser_batch_create(trainer, clips, 2, 0, 0, &other), SER_ERR_ARGUMENT,
                 "clip 1: audio is NULL");
}
END_TEST

START_TEST(null_and_ranges_of_trainers)
{
    ser_trainer *other = trainer;
    assert_fails(ser_trainer_create(NULL, NULL, &other), SER_ERR_ARGUMENT, "model is NULL");
    ck_assert_ptr_null(other);
    assert_fails(ser_trainer_create(model, NULL, NULL), SER_ERR_ARGUMENT, "trainer is NULL");
    assert_fails(ser_train_step(NULL, batch, NULL), SER_ERR_ARGUMENT, "trainer is NULL");
    assert_fails(ser_train_step(trainer, NULL, NULL), SER_ERR_ARGUMENT, "batch is NULL");
    ser_step_result result = {.struct_size = sizeof result};
    int32_t found = 7;
    assert_fails(ser_train_submit(NULL, batch), SER_ERR_ARGUMENT, "trainer is NULL");
    assert_fails(ser_train_submit(trainer, NULL), SER_ERR_ARGUMENT, "batch is NULL");
    assert_fails(ser_train_collect(NULL, &result, &found), SER_ERR_ARGUMENT, "trainer is NULL");
    assert_fails(ser_train_collect(trainer, NULL, &found), SER_ERR_ARGUMENT, "result is NULL");
    assert_fails(ser_train_collect(trainer, &result, NULL), SER_ERR_ARGUMENT, "found is NULL");
    result.struct_size = 0;
    assert_fails(ser_train_collect(trainer, &result, &found), SER_ERR_ARGUMENT, "struct_size");
    ck_assert_int_eq(found, 7);
    assert_fails(ser_trainer_evaluate(trainer, NULL, NULL, NULL), SER_ERR_ARGUMENT, "batch");
    assert_fails(ser_trainer_observe(NULL, batch), SER_ERR_ARGUMENT, "trainer is NULL");
    assert_fails(ser_trainer_settle(NULL), SER_ERR_ARGUMENT, "trainer is NULL");
    assert_fails(ser_trainer_use_average(NULL, 1), SER_ERR_ARGUMENT, "trainer is NULL");
    assert_fails(ser_trainer_use_average(trainer, 2), SER_ERR_ARGUMENT, "use is 2");
    assert_ok(ser_trainer_use_average(trainer, 1)); /* there is none: nothing happens */
    assert_ok(ser_train_step(trainer, batch, NULL));
    assert_fails(ser_trainer_set_rate(NULL, 1.0), SER_ERR_ARGUMENT, "trainer is NULL");
    assert_fails(ser_trainer_set_rate(trainer, -0.1), SER_ERR_ARGUMENT, "factor is -0.1");
    assert_fails(ser_trainer_set_rate(trainer, NAN), SER_ERR_ARGUMENT, "factor");
    assert_fails(ser_trainer_save(NULL, "x", NULL), SER_ERR_ARGUMENT, "trainer is NULL");
    assert_fails(ser_trainer_save(trainer, NULL, NULL), SER_ERR_ARGUMENT, "path is NULL");
    assert_fails(ser_trainer_save(trainer, "", NULL), SER_ERR_ARGUMENT, "path is empty");
    assert_fails(ser_trainer_restore(trainer, NULL, NULL), SER_ERR_ARGUMENT, "path is NULL");
    assert_fails(ser_trainer_save_model(trainer, NULL, 1.0, NULL), SER_ERR_ARGUMENT, "path");
    assert_fails(ser_trainer_save_model(trainer, "x", 0.0, NULL), SER_ERR_ARGUMENT,
                 "temperature is 0");
    assert_fails(ser_trainer_save_model(trainer, "x", NAN, NULL), SER_ERR_ARGUMENT, "temperature");
    ck_assert_uint_eq(ser_trainer_trained_count(trainer), ser_model_parameter_count(model) - 32);
}
END_TEST

/* --- Options --- */

#define INT32(member)                                                                              \
    {                                                                                              \
#member, offsetof(ser_trainer_options, member), 'i'                                        \
    }
#define INT64(member)                                                                              \
    {                                                                                              \
#member, offsetof(ser_trainer_options, member), 'l'                                        \
    }
#define FLOAT(member)                                                                              \
    {                                                                                              \
#member, offsetof(ser_trainer_options, member), 'f'                                        \
    }

static const struct {
    const char *name;
    size_t offset;
    char type;
} members[] = {
    INT64(steps),
    INT64(warmup_steps),
    INT32(schedule),
    INT32(accumulate),
    FLOAT(rate),
    FLOAT(head_rate),
    FLOAT(layer_decay),
    FLOAT(weight_decay),
    FLOAT(beta1),
    FLOAT(beta2),
    FLOAT(eps),
    FLOAT(clip_norm),
    FLOAT(average),
    FLOAT(label_smoothing),
    FLOAT(projection_dropout),
    FLOAT(hidden_dropout),
    FLOAT(attention_dropout),
    FLOAT(activation_dropout),
    FLOAT(classifier_dropout),
    FLOAT(layer_drop),
    FLOAT(mask_time_probability),
    INT32(mask_time_length),
    FLOAT(mask_channel_probability),
    INT32(mask_channel_length),
    INT32(freeze_features),
    INT32(freeze_layers),
    INT32(max_skipped),
    FLOAT(augment.speed_probability),
    FLOAT(augment.speed),
    FLOAT(augment.gain_db),
    FLOAT(augment.noise_probability),
    FLOAT(augment.noise_snr_low),
    FLOAT(augment.noise_snr_high),
    FLOAT(augment.silence_probability),
    FLOAT(augment.silence),
    FLOAT(augment.crop_probability),
    FLOAT(augment.crop),
    FLOAT(augment.lowpass_probability),
    FLOAT(augment.lowpass_low),
    FLOAT(augment.max_seconds),
    FLOAT(augment.mel_warp),
    FLOAT(augment.mel_tilt),
    FLOAT(augment.mel_ripple),
    INT32(augment.mel_channel_spans),
    INT32(augment.mel_channel_width),
    INT32(augment.mel_time_spans),
    INT32(augment.mel_time_width),
};

static void expect_refusal(const ser_trainer_options *options, const char *name)
{
    ser_trainer *other;
    assert_fails(ser_trainer_create(model, options, &other), SER_ERR_ARGUMENT, name);
}

START_TEST(every_option_has_its_range)
{
    ser_trainer_options options;
    const float bad[] = {-1000.0F, 1e31F, NAN, INFINITY};
    ser_trainer_free(&trainer);
    ser_trainer_options_init(&options, sizeof options);
    unsigned char *at = (unsigned char *)&options + members[_i].offset;
    if (members[_i].type == 'f') {
        for (size_t i = 0; i < 4; i++) {
            memcpy(at, &bad[i], sizeof bad[i]);
            expect_refusal(&options, members[_i].name);
        }
    } else if (members[_i].type == 'l') {
        const int64_t values[] = {-2, INT64_MAX};
        for (size_t i = 0; i < 2; i++) {
            memcpy(at, &values[i], sizeof values[i]);
            expect_refusal(&options, members[_i].name);
        }
    } else {
        const int32_t value = -2;
        memcpy(at, &value, sizeof value);
        expect_refusal(&options, members[_i].name);
    }
}
END_TEST

START_TEST(options_that_depend_on_each_other)
{
    float class_weights[LABELS] = {0.0F, 0.0F, 0.0F};
    ser_trainer_options options;
    ser_trainer_free(&trainer);
    ser_trainer_options_init(&options, sizeof options);
    options.warmup_steps = options.steps + 1;
    expect_refusal(&options, "warmup_steps is 1001, not within -1..1000");
    ser_trainer_options_init(&options, sizeof options);
    options.augment.noise_snr_low = 20.0F;
    options.augment.noise_snr_high = 10.0F;
    expect_refusal(&options, "augment.noise_snr_high is 10, not within 20..120");
    ser_trainer_options_init(&options, sizeof options);
    options.augment.mel_time_spans = 1;
    expect_refusal(&options, "augment.mel_time_width is 0");
    ser_trainer_options_init(&options, sizeof options);
    options.class_weights = class_weights;
    expect_refusal(&options, "class_weights are all 0");
    class_weights[1] = -1.0F;
    expect_refusal(&options, "class_weights[1] is -1");
    class_weights[1] = 1.0F;
    assert_ok(ser_trainer_create(model, &options, &trainer));
}
END_TEST

START_TEST(defaults_are_the_documented_ones)
{
    ser_trainer_options o;
    ser_trainer_options_init(&o, sizeof o);
    ck_assert(o.seed == 0 && o.steps == 1000 && o.warmup_steps == -1);
    ck_assert(o.schedule == SER_SCHEDULE_LINEAR && o.accumulate == 1);
    ck_assert(o.rate == 3e-5F && o.head_rate == 0.0F && o.layer_decay == 1.0F);
    ck_assert(o.weight_decay == 0.01F && o.beta1 == 0.9F && o.beta2 == 0.999F && o.eps == 1e-8F);
    ck_assert(o.clip_norm == 1.0F && o.average == 0.0F && o.label_smoothing == 0.0F);
    ck_assert(o.projection_dropout == 0.1F && o.hidden_dropout == 0.1F);
    ck_assert(o.attention_dropout == 0.1F && o.activation_dropout == 0.0F);
    ck_assert(o.classifier_dropout == 0.1F && o.layer_drop == 0.0F);
    ck_assert(o.mask_time_probability == 0.05F && o.mask_time_length == 10);
    ck_assert(o.mask_channel_probability == 0.0F && o.mask_channel_length == 10);
    ck_assert(o.freeze_features == 1 && o.freeze_layers == 0 && o.freeze == NULL);
    ck_assert(o.class_weights == NULL && o.cache_bytes == 2147483648U && o.max_skipped == 10);
    static const ser_augment_options none = {.struct_size = sizeof none};
    ck_assert_mem_eq(&o.augment, &none, sizeof none);
}
END_TEST

/* --- Together --- */

START_TEST(a_run_goes_on_where_it_was_saved)
{
    char path[64];
    const char *note = NULL;
    float before[CLIPS], after[CLIPS];
    snprintf(path, sizeof path, "/tmp/ser-test-train-%ld", (long)getpid());
    assert_ok(ser_train_step(trainer, batch, NULL));
    assert_ok(ser_trainer_save(trainer, path, "epoch 3"));
    assert_ok(ser_train_step(trainer, batch, NULL));
    assert_ok(ser_trainer_evaluate(trainer, batch, before, NULL));
    assert_ok(ser_trainer_restore(trainer, path, &note));
    ck_assert_str_eq(note, "epoch 3");
    ck_assert_int_eq(ser_trainer_steps(trainer), 1);
    assert_ok(ser_train_step(trainer, batch, NULL));
    assert_ok(ser_trainer_evaluate(trainer, batch, after, NULL));
    ck_assert_mem_eq(before, after, sizeof before);
    assert_ok(ser_trainer_restore(trainer, path, NULL));
    static const char *const files[] = {"model.safetensors", "state.safetensors", "state.json",
                                        "manifest.json"};
    for (size_t i = 0; i < 4; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s/%s", path, files[i]);
        (void)remove(name);
    }
    ck_assert_int_eq(rmdir(path), 0);
}
END_TEST

START_TEST(no_checkpoint_within_an_update)
{
    ser_trainer_options options;
    ser_batch_free(&batch);
    ser_trainer_free(&trainer);
    ser_trainer_options_init(&options, sizeof options);
    options.accumulate = 2;
    assert_ok(ser_trainer_create(model, &options, &trainer));
    assert_ok(ser_batch_create(trainer, clips, CLIPS, 0, 1, &batch));
    assert_ok(ser_train_step(trainer, batch, NULL));
    assert_fails(ser_trainer_save(trainer, "/nowhere/at/all", NULL), SER_ERR_UNSUPPORTED,
                 "1 of 2 batches");
}
END_TEST

static int use_after_fork(void)
{
    float losses[CLIPS];
    return ser_train_step(trainer, batch, NULL) == SER_ERR_BUSY &&
                   ser_trainer_evaluate(trainer, batch, losses, NULL) == SER_ERR_BUSY &&
                   ser_trainer_observe(trainer, batch) == SER_ERR_BUSY &&
                   strstr(ser_error_message(), "fork()") != NULL
               ? 0
               : 1;
}

START_TEST(a_fork_leaves_the_trainer_to_the_parent)
{
    fflush(NULL);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        alarm(30);
        _exit(use_after_fork());
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_ok(ser_train_step(trainer, batch, NULL));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("train");
    TCase *tc = tcase_create("train");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, a_step_and_its_result);
    tcase_add_test(tc, structs_of_other_lengths);
    tcase_add_test(tc, null_and_ranges_of_batches);
    tcase_add_test(tc, null_and_ranges_of_trainers);
    tcase_add_loop_test(tc, every_option_has_its_range, 0, sizeof members / sizeof members[0]);
    tcase_add_test(tc, options_that_depend_on_each_other);
    tcase_add_test(tc, defaults_are_the_documented_ones);
    tcase_add_test(tc, a_run_goes_on_where_it_was_saved);
    tcase_add_test(tc, no_checkpoint_within_an_update);
    tcase_add_test(tc, a_fork_leaves_the_trainer_to_the_parent);
    suite_add_tcase(suite, tc);
    return api_run(suite);
}
