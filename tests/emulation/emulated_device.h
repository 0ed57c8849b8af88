/* SPDX-License-Identifier: MIT */
/* The language of kernels for a C++ compiler: qualifiers, built-in variables, barriers, shuffles,
 * votes, atomics and intrinsics. Included by cuda_runtime.h. */
#ifndef SER_EMULATION_EMULATED_DEVICE_H
#define SER_EMULATION_EMULATED_DEVICE_H

#include <math.h>
#include <string.h>

#include <cmath>
#include <new>
#include <tuple>
#include <type_traits>

/* -- Qualifiers */

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__  inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
/* One block runs at a time, so that one copy is enough. It keeps what the last block left in it. */
#define __shared__             static

#define SER_SHARED(type, name) type *name = static_cast<type *>(emulator_shared())

/* -- The running thread */

/* Set at each change of turns. */
extern "C" {
extern uint3 emulator_thread_index, emulator_block_index;
extern dim3 emulator_block_size, emulator_grid_size;
}

inline const uint3 &threadIdx = emulator_thread_index;
inline const uint3 &blockIdx = emulator_block_index;
inline const dim3 &blockDim = emulator_block_size;
inline const dim3 &gridDim = emulator_grid_size;
inline constexpr int warpSize = 32;

/* -- Barriers and collectives. Each notes where it was called for the message about a deadlock. */

enum emulator_kind {
    EMULATOR_SYNCTHREADS,
    EMULATOR_SYNCTHREADS_OR,
    EMULATOR_SYNCTHREADS_AND,
    EMULATOR_SYNCTHREADS_COUNT,
    EMULATOR_SYNCWARP,
    EMULATOR_SHFL,
    EMULATOR_SHFL_UP,
    EMULATOR_SHFL_DOWN,
    EMULATOR_SHFL_XOR,
    EMULATOR_BALLOT,
    EMULATOR_ANY,
    EMULATOR_ALL,
    EMULATOR_REDUCE_ADD,
    EMULATOR_REDUCE_MIN,
    EMULATOR_REDUCE_MAX,
    EMULATOR_MMA,
    EMULATOR_LDMATRIX
};

struct emulator_op {
    emulator_kind kind;
    unsigned mask;
    const char *file;
    int line;
    int argument = 0;
    int width = 32;
    uint64_t value = 0;
    uint64_t result = 0;
    const void *data = nullptr;
    void *out = nullptr;
};

extern "C" {
int emulator_barrier(emulator_kind kind, int predicate, const char *file, int line);
void emulator_collective(emulator_op *op);
unsigned emulator_active(void);
void emulator_yield(void);
void *emulator_shared(void);
void emulator_copy_async(void *shared, const void *global, bool valid, const char *file, int line);
void emulator_copy_commit(void);
void emulator_copy_wait(unsigned groups);
void emulator_wait_for_previous(void);
cudaError_t emulator_launch(const cudaLaunchConfig_t *config, const void *function,
                            void (*run)(const void *), const void *arguments, size_t size);
}

#define EMULATOR_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATOR_SITE)
{
    emulator_barrier(EMULATOR_SYNCTHREADS, 0, file, line);
}

inline int __syncthreads_or(int predicate, EMULATOR_SITE)
{
    return emulator_barrier(EMULATOR_SYNCTHREADS_OR, predicate, file, line);
}

inline int __syncthreads_and(int predicate, EMULATOR_SITE)
{
    return emulator_barrier(EMULATOR_SYNCTHREADS_AND, predicate, file, line);
}

inline int __syncthreads_count(int predicate, EMULATOR_SITE)
{
    return emulator_barrier(EMULATOR_SYNCTHREADS_COUNT, predicate, file, line);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_SITE)
{
    emulator_op op{EMULATOR_SYNCWARP, mask, file, line};
    emulator_collective(&op);
}

