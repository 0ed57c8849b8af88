/* SPDX-License-Identifier: MIT */
/*
 * w[o, k, i] = g[k] v[o, i, k] / |v[:, :, k]| (Salimans & Kingma 2016, one length per tap).
 *
 * First the squares are summed per chunk of v's rows, then every block adds up the chunks of its
 * taps again: cheaper than a pass of its own. The order of the sums depends on the shape alone.
 *
 * Backward, with n[k] = |v[:, :, k]| and d[k] = sum over o and i of dw[o, k, i] v[o, i, k]:
 *   dg[k] += d / n;  dv[o, i, k] += g / n (dw[o, k, i] - v[o, i, k] d / n^2)
 */
#include "ops/cuda/launch.cuh"

namespace
{

constexpr int TAPS = 32; /* per block, one per lane */
constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP;
constexpr int CHUNK = 512;  /* rows of v, (output channel, input), per partial sum */
constexpr int CHANNELS = 8; /* output channels that a block scales */
constexpr int PITCH = WARP + 1;

struct norm_call {
    const float *g; /* [kernel] */
    const float *v; /* [channels, width, kernel] */
    float *w;       /* [channels, kernel, width] */
    bf16 *rounded;  /* as w, or NULL */
    double *sums;   /* [kernel, chunks] */
    int channels, width, kernel, chunks;
};

/* sums[k, chunk] = sum over the chunk's rows of v^2. Grid: chunks, blocks of taps. */
__global__ void __launch_bounds__(THREADS) sum_chunk(const norm_call call)
{
    __shared__ double shared[WARPS][TAPS];
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int chunk = static_cast<int>(blockIdx.x);
    const int k = static_cast<int>(blockIdx.y) * TAPS + lane;
    const int rows = call.channels * call.width;
    const int end = (chunk + 1) * CHUNK < rows ? (chunk + 1) * CHUNK : rows;
    double sum = 0.0;
    if (k < call.kernel) {
#pragma unroll 8
        for (int row = chunk * CHUNK + warp; row < end; row += WARPS) {
            const double v = static_cast<double>(call.v[int64_t{row} * call.kernel + k]);
            sum += v * v;
        }
    }
    shared[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && k < call.kernel) {
        for (int i = 1; i < WARPS; i++) {
            sum += shared[i][lane];
        }
        call.sums[int64_t{k} * call.chunks + chunk] = sum;
    }
}

/* factors[k - first] = g[k] / |v[:, :, k]| of the block's taps, a warp per tap. */
__device__ __forceinline__ void find_factors(const norm_call &call, int first, float *factors)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    for (int tap = warp; tap < TAPS && first + tap < call.kernel; tap += WARPS) {
        const double *sums = call.sums + int64_t{first + tap} * call.chunks;
        double square = 0.0;
        for (int chunk = lane; chunk < call.chunks; chunk += WARP) {
            square += sums[chunk];
        }
        square = warp_sum(square);
        if (lane == 0) {
            const double g = static_cast<double>(call.g[first + tap]);
            factors[tap] = static_cast<float>(g / sqrt(square));
        }
    }
}

/* One output channel's taps from `first` on; inputs and taps change places in `tile`. */
__device__ __forceinline__ void scale_channel(const norm_call &call, int channel, int first,
                                              const float *factors, float (*tile)[PITCH])
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int64_t at = int64_t{channel} * call.width * call.kernel;
    for (int input = 0; input < call.width; input += WARP) {
        for (int i = warp; i < WARP && input + i < call.width; i += WARPS) {
            if (first + lane < call.kernel) {
                tile[i][lane] = call.v[at + int64_t{input + i} * call.kernel + first + lane];
            }
        }
        __syncthreads();
        for (int k = warp; k < TAPS && first + k < call.kernel; k += WARPS) {
            if (input + lane < call.width) {
                const int64_t to = at + int64_t{first + k} * call.width + input + lane;
                const float w = factors[k] * tile[lane][k];
                call.w[to] = w;
                if (call.rounded != nullptr) {
                    call.rounded[to] = from_float<bf16>(w);
                }
            }
        }
        __syncthreads();
    }
}

