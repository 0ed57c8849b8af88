/* SPDX-License-Identifier: MIT */
/*
 * pos_conv and its data gradient on tensor cores. Only for pos_conv.cu and pos_conv_backward.cu.
 *
 * A block has four warps, each with BLOCKS neighbouring blocks of 16 frames and all outputs of the
 * group, WIDTH of them with zeros beyond the group's own. A stage holds the weights of SLOTS taps
 * that are 16 apart: block m sees the same 16 rows of the slice through slot s as block m + 1
 * through slot s - 1, and a fragment of them is loaded once for both. Pitches are odd multiples of
 * 16 bytes, so that eight rows lie in different banks.
 */
#ifndef SER_OPS_CUDA_POS_CONV_TENSOR_CUH
#define SER_OPS_CUDA_POS_CONV_TENSOR_CUH

#include "ops/cuda/pos_conv.cuh"

namespace
{

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * WARP;

template <int WIDTH, int BLOCKS> struct layout {
    static constexpr int WARP_ROWS = 16 * BLOCKS;
    static constexpr int ROWS = WARPS * WARP_ROWS;
    static constexpr int PITCH = WIDTH + 8;
    static constexpr int SLOTS = WIDTH <= 16 ? 8 : WIDTH <= 48 ? 4 : 2;
    static constexpr int STAGE_PITCH = SLOTS * WIDTH + 8;
    static constexpr int STAGE = WIDTH * STAGE_PITCH; /* [WIDTH, STAGE_PITCH] */

    static constexpr size_t shared(int64_t kernel)
    {
        return static_cast<size_t>((ROWS + kernel - 1) * PITCH + 2 * STAGE) * sizeof(bf16);
    }
};

/* Slot s of a stage has tap 16 (stage / 16 * SLOTS + s) + stage % 16. */
template <int SLOTS> __device__ __forceinline__ int tap_of(int stage, int slot)
{
    return 16 * (stage / 16 * SLOTS + slot) + stage % 16;
}

/* The slots of a stage that have one of `taps`; begin >= end if there is none. */
template <int SLOTS> __device__ __forceinline__ span slots_of(int stage, const span &taps)
{
    const int first = stage / 16 * SLOTS;
    const int shift = 15 - stage % 16;
    return {max(0, (taps.begin + shift) / 16 - first), min(SLOTS, (taps.end + shift) / 16 - first)};
}

/* The next stage from `stage` on that has one of `taps`, or `end`. */
template <int SLOTS> __device__ __forceinline__ int next_stage(int stage, int end, const span &taps)
{
    while (stage < end) {
        const span slots = slots_of<SLOTS>(stage, taps);
        if (slots.begin < slots.end) {
            break;
        }
        stage++;
    }
    return stage;
}

/* Start copying the slice: row i is the clip's frame first - before + i. */
template <int WIDTH, int BLOCKS>
__device__ __forceinline__ void load_slice(const conv_call<bf16> &call, const tile &t, bf16 *slice)
{
    using L = layout<WIDTH, BLOCKS>;
    constexpr int PIECES = WIDTH / 8;
    const int64_t column = int64_t{blockIdx.y} * call.width;
    const bf16 *x = call.x + int64_t{t.clip} * call.padded * call.channels + column;
    const int pieces = (L::ROWS + call.kernel - 1) * PIECES;
    for (int i = static_cast<int>(threadIdx.x); i < pieces; i += THREADS) {
        const int row = i / PIECES;
        const int at = i % PIECES * 8;
        const int frame = t.first - call.before + row;
        const bool there = frame >= 0 && frame < t.valid && at < call.width;
        const bf16 *from = there ? x + int64_t{frame} * call.channels + at : call.x;
        cp_async_16(slice + row * L::PITCH + at, from, there);
    }
}

/* Start copying the weights of a stage's slots, as [output, slot, input]. A thread has its slot and
 * inputs of every few outputs. */
template <int WIDTH, int BLOCKS>
__device__ __forceinline__ void load_stage(const conv_call<bf16> &call, int stage,
                                           const span &slots, bf16 *to)
{
    using L = layout<WIDTH, BLOCKS>;
    constexpr int PIECES = WIDTH / 8;
    constexpr int AT_ONCE = THREADS / (L::SLOTS * PIECES); /* outputs */
    const int thread = static_cast<int>(threadIdx.x);
    const int first = thread / (L::SLOTS * PIECES);
    const int slot = thread / PIECES % L::SLOTS;
    const int at = thread % PIECES * 8;
    if (first >= AT_ONCE || slot < slots.begin || slot >= slots.end) {
        return;
    }
    const int64_t pitch = int64_t{call.kernel} * call.width;
    const bf16 *from = call.w + (int64_t{blockIdx.y} * call.width + first) * pitch +
                       int64_t{tap_of<L::SLOTS>(stage, slot)} * call.width + at;
    to += first * L::STAGE_PITCH + slot * WIDTH + at;
#pragma unroll
    for (int i = 0; i < (WIDTH + AT_ONCE - 1) / AT_ONCE; i++) {
        const int output = first + i * AT_ONCE;
        if (output < WIDTH) {
            const bool there = output < call.width && at < call.width;
            cp_async_16(to + i * AT_ONCE * L::STAGE_PITCH,
                        there ? from + i * AT_ONCE * pitch : call.w, there);
        }
    }
}

/* One tap, 16 inputs of it: sums += a w^T. w: this lane's row of the first fragment. */
template <int WIDTH, int BLOCKS>
__device__ __forceinline__ void multiply(const uint32_t (*a)[4], const bf16 *w,
                                         float (&sums)[BLOCKS][WIDTH / 8][4])
{
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n += 2) {
        uint32_t b[4]; /* outputs 8n .. 8n + 7, then the next eight */
        ldmatrix_x4(b, w + n * 8 * layout<WIDTH, BLOCKS>::STAGE_PITCH);
        const uint32_t low[2] = {b[0], b[1]};
        const uint32_t high[2] = {b[2], b[3]};
#pragma unroll
        for (int m = 0; m < BLOCKS; m++) {
            mma_m16n8k16(sums[m][n], a[m], low);
            mma_m16n8k16(sums[m][n + 1], a[m], high);
        }
    }
}

