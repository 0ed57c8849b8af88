/* SPDX-License-Identifier: MIT */
/*
 * *sum += sum of x^2: chunks of fixed size in a block each, then the chunks' sums in a fixed order,
 * so that neither the card nor the run changes a bit.
 *
 * Of a run of 16 elements a thread keeps the sum as a pair of floats, high + low: the rounding of
 * each square (by fma) and of each addition (TwoSum; Knuth, The Art of Computer Programming, 4.2.2)
 * goes to `low`, which leaves a relative error below 2^-40. Only the pair becomes a double: cards
 * for games have 64 times fewer units for double, conversions included, and two such operations per
 * element would take them longer than memory does. Where `high` shows that a square overflowed, was
 * NaN, or may have been too small for its rounding error, the run is summed again in double.
 */
#include "ops/cuda/launch.cuh"

namespace
{

constexpr int THREADS = 256;
constexpr int QUADS = 4; /* accesses of 16 bytes under way per thread: a run */
constexpr int RUNS = 4;
constexpr int RUN = 4 * QUADS;
constexpr int64_t CHUNK = int64_t{THREADS} * RUN * RUNS;
constexpr int TOTAL_THREADS = 1024;

/* Between these nothing overflowed, and what underflow took, at most 2^-144, is below 2^-54 of the
 * sum. */
constexpr float LEAST = 0x1p-90f;
constexpr float MOST = 0x1p+120f;

struct squares {
    const float *x; /* [count] */
    int64_t count;
    double *sums; /* [chunks] */
    bool aligned; /* x to 16 bytes */
};

__device__ __forceinline__ double run_in_double(const float (&x)[QUADS][4])
{
    double sum = 0.0;
    for (int q = 0; q < QUADS; q++) {
        for (int i = 0; i < 4; i++) {
            sum += static_cast<double>(x[q][i]) * static_cast<double>(x[q][i]);
        }
    }
    return sum;
}

/* The __f*_rn are never fused, which would take the meaning from the differences. */
__device__ __forceinline__ double run_of(const float (&x)[QUADS][4])
{
    float high = 0.0f;
    float low = 0.0f;
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float square = __fmul_rn(x[q][i], x[q][i]);
            const float sum = __fadd_rn(high, square);
            const float added = __fsub_rn(sum, high);
            const float lost =
                __fadd_rn(__fsub_rn(high, __fsub_rn(sum, added)), __fsub_rn(square, added));
            low = __fadd_rn(low, __fadd_rn(__fmaf_rn(x[q][i], x[q][i], -square), lost));
            high = sum;
        }
    }
    if (high >= LEAST && high <= MOST) {
        return static_cast<double>(high) + static_cast<double>(low);
    }
    return run_in_double(x);
}

/* Quads THREADS apart from element `at` on, zeros beyond the last element. `whole`: they all exist,
 * and are aligned; the loads are under way together then. */
__device__ __forceinline__ void load_run(const squares &a, int64_t at, bool whole,
                                         float (&x)[QUADS][4])
{
    if (whole) {
#pragma unroll
        for (int q = 0; q < QUADS; q++) {
            load(a.x + at + q * (THREADS * 4), x[q]);
        }
        return;
    }
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        const int64_t first = at + q * (THREADS * 4);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[q][i] = first + i < a.count ? a.x[first + i] : 0.0f;
        }
    }
}

__global__ void __launch_bounds__(THREADS) sum_chunks(const squares a)
{
    __shared__ double parts[WARP];
    const int64_t first = int64_t{blockIdx.x} * CHUNK;
    const bool whole = a.aligned && first + CHUNK <= a.count;
    double sum = 0.0;
    for (int r = 0; r < RUNS; r++) {
        float x[QUADS][4];
        load_run(a, first + r * (THREADS * RUN) + threadIdx.x * 4, whole, x);
        sum += run_of(x);
    }
    sum = block_sum(sum, parts);
    if (threadIdx.x == 0) {
        a.sums[blockIdx.x] = sum;
    }
}

/* One block. */
__global__ void __launch_bounds__(TOTAL_THREADS)
    add_chunks(const double *sums, int64_t chunks, double *total)
{
    __shared__ double parts[WARP];
    double sum = 0.0;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < chunks; i += TOTAL_THREADS) {
        sum += sums[i];
    }
    sum = block_sum(sum, parts);
    if (threadIdx.x == 0) {
        *total += sum;
    }
}

} // namespace

size_t ser_cuda_sum_squares_scratch(const ser_queue *queue, const ser_sum_squares_args *args)
{
    (void)queue;
    return static_cast<size_t>(cuda_ceil_div(args->count, CHUNK)) * sizeof(double);
}

int ser_cuda_sum_squares(ser_queue *queue, const ser_sum_squares_args *args)
{
    int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    const squares a = {
        .x = args->x,
        .count = args->count,
        .sums = static_cast<double *>(queue->scratch),
        .aligned = reinterpret_cast<uintptr_t>(args->x) % 16 == 0,
    };
    const int64_t chunks = cuda_ceil_div(a.count, CHUNK);
    status = ser_launch(queue, {ser_grid(chunks, 1), THREADS, 0}, sum_chunks, a);
    if (status != 0) {
        return status;
    }
    return ser_launch(queue, {dim3(1), TOTAL_THREADS, 0}, add_chunks, a.sums, chunks, args->sum);
}
