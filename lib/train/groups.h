/* SPDX-License-Identifier: MIT */
/* Which parameters are trained, how fast, and which of them decay. */
#ifndef SER_TRAIN_GROUPS_H
#define SER_TRAIN_GROUPS_H

#include <stdbool.h>

#include <ser/train.h>

#include "net/arch.h"
#include "net/params.h"

/*
 * Fill rates[i] (0: frozen) and decays[i] of every parameter.
 *
 * Rates: the head (layer mix, pooling, classifier) has `head_rate`, or `rate` where that is 0. Block i
 * of L has rate * layer_decay^(L - 1 - i); the convolutions, the projection and the positions, below
 * block 0, have rate * layer_decay^L. The encoder's LayerNorm belongs to what lies below block 0
 * (post-norm) or to the top block (pre-norm).
 *
 * Frozen are: mean and deviation of the mel bins; with `freeze_features` the convolutions on the
 * waveform; with `freeze_layers` n > 0 blocks 0 .. n - 1 and all below them, with -1 the whole
 * backbone; and what `freeze` names.
 *
 * Weight decay is for matrices: norms, biases, other vectors and the gains of the positional
 * convolution have none.
 *
 * Errors: ARGUMENT, if nothing is left to train, a pattern matches no parameter, or freeze_layers
 * exceeds the blocks; MEMORY.
 */
int ser_groups_plan(const ser_arch *arch, const ser_params *params,
                    const ser_trainer_options *options, float *rates, float *decays);

/* Whether `name` matches the `length` bytes of `pattern`: '*' is any text, '?' one byte. */
bool ser_pattern_matches(const char *name, const char *pattern, size_t length);

#endif
