/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 4, PADDED = 11 };

static const int32_t types[] = {SER_F32, SER_BF16};
static const int32_t valid[BATCH] = {11, 1, 6, 0};

typedef struct twin_args {
    twin x, y;
    twin_rows rows;
    ser_mel_warp_args cpu, gpu;
} twin_args;

static twin_args args_of(int64_t bins, int32_t type, const float warp[BATCH])
{
    const twin factors = twin_values(BATCH, 1, SER_F32, warp);
    const twin offset = twin_input(BATCH, bins, SER_F32, 3, 1.0F, 0);
    twin_args t = {.x = twin_input(BATCH * PADDED, bins, type, 1, 4.0F, 0),
                   .y = twin_output(BATCH * PADDED, bins, type),
                   .rows = twin_rows_of(BATCH, PADDED, valid)};
    twin_fill_padding(&t.x, &t.rows, NAN);
    t.cpu = (ser_mel_warp_args){
        .x = t.x.cpu, .rows = t.rows.cpu, .warp = factors.cpu, .offset = offset.cpu, .y = t.y.cpu};
    t.gpu = (ser_mel_warp_args){
        .x = t.x.gpu, .rows = t.rows.gpu, .warp = factors.gpu, .offset = offset.gpu, .y = t.y.gpu};
    return t;
}

/* One interpolation per value: its place is rounded once in f32, the result once in the type of y,
 * in bf16 by 2^-8 at most. */
static void check_warp(int64_t bins, int32_t type, const float warp[BATCH])
{
    const twin_args t = args_of(bins, type, warp);
    RUN_CPU(ser_mel_warp_fwd, &t.cpu);
    RUN_GPU(ser_mel_warp_fwd, &t.gpu);
    twin_check("y", &t.y, &t.rows, type == SER_BF16 ? 4e-3 : 1e-5, true);
    twin_check_slack("y", &t.y);
    twins_free();
}

START_TEST(test_agrees_with_cpu)
{
    const float warps[][BATCH] = {{1.0F, 0.9F, 1.1F, 1.0F},
                                  {0.83F, 1.27F, 2.5F, 1.0F},
                                  {0.5F, 1.5F, 0.999F, NAN},
                                  {-1.0F, 1e30F, 1e-30F, 1.0F},
                                  {NAN, INFINITY, -INFINITY, 1.0F}};
    const int64_t bins[] = {80, 1, 2, 33, 130};
    for (size_t w = 0; w < sizeof warps / sizeof *warps; w++) {
        for (size_t b = 0; b < sizeof bins / sizeof *bins; b++) {
            check_warp(bins[b], types[0], warps[w]);
            check_warp(bins[b], types[1], warps[w]);
        }
    }
}
END_TEST

/* 1 leaves x as it is, bit for bit, but for the offset. */
START_TEST(test_no_warp_changes_nothing)
{
    const float warp[BATCH] = {1.0F, 1.0F, 1.0F, 1.0F};
    const float zeros[BATCH * 80] = {0.0F};
    for (int i = 0; i < 2; i++) {
        twin_args t = args_of(80, types[i], warp);
        t.gpu.offset = twin_values(BATCH, 80, SER_F32, zeros).gpu;
        RUN_GPU(ser_mel_warp_fwd, &t.gpu);
        const float *x = gpu_values(&t.x.gpu);
        const float *y = gpu_values(&t.y.gpu);
        ck_assert_mem_eq(y, x, PADDED * 80 * sizeof *y); /* the first clip has no padding */
        twins_free();
    }
}
END_TEST

/* What a NaN or infinity among the values touches is as on the CPU. */
START_TEST(test_senseless_values_stay_visible)
{
    const float warp[BATCH] = {0.9F, 1.0F, 1.1F, 1.0F};
    for (int i = 0; i < 2; i++) {
        twin_args t = args_of(20, types[i], warp);
        float *x = t.x.cpu.data;
        x[3] = NAN;
        x[4 * 20 + 7] = INFINITY;
        t.x = twin_values(BATCH * PADDED, 20, types[i], x);
        t.cpu.x = t.x.cpu;
        t.gpu.x = t.x.gpu;
        RUN_CPU(ser_mel_warp_fwd, &t.cpu);
        RUN_GPU(ser_mel_warp_fwd, &t.gpu);
        twin_check("y", &t.y, &t.rows, i == 0 ? 1e-5 : 4e-3, true);
        twins_free();
    }
}
END_TEST

START_TEST(test_same_bits_twice)
{
    const float warp[BATCH] = {1.07F, 0.94F, 1.01F, 1.0F};
    for (int i = 0; i < 2; i++) {
        const twin_args t = args_of(80, types[i], warp);
        const size_t size = BATCH * PADDED * 80 * (types[i] == SER_BF16 ? 2 : 4);
        RUN_GPU(ser_mel_warp_fwd, &t.gpu);
        const void *first = gpu_bytes(&t.y.gpu);
        RUN_GPU(ser_mel_warp_fwd, &t.gpu);
        ck_assert_mem_eq(gpu_bytes(&t.y.gpu), first, size);
        twins_free();
    }
}
END_TEST

CUDA_SUITE("cuda_mel_warp", test_agrees_with_cpu, test_no_warp_changes_nothing,
           test_senseless_values_stay_visible, test_same_bits_twice)
