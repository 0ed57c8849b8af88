/* SPDX-License-Identifier: MIT */
/*
 * y = GELU(a b^T + bias) on tensor cores, for all cards from sm_80 on. Only for gelu_product.cu.
 *
 * A block makes a tile of y, each of its warps a part of it in registers. Slices of a and b, DEPTH
 * values of k deep, come by cp.async into a ring of STAGES places; the fragments of the next 16
 * values of k are loaded while the tensor cores work on the last ones. A sum goes over k in steps of
 * 16 from 0 on in every tiling, so that its bits do not depend on it. What lies beyond a matrix is
 * zeros in shared memory, and the rest of the last slice adds zeros.
 */
#ifndef SER_OPS_CUDA_GELU_PRODUCT_CUH
#define SER_OPS_CUDA_GELU_PRODUCT_CUH

#include "ops/cuda/mma.cuh"
#include "ops/cuda/packs.cuh"
#include "ops/cuda/wave_gelu.cuh"

namespace
{

struct gelu_call {
    const bf16 *a;    /* [m, k], rows lda apart, which may overlap */
    const bf16 *b;    /* [n, k] */
    const bf16 *bias; /* [n] or NULL */
    bf16 *y;          /* [m, n] */
    int64_t lda;
    int32_t m, n, k;
    int32_t tiles_down, tiles_across;
    const int32_t *valid; /* rows of each clip, the others become zero; NULL: all are */
    int32_t padded;       /* rows of a clip */
};

/* DOWN x ACROSS warps; RESIDENT blocks are wanted on a multiprocessor. */
template <int ROWS_, int COLS_, int DOWN, int ACROSS_, int DEPTH_, int STAGES_, int RESIDENT_>
struct tiling {
    static constexpr int ROWS = ROWS_;
    static constexpr int COLS = COLS_;
    static constexpr int ACROSS = ACROSS_;
    static constexpr int DEPTH = DEPTH_;
    static constexpr int STAGES = STAGES_;
    static constexpr int RESIDENT = RESIDENT_;
    static constexpr int THREADS = DOWN * ACROSS * WARP;
    static constexpr int WARP_ROWS = ROWS / DOWN;
    static constexpr int WARP_COLS = COLS / ACROSS;
    static constexpr int A_BLOCKS = WARP_ROWS / 16; /* fragments */
    static constexpr int B_BLOCKS = WARP_COLS / 8;
    static constexpr int STEPS = DEPTH / 16; /* of a slice */

    static constexpr int CHUNKS = DEPTH / 8;         /* 16 bytes each, of a slice's row */
    static constexpr int AT_ONCE = THREADS / CHUNKS; /* rows that all threads copy */
    static constexpr int STAGE = (ROWS + COLS) * DEPTH;
    static constexpr int PITCH = COLS + 8; /* of the finished tile, in place of the stages */

    static constexpr size_t SHARED = (STAGES * STAGE + COLS) * sizeof(bf16); /* the bias behind */

    static_assert(WARP_ROWS % 16 == 0 && WARP_COLS % 16 == 0,
                  "fragments of a come whole, of b in twos");
    static_assert(STEPS % 2 == 0, "two sets of fragments take turns");
    static_assert(ROWS % AT_ONCE == 0 && COLS % AT_ONCE == 0 && AT_ONCE % 8 == 0, "even shares");
    static_assert(ROWS * PITCH <= STAGES * STAGE, "the finished tile has room");
    static_assert(COLS / 8 <= THREADS, "a chunk of the bias for a thread");
};

/* Blocks in the order of their start: down GROUP tiles, then the next column of them, so that those
 * that run together share rows of a and of b. */
struct place {
    int32_t row, col; /* of the tile's first element */
};

template <typename L> __device__ __forceinline__ place place_of(const gelu_call &call)
{
    constexpr int GROUP = 8;
    const int block = static_cast<int>(blockIdx.x);
    const int whole = GROUP * call.tiles_across;
    const int first = block / whole * GROUP;
    const int down = min(GROUP, call.tiles_down - first);
    const int rest = block % whole;
    return {.row = (first + rest % down) * L::ROWS, .col = rest / down * L::COLS};
}

/* --- Slices --- */

/*
 * Where chunk `chunk` of row `row` lies in a slice. Eight chunks fill all banks: the XOR spreads one
 * chunk of eight neighbouring rows, which ldmatrix reads at a time, over different ones. Depends on
 * row % 8 beyond the row's own beginning.
 */
template <typename L> __device__ __forceinline__ int chunk_at(int row, int chunk)
{
    return row * L::DEPTH + ((chunk ^ (row / (8 / L::CHUNKS) % L::CHUNKS)) * 8);
}

/* A thread's share of a matrix of ROWS rows in every slice: one chunk of every few rows. */
template <typename L, int ROWS> struct copier {
    static constexpr int COUNT = ROWS / L::AT_ONCE;
    const bf16 *any;  /* an address that can be read */
    const bf16 *from; /* the first row's chunk */
    int64_t step;     /* from one row to the next */
    uint32_t there;   /* bit i: row i exists */

    __device__ __forceinline__ copier(const bf16 *matrix, int64_t pitch, int first, int end)
    {
        const int row = first + static_cast<int>(threadIdx.x) / L::CHUNKS;
        any = matrix;
        from = matrix + row * pitch + static_cast<int>(threadIdx.x) % L::CHUNKS * 8;
        step = L::AT_ONCE * pitch;
        there = 0;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            there |= static_cast<uint32_t>(row + i * L::AT_ONCE < end) << i;
        }
    }

