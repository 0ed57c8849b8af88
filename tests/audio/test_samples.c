/* SPDX-License-Identifier: MIT */
/* Values and channels: what is refused, what is flagged, and how channels become one. */
#include <float.h>
#include <math.h>

#include "audio/audio.h"
#include "audio/resample.h"
#include "files.h"
#include "harness.h"

static ser_audio_info info_of(const ser_audio *audio)
{
    ser_audio_info info = {.struct_size = sizeof info};
    assert_ok(ser_audio_get_info(audio, &info));
    return info;
}

static ser_audio_options defaults(void)
{
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    return options;
}

static ser_audio *convert(const float *x, size_t frames, int32_t channels, int32_t rate,
                          const ser_audio_options *options)
{
    ser_audio *audio;
    assert_ok(ser_audio_from_samples(x, frames, channels, rate, options, &audio));
    return audio;
}

/* Flags and numbers of a clip of one channel at 16 kHz. */
static ser_audio_info describe(const float *x, size_t frames)
{
    ser_audio *audio = convert(x, frames, 1, 16000, NULL);
    ser_audio_info info = info_of(audio);
    ser_audio_free(&audio);
    return info;
}

START_TEST(au5_nonfinite)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const char *const text[] = {"not a number", "infinite", "infinite"};
    for (size_t i = 0; i < 3; i++) {
        for (int rate = 16000; rate <= 48000; rate += 32000) {
            float *x = sine(rate, 2, 5000, 440.0);
            x[2 * 4321 + 1] = bad[i];
            x[2 * 4400 + 1] = bad[i];
            struct bytes file = encode(SF_FORMAT_WAV | SF_FORMAT_FLOAT, rate, 2, x, 5000);
            ser_audio *audio;
            assert_fails(ser_audio_read_memory(file.data, file.size, NULL, &audio), SER_ERR_DATA,
                         "sample 4321 of channel 1 is");
            ck_assert_ptr_nonnull(strstr(ser_error_message(), text[i]));
            ser_audio_options options = defaults();
            options.nonfinite = SER_NONFINITE_ZERO;
            assert_ok(ser_audio_read_memory(file.data, file.size, &options, &audio));
            ser_audio_info info = info_of(audio);
            ck_assert_int_eq(info.nonfinite, 2);
            ck_assert_int_eq(info.flags, SER_AUDIO_NONFINITE);
            ck_assert(isfinite(info.rms) && isfinite(info.peak));
            ser_audio_free(&audio);
            /* The position counts from the start of the file. */
            options.nonfinite = SER_NONFINITE_REFUSE;
            options.offset = 4000.0 / rate;
            assert_fails(ser_audio_read_memory(file.data, file.size, &options, &audio),
                         SER_ERR_DATA, "sample 4321 of channel 1 is");
            /* A channel that is not used does no harm. */
            options.channel = 0;
            assert_ok(ser_audio_read_memory(file.data, file.size, &options, &audio));
            ser_audio_free(&audio);
            bytes_free(&file);
            free(x);
        }
    }
}
END_TEST

/* Values that a float cannot hold count as infinite. */
START_TEST(au5_double_overflow)
{
    struct bytes file = wave_head(3, 1, 16000, 64, 36 + 800, 800);
    for (size_t i = 0; i < 100; i++) {
        double value = i == 50 ? 1e300 : 0.25;
        bytes_append(&file, &value, sizeof value);
    }
    ser_audio *audio;
    assert_fails(ser_audio_read_memory(file.data, file.size, NULL, &audio), SER_ERR_DATA,
                 "sample 50 of channel 0 is infinite");
    bytes_free(&file);
}
END_TEST

START_TEST(au5_huge_and_tiny)
{
    static const float scales[] = {1e38F, FLT_MAX, 1e-38F, 1e-42F};
    static const int32_t rates[] = {16000, 8000, 48000, 44100};
    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < 4; j++) {
            float *x = sine(rates[j], 2, 8000, 440.0);
            for (size_t k = 0; k < 16000; k++) {
                x[k] = 2.0F * x[k] * scales[i];
            }
            ser_audio *audio = convert(x, 8000, 2, rates[j], NULL);
            size_t count;
            const float *y = ser_audio_samples(audio, &count);
            float *normal = malloc(count * sizeof *normal);
            ser_audio_normalize(y, count, normal);
            double squares = 0.0;
            for (size_t k = 0; k < count; k++) {
                ck_assert(isfinite(y[k]) && isfinite(normal[k]));
                squares += (double)normal[k] * (double)normal[k];
            }
            ck_assert(scales[i] < 1.0F || fabs(squares / (double)count - 1.0) < 1e-5);
            ser_audio_info info = info_of(audio);
            ck_assert(isfinite(info.rms) && isfinite(info.dc_offset) && isfinite(info.peak));
            ck_assert_int_eq((info.flags & SER_AUDIO_CLIPPED) != 0, scales[i] > 1.0F);
            free(normal);
            ser_audio_free(&audio);
            free(x);
        }
    }
}
END_TEST

