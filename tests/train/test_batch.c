/* SPDX-License-Identifier: MIT */
/* Batches: the front end as at prediction, targets by hand, augmentation whatever the threads. */
#include <math.h>
#include <pthread.h>

#include "audio/audio.h"
#include "harness.h"
#include "predict/pieces.h"
#include "train/batch.h"

enum { LABELS = 4, CLIPS = 6, BINS = 20, THREADS = 4 };

static ser_config config;
static ser_batch_source source;
static ser_audio *audios[CLIPS];
static ser_clip clips[CLIPS];
static float mel_std[BINS];
static char owner;

/* Speech-like: faint noise, a burst, faint noise. */
static ser_audio *make_audio(size_t count, size_t begin, size_t end, uint64_t seed)
{
    float *samples = malloc(count * sizeof *samples);
    harness_fill(samples, count, seed, 1e-4F);
    uint64_t state = seed + 100;
    for (size_t i = begin; i < end; i++) {
        samples[i] += 0.5F * harness_random(&state);
    }
    ser_audio *audio;
    assert_ok(ser_audio_from_samples(samples, count, 1, 16000, NULL, &audio));
    free(samples);
    return audio;
}

static void setup(void)
{
    config = (ser_config){
        .arch = {.sampling_rate = 16000,
                 .features = SER_FEATURES_LOGMEL,
                 .mel = {.frame = 400, .hop = 160, .fft = 512, .bins = BINS},
                 .conv_count = 1,
                 .conv_dim = {8},
                 .conv_kernel = {3},
                 .conv_stride = {2},
                 .conv_padding = {1}},
        .front_end = {.normalize = true,
                      .trim = true,
                      .trim_threshold_db = 35.0,
                      .trim_margin = 0.1,
                      .window = 2.0,
                      .max_seconds = 6.0},
        .label_count = LABELS,
    };
    for (int f = 0; f < BINS; f++) {
        mel_std[f] = 1.0F + (float)f;
    }
    source = (ser_batch_source){.owner = &owner, .config = &config, .mel_std = mel_std};
    const size_t spans[CLIPS][3] = {{30000, 9777, 21111}, {16000, 0, 16000},
                                    {400, 0, 400},        {24001, 20001, 24001},
                                    {9000, 4000, 4100},   {50000, 40000, 49000}};
    for (size_t i = 0; i < CLIPS; i++) {
        audios[i] = make_audio(spans[i][0], spans[i][1], spans[i][2], i + 1);
        clips[i] = (ser_clip){.struct_size = sizeof clips[i],
                              .audio = audios[i],
                              .id = 1000 + i,
                              .label = (int32_t)(i % LABELS)};
    }
}

static void teardown(void)
{
    for (size_t i = 0; i < CLIPS; i++) {
        ser_audio_free(&audios[i]);
    }
    ck_assert_int_eq(ser_mem_live(), 0);
}

static ser_batch *make(size_t count, int64_t epoch, bool augment)
{
    ser_batch *batch = NULL;
    assert_ok(ser_batch_make(&source, clips, count, epoch, augment, &batch));
    ck_assert(batch->owner == &owner && batch->count == (int64_t)count);
    ck_assert(batch->augmented == augment);
    return batch;
}

static void everything(void)
{
    ser_augment_options *o = &source.options.augment;
    o->speed_probability = 0.7F;
    o->speed = 0.1F;
    o->gain_db = 6.0F;
    o->noise_probability = 0.5F;
    o->noise_snr_low = 15.0F;
    o->noise_snr_high = 50.0F;
    o->silence_probability = 0.5F;
    o->silence = 0.5F;
    o->crop_probability = 0.5F;
    o->crop = 0.2F;
    o->lowpass_probability = 0.3F;
    o->lowpass_low = 2000.0F;
    o->mel_warp = 0.05F;
    o->mel_tilt = 0.35F;
    o->mel_ripple = 0.25F;
    o->mel_channel_spans = 1;
    o->mel_channel_width = 4;
    o->mel_time_spans = 2;
    o->mel_time_width = 8;
}

/* --- The front end --- */

