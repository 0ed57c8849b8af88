/* SPDX-License-Identifier: MIT */
/* Who is trained on and who is tested, by every kind of split. */
#include "data_support.h"
#include "splits.h"

/* `each` clips of every speaker of a corpus, of two labels by turns. */
static void add_corpus(dataset *ds, const char *corpus, const char *const *speakers, size_t count,
                       int each)
{
    for (size_t s = 0; s < count; s++) {
        for (int i = 0; i < each; i++) {
            char path[64];
            snprintf(path, sizeof path, "%s/%s_%d.wav", corpus, speakers[s], i);
            support_clip(ds, corpus, speakers[s], i % 2 == 0 ? "sad" : "happy", path);
        }
    }
}

static void add_numbers(dataset *ds, const char *corpus, int first, int count, int each)
{
    char names[128][8];
    const char *speakers[128];
    for (int i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "%02d", first + i);
        speakers[i] = names[i];
    }
    add_corpus(ds, corpus, speakers, (size_t)count, each);
}

static void apply(const dataset *ds, const char *spec, bool validation_none, split *out)
{
    split_spec s;
    assert_says(split_parse(spec, &s), 0, "");
    s.validation_none = validation_none;
    assert_says(split_apply(&s, ds, out), 0, "");
}

static void refused(const dataset *ds, const char *spec, int code, const char *part)
{
    split_spec s;
    split out;
    assert_says(split_parse(spec, &s), 0, "");
    assert_says(split_apply(&s, ds, &out), code, part);
    ck_assert_ptr_null(out.parts);
}

/* "04 10 ": the speakers of a corpus in a part, in the order of their clips. */
static const char *speakers_in(const dataset *ds, const split *s, int32_t corpus, int part)
{
    static char text[1024];
    text[0] = '\0';
    int32_t last = -1;
    for (size_t i = 0; i < ds->count; i++) {
        const dataset_clip *c = &ds->clips[i];
        if (c->corpus == corpus && s->parts[i] == part && c->speaker != last) {
            last = c->speaker;
            strcat(strcat(text, ds->speakers[last].name), " ");
        }
    }
    return text;
}

START_TEST(specs_are_read)
{
    static const struct {
        const char *text;
        split_kind kind;
        int32_t fold;
        int32_t folds;
    } good[] = {
        {"emobox6:1", SPLIT_EMOBOX6, 1, 6}, {"emobox6", SPLIT_EMOBOX6, -1, 6},
        {"luna5:0", SPLIT_LUNA5, 0, 5},     {"luna5:4", SPLIT_LUNA5, 4, 5},
        {"actors:6:5", SPLIT_ACTORS, 5, 6}, {"actors:10", SPLIT_ACTORS, -1, 10},
        {"loso", SPLIT_LOSO, -1, 0},        {"loso:a/b:c", SPLIT_LOSO, -1, 0},
        {"random:7", SPLIT_RANDOM, -1, 0},  {"column", SPLIT_COLUMN, -1, 0},
    };
    static const char *const bad[] = {
        "",          "emobox6:0",   "emobox6:7", "emobox6:",
        "emobox6:x", "emobox60:1",  "luna5:5",   "luna5:-1",
        "actors",    "actors:",     "actors:1",  "actors:6:6",
        "random",    "actors:6:",   "actors:x",  "actors:2:0:1",
        "random:",   "random:-1",   "random:x",  "loso:",
        "losox",     "columns",     "kfold",     "random:99999999999999999999",
        "Column",    "actors:1001",
    };
    split_spec s;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_says(split_parse(good[i].text, &s), 0, "");
        ck_assert_int_eq(s.kind, good[i].kind);
        ck_assert_int_eq(s.fold, good[i].fold);
        ck_assert_int_eq(s.folds, good[i].folds);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_says(split_parse(bad[i], &s), 2, "not one of emobox6:K");
    }
    split_parse("loso:a/b:c", &s);
    ck_assert_str_eq(s.speaker, "a/b:c");
    split_parse("random:7", &s);
    ck_assert_uint_eq(s.seed, 7);
}
END_TEST

