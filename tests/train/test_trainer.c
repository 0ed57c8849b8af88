/* SPDX-License-Identifier: MIT */
/* A trainer's life: who may have the model, what is refused, what it leaves behind. */
#include "trainer_fixture.h"

#include <math.h>
#include <pthread.h>

START_TEST(one_trainer_or_many_predictors)
{
    ser_predictor *a, *b;
    ser_trainer *other = trainer;
    make_model(LOGMEL, 1);
    assert_ok(ser_predictor_create(model, NULL, &a));
    assert_ok(ser_predictor_create(model, NULL, &b));
    assert_fails(ser_trainer_create(model, &options, &other), SER_ERR_BUSY,
                 "in use by 2 predictors");
    ck_assert_ptr_null(other);
    ser_predictor_free(&a);
    assert_fails(ser_trainer_create(model, &options, &other), SER_ERR_BUSY,
                 "in use by 1 predictor;");
    ser_predictor_free(&b);
    make_trainer();
    assert_fails(ser_trainer_create(model, &options, &other), SER_ERR_BUSY, "is being trained");
    assert_fails(ser_predictor_create(model, NULL, &a), SER_ERR_BUSY, "is being trained");
    assert_fails(ser_model_save(model, harness_tmpfile("busy")), SER_ERR_BUSY, "a trainer");
    ser_trainer_free(&trainer);
    assert_ok(ser_predictor_create(model, NULL, &a));
    assert_ok(ser_model_save(model, harness_tmpfile("free")));
    ser_predictor_free(&a);
}
END_TEST

START_TEST(a_failed_creation_gives_the_model_back)
{
    make_model(LOGMEL, 1);
    options.freeze = "nothing*";
    assert_fails(ser_trainer_create(model, &options, &trainer), SER_ERR_ARGUMENT, "nothing*");
    ck_assert_ptr_null(trainer);
    options.freeze = "*";
    assert_fails(ser_trainer_create(model, &options, &trainer), SER_ERR_ARGUMENT,
                 "nothing is left");
    options.freeze = NULL;
    make_trainer();
}
END_TEST

START_TEST(the_trainer_keeps_the_model)
{
    make_model(WAVE, 1);
    make_trainer();
    ser_model_free(&model);
    ser_batch *batch = make_batch(0, 2);
    step(batch);
    ser_batch_free(&batch);
}
END_TEST

START_TEST(batches_of_others_and_clips_without_labels)
{
    ser_clip clips[2] = {clip_of(0), clip_of(1)};
    ser_batch *batch;
    float losses[2];
    make_model(LOGMEL, 1);
    make_trainer();
    clips[1].label = -1;
    assert_ok(ser_batch_create(trainer, clips, 2, 0, 0, &batch));
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_ARGUMENT,
                 "clip 1 of the batch (id 101) has neither a label nor targets");
    assert_ok(ser_trainer_evaluate(trainer, batch, losses, NULL));
    ck_assert(losses[0] > 0.0F && losses[1] == 0.0F);
    ser_trainer *first = trainer;
    ser_model *first_model = model;
    trainer = NULL;
    model = NULL;
    make_model(LOGMEL, 1);
    make_trainer();
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_ARGUMENT, "another trainer");
    assert_fails(ser_trainer_evaluate(trainer, batch, NULL, NULL), SER_ERR_ARGUMENT,
                 "another trainer");
    assert_fails(ser_trainer_observe(trainer, batch), SER_ERR_ARGUMENT, "another trainer");
    ser_trainer_free(&first);
    ser_model_free(&first_model);
    ser_batch_free(&batch); /* outlives its trainer to be freed */
}
END_TEST

/* --- NaN --- */

static ser_step_result bad_step(ser_batch *batch, int clip)
{
    float *target = &batch->targets[clip * LABELS];
    float saved = *target;
    *target = NAN;
    ser_step_result result = step(batch);
    *target = saved;
    return result;
}

