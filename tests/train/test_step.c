/* SPDX-License-Identifier: MIT */
/* What steps and evaluation compute. */
#include "trainer_fixture.h"

#include <math.h>

START_TEST(ten_steps_reduce_the_loss)
{
    make_model(_i, 1);
    options.rate = 3e-3F;
    make_trainer();
    ser_batch *batch = make_batch(0, CLIPS);
    ser_step_result first = step(batch);
    ser_step_result last = first;
    ck_assert_int_eq(first.step, 1);
    ck_assert_int_eq(first.updated, 1);
    ck_assert_int_eq(first.skipped, 0);
    ck_assert_int_eq(first.bad_clip, -1);
    ck_assert_double_gt(first.gradient_norm, 0.0);
    for (int i = 1; i < 10; i++) {
        last = step(batch);
    }
    ck_assert_int_eq(last.step, 10);
    ck_assert_int_eq(ser_trainer_steps(trainer), 10);
    ck_assert_msg(last.loss < 0.9 * first.loss, "%g -> %g", first.loss, last.loss);
    ser_batch_free(&batch);
}
END_TEST

/* Everything random is on. */
static float *run_of(int kind, uint64_t seed, size_t *count)
{
    make_model(kind, 1);
    options.seed = seed;
    options.hidden_dropout = 0.2F;
    options.classifier_dropout = 0.2F;
    options.layer_drop = 0.3F;
    options.mask_time_probability = 0.5F;
    options.mask_time_length = 3;
    options.mask_channel_probability = 0.3F;
    options.mask_channel_length = 2;
    make_trainer();
    ser_batch *batches[2] = {make_batch(0, 3), make_batch(3, 3)};
    for (int i = 0; i < 6; i++) {
        step(batches[i % 2]);
    }
    ser_batch_free(&batches[0]);
    ser_batch_free(&batches[1]);
    return weights(count);
}

START_TEST(the_same_seed_gives_the_same_bits)
{
    size_t count;
    float *a = run_of(_i, 7, &count);
    float *b = run_of(_i, 7, &count);
    float *c = run_of(_i, 8, &count);
    ck_assert_mem_eq(a, b, count * sizeof *a);
    ck_assert_mem_ne(a, c, count * sizeof *a);
    free(a);
    free(b);
    free(c);
}
END_TEST

/* Weights after two steps with one kind of noise, or none (-1). */
static float *noisy_run(int kind, int noise, uint64_t seed, size_t *count)
{
    float *const probabilities[] = {
        &options.projection_dropout,    &options.hidden_dropout,
        &options.attention_dropout,     &options.activation_dropout,
        &options.classifier_dropout,    &options.layer_drop,
        &options.mask_time_probability, &options.mask_channel_probability};
    options.seed = seed;
    options.mask_time_length = 3;
    options.mask_channel_length = 2;
    if (noise >= 0) {
        *probabilities[noise] = 0.5F;
    }
    make_model(kind, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, CLIPS);
    step(batch);
    step(batch);
    ser_batch_free(&batch);
    if (noise >= 0) {
        *probabilities[noise] = 0.0F;
    }
    return weights(count);
}

START_TEST(every_kind_of_noise_follows_the_seed)
{
    size_t count;
    float *none = noisy_run(LOGMEL, -1, 1, &count);
    float *a = noisy_run(LOGMEL, _i, 1, &count);
    float *b = noisy_run(LOGMEL, _i, 1, &count);
    float *c = noisy_run(LOGMEL, _i, 2, &count);
    ck_assert_mem_ne(a, none, count * sizeof *a);
    ck_assert_mem_eq(a, b, count * sizeof *a);
    ck_assert_mem_ne(a, c, count * sizeof *a);
    free(none);
    free(a);
    free(b);
    free(c);
}
END_TEST

