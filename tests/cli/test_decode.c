/* SPDX-License-Identifier: MIT */
/* Files decoded ahead: all of them, in order, whatever bounds how far ahead. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ser/common.h>

#include "decode.h"
#include "text.h"

enum { FILES = 40, RATE = 16000 };

static char folder[] = "/tmp/ser-decode-XXXXXX";
static char path[FILES][64];

static void put_little_endian(unsigned char *to, uint32_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        to[i] = (unsigned char)(value >> 8 * i);
    }
}

/* Silence, 16 bit, mono. */
static void write_wav(const char *name, uint32_t samples)
{
    unsigned char header[44] = "RIFF    WAVEfmt ";
    put_little_endian(header + 4, 36 + 2 * samples, 4);
    put_little_endian(header + 16, 16, 4);
    put_little_endian(header + 20, 1, 2);
    put_little_endian(header + 22, 1, 2);
    put_little_endian(header + 24, RATE, 4);
    put_little_endian(header + 28, 2 * RATE, 4);
    put_little_endian(header + 32, 2, 2);
    put_little_endian(header + 34, 16, 2);
    memcpy(header + 36, "data", 4);
    put_little_endian(header + 40, 2 * samples, 4);
    unsigned char *silence = calloc(samples, 2);
    FILE *file = fopen(name, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(header, 1, sizeof header, file), sizeof header);
    ck_assert_uint_eq(fwrite(silence, 2, samples, file), samples);
    ck_assert_int_eq(fclose(file), 0);
    free(silence);
}

static uint32_t samples_of(size_t file)
{
    return 4000 + 100 * (uint32_t)(file % 7);
}

static void setup(void)
{
    ck_assert_ptr_nonnull(mkdtemp(folder));
    for (size_t i = 0; i < FILES; i++) {
        snprintf(path[i], sizeof path[i], "%s/%02zu.wav", folder, i);
        if (i % 11 != 5) { /* those are missing */
            write_wav(path[i], samples_of(i));
        }
    }
}

static void teardown(void)
{
    for (size_t i = 0; i < FILES; i++) {
        remove(path[i]);
    }
    remove(folder);
}

static void check_file(decoder *d, decode_file *file)
{
    ser_audio *audio = NULL;
    double start = 0.0;
    size_t count = 0;
    const int status = decode_take(d, file, &audio, &start);
    if (file->index % 11 == 5) {
        ck_assert_int_eq(status, SER_ERR_IO);
        return;
    }
    ck_assert_int_eq(status, 0);
    ser_audio_samples(audio, &count);
    ck_assert_uint_eq(count, samples_of(file->index));
    ser_audio_free(&audio);
    ck_assert_int_eq(decode_take(d, file, &audio, &start), 0);
    ck_assert_ptr_null(audio);
}

START_TEST(every_file_comes_in_its_turn)
{
    static const struct {
        size_t threads, ahead, memory;
    } plans[] = {{1, 1, 1}, {3, 8, 1}, {4, 8, 40000}, {8, FILES, 64 << 20}, {16, 2, 64 << 20}};
    file_list files = {.entries = NULL};
    char *operands[FILES];
    for (size_t i = 0; i < FILES; i++) {
        operands[i] = path[i];
    }
    files_collect(&files, operands, FILES);
    ck_assert_uint_eq(files.count, FILES);
    for (size_t p = 0; p < sizeof plans / sizeof *plans; p++) {
        decode_plan plan = {.files = &files,
                            .window = 1.0,
                            .hop = 1.0,
                            .limit = 30.0,
                            .join = true,
                            .threads = plans[p].threads,
                            .ahead = plans[p].ahead,
                            .memory = plans[p].memory};
        ser_audio_options_init(&plan.audio, sizeof plan.audio);
        decoder *d = decoder_start(&plan);
        for (size_t i = 0; i < FILES; i++) {
            decode_file *file = decoder_next(d);
            ck_assert_ptr_nonnull(file);
            ck_assert_uint_eq(file->index, i);
            check_file(d, file);
            decoder_release(d, file);
        }
        ck_assert_ptr_null(decoder_next(d));
        decoder_free(&d);
        ck_assert_ptr_null(d);
    }
    files_free(&files);
}
END_TEST

/*
 * With the first file's samples the memory is used up, so that no thread may begin with the second,
 * a pipe: it has no reader until the first file is released.
 */
START_TEST(no_more_is_decoded_than_there_is_memory_for)
{
    char pipe_path[64];
    snprintf(pipe_path, sizeof pipe_path, "%s/pipe.wav", folder);
    ck_assert_int_eq(mkfifo(pipe_path, 0600), 0);
    file_list files = {.entries = NULL};
    char *operands[] = {path[0], pipe_path};
    files_collect(&files, operands, 2);
    decode_plan plan = {.files = &files,
                        .window = 1.0,
                        .hop = 1.0,
                        .limit = 30.0,
                        .join = true,
                        .threads = 4,
                        .ahead = 2,
                        .memory = 1};
    ser_audio_options_init(&plan.audio, sizeof plan.audio);
    decoder *d = decoder_start(&plan);
    decode_file *file = decoder_next(d);
    ck_assert_ptr_nonnull(file);
    usleep(200000); /* for a thread that does not keep to it */
    ck_assert_int_eq(open(pipe_path, O_WRONLY | O_NONBLOCK), -1);
    ck_assert_int_eq(errno, ENXIO);
    decoder_release(d, file);
    const int writer = open(pipe_path, O_WRONLY); /* waits for the reader */
    ck_assert_int_ge(writer, 0);
    close(writer);
    file = decoder_next(d);
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ne(file->status, 0); /* an empty file */
    decoder_release(d, file);
    decoder_free(&d);
    remove(pipe_path);
    files_free(&files);
}
END_TEST

/* With files still waiting, in every state. */
START_TEST(decoding_can_be_given_up)
{
    file_list files = {.entries = NULL};
    char *operands[] = {folder};
    files_collect(&files, operands, 1);
    decode_plan plan = {.files = &files,
                        .window = 1.0,
                        .hop = 1.0,
                        .limit = 30.0,
                        .join = true,
                        .threads = 4,
                        .ahead = 6,
                        .memory = 20000};
    ser_audio_options_init(&plan.audio, sizeof plan.audio);
    decoder *d = decoder_start(&plan);
    decode_file *file = decoder_next(d);
    ck_assert_ptr_nonnull(file);
    decoder_release(d, file);
    decoder_free(&d);
    files_free(&files);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("decode");
    TCase *tests = tcase_create("decode");
    tcase_add_unchecked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, every_file_comes_in_its_turn);
    tcase_add_test(tests, no_more_is_decoded_than_there_is_memory_for);
    tcase_add_test(tests, decoding_can_be_given_up);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
