/* SPDX-License-Identifier: MIT */
/* Eight threads on one model, each with its own predictor; the build with -Db_sanitize=thread runs
 * it too. */
#include "api.h"

#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

enum { THREADS = 8, ROUNDS = 6, CLIPS = 4, LABELS = 16 };

static const size_t lengths[CLIPS] = {16000, 400, 30000, 9001};

static ser_device *device;
static ser_model *model;
static ser_audio *clips[CLIPS];
static float wanted[CLIPS][LABELS];
static size_t labels;
static pthread_barrier_t start; /* all threads begin their work together */

static void setup(void)
{
    device = api_device(1);
    assert_ok(ser_model_load(device, api_model(), NULL, &model));
    labels = ser_model_label_count(model);
    ser_predictor *predictor;
    assert_ok(ser_predictor_create(model, NULL, &predictor));
    for (unsigned i = 0; i < CLIPS; i++) {
        clips[i] = api_clip(lengths[i], i);
        assert_ok(ser_predict(predictor, clips[i], wanted[i], LABELS));
    }
    ser_predictor_free(&predictor);
    ck_assert_int_eq(pthread_barrier_init(&start, NULL, THREADS), 0);
}

static void teardown(void)
{
    pthread_barrier_destroy(&start);
    for (unsigned i = 0; i < CLIPS; i++) {
        ser_audio_free(&clips[i]);
    }
    ser_model_free(&model);
    ser_device_free(&device);
}

/* Run `body` on eight threads; each gives NULL or what went wrong. */
static void on_threads(void *(*body)(void *))
{
    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, body, (void *)i), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *complaint = NULL;
        pthread_join(threads[i], &complaint);
        ck_assert_msg(complaint == NULL, "thread %d: %s", i, (const char *)complaint);
    }
}

static void *predict(void *argument)
{
    unsigned first = (unsigned)(intptr_t)argument;
    float p[CLIPS * LABELS];
    ser_predictor *predictor;
    ser_model *own = ser_model_ref(model);
    pthread_barrier_wait(&start);
    if (ser_predictor_create(own, NULL, &predictor) != 0) {
        return "create";
    }
    ser_model_free(&own);
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned clip = (first + i) % CLIPS;
        if (ser_predict(predictor, clips[clip], p, LABELS) != 0) {
            return "predict";
        }
        if (memcmp(p, wanted[clip], labels * sizeof *p) != 0) {
            return "another answer than alone";
        }
    }
    if (ser_predict_batch(predictor, (const ser_audio *const *)clips, CLIPS, p, CLIPS * LABELS) !=
        0) {
        return "batch";
    }
    for (unsigned i = 0; i < CLIPS; i++) {
        if (memcmp(p + i * labels, wanted[i], labels * sizeof *p) != 0) {
            return "another answer in a batch than alone";
        }
    }
    ser_predictor_free(&predictor);
    return NULL;
}

START_TEST(one_model_serves_many_predictors)
{
    on_threads(predict);
}
END_TEST

/* A stream per thread over the same clip, each in pushes of another size. */
static void *listen(void *argument)
{
    const size_t size = 500 + 700 * (size_t)(intptr_t)argument;
    size_t count;
    const float *samples = ser_audio_samples(clips[2], &count);
    ser_stream *stream;
    ser_stream_result result = {.struct_size = sizeof result};
    int32_t found = 0;
    int windows = 0;
    pthread_barrier_wait(&start);
    if (ser_stream_create(model, NULL, &stream) != 0) {
        return "create";
    }
    for (size_t done = 0; done < count; done += size) {
        if (ser_stream_push(stream, samples + done, count - done < size ? count - done : size) !=
            0) {
            return "push";
        }
    }
    if (ser_stream_flush(stream) != 0) {
        return "flush";
    }
    do {
        if (ser_stream_next(stream, &result, &found) != 0) {
            return "next";
        }
        windows += found;
    } while (found == 1 && windows == 1);
    const bool same = memcmp(result.probabilities, wanted[2], labels * sizeof(float)) == 0;
    ser_stream_free(&stream);
    return windows != 1 ? "not one window" : same ? NULL : "another answer than a predictor's";
}

START_TEST(one_model_serves_many_streams)
{
    on_threads(listen);
}
END_TEST

static void *load_and_save(void *argument)
{
    char path[64];
    ser_model *own;
    ser_predictor *predictor;
    float p[LABELS];
    pthread_barrier_wait(&start);
    snprintf(path, sizeof path, "/tmp/ser-threads-%ld-%d", (long)getpid(), (int)(intptr_t)argument);
    if (ser_model_save(model, path) != 0) { /* the shared one, while the others save it too */
        return "save";
    }
    int status = ser_model_load(device, path, NULL, &own);
    remove(path);
    if (status != 0) {
        return "load";
    }
    if (ser_predictor_create(own, NULL, &predictor) != 0 ||
        ser_predict(predictor, clips[0], p, LABELS) != 0) {
        return "predict";
    }
    ser_model_free(&own);
    ser_predictor_free(&predictor);
    return memcmp(p, wanted[0], labels * sizeof *p) == 0 ? NULL : "another answer after saving";
}

START_TEST(one_model_can_be_saved_by_many)
{
    on_threads(load_and_save);
}
END_TEST

static void *fail_differently(void *argument)
{
    int id = (int)(intptr_t)argument;
    char path[64];
    ser_audio *audio;
    snprintf(path, sizeof path, "/nowhere/at-all/%d.wav", id);
    if (ser_error_message()[0] != '\0') {
        return "a new thread has a message";
    }
    pthread_barrier_wait(&start);
    for (int i = 0; i < 100; i++) {
        if (ser_audio_read(path, NULL, &audio) != SER_ERR_IO) {
            return "not IO";
        }
        if (strstr(ser_error_message(), path) == NULL) {
            return "the message of another thread";
        }
    }
    return NULL;
}

START_TEST(every_thread_has_its_own_message)
{
    on_threads(fail_differently);
}
END_TEST

static void *open_and_close(void *argument)
{
    (void)argument;
    pthread_barrier_wait(&start);
    for (int i = 0; i < 20; i++) {
        ser_device *d;
        if (ser_device_open(NULL, &d) != 0) {
            return "open";
        }
        if (ser_device_kind(d) != SER_DEVICE_CPU || strstr(ser_device_name(d), "cpu") == NULL) {
            return "not a CPU";
        }
        ser_device_free(&d);
        ser_model *m = ser_model_ref(model);
        ser_model_free(&m);
    }
    return NULL;
}

START_TEST(devices_come_and_go)
{
    on_threads(open_and_close);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("threads");
    TCase *tc = tcase_create("threads");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, one_model_serves_many_predictors);
    tcase_add_test(tc, one_model_serves_many_streams);
    tcase_add_test(tc, one_model_can_be_saved_by_many);
    tcase_add_test(tc, every_thread_has_its_own_message);
    tcase_add_test(tc, devices_come_and_go);
    suite_add_tcase(suite, tc);
    return api_run(suite);
}
