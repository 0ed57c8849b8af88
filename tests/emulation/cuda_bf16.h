/* SPDX-License-Identifier: MIT */
/* Found instead of the toolkit's header: bfloat16 as 16 bits, its conversions, no arithmetic. */
#ifndef SER_EMULATION_CUDA_BF16_H
#define SER_EMULATION_CUDA_BF16_H

#include <cuda_runtime.h>

struct EMULATOR_ALIGNED(2) __nv_bfloat16 {
    unsigned short __x;
};

struct EMULATOR_ALIGNED(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    return {bits};
}

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x)
{
    return x.__x;
}

/* To nearest, ties to even; every NaN becomes the card's one, 0x7fff. */
inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
    const unsigned bits = __builtin_bit_cast(unsigned, x);

    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return {0x7fff};
    return {static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

inline __nv_bfloat16 __float2bfloat16(float x)
{
    return __float2bfloat16_rn(x);
}

inline float __bfloat162float(__nv_bfloat16 x)
{
    return __builtin_bit_cast(float, static_cast<unsigned>(x.__x) << 16);
}

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

inline __nv_bfloat162 __float22bfloat162_rn(float2 x)
{
    return __floats2bfloat162_rn(x.x, x.y);
}

inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y)
{
    return {x, y};
}

inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x)
{
    return {x, x};
}

inline float2 __bfloat1622float2(__nv_bfloat162 x)
{
    return {__bfloat162float(x.x), __bfloat162float(x.y)};
}

inline float __low2float(__nv_bfloat162 x)
{
    return __bfloat162float(x.x);
}

inline float __high2float(__nv_bfloat162 x)
{
    return __bfloat162float(x.y);
}

inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 x)
{
    return x.x;
}

inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 x)
{
    return x.y;
}

#endif