    /* Start copying the slice from value k0 of k on. `to`: the thread's first place in the slice. */
    __device__ __forceinline__ void start(int k0, bool inside, bf16 *to) const
    {
        const uint32_t mask = inside ? there : 0;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const bool is_there = (mask >> i & 1) != 0;
            cp_async_16(to + i * L::AT_ONCE * L::DEPTH, is_there ? from + i * step + k0 : any,
                        is_there);
        }
    }
};

template <typename L> struct slices {
    copier<L, L::ROWS> a;
    copier<L, L::COLS> b;
    int32_t k, chunk; /* the thread's first value of k in a slice */
    bf16 *to;         /* its first place in the first stage */

    __device__ __forceinline__ slices(const gelu_call &call, const place &at, bf16 *stages)
        : a(call.a, call.lda, at.row, call.m), b(call.b, call.k, at.col, call.n), k(call.k)
    {
        const int thread = static_cast<int>(threadIdx.x);
        chunk = thread % L::CHUNKS * 8;
        to = stages + chunk_at<L>(thread / L::CHUNKS, thread % L::CHUNKS);
    }

    /* Beyond the last slice nothing is copied. */
    __device__ __forceinline__ void start(int slice, int stage) const
    {
        const int k0 = slice * L::DEPTH;
        if (k0 < k) {
            bf16 *first = to + stage * L::STAGE;
            a.start(k0, k0 + chunk < k, first);
            b.start(k0, k0 + chunk < k, first + L::ROWS * L::DEPTH);
        }
        cp_async_commit();
    }
};

/* --- Products --- */

template <typename L> struct fragments {
    uint32_t a[L::A_BLOCKS][4];
    uint32_t b[L::B_BLOCKS / 2][4]; /* two blocks each */
};

/* The rows of fragments that a lane gives the addresses of: their begin in the first stage, and what
 * the XOR of chunk_at makes of their first chunk. */
struct reader {
    int a, b;
    int a_chunk, b_chunk;
};

template <typename L> __device__ __forceinline__ reader reader_of()
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int a_row = warp / L::ACROSS * L::WARP_ROWS + lane % 16;
    const int b_row = warp % L::ACROSS * L::WARP_COLS + lane % 8 + lane / 16 * 8;
    const int a_begin = a_row * L::DEPTH;
    const int b_begin = b_row * L::DEPTH;
    return {.a = a_begin,
            .b = L::ROWS * L::DEPTH + b_begin,
            .a_chunk = chunk_at<L>(a_row, lane / 16) - a_begin,
            .b_chunk = chunk_at<L>(b_row, lane / 8 % 2) - b_begin};
}

/* Those of step `step`, whose chunks 2 step and 2 step + 1 differ from the first two in bits that
 * the lane's own does not have: XOR does it for both. */
template <typename L>
__device__ __forceinline__ void load_fragments(const bf16 *stage, const reader &r, int step,
                                               fragments<L> &f)
{
    const bf16 *a = stage + r.a + (r.a_chunk ^ (step * 16));
    const bf16 *b = stage + r.b + (r.b_chunk ^ (step * 16));
#pragma unroll
    for (int i = 0; i < L::A_BLOCKS; i++) {
        ldmatrix_x4(f.a[i], a + i * 16 * L::DEPTH);
    }
#pragma unroll
    for (int j = 0; j < L::B_BLOCKS / 2; j++) {
        ldmatrix_x4(f.b[j], b + j * 16 * L::DEPTH);
    }
}

template <typename L>
__device__ __forceinline__ void multiply(const fragments<L> &f,
                                         float (&sums)[L::A_BLOCKS][L::B_BLOCKS][4])
{
#pragma unroll
    for (int j = 0; j < L::B_BLOCKS; j++) {
        const uint32_t b[2] = {f.b[j / 2][j % 2 * 2], f.b[j / 2][j % 2 * 2 + 1]};
#pragma unroll
        for (int i = 0; i < L::A_BLOCKS; i++) {
            mma_m16n8k16(sums[i][j], f.a[i], b);
        }
    }
}

