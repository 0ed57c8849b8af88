/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include "base/rng.h"

/* Known answers of Philox4x32-10 that come with Random123 (tests/kat_vectors). */
START_TEST(known_answers)
{
    static const struct {
        uint32_t counter[4];
        uint32_t key[2];
        uint32_t answer[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof kat / sizeof kat[0]; i++) {
        uint32_t words[4];
        const uint32_t *c = kat[i].counter;
        ser_rng_block(kat[i].key[0] | (uint64_t)kat[i].key[1] << 32, c[2] | (uint64_t)c[3] << 32,
                      c[0] | (uint64_t)c[1] << 32, words);
        for (int j = 0; j < 4; j++) {
            ck_assert_uint_eq(words[j], kat[i].answer[j]);
        }
    }
}
END_TEST

START_TEST(streams_do_not_overlap)
{
    uint64_t base = ser_rng_stream(SER_RNG_INIT, 3, 4);
    ck_assert_uint_eq(base, (UINT64_C(1) << 48) + (UINT64_C(3) << 24) + 4);
    ck_assert_uint_ne(base, ser_rng_stream(SER_RNG_INIT, 4, 3));
    ck_assert_uint_ne(base, ser_rng_stream(SER_RNG_INIT, 3, 5));
}
END_TEST

/* The values of an element do not depend on where a call begins. */
START_TEST(uniform_is_a_function_of_the_element)
{
    enum { N = 101 };
    float whole[N];
    ser_rng_uniform(7, 9, 0, -0.5F, 1.5F, whole, N);
    for (size_t first = 0; first < N; first++) {
        float one;
        ser_rng_uniform(7, 9, first, -0.5F, 1.5F, &one, 1);
        ck_assert(one == whole[first]);
        float rest[N];
        ser_rng_uniform(7, 9, first, -0.5F, 1.5F, rest, N - first);
        ck_assert_mem_eq(rest, whole + first, (N - first) * sizeof(float));
    }
    float other[N];
    ser_rng_uniform(8, 9, 0, -0.5F, 1.5F, other, N);
    ck_assert_mem_ne(other, whole, sizeof whole);
    ser_rng_uniform(7, 10, 0, -0.5F, 1.5F, other, N);
    ck_assert_mem_ne(other, whole, sizeof whole);
}
END_TEST

START_TEST(uniform_has_the_right_moments)
{
    enum { N = 100000 };
    float *x = ser_mem_alloc(N, sizeof *x);
    ser_rng_uniform(1, 2, 0, -2.0F, 4.0F, x, N);
    double sum = 0.0;
    double squares = 0.0;
    for (size_t i = 0; i < N; i++) {
        ck_assert(x[i] >= -2.0F && x[i] <= 4.0F);
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    double mean = sum / N;
    ck_assert_double_eq_tol(mean, 1.0, 0.03);
    ck_assert_double_eq_tol(squares / N - mean * mean, 3.0, 0.05); /* (4 + 2)^2 / 12 */
    ser_mem_free(x);
}
END_TEST

/* Bits and formula: the first word of the first known answer, shifted and scaled. */
START_TEST(uniform_follows_its_formula)
{
    float x[2];
    ser_rng_uniform(0, 0, 0, 0.0F, 1.0F, x, 2);
    ck_assert(x[0] == (float)(0x6627e8d5U >> 8) * 0x1p-24F);
    ck_assert(x[1] == (float)(0xe169c58dU >> 8) * 0x1p-24F);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("rng");
    TCase *tcase = tcase_create("philox");
    tcase_add_test(tcase, known_answers);
    tcase_add_test(tcase, streams_do_not_overlap);
    tcase_add_test(tcase, uniform_is_a_function_of_the_element);
    tcase_add_test(tcase, uniform_has_the_right_moments);
    tcase_add_test(tcase, uniform_follows_its_formula);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