START_TEST(au6_silence)
{
    static const float levels[] = {0.0F, 0.04F, -0.5F};
    for (size_t i = 0; i < 3; i++) {
        float x[1000];
        for (size_t k = 0; k < 1000; k++) {
            x[k] = levels[i];
        }
        ser_audio_info info = describe(x, 1000);
        ck_assert_int_ne(info.flags & SER_AUDIO_SILENT, 0);
        ck_assert_int_eq((info.flags & SER_AUDIO_DC_OFFSET) != 0, levels[i] == -0.5F);
        ck_assert_float_eq(info.dc_offset, levels[i]);
        float y[1000];
        ser_audio_normalize(x, 1000, y);
        for (size_t k = 0; k < 1000; k++) {
            ck_assert_float_eq(y[k], 0.0F);
        }
        x[500] += 1e-3F;
        ck_assert_int_eq(describe(x, 1000).flags & SER_AUDIO_SILENT, 0);
        /* Resampling rounds the edges of a constant, not the verdict on it. */
        x[500] = levels[i];
        ser_audio *audio = convert(x, 1000, 1, 44100, NULL);
        ck_assert_int_ne(info_of(audio).flags & SER_AUDIO_SILENT, 0);
        ser_audio_free(&audio);
    }
}
END_TEST

START_TEST(au7_offset_and_clipping)
{
    float x[10000];
    harness_fill(x, 10000, 1, 0.25F);
    ser_audio_info info = describe(x, 10000);
    ck_assert_int_eq(info.flags, 0);
    ck_assert_float_eq(info.clipped_ratio, 0.0F);
    ck_assert_float_eq_tol(info.rms, 0.25F / sqrtf(3.0F), 0.003F);
    for (size_t i = 0; i < 100; i++) {
        x[i * 77] = i % 2 == 0 ? 1.0F : -1.5F;
    }
    info = describe(x, 10000);
    ck_assert_int_eq(info.flags & SER_AUDIO_CLIPPED, 0); /* 1 % is not more than 1 % */
    ck_assert_float_eq(info.clipped_ratio, 0.01F);
    ck_assert_float_eq(info.peak, 1.5F);
    x[9999] = 1.0F;
    ck_assert_int_ne(describe(x, 10000).flags & SER_AUDIO_CLIPPED, 0);
    harness_fill(x, 10000, 1, 0.25F);
    for (size_t i = 0; i < 10000; i++) {
        x[i] += 0.06F;
    }
    info = describe(x, 10000);
    ck_assert_int_eq(info.flags, SER_AUDIO_DC_OFFSET);
    ck_assert_float_eq_tol(info.dc_offset, 0.06F, 0.008F);
}
END_TEST

/* The largest positive code counts as full scale, whatever the sample type. */
START_TEST(au7_full_scale_codes)
{
    static const int formats[] = {
        SF_FORMAT_WAV | SF_FORMAT_PCM_U8,  SF_FORMAT_WAV | SF_FORMAT_PCM_16,
        SF_FORMAT_WAV | SF_FORMAT_PCM_24,  SF_FORMAT_WAV | SF_FORMAT_PCM_32,
        SF_FORMAT_WAV | SF_FORMAT_ULAW,    SF_FORMAT_WAV | SF_FORMAT_ALAW,
        SF_FORMAT_AIFF | SF_FORMAT_PCM_S8, SF_FORMAT_FLAC | SF_FORMAT_PCM_16,
        SF_FORMAT_FLAC | SF_FORMAT_PCM_24, SF_FORMAT_WAV | SF_FORMAT_FLOAT,
    };
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        float x[3000] = {0};
        for (size_t k = 0; k < 3000; k++) {
            x[k] = k % 2 == 0 ? 1.0F : -1.0F;
        }
        struct bytes file = encode(formats[i], 16000, 1, x, 3000);
        ser_audio *audio;
        assert_ok(ser_audio_read_memory(file.data, file.size, NULL, &audio));
        ck_assert_msg(info_of(audio).clipped_ratio == 1.0F, "format %x: clipped ratio %g",
                      (unsigned)formats[i], (double)info_of(audio).clipped_ratio);
        ser_audio_free(&audio);
        bytes_free(&file);
        for (size_t k = 0; k < 3000; k++) {
            x[k] *= 0.9F;
        }
        file = encode(formats[i], 16000, 1, x, 3000);
        assert_ok(ser_audio_read_memory(file.data, file.size, NULL, &audio));
        ck_assert_float_eq(info_of(audio).clipped_ratio, 0.0F);
        ser_audio_free(&audio);
        bytes_free(&file);
    }
}
END_TEST

