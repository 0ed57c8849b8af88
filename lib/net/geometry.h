/* SPDX-License-Identifier: MIT */
/*
 * How many rows each clip owns at every level of the feature extractor. Level i is the input of
 * convolution i (level 0: samples, or mel frames), the last level is the frames of the encoder.
 */
#ifndef SER_NET_GEOMETRY_H
#define SER_NET_GEOMETRY_H

#include "net/arch.h"

typedef struct ser_geometry {
    int64_t batch;
    int64_t samples;                   /* padded length of the waveform */
    int64_t padded[SER_MAX_CONVS + 1]; /* padded length of each level */
} ser_geometry;

/* Frames of every level for a clip of `samples`; all at least 1 if the clip has the model's
 * minimum. */
void ser_geometry_lengths(const ser_arch *arch, int64_t samples,
                          int64_t lengths[SER_MAX_CONVS + 1]);

/*
 * The smallest padded lengths with padded[i] == padded[i + 1] * stride[i] and room for the clip's
 * rows and, behind them, the zero padding of convolution i: then the batch is one matrix at every
 * level.
 */
void ser_geometry_plan(const ser_arch *arch, int64_t batch, int64_t longest,
                       ser_geometry *geometry);

#endif
