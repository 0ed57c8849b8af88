/* SPDX-License-Identifier: MIT */
/* What is in whole files of every kind comes out: lengths, rates, sample types, framing. */
#include "audio/audio.h"
#include "files.h"
#include "harness.h"

#include <fcntl.h>
#include <math.h>
#include <unistd.h>

static const float *read_bytes(const struct bytes *file, const ser_audio_options *options,
                               ser_audio **audio, size_t *count)
{
    assert_ok(ser_audio_read_memory(file->data, file->size, options, audio));
    return ser_audio_samples(*audio, count);
}

static ser_audio_info info_of(const ser_audio *audio)
{
    ser_audio_info info = {.struct_size = sizeof info};
    assert_ok(ser_audio_get_info(audio, &info));
    return info;
}

START_TEST(au2_short_clips)
{
    static const size_t counts[] = {1, 2, 399, 400, 401, 719, 720};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        float x[720];
        harness_fill(x, counts[i], i + 1, 0.5F);
        struct bytes file = float_wave(16000, x, counts[i]);
        ser_audio *audio;
        size_t count;
        const float *y = read_bytes(&file, NULL, &audio, &count);
        ck_assert_uint_eq(count, counts[i]);
        ck_assert_mem_eq(y, x, counts[i] * sizeof *x);
        int32_t flags = info_of(audio).flags;
        ck_assert_int_eq((flags & SER_AUDIO_SHORT) != 0, counts[i] < 400);
        ck_assert_double_eq(ser_audio_duration(audio), (double)counts[i] / 16000.0);
        ser_audio_free(&audio);
        bytes_free(&file);
    }
}
END_TEST

START_TEST(au9_rates)
{
    static const int rates[] = {4000,  8000,  11025, 15999, 16000,  16001,  22050, 32000,
                                44100, 44101, 48000, 96000, 192000, 767999, 768000};
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        for (size_t extra = 0; extra < 3; extra++) {
            size_t frames = (size_t)rates[i] / 8 + extra;
            float *x = sine(rates[i], 1, frames, 440.0);
            struct bytes file = float_wave(rates[i], x, frames);
            ser_audio *audio;
            size_t count;
            (void)read_bytes(&file, NULL, &audio, &count);
            ck_assert_uint_eq(count,
                              (2 * frames * 16000 + (size_t)rates[i]) / (2 * (size_t)rates[i]));
            ser_audio_info info = info_of(audio);
            ck_assert_int_eq(info.sampling_rate, rates[i]);
            ck_assert_int_eq(info.frames, (int64_t)frames);
            ck_assert_int_eq(info.flags, 0);
            ser_audio_free(&audio);
            bytes_free(&file);
            free(x);
        }
    }
}
END_TEST

START_TEST(au9_rates_refused)
{
    static const uint32_t rates[] = {1, 3999, 768001, 0x7FFFFFFF};
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        struct bytes file = wave_head(1, 1, rates[i], 16, 36 + 2000, 2000);
        bytes_append_zeros(&file, 2000);
        ser_audio *audio;
        assert_fails(ser_audio_read_memory(file.data, file.size, NULL, &audio), SER_ERR_UNSUPPORTED,
                     "sampling rate is");
        ck_assert_ptr_null(audio);
        bytes_free(&file);
    }
}
END_TEST

/* The resampler adds no delay: away from the ends a sine stays the same function of time. */
START_TEST(au9_no_delay)
{
    static const int rates[] = {8000, 11025, 44100, 48000, 96000};
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        float *x = sine(rates[i], 1, (size_t)rates[i], 440.0);
        float *expected = sine(16000, 1, 16000, 440.0);
        struct bytes file = float_wave(rates[i], x, (size_t)rates[i]);
        ser_audio *audio;
        size_t count;
        const float *y = read_bytes(&file, NULL, &audio, &count);
        ck_assert_uint_eq(count, 16000);
        ck_assert_double_lt(harness_relative_error(y + 1000, expected + 1000, 14000), 2e-6);
        ser_audio_free(&audio);
        bytes_free(&file);
        free(expected);
        free(x);
    }
}
END_TEST

