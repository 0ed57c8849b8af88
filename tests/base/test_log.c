/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include "base/log.h"

typedef struct seen {
    int count;
    int32_t level;
    char text[2048];
} seen;

static void keep(int32_t level, const char *text, void *user)
{
    seen *s = user;
    s->count++;
    s->level = level;
    (void)snprintf(s->text, sizeof s->text, "%s", text);
}

START_TEST(nothing_without_a_handler)
{
    ser_log_set_handler(NULL, NULL);
    ser_log(SER_LOG_ERROR, "to nobody");
}
END_TEST

START_TEST(levels_filter)
{
    seen s = {0};
    ser_log_set_handler(keep, &s);
    ser_log(SER_LOG_INFO, "dropped by the default level");
    ck_assert_int_eq(s.count, 0);
    ser_log(SER_LOG_WARNING, "%s %d", "line", 3);
    ck_assert_int_eq(s.count, 1);
    ck_assert_int_eq(s.level, SER_LOG_WARNING);
    ck_assert_str_eq(s.text, "line 3");
    ser_log_set_level(SER_LOG_DEBUG);
    ser_log(SER_LOG_DEBUG, "now");
    ck_assert_int_eq(s.count, 2);
    ser_log_set_level(SER_LOG_SILENT);
    ser_log(SER_LOG_ERROR, "no");
    ck_assert_int_eq(s.count, 2);
    ser_log_set_level(SER_LOG_WARNING);
    ser_log_set_handler(NULL, NULL);
}
END_TEST

START_TEST(long_lines_are_cut)
{
    seen s = {0};
    char text[4000];
    memset(text, 'y', sizeof text);
    text[sizeof text - 1] = '\0';
    ser_log_set_handler(keep, &s);
    ser_log(SER_LOG_ERROR, "%s", text);
    ck_assert_int_eq(s.count, 1);
    ck_assert_uint_lt(strlen(s.text), sizeof text - 1);
    ser_log_set_handler(NULL, NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log");
    TCase *tcase = tcase_create("log");
    tcase_add_test(tcase, nothing_without_a_handler);
    tcase_add_test(tcase, levels_filter);
    tcase_add_test(tcase, long_lines_are_cut);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
