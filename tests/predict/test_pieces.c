/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <math.h>

#include "audio/audio.h"
#include "predict/pieces.h"

static ser_front_end front_end;
static ser_piece_rules rules;
static float samples[40000];
static ser_audio audios[4];
static const ser_audio *list[4];
static ser_piece *pieces;
static size_t piece_count;

static void setup(void)
{
    front_end = (ser_front_end){0};
    rules = (ser_piece_rules){
        .front_end = &front_end, .max_samples = 10000, .window = 4000, .min_samples = 400};
    harness_fill(samples, sizeof samples / sizeof samples[0], 1, 1.0F);
    for (size_t i = 0; i < 4; i++) {
        audios[i] = (ser_audio){.samples = samples};
        list[i] = &audios[i];
    }
    pieces = NULL;
}

static void teardown(void)
{
    ser_mem_free(pieces);
}

static void cut(size_t count)
{
    ser_mem_free(pieces);
    pieces = NULL;
    assert_ok(ser_pieces_cut(&rules, list, count, &pieces, &piece_count));
}

static void assert_piece(size_t index, size_t clip, size_t begin, size_t end, size_t padded,
                         bool windowed)
{
    ck_assert_uint_lt(index, piece_count);
    const ser_piece *p = &pieces[index];
    ck_assert_uint_eq(p->clip, clip);
    ck_assert_uint_eq(p->begin, begin);
    ck_assert_uint_eq(p->end, end);
    ck_assert_uint_eq(p->padded, padded);
    ck_assert_int_eq(p->windowed, windowed);
}

START_TEST(a_clip_up_to_the_limit_is_one_piece)
{
    audios[0].count = 10000;
    cut(1);
    ck_assert_uint_eq(piece_count, 1);
    assert_piece(0, 0, 0, 10000, 10000, false);
    ck_assert_uint_eq(pieces[0].length, 10000);
}
END_TEST

START_TEST(a_longer_clip_is_cut_in_windows_and_the_last_is_shorter)
{
    audios[0].count = 10001;
    cut(1);
    ck_assert_uint_eq(piece_count, 3);
    assert_piece(0, 0, 0, 4000, 4000, true);
    assert_piece(1, 0, 4000, 8000, 4000, true);
    assert_piece(2, 0, 8000, 10001, 2001, true);
    audios[0].count = 12000;
    cut(1);
    ck_assert_uint_eq(piece_count, 3);
    assert_piece(2, 0, 8000, 12000, 4000, true);
    audios[0].count = 12001;
    cut(1);
    ck_assert_uint_eq(piece_count, 4);
    assert_piece(3, 0, 12000, 12001, 400, true);
    ck_assert_uint_eq(pieces[3].length, 1);
}
END_TEST

START_TEST(one_window_of_a_long_clip_is_a_window)
{
    rules.window = 20000; /* the model's own window may be longer than a small max_seconds */
    audios[0].count = 15000;
    cut(1);
    ck_assert_uint_eq(piece_count, 1);
    assert_piece(0, 0, 0, 15000, 15000, true);
}
END_TEST

START_TEST(short_and_empty_clips_are_padded)
{
    audios[0].count = 399;
    audios[1].count = 0;
    audios[1].samples = NULL;
    cut(2);
    assert_piece(0, 0, 0, 399, 400, false);
    assert_piece(1, 1, 0, 0, 400, false);
    float to[400];
    memset(to, 0xFF, sizeof to);
    ser_piece_prepare(&rules, &pieces[1], to);
    ck_assert_float_eq(to[0], 0.0F);
    ck_assert_float_eq(to[399], 0.0F);
}
END_TEST

