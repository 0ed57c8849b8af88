/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <pthread.h>

START_TEST(records_status_and_text)
{
    ck_assert_int_eq(ser_fail(SER_ERR_DATA, "%s: %d", "field", 7), SER_ERR_DATA);
    ck_assert_str_eq(ser_fail_text(), "field: 7");
    ck_assert_int_eq(ser_fail_prefix(SER_ERR_IO, "%s: ", "file"), SER_ERR_IO);
    ck_assert_str_eq(ser_fail_text(), "file: field: 7");
    ck_assert_str_eq(ser_error_message(), "file: field: 7");
}
END_TEST

/* Cut anywhere, the text stays valid UTF-8: "ä" is C3 A4. */
START_TEST(long_texts_are_cut_at_a_character)
{
    char text[4096];
    for (size_t shift = 0; shift < 2; shift++) {
        memset(text, 'x', shift);
        for (size_t i = shift; i + 2 < sizeof text; i += 2) {
            memcpy(text + i, "\xC3\xA4", 2);
        }
        text[sizeof text - 2] = '\0';
        (void)ser_fail(SER_ERR_DATA, "%s", text);
        size_t length = strlen(ser_fail_text());
        ck_assert_uint_gt(length, 2000);
        ck_assert_uint_eq((length - shift) % 2, 0);
        (void)ser_fail_prefix(SER_ERR_DATA, "%s: ", "file");
        ck_assert_uint_eq((strlen(ser_fail_text()) - shift) % 2, 0);
        ck_assert(strncmp(ser_fail_text(), "file: ", 6) == 0);
    }
}
END_TEST

START_TEST(a_long_prefix_leaves_no_room)
{
    char text[4096];
    memset(text, 'p', sizeof text);
    text[sizeof text - 1] = '\0';
    (void)ser_fail(SER_ERR_DATA, "rest");
    (void)ser_fail_prefix(SER_ERR_DATA, "%s", text);
    ck_assert(ser_fail_text()[0] == 'p');
    ck_assert(strstr(ser_fail_text(), "rest") == NULL);
}
END_TEST

static void *other_thread(void *result)
{
    bool empty = ser_fail_text()[0] == '\0';
    (void)ser_fail(SER_ERR_IO, "other");
    *(bool *)result = empty;
    return NULL;
}

START_TEST(each_thread_has_its_own_text)
{
    pthread_t thread;
    bool was_empty = false;
    (void)ser_fail(SER_ERR_DATA, "mine");
    ck_assert_int_eq(pthread_create(&thread, NULL, other_thread, &was_empty), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert(was_empty);
    ck_assert_str_eq(ser_fail_text(), "mine");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fail");
    TCase *tcase = tcase_create("fail");
    tcase_add_test(tcase, records_status_and_text);
    tcase_add_test(tcase, long_texts_are_cut_at_a_character);
    tcase_add_test(tcase, a_long_prefix_leaves_no_room);
    tcase_add_test(tcase, each_thread_has_its_own_text);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
