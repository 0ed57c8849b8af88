/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include <math.h>

#include "model/model.h"
#include "model/safetensors.h"

/* --- Against PyTorch, end to end --- */

typedef struct golden_case {
    const char *file, *model, *input;
    bool batch;
    bool hf; /* not what the import chooses */
} golden_case;

static const golden_case cases[] = {
    {"logmel.safetensors", "logmel.model.safetensors", "raw", false, false},
    {"logmel_post.safetensors", "logmel_post.model.safetensors", "raw", false, false},
    {"attention_pool.safetensors", "attention_pool.model.safetensors", "input", true, false},
    {"attention_pool_hf.safetensors", "attention_pool_hf.model.safetensors", "input", true, false},
    {"base.safetensors", "base", "input", false, false},
    {"base_padded.safetensors", "base", "input", true, true},
    {"large_padded.safetensors", "large", "input", true, false},
    {"old_names.safetensors", "old_names", "input", false, false},
};

enum { CASES = sizeof cases / sizeof cases[0], MAX_CLIPS = 8 };

static ser_safetensors golden;

static float *read_golden(const char *stem, int clip, const char *tail, size_t *count)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%d%s", stem, clip, tail);
    const ser_tensor_entry *entry = ser_safetensors_find(&golden, name);
    if (entry == NULL) {
        return NULL;
    }
    float *values = malloc((size_t)entry->elements * sizeof *values);
    assert_ok(ser_safetensors_read(&golden, entry, values));
    *count = (size_t)entry->elements;
    return values;
}

static void compare(int clip, const float *probabilities, const ser_prediction *p)
{
    size_t count;
    float *wanted = read_golden("stage", clip, ".probabilities", &count);
    ck_assert_uint_eq(count, ser_model_label_count(model));
    ck_assert_double_lt(harness_relative_error(probabilities, wanted, count), 1e-4);
    free(wanted);
    wanted = read_golden("stage", clip, ".logits", &count);
    ck_assert_uint_eq(count, p->logits_count);
    ck_assert_double_lt(harness_relative_error(p->logits, wanted, count), 1e-4);
    free(wanted);
    wanted = read_golden("stage", clip, ".pooled", &count);
    ck_assert_uint_eq(count, p->embedding_count);
    ck_assert_double_lt(harness_relative_error(p->embedding, wanted, count), 1e-4);
    free(wanted);
}

START_TEST(predictions_match_pytorch)
{
    const golden_case *c = &cases[_i];
    ser_file file;
    int directory;
    size_t count;
    ser_audio *audios[MAX_CLIPS] = {NULL};
    float p[MAX_CLIPS * MAX_LABELS];
    load(c->model);
    model->config.pad_as_hf = model->config.pad_as_hf || c->hf;
    ser_predictor_options options = options_of(8, 60.0, 0.0);
    create(&options);
    assert_ok(ser_file_open(golden_path(c->file), &file, &directory));
    assert_ok(ser_safetensors_open(&file, SER_DEFAULT_HEADER, &golden));
    size_t labels = ser_model_label_count(model);
    size_t clips = 0;
    float *samples;
    while ((samples = read_golden(c->input, (int)clips, "", &count)) != NULL) {
        audios[clips++] = clip_of(samples, count);
        free(samples);
    }
    ck_assert_uint_ge(clips, 2);
    if (c->batch) {
        assert_ok(ser_predict_batch(predictor, (const ser_audio *const *)audios, clips, p,
                                    clips * labels));
    }
    for (size_t i = 0; i < clips; i++) {
        if (!c->batch) {
            assert_ok(ser_predict(predictor, audios[i], p + i * labels, labels));
        }
        ser_prediction details_of = details(c->batch ? i : 0);
        compare((int)i, p + i * labels, &details_of);
    }
    for (size_t i = 0; i < clips; i++) {
        ser_audio_free(&audios[i]);
    }
    ser_safetensors_close(&golden);
}
END_TEST

/* --- Batches --- */

static const char *const exact_models[] = {"attention_pool.model.safetensors",
                                           "logmel.model.safetensors", "large"};

