/* SPDX-License-Identifier: MIT */
/*
 * sums[c] += sum over the valid rows of x[row, c]: the gradient of a bias.
 *
 * The rows are split over as many blocks as keep the card busy, a pack of eight columns per thread;
 * what depends on the card is only how many there are, so the order is the same every time.
 */
#include "ops/cuda/column_sums.cuh"

#include <ser/common.h>

#include "ops/cuda/packs.cuh"

namespace
{

constexpr int DEPTH = 4;                    /* loads under way per thread */
constexpr int BLOCKS_PER_PROCESSOR = 4;     /* of 256 threads: half of what fits */
constexpr int ADDERS = PACK_THREADS / WARP; /* warps that share the partial sums of a column */

/* How the matrix is divided: 2^shift threads for a row of a tile, the block's others for the rows
 * below; `splits` blocks of `each` rows for a tile. */
struct division {
    int shift;
    int64_t tiles, splits, each;
};

division divide(const ser_queue *queue, const ser_tensor &x)
{
    division d = {};
    while (d.shift < 5 && (PACK << d.shift) < x.cols) {
        d.shift++;
    }
    const int64_t at_once = PACK_THREADS >> d.shift;
    const int64_t blocks = int64_t{BLOCKS_PER_PROCESSOR} * queue->context->multiprocessors;
    d.tiles = cuda_ceil_div(x.cols, PACK << d.shift);
    const int64_t wanted = cuda_ceil_div(blocks, d.tiles);
    const int64_t most = cuda_ceil_div(x.rows, DEPTH * at_once);
    d.each = cuda_ceil_div(x.rows, wanted < most ? wanted : most);
    d.splits = cuda_ceil_div(x.rows, d.each);
    return d;
}

template <typename T> struct matrix {
    const T *x; /* [batch * padded, cols] */
    ser_rows rows;
    int32_t cols;
    int shift;
    int64_t each;
};

/* sum += rows first, first + step ... below end, of the pack of columns from c on. */
template <typename T, bool ALIGNED>
__device__ __forceinline__ void sum_rows(const matrix<T> &a, int64_t first, int64_t end, int step,
                                         int32_t c, float (&sum)[PACK])
{
    row_cursor at = row_cursor_at(a.rows, first);
    for (int64_t row = first; row < end;) {
        raw_pack<T> raw[DEPTH];
        float x[DEPTH][PACK];
#pragma unroll
        for (int j = 0; j < DEPTH; j++) {
            const bool wanted = row < end && is_valid(at, a.rows);
            if constexpr (ALIGNED) {
                raw[j] = load_raw(a.x, row * a.cols + c, wanted);
            } else {
                load_pack(a.x + row * a.cols + c, wanted ? a.cols - c : 0, false, x[j]);
            }
            row += step;
            advance(at, a.rows, step);
        }
#pragma unroll
        for (int j = 0; j < DEPTH; j++) {
            if constexpr (ALIGNED) {
                unpack(raw[j], x[j]);
            }
#pragma unroll
            for (int i = 0; i < PACK; i++) {
                sum[i] += x[j][i];
            }
        }
    }
}

/* partials[split, cols] */
template <typename T, bool ALIGNED>
__global__ void __launch_bounds__(PACK_THREADS) partial_sums(const matrix<T> a, float *partials)
{
    __shared__ float parts[PACK][PACK_THREADS];
    const unsigned lanes = 1u << a.shift;
    const unsigned own = threadIdx.x;
    const int32_t c = static_cast<int32_t>(blockIdx.x * lanes + (own & (lanes - 1))) * PACK;
    const int64_t begin = int64_t{blockIdx.y} * a.each;
    const int64_t total = a.rows.batch * a.rows.padded;
    const int64_t end = begin + a.each < total ? begin + a.each : total;
    float sum[PACK] = {};
    if (c < a.cols) {
        sum_rows<T, ALIGNED>(a, begin + (own >> a.shift), end, PACK_THREADS >> a.shift, c, sum);
    }
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        parts[i][own] = sum[i];
    }
    __syncthreads();
    for (unsigned half = PACK_THREADS / 2; half >= lanes; half /= 2) {
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            if (own < half) {
                parts[i][own] += parts[i][own + half];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        if (own < lanes && c + i < a.cols) {
            partials[int64_t{blockIdx.y} * a.cols + c + i] = parts[i][own];
        }
    }
}

/* A warp has 32 columns of every ADDERS-th partial sum. */
__global__ void __launch_bounds__(PACK_THREADS)
    add_partials(const float *partials, int64_t count, int64_t pitch, int64_t cols, float *sums)
{
    __shared__ float parts[ADDERS][WARP];
    const unsigned lane = threadIdx.x % WARP;
    const unsigned adder = threadIdx.x / WARP;
    const int64_t c = int64_t{blockIdx.x} * WARP + lane;
    float sum = 0.0f;
    if (c < cols) {
#pragma unroll 4
        for (int64_t i = adder; i < count; i += ADDERS) {
            sum += partials[i * pitch + c];
        }
    }
    parts[adder][lane] = sum;
    __syncthreads();
    if (adder != 0 || c >= cols) {
        return;
    }
    for (int i = 1; i < ADDERS; i++) {
        sum += parts[i][lane];
    }
    sums[c] += sum;
}

template <typename T>
int run(ser_queue *queue, const ser_tensor &x, const ser_rows &rows, float *partials)
{
    const division d = divide(queue, x);
    const matrix<T> a = {
        .x = static_cast<const T *>(x.data),
        .rows = rows,
        .cols = static_cast<int32_t>(x.cols),
        .shift = d.shift,
        .each = d.each,
    };
    const ser_shape shape = {dim3(static_cast<unsigned>(d.tiles), static_cast<unsigned>(d.splits)),
                             PACK_THREADS, 0};
    return x.cols % PACK == 0 && ser_pack_aligned(x.data)
               ? ser_launch(queue, shape, partial_sums<T, true>, a, partials)
               : ser_launch(queue, shape, partial_sums<T, false>, a, partials);
}

} // namespace

int ser_cuda_add_partials(ser_queue *queue, const float *partials, int64_t count, int64_t pitch,
                          int64_t cols, float *sums)
{
    return ser_launch(queue, {ser_grid(cols, WARP), PACK_THREADS, 0}, add_partials, partials, count,
                      pitch, cols, sums);
}

size_t ser_cuda_column_sums_scratch(const ser_queue *queue, const ser_tensor *x)
{
    return static_cast<size_t>(divide(queue, *x).splits * x->cols) * sizeof(float);
}

int ser_cuda_column_sums(ser_queue *queue, const ser_tensor *x, const ser_rows *rows, float *sums,
                         void *scratch)
{
    float *partials = static_cast<float *>(scratch);
    const int status = x->type == SER_BF16 ? run<bf16>(queue, *x, *rows, partials)
                                           : run<float>(queue, *x, *rows, partials);
    return status == 0 ? ser_cuda_add_partials(queue, partials, divide(queue, *x).splits, x->cols,
                                               x->cols, sums)
                       : status;
}
