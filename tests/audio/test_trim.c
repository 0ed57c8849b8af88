/* SPDX-License-Identifier: MIT */
/* models/FORMAT.md, "audio.trim", on signals whose frames can be counted by hand. */
#include "audio/audio.h"
#include "harness.h"

enum { COUNT = 16000 };

/* `level` on [begin, end), silence around it. */
static void burst(float *x, size_t begin, size_t end, float level)
{
    memset(x, 0, COUNT * sizeof *x);
    for (size_t i = begin; i < end; i++) {
        x[i] = i % 2 == 0 ? level : -level;
    }
}

static void check(const float *x, size_t count, double threshold_db, double margin, size_t begin,
                  size_t end)
{
    size_t first = 1;
    size_t last = 1;
    ser_audio_trim(x, count, threshold_db, margin, &first, &last);
    ck_assert_msg(first == begin && last == end, "%zu..%zu, not %zu..%zu", first, last, begin, end);
}

START_TEST(burst_in_silence)
{
    float x[COUNT];
    /* Frame i is [160 i, 160 i + 400). The first one that touches 8000 is 48 (from 7680 to 8080),
     * the last one that touches 8799 is 54 (from 8640 to 9040). */
    burst(x, 8000, 8800, 0.5F);
    check(x, COUNT, 35.0, 0.0, 7680, 9040);
    check(x, COUNT, 35.0, 0.1, 6080, 10640);
    check(x, COUNT, 35.0, 1.0, 0, COUNT);
    check(x, COUNT, 35.0, 0.45, 480, COUNT);
    check(x, COUNT, 35.0, 0.4799, 2, COUNT);
}
END_TEST

/* Power counts, and "less than the threshold below" excludes the threshold itself. */
START_TEST(threshold)
{
    float x[COUNT];
    burst(x, 8000, 8800, 0.5F);
    for (size_t i = 0; i < 4000; i++) {
        x[i] = i % 2 == 0 ? 0.05F : -0.05F; /* 20 dB below */
    }
    check(x, COUNT, 19.9, 0.0, 7680, 9040);
    check(x, COUNT, 20.1, 0.0, 0, 9040);
    for (size_t i = 0; i < 4000; i++) {
        x[i] = 0.0F;
    }
    /* The frames from 8000, 8160 and 8320 are full; that from 8480 holds 320 samples of the
     * burst, 1.0 dB less, that from 7840 holds 240, 2.2 dB, that from 8640 160, 4.0 dB, that from
     * 7680 80, 7.0 dB. */
    check(x, COUNT, 6.9, 0.0, 7840, 9040);
    check(x, COUNT, 3.9, 0.0, 7840, 8880);
    check(x, COUNT, 2.1, 0.0, 8000, 8880);
    check(x, COUNT, 0.9, 0.0, 8000, 8720);
}
END_TEST

START_TEST(left_alone)
{
    float x[COUNT] = {0};
    check(x, COUNT, 35.0, 0.1, 0, COUNT); /* digital silence */
    check(x, 0, 35.0, 0.1, 0, 0);
    burst(x, 100, 200, 0.5F);
    check(x, 399, 35.0, 0.0, 0, 399); /* shorter than a frame */
    check(x, 400, 35.0, 0.0, 0, 400);
    check(x, 559, 35.0, 0.0, 0, 400); /* the rest is no whole frame */
    check(x, 560, 35.0, 0.0, 0, 560);
    check(x, 560, 3.9, 0.0, 0, 400); /* frame 1 holds 40 of the 100 samples: 4.0 dB less */
}
END_TEST

/* Only whole frames are looked at: a click in the last, partial one is not heard. */
START_TEST(whole_frames_only)
{
    float x[COUNT];
    burst(x, 0, 400, 0.1F);
    x[1199] = 1.0F;
    check(x, 1199, 35.0, 0.0, 0, 720);
    check(x, 1200, 35.0, 0.0, 0, 1200);
}
END_TEST

START_TEST(extreme_levels)
{
    float x[COUNT];
    burst(x, 8000, 8800, 3e38F);
    check(x, COUNT, 35.0, 0.0, 7680, 9040);
    burst(x, 8000, 8800, 1e-40F);
    check(x, COUNT, 35.0, 0.0, 7680, 9040);
    burst(x, 8000, 8800, 0.5F);
    check(x, COUNT, 0.0, 0.0, 15520, 15920); /* out of range, yet within the clip */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("trim");
    TCase *trim = tcase_create("trim");
    tcase_add_test(trim, burst_in_silence);
    tcase_add_test(trim, threshold);
    tcase_add_test(trim, left_alone);
    tcase_add_test(trim, whole_frames_only);
    tcase_add_test(trim, extreme_levels);
    suite_add_tcase(suite, trim);
    return harness_run(suite);
}
