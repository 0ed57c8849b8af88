/* SPDX-License-Identifier: MIT */
/* Time and memory of reading a hostile header, and the conversion of every 16-bit value. */
#include "harness.h"

#include <math.h>
#include <time.h>

#include "builder.h"
#include "model/safetensors.h"

#define LIMIT ((uint64_t)SER_DEFAULT_HEADER)

static int open_bytes(const void *data, size_t size, uint64_t limit, ser_safetensors *st)
{
    ser_file file;
    assert_ok(ser_file_wrap(data, size, "test.safetensors", &file));
    return ser_safetensors_open(&file, limit, st);
}

static int try_header(const char *header)
{
    ser_safetensors st;
    blob b = blob_safetensors(header, NULL, 0);
    int status = open_bytes(b.data, b.size, LIMIT, &st);
    ser_safetensors_close(&st);
    blob_free(&b);
    return status;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* `count` tensors without bytes. */
static char *many_tensors(size_t count)
{
    char *header = malloc(count * 80 + 16);
    ck_assert_ptr_nonnull(header);
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        n += (size_t)sprintf(header + n,
                             "%c\"%zu\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                             i == 0 ? '{' : ',', i);
    }
    memcpy(header + n, "}", 2);
    return header;
}

static int try_many(size_t count, uint64_t limit)
{
    ser_safetensors st;
    char *header = many_tensors(count);
    blob b = blob_safetensors(header, NULL, 0);
    free(header);
    double begin = seconds();
    int status = open_bytes(b.data, b.size, limit, &st);
    ck_assert_msg(seconds() - begin < 5.0, "%zu tensors took %.1f s", count, seconds() - begin);
    if (status == 0) {
        ck_assert_uint_eq(st.count, count);
        ck_assert_ptr_nonnull(ser_safetensors_find(&st, "77"));
    }
    ser_safetensors_close(&st);
    blob_free(&b);
    return status;
}

START_TEST(ST11_many_tensors)
{
    assert_ok(try_many(SER_MAX_TENSORS, LIMIT));
    assert_fails(try_many(SER_MAX_TENSORS + 1, LIMIT), SER_ERR_CAPACITY, "tensors, limit 65536");
    assert_fails(try_many(100000, LIMIT), SER_ERR_CAPACITY, "limit");
    assert_fails(try_many(1000000, LIMIT), SER_ERR_CAPACITY, "max_header_size");
    assert_fails(try_many(1000000, SER_MAX_HEADER), SER_ERR_CAPACITY, "JSON values, limit");
}
END_TEST

START_TEST(ST11_deep_and_wide_values)
{
    enum { DEPTH = 100000 };
    char *header = malloc(3 * DEPTH + 64);
    ck_assert_ptr_nonnull(header);
    size_t n = (size_t)sprintf(header, "{\"__metadata__\":");
    memset(header + n, '[', DEPTH);
    memset(header + n + DEPTH, ']', DEPTH);
    memcpy(header + n + 2 * DEPTH, "}", 2);
    assert_fails(try_header(header), SER_ERR_FORMAT, "depth");
    free(header);
    /* a header of the greatest size that expands as much as any can */
    size_t size = SER_DEFAULT_HEADER;
    header = malloc(size + 1);
    n = (size_t)sprintf(header, "{\"__metadata__\":[");
    for (; n + 5 < size; n += 3) {
        memcpy(header + n, "{},", 3);
    }
    memcpy(header + n, "{}]}", 5);
    double begin = seconds();
    assert_fails(try_header(header), SER_ERR_CAPACITY, "JSON values, limit");
    ck_assert(seconds() - begin < 5.0);
    free(header);
}
END_TEST

/* IEEE 754 binary16 by its definition. */
static double half_value(unsigned h)
{
    int exponent = (int)(h >> 10 & 0x1F);
    double fraction = (h & 0x3FF) / 1024.0;
    double sign = (h & 0x8000) != 0 ? -1.0 : 1.0;
    if (exponent == 0x1F) {
        return fraction != 0.0 ? (double)NAN : sign * (double)INFINITY;
    }
    return exponent == 0 ? sign * ldexp(fraction, -14)
                         : sign * ldexp(1.0 + fraction, exponent - 15);
}

START_TEST(every_half_is_converted)
{
    enum { N = 65536 };
    uint16_t *halves = malloc(N * sizeof *halves);
    float *values = malloc(N * sizeof *values);
    for (unsigned i = 0; i < N; i++) {
        halves[i] = (uint16_t)i;
    }
    ser_safetensors st;
    blob b = blob_safetensors(
        "{\"h\":{\"dtype\":\"F16\",\"shape\":[65536],\"data_offsets\":[0,131072]}}", halves,
        N * sizeof *halves);
    assert_ok(open_bytes(b.data, b.size, LIMIT, &st));
    assert_ok(ser_safetensors_read(&st, &st.list[0], values));
    for (unsigned i = 0; i < N; i++) {
        double expected = half_value(i);
        ck_assert_msg(isnan(expected) ? isnan(values[i])
                                      : (double)values[i] == expected &&
                                            (signbit(values[i]) != 0) == (signbit(expected) != 0),
                      "%04x: %g, not %g", i, (double)values[i], expected);
    }
    ser_safetensors_close(&st);
    blob_free(&b);
    b = blob_safetensors(
        "{\"h\":{\"dtype\":\"BF16\",\"shape\":[65536],\"data_offsets\":[0,131072]}}", halves,
        N * sizeof *halves);
    assert_ok(open_bytes(b.data, b.size, LIMIT, &st));
    assert_ok(ser_safetensors_read(&st, &st.list[0], values));
    for (unsigned i = 0; i < N; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], 4);
        ck_assert_uint_eq(bits, (uint32_t)i << 16);
    }
    ser_safetensors_close(&st);
    blob_free(&b);
    free(halves);
    free(values);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("safetensors_limits");
    TCase *tcase = tcase_create("limits");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, ST11_many_tensors);
    tcase_add_test(tcase, ST11_deep_and_wide_values);
    tcase_add_test(tcase, every_half_is_converted);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
