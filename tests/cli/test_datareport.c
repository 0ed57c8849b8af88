/* SPDX-License-Identifier: MIT */
/* The data report, as text and as JSON, over clips that are really decoded. */
#include <jansson.h>

#include "data_support.h"
#include "datareport.h"

typedef struct report_case {
    dataset ds;
    scan audio;
    split fold;
    leak_report leaks;
    data_report report;
} report_case;

/* Six clips of three speakers and two corpora; what is odd about each is in its name. */
static void make_case(report_case *r)
{
    static const struct {
        const char *corpus;
        const char *speaker;
        const char *label;
        const char *path;
    } clips[] = {
        {"one", "1", "sad", "r/plain.wav"},   {"one", "1", "happy", "r/again.wav"},
        {"one", "2", "sad", "r/silent.wav"},  {"one", "2", "happy", "r/clipped.wav"},
        {"two", "1", "angry", "r/quiet.wav"}, {"two", "", "sad", "r/caf\xe9.wav"},
        {"two", "1", "sad", "r/broken.wav"},
    };
    split_spec spec;
    *r = (report_case){0};
    support_wav("r/plain.wav", 16000, 1.0, 1, 0.5);
    support_wav("r/again.wav", 16000, 1.0, 1, 0.5);
    support_wav("r/silent.wav", 8000, 0.5, 1, 0.0);
    support_wav("r/clipped.wav", 16000, 1.0, 2, 0.5);
    support_wav("r/quiet.wav", 44100, 2.0, 3, 0.0005);
    support_wav("r/caf\xe9.wav", 16000, 0.02, 4, 0.5);
    support_text("r/broken.wav", "no audio");
    for (size_t i = 0; i < sizeof clips / sizeof clips[0]; i++) {
        support_clip(&r->ds, clips[i].corpus, clips[i].speaker, clips[i].label,
                     support_path(clips[i].path));
        r->ds.clips[i].split = i % 2 == 0 ? DATASET_TRAIN : DATASET_TEST;
    }
    assert_says(dataset_finish(&r->ds), 0, "");
    assert_says(split_parse("column", &spec), 0, "");
    assert_says(split_apply(&spec, &r->ds, &r->fold), 0, "");
    scan_options options;
    scan_options_init(&options);
    ck_assert_int_eq(scan_run(&r->ds, &options, &r->audio), 0);
    r->audio.entries[3].flags |= SER_AUDIO_CLIPPED;
    r->audio.entries[3].channels = 2;
    leaks_find(&r->ds, r->fold.parts, &r->audio, &r->leaks);
    r->report = (data_report){&r->ds, &r->audio, &r->fold, &r->leaks};
}

static void free_case(report_case *r)
{
    split_free(&r->fold);
    scan_free(&r->audio);
    dataset_free(&r->ds);
}

START_TEST(facts_are_counted)
{
    report_case r;
    data_facts f;
    make_case(&r);
    data_facts_compute(&r.report, &f);
    ck_assert_uint_eq(f.all.clips, 7);
    ck_assert_uint_eq(f.all.parts[DATASET_TRAIN], 4);
    ck_assert_uint_eq(f.all.parts[DATASET_TEST], 3);
    ck_assert_double_eq_tol(f.all.seconds, 5.52, 1e-9);
    ck_assert_uint_eq(f.corpora[0].clips, 4);
    ck_assert_uint_eq(f.corpora[1].clips, 3);
    ck_assert_uint_eq(f.corpus_speakers[0], 2);
    ck_assert_uint_eq(f.corpus_speakers[1], 1);
    ck_assert_uint_eq(f.unknown.clips, 1);
    ck_assert_uint_eq(f.labels[support_label(&r.ds, "sad")].clips, 4);
    ck_assert_uint_eq(f.labels[support_label(&r.ds, "sad")].parts[DATASET_TEST], 1);
    ck_assert_uint_eq(f.readable, 6);
    ck_assert_uint_eq(f.unreadable, 1);
    ck_assert_uint_eq(f.duplicates, 1);
    ck_assert_uint_eq(f.stereo, 1);
    ck_assert_uint_eq(f.mono, 5);
    ck_assert_double_eq_tol(f.durations[0], 0.02, 1e-9);
    ck_assert_double_eq_tol(f.durations[4], 2.0, 1e-9);
    ck_assert(f.levels[0] < -60.0 && f.levels[4] < 0.0 && f.levels[4] > -20.0);
    ck_assert_uint_eq(f.rate_count, 3);
    ck_assert_int_eq(f.rates[0], 8000);
    ck_assert_int_eq(f.rates[2], 44100);
    ck_assert_uint_eq(f.rate_clips[1], 4);
    static const size_t flags[DATA_FLAGS] = {0, 1, 1, 0, 0, 0, 1, 1};
    for (size_t i = 0; i < DATA_FLAGS; i++) {
        ck_assert_uint_eq(f.flags[i], flags[i]);
    }
    ck_assert_uint_eq(f.flag_examples[DATA_FLAG_QUIET][0], 4);
    data_facts_free(&f);
    free_case(&r);
}
END_TEST