static void compare_with_prediction(bool augment)
{
    const ser_piece_rules rules = {.front_end = &config.front_end,
                                   .pad_as_hf = config.pad_as_hf,
                                   .max_samples = 6 * 16000,
                                   .window = 2 * 16000,
                                   .min_samples = (size_t)ser_arch_min_samples(&config.arch)};
    ser_piece *pieces;
    size_t count;
    ser_batch *batch = make(CLIPS, 3, augment);
    assert_ok(ser_pieces_cut(&rules, (const ser_audio *const *)audios, CLIPS, &pieces, &count));
    ck_assert_uint_eq(count, CLIPS);
    for (size_t i = 0; i < count; i++) {
        const ser_piece *piece = &pieces[i];
        float *expected = malloc(piece->padded * sizeof *expected);
        ser_piece_prepare(&rules, piece, expected);
        ck_assert_uint_eq((size_t)batch->lengths[piece->clip], piece->padded);
        ck_assert_mem_eq(batch->samples[piece->clip], expected, piece->padded * sizeof *expected);
        ck_assert_uint_eq(batch->ids[piece->clip], 1000 + piece->clip);
        free(expected);
    }
    /* padded as in this batch is not padded as in another */
    ck_assert(batch->same_waveform == !config.pad_as_hf);
    ck_assert(batch->mel_warp == NULL && batch->mel_offset == NULL && batch->mel_time == NULL &&
              batch->mel_channel == NULL);
    ser_mem_free(pieces);
    ser_batch_release(batch);
}

/* Also with augmentation of which everything is off, and with options while it is off. */
START_TEST(as_at_prediction)
{
    for (int i = 0; i < 16; i++) {
        config.front_end.trim = (i & 1) != 0;
        config.front_end.normalize = (i & 2) != 0;
        config.pad_as_hf = (i & 4) != 0;
        config.front_end.trim_margin = (i & 8) != 0 ? 0.0377 : 0.0;
        source.options.augment.max_seconds = 4.0F;
        compare_with_prediction(false);
        compare_with_prediction(true);
    }
    everything();
    source.options.augment.max_seconds = 0.1F;
    compare_with_prediction(false);
}
END_TEST

/* A clip that prediction cuts in windows: one of them, from the middle. */
START_TEST(middle_window_of_long_clips)
{
    config.front_end.trim = false;
    config.front_end.max_seconds = 2.5;
    config.front_end.normalize = false;
    ser_batch *batch = make(CLIPS, 0, false);
    ck_assert_int_eq(batch->lengths[0], 30000);
    ck_assert_int_eq(batch->lengths[5], 32000);
    ck_assert_mem_eq(batch->samples[5], audios[5]->samples + 9000, 32000 * sizeof(float));
    ck_assert(batch->same_waveform);
    ser_batch_release(batch);
}
END_TEST

START_TEST(random_part_of_long_clips)
{
    config.front_end.trim = false;
    config.front_end.normalize = false;
    size_t least = 50000, most = 0;
    for (int64_t epoch = 0; epoch < 20; epoch++) {
        ser_batch *batch = make(CLIPS, epoch, true);
        ck_assert_int_eq(batch->lengths[0], 30000);
        ck_assert_int_eq(batch->lengths[5], 32000); /* the window */
        ck_assert(!batch->same_waveform);
        size_t start = 0;
        while (start < 18000 &&
               memcmp(batch->samples[5], audios[5]->samples + start, 32000 * sizeof(float)) != 0) {
            start++;
        }
        ck_assert_uint_le(start, 18000);
        least = start < least ? start : least;
        most = start > most ? start : most;
        ser_batch_release(batch);
    }
    ck_assert(least < 4000 && most > 14000);
    source.options.augment.max_seconds = 0.5F;
    ser_batch *batch = make(CLIPS, 0, true);
    const int64_t lengths[CLIPS] = {8000, 8000, 400, 8000, 8000, 8000};
    ck_assert_mem_eq(batch->lengths, lengths, sizeof lengths);
    ser_batch_release(batch);
}
END_TEST

static bool all_finite(const float *x, size_t count)
{
    bool finite = true;
    for (size_t i = 0; i < count; i++) {
        finite = finite && isfinite(x[i]);
    }
    return finite;
}

