/* SPDX-License-Identifier: MIT */
/* Files that are empty, cut, damaged, mislabelled, or not audio at all. */
#include "audio/audio.h"
#include "files.h"
#include "harness.h"

static int read_bytes(const struct bytes *file, ser_audio **audio)
{
    return ser_audio_read_memory(file->data, file->size, NULL, audio);
}

static int read_strictly(const struct bytes *file, ser_audio **audio)
{
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    options.strict = 1;
    return ser_audio_read_memory(file->data, file->size, &options, audio);
}

static ser_audio_info info_of(const ser_audio *audio)
{
    ser_audio_info info = {.struct_size = sizeof info};
    assert_ok(ser_audio_get_info(audio, &info));
    return info;
}

/* One second of a sine that does not compress to nothing. */
static struct bytes encode_noise(int format, int rate, int channels, size_t frames)
{
    float *x = sine(rate, channels, frames, 440.0);
    uint64_t state = 7;
    for (size_t i = 0; i < frames * (size_t)channels; i++) {
        x[i] += 0.1F * harness_random(&state);
    }
    struct bytes file = encode(format, rate, channels, x, frames);
    free(x);
    return file;
}

static const int containers[] = {
    SF_FORMAT_WAV | SF_FORMAT_PCM_16,  SF_FORMAT_RF64 | SF_FORMAT_PCM_16,
    SF_FORMAT_W64 | SF_FORMAT_PCM_16,  SF_FORMAT_AIFF | SF_FORMAT_PCM_16,
    SF_FORMAT_AU | SF_FORMAT_PCM_16,   SF_FORMAT_CAF | SF_FORMAT_PCM_16,
    SF_FORMAT_FLAC | SF_FORMAT_PCM_16, SF_FORMAT_OGG | SF_FORMAT_VORBIS,
    SF_FORMAT_OGG | SF_FORMAT_OPUS,
};
enum { CONTAINERS = sizeof containers / sizeof containers[0] };

START_TEST(au1_no_bytes)
{
    ser_audio *audio;
    assert_fails(ser_audio_read_memory("", 0, NULL, &audio), SER_ERR_DATA, "no audio");
    ck_assert_ptr_null(audio);
    struct bytes empty = {0};
    const char *path = bytes_save(&empty, "empty.wav");
    assert_fails(ser_audio_read(path, NULL, &audio), SER_ERR_DATA, "empty.wav: no audio");
    ck_assert_ptr_null(audio);
}
END_TEST

START_TEST(au1_no_frames)
{
    for (size_t i = 0; i < CONTAINERS; i++) {
        float x = 0.0F;
        struct bytes file = encode(containers[i], 48000, 1, &x, 0);
        ser_audio *audio;
        assert_fails(read_bytes(&file, &audio), SER_ERR_DATA, "no audio");
        bytes_free(&file);
    }
}
END_TEST

/* Every container cut within its header, at every byte. */
START_TEST(au1_header_only)
{
    static const size_t header_sizes[CONTAINERS] = {44, 104, 104, 54, 24, 4096, 42, 58, 47};
    for (size_t i = 0; i < CONTAINERS; i++) {
        struct bytes file = encode_noise(containers[i], 48000, 1, 4800);
        for (size_t size = 1; size <= header_sizes[i]; size += size < 200 ? 1 : 97) {
            ser_audio *audio;
            int status = ser_audio_read_memory(file.data, size, NULL, &audio);
            ck_assert_msg(status == SER_ERR_DATA || status == SER_ERR_FORMAT,
                          "format %x, %zu bytes: %s", (unsigned)containers[i], size,
                          ser_status_name(status));
            ck_assert(size < 40 || size < header_sizes[i] || status == SER_ERR_DATA);
            ck_assert_ptr_null(audio);
        }
        bytes_free(&file);
    }
}
END_TEST

/* Headers that claim far more than there is: what is there comes out, flagged, without an
 * allocation by the claim (which would fail). */
