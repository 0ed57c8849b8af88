/* SPDX-License-Identifier: MIT */
#include "train/augment.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

/* What is drawn: the `b` of the stream. The values are part of a run's reproducibility: only append. */
enum kind {
    KIND_PART = 1,
    KIND_SPEED = 2,
    KIND_GAIN = 3,
    KIND_NOISE = 4,
    KIND_NOISE_SIGNAL = 5,
    KIND_LOWPASS = 6,
    KIND_CROP = 7,
    KIND_SILENCE = 8,
    KIND_SILENCE_SIGNAL = 9,
    KIND_MEL_WARP = 10,
    KIND_TILT = 11,
    KIND_RIPPLE = 12,
    KIND_MEL_TIME = 13,
    KIND_MEL_CHANNEL = 14,
};

enum {
    LEVEL_STEP = SER_SAMPLING_RATE / 200, /* 5 ms */
    LEVEL_STEPS = 5,                      /* per frame of 25 ms */
    TILT_SECTIONS = 5,
    MAX_SECTIONS = 4, /* of the low-pass, of two poles each */
    KNOTS = 8,
};

#define PI           3.14159265358979323846
#define LOWPASS_LOW  100.0 /* Hz */
#define LOWPASS_HIGH 7500.0
#define STEEPEST     (-6.0206) /* dB per octave: brown noise */

