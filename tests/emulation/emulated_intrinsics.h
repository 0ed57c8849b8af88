/* SPDX-License-Identifier: MIT */
/* Atomics, arithmetic intrinsics and vector constructors of kernels. Included by
 * emulated_device.h. */
#ifndef SER_EMULATION_EMULATED_INTRINSICS_H
#define SER_EMULATION_EMULATED_INTRINSICS_H

/* -- Vectors */

inline int2 make_int2(int x, int y)
{
    return {x, y};
}

inline uint2 make_uint2(unsigned x, unsigned y)
{
    return {x, y};
}

inline uint3 make_uint3(unsigned x, unsigned y, unsigned z)
{
    return {x, y, z};
}

inline float2 make_float2(float x, float y)
{
    return {x, y};
}

inline double2 make_double2(double x, double y)
{
    return {x, y};
}

inline float3 make_float3(float x, float y, float z)
{
    return {x, y, z};
}

inline int4 make_int4(int x, int y, int z, int w)
{
    return {x, y, z, w};
}

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return {x, y, z, w};
}

inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

inline ushort2 make_ushort2(unsigned short x, unsigned short y)
{
    return {x, y};
}

inline ushort4 make_ushort4(unsigned short x, unsigned short y, unsigned short z, unsigned short w)
{
    return {x, y, z, w};
}

/* -- Atomics: threads take turns, only a collective hands over */

template <typename T> using emulator_same = std::type_identity_t<T>;

/* The types that the card has each atomic for. */
template <typename T, typename... Types>
concept emulator_one_of = (std::is_same_v<T, Types> || ...);

template <typename T>
concept emulator_word = emulator_one_of<T, int, unsigned, unsigned long long>;

template <typename T>
requires emulator_one_of<T, int, unsigned, unsigned long long, float, double>
inline T atomicAdd(T *address, emulator_same<T> value)
{
    const T old = *address;
    if constexpr (std::is_same_v<T, int>)
        *address = static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value));
    else
        *address = old + value;
    return old;
}

template <typename T>
requires emulator_one_of<T, int, unsigned>
inline T atomicSub(T *address, emulator_same<T> value)
{
    const T old = *address;
    *address = static_cast<T>(static_cast<unsigned>(old) - static_cast<unsigned>(value));
    return old;
}

template <emulator_word T> inline T atomicMax(T *address, emulator_same<T> value)
{
    const T old = *address;
    *address = old < value ? value : old;
    return old;
}

template <emulator_word T> inline T atomicMin(T *address, emulator_same<T> value)
{
    const T old = *address;
    *address = value < old ? value : old;
    return old;
}

template <emulator_word T> inline T atomicOr(T *address, emulator_same<T> value)
{
    const T old = *address;
    *address = old | value;
    return old;
}

template <emulator_word T> inline T atomicAnd(T *address, emulator_same<T> value)
{
    const T old = *address;
    *address = old & value;
    return old;
}

template <typename T>
requires emulator_one_of<T, int, unsigned, unsigned long long, float>
inline T atomicExch(T *address, emulator_same<T> value)
{
    const T old = *address;
    *address = value;
    return old;
}

template <emulator_word T>
inline T atomicCAS(T *address, emulator_same<T> compare, emulator_same<T> value)
{
    const T old = *address;
    if (old == compare)
        *address = value;
    return old;
}

inline unsigned atomicInc(unsigned *address, unsigned limit)
{
    const unsigned old = *address;
    *address = old >= limit ? 0 : old + 1;
    return old;
}

/* -- Loads and stores with a caching hint */

template <typename T> inline T __ldg(const T *address)
{
    return *address;
}

template <typename T> inline T __ldcs(const T *address)
{
    return *address;
}

template <typename T> inline T __ldcg(const T *address)
{
    return *address;
}

template <typename T> inline void __stcs(T *address, emulator_same<T> value)
{
    *address = value;
}