START_TEST(au3_wave_claims)
{
    static const uint32_t claims[] = {1002, 0x40000000, 0x7FFE0000, 0xF0000000};
    for (size_t i = 0; i < sizeof claims / sizeof claims[0]; i++) {
        struct bytes file = wave_head(1, 1, 16000, 16, 36 + 1000, claims[i]);
        bytes_append_zeros(&file, 1000);
        ser_audio *audio;
        size_t count;
        assert_ok(read_bytes(&file, &audio));
        (void)ser_audio_samples(audio, &count);
        ck_assert_uint_eq(count, 500);
        ck_assert_int_ne(info_of(audio).flags & SER_AUDIO_TRUNCATED, 0);
        ser_audio_free(&audio);
        assert_fails(read_strictly(&file, &audio), SER_ERR_DATA,
                     "truncated or damaged after sample 500");
        bytes_free(&file);
    }
}
END_TEST

/* STREAMINFO's 36-bit number of samples: byte 21 from its low half on. */
static void set_flac_frames(struct bytes *file, uint64_t frames)
{
    file->data[21] = (unsigned char)((file->data[21] & 0xF0U) | (frames >> 32 & 0x0FU));
    for (size_t i = 0; i < 4; i++) {
        file->data[22 + i] = (unsigned char)(frames >> (24 - 8 * i));
    }
}

START_TEST(au3_flac_claims)
{
    struct bytes file = encode_noise(SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 16000, 1, 8000);
    static const uint64_t claims[] = {8001, UINT64_C(1) << 35, 0xFFFFFFFFF};
    size_t count;
    ser_audio *audio;
    for (size_t i = 0; i < 3; i++) {
        set_flac_frames(&file, claims[i]);
        assert_ok(read_bytes(&file, &audio));
        (void)ser_audio_samples(audio, &count);
        ck_assert_uint_eq(count, 8000);
        ck_assert_int_ne(info_of(audio).flags & SER_AUDIO_TRUNCATED, 0);
        ser_audio_free(&audio);
        assert_fails(read_strictly(&file, &audio), SER_ERR_DATA, "truncated");
    }
    /* 0 is "unknown", which libsndfile reports as INT64_MAX. */
    set_flac_frames(&file, 0);
    assert_ok(read_strictly(&file, &audio));
    (void)ser_audio_samples(audio, &count);
    ck_assert_uint_eq(count, 8000);
    ck_assert_int_eq(info_of(audio).flags, 0);
    ser_audio_free(&audio);
    bytes_free(&file);
}
END_TEST

START_TEST(au4_cut)
{
    for (size_t i = 0; i < CONTAINERS; i++) {
        size_t frames = 480000;
        struct bytes file = encode_noise(containers[i], 48000, 1, frames);
        ser_audio *audio;
        assert_ok(read_strictly(&file, &audio));
        ck_assert_int_eq(info_of(audio).frames, (int64_t)frames);
        ser_audio_free(&audio);
        file.size = file.size * 6 / 10;
        assert_ok(read_bytes(&file, &audio));
        ser_audio_info info = info_of(audio);
        ck_assert_int_gt(info.frames, (int64_t)frames * 3 / 10);
        ck_assert_int_lt(info.frames, (int64_t)frames * 7 / 10);
        ck_assert_msg(info.flags == SER_AUDIO_TRUNCATED, "format %x: flags %x",
                      (unsigned)containers[i], (unsigned)info.flags);
        ser_audio_free(&audio);
        assert_fails(read_strictly(&file, &audio), SER_ERR_DATA,
                     "truncated or damaged after sample");
        ck_assert_ptr_null(audio);
        bytes_free(&file);
    }
}
END_TEST

