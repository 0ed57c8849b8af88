/* SPDX-License-Identifier: MIT */
/* MP3, as far as this machine's libsndfile can write it for the test. */
#include "audio/audio.h"
#include "files.h"
#include "harness.h"

enum { MP3 = SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III };

static ser_audio_info info_of(const ser_audio *audio)
{
    ser_audio_info info = {.struct_size = sizeof info};
    assert_ok(ser_audio_get_info(audio, &info));
    return info;
}

static struct bytes encode_mp3(int rate, int channels, size_t frames)
{
    float *x = sine(rate, channels, frames, 440.0);
    uint64_t state = 7;
    /* Loud and quiet by turns, so that a variable bit rate varies. */
    for (size_t i = 0; i < frames * (size_t)channels; i++) {
        x[i] += i / 20000 % 2 == 0 ? 0.3F * harness_random(&state) : 0.0F;
    }
    struct bytes file = encode(MP3, rate, channels, x, frames);
    free(x);
    return file;
}

/* Bytes of the first frame, which holds the Info tag (ISO 11172-3, 2.4.3.1; MPEG-1 layer III). */
static size_t first_frame_size(const struct bytes *file)
{
    static const size_t kilobits[] = {0,   32,  40,  48,  56,  64,  80,  96,
                                      112, 128, 160, 192, 224, 256, 320, 0};
    static const size_t rates[] = {44100, 48000, 32000, 0};
    size_t rate = rates[file->data[2] >> 2 & 3];
    return 144000 * kilobits[file->data[2] >> 4] / rate + (file->data[2] >> 1 & 1);
}

static struct bytes without_info_tag(const struct bytes *file)
{
    struct bytes rest = {0};
    size_t skip = first_frame_size(file);
    ck_assert_int_eq(file->data[skip], 0xFF);
    bytes_append(&rest, file->data + skip, file->size - skip);
    return rest;
}

static void read_file(const struct bytes *file, int32_t strict, ser_audio_info *info)
{
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    options.strict = strict;
    ser_audio *audio;
    assert_ok(ser_audio_read_memory(file->data, file->size, &options, &audio));
    *info = info_of(audio);
    ser_audio_free(&audio);
}

START_TEST(whole_files)
{
    static const int rates[] = {32000, 44100, 48000, 16000, 22050, 24000, 8000};
    for (size_t i = 0; i < 7; i++) {
        for (int channels = 1; channels <= 2; channels++) {
            struct bytes file = encode_mp3(rates[i], channels, 30000);
            ser_audio_info info;
            read_file(&file, 1, &info);
            ck_assert_int_eq(info.frames, 30000);
            ck_assert_int_eq(info.sampling_rate, rates[i]);
            ck_assert_int_eq(info.channels, channels);
            ck_assert_int_eq(info.flags & SER_AUDIO_TRUNCATED, 0);
            ck_assert_float_gt(info.rms, 0.2F);
            bytes_free(&file);
        }
    }
}
END_TEST

START_TEST(au1_only_the_tag)
{
    struct bytes file = encode_mp3(48000, 1, 30000);
    ser_audio *audio;
    int status = ser_audio_read_memory(file.data, first_frame_size(&file), NULL, &audio);
    ck_assert(status == SER_ERR_DATA || status == SER_ERR_FORMAT);
    for (size_t size = 4; size < 40; size++) {
        status = ser_audio_read_memory(file.data, size, NULL, &audio);
        ck_assert(status == SER_ERR_DATA || status == SER_ERR_FORMAT);
    }
    bytes_free(&file);
}
END_TEST

START_TEST(au4_cut)
{
    struct bytes file = encode_mp3(48000, 1, 480000);
    struct bytes bare = without_info_tag(&file);
    struct bytes *cut[] = {&file, &bare};
    for (size_t i = 0; i < 2; i++) {
        cut[i]->size = cut[i]->size * 6 / 10 + 1;
        ser_audio_info info;
        read_file(cut[i], 0, &info);
        ck_assert_int_gt(info.frames, 480000 / 2);
        ck_assert_int_lt(info.frames, 480000 * 7 / 10);
        ck_assert_int_eq(info.flags, SER_AUDIO_TRUNCATED);
        ser_audio_options options;
        ser_audio_options_init(&options, sizeof options);
        options.strict = 1;
        ser_audio *audio;
        assert_fails(ser_audio_read_memory(cut[i]->data, cut[i]->size, &options, &audio),
                     SER_ERR_DATA, "truncated or damaged after sample");
        bytes_free(cut[i]);
    }
}
END_TEST

START_TEST(au4_noise_in_the_middle)
{
    struct bytes file = encode_mp3(48000, 2, 480000);
    uint64_t state = 5;
    for (size_t i = file.size * 4 / 10; i < file.size * 4 / 10 + 3000; i++) {
        file.data[i] = (unsigned char)(127.0F * harness_random(&state));
    }
    ser_audio_info info;
    read_file(&file, 0, &info);
    ck_assert_int_gt(info.frames, 400000);
    ck_assert_int_lt(info.frames, 480000);
    ck_assert_int_eq(info.flags, SER_AUDIO_TRUNCATED);
    bytes_free(&file);
}
END_TEST

