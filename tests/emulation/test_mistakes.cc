/* SPDX-License-Identifier: MIT */
/* Mistakes of kernels that the emulation must see. */
#include "test_emulation.h"

#include "emulated_mma.h"

namespace
{

__global__ void early_exit_kernel()
{
    if (threadIdx.x == 9) {
        return;
    }
    __syncthreads();
}

START_TEST(test_abort_early_exit)
{
    run(early_exit_kernel, 1, 64, 0);
}
END_TEST

__global__ void different_barriers_kernel()
{
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

START_TEST(test_abort_different_barriers)
{
    run(different_barriers_kernel, 1, 64, 0);
}
END_TEST

__global__ void different_collectives_kernel(unsigned *out)
{
    if (threadIdx.x < 8) {
        out[threadIdx.x] = __shfl_sync(ALL, 1u, 0);
    } else {
        out[threadIdx.x] = __ballot_sync(ALL, 1);
    }
}

START_TEST(test_abort_different_collectives)
{
    buffer<unsigned> out(32);
    run(different_collectives_kernel, 1, 32, 0, out.device);
}
END_TEST

__global__ void deadlock_kernel()
{
    if (threadIdx.x == 3) {
        __syncthreads();
    } else {
        __syncwarp();
    }
}

START_TEST(test_abort_deadlock)
{
    run(deadlock_kernel, 1, 32, 0);
}
END_TEST

__global__ void foreign_mask_kernel()
{
    __syncwarp(0xff);
}

START_TEST(test_abort_not_in_mask)
{
    run(foreign_mask_kernel, 1, 32, 0);
}
END_TEST

__global__ void misaligned_kernel(uint32_t *out)
{
    SER_SHARED(uint16_t, shared);
    uint32_t r[4];
    ldmatrix_x4(r, shared + threadIdx.x * 8 + 1);
    out[threadIdx.x] = r[0];
}

START_TEST(test_abort_misaligned)
{
    buffer<uint32_t> out(32);
    run(misaligned_kernel, 1, 32, 1024, out.device);
}
END_TEST

__global__ void not_shared_kernel(uint32_t *out)
{
    uint32_t r[2];
    ldmatrix_x2(r, out);
    out[threadIdx.x] = r[0];
}

START_TEST(test_abort_not_shared)
{
    buffer<uint32_t> out(32);
    run(not_shared_kernel, 1, 32, 0, out.device);
}
END_TEST

__global__ void copy_outside_kernel(const float *from)
{
    SER_SHARED(float, shared);
    cp_async_16(shared, from + 4, true);
}

START_TEST(test_abort_copy_outside)
{
    buffer<float> from(6);
    run(copy_outside_kernel, 1, 1, 16, from.device);
}
END_TEST

__global__ void write_kernel(float *out, int at)
{
    out[at] = 1.0f;
}

START_TEST(test_abort_write_behind)
{
    buffer<float> out(8);
    run(write_kernel, 1, 1, 0, out.device, 8);
}
END_TEST

START_TEST(test_abort_write_before)
{
    buffer<float> out(8);
    run(write_kernel, 1, 1, 0, out.device, -1);
}
END_TEST

__global__ void write_shared_kernel(int at)
{
    SER_SHARED(float, shared);
    shared[at] = 1.0f;
}

START_TEST(test_abort_write_behind_shared)
{
    run(write_shared_kernel, 1, 1, 8 * sizeof(float), 8);
}
END_TEST

__global__ void waiting_kernel(unsigned waiting)
{
    if (threadIdx.x < waiting) {
        cudaGridDependencySynchronize();
    }
    cudaTriggerProgrammaticLaunchCompletion();
}

void run_early(unsigned waiting, int allowed)
{
    cudaLaunchAttribute serial = {};
    cudaLaunchConfig_t config = {};
    serial.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    serial.val.programmaticStreamSerializationAllowed = allowed;
    config.gridDim = 2;
    config.blockDim = 64;
    config.attrs = &serial;
    config.numAttrs = 1;
    ck_assert_int_eq(cudaLaunchKernelEx(&config, waiting_kernel, waiting), cudaSuccess);
}

START_TEST(test_abort_not_waited)
{
    run_early(63, 1);
}
END_TEST

START_TEST(test_allowed)
{
    buffer<float> out(8);
    const uint64_t before = emulator_early_launches();
    run_early(64, 1);
    run_early(0, 0);
    run(waiting_kernel, 1, 64, 0, 64u);
    ck_assert_uint_eq(emulator_early_launches() - before, 1);
    run(write_kernel, 1, 1, 0, out.device, 7);
    run(write_shared_kernel, 1, 1, 8 * sizeof(float), 7);
}
END_TEST

} // namespace

int main()
{
    const TTest *const plain[] = {test_allowed, nullptr};
    const TTest *const aborting[] = {test_abort_early_exit,
                                     test_abort_different_barriers,
                                     test_abort_different_collectives,
                                     test_abort_deadlock,
                                     test_abort_not_in_mask,
                                     test_abort_misaligned,
                                     test_abort_not_shared,
                                     test_abort_copy_outside,
                                     test_abort_write_behind,
                                     test_abort_write_before,
                                     test_abort_write_behind_shared,
                                     test_abort_not_waited,
                                     nullptr};
    return run_suite("mistakes in emulated kernels", plain, aborting, nullptr, 0);
}