/* Steele et al. 2014: neighbouring ids must not give neighbouring keys. */
static uint64_t mix(uint64_t z)
{
    z += 0x9E3779B97F4A7C15U;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

ser_augment ser_augment_of(const ser_augment_options *options, uint64_t seed, uint64_t id,
                           int64_t epoch)
{
    return (ser_augment){
        .options = options, .key = mix(mix(seed) ^ id), .epoch = (uint32_t)(uint64_t)epoch};
}

static uint64_t stream_of(const ser_augment *augment, enum kind kind)
{
    return ser_rng_stream(SER_RNG_AUGMENT, augment->epoch, (uint32_t)kind);
}

/* Element `index` of a kind's stream, in [0, 1). */
static double unit(const ser_augment *augment, enum kind kind, uint64_t index)
{
    uint32_t words[4];
    ser_rng_block(augment->key, stream_of(augment, kind), index / 4, words);
    return (double)(words[index % 4] >> 8) * 0x1p-24;
}

static double between(const ser_augment *augment, enum kind kind, uint64_t index, double low,
                      double high)
{
    return low + (high - low) * unit(augment, kind, index);
}

/* An integer in 0 .. limit. */
static size_t up_to(const ser_augment *augment, enum kind kind, uint64_t index, size_t limit)
{
    size_t n = (size_t)(unit(augment, kind, index) * ((double)limit + 1.0));
    return n < limit ? n : limit;
}

/* Box and Muller 1958, from elements 2 index and 2 index + 1. */
static double normal(const ser_augment *augment, enum kind kind, uint64_t index)
{
    double radius = sqrt(-2.0 * log(1.0 - unit(augment, kind, 2 * index)));
    return radius * cos(2.0 * PI * unit(augment, kind, 2 * index + 1));
}

/* Whether a change that has a probability happens: element 0 of its stream. */
static bool happens(const ser_augment *augment, enum kind kind, float probability)
{
    return probability > 0.0F && unit(augment, kind, 0) < (double)probability;
}

/* Clips may come near the end of the float range, and no change shall make an infinity. */
static float to_float(double x)
{
    x = x < (double)FLT_MAX ? x : (double)FLT_MAX;
    return (float)(x > -(double)FLT_MAX ? x : -(double)FLT_MAX);
}

double ser_augment_peak_power(const float *x, size_t count)
{
    double steps[LEVEL_STEPS] = {0.0};
    double loudest = 0.0;
    size_t whole = count / LEVEL_STEP;
    for (size_t i = 0; i < whole; i++) {
        double sum = 0.0;
        for (size_t k = 0; k < LEVEL_STEP; k++) {
            double value = (double)x[i * LEVEL_STEP + k];
            sum += value * value;
        }
        steps[i % LEVEL_STEPS] = sum;
        double frame = 0.0;
        for (size_t k = 0; k < LEVEL_STEPS; k++) {
            frame += steps[k];
        }
        loudest = i + 1 >= LEVEL_STEPS && frame > loudest ? frame : loudest;
    }
    if (whole >= LEVEL_STEPS) {
        return loudest / (LEVEL_STEP * LEVEL_STEPS);
    }
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return count > 0 ? sum / (double)count : 0.0;
}

size_t ser_augment_part(const ser_augment *augment, size_t count, size_t length)
{
    return count > length ? up_to(augment, KIND_PART, 0, count - length) : 0;
}

/* --- Waveform --- */

static int resample(const float *x, size_t count, int32_t rate, struct ser_samples *out)
{
    struct ser_resampler resampler;
    double *wide = ser_mem_alloc_raw(count, sizeof *wide);
    if (wide == NULL) {
        return SER_ERR_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        wide[i] = (double)x[i];
    }
    int status = ser_resampler_open(&resampler, rate);
    if (status == 0) {
        status = ser_samples_reserve(out, (size_t)ser_resampled_count((int64_t)count, rate) + 1);
    }
    if (status == 0) {
        status = ser_resampler_push(&resampler, wide, count, out);
    }
    if (status == 0) {
        status = ser_resampler_finish(&resampler, out);
    }
    ser_resampler_close(&resampler);
    ser_mem_free(wide);
    return status;
}

int ser_augment_speed(const ser_augment *augment, const float *x, size_t count,
                      struct ser_samples *out, bool *changed)
{
    const double most = (double)augment->options->speed;
    if (most == 0.0 || !happens(augment, KIND_SPEED, augment->options->speed_probability)) {
        return 0;
    }
    /* Played `speed` times as fast, the samples are those of a recording at that rate. */
    double speed = between(augment, KIND_SPEED, 1, 1.0 - most, 1.0 + most);
    int32_t rate = (int32_t)lrint(speed * SER_SAMPLING_RATE);
    if (rate == SER_SAMPLING_RATE) {
        return 0;
    }
    int status = resample(x, count, rate, out);
    if (status != 0) {
        ser_mem_free(out->data);
        *out = (struct ser_samples){0};
        return status;
    }
    *changed = true;
    return 0;
}

void ser_augment_gain(const ser_augment *augment, float *x, size_t count, bool *changed)
{
    const double most = (double)augment->options->gain_db;
    if (most == 0.0) {
        return;
    }
    double gain = pow(10.0, between(augment, KIND_GAIN, 0, -most, most) / 20.0);
    for (size_t i = 0; i < count; i++) {
        x[i] = to_float(gain * (double)x[i]);
    }
    *changed = true;
}

/* Uniform numbers in [-1, 1), eight from a block. */
static void white_noise(const ser_augment *augment, enum kind kind, double *x, size_t count)
{
    const uint64_t stream = stream_of(augment, kind);
    for (size_t i = 0; i < count; i += 8) {
        uint32_t words[4];
        ser_rng_block(augment->key, stream, i / 8, words);
        for (size_t k = 0; k < 8 && i + k < count; k++) {
            uint32_t half = words[k / 2] >> (16 * (k % 2)) & 0xFFFFU;
            x[i + k] = ((double)half + 0.5) * 0x1p-15 - 1.0;
        }
    }
}

/*
 * A slope between 0 and -6.02 dB per octave from 40 Hz to 8 kHz by pole-zero pairs at equal ratios
 * (J. O. Smith and H. F. Smith 2016): the zero stands the share slope / -6.02 of the way to the next
 * pole. Poles and zeros are mapped by z = exp(s / rate).
 */
static void tilt_spectrum(double *x, size_t count, double slope)
{
    const double low = 40.0;
    const double ratio = pow(SER_SAMPLING_RATE / 2.0 / low, 1.0 / TILT_SECTIONS);
    double pole[TILT_SECTIONS];
    double zero[TILT_SECTIONS];
    double in[TILT_SECTIONS] = {0.0};
    double out[TILT_SECTIONS] = {0.0};
    for (int k = 0; k < TILT_SECTIONS; k++) {
        double corner = 2.0 * PI * low * pow(ratio, k) / SER_SAMPLING_RATE;
        pole[k] = exp(-corner);
        zero[k] = exp(-corner * pow(ratio, slope / STEEPEST));
    }
    for (size_t i = 0; i < count; i++) {
        double value = x[i];
        for (int k = 0; k < TILT_SECTIONS; k++) {
            double next = value - zero[k] * in[k] + pole[k] * out[k];
            in[k] = value;
            out[k] = next;
            value = next;
        }
        x[i] = value;
    }
}

/* `count` samples of noise with root mean square 1; NULL when out of memory. */
static double *make_noise(const ser_augment *augment, enum kind kind, size_t count, double slope)
{
    double *noise = ser_mem_alloc_raw(count, sizeof *noise);
    if (noise == NULL) {
        return NULL;
    }
    white_noise(augment, kind, noise, count);
    tilt_spectrum(noise, count, slope);
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        sum += noise[i] * noise[i];
    }
    double scale = sum > 0.0 ? sqrt((double)count / sum) : 0.0;
    for (size_t i = 0; i < count; i++) {
        noise[i] *= scale;
    }
    return noise;
}

