/* SPDX-License-Identifier: MIT */
/* Presets by names of files, rules about labels, the numbering of classes. */
#include <unistd.h>

#include "data_support.h"

/* Add `directory` of the temporary tree as `preset`, with what it says. */
#define assert_adds(ds, preset, directory, part)                                                   \
    assert_says(dataset_add_preset(ds, preset, support_path(directory)), 0, part)

START_TEST(ravdess_names_are_understood)
{
    dataset ds = {0};
    support_text("rav/Actor_02/03-01-05-02-01-02-02.FLAC", "");
    support_text("rav/Actor_01/03-01-01-01-02-01-01.wav", "");
    support_text("rav/Actor_01/03-01-02-01-02-01-01.wav", "");
    support_text("rav/Actor_01/readme.txt", "");
    assert_adds(&ds, "ravdess", "rav",
                "3 of the 1440 published clips: neutral 1 of 96, calm 1 of 192, happy 0 of 192");
    assert_says(dataset_finish(&ds), 0, "");
    ck_assert_uint_eq(ds.count, 3);
    const dataset_clip *c = &ds.clips[2];
    ck_assert_str_eq(c->path, support_path("rav/Actor_02/03-01-05-02-01-02-02.FLAC"));
    ck_assert_str_eq(ds.labels[c->label], "angry");
    ck_assert_str_eq(ds.speakers[c->speaker].name, "02");
    ck_assert_int_eq(ds.speakers[c->speaker].number, 2);
    ck_assert_int_eq(c->repetition, 2);
    ck_assert_int_eq(c->intensity, DATASET_INTENSITY_STRONG);
    ck_assert_str_eq(c->text, "01");
    ck_assert_int_eq(c->split, DATASET_NO_SPLIT);
    ck_assert_str_eq(ds.labels[ds.clips[0].label], "neutral");
    ck_assert_int_eq(ds.clips[0].intensity, DATASET_INTENSITY_NORMAL);
    ck_assert_ptr_eq(ds.clips[0].text, ds.clips[1].text);
    ck_assert_uint_eq(ds.corpora[0].clip_count, 3);
    ck_assert_uint_eq(ds.corpora[0].label_mask, 7);
    dataset_free(&ds);
}
END_TEST

START_TEST(song_and_video_sound_are_left_out)
{
    dataset ds = {0};
    support_text("song/03-01-05-02-01-02-02.wav", "");
    support_text("song/03-02-05-02-01-02-02.wav", "");
    support_text("song/01-01-05-02-01-02-02.wav", "");
    assert_adds(&ds, "ravdess", "song", "2 files that are not audio-only speech are skipped");
    ck_assert_uint_eq(ds.count, 1);
    dataset_free(&ds);
    support_text("song2/03-02-05-02-01-02-02.wav", "");
    assert_says(dataset_add_preset(&ds, "ravdess", support_path("song2")), 7,
                "1 are song or video sound");
    dataset_free(&ds);
}
END_TEST

START_TEST(a_clip_found_twice_is_taken_once)
{
    dataset ds = {0};
    support_text("kaggle/Actor_01/03-01-05-02-01-02-01.wav", "");
    support_text("kaggle/nested/Actor_01/03-01-05-02-01-02-01.wav", "");
    support_text("kaggle/nested/Actor_01/03-01-05-02-01-01-01.wav", "");
    assert_adds(&ds, "ravdess", "kaggle", "1 clips are there more than once and taken once");
    ck_assert_uint_eq(ds.count, 2);
    ck_assert_str_eq(ds.clips[0].path, support_path("kaggle/Actor_01/03-01-05-02-01-02-01.wav"));
    support_text("again/03-01-05-02-01-02-01.flac", "");
    assert_adds(&ds, "ravdess", "again", "taken once");
    ck_assert_uint_eq(ds.count, 2);
    ck_assert_uint_eq(ds.corpus_count, 1);
    dataset_free(&ds);
}
END_TEST

START_TEST(other_names_are_counted)
{
    dataset ds = {0};
    support_text("mix/03-01-05-02-01-02-01.wav", "");
    support_text("mix/03-01-09-02-01-02-01.wav", "");
    support_text("mix/noise.mp3", "");
    assert_adds(&ds, "ravdess", "mix", "2 audio files with other names are skipped, for instance");
    ck_assert_uint_eq(ds.count, 1);
    dataset_free(&ds);
}
END_TEST