START_TEST(steps_that_are_not_finite_change_nothing)
{
    size_t count;
    make_model(_i, 1);
    options.average = 0.5F;
    options.max_skipped = 3;
    make_trainer();
    ser_batch *batch = make_batch(0, CLIPS);
    step(batch);
    float *before = weights(&count);
    for (int i = 0; i < 2; i++) {
        ser_step_result result = bad_step(batch, 2 + i);
        ck_assert_int_eq(result.skipped, 1);
        ck_assert_int_eq(result.updated, 0);
        ck_assert_int_eq(result.step, 1);
        ck_assert_int_eq(result.bad_clip, 102 + i);
        ck_assert(isnan(result.loss));
    }
    float *after = weights(&count);
    ck_assert_mem_eq(before, after, count * sizeof *before);
    ser_step_result good = step(batch);
    ck_assert(good.updated == 1 && good.skipped == 0 && good.step == 2);
    bad_step(batch, 0); /* the count began anew */
    bad_step(batch, 5);
    batch->targets[4 * LABELS] = INFINITY;
    good.step = 77;
    assert_fails(ser_train_step(trainer, batch, &good), SER_ERR_NUMERIC,
                 "3 steps in a row gave NaN or infinity (limit max_skipped, 3): the loss of clips "
                 "100, 105, 104");
    ck_assert_int_eq(good.step, 77); /* a failure leaves its outputs alone */
    ck_assert_int_eq(ser_trainer_steps(trainer), 2);
    free(before);
    free(after);
    ser_batch_free(&batch);
}
END_TEST

START_TEST(a_skipped_step_drops_its_update)
{
    size_t count;
    options.accumulate = 2;
    make_model(LOGMEL, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, 3);
    ser_batch *other = make_batch(3, 3);
    step(batch);
    bad_step(other, 1);
    ck_assert_int_eq(step(batch).updated, 0); /* the first of a new update */
    ck_assert_int_eq(step(other).updated, 1);
    float *a = weights(&count);
    ser_batch_free(&batch);
    ser_batch_free(&other);
    make_model(LOGMEL, 1);
    make_trainer();
    batch = make_batch(0, 3);
    other = make_batch(3, 3);
    step(batch);
    step(other);
    float *b = weights(&count);
    ck_assert_mem_eq(a, b, count * sizeof *a);
    free(a);
    free(b);
    ser_batch_free(&batch);
    ser_batch_free(&other);
}
END_TEST

/* Losses near the end of float's range; their gradients add up to more. */
START_TEST(gradients_that_are_not_finite)
{
    size_t count;
    make_model(_i, 1);
    options.max_skipped = 2;
    make_trainer();
    ser_batch *batch = make_batch(0, CLIPS);
    for (int i = 0; i < CLIPS * LABELS; i++) {
        batch->targets[i] = i % LABELS == 0 ? 2e38F : 0.0F;
    }
    float *before = weights(&count);
    ser_step_result result = step(batch);
    ck_assert(result.skipped == 1 && result.updated == 0 && result.step == 0);
    ck_assert_int_eq(result.bad_clip, -1);
    ck_assert(isfinite(result.loss));
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_NUMERIC,
                 "the gradients of finite losses");
    float *after = weights(&count);
    ck_assert_mem_eq(before, after, count * sizeof *before);
    ser_batch_free(&batch);
    batch = make_batch(0, CLIPS);
    ck_assert_int_eq(step(batch).updated, 1); /* nothing of it is left */
    free(before);
    free(after);
    ser_batch_free(&batch);
}
END_TEST

START_TEST(weights_that_are_not_finite)
{
    make_model(LOGMEL, 1);
    options.max_skipped = 1;
    make_trainer();
    ser_batch *batch = make_batch(0, 3);
    const ser_params *params = ser_net_params(model->net);
    const size_t last = params->count - 1; /* the bias of the last layer */
    const float bias[LABELS] = {NAN, 0.0F, 0.0F};
    assert_ok(ser_training_set(trainer->training, SER_TRAINING_WEIGHT, last, bias));
    assert_ok(ser_training_resume(trainer->training, 0));
    float probabilities[3 * LABELS] = {7.0F};
    assert_fails(ser_trainer_evaluate(trainer, batch, NULL, probabilities), SER_ERR_NUMERIC,
                 "clip 100: the network gave NaN or infinity");
    ck_assert(probabilities[0] == 7.0F);
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_NUMERIC, "1 step in a row");
    ser_batch_free(&batch);
}
END_TEST

/* --- Cancelling --- */

START_TEST(cancelling_works_once)
{
    make_model(LOGMEL, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, 2);
    ser_trainer_cancel(trainer);
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_CANCELLED, "cancelled");
    step(batch);
    ser_trainer_cancel(trainer);
    ser_trainer_cancel(trainer);
    assert_fails(ser_trainer_evaluate(trainer, batch, NULL, NULL), SER_ERR_CANCELLED, "cancelled");
    assert_ok(ser_trainer_evaluate(trainer, batch, NULL, NULL));
    ck_assert_int_eq(ser_trainer_steps(trainer), 1);
    ser_batch_free(&batch);
}
END_TEST