template <typename T> inline void __stcg(T *address, emulator_same<T> value)
{
    *address = value;
}

inline size_t __cvta_generic_to_shared(const void *address)
{
    return reinterpret_cast<size_t>(address);
}

/* -- Minimum and maximum: a mixture of int and unsigned compares as unsigned, floats ignore NaN */

#define EMULATOR_MIN_MAX(type)                                                                     \
    inline type min(type a, type b)                                                                \
    {                                                                                              \
        return b < a ? b : a;                                                                      \
    }                                                                                              \
    inline type max(type a, type b)                                                                \
    {                                                                                              \
        return a < b ? b : a;                                                                      \
    }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned int)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
#undef EMULATOR_MIN_MAX

#define EMULATOR_MIN_MAX_MIXED(a_type, b_type, type)                                               \
    inline type min(a_type a, b_type b)                                                            \
    {                                                                                              \
        return min(static_cast<type>(a), static_cast<type>(b));                                    \
    }                                                                                              \
    inline type max(a_type a, b_type b)                                                            \
    {                                                                                              \
        return max(static_cast<type>(a), static_cast<type>(b));                                    \
    }
EMULATOR_MIN_MAX_MIXED(int, unsigned int, unsigned int)
EMULATOR_MIN_MAX_MIXED(unsigned int, int, unsigned int)
EMULATOR_MIN_MAX_MIXED(long, unsigned long, unsigned long)
EMULATOR_MIN_MAX_MIXED(unsigned long, long, unsigned long)
EMULATOR_MIN_MAX_MIXED(long long, unsigned long long, unsigned long long)
EMULATOR_MIN_MAX_MIXED(unsigned long long, long long, unsigned long long)
#undef EMULATOR_MIN_MAX_MIXED

inline float min(float a, float b)
{
    return fminf(a, b);
}

inline float max(float a, float b)
{
    return fmaxf(a, b);
}

inline double min(double a, double b)
{
    return fmin(a, b);
}

inline double max(double a, double b)
{
    return fmax(a, b);
}

inline double min(float a, double b)
{
    return fmin(static_cast<double>(a), b);
}

inline double min(double a, float b)
{
    return fmin(a, static_cast<double>(b));
}

inline double max(float a, double b)
{
    return fmax(static_cast<double>(a), b);
}

inline double max(double a, float b)
{
    return fmax(a, static_cast<double>(b));
}

/* -- Floating point. The C library declares some of these names itself, hence the macros. */

inline constexpr float emulator_pi_f = 3.14159265358979323846f;
inline constexpr double emulator_pi = 3.14159265358979323846;

inline float emulator_rsqrtf(float x)
{
    return static_cast<float>(1 / std::sqrt(static_cast<double>(x)));
}

inline double emulator_rsqrt(double x)
{
    return 1 / std::sqrt(x);
}

inline float emulator_expf(float x)
{
    return std::exp(x);
}

inline float emulator_exp10f(float x)
{
    return std::pow(10.0f, x);
}

inline float emulator_logf(float x)
{
    return std::log(x);
}

inline float emulator_log2f(float x)
{
    return std::log2(x);
}

inline float emulator_log10f(float x)
{
    return std::log10(x);
}

inline float emulator_sinf(float x)
{
    return std::sin(x);
}

inline float emulator_cosf(float x)
{
    return std::cos(x);
}

inline float emulator_tanhf(float x)
{
    return std::tanh(x);
}

inline float emulator_powf(float x, float y)
{
    return std::pow(x, y);
}

inline void emulator_sincosf(float x, float *sine, float *cosine)
{
    *sine = std::sin(x);
    *cosine = std::cos(x);
}

inline float emulator_sinpif(float x)
{
    return static_cast<float>(std::sin(emulator_pi * std::fmod(static_cast<double>(x), 2.0)));
}

inline float emulator_cospif(float x)
{
    return static_cast<float>(std::cos(emulator_pi * std::fmod(static_cast<double>(x), 2.0)));
}