/* No clip is longer than the limit, whatever was done to it, nor shorter than a frame. */
START_TEST(lengths_stay_within_limits)
{
    everything();
    source.options.augment.max_seconds = 0.75F;
    int same = 0;
    for (int64_t epoch = 0; epoch < 60; epoch++) {
        ser_batch *batch = make(CLIPS, epoch, true);
        for (size_t i = 0; i < CLIPS; i++) {
            ck_assert(batch->lengths[i] >= 400 && batch->lengths[i] <= 12000);
            ck_assert(all_finite(batch->samples[i], (size_t)batch->lengths[i]));
        }
        same += batch->same_waveform ? 1 : 0;
        ser_batch_release(batch);
    }
    ck_assert_int_eq(same, 0);
}
END_TEST

/* Noise above the trimming's threshold comes before it: the margins stay, as at prediction. */
START_TEST(noise_comes_before_trimming)
{
    ser_batch *batch = make(1, 0, true);
    int64_t trimmed = batch->lengths[0];
    ser_batch_release(batch);
    source.options.augment.noise_probability = 1.0F;
    source.options.augment.noise_snr_low = 10.0F;
    source.options.augment.noise_snr_high = 12.0F;
    batch = make(1, 0, true);
    ck_assert(trimmed < 16000);
    ck_assert_int_gt(batch->lengths[0], 29000);
    ck_assert(!batch->same_waveform);
    ser_batch_release(batch);
}
END_TEST

/* Silence comes behind it, and normalisation at the end. */
START_TEST(silence_comes_after_trimming)
{
    ser_batch *batch = make(1, 0, true);
    int64_t trimmed = batch->lengths[0];
    ser_batch_release(batch);
    source.options.augment.silence_probability = 1.0F;
    source.options.augment.silence = 0.5F;
    int64_t longest = 0;
    for (int64_t epoch = 0; epoch < 20; epoch++) {
        batch = make(1, epoch, true);
        ck_assert(!batch->same_waveform && batch->lengths[0] >= trimmed);
        longest = batch->lengths[0] > longest ? batch->lengths[0] : longest;
        double sum = 0.0;
        for (int64_t k = 0; k < batch->lengths[0]; k++) {
            sum += (double)batch->samples[0][k] * (double)batch->samples[0][k];
        }
        ck_assert_double_eq_tol(sum / (double)batch->lengths[0], 1.0, 1e-3);
        ser_batch_release(batch);
    }
    ck_assert(longest > trimmed + 8000 && longest <= trimmed + 16000);
}
END_TEST

START_TEST(gain_is_normalised_away)
{
    ser_batch *plain = make(1, 0, true);
    source.options.augment.gain_db = 20.0F;
    ser_batch *batch = make(1, 0, true);
    ck_assert(!batch->same_waveform);
    ck_assert_int_eq(batch->lengths[0], plain->lengths[0]);
    ck_assert_double_lt(
        harness_relative_error(batch->samples[0], plain->samples[0], (size_t)plain->lengths[0]),
        1e-4);
    ser_batch_release(plain);
    ser_batch_release(batch);
}
END_TEST

static void assert_same(const ser_batch *a, size_t i, const ser_batch *b, size_t k)
{
    const ser_augment_options *o = &source.options.augment;
    const size_t time = 2 * (size_t)o->mel_time_spans;
    const size_t channel = 2 * (size_t)o->mel_channel_spans;
    ck_assert_int_eq(a->lengths[i], b->lengths[k]);
    ck_assert_mem_eq(a->samples[i], b->samples[k], (size_t)a->lengths[i] * sizeof(float));
    ck_assert(a->mel_warp[i] == b->mel_warp[k]);
    ck_assert_mem_eq(a->mel_offset + i * BINS, b->mel_offset + k * BINS, BINS * sizeof(float));
    ck_assert_mem_eq(a->mel_time + i * time, b->mel_time + k * time, time * sizeof(int32_t));
    ck_assert_mem_eq(a->mel_channel + i * channel, b->mel_channel + k * channel,
                     channel * sizeof(int32_t));
    ck_assert_mem_eq(a->targets + i * LABELS, b->targets + k * LABELS, LABELS * sizeof(float));
}

