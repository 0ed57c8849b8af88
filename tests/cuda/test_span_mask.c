/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 3, PADDED = 23, TOTAL = BATCH * PADDED, SPANS = 2 };
static const int32_t valid[] = {23, 5, 11};

static const int32_t time_spans[BATCH][SPANS][2] = {
    {{0, 3}, {20, 23}},               /* both ends */
    {{4, 9}, {2, 2}},                 /* beyond the clip, empty */
    {{INT32_MIN, 2}, {7, INT32_MAX}}, /* before and beyond everything */
};
static const int32_t channel_spans[BATCH][SPANS][2] = {
    {{0, 1}, {5, 7}},
    {{3, 2000}, {5000, 6000}},        /* beyond the channels */
    {{INT32_MIN, 2}, {INT32_MAX, 3}}, /* before them, and the wrong way round */
};

/* Every element is the CPU's, that of padding too: it is not touched. */
static void check_spans(int64_t channels, int32_t type, bool time, bool channel)
{
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    twin x = twin_input(TOTAL, channels, type, 1, 1.0F, 0);
    twin_fill_padding(&x, &rows, 7.0F);
    ser_span_mask_args args = {.x = x.cpu,
                               .rows = rows.cpu,
                               .time = time ? &time_spans[0][0][0] : NULL,
                               .time_spans = time ? SPANS : 0,
                               .channel = channel ? &channel_spans[0][0][0] : NULL,
                               .channel_spans = channel ? SPANS : 0};
    RUN_CPU(ser_span_mask, &args);
    args.x = x.gpu;
    args.rows = rows.gpu;
    args.time = time ? gpu_copy(time_spans, sizeof time_spans) : NULL;
    args.channel = channel ? gpu_copy(channel_spans, sizeof channel_spans) : NULL;
    RUN_GPU(ser_span_mask, &args);
    twin_check("x", &x, NULL, 0.0, false);
    twin_check_slack("x", &x);
    twins_free();
}

START_TEST(test_spans)
{
    const int64_t sizes[] = {768, 24, 7, 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int32_t type = SER_F32; type <= SER_BF16; type++) {
            check_spans(sizes[i], type, true, false);
            check_spans(sizes[i], type, false, true);
            check_spans(sizes[i], type, true, true);
            check_spans(sizes[i], type, false, false);
        }
    }
}
END_TEST

/* NaN goes where it is masked and stays elsewhere. */
START_TEST(test_nan)
{
    const twin_rows rows = twin_rows_of(BATCH, PADDED, valid);
    const twin x = twin_output(TOTAL, 9, SER_BF16);
    const ser_span_mask_args args = {.x = x.gpu,
                                     .rows = rows.gpu,
                                     .time = gpu_copy(time_spans, sizeof time_spans),
                                     .time_spans = SPANS};
    RUN_GPU(ser_span_mask, &args);
    const float *got = gpu_values(&x.gpu);
    for (int64_t e = 0; e < TOTAL * 9; e++) {
        const int64_t b = e / 9 / PADDED;
        const int64_t t = e / 9 % PADDED;
        bool masked = false;
        for (int s = 0; s < SPANS; s++) {
            masked = masked || (t >= time_spans[b][s][0] && t < time_spans[b][s][1]);
        }
        ck_assert(masked && t < valid[b] ? got[e] == 0.0F : isnan(got[e]));
    }
}
END_TEST

CUDA_SUITE("cuda_span_mask", test_spans, test_nan)
