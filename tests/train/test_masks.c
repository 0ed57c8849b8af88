/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <math.h>

#include "base/rng.h"
#include "random_net.h"
#include "train/masks.h"

enum { MOST = 64 };

static int32_t spans[MOST][2];
static int32_t starts[1024];

/* Draw one row and check what holds for all; the number of spans. */
static int draw(const ser_span_rule *rule, uint64_t stream)
{
    int32_t most = ser_spans_most(rule);
    int found = 0;
    ck_assert_int_le(most, MOST);
    ser_spans_draw(rule, 1, stream, 0, most, starts, &spans[0][0]);
    for (int32_t i = 0; i < most; i++) {
        if (spans[i][1] == 0) {
            ck_assert_int_eq(spans[i][0], 0);
            continue;
        }
        ck_assert_int_eq(found, i); /* the empty ones come last */
        found++;
        ck_assert_int_ge(spans[i][0], 0);
        ck_assert_int_eq(spans[i][1] - spans[i][0], rule->length);
        ck_assert_int_le(spans[i][1], rule->total);
        for (int32_t j = 0; j < i; j++) {
            ck_assert_int_ne(spans[j][0], spans[i][0]);
        }
    }
    return found;
}

START_TEST(the_share_is_right_on_average)
{
    const ser_span_rule rules[] = {{0.05, 149, 10}, {0.5, 20, 3}, {0.004, 64, 10}};
    for (size_t r = 0; r < 3; r++) {
        double wanted = rules[r].probability * (double)rules[r].total / (double)rules[r].length;
        double sum = 0.0;
        for (uint64_t i = 0; i < 4000; i++) {
            int count = draw(&rules[r], i);
            ck_assert(count == (int)floor(wanted) || count == (int)floor(wanted) + 1);
            sum += count;
        }
        /* a fair rounding of w has a deviation of at most 1/2: 5 deviations of the mean of 4000 */
        ck_assert_double_eq_tol(sum / 4000.0, wanted, 2.5 / sqrt(4000.0));
    }
}
END_TEST

START_TEST(every_start_is_as_likely)
{
    const ser_span_rule rule = {0.5, 12, 3}; /* two spans, starts 0..9 */
    int counts[10] = {0};
    for (uint64_t i = 0; i < 5000; i++) {
        int n = draw(&rule, i);
        for (int k = 0; k < n; k++) {
            counts[spans[k][0]]++;
        }
    }
    for (int k = 0; k < 10; k++) { /* 1000 expected, deviation 28 */
        ck_assert_msg(counts[k] > 850 && counts[k] < 1150, "start %d: %d", k, counts[k]);
    }
}
END_TEST

START_TEST(short_rows)
{
    const ser_span_rule too_short = {1.0, 9, 10};
    const ser_span_rule exact = {1.0, 10, 10};
    const ser_span_rule all = {1.0, 5, 1};
    const ser_span_rule none = {0.0, 100, 10};
    ck_assert_int_eq(ser_spans_most(&too_short), 0);
    ck_assert_int_eq(ser_spans_most(&none), 0);
    ck_assert_int_eq(draw(&exact, 3), 1);
    ck_assert_int_eq(draw(&all, 3), 5);
}
END_TEST

START_TEST(masks_of_a_step)
{
    ser_arch arch = random_arch(NET_BASE);
    ser_trainer_options options;
    const int64_t lengths[] = {16000, 400, 32000};
    ser_masks a;
    ser_masks b;
    ser_trainer_options_init(&options, sizeof options);
    options.mask_time_probability = 0.5F;
    options.mask_channel_probability = 0.5F;
    options.mask_channel_length = 4;
    options.layer_drop = 0.5F;
    assert_ok(ser_masks_draw(&arch, &options, 5, lengths, 3, &a));
    assert_ok(ser_masks_draw(&arch, &options, 5, lengths, 3, &b));
    ck_assert_int_eq(a.time_count, 5); /* 0.5 * 99 / 10 = 4.95 */
    ck_assert_int_eq(a.channel_count, 4);
    ck_assert_int_eq(a.time[2 * 5 + 1], 0); /* one frame has no room for a span */
    ck_assert_int_gt(a.time[2 * 10 + 1], 0);
    ck_assert_mem_eq(a.time, b.time, 3 * 5 * 2 * sizeof(int32_t));
    ck_assert_mem_eq(a.channel, b.channel, 3 * 4 * 2 * sizeof(int32_t));
    ck_assert_mem_eq(a.dropped, b.dropped, (size_t)arch.layers);
    ser_masks_clear(&b);
    assert_ok(ser_masks_draw(&arch, &options, 6, lengths, 3, &b));
    ck_assert_mem_ne(a.time, b.time, 3 * 5 * 2 * sizeof(int32_t));
    ser_masks_clear(&a);
    ser_masks_clear(&b);
    options.mask_time_probability = 0.0F;
    options.mask_channel_probability = 0.0F;
    options.layer_drop = 0.0F;
    assert_ok(ser_masks_draw(&arch, &options, 5, lengths, 3, &a));
    ck_assert(a.time == NULL && a.channel == NULL && a.dropped == NULL);
    ser_masks_clear(&a);
    ck_assert_int_eq(ser_mem_live(), 0);
}
END_TEST

START_TEST(blocks_are_dropped_as_often_as_asked)
{
    ser_arch arch = random_arch(NET_LARGE);
    ser_trainer_options options;
    const int64_t length = 16000;
    int dropped[3] = {0};
    int together = 0;
    ser_trainer_options_init(&options, sizeof options);
    options.layer_drop = 0.2F;
    for (uint64_t step = 0; step < 2000; step++) {
        ser_masks m;
        assert_ok(ser_masks_draw(&arch, &options, step, &length, 1, &m));
        for (int i = 0; i < 3; i++) {
            dropped[i] += m.dropped[i];
        }
        together += m.dropped[0] && m.dropped[1];
        ser_masks_clear(&m);
    }
    for (int i = 0; i < 3; i++) { /* 400 expected, deviation 18 */
        ck_assert_msg(dropped[i] > 310 && dropped[i] < 490, "block %d: %d", i, dropped[i]);
    }
    ck_assert_msg(together > 40 && together < 125, "%d", together); /* 80, deviation 9 */
}
END_TEST

START_TEST(every_allocation_may_fail)
{
    ser_arch arch = random_arch(NET_BASE);
    ser_trainer_options options;
    const int64_t length = 16000;
    int status = SER_ERR_MEMORY;
    ser_trainer_options_init(&options, sizeof options);
    options.mask_channel_probability = 0.5F;
    options.layer_drop = 0.5F;
    for (uint64_t n = 1; status != 0; n++) {
        ser_masks m;
        ser_mem_fail_at(n, false);
        status = ser_masks_draw(&arch, &options, 1, &length, 1, &m);
        ser_mem_fail_at(0, false);
        ck_assert(status == 0 || status == SER_ERR_MEMORY);
        ser_masks_clear(&m);
        ck_assert_int_eq(ser_mem_live(), 0);
        ck_assert_uint_lt(n, 20);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("masks");
    TCase *tc = tcase_create("masks");
    tcase_add_test(tc, the_share_is_right_on_average);
    tcase_add_test(tc, every_start_is_as_likely);
    tcase_add_test(tc, short_rows);
    tcase_add_test(tc, masks_of_a_step);
    tcase_add_test(tc, blocks_are_dropped_as_often_as_asked);
    tcase_add_test(tc, every_allocation_may_fail);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
