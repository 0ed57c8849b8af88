/* SPDX-License-Identifier: MIT */
#include "harness.h"

START_TEST(blocks_are_aligned_and_zeroed)
{
    int64_t live = ser_mem_live();
    for (size_t n = 0; n < 200; n += 13) {
        unsigned char *block = ser_mem_alloc(n, 3);
        ck_assert_ptr_nonnull(block);
        ck_assert_uint_eq((uintptr_t)block % 64, 0);
        for (size_t i = 0; i < 3 * n; i++) {
            ck_assert_uint_eq(block[i], 0);
        }
        ck_assert_int_eq(ser_mem_live(), live + 1);
        ser_mem_free(block);
    }
    ser_mem_free(NULL);
    ck_assert_int_eq(ser_mem_live(), live);
}
END_TEST

START_TEST(overflow_is_refused)
{
    ck_assert_ptr_null(ser_mem_alloc(SIZE_MAX / 2, 3));
    ck_assert(strstr(ser_fail_text(), "exceed the address space") != NULL);
    ck_assert_ptr_null(ser_mem_alloc(SIZE_MAX, 1)); /* the rounding up to 64 bytes would wrap */
    ck_assert_ptr_null(ser_mem_alloc_raw((size_t)1 << 62, 1));
    ck_assert(strstr(ser_fail_text(), "out of memory") != NULL);
    size_t result = 5;
    ck_assert(!ser_mul_size(SIZE_MAX, 2, &result));
    ck_assert(!ser_add_size(SIZE_MAX, 1, &result));
    ck_assert_uint_eq(result, 5);
    ck_assert(ser_mul_size(6, 7, &result));
    ck_assert_uint_eq(result, 42);
    ck_assert(ser_add_size(SIZE_MAX - 1, 1, &result));
    ck_assert_uint_eq(result, SIZE_MAX);
}
END_TEST

START_TEST(grow_keeps_the_content)
{
    int64_t live = ser_mem_live();
    int *list = NULL;
    ck_assert_int_eq(ser_mem_grow(&list, 0, 4, sizeof *list), 0);
    for (int i = 0; i < 4; i++) {
        list[i] = i;
    }
    ck_assert_int_eq(ser_mem_grow(&list, 4, 100, sizeof *list), 0);
    ck_assert_int_eq(list[3], 3);
    int *before = list;
    ck_assert_int_eq(ser_mem_grow(&list, 100, SIZE_MAX, sizeof *list), SER_ERR_MEMORY);
    ck_assert_ptr_eq(list, before);
    ck_assert_int_eq(list[2], 2);
    ser_mem_free(list);
    ck_assert_int_eq(ser_mem_live(), live);
}
END_TEST

START_TEST(texts)
{
    char *copy = ser_mem_strdup("abc");
    ck_assert_str_eq(copy, "abc");
    char *text = ser_mem_format("%s-%d", copy, 12);
    ck_assert_str_eq(text, "abc-12");
    ser_mem_free(text);
    ser_mem_free(copy);
}
END_TEST

START_TEST(failures_come_on_demand)
{
    void *block[4];
    ser_mem_fail_at(2, false);
    for (int i = 0; i < 4; i++) {
        block[i] = ser_mem_alloc(1, 1);
        ck_assert_int_eq(block[i] == NULL, i == 1);
    }
    for (int i = 0; i < 4; i++) {
        ser_mem_free(block[i]);
    }
    ser_mem_fail_at(2, true);
    for (int i = 0; i < 4; i++) {
        block[i] = ser_mem_alloc(1, 1);
        ck_assert_int_eq(block[i] == NULL, i >= 1);
    }
    ser_mem_free(block[0]);
    ser_mem_fail_at(0, false);
    block[0] = ser_mem_strdup("x");
    ck_assert_ptr_nonnull(block[0]);
    ser_mem_free(block[0]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mem");
    TCase *tcase = tcase_create("mem");
    tcase_add_test(tcase, blocks_are_aligned_and_zeroed);
    tcase_add_test(tcase, overflow_is_refused);
    tcase_add_test(tcase, grow_keeps_the_content);
    tcase_add_test(tcase, texts);
    tcase_add_test(tcase, failures_come_on_demand);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
