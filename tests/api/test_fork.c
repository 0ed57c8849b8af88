/* SPDX-License-Identifier: MIT */
/* OpenMP's threads do not survive fork(): the parent's handles say so in the child, new ones work.
 */
#include "api.h"

#include <sys/wait.h>
#include <unistd.h>

enum { LABELS = 16 };

static ser_device *device;
static ser_model *model;
static ser_predictor *predictor;
static ser_stream *stream;
static ser_audio *clip;
static float wanted[LABELS];

static void setup(void)
{
    device = api_device(2);
    clip = api_clip(40000, 1);
    assert_ok(ser_model_load(device, api_model(), NULL, &model));
    assert_ok(ser_predictor_create(model, NULL, &predictor));
    assert_ok(ser_predict(predictor, clip, wanted, LABELS)); /* the threads exist from now on */
    assert_ok(ser_stream_create(model, NULL, &stream));
}

static void teardown(void)
{
    ser_predictor_free(&predictor);
    ser_stream_free(&stream);
    ser_model_free(&model);
    ser_device_free(&device);
    ser_audio_free(&clip);
}

/* Run `body` in a child, which must come back with 0 within its time. */
static void in_child(int (*body)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        alarm(30);
        _exit(body());
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(!WIFSIGNALED(status), "the child was killed by signal %d", WTERMSIG(status));
    ck_assert_msg(WEXITSTATUS(status) == 0, "step %d failed in the child", WEXITSTATUS(status));
}

static int is_busy(int status)
{
    return status == SER_ERR_BUSY && strstr(ser_error_message(), "fork()") != NULL;
}

static int use_old_stream(void)
{
    float x = 0.0F;
    int32_t found;
    ser_stream *other = NULL;
    ser_stream_result result = {.struct_size = sizeof result};
    if (!is_busy(ser_stream_push(stream, &x, 1)) || !is_busy(ser_stream_flush(stream)) ||
        !is_busy(ser_stream_next(stream, &result, &found)) || !is_busy(ser_stream_reset(stream))) {
        return 5;
    }
    if (!is_busy(ser_stream_create(model, NULL, &other)) || other != NULL) {
        return 6;
    }
    ser_stream_free(&stream);
    return 0;
}

static int use_old_handles(void)
{
    float p[LABELS];
    ser_predictor *other = NULL;
    ser_model *again = NULL;
    ser_prediction details = {.struct_size = sizeof details};
    if (!is_busy(ser_predict(predictor, clip, p, LABELS))) {
        return 1;
    }
    if (!is_busy(ser_predictor_get_prediction(predictor, 0, &details))) {
        return 2;
    }
    if (!is_busy(ser_predictor_create(model, NULL, &other)) || other != NULL) {
        return 3;
    }
    if (!is_busy(ser_model_load(device, api_model(), NULL, &again)) || again != NULL) {
        return 4;
    }
    int step = use_old_stream();
    if (step != 0) {
        return step;
    }
    /* freeing them is allowed */
    ser_predictor_free(&predictor);
    ser_model_free(&model);
    ser_device_free(&device);
    return 0;
}

START_TEST(handles_of_the_parent_are_refused_in_the_child)
{
    in_child(use_old_handles);
    float p[LABELS];
    assert_ok(ser_predict(predictor, clip, p, LABELS)); /* and still work in the parent */
    ck_assert_mem_eq(p, wanted, ser_model_label_count(model) * sizeof *p);
}
END_TEST

static int use_new_handles(void)
{
    ser_device *d;
    ser_model *m;
    ser_predictor *p;
    ser_predictor_options options;
    ser_device_options device_options;
    float got[LABELS];
    ser_device_options_init(&device_options, sizeof device_options);
    device_options.threads = 2;
    ser_predictor_options_init(&options, sizeof options);
    options.threads = 2;
    if (ser_device_open(&device_options, &d) != 0 ||
        ser_model_load(d, api_model(), NULL, &m) != 0) {
        return 1;
    }
    if (ser_predictor_create(m, &options, &p) != 0) {
        return 2;
    }
    if (ser_predict(p, clip, got, LABELS) != 0) { /* a clip is plain memory: the parent's is fine */
        return 3;
    }
    if (memcmp(got, wanted, ser_model_label_count(m) * sizeof *got) != 0) {
        return 4;
    }
    ser_predictor_free(&p);
    ser_model_free(&m);
    ser_device_free(&d);
    return 0;
}

START_TEST(new_handles_work_in_the_child)
{
    in_child(use_new_handles);
}
END_TEST

static int grandchild(void)
{
    if (use_new_handles() != 0) {
        return 1;
    }
    pid_t pid = fork();
    if (pid == 0) {
        alarm(30);
        _exit(use_new_handles() != 0 ? 1 : (use_old_handles() != 0 ? 2 : 0));
    }
    int status;
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 2;
}

START_TEST(a_child_may_fork_again)
{
    in_child(grandchild);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fork");
    TCase *tc = tcase_create("fork");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, handles_of_the_parent_are_refused_in_the_child);
    tcase_add_test(tc, new_handles_work_in_the_child);
    tcase_add_test(tc, a_child_may_fork_again);
    suite_add_tcase(suite, tc);
    return api_run(suite);
}