/* A list of impossible size, on which libsndfile 1.2.0 never ends. */
START_TEST(endless_list)
{
    struct bytes wave = wave_head(1, 1, 16000, 16, 36 + 100, 100);
    struct bytes file = {0};
    bytes_append(&file, wave.data, 36);
    bytes_append_text(&file, "LIST\xFF\xFF\xFF\xFF");
    for (size_t i = 0; i < 40; i++) {
        bytes_append_text(&file, "\xFF");
    }
    bytes_append_text(&file, "data");
    bytes_append_number(&file, 6, 4, false);
    bytes_append_zeros(&file, 6);
    ser_audio *audio;
    assert_fails(read_bytes(&file, &audio), SER_ERR_DATA,
                 "no audio: the file ends within its header");
    file.data[40] = 40; /* a list of the right size, with nonsense inside */
    file.data[41] = 0;
    file.data[42] = 0;
    file.data[43] = 0;
    assert_ok(read_bytes(&file, &audio));
    ck_assert_int_eq(info_of(audio).frames, 3);
    ser_audio_free(&audio);
    bytes_free(&wave);
    bytes_free(&file);
}
END_TEST

START_TEST(no_format_chunk)
{
    struct bytes wave = wave_head(1, 1, 16000, 16, 136, 100);
    bytes_append_zeros(&wave, 100);
    memcpy(wave.data + 12, "junk", 4);
    ser_audio *audio;
    assert_fails(read_bytes(&wave, &audio), SER_ERR_FORMAT,
                 "a chunk \"fmt \" is missing or damaged");
    bytes_free(&wave);
}
END_TEST

/* AIFF allows the description behind the samples. */
START_TEST(aiff_in_another_order)
{
    struct bytes aiff = encode_noise(SF_FORMAT_AIFF | SF_FORMAT_PCM_16, 16000, 1, 500);
    ck_assert_mem_eq(aiff.data + 12, "COMM\0\0\0\x12", 8);
    struct bytes file = {0};
    bytes_append(&file, aiff.data, 12);
    bytes_append(&file, aiff.data + 38, aiff.size - 38);
    bytes_append(&file, aiff.data + 12, 26);
    ser_audio *audio;
    ser_audio *expected;
    assert_ok(read_strictly(&file, &audio));
    assert_ok(read_strictly(&aiff, &expected));
    size_t count;
    const float *x = ser_audio_samples(audio, &count);
    ck_assert_uint_eq(count, 500);
    ck_assert_mem_eq(x, ser_audio_samples(expected, NULL), count * sizeof *x);
    ser_audio_free(&expected);
    ser_audio_free(&audio);
    bytes_free(&file);
    bytes_free(&aiff);
}
END_TEST

/* A span that ends before the place of the damage is whole. */
START_TEST(au4_cut_behind_the_span)
{
    struct bytes file = encode_noise(SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1, 16000);
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    options.strict = 1;
    options.length = 0.25;
    ser_audio *audio;
    assert_ok(ser_audio_read_memory(file.data, file.size / 2, &options, &audio));
    ck_assert_int_eq(info_of(audio).flags, 0);
    ser_audio_free(&audio);
    options.length = 0.75;
    assert_fails(ser_audio_read_memory(file.data, file.size / 2, &options, &audio), SER_ERR_DATA,
                 "truncated");
    bytes_free(&file);
}
END_TEST

START_TEST(au4_noise_in_the_middle)
{
    static const int formats[] = {SF_FORMAT_FLAC | SF_FORMAT_PCM_16,
                                  SF_FORMAT_OGG | SF_FORMAT_VORBIS, SF_FORMAT_OGG | SF_FORMAT_OPUS};
    for (size_t i = 0; i < 3; i++) {
        struct bytes file = encode_noise(formats[i], 48000, 1, 480000);
        uint64_t state = 3;
        for (size_t k = file.size / 2; k < file.size / 2 + 12000; k++) {
            file.data[k] = (unsigned char)(127.0F * harness_random(&state));
        }
        ser_audio *audio;
        assert_ok(read_bytes(&file, &audio));
        ser_audio_info info = info_of(audio);
        ck_assert_int_gt(info.frames, 100000);
        ck_assert_int_ne(info.flags & SER_AUDIO_TRUNCATED, 0);
        ser_audio_free(&audio);
        assert_fails(read_strictly(&file, &audio), SER_ERR_DATA, "truncated or damaged");
        bytes_free(&file);
    }
}
END_TEST