/* All slots of a stage. slice: this lane's row of the first fragment of slot 0. */
template <int WIDTH, int BLOCKS>
__device__ __forceinline__ void run_stage(const bf16 *slice, const bf16 *stage,
                                          float (&sums)[BLOCKS][WIDTH / 8][4])
{
    using L = layout<WIDTH, BLOCKS>;
#pragma unroll 1
    for (int input = 0; input < WIDTH; input += 16) {
        uint32_t a[BLOCKS + L::SLOTS - 1][4];
#pragma unroll
        for (int m = 0; m < BLOCKS - 1; m++) {
            ldmatrix_x4(a[m], slice + 16 * m * L::PITCH + input);
        }
#pragma unroll
        for (int slot = 0; slot < L::SLOTS; slot++) {
            const int last = slot + BLOCKS - 1;
            ldmatrix_x4(a[last], slice + 16 * last * L::PITCH + input);
            multiply<WIDTH, BLOCKS>(a + slot, stage + slot * WIDTH + input, sums);
        }
    }
}

/* Some slots of a stage, in the same order. */
template <int WIDTH, int BLOCKS>
__device__ __forceinline__ void run_slots(const bf16 *slice, const bf16 *stage, const span &slots,
                                          float (&sums)[BLOCKS][WIDTH / 8][4])
{
    using L = layout<WIDTH, BLOCKS>;
#pragma unroll 1
    for (int input = 0; input < WIDTH; input += 16) {
#pragma unroll 1
        for (int slot = slots.begin; slot < slots.end; slot++) {
            uint32_t a[BLOCKS][4];
#pragma unroll
            for (int m = 0; m < BLOCKS; m++) {
                ldmatrix_x4(a[m], slice + 16 * (m + slot) * L::PITCH + input);
            }
            multiply<WIDTH, BLOCKS>(a, stage + slot * WIDTH + input, sums);
        }
    }
}