/* One clip of each other preset: name of the file, and what it tells. */
START_TEST(other_presets_are_understood)
{
    static const struct {
        const char *preset;
        const char *file;
        const char *speaker;
        const char *label;
        const char *text;
        int32_t repetition;
        int intensity;
    } cases[] = {
        {"crema-d", "AudioWAV/1001_IEO_ANG_HI.wav", "1001", "angry", "ieo", 0,
         DATASET_INTENSITY_STRONG},
        {"crema-d", "1091_WSI_NEU_XX.opus", "1091", "neutral", "wsi", 0, DATASET_INTENSITY_UNKNOWN},
        {"crema-d", "1040_ITH_SAD_X.wav", "1040", "sad", "ith", 0, DATASET_INTENSITY_UNKNOWN},
        {"crema-d", "1002_IEO_FEA_LO.mp3", "1002", "fearful", "ieo", 0, DATASET_INTENSITY_LOW},
        {"tess", "OAF_Fear/OAF_back_fear.wav", "OAF", "fearful", "back", 0, 0},
        {"tess", "YAF_youth_ps.wav", "YAF", "surprised", "youth", 0, 0},
        {"tess", "OA_bite_neutral.wav", "OAF", "neutral", "bite", 0, 0},
        {"savee", "DC_sa01.wav", "DC", "sad", "sa01", 0, 0},
        {"savee", "JK/su15.wav", "JK", "surprised", "su15", 0, 0},
        {"savee", "kl/n30.wav", "KL", "neutral", "n30", 0, 0},
        {"savee", "JE_d02.ogg", "JE", "disgust", "d02", 0, 0},
        {"emo-db", "wav/03a01Fa.wav", "03", "happy", "a01", 1, 0},
        {"emo-db", "16b10Wb.wav", "16", "angry", "b10", 2, 0},
        {"emo-db", "08a07Lc.wav", "08", "boredom", "a07", 3, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char file[128];
        char folder[32];
        dataset ds = {0};
        snprintf(folder, sizeof folder, "one%zu", i);
        snprintf(file, sizeof file, "%s/%s", folder, cases[i].file);
        support_text(file, "");
        assert_adds(&ds, cases[i].preset, folder, "published clips");
        ck_assert_uint_eq(ds.count, 1);
        const dataset_clip *c = &ds.clips[0];
        ck_assert_str_eq(ds.speakers[c->speaker].name, cases[i].speaker);
        ck_assert_str_eq(ds.emotions[c->emotion], cases[i].label);
        ck_assert_str_eq(c->text, cases[i].text);
        ck_assert_int_eq(c->repetition, cases[i].repetition);
        ck_assert_int_eq(c->intensity, cases[i].intensity);
        dataset_free(&ds);
    }
}
END_TEST

START_TEST(a_complete_corpus_says_nothing)
{
    static const char *const speakers[] = {"DC", "JE", "JK", "KL"};
    static const char *const codes[] = {"a", "d", "f", "h", "n", "sa", "su"};
    dataset ds = {0};
    for (size_t s = 0; s < 4; s++) {
        for (size_t e = 0; e < 7; e++) {
            for (int i = 1; i <= (e == 4 ? 30 : 15); i++) {
                char file[64];
                snprintf(file, sizeof file, "savee/%s_%s%02d.wav", speakers[s], codes[e], i);
                support_text(file, "");
            }
        }
    }
    assert_adds(&ds, "savee", "savee", "");
    ck_assert_uint_eq(ds.count, 480);
    assert_says(dataset_finish(&ds), 0, "");
    ck_assert_uint_eq(ds.label_count, 7);
    ck_assert_str_eq(ds.labels[0], "neutral");
    ck_assert_str_eq(ds.labels[1], "happy");
    ck_assert_str_eq(ds.labels[6], "surprised");
    dataset_free(&ds);
}
END_TEST

START_TEST(nothing_found_says_what_was_looked_for)
{
    dataset ds = {0};
    support_text("crema/1001_IEO_ANG_HI.wav", "");
    assert_says(dataset_add_preset(&ds, "ravdess", support_path("crema")), 7,
                "names like 03-01-05-01-02-01-12");
    assert_says(dataset_add_preset(&ds, "ravdess", support_path("crema")), 7,
                "found 1 other audio files; these look like 'crema-d'");
    support_text("bare/notes.txt", "");
    assert_says(dataset_add_preset(&ds, "tess", support_path("bare")), 7, "OAF_back_angry");
    assert_says(dataset_add_preset(&ds, "tess", support_path("absent")), 3, "not a directory");
    assert_says(dataset_add_preset(&ds, "tess", support_path("bare/notes.txt")), 3,
                "not a directory");
    assert_says(dataset_add_preset(&ds, "timit", support_path("bare")), 2, "not known");
    for (size_t i = 0; dataset_preset_names[i] != NULL; i++) {
        ck_assert_ptr_nonnull(dataset_preset_describe(dataset_preset_names[i]));
    }
    ck_assert_ptr_null(dataset_preset_describe("timit"));
    dataset_free(&ds);
}
END_TEST

START_TEST(classes_are_in_canonical_order)
{
    dataset ds = {0};
    labels_add_name(&ds.rules, "smug,odd");
    support_clip(&ds, "a", "1", "smug", "1");
    support_clip(&ds, "a", "1", "surprised", "2");
    support_clip(&ds, "b", "1", "odd", "3");
    support_clip(&ds, "b", "1", "neutral", "4");
    support_clip(&ds, "b", "2", "angry", "5");
    assert_says(dataset_finish(&ds), 0, "");
    static const char *const expected[] = {"neutral", "angry", "surprised", "smug", "odd"};
    ck_assert_uint_eq(ds.label_count, 5);
    for (size_t i = 0; i < 5; i++) {
        ck_assert_str_eq(ds.labels[i], expected[i]);
    }
    ck_assert_int_eq(ds.clips[0].label, 3);
    ck_assert_uint_eq(ds.corpora[0].label_mask, 1U << 3 | 1U << 2);
    ck_assert_uint_eq(ds.corpora[1].label_mask, 1U << 4 | 1U << 0 | 1U << 1);
    ck_assert_uint_eq(ds.speaker_count, 3); /* "1" of a is not "1" of b */
    dataset_free(&ds);
}
END_TEST

START_TEST(merges_apply_one_after_the_other)
{
    dataset ds = {0};
    assert_says(labels_add_merge(&ds.rules, "calm=neutral"), 0, "");
    assert_says(labels_add_merge(&ds.rules, "neutral,sad=low"), 0, "");
    support_clip(&ds, "a", "1", "calm", "1");
    support_clip(&ds, "a", "1", "sad", "2");
    support_clip(&ds, "a", "1", "happy", "3");
    support_clip(&ds, "a", "1", "neutral", "4");
    assert_says(dataset_finish(&ds), 0, "");
    ck_assert_uint_eq(ds.label_count, 2);
    ck_assert_str_eq(ds.labels[0], "happy");
    ck_assert_str_eq(ds.labels[1], "low");
    ck_assert_int_eq(ds.clips[0].label, 1);
    ck_assert_int_eq(ds.clips[1].label, 1);
    ck_assert_int_eq(ds.clips[2].label, 0);
    ck_assert_str_eq(ds.emotions[ds.clips[0].emotion], "calm");
    dataset_free(&ds);
}
END_TEST

START_TEST(rules_without_effect_are_noticed)
{
    dataset ds = {0};
    labels_add_merge(&ds.rules, "calm=neutral");
    support_clip(&ds, "a", "1", "sad", "1");
    support_clip(&ds, "a", "1", "happy", "2");
    assert_says(dataset_finish(&ds), 2, "no clip is labelled 'calm' (there are: sad, happy)");
    dataset_free(&ds);
    labels_add_drop(&ds.rules, "calm");
    support_clip(&ds, "a", "1", "sad", "1");
    support_clip(&ds, "a", "1", "happy", "2");
    assert_says(dataset_finish(&ds), 0, "--drop calm: no clip has this label");
    dataset_free(&ds);
}
END_TEST

START_TEST(dropped_clips_are_gone)
{
    dataset ds = {0};
    labels_add_drop(&ds.rules, "anger");
    support_text("drop/03-01-05-02-01-02-01.wav", "");
    support_text("drop/03-01-03-02-01-02-02.wav", "");
    support_text("drop/03-01-04-02-01-02-02.wav", "");
    assert_adds(&ds, "ravdess", "drop", "angry 1 of 192");
    assert_says(dataset_finish(&ds), 0, "");
    ck_assert_uint_eq(ds.count, 2);
    ck_assert_uint_eq(ds.dropped, 1);
    ck_assert_int_eq(support_label(&ds, "angry"), -1);
    ck_assert_uint_eq(ds.speaker_count, 1);
    dataset_free(&ds);
    labels_add_drop(&ds.rules, "angry,happy,sad");
    assert_adds(&ds, "ravdess", "drop", "published");
    assert_says(dataset_finish(&ds), 7, "--drop takes out all 3");
    dataset_free(&ds);
}
END_TEST

START_TEST(senseless_sets_are_refused)
{
    dataset ds = {0};
    assert_says(dataset_finish(&ds), 7, "there are no clips");
    support_clip(&ds, "a", "1", "sad", "1");
    assert_says(dataset_finish(&ds), 7, "every clip is labelled 'sad'");
    dataset_free(&ds);
    for (int i = 0; i < DATASET_LABELS_MAX + 1; i++) {
        char label[16];
        snprintf(label, sizeof label, "label %d", i);
        support_clip(&ds, "a", "1", label, "1");
    }
    assert_says(dataset_finish(&ds), 7, "65 labels; the limit is 64");
    dataset_free(&ds);
}
END_TEST

START_TEST(speakers_have_a_natural_order)
{
    static const char *const names[] = {"spk10", "9", "spk2", "010", "Anna", "1"};
    static const char *const expected[] = {"1", "9", "010", "Anna", "spk2", "spk10"};
    dataset ds = {0};
    for (size_t i = 0; i < 6; i++) {
        support_clip(&ds, "b", names[i], i % 2 == 0 ? "sad" : "happy", "x");
        support_clip(&ds, "a", "other", "sad", "x");
    }
    size_t count = 0;
    int32_t *sorted = dataset_speakers_sorted(&ds, 0, &count);
    ck_assert_uint_eq(count, 6);
    for (size_t i = 0; i < count; i++) {
        ck_assert_str_eq(ds.speakers[sorted[i]].name, expected[i]);
    }
    free(sorted);
    dataset_free(&ds);
}
END_TEST

START_TEST(many_speakers_are_told_apart)
{
    dataset ds = {0};
    char name[32];
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "s%d", i / 2);
        ck_assert_int_eq(dataset_speaker_index(&ds, i % 2, name), i);
    }
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "s%d", i / 2);
        ck_assert_int_eq(dataset_speaker_index(&ds, i % 2, name), i);
    }
    dataset_free(&ds);
}
END_TEST