START_TEST(every_step_draws_anew)
{
    options.hidden_dropout = _i == 0 ? 0.3F : 0.0F;
    options.mask_channel_probability = _i == 1 ? 0.5F : 0.0F;
    options.mask_channel_length = 2;
    make_model(LOGMEL, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, CLIPS);
    assert_ok(ser_trainer_set_rate(trainer, 0.0));
    double losses[] = {step(batch).loss, step(batch).loss, step(batch).loss};
    ck_assert(_i == 2 ? losses[0] == losses[1] : losses[0] != losses[1]);
    ck_assert(_i == 2 ? losses[0] == losses[2] : losses[0] != losses[2]);
    ser_batch_free(&batch);
}
END_TEST

START_TEST(evaluation_changes_nothing)
{
    size_t count;
    float losses[CLIPS], again[CLIPS], probabilities[CLIPS * LABELS];
    options.hidden_dropout = 0.2F;
    make_model(_i, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, CLIPS);
    step(batch);
    float *before = weights(&count);
    assert_ok(ser_trainer_evaluate(trainer, batch, losses, probabilities));
    assert_ok(ser_trainer_evaluate(trainer, batch, again, NULL));
    assert_ok(ser_trainer_evaluate(trainer, batch, NULL, NULL));
    ck_assert_mem_eq(losses, again, sizeof losses);
    float *after = weights(&count);
    ck_assert_mem_eq(before, after, count * sizeof *before);
    free(after);
    step(batch);
    after = weights(&count);
    ser_batch_free(&batch);

    make_model(_i, 1);
    make_trainer();
    batch = make_batch(0, CLIPS);
    step(batch);
    step(batch);
    float *without = weights(&count);
    ck_assert_mem_eq(after, without, count * sizeof *after);
    ser_batch_free(&batch);
    free(before);
    free(after);
    free(without);
}
END_TEST

START_TEST(evaluation_is_what_a_predictor_says)
{
    float probabilities[CLIPS * LABELS], predicted[CLIPS * LABELS];
    ser_predictor *predictor;
    make_model(_i, 1);
    options.steps = 3;
    make_trainer();
    ser_batch *batch = make_batch(0, CLIPS);
    step(batch);
    assert_ok(ser_trainer_evaluate(trainer, batch, NULL, probabilities));
    ser_trainer_free(&trainer);
    assert_ok(ser_predictor_create(model, NULL, &predictor));
    assert_ok(ser_predict_batch(predictor, (const ser_audio *const *)tones, CLIPS, predicted,
                                CLIPS * LABELS));
    /* a GPU's products of the two may add up in another order */
    ck_assert_double_lt(difference(probabilities, predicted, CLIPS * LABELS),
                        on_cuda() ? 1e-5 : 1e-6);
    ser_predictor_free(&predictor);
    ser_batch_free(&batch);
}
END_TEST

/* average_1 = w_1, average_n = d average_(n-1) + (1 - d) w_n */
START_TEST(moving_average)
{
    size_t count;
    const double decay = 0.75;
    options.average = (float)decay;
    options.rate = 1e-2F;
    make_model(_i, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, CLIPS);
    step(batch);
    float *now = weights(&count);
    double *average = malloc(count * sizeof *average);
    for (size_t i = 0; i < count; i++) {
        average[i] = (double)now[i];
    }
    for (int n = 0; n < 4; n++) {
        free(now);
        step(batch);
        now = weights(&count);
        for (size_t i = 0; i < count; i++) {
            average[i] = decay * average[i] + (1.0 - decay) * (double)now[i];
        }
    }
    assert_ok(ser_trainer_use_average(trainer, 1));
    assert_ok(ser_trainer_use_average(trainer, 1)); /* twice is once */
    float *used = weights(&count);
    ck_assert_double_lt(harness_relative_error64(used, average, count), 1e-6);
    ck_assert_double_gt(difference(used, now, count), 1e-4);
    assert_fails(ser_train_step(trainer, batch, NULL), SER_ERR_ARGUMENT, "average");
    assert_ok(ser_trainer_use_average(trainer, 0));
    float *back = weights(&count);
    ck_assert_mem_eq(back, now, count * sizeof *back);
    step(batch);
    free(back);
    free(used);
    free(average);
    free(now);
    ser_batch_free(&batch);
}
END_TEST

static void add_weights(ser_clip *clips)
{
    for (int i = 0; i < CLIPS; i++) {
        clips[i] = clip_of(i);
        clips[i].weight = 0.5F + 0.4F * (float)i;
    }
}

