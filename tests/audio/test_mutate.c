/* SPDX-License-Identifier: MIT */
/*
 * The fuzz target over generated files, as they are and with deterministic damage: cut, bits and
 * numbers of the header changed, pieces moved. SER_TEST_MUTATIONS sets the number per file.
 */
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "harness.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t random_bits(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static size_t random_below(uint64_t *state, size_t limit)
{
    return limit > 0 ? (size_t)(random_bits(state) % limit) : 0;
}

/* A place that leans towards the header, where the interesting fields are. */
static size_t random_place(uint64_t *state, size_t size)
{
    static const size_t ends[] = {16, 64, 256, 4096, SIZE_MAX};
    size_t end = ends[random_below(state, 5)];
    return random_below(state, size < end ? size : end);
}

static void set_number(struct bytes *file, uint64_t *state)
{
    static const uint64_t values[] = {0,          1,          0x7F,      0x80,       0xFF,
                                      0x7FFF,     0x8000,     0xFFFF,    0x7FFFFFFF, 0x80000000,
                                      0xFFFFFFFF, 0xFFFFFFFE, INT64_MAX, UINT64_MAX, 44100,
                                      0x01000000, 1024,       1025,      768000,     3};
    static const size_t sizes[] = {1, 2, 4, 8};
    size_t size = sizes[random_below(state, 4)];
    uint64_t value = values[random_below(state, sizeof values / sizeof values[0])];
    bool big_endian = random_below(state, 2) == 0;
    size_t place = random_place(state, file->size);
    for (size_t i = 0; i < size && place + i < file->size; i++) {
        file->data[place + i] = (unsigned char)(value >> (8 * (big_endian ? size - 1 - i : i)));
    }
}

static void mutate(struct bytes *file, uint64_t *state)
{
    size_t place = random_place(state, file->size);
    size_t other = random_place(state, file->size);
    size_t most = file->size - (place > other ? place : other);
    switch (random_below(state, 6)) {
    case 0: file->size = place; break;
    case 1: file->data[place] ^= (unsigned char)(1U << random_below(state, 8)); break;
    case 2: file->data[place] = (unsigned char)random_bits(state); break;
    case 3: memmove(file->data + place, file->data + other, random_below(state, most)); break;
    default: set_number(file, state); break;
    }
}

/* The fuzz target takes its options from the last byte: bit 1 would let in the rare formats, for
 * whose decoders nothing is promised. */
static void run_bytes(const struct bytes *file, uint64_t choice)
{
    /* A block of its own, so that a sanitizer sees a read behind its end. */
    unsigned char *exact = malloc(file->size + 1);
    ck_assert_ptr_nonnull(exact);
    if (file->size > 0) {
        memcpy(exact, file->data, file->size);
    }
    exact[file->size] = (unsigned char)(choice & ~UINT64_C(2));
    (void)LLVMFuzzerTestOneInput(exact, file->size + 1);
    free(exact);
}

static void run_file(const struct bytes *original, uint64_t seed, size_t count)
{
    uint64_t state = seed;
    run_bytes(original, 0);
    for (size_t i = 0; i < count; i++) {
        struct bytes copy = {0};
        bytes_append(&copy, original->data, original->size);
        size_t steps = 1 + random_below(&state, 4);
        for (size_t k = 0; k < steps && copy.size > 0; k++) {
            mutate(&copy, &state);
        }
        run_bytes(&copy, random_bits(&state) >> 40);
        bytes_free(&copy);
    }
}

static const struct {
    int format, rate, channels;
} kinds[] = {
    {SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1},
    {SF_FORMAT_WAV | SF_FORMAT_FLOAT, 44100, 2},
    {SF_FORMAT_WAV | SF_FORMAT_PCM_U8, 8000, 1},
    {SF_FORMAT_WAV | SF_FORMAT_DOUBLE, 8000, 1},
    {SF_FORMAT_WAV | SF_FORMAT_MS_ADPCM, 8000, 1},
    {SF_FORMAT_WAV | SF_FORMAT_IMA_ADPCM, 8000, 1},
    {SF_FORMAT_WAV | SF_FORMAT_GSM610, 8000, 1},
    {SF_FORMAT_WAVEX | SF_FORMAT_PCM_24, 48000, 6},
    {SF_FORMAT_RF64 | SF_FORMAT_PCM_16, 16000, 1},
    {SF_FORMAT_W64 | SF_FORMAT_PCM_16, 16000, 1},
    {SF_FORMAT_AIFF | SF_FORMAT_PCM_16, 22050, 2},
    {SF_FORMAT_AU | SF_FORMAT_ULAW, 8000, 1},
    {SF_FORMAT_CAF | SF_FORMAT_PCM_16, 16000, 1},
    {SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 16000, 2},
    {SF_FORMAT_OGG | SF_FORMAT_VORBIS, 16000, 1},
    {SF_FORMAT_OGG | SF_FORMAT_OPUS, 48000, 1},
    {SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III, 44100, 2},
};

static size_t mutations(void)
{
    const char *text = getenv("SER_TEST_MUTATIONS");
    return text != NULL ? (size_t)strtoul(text, NULL, 10) : 200;
}

/* G1: nothing is printed meanwhile, not even by the decoders. */
static int silence(int streams[2])
{
    int capture = fileno(tmpfile());
    (void)fflush(NULL);
    streams[0] = dup(STDOUT_FILENO);
    streams[1] = dup(STDERR_FILENO);
    (void)dup2(capture, STDOUT_FILENO);
    (void)dup2(capture, STDERR_FILENO);
    return capture;
}

static int64_t restore(const int streams[2], int capture)
{
    struct stat st;
    (void)fflush(NULL);
    (void)dup2(streams[0], STDOUT_FILENO);
    (void)dup2(streams[1], STDERR_FILENO);
    (void)close(streams[0]);
    (void)close(streams[1]);
    ck_assert_int_eq(fstat(capture, &st), 0);
    return (int64_t)st.st_size;
}

START_TEST(g1_damaged_files)
{
    size_t kind = (size_t)_i;
    if (!can_encode(kinds[kind].format, kinds[kind].rate, kinds[kind].channels)) {
        return;
    }
    size_t frames = (size_t)kinds[kind].rate / 4;
    float *x = sine(kinds[kind].rate, kinds[kind].channels, frames, 440.0);
    struct bytes file =
        encode(kinds[kind].format, kinds[kind].rate, kinds[kind].channels, x, frames);
    int streams[2];
    int64_t live = ser_mem_live();
    int capture = silence(streams);
    run_file(&file, 1000 + kind, mutations());
    int64_t printed = restore(streams, capture);
    ck_assert_msg(printed == 0, "%lld bytes were printed", (long long)printed);
    ck_assert_int_eq(ser_mem_live(), live);
    bytes_free(&file);
    free(x);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("audio_mutate");
    TCase *mutate_case = tcase_create("mutate");
    tcase_set_timeout(mutate_case, 600);
    tcase_add_loop_test(mutate_case, g1_damaged_files, 0, (int)(sizeof kinds / sizeof kinds[0]));
    suite_add_tcase(suite, mutate_case);
    return harness_run(suite);
}
