/* SPDX-License-Identifier: MIT */
/* Handles: NULL everywhere, devices and their threads, the log. */
#include "api.h"

enum { LINES = 8 };

static struct {
    int count;
    int32_t level[LINES];
    char text[LINES][256];
} lines;

static void collect(int32_t level, const char *text, void *user)
{
    ck_assert_ptr_eq(user, &lines);
    ck_assert_int_lt(lines.count, LINES);
    lines.level[lines.count] = level;
    snprintf(lines.text[lines.count++], sizeof lines.text[0], "%s", text);
}

static void setup(void)
{
    memset(&lines, 0, sizeof lines);
    ser_log_set_handler(collect, &lines);
}

static void teardown(void)
{
    ser_log_set_handler(NULL, NULL);
    ser_log_set_level(SER_LOG_WARNING);
}

START_TEST(free_takes_null_and_nulls_the_handle)
{
    ser_device *device = NULL;
    ser_audio *audio = NULL;
    ser_reader *reader = NULL;
    ser_model *model = NULL;
    ser_predictor *predictor = NULL;
    ser_stream *stream = NULL;
    ser_device_free(NULL);
    ser_audio_free(NULL);
    ser_reader_free(NULL);
    ser_model_free(NULL);
    ser_predictor_free(NULL);
    ser_stream_free(NULL);
    ser_trainer_free(NULL);
    ser_batch_free(NULL);
    ser_device_free(&device);
    ser_audio_free(&audio);
    ser_reader_free(&reader);
    ser_model_free(&model);
    ser_predictor_free(&predictor);
    ser_stream_free(&stream);
    ser_trainer *trainer = NULL;
    ser_batch *batch = NULL;
    ser_trainer_free(&trainer);
    ser_batch_free(&batch);

    device = api_device(1);
    audio = api_clip(1000, 1);
    assert_ok(ser_model_load(device, api_model(), NULL, &model));
    assert_ok(ser_predictor_create(model, NULL, &predictor));
    assert_ok(ser_stream_create(model, NULL, &stream));
    ser_model *second = ser_model_ref(model);
    ck_assert_ptr_eq(second, model);
    for (int i = 0; i < 2; i++) { /* the second time they are NULL already */
        ser_device_free(&device);
        ser_model_free(&model);
        ser_predictor_free(&predictor);
        ser_stream_free(&stream);
        ser_audio_free(&audio);
        ck_assert_ptr_null(device);
        ck_assert_ptr_null(model);
        ck_assert_ptr_null(predictor);
        ck_assert_ptr_null(stream);
        ck_assert_ptr_null(audio);
    }
    ck_assert_uint_gt(ser_model_label_count(second), 0);
    ser_model_free(&second);
}
END_TEST

START_TEST(questions_to_null_have_empty_answers)
{
    size_t count = 7;
    ck_assert_int_eq(ser_device_kind(NULL), SER_DEVICE_AUTO);
    ck_assert_str_eq(ser_device_name(NULL), "");
    ck_assert_ptr_null(ser_audio_samples(NULL, &count));
    ck_assert_uint_eq(count, 0);
    ck_assert_ptr_null(ser_audio_samples(NULL, NULL));
    ck_assert_double_eq(ser_audio_duration(NULL), 0.0);
    ck_assert_uint_eq(ser_model_label_count(NULL), 0);
    ck_assert_ptr_null(ser_model_label(NULL, 0));
    ck_assert_uint_eq(ser_model_parameter_count(NULL), 0);
    ck_assert_str_eq(ser_model_path(NULL), "");
    ck_assert_str_eq(ser_model_config(NULL), "");
    ck_assert_double_eq(ser_model_window(NULL), 0.0);
    ck_assert_double_eq(ser_model_max_seconds(NULL), 0.0);
    ck_assert_ptr_null(ser_model_ref(NULL));
    ck_assert_int_eq(ser_reader_at_end(NULL), 1);
    ck_assert_int_eq(ser_trainer_steps(NULL), 0);
    ck_assert_uint_eq(ser_trainer_trained_count(NULL), 0);
    ser_trainer_cancel(NULL);
    assert_fails(ser_audio_get_info(NULL, NULL), SER_ERR_ARGUMENT, "NULL");
    assert_fails(ser_reader_get_info(NULL, NULL), SER_ERR_ARGUMENT, "NULL");
    assert_fails(ser_model_save(NULL, NULL), SER_ERR_ARGUMENT, "NULL");
}
END_TEST

START_TEST(out_pointers_are_required)
{
    ser_device *device = api_device(1);
    assert_fails(ser_audio_read("x", NULL, NULL), SER_ERR_ARGUMENT, "NULL");
    assert_fails(ser_audio_read_memory("x", 1, NULL, NULL), SER_ERR_ARGUMENT, "NULL");
    assert_fails(ser_audio_from_samples(NULL, 0, 1, 16000, NULL, NULL), SER_ERR_ARGUMENT, "NULL");
    assert_fails(ser_reader_open("x", NULL, NULL), SER_ERR_ARGUMENT, "NULL");
    assert_fails(ser_model_load(device, "x", NULL, NULL), SER_ERR_ARGUMENT, "NULL");
    assert_fails(ser_model_load_memory(device, "x", 1, NULL, NULL), SER_ERR_ARGUMENT, "NULL");
    assert_fails(ser_model_create(device, "x", NULL, 0, NULL, NULL), SER_ERR_ARGUMENT, "NULL");
    assert_fails(ser_predictor_create(NULL, NULL, NULL), SER_ERR_ARGUMENT, "NULL");
    assert_fails(ser_stream_create(NULL, NULL, NULL), SER_ERR_ARGUMENT, "NULL");
    ser_device_free(&device);
}
END_TEST