/* Two batches of an update are as one of both, although their sums of weights differ. */
START_TEST(accumulation_is_a_larger_batch)
{
    static const float class_weights[LABELS] = {0.5F, 1.0F, 2.0F};
    ser_clip clips[CLIPS];
    ser_batch *batch;
    size_t count;
    float *w[2];
    double norm[2];
    add_weights(clips);
    options.eps = 0.1F; /* else Adam's first step is the gradient's sign */
    options.class_weights = class_weights;
    options.clip_norm = 0.0F;
    for (int way = 0; way < 2; way++) {
        options.accumulate = 1 + way;
        make_model(_i, 1);
        make_trainer();
        for (int n = 0; n < 3; n++) {
            int parts = 1 + way;
            ser_step_result result = {.struct_size = sizeof result};
            for (int part = 0; part < parts; part++) {
                size_t size = way == 0 ? CLIPS : part == 0 ? 2 : CLIPS - 2;
                assert_ok(ser_batch_create(trainer, clips + 2 * part, size, 0, 0, &batch));
                assert_ok(ser_train_step(trainer, batch, &result));
                ck_assert_int_eq(result.updated, part == parts - 1);
                ck_assert_int_eq(result.step, n + (part == parts - 1));
                ck_assert(result.updated || result.gradient_norm == 0.0);
                ser_batch_free(&batch);
            }
            norm[way] = result.gradient_norm;
        }
        w[way] = weights(&count);
    }
    ck_assert_double_eq_tol(norm[0] / norm[1], 1.0, 1e-4);
    ck_assert_double_lt(difference(w[0], w[1], count), 1e-6);
    free(w[0]);
    free(w[1]);
}
END_TEST

/* The loss is a mean: twice the weights are the same step. */
START_TEST(weights_count_against_each_other)
{
    ser_clip clips[CLIPS];
    ser_batch *batch;
    ser_step_result results[2];
    add_weights(clips);
    for (int way = 0; way < 2; way++) {
        for (int i = 0; i < CLIPS && way == 1; i++) {
            clips[i].weight *= 2.0F;
        }
        make_model(_i, 1);
        make_trainer();
        assert_ok(ser_batch_create(trainer, clips, CLIPS, 0, 0, &batch));
        results[way] = step(batch);
        ser_batch_free(&batch);
    }
    ck_assert_double_eq_tol(results[0].loss / results[1].loss, 1.0, 1e-6);
    ck_assert_double_eq_tol(results[0].gradient_norm / results[1].gradient_norm, 1.0, 1e-5);
}
END_TEST

/* -sum_k t_k log p_k over the clip's K classes with t = weight * w_k * ((1 - s) [k = label] + s / K);
 * their sum divided by the sum of weight * w_label. */
START_TEST(loss_by_hand)
{
    static const float class_weights[LABELS] = {0.5F, 1.0F, 2.0F};
    static const uint8_t two[LABELS] = {0, 1, 1};
    const double smoothing = 0.25;
    ser_clip clips[CLIPS];
    ser_batch *batch;
    float losses[CLIPS], p[CLIPS * LABELS];
    add_weights(clips);
    clips[5].classes = two;
    options.class_weights = class_weights;
    options.label_smoothing = (float)smoothing;
    make_model(_i, 1);
    make_trainer();
    assert_ok(ser_batch_create(trainer, clips, CLIPS, 0, 1, &batch));
    assert_ok(ser_trainer_evaluate(trainer, batch, losses, p));
    double sum = 0.0;
    double weight_sum = 0.0;
    int correct = 0;
    for (int i = 0; i < CLIPS; i++) {
        double loss = 0.0;
        int best = 0;
        for (int k = 0; k < LABELS; k++) {
            double classes = i == 5 ? 2.0 : LABELS;
            double t = (1.0 - smoothing) * (k == clips[i].label) + smoothing / classes;
            if (i == 5 && k == 0) {
                ck_assert(p[i * LABELS + k] == 0.0F);
                continue;
            }
            loss -=
                (double)(clips[i].weight * class_weights[k]) * t * log((double)p[i * LABELS + k]);
            best = p[i * LABELS + k] > p[i * LABELS + best] ? k : best;
        }
        ck_assert_double_eq_tol((double)losses[i] / loss, 1.0, 1e-5);
        sum += loss;
        weight_sum += (double)(clips[i].weight * class_weights[clips[i].label]);
        correct += best == clips[i].label;
    }
    ser_step_result result = step(batch); /* no dropout: the same forward */
    ck_assert_double_eq_tol(result.loss / (sum / weight_sum), 1.0, 1e-5);
    ck_assert_int_eq(result.correct, correct);
    ser_batch_free(&batch);
}
END_TEST