/* What libsndfile reads itself: x [frames][1]. */
static size_t read_reference(const char *path, float *x, size_t frames)
{
    SF_INFO info = {0};
    SNDFILE *file = sf_open(path, SFM_READ, &info);
    ck_assert_ptr_nonnull(file);
    sf_count_t count = sf_readf_float(file, x, (sf_count_t)frames);
    ck_assert_int_eq(sf_close(file), 0);
    return (size_t)count;
}

/* One channel at 16 kHz is libsndfile's own float read, bit by bit. */
static void check_against_reference(int format)
{
    static float reference[20000];
    float *x = sine(16000, 1, 8000, 440.0);
    struct bytes file = encode(format, 16000, 1, x, 8000);
    size_t frames = read_reference(bytes_save(&file, "reference"), reference, 20000);
    ser_audio *audio;
    size_t count;
    const float *y = read_bytes(&file, NULL, &audio, &count);
    /* A last block may hold more, of which nothing is known. */
    ck_assert_uint_ge(count, 8000);
    ck_assert_msg(count == frames && memcmp(y, reference, 8000 * sizeof *y) == 0,
                  "format %x differs from the reference", (unsigned)format);
    ck_assert_float_gt(info_of(audio).rms, 0.3F);
    ser_audio_free(&audio);
    bytes_free(&file);
    free(x);
}

/* At another rate in two channels the sine is still there. */
static void check_resampled(int format)
{
    float *x = sine(48000, 2, 24000, 440.0);
    float *expected = sine(16000, 1, 8000, 440.0);
    struct bytes file = encode(format, 48000, 2, x, 24000);
    ser_audio *audio;
    size_t count;
    const float *y = read_bytes(&file, NULL, &audio, &count);
    ck_assert_uint_ge(count, 8000);
    double error = harness_relative_error(y + 1000, expected + 1000, 6000);
    ck_assert_msg(error < 0.1, "format %x: error %g", (unsigned)format, error);
    ser_audio_free(&audio);
    bytes_free(&file);
    free(expected);
    free(x);
}

START_TEST(au10_sample_types)
{
    static const int formats[] = {
        SF_FORMAT_WAV | SF_FORMAT_PCM_U8,
        SF_FORMAT_WAV | SF_FORMAT_PCM_16,
        SF_FORMAT_WAV | SF_FORMAT_PCM_24,
        SF_FORMAT_WAV | SF_FORMAT_PCM_32,
        SF_FORMAT_WAV | SF_FORMAT_FLOAT,
        SF_FORMAT_WAV | SF_FORMAT_DOUBLE,
        SF_FORMAT_WAV | SF_FORMAT_ULAW,
        SF_FORMAT_WAV | SF_FORMAT_ALAW,
        SF_FORMAT_WAV | SF_FORMAT_IMA_ADPCM,
        SF_FORMAT_WAV | SF_FORMAT_MS_ADPCM,
        SF_FORMAT_WAV | SF_FORMAT_GSM610,
        SF_FORMAT_WAV | SF_FORMAT_FLOAT | SF_ENDIAN_BIG,
        SF_FORMAT_WAVEX | SF_FORMAT_PCM_24,
        SF_FORMAT_RF64 | SF_FORMAT_FLOAT,
        SF_FORMAT_W64 | SF_FORMAT_PCM_16,
        SF_FORMAT_AIFF | SF_FORMAT_PCM_S8,
        SF_FORMAT_AIFF | SF_FORMAT_PCM_16,
        SF_FORMAT_AIFF | SF_FORMAT_FLOAT,
        SF_FORMAT_AU | SF_FORMAT_PCM_16,
        SF_FORMAT_AU | SF_FORMAT_ULAW,
        SF_FORMAT_AU | SF_FORMAT_FLOAT | SF_ENDIAN_LITTLE,
        SF_FORMAT_CAF | SF_FORMAT_PCM_24,
        SF_FORMAT_FLAC | SF_FORMAT_PCM_16,
        SF_FORMAT_FLAC | SF_FORMAT_PCM_24,
        SF_FORMAT_OGG | SF_FORMAT_VORBIS,
        SF_FORMAT_OGG | SF_FORMAT_OPUS,
    };
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        check_against_reference(formats[i]);
        if (can_encode(formats[i], 48000, 2)) {
            check_resampled(formats[i]);
        }
    }
}
END_TEST