START_TEST(devices)
{
    ser_device *device;
    ser_device_options options;
    ser_device_options_init(&options, sizeof options);
    ck_assert_int_eq(ser_device_count(SER_DEVICE_CPU), 1);
    ck_assert_int_ge(ser_device_count(SER_DEVICE_CUDA), 0);
    ck_assert_int_ge(ser_device_count(SER_DEVICE_AUTO), 1);
    options.kind = 3;
    assert_fails(ser_device_open(&options, &device), SER_ERR_ARGUMENT, "kind is 3");
    options.kind = SER_DEVICE_CPU;
    options.index = -1;
    assert_fails(ser_device_open(&options, &device), SER_ERR_ARGUMENT, "index is -1");
    options.index = 0;
    options.threads = 1025;
    assert_fails(ser_device_open(&options, &device), SER_ERR_ARGUMENT, "threads is 1025");
    options.threads = -1;
    assert_fails(ser_device_open(&options, &device), SER_ERR_ARGUMENT, "threads is -1");
    options.threads = 0;
    options.reserved = 1;
    assert_fails(ser_device_open(&options, &device), SER_ERR_UNSUPPORTED, "reserved");
}
END_TEST

static const char *name_with(const char *omp_num_threads, int32_t threads)
{
    static char name[128];
    if (omp_num_threads != NULL) {
        setenv("OMP_NUM_THREADS", omp_num_threads, 1);
    } else {
        unsetenv("OMP_NUM_THREADS");
    }
    ser_device *device = api_device(threads);
    snprintf(name, sizeof name, "%s", ser_device_name(device));
    ck_assert_int_eq(ser_device_kind(device), SER_DEVICE_CPU);
    ser_device_free(&device);
    return name;
}

START_TEST(threads_come_from_the_options_the_environment_or_the_machine)
{
    ck_assert_ptr_nonnull(strstr(name_with("3", 0), "3 threads"));
    ck_assert_ptr_nonnull(strstr(name_with("3,2", 0), "3 threads"));
    ck_assert_ptr_nonnull(strstr(name_with("3", 5), "5 threads"));
    ck_assert_ptr_nonnull(strstr(name_with(NULL, 1), "1 thread"));
    ck_assert_ptr_null(strstr(name_with(NULL, 1), "1 threads"));
    ck_assert_ptr_nonnull(strstr(name_with("100000", 0), "1024 threads"));
    char machine[128];
    snprintf(machine, sizeof machine, "%s", name_with(NULL, 0));
    ck_assert_str_eq(name_with("many", 0), machine);
    ck_assert_str_eq(name_with("-4", 0), machine);
    ck_assert_str_eq(name_with("", 0), machine);
}
END_TEST

START_TEST(auto_says_in_one_line_what_it_took)
{
    ser_device *device;
    assert_ok(ser_device_open(NULL, &device));
    ck_assert_int_eq(lines.count, 0); /* warnings and worse only, by default */
    ser_device_free(&device);
    ser_log_set_level(SER_LOG_INFO);
    assert_ok(ser_device_open(NULL, &device));
    if (ser_device_kind(device) == SER_DEVICE_CPU) {
        ck_assert_int_eq(lines.count, 1);
        ck_assert_int_eq(lines.level[0], SER_LOG_INFO);
        ck_assert_ptr_nonnull(strstr(lines.text[0], "CUDA"));
        ck_assert_ptr_null(strchr(lines.text[0], '\n'));
    }
    ser_device_free(&device);
    ser_log_set_handler(NULL, NULL); /* nobody to tell is no problem */
    assert_ok(ser_device_open(NULL, &device));
    ser_device_free(&device);
}
END_TEST

START_TEST(version_is_that_of_the_headers)
{
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", SER_VERSION_MAJOR, SER_VERSION_MINOR,
             SER_VERSION_PATCH);
    ck_assert_str_eq(ser_version_string(), text);
    ck_assert_int_eq(ser_version_number(), SER_VERSION_NUMBER);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("handles");
    TCase *tc = tcase_create("handles");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, free_takes_null_and_nulls_the_handle);
    tcase_add_test(tc, questions_to_null_have_empty_answers);
    tcase_add_test(tc, out_pointers_are_required);
    tcase_add_test(tc, devices);
    tcase_add_test(tc, threads_come_from_the_options_the_environment_or_the_machine);
    tcase_add_test(tc, auto_says_in_one_line_what_it_took);
    tcase_add_test(tc, version_is_that_of_the_headers);
    suite_add_tcase(suite, tc);
    return api_run(suite);
}
