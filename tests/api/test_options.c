/* SPDX-License-Identifier: MIT */
/* Programs and libraries of different ages: option structs that are shorter, equal or longer than
 * ours. */
#include "api.h"

#include <stddef.h>

static ser_device *device;
static ser_model *model;
static ser_audio *clip;

static int use_device(const void *options)
{
    ser_device *opened;
    int status = ser_device_open(options, &opened);
    ser_device_free(&opened);
    return status;
}

static int use_audio(const void *options)
{
    static const float silence[800];
    ser_audio *audio;
    int status = ser_audio_from_samples(silence, 800, 1, 16000, options, &audio);
    ser_audio_free(&audio);
    return status;
}

static int use_model(const void *options)
{
    ser_model *loaded;
    int status = ser_model_load(device, api_model(), options, &loaded);
    ser_model_free(&loaded);
    return status;
}

static int use_predictor(const void *options)
{
    ser_predictor *predictor;
    int status = ser_predictor_create(model, options, &predictor);
    ser_predictor_free(&predictor);
    return status;
}

static int use_stream(const void *options)
{
    ser_stream *stream;
    int status = ser_stream_create(model, options, &stream);
    ser_stream_free(&stream);
    return status;
}

static int use_trainer(const void *options)
{
    ser_model *own; /* a trainer wants it for itself */
    ser_trainer *trainer;
    assert_ok(ser_model_load(device, api_model(), NULL, &own));
    int status = ser_trainer_create(own, options, &trainer);
    ser_trainer_free(&trainer);
    ser_model_free(&own);
    return status;
}

static void init_device(void *options, size_t size)
{
    ser_device_options_init(options, size);
}

static void init_audio(void *options, size_t size)
{
    ser_audio_options_init(options, size);
}

static void init_model(void *options, size_t size)
{
    ser_model_options_init(options, size);
}

static void init_predictor(void *options, size_t size)
{
    ser_predictor_options_init(options, size);
}

static void init_stream(void *options, size_t size)
{
    ser_stream_options_init(options, size);
}

static void init_trainer(void *options, size_t size)
{
    ser_trainer_options_init(options, size);
}

static const struct {
    const char *name;
    size_t size;
    void (*init)(void *options, size_t size);
    int (*use)(const void *options);
} kinds[] = {
    {"ser_device_options", sizeof(ser_device_options), init_device, use_device},
    {"ser_audio_options", sizeof(ser_audio_options), init_audio, use_audio},
    {"ser_model_options", sizeof(ser_model_options), init_model, use_model},
    {"ser_predictor_options", sizeof(ser_predictor_options), init_predictor, use_predictor},
    {"ser_stream_options", sizeof(ser_stream_options), init_stream, use_stream},
    {"ser_trainer_options", sizeof(ser_trainer_options), init_trainer, use_trainer},
};

enum { KINDS = sizeof kinds / sizeof kinds[0], ROOM = 512, TAIL = 64, LARGEST = 4096 };

/* Option memory of any length, aligned for its members. */
typedef union room {
    unsigned char bytes[ROOM];
    size_t size;
    double number;
    void *pointer;
} room;

static void setup(void)
{
    device = api_device(1);
    clip = api_clip(2000, 1);
    assert_ok(ser_model_load(device, api_model(), NULL, &model));
}

static void teardown(void)
{
    ser_audio_free(&clip);
    ser_model_free(&model);
    ser_device_free(&device);
}

START_TEST(init_fills_all_it_is_given_and_nothing_more)
{
    room r;
    for (size_t size = 0; size <= kinds[_i].size + TAIL; size++) {
        memset(&r, 0xAB, sizeof r);
        kinds[_i].init(&r, size);
        if (size >= sizeof(size_t)) {
            ck_assert_uint_eq(r.size, size);
        }
        for (size_t i = size; i < ROOM; i++) {
            ck_assert_int_eq(r.bytes[i], 0xAB);
        }
        for (size_t i = kinds[_i].size; i < size; i++) {
            ck_assert_int_eq(r.bytes[i], 0);
        }
    }
    kinds[_i].init(NULL, kinds[_i].size);
}
END_TEST

START_TEST(null_and_fresh_options_are_the_defaults)
{
    room r;
    kinds[_i].init(&r, kinds[_i].size);
    assert_ok(kinds[_i].use(&r));
    assert_ok(kinds[_i].use(NULL));
}
END_TEST

START_TEST(an_older_program_has_shorter_options)
{
    room r;
    for (size_t size = sizeof(size_t); size < kinds[_i].size; size += 4) {
        memset(&r, 0xAB, sizeof r); /* what lies behind is not the library's business */
        kinds[_i].init(&r, size);
        assert_ok(kinds[_i].use(&r));
    }
}
END_TEST

START_TEST(a_newer_program_may_leave_new_options_alone)
{
    room r;
    kinds[_i].init(&r, kinds[_i].size + TAIL);
    assert_ok(kinds[_i].use(&r));
    r.bytes[kinds[_i].size + 13] = 1;
    assert_fails(kinds[_i].use(&r), SER_ERR_UNSUPPORTED, kinds[_i].name);
    ck_assert_ptr_nonnull(strstr(ser_error_message(), "newer"));
}
END_TEST

