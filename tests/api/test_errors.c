/* SPDX-License-Identifier: MIT */
/* Every status that a caller can meet, with a text that says what is wrong. */
#include "api.h"

#include <math.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { LABELS = 16 };

static ser_device *device;
static ser_model *model;
static ser_predictor *predictor;
static ser_audio *clip;
static float p[LABELS];
static char *bytes; /* of a model file, to be damaged */
static size_t size;

static void setup(void)
{
    device = api_device(1);
    assert_ok(ser_model_load(device, api_model(), NULL, &model));
    assert_ok(ser_predictor_create(model, NULL, &predictor));
    clip = api_clip(2000, 1);
    FILE *file = fopen(api_model(), "rb");
    ck_assert_ptr_nonnull(file);
    bytes = malloc(1 << 20);
    size = fread(bytes, 1, 1 << 20, file);
    fclose(file);
}

static void teardown(void)
{
    free(bytes);
    ser_audio_free(&clip);
    ser_predictor_free(&predictor);
    ser_model_free(&model);
    ser_device_free(&device);
}

/* Overwrite the first `old` in the file's header by `new`, of the same length. */
static void replace(const char *old, const char *new)
{
    size_t length = strlen(old);
    ck_assert_uint_eq(length, strlen(new));
    for (size_t i = 0; i + length < size; i++) {
        if (memcmp(bytes + i, old, length) == 0) {
            memcpy(bytes + i, new, length);
            return;
        }
    }
    ck_abort_msg("%s is not in the file", old);
}

static int load_damaged(void)
{
    ser_model *damaged = (ser_model *)(void *)bytes; /* anything but NULL */
    int status = ser_model_load_memory(device, bytes, size, NULL, &damaged);
    ck_assert(status == 0 || damaged == NULL);
    ser_model_free(&damaged);
    return status;
}

START_TEST(argument)
{
    assert_fails(ser_device_open(NULL, NULL), SER_ERR_ARGUMENT, "device is NULL");
    assert_fails(ser_device_count(17), SER_ERR_ARGUMENT, "kind is 17");
}
END_TEST

START_TEST(io)
{
    ser_audio *audio = clip;
    ser_model *none = model;
    assert_fails(ser_audio_read("/nowhere/clip.wav", NULL, &audio), SER_ERR_IO,
                 "/nowhere/clip.wav");
    ck_assert_ptr_null(audio);
    assert_fails(ser_model_load(device, "/nowhere/model", NULL, &none), SER_ERR_IO,
                 "/nowhere/model");
    ck_assert_ptr_null(none);
}
END_TEST

START_TEST(format)
{
    ser_audio *audio;
    assert_fails(ser_audio_read_memory("no audio at all, just text", 26, NULL, &audio),
                 SER_ERR_FORMAT, "");
    ck_assert_str_ne(ser_error_message(), "");
    size /= 2;
    assert_fails(load_damaged(), SER_ERR_FORMAT, "");
    ck_assert_str_ne(ser_error_message(), "");
}
END_TEST

START_TEST(version)
{
    replace("\"version\":\"1\"", "\"version\":\"9\"");
    assert_fails(load_damaged(), SER_ERR_VERSION, "9");
}
END_TEST

START_TEST(data)
{
    float samples[1000] = {0.0F};
    ser_audio *audio;
    samples[7] = NAN;
    assert_fails(ser_audio_from_samples(samples, 1000, 1, 16000, NULL, &audio), SER_ERR_DATA, "7");
}
END_TEST

START_TEST(mismatch)
{
    replace("pooling.score.bias", "pooling.score.bais");
    assert_fails(load_damaged(), SER_ERR_MISMATCH, "pooling.score.bais");
    ck_assert_ptr_nonnull(strstr(ser_error_message(), "pooling.score.bias"));
}
END_TEST

START_TEST(unsupported)
{
    float samples[1000] = {0.0F};
    struct {
        ser_audio_options known;
        int32_t new_option[2];
    } future;
    ser_audio *audio;
    ser_audio_options_init(&future.known, sizeof future);
    future.new_option[0] = 1;
    assert_fails(ser_audio_from_samples(samples, 1000, 1, 16000, &future.known, &audio),
                 SER_ERR_UNSUPPORTED, "newer than this library");
}
END_TEST

START_TEST(capacity)
{
    assert_fails(ser_predict(predictor, clip, p, 1), SER_ERR_CAPACITY, "capacity is 1");
}
END_TEST

START_TEST(no_device)
{
    ser_device *none = device;
    ser_device_options options;
    ser_device_options_init(&options, sizeof options);
    options.kind = SER_DEVICE_CUDA;
    if (ser_device_count(SER_DEVICE_CUDA) == 0) {
        assert_fails(ser_device_open(&options, &none), SER_ERR_DEVICE, "CUDA");
        ck_assert_ptr_null(none);
    }
    options.kind = SER_DEVICE_CPU;
    options.index = 1;
    assert_fails(ser_device_open(&options, &none), SER_ERR_DEVICE, "CPU");
}
END_TEST