START_TEST(au12_flac_checksum)
{
    struct bytes file = encode_noise(SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 16000, 2, 8000);
    for (size_t i = 26; i < 42; i++) {
        file.data[i] ^= 0x5A; /* the MD5 of the samples */
    }
    ser_audio *audio;
    assert_ok(read_strictly(&file, &audio));
    ck_assert_int_eq(info_of(audio).frames, 8000);
    ser_audio_free(&audio);
    bytes_free(&file);
}
END_TEST

START_TEST(au12_chained_ogg)
{
    static const int formats[] = {SF_FORMAT_OGG | SF_FORMAT_VORBIS, SF_FORMAT_OGG | SF_FORMAT_OPUS};
    for (size_t i = 0; i < 2; i++) {
        struct bytes file = encode_noise(formats[i], 48000, 1, 30000);
        struct bytes second = encode_noise(formats[i], 48000, 1, 47001);
        bytes_append(&file, second.data, second.size);
        bytes_append(&file, second.data, second.size);
        ser_audio *audio;
        size_t count;
        assert_ok(read_strictly(&file, &audio));
        (void)ser_audio_samples(audio, &count);
        ck_assert_int_eq(info_of(audio).frames, 30000 + 2 * 47001);
        ck_assert_uint_eq(count, 41334);
        ser_audio_free(&audio);
        /* The offset may lie in a later link. */
        ser_audio_options options;
        ser_audio_options_init(&options, sizeof options);
        options.offset = 1.0;
        assert_ok(ser_audio_read_memory(file.data, file.size, &options, &audio));
        ck_assert_int_eq(info_of(audio).frames, 30000 + 2 * 47001 - 48000);
        ser_audio_free(&audio);
        bytes_free(&second);
        bytes_free(&file);
    }
}
END_TEST

/* A link of another rate or channel count cannot be joined: the clip ends before it, flagged. */
START_TEST(au12_chained_ogg_of_two_kinds)
{
    int format = SF_FORMAT_OGG | SF_FORMAT_VORBIS;
    struct bytes first = encode_noise(format, 48000, 1, 30000);
    struct bytes others[] = {encode_noise(format, 44100, 1, 30000),
                             encode_noise(format, 48000, 2, 30000)};
    for (size_t i = 0; i < 2; i++) {
        struct bytes file = {0};
        bytes_append(&file, first.data, first.size);
        bytes_append(&file, others[i].data, others[i].size);
        ser_audio *audio;
        assert_ok(read_bytes(&file, &audio));
        ser_audio_info info = info_of(audio);
        ck_assert_int_eq(info.frames, 30000);
        ck_assert_int_eq(info.sampling_rate, 48000);
        ck_assert_int_eq(info.channels, 1);
        ck_assert_int_eq(info.flags, SER_AUDIO_TRUNCATED);
        ser_audio_free(&audio);
        bytes_free(&others[i]);
        bytes_free(&file);
    }
    bytes_free(&first);
}
END_TEST

START_TEST(au12_opus_length)
{
    static const size_t counts[] = {48000, 12345, 959, 961};
    for (size_t i = 0; i < 4; i++) {
        struct bytes file = encode_noise(SF_FORMAT_OGG | SF_FORMAT_OPUS, 48000, 1, counts[i]);
        ser_audio *audio;
        assert_ok(read_strictly(&file, &audio));
        ck_assert_int_eq(info_of(audio).frames, (int64_t)counts[i]);
        ser_audio_free(&audio);
        bytes_free(&file);
    }
}
END_TEST

/* Junk behind the last page is not part of the audio. */
START_TEST(trailing_junk)
{
    struct bytes file = encode_noise(SF_FORMAT_OGG | SF_FORMAT_VORBIS, 16000, 1, 8000);
    bytes_append_text(&file, "TAGsome old tag that does not belong here");
    ser_audio *audio;
    assert_ok(read_strictly(&file, &audio));
    ck_assert_int_eq(info_of(audio).frames, 8000);
    ser_audio_free(&audio);
    bytes_free(&file);
}
END_TEST