START_TEST(rows_of_a_batch_are_the_clips_alone_bit_for_bit)
{
    ser_audio *clips[CLIPS];
    float alone[CLIPS * MAX_LABELS];
    float together[CLIPS * MAX_LABELS];
    float alpha[CLIPS][1024];
    make_clips(clips);
    load(exact_models[_i]);
    size_t k = ser_model_label_count(model);
    create(NULL);
    for (size_t i = 0; i < CLIPS; i++) {
        assert_ok(ser_predict(predictor, clips[i], alone + i * k, k));
        ser_prediction p = details(0);
        memcpy(alpha[i], p.attention, p.attention_count * sizeof(float));
    }
    for (int32_t max_batch = 1; max_batch <= 8; max_batch += max_batch == 1 ? 1 : 6) {
        ser_predictor_options options = options_of(max_batch, 0.0, 0.0);
        create(&options);
        assert_ok(ser_predict_batch(predictor, (const ser_audio *const *)clips, CLIPS, together,
                                    CLIPS * k));
        ck_assert_mem_eq(together, alone, CLIPS * k * sizeof(float));
        for (size_t i = 0; i < CLIPS; i++) {
            ser_prediction p = details(i);
            ck_assert_mem_eq(p.attention, alpha[i], p.attention_count * sizeof(float));
        }
    }
    free_clips(clips);
}
END_TEST

START_TEST(hf_padding_does_not_depend_on_max_batch)
{
    ser_audio *clips[CLIPS];
    float wanted[CLIPS * MAX_LABELS];
    float got[CLIPS * MAX_LABELS];
    make_clips(clips);
    load("attention_pool_hf.model.safetensors");
    size_t k = ser_model_label_count(model);
    create(NULL);
    assert_ok(
        ser_predict_batch(predictor, (const ser_audio *const *)clips, CLIPS, wanted, CLIPS * k));
    size_t frames = details(0).attention_count;
    ck_assert_uint_eq(details(1).attention_count, frames); /* padding is speech here */
    ser_predictor_options options = options_of(1, 0.0, 0.0);
    create(&options);
    assert_ok(ser_predict_batch(predictor, (const ser_audio *const *)clips, CLIPS, got, CLIPS * k));
    ck_assert_mem_eq(got, wanted, CLIPS * k * sizeof(float));
    assert_ok(ser_predict(predictor, clips[1], got, k));
    ck_assert_msg(memcmp(got, wanted + k, k * sizeof(float)) != 0, "padding had no effect");
    free_clips(clips);
}
END_TEST

START_TEST(padding_can_be_chosen)
{
    ser_audio *clips[CLIPS];
    float alone[CLIPS * MAX_LABELS];
    float hf[CLIPS * MAX_LABELS];
    float got[CLIPS * MAX_LABELS];
    const ser_audio *const *batch = (const ser_audio *const *)clips;
    ser_predictor_options options = options_of(0, 0.0, 0.0);
    make_clips(clips);
    load("attention_pool_hf.model.safetensors"); /* asks for that of transformers */
    size_t k = ser_model_label_count(model);
    create(&options);
    assert_ok(ser_predict_batch(predictor, batch, CLIPS, hf, CLIPS * k));
    for (size_t i = 0; i < CLIPS; i++) {
        assert_ok(ser_predict(predictor, clips[i], alone + i * k, k));
    }
    ck_assert(memcmp(hf, alone, CLIPS * k * sizeof(float)) != 0);
    options.padding = SER_PADDING_EXACT;
    create(&options);
    assert_ok(ser_predict_batch(predictor, batch, CLIPS, got, CLIPS * k));
    ck_assert_mem_eq(got, alone, CLIPS * k * sizeof(float));
    options.padding = SER_PADDING_HF;
    create(&options);
    assert_ok(ser_predict_batch(predictor, batch, CLIPS, got, CLIPS * k));
    ck_assert_mem_eq(got, hf, CLIPS * k * sizeof(float));
    load("attention_pool.model.safetensors"); /* asks for none */
    k = ser_model_label_count(model);
    create(&options);
    assert_ok(ser_predict_batch(predictor, batch, CLIPS, got, CLIPS * k));
    ck_assert_uint_eq(details(1).attention_count, details(0).attention_count);
    free_clips(clips);
}
END_TEST

START_TEST(threads_do_not_change_the_answer)
{
    ser_audio *clip = noise(30000, 5);
    float one[MAX_LABELS];
    float two[MAX_LABELS];
    size_t k = ser_model_label_count(model);
    ser_predictor_options options = options_of(1, 0.0, 0.0);
    options.threads = 1;
    create(&options);
    assert_ok(ser_predict(predictor, clip, one, k));
    options.threads = 2;
    create(&options);
    assert_ok(ser_predict(predictor, clip, two, k));
    ck_assert_mem_eq(one, two, k * sizeof(float));
    ser_audio_free(&clip);
}
END_TEST

START_TEST(an_empty_batch_is_no_error)
{
    float p = 7.0F;
    create(NULL);
    assert_ok(ser_predict_batch(predictor, NULL, 0, NULL, 0));
    assert_ok(ser_predict_batch(predictor, NULL, 0, &p, 1));
    ck_assert_float_eq(p, 7.0F);
    ser_prediction none = {.struct_size = sizeof none};
    assert_fails(ser_predictor_get_prediction(predictor, 0, &none), SER_ERR_ARGUMENT,
                 "had 0 clips");
}
END_TEST