/* The test actors of all folds, as published; validation is the next fold. */
START_TEST(published_folds_of_ravdess)
{
    static const char *const emobox[] = {"01 11 20 21 ", "04 10 12 14 ", "08 09 19 23 ",
                                         "03 05 07 24 ", "02 15 16 18 ", "06 13 17 22 "};
    static const char *const luna[] = {"02 05 14 15 16 ", "03 06 07 13 18 ", "10 11 12 19 20 ",
                                       "08 17 21 23 24 ", "01 04 09 22 "};
    dataset ds = {0};
    add_numbers(&ds, "ravdess", 1, 24, 2);
    assert_says(dataset_finish(&ds), 0, "");
    for (int k = 0; k < 11; k++) {
        const char *const *folds = k < 6 ? emobox : luna;
        int fold = k < 6 ? k : k - 6;
        int count = k < 6 ? 6 : 5;
        char spec[16];
        split s;
        snprintf(spec, sizeof spec, k < 6 ? "emobox6:%d" : "luna5:%d", k < 6 ? fold + 1 : fold);
        apply(&ds, spec, false, &s);
        ck_assert_str_eq(s.name, spec);
        ck_assert_str_eq(speakers_in(&ds, &s, 0, DATASET_TEST), folds[fold]);
        ck_assert_str_eq(speakers_in(&ds, &s, 0, DATASET_VALIDATION), folds[(fold + 1) % count]);
        ck_assert(s.speaker_independent);
        ck_assert_uint_eq(
            s.counts[DATASET_TRAIN] + s.counts[DATASET_VALIDATION] + s.counts[DATASET_TEST], 48);
        split_free(&s);
    }
    dataset_free(&ds);
}
END_TEST