START_TEST(the_longest_comes_first_and_equals_keep_their_order)
{
    audios[0].count = 500;
    audios[1].count = 9000;
    audios[2].count = 500;
    audios[3].count = 17000; /* windows of 4000, 4000, 4000, 4000, 1000 */
    cut(4);
    ck_assert_uint_eq(piece_count, 8);
    assert_piece(0, 1, 0, 9000, 9000, false);
    for (size_t i = 0; i < 4; i++) {
        assert_piece(1 + i, 3, i * 4000, (i + 1) * 4000, 4000, true);
    }
    assert_piece(5, 3, 16000, 17000, 1000, true);
    assert_piece(6, 0, 0, 500, 500, false);
    assert_piece(7, 2, 0, 500, 500, false);
}
END_TEST

START_TEST(hf_padding_reaches_all_clips_but_no_window)
{
    rules.pad_as_hf = true;
    audios[0].count = 500;
    audios[1].count = 9000;
    audios[2].count = 10500;
    cut(3);
    ck_assert_uint_eq(piece_count, 5);
    assert_piece(0, 0, 0, 500, 9000, false);
    assert_piece(1, 1, 0, 9000, 9000, false);
    assert_piece(2, 2, 0, 4000, 4000, true);
    assert_piece(4, 2, 8000, 10500, 2500, true);
}
END_TEST

START_TEST(silence_is_trimmed_in_every_piece)
{
    front_end.trim = true;
    front_end.trim_threshold_db = 35.0;
    front_end.trim_margin = 0.01;
    memset(samples, 0, 3200 * sizeof *samples);
    audios[0].count = 8000;
    audios[1].count = 10001;
    cut(2);
    size_t begin, end;
    ser_audio_trim(samples, 8000, 35.0, 0.01, &begin, &end);
    ck_assert_uint_gt(begin, 2000);
    assert_piece(0, 0, begin, 8000, 8000 - begin, false);
    assert_piece(1, 1, 4000, 8000, 4000, true);
    assert_piece(2, 1, 8000, 10001, 2001, true);
    assert_piece(3, 1, begin, 4000, 4000 - begin, true);
    ck_assert_uint_eq(pieces[3].length, 4000); /* its weight is that of the window */
}
END_TEST

START_TEST(a_prepared_piece_is_normalised_before_it_is_padded)
{
    float to[400];
    float wanted[300];
    audios[0].count = 300;
    cut(1);
    memset(to, 0xFF, sizeof to);
    ser_piece_prepare(&rules, &pieces[0], to);
    ck_assert_mem_eq(to, samples, 300 * sizeof *to);
    ck_assert_float_eq(to[300], 0.0F);
    ck_assert_float_eq(to[399], 0.0F);

    front_end.normalize = true;
    memset(to, 0xFF, sizeof to);
    ser_piece_prepare(&rules, &pieces[0], to);
    ser_audio_normalize(samples, 300, wanted);
    ck_assert_mem_eq(to, wanted, sizeof wanted);
    ck_assert_float_eq(to[300], 0.0F);
    ck_assert_float_eq(to[399], 0.0F);
}
END_TEST

START_TEST(no_memory)
{
    audios[0].count = 500;
    ser_mem_fail_at(1, false);
    assert_fails(ser_pieces_cut(&rules, list, 1, &pieces, &piece_count), SER_ERR_MEMORY,
                 "out of memory");
    ck_assert_ptr_null(pieces);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pieces");
    TCase *tc = tcase_create("pieces");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_clip_up_to_the_limit_is_one_piece);
    tcase_add_test(tc, a_longer_clip_is_cut_in_windows_and_the_last_is_shorter);
    tcase_add_test(tc, one_window_of_a_long_clip_is_a_window);
    tcase_add_test(tc, short_and_empty_clips_are_padded);
    tcase_add_test(tc, the_longest_comes_first_and_equals_keep_their_order);
    tcase_add_test(tc, hf_padding_reaches_all_clips_but_no_window);
    tcase_add_test(tc, silence_is_trimmed_in_every_piece);
    tcase_add_test(tc, a_prepared_piece_is_normalised_before_it_is_padded);
    tcase_add_test(tc, no_memory);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