START_TEST(frozen_weights_stay_bit_by_bit)
{
    size_t count;
    options.freeze_layers = 1;
    options.freeze = "classifier.0.*";
    options.average = 0.5F;
    options.weight_decay = 0.5F;
    make_model(_i, 1);
    make_trainer();
    float *before = weights(&count);
    ser_batch *batch = make_batch(0, CLIPS);
    step(batch);
    step(batch);
    float *after = weights(&count);
    const ser_params *params = ser_net_params(model->net);
    uint64_t trained = 0;
    size_t at = 0;
    for (size_t i = 0; i < params->count; i++) {
        const ser_param *param = &params->list[i];
        size_t elements = (size_t)ser_param_elements(param);
        bool open = (param->head && strncmp(param->name, "classifier.0.", 13) != 0) ||
                    strncmp(param->name, "wav2vec2.encoder.layers.1.", 26) == 0 ||
                    (_i == LOGMEL && (param->role == SER_PARAM_ENCODER_GAMMA ||
                                      param->role == SER_PARAM_ENCODER_BETA));
        bool same = memcmp(before + at, after + at, elements * sizeof *before) == 0;
        /* adding to all keys or to all scores changes no softmax */
        bool idle = param->role == SER_PARAM_K_BIAS || param->role == SER_PARAM_POOL_SCORE_BIAS;
        ck_assert_msg(same == !open || (open && idle), "%s", param->name);
        ck_assert_int_eq(ser_training_is_trained(trainer->training, i), open);
        trained += open ? elements : 0;
        at += elements;
    }
    ck_assert_uint_eq(ser_trainer_trained_count(trainer), trained);
    free(before);
    free(after);
    ser_batch_free(&batch);
}
END_TEST

START_TEST(rates_follow_the_schedule)
{
    options.schedule = SER_SCHEDULE_LINEAR;
    options.steps = 4;
    options.warmup_steps = 2;
    options.head_rate = 2e-3F;
    const double factors[] = {0.5, 1.0, 1.0, 0.5, 0.0};
    make_model(LOGMEL, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, 3);
    for (int i = 0; i < 5; i++) {
        if (i == 3) {
            assert_ok(ser_trainer_set_rate(trainer, 0.1));
        }
        ser_step_result result = step(batch);
        double factor = factors[i] * (i >= 3 ? 0.1 : 1.0);
        ck_assert_double_eq_tol(result.rate, factor * (double)1e-3F, 1e-12);
        ck_assert_double_eq_tol(result.head_rate, factor * (double)2e-3F, 1e-12);
    }
    ser_batch_free(&batch);
}
END_TEST

START_TEST(all_blocks_may_be_dropped)
{
    make_model(_i, 1);
    options.layer_drop = 0.9999F;
    make_trainer();
    ser_batch *batch = make_batch(0, 3);
    for (int i = 0; i < 3; i++) {
        ser_step_result result = step(batch);
        ck_assert(result.updated == 1 && isfinite(result.loss) && result.gradient_norm > 0.0);
    }
    ser_batch_free(&batch);
}
END_TEST