static void *cancel(void *argument)
{
    ser_trainer_cancel(argument);
    return NULL;
}

START_TEST(cancelling_from_another_thread)
{
    pthread_t thread;
    int status = 0;
    make_model(LOGMEL, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, 2);
    ck_assert_int_eq(pthread_create(&thread, NULL, cancel, trainer), 0);
    while (status == 0) {
        status = ser_train_step(trainer, batch, NULL);
    }
    ck_assert_int_eq(status, SER_ERR_CANCELLED);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ser_batch_free(&batch);
}
END_TEST

/* --- Levels of the log-mels --- */

/* Mean and deviation of every bin as the finished model sees them. */
static void check_levels(void)
{
    ser_workspace *workspace;
    const ser_stages *stages;
    const float *samples[CLIPS];
    int64_t counts[CLIPS];
    ser_batch *batch = make_batch(0, CLIPS);
    for (int b = 0; b < CLIPS; b++) {
        samples[b] = batch->samples[b];
        counts[b] = batch->lengths[b];
    }
    ser_net *net = model->net;
    ser_trainer_free(&trainer);
    assert_ok(ser_workspace_create(net, CLIPS, 8000, 1, true, &workspace));
    assert_ok(ser_net_forward(net, workspace, CLIPS, samples, counts, &stages));
    const size_t bins = (size_t)stages->mel.cols;
    float *mel = malloc((size_t)stages->mel.rows * bins * sizeof *mel);
    assert_ok(ser_workspace_download(workspace, &stages->mel, 0, stages->mel.rows, mel));
    for (size_t k = 0; k < bins; k++) {
        double n = 0.0;
        double sum = 0.0;
        double squares = 0.0;
        for (int64_t b = 0; b < CLIPS; b++) {
            for (int64_t t = 0; t < stages->mel_valid_host[b]; t++) {
                double z = (double)mel[(size_t)(b * stages->mel_rows.padded + t) * bins + k];
                n += 1.0;
                sum += z;
                squares += z * z;
            }
        }
        ck_assert_double_eq_tol(sum / n, 0.0, 1e-4);
        ck_assert_double_eq_tol(squares / n, 1.0, 1e-3);
    }
    free(mel);
    ser_workspace_free(workspace);
    ser_batch_free(&batch);
}

START_TEST(levels_are_measured_and_settled)
{
    make_model(LOGMEL, 1);
    make_trainer();
    ck_assert(trainer->mel_std[3] == 1.0F);
    assert_fails(ser_trainer_settle(trainer), SER_ERR_ARGUMENT, "no batch has been observed");
    ser_batch *a = make_batch(0, 2);
    ser_batch *b = make_batch(2, CLIPS - 2);
    assert_ok(ser_trainer_observe(trainer, a));
    assert_ok(ser_trainer_observe(trainer, b));
    assert_ok(ser_trainer_settle(trainer));
    ck_assert(trainer->mel_std[3] != 1.0F && trainer->mel_std[3] > 0.0F);
    ser_batch_free(&a);
    ser_batch_free(&b);
    check_levels();
}
END_TEST

START_TEST(levels_are_fixed_by_the_first_step)
{
    ser_batch *augmented;
    ser_clip clip = clip_of(0);
    make_model(LOGMEL, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, 2);
    assert_ok(ser_batch_create(trainer, &clip, 1, 0, 1, &augmented));
    assert_fails(ser_trainer_observe(trainer, augmented), SER_ERR_ARGUMENT, "is augmented");
    step(batch);
    assert_fails(ser_trainer_observe(trainer, batch), SER_ERR_ARGUMENT, "first step");
    assert_fails(ser_trainer_settle(trainer), SER_ERR_ARGUMENT, "first step");
    ser_batch_free(&batch);
    ser_batch_free(&augmented);
    make_model(WAVE, 1); /* nothing to measure */
    make_trainer();
    batch = make_batch(0, 2);
    assert_ok(ser_trainer_observe(trainer, batch));
    assert_ok(ser_trainer_settle(trainer));
    ser_batch_free(&batch);
}
END_TEST

/* --- The model that comes out --- */

