/* SPDX-License-Identifier: MIT */
/*
 * Gradients of layer 0 of wav2vec 2.0 (formulas: wave_gradient.cuh). There is no dx: nothing below
 * is trained. z and dy are read once, with the norm LAYER twice.
 */
#include "ops/cuda/wave_backward.cuh"
#include "ops/cuda/wave_sums.cuh"

namespace
{

/* Offsets into the scratch. */
struct backward_plan {
    int64_t pitch, chunks;
    int32_t pass_rows;
    size_t moments, affine, centres, common, sums, clips, size;
};

backward_plan plan_of(const ser_wave_conv_args *args)
{
    backward_plan p = {};
    const int64_t batch = args->rows_out.batch;
    const int64_t by_clip = args->norm == SER_CONV_NORM_CLIP ? batch : 0;
    const int64_t by_frame = args->norm == SER_CONV_NORM_LAYER ? batch * args->rows_out.padded : 0;
    p.pitch = cuda_ceil_div(args->w.rows, 4) * 4;
    p.chunks = cuda_ceil_div(args->rows_out.padded, GRADIENT_FRAMES);
    p.pass_rows = args->kernel + (by_frame > 0 ? PASS_EXTRA<SER_CONV_NORM_LAYER> : 1);
    const int64_t sums = batch * p.chunks * p.pass_rows * p.pitch;
    const int64_t clips = batch * (args->kernel + SUM_EXTRA) * p.pitch;
    p.moments = cuda_carve(&p.size, by_clip > 0 ? ser_wave_moments_size(args) : 0);
    p.affine = cuda_carve(&p.size, static_cast<size_t>(by_clip * 2 * p.pitch) * sizeof(float));
    p.centres = cuda_carve(&p.size, static_cast<size_t>(by_clip) * sizeof(float));
    p.common = cuda_carve(&p.size, static_cast<size_t>(by_frame) * sizeof(float4));
    p.sums = cuda_carve(&p.size, static_cast<size_t>(sums) * sizeof(float));
    p.clips = cuda_carve(&p.size, static_cast<size_t>(clips) * sizeof(double));
    return p;
}

wave_moments moments_of(ser_queue *queue, const ser_wave_conv_args *args, const backward_plan &plan)
{
    return ser_wave_moments_of(args, ser_wave_scratch<double>(queue, plan.moments));
}

/* CLIP: what takes z to u. */
int find_affine(ser_queue *queue, const ser_wave_conv_args *args, const backward_plan &plan)
{
    const wave_affine a = {
        .moments = moments_of(queue, args, plan),
        .w = ser_wave_values(args->w),
        .bias = ser_wave_values(args->bias),
        .gamma = ser_wave_values(args->gamma),
        .beta = ser_wave_values(args->beta),
        .channels = args->w.rows,
        .pitch = plan.pitch,
        .affine = ser_wave_scratch<float>(queue, plan.affine),
        .centres = ser_wave_scratch<float>(queue, plan.centres),
    };
    const int status = ser_wave_sum_moments(queue, a.moments);
    if (status != 0) {
        return status;
    }
    const dim3 grid(static_cast<unsigned>(a.moments.batch),
                    static_cast<unsigned>(cuda_ceil_div(a.channels, AFFINE_THREADS)));
    return ser_launch(queue, {grid, AFFINE_THREADS, ser_wave_moments_shared(args->kernel)},
                      wave_find_affine, a);
}

/* LAYER: what the channels of a frame have in common. */
template <typename T, int V>
int find_common(ser_queue *queue, const ser_wave_conv_args *args, const backward_plan &plan)
{
    const wave_common<T> a = {
        .z = static_cast<const T *>(args->z.data),
        .dy = static_cast<const T *>(args->dy.data),
        .valid = args->rows_out.valid,
        .batch = args->rows_out.batch,
        .padded = args->rows_out.padded,
        .channels = static_cast<int32_t>(args->w.rows),
        .gamma = ser_wave_values(args->gamma),
        .beta = ser_wave_values(args->beta),
        .common = ser_wave_scratch<float4>(queue, plan.common),
    };
    return ser_launch(queue, {ser_grid(a.batch * a.padded, COMMON_WARPS), COMMON_THREADS, 0},
                      wave_find_common<T, V>, a);
}

template <typename T, int NORM, int V>
int sum_gradients(ser_queue *queue, const ser_wave_conv_args *args, const backward_plan &plan)
{
    const bool by_clip = NORM == SER_CONV_NORM_CLIP;
    const float *affine = ser_wave_scratch<float>(queue, plan.affine);
    const wave_gradient<T> a = {
        .pcm = ser_wave_values(args->pcm),
        .padded_in = args->rows_in.padded,
        .valid = args->rows_out.valid,
        .padded = args->rows_out.padded,
        .chunks = plan.chunks,
        .kernel = args->kernel,
        .stride = args->stride,
        .tiles = static_cast<int32_t>(cuda_ceil_div(args->kernel, GRADIENT_TAPS)),
        .centres = ser_wave_scratch<float>(queue, plan.centres),
        .scale = by_clip ? affine : ser_wave_values(args->gamma),
        .shift = by_clip ? affine + plan.pitch : ser_wave_values(args->beta),
        .affine_size = by_clip ? 2 * plan.pitch : 0,
        .common = ser_wave_scratch<float4>(queue, plan.common),
        .channels = args->w.rows,
        .pitch = plan.pitch,
        .z = static_cast<const T *>(args->z.data),
        .dy = static_cast<const T *>(args->dy.data),
        .sums = ser_wave_scratch<float>(queue, plan.sums),
    };
    const int64_t across = cuda_ceil_div(a.channels, WARP * V) * a.tiles;
    const dim3 grid(static_cast<unsigned>(args->rows_out.batch * a.chunks),
                    static_cast<unsigned>(across));
    return ser_launch(queue, {grid, GRADIENT_THREADS, gradient_shared<NORM>()},
                      wave_sum_gradients<T, NORM, V>, a);
}

/* What the norm needs before the pass, then the pass. */
template <typename T, int V>
int run_pass(ser_queue *queue, const ser_wave_conv_args *args, const backward_plan &plan)
{
    int status = 0;
    switch (args->norm) {
    case SER_CONV_NORM_CLIP:
        status = find_affine(queue, args, plan);
        return status != 0 ? status : sum_gradients<T, SER_CONV_NORM_CLIP, V>(queue, args, plan);
    case SER_CONV_NORM_LAYER:
        status = find_common<T, V>(queue, args, plan);
        return status != 0 ? status : sum_gradients<T, SER_CONV_NORM_LAYER, V>(queue, args, plan);
    default: return sum_gradients<T, SER_CONV_NORM_NONE, V>(queue, args, plan);
    }
}

bool is_aligned(const ser_tensor &x)
{
    return reinterpret_cast<uintptr_t>(x.data) % 16 == 0; /* absent ones are */
}

/* Four channels per thread where every row of every array allows it. */
template <typename T>
int choose(ser_queue *queue, const ser_wave_conv_args *args, const backward_plan &plan)
{
    const bool aligned = args->w.rows % 4 == 0 && is_aligned(args->z) && is_aligned(args->dy) &&
                         is_aligned(args->gamma) && is_aligned(args->beta);
    return aligned ? run_pass<T, 4>(queue, args, plan) : run_pass<T, 1>(queue, args, plan);
}

int add_sums(ser_queue *queue, const ser_wave_conv_args *args, const backward_plan &plan)
{
    const bool by_clip = args->norm == SER_CONV_NORM_CLIP;
    const wave_sums sums = {
        .moments = moments_of(queue, args, plan),
        .by_clip = by_clip,
        .chunks = plan.chunks,
        .pass_rows = plan.pass_rows,
        .w = ser_wave_values(args->w),
        .gamma = ser_wave_values(args->gamma),
        .channels = args->w.rows,
        .pitch = plan.pitch,
        .sums = ser_wave_scratch<float>(queue, plan.sums),
        .clips = ser_wave_scratch<double>(queue, plan.clips),
    };
    const dim3 grid(static_cast<unsigned>(sums.moments.batch),
                    static_cast<unsigned>(cuda_ceil_div(sums.channels, WARP)));
    const size_t shared = by_clip ? ser_wave_sums_shared(args->kernel) : 0;
    const int status = ser_launch(queue, {grid, SUM_THREADS, shared}, wave_sum_chunks, sums);
    if (status != 0) {
        return status;
    }
    const wave_totals totals = {
        .clips = sums.clips,
        .valid = sums.moments.valid,
        .batch = sums.moments.batch,
        .channels = sums.channels,
        .pitch = plan.pitch,
        .kernel = args->kernel,
        .dw = static_cast<float *>(args->dw.data),
        .dbias = by_clip ? nullptr : static_cast<float *>(args->dbias.data),
        .dgamma = static_cast<float *>(args->dgamma.data),
        .dbeta = static_cast<float *>(args->dbeta.data),
    };
    return ser_launch(
        queue, {ser_grid((args->kernel + SUM_EXTRA) * plan.pitch, SUM_THREADS), SUM_THREADS, 0},
        wave_add_clips, totals);
}

} // namespace

size_t ser_wave_backward_scratch(const ser_wave_conv_args *args)
{
    return args->dy.rows > 0 ? plan_of(args).size : 0;
}

int ser_cuda_wave_conv_bwd(ser_queue *queue, const ser_wave_conv_args *args)
{
    const backward_plan plan = plan_of(args);
    const bool shifts = args->norm != SER_CONV_NORM_CLIP && args->dbias.data != nullptr;
    int status = ser_cuda_enter(queue->context);
    if (status != 0 || (args->dw.data == nullptr && !shifts && args->dgamma.data == nullptr &&
                        args->dbeta.data == nullptr)) {
        return status;
    }
    status = args->dy.type == SER_BF16 ? choose<bf16>(queue, args, plan)
                                       : choose<float>(queue, args, plan);
    return status != 0 ? status : add_sums(queue, args, plan);
}