/* The bias comes with the first slice. */
template <typename L>
__device__ __forceinline__ void start_bias(const gelu_call &call, const place &at, bf16 *bias)
{
    const int col = static_cast<int>(threadIdx.x) * 8;
    if (col < L::COLS) {
        const bool there = call.bias != nullptr && at.col + col < call.n;
        cp_async_16(bias + col, there ? call.bias + at.col + col : call.b, there);
    }
}

/*
 * Slice j + STAGES - 1 goes where slice j - 1 was: all warps have read that one when they meet at the
 * barrier in its last step, behind which slice j is known to be there. The last slice reads fragments
 * of one that is not: nothing is made of them.
 */
template <typename L>
__device__ __forceinline__ void add_products(const slices<L> &from, const bf16 *stages,
                                             float (&sums)[L::A_BLOCKS][L::B_BLOCKS][4])
{
    const reader r = reader_of<L>();
    fragments<L> f[2];
    const bf16 *stage = stages;
    int next = L::STAGES - 1; /* slice to be copied, and where */
    int free = L::STAGES - 1;
    cp_async_wait<L::STAGES - 2>();
    __syncthreads();
    load_fragments<L>(stage, r, 0, f[0]);
#pragma unroll 1
    for (int k0 = 0; k0 < from.k; k0 += L::DEPTH) {
#pragma unroll
        for (int step = 0; step < L::STEPS; step++) {
            if (step == L::STEPS - 1) {
                cp_async_wait<L::STAGES - 2>();
                __syncthreads();
                stage += L::STAGE;
                stage = stage == stages + L::STAGES * L::STAGE ? stages : stage;
            }
            load_fragments<L>(stage, r, (step + 1) % L::STEPS, f[(step + 1) % 2]);
            if (step == 0) {
                from.start(next, free);
                next++;
                free = free == L::STAGES - 1 ? 0 : free + 1;
            }
            multiply<L>(f[step % 2], sums);
        }
    }
}

/* --- The end --- */

/* gelu_for<bf16>, but NaN for -inf, as x / 2 (1 + erf(..)) has it: a sum that overflowed shows. */
__device__ __forceinline__ float gelu_of_sum(float x)
{
    const float bounded = fabsf(fminf(x, FLT_MAX));
    return fmaxf(x, 0.0f) - bounded * power_of_2(log2_tail(fabsf(x)));
}

/* The tile into shared memory, a pair of neighbours in one access. */
template <typename L>
__device__ __forceinline__ void finish(const float (&sums)[L::A_BLOCKS][L::B_BLOCKS][4],
                                       const bf16 *bias, bf16 *tile)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int row = warp / L::ACROSS * L::WARP_ROWS + lane / 4;
    const int col = warp % L::ACROSS * L::WARP_COLS + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < L::B_BLOCKS; j++) {
        float added[2];
        load(bias + col + j * 8, added);
#pragma unroll
        for (int i = 0; i < L::A_BLOCKS; i++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float y[2] = {gelu_of_sum(sums[i][j][2 * half] + added[0]),
                                    gelu_of_sum(sums[i][j][2 * half + 1] + added[1])};
                store(tile + (row + i * 16 + half * 8) * L::PITCH + col + j * 8, y);
            }
        }
    }
}

__device__ __forceinline__ bool is_valid(const gelu_call &call, int row)
{
    return call.valid == nullptr || row % call.padded < call.valid[row / call.padded];
}

template <typename L>
__device__ __forceinline__ void store_tile(const gelu_call &call, const place &at, const bf16 *tile)
{
    constexpr int PIECES = L::COLS / 8;
    for (int i = static_cast<int>(threadIdx.x); i < L::ROWS * PIECES; i += L::THREADS) {
        const int row = at.row + i / PIECES;
        const int col = at.col + i % PIECES * 8;
        if (row < call.m && col < call.n) {
            const raw_pack<bf16> piece =
                load_raw(tile + i / PIECES * L::PITCH, i % PIECES * 8, is_valid(call, row));
            store_raw(call.y + int64_t{row} * call.n + col, piece);
        }
    }
}

template <typename L>
__global__ void __launch_bounds__(L::THREADS, L::RESIDENT) gelu_product(const gelu_call call)
{
    wait_for_previous();
    SER_SHARED(bf16, stages); /* [STAGES, ROWS + COLS, DEPTH], then the bias */
    bf16 *bias = stages + L::STAGES * L::STAGE;
    const place at = place_of<L>(call);
    const slices<L> from(call, at, stages);
    float sums[L::A_BLOCKS][L::B_BLOCKS][4] = {};
    start_bias<L>(call, at, bias);
#pragma unroll
    for (int i = 0; i < L::STAGES - 1; i++) {
        from.start(i, i);
    }
    add_products<L>(from, stages, sums);
    __syncthreads(); /* nobody reads the stages any more */
    finish<L>(sums, bias, stages);
    __syncthreads();
    store_tile<L>(call, at, stages);
}

} // namespace

#endif