static void predict(const char *path, float p[CLIPS * LABELS])
{
    ser_model *loaded;
    ser_predictor *predictor;
    const ser_model_options settings = model_settings(0);
    assert_ok(ser_model_load(device, path, &settings, &loaded));
    assert_ok(ser_predictor_create(loaded, NULL, &predictor));
    assert_ok(
        ser_predict_batch(predictor, (const ser_audio *const *)tones, CLIPS, p, CLIPS * LABELS));
    ck_assert_ptr_nonnull(strstr(ser_model_config(loaded), "\"epochs\": 3"));
    ser_predictor_free(&predictor);
    ser_model_free(&loaded);
}

/* softmax(z / T): p^(1/T), normalised. */
static void soften(float p[CLIPS * LABELS], double temperature)
{
    for (int i = 0; i < CLIPS; i++) {
        double sum = 0.0;
        for (int k = 0; k < LABELS; k++) {
            sum += pow((double)p[i * LABELS + k], 1.0 / temperature);
        }
        for (int k = 0; k < LABELS; k++) {
            p[i * LABELS + k] = (float)(pow((double)p[i * LABELS + k], 1.0 / temperature) / sum);
        }
    }
}

START_TEST(saved_models_have_the_average_and_the_temperature)
{
    size_t count;
    float p[CLIPS * LABELS], average[CLIPS * LABELS], plain[CLIPS * LABELS];
    const char *path = harness_tmpfile("trained.safetensors");
    options.average = 0.9F;
    options.rate = 1e-2F;
    make_model(_i, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, CLIPS);
    for (int i = 0; i < 4; i++) {
        step(batch);
    }
    float *before = weights(&count);
    assert_ok(ser_trainer_save_model(trainer, path, 1.0, "{\"epochs\": 3}"));
    predict(path, p);
    assert_ok(ser_trainer_evaluate(trainer, batch, NULL, plain));
    assert_ok(ser_trainer_use_average(trainer, 1));
    assert_ok(ser_trainer_evaluate(trainer, batch, NULL, average));
    /* a GPU's products of the two may add up in another order */
    const double tolerance = on_cuda() ? 1e-5 : 1e-6;
    ck_assert_double_lt(difference(p, average, CLIPS * LABELS), tolerance);
    ck_assert_double_gt(difference(p, plain, CLIPS * LABELS), 1e-4);
    assert_ok(ser_trainer_save_model(trainer, path, 2.5, "{\"epochs\": 3}")); /* in use: stays so */
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_ARGUMENT, "average");
    predict(path, p);
    soften(average, 2.5);
    ck_assert_double_lt(difference(p, average, CLIPS * LABELS), tolerance);
    assert_ok(ser_trainer_use_average(trainer, 0));
    float *after = weights(&count); /* memory keeps what it had */
    ck_assert_mem_eq(before, after, count * sizeof *before);
    ck_assert_ptr_null(strstr(ser_model_config(model), "epochs"));
    free(before);
    free(after);
    ser_batch_free(&batch);
}
END_TEST

START_TEST(the_training_summary_is_an_object)
{
    const char *path = harness_tmpfile("summary.safetensors");
    make_model(LOGMEL, 1);
    make_trainer();
    assert_fails(ser_trainer_save_model(trainer, path, 1.0, "[1]"), SER_ERR_ARGUMENT, "training");
    assert_fails(ser_trainer_save_model(trainer, path, 1.0, "{\"a\": }"), SER_ERR_ARGUMENT,
                 "training");
    assert_fails(ser_trainer_save_model(trainer, path, 1.0, "{\"a\": 1, \"a\": 2}"),
                 SER_ERR_ARGUMENT, "training");
    char *large = malloc((1 << 20) + 64);
    snprintf(large, 64, "{\"a\": \"");
    memset(large + 7, 'x', 1 << 20);
    snprintf(large + 7 + (1 << 20), 8, "\"}");
    assert_fails(ser_trainer_save_model(trainer, path, 1.0, large), SER_ERR_ARGUMENT, "limit");
    free(large);
    ck_assert_ptr_null(fopen(path, "rb"));
    assert_ok(ser_trainer_save_model(trainer, path, 1.0, NULL));
}
END_TEST

