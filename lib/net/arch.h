/* SPDX-License-Identifier: MIT */
/* The numbers that define a network. Validated where they are read (model/config.c,
 * model/import.c). */
#ifndef SER_NET_ARCH_H
#define SER_NET_ARCH_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SER_MAX_CONVS = 16,
    SER_MAX_CLASSIFIER = 8,
};

enum { SER_FEATURES_CONV, SER_FEATURES_LOGMEL };
enum { SER_NORM_GROUP, SER_NORM_LAYER }; /* of the convolutions */
enum { SER_ENCODER_POST_NORM, SER_ENCODER_PRE_NORM };
enum { SER_POOLING_ATTENTION, SER_POOLING_MEAN };

typedef struct ser_mel_arch {
    int32_t frame; /* samples per analysis frame */
    int32_t hop;   /* samples between frames */
    int32_t fft;   /* DFT length, >= frame */
    int32_t bins;
    float low, high; /* Hz */
    float floor;     /* added to the power before the logarithm */
} ser_mel_arch;

typedef struct ser_arch {
    int32_t sampling_rate;
    int32_t features;
    ser_mel_arch mel; /* SER_FEATURES_LOGMEL only */
    int32_t conv_count;
    int32_t conv_dim[SER_MAX_CONVS];
    int32_t conv_kernel[SER_MAX_CONVS];
    int32_t conv_stride[SER_MAX_CONVS];
    int32_t conv_padding[SER_MAX_CONVS];
    bool conv_bias;
    int32_t conv_norm; /* GROUP: group norm with one channel per group, layer 0 only */

    int32_t hidden_size;
    int32_t layers;
    int32_t heads;
    int32_t intermediate_size;
    int32_t encoder_norm;
    float layer_norm_eps;
    bool feature_norm;
    int32_t position_kernel;
    int32_t position_groups;

    bool layer_mix;
    int32_t pooling;
    int32_t pooling_hidden;   /* 0: the score is linear in the hidden state */
    int32_t classifier_count; /* linear layers, the one to the labels included; 0: bare backbone */
    int32_t
        classifier_size[SER_MAX_CLASSIFIER]; /* outputs of each; the last is the number of labels */
    int32_t classifier_activation;           /* SER_ACT_* of ops/ops.h, between the layers */
} ser_arch;

/* Samples or mel frames in, frames out of the whole feature extractor for a clip of `samples`; 0
 * when the clip is too short for one frame. */
int64_t ser_arch_frames(const ser_arch *arch, int64_t samples);

/* Fewest samples that give one frame (400 for wav2vec 2.0). */
int64_t ser_arch_min_samples(const ser_arch *arch);

/* Samples between two frames (320 for wav2vec 2.0), and from the start of the clip to the centre of
 * frame 0. */
int64_t ser_arch_hop(const ser_arch *arch);
double ser_arch_first_centre(const ser_arch *arch);

#endif