template <typename T>
inline T emulator_shfl(emulator_kind kind, unsigned mask, T value, int argument, int width,
                       const char *file, int line)
{
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
    emulator_op op{kind, mask, file, line, argument, width};
    memcpy(&op.value, &value, sizeof value);
    emulator_collective(&op);
    memcpy(&value, &op.result, sizeof value);
    return value;
}

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, EMULATOR_SITE)
{
    return emulator_shfl(EMULATOR_SHFL, mask, value, lane, width, file, line);
}

template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE)
{
    return emulator_shfl(EMULATOR_SHFL_UP, mask, value, static_cast<int>(delta), width, file, line);
}

template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE)
{
    return emulator_shfl(EMULATOR_SHFL_DOWN, mask, value, static_cast<int>(delta), width, file,
                         line);
}

template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATOR_SITE)
{
    return emulator_shfl(EMULATOR_SHFL_XOR, mask, value, lanes, width, file, line);
}

inline unsigned emulator_vote(emulator_kind kind, unsigned mask, uint64_t value, const char *file,
                              int line)
{
    emulator_op op{kind, mask, file, line};
    op.value = value;
    emulator_collective(&op);
    return static_cast<unsigned>(op.result);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_SITE)
{
    return emulator_vote(EMULATOR_BALLOT, mask, predicate != 0, file, line);
}

inline int __any_sync(unsigned mask, int predicate, EMULATOR_SITE)
{
    return static_cast<int>(emulator_vote(EMULATOR_ANY, mask, predicate != 0, file, line));
}

inline int __all_sync(unsigned mask, int predicate, EMULATOR_SITE)
{
    return static_cast<int>(emulator_vote(EMULATOR_ALL, mask, predicate != 0, file, line));
}

inline unsigned __reduce_add_sync(unsigned mask, unsigned value, EMULATOR_SITE)
{
    return emulator_vote(EMULATOR_REDUCE_ADD, mask, value, file, line);
}

inline unsigned __reduce_min_sync(unsigned mask, unsigned value, EMULATOR_SITE)
{
    return emulator_vote(EMULATOR_REDUCE_MIN, mask, value, file, line);
}

inline unsigned __reduce_max_sync(unsigned mask, unsigned value, EMULATOR_SITE)
{
    return emulator_vote(EMULATOR_REDUCE_MAX, mask, value, file, line);
}

inline unsigned __activemask()
{
    return emulator_active();
}

inline void __nanosleep(unsigned)
{
    emulator_yield();
}

inline void __threadfence()
{
}

inline void __threadfence_block()
{
}

inline void __threadfence_system()
{
}

inline void cudaGridDependencySynchronize()
{
    emulator_wait_for_previous();
}

inline void cudaTriggerProgrammaticLaunchCompletion()
{
}

/* -- Launching */

template <typename... P> struct emulator_call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;

    static void run(const void *self)
    {
        const emulator_call *call = static_cast<const emulator_call *>(self);
        std::apply(call->kernel, call->arguments);
    }
};

template <typename... P, typename... A>
inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...),
                                      A &&...arguments)
{
    static_assert((std::is_trivially_copyable_v<P> && ...), "kernel arguments are copied as bytes");
    const emulator_call<P...> call{kernel, std::tuple<P...>(static_cast<P>(arguments)...)};
    return emulator_launch(config, reinterpret_cast<const void *>(kernel), emulator_call<P...>::run,
                           &call, sizeof call);
}

template <typename... P>
inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute,
                                        int value)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}

template <typename... P>
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, void (*kernel)(P...))
{
    return cudaFuncGetAttributes(attributes, reinterpret_cast<const void *>(kernel));
}

template <typename T> inline cudaError_t cudaMalloc(T **memory, size_t size)
{
    return cudaMalloc(reinterpret_cast<void **>(memory), size);
}

template <typename T> inline cudaError_t cudaMallocHost(T **memory, size_t size)
{
    return cudaMallocHost(reinterpret_cast<void **>(memory), size);
}

#include "emulated_intrinsics.h"

#endif
