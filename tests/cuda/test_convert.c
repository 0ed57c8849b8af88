/* SPDX-License-Identifier: MIT */
#include "fixture.h"

static size_t size_of(const ser_tensor *x)
{
    return (size_t)(x->rows * x->cols) * (x->type == SER_BF16 ? 2 : 4);
}

static void convert(const ser_tensor *from, const ser_tensor *to)
{
    assert_ok(gpu.ops->convert(gpu.queue, from, to));
    assert_ok(gpu.ops->sync(gpu.queue));
}

/* f32 to bf16 as the fixture rounds on the host, back without loss, and copies; to the last bit. */
static void check_values(int64_t rows, int64_t cols, const float *values)
{
    const twin full = twin_values(rows, cols, SER_F32, values);
    const twin rounded = twin_values(rows, cols, SER_BF16, values);
    for (int32_t type = SER_F32; type <= SER_BF16; type++) {
        const twin from_full = twin_output(rows, cols, type);
        const twin from_rounded = twin_output(rows, cols, type);
        convert(&full.gpu, &from_full.gpu);
        convert(&rounded.gpu, &from_rounded.gpu);
        const ser_tensor *expected = type == SER_F32 ? &full.gpu : &rounded.gpu;
        ck_assert_mem_eq(gpu_bytes(&from_full.gpu), gpu_bytes(expected), size_of(expected));
        const ser_tensor widened = rounded.cpu; /* what bf16 left of the values, as f32 */
        const void *second = type == SER_F32 ? widened.data : gpu_bytes(&rounded.gpu);
        ck_assert_mem_eq(gpu_bytes(&from_rounded.gpu), second, size_of(expected));
        twin_check_slack("from f32", &from_full);
        twin_check_slack("from bf16", &from_rounded);
    }
    twins_free();
}

static void check_size(int64_t rows, int64_t cols)
{
    const size_t count = (size_t)(rows * cols);
    float *values = malloc(count * sizeof *values);
    harness_fill(values, count, 5, 100.0F);
    check_values(rows, cols, values);
    free(values);
}

START_TEST(test_sizes)
{
    const int64_t counts[] = {1, 7, 8, 9, 2047, 2048, 2049};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        check_size(1, counts[i]);
    }
    check_size(70, 1030);
}
END_TEST

/* More elements than the grid has threads for at once, whatever the card. */
START_TEST(test_large)
{
    check_size(gpu.ops->host_memory ? 75001 : 500001, 30);
}
END_TEST

START_TEST(test_special_values)
{
    const float values[] = {
        0.0F,      -0.0F,     INFINITY,  -INFINITY,  1.0F,          -1.0F,
        0x1.01p0F, 0x1.03p0F, 0x1.02p0F, -0x1.01p0F, 0x1.010002p0F, /* ties */
        3.4e38F,   -3.4e38F,  3.38e38F,  3.39e38F,                  /* to infinity, and just not */
        1e-38F,    1e-40F,    1e-45F,    -1e-41F,    0x1p-133F,     0x1p-134F};
    check_values(1, sizeof values / sizeof *values, values);
}
END_TEST

/* A NaN stays one; a copy keeps its bits. */
START_TEST(test_nan)
{
    const uint32_t bits[] = {0x7FC00000, 0x7F800001, 0xFFC12345, 0x7FFFFFFF,
                             0xFF800001, 0x7F812345, 0x7FC00001, 0xFFFFFFFF};
    float values[8];
    memcpy(values, bits, sizeof values);
    const twin from = twin_values(1, 8, SER_F32, values);
    const twin copy = twin_output(1, 8, SER_F32);
    const twin narrow = twin_output(1, 8, SER_BF16);
    convert(&from.gpu, &copy.gpu);
    convert(&from.gpu, &narrow.gpu);
    ck_assert_mem_eq(gpu_bytes(&copy.gpu), bits, sizeof bits);
    const float *got = gpu_values(&narrow.gpu);
    for (int i = 0; i < 8; i++) {
        ck_assert(isnan(got[i]));
    }
}
END_TEST

/* Views that begin between the 16-byte borders. */
START_TEST(test_unaligned)
{
    const twin from = twin_input(9, 7, SER_F32, 5, 3.0F, 0);
    const twin to = twin_output(9, 7, SER_BF16);
    const twin wanted = twin_values(9, 7, SER_BF16, from.cpu.data);
    const twin source = twin_part(from, 3, 5);
    const twin target = twin_part(to, 3, 5);
    convert(&source.gpu, &target.gpu);
    const float *got = gpu_values(&to.gpu);
    for (int i = 0; i < 63; i++) {
        const bool within = i >= 21 && i < 56;
        ck_assert(within ? got[i] == ((const float *)wanted.cpu.data)[i] : isnan(got[i]));
    }
}
END_TEST

CUDA_SUITE("cuda_convert", test_sizes, test_large, test_special_values, test_nan, test_unaligned)
