/* SPDX-License-Identifier: MIT */
/*
 * Layer 0 of wav2vec 2.0: y = GELU(norm(conv(x) + bias)), one input channel. Both norms are known
 * before the first output is made (wave_norm.cuh), so y is written once and nothing is read back.
 */
#include "base/fail.h"
#include "ops/cuda/wave_backward.cuh"
#include "ops/cuda/wave_pass.cuh"

namespace
{

/* Offsets into the scratch. The shared bank is there with the norms LAYER and NONE and for z. */
struct wave_plan {
    int64_t pitch, bank_size;
    size_t sums, clip_banks, bank, spread, size;
};

wave_plan plan_of(const ser_wave_conv_args *args)
{
    wave_plan p = {};
    const int64_t kernel = args->kernel;
    const int64_t batch = args->rows_out.batch;
    const bool by_clip = args->norm == SER_CONV_NORM_CLIP;
    p.pitch = cuda_ceil_div(args->w.rows, 4) * 4;
    p.bank_size = (kernel + BANK_EXTRA) * p.pitch;
    const int64_t clip_banks = by_clip ? batch * p.bank_size : 0;
    const int64_t spread = args->norm == SER_CONV_NORM_LAYER ? (kernel + 1) * (kernel + 2) : 0;
    p.sums = cuda_carve(&p.size, by_clip ? ser_wave_moments_size(args) : 0);
    p.clip_banks = cuda_carve(&p.size, static_cast<size_t>(clip_banks) * sizeof(float));
    p.bank = cuda_carve(&p.size, static_cast<size_t>(p.bank_size) * sizeof(float));
    p.spread = cuda_carve(&p.size, static_cast<size_t>(spread) * sizeof(double));
    return p;
}

int fold_clips(ser_queue *queue, const ser_wave_conv_args *args, const wave_plan &plan)
{
    const wave_moments moments =
        ser_wave_moments_of(args, ser_wave_scratch<double>(queue, plan.sums));
    const int status = ser_wave_sum_moments(queue, moments);
    if (status != 0) {
        return status;
    }
    const wave_fold fold = {
        .moments = moments,
        .w = ser_wave_values(args->w),
        .gamma = ser_wave_values(args->gamma),
        .beta = ser_wave_values(args->beta),
        .channels = args->w.rows,
        .pitch = plan.pitch,
        .bank_size = plan.bank_size,
        .bank = ser_wave_scratch<float>(queue, plan.clip_banks),
    };
    const dim3 grid(static_cast<unsigned>(moments.batch),
                    static_cast<unsigned>(cuda_ceil_div(fold.channels, FOLD_THREADS)));
    return ser_launch_early(queue, {grid, FOLD_THREADS, ser_wave_moments_shared(args->kernel)},
                            wave_fold_clips, fold);
}

/* The bank that all clips share and, for LAYER, its spread. */
int make_bank(ser_queue *queue, const ser_wave_conv_args *args, const wave_plan &plan)
{
    const wave_bank bank = {
        .w = ser_wave_values(args->w),
        .bias = ser_wave_values(args->bias),
        .gamma = ser_wave_values(args->gamma),
        .beta = ser_wave_values(args->beta),
        .kernel = args->kernel,
        .channels = args->w.rows,
        .pitch = plan.pitch,
        .bank = ser_wave_scratch<float>(queue, plan.bank),
    };
    const int status = ser_launch_early(
        queue, {ser_grid(plan.bank_size, BANK_THREADS), BANK_THREADS, 0}, wave_make_bank, bank);
    if (status != 0 || args->norm != SER_CONV_NORM_LAYER) {
        return status;
    }
    const wave_spread spread = {
        .bank = bank.bank,
        .size = args->kernel + 1,
        .channels = bank.channels,
        .pitch = plan.pitch,
        .spread = ser_wave_scratch<double>(queue, plan.spread),
    };
    const int64_t items = int64_t{spread.size} * spread.size;
    return ser_launch_early(queue, {ser_grid(items, SPREAD_WARPS), SPREAD_THREADS, 0},
                            wave_find_spread, spread);
}

size_t shared_bytes(int64_t frames, int32_t kernel, int32_t stride)
{
    const int64_t samples = (frames - 1) * stride + kernel;
    return static_cast<size_t>(frames) * sizeof(float2) +
           static_cast<size_t>(samples) * sizeof(float);
}

template <typename T, int TAIL, int V> int launch(ser_queue *queue, int64_t batch, wave_pass<T> a)
{
    const int64_t packs = cuda_ceil_div(a.channels, V);
    int32_t frames = WAVE_BLOCK_FRAMES; /* fewer where strides are long */
    while (frames > WAVE_FRAMES && shared_bytes(frames, a.kernel, a.stride) > SHARED_BY_DEFAULT) {
        frames /= 2;
    }
    const size_t shared = shared_bytes(frames, a.kernel, a.stride);
    if (shared > queue->context->shared_limit) {
        return ser_fail(SER_ERR_UNSUPPORTED,
                        "a convolution on the waveform with kernel %d and stride %d is too long "
                        "for this device",
                        a.kernel, a.stride);
    }
    a.frames = frames;
    a.lanes = static_cast<int32_t>(packs < WAVE_LANES ? packs : WAVE_LANES);
    a.blocks = cuda_ceil_div(a.padded, frames);
    const int32_t groups = frames / WAVE_FRAMES < WAVE_GROUPS ? frames / WAVE_FRAMES : WAVE_GROUPS;
    const dim3 grid(static_cast<unsigned>(batch * a.blocks),
                    static_cast<unsigned>(cuda_ceil_div(packs, a.lanes)));
    return ser_launch_early(queue, {grid, static_cast<unsigned>(groups * a.lanes), shared},
                            wave_convolve<T, TAIL, V>, a);
}

/* 16 bytes a thread where rows of y are made of such. */
template <typename T, int TAIL>
int choose(ser_queue *queue, const ser_wave_conv_args *args, const wave_pass<T> &a)
{
    constexpr int V = 16 / static_cast<int>(sizeof(T));
    const int64_t batch = args->rows_out.batch;
    if (a.channels % V != 0 || reinterpret_cast<uintptr_t>(a.y) % 16 != 0) {
        return launch<T, TAIL, 1>(queue, batch, a);
    }
    return launch<T, TAIL, V>(queue, batch, a);
}

/* z or y of the whole batch; `to` says which. */
template <typename T>
int run_pass(ser_queue *queue, const ser_wave_conv_args *args, const wave_plan &plan,
             const ser_tensor &to, wave_tail last)
{
    const bool by_clip = last != WAVE_RAW && args->norm == SER_CONV_NORM_CLIP;
    const wave_pass<T> a = {
        .pcm = ser_wave_values(args->pcm),
        .padded_in = args->rows_in.padded,
        .valid = args->rows_out.valid,
        .padded = args->rows_out.padded,
        .blocks = 0,
        .kernel = args->kernel,
        .stride = args->stride,
        .bank = ser_wave_scratch<float>(queue, by_clip ? plan.clip_banks : plan.bank),
        .bank_size = by_clip ? plan.bank_size : 0,
        .pitch = plan.pitch,
        .spread = ser_wave_scratch<double>(queue, plan.spread),
        .frames = 0,
        .lanes = 0,
        .channels = args->w.rows,
        .y = static_cast<T *>(to.data),
    };
    switch (last) {
    case WAVE_RAW: return choose<T, WAVE_RAW>(queue, args, a);
    case WAVE_LAYER: return choose<T, WAVE_LAYER>(queue, args, a);
    default: return choose<T, WAVE_GELU>(queue, args, a);
    }
}

int run_pass(ser_queue *queue, const ser_wave_conv_args *args, const wave_plan &plan,
             const ser_tensor &to, wave_tail last)
{
    return to.type == SER_BF16 ? run_pass<bf16>(queue, args, plan, to, last)
                               : run_pass<float>(queue, args, plan, to, last);
}

} // namespace

size_t ser_cuda_wave_conv_scratch(const ser_queue *, const ser_wave_conv_args *args)
{
    const size_t forward = plan_of(args).size;
    const size_t backward = ser_wave_backward_scratch(args);
    return backward > forward ? backward : forward;
}

int ser_cuda_wave_conv_fwd(ser_queue *queue, const ser_wave_conv_args *args)
{
    const wave_plan plan = plan_of(args);
    const bool by_clip = args->norm == SER_CONV_NORM_CLIP;
    const bool saves = args->z.data != nullptr;
    int status = ser_cuda_enter(queue->context);
    if (status == 0 && (saves || !by_clip)) {
        status = make_bank(queue, args, plan);
    }
    if (status == 0 && by_clip) {
        status = fold_clips(queue, args, plan);
    }
    if (status == 0 && saves) {
        status = run_pass(queue, args, plan, args->z, WAVE_RAW);
    }
    if (status == 0) {
        status = run_pass(queue, args, plan, args->y,
                          args->norm == SER_CONV_NORM_LAYER ? WAVE_LAYER : WAVE_GELU);
    }
    return status;
}