static void *make_many(void *result)
{
    ser_batch **batches = result;
    for (int64_t epoch = 0; epoch < 4; epoch++) {
        if (ser_batch_make(&source, clips, CLIPS, epoch, true, &batches[epoch]) != 0) {
            return NULL;
        }
    }
    return result;
}

/* The same bits on any thread, next to others, alone, in any order; others in other epochs. */
START_TEST(same_on_all_threads_and_in_any_company)
{
    everything();
    pthread_t threads[THREADS];
    ser_batch *batches[THREADS][4];
    ser_batch *expected[4];
    ck_assert_ptr_nonnull(make_many(expected));
    for (int t = 0; t < THREADS; t++) {
        ck_assert_int_eq(pthread_create(&threads[t], NULL, make_many, batches[t]), 0);
    }
    for (int t = 0; t < THREADS; t++) {
        void *done;
        ck_assert_int_eq(pthread_join(threads[t], &done), 0);
        ck_assert_ptr_nonnull(done);
        for (int epoch = 0; epoch < 4; epoch++) {
            for (size_t i = 0; i < CLIPS; i++) {
                assert_same(batches[t][epoch], i, expected[epoch], i);
            }
            ser_batch_release(batches[t][epoch]);
        }
    }
    for (size_t i = 0; i < CLIPS / 2; i++) {
        ser_clip clip = clips[i];
        clips[i] = clips[CLIPS - 1 - i];
        clips[CLIPS - 1 - i] = clip;
    }
    ser_batch *reversed = make(CLIPS, 2, true);
    ser_batch *alone = make(1, 2, true);
    assert_same(alone, 0, expected[2], CLIPS - 1);
    for (size_t i = 0; i < CLIPS; i++) {
        assert_same(reversed, i, expected[2], CLIPS - 1 - i);
    }
    ck_assert(expected[0]->mel_warp[0] != expected[1]->mel_warp[0]);
    ck_assert(expected[0]->mel_warp[0] != expected[0]->mel_warp[1]);
    for (int epoch = 0; epoch < 4; epoch++) {
        ser_batch_release(expected[epoch]);
    }
    ser_batch_release(reversed);
    ser_batch_release(alone);
}
END_TEST

/* --- Log-mels --- */

START_TEST(mel_changes)
{
    ser_augment_options *o = &source.options.augment;
    o->mel_tilt = 0.5F;
    ser_batch *batch = make(CLIPS, 0, true);
    ck_assert(batch->mel_time == NULL && batch->mel_channel == NULL && batch->same_waveform);
    for (size_t i = 0; i < CLIPS; i++) {
        const float *offset = batch->mel_offset + i * BINS;
        double slope = (double)offset[BINS - 1] * BINS; /* the last bin's deviation is BINS */
        ck_assert(batch->mel_warp[i] == 1.0F);
        for (int f = 0; f < BINS; f++) {
            double nats = slope * (2.0 * f / (BINS - 1) - 1.0);
            ck_assert_double_eq_tol((double)offset[f], nats / (1.0 + f), 1e-5);
        }
    }
    ser_batch_release(batch);

    source.mel_std = NULL;
    o->mel_tilt = 0.0F;
    o->mel_warp = 0.05F;
    o->mel_time_spans = 3;
    o->mel_time_width = 50;
    batch = make(CLIPS, 0, true);
    for (size_t i = 0; i < CLIPS; i++) {
        int32_t frames = (int32_t)((batch->lengths[i] - 400) / 160 + 1);
        ck_assert(batch->mel_warp[i] != 1.0F && batch->mel_offset[i * BINS] == 0.0F);
        for (size_t k = 0; k < 3; k++) {
            const int32_t *span = batch->mel_time + (3 * i + k) * 2;
            ck_assert(span[0] >= 0 && span[0] <= span[1] && span[1] <= frames);
        }
    }
    ser_batch_release(batch);

    /* A model on the waveform has none of it. */
    config.arch.features = SER_FEATURES_CONV;
    batch = make(CLIPS, 0, true);
    ck_assert(batch->mel_warp == NULL && batch->mel_time == NULL && batch->same_waveform);
    ser_batch_release(batch);
}
END_TEST