START_TEST(au8_channels)
{
    static const int32_t counts[] = {1, 2, 6, 8, 64, 1024};
    for (size_t i = 0; i < 6; i++) {
        size_t channels = (size_t)counts[i];
        size_t frames = 700;
        float *x = malloc(frames * channels * sizeof *x);
        harness_fill(x, frames * channels, i + 1, 0.9F);
        struct bytes file = encode(SF_FORMAT_WAV | SF_FORMAT_FLOAT, 16000, counts[i], x, frames);
        ser_audio *audio;
        assert_ok(ser_audio_read_memory(file.data, file.size, NULL, &audio));
        ck_assert_int_eq(info_of(audio).channels, counts[i]);
        const float *y = ser_audio_samples(audio, NULL);
        for (size_t k = 0; k < frames; k++) {
            double sum = 0.0;
            for (size_t c = 0; c < channels; c++) {
                sum += (double)x[k * channels + c];
            }
            ck_assert_float_eq(y[k], (float)(sum / (double)channels));
        }
        ser_audio_free(&audio);
        ser_audio_options options = defaults();
        int32_t stride = counts[i] > 8 ? 21 : 1;
        for (int32_t c = 0; c < counts[i]; c += stride) {
            options.channel = c;
            assert_ok(ser_audio_read_memory(file.data, file.size, &options, &audio));
            y = ser_audio_samples(audio, NULL);
            for (size_t k = 0; k < frames; k++) {
                ck_assert_float_eq(y[k], x[k * channels + (size_t)c]);
            }
            ser_audio_free(&audio);
        }
        bytes_free(&file);
        free(x);
    }
}
END_TEST

START_TEST(au8_channel_out_of_range)
{
    float *x = sine(16000, 2, 1000, 440.0);
    struct bytes file = encode(SF_FORMAT_WAV | SF_FORMAT_FLOAT, 16000, 2, x, 1000);
    ser_audio_options options = defaults();
    options.channel = 2;
    ser_audio *audio;
    assert_fails(ser_audio_read_memory(file.data, file.size, &options, &audio), SER_ERR_ARGUMENT,
                 "channel 2 was asked for, but there are only 2");
    assert_fails(ser_audio_from_samples(x, 1000, 2, 16000, &options, &audio), SER_ERR_ARGUMENT,
                 "channel 2 was asked for, but there are only 2");
    bytes_free(&file);
    free(x);
}
END_TEST

START_TEST(au8_opposite_phase)
{
    float *x = sine(16000, 2, 4000, 440.0);
    for (size_t i = 0; i < 4000; i++) {
        x[2 * i + 1] = -x[2 * i];
    }
    ser_audio *audio = convert(x, 4000, 2, 16000, NULL);
    ck_assert_int_eq(info_of(audio).flags, SER_AUDIO_CANCELLED | SER_AUDIO_SILENT);
    ser_audio_free(&audio);
    ser_audio_options options = defaults();
    options.channel = 1;
    audio = convert(x, 4000, 2, 16000, &options);
    ck_assert_int_eq(info_of(audio).flags, 0);
    ser_audio_free(&audio);
    /* 9 % of the amplitude is 0.8 % of the power; 11 % is 1.2 %. */
    for (size_t i = 0; i < 4000; i++) {
        x[2 * i + 1] = -0.83F * x[2 * i];
    }
    audio = convert(x, 4000, 2, 16000, NULL);
    ck_assert_int_eq(info_of(audio).flags, SER_AUDIO_CANCELLED);
    ser_audio_free(&audio);
    for (size_t i = 0; i < 4000; i++) {
        x[2 * i + 1] = -0.79F * x[2 * i];
    }
    audio = convert(x, 4000, 2, 16000, NULL);
    ck_assert_int_eq(info_of(audio).flags, 0);
    ser_audio_free(&audio);
    free(x);
}
END_TEST