START_TEST(many_rates_are_lumped)
{
    enum { CLIPS = 40 };
    dataset ds = {0};
    scan_entry entries[CLIPS] = {{0}};
    for (int i = 0; i < CLIPS; i++) {
        support_clip(&ds, "a", "1", i % 2 == 0 ? "sad" : "happy", "x");
        entries[i] = (scan_entry){
            .done = true, .samples = 100, .channels = 1, .sampling_rate = 9000 - 100 * (i % 20)};
    }
    assert_says(dataset_finish(&ds), 0, "");
    scan s = {.entries = entries, .count = CLIPS};
    data_facts f;
    data_facts_compute(&(data_report){.data = &ds, .audio = &s}, &f);
    ck_assert_uint_eq(f.rate_count, DATA_RATES);
    ck_assert_uint_eq(f.other_rates, CLIPS - 2 * DATA_RATES);
    for (size_t i = 1; i < f.rate_count; i++) {
        ck_assert_int_gt(f.rates[i], f.rates[i - 1]);
        ck_assert_uint_eq(f.rate_clips[i], 2);
    }
    data_facts_free(&f);
    dataset_free(&ds);
}
END_TEST

static char *print_report(const data_report *r)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    ck_assert_ptr_nonnull(f);
    data_report_print(r, f);
    fclose(f);
    return text;
}

START_TEST(the_text_tells_what_is_odd)
{
    static const char *const parts[] = {
        "Data: 7 clips, 3 labels\n",
        "Split column: one: parts as the split column",
        "  one                     4     0.00         2\n",
        "  sad                     4          3          0          1          0\n",
        "  all                     7          4          0          3          0\n",
        "  3 speakers with 2 to 2 clips",
        ", 1 clips without a speaker",
        "seconds per clip 0.02 to 2.00",
        "sampling rates: 8000 Hz (1), 16000 Hz (4), 44100 Hz (1); mono 5, stereo or more 1",
        "1 clips cannot be decoded",
        "1 clips have the samples of an earlier clip",
        "1 clips are silent throughout:",
        "1 clips are clipped (more than 1 % of the samples):",
        "1 clips are nearly silent",
        "caf\\xe9.wav",
        "LEAK: 1 recording is in two parts:",
    };
    report_case r;
    make_case(&r);
    char *text = print_report(&r.report);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const char *expected = parts[i];
        ck_assert_msg(strstr(text, expected) != NULL, "\"%s\" is not in:\n%s", expected, text);
    }
    free(text);
    const data_report bare = {.data = &r.ds};
    text = print_report(&bare);
    ck_assert_ptr_null(strstr(text, "Split"));
    ck_assert_ptr_null(strstr(text, "level"));
    ck_assert_ptr_nonnull(strstr(text, "  happy                   2\n"));
    free(text);
    free_case(&r);
}
END_TEST

/* The integer at a path of keys and array places such as "labels/0/clips"; -1 if not there. */
static json_int_t integer_at(const json_t *o, const char *path)
{
    char copy[128];
    char *rest = NULL;
    snprintf(copy, sizeof copy, "%s", path);
    for (char *key = strtok_r(copy, "/", &rest); key != NULL; key = strtok_r(NULL, "/", &rest)) {
        o = json_is_array(o) ? json_array_get(o, (size_t)atoi(key)) : json_object_get(o, key);
    }
    return json_is_integer(o) ? json_integer_value(o) : json_is_true(o) ? 1 : -1;
}

START_TEST(the_json_holds_the_numbers)
{
    static const struct {
        const char *path;
        json_int_t value;
    } cases[] = {
        {"clips", 7},
        {"corpora/0/labels/sad", 2},
        {"corpora/0/labels/angry", -1}, /* not labelled there */
        {"corpora/1/speakers", 1},
        {"corpora/1/train", 2},
        {"labels/1/clips", 4},
        {"labels/1/test", 1},
        {"speakers/0/clips", 2},
        {"split/train", 4},
        {"audio/sampling_rates/16000", 4},
        {"audio/stereo", 1},
        {"audio/duplicates", 1},
        {"audio/flags/quiet/clips", 1},
        {"audio/flags/truncated/clips", 0},
        {"leaks/audio/count", 1},
        {"leaks/audio/refusing", 1},
        {"leaks/audio_compared", 1},
    };
    report_case r;
    make_case(&r);
    json_t *o = data_report_json(&r.report);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ck_assert_msg(integer_at(o, cases[i].path) == cases[i].value, "%s: %lld", cases[i].path,
                      (long long)integer_at(o, cases[i].path));
    }
    char *text = json_dumps(o, JSON_COMPACT);
    ck_assert_ptr_nonnull(text);
    ck_assert_ptr_nonnull(strstr(text, "caf\\\\xe9.wav"));
    ck_assert_ptr_nonnull(strstr(text, "broken.wav\",\"reason\":"));
    free(text);
    json_decref(o);
    const data_report bare = {.data = &r.ds};
    o = data_report_json(&bare);
    ck_assert_ptr_null(json_object_get(o, "audio"));
    ck_assert_int_eq(integer_at(o, "labels/0/clips"), 2);
    json_decref(o);
    free_case(&r);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("datareport");
    TCase *tests = tcase_create("datareport");
    tcase_add_test(tests, facts_are_counted);
    tcase_add_test(tests, many_rates_are_lumped);
    tcase_add_test(tests, the_text_tells_what_is_odd);
    tcase_add_test(tests, the_json_holds_the_numbers);
    suite_add_tcase(suite, tests);
    return support_run(suite);
}
