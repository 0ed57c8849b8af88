/* SPDX-License-Identifier: MIT */
/* How kernels are launched, and the small things that all of them need. For .cu files. */
#ifndef SER_OPS_CUDA_LAUNCH_CUH
#define SER_OPS_CUDA_LAUNCH_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "ops/cuda/cuda.h"

typedef __nv_bfloat16 bf16;

/* Dynamic shared memory of the block, under a name and a type; the emulation has its own. */
#ifndef SER_SHARED
#define SER_SHARED(type, name)                                                                     \
    extern __shared__ __align__(16) unsigned char ser_shared_bytes[];                              \
    type *name = reinterpret_cast<type *>(ser_shared_bytes)
#endif

enum { WARP = 32, SHARED_BY_DEFAULT = 48 * 1024 };
constexpr unsigned ALL_LANES = 0xFFFFFFFFu;

/* How many of what a kernel is launched with. */
struct ser_shape {
    dim3 grid;
    unsigned threads;
    size_t shared; /* bytes of dynamic shared memory */
};

/* Queue `kernel`, whose arguments must have exactly its parameters' types; `early`: see below. */
template <typename... P, typename... A>
int ser_launch_with(ser_queue *queue, bool early, const ser_shape &shape, void (*kernel)(P...),
                    const A &...args)
{
    const void *function = reinterpret_cast<const void *>(kernel);
    if (shape.shared > SHARED_BY_DEFAULT) {
        /* All that there is: the setting is the kernel's, not the launch's, and with this launch's
         * own need another thread could lower it in between. */
        const cudaError_t error =
            cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(queue->context->shared_limit));
        if (error != cudaSuccess) {
            return ser_cuda_status(queue->context, error, "shared memory for a kernel");
        }
    }
    cudaLaunchAttribute serial = {};
    serial.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    serial.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = dim3(shape.threads);
    config.dynamicSmemBytes = shape.shared;
    config.stream = cuda_queue_of(queue)->stream;
    config.attrs = &serial;
    config.numAttrs = early && ser_cuda_starts_early(queue, function) ? 1 : 0;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, args...);
    if (error != cudaSuccess && config.numAttrs > 0) {
        ser_cuda_refuse_early(queue);
    }
    return ser_cuda_status(queue->context, error, "a kernel launch");
}

template <typename... P, typename... A>
int ser_launch(ser_queue *queue, const ser_shape &shape, void (*kernel)(P...), const A &...args)
{
    return ser_launch_with(queue, false, shape, kernel, args...);
}

/* --- Starting early (CUDA programming guide, "Programmatic Dependent Launch") --- */

/* Queue a kernel that may start before the one in front of it has finished, so that its launch is
 * not in the gap between the two. Its first statement is wait_for_previous. */
template <typename... P, typename... A>
int ser_launch_early(ser_queue *queue, const ser_shape &shape, void (*kernel)(P...),
                     const A &...args)
{
    return ser_launch_with(queue, true, shape, kernel, args...);
}

/*
 * Returns when the kernel in front has finished and all that it wrote is seen; before that nothing
 * in the device's memory may be read or written, weights neither: they may be what it writes. Every
 * thread calls it, also one that has nothing to do. So a kernel that has finished had waited for the
 * one in front of it, and that one likewise: who waits for one waits for all. For a copy or a fill
 * in front the stream waits, as does a kernel behind that is launched plainly.
 *
 * From here on the next kernel may start, up to its own call of this. It gets only what this one's
 * blocks leave free: all of them have their places when the last one comes here.
 */
