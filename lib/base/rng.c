/* SPDX-License-Identifier: MIT */
#include "base/rng.h"

#include <Random123/philox.h>

enum { FIELD_BITS = 24 };

uint64_t ser_rng_stream(enum ser_rng_purpose purpose, uint32_t a, uint32_t b)
{
    const uint64_t mask = (UINT64_C(1) << FIELD_BITS) - 1;
    return (uint64_t)purpose << (2 * FIELD_BITS) | (a & mask) << FIELD_BITS | (b & mask);
}

void ser_rng_block(uint64_t seed, uint64_t stream, uint64_t block, uint32_t words[4])
{
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    philox4x32_ctr_t counter = {
        {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream, (uint32_t)(stream >> 32)}};
    philox4x32_ctr_t out = philox4x32_R(10, counter, key);
    for (int i = 0; i < 4; i++) {
        words[i] = out.v[i];
    }
}

void ser_rng_uniform(uint64_t seed, uint64_t stream, uint64_t first, float low, float high,
                     float *values, size_t count)
{
    uint32_t words[4];
    for (size_t i = 0; i < count; i++) {
        uint64_t element = first + i;
        if (i == 0 || element % 4 == 0) {
            ser_rng_block(seed, stream, element / 4, words);
        }
        double unit = (double)(words[element % 4] >> 8) * 0x1p-24;
        values[i] = (float)((double)low + ((double)high - (double)low) * unit);
    }
}
