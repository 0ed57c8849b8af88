/* SPDX-License-Identifier: MIT */
/* What stands in two parts; made-up scans, so that every coincidence can be arranged. */
#include "data_support.h"
#include "leaks.h"

enum { TRAIN = DATASET_TRAIN, VALIDATION = DATASET_VALIDATION, TEST = DATASET_TEST };

static dataset_clip *add(dataset *ds, const char *speaker, const char *label, const char *path)
{
    support_clip(ds, "made", speaker, label, path);
    return &ds->clips[ds->count - 1];
}

static void add_take(dataset *ds, const char *label, const char *text, int intensity, int take)
{
    char path[64];
    snprintf(path, sizeof path, "%s-%s-%d-%d", label, text, intensity, take);
    dataset_clip *c = add(ds, "1", label, path);
    c->text = intern(&ds->strings, text, NULL);
    c->intensity = (int8_t)intensity;
    c->repetition = take;
}

/* A scan where every clip is a different recording of a second. */
static void make_scan(scan *s, const dataset *ds)
{
    *s = (scan){.count = ds->count, .entries = calloc(ds->count, sizeof *s->entries)};
    ck_assert_ptr_nonnull(s->entries);
    for (size_t i = 0; i < ds->count; i++) {
        s->entries[i] = (scan_entry){.hash = i + 1, .samples = 16000, .done = true};
        for (size_t w = 0; w < SCAN_PRINT_WORDS; w++) {
            s->entries[i].print[w] = (i + 1) * 0x9e3779b97f4a7c15U ^ (w + 7 * i) << 40;
        }
    }
}

/* Counts of all kinds in order, such as "1 0 0 0 0 0". */
#define assert_counts(report, ...)                                                                 \
    do {                                                                                           \
        const size_t expected_[LEAK_KINDS] = {__VA_ARGS__};                                        \
        for (size_t kind_ = 0; kind_ < LEAK_KINDS; kind_++) {                                      \
            ck_assert_msg((report).findings[kind_].count == expected_[kind_], "%s: %zu, not %zu",  \
                          leak_names[kind_], (report).findings[kind_].count, expected_[kind_]);    \
        }                                                                                          \
    } while (0)