/* The sums of the block's share of the taps. */
template <int WIDTH, int BLOCKS>
__device__ __forceinline__ void convolve(const conv_call<bf16> &call, const tile &t, bf16 *slice,
                                         float (&sums)[BLOCKS][WIDTH / 8][4])
{
    using L = layout<WIDTH, BLOCKS>;
    constexpr int SLOTS = L::SLOTS;
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int row = static_cast<int>(threadIdx.x) / WARP * L::WARP_ROWS;
    const int count = min(L::WARP_ROWS, t.count - row); /* of the warp's frames */
    const span taps = taps_of(call, t.first, t.count, t.valid);
    const span warp_taps =
        count > 0 ? taps_of(call, t.first + row, count, t.valid) : span{.begin = 0, .end = 0};
    bf16 *stages = slice + (L::ROWS + call.kernel - 1) * L::PITCH;
    const bf16 *a = slice + (row + lane % 16) * L::PITCH + lane / 16 * 8;
    const bf16 *b = stages + (lane % 8 + lane / 16 * 8) * L::STAGE_PITCH + lane / 8 % 2 * 8;
    const int all = 16 * ((call.kernel + 16 * SLOTS - 1) / (16 * SLOTS));
    const int end = static_cast<int>(int64_t{all} * (t.split + 1) / call.splits);
    int stage =
        next_stage<SLOTS>(static_cast<int>(int64_t{all} * t.split / call.splits), end, taps);
    int half = 0;
    load_slice<WIDTH, BLOCKS>(call, t, slice);
    if (stage < end) {
        load_stage<WIDTH, BLOCKS>(call, stage, slots_of<SLOTS>(stage, taps), stages);
    }
    cp_async_commit();
    while (stage < end) {
        const int next = next_stage<SLOTS>(stage + 1, end, taps);
        cp_async_wait<0>();
        __syncthreads(); /* the stage is there, and nobody reads the other half any more */
        if (next < end) {
            load_stage<WIDTH, BLOCKS>(call, next, slots_of<SLOTS>(next, taps),
                                      stages + (1 - half) * L::STAGE);
        }
        cp_async_commit();
        const span slots = slots_of<SLOTS>(stage, warp_taps);
        const bf16 *from = a + tap_of<SLOTS>(stage, 0) * L::PITCH;
        if (slots.begin == 0 && slots.end == SLOTS) {
            run_stage<WIDTH, BLOCKS>(from, b + half * L::STAGE, sums);
        } else {
            run_slots<WIDTH, BLOCKS>(from, b + half * L::STAGE, slots, sums);
        }
        stage = next;
        half = 1 - half;
    }
    cp_async_wait<0>();
}

/* This thread's places in the sums: of block m and outputs 8n .., i = 0: columns 0 and 1 of the
 * pair, i = 2: the same, eight frames later (mma.cuh). */
template <int BLOCKS> __device__ __forceinline__ int row_of(int m, int i)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    return (warp * BLOCKS + m) * 16 + lane / 4 + i * 4;
}

__device__ __forceinline__ int column_of(int n)
{
    return n * 8 + static_cast<int>(threadIdx.x) % 4 * 2;
}

/* The data gradient's other term, where forward's slice has the frames themselves. */
template <int WIDTH, int BLOCKS>
__device__ __forceinline__ void load_frames(const conv_call<bf16> &call, const tile &t,
                                            bf16 *frames)
{
    using L = layout<WIDTH, BLOCKS>;
    constexpr int PIECES = WIDTH / 8;
    const bf16 *dy = call.dy + (int64_t{t.clip} * call.padded + t.first) * call.channels +
                     int64_t{blockIdx.y} * call.width;
    for (int i = static_cast<int>(threadIdx.x); i < L::ROWS * PIECES; i += THREADS) {
        const int row = i / PIECES;
        const int at = i % PIECES * 8;
        const bool there = row < t.count && at < call.width;
        const bf16 *from = there ? dy + int64_t{row} * call.channels + at : call.dy;
        cp_async_16(frames + row * L::PITCH + at, from, there);
    }
    cp_async_commit();
    cp_async_wait<0>();
}

/* z = sums + bias, y = frame + GELU(z), dx = frame + sums. */
enum result { Y, Z, DX };

/* Into the slice, over the frames, each of which only one thread reads any more. */
template <int WIDTH, int BLOCKS, result R>
__device__ __forceinline__ void finish(const conv_call<bf16> &call, bf16 *frames,
                                       const float (&sums)[BLOCKS][WIDTH / 8][4])
{
    const float *bias = R == DX ? nullptr : call.bias + int64_t{blockIdx.y} * call.width;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++) {
        if (n * 8 >= call.width) {
            break;
        }
        const int column = column_of(n);
        const float bias0 = R == DX ? 0.0f : bias[column];
        const float bias1 = R == DX ? 0.0f : bias[column + 1];
#pragma unroll
        for (int m = 0; m < BLOCKS; m++) {
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
                bf16 *at = frames + row_of<BLOCKS>(m, i) * layout<WIDTH, BLOCKS>::PITCH + column;
                float z[2] = {sums[m][n][i] + bias0, sums[m][n][i + 1] + bias1};
                if constexpr (R != Z) {
                    float frame[2];
                    load(at, frame);
                    z[0] = frame[0] + (R == Y ? gelu(z[0]) : z[0]);
                    z[1] = frame[1] + (R == Y ? gelu(z[1]) : z[1]);
                }
                store(at, z);
            }
        }
    }
}