START_TEST(au11_wrong_sizes)
{
    static const uint32_t riff_sizes[] = {0, 0xFFFFFFFF, 36, 100, 0x7FFFFFFF};
    static const uint32_t data_sizes[] = {0, 0xFFFFFFFF, 0x7FFFF000, 0x80000000};
    for (size_t i = 0; i < 5; i++) {
        for (size_t j = 0; j < 4; j++) {
            struct bytes file = wave_head(1, 1, 16000, 16, riff_sizes[i], data_sizes[j]);
            bytes_append_zeros(&file, 2000);
            ser_audio *audio;
            size_t count;
            (void)read_bytes(&file, NULL, &audio, &count);
            ck_assert_msg(count == 1000, "riff %x data %x: %zu samples", riff_sizes[i],
                          data_sizes[j], count);
            ck_assert_int_eq(info_of(audio).flags & SER_AUDIO_TRUNCATED, 0);
            ser_audio_free(&audio);
            bytes_free(&file);
        }
    }
}
END_TEST

/* A zero data size is believed where the file ends as the RIFF size says. */
START_TEST(au11_empty_data)
{
    struct bytes file = wave_head(1, 1, 16000, 16, 36 + 16, 0);
    bytes_append_text(&file, "junk");
    bytes_append_number(&file, 8, 4, false);
    bytes_append_zeros(&file, 8);
    ser_audio *audio;
    assert_fails(ser_audio_read_memory(file.data, file.size, NULL, &audio), SER_ERR_DATA,
                 "no audio: it has no samples");
    bytes_free(&file);
}
END_TEST

/* LIST before fmt, odd chunks with its padding byte, and an unknown chunk behind the samples. */
START_TEST(au11_odd_chunks)
{
    float x[500];
    harness_fill(x, 500, 11, 0.5F);
    struct bytes plain = float_wave(16000, x, 500);
    struct bytes file = {0};
    bytes_append(&file, plain.data, 12);
    bytes_append_text(&file, "LIST");
    bytes_append_number(&file, 16, 4, false);
    bytes_append_text(&file, "INFOISFT");
    bytes_append_number(&file, 3, 4, false);
    bytes_append_text(&file, "abc");
    bytes_append_zeros(&file, 1);
    bytes_append_text(&file, "JUNK");
    bytes_append_number(&file, 5, 4, false);
    bytes_append_zeros(&file, 6);
    bytes_append(&file, plain.data + 12, 24);
    bytes_append_text(&file, "FLLR");
    bytes_append_number(&file, 3, 4, false);
    bytes_append_zeros(&file, 4);
    bytes_append(&file, plain.data + 36, plain.size - 36);
    bytes_append_text(&file, "junk");
    bytes_append_number(&file, 4, 4, false);
    bytes_append_zeros(&file, 4);
    ser_audio *audio;
    size_t count;
    const float *y = read_bytes(&file, NULL, &audio, &count);
    ck_assert_uint_eq(count, 500);
    ck_assert_mem_eq(y, x, sizeof x);
    ck_assert_int_eq(info_of(audio).flags, 0);
    ser_audio_free(&audio);
    bytes_free(&file);
    bytes_free(&plain);
}
END_TEST

/* Write `head`, then leave a hole, then 1000 samples of 0x1000 that end at `size`. */
static const char *sparse_file(const struct bytes *head, int64_t size, const char *name)
{
    const char *path = bytes_save(head, name);
    int16_t samples[1000];
    for (size_t i = 0; i < 1000; i++) {
        samples[i] = (int16_t)(0x1000 + i);
    }
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, samples, sizeof samples, size - (int64_t)sizeof samples),
                     (ssize_t)sizeof samples);
    ck_assert_int_eq(close(fd), 0);
    return path;
}

