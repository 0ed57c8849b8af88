/* SPDX-License-Identifier: MIT */
/* Dropout from counters, on the device: the numbers of base/rng.h, the rule of ops.h. */
#ifndef SER_OPS_CUDA_PHILOX_CUH
#define SER_OPS_CUDA_PHILOX_CUH

/* No exceptions here: its SSE types are not needed, its bounds-checked access is not called. */
#define R123_USE_SSE  0
#define R123_THROW(x) static_cast<void>(x)
#include <Random123/philox.h>

#include "base/rng.h"
#include "ops/cuda/launch.cuh"

/* What a kernel needs of a ser_dropout; made from it by dropout_rule on the host. */
struct dropout_rule {
    uint32_t threshold; /* of 65536; 0: nothing is dropped */
    float scale;        /* of what stays */
    uint32_t op;
    const ser_step *step;
};

static inline dropout_rule dropout_rule_of(const ser_dropout &dropout)
{
    if (!(dropout.p > 0.0f)) {
        return {0, 1.0f, 0, nullptr};
    }
    const uint32_t threshold =
        static_cast<uint32_t>(65536.0 * static_cast<double>(dropout.p) + 0.5);
    return {threshold, static_cast<float>(65536.0 / (65536.0 - threshold)), dropout.op,
            dropout.step};
}

/* Eight factors, of elements 8 * block to 8 * block + 7: 0 or the scale. */
__device__ __forceinline__ void dropout_factors(const dropout_rule &rule, uint64_t block,
                                                float (&factors)[8])
{
    if (rule.threshold == 0) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            factors[i] = 1.0f;
        }
        return;
    }
    const uint64_t seed = rule.step->seed;
    constexpr unsigned FIELD = 24;
    const uint64_t mask = (uint64_t{1} << FIELD) - 1;
    const uint64_t stream = static_cast<uint64_t>(SER_RNG_DROPOUT) << (2 * FIELD) |
                            (rule.op & mask) << FIELD | (rule.step->number & mask);
    const philox4x32_key_t key = {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
    const philox4x32_ctr_t counter = {
        {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
         static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)}};
    const philox4x32_ctr_t words = philox4x32_R(10, counter, key);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const uint32_t word = words.v[i / 2];
        const uint32_t number = i % 2 == 0 ? word & 0xFFFFu : word >> 16;
        factors[i] = number < rule.threshold ? 0.0f : rule.scale;
    }
}

/* One factor. */
__device__ __forceinline__ float dropout_factor(const dropout_rule &rule, uint64_t element)
{
    if (rule.threshold == 0) {
        return 1.0f;
    }
    float factors[8];
    dropout_factors(rule, element / 8, factors);
    float factor = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        factor = element % 8 == static_cast<unsigned>(i) ? factors[i] : factor;
    }
    return factor;
}

#endif
