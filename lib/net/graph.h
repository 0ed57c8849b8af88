/* SPDX-License-Identifier: MIT */
/* What a network consists of on its device. Private to lib/net. */
#ifndef SER_NET_GRAPH_H
#define SER_NET_GRAPH_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#include "net/net.h"

/* Gradients are absent unless the parameter is being trained (training.c). */
typedef struct ser_affine {
    ser_weight *w;
    ser_tensor bias;      /* [1, outputs] or absent */
    ser_tensor bias_bf16; /* its copy in networks of that type, where a linear layer adds it */
    ser_tensor dw, dbias;
} ser_affine;

typedef struct ser_norm {
    ser_tensor gamma, beta; /* [1, channels] or absent */
    ser_tensor dgamma, dbeta;
} ser_norm;

typedef struct ser_conv_layer {
    ser_affine conv; /* w NULL for the convolution on the waveform */
    ser_norm norm;
} ser_conv_layer;

typedef struct ser_block {
    ser_affine qkv; /* q, k, v below each other: [3 C, C] */
    ser_affine out;
    ser_norm attention_norm;
    ser_affine ffn_in, ffn_out;
    ser_norm final_norm;
    float *qkv_staging;   /* device memory [3 C, C] until q, k and v are all there, else NULL */
    unsigned qkv_present; /* bit 0 q, 1 k, 2 v */
} ser_block;

/* Where a parameter lives: in `weight`, packed, or in `vector`, as it is. */
typedef struct ser_slot {
    ser_weight *weight;
    ser_tensor vector; /* the parameter's own part, in its PyTorch layout */
    int64_t part;      /* q, k, v: which third of `weight` */
    int64_t parts;     /* 3 for q, k, v, else 1 */
    int64_t taps;      /* convolutions: kernel; `weight` has (tap, channel) columns; else 1 */
    bool is_set;
} ser_slot;

/* What set and get need to move data; several threads may save one model. */
typedef struct ser_transfer {
    pthread_mutex_t lock;
    ser_queue *queue;
    float *staging; /* device memory of staging_size bytes, or NULL */
    size_t staging_size;
} ser_transfer;

struct ser_net {
    const ser_ops *ops;
    ser_context *context;
    ser_arch arch;
    int32_t type; /* of activations: SER_F32 or SER_BF16 */
    ser_params params;
    ser_slot *slots; /* [params.count] */
    ser_transfer *transfer;
    void *vectors; /* device memory of all ser_slot.vector */
    void *biases;  /* device memory of all bias_bf16, or NULL */
    bool finished;

    ser_tensor mel_mean, mel_std;
    ser_weight *dft, *mel;
    ser_tensor wave; /* [C, kernel]: weight of the convolution on the waveform; its gradient is
                        convs[0].conv.dw */
    ser_conv_layer convs[SER_MAX_CONVS];
    ser_norm feature_norm;
    ser_affine projection;
    ser_tensor position_g, position_v;
    ser_affine position; /* w: g and v folded; dw: of the folded weight */
    ser_tensor position_dg, position_dv;
    ser_norm encoder_norm;
    ser_block *blocks; /* [arch.layers] */
    ser_tensor layer_mix, layer_mix_gradient;
    ser_affine pool_hidden;
    ser_tensor score_weight, score_bias;
    ser_tensor score_dweight, score_dbias;
    ser_affine classifier[SER_MAX_CLASSIFIER];
};

/* The tensor that the ops add a parameter's gradient to; q, k and v share one. */
ser_tensor *ser_net_gradient_of(ser_net *net, const ser_param *param);

/* The tensor that the ops read for a parameter that is kept as it is (slot->weight NULL); the biases
 * of q, k and v share one. */
ser_tensor *ser_net_vector_of(ser_net *net, const ser_param *param);

/* Device memory for every parameter of net->params, without values (weights.c), and for what
 * follows from them (derived.c). */
int ser_net_place(ser_net *net);
int ser_net_place_derived(ser_net *net);

/* Queue what makes the copies of biases follow the biases (derived.c). */
int ser_net_refresh_biases(const ser_net *net, ser_queue *queue);

/* Both directions of the positional convolution's weight norm; gradients absent. */
ser_weight_norm_args ser_net_position_fold(const ser_net *net);

/* Biases within w [count] have their copies at the same places of `rounded`; the reverse, without
 * their content. */
void ser_net_lend_biases(ser_net *net, const float *w, size_t count, void *rounded);
void ser_net_take_biases(ser_net *net);
void ser_net_release_weights(ser_net *net);

/* With the transfer's lock held: move f32 elements and wait; swap the two inner axes of rows in host memory; fill a
 * weight from the host; a staging
 * area that stays until it is freed or a larger one is asked for. */
int ser_net_upload(const ser_net *net, float *device, const float *host, size_t elements);
int ser_net_download(const ser_net *net, float *host, const float *device, size_t elements);
int ser_net_transpose_rows(float *values, int64_t rows, int64_t a, int64_t b);
int ser_net_pack(const ser_net *net, ser_weight *weight, const float *host);
int ser_net_staging(const ser_net *net, size_t elements, float **staging);
void ser_net_staging_free(const ser_net *net);

/* Free device memory, unless NULL, and null the pointer. */
void ser_device_memory_free(const ser_ops *ops, ser_context *context, void **memory);

#endif
