/* SPDX-License-Identifier: MIT */
/* AU17: the same file gives the same bits in every run and in every one of many threads. */
#include <pthread.h>

#include "audio/audio.h"
#include "files.h"
#include "harness.h"

enum { THREADS = 64, FILES = 5, ROUNDS = 2 };

struct job {
    pthread_t thread;
    size_t number;
    const struct bytes *files;
    ser_audio *const *expected;
    const char *problem;
};

static bool equal(const ser_audio *a, const ser_audio *b)
{
    size_t count;
    size_t other;
    const float *x = ser_audio_samples(a, &count);
    const float *y = ser_audio_samples(b, &other);
    ser_audio_info p = {.struct_size = sizeof p};
    ser_audio_info q = {.struct_size = sizeof q};
    return count == other && memcmp(x, y, count * sizeof *x) == 0 &&
           ser_audio_get_info(a, &p) == 0 && ser_audio_get_info(b, &q) == 0 &&
           memcmp(&p, &q, sizeof p) == 0;
}

static void *read_all(void *user)
{
    struct job *job = user;
    for (size_t i = 0; i < ROUNDS * FILES; i++) {
        size_t k = (job->number + i) % FILES;
        ser_audio *audio;
        if (ser_audio_read_memory(job->files[k].data, job->files[k].size, NULL, &audio) != 0) {
            job->problem = "a file was refused";
            return NULL;
        }
        if (!equal(audio, job->expected[k])) {
            job->problem = "a file gave other samples or facts";
        }
        ser_audio_free(&audio);
        /* Failures in between, whose texts belong to this thread. */
        if (ser_audio_read_memory("text", 4, NULL, &audio) != SER_ERR_FORMAT ||
            strstr(ser_error_message(), "looks like text") == NULL) {
            job->problem = "a failure had another text";
        }
    }
    return NULL;
}

START_TEST(au17_many_threads)
{
    static const int formats[FILES] = {
        SF_FORMAT_WAV | SF_FORMAT_PCM_16, SF_FORMAT_FLAC | SF_FORMAT_PCM_16,
        SF_FORMAT_OGG | SF_FORMAT_VORBIS, SF_FORMAT_OGG | SF_FORMAT_OPUS,
        SF_FORMAT_MPEG | SF_FORMAT_MPEG_LAYER_III};
    static const int rates[FILES] = {44100, 48000, 22050, 48000, 44100};
    struct bytes files[FILES];
    ser_audio *expected[FILES];
    static struct job jobs[THREADS];
    for (size_t i = 0; i < FILES; i++) {
        float *x = sine(rates[i], 2, 30000, 440.0);
        int format = can_encode(formats[i], rates[i], 2) ? formats[i] : formats[0];
        files[i] = encode(format, rates[i], 2, x, 30000);
        assert_ok(ser_audio_read_memory(files[i].data, files[i].size, NULL, &expected[i]));
        free(x);
    }
    for (size_t i = 0; i < THREADS; i++) {
        jobs[i] = (struct job){.number = i, .files = files, .expected = expected};
        ck_assert_int_eq(pthread_create(&jobs[i].thread, NULL, read_all, &jobs[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(jobs[i].thread, NULL), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        ck_assert_msg(jobs[i].problem == NULL, "thread %zu: %s", i, jobs[i].problem);
    }
    for (size_t i = 0; i < FILES; i++) {
        ser_audio_free(&expected[i]);
        bytes_free(&files[i]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("audio_threads");
    TCase *threads = tcase_create("threads");
    tcase_set_timeout(threads, 120);
    tcase_add_test(threads, au17_many_threads);
    suite_add_tcase(suite, threads);
    return harness_run(suite);
}
