/* SPDX-License-Identifier: MIT */
/* What the tools share and no run of one shows quickly: text, progress without a terminal. */
#include <locale.h>
#include <check.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <ser/common.h>

#include "message.h"
#include "progress.h"
#include "terminal.h"
#include "text.h"

START_TEST(utf8_is_strict)
{
    static const struct {
        const char *text;
        size_t length;
        uint32_t code;
    } cases[] = {
        {"a", 1, 'a'},
        {"\xc3\xa9", 2, 0xe9},
        {"\xe2\x82\xac", 3, 0x20ac},
        {"\xf0\x9f\x98\x80", 4, 0x1f600},
        {"\xf4\x8f\xbf\xbf", 4, 0x10ffff},
        {"\x80", 0, 0},
        {"\xc0\x80", 0, 0},
        {"\xc1\xbf", 0, 0},
        {"\xe0\x80\x80", 0, 0},
        {"\xed\xa0\x80", 0, 0},
        {"\xf4\x90\x80\x80", 0, 0},
        {"\xf5\x80\x80\x80", 0, 0},
        {"\xf0\x80\x80\x80", 0, 0},
        {"\xc3", 0, 0},
        {"\xe2\x82", 0, 0},
        {"\xff", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t code = 0;
        ck_assert_uint_eq(text_utf8(cases[i].text, &code), cases[i].length);
        ck_assert_uint_eq(code, cases[i].code);
    }
}
END_TEST

START_TEST(printable_text_has_no_controls)
{
    char *text = text_printable("a\x1b[0m\n\xc2\x9b\xff\xc3\xa9\x7f");
    ck_assert_str_eq(text, "a\\x1b[0m\\x0a\\xc2\\x9b\\xff\xc3\xa9\\x7f");
    free(text);
}
END_TEST

START_TEST(json_has_no_controls)
{
    char text[96] = "";
    FILE *f = fmemopen(text, sizeof text, "w");
    text_json(f, "a\x1b\n\xc2\x9b\x7f\xff\xc3\xa9\"");
    fclose(f);
    ck_assert_str_eq(text, "\"a\\u001b\\u000a\\u009b\\u007f\\udcff\xc3\xa9\\\"\"");
}
END_TEST

START_TEST(numbers_are_shortest)
{
    char buffer[TEXT_NUMBER_SIZE];
    ck_assert_str_eq(text_double(buffer, 0.1), "0.1");
    ck_assert_str_eq(text_double(buffer, 1.0 / 3.0), "0.3333333333333333");
    ck_assert_str_eq(text_double(buffer, 3600.0), "3600");
    ck_assert_str_eq(text_float(buffer, 0.1F), "0.1");
    ck_assert_str_eq(text_float(buffer, 1.0F / 3.0F), "0.33333334");
    ck_assert_str_eq(text_float(buffer, NAN), "null");
    ck_assert_str_eq(text_double(buffer, -INFINITY), "null");
}
END_TEST

START_TEST(distances)
{
    ck_assert_uint_eq(text_distance("model", "model"), 0);
    ck_assert_uint_eq(text_distance("modle", "model"), 1);
    ck_assert_uint_eq(text_distance("", "abc"), 3);
    ck_assert_uint_eq(text_distance("kitten", "sitting"), 3);
}
END_TEST

START_TEST(each_status_has_an_exit_code)
{
    static const int codes[][2] = {
        {SER_OK, 0},         {SER_ERR_ARGUMENT, 2}, {SER_ERR_IO, 3},          {SER_ERR_DEVICE, 4},
        {SER_ERR_MEMORY, 4}, {SER_ERR_NUMERIC, 5},  {SER_ERR_FORMAT, 7},      {SER_ERR_VERSION, 7},
        {SER_ERR_DATA, 7},   {SER_ERR_MISMATCH, 7}, {SER_ERR_UNSUPPORTED, 7}, {SER_ERR_CAPACITY, 7},
        {SER_ERR_BUSY, 7},   {SER_ERR_INTERNAL, 7},
    };
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        ck_assert_int_eq(message_exit_code(codes[i][0]), codes[i][1]);
    }
}
END_TEST

/* What `p` says on standard error when three of six units are done after 50 ms. */
static void capture(progress *p, char *text, size_t size)
{
    FILE *file = tmpfile();
    ck_assert_ptr_nonnull(file);
    int saved = dup(STDERR_FILENO);
    ck_assert_int_ge(dup2(fileno(file), STDERR_FILENO), 0);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    progress_update(p, 3, "detail");
    progress_end(p);
    ck_assert_int_ge(dup2(saved, STDERR_FILENO), 0);
    close(saved);
    rewind(file);
    size_t length = fread(text, 1, size - 1, file);
    text[length] = '\0';
    fclose(file);
}

START_TEST(progress_is_a_line_per_interval_without_a_terminal)
{
    char text[256];
    progress p;
    int null = open("/dev/null", O_WRONLY);
    message_init("tool");
    progress_start(&p, true, null, "files", 6);
    capture(&p, text, sizeof text);
    ck_assert_str_eq(text, "");
    progress_start(&p, true, null, "files", 6);
    p.interval = 0.01;
    capture(&p, text, sizeof text);
    ck_assert_msg(strncmp(text, "tool: |##########          | 3/6 files, ", 40) == 0, "%s", text);
    ck_assert_msg(strstr(text, ", detail\n") != NULL, "%s", text);
    progress_start(&p, false, null, "files", 6);
    p.interval = 0.01;
    capture(&p, text, sizeof text);
    ck_assert_str_eq(text, "");
    close(null);
}
END_TEST

/* One column per character, none for a colour; what ends a colour is kept behind the cut. */
START_TEST(lines_are_cut_by_columns)
{
    static const struct {
        const char *line;
        int columns;
        const char *cut;
    } cases[] = {
        {"abcdef", 6, "abcdef"},
        {"abcdef", 4, "abcd"},
        {"", 4, ""},
        {"\xe2\x96\x88\xe2\x96\x88\xe2\x96\x88", 2, "\xe2\x96\x88\xe2\x96\x88"},
        {"\033[1mabc\033[0m def", 5, "\033[1mabc\033[0m d"},
        {"\033[1mabcdef\033[0m", 2, "\033[1mab\033[0m"},
        {"a\033[1", 1, "a\033[1"}, /* cut off itself */
        {"\xff\xfe", 1, "\xff"},
        {"\xe6\x97\xa5\xe6\x9c\xac", 3, "\xe6\x97\xa5"}, /* two columns each */
    };
    ck_assert_ptr_nonnull(setlocale(LC_CTYPE, "C.UTF-8"));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char line[64];
        snprintf(line, sizeof line, "%s", cases[i].line);
        terminal_cut(line, cases[i].columns);
        ck_assert_str_eq(line, cases[i].cut);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tool");
    TCase *tests = tcase_create("tool");
    tcase_add_test(tests, utf8_is_strict);
    tcase_add_test(tests, printable_text_has_no_controls);
    tcase_add_test(tests, json_has_no_controls);
    tcase_add_test(tests, numbers_are_shortest);
    tcase_add_test(tests, distances);
    tcase_add_test(tests, each_status_has_an_exit_code);
    tcase_add_test(tests, progress_is_a_line_per_interval_without_a_terminal);
    tcase_add_test(tests, lines_are_cut_by_columns);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