/* The tile's frames from the slice to memory, zeros after the last valid one. */
template <int WIDTH, int BLOCKS>
__device__ __forceinline__ void store_frames(const conv_call<bf16> &call, const tile &t,
                                             const bf16 *frames, bf16 *to)
{
    using L = layout<WIDTH, BLOCKS>;
    constexpr int PIECES = WIDTH / 8;
    const int rows = min(L::ROWS, call.padded - t.first);
    to += (int64_t{t.clip} * call.padded + t.first) * call.channels +
          int64_t{blockIdx.y} * call.width;
    for (int i = static_cast<int>(threadIdx.x); i < rows * PIECES; i += THREADS) {
        const int row = i / PIECES;
        const int at = i % PIECES * 8;
        if (at < call.width) {
            uint4 piece = {};
            if (row < t.count) {
                piece = *reinterpret_cast<const uint4 *>(frames + row * L::PITCH + at);
            }
            *reinterpret_cast<uint4 *>(to + int64_t{row} * call.channels + at) = piece;
        }
    }
}

template <int WIDTH, int BLOCKS>
__device__ __forceinline__ void store_part(const conv_call<bf16> &call, const tile &t,
                                           const float (&sums)[BLOCKS][WIDTH / 8][4])
{
    const int64_t row = t.split * call.rows + int64_t{t.clip} * call.padded + t.first;
    float *part = call.parts + row * call.channels + int64_t{blockIdx.y} * call.width;
#pragma unroll
    for (int m = 0; m < BLOCKS; m++) {
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            if (row_of<BLOCKS>(m, i) < t.count) {
                float *to = part + int64_t{row_of<BLOCKS>(m, i)} * call.channels;
#pragma unroll
                for (int n = 0; n < WIDTH / 8; n++) {
                    if (n * 8 < call.width) {
                        const float pair[2] = {sums[m][n][i], sums[m][n][i + 1]};
                        store(to + column_of(n), pair);
                    }
                }
            }
        }
    }
}

/* Two blocks fit on a multiprocessor: one copies while the other multiplies. */
template <direction D, int WIDTH, int BLOCKS>
__global__ void __launch_bounds__(THREADS, 2) pos_conv_tensor(const conv_call<bf16> call)
{
    wait_for_previous();
    using L = layout<WIDTH, BLOCKS>;
    constexpr result FIRST = D == FORWARD ? Y : DX;
    SER_SHARED(bf16, slice); /* [ROWS + kernel - 1, PITCH], then two stages */
    const tile t = tile_of(call, L::ROWS);
    bf16 *frames = slice + call.before * L::PITCH;
    float sums[BLOCKS][WIDTH / 8][4] = {};
    if (t.count > 0) {
        convolve<WIDTH, BLOCKS>(call, t, slice, sums);
        __syncthreads();
    }
    if (call.parts != nullptr) {
        store_part<WIDTH, BLOCKS>(call, t, sums);
        return;
    }
    if (t.count > 0) {
        if constexpr (D == GRADIENT) {
            load_frames<WIDTH, BLOCKS>(call, t, frames);
            __syncthreads();
        }
        finish<WIDTH, BLOCKS, FIRST>(call, frames, sums);
        __syncthreads();
    }
    store_frames<WIDTH, BLOCKS>(call, t, frames, call.y);
    if (D == FORWARD && call.z != nullptr) {
        __syncthreads();
        if (t.count > 0) {
            finish<WIDTH, BLOCKS, Z>(call, frames, sums);
            __syncthreads();
        }
        store_frames<WIDTH, BLOCKS>(call, t, frames, call.z);
    }
}

/* What the blocks with shares of the taps left, in their order. */
template <direction D>
__global__ void __launch_bounds__(PACK_THREADS) add_parts(const conv_call<bf16> call)
{
    wait_for_previous();
    const int64_t at = pack_first();
    const int64_t size = call.rows * call.channels;
    if (at >= size) {
        return;
    }
    const int64_t row = at / call.channels;
    float y[PACK] = {};
    float z[PACK] = {};
    if (row % call.padded < call.valid[row / call.padded]) {
        for (int split = 0; split < call.splits; split++) {
            float part[PACK];
            load_pack(call.parts + split * size + at, part);
#pragma unroll
            for (int i = 0; i < PACK; i++) {
                z[i] += part[i];
            }
        }
        load_pack((D == FORWARD ? call.x : call.dy) + at, y);
        const int64_t channel = at % call.channels;
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            if constexpr (D == FORWARD) {
                z[i] += call.bias[channel + i];
            }
            y[i] += D == FORWARD ? gelu(z[i]) : z[i];
        }
    }
    store_pack(call.y + at, y);
    if (D == FORWARD && call.z != nullptr) {
        store_pack(call.z + at, z);
    }
}

} // namespace

#endif
