/* SPDX-License-Identifier: MIT */
#include "fixture.h"

enum { BATCH = 4 };

/* Every type of source into both types, with odd rows and one that fills its place. */
static void check_gather(int64_t padded, int64_t cols, int32_t type)
{
    const int32_t valid[BATCH] = {(int32_t)padded, 1, (int32_t)(padded / 2 + 1),
                                  (int32_t)(padded - padded / 3)};
    const twin_rows rows = twin_rows_of(BATCH, padded, valid);
    const twin f32 = twin_input(padded, cols, SER_F32, 1, 1.0F, 0);
    const twin bf16 = twin_input(padded, cols, SER_BF16, 2, 1.0F, 0);
    int16_t *samples = calloc((size_t)(padded * cols), sizeof *samples);
    for (int64_t i = 0; i < padded * cols; i++) {
        samples[i] = (int16_t)(i % 3 == 0 ? 32767 - i : i - 32768);
    }
    const ser_source on_cpu[BATCH] = {{f32.cpu.data, SER_SOURCE_F32},
                                      {samples, SER_SOURCE_I16},
                                      {bf16.cpu.data, SER_SOURCE_F32},
                                      {samples, SER_SOURCE_I16}};
    const void *moved = gpu_copy(samples, (size_t)(padded * cols) * sizeof *samples);
    const ser_source on_gpu[BATCH] = {{f32.gpu.data, SER_SOURCE_F32},
                                      {moved, SER_SOURCE_I16},
                                      {bf16.gpu.data, SER_SOURCE_BF16},
                                      {moved, SER_SOURCE_I16}};
    const twin y = twin_output(BATCH * padded, cols, type);
    ser_gather_args args = {.sources = on_cpu, .rows = rows.cpu, .y = y.cpu};
    RUN_CPU(ser_gather, &args);
    args =
        (ser_gather_args){.sources = gpu_copy(on_gpu, sizeof on_gpu), .rows = rows.gpu, .y = y.gpu};
    RUN_GPU(ser_gather, &args);
    twin_check("y", &y, NULL, type == SER_BF16 ? 0.00391 : 0.0, false); /* half a unit of bf16 */
    twin_check("y", &y, &rows, 1.0, true);
    twin_check_slack("y", &y);
    free(samples);
    twins_free();
}

START_TEST(test_gather)
{
    const int64_t shapes[][2] = {{9001, 1}, {33, 24}, {7, 5}, {1, 1}, {250, 64}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_gather(shapes[i][0], shapes[i][1], SER_F32);
        check_gather(shapes[i][0], shapes[i][1], SER_BF16);
    }
}
END_TEST

CUDA_SUITE("cuda_gather", test_gather)