/* --- Targets --- */

static void check_targets(const ser_batch *batch, size_t i, double a, double b, double c, double d)
{
    const double expected[LABELS] = {a, b, c, d};
    for (int k = 0; k < LABELS; k++) {
        ck_assert_double_eq_tol((double)batch->targets[i * LABELS + (size_t)k], expected[k], 1e-6);
    }
}

START_TEST(plain_targets)
{
    clips[1].label = -1;
    clips[3].weight = 2.5F;
    ser_batch *batch = make(4, 0, false);
    check_targets(batch, 0, 1, 0, 0, 0);
    check_targets(batch, 1, 0, 0, 0, 0);
    check_targets(batch, 2, 0, 0, 1, 0);
    check_targets(batch, 3, 0, 0, 0, 2.5);
    ck_assert(batch->weight == 4.5 && batch->mask == NULL);
    ck_assert(batch->labels[0] == 0 && batch->labels[1] == -1 && batch->labels[3] == 3);
    ser_batch_release(batch);
}
END_TEST

/* PyTorch's cross_entropy(weight=w, label_smoothing=0.1), restricted to the classes of the clip. */
START_TEST(smoothed_and_weighted_targets)
{
    static const float w[LABELS] = {1.0F, 2.0F, 0.5F, 4.0F};
    static const uint8_t some[LABELS] = {1, 0, 1, 1};
    source.options.label_smoothing = 0.1F;
    source.class_weights = w;
    clips[0].label = 3;
    clips[1].label = 2;
    clips[1].classes = some;
    clips[1].weight = 3.0F;
    ser_batch *batch = make(2, 0, false);
    check_targets(batch, 0, 0.025, 0.05, 0.0125, 0.9 * 4.0 + 0.1);
    const double e = 0.1 / 3.0;
    check_targets(batch, 1, 3.0 * e, 0.0, 3.0 * (0.9 * 0.5 + e * 0.5), 3.0 * e * 4.0);
    ck_assert_double_eq_tol(batch->weight, 4.0 + 3.0 * 0.5, 1e-9);
    const float mask[2 * LABELS] = {1, 1, 1, 1, 1, 0, 1, 1};
    ck_assert_mem_eq(batch->mask, mask, sizeof mask);
    ser_batch_release(batch);
}
END_TEST

START_TEST(soft_targets)
{
    static const float w[LABELS] = {1.0F, 2.0F, 0.5F, 4.0F};
    static const float soft[LABELS] = {0.25F, 0.75F, 0.0F, 0.0F};
    static const uint8_t some[LABELS] = {1, 1, 0, 0};
    source.options.label_smoothing = 0.2F;
    source.class_weights = w;
    clips[0].label = -1;
    clips[0].targets = soft;
    clips[1] = clips[0];
    clips[1].classes = some;
    ser_batch *batch = make(2, 0, false);
    check_targets(batch, 0, 0.8 * 0.25 + 0.05, 2.0 * (0.8 * 0.75 + 0.05), 0.5 * 0.05, 4.0 * 0.05);
    check_targets(batch, 1, 0.8 * 0.25 + 0.1, 2.0 * (0.8 * 0.75 + 0.1), 0.0, 0.0);
    ck_assert_double_eq_tol(batch->weight, 2.0 * (0.25 + 2.0 * 0.75), 1e-9);
    /* one soft target is a label */
    static const float hard[LABELS] = {0.0F, 1.0F, 0.0F, 0.0F};
    clips[0].targets = hard;
    clips[1] = clips[0];
    clips[1].targets = NULL;
    clips[1].label = 1;
    ser_batch *labelled = make(2, 0, false);
    ck_assert_mem_eq(labelled->targets, labelled->targets + LABELS, LABELS * sizeof(float));
    ck_assert(labelled->weight == 4.0);
    ser_batch_release(labelled);
    ser_batch_release(batch);
}
END_TEST

