/* SPDX-License-Identifier: MIT */
/* Clips and readers: what the public ser_audio and ser_reader point to, and the audio front end. */
#ifndef SER_AUDIO_AUDIO_H
#define SER_AUDIO_AUDIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ser/audio.h>

/* What sources may be like. */
enum { SER_RATE_MIN = 4000, SER_RATE_MAX = 768000, SER_CHANNELS_MAX = 1024 };

struct ser_audio {
    float *samples; /* owned, [count] at 16 kHz */
    size_t count;
    ser_audio_info info;
};

/* See the public functions in ser/audio.h; options are complete and checked. */
int ser_audio_load(const char *path, const ser_audio_options *options, ser_audio **audio);
int ser_audio_load_memory(const void *data, size_t size, const ser_audio_options *options,
                          ser_audio **audio);
int ser_audio_convert(const float *samples, size_t frames, int32_t channels, int32_t sampling_rate,
                      const ser_audio_options *options, ser_audio **audio);
void ser_audio_destroy(ser_audio *audio);

int ser_reader_create(const char *path, const ser_audio_options *options, ser_reader **reader);
int ser_reader_read_window(ser_reader *reader, double window, double hop, ser_audio **audio,
                           double *start);
bool ser_reader_is_done(const ser_reader *reader);
void ser_reader_describe(const ser_reader *reader, ser_audio_info *info);
void ser_reader_destroy(ser_reader *reader);

/* The span [*begin, *end) that is left when leading and trailing silence is cut: models/FORMAT.md,
 * "audio.trim". Levels are compared in double precision. */
void ser_audio_trim(const float *samples, size_t count, double threshold_db, double margin,
                    size_t *begin, size_t *end);

/* y = (x - mean) / sqrt(variance + 1e-7) with double accumulators; x and y may be the same. */
void ser_audio_normalize(const float *x, size_t count, float *y);

#endif