START_TEST(clean_splits_are_clean)
{
    static const uint8_t parts[] = {TRAIN, TRAIN, VALIDATION, TEST, DATASET_UNUSED};
    dataset ds = {0};
    leak_report r;
    scan s;
    add(&ds, "1", "sad", "a");
    add(&ds, "1", "happy", "b");
    add(&ds, "2", "sad", "c");
    add(&ds, "3", "happy", "d");
    add(&ds, "1", "happy", "a"); /* unused: leaks nothing */
    assert_says(dataset_finish(&ds), 0, "");
    make_scan(&s, &ds);
    leaks_find(&ds, parts, &s, &r);
    assert_counts(r, 0, 0, 0, 0, 0, 0);
    ck_assert_uint_eq(r.refusing, 0);
    ck_assert(r.audio_checked);
    assert_says(leaks_check(&r, &ds, parts, false), 0, "");
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(speakers_in_two_parts)
{
    static const uint8_t parts[] = {TRAIN, TEST, TRAIN, VALIDATION, TRAIN, TEST};
    dataset ds = {0};
    leak_report r;
    add(&ds, "1", "sad", "a");
    add(&ds, "1", "happy", "b");
    add(&ds, "2", "sad", "c");
    add(&ds, "2", "happy", "d");
    add(&ds, "", "sad", "e"); /* nobody knows */
    add(&ds, "", "happy", "f");
    assert_says(dataset_finish(&ds), 0, "");
    leaks_find(&ds, parts, NULL, &r);
    assert_counts(r, 2, 0, 0, 0, 0, 0);
    ck_assert_uint_eq(r.findings[LEAK_SPEAKER].clips, 4);
    ck_assert(!r.audio_checked);
    char *text = leaks_describe(&r, LEAK_SPEAKER, &ds, parts);
    ck_assert_str_eq(text, "2 speakers are in two parts: 1, a (train) and b (test); "
                           "2, c (train) and d (validation)");
    free(text);
    assert_says(leaks_check(&r, &ds, parts, false), 7, "tool: leak: 2 speakers");
    assert_says(leaks_check(&r, &ds, parts, false), 7, "--allow-leaks");
    assert_says(leaks_check(&r, &ds, parts, true), 0, "warning: leak: 2 speakers");
    dataset_free(&ds);
}
END_TEST

START_TEST(equal_names_in_two_corpora_are_two_people)
{
    static const uint8_t parts[] = {TRAIN, TEST};
    dataset ds = {0};
    leak_report r;
    support_clip(&ds, "a", "1", "sad", "x");
    support_clip(&ds, "b", "1", "happy", "y");
    assert_says(dataset_finish(&ds), 0, "");
    leaks_find(&ds, parts, NULL, &r);
    assert_counts(r, 0, 0, 0, 0, 0, 0);
    dataset_free(&ds);
}
END_TEST

START_TEST(takes_in_two_parts)
{
    static const uint8_t parts[] = {TRAIN, TEST, TRAIN, TEST, TRAIN, TEST, TRAIN, TEST, TRAIN};
    dataset ds = {0};
    leak_report r;
    labels_add_merge(&ds.rules, "calm=neutral");
    add_take(&ds, "sad", "dogs", 2, 1);
    add_take(&ds, "sad", "dogs", 2, 2); /* of the one before */
    add_take(&ds, "sad", "kids", 2, 1);
    add_take(&ds, "sad", "dogs", 3, 1);     /* another intensity */
    add_take(&ds, "calm", "dogs", 2, 1);    /* another emotion, ... */
    add_take(&ds, "neutral", "dogs", 2, 1); /* ... though merged with this one */
    add_take(&ds, "sad", "rain", 2, 1);
    add_take(&ds, "sad", "rain", 2, 0); /* repetition not known */
    add_take(&ds, "sad", "kids", 2, 2); /* same part as its twin */
    assert_says(dataset_finish(&ds), 0, "");
    leaks_find(&ds, parts, NULL, &r);
    assert_counts(r, 1, 1, 0, 0, 0, 0);
    ck_assert_uint_eq(r.findings[LEAK_REPETITION].examples[0][0], 0);
    ck_assert_uint_eq(r.findings[LEAK_REPETITION].examples[0][1], 1);
    ck_assert_uint_eq(r.refusing, 2);
    char *text = leaks_describe(&r, LEAK_REPETITION, &ds, parts);
    ck_assert_ptr_nonnull(strstr(text, "1 sentence has takes in two parts: sad-dogs-2-1 (train)"));
    free(text);
    dataset_free(&ds);
}
END_TEST

/* Stretches [start, end) of one file in train and test; whether they overlap. */
START_TEST(overlapping_stretches_in_two_parts)
{
    static const struct {
        double first[2];
        double second[2];
        size_t leaks;
    } cases[] = {
        {{0, 0}, {0, 0}, 1}, {{0, 1}, {1, 2}, 0}, {{0, 1.5}, {1, 2}, 1}, {{1, 2}, {0, 1}, 0},
        {{1, 2}, {0, 3}, 1}, {{5, 0}, {1, 4}, 0}, {{3, 0}, {1, 4}, 1},   {{0, 0}, {100, 101}, 1},
    };
    static const uint8_t parts[] = {TRAIN, TEST, TRAIN};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        dataset ds = {0};
        leak_report r;
        dataset_clip *c = add(&ds, "1", "sad", "a");
        c->start = cases[i].first[0];
        c->end = cases[i].first[1];
        c = add(&ds, "2", "happy", "a");
        c->start = cases[i].second[0];
        c->end = cases[i].second[1];
        add(&ds, "1", "sad", "b");
        assert_says(dataset_finish(&ds), 0, "");
        leaks_find(&ds, parts, NULL, &r);
        assert_counts(r, 0, 0, cases[i].leaks, 0, 0, 0);
        dataset_free(&ds);
    }
}
END_TEST