/* Grid: blocks of channels, blocks of taps. */
__global__ void __launch_bounds__(THREADS) scale(const norm_call call)
{
    __shared__ float factors[TAPS];
    __shared__ float tile[WARP][PITCH];
    const int first = static_cast<int>(blockIdx.y) * TAPS;
    const int channel = static_cast<int>(blockIdx.x) * CHANNELS;
    find_factors(call, first, factors); /* a barrier comes before their use */
    for (int o = channel; o < channel + CHANNELS && o < call.channels; o++) {
        scale_channel(call, o, first, factors, tile);
    }
}

/* --- Backward --- */

struct gradient_call {
    const float *g, *v; /* as above */
    const float *dw;    /* [channels, kernel, width] */
    float *dg, *dv;     /* as g and v, or NULL */
    double *sums;       /* [2, kernel, blocks of channels]: v^2, then dw v */
    int channels, width, kernel, blocks;
};

/* visit(place in v, its dw) for the block's taps from `first` on and output channels; a lane has
 * its tap. In `tile` inputs and taps of dw change places. */
template <typename F>
__device__ __forceinline__ void visit_values(const gradient_call &call, int first,
                                             float (*tile)[PITCH], const F &visit)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int channel = static_cast<int>(blockIdx.x) * CHANNELS;
    for (int o = channel; o < channel + CHANNELS && o < call.channels; o++) {
        const int64_t at = int64_t{o} * call.width * call.kernel;
        for (int input = 0; input < call.width; input += WARP) {
            for (int k = warp; k < TAPS && first + k < call.kernel; k += WARPS) {
                if (input + lane < call.width) {
                    tile[k][lane] = call.dw[at + int64_t{first + k} * call.width + input + lane];
                }
            }
            __syncthreads();
            for (int i = warp; i < WARP && input + i < call.width; i += WARPS) {
                if (first + lane < call.kernel) {
                    visit(at + int64_t{input + i} * call.kernel + first + lane, tile[lane][i]);
                }
            }
            __syncthreads();
        }
    }
}

/* The sums of a block of channels. Grid: blocks of channels, blocks of taps. */
__global__ void __launch_bounds__(THREADS) sum_channels(const gradient_call call)
{
    __shared__ float tile[TAPS][PITCH];
    __shared__ double shared[2][WARPS][TAPS];
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int k = static_cast<int>(blockIdx.y) * TAPS + lane;
    double square = 0.0;
    double dot = 0.0;
    visit_values(call, k - lane, tile, [&](int64_t at, float dw) {
        const double v = static_cast<double>(call.v[at]);
        square += v * v;
        dot += static_cast<double>(dw) * v;
    });
    shared[0][warp][lane] = square;
    shared[1][warp][lane] = dot;
    __syncthreads();
    if (warp < 2 && k < call.kernel) {
        double sum = 0.0;
        for (int i = 0; i < WARPS; i++) {
            sum += shared[warp][i][lane];
        }
        call.sums[(int64_t{warp} * call.kernel + k) * call.blocks + blockIdx.x] = sum;
    }
}

/* g / n and d / n^2 of a tap. */
struct gradient_factors {
    float scale, share;
};

/* Of the block's taps, a warp per tap; the first block adds to dg. */
__device__ __forceinline__ void find_gradient_factors(const gradient_call &call, int first,
                                                      gradient_factors *factors)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    for (int k = first + warp; k < first + TAPS && k < call.kernel; k += WARPS) {
        const double *squares = call.sums + int64_t{k} * call.blocks;
        const double *dots = squares + int64_t{call.kernel} * call.blocks;
        double square = 0.0;
        double dot = 0.0;
        for (int block = lane; block < call.blocks; block += WARP) {
            square += squares[block];
            dot += dots[block];
        }
        square = warp_sum(square);
        dot = warp_sum(dot);
        if (lane == 0) {
            const double length = sqrt(square);
            factors[k - first] = {.scale =
                                      static_cast<float>(static_cast<double>(call.g[k]) / length),
                                  .share = static_cast<float>(dot / square)};
            if (call.dg != nullptr && blockIdx.x == 0) {
                call.dg[k] += static_cast<float>(dot / length);
            }
        }
    }
}

