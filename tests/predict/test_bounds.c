/* SPDX-License-Identifier: MIT */
/* A model that asks for more frames than any real one: its clips are cut shorter. */
#include "builder.h"
#include "fixture.h"

/* One block over a waveform without hop: a frame per sample. */
static void load_slow_model(void)
{
    json_t *config = own_config(false);
    json_t *audio = json_object_get(config, "audio");
    json_t *features = json_object_get(config, "features");
    json_t *encoder = json_object_get(config, "encoder");
    json_object_set_new(audio, "max_seconds", json_real(3600.0));
    json_object_set_new(audio, "window", json_real(3600.0));
    json_object_set_new(audio, "trim", json_null());
    json_object_set_new(features, "conv_stride", json_pack("[i, i]", 1, 1));
    json_object_set_new(features, "norm", json_string("layer"));
    json_object_set_new(encoder, "hidden_size", json_integer(4));
    json_object_set_new(encoder, "num_hidden_layers", json_integer(1));
    json_object_set_new(encoder, "num_attention_heads", json_integer(1));
    json_object_set_new(encoder, "intermediate_size", json_integer(4));
    blob b = own_model(config);
    ser_model_free(&model);
    assert_ok(ser_model_load_memory(device, b.data, b.size, NULL, &model));
    blob_free(&b);
    json_decref(config);
}

/* 3600 s are halved until at most 16384 frames are left: 57600000 / 2^12 samples. */
START_TEST(a_piece_has_at_most_16384_frames)
{
    float probabilities[3];
    load_slow_model();
    ser_audio *clip = noise(14063, 3);
    create(NULL);
    assert_ok(ser_predict(predictor, clip, probabilities, 3));
    ser_prediction d = details(0);
    ck_assert((d.flags & SER_PREDICTION_WINDOWED) != 0);
    ck_assert_float_eq_tol(probabilities[0] + probabilities[1] + probabilities[2], 1.0F, 1e-5F);
    ser_audio_free(&clip);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bounds");
    TCase *tc = tcase_create("bounds");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, a_piece_has_at_most_16384_frames);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
