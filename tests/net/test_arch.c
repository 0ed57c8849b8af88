/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include "net/arch.h"

static ser_arch wav2vec2(void)
{
    static const int32_t kernel[] = {10, 3, 3, 3, 3, 2, 2};
    static const int32_t stride[] = {5, 2, 2, 2, 2, 2, 2};
    ser_arch arch = {.features = SER_FEATURES_CONV, .conv_count = 7};
    for (int i = 0; i < 7; i++) {
        arch.conv_dim[i] = 512;
        arch.conv_kernel[i] = kernel[i];
        arch.conv_stride[i] = stride[i];
    }
    return arch;
}

static ser_arch logmel(void)
{
    return (ser_arch){
        .features = SER_FEATURES_LOGMEL,
        .mel = {.frame = 400, .hop = 160, .fft = 512, .bins = 80},
        .conv_count = 3,
        .conv_dim = {96, 128, 128},
        .conv_kernel = {5, 3, 3},
        .conv_stride = {2, 2, 2},
        .conv_padding = {2, 1, 1},
    };
}

/* The figures of transformers' _get_feat_extract_output_lengths. */
START_TEST(frames_of_wav2vec2)
{
    static const int64_t cases[][2] = {
        {-5, 0},  {0, 0},      {1, 0},      {399, 0},     {400, 1},      {401, 1},     {719, 1},
        {720, 2}, {16000, 49}, {16001, 49}, {80000, 249}, {123457, 385}, {160000, 499}};
    ser_arch arch = wav2vec2();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ck_assert_int_eq(ser_arch_frames(&arch, cases[i][0]), cases[i][1]);
    }
    ck_assert_int_eq(ser_arch_min_samples(&arch), 400);
    ck_assert_int_eq(ser_arch_hop(&arch), 320);
    ck_assert_double_eq(ser_arch_first_centre(&arch), 200.0);
}
END_TEST

START_TEST(frames_of_logmel)
{
    ser_arch arch = logmel();
    /* 5 s: 1 + (80000 - 400) / 160 = 498 mel frames, then 249, 125, 63 */
    ck_assert_int_eq(ser_arch_frames(&arch, 80000), 63);
    ck_assert_int_eq(ser_arch_frames(&arch, 400), 1);
    ck_assert_int_eq(ser_arch_frames(&arch, 399), 0);
    ck_assert_int_eq(ser_arch_frames(&arch, 400 + 7 * 160), 1);
    ck_assert_int_eq(ser_arch_frames(&arch, 400 + 8 * 160), 2);
    ck_assert_int_eq(ser_arch_min_samples(&arch), 400);
    ck_assert_int_eq(ser_arch_hop(&arch), 1280);
    /* symmetric padding: frame 0 is centred where mel frame 0 is */
    ck_assert_double_eq(ser_arch_first_centre(&arch), 200.0);
}
END_TEST

/* min_samples is what its name says, for any geometry. */
START_TEST(fewest_samples_give_one_frame)
{
    uint64_t state = 1;
    for (int trial = 0; trial < 2000; trial++) {
        ser_arch arch = {.features = trial % 2};
        arch.mel.frame = 1 + (int32_t)(20 * (1 + harness_random(&state)));
        arch.mel.hop = 1 + (int32_t)(20 * (1 + harness_random(&state)));
        arch.conv_count = 1 + (int32_t)(2 * (1 + harness_random(&state)));
        for (int i = 0; i < arch.conv_count; i++) {
            arch.conv_kernel[i] = 1 + (int32_t)(4 * (1 + harness_random(&state)));
            arch.conv_stride[i] = 1 + (int32_t)(3 * (1 + harness_random(&state)));
            arch.conv_padding[i] = (int32_t)(0.5F * (float)arch.conv_kernel[i] *
                                             (0.5F + 0.5F * harness_random(&state)));
        }
        int64_t least = ser_arch_min_samples(&arch);
        ck_assert_int_ge(ser_arch_frames(&arch, least), 1);
        ck_assert_int_eq(ser_arch_frames(&arch, least - 1), 0);
    }
}
END_TEST

/* No configuration and no length overflows, however hostile. */
START_TEST(everything_saturates)
{
    ser_arch arch = {.features = SER_FEATURES_LOGMEL, .conv_count = SER_MAX_CONVS};
    arch.mel.frame = INT32_MAX;
    arch.mel.hop = INT32_MAX;
    for (int i = 0; i < SER_MAX_CONVS; i++) {
        arch.conv_kernel[i] = INT32_MAX;
        arch.conv_stride[i] = INT32_MAX;
        arch.conv_padding[i] = 0;
    }
    ck_assert_int_eq(ser_arch_hop(&arch), INT64_MAX);
    ck_assert_int_eq(ser_arch_min_samples(&arch), INT64_MAX);
    ck_assert_int_eq(ser_arch_frames(&arch, INT64_MAX), 0);
    ck_assert(ser_arch_first_centre(&arch) > 0.0);
    for (int i = 0; i < SER_MAX_CONVS; i++) {
        arch.conv_kernel[i] = 1;
        arch.conv_stride[i] = 1;
        arch.conv_padding[i] = INT32_MAX;
    }
    arch.features = SER_FEATURES_CONV;
    ck_assert_int_eq(ser_arch_frames(&arch, INT64_MAX), INT64_MAX);
    ck_assert_int_eq(ser_arch_min_samples(&arch), 1);
    ck_assert_int_eq(ser_arch_frames(&arch, 0), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("arch");
    TCase *tcase = tcase_create("arch");
    tcase_add_test(tcase, frames_of_wav2vec2);
    tcase_add_test(tcase, frames_of_logmel);
    tcase_add_test(tcase, fewest_samples_give_one_frame);
    tcase_add_test(tcase, everything_saturates);
    suite_add_tcase(suite, tcase);
    return harness_run(suite);
}
