/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 3, PADDED = 12 };

static const int32_t valid[BATCH] = {12, 1, 7};

static ser_mel_warp_args args_of(int64_t bins, const float warp[BATCH])
{
    ser_mel_warp_args args = {.x = matrix(BATCH * PADDED, bins, 1, 0),
                              .rows = {.batch = BATCH, .padded = PADDED, .valid = valid},
                              .warp = matrix(BATCH, 1, 2, 0),
                              .offset = matrix(BATCH, bins, 3, 0),
                              .y = poisoned(BATCH * PADDED, bins)};
    memcpy(args.warp.data, warp, BATCH * sizeof(float));
    fill_padding(&args.x, &args.rows, NAN);
    return args;
}

static void check_warp(int64_t bins, float warp0, float warp1, float warp2)
{
    const float warp[BATCH] = {warp0, warp1, warp2};
    const ser_mel_warp_args args = args_of(bins, warp);
    RUN(ser_mel_warp_fwd, &args);
    double *reference = ser_mem_alloc((size_t)(BATCH * PADDED * bins), sizeof *reference);
    for (int64_t i = 0; i < BATCH * PADDED * bins; i++) {
        const int64_t r = i / bins;
        const int64_t f = i % bins;
        const float *x = (const float *)args.x.data + r * bins;
        const double place =
            fmin(fmax((double)f * (double)warp[r / PADDED], 0.0), (double)bins - 1);
        const int64_t low = (int64_t)place;
        const double part = place - (double)low;
        reference[i] = (double)((const float *)args.offset.data)[r / PADDED * bins + f] +
                       (part > 0.0 ? (1.0 - part) * (double)x[low] + part * (double)x[low + 1]
                                   : (double)x[low]);
    }
    check_rows(&args.y, reference, &args.rows, true);
    ser_mem_free(reference);
    matrices_free();
}

START_TEST(test_agrees_with_definition)
{
    check_warp(80, 1.0F, 0.9F, 1.1F);
    check_warp(64, 0.83F, 1.27F, 1.0F);
    check_warp(130, 1.05F, 0.95F, 2.5F);
    check_warp(1, 1.0F, 0.5F, 2.0F);
    check_warp(2, 0.5F, 1.5F, 0.999F);
}
END_TEST

/* 1 leaves x as it is, bit for bit, but for the offset. */
START_TEST(test_no_warp_changes_nothing)
{
    const float warp[BATCH] = {1.0F, 1.0F, 1.0F};
    const ser_mel_warp_args args = args_of(80, warp);
    memset(args.offset.data, 0, BATCH * 80 * sizeof(float));
    RUN(ser_mel_warp_fwd, &args);
    ck_assert_mem_eq(args.y.data, args.x.data, PADDED * 80 * sizeof(float));
}
END_TEST

/* No factor leads out of the row. */
START_TEST(test_factors_beyond_reason_stay_within_the_row)
{
    const float warps[][BATCH] = {{-1.0F, 1e30F, 1e-30F}, {NAN, INFINITY, -INFINITY}};
    for (int i = 0; i < 2; i++) {
        const ser_mel_warp_args args = args_of(80, warps[i]);
        RUN(ser_mel_warp_fwd, &args);
        for (int64_t b = 0; b < BATCH; b++) {
            const float *row = (const float *)args.y.data + b * PADDED * 80;
            for (int64_t f = 0; f < valid[b] * 80; f++) {
                ck_assert(isfinite(row[f]));
            }
        }
        matrices_free();
    }
}
END_TEST

START_TEST(test_same_bits_with_any_threads)
{
    const int32_t lengths[] = {1000, 900};
    ser_mel_warp_args args = {.x = matrix(2000, 80, 1, 0),
                              .rows = {.batch = 2, .padded = 1000, .valid = lengths},
                              .warp = matrix(2, 1, 2, 0),
                              .offset = matrix(2, 80, 3, 0),
                              .y = poisoned(2000, 80)};
    ((float *)args.warp.data)[0] = 1.07F;
    ((float *)args.warp.data)[1] = 0.94F;
    RUN(ser_mel_warp_fwd, &args);
    const float *y = content(&args.y);
    fixture_threads(1);
    RUN(ser_mel_warp_fwd, &args);
    ck_assert_mem_eq(args.y.data, y, 2000 * 80 * sizeof(float));
}
END_TEST

OP_SUITE("mel_warp", test_agrees_with_definition, test_no_warp_changes_nothing,
         test_factors_beyond_reason_stay_within_the_row, test_same_bits_with_any_threads)
