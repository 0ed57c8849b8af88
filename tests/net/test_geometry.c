/* SPDX-License-Identifier: MIT */
#include "random_net.h"

#include "net/geometry.h"

START_TEST(five_seconds_give_round_numbers)
{
    static const int64_t wanted[] = {80000, 16000, 8000, 4000, 2000, 1000, 500, 250};
    ser_arch arch = random_arch(NET_BASE);
    ser_geometry g;
    ser_geometry_plan(&arch, 3, 80000, &g);
    ck_assert_int_eq(g.batch, 3);
    ck_assert_int_eq(g.samples, 80000);
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(g.padded[i], wanted[i]);
    }
}
END_TEST

START_TEST(every_level_has_room)
{
    ser_arch arch = random_arch(_i);
    for (int64_t n = ser_arch_min_samples(&arch); n < 90000; n += n < 3000 ? 1 : 997) {
        ser_geometry g;
        int64_t lengths[SER_MAX_CONVS + 1];
        ser_geometry_plan(&arch, 1, n, &g);
        ser_geometry_lengths(&arch, n, lengths);
        ck_assert_int_eq(lengths[arch.conv_count], ser_arch_frames(&arch, n));
        ck_assert_int_ge(g.samples, n);
        for (int32_t i = 0; i < arch.conv_count; i++) {
            ck_assert_int_ge(lengths[i], 1);
            ck_assert_int_eq(g.padded[i], g.padded[i + 1] * arch.conv_stride[i]);
            ck_assert_int_ge(g.padded[i], lengths[i] + arch.conv_padding[i]);
        }
        ck_assert_int_ge(g.padded[arch.conv_count], lengths[arch.conv_count]);
        ck_assert_int_le(g.padded[arch.conv_count], lengths[arch.conv_count] + 2);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("geometry");
    TCase *tc = tcase_create("geometry");
    tcase_add_test(tc, five_seconds_give_round_numbers);
    tcase_add_loop_test(tc, every_level_has_room, 0, NET_KINDS);
    suite_add_tcase(suite, tc);
    return harness_run(suite);
}
