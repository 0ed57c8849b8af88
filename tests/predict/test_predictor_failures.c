/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include <math.h>
#include <pthread.h>

START_TEST(options_out_of_range)
{
    ser_predictor *p = NULL;
    ser_predictor_options o = options_of(-1, 0.0, 0.0);
    assert_fails(ser_predictor_create(model, &o, &p), SER_ERR_ARGUMENT,
                 "max_batch is -1, not within 0..4096");
    o = options_of(0, 0.0, 0.0);
    o.reserved = 1;
    assert_fails(ser_predictor_create(model, &o, &p), SER_ERR_UNSUPPORTED, "reserved must be 0");
    o = options_of(0, 0.0, 0.0);
    o.padding = 3;
    assert_fails(ser_predictor_create(model, &o, &p), SER_ERR_ARGUMENT,
                 "padding is 3, not within 0..2");
    o = options_of(4097, 0.0, 0.0);
    assert_fails(ser_predictor_create(model, &o, &p), SER_ERR_ARGUMENT, "max_batch is 4097");
    o = options_of(1, -1.0, 0.0);
    assert_fails(ser_predictor_create(model, &o, &p), SER_ERR_ARGUMENT, "max_seconds is -1");
    o = options_of(1, (double)NAN, 0.0);
    assert_fails(ser_predictor_create(model, &o, &p), SER_ERR_ARGUMENT, "max_seconds is nan");
    o = options_of(1, 0.0, 1e-9);
    assert_fails(ser_predictor_create(model, &o, &p), SER_ERR_ARGUMENT, "window is 1e-09");
    o = options_of(1, 1.0, 2.0);
    assert_fails(ser_predictor_create(model, &o, &p), SER_ERR_ARGUMENT, "more than max_seconds");
    o = options_of(1, 0.0, 0.0);
    o.threads = 1025;
    assert_fails(ser_predictor_create(model, &o, &p), SER_ERR_ARGUMENT, "threads is 1025");
    assert_fails(ser_predictor_create(NULL, NULL, &p), SER_ERR_ARGUMENT, "model is NULL");
    assert_fails(ser_predictor_create(model, NULL, NULL), SER_ERR_ARGUMENT, "predictor is NULL");
    ck_assert_ptr_null(p);
}
END_TEST

START_TEST(arguments_out_of_range)
{
    ser_audio *clip = noise(1000, 1);
    const ser_audio *with_gap[] = {clip, NULL};
    float p[2 * MAX_LABELS];
    size_t k = ser_model_label_count(model);
    create(NULL);
    assert_fails(ser_predict(NULL, clip, p, k), SER_ERR_ARGUMENT, "predictor is NULL");
    assert_fails(ser_predict(predictor, NULL, p, k), SER_ERR_ARGUMENT, "audio 0 is NULL");
    assert_fails(ser_predict(predictor, clip, NULL, k), SER_ERR_ARGUMENT, "probabilities is NULL");
    assert_fails(ser_predict_batch(predictor, NULL, 1, p, k), SER_ERR_ARGUMENT, "audios is NULL");
    assert_fails(ser_predict_batch(predictor, with_gap, 2, p, 2 * k), SER_ERR_ARGUMENT,
                 "audio 1 is NULL");
    p[0] = 7.0F;
    assert_fails(ser_predict(predictor, clip, p, k - 1), SER_ERR_CAPACITY, "capacity is");
    ck_assert_float_eq(p[0], 7.0F);
    assert_fails(ser_predictor_get_prediction(NULL, 0, NULL), SER_ERR_ARGUMENT,
                 "predictor is NULL");
    ser_audio_free(&clip);
}
END_TEST

static char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    char *bytes = malloc(1 << 20);
    *size = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    return bytes;
}

START_TEST(nan_from_the_network_is_an_error_and_the_last_answer_stays)
{
    size_t size;
    char *bytes = read_file(golden_path("attention_pool.model.safetensors"), &size);
    memset(bytes + size - 4, 0xFF, 4); /* a weight of the last tensor, the feature projection */
    ser_model_free(&model);
    assert_ok(ser_model_load_memory(device, bytes, size, NULL, &model));
    free(bytes);
    create(NULL);
    ser_audio *clip = noise(1000, 1);
    float p[MAX_LABELS] = {7.0F};
    assert_fails(ser_predict(predictor, clip, p, MAX_LABELS), SER_ERR_NUMERIC,
                 "clip 0: the network gave NaN");
    ck_assert_float_eq(p[0], 7.0F);
    ser_prediction none = {.struct_size = sizeof none};
    assert_fails(ser_predictor_get_prediction(predictor, 0, &none), SER_ERR_ARGUMENT,
                 "had 0 clips");
    ser_audio_free(&clip);
}
END_TEST

