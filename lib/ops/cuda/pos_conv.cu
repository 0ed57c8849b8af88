/* SPDX-License-Identifier: MIT */
/*
 * y = x + GELU(conv(x) + bias), grouped over channels, stride 1.
 *
 * A block has one clip, one group and a tile of frames. The group's channels of the tile's frames
 * and of those that its taps reach lie in shared memory as a slice, zeros where the clip has no
 * valid frame, so every tap is a product of the slice, `tap` rows further down, with that tap's
 * weights.
 *
 * bf16, groups of 8, 16 .. 64 channels: tensor cores; the weights stream through two stages. Where
 * that leaves the card idle, several blocks share the taps and another kernel adds up their parts.
 * Everything else (f32, other widths, very long kernels): portable loops.
 *
 * The data gradient is the same sum with `before` = kernel - 1 - kernel / 2 and transposed weights
 * in reverse order.
 */
#include "ops/cuda/pos_conv.cuh"
#include "ops/cuda/pos_conv_tensor.cuh"

namespace
{

/* --- Portable --- */

/*
 * A block has 128 frames and 16 outputs (block.z of the group's), a thread every eighth frame of
 * its warp's 32 and every fourth output. Parts of the slice and of the weights, a few taps and
 * inputs of them, are in shared memory at a time, inputs next to each other; the pitches put the
 * rows that a warp reads at once in different banks.
 */
constexpr int FRAMES = WARPS * WARP;
constexpr int OUTPUTS = 16;
constexpr int TAPS = 8;
constexpr int MOST_INPUTS = 32;
constexpr int EACH = 4; /* frames, outputs and neighbouring inputs of a thread */

struct portable_layout {
    int inputs;       /* in a part; a multiple of eight */
    int pitch;        /* of the slice */
    int weight_pitch; /* [OUTPUTS, weight_pitch]: tap, input */
};

__host__ __device__ __forceinline__ portable_layout portable_layout_of(int width)
{
    const int parts = (width + MOST_INPUTS - 1) / MOST_INPUTS;
    const int inputs = ((width + parts - 1) / parts + 7) / 8 * 8;
    return {.inputs = inputs, .pitch = inputs + EACH, .weight_pitch = TAPS * inputs + EACH};
}

struct portable_part {
    int tap, taps; /* the first one and how many */
    int input;     /* the first one */
};

/* Zeros where there is no frame, input or output. */
template <typename T>
__device__ __forceinline__ void load_part(const conv_call<T> &call, const tile &t,
                                          const portable_part &part, float *slice, float *weights)
{
    const portable_layout l = portable_layout_of(call.width);
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int input = part.input + lane;
    const int frame = t.first - call.before + part.tap;
    const int output = static_cast<int>(blockIdx.z) * OUTPUTS;
    const int64_t group = blockIdx.y;
    const T *x = call.x + int64_t{t.clip} * call.padded * call.channels + group * call.width;
    const T *w = call.w + group * call.width * call.kernel * call.width;
    if (lane >= l.inputs) {
        return;
    }
#pragma unroll 4
    for (int i = warp; i < FRAMES + part.taps - 1; i += WARPS) {
        const bool there = frame + i >= 0 && frame + i < t.valid && input < call.width;
        slice[i * l.pitch + lane] =
            there ? to_float(x[int64_t{frame + i} * call.channels + input]) : 0.0f;
    }
#pragma unroll 4
    for (int i = warp; i < OUTPUTS * part.taps; i += WARPS) {
        const int o = i % OUTPUTS;
        const int k = i / OUTPUTS;
        const bool there = output + o < call.width && input < call.width;
        const int64_t row = int64_t{output + o} * call.kernel + part.tap + k;
        weights[o * l.weight_pitch + k * l.inputs + lane] =
            there ? to_float(w[row * call.width + input]) : 0.0f;
    }
}

/* slice, weights: this thread's first rows. */
__device__ __forceinline__ void run_part(const portable_layout &l, int taps, const float *slice,
                                         const float *weights, float (&sums)[EACH][EACH])
{
    for (int k = 0; k < taps; k++) {
        for (int input = 0; input < l.inputs; input += EACH) {
            float x[EACH][EACH];
            float w[EACH][EACH];
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                load(slice + (8 * i + k) * l.pitch + input, x[i]);
                load(weights + EACH * i * l.weight_pitch + k * l.inputs + input, w[i]);
            }
#pragma unroll
            for (int i = 0; i < EACH * EACH * EACH; i++) {
                sums[i / EACH % EACH][i % EACH] +=
                    x[i / EACH % EACH][i / EACH / EACH] * w[i % EACH][i / EACH / EACH];
            }
        }
    }
}