START_TEST(id3_in_front_of_flac)
{
    struct bytes flac = encode_noise(SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 16000, 1, 8000);
    struct bytes file = {0};
    bytes_append(&file, "ID3\x04\x00\x00\x00\x00\x01\x00", 10); /* 128 bytes */
    bytes_append_zeros(&file, 128);
    bytes_append(&file, flac.data, flac.size);
    ser_audio *audio;
    assert_ok(read_strictly(&file, &audio));
    ck_assert_int_eq(info_of(audio).frames, 8000);
    ser_audio_free(&audio);
    assert_fails(ser_audio_read_memory(file.data, 138, NULL, &audio), SER_ERR_DATA,
                 "no audio: the file ends with its ID3 tag");
    file.data[6] = 0x7F; /* a tag of 256 MiB */
    assert_fails(read_bytes(&file, &audio), SER_ERR_DATA,
                 "no audio: the file ends with its ID3 tag");
    bytes_free(&flac);
    bytes_free(&file);
}
END_TEST

struct alien {
    const char *bytes;
    size_t size;
    int status;
    const char *text;
};

#define ALIEN(bytes, status, text)                                                                 \
    {                                                                                              \
        bytes, sizeof bytes - 1, status, text                                                      \
    }

static const struct alien aliens[] = {
    ALIEN("This is a note about a recording.\n", SER_ERR_FORMAT, "(looks like text)"),
    ALIEN("Umlaute: \xC3\xA4\xC3\xB6\xC3\xBC\n", SER_ERR_FORMAT, "(looks like text)"),
    ALIEN("<!DOCTYPE html><title>404</title>", SER_ERR_FORMAT, "(looks like an HTML page)"),
    ALIEN("\xFF\xD8\xFF\xE0\x00\x10JFIF", SER_ERR_FORMAT, "(looks like a JPEG image)"),
    ALIEN("\x89PNG\r\n\x1A\n", SER_ERR_FORMAT, "(looks like a PNG image)"),
    ALIEN("PK\x03\x04 archive", SER_ERR_FORMAT, "(looks like a ZIP archive)"),
    ALIEN("RIFF\x10\x00\x00\x00WEBPVP8 ", SER_ERR_FORMAT, "(looks like a WebP image)"),
    ALIEN("\x01\x02\x03\x04\x05\x06", SER_ERR_FORMAT, "(looks like unknown binary data)"),
    ALIEN("\x00\x00\x00\x20"
          "ftypM4A ",
          SER_ERR_UNSUPPORTED, "(looks like an MP4, M4A or AAC file); convert it"),
    ALIEN("\xFF\xF1\x50\x80\x00\x00", SER_ERR_UNSUPPORTED, "(looks like an AAC stream)"),
    ALIEN("RIFF\x10\x00\x00\x00"
          "AVI LIST",
          SER_ERR_UNSUPPORTED, "(looks like an AVI video)"),
    ALIEN("#!AMR\n<", SER_ERR_UNSUPPORTED, "(looks like an AMR file)"),
};

/* The name says nothing. */
START_TEST(au14_not_audio)
{
    for (size_t i = 0; i < sizeof aliens / sizeof aliens[0]; i++) {
        struct bytes file = {0};
        bytes_append(&file, aliens[i].bytes, aliens[i].size);
        ser_audio *audio;
        assert_fails(ser_audio_read(bytes_save(&file, "clip.wav"), NULL, &audio), aliens[i].status,
                     aliens[i].text);
        assert_fails(ser_audio_read(bytes_save(&file, "clip.wav"), NULL, &audio), aliens[i].status,
                     "clip.wav: not a supported audio file");
        bytes_free(&file);
    }
}
END_TEST

START_TEST(au14_wrong_extension)
{
    struct bytes file = encode_noise(SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 16000, 1, 8000);
    ser_audio *audio;
    assert_ok(ser_audio_read(bytes_save(&file, "clip.mp3"), NULL, &audio));
    ck_assert_int_eq(info_of(audio).frames, 8000);
    ser_audio_free(&audio);
    bytes_free(&file);
}
END_TEST

