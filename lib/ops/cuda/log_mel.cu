/* SPDX-License-Identifier: MIT */
/*
 * PCM -> ln(mel power + floor), level-normalised: the windowed DFT of all frames, its power, the
 * mel triangles as a product, ln. Then x - mean[bin], minus the clip's mean of that, over std[bin].
 *
 * A shift in time leaves the power as it is, so the DFT is taken around the middle of the frame.
 * There the window and the cosines are even and the sines odd: with u = x[frame - j] + x[j] and
 * d = x[frame - j] - x[j], j = 1 .. frame / 2, the real part is a product with u and the imaginary
 * one with d, each half as long as the frame (the periodic window is 0 at sample 0).
 */
#include "ops/cuda/launch.cuh"
#include "ops/cuda/products.h"

namespace
{

constexpr int64_t CHUNK_BYTES = int64_t{64} << 20; /* of u, d and spectra at a time */

constexpr int ROWS = 4; /* of a block of the kernels that give a row to a warp */
constexpr int ROW_THREADS = ROWS * WARP;

/* The level is summed in parts of this many frames, so that it does not depend on padding. */
constexpr int PART_FRAMES = 64;
constexpr int PART_THREADS = 256;

/* Rows are frames of the whole batch, padding included; they are worked on `rows` at a time. In the
 * scratch they begin at multiples of 16 bytes. */
struct mel_plan {
    int64_t half, freqs;                       /* columns of u and d, of the spectra */
    int64_t half_pitch, freqs_pitch;           /* floats from one row to the next */
    int64_t rows, parts;                       /* parts: of a clip */
    size_t folded, spectra, cells, sums, size; /* offsets into the scratch */
};

mel_plan plan_of(const ser_queue *queue, const ser_log_mel_args *args)
{
    mel_plan p = {};
    p.half = args->dft->spec.cols;
    p.freqs = args->dft->spec.rows;
    p.half_pitch = cuda_ceil_div(p.half, 4) * 4;
    p.freqs_pitch = cuda_ceil_div(p.freqs, 4) * 4;
    const int64_t floats = 2 * (p.half_pitch + p.freqs_pitch);
    const int64_t total = args->y.rows;
    const int64_t chunks =
        cuda_ceil_div(total * floats * static_cast<int64_t>(sizeof(float)), CHUNK_BYTES);
    p.rows = cuda_ceil_div(total, chunks);
    p.parts = cuda_ceil_div(args->rows_out.padded, PART_FRAMES);
    const int64_t cells = args->y.type == SER_F32 ? 0 : total * args->y.cols;
    p.size = ser_products_scratch(queue);
    p.folded = cuda_carve(&p.size, static_cast<size_t>(2 * p.rows * p.half_pitch) * sizeof(float));
    p.spectra =
        cuda_carve(&p.size, static_cast<size_t>(2 * p.rows * p.freqs_pitch) * sizeof(float));
    p.cells = cuda_carve(&p.size, static_cast<size_t>(cells) * sizeof(float));
    p.sums =
        cuda_carve(&p.size, static_cast<size_t>(args->rows_out.batch * p.parts) * sizeof(double));
    return p;
}

/* --- From samples to power --- */

struct fold {
    const float *pcm; /* [batch * padded_in] */
    int64_t padded_in;
    const int32_t *valid; /* [batch] frames */
    int64_t padded;       /* frames */
    int64_t first, rows;  /* of the batch's rows */
    int32_t frame, hop;
    int64_t pitch;
    float *u, *d; /* [rows, frame / 2] */
};

/* A warp for each row; padding becomes zeros. */
__global__ void __launch_bounds__(ROW_THREADS) fold_frames(const fold a)
{
    const int64_t row = int64_t{blockIdx.x} * ROWS + threadIdx.x / WARP;
    if (row >= a.rows) {
        return;
    }
    const int64_t clip = (a.first + row) / a.padded;
    const int64_t t = (a.first + row) % a.padded;
    const bool valid = t < a.valid[clip];
    const int32_t half = a.frame / 2;
    const float *x = a.pcm + clip * a.padded_in + t * a.hop;
    float *u = a.u + row * a.pitch - 1;
    float *d = a.d + row * a.pitch - 1;
    for (int32_t j = 1 + static_cast<int32_t>(threadIdx.x % WARP); j <= half; j += WARP) {
        const float late = valid ? x[a.frame - j] : 0.0f;
        const float early = valid ? x[j] : 0.0f;
        u[j] = 2 * j == a.frame ? early : late + early; /* the middle is its own partner */
        d[j] = late - early;
    }
}

struct spectra {
    float *re; /* [rows, freqs]; becomes the power */
    const float *im;
    int64_t rows, freqs, pitch;
};

/* A warp for each row. */
__global__ void __launch_bounds__(ROW_THREADS) find_power(const spectra a)
{
    const int64_t row = int64_t{blockIdx.x} * ROWS + threadIdx.x / WARP;
    if (row >= a.rows) {
        return;
    }
    for (int64_t f = threadIdx.x % WARP; f < a.freqs; f += WARP) {
        const int64_t at = row * a.pitch + f;
        a.re[at] = a.re[at] * a.re[at] + a.im[at] * a.im[at];
    }
}

/* --- From mel power to y --- */

template <typename T> struct level {
    float *cells;         /* [batch * padded, bins]; may be y */
    const int32_t *valid; /* [batch] frames */
    int64_t padded;       /* frames */
    int64_t parts;        /* of a clip */
    int32_t bins;
    float floor;
    const float *mean, *std; /* [bins] */
    double *sums;            /* [batch, parts]; parts without a valid frame undefined */
    T *y;                    /* [batch * padded, bins] */
};

/* Of `left` frames, those of one part. */
__device__ __forceinline__ int32_t part_frames(int64_t left)
{
    return static_cast<int32_t>(left < 0 ? 0 : left < PART_FRAMES ? left : PART_FRAMES);
}

/* cell = ln(cell + floor) - mean and the sum of those; block (clip and part). */
template <typename T> __global__ void __launch_bounds__(PART_THREADS) take_logs(const level<T> a)
{
    __shared__ double shared[WARP];
    const int32_t thread = static_cast<int32_t>(threadIdx.x);
    const int64_t clip = blockIdx.x / a.parts;
    const int64_t first = blockIdx.x % a.parts * PART_FRAMES;
    const int32_t count = part_frames(a.valid[clip] - first) * a.bins;
    if (count == 0) {
        return;
    }
    float *cells = a.cells + (clip * a.padded + first) * a.bins;
    double sum = 0.0;
    for (int32_t i = thread; i < count; i += PART_THREADS) {
        const float cell = logf(cells[i] + a.floor) - a.mean[i % a.bins];
        cells[i] = cell;
        sum += static_cast<double>(cell);
    }
    sum = block_sum(sum, shared);
    if (thread == 0) {
        a.sums[blockIdx.x] = sum;
    }
}

/* y = (cell - level) / std, zeros in padding; the same blocks. */
template <typename T> __global__ void __launch_bounds__(PART_THREADS) take_level(const level<T> a)
{
    __shared__ double shared[WARP];
    const int32_t thread = static_cast<int32_t>(threadIdx.x);
    const int64_t clip = blockIdx.x / a.parts;
    const int64_t first = blockIdx.x % a.parts * PART_FRAMES;
    const int64_t frames = a.valid[clip];
    double sum = 0.0;
    for (int64_t i = thread; i * PART_FRAMES < frames; i += PART_THREADS) {
        sum += a.sums[clip * a.parts + i];
    }
    sum = block_sum(sum, shared);
    const float mean = static_cast<float>(sum / static_cast<double>(frames * a.bins));
    const int32_t count = part_frames(a.padded - first) * a.bins;
    const int32_t valid = part_frames(frames - first) * a.bins;
    const int64_t at = (clip * a.padded + first) * a.bins;
    for (int32_t i = thread; i < count; i += PART_THREADS) {
        const float y = i < valid ? (a.cells[at + i] - mean) / a.std[i % a.bins] : 0.0f;
        a.y[at + i] = from_float<T>(y);
    }
}

/* --- The host's part --- */

template <typename N> N *scratch_at(const ser_queue *queue, size_t offset)
{
    return reinterpret_cast<N *>(static_cast<unsigned char *>(queue->scratch) + offset);
}

/* Power of `rows` rows of the batch from `first` on, over the real parts. */
int power_of(ser_queue *queue, const ser_log_mel_args *args, const mel_plan &plan, int64_t first,
             int64_t rows)
{
    float *folded = scratch_at<float>(queue, plan.folded);
    float *re = scratch_at<float>(queue, plan.spectra);
    const fold f = {
        .pcm = static_cast<const float *>(args->pcm.data),
        .padded_in = args->rows_in.padded,
        .valid = args->rows_out.valid,
        .padded = args->rows_out.padded,
        .first = first,
        .rows = rows,
        .frame = args->frame,
        .hop = args->hop,
        .pitch = plan.half_pitch,
        .u = folded,
        .d = folded + rows * plan.half_pitch,
    };
    int status = ser_launch(queue, {ser_grid(rows, ROWS), ROW_THREADS, 0}, fold_frames, f);
    cuda_product dft = {};
    dft.m = rows;
    dft.n = plan.freqs;
    dft.k = plan.half;
    dft.entries = 2;
    dft.a = folded;
    dft.lda = plan.half_pitch;
    dft.a_pitch = rows * plan.half_pitch;
    dft.b = cuda_weight_data(args->dft, SER_F32);
    dft.ldb = plan.half;
    dft.b_pitch = plan.freqs * plan.half;
    dft.d = re;
    dft.ldd = plan.freqs_pitch;
    dft.d_pitch = rows * plan.freqs_pitch;
    if (status == 0) {
        status = ser_product_run(cuda_queue_of(queue), &dft);
    }
    const spectra s = {re, re + dft.d_pitch, rows, plan.freqs, plan.freqs_pitch};
    return status != 0 ? status
                       : ser_launch(queue, {ser_grid(rows, ROWS), ROW_THREADS, 0}, find_power, s);
}

/* Mel power of the whole batch. */
int mel_of(ser_queue *queue, const ser_log_mel_args *args, const mel_plan &plan, float *cells)
{
    const int64_t total = args->y.rows;
    int status = 0;
    for (int64_t first = 0; first < total && status == 0; first += plan.rows) {
        const int64_t rows = total - first < plan.rows ? total - first : plan.rows;
        cuda_product mel = {};
        mel.m = rows;
        mel.n = args->y.cols;
        mel.k = plan.freqs;
        mel.entries = 1;
        mel.a = scratch_at<float>(queue, plan.spectra);
        mel.lda = plan.freqs_pitch;
        mel.b = cuda_weight_data(args->mel, SER_F32);
        mel.ldb = plan.freqs;
        mel.d = cells + first * args->y.cols;
        mel.ldd = args->y.cols;
        status = power_of(queue, args, plan, first, rows);
        if (status == 0) {
            status = ser_product_run(cuda_queue_of(queue), &mel);
        }
    }
    return status;
}

template <typename T> int run(ser_queue *queue, const ser_log_mel_args *args)
{
    const mel_plan plan = plan_of(queue, args);
    const level<T> l = {
        .cells = args->y.type == SER_F32 ? static_cast<float *>(args->y.data)
                                         : scratch_at<float>(queue, plan.cells),
        .valid = args->rows_out.valid,
        .padded = args->rows_out.padded,
        .parts = plan.parts,
        .bins = static_cast<int32_t>(args->y.cols),
        .floor = args->floor,
        .mean = static_cast<const float *>(args->mean.data),
        .std = static_cast<const float *>(args->std.data),
        .sums = scratch_at<double>(queue, plan.sums),
        .y = static_cast<T *>(args->y.data),
    };
    const ser_shape shape = {ser_grid(args->rows_out.batch * plan.parts, 1), PART_THREADS, 0};
    int status = mel_of(queue, args, plan, l.cells);
    if (status == 0) {
        status = ser_launch(queue, shape, take_logs<T>, l);
    }
    return status == 0 ? ser_launch(queue, shape, take_level<T>, l) : status;
}

} // namespace

size_t ser_cuda_log_mel_scratch(const ser_queue *queue, const ser_log_mel_args *args)
{
    return plan_of(queue, args).size;
}

int ser_cuda_log_mel_fwd(ser_queue *queue, const ser_log_mel_args *args)
{
    const int status = ser_cuda_enter(queue->context);
    if (status != 0) {
        return status;
    }
    return args->y.type == SER_BF16 ? run<bf16>(queue, args) : run<float>(queue, args);
}