/* Steps that are submitted ahead give what steps one by one do, and results in their order. */
START_TEST(submitted_steps)
{
    enum { STEPS = 6 };
    ser_step_result wanted[STEPS];
    size_t count;
    options.accumulate = 1 + _i % 2;
    options.average = _i / 2 ? 0.9F : 0.0F;
    float *weights_of[2];
    for (int ahead = 0; ahead < 2; ahead++) {
        make_model(WAVE, 1);
        make_trainer();
        int32_t found;
        int collected = 0;
        for (int i = 0; i < STEPS; i++) {
            ser_batch *batch = make_batch(i % 2, 3);
            if (ahead == 0) {
                wanted[i].struct_size = sizeof wanted[i];
                assert_ok(ser_train_step(trainer, batch, &wanted[i]));
            } else {
                assert_ok(ser_train_submit(trainer, batch));
            }
            ser_batch_free(&batch); /* the step may still be under way */
            if (ahead == 1 && i % 3 == 1) {
                ser_step_result result = {.struct_size = sizeof result};
                assert_ok(ser_train_collect(trainer, &result, &found));
                ck_assert_int_eq(found, 1);
                ck_assert_mem_eq(&result, &wanted[collected], sizeof result);
                collected++;
            }
        }
        for (;;) {
            ser_step_result result = {.struct_size = sizeof result};
            assert_ok(ser_train_collect(trainer, &result, &found));
            if (!found) {
                break;
            }
            ck_assert_mem_eq(&result, &wanted[collected], sizeof result);
            collected++;
        }
        ck_assert_int_eq(collected, ahead * STEPS);
        weights_of[ahead] = weights(&count);
    }
    ck_assert_mem_eq(weights_of[0], weights_of[1], count * sizeof **weights_of);
    free(weights_of[0]);
    free(weights_of[1]);
}
END_TEST

/* A step in between returns its own result; too many results that nobody collects are refused. */
START_TEST(results_wait)
{
    enum { MOST = 64 };
    ser_step_result result = {.struct_size = sizeof result};
    int32_t found;
    make_model(LOGMEL, 1);
    make_trainer();
    ser_batch *batch = make_batch(0, 1);
    assert_ok(ser_train_collect(trainer, &result, &found));
    ck_assert_int_eq(found, 0);
    assert_ok(ser_train_submit(trainer, batch));
    assert_ok(ser_train_step(trainer, batch, &result));
    ck_assert_int_eq(result.step, 2);
    for (int i = 1; i < MOST; i++) {
        assert_ok(ser_train_submit(trainer, batch));
    }
    ck_assert_int_eq(ser_train_submit(trainer, batch), SER_ERR_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(ser_error_message(), "64 results wait for ser_train_collect"));
    for (int i = 0; i < MOST; i++) {
        assert_ok(ser_train_collect(trainer, &result, &found));
        ck_assert_int_eq(found, 1);
        ck_assert_int_eq(result.step, i == 0 ? 1 : i + 2);
    }
    assert_ok(ser_train_collect(trainer, &result, &found));
    ck_assert_int_eq(found, 0);
    ser_batch_free(&batch);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("step");
    TCase *tc = tcase_create("step");
    tcase_add_checked_fixture(tc, trainer_setup, trainer_teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, ten_steps_reduce_the_loss, 0, KINDS);
    tcase_add_loop_test(tc, the_same_seed_gives_the_same_bits, 0, KINDS);
    tcase_add_loop_test(tc, every_kind_of_noise_follows_the_seed, 0, 8);
    tcase_add_loop_test(tc, every_step_draws_anew, 0, 3);
    tcase_add_loop_test(tc, evaluation_changes_nothing, 0, KINDS);
    tcase_add_loop_test(tc, evaluation_is_what_a_predictor_says, 0, KINDS);
    tcase_add_loop_test(tc, moving_average, 0, KINDS);
    tcase_add_loop_test(tc, accumulation_is_a_larger_batch, 0, KINDS);
    tcase_add_loop_test(tc, weights_count_against_each_other, 0, KINDS);
    tcase_add_loop_test(tc, loss_by_hand, 0, KINDS);
    tcase_add_loop_test(tc, frozen_weights_stay_bit_by_bit, 0, KINDS);
    tcase_add_loop_test(tc, all_blocks_may_be_dropped, 0, KINDS);
    tcase_add_loop_test(tc, submitted_steps, 0, 4);
    tcase_add_test(tc, results_wait);
    tcase_add_test(tc, rates_follow_the_schedule);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