/* One result and what belongs to it. */
template <typename T>
__device__ __forceinline__ void store_one(const conv_call<T> &call, int64_t at, float sum,
                                          float bias, bool there)
{
    const float z = sum + bias;
    call.y[at] = from_float<T>(there ? to_float(call.x[at]) + gelu(z) : 0.0f);
    if (call.z != nullptr) {
        call.z[at] = from_float<T>(there ? z : 0.0f);
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS) pos_conv_portable(const conv_call<T> call)
{
    SER_SHARED(float, slice); /* [FRAMES + TAPS - 1, pitch], then the weights */
    const portable_layout l = portable_layout_of(call.width);
    float *weights = slice + (FRAMES + TAPS - 1) * l.pitch;
    const tile t = tile_of(call, FRAMES);
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    const int row = static_cast<int>(threadIdx.x) / WARP * WARP + lane % 8;
    const bool busy = row - lane % 8 < t.count; /* the warp */
    const span taps = t.count > 0 ? taps_of(call, t.first, t.count, t.valid) : span{};
    float sums[EACH][EACH] = {};
    for (int tap = taps.begin; tap < taps.end; tap += TAPS) {
        for (int input = 0; input < call.width; input += l.inputs) {
            const portable_part part = {
                .tap = tap, .taps = min(TAPS, taps.end - tap), .input = input};
            load_part(call, t, part, slice, weights);
            __syncthreads();
            if (busy) {
                run_part(l, part.taps, slice + row * l.pitch, weights + lane / 8 * l.weight_pitch,
                         sums);
            }
            __syncthreads();
        }
    }
    const int first = static_cast<int>(blockIdx.z) * OUTPUTS + lane / 8;
#pragma unroll
    for (int n = 0; n < EACH; n++) {
        const int output = first + EACH * n;
#pragma unroll
        for (int m = 0; m < EACH; m++) {
            const int frame = t.first + row + 8 * m;
            if (output < call.width && frame < call.padded) {
                const int64_t channel = int64_t{blockIdx.y} * call.width + output;
                const int64_t at =
                    (int64_t{t.clip} * call.padded + frame) * call.channels + channel;
                store_one(call, at, sums[m][n], call.bias[channel], frame < t.valid);
            }
        }
    }
}

/* --- Choice --- */

using tensor_kernel = void (*)(conv_call<bf16>);

struct plan {
    tensor_kernel kernel; /* NULL: portable */
    int64_t tiles;        /* per clip */
    int64_t splits;
    size_t shared;
    int64_t cost;
    int64_t stages; /* that have all their taps */
};

/* Make this tile the plan if it fits and is cheaper: smaller ones waste fewer frames, but read all
 * weights and their fragments more often. */
template <int WIDTH, int BLOCKS>
void consider(const ser_queue *queue, const ser_pos_conv_args *args, plan *best)
{
    using L = layout<WIDTH, BLOCKS>;
    constexpr int64_t PER_FRAME = BLOCKS == 4 ? 8 : BLOCKS == 2 ? 9 : 12;
    const int64_t tiles = cuda_ceil_div(args->rows.padded, L::ROWS);
    const plan p = {
        .kernel = pos_conv_tensor<WIDTH, BLOCKS>,
        .tiles = tiles,
        .splits = 1,
        .shared = L::shared(args->kernel),
        .cost = tiles * L::ROWS * PER_FRAME,
        .stages = args->kernel / L::SLOTS,
    };
    if (p.shared <= queue->context->shared_limit &&
        (best->kernel == nullptr || p.cost < best->cost)) {
        *best = p;
    }
}

template <int WIDTH> plan choose(const ser_queue *queue, const ser_pos_conv_args *args)
{
    plan best = {};
    consider<WIDTH, 4>(queue, args, &best);
    consider<WIDTH, 2>(queue, args, &best);
    consider<WIDTH, 1>(queue, args, &best);
    return best;
}

/* Shares of the taps: as many as give every multiprocessor two blocks, but the parts must be worth
 * their way through memory. */
int64_t splits_of(const ser_queue *queue, const ser_pos_conv_args *args, const plan &p)
{
    constexpr int64_t MOST = 8;
    constexpr int64_t LEAST_STAGES = 4;
    const int64_t blocks = args->rows.batch * p.tiles * args->groups;
    int64_t splits = 2 * int64_t{queue->context->multiprocessors} / blocks;
    splits = splits < p.stages / LEAST_STAGES ? splits : p.stages / LEAST_STAGES;
    splits = splits < MOST ? splits : MOST;
    return splits > 1 ? splits : 1;
}

plan plan_of(const ser_queue *queue, const ser_pos_conv_args *args)
{
    const int64_t width = args->x.cols / args->groups;
    plan p = {};
    if (args->x.type == SER_BF16 && width % 8 == 0 && width <= 64) {
        p = width <= 16   ? choose<16>(queue, args)
            : width <= 32 ? choose<32>(queue, args)
            : width <= 48 ? choose<48>(queue, args)
                          : choose<64>(queue, args);
    }
    if (p.kernel != nullptr) {
        p.splits = splits_of(queue, args, p);
        return p;
    }
    const portable_layout l = portable_layout_of(static_cast<int>(width));
    p.tiles = cuda_ceil_div(args->rows.padded, FRAMES);
    p.splits = 1;
    p.shared = static_cast<size_t>((FRAMES + TAPS - 1) * l.pitch + OUTPUTS * l.weight_pitch) *
               sizeof(float);
    return p;
}

template <typename T>
conv_call<T> call_of(const ser_queue *queue, const ser_pos_conv_args *args, const plan &p)
{
    return {
        .x = static_cast<const T *>(args->x.data),
        .w = static_cast<const T *>(cuda_weight_data(args->w, args->x.type)),
        .bias = static_cast<const float *>(args->bias.data),
        .y = static_cast<T *>(args->y.data),
        .z = static_cast<T *>(args->z.data),
        .parts = p.splits > 1 ? static_cast<float *>(queue->scratch) : nullptr,
        .valid = args->rows.valid,
        .rows = args->rows.batch * args->rows.padded,
        .padded = static_cast<int>(args->rows.padded),
        .channels = static_cast<int>(args->x.cols),
        .width = static_cast<int>(args->x.cols / args->groups),
        .kernel = args->kernel,
        .before = args->kernel / 2,
        .tiles = static_cast<int>(p.tiles),
        .splits = static_cast<int>(p.splits),
    };
}

int launch_tensor(ser_queue *queue, const ser_shape &shape, const plan &p,
                  const conv_call<bf16> &call)
{
    const int status = ser_launch(queue, shape, p.kernel, call);
    if (status != 0 || call.parts == nullptr) {
        return status;
    }
    const ser_shape adding = {.grid = ser_grid(call.rows * call.channels, PACK * PACK_THREADS),
                              .threads = PACK_THREADS,
                              .shared = 0};
    return ser_launch(queue, adding, add_parts, call);
}

} // namespace

size_t ser_cuda_pos_conv_scratch(const ser_queue *queue, const ser_pos_conv_args *args)
{
    const plan p = plan_of(queue, args);
    const int64_t values = args->rows.batch * args->rows.padded * args->x.cols;
    return p.splits > 1 ? static_cast<size_t>(p.splits * values) * sizeof(float) : 0;
}

int ser_cuda_pos_conv_fwd(ser_queue *queue, const ser_pos_conv_args *args)
{
    const plan p = plan_of(queue, args);
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    ser_shape shape = {.grid = ser_grid(args->rows.batch * p.tiles * p.splits, 1),
                       .threads = THREADS,
                       .shared = p.shared};
    shape.grid.y = static_cast<unsigned>(args->groups);
    if (p.kernel != nullptr) {
        return launch_tensor(queue, shape, p, call_of<bf16>(queue, args, p));
    }
    shape.grid.z = static_cast<unsigned>(cuda_ceil_div(args->x.cols / args->groups, OUTPUTS));
    return args->x.type == SER_BF16
               ? ser_launch(queue, shape, pos_conv_portable<bf16>, call_of<bf16>(queue, args, p))
               : ser_launch(queue, shape, pos_conv_portable<float>, call_of<float>(queue, args, p));
}
