/* SPDX-License-Identifier: MIT */
/* Small networks of every kind with random weights, on the CPU unless another table is given. */
#ifndef SER_TESTS_RANDOM_NET_H
#define SER_TESTS_RANDOM_NET_H

#include "harness.h"

#include "net/net.h"

enum {
    NET_BASE,   /* waveform, group norm, post-norm, attention pooling */
    NET_LARGE,  /* waveform, layer norm with bias, pre-norm, mix of layers, mean pooling */
    NET_LOGMEL, /* log-mel, padded convolutions, pre-norm, attention pooling with a hidden layer */
    NET_KINDS
};

typedef struct random_net {
    const ser_ops *ops;
    ser_context *context;
    ser_net *net;
} random_net;

ser_arch random_arch(int kind);

/* Plausible values for a parameter: norms near 1, matrices that keep the size of what they
 * multiply. */
void random_values(const ser_param *param, uint64_t seed, float *values);

/* The same, newly allocated, for parameter `index` of a network; a parameter's index. */
float *random_param(const ser_net *net, size_t index, uint64_t seed);
size_t random_find(const ser_net *net, int32_t role, int32_t index);

void random_net_create(const ser_arch *arch, random_net *net); /* without values */
void random_net_open(int kind, uint64_t seed, random_net *net);
void random_net_open_on(const ser_ops *ops, int32_t type, int kind, uint64_t seed, random_net *net);
void random_net_close(random_net *net);

/* Coloured noise with a slow envelope. */
void random_clip(float *samples, int64_t count, uint64_t seed);

#endif
