/* SPDX-License-Identifier: MIT */
/* Clips decoded once: facts, hashes, failures, progress, stopping; the digest of a run's data. */
#include <ser/audio.h>
#include <ser/common.h>

#include "data_support.h"
#include "scan.h"

/* A finished data set of files in the temporary folder "s". */
static void make_set(dataset *ds, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "s/%s", names[i]);
        support_clip(ds, "made", "1", i % 2 == 0 ? "sad" : "happy", support_path(name));
    }
    assert_says(dataset_finish(ds), 0, "");
}

static void scan_set(const dataset *ds, size_t threads, scan *out)
{
    scan_options options;
    scan_options_init(&options);
    options.threads = threads;
    ck_assert_int_eq(scan_run(ds, &options, out), SER_OK);
}

static size_t differing_bits(const scan_entry *a, const scan_entry *b)
{
    size_t bits = 0;
    for (size_t i = 0; i < SCAN_PRINT_WORDS; i++) {
        bits += (size_t)__builtin_popcountll(a->print[i] ^ b->print[i]);
    }
    return bits;
}

START_TEST(facts_are_kept_in_order)
{
    static const char *const names[] = {"a.wav", "b.wav", "silent.wav", "short.wav"};
    dataset ds = {0};
    scan s;
    support_wav("s/a.wav", 16000, 1.0, 1, 0.5);
    support_wav("s/b.wav", 48000, 2.0, 2, 0.5);
    support_wav("s/silent.wav", 8000, 0.5, 1, 0.0);
    support_wav("s/short.wav", 16000, 0.02, 1, 0.5);
    make_set(&ds, names, 4);
    scan_set(&ds, 3, &s);
    ck_assert_uint_eq(s.count, 4);
    ck_assert_uint_eq(s.failed, 0);
    ck_assert_uint_eq(s.entries[0].samples, 16000);
    ck_assert_uint_eq(s.entries[1].samples, 32000);
    ck_assert(scan_seconds(&s.entries[1]) == 2.0);
    ck_assert_int_eq(s.entries[1].sampling_rate, 48000);
    ck_assert_int_eq(s.entries[2].flags & SER_AUDIO_SILENT, SER_AUDIO_SILENT);
    ck_assert_int_eq(s.entries[3].flags & SER_AUDIO_SHORT, SER_AUDIO_SHORT);
    ck_assert_uint_eq(s.entries[2].print[0], 0);
    ck_assert(s.entries[0].peak > 0.1F && s.entries[0].rms > 0.0F);
    ck_assert_int_eq(s.entries[0].channels, 1);
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(threads_change_nothing)
{
    enum { CLIPS = 24 };
    dataset ds = {0};
    char names[CLIPS][16];
    const char *list[CLIPS];
    for (int i = 0; i < CLIPS; i++) {
        char file[32];
        snprintf(names[i], sizeof names[i], "t%d.wav", i);
        snprintf(file, sizeof file, "s/t%d.wav", i);
        support_wav(file, i % 2 == 0 ? 16000 : 22050, 0.3 + 0.01 * i, (uint64_t)i, 0.3);
        list[i] = names[i];
    }
    make_set(&ds, list, CLIPS);
    scan one;
    scan many;
    scan_set(&ds, 1, &one);
    scan_set(&ds, 40, &many);
    for (int i = 0; i < CLIPS; i++) {
        ck_assert_uint_eq(one.entries[i].hash, many.entries[i].hash);
        ck_assert_uint_eq(one.entries[i].samples, many.entries[i].samples);
        for (int j = 0; j < i; j++) {
            ck_assert(one.entries[i].hash != one.entries[j].hash);
        }
    }
    scan_free(&one);
    scan_free(&many);
    dataset_free(&ds);
}
END_TEST

START_TEST(hashes_are_of_samples_and_prints_ignore_gain)
{
    static const char *const names[] = {"h1.wav", "h2.wav", "quiet.wav", "fast.wav", "other.wav"};
    dataset ds = {0};
    scan s;
    support_wav("s/h1.wav", 16000, 1.5, 5, 0.8);
    support_wav("s/h2.wav", 16000, 1.5, 5, 0.8);
    support_wav("s/quiet.wav", 16000, 1.5, 5, 0.1);
    support_wav("s/fast.wav", 44100, 1.5, 5, 0.8);
    support_wav("s/other.wav", 16000, 1.5, 6, 0.8);
    make_set(&ds, names, 5);
    scan_set(&ds, 2, &s);
    ck_assert_uint_eq(s.entries[0].hash, s.entries[1].hash);
    ck_assert(s.entries[0].hash != s.entries[2].hash);
    ck_assert_uint_eq(differing_bits(&s.entries[0], &s.entries[1]), 0);
    ck_assert_uint_le(differing_bits(&s.entries[0], &s.entries[2]), 6);
    ck_assert_uint_le(differing_bits(&s.entries[0], &s.entries[3]), 6);
    ck_assert_uint_ge(differing_bits(&s.entries[0], &s.entries[4]), 40);
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(stretches_are_decoded_alone)
{
    dataset ds = {0};
    scan s;
    support_wav("s/long.wav", 16000, 3.0, 9, 0.5);
    for (int i = 0; i < 4; i++) {
        support_clip(&ds, "made", "1", i % 2 == 0 ? "sad" : "happy", support_path("s/long.wav"));
        ds.clips[i].start = i == 3 ? 10.0 : 0.5 * i;
        ds.clips[i].end = i == 0 ? 1.0 : i == 1 ? 1.25 : 0.0;
    }
    assert_says(dataset_finish(&ds), 0, "");
    scan_set(&ds, 2, &s);
    ck_assert_uint_eq(s.entries[0].samples, 16000);
    ck_assert_uint_eq(s.entries[1].samples, 12000);
    ck_assert_uint_eq(s.entries[2].samples, 32000);
    ck_assert_int_ne(s.entries[3].status, SER_OK); /* begins behind the end */
    ck_assert(s.entries[0].hash != s.entries[1].hash);
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(unreadable_files_are_told_or_left_out)
{
    static const char *const names[] = {"a.wav", "text.wav", "b.wav", "none.wav", "c.wav"};
    dataset ds = {0};
    scan s;
    support_wav("s/a.wav", 16000, 0.5, 1, 0.5);
    support_wav("s/b.wav", 16000, 0.5, 2, 0.5);
    support_wav("s/c.wav", 16000, 0.5, 3, 0.5);
    support_text("s/text.wav", "this is no audio at all");
    make_set(&ds, names, 5);
    scan_set(&ds, 2, &s);
    ck_assert_uint_eq(s.failed, 2);
    ck_assert_int_eq(s.entries[3].status, SER_ERR_IO);
    uint64_t hash = s.entries[4].hash;
    assert_says(scan_check(&s, &ds, false), 7, "2 of 5 clips cannot be decoded; --skip-bad");
    assert_says(scan_check(&s, &ds, false), 7, "none.wav");
    ck_assert_uint_eq(ds.count, 5);
    assert_says(scan_check(&s, &ds, true), 0, "2 of 5 clips cannot be decoded and are left out");
    ck_assert_uint_eq(ds.count, 3);
    ck_assert_uint_eq(s.count, 3);
    ck_assert_uint_eq(s.entries[2].hash, hash);
    ck_assert_str_eq(ds.clips[2].path, support_path("s/c.wav"));
    ck_assert_uint_eq(ds.skipped_count, 2);
    ck_assert_str_eq(ds.skipped[0].path, support_path("s/text.wav"));
    ck_assert_uint_eq(ds.corpora[0].clip_count, 3);
    assert_says(scan_check(&s, &ds, false), 0, "");
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(nothing_readable_is_an_error)
{
    static const char *const names[] = {"text.wav", "none.wav"};
    dataset ds = {0};
    scan s;
    support_text("s/text.wav", "this is no audio at all");
    make_set(&ds, names, 2);
    scan_set(&ds, 0, &s);
    assert_says(scan_check(&s, &ds, true), 7, "2 of 2 clips cannot be decoded");
    ck_assert_uint_eq(ds.count, 2);
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

typedef struct watch {
    size_t calls;
    size_t done;
    size_t total;
} watch;

static void on_progress(size_t done, size_t total, void *user)
{
    watch *w = user;
    ck_assert_uint_ge(done, w->done);
    w->calls++;
    w->done = done;
    w->total = total;
}

static int stop_at_once(void)
{
    return 1;
}

START_TEST(progress_is_reported)
{
    static const char *const names[] = {"a.wav", "b.wav"};
    dataset ds = {0};
    scan s;
    watch w = {0};
    support_wav("s/a.wav", 16000, 0.5, 1, 0.5);
    support_wav("s/b.wav", 16000, 0.5, 2, 0.5);
    make_set(&ds, names, 2);
    scan_options options;
    scan_options_init(&options);
    options.progress = on_progress;
    options.user = &w;
    ck_assert_int_eq(scan_run(&ds, &options, &s), SER_OK);
    ck_assert_uint_ge(w.calls, 1);
    ck_assert_uint_eq(w.done, 2);
    ck_assert_uint_eq(w.total, 2);
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(a_stop_ends_the_scan)
{
    dataset ds = {0};
    scan s;
    support_wav("s/long.wav", 48000, 20.0, 9, 0.5);
    for (int i = 0; i < 2000; i++) {
        support_clip(&ds, "made", "1", i % 2 == 0 ? "sad" : "happy", support_path("s/long.wav"));
    }
    assert_says(dataset_finish(&ds), 0, "");
    scan_options options;
    scan_options_init(&options);
    options.threads = 1;
    options.stop = stop_at_once;
    ck_assert_int_eq(scan_run(&ds, &options, &s), SER_ERR_CANCELLED);
    ck_assert(!s.entries[1999].done);
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(an_empty_set_is_scanned)
{
    dataset ds = {0};
    scan s;
    scan_set(&ds, 0, &s);
    ck_assert_uint_eq(s.count, 0);
    scan_free(&s);
}
END_TEST

static uint64_t digest_of(const char *folder, const char *second_label, const uint8_t *parts,
                          uint64_t seed)
{
    dataset ds = {0};
    scan s;
    char a[64];
    char b[64];
    snprintf(a, sizeof a, "%s/a.wav", folder);
    snprintf(b, sizeof b, "%s/b.wav", folder);
    support_wav(a, 16000, 0.3, 1, 0.5);
    support_wav(b, 16000, 0.3, seed, 0.5);
    support_clip(&ds, "made", "1", "sad", support_path(a));
    support_clip(&ds, "made", "1", second_label, support_path(b));
    assert_says(dataset_finish(&ds), 0, "");
    scan_set(&ds, 2, &s);
    uint64_t digest = scan_digest(&s, &ds, parts);
    scan_free(&s);
    dataset_free(&ds);
    return digest;
}

START_TEST(the_digest_is_of_the_data_not_of_its_place)
{
    static const uint8_t parts[] = {DATASET_TRAIN, DATASET_TEST};
    uint64_t digest = digest_of("d1", "happy", NULL, 2);
    ck_assert_uint_eq(digest_of("elsewhere/d2", "happy", NULL, 2), digest);
    ck_assert(digest_of("d1", "angry", NULL, 2) != digest);
    ck_assert(digest_of("d1", "happy", parts, 2) != digest);
    ck_assert(digest_of("d1", "happy", NULL, 3) != digest);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scan");
    TCase *tests = tcase_create("scan");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, facts_are_kept_in_order);
    tcase_add_test(tests, threads_change_nothing);
    tcase_add_test(tests, hashes_are_of_samples_and_prints_ignore_gain);
    tcase_add_test(tests, stretches_are_decoded_alone);
    tcase_add_test(tests, unreadable_files_are_told_or_left_out);
    tcase_add_test(tests, nothing_readable_is_an_error);
    tcase_add_test(tests, progress_is_reported);
    tcase_add_test(tests, a_stop_ends_the_scan);
    tcase_add_test(tests, an_empty_set_is_scanned);
    tcase_add_test(tests, the_digest_is_of_the_data_not_of_its_place);
    suite_add_tcase(suite, tests);
    return support_run(suite);
}
