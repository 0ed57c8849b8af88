/* SPDX-License-Identifier: MIT */
/* Names of emotions and the user's rules about them; the pool of strings. */
#include "data_support.h"
#include "intern.h"
#include "labels.h"

static const char *resolve(label_rules *rules, const char *text)
{
    bool dropped = false;
    const char *label = labels_resolve(rules, text, &dropped);
    return dropped ? "(dropped)" : label != NULL ? label : "(none)";
}

START_TEST(known_names_are_found)
{
    static const char *const cases[][2] = {
        {"neutral", "neutral"},
        {"NEU", "neutral"},
        {"Calm", "calm"},
        {" calmness ", "calm"},
        {"joy", "happy"},
        {"hap", "happy"},
        {"Happiness", "happy"},
        {"sadness", "sad"},
        {"SAD", "sad"},
        {"angry", "angry"},
        {"anger", "angry"},
        {"ang", "angry"},
        {"fear", "fearful"},
        {"FEA", "fearful"},
        {"disgusted", "disgust"},
        {"dis", "disgust"},
        {"ps", "surprised"},
        {"pleasant_surprise", "surprised"},
        {"sur", "surprised"},
        {"bored", "boredom"},
        {"Pleasant-Surprised", "surprised"},
        {"exc", "excited"},
        {"frustration", "frustrated"},
        {"angyr", "(none)"},
        {"", "(none)"},
        {"  ", "(none)"},
        {"xxx", "(none)"},
        {"gl\xc3\xbc"
         "cklich",
         "(none)"},
    };
    label_rules rules = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ck_assert_str_eq(resolve(&rules, cases[i][0]), cases[i][1]);
    }
    for (size_t i = 0; i < LABELS_CANONICAL; i++) {
        ck_assert_str_eq(resolve(&rules, labels_canonical[i]), labels_canonical[i]);
    }
}
END_TEST

START_TEST(long_labels_are_refused)
{
    char text[LABELS_SIZE + 1];
    char normal[LABELS_SIZE];
    memset(text, 'a', sizeof text);
    text[LABELS_SIZE] = '\0';
    ck_assert(!labels_normalize(text, normal));
    text[LABELS_SIZE - 1] = '\0';
    ck_assert(labels_normalize(text, normal));
    ck_assert_str_eq(normal, text);
}
END_TEST

START_TEST(nearest_names_the_alias_and_its_class)
{
    label_rules rules = {0};
    const char *label = NULL;
    ck_assert_str_eq(labels_nearest(&rules, "angyr", &label), "angry");
    ck_assert_str_eq(labels_nearest(&rules, "Hapiness", &label), "happiness");
    ck_assert_str_eq(label, "happy");
    ck_assert_ptr_null(labels_nearest(&rules, "zzzzzz", &label));
    assert_says(labels_add_name(&rules, "gleeful"), 0, "");
    ck_assert_str_eq(labels_nearest(&rules, "gleefull", &label), "gleeful");
    labels_free(&rules);
}
END_TEST

START_TEST(aliases_come_before_the_table)
{
    label_rules rules = {0};
    assert_says(labels_add_alias(&rules, "ps=other"), 0, "");
    assert_says(labels_add_alias(&rules, "gioia, Tristezza2=happiness"), 0, "");
    assert_says(labels_add_alias(&rules, "smirk=smug"), 0, "");
    ck_assert_str_eq(resolve(&rules, "PS"), "other");
    ck_assert_str_eq(resolve(&rules, "gioia"), "happy");
    ck_assert_str_eq(resolve(&rules, "tristezza2"), "happy");
    ck_assert_str_eq(resolve(&rules, "smirk"), "smug");
    ck_assert_str_eq(resolve(&rules, "smug"), "smug");
    assert_says(labels_add_alias(&rules, "gioia=sad"), 2, "stands for 'happy' already");
    labels_free(&rules);
}
END_TEST

START_TEST(drops_know_aliases_and_unknown_names)
{
    label_rules rules = {0};
    assert_says(labels_add_drop(&rules, "anger,xxx"), 0, "");
    ck_assert_str_eq(resolve(&rules, "ANG"), "(dropped)");
    ck_assert_str_eq(resolve(&rules, "XXX"), "(dropped)");
    ck_assert_str_eq(resolve(&rules, "sad"), "sad");
    ck_assert_uint_eq(rules.drops[0].hits, 1);
    labels_free(&rules);
}
END_TEST

START_TEST(bad_rules_are_refused)
{
    label_rules rules = {0};
    assert_says(labels_add_merge(&rules, "calm"), 2, "FROM=TO");
    assert_says(labels_add_merge(&rules, "calm="), 2, "FROM=TO");
    assert_says(labels_add_merge(&rules, "=calm"), 2, "1 to 63 characters");
    assert_says(labels_add_merge(&rules, "a=b=c"), 2, "FROM=TO");
    assert_says(labels_add_merge(&rules, "a=b,c"), 2, "FROM=TO");
    assert_says(labels_add_merge(&rules, "joy=happy"), 2, "the same label");
    assert_says(labels_add_drop(&rules, "calm,,sad"), 2, "1 to 63 characters");
    assert_says(labels_add_name(&rules, ""), 2, "1 to 63 characters");
    labels_free(&rules);
}
END_TEST

START_TEST(file_names_of_labels_are_safe)
{
    char *name = labels_file_name("../a b%\xff-_Z9");
    ck_assert_str_eq(name, "%2e%2e%2fa%20b%25%ff-_Z9");
    free(name);
}
END_TEST

START_TEST(equal_strings_are_one)
{
    intern_pool pool = {0};
    bool fresh = false;
    const char *first = intern(&pool, "speaker 7", &fresh);
    ck_assert(fresh);
    char text[32];
    for (int i = 0; i < 5000; i++) {
        snprintf(text, sizeof text, "speaker %d", i);
        ck_assert_str_eq(intern(&pool, text, NULL), text);
    }
    ck_assert_ptr_eq(intern(&pool, "speaker 7", &fresh), first);
    ck_assert(!fresh);
    ck_assert_uint_eq(pool.count, 5000);
    char *large = malloc(200001);
    ck_assert_ptr_nonnull(large);
    memset(large, 'x', 200000);
    large[200000] = '\0';
    ck_assert_str_eq(intern(&pool, large, NULL), large);
    ck_assert_str_eq(intern(&pool, "", NULL), "");
    free(large);
    intern_free(&pool);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("labels");
    TCase *tests = tcase_create("labels");
    tcase_add_test(tests, known_names_are_found);
    tcase_add_test(tests, long_labels_are_refused);
    tcase_add_test(tests, nearest_names_the_alias_and_its_class);
    tcase_add_test(tests, aliases_come_before_the_table);
    tcase_add_test(tests, drops_know_aliases_and_unknown_names);
    tcase_add_test(tests, bad_rules_are_refused);
    tcase_add_test(tests, file_names_of_labels_are_safe);
    tcase_add_test(tests, equal_strings_are_one);
    suite_add_tcase(suite, tests);
    return support_run(suite);
}
