/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { PADDED = 12, BATCH = 3, CHANNELS = 9, SPANS = 2 };
static const int32_t valid[] = {12, 5, 8};
static const ser_rows rows = {.batch = BATCH, .padded = PADDED, .valid = valid};

static const int32_t time_spans[BATCH][SPANS][2] = {
    {{0, 3}, {10, 12}}, /* both ends */
    {{4, 9}, {2, 2}},   /* beyond the clip, empty */
    {{3, 6}, {5, 7}},   /* one into the other */
};
static const int32_t channel_spans[BATCH][SPANS][2] = {
    {{0, 1}, {8, 9}},
    {{7, 20}, {30, 40}}, /* beyond the channels */
    {{-5, 2}, {6, 3}},   /* before them, and the wrong way round */
};

static bool within(const int32_t spans[SPANS][2], int64_t i)
{
    return (i >= spans[0][0] && i < spans[0][1]) || (i >= spans[1][0] && i < spans[1][1]);
}

static void check_spans(bool time, bool channel)
{
    ser_tensor x = matrix(BATCH * PADDED, CHANNELS, 1, 0);
    fill_padding(&x, &rows, 7.0F);
    const float *before = content(&x);
    const ser_span_mask_args args = {.x = x,
                                     .rows = rows,
                                     .time = time ? &time_spans[0][0][0] : NULL,
                                     .time_spans = time ? SPANS : 0,
                                     .channel = channel ? &channel_spans[0][0][0] : NULL,
                                     .channel_spans = channel ? SPANS : 0};
    RUN(ser_span_mask, &args);
    for (int64_t e = 0; e < BATCH * PADDED * CHANNELS; e++) {
        const int64_t b = e / CHANNELS / PADDED;
        const int64_t t = e / CHANNELS % PADDED;
        const bool masked = t < valid[b] && ((time && within(time_spans[b], t)) ||
                                             (channel && within(channel_spans[b], e % CHANNELS)));
        const float wanted = masked ? 0.0F : before[e];
        ck_assert_msg(((float *)x.data)[e] == wanted, "clip %d frame %d channel %d: %g", (int)b,
                      (int)t, (int)(e % CHANNELS), (double)((float *)x.data)[e]);
    }
    ck_assert(isnan(((float *)x.data)[-1]) && isnan(((float *)x.data)[x.rows * CHANNELS]));
    matrices_free();
}

START_TEST(test_spans)
{
    check_spans(true, false);
    check_spans(false, true);
    check_spans(true, true);
    check_spans(false, false);
}
END_TEST

OP_SUITE("span_mask", test_spans)