int ser_augment_noise(const ser_augment *augment, float *x, size_t count, bool *changed)
{
    const ser_augment_options *options = augment->options;
    const double level = sqrt(ser_augment_peak_power(x, count));
    if (level == 0.0 || !happens(augment, KIND_NOISE, options->noise_probability)) {
        return 0;
    }
    double snr = between(augment, KIND_NOISE, 1, (double)options->noise_snr_low,
                         (double)options->noise_snr_high);
    double slope = between(augment, KIND_NOISE, 2, STEEPEST, 0.0);
    double *noise = make_noise(augment, KIND_NOISE_SIGNAL, count, slope);
    if (noise == NULL) {
        return SER_ERR_MEMORY;
    }
    double scale = level * pow(10.0, -snr / 20.0);
    for (size_t i = 0; i < count; i++) {
        x[i] = to_float((double)x[i] + scale * noise[i]);
    }
    ser_mem_free(noise);
    *changed = true;
    return 0;
}

/* Two poles of a low-pass (R. Bristow-Johnson's cookbook), transposed direct form II. */
typedef struct section {
    double b0, b1, a1, a2; /* b2 = b0 */
    double s1, s2;
} section;

static section lowpass_section(double corner, double q)
{
    double w = 2.0 * PI * corner / SER_SAMPLING_RATE;
    double alpha = sin(w) / (2.0 * q);
    double a0 = 1.0 + alpha;
    double b1 = (1.0 - cos(w)) / a0;
    return (section){.b0 = b1 / 2.0, .b1 = b1, .a1 = -2.0 * cos(w) / a0, .a2 = (1.0 - alpha) / a0};
}

static void filter(section *sections, size_t section_count, float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        double value = (double)x[i];
        for (size_t k = 0; k < section_count; k++) {
            section *s = &sections[k];
            double y = s->b0 * value + s->s1;
            s->s1 = s->b1 * value - s->a1 * y + s->s2;
            s->s2 = s->b0 * value - s->a2 * y;
            value = y;
        }
        x[i] = to_float(value);
    }
}

void ser_augment_lowpass(const ser_augment *augment, float *x, size_t count, bool *changed)
{
    const double low = (double)augment->options->lowpass_low;
    if (!happens(augment, KIND_LOWPASS, augment->options->lowpass_probability)) {
        return;
    }
    section sections[MAX_SECTIONS];
    size_t pairs = 1 + up_to(augment, KIND_LOWPASS, 1, MAX_SECTIONS - 1);
    /* Even on the logarithmic axis, as pitch and mel bins are. */
    double lowest = fmin(fmax(low, LOWPASS_LOW), LOWPASS_HIGH);
    double corner = lowest * pow(LOWPASS_HIGH / lowest, unit(augment, KIND_LOWPASS, 2));
    for (size_t k = 0; k < pairs; k++) {
        double angle = PI * (2.0 * (double)k + 1.0) / (4.0 * (double)pairs);
        sections[k] = lowpass_section(corner, 1.0 / (2.0 * cos(angle)));
    }
    filter(sections, pairs, x, count);
    *changed = true;
}

/* --- Ends --- */

void ser_augment_crop(const ser_augment *augment, size_t count, size_t *begin, size_t *end,
                      bool *changed)
{
    const double most = (double)augment->options->crop * SER_SAMPLING_RATE;
    if (most == 0.0 || !happens(augment, KIND_CROP, augment->options->crop_probability)) {
        return;
    }
    const double quarter = (double)(*end - *begin) / 4.0;
    double left = (double)*begin + fmin(between(augment, KIND_CROP, 1, -most, most), quarter);
    double right = (double)*end - fmin(between(augment, KIND_CROP, 2, -most, most), quarter);
    size_t first = (size_t)fmax(left, 0.0);
    size_t last = right < (double)count ? (size_t)right : count;
    *changed = *changed || first != *begin || last != *end;
    *begin = first;
    *end = last;
}

