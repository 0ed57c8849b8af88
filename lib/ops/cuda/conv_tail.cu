/* SPDX-License-Identifier: MIT */
/*
 * What conv and wave_conv do with a raw product z: y = GELU(norm(z + bias)) on valid rows, zeros on
 * the others, whose z is not read. norm is LayerNorm over the channels of a row (Ba et al. 2016),
 * with the variance from a second pass over registers.
 *
 * z + bias may be saved in place of z, and y be made in place of z: no pointer is __restrict__, and
 * an element is read and written by one thread only.
 */
#include "ops/cuda/conv_tail.cuh"

namespace
{

constexpr int FILL_BLOCKS = 8; /* that clear one clip's padding, most often one row */

template <typename T> struct tail {
    const T *z;         /* [batch * padded, channels] */
    const float *bias;  /* [channels] or NULL */
    const float *gamma; /* [channels], with the norm */
    const float *beta;
    T *saved; /* [batch * padded, channels] or NULL */
    T *y;     /* [batch * padded, channels] */
    const int32_t *valid;
    int64_t batch, padded;
    int32_t channels;
    bool aligned; /* every row of every array to 16 bytes */
};

/* Channels c .. c + 7 of a row that begins at element `row`. */
template <typename T>
__device__ __forceinline__ void clear_pack(const tail<T> &a, int64_t row, int c)
{
    const float zeros[PACK] = {};
    store_pack(a.y + row + c, a.channels - c, a.aligned, zeros);
    if (a.saved != nullptr) {
        store_pack(a.saved + row + c, a.channels - c, a.aligned, zeros);
    }
}

/* v = z + bias, which is saved where that is wanted; 0 beyond the last channel. */
template <typename T>
__device__ __forceinline__ void begin_pack(const tail<T> &a, int64_t row, int c, float (&v)[PACK])
{
    load_pack(a.z + row + c, a.channels - c, a.aligned, v);
    if (a.bias != nullptr) {
        float bias[PACK];
        load_pack(a.bias + c, a.channels - c, a.aligned, bias);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            v[i] += bias[i];
        }
    }
    if (a.saved != nullptr) {
        store_pack(a.saved + row + c, a.channels - c, a.aligned, v);
    }
}

/* y = GELU((v - mean) inverse gamma + beta) */
template <typename T>
__device__ __forceinline__ void finish_pack(const tail<T> &a, int64_t row, int c, float mean,
                                            float inverse, float (&v)[PACK])
{
    float gamma[PACK];
    float beta[PACK];
    load_pack(a.gamma + c, a.channels - c, a.aligned, gamma);
    load_pack(a.beta + c, a.channels - c, a.aligned, beta);
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        v[i] = gelu((v[i] - mean) * inverse * gamma[i] + beta[i]);
    }
    store_pack(a.y + row + c, a.channels - c, a.aligned, v);
}

/* One row of a warp, a pack per lane and round. */
template <typename T, int ROUNDS>
__device__ __forceinline__ void norm_row(const tail<T> &a, int64_t row, int begin)
{
    float v[ROUNDS][PACK];
    float mean;
    float inverse;
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int c = begin + j * WARP * PACK;
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            v[j][i] = 0.0f;
        }
        if (c < a.channels) {
            begin_pack(a, row, c, v[j]);
        }
    }
    row_stats(v, begin, a.channels, mean, inverse);
#pragma unroll
    for (int j = 0; j < ROUNDS; j++) {
        const int c = begin + j * WARP * PACK;
        if (c < a.channels) {
            finish_pack(a, row, c, mean, inverse, v[j]);
        }
    }
}

/* A warp per row; at most ROUNDS packs per lane. */
template <typename T, int ROUNDS>
__global__ void __launch_bounds__(WARPS *WARP) norm_kernel(const tail<T> a)
{
    wait_for_previous();
    const int64_t t = int64_t{blockIdx.x} * WARPS + threadIdx.x / WARP;
    const int begin = static_cast<int>(threadIdx.x % WARP) * PACK;
    if (t >= a.padded) {
        return;
    }
    for (int64_t clip = blockIdx.y; clip < a.batch; clip += gridDim.y) {
        const int64_t row = (clip * a.padded + t) * a.channels;
        if (t < a.valid[clip]) {
            norm_row<T, ROUNDS>(a, row, begin);
            continue;
        }
        for (int c = begin; c < a.channels; c += WARP * PACK) {
            clear_pack(a, row, c);
        }
    }
}

