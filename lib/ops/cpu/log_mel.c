/* SPDX-License-Identifier: MIT */
/*
 * PCM -> ln(mel power + floor), level-normalised: the windowed DFT of all frames, its power, the mel
 * triangles as a product, ln. Then x - mean[bin], minus the clip's mean of that, over std[bin].
 *
 * A shift in time leaves the power as it is, so the DFT is taken around the middle of the frame.
 * There the window and the cosines are even and the sines odd: with u = x[frame - j] + x[j] and
 * d = x[frame - j] - x[j], j = 1 .. frame / 2, the real part is a product with u and the imaginary
 * one with d, each half as long as the frame (the periodic window is 0 at sample 0).
 */
#include <math.h>

#include "ops/cpu/cpu.h"

/* Of one block of frames live in the scratch: u and d, [FRAMES, frame / 2] each; the spectra
 * [FRAMES, 2 freqs]; their power [FRAMES, freqs]. */
enum { FRAMES = 128 };

typedef struct layout {
    int64_t half, freqs;
    float *folded, *spectrum, *power;
} layout;

static size_t product_scratch(const ser_queue *queue, const ser_log_mel_args *args)
{
    const size_t dft = ser_gemm_weight_scratch(queue, args->dft);
    const size_t mel = ser_gemm_weight_scratch(queue, args->mel);
    return mel > dft ? mel : dft;
}

size_t ser_cpu_log_mel_scratch(const ser_queue *queue, const ser_log_mel_args *args)
{
    const int64_t row = 2 * args->dft->spec.cols + 3 * args->dft->spec.rows;
    return product_scratch(queue, args) + (size_t)(FRAMES * row) * sizeof(float);
}

static layout lay_out(const ser_queue *queue, const ser_log_mel_args *args)
{
    layout l = {.half = args->dft->spec.cols, .freqs = args->dft->spec.rows};
    l.folded = (float *)((char *)queue->scratch + product_scratch(queue, args));
    l.spectrum = l.folded + 2 * FRAMES * l.half;
    l.power = l.spectrum + 2 * FRAMES * l.freqs;
    return l;
}

static void fold_rows(const ser_log_mel_args *args, const layout *l, const float *x, int64_t frames)
{
    for (int64_t t = 0; t < frames; t++) {
        const float *frame = x + t * args->hop;
        float *u = l->folded + t * l->half - 1;
        float *d = u + FRAMES * l->half;
        for (int64_t j = 1; j <= l->half; j++) {
            u[j] = frame[args->frame - j] + frame[j];
            d[j] = frame[args->frame - j] - frame[j];
        }
        if (args->frame % 2 == 0) { /* the middle is its own partner */
            u[l->half] = frame[l->half];
        }
    }
}

/* spectrum rows hold freqs real parts, then freqs imaginary ones. */
static void power_rows(const layout *l, int64_t frames)
{
    for (int64_t t = 0; t < frames; t++) {
        const float *re = l->spectrum + t * 2 * l->freqs;
        const float *im = re + l->freqs;
        for (int64_t f = 0; f < l->freqs; f++) {
            l->power[t * l->freqs + f] = re[f] * re[f] + im[f] * im[f];
        }
    }
}

/* ln(y + floor) - mean, in place; returns the sum over all cells. */
static double log_rows(const ser_log_mel_args *args, float *y, int64_t frames)
{
    const int64_t bins = args->y.cols;
    const float *mean = args->mean.data;
    double total = 0.0;
    for (int64_t t = 0; t < frames; t++) {
        for (int64_t i = 0; i < bins; i++) {
            float *cell = y + t * bins + i;
            *cell = logf(*cell + args->floor) - mean[i];
            total += (double)*cell;
        }
    }
    return total;
}

/* Mel power of one block of frames that starts at sample x, into y. */
static int mel_block(ser_queue *queue, const ser_log_mel_args *args, const layout *l,
                     const float *x, int64_t frames, float *y)
{
    fold_rows(args, l, x, frames);
    gemm_call dft = {.a = l->folded,
                     .lda = l->half,
                     .a_pitch = FRAMES * l->half,
                     .c = l->spectrum,
                     .ldc = 2 * l->freqs,
                     .c_pitch = l->freqs,
                     .entries = 2,
                     .max_rows = frames};
    int status = ser_gemm_run_weight(queue, args->dft, &dft);
    if (status != 0) {
        return status;
    }
    power_rows(l, frames);
    gemm_call mel = {.a = l->power,
                     .lda = l->freqs,
                     .c = y,
                     .ldc = args->y.cols,
                     .entries = 1,
                     .max_rows = frames};
    return ser_gemm_run_weight(queue, args->mel, &mel);
}

static int one_clip(ser_queue *queue, const ser_log_mel_args *args, int64_t clip, const layout *l)
{
    const int64_t bins = args->y.cols;
    const int64_t frames = args->rows_out.valid[clip];
    const float *x = (const float *)args->pcm.data + clip * args->rows_in.padded;
    const float *std = args->std.data;
    float *y = (float *)args->y.data + clip * args->rows_out.padded * bins;
    double total = 0.0;
    for (int64_t t = 0; t < frames; t += FRAMES) {
        const int64_t count = cpu_min(FRAMES, frames - t);
        int status = mel_block(queue, args, l, x + t * args->hop, count, y + t * bins);
        if (status != 0) {
            return status;
        }
        total += log_rows(args, y + t * bins, count);
    }
    const float level = (float)(total / (double)(frames * bins));
    for (int64_t t = 0; t < frames; t++) {
        for (int64_t i = 0; i < bins; i++) {
            y[t * bins + i] = (y[t * bins + i] - level) / std[i];
        }
    }
    return 0;
}

int ser_cpu_log_mel_fwd(ser_queue *queue, const ser_log_mel_args *args)
{
    const layout l = lay_out(queue, args);
    for (int64_t b = 0; b < args->rows_out.batch; b++) {
        int status = one_clip(queue, args, b, &l);
        if (status != 0) {
            return status;
        }
    }
    ser_cpu_zero_padding(&args->y, &args->rows_out);
    return 0;
}
