/* SPDX-License-Identifier: MIT */
/* What a step leaves out at random: whole blocks, and spans of the projected features. */
#ifndef SER_TRAIN_MASKS_H
#define SER_TRAIN_MASKS_H

#include <stdbool.h>
#include <stdint.h>

#include <ser/train.h>

#include "net/arch.h"

/* Spans of `length` of a row of `total`: [most, 2] begin, end. */
typedef struct ser_span_rule {
    double probability; /* share of the row to be masked, were spans not to overlap */
    int64_t total, length;
} ser_span_rule;

/* The most spans that ser_spans_draw() makes. */
int32_t ser_spans_most(const ser_span_rule *rule);

/*
 * Spans as wav2vec 2.0 masks (Baevski et al. 2020; transformers' _compute_mask_indices): their number
 * is probability * total / length, rounded up or down at random so that its mean is that; their
 * starts are drawn without replacement from 0 .. total - length, so spans may overlap and none is
 * cut. A row shorter than a span has none. Rows of `spans` that are not used become 0, 0. `starts`
 * is scratch of `total` numbers. Numbers come from (seed, stream), from block `first` on.
 */
void ser_spans_draw(const ser_span_rule *rule, uint64_t seed, uint64_t stream, uint64_t first,
                    int32_t most, int32_t *starts, int32_t *spans);

/* What step `step` leaves out. Members are NULL where the options ask for nothing. */
typedef struct ser_masks {
    bool *dropped;           /* [layers] */
    int32_t *time, *channel; /* [clips, time_count or channel_count, 2] */
    int32_t time_count, channel_count;
} ser_masks;

/* `lengths` [count] are samples. Clear with ser_masks_clear, also after a failure. */
int ser_masks_draw(const ser_arch *arch, const ser_trainer_options *options, uint64_t step,
                   const int64_t *lengths, int64_t count, ser_masks *masks);
void ser_masks_clear(ser_masks *masks);

#endif