START_TEST(au18_rare_containers)
{
    static const struct {
        int format;
        const char *text;
    } rare[] = {
        {SF_FORMAT_IRCAM | SF_FORMAT_PCM_16, "an IRCAM file"},
        {SF_FORMAT_PVF | SF_FORMAT_PCM_16, "a PVF file"},
        {SF_FORMAT_AVR | SF_FORMAT_PCM_16, "an AVR file"},
        {SF_FORMAT_PAF | SF_FORMAT_PCM_16, "an Ensoniq PARIS file"},
        {SF_FORMAT_SVX | SF_FORMAT_PCM_16, "an Amiga SVX file"},
        {SF_FORMAT_NIST | SF_FORMAT_PCM_16, "a NIST SPHERE file"},
        {SF_FORMAT_VOC | SF_FORMAT_PCM_16, "a Creative VOC file"},
        {SF_FORMAT_MAT5 | SF_FORMAT_PCM_16, "a MATLAB file"},
        {SF_FORMAT_SDS | SF_FORMAT_PCM_16, "a MIDI sample dump"},
        {SF_FORMAT_CAF | SF_FORMAT_ALAC_16, "a CAF file with ALAC"},
        {SF_FORMAT_AU | SF_FORMAT_G721_32, "a rare encoding"},
        {SF_FORMAT_WAV | SF_FORMAT_NMS_ADPCM_16, "a rare encoding"},
        {SF_FORMAT_AIFF | SF_FORMAT_DWVW_16, "a rare encoding"},
    };
    ser_audio_options options;
    ser_audio_options_init(&options, sizeof options);
    for (size_t i = 0; i < sizeof rare / sizeof rare[0]; i++) {
        struct bytes file = encode_noise(rare[i].format, 16000, 1, 8000);
        ser_audio *audio;
        options.any_format = 0;
        assert_fails(ser_audio_read_memory(file.data, file.size, &options, &audio),
                     SER_ERR_UNSUPPORTED, rare[i].text);
        options.any_format = 1;
        assert_ok(ser_audio_read_memory(file.data, file.size, &options, &audio));
        ck_assert_int_ge(info_of(audio).frames, 8000);
        ser_audio_free(&audio);
        bytes_free(&file);
    }
    ser_audio *audio;
    assert_fails(ser_audio_read_memory("no audio here", 13, &options, &audio), SER_ERR_FORMAT,
                 "cannot be decoded");
}
END_TEST

START_TEST(unknown_encodings)
{
    struct bytes file = wave_head(0x0161, 1, 16000, 16, 36 + 100, 100); /* Windows Media Audio */
    bytes_append_zeros(&file, 100);
    ser_audio *audio;
    int status = read_bytes(&file, &audio);
    ck_assert(status == SER_ERR_UNSUPPORTED || status == SER_ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(ser_error_message(), "cannot be decoded"));
    bytes_free(&file);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("damage");
    TCase *damage = tcase_create("damage");
    tcase_set_timeout(damage, 120);
    tcase_add_test(damage, au1_no_bytes);
    tcase_add_test(damage, au1_no_frames);
    tcase_add_test(damage, au1_header_only);
    tcase_add_test(damage, au3_wave_claims);
    tcase_add_test(damage, au3_flac_claims);
    tcase_add_test(damage, au4_cut);
    tcase_add_test(damage, endless_list);
    tcase_add_test(damage, no_format_chunk);
    tcase_add_test(damage, aiff_in_another_order);
    tcase_add_test(damage, au4_cut_behind_the_span);
    tcase_add_test(damage, au4_noise_in_the_middle);
    tcase_add_test(damage, au12_flac_checksum);
    tcase_add_test(damage, au12_chained_ogg);
    tcase_add_test(damage, au12_chained_ogg_of_two_kinds);
    tcase_add_test(damage, au12_opus_length);
    tcase_add_test(damage, trailing_junk);
    tcase_add_test(damage, id3_in_front_of_flac);
    tcase_add_test(damage, au14_not_audio);
    tcase_add_test(damage, au14_wrong_extension);
    tcase_add_test(damage, au18_rare_containers);
    tcase_add_test(damage, unknown_encodings);
    suite_add_tcase(suite, damage);
    return harness_run(suite);
}