/* The file and its samples give the same clip. */
START_TEST(samples_equal_file)
{
    static const int rates[] = {16000, 44100, 8000};
    for (size_t i = 0; i < 3; i++) {
        size_t frames = (size_t)rates[i] * 2 + 11;
        float *x = sine(rates[i], 2, frames, 440.0);
        struct bytes file = encode(SF_FORMAT_WAV | SF_FORMAT_FLOAT, rates[i], 2, x, frames);
        ser_audio_options options = defaults();
        options.offset = 0.3;
        options.length = 1.1;
        ser_audio *read;
        size_t count;
        size_t other;
        assert_ok(ser_audio_read_memory(file.data, file.size, &options, &read));
        ser_audio *given = convert(x, frames, 2, rates[i], &options);
        const float *y = ser_audio_samples(read, &count);
        const float *z = ser_audio_samples(given, &other);
        ck_assert_uint_eq(count, 17600);
        ck_assert_uint_eq(count, other);
        ck_assert_mem_eq(y, z, count * sizeof *y);
        ser_audio_info a = info_of(read);
        ser_audio_info b = info_of(given);
        ck_assert_mem_eq(&a, &b, sizeof a);
        ser_audio_free(&given);
        ser_audio_free(&read);
        bytes_free(&file);
        free(x);
    }
}
END_TEST

START_TEST(samples_without_audio)
{
    float x[48] = {0};
    ser_audio *audio;
    ser_audio_options options = defaults();
    assert_fails(ser_audio_from_samples(x, 0, 1, 16000, NULL, &audio), SER_ERR_DATA, "no audio");
    assert_fails(ser_audio_from_samples(x, 1, 1, 768000, NULL, &audio), SER_ERR_DATA,
                 "no audio: under half a sample");
    options.offset = 1.0;
    assert_fails(ser_audio_from_samples(x, 48, 1, 16000, &options, &audio), SER_ERR_DATA,
                 "no audio: the offset is beyond the end");
    options.offset = 0.003;
    assert_fails(ser_audio_from_samples(x, 48, 1, 16000, &options, &audio), SER_ERR_DATA,
                 "no audio: the offset is at its end");
    options.offset = 0.0;
    options.length = 1e-9;
    assert_fails(ser_audio_from_samples(x, 48, 1, 16000, &options, &audio), SER_ERR_DATA,
                 "no audio");
}
END_TEST

START_TEST(resampled_counts)
{
    ck_assert_int_eq(ser_resampled_count(0, 44100), 0);
    ck_assert_int_eq(ser_resampled_count(1, 48000), 0);
    ck_assert_int_eq(ser_resampled_count(3, 32000), 2); /* 1.5 */
    ck_assert_int_eq(ser_resampled_count(44100, 44100), 16000);
    ck_assert_int_eq(ser_resampled_count(INT64_MAX, 768000), INT64_C(192153584101141163)); /* .66 */
}
END_TEST

/* libsoxr may hand out a full piece with the last input and nothing after it. */
START_TEST(resampler_ends_on_a_full_piece)
{
    enum { COUNT = 64598 };
    double *x = calloc(COUNT, sizeof *x);
    for (int32_t rate = 16875; rate <= 16877; rate++) {
        struct ser_resampler resampler;
        struct ser_samples out = {0};
        assert_ok(ser_resampler_open(&resampler, rate));
        assert_ok(ser_resampler_push(&resampler, x, COUNT, &out));
        assert_ok(ser_resampler_finish(&resampler, &out));
        ck_assert_int_eq((int64_t)out.count, ser_resampled_count(COUNT, rate));
        ser_resampler_close(&resampler);
        ser_mem_free(out.data);
    }
    free(x);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("samples");
    TCase *samples = tcase_create("samples");
    tcase_set_timeout(samples, 120);
    tcase_add_test(samples, au5_nonfinite);
    tcase_add_test(samples, au5_double_overflow);
    tcase_add_test(samples, au5_huge_and_tiny);
    tcase_add_test(samples, au6_silence);
    tcase_add_test(samples, au7_offset_and_clipping);
    tcase_add_test(samples, au7_full_scale_codes);
    tcase_add_test(samples, au8_channels);
    tcase_add_test(samples, au8_channel_out_of_range);
    tcase_add_test(samples, au8_opposite_phase);
    tcase_add_test(samples, samples_equal_file);
    tcase_add_test(samples, samples_without_audio);
    tcase_add_test(samples, resampled_counts);
    tcase_add_test(samples, resampler_ends_on_a_full_piece);
    suite_add_tcase(suite, samples);
    return harness_run(suite);
}
