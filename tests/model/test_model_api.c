/* SPDX-License-Identifier: MIT */
/* Arguments, options, the default model, forks and threads of ser/model.h. */
#include "harness.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "builder.h"
#include "model/model.h"

static const char *const four_labels[] = {"calm", "angry", "happy", "sad"};

static ser_model *load_blob(ser_device *device, const blob *b)
{
    ser_model *model;
    assert_ok(ser_model_load_memory(device, b->data, b->size, NULL, &model));
    return model;
}

typedef struct seen {
    int count;
    char text[512];
} seen;

static void keep(int32_t level, const char *text, void *user)
{
    seen *s = user;
    (void)level;
    s->count++;
    (void)snprintf(s->text, sizeof s->text, "%s", text);
}

START_TEST(default_model)
{
    ser_device *device = open_cpu();
    ser_model *model;
    blob b = small_model(true);
    char *saved = getenv("SER_MODEL") != NULL ? strdup(getenv("SER_MODEL")) : NULL;
    const char *path = harness_tmpfile("default.safetensors");
    blob_write(&b, path);
    setenv("SER_MODEL", path, 1);
    assert_ok(ser_model_load(device, NULL, NULL, &model));
    ck_assert_str_eq(ser_model_path(model), path);
    ser_model_free(&model);
    setenv("SER_MODEL", "/nonexistent/m.safetensors", 1);
    assert_fails(ser_model_load(device, NULL, NULL, &model), SER_ERR_IO,
                 "/nonexistent/m.safetensors: ");
    setenv("SER_MODEL", "",
           1); /* as if it were not set: the installed one, if this machine has one */
    int status = ser_model_load(device, NULL, NULL, &model);
    if (status != 0) {
        assert_fails(status, SER_ERR_IO, "no default model: SER_MODEL is not set and ");
    }
    ser_model_free(&model);
    if (saved != NULL) {
        setenv("SER_MODEL", saved, 1);
    } else {
        unsetenv("SER_MODEL");
    }
    free(saved);
    blob_free(&b);
    ser_device_free(&device);
}
END_TEST

START_TEST(arguments)
{
    ser_device *device = open_cpu();
    ser_model *model = (ser_model *)&device;
    const char *with_null[] = {"a", NULL};
    assert_fails(ser_model_load(NULL, "x", NULL, &model), SER_ERR_ARGUMENT,
                 "ser_model_load: device");
    ck_assert_ptr_null(model);
    assert_fails(ser_model_load(device, "x", NULL, NULL), SER_ERR_ARGUMENT,
                 "ser_model_load: model");
    assert_fails(ser_model_load(device, "/nonexistent", NULL, &model), SER_ERR_IO,
                 "/nonexistent: cannot open");
    assert_fails(ser_model_load_memory(NULL, "x", 1, NULL, &model), SER_ERR_ARGUMENT,
                 "device is NULL");
    assert_fails(ser_model_load_memory(device, NULL, 1, NULL, &model), SER_ERR_ARGUMENT,
                 "data is NULL");
    assert_fails(ser_model_load_memory(device, "x", 1, NULL, NULL), SER_ERR_ARGUMENT,
                 "model is NULL");
    assert_fails(ser_model_load_memory(device, "x", 1, NULL, &model), SER_ERR_FORMAT,
                 "1 bytes, less than 8");
    assert_fails(ser_model_create(device, NULL, four_labels, 4, NULL, &model), SER_ERR_ARGUMENT,
                 "backbone is NULL");
    assert_fails(ser_model_create(device, "x", NULL, 4, NULL, &model), SER_ERR_ARGUMENT,
                 "labels is NULL");
    assert_fails(ser_model_create(device, "x", four_labels, 1, NULL, &model), SER_ERR_ARGUMENT,
                 "label_count is 1");
    assert_fails(ser_model_create(device, "x", four_labels, 1001, NULL, &model), SER_ERR_ARGUMENT,
                 "label_count is 1001");
    assert_fails(ser_model_create(device, "x", with_null, 2, NULL, &model), SER_ERR_ARGUMENT,
                 "labels[1] is NULL");
    assert_fails(ser_model_save(NULL, "x"), SER_ERR_ARGUMENT, "model is NULL");
    blob b = small_model(true);
    model = load_blob(device, &b);
    assert_fails(ser_model_save(model, NULL), SER_ERR_ARGUMENT, "path is NULL");
    atomic_store(&model->users, -1);
    assert_fails(ser_model_save(model, harness_tmpfile("busy")), SER_ERR_BUSY, "a trainer");
    atomic_store(&model->users, 0);
    ser_model_free(&model);
    ck_assert_uint_eq(ser_model_label_count(NULL), 0);
    ck_assert_ptr_null(ser_model_label(NULL, 0));
    ck_assert_uint_eq(ser_model_parameter_count(NULL), 0);
    ck_assert_str_eq(ser_model_config(NULL), "");
    ck_assert_str_eq(ser_model_path(NULL), "");
    ck_assert(ser_model_window(NULL) == 0.0 && ser_model_max_seconds(NULL) == 0.0);
    ck_assert_ptr_null(ser_model_ref(NULL));
    blob_free(&b);
    ser_device_free(&device);
}
END_TEST

