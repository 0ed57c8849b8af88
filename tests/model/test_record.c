/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include "model/record.h"

static ser_record parse(const char *text)
{
    ser_record record;
    assert_ok(ser_record_parse("some/state.json", text, strlen(text), &record));
    return record;
}

START_TEST(round_trip)
{
    static const double numbers[] = {0.0, 0.1, -1.0 / 3.0, 1e-300, 123456789.123456789, 1e300};
    ser_record record, child, back, part;
    char *text;
    size_t length;
    assert_ok(ser_record_create("some/state.json", &record));
    assert_ok(ser_record_put_text(&record, "note", "a \"b\"\n\xC3\xA9"));
    assert_ok(ser_record_put_text(&record, "empty", ""));
    assert_ok(ser_record_put_integer(&record, "most", INT64_MAX));
    assert_ok(ser_record_put_integer(&record, "least", INT64_MIN));
    assert_ok(ser_record_put_child(&record, "numbers", &child));
    for (size_t i = 0; i < 6; i++) {
        assert_ok(ser_record_put_number(&child, (const char[]){(char)('a' + i), '\0'}, numbers[i]));
    }
    assert_ok(ser_record_print(&record, &text, &length));
    assert_ok(ser_record_parse("back", text, length, &back));
    const char *note;
    int64_t integer;
    double number;
    assert_ok(ser_record_text(&back, "note", &note));
    ck_assert_str_eq(note, "a \"b\"\n\xC3\xA9");
    assert_ok(ser_record_text(&back, "empty", &note));
    ck_assert_str_eq(note, "");
    assert_ok(ser_record_integer(&back, "most", 0, &integer));
    ck_assert_int_eq(integer, INT64_MAX);
    assert_ok(ser_record_integer(&back, "least", INT64_MIN, &integer));
    ck_assert_int_eq(integer, INT64_MIN);
    assert_ok(ser_record_child(&back, "numbers", &part));
    for (size_t i = 0; i < 6; i++) {
        assert_ok(ser_record_number(&part, (const char[]){(char)('a' + i), '\0'}, &number));
        ck_assert(number == numbers[i]);
    }
    ck_assert(ser_record_has(&back, "note") && !ser_record_has(&back, "not"));
    ser_record_clear(&record);
    ser_record_clear(&record);
    ser_record_clear(&back);
    ser_mem_free(text);
    ck_assert_int_eq(ser_mem_live(), 0);
}
END_TEST

START_TEST(wrong_values)
{
    ser_record record = parse("{\"text\": \"t\", \"integer\": 5, \"real\": 0.5, \"null\": null}");
    ser_record child;
    const char *text = "untouched";
    int64_t integer = 77;
    double number = 7.5;
    assert_fails(ser_record_text(&record, "absent", &text), SER_ERR_FORMAT,
                 "some/state.json: absent is missing");
    assert_fails(ser_record_text(&record, "integer", &text), SER_ERR_FORMAT,
                 "integer is 5, must be a text");
    assert_fails(ser_record_text(&record, "null", &text), SER_ERR_FORMAT, "null is null");
    assert_fails(ser_record_integer(&record, "text", 0, &integer), SER_ERR_FORMAT,
                 "text is \"t\", must be an integer");
    assert_fails(ser_record_integer(&record, "real", 0, &integer), SER_ERR_FORMAT, "real is 0.5");
    assert_fails(ser_record_integer(&record, "integer", 6, &integer), SER_ERR_FORMAT,
                 "integer is 5");
    assert_fails(ser_record_number(&record, "text", &number), SER_ERR_FORMAT, "must be a number");
    assert_fails(ser_record_child(&record, "text", &child), SER_ERR_FORMAT, "must be an object");
    ck_assert_str_eq(text, "untouched");
    ck_assert(integer == 77 && number == 7.5);
    assert_ok(ser_record_number(&record, "integer", &number));
    ck_assert(number == 5.0);
    ser_record_clear(&record);
}
END_TEST

START_TEST(texts_that_are_none)
{
    ser_record record;
    static const char *const bad[] = {"", "[]", "{", "{\"a\": 1, \"a\": 2}", "{\"a\": \"\xFF\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_fails(ser_record_parse("bad.json", bad[i], strlen(bad[i]), &record), SER_ERR_FORMAT,
                     "bad.json");
        ck_assert_ptr_null(record.object);
    }
    assert_ok(ser_record_create("bad.json", &record));
    assert_fails(ser_record_put_text(&record, "note", "\xFF"), SER_ERR_ARGUMENT,
                 "bad.json: note is not UTF-8");
    ck_assert(!ser_record_has(&record, "note"));
    ser_record_clear(&record);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("record");
    TCase *tcase = tcase_create("record");
    tcase_add_test(tcase, round_trip);
    tcase_add_test(tcase, wrong_values);
    tcase_add_test(tcase, texts_that_are_none);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