START_TEST(equal_audio_in_two_parts)
{
    static const uint8_t parts[] = {TRAIN, TEST, TRAIN, TRAIN, TRAIN, TEST, TRAIN, TEST};
    dataset ds = {0};
    leak_report r;
    scan s;
    for (int i = 0; i < 8; i++) {
        char name[] = {(char)('a' + i), '\0'};
        add(&ds, "", i % 2 == 0 ? "sad" : "happy", name);
    }
    assert_says(dataset_finish(&ds), 0, "");
    make_scan(&s, &ds);
    s.entries[1].hash = s.entries[0].hash; /* two parts, two labels */
    s.entries[4].hash = s.entries[2].hash; /* one part, one label */
    s.entries[5].hash = s.entries[3].hash; /* but of another length */
    s.entries[5].samples = 9999;
    s.entries[7].hash = s.entries[6].hash; /* silence is alike */
    s.entries[6].flags = SER_AUDIO_SILENT;
    s.entries[7].flags = SER_AUDIO_SILENT;
    leaks_find(&ds, parts, &s, &r);
    assert_counts(r, 0, 0, 0, 1, 0, 1);
    ck_assert_uint_eq(r.findings[LEAK_AUDIO].clips, 2);
    ck_assert_uint_eq(r.refusing, 1);
    char *text = leaks_describe(&r, LEAK_LABELS, &ds, parts);
    ck_assert_str_eq(text, "1 recording has two labels: a (sad) and b (happy)");
    free(text);
    assert_says(leaks_check(&r, &ds, parts, false), 7, "leak: 1 recording is in two parts: a");
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(two_labels_alone_do_not_refuse)
{
    static const uint8_t parts[] = {TRAIN, TRAIN};
    dataset ds = {0};
    leak_report r;
    scan s;
    add(&ds, "1", "sad", "a");
    add(&ds, "1", "happy", "b");
    assert_says(dataset_finish(&ds), 0, "");
    make_scan(&s, &ds);
    s.entries[1] = s.entries[0];
    leaks_find(&ds, parts, &s, &r);
    assert_counts(r, 0, 0, 0, 0, 0, 1);
    assert_says(leaks_check(&r, &ds, parts, false), 0, "warning: 1 recording has two labels");
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(nearly_equal_audio_is_reported)
{
    static const uint8_t parts[] = {TRAIN, TEST, TRAIN, TRAIN, TEST, TEST};
    dataset ds = {0};
    leak_report r;
    scan s;
    for (int i = 0; i < 6; i++) {
        char name[] = {(char)('a' + i), '\0'};
        add(&ds, "", i < 3 ? "sad" : "happy", name);
    }
    assert_says(dataset_finish(&ds), 0, "");
    make_scan(&s, &ds);
    for (size_t i = 1; i < 5; i++) {
        memcpy(s.entries[i].print, s.entries[0].print, sizeof s.entries[i].print);
    }
    s.entries[1].print[2] ^= 0xfff;  /* 12 bits: the same recording, in another part */
    s.entries[2].print[1] ^= 0x1fff; /* 13 bits: too many */
    s.entries[3].print[3] ^= 1;      /* another label */
    s.entries[3].samples += 160;
    s.entries[4].samples += 400; /* too long */
    leaks_find(&ds, parts, &s, &r);
    assert_counts(r, 0, 0, 0, 0, 1, 1);
    ck_assert_uint_eq(r.findings[LEAK_ALIKE].examples[0][0], 0);
    ck_assert_uint_eq(r.findings[LEAK_ALIKE].examples[0][1], 1);
    ck_assert_uint_eq(r.findings[LEAK_LABELS].examples[0][1], 3);
    ck_assert_uint_eq(r.refusing, 0);
    assert_says(leaks_check(&r, &ds, parts, false), 0,
                "warning: 1 pair of clips in two parts is nearly the same audio");
    for (size_t i = 0; i < 6; i++) {
        memset(s.entries[i].print, 0, sizeof s.entries[i].print);
    }
    leaks_find(&ds, parts, &s, &r);
    assert_counts(r, 0, 0, 0, 0, 0, 0);
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(failed_clips_are_not_compared)
{
    static const uint8_t parts[] = {TRAIN, TEST};
    dataset ds = {0};
    leak_report r;
    add(&ds, "", "sad", "a");
    add(&ds, "", "happy", "b");
    assert_says(dataset_finish(&ds), 0, "");
    scan s;
    make_scan(&s, &ds);
    memset(s.entries, 0, 2 * sizeof *s.entries);
    leaks_find(&ds, parts, &s, &r);
    assert_counts(r, 0, 0, 0, 0, 0, 0);
    scan_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(the_first_examples_are_shown)
{
    enum { SPEAKERS = 40 };
    uint8_t parts[2 * SPEAKERS];
    dataset ds = {0};
    leak_report r;
    for (int i = SPEAKERS; i-- > 0;) { /* so that addresses have another order than clips */
        char path[16];
        snprintf(path, sizeof path, "p%d", i);
        intern(&ds.strings, path, NULL);
    }
    for (int i = 0; i < 2 * SPEAKERS; i++) {
        char name[16];
        char path[16];
        snprintf(name, sizeof name, "s%d", (i * 7) % SPEAKERS);
        snprintf(path, sizeof path, "p%d", i % SPEAKERS);
        add(&ds, name, i % 3 == 0 ? "sad" : "happy", path);
        parts[i] = i < SPEAKERS ? TRAIN : TEST;
    }
    assert_says(dataset_finish(&ds), 0, "");
    leaks_find(&ds, parts, NULL, &r);
    assert_counts(r, SPEAKERS, 0, SPEAKERS, 0, 0, 0);
    for (int kind = LEAK_SPEAKER; kind <= LEAK_FILE; kind += LEAK_FILE) {
        ck_assert_uint_eq(r.findings[kind].example_count, LEAK_EXAMPLES);
        for (size_t i = 0; i < LEAK_EXAMPLES; i++) {
            ck_assert_uint_eq(r.findings[kind].examples[i][0], i);
            ck_assert_uint_eq(r.findings[kind].examples[i][1], i + SPEAKERS);
        }
    }
    dataset_free(&ds);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("leaks");
    TCase *tests = tcase_create("leaks");
    tcase_add_test(tests, clean_splits_are_clean);
    tcase_add_test(tests, speakers_in_two_parts);
    tcase_add_test(tests, equal_names_in_two_corpora_are_two_people);
    tcase_add_test(tests, takes_in_two_parts);
    tcase_add_test(tests, overlapping_stretches_in_two_parts);
    tcase_add_test(tests, equal_audio_in_two_parts);
    tcase_add_test(tests, two_labels_alone_do_not_refuse);
    tcase_add_test(tests, nearly_equal_audio_is_reported);
    tcase_add_test(tests, failed_clips_are_not_compared);
    tcase_add_test(tests, the_first_examples_are_shown);
    suite_add_tcase(suite, tests);
    return support_run(suite);
}
