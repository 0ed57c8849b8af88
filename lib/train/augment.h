/* SPDX-License-Identifier: MIT */
/*
 * Changes to clips while training. Every change is a pure function of (seed, clip id, epoch), and
 * each draws from a stream of its own: switching one off leaves the others as they are.
 */
#ifndef SER_TRAIN_AUGMENT_H
#define SER_TRAIN_AUGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ser/train.h>

#include "audio/resample.h"

/* Which random numbers a clip gets. */
typedef struct ser_augment {
    const ser_augment_options *options;
    uint64_t key; /* of Philox: the seed mixed with the clip's id */
    uint32_t epoch;
} ser_augment;

ser_augment ser_augment_of(const ser_augment_options *options, uint64_t seed, uint64_t id,
                           int64_t epoch);

/* Where a part of `length` out of `count` begins. */
size_t ser_augment_part(const ser_augment *augment, size_t count, size_t length);

/* --- The waveform. *changed is set where something was, and never cleared. --- */

/* Tempo and pitch together, by resampling: where it happens, `out`, which the caller has zeroed,
 * holds the new samples (to be freed with ser_mem_free). */
int ser_augment_speed(const ser_augment *augment, const float *x, size_t count,
                      struct ser_samples *out, bool *changed);

void ser_augment_gain(const ser_augment *augment, float *x, size_t count, bool *changed);

/* Noise between white and brown (0 to -6 dB per octave), as far below the peak level as drawn. */
int ser_augment_noise(const ser_augment *augment, float *x, size_t count, bool *changed);

/* Butterworth of order 2, 4, 6 or 8 with a corner between lowpass_low and 7.5 kHz. */
void ser_augment_lowpass(const ser_augment *augment, float *x, size_t count, bool *changed);

/* Move the ends of [*begin, *end) within a clip of `count` samples; half of the span remains. */
void ser_augment_crop(const ser_augment *augment, size_t count, size_t *begin, size_t *end,
                      bool *changed);

/* How much silence, both 0 or more, goes before and behind the clip. */
void ser_augment_silence(const ser_augment *augment, size_t *before, size_t *behind);

/* Fill what is before and behind the clip in x [before + count + behind]: digital zero, or noise
 * that is 25 to 65 dB below the clip's peak level. */
int ser_augment_fill_silence(const ser_augment *augment, float *x, size_t before, size_t count,
                             size_t behind);

/* Mean square of the loudest 25 ms (every 5 ms; all of a shorter clip). */
double ser_augment_peak_power(const float *x, size_t count);

/* --- Log-mels --- */

/* The factor by which the mel axis is stretched; 1: not at all. */
float ser_augment_mel_warp(const ser_augment *augment);

/* A random equaliser of mean 0 over the bins, in nats: a tilt, and straight lines between 8 normal
 * numbers. Zeros without either. */
void ser_augment_equalizer(const ser_augment *augment, int32_t bins, float *nats);

/* Spans over `length` frames or bins: begin, end pairs [spans, 2]; none is wider than half of it. */
void ser_augment_time_spans(const ser_augment *augment, int64_t length, int32_t *spans);
void ser_augment_channel_spans(const ser_augment *augment, int64_t length, int32_t *spans);

#endif