/* z + bias of one element. */
template <typename T> __device__ __forceinline__ float raw(const tail<T> &a, int64_t row, int c)
{
    return to_float(a.z[row + c]) + (a.bias != nullptr ? a.bias[c] : 0.0f);
}

/* A block per row of any length, which is read three times. `parts` has two times 32 places. */
template <typename T>
__device__ __forceinline__ void norm_long_row(const tail<T> &a, int64_t row, float *parts)
{
    const int begin = static_cast<int>(threadIdx.x);
    const float count = static_cast<float>(a.channels);
    float total = 0.0f;
    float squares = 0.0f;
    for (int c = begin; c < a.channels; c += PACK_THREADS) {
        total += raw(a, row, c);
    }
    const float mean = block_sum(total, parts) / count;
    for (int c = begin; c < a.channels; c += PACK_THREADS) {
        const float d = raw(a, row, c) - mean;
        squares += d * d;
    }
    const float inverse = inverse_of(block_sum(squares, parts + WARP), a.channels);
    for (int c = begin; c < a.channels; c += PACK_THREADS) {
        const float v = raw(a, row, c);
        if (a.saved != nullptr) {
            a.saved[row + c] = from_float<T>(v);
        }
        a.y[row + c] = from_float<T>(gelu((v - mean) * inverse * a.gamma[c] + a.beta[c]));
    }
}

template <typename T>
__global__ void __launch_bounds__(PACK_THREADS) norm_long_kernel(const tail<T> a)
{
    wait_for_previous();
    __shared__ float parts[2 * WARP];
    for (int64_t clip = blockIdx.y; clip < a.batch; clip += gridDim.y) {
        const int64_t row = (clip * a.padded + blockIdx.x) * a.channels;
        if (static_cast<int64_t>(blockIdx.x) < a.valid[clip]) {
            norm_long_row(a, row, parts);
            __syncthreads(); /* before the next row writes the first half of parts */
            continue;
        }
        for (int c = static_cast<int>(threadIdx.x) * PACK; c < a.channels;
             c += PACK_THREADS * PACK) {
            clear_pack(a, row, c);
        }
    }
}

/* No norm. 2^shift threads for a row, a pack each and round. */
template <typename T>
__global__ void __launch_bounds__(PACK_THREADS) gelu_kernel(const tail<T> a, int shift)
{
    wait_for_previous();
    const int64_t t = (int64_t{blockIdx.x} * PACK_THREADS + threadIdx.x) >> shift;
    const int lanes = 1 << shift;
    const int begin = (static_cast<int>(threadIdx.x) & (lanes - 1)) * PACK;
    if (t >= a.padded) {
        return;
    }
    for (int64_t clip = blockIdx.y; clip < a.batch; clip += gridDim.y) {
        const int64_t row = (clip * a.padded + t) * a.channels;
        const bool is_valid = t < a.valid[clip];
        for (int c = begin; c < a.channels; c += lanes * PACK) {
            if (!is_valid) {
                clear_pack(a, row, c);
                continue;
            }
            float v[PACK];
            begin_pack(a, row, c, v);
#pragma unroll
            for (int i = 0; i < PACK; i++) {
                v[i] = gelu(v[i]);
            }
            store_pack(a.y + row + c, a.channels - c, a.aligned, v);
        }
    }
}

