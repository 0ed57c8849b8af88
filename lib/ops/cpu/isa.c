/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "ops/cpu/kernels.h"

/* 0 baseline, 3 or 4: the x86-64 micro-architecture level that this CPU has and the build knows. */
static int cpu_level(void)
{
#if defined(SER_HAVE_X86_LEVELS)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        return 0;
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        return 4;
    }
    return 3;
#else
    return 0;
#endif
}

static int capped_level(int level)
{
    const char *cap = getenv("SER_CPU_ISA");
    if (cap == NULL) {
        return level;
    }
    int limit = strcmp(cap, "baseline") == 0 ? 0 : strcmp(cap, "v3") == 0 ? 3 : 4;
    return level < limit ? level : limit;
}

const ser_kernels *ser_kernels_pick(void)
{
    switch (capped_level(cpu_level())) {
#if defined(SER_HAVE_X86_LEVELS)
    case 4: return &ser_kernels_v4;
    case 3: return &ser_kernels_v3;
#endif
    default: return &ser_kernels_baseline;
    }
}
