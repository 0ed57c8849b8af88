/* SPDX-License-Identifier: MIT */
/* One clip on its way to the network: augmentation of the waveform and the model's front end. */
#ifndef SER_TRAIN_FRONT_END_H
#define SER_TRAIN_FRONT_END_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ser/audio.h>

#include "model/config.h"
#include "train/augment.h"

/* What the network sees of a clip. */
typedef struct ser_front_end_result {
    float *samples; /* owned (ser_mem_free) */
    size_t count;   /* at least ser_arch_min_samples */
    bool same;      /* as without augmentation, bit for bit */
} ser_front_end_result;

/*
 * `augment` NULL: what prediction would see, bit for bit. Only of a clip that prediction would cut in
 * windows (longer than the model's max_seconds) it is one window, the middle one.
 *
 * With augmentation, in this order:
 * 1. Of a clip that is still longer than augment.max_seconds (0: the model's window) when trimmed, a
 *    random part; else the trimmed clip and as much around it as fits in, evenly.
 * 2. Speed, gain, noise, low-pass: what happens before a recording reaches us. So noise and channel
 *    are there when the silence is trimmed, which then fails just as it would at prediction.
 * 3. The model's trimming; crop moves its ends.
 * 4. Silence at both ends, behind the trimming, as if that had failed: at prediction it fails for
 *    reasons (breath, music, hum) that no noise of ours makes. Then the longest length is cut again.
 * 5. The model's normalisation.
 */
int ser_front_end_apply(const ser_config *config, const ser_augment *augment,
                        const ser_audio *audio, ser_front_end_result *result);

#endif
