/* SPDX-License-Identifier: MIT */
/*
 * Backward of pos_conv. dz = dy GELU'(z), and with b = kernel / 2
 *   dx[s, i] = dy[s, i] + sum over k and o of dz[s + b - k, o] w[o, k, i]
 *   dw[o, k, i] += sum over clips and t of dz[t, o] x[t - b + k, i]
 *   dbias[o] += sum over clips and t of dz[t, o]
 * The first sum is forward's with the taps in reverse, so forward's kernels find it.
 */
#include "ops/cuda/pos_conv_launch.cuh"
#include "ops/cuda/pos_conv_weight_launch.cuh"

namespace
{

/* --- dz and the reversed weights --- */

template <typename T> struct tail_call {
    const T *dy, *z; /* [rows, channels] */
    T *dz;           /* as dy */
    const int32_t *valid;
    int64_t rows;
    int padded, channels;
};

template <typename T>
__device__ __forceinline__ bool is_valid(const tail_call<T> &call, int64_t row)
{
    return row < call.rows && row % call.padded < call.valid[row / call.padded];
}

/* dz = dy GELU'(z), zeros in invalid rows. A pack may have parts of several rows. */
template <typename T>
__global__ void __launch_bounds__(PACK_THREADS) tail_gradient(const tail_call<T> call)
{
    const int64_t size = call.rows * call.channels;
    for (int64_t at = pack_first(); at < size; at += pack_stride()) {
        const bool one_row = call.channels % PACK == 0;
        const bool first = is_valid(call, at / call.channels);
        float dy[PACK] = {};
        float z[PACK] = {};
        if (first || !one_row) {
            load_pack(call.dy + at, size - at, true, dy);
            load_pack(call.z + at, size - at, true, z);
        }
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            const bool there = one_row ? first : is_valid(call, (at + i) / call.channels);
            dy[i] = there ? dy[i] * gelu_gradient(z[i]) : 0.0f;
        }
        store_pack(call.dz + at, size - at, true, dy);
    }
}

constexpr int REVERSE_ROWS = 8;

/* to[i, k, o] = w[o, kernel - 1 - k, i] in every group. Grid: taps, groups. */
template <typename T>
__global__ void __launch_bounds__(WARP *REVERSE_ROWS)
    reverse_weights(const T *w, int width, int kernel, T *to)
{
    __shared__ T square[WARP][WARP + 1];
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int k = static_cast<int>(blockIdx.x);
    const int64_t group = int64_t{blockIdx.y} * width * kernel * width;
    const int64_t from_tap = group + int64_t{kernel - 1 - k} * width;
    const int64_t to_tap = group + int64_t{k} * width;
    const int64_t pitch = int64_t{kernel} * width;
    for (int o = 0; o < width; o += WARP) {
        for (int i = 0; i < width; i += WARP) {
            for (int row = warp; row < WARP; row += REVERSE_ROWS) {
                if (o + row < width && i + lane < width) {
                    square[row][lane] = w[from_tap + (o + row) * pitch + i + lane];
                }
            }
            __syncthreads();
            for (int row = warp; row < WARP; row += REVERSE_ROWS) {
                if (i + row < width && o + lane < width) {
                    to[to_tap + (i + row) * pitch + o + lane] = square[lane][row];
                }
            }
            __syncthreads();
        }
    }
}

/* --- The op --- */

/* Where things are in the scratch, in bytes. */
struct backward_plan {
    plan conv;
    weight_plan weight;
    size_t dz, w;
    size_t rest; /* parts of dx, then of dw, and what the column sums need */
    size_t size;
};

size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

backward_plan plan_backward(const ser_queue *queue, const ser_pos_conv_args *args)
{
    const conv_size size = size_of(args, args->dy);
    const size_t element = cuda_element_size(size.type);
    const int64_t weights = size.channels * size.kernel * size.width;
    backward_plan b = {};
    size_t rest = 0;
    b.dz = cuda_carve(&b.size, static_cast<size_t>(args->dy.rows * size.channels) * element);
    if (args->dx.rows > 0) {
        b.conv = plan_of<GRADIENT>(queue, size);
        b.w = cuda_carve(&b.size, static_cast<size_t>(weights) * element);
        rest = larger(rest, parts_size(size, b.conv));
    }
    if (args->dw.rows > 0) {
        b.weight = plan_weight(queue, size);
        rest = larger(rest, parts_size(b.weight));
    }
    if (args->dbias.rows > 0) {
        rest = larger(rest, ser_cuda_column_sums_scratch(queue, &args->dy));
    }
    b.rest = cuda_carve(&b.size, rest);
    return b;
}