static void check_sparse_end(const char *path, int64_t frames)
{
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    options.offset = (double)(frames - 1000) / 16000.0;
    ser_audio *audio;
    size_t count;
    assert_ok(ser_audio_read(path, &options, &audio));
    const float *y = ser_audio_samples(audio, &count);
    ck_assert_uint_eq(count, 1000);
    for (size_t i = 0; i < 1000; i++) {
        ck_assert_float_eq(y[i], (float)(0x1000 + i) / 32768.0F);
    }
    ck_assert_int_eq(info_of(audio).flags & SER_AUDIO_TRUNCATED, 0);
    ser_audio_free(&audio);
}

static const int64_t large_frames = ((int64_t)5 << 30) / 2; /* 5 GiB of 16-bit samples */

START_TEST(au11_large_rf64)
{
    struct bytes file = {0};
    bytes_append_text(&file, "RF64\xFF\xFF\xFF\xFFWAVEds64");
    bytes_append_number(&file, 28, 4, false);
    bytes_append_number(&file, (uint64_t)large_frames * 2 + 72, 8, false);
    bytes_append_number(&file, (uint64_t)large_frames * 2, 8, false);
    bytes_append_number(&file, (uint64_t)large_frames, 8, false);
    bytes_append_zeros(&file, 4);
    struct bytes wave = wave_head(1, 1, 16000, 16, 0, 0xFFFFFFFF);
    bytes_append(&file, wave.data + 12, wave.size - 12);
    check_sparse_end(sparse_file(&file, (int64_t)file.size + large_frames * 2, "large.wav"),
                     large_frames);
    bytes_free(&wave);
    bytes_free(&file);
}
END_TEST

START_TEST(au11_large_w64)
{
    static const unsigned char tail[] = {0xF3, 0xAC, 0xD3, 0x11, 0x8C, 0xD1,
                                         0x00, 0xC0, 0x4F, 0x8E, 0xDB, 0x8A};
    struct bytes file = {0};
    bytes_append(&file, "riff\x2E\x91\xCF\x11\xA5\xD6\x28\xDB\x04\xC1\x00\x00", 16);
    bytes_append_number(&file, (uint64_t)large_frames * 2 + 104, 8, false);
    bytes_append_text(&file, "wave");
    bytes_append(&file, tail, 12);
    bytes_append_text(&file, "fmt ");
    bytes_append(&file, tail, 12);
    bytes_append_number(&file, 40, 8, false);
    struct bytes wave = wave_head(1, 1, 16000, 16, 0, 0);
    bytes_append(&file, wave.data + 20, 16);
    bytes_append_text(&file, "data");
    bytes_append(&file, tail, 12);
    bytes_append_number(&file, (uint64_t)large_frames * 2 + 24, 8, false);
    check_sparse_end(sparse_file(&file, (int64_t)file.size + large_frames * 2, "large.w64"),
                     large_frames);
    bytes_free(&wave);
    bytes_free(&file);
}
END_TEST

/* What ffmpeg writes into a pipe. */
START_TEST(au11_large_unknown_size)
{
    struct bytes file = wave_head(1, 1, 16000, 16, 0xFFFFFFFF, 0xFFFFFFFF);
    check_sparse_end(sparse_file(&file, (int64_t)file.size + large_frames * 2, "pipe.wav"),
                     large_frames);
    bytes_free(&file);
}
END_TEST

