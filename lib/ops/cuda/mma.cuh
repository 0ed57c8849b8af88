/* SPDX-License-Identifier: MIT */
/*
 * Tensor cores and the copies that feed them, as far as all cards from sm_80 on have them. The PTX
 * ISA's names and fragment layouts; tests/emulation supplies the same functions on the CPU.
 */
#ifndef SER_OPS_CUDA_MMA_CUH
#define SER_OPS_CUDA_MMA_CUH

#include "ops/cuda/launch.cuh"

#ifdef SER_EMULATION
#include <emulated_mma.h>
#else

__device__ __forceinline__ uint32_t shared_address(const void *shared)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

/*
 * d += a b, a [16, 16] row-major, b [16, 8] column-major, bf16, f32 sums. With g = lane / 4 and
 * t = lane % 4: a0 holds a(g, 2t..2t+1), a1 a(g+8, ..), a2 a(g, 2t+8..), a3 a(g+8, 2t+8..); b0 holds
 * b(2t..2t+1, g), b1 b(2t+8.., g); d0 d1 are d(g, 2t..2t+1), d2 d3 d(g+8, ..).
 */
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8 x 8 matrices of 16 bit; lane i gives the address (16-byte aligned) of row i % 8 of matrix
 * i / 8; r[j] of lane l is row l / 4, columns 2 (l % 4) and the next, of matrix j. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

/* The same, every matrix transposed. */
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

/* Two matrices; the addresses of lanes 0 .. 15 count. */
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void *shared_row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

/* Start copying 16 bytes, both aligned to 16; zeros arrive where `valid` is false, and `global` is
 * not read. */
__device__ __forceinline__ void cp_async_16(void *shared, const void *global, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most N of this thread's committed groups are under way; __syncthreads then shows the
 * others' copies. */
template <int N> __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif

/* Two f32 as a pair of bf16 in one register, `low` in the low half. */
__device__ __forceinline__ uint32_t pack_bf16(float low, float high)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

#endif
