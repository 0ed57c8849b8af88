/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include "train/cache.h"

static ser_context *context;
static ser_clip_cache *cache;

static void make(uint64_t limit)
{
    ser_clip_cache_free(cache);
    assert_ok(ser_clip_cache_create(&ser_cpu_ops, context, limit, &cache));
}

static void setup(void)
{
    const char *name;
    assert_ok(ser_cpu_ops.open(0, &context, &name));
    make(1 << 20);
}

static void teardown(void)
{
    ser_clip_cache_free(cache);
    cache = NULL;
    ser_cpu_ops.close(context);
    ck_assert_int_eq(ser_mem_live(), 0);
}

static float *add(uint64_t id, int64_t length, size_t count)
{
    const size_t size = count < SIZE_MAX / sizeof(float) ? count * sizeof(float) : SIZE_MAX;
    float *values = ser_clip_cache_add(cache, id, length, size, SER_SOURCE_F32);
    for (size_t i = 0; values != NULL && i < count; i++) {
        values[i] = (float)id + (float)i;
    }
    return values;
}

static const float *find(uint64_t id, int64_t length)
{
    ser_source source = {NULL, SER_SOURCE_I16};
    const bool found = ser_clip_cache_find(cache, id, length, &source);
    ck_assert(found == (source.type == SER_SOURCE_F32) && found == (source.data != NULL));
    return source.data;
}

START_TEST(finds_what_was_added)
{
    ck_assert_ptr_null(find(7, 400));
    float *values = add(7, 400, 3);
    ck_assert_ptr_nonnull(values);
    ck_assert_ptr_eq(find(7, 400), values);
    ck_assert_ptr_null(find(8, 400));
    ck_assert_ptr_null(find(7, 401)); /* another length: another clip */
    ck_assert_ptr_null(add(7, 401, 3));
    ck_assert_uint_eq(ser_clip_cache_bytes(cache), 12);
}
END_TEST

START_TEST(many_clips)
{
    enum { MANY = 3000 };
    for (uint64_t i = 1; i <= MANY; i++) {
        ck_assert_ptr_nonnull(add(i << 40 | (i % 3), 100 + (int64_t)i, 2));
    }
    for (uint64_t i = 1; i <= MANY; i++) {
        const float *f = find(i << 40 | (i % 3), 100 + (int64_t)i);
        ck_assert_ptr_nonnull(f);
        ck_assert(f[1] == (float)(i << 40 | (i % 3)) + 1.0F);
    }
    for (int i = 0; i < 100; i++) {
        ser_clip_cache_drop_last(cache);
    }
    ck_assert_ptr_null(find((uint64_t)MANY << 40 | (MANY % 3), 100 + MANY));
    ck_assert_ptr_nonnull(find(1ULL << 40 | 1, 101));
    ser_clip_cache_clear(cache);
    ck_assert_uint_eq(ser_clip_cache_bytes(cache), 0);
    for (uint64_t i = 1; i <= MANY; i++) {
        ck_assert_ptr_null(find(i << 40 | (i % 3), 100 + (int64_t)i));
    }
    ck_assert_ptr_nonnull(add(5, 1, 1));
}
END_TEST

START_TEST(keeps_to_its_limit)
{
    make(40);
    ck_assert_ptr_nonnull(add(1, 1, 6));
    ck_assert_ptr_null(add(2, 1, 5));
    ck_assert_ptr_nonnull(add(2, 1, 4)); /* exactly full */
    ck_assert_ptr_null(add(3, 1, 1));
    ck_assert_ptr_null(add(4, 1, SIZE_MAX));
    ck_assert_ptr_nonnull(find(1, 1));
    ser_clip_cache_drop_last(cache);
    ck_assert_ptr_null(find(2, 1));
    ck_assert_ptr_nonnull(add(3, 1, 4));
}
END_TEST

START_TEST(id_0_is_nobody)
{
    ck_assert_ptr_null(add(0, 1, 1));
    ck_assert_ptr_null(find(0, 1));
    ck_assert_ptr_null(add(1, 1, 0));
}
END_TEST

START_TEST(without_memory_it_is_full)
{
    for (uint64_t n = 1; n <= 3; n++) {
        ser_mem_fail_at(n, false);
        for (uint64_t i = 1; i < 200; i++) {
            const float *values = add(i, 1, 2);
            ck_assert_ptr_eq(find(i, 1), values);
        }
        ser_mem_fail_at(0, false);
        make(1 << 20);
    }
    ser_clip_cache *none = cache;
    for (uint64_t n = 1; n <= 2; n++) {
        ser_mem_fail_at(n, false);
        ck_assert_int_eq(ser_clip_cache_create(&ser_cpu_ops, context, 1, &none), SER_ERR_MEMORY);
        ser_mem_fail_at(0, false);
        ck_assert_ptr_null(none);
    }
    ser_clip_cache_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cache");
    TCase *tc = tcase_create("cache");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, finds_what_was_added);
    tcase_add_test(tc, many_clips);
    tcase_add_test(tc, keeps_to_its_limit);
    tcase_add_test(tc, id_0_is_nobody);
    tcase_add_test(tc, without_memory_it_is_full);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