START_TEST(forgotten_init_is_noticed)
{
    room r;
    memset(&r, 0, sizeof r);
    assert_fails(kinds[_i].use(&r), SER_ERR_ARGUMENT, kinds[_i].name);
    r.size = sizeof(size_t) - 1;
    assert_fails(kinds[_i].use(&r), SER_ERR_ARGUMENT, "struct_size");
    r.size = LARGEST + 1; /* of rubbish: nothing behind it may be looked at */
    assert_fails(kinds[_i].use(&r), SER_ERR_ARGUMENT, "struct_size is 4097");
    memset(&r, 0xAB, sizeof r);
    assert_fails(kinds[_i].use(&r), SER_ERR_ARGUMENT, "struct_size");
}
END_TEST

START_TEST(the_largest_options_are_accepted)
{
    unsigned char *largest = calloc(LARGEST, 1);
    ck_assert_ptr_nonnull(largest);
    kinds[_i].init(largest, LARGEST);
    assert_ok(kinds[_i].use(largest));
    free(largest);
}
END_TEST

START_TEST(defaults_are_the_documented_ones)
{
    ser_device_options d;
    ser_audio_options a;
    ser_model_options m;
    ser_predictor_options p;
    ser_stream_options s;
    ser_device_options_init(&d, sizeof d);
    ck_assert_int_eq(d.kind, SER_DEVICE_AUTO);
    ck_assert_int_eq(d.index, 0);
    ck_assert_int_eq(d.threads, 0);
    ser_audio_options_init(&a, sizeof a);
    ck_assert_double_eq(a.offset, 0.0);
    ck_assert_double_eq(a.length, 0.0);
    ck_assert_double_eq(a.max_seconds, 3600.0);
    ck_assert_int_eq(a.channel, -1);
    ck_assert_int_eq(a.nonfinite, SER_NONFINITE_REFUSE);
    ck_assert_int_eq(a.strict, 0);
    ck_assert_int_eq(a.any_format, 0);
    ser_model_options_init(&m, sizeof m);
    ck_assert_int_eq(m.precision, SER_PRECISION_AUTO);
    ck_assert_int_eq(m.strict, 0);
    ck_assert_uint_eq(m.seed, 0);
    ck_assert_uint_eq(m.max_header_size, 16U << 20);
    ck_assert_int_eq(m.layer_mix, 0);
    ser_predictor_options_init(&p, sizeof p);
    ck_assert_int_eq(p.max_batch, 0);
    ck_assert_int_eq(p.padding, SER_PADDING_MODEL);
    ck_assert_int_eq(p.threads, 0);
    ck_assert_double_eq(p.max_seconds, 0.0);
    ck_assert_double_eq(p.window, 0.0);
    ser_stream_options_init(&s, sizeof s);
    ck_assert_int_eq(s.sampling_rate, 16000);
    ck_assert_int_eq(s.channels, 1);
    ck_assert_int_eq(s.channel, -1);
    ck_assert_int_eq(s.nonfinite, SER_NONFINITE_REFUSE);
    ck_assert_double_eq(s.window, 0.0);
    ck_assert_double_eq(s.hop, 0.0);
    ck_assert_double_eq(s.smoothing, 0.0);
    ck_assert_double_eq(s.gate, 0.0);
    ck_assert_int_eq(s.threads, 0);
}
END_TEST

/* Result structs grow in the same way. */
START_TEST(results_of_any_length)
{
    room r;
    ser_predictor *predictor;
    float p[16];
    assert_ok(ser_predictor_create(model, NULL, &predictor));
    assert_ok(ser_predict(predictor, clip, p, 16));
    for (size_t size = sizeof(size_t); size <= sizeof(ser_prediction) + TAIL; size += 4) {
        memset(&r, 0xAB, sizeof r);
        r.size = size;
        assert_ok(ser_predictor_get_prediction(predictor, 0, (ser_prediction *)(void *)&r));
        ck_assert_uint_eq(r.size, size);
        ck_assert_int_eq(r.bytes[size], 0xAB);
        if (size > sizeof(ser_prediction)) {
            ck_assert_int_eq(r.bytes[size - 1], 0);
        }
    }
    const size_t wrong[] = {0, sizeof(size_t) - 1, LARGEST + 1, SIZE_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        r.size = wrong[i];
        assert_fails(ser_predictor_get_prediction(predictor, 0, (ser_prediction *)(void *)&r),
                     SER_ERR_ARGUMENT, "struct_size");
        assert_fails(ser_audio_get_info(clip, (ser_audio_info *)(void *)&r), SER_ERR_ARGUMENT,
                     "struct_size");
    }
    for (size_t size = sizeof(size_t); size <= sizeof(ser_audio_info) + TAIL; size += 4) {
        memset(&r, 0xAB, sizeof r);
        r.size = size;
        assert_ok(ser_audio_get_info(clip, (ser_audio_info *)(void *)&r));
        ck_assert_uint_eq(r.size, size);
        ck_assert_int_eq(r.bytes[size], 0xAB);
    }
    ser_predictor_free(&predictor);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("options");
    TCase *tc = tcase_create("options");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, init_fills_all_it_is_given_and_nothing_more, 0, KINDS);
    tcase_add_loop_test(tc, null_and_fresh_options_are_the_defaults, 0, KINDS);
    tcase_add_loop_test(tc, an_older_program_has_shorter_options, 0, KINDS);
    tcase_add_loop_test(tc, a_newer_program_may_leave_new_options_alone, 0, KINDS);
    tcase_add_loop_test(tc, forgotten_init_is_noticed, 0, KINDS);
    tcase_add_loop_test(tc, the_largest_options_are_accepted, 0, KINDS);
    tcase_add_test(tc, defaults_are_the_documented_ones);
    tcase_add_test(tc, results_of_any_length);
    suite_add_tcase(suite, tc);
    return api_run(suite);
}