/* A clip's invalid rows are one stretch of memory, in units of N. */
template <typename N>
__global__ void __launch_bounds__(PACK_THREADS) zero_kernel(N *y, ser_rows rows, int64_t width)
{
    wait_for_previous();
    for (int64_t clip = blockIdx.y; clip < rows.batch; clip += gridDim.y) {
        const int64_t end = (clip + 1) * rows.padded * width;
        int64_t at = (clip * rows.padded + rows.valid[clip]) * width;
        at += int64_t{blockIdx.x} * PACK_THREADS + threadIdx.x;
        for (; at < end; at += int64_t{gridDim.x} * PACK_THREADS) {
            y[at] = N{};
        }
    }
}

template <typename T> int run_norm(ser_queue *queue, const tail<T> &a)
{
    const ser_shape shape = {grid_of(cuda_ceil_div(a.padded, WARPS), a.batch), WARPS * WARP, 0};
    const int64_t rounds = cuda_ceil_div(a.channels, WARP * PACK);
    if (rounds > MOST_ROUNDS) {
        return ser_launch_early(queue, {grid_of(a.padded, a.batch), PACK_THREADS, 0},
                                norm_long_kernel<T>, a);
    }
    switch (rounds) {
    case 1: return ser_launch_early(queue, shape, norm_kernel<T, 1>, a);
    case 2: return ser_launch_early(queue, shape, norm_kernel<T, 2>, a);
    case 3: return ser_launch_early(queue, shape, norm_kernel<T, 3>, a);
    default: return ser_launch_early(queue, shape, norm_kernel<T, MOST_ROUNDS>, a);
    }
}

template <typename T> int run_gelu(ser_queue *queue, const tail<T> &a)
{
    const int shift = lanes_shift(a.channels);
    const int64_t blocks = cuda_ceil_div(a.padded << shift, PACK_THREADS);
    return ser_launch_early(queue, {grid_of(blocks, a.batch), PACK_THREADS, 0}, gelu_kernel<T>, a,
                            shift);
}

template <typename T> int run_tail(ser_queue *queue, const cuda_conv_tail *args)
{
    const tail<T> a = {
        .z = static_cast<const T *>(args->z->data),
        .bias = static_cast<const float *>(args->bias->data),
        .gamma = static_cast<const float *>(args->gamma->data),
        .beta = static_cast<const float *>(args->beta->data),
        .saved = static_cast<T *>(args->saved->data),
        .y = static_cast<T *>(args->y->data),
        .valid = args->rows.valid,
        .batch = args->rows.batch,
        .padded = args->rows.padded,
        .channels = static_cast<int32_t>(args->y->cols),
        .aligned = args->y->cols % PACK == 0 && ser_pack_aligned(args->z->data) &&
                   ser_pack_aligned(args->bias->data) && ser_pack_aligned(args->gamma->data) &&
                   ser_pack_aligned(args->beta->data) && ser_pack_aligned(args->saved->data) &&
                   ser_pack_aligned(args->y->data),
    };
    return args->norm == SER_CONV_NORM_LAYER ? run_norm(queue, a) : run_gelu(queue, a);
}

template <typename N> int run_zero(ser_queue *queue, const ser_tensor *y, const ser_rows &rows)
{
    const int64_t width = y->cols * static_cast<int64_t>(cuda_element_size(y->type)) /
                          static_cast<int64_t>(sizeof(N));
    return ser_launch_early(queue, {grid_of(FILL_BLOCKS, rows.batch), PACK_THREADS, 0},
                            zero_kernel<N>, static_cast<N *>(y->data), rows, width);
}

} // namespace

int ser_cuda_conv_tail(ser_queue *queue, const cuda_conv_tail *tail)
{
    return tail->y->type == SER_BF16 ? run_tail<bf16>(queue, tail) : run_tail<float>(queue, tail);
}

int ser_cuda_zero_padding(ser_queue *queue, const ser_tensor *y, const ser_rows *rows)
{
    const int64_t bytes = y->cols * static_cast<int64_t>(cuda_element_size(y->type));
    if (bytes % 16 == 0 && ser_pack_aligned(y->data)) {
        return run_zero<uint4>(queue, y, *rows);
    }
    return y->type == SER_BF16 ? run_zero<uint16_t>(queue, y, *rows)
                               : run_zero<uint32_t>(queue, y, *rows);
}
