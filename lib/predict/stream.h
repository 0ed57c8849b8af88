/* SPDX-License-Identifier: MIT */
/* Live audio to windows to answers; what the public ser_stream points to. */
#ifndef SER_PREDICT_STREAM_H
#define SER_PREDICT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ser/stream.h>

/* See the public functions in ser/stream.h; options are complete and each within its range, results
 * are filled whole. */
int ser_stream_make(ser_model *model, const ser_stream_options *options, ser_stream **stream);
int ser_stream_take_floats(ser_stream *stream, const float *samples, size_t frames);
int ser_stream_take_s16(ser_stream *stream, const int16_t *samples, size_t frames);
int ser_stream_answer(ser_stream *stream, ser_stream_result *result, bool *found);
int ser_stream_end(ser_stream *stream);
int ser_stream_restart(ser_stream *stream);
void ser_stream_destroy(ser_stream *stream);

#endif