START_TEST(a_freed_trainer_leaves_the_weights_in_use)
{
    size_t count;
    options.average = 0.9F;
    make_model(LOGMEL, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, CLIPS);
    step(batch);
    step(batch);
    assert_ok(ser_trainer_use_average(trainer, 1));
    float *average = weights(&count);
    ser_batch_free(&batch);
    ser_trainer_free(&trainer);
    float *left = weights(&count);
    ck_assert_mem_eq(average, left, count * sizeof *left);
    free(average);
    free(left);
}
END_TEST

/* --- Without memory --- */

START_TEST(freeing_needs_no_memory)
{
    size_t count;
    make_model(_i, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, CLIPS);
    step(batch);
    ser_batch_free(&batch);
    float *trained = weights(&count);
    ser_mem_fail_at(1, true);
    ser_trainer_free(&trainer);
    ser_mem_fail_at(0, false);
    float *left = weights(&count);
    ck_assert_mem_eq(trained, left, count * sizeof *left);
    free(trained);
    free(left);
}
END_TEST

static int whole_run(void)
{
    ser_trainer *t;
    ser_batch *batch = NULL;
    ser_clip clips[2] = {clip_of(0), clip_of(1)};
    int status = ser_trainer_create(model, &options, &t);
    if (status == 0) {
        status = ser_batch_create(t, clips, 2, 0, 1, &batch);
    }
    if (status == 0 && model->config.arch.features == SER_FEATURES_LOGMEL) {
        ser_batch *plain = NULL;
        status = ser_batch_create(t, clips, 2, 0, 0, &plain);
        status = status == 0 ? ser_trainer_observe(t, plain) : status;
        status = status == 0 ? ser_trainer_settle(t) : status;
        ser_batch_free(&plain);
    }
    status = status == 0 ? ser_train_step(t, batch, NULL) : status;
    status = status == 0 ? ser_train_step(t, batch, NULL) : status;
    status = status == 0 ? ser_trainer_evaluate(t, batch, NULL, NULL) : status;
    if (status == 0) {
        status = ser_trainer_save_model(t, harness_tmpfile("faults.safetensors"), 1.5, "{}");
    }
    ser_batch_free(&batch);
    ser_trainer_free(&t);
    return status;
}

START_TEST(every_allocation_may_fail)
{
    options.average = 0.5F;
    options.layer_drop = 0.5F;
    options.mask_time_probability = 0.5F;
    options.mask_time_length = 2;
    make_model(_i, 1);
    assert_ok(whole_run());
    int64_t live = ser_mem_live();
    for (int sticky = 0; sticky < 2; sticky++) {
        int status = SER_ERR_MEMORY;
        for (uint64_t n = 1; status != 0; n += sticky != 0 ? 7 : 1) {
            ser_mem_fail_at(n, sticky != 0);
            status = whole_run();
            ser_mem_fail_at(0, false);
            ck_assert_msg(status == 0 || status == SER_ERR_MEMORY, "%llu: %d %s",
                          (unsigned long long)n, status, ser_fail_text());
            ck_assert_int_eq(ser_mem_live(), live);
            ck_assert_int_eq(atomic_load(&model->users), 0);
            ck_assert_uint_lt(n, 5000);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("trainer");
    TCase *tc = tcase_create("trainer");
    tcase_add_checked_fixture(tc, trainer_setup, trainer_teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, one_trainer_or_many_predictors);
    tcase_add_test(tc, a_failed_creation_gives_the_model_back);
    tcase_add_test(tc, the_trainer_keeps_the_model);
    tcase_add_test(tc, batches_of_others_and_clips_without_labels);
    tcase_add_loop_test(tc, steps_that_are_not_finite_change_nothing, 0, KINDS);
    tcase_add_test(tc, a_skipped_step_drops_its_update);
    tcase_add_loop_test(tc, gradients_that_are_not_finite, 0, KINDS);
    tcase_add_test(tc, weights_that_are_not_finite);
    tcase_add_test(tc, cancelling_works_once);
    tcase_add_test(tc, cancelling_from_another_thread);
    tcase_add_test(tc, levels_are_measured_and_settled);
    tcase_add_test(tc, levels_are_fixed_by_the_first_step);
    tcase_add_loop_test(tc, saved_models_have_the_average_and_the_temperature, 0, KINDS);
    tcase_add_test(tc, the_training_summary_is_an_object);
    tcase_add_test(tc, a_freed_trainer_leaves_the_weights_in_use);
    tcase_add_loop_test(tc, freeing_needs_no_memory, 0, KINDS);
    tcase_add_loop_test(tc, every_allocation_may_fail, 0, KINDS);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