static int load_with(ser_device *device, const blob *b, int32_t precision, int32_t strict,
                     uint64_t header)
{
    ser_model *model;
    ser_model_options options;
    ser_model_options_init(&options, sizeof options);
    options.precision = precision;
    options.strict = strict;
    options.max_header_size = header;
    int status = ser_model_load_memory(device, b->data, b->size, &options, &model);
    ser_model_free(&model);
    return status;
}

START_TEST(load_options)
{
    ser_device *device = open_cpu();
    blob b = small_model(true);
    seen s = {0};
    ser_model_options options;
    ser_model_options_init(&options, sizeof options);
    ck_assert_uint_eq(options.struct_size, sizeof options);
    ck_assert_int_eq(options.precision, SER_PRECISION_AUTO);
    ck_assert_int_eq(options.strict, 0);
    ck_assert_uint_eq(options.seed, 0);
    ck_assert_uint_eq(options.max_header_size, 16U << 20);
    assert_fails(load_with(device, &b, 3, 0, 1 << 20), SER_ERR_ARGUMENT,
                 "precision is 3, not within 0..2");
    assert_fails(load_with(device, &b, -1, 0, 1 << 20), SER_ERR_ARGUMENT, "precision is -1");
    assert_fails(load_with(device, &b, 0, 2, 1 << 20), SER_ERR_ARGUMENT, "strict is 2");
    assert_fails(load_with(device, &b, 0, 0, 0), SER_ERR_ARGUMENT, "max_header_size is 0");
    assert_fails(load_with(device, &b, 0, 0, UINT64_MAX), SER_ERR_ARGUMENT, "max_header_size");
    assert_fails(load_with(device, &b, 0, 0, 100), SER_ERR_CAPACITY, "limit 100 (max_header_size)");
    assert_ok(load_with(device, &b, SER_PRECISION_F32, 1, 100000000));
    ser_log_set_handler(keep, &s);
    assert_ok(load_with(device, &b, SER_PRECISION_BF16, 0, 1 << 20));
    ser_log_set_handler(NULL, NULL);
    ck_assert_int_eq(s.count, 1);
    ck_assert(strstr(s.text, "bf16 is not available") != NULL);
    blob_free(&b);
    ser_device_free(&device);
}
END_TEST

static int in_child(ser_device *device, const ser_model *model, const blob *b, const char *path)
{
    ser_model *other;
    if (ser_model_load_memory(device, b->data, b->size, NULL, &other) != SER_ERR_BUSY ||
        other != NULL ||
        strstr(ser_error_message(), "the device was created before fork()") == NULL) {
        return 1;
    }
    if (ser_model_load(device, path, NULL, &other) != SER_ERR_BUSY ||
        ser_model_create(device, path, four_labels, 4, NULL, &other) != SER_ERR_BUSY) {
        return 2;
    }
    if (ser_model_save(model, path) != SER_ERR_BUSY ||
        strstr(ser_error_message(), "the model was created before fork()") == NULL) {
        return 3;
    }
    return strcmp(ser_model_label(model, 1), "happy") == 0 ? 0 : 4; /* reading is harmless */
}

START_TEST(forked_handles_are_busy)
{
    ser_device *device = open_cpu();
    blob b = small_model(true);
    ser_model *model = load_blob(device, &b);
    const char *path = harness_tmpfile("forked.safetensors");
    blob_write(&b, path);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        _exit(in_child(device, model, &b, path));
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    assert_ok(ser_model_save(model, path));
    ser_model_free(&model);
    ser_device_free(&device);
    blob_free(&b);
}
END_TEST

typedef struct job {
    ser_device *device;
    ser_model *shared;
    const char *path;
    int status;
} job;

static void *load_and_save(void *argument)
{
    job *j = argument;
    for (int i = 0; i < 5 && j->status == 0; i++) {
        ser_model *model;
        j->status = ser_model_load(j->device, j->path, NULL, &model);
        if (j->status == 0) {
            j->status = ser_model_save(model, j->path); /* the same bytes, over and over */
        }
        ser_model_free(&model);
        ser_model *mine = ser_model_ref(j->shared);
        ser_model_free(&mine);
    }
    return NULL;
}

START_TEST(threads_are_independent)
{
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    job jobs[THREADS];
    ser_device *device = open_cpu();
    blob b = small_model(true);
    ser_model *model = load_blob(device, &b);
    char path[4096];
    (void)snprintf(path, sizeof path, "%s", harness_tmpfile("shared.safetensors"));
    assert_ok(ser_model_save(model, path));
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (job){device, model, path, 0};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, load_and_save, &jobs[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_int_eq(jobs[i].status, 0);
    }
    ser_model_free(&model);
    ser_device_free(&device);
    blob_free(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model_api");
    TCase *tcase = tcase_create("model_api");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, default_model);
    tcase_add_test(tcase, arguments);
    tcase_add_test(tcase, load_options);
    tcase_add_test(tcase, forked_handles_are_busy);
    tcase_add_test(tcase, threads_are_independent);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