/* Grid as sum_channels, or one block per block of taps where dv is not wanted. */
__global__ void __launch_bounds__(THREADS) add_gradients(const gradient_call call)
{
    __shared__ gradient_factors factors[TAPS];
    __shared__ float tile[TAPS][PITCH];
    const int first = static_cast<int>(blockIdx.y) * TAPS;
    find_gradient_factors(call, first, factors); /* a barrier comes before their use */
    if (call.dv == nullptr) {
        return;
    }
    visit_values(call, first, tile, [&](int64_t at, float dw) {
        const gradient_factors f = factors[threadIdx.x % WARP];
        call.dv[at] += f.scale * (dw - call.v[at] * f.share);
    });
}

/* --- Launches --- */

int64_t chunks_of(const ser_weight_norm_args *args)
{
    return cuda_ceil_div(args->v.rows * (args->v.cols / args->kernel), CHUNK);
}

ser_shape shape_of(int64_t blocks, int32_t kernel)
{
    return {.grid = dim3(static_cast<unsigned>(blocks),
                         static_cast<unsigned>(cuda_ceil_div(kernel, TAPS))),
            .threads = THREADS,
            .shared = 0};
}

} // namespace

/* Partial sums of a tap: forward has one kind of them, backward two. */
size_t ser_cuda_weight_norm_scratch(const ser_queue *queue, const ser_weight_norm_args *args)
{
    (void)queue;
    const int64_t forward = chunks_of(args);
    const int64_t backward = args->dw.rows > 0 ? 2 * cuda_ceil_div(args->v.rows, CHANNELS) : 0;
    return static_cast<size_t>((forward > backward ? forward : backward) * args->kernel) *
           sizeof(double);
}

int ser_cuda_weight_norm_fwd(ser_queue *queue, const ser_weight_norm_args *args)
{
    const int64_t chunks = chunks_of(args);
    const norm_call call = {
        .g = static_cast<const float *>(args->g.data),
        .v = static_cast<const float *>(args->v.data),
        .w = args->w->f32,
        .rounded = static_cast<bf16 *>(args->w->bf16),
        .sums = static_cast<double *>(queue->scratch),
        .channels = static_cast<int>(args->v.rows),
        .width = static_cast<int>(args->v.cols / args->kernel),
        .kernel = args->kernel,
        .chunks = static_cast<int>(chunks),
    };
    int status = ser_cuda_enter(queue->context);
    if (status == 0) {
        status = ser_launch(queue, shape_of(chunks, args->kernel), sum_chunk, call);
    }
    if (status == 0) {
        status = ser_launch(queue, shape_of(cuda_ceil_div(args->v.rows, CHANNELS), args->kernel),
                            scale, call);
    }
    return status;
}

int ser_cuda_weight_norm_bwd(ser_queue *queue, const ser_weight_norm_args *args)
{
    const int64_t blocks = cuda_ceil_div(args->v.rows, CHANNELS);
    const gradient_call call = {
        .g = static_cast<const float *>(args->g.data),
        .v = static_cast<const float *>(args->v.data),
        .dw = static_cast<const float *>(args->dw.data),
        .dg = static_cast<float *>(args->dg.data),
        .dv = static_cast<float *>(args->dv.data),
        .sums = static_cast<double *>(queue->scratch),
        .channels = static_cast<int>(args->v.rows),
        .width = static_cast<int>(args->v.cols / args->kernel),
        .kernel = args->kernel,
        .blocks = static_cast<int>(blocks),
    };
    int status = ser_cuda_enter(queue->context);
    if (status == 0) {
        status = ser_launch(queue, shape_of(blocks, args->kernel), sum_channels, call);
    }
    if (status == 0) {
        status = ser_launch(queue, shape_of(call.dv != nullptr ? blocks : 1, args->kernel),
                            add_gradients, call);
    }
    return status;
}