inline double emulator_sinpi(double x)
{
    return std::sin(emulator_pi * std::fmod(x, 2.0));
}

inline double emulator_cospi(double x)
{
    return std::cos(emulator_pi * std::fmod(x, 2.0));
}

inline void emulator_sincospif(float x, float *sine, float *cosine)
{
    *sine = emulator_sinpif(x);
    *cosine = emulator_cospif(x);
}

#define rsqrtf    emulator_rsqrtf
#define rsqrt     emulator_rsqrt
#define sinpif    emulator_sinpif
#define cospif    emulator_cospif
#define sinpi     emulator_sinpi
#define cospi     emulator_cospi
#define sincospif emulator_sincospif
#define __expf    emulator_expf
#define __exp10f  emulator_exp10f
#define __logf    emulator_logf
#define __log2f   emulator_log2f
#define __log10f  emulator_log10f
#define __sinf    emulator_sinf
#define __cosf    emulator_cosf
#define __tanhf   emulator_tanhf
#define __powf    emulator_powf
#define __sincosf emulator_sincosf

inline float __fdividef(float x, float y)
{
    return x / y;
}

inline float __fdiv_rn(float x, float y)
{
    return x / y;
}

inline float __frcp_rn(float x)
{
    return 1 / x;
}

inline float __fsqrt_rn(float x)
{
    return std::sqrt(x);
}

inline float __frsqrt_rn(float x)
{
    return emulator_rsqrtf(x);
}

inline float __fmaf_rn(float x, float y, float z)
{
    return std::fma(x, y, z);
}

inline float __fmul_rn(float x, float y)
{
    return x * y;
}

inline float __fadd_rn(float x, float y)
{
    return x + y;
}

inline float __fsub_rn(float x, float y)
{
    return x - y;
}

inline float __saturatef(float x)
{
    return x > 0 ? std::fmin(x, 1.0f) : 0.0f;
}

inline unsigned __float_as_uint(float x)
{
    return __builtin_bit_cast(unsigned, x);
}

inline int __float_as_int(float x)
{
    return __builtin_bit_cast(int, x);
}

inline float __uint_as_float(unsigned x)
{
    return __builtin_bit_cast(float, x);
}

inline float __int_as_float(int x)
{
    return __builtin_bit_cast(float, x);
}

inline float __uint2float_rn(unsigned x)
{
    return static_cast<float>(x);
}

inline float __int2float_rn(int x)
{
    return static_cast<float>(x);
}

/* -- Integers */

inline unsigned __umulhi(unsigned x, unsigned y)
{
    return static_cast<unsigned>(static_cast<unsigned long long>(x) * y >> 32);
}

inline int __mulhi(int x, int y)
{
    return static_cast<int>(static_cast<long long>(x) * y >> 32);
}

inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    __extension__ typedef unsigned __int128 wide;
    return static_cast<unsigned long long>(static_cast<wide>(x) * y >> 64);
}

/* Each nibble of the selector picks one of the eight bytes; its top bit spreads that byte's
 * sign. */
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    const unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
    unsigned result = 0;

    for (unsigned i = 0; i < 4; i++) {
        const unsigned nibble = selector >> 4 * i & 15;
        const unsigned byte = static_cast<unsigned>(bytes >> 8 * (nibble & 7)) & 255;
        result |= (nibble & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;
    }
    return result;
}

inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}

inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}

inline int __clzll(long long x)
{
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}

inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

inline unsigned __brev(unsigned x)
{
    x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
    x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
    x = (x >> 4 & 0x0f0f0f0fu) | (x & 0x0f0f0f0fu) << 4;
    return __builtin_bswap32(x);
}

inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    const unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
    return static_cast<unsigned>(both << (shift & 31) >> 32);
}

inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    const unsigned long long both = static_cast<unsigned long long>(high) << 32 | low;
    return static_cast<unsigned>(both >> (shift & 31));
}

#endif