START_TEST(what_is_kept_is_counted_again)
{
    dataset ds = {0};
    support_clip(&ds, "a", "1", "sad", "1");
    support_clip(&ds, "a", "1", "happy", "2");
    support_clip(&ds, "b", "1", "sad", "3");
    assert_says(dataset_finish(&ds), 0, "");
    const bool keep[] = {true, false, true};
    dataset_keep(&ds, keep);
    ck_assert_uint_eq(ds.count, 2);
    ck_assert_str_eq(ds.clips[1].path, "3");
    ck_assert_uint_eq(ds.corpora[0].clip_count, 1);
    ck_assert_uint_eq(ds.corpora[0].label_mask, 1U << support_label(&ds, "sad"));
    dataset_free(&ds);
}
END_TEST

START_TEST(skipped_clips_are_written)
{
    dataset ds = {0};
    dataset_skip_clip(&ds, &(dataset_skip){.path = "a\xff\"b.wav", .reason = "gone"});
    dataset_skip_clip(&ds,
                      &(dataset_skip){.path = "c", .reason = "r", .source = "m.csv", .line = 7});
    assert_says(dataset_write_skipped(&ds, support_path("skipped.jsonl")), 0, "");
    FILE *f = fopen(support_path("skipped.jsonl"), "r");
    ck_assert_ptr_nonnull(f);
    char text[512];
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    ck_assert_str_eq(text, "{\"file\": \"a\\udcff\\\"b.wav\", \"reason\": \"gone\"}\n"
                           "{\"file\": \"c\", \"reason\": \"r\", \"manifest\": \"m.csv\", "
                           "\"line\": 7}\n");
    assert_says(dataset_write_skipped(&ds, support_path("no/such/folder")), 3, "cannot open");
    dataset_free(&ds);
}
END_TEST

