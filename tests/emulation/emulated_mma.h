/* SPDX-License-Identifier: MIT */
/* What the PTX wrappers of lib/ops/cuda/mma.cuh do, lane by lane: tensor-core products, ldmatrix
 * and cp.async with the fragment layouts of the PTX manual (mma.m16n8k16, ldmatrix .m8n8 .b16). */
#ifndef SER_EMULATION_EMULATED_MMA_H
#define SER_EMULATION_EMULATED_MMA_H

#include <cuda_runtime.h>

/* The registers of one lane. */
struct emulator_fragments {
    float *d;
    const uint32_t *a;
    const uint32_t *b;
};

/* d [16, 8] += a [16, 16] b [16, 8]; bf16, bf16, f32. All lanes of the warp together. */
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         EMULATOR_SITE)
{
    const emulator_fragments fragments{d, a, b};
    emulator_op op{EMULATOR_MMA, 0xffffffffu, file, line};
    op.data = &fragments;
    emulator_collective(&op);
}

inline void emulator_ldmatrix(uint32_t *r, const void *row, int count, int transposed,
                              const char *file, int line)
{
    emulator_op op{EMULATOR_LDMATRIX, 0xffffffffu, file, line, count, transposed};
    op.data = row;
    op.out = r;
    emulator_collective(&op);
}

/* Lane i gives the address of row i % 8 of matrix i / 8. */
inline void ldmatrix_x4(uint32_t (&r)[4], const void *shared_row, EMULATOR_SITE)
{
    emulator_ldmatrix(r, shared_row, 4, 0, file, line);
}

inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *shared_row, EMULATOR_SITE)
{
    emulator_ldmatrix(r, shared_row, 4, 1, file, line);
}

inline void ldmatrix_x2(uint32_t (&r)[2], const void *shared_row, EMULATOR_SITE)
{
    emulator_ldmatrix(r, shared_row, 2, 0, file, line);
}

inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void *shared_row, EMULATOR_SITE)
{
    emulator_ldmatrix(r, shared_row, 2, 1, file, line);
}

/* 16 bytes, or zeros unless `valid`. The target holds NaNs until this thread has waited for its
 * group, the worst that a card may show. */
inline void cp_async_16(void *shared, const void *global, bool valid, EMULATOR_SITE)
{
    emulator_copy_async(shared, global, valid, file, line);
}

inline void cp_async_commit()
{
    emulator_copy_commit();
}

/* Until at most N of this thread's groups are under way. */
template <int N> inline void cp_async_wait()
{
    static_assert(N >= 0);
    emulator_copy_wait(N);
}

#endif