__device__ __forceinline__ void wait_for_previous()
{
#if defined(SER_EMULATION) || __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/* Blocks for `count` items, `each` per block. The grid's x has room for 2^31 - 1. */
static inline dim3 ser_grid(int64_t count, int64_t each)
{
    return dim3(static_cast<unsigned>(cuda_ceil_div(count, each)));
}

/* --- Numbers --- */

__device__ __forceinline__ float to_float(float x)
{
    return x;
}

__device__ __forceinline__ float to_float(bf16 x)
{
    return __bfloat162float(x);
}

template <typename T> __device__ __forceinline__ T from_float(float x);

template <> __device__ __forceinline__ float from_float<float>(float x)
{
    return x;
}

template <> __device__ __forceinline__ bf16 from_float<bf16>(float x)
{
    return __float2bfloat16_rn(x);
}

/* N neighbouring elements as f32; they are aligned to N * sizeof(T), at most 16 bytes. */
template <int N, typename T> __device__ __forceinline__ void load(const T *from, float (&x)[N])
{
    constexpr int BYTES = N * static_cast<int>(sizeof(T));
    union {
        T each[N];
        uint4 u16;
        uint2 u8;
        unsigned u4;
    } whole;
    static_assert(BYTES <= 16, "one access is at most 16 bytes");
    if constexpr (BYTES == 16) {
        whole.u16 = *reinterpret_cast<const uint4 *>(from);
    } else if constexpr (BYTES == 8) {
        whole.u8 = *reinterpret_cast<const uint2 *>(from);
    } else if constexpr (BYTES == 4) {
        whole.u4 = *reinterpret_cast<const unsigned *>(from);
    } else {
        for (int i = 0; i < N; i++) {
            whole.each[i] = from[i];
        }
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = to_float(whole.each[i]);
    }
}

/* The reverse. */
template <int N, typename T> __device__ __forceinline__ void store(T *to, const float (&x)[N])
{
    constexpr int BYTES = N * static_cast<int>(sizeof(T));
    union {
        T each[N];
        uint4 u16;
        uint2 u8;
        unsigned u4;
    } whole;
    static_assert(BYTES <= 16, "one access is at most 16 bytes");
#pragma unroll
    for (int i = 0; i < N; i++) {
        whole.each[i] = from_float<T>(x[i]);
    }
    if constexpr (BYTES == 16) {
        *reinterpret_cast<uint4 *>(to) = whole.u16;
    } else if constexpr (BYTES == 8) {
        *reinterpret_cast<uint2 *>(to) = whole.u8;
    } else if constexpr (BYTES == 4) {
        *reinterpret_cast<unsigned *>(to) = whole.u4;
    } else {
        for (int i = 0; i < N; i++) {
            to[i] = whole.each[i];
        }
    }
}

/* 2^x in one instruction, within 2^-22; results below 2^-126 are 0. */
__device__ __forceinline__ float power_of_2(float x)
{
#ifdef SER_EMULATION
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

/* Exact GELU (Hendrycks & Gimpel 2016): x Phi(x) = x / 2 (1 + erf(x / sqrt 2)). */
__device__ __forceinline__ float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

/* GELU'(x) = Phi(x) + x phi(x), phi(x) = exp(-x^2 / 2) / sqrt(2 pi). Where x^2 overflows phi is 0;
 * at the infinities, as everywhere beyond +-15 or so, the derivative is 0 or 1. */
__device__ __forceinline__ float gelu_gradient(float x)
{
    const float phi = 0.39894228040143268f * expf(-0.5f * x * x);
    const float slope = phi > 0.0f ? x * phi : 0.0f; /* no inf * 0 */
    return 0.5f * (1.0f + erff(x * 0.70710678118654752f)) + slope;
}

/* SER_ACT_*, chosen at compile time. */
template <int ACTIVATION> __device__ __forceinline__ float activate(float x)
{
    if constexpr (ACTIVATION == SER_ACT_GELU) {
        return gelu(x);
    } else if constexpr (ACTIVATION == SER_ACT_RELU) {
        return x < 0.0f ? 0.0f : x; /* NaN stays */
    } else if constexpr (ACTIVATION == SER_ACT_TANH) {
        return tanhf(x);
    } else {
        return x;
    }
}

/* The derivative of activate, at its argument; ReLU'(0) = 0. */
template <int ACTIVATION> __device__ __forceinline__ float activate_gradient(float x)
{
    if constexpr (ACTIVATION == SER_ACT_GELU) {
        return gelu_gradient(x);
    } else if constexpr (ACTIVATION == SER_ACT_RELU) {
        return x > 0.0f ? 1.0f : 0.0f;
    } else if constexpr (ACTIVATION == SER_ACT_TANH) {
        const float y = tanhf(x);
        return 1.0f - y * y;
    } else {
        return 1.0f;
    }
}

/* --- Reductions; every lane gets the result --- */

__device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, offset);
    }
    return x;
}

__device__ __forceinline__ double warp_sum(double x)
{
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, offset);
    }
    return x;
}

__device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    }
    return x;
}

/* Over a block of whole warps, at most 32. `shared` has 32 places and may be used again after the
 * next __syncthreads. All threads call it. The order is fixed, so the bits are. */
template <typename N> __device__ __forceinline__ N block_sum(N x, N *shared)
{
    const unsigned warps = blockDim.x / WARP;
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) {
        shared[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    N total = 0;
    for (unsigned i = 0; i < warps; i++) {
        total += shared[i];
    }
    return total;
}

__device__ __forceinline__ float block_max(float x, float *shared)
{
    const unsigned warps = blockDim.x / WARP;
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) {
        shared[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    float top = shared[0];
    for (unsigned i = 1; i < warps; i++) {
        top = fmaxf(top, shared[i]);
    }
    return top;
}

#endif