template <typename T>
int run_tail(ser_queue *queue, const ser_pos_conv_args *args, const ser_tensor &dz)
{
    const tail_call<T> call = {
        .dy = static_cast<const T *>(args->dy.data),
        .z = static_cast<const T *>(args->z.data),
        .dz = static_cast<T *>(dz.data),
        .valid = args->rows.valid,
        .rows = dz.rows,
        .padded = static_cast<int>(args->rows.padded),
        .channels = static_cast<int>(dz.cols),
    };
    return ser_launch(queue, ser_pack_shape(queue, dz.rows * dz.cols), tail_gradient<T>, call);
}

template <typename T>
int run_data(ser_queue *queue, const ser_pos_conv_args *args, const backward_plan &b,
             const ser_tensor &dz)
{
    const conv_size size = size_of(args, dz);
    char *scratch = static_cast<char *>(queue->scratch);
    T *w = reinterpret_cast<T *>(scratch + b.w);
    conv_call<T> call = call_of<T>(size, b.conv, scratch + b.rest);
    call.x = static_cast<const T *>(dz.data);
    call.w = w;
    call.dy = static_cast<const T *>(args->dy.data);
    call.y = static_cast<T *>(args->dx.data);
    call.valid = args->rows.valid;
    call.before = args->kernel - 1 - args->kernel / 2;
    const ser_shape shape = {
        .grid = dim3(static_cast<unsigned>(size.kernel), static_cast<unsigned>(size.groups)),
        .threads = WARP * REVERSE_ROWS,
        .shared = 0};
    const T *from = static_cast<const T *>(cuda_weight_data(args->w, size.type));
    const int status =
        ser_launch(queue, shape, reverse_weights<T>, from, call.width, call.kernel, w);
    return status != 0 ? status : launch_conv<GRADIENT>(queue, size, b.conv, call);
}

template <typename T>
int run_weight(ser_queue *queue, const ser_pos_conv_args *args, const backward_plan &b,
               const ser_tensor &dz)
{
    const conv_size size = size_of(args, dz);
    char *scratch = static_cast<char *>(queue->scratch);
    weight_call<T> call = weight_call_of<T>(size, b.weight, scratch + b.rest);
    call.x = static_cast<const T *>(args->x.data);
    call.dz = static_cast<const T *>(dz.data);
    call.dw = static_cast<float *>(args->dw.data);
    call.valid = args->rows.valid;
    return launch_weight(queue, size, b.weight, call);
}

template <typename T> int backward(ser_queue *queue, const ser_pos_conv_args *args)
{
    const backward_plan b = plan_backward(queue, args);
    char *scratch = static_cast<char *>(queue->scratch);
    ser_tensor dz = args->dy;
    dz.data = scratch + b.dz;
    int status = run_tail<T>(queue, args, dz);
    if (status == 0 && args->dbias.data != nullptr) {
        status = ser_cuda_column_sums(queue, &dz, &args->rows,
                                      static_cast<float *>(args->dbias.data), scratch + b.rest);
    }
    if (status == 0 && args->dw.data != nullptr) {
        status = run_weight<T>(queue, args, b, dz);
    }
    if (status == 0 && args->dx.data != nullptr) {
        status = run_data<T>(queue, args, b, dz);
    }
    return status;
}

} // namespace

size_t ser_cuda_pos_conv_bwd_scratch(const ser_queue *queue, const ser_pos_conv_args *args)
{
    return plan_backward(queue, args).size;
}

int ser_cuda_pos_conv_bwd(ser_queue *queue, const ser_pos_conv_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return args->dy.type == SER_BF16 ? backward<bf16>(queue, args) : backward<float>(queue, args);
}