START_TEST(numeric)
{
    ser_model *broken;
    ser_predictor *of_broken;
    memset(bytes + size - 4, 0xFF, 4); /* NaN in the last weight */
    assert_ok(ser_model_load_memory(device, bytes, size, NULL, &broken));
    assert_ok(ser_predictor_create(broken, NULL, &of_broken));
    assert_fails(ser_predict(of_broken, clip, p, LABELS), SER_ERR_NUMERIC, "NaN");
    ser_predictor_free(&of_broken);
    ser_model_free(&broken);
}
END_TEST

static int predict_after_fork(void)
{
    return ser_predict(predictor, clip, p, LABELS) == SER_ERR_BUSY &&
                   strlen(ser_error_message()) > 0
               ? 0
               : 1;
}

/* With 24 MB of address space left, ten minutes in one piece do not fit. */
/* Let the address space grow by `bytes` from now on; 0 lifts the limit. */
static int limit_growth(unsigned long growth)
{
    unsigned long pages = 0;
    struct rlimit limit;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm == NULL || fscanf(statm, "%lu", &pages) != 1 || getrlimit(RLIMIT_AS, &limit) != 0) {
        return -1;
    }
    fclose(statm);
    limit.rlim_cur =
        growth == 0 ? limit.rlim_max : (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + growth;
    return setrlimit(RLIMIT_AS, &limit);
}

static int predict_without_memory(void)
{
    ser_predictor *patient;
    ser_predictor_options options;
    ser_predictor_options_init(&options, sizeof options);
    options.max_seconds = 3600.0;
    ser_audio *long_clip = api_clip(600 * 16000, 1);
    /* a fork refuses the old model, so the child has its own */
    ser_device *d;
    ser_model *m;
    if (ser_device_open(NULL, &d) != 0 || ser_model_load(d, api_model(), NULL, &m) != 0 ||
        ser_predictor_create(m, &options, &patient) != 0) {
        return 4;
    }
    if (limit_growth(256UL << 10) != 0) {
        return 3;
    }
    if (ser_predict(patient, long_clip, p, LABELS) != SER_ERR_MEMORY) {
        return 5;
    }
    if (strstr(ser_error_message(), "out of memory") == NULL) {
        return 6;
    }
    if (limit_growth(0) != 0) {
        return 2;
    }
    return ser_predict(patient, clip, p, LABELS) == 0 ? 0 : 7; /* and it still works */
}

static void in_child(int (*body)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        alarm(60);
        _exit(body());
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %#x",
                  (unsigned)status);
}

START_TEST(busy)
{
    in_child(predict_after_fork);
}
END_TEST

START_TEST(memory)
{
    if (!SANITIZED) { /* their shadow memory needs the address space */
        in_child(predict_without_memory);
    }
}
END_TEST

START_TEST(success_does_not_clear_the_message)
{
    assert_fails(ser_predict(predictor, clip, p, 0), SER_ERR_CAPACITY, "capacity is 0");
    assert_ok(ser_predict(predictor, clip, p, LABELS));
    ck_assert_ptr_nonnull(strstr(ser_error_message(), "capacity is 0"));
}
END_TEST

START_TEST(every_status_has_a_name)
{
    static const struct {
        int status;
        const char *name;
    } all[] = {
        {0, "SER_OK"},
        {-1, "SER_ERR_ARGUMENT"},
        {-2, "SER_ERR_MEMORY"},
        {-10, "SER_ERR_IO"},
        {-11, "SER_ERR_FORMAT"},
        {-12, "SER_ERR_VERSION"},
        {-13, "SER_ERR_DATA"},
        {-14, "SER_ERR_MISMATCH"},
        {-20, "SER_ERR_UNSUPPORTED"},
        {-21, "SER_ERR_CAPACITY"},
        {-22, "SER_ERR_BUSY"},
        {-30, "SER_ERR_DEVICE"},
        {-40, "SER_ERR_NUMERIC"},
        {-50, "SER_ERR_CANCELLED"},
        {-90, "SER_ERR_INTERNAL"},
    };
    for (int status = -200; status <= 200; status++) {
        const char *wanted = "unknown status";
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
            wanted = all[i].status == status ? all[i].name : wanted;
        }
        ck_assert_str_eq(ser_status_name(status), wanted);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("errors");
    TCase *tc = tcase_create("errors");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, argument);
    tcase_add_test(tc, io);
    tcase_add_test(tc, format);
    tcase_add_test(tc, version);
    tcase_add_test(tc, data);
    tcase_add_test(tc, mismatch);
    tcase_add_test(tc, unsupported);
    tcase_add_test(tc, capacity);
    tcase_add_test(tc, no_device);
    tcase_add_test(tc, numeric);
    tcase_add_test(tc, busy);
    tcase_add_test(tc, memory);
    tcase_add_test(tc, success_does_not_clear_the_message);
    tcase_add_test(tc, every_status_has_a_name);
    suite_add_tcase(suite, tc);
    return api_run(suite);
}