/* --- Details --- */

START_TEST(details_describe_every_clip)
{
    ser_audio *clips[CLIPS];
    float probabilities[CLIPS * MAX_LABELS];
    make_clips(clips);
    size_t k = ser_model_label_count(model);
    create(NULL);
    assert_ok(ser_predict_batch(predictor, (const ser_audio *const *)clips, CLIPS, probabilities,
                                CLIPS * k));
    for (size_t i = 0; i < CLIPS; i++) {
        ser_prediction p = details(i);
        float sum = 0.0F;
        float largest = 0.0F;
        ck_assert_uint_eq(p.struct_size, sizeof p);
        ck_assert_double_eq(p.start, 0.0);
        ck_assert_double_eq(p.end, (double)lengths[i] / 16000.0);
        ck_assert_double_eq(p.frame_start, 0.0125); /* 400 samples wide, 320 apart */
        ck_assert_double_eq(p.frame_step, 0.02);
        ck_assert_int_eq((p.flags & SER_AUDIO_SHORT) != 0, lengths[i] < 400);
        ck_assert_uint_eq(p.attention_count, lengths[i] < 400 ? 1 : 1 + (lengths[i] - 400) / 320);
        for (size_t t = 0; t < p.attention_count; t++) {
            sum += p.attention[t];
        }
        ck_assert_float_eq_tol(sum, 1.0F, 1e-5F);
        ck_assert_uint_eq(p.logits_count, k);
        sum = 0.0F;
        for (size_t j = 0; j < k; j++) {
            largest = fmaxf(largest, expf(p.logits[j]));
            sum += expf(p.logits[j]);
        }
        ck_assert_float_eq_tol(probabilities[i * k], expf(p.logits[0]) / sum, 1e-6F);
        ck_assert_uint_gt(p.embedding_count, 0);
        ck_assert(isfinite(p.embedding[0]));
    }
    ser_prediction p = {.struct_size = sizeof p};
    assert_fails(ser_predictor_get_prediction(predictor, CLIPS, &p), SER_ERR_ARGUMENT,
                 "had 7 clips");
    p.struct_size = 3;
    assert_fails(ser_predictor_get_prediction(predictor, 0, &p), SER_ERR_ARGUMENT, "struct_size");
    assert_fails(ser_predictor_get_prediction(predictor, 0, NULL), SER_ERR_ARGUMENT, "NULL");
    free_clips(clips);
}
END_TEST

START_TEST(trimmed_silence_moves_the_frames)
{
    float samples[40000] = {0.0F};
    harness_fill(samples + 16000, 12000, 3, 0.3F);
    load("logmel.model.safetensors"); /* 35 dB, margin 0.1 s */
    create(NULL);
    ser_audio *clip = clip_of(samples, 40000);
    float probabilities[MAX_LABELS];
    assert_ok(ser_predict(predictor, clip, probabilities, MAX_LABELS));
    ser_prediction p = details(0);
    ck_assert_double_eq_tol(p.start, 0.9, 0.0251);
    ck_assert_double_eq_tol(p.end, 1.85, 0.0251);
    ck_assert_double_gt(p.frame_start,
                        p.start - 0.05); /* padding moves frame 0 ahead of the audio */
    ck_assert_double_lt(p.frame_start, p.start + 0.05);
    double last = p.frame_start + p.frame_step * (double)(p.attention_count - 1);
    ck_assert_double_lt(last, p.end);
    ck_assert_double_gt(last, p.end - 2.0 * p.frame_step - 0.025);
    ser_audio_free(&clip);
}
END_TEST

START_TEST(a_short_clip_is_padded_with_zeros)
{
    float samples[400] = {0.0F};
    float wanted[MAX_LABELS];
    float got[MAX_LABELS];
    harness_fill(samples, 399, 4, 0.3F);
    load("logmel_post.model.safetensors"); /* neither trims nor normalises */
    size_t k = ser_model_label_count(model);
    create(NULL);
    ser_audio *full = clip_of(samples, 400);
    assert_ok(ser_predict(predictor, full, wanted, k));
    ck_assert_int_eq(details(0).flags & SER_AUDIO_SHORT, 0);
    for (size_t count = 399; count >= 1; count = count == 399 ? 1 : 0) {
        ser_audio *cut = clip_of(samples, count);
        memset(samples + count, 0, (400 - count) * sizeof *samples);
        ser_audio *padded = clip_of(samples, 400);
        assert_ok(ser_predict(predictor, padded, wanted, k));
        assert_ok(ser_predict(predictor, cut, got, k));
        ck_assert_mem_eq(got, wanted, k * sizeof(float));
        ck_assert_int_ne(details(0).flags & SER_AUDIO_SHORT, 0);
        ser_audio_free(&cut);
        ser_audio_free(&padded);
    }
    ser_audio_free(&full);
}
END_TEST

