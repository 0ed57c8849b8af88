/* SPDX-License-Identifier: MIT */
/*
 * Packs of eight neighbouring elements, the unit of the ops that go row by row or element by
 * element: one Philox block of dropout (philox.cuh), and in bf16 one access of 16 bytes.
 */
#ifndef SER_OPS_CUDA_PACKS_CUH
#define SER_OPS_CUDA_PACKS_CUH

#include "ops/cuda/launch.cuh"

constexpr int PACK = 8;
constexpr int PACK_THREADS = 256;

/* Absent tensors are aligned. */
static inline bool ser_pack_aligned(const void *data)
{
    return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

/* A pack as it lies in memory, so that many are under way before the first is looked at. */
template <typename T> struct raw_pack {
    uint4 parts[PACK * sizeof(T) / sizeof(uint4)];
};

/* From element `at` on, which is aligned to 16 bytes; zeros, and nothing is read, where it is not
 * `wanted`: the array may be absent then. */
template <typename T>
__device__ __forceinline__ raw_pack<T> load_raw(const T *array, int64_t at, bool wanted)
{
    raw_pack<T> raw = {};
    if (wanted) {
        const uint4 *parts = reinterpret_cast<const uint4 *>(array + at);
#pragma unroll
        for (unsigned i = 0; i < sizeof raw / sizeof(uint4); i++) {
            raw.parts[i] = parts[i];
        }
    }
    return raw;
}

template <typename T>
__device__ __forceinline__ void unpack(const raw_pack<T> &raw, float (&x)[PACK])
{
    T each[PACK];
    memcpy(each, &raw, sizeof each);
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        x[i] = to_float(each[i]);
    }
}

template <typename T> __device__ __forceinline__ raw_pack<T> pack(const float (&x)[PACK])
{
    T each[PACK];
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        each[i] = from_float<T>(x[i]);
    }
    raw_pack<T> raw;
    memcpy(&raw, each, sizeof each);
    return raw;
}

template <typename T> __device__ __forceinline__ void store_raw(T *to, const raw_pack<T> &raw)
{
    uint4 *parts = reinterpret_cast<uint4 *>(to);
#pragma unroll
    for (unsigned i = 0; i < sizeof raw / sizeof(uint4); i++) {
        parts[i] = raw.parts[i];
    }
}

/* Addresses are aligned to 16 bytes. */
template <typename T> __device__ __forceinline__ void load_pack(const T *from, float (&x)[PACK])
{
    unpack(load_raw(from, 0, true), x);
}

template <typename T> __device__ __forceinline__ void store_pack(T *to, const float (&x)[PACK])
{
    store_raw(to, pack<T>(x));
}

/* The same where `left` elements are left, maybe fewer than a pack: the others are 0. `aligned`: of
 * the whole array. */
template <typename T>
__device__ __forceinline__ void load_pack(const T *from, int64_t left, bool aligned,
                                          float (&x)[PACK])
{
    if (aligned && left >= PACK) {
        load_pack(from, x);
        return;
    }
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        x[i] = i < left ? to_float(from[i]) : 0.0f;
    }
}

template <typename T>
__device__ __forceinline__ void store_pack(T *to, int64_t left, bool aligned,
                                           const float (&x)[PACK])
{
    if (aligned && left >= PACK) {
        store_pack(to, x);
        return;
    }
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        if (i < left) {
            to[i] = from_float<T>(x[i]);
        }
    }
}

/* --- Going through a whole array: for (at = pack_first(); at < count; at += pack_stride()) --- */

__device__ __forceinline__ int64_t pack_first()
{
    return PACK * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x);
}

__device__ __forceinline__ int64_t pack_stride()
{
    return PACK * (int64_t{gridDim.x} * blockDim.x);
}

/* At most as many threads as a card holds at a time; of a large array each takes several packs. */
static inline ser_shape ser_pack_shape(const ser_queue *queue, int64_t count)
{
    const int64_t blocks = cuda_ceil_div(count, PACK * PACK_THREADS);
    const int64_t most = int64_t{2048 / PACK_THREADS} * queue->context->multiprocessors;
    return {ser_grid(blocks < most ? blocks : most, 1), PACK_THREADS, 0};
}

#endif
