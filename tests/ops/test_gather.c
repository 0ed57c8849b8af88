/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 3, PADDED = 7, COLS = 5 };
static const int32_t valid[] = {7, 1, 4};

/* Clips of both types in any order, zeros behind each. */
START_TEST(test_gather)
{
    const ser_tensor from = matrix(BATCH * PADDED, COLS, 3, 0);
    const float *x = content(&from);
    int16_t samples[PADDED * COLS];
    for (int i = 0; i < PADDED * COLS; i++) {
        samples[i] = (int16_t)(i % 2 == 0 ? 32767 - i : -32768 + i);
    }
    const ser_source sources[BATCH] = {
        {(const float *)from.data + PADDED * COLS, SER_SOURCE_F32},
        {samples, SER_SOURCE_I16},
        {from.data, SER_SOURCE_F32},
    };
    ser_tensor y = poisoned(BATCH * PADDED, COLS);
    const ser_gather_args args = {
        .sources = sources,
        .rows = {.batch = BATCH, .padded = PADDED, .valid = valid},
        .y = y,
    };
    RUN(ser_gather, &args);
    for (int e = 0; e < BATCH * PADDED * COLS; e++) {
        const int b = e / COLS / PADDED;
        const int at = e % (PADDED * COLS);
        const float source = b == 0   ? x[PADDED * COLS + at]
                             : b == 1 ? (float)samples[at] / 32768.0F
                                      : x[at];
        const float wanted = at / COLS < valid[b] ? source : 0.0F;
        ck_assert_msg(((float *)y.data)[e] == wanted, "%d: %g, not %g", e,
                      (double)((float *)y.data)[e], (double)wanted);
    }
    ck_assert(isnan(((float *)y.data)[-1]) && isnan(((float *)y.data)[y.rows * COLS]));
}
END_TEST

OP_SUITE("gather", test_gather)