/* Seeking (PCM) and decoding up to the place (FLAC, Vorbis) give the same frames. */
START_TEST(offset_and_length)
{
    static const int formats[] = {
        SF_FORMAT_WAV | SF_FORMAT_PCM_16, SF_FORMAT_FLAC | SF_FORMAT_PCM_16,
        SF_FORMAT_OGG | SF_FORMAT_VORBIS, SF_FORMAT_AIFF | SF_FORMAT_FLOAT};
    for (size_t i = 0; i < 4; i++) {
        float *x = sine(16000, 2, 40000, 440.0);
        struct bytes file = encode(formats[i], 16000, 2, x, 40000);
        ser_audio *all;
        ser_audio *part;
        size_t count;
        const float *whole = read_bytes(&file, NULL, &all, &count);
        ck_assert_uint_eq(count, 40000);
        ser_audio_options options;
        ser_audio_options_init(&options, sizeof options);
        options.offset = 0.75;
        options.length = 1.0;
        const float *y = read_bytes(&file, &options, &part, &count);
        ck_assert_uint_eq(count, 16000);
        ck_assert_mem_eq(y, whole + 12000, 16000 * sizeof *y);
        ck_assert_int_eq(info_of(part).frames, 16000);
        ser_audio_free(&part);
        options.length = 100.0;
        (void)read_bytes(&file, &options, &part, &count);
        ck_assert_uint_eq(count, 28000);
        ser_audio_free(&part);
        options.offset = 3.0;
        assert_fails(ser_audio_read_memory(file.data, file.size, &options, &part), SER_ERR_DATA,
                     "no audio: the offset is beyond the end at 2.500 seconds");
        options.offset = 1e300;
        assert_fails(ser_audio_read_memory(file.data, file.size, &options, &part), SER_ERR_DATA,
                     "no audio: the offset is beyond the end");
        options.offset = 2.5;
        assert_fails(ser_audio_read_memory(file.data, file.size, &options, &part), SER_ERR_DATA,
                     "no audio: the offset is at its end");
        ser_audio_free(&all);
        bytes_free(&file);
        free(x);
    }
}
END_TEST

START_TEST(au15_max_seconds)
{
    float *x = sine(8000, 1, 24000, 440.0);
    struct bytes file = encode(SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 8000, 1, x, 24000);
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    ck_assert_double_eq(options.max_seconds, 3600.0);
    ser_audio *audio;
    size_t count;
    options.max_seconds = 3.0;
    (void)read_bytes(&file, &options, &audio, &count);
    ck_assert_uint_eq(count, 48000);
    ser_audio_free(&audio);
    options.max_seconds = 2.999;
    assert_fails(ser_audio_read_memory(file.data, file.size, &options, &audio), SER_ERR_CAPACITY,
                 "longer than max_seconds, 2.999; raise it, or read windows");
    options.length = 2.9;
    (void)read_bytes(&file, &options, &audio, &count);
    ser_audio_free(&audio);
    options.length = 0.0;
    options.max_seconds = 0.0;
    (void)read_bytes(&file, &options, &audio, &count);
    ser_audio_free(&audio);
    bytes_free(&file);
    free(x);
}
END_TEST

/* A header that promises ten hours of an existing sparse file is refused after the limit, not
 * before and not by its word. */
START_TEST(au15_ten_hours)
{
    int64_t frames = (int64_t)36000 * 16000;
    struct bytes file =
        wave_head(1, 1, 16000, 16, (uint32_t)(frames * 2 + 36), (uint32_t)(frames * 2));
    const char *path = sparse_file(&file, (int64_t)file.size + frames * 2, "ten-hours.wav");
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    options.max_seconds = 60.0;
    ser_audio *audio;
    assert_fails(ser_audio_read(path, &options, &audio), SER_ERR_CAPACITY, "max_seconds");
    check_sparse_end(path, frames);
    bytes_free(&file);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("formats");
    TCase *formats = tcase_create("formats");
    tcase_set_timeout(formats, 120);
    tcase_add_test(formats, au2_short_clips);
    tcase_add_test(formats, au9_rates);
    tcase_add_test(formats, au9_rates_refused);
    tcase_add_test(formats, au9_no_delay);
    tcase_add_test(formats, au10_sample_types);
    tcase_add_test(formats, au11_wrong_sizes);
    tcase_add_test(formats, au11_empty_data);
    tcase_add_test(formats, au11_odd_chunks);
    tcase_add_test(formats, au11_large_rf64);
    tcase_add_test(formats, au11_large_w64);
    tcase_add_test(formats, au11_large_unknown_size);
    tcase_add_test(formats, offset_and_length);
    tcase_add_test(formats, au15_max_seconds);
    tcase_add_test(formats, au15_ten_hours);
    suite_add_tcase(suite, formats);
    return harness_run(suite);
}