static void refuse(int status, const char *part)
{
    ser_batch *batch = (ser_batch *)&owner;
    assert_fails(ser_batch_make(&source, clips, CLIPS, 0, true, &batch), status, part);
    ck_assert_ptr_null(batch);
}

START_TEST(bad_clips)
{
    static const uint8_t none[LABELS] = {0, 0, 0, 0};
    static const uint8_t first[LABELS] = {1, 0, 0, 0};
    static const float negative[LABELS] = {0.5F, -0.5F, 0.5F, 0.5F};
    static const float high[LABELS] = {1.5F, 0.0F, 0.0F, 0.0F};
    static const float nothing[LABELS] = {0.0F, 0.0F, 0.0F, 0.0F};
    static const float both[LABELS] = {0.5F, 0.5F, 0.0F, 0.0F};
    static const float nan[LABELS] = {NAN, 0.5F, 0.0F, 0.0F};
    const ser_clip good = clips[2];
    const struct {
        ser_clip clip;
        const char *part;
    } cases[] = {
        {{.label = LABELS}, "clip 2: label is 4, must be -1..3"},
        {{.label = -2}, "clip 2: label is -2"},
        {{.weight = -1.0F}, "clip 2: weight is -1"},
        {{.weight = NAN}, "clip 2: weight is"},
        {{.weight = HUGE_VALF}, "clip 2: weight is inf"},
        {{.classes = none}, "leave every one out"},
        {{.label = 1, .classes = first}, "leave its label, 1, out"},
        {{.targets = negative}, "targets[1] is -0.5"},
        {{.targets = high}, "targets[0] is 1.5"},
        {{.targets = nan}, "targets[0] is"},
        {{.targets = nothing}, "all targets are 0"},
        {{.targets = both, .classes = first}, "targets[1] is 0.5, but"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        clips[2] = cases[i].clip;
        clips[2].audio = good.audio;
        refuse(SER_ERR_ARGUMENT, cases[i].part);
    }
    clips[2] = good;
    ser_audio_free(&audios[2]);
    audios[2] = make_audio(399, 0, 399, 1);
    clips[2].audio = audios[2];
    refuse(SER_ERR_DATA, "clip 2: 399 samples are less than one frame (400)");
}
END_TEST

START_TEST(out_of_memory)
{
    everything();
    source.options.augment.speed_probability = 1.0F;
    source.options.augment.silence_probability = 1.0F;
    source.options.augment.noise_probability = 1.0F;
    static const uint8_t all[LABELS] = {1, 1, 1, 1};
    clips[0].classes = all;
    config.pad_as_hf = true;
    const int64_t live = ser_mem_live();
    int failures = 0;
    for (uint64_t nth = 1;; nth++) {
        ser_batch *batch = NULL;
        ser_mem_fail_at(nth, false);
        int status = ser_batch_make(&source, clips, 2, 0, true, &batch);
        ser_mem_fail_at(0, false);
        ser_batch_release(batch);
        ck_assert_int_eq(ser_mem_live(), live);
        if (status == 0) {
            break;
        }
        ck_assert_int_eq(status, SER_ERR_MEMORY);
        ck_assert_ptr_null(batch);
        failures++;
    }
    ck_assert_int_gt(failures, 20);
    ser_batch_release(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("batch");
    TCase *tcase = tcase_create("batch");
    tcase_set_timeout(tcase, 120);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, as_at_prediction);
    tcase_add_test(tcase, middle_window_of_long_clips);
    tcase_add_test(tcase, random_part_of_long_clips);
    tcase_add_test(tcase, lengths_stay_within_limits);
    tcase_add_test(tcase, noise_comes_before_trimming);
    tcase_add_test(tcase, silence_comes_after_trimming);
    tcase_add_test(tcase, gain_is_normalised_away);
    tcase_add_test(tcase, same_on_all_threads_and_in_any_company);
    tcase_add_test(tcase, mel_changes);
    tcase_add_test(tcase, plain_targets);
    tcase_add_test(tcase, smoothed_and_weighted_targets);
    tcase_add_test(tcase, soft_targets);
    tcase_add_test(tcase, bad_clips);
    tcase_add_test(tcase, out_of_memory);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
