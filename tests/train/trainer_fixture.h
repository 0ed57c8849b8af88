/* SPDX-License-Identifier: MIT */
/* Tiny models and tones to train them on. $SER_TEST_DEVICE=cuda: on a card, or on its emulation;
 * $SER_TEST_PRECISION=bf16. */
#ifndef SER_TESTS_TRAINER_FIXTURE_H
#define SER_TESTS_TRAINER_FIXTURE_H

#include "harness.h"

#include "train/trainer.h"

enum { CLIPS = 6, LABELS = 3 };

bool on_cuda(void);

/* Models on the waveform and on log-mels; beyond those that most tests run over, one on the waveform
 * with layer norm everywhere and a mix of layers. */
enum { WAVE, LOGMEL, KINDS, LARGE = KINDS, ALL_KINDS };

extern ser_device *device;
extern int32_t precision;           /* of the models that are made */
extern ser_model *model;            /* NULL until make_model */
extern ser_trainer *trainer;        /* NULL until make_trainer */
extern ser_trainer_options options; /* a quick run without anything random */
extern ser_audio *tones[CLIPS];     /* of different lengths, tone i in class i % LABELS */

void trainer_setup(void);
void trainer_teardown(void); /* also checks that nothing has leaked */

/* The configuration of a tiny model, and a fresh one of it in `model`. */
const char *tiny_config(int kind);
void make_model(int kind, uint64_t seed);
void make_model_of(const char *config, uint64_t seed);
ser_model_options model_settings(uint64_t seed);

/* A trainer of `model` with `options`. */
void make_trainer(void);

/* Clip i is tones[i], of id 100 + i. */
ser_clip clip_of(int i);

/* Tones first .. first + count - 1 in epoch 0. */
ser_batch *make_batch(int first, int count);

ser_step_result step(const ser_batch *batch);

/* All weights of `model`, one after the other; to be freed. */
float *weights(size_t *count);

/* Largest difference, and whether all bits are the same. */
double difference(const float *a, const float *b, size_t count);

#endif
