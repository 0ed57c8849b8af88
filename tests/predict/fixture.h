/* SPDX-License-Identifier: MIT */
/* One device, one small model, one predictor, and some clips. */
#ifndef SER_TESTS_PREDICT_FIXTURE_H
#define SER_TESTS_PREDICT_FIXTURE_H

#include "harness.h"

enum { CLIPS = 7, MAX_LABELS = 16 };

extern ser_device *device;
extern ser_model *model; /* attention_pool of the goldens until load() */
extern ser_predictor *predictor;
extern const size_t lengths[CLIPS];

void setup(void);
void teardown(void); /* also checks that nothing has leaked */

/* A file of the goldens, in a static buffer. */
const char *golden_path(const char *name);

void load(const char *name);
void create(const ser_predictor_options *options);
ser_predictor_options options_of(int32_t max_batch, double max_seconds, double window);

ser_audio *clip_of(const float *samples, size_t count);
ser_audio *noise(size_t count, uint64_t seed);
void make_clips(ser_audio *clips[CLIPS]);
void free_clips(ser_audio *clips[CLIPS]);

/* What the predictor says about clip `index` of its last call. */
ser_prediction details(size_t index);

#endif
