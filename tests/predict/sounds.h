/* SPDX-License-Identifier: MIT */
/* Sounds of any layout, what a stream makes of them, and what the file reader does. */
#ifndef SER_TESTS_PREDICT_SOUNDS_H
#define SER_TESTS_PREDICT_SOUNDS_H

#include "fixture.h"

/* Interleaved frames, as floats or as 16-bit samples. */
typedef struct sound {
    int32_t rate, channels;
    size_t frames;
    float *floats;
    int16_t *shorts; /* not NULL: these are meant */
} sound;

/* What one window gave; `probabilities` and `attention` are copies. */
typedef struct answer {
    ser_stream_result result;
    float probabilities[MAX_LABELS];
    float *attention;
} answer;

typedef struct answers {
    answer *list;
    size_t count;
} answers;

/* Noise with silence, a clipped stretch, an offset, and channels that cancel. */
sound sound_make(int32_t rate, int32_t channels, size_t frames, bool s16);
void sound_free(sound *s);
/* As a WAV file with the same values; its path. */
const char *sound_save(const sound *s);

ser_stream_options stream_options(const sound *s, double window, double hop);
/* Push `count` frames from `first` on. */
int push(ser_stream *stream, const sound *s, size_t first, size_t count);
/* Take all windows that are ready. */
void collect(ser_stream *stream, answers *to);
/* All of a sound in pushes of `size` frames (0: random ones), then the flush. */
answers stream_all(ser_stream *stream, const sound *s, size_t size);
/* The same windows by ser_reader_next and ser_predict_batch. */
answers read_all(const sound *s, double window, double hop);

void assert_same(const answers *got, const answers *wanted, int32_t flags);
void answers_free(answers *a);

#endif