START_TEST(every_failing_allocation_is_survived)
{
    ser_audio *clips[CLIPS];
    float wanted[CLIPS * MAX_LABELS];
    float got[CLIPS * MAX_LABELS];
    make_clips(clips);
    size_t k = ser_model_label_count(model);
    ser_predictor_options options = options_of(_i, 0.0, 0.0); /* one batch; several in turn */
    create(&options);
    assert_ok(
        ser_predict_batch(predictor, (const ser_audio *const *)clips, CLIPS, wanted, CLIPS * k));
    ser_predictor_free(&predictor);
    int64_t live = ser_mem_live();
    int status = SER_ERR_MEMORY;
    for (uint64_t nth = 1; status != 0; nth++) { /* from the first allocation of the predictor on */
        ser_mem_fail_at(nth, false);
        status = ser_predictor_create(model, &options, &predictor);
        status = status == 0 ? ser_predict(predictor, clips[1], got, k) : status;
        status = status == 0 ? ser_predict_batch(predictor, (const ser_audio *const *)clips, CLIPS,
                                                 got, CLIPS * k)
                             : status;
        ser_mem_fail_at(0, false);
        ck_assert_msg(status == 0 || status == SER_ERR_MEMORY, "%s", ser_fail_text());
        if (predictor != NULL) { /* a predictor that has failed is as good as new */
            assert_ok(ser_predict_batch(predictor, (const ser_audio *const *)clips, CLIPS, got,
                                        CLIPS * k));
            ck_assert_mem_eq(got, wanted, CLIPS * k * sizeof(float));
        }
        ser_predictor_free(&predictor);
        ck_assert_int_eq(ser_mem_live(), live);
        ck_assert_uint_lt(nth, 200);
    }
    free_clips(clips);
}
END_TEST

START_TEST(a_failed_call_keeps_the_details_of_the_last_good_one)
{
    ser_audio *first = noise(5000, 1);
    ser_audio *second = noise(80000, 2);
    float p[MAX_LABELS];
    create(NULL);
    assert_ok(ser_predict(predictor, first, p, MAX_LABELS));
    size_t frames = details(0).attention_count;
    float alpha = details(0).attention[0];
    ser_mem_fail_at(3, true);
    ck_assert_int_eq(ser_predict(predictor, second, p, MAX_LABELS), SER_ERR_MEMORY);
    ser_mem_fail_at(0, false);
    ck_assert_uint_eq(details(0).attention_count, frames);
    ck_assert_float_eq(details(0).attention[0], alpha);
    ser_audio_free(&first);
    ser_audio_free(&second);
}
END_TEST

START_TEST(a_second_call_keeps_no_new_memory)
{
    ser_audio *clips[CLIPS];
    float p[CLIPS * MAX_LABELS];
    make_clips(clips);
    ser_predictor_options options = options_of(_i, 0.0, 0.0);
    create(&options);
    size_t k = ser_model_label_count(model);
    for (int i = 0; i < 2; i++) { /* the answers of two calls are held in turns */
        assert_ok(
            ser_predict_batch(predictor, (const ser_audio *const *)clips, CLIPS, p, CLIPS * k));
    }
    int64_t live = ser_mem_live();
    for (size_t n = 1; n <= CLIPS; n++) {
        assert_ok(ser_predict_batch(predictor, (const ser_audio *const *)clips, n, p, n * k));
        ck_assert_int_eq(ser_mem_live(), live);
    }
    free_clips(clips);
}
END_TEST

START_TEST(the_model_may_be_freed_first)
{
    ser_audio *clip = noise(5000, 1);
    float p[MAX_LABELS];
    create(NULL);
    ser_model_free(&model);
    ser_device_free(&device);
    assert_ok(ser_predict(predictor, clip, p, MAX_LABELS));
    ser_audio_free(&clip);
}
END_TEST

enum { RIVALS = 4 };

static void *rival(void *argument)
{
    const ser_audio *clip = argument;
    float p[MAX_LABELS];
    intptr_t busy = 0;
    for (int i = 0; i < 20; i++) {
        int status = ser_predict(predictor, clip, p, MAX_LABELS);
        busy += status == SER_ERR_BUSY;
        if (status != 0 &&
            (status != SER_ERR_BUSY || strstr(ser_error_message(), "in use") == NULL)) {
            return (void *)(intptr_t)-1;
        }
    }
    return (void *)busy;
}

START_TEST(one_predictor_serves_one_thread_at_a_time)
{
    pthread_t threads[RIVALS];
    intptr_t busy = 0;
    ser_audio *clip = noise(80000, 1);
    create(NULL);
    for (int round = 0; round < 50 && busy == 0; round++) {
        for (int i = 0; i < RIVALS; i++) {
            ck_assert_int_eq(pthread_create(&threads[i], NULL, rival, clip), 0);
        }
        for (int i = 0; i < RIVALS; i++) {
            void *result;
            pthread_join(threads[i], &result);
            ck_assert_int_ge((intptr_t)result, 0);
            busy += (intptr_t)result;
        }
    }
    ck_assert_int_gt(busy, 0);
    ser_audio_free(&clip);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("predictor_failures");
    TCase *tc = tcase_create("failures");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, options_out_of_range);
    tcase_add_test(tc, arguments_out_of_range);
    tcase_add_test(tc, nan_from_the_network_is_an_error_and_the_last_answer_stays);
    tcase_add_loop_test(tc, every_failing_allocation_is_survived, 0, 4);
    tcase_add_test(tc, a_failed_call_keeps_the_details_of_the_last_good_one);
    tcase_add_loop_test(tc, a_second_call_keeps_no_new_memory, 0, 4);
    tcase_add_test(tc, the_model_may_be_freed_first);
    tcase_add_test(tc, one_predictor_serves_one_thread_at_a_time);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