START_TEST(loops_of_links_end)
{
    dataset ds = {0};
    support_text("loop/a/03-01-05-02-01-02-01.wav", "");
    unlink(support_path("loop/a/up"));
    ck_assert_int_eq(symlink("..", support_path("loop/a/up")), 0);
    assert_adds(&ds, "ravdess", "loop", "1 of the 1440");
    ck_assert_uint_eq(ds.count, 1);
    dataset_free(&ds);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("dataset");
    TCase *tests = tcase_create("dataset");
    tcase_add_test(tests, ravdess_names_are_understood);
    tcase_add_test(tests, song_and_video_sound_are_left_out);
    tcase_add_test(tests, a_clip_found_twice_is_taken_once);
    tcase_add_test(tests, other_names_are_counted);
    tcase_add_test(tests, other_presets_are_understood);
    tcase_add_test(tests, a_complete_corpus_says_nothing);
    tcase_add_test(tests, nothing_found_says_what_was_looked_for);
    tcase_add_test(tests, classes_are_in_canonical_order);
    tcase_add_test(tests, merges_apply_one_after_the_other);
    tcase_add_test(tests, rules_without_effect_are_noticed);
    tcase_add_test(tests, dropped_clips_are_gone);
    tcase_add_test(tests, senseless_sets_are_refused);
    tcase_add_test(tests, speakers_have_a_natural_order);
    tcase_add_test(tests, many_speakers_are_told_apart);
    tcase_add_test(tests, what_is_kept_is_counted_again);
    tcase_add_test(tests, skipped_clips_are_written);
    tcase_add_test(tests, loops_of_links_end);
    suite_add_tcase(suite, tests);
    return support_run(suite);
}
