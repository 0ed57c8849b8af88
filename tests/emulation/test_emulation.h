/* SPDX-License-Identifier: MIT */
/* What the tests of the emulation share: buffers on both sides, launches, running a suite. */
#ifndef SER_TESTS_EMULATION_TEST_EMULATION_H
#define SER_TESTS_EMULATION_TEST_EMULATION_H

#include "emulator.h"

#include <check.h>
#include <signal.h>
#include <stdlib.h>

inline constexpr unsigned ALL = 0xffffffffu;

template <typename T> struct buffer {
    T *device = nullptr;
    T host[4096];
    size_t count;

    explicit buffer(size_t n) : count(n)
    {
        ck_assert_uint_le(n, 4096);
        ck_assert_int_eq(cudaMalloc(&device, n * sizeof(T)), cudaSuccess);
    }
    buffer(const buffer &) = delete;
    buffer &operator=(const buffer &) = delete;
    ~buffer()
    {
        cudaFree(device);
    }
    void upload()
    {
        ck_assert_int_eq(cudaMemcpy(device, host, count * sizeof(T), cudaMemcpyHostToDevice),
                         cudaSuccess);
    }
    void download()
    {
        ck_assert_int_eq(cudaMemcpy(host, device, count * sizeof(T), cudaMemcpyDeviceToHost),
                         cudaSuccess);
    }
};

template <typename... P, typename... A>
inline cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                          cudaStream_t stream, A... arguments)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <typename... P, typename... A>
inline void run(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... arguments)
{
    ck_assert_int_eq(launch(kernel, grid, block, shared, nullptr, arguments...), cudaSuccess);
}

/* The exit status of main. Tests of `aborting` must end by abort; those of `looped` run for 0 to
 * loops. */
int run_suite(const char *name, const TTest *const *plain, const TTest *const *aborting,
              const TTest *looped, int loops);

#endif