START_TEST(the_protocol_is_a_sentence)
{
    dataset ds = {0};
    split s;
    add_numbers(&ds, "ravdess", 1, 24, 2);
    assert_says(dataset_finish(&ds), 0, "");
    apply(&ds, "emobox6:2", false, &s);
    ck_assert_str_eq(s.protocol, "ravdess: EmoBox fold 2 of 6, test speakers 04 10 12 14, "
                                 "validation speakers 08 09 19 23; speaker-independent");
    split_free(&s);
    apply(&ds, "emobox6:6", true, &s);
    ck_assert_str_eq(s.protocol, "ravdess: EmoBox fold 6 of 6, test speakers 06 13 17 22; "
                                 "no validation part; speaker-independent");
    ck_assert_uint_eq(s.counts[DATASET_VALIDATION], 0);
    ck_assert_uint_eq(s.counts[DATASET_TRAIN], 40);
    split_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(other_corpora_are_divided_by_speaker_order)
{
    static const char *const men[] = {"KL", "DC", "JK", "JE"};
    dataset ds = {0};
    split s;
    add_numbers(&ds, "ravdess", 1, 24, 2);
    add_numbers(&ds, "crema-d", 31, 13, 2);
    add_corpus(&ds, "savee", men, 4, 2);
    assert_says(dataset_finish(&ds), 0, "");
    apply(&ds, "emobox6:2", false, &s);
    ck_assert_str_eq(speakers_in(&ds, &s, 0, DATASET_TEST), "04 10 12 14 ");
    ck_assert_str_eq(speakers_in(&ds, &s, 1, DATASET_TEST), "32 38 ");
    ck_assert_str_eq(speakers_in(&ds, &s, 1, DATASET_VALIDATION), "33 39 ");
    ck_assert_str_eq(speakers_in(&ds, &s, 2, DATASET_TEST), "JE ");
    ck_assert_str_eq(speakers_in(&ds, &s, 2, DATASET_VALIDATION), "JK ");
    ck_assert_ptr_nonnull(strstr(s.protocol, "; crema-d: fold 2 of 6 by speaker order, test "
                                             "speakers 32 38, validation speakers 33 39; savee: "));
    split_free(&s);
    apply(&ds, "emobox6:5", false, &s);
    ck_assert_str_eq(speakers_in(&ds, &s, 2, DATASET_TEST), "");
    ck_assert_ptr_nonnull(strstr(s.protocol, "savee: fold 5 of 6 by speaker order, no test "
                                             "speakers, no validation speakers"));
    split_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(actors_are_divided_by_number)
{
    static const char *const men[] = {"DC", "JE", "JK", "KL"};
    dataset ds = {0};
    split s;
    add_numbers(&ds, "crema-d", 1001, 13, 2);
    add_corpus(&ds, "savee", men, 4, 2);
    assert_says(dataset_finish(&ds), 0, "");
    apply(&ds, "actors:5:3", false, &s);
    ck_assert_str_eq(s.name, "actors:5:3");
    ck_assert_str_eq(speakers_in(&ds, &s, 0, DATASET_TEST), "1003 1008 1013 ");
    ck_assert_str_eq(speakers_in(&ds, &s, 0, DATASET_VALIDATION), "1004 1009 ");
    ck_assert_str_eq(speakers_in(&ds, &s, 1, DATASET_TEST), "KL ");
    split_free(&s);
    apply(&ds, "actors:5:4", false, &s);
    ck_assert_str_eq(speakers_in(&ds, &s, 0, DATASET_VALIDATION), "1005 1010 ");
    split_free(&s);
    dataset_free(&ds);
}
END_TEST

START_TEST(one_speaker_is_left_out)
{
    dataset ds = {0};
    split s;
    add_numbers(&ds, "a", 1, 4, 2);
    add_numbers(&ds, "b", 4, 3, 2);
    assert_says(dataset_finish(&ds), 0, "");
    apply(&ds, "loso:02", false, &s);
    ck_assert_str_eq(speakers_in(&ds, &s, 0, DATASET_TEST), "02 ");
    ck_assert_str_eq(speakers_in(&ds, &s, 0, DATASET_VALIDATION), "03 ");
    ck_assert_str_eq(speakers_in(&ds, &s, 1, DATASET_TRAIN), "04 05 06 ");
    ck_assert_ptr_nonnull(strstr(s.protocol, "b: all speakers train"));
    split_free(&s);
    apply(&ds, "loso:b/04", true, &s);
    ck_assert_str_eq(s.name, "loso:b/04");
    ck_assert_str_eq(speakers_in(&ds, &s, 1, DATASET_TEST), "04 ");
    ck_assert_str_eq(speakers_in(&ds, &s, 0, DATASET_TRAIN), "01 02 03 04 ");
    split_free(&s);
    refused(&ds, "loso:04", 2, "several corpora have such a speaker; write CORPUS/SPEAKER");
    refused(&ds, "loso:99", 2, "no speaker of this name");
    dataset_free(&ds);
}
END_TEST

START_TEST(random_is_stratified_and_repeatable)
{
    dataset ds = {0};
    split a;
    split b;
    add_numbers(&ds, "x", 1, 24, 60);
    add_numbers(&ds, "y", 1, 7, 15);
    assert_says(dataset_finish(&ds), 0, "");
    apply(&ds, "random:1", false, &a);
    apply(&ds, "random:1", false, &b);
    ck_assert_mem_eq(a.parts, b.parts, ds.count);
    split_free(&b);
    apply(&ds, "random:2", false, &b);
    ck_assert(memcmp(a.parts, b.parts, ds.count) != 0);
    split_free(&b);
    size_t test[2][2] = {{0}};
    size_t validation[2][2] = {{0}};
    for (size_t i = 0; i < ds.count; i++) {
        const dataset_clip *c = &ds.clips[i];
        test[c->corpus][c->label] += a.parts[i] == DATASET_TEST;
        validation[c->corpus][c->label] += a.parts[i] == DATASET_VALIDATION;
    }
    ck_assert_uint_eq(test[0][0], 72); /* of 720 */
    ck_assert_uint_eq(test[0][1], 72);
    ck_assert_uint_eq(validation[0][1], 72);
    ck_assert_uint_eq(test[1][0] + test[1][1], 11); /* of 105 */
    ck_assert(!a.speaker_independent);
    ck_assert_ptr_nonnull(strstr(a.protocol, "seed 1: 80 % training, 10 % validation, 10 % test"));
    ck_assert_ptr_nonnull(strstr(a.protocol, "speaker-dependent"));
    split_free(&a);
    apply(&ds, "random:1", true, &a);
    ck_assert_uint_eq(a.counts[DATASET_VALIDATION], 0);
    ck_assert_uint_eq(a.counts[DATASET_TEST], 155);
    split_free(&a);
    dataset_free(&ds);
    for (int i = 0; i < 5; i++) { /* rounding would test the only sad clip */
        support_clip(&ds, "x", "1", i < 4 ? "happy" : "sad", "p");
    }
    assert_says(dataset_finish(&ds), 0, "");
    apply(&ds, "random:1", false, &a);
    ck_assert_uint_eq(a.counts[DATASET_TRAIN], 5);
    split_free(&a);
    dataset_free(&ds);
}
END_TEST

START_TEST(the_column_decides)
{
    dataset ds = {0};
    split s;
    add_numbers(&ds, "a", 1, 4, 2);
    add_numbers(&ds, "b", 1, 2, 2);
    assert_says(dataset_finish(&ds), 0, "");
    refused(&ds, "column", 7, "no manifest has a column 'split'");
    for (size_t i = 0; i < 8; i++) {
        ds.clips[i].split = (int8_t)(i / 2);
        ds.clips[i].line = (int32_t)i + 2;
    }
    apply(&ds, "column", false, &s);
    ck_assert_uint_eq(s.counts[DATASET_UNUSED], 2);
    ck_assert_uint_eq(s.counts[DATASET_TRAIN], 2 + 4);
    ck_assert_uint_eq(s.counts[DATASET_VALIDATION], 2);
    ck_assert_uint_eq(s.counts[DATASET_TEST], 2);
    ck_assert(s.speaker_independent);
    ck_assert_str_eq(s.protocol, "a: parts as the split column of its manifest says; b: all clips "
                                 "train; speaker-independent");
    split_free(&s);
    ds.clips[2].split = DATASET_TEST;
    apply(&ds, "column", false, &s);
    ck_assert(!s.speaker_independent);
    split_free(&s);
    ds.clips[3].split = DATASET_NO_SPLIT;
    refused(&ds, "column", 7, "made.csv: line 5: the column 'split' is empty");
    dataset_free(&ds);
}
END_TEST

START_TEST(speakers_must_be_known)
{
    dataset ds = {0};
    add_numbers(&ds, "ravdess", 1, 24, 2);
    support_clip(&ds, "ravdess", "", "sad", "nobody.wav");
    assert_says(dataset_finish(&ds), 0, "");
    refused(&ds, "emobox6:1", 7, "1 of 49 clips name no speaker, the first is nobody.wav");
    refused(&ds, "loso:01", 7, "needs to know who speaks");
    split s;
    apply(&ds, "random:1", false, &s);
    ck_assert(!s.speaker_independent);
    split_free(&s);
    dataset_free(&ds);
    add_numbers(&ds, "ravdess", 20, 6, 2);
    assert_says(dataset_finish(&ds), 0, "");
    refused(&ds, "luna5:1", 7, "speaker '25' is none of the actors 01 to 24");
    dataset_free(&ds);
}
END_TEST

START_TEST(folds_need_a_name_or_cv)
{
    dataset ds = {0};
    add_numbers(&ds, "a", 1, 3, 2);
    assert_says(dataset_finish(&ds), 0, "");
    refused(&ds, "emobox6", 2, "name the fold, such as emobox6:2, or run all with --cv");
    refused(&ds, "actors:3", 2, "--cv");
    refused(&ds, "loso", 2, "--cv");
    dataset_free(&ds);
}
END_TEST

/* In all folds together every clip is tested once. */
START_TEST(cv_tests_every_clip_once)
{
    static const char *const specs[] = {"emobox6", "luna5:3", "actors:4", "loso"};
    static const size_t counts[] = {6, 5, 4, 24 + 9};
    dataset ds = {0};
    add_numbers(&ds, "ravdess", 1, 24, 2);
    add_numbers(&ds, "b", 1, 9, 2);
    assert_says(dataset_finish(&ds), 0, "");
    for (size_t k = 0; k < 4; k++) {
        split_spec spec;
        int tested[66] = {0};
        split_parse(specs[k], &spec);
        ck_assert_uint_eq(split_fold_count(&spec, &ds), counts[k]);
        for (size_t i = 0; i < counts[k]; i++) {
            split_spec fold;
            split s;
            split_fold(&spec, &ds, i, &fold);
            assert_says(split_apply(&fold, &ds, &s), 0, "");
            for (size_t j = 0; j < ds.count; j++) {
                tested[j] += s.parts[j] == DATASET_TEST;
            }
            split_free(&s);
        }
        for (size_t j = 0; j < ds.count; j++) {
            ck_assert_int_eq(tested[j], 1);
        }
    }
    split_spec one;
    split_parse("random:3", &one);
    ck_assert_uint_eq(split_fold_count(&one, &ds), 1);
    dataset_free(&ds);
}
END_TEST

START_TEST(a_split_must_be_of_use)
{
    dataset ds = {0};
    split s;
    support_clip(&ds, "a", "1", "sad", "1");
    support_clip(&ds, "a", "1", "happy", "2");
    support_clip(&ds, "a", "2", "sad", "3");
    support_clip(&ds, "a", "3", "angry", "4");
    assert_says(dataset_finish(&ds), 0, "");
    apply(&ds, "loso:3", true, &s);
    assert_says(split_check(&s, &ds, true), 7, "no clip that trains is 'angry', but 1 in the test");
    split_free(&s);
    apply(&ds, "loso:2", true, &s);
    assert_says(split_check(&s, &ds, true), 0,
                "the test part has no clip of: happy, angry; its "
                "recall there is undefined");
    memset(s.parts, DATASET_TEST, ds.count);
    s.counts[DATASET_TRAIN] = 0;
    assert_says(split_check(&s, &ds, true), 7, "no clip is left to train on");
    memset(s.parts, DATASET_TRAIN, ds.count);
    s.counts[DATASET_TRAIN] = 4;
    s.counts[DATASET_TEST] = 0;
    assert_says(split_check(&s, &ds, true), 7, "no clip is tested");
    assert_says(split_check(&s, &ds, false), 0, "");
    split_free(&s);
    dataset_free(&ds);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("splits");
    TCase *tests = tcase_create("splits");
    tcase_add_test(tests, specs_are_read);
    tcase_add_test(tests, published_folds_of_ravdess);
    tcase_add_test(tests, the_protocol_is_a_sentence);
    tcase_add_test(tests, other_corpora_are_divided_by_speaker_order);
    tcase_add_test(tests, actors_are_divided_by_number);
    tcase_add_test(tests, one_speaker_is_left_out);
    tcase_add_test(tests, random_is_stratified_and_repeatable);
    tcase_add_test(tests, the_column_decides);
    tcase_add_test(tests, speakers_must_be_known);
    tcase_add_test(tests, folds_need_a_name_or_cv);
    tcase_add_test(tests, cv_tests_every_clip_once);
    tcase_add_test(tests, a_split_must_be_of_use);
    suite_add_tcase(suite, tests);
    return support_run(suite);
}