/* --- Windows --- */

START_TEST(a_long_clip_is_the_weighted_mean_of_its_windows)
{
    enum { WINDOW = 16000, COUNT = 3 * WINDOW + 5000 };
    float *samples = malloc(COUNT * sizeof *samples);
    float whole[MAX_LABELS];
    float part[MAX_LABELS];
    double wanted[MAX_LABELS] = {0.0};
    harness_fill(samples, COUNT, 6, 0.3F);
    size_t k = ser_model_label_count(model);
    ser_predictor_options options = options_of(2, 2.0, 1.0);
    create(&options);
    for (size_t start = 0; start < COUNT; start += WINDOW) {
        size_t size = COUNT - start < WINDOW ? COUNT - start : WINDOW;
        ser_audio *clip = clip_of(samples + start, size);
        assert_ok(ser_predict(predictor, clip, part, k));
        ck_assert_int_eq(details(0).flags & SER_PREDICTION_WINDOWED, 0);
        for (size_t j = 0; j < k; j++) {
            wanted[j] += (double)part[j] * (double)size / COUNT;
        }
        ser_audio_free(&clip);
    }
    ser_audio *clip = clip_of(samples, COUNT);
    assert_ok(ser_predict(predictor, clip, whole, k));
    for (size_t j = 0; j < k; j++) {
        ck_assert_double_eq_tol((double)whole[j], wanted[j], 1e-7);
    }
    ser_prediction p = details(0);
    ck_assert_int_ne(p.flags & SER_PREDICTION_WINDOWED, 0);
    ck_assert_ptr_null(p.attention);
    ck_assert_ptr_null(p.logits);
    ck_assert_ptr_null(p.embedding);
    ck_assert_uint_eq(p.attention_count + p.logits_count + p.embedding_count, 0);
    ck_assert_double_eq(p.start, 0.0);
    ck_assert_double_eq(p.end, (double)COUNT / 16000.0);

    /* in company, and one at a time: the same bits */
    float again[3 * MAX_LABELS];
    ser_audio *other = noise(20000, 9);
    const ser_audio *both[] = {other, clip, other};
    assert_ok(ser_predict_batch(predictor, both, 3, again, 3 * k));
    ck_assert_mem_eq(again + k, whole, k * sizeof(float));
    ser_audio_free(&other);
    ser_audio_free(&clip);
    free(samples);
}
END_TEST

START_TEST(the_model_decides_where_the_options_do_not)
{
    create(NULL);
    size_t limit = (size_t)(ser_model_max_seconds(model) * 16000.0);
    float p[MAX_LABELS];
    ser_audio *fits = noise(limit, 1);
    ser_audio *longer = noise(limit + 1, 1);
    assert_ok(ser_predict(predictor, fits, p, MAX_LABELS));
    ck_assert_int_eq(details(0).flags & SER_PREDICTION_WINDOWED, 0);
    assert_ok(ser_predict(predictor, longer, p, MAX_LABELS));
    ck_assert_int_ne(details(0).flags & SER_PREDICTION_WINDOWED, 0);
    /* a limit below the model's window: windows of that length */
    ser_predictor_options options = options_of(1, 0.5, 0.0);
    create(&options);
    assert_ok(ser_predict(predictor, fits, p, MAX_LABELS));
    ck_assert_int_ne(details(0).flags & SER_PREDICTION_WINDOWED, 0);
    ser_audio_free(&fits);
    ser_audio_free(&longer);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("predictor");
    TCase *tc = tcase_create("answers");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, predictions_match_pytorch, 0, CASES);
    tcase_add_loop_test(tc, rows_of_a_batch_are_the_clips_alone_bit_for_bit, 0, 3);
    tcase_add_test(tc, hf_padding_does_not_depend_on_max_batch);
    tcase_add_test(tc, padding_can_be_chosen);
    tcase_add_test(tc, threads_do_not_change_the_answer);
    tcase_add_test(tc, an_empty_batch_is_no_error);
    tcase_add_test(tc, details_describe_every_clip);
    tcase_add_test(tc, trimmed_silence_moves_the_frames);
    tcase_add_test(tc, a_short_clip_is_padded_with_zeros);
    tcase_add_test(tc, a_long_clip_is_the_weighted_mean_of_its_windows);
    tcase_add_test(tc, the_model_decides_where_the_options_do_not);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