void ser_augment_silence(const ser_augment *augment, size_t *before, size_t *behind)
{
    const double longest = (double)augment->options->silence * SER_SAMPLING_RATE;
    *before = 0;
    *behind = 0;
    if (happens(augment, KIND_SILENCE, augment->options->silence_probability)) {
        *before = (size_t)between(augment, KIND_SILENCE, 1, 0.0, longest);
        *behind = (size_t)between(augment, KIND_SILENCE, 2, 0.0, longest);
    }
}

int ser_augment_fill_silence(const ser_augment *augment, float *x, size_t before, size_t count,
                             size_t behind)
{
    float *tail = x + before + count;
    const double level = sqrt(ser_augment_peak_power(x + before, count));
    memset(x, 0, before * sizeof *x);
    memset(tail, 0, behind * sizeof *x);
    if (level == 0.0 || before + behind == 0 || unit(augment, KIND_SILENCE, 3) < 0.5) {
        return 0;
    }
    double scale = level * pow(10.0, -between(augment, KIND_SILENCE, 4, 25.0, 65.0) / 20.0);
    double slope = between(augment, KIND_SILENCE, 5, STEEPEST, 0.0);
    double *noise = make_noise(augment, KIND_SILENCE_SIGNAL, before + behind, slope);
    if (noise == NULL) {
        return SER_ERR_MEMORY;
    }
    for (size_t i = 0; i < before; i++) {
        x[i] = to_float(scale * noise[i]);
    }
    for (size_t i = 0; i < behind; i++) {
        tail[i] = to_float(scale * noise[before + i]);
    }
    ser_mem_free(noise);
    return 0;
}

/* --- Log-mels --- */

float ser_augment_mel_warp(const ser_augment *augment)
{
    const double most = (double)augment->options->mel_warp;
    return most > 0.0 ? (float)between(augment, KIND_MEL_WARP, 0, 1.0 - most, 1.0 + most) : 1.0F;
}

void ser_augment_equalizer(const ser_augment *augment, int32_t bins, float *nats)
{
    double knots[KNOTS];
    const double tilt = (double)augment->options->mel_tilt * normal(augment, KIND_TILT, 0);
    for (uint64_t k = 0; k < KNOTS; k++) {
        knots[k] = (double)augment->options->mel_ripple * normal(augment, KIND_RIPPLE, k);
    }
    double sum = 0.0;
    for (int32_t f = 0; f < bins; f++) {
        double at = bins > 1 ? (double)f / (double)(bins - 1) : 0.0;
        int32_t k = (int32_t)(at * (KNOTS - 1));
        k = k < KNOTS - 2 ? k : KNOTS - 2;
        double share = at * (KNOTS - 1) - (double)k;
        double value = tilt * (2.0 * at - 1.0) + knots[k] + share * (knots[k + 1] - knots[k]);
        nats[f] = (float)value;
        sum += (double)nats[f];
    }
    for (int32_t f = 0; f < bins; f++) {
        nats[f] = (float)((double)nats[f] - sum / (double)bins);
    }
}

static void draw_spans(const ser_augment *augment, enum kind kind, int32_t spans, int32_t width,
                       int64_t length, int32_t *list)
{
    size_t most = (size_t)(width < length / 2 ? width : length / 2);
    for (int32_t i = 0; i < spans; i++) {
        size_t size = up_to(augment, kind, 2 * (uint64_t)i, most);
        size_t begin = up_to(augment, kind, 2 * (uint64_t)i + 1, (size_t)length - size);
        list[2 * i] = (int32_t)begin;
        list[2 * i + 1] = (int32_t)(begin + size);
    }
}

void ser_augment_time_spans(const ser_augment *augment, int64_t length, int32_t *spans)
{
    draw_spans(augment, KIND_MEL_TIME, augment->options->mel_time_spans,
               augment->options->mel_time_width, length, spans);
}

void ser_augment_channel_spans(const ser_augment *augment, int64_t length, int32_t *spans)
{
    draw_spans(augment, KIND_MEL_CHANNEL, augment->options->mel_channel_spans,
               augment->options->mel_channel_width, length, spans);
}
