/* SPDX-License-Identifier: MIT */
/*
 * PCM -> ln(mel power + floor), level-normalised. The windowed DFT of all frames is one product of
 * overlapping rows (frame samples long, hop apart) with the window times cosines and sines; the mel
 * triangles are a second one. Then x - mean[bin], minus the clip's mean of that, over std[bin].
 */
#include <math.h>

#include "ops/cpu/cpu.h"

/* A clip's spectra of one block of frames live in the scratch: [FRAMES, 2 freqs], then power
 * [FRAMES, freqs]. */
enum { FRAMES = 128 };

size_t ser_cpu_log_mel_scratch(const ser_queue *queue, const ser_log_mel_args *args)
{
    const int64_t columns = args->dft->spec.rows;
    size_t product = ser_gemm_weight_scratch(queue, args->dft);
    size_t mel = ser_gemm_weight_scratch(queue, args->mel);
    return (mel > product ? mel : product) +
           (size_t)(FRAMES * (columns + columns / 2)) * sizeof(float);
}

/* spectrum rows hold freqs real parts, then freqs imaginary ones. */
static void power_rows(const float *spectrum, int64_t frames, int64_t freqs, float *power)
{
    for (int64_t t = 0; t < frames; t++) {
        const float *re = spectrum + t * 2 * freqs;
        const float *im = re + freqs;
        for (int64_t f = 0; f < freqs; f++) {
            power[t * freqs + f] = re[f] * re[f] + im[f] * im[f];
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
static int mel_block(ser_queue *queue, const ser_log_mel_args *args, const float *x, int64_t frames,
                     float *spectrum, float *y)
{
    const int64_t freqs = args->dft->spec.rows / 2;
    float *power = spectrum + FRAMES * 2 * freqs;
    gemm_call dft = {.a = x,
                     .lda = args->hop,
                     .c = spectrum,
                     .ldc = 2 * freqs,
                     .entries = 1,
                     .max_rows = frames};
    int status = ser_gemm_run_weight(queue, args->dft, &dft);
    if (status != 0) {
        return status;
    }
    power_rows(spectrum, frames, freqs, power);
    gemm_call mel = {
        .a = power, .lda = freqs, .c = y, .ldc = args->y.cols, .entries = 1, .max_rows = frames};
    return ser_gemm_run_weight(queue, args->mel, &mel);
}

static int one_clip(ser_queue *queue, const ser_log_mel_args *args, int64_t clip, float *spectrum)
{
    const int64_t bins = args->y.cols;
    const int64_t frames = args->rows_out.valid[clip];
    const float *x = (const float *)args->pcm.data + clip * args->rows_in.padded;
    const float *std = args->std.data;
    float *y = (float *)args->y.data + clip * args->rows_out.padded * bins;
    double total = 0.0;
    for (int64_t t = 0; t < frames; t += FRAMES) {
        const int64_t count = cpu_min(FRAMES, frames - t);
        int status = mel_block(queue, args, x + t * args->hop, count, spectrum, y + t * bins);
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
    const size_t dft = ser_gemm_weight_scratch(queue, args->dft);
    const size_t mel = ser_gemm_weight_scratch(queue, args->mel);
    float *spectrum = (float *)((char *)queue->scratch + (mel > dft ? mel : dft));
    for (int64_t b = 0; b < args->rows_out.batch; b++) {
        int status = one_clip(queue, args, b, spectrum);
        if (status != 0) {
            return status;
        }
    }
    ser_cpu_zero_padding(&args->y, &args->rows_out);
    return 0;
}