/* The length is what the decoder gave, not what the bit rate of the first frame suggests. */
START_TEST(au12_variable_bit_rate_without_tag)
{
    struct bytes file = encode_mp3(48000, 1, 480000);
    struct bytes bare = without_info_tag(&file);
    ser_audio_info info;
    read_file(&bare, 1, &info);
    ck_assert_int_ge(info.frames, 480000);
    ck_assert_int_le(info.frames, 480000 + 3 * 1152);
    bytes_free(&bare);
    bytes_free(&file);
}
END_TEST

/* An Info tag may lie in both directions. */
START_TEST(au3_tag_claims)
{
    static const uint32_t claims[] = {1, 3, 100000, 0x7FFFFFFF, 0xFFFFFFFF};
    struct bytes file = encode_mp3(48000, 1, 480000);
    size_t tag = 4;
    while (memcmp(file.data + tag, "Xing", 4) != 0 && memcmp(file.data + tag, "Info", 4) != 0) {
        tag++;
        ck_assert_uint_lt(tag, 200);
    }
    for (size_t i = 0; i < sizeof claims / sizeof claims[0]; i++) {
        for (size_t k = 0; k < 4; k++) {
            file.data[tag + 8 + k] = (unsigned char)(claims[i] >> (24 - 8 * k));
        }
        ser_audio_info info;
        read_file(&file, 0, &info);
        ck_assert_msg(info.frames >= 479000 && info.frames <= 483456, "%x claimed: %lld frames",
                      claims[i], (long long)info.frames);
        if (claims[i] == 100000) {
            ck_assert_int_eq(info.flags, SER_AUDIO_TRUNCATED);
        }
    }
    bytes_free(&file);
}
END_TEST

START_TEST(au12_cover_picture)
{
    struct bytes mp3 = encode_mp3(44100, 2, 30000);
    struct bytes file = {0};
    size_t size = (size_t)10 << 20;
    unsigned char head[10] = {'I', 'D', '3', 3, 0, 0};
    for (size_t i = 0; i < 4; i++) {
        head[6 + i] = (unsigned char)(size >> (21 - 7 * i) & 0x7F);
    }
    bytes_append(&file, head, sizeof head);
    bytes_append_text(&file, "APIC");
    bytes_append_zeros(&file, size - 4);
    memset(file.data + 1000, 0xFF, size / 2); /* looks like sync words */
    bytes_append(&file, mp3.data, mp3.size);
    ser_audio_info info;
    read_file(&file, 1, &info);
    ck_assert_int_eq(info.frames, 30000);
    bytes_free(&file);
    /* Padding between the tag and the first frame. */
    bytes_append(&file,
                 "ID3\x03\x00\x00\x00\x00\x00\x05"
                 "aaaaa",
                 15);
    bytes_append_zeros(&file, 700);
    bytes_append(&file, mp3.data, mp3.size);
    read_file(&file, 1, &info);
    ck_assert_int_eq(info.frames, 30000);
    bytes_free(&file);
    bytes_free(&mp3);
}
END_TEST

START_TEST(offset_in_an_mp3)
{
    struct bytes file = encode_mp3(16000, 1, 48000);
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    ser_audio *whole;
    ser_audio *part;
    size_t count;
    assert_ok(ser_audio_read_memory(file.data, file.size, &options, &whole));
    options.offset = 1.25;
    options.length = 0.5;
    assert_ok(ser_audio_read_memory(file.data, file.size, &options, &part));
    const float *y = ser_audio_samples(part, &count);
    ck_assert_uint_eq(count, 8000);
    ck_assert_mem_eq(y, ser_audio_samples(whole, NULL) + 20000, 8000 * sizeof *y);
    ser_audio_free(&part);
    ser_audio_free(&whole);
    bytes_free(&file);
}
END_TEST

START_TEST(only_sync_words)
{
    struct bytes file = {0};
    bytes_append(&file, "\xFF\xFB\x90\x64", 4);
    for (size_t i = 0; i < 100; i++) {
        bytes_append_text(&file, "not a frame ");
    }
    ser_audio *audio;
    assert_fails(ser_audio_read_memory(file.data, file.size, NULL, &audio), SER_ERR_FORMAT,
                 "no MPEG audio frames");
    bytes_free(&file);
}
END_TEST

int main(void)
{
    if (!can_encode(MP3, 48000, 1)) {
        puts("skipped: this libsndfile cannot write MP3");
        return 77;
    }
    Suite *suite = suite_create("mpeg");
    TCase *mpeg = tcase_create("mpeg");
    tcase_set_timeout(mpeg, 120);
    tcase_add_test(mpeg, whole_files);
    tcase_add_test(mpeg, au1_only_the_tag);
    tcase_add_test(mpeg, au3_tag_claims);
    tcase_add_test(mpeg, au4_cut);
    tcase_add_test(mpeg, au4_noise_in_the_middle);
    tcase_add_test(mpeg, au12_variable_bit_rate_without_tag);
    tcase_add_test(mpeg, au12_cover_picture);
    tcase_add_test(mpeg, offset_in_an_mp3);
    tcase_add_test(mpeg, only_sync_words);
    suite_add_tcase(suite, mpeg);
    return harness_run(suite);
}
