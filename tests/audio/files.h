/* SPDX-License-Identifier: MIT */
/* Audio files in memory for the tests: encoded by libsndfile or put together byte by byte. */
#ifndef SER_TESTS_AUDIO_FILES_H
#define SER_TESTS_AUDIO_FILES_H

#include <sndfile.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes {
    unsigned char *data;
    size_t size;
};

void bytes_append(struct bytes *bytes, const void *data, size_t size);
void bytes_append_text(struct bytes *bytes, const char *text); /* without its final NUL */
void bytes_append_number(struct bytes *bytes, uint64_t value, size_t size, bool big_endian);
void bytes_append_zeros(struct bytes *bytes, size_t count);
void bytes_free(struct bytes *bytes);

/* Write to "<temporary directory>/name" and return that path (see harness_tmpfile). */
const char *bytes_save(const struct bytes *bytes, const char *name);

/* x [frames][channels] in a libsndfile format. */
struct bytes encode(int format, int rate, int channels, const float *x, size_t frames);
bool can_encode(int format, int rate, int channels);

/* The start of a WAV file up to and with the head of its data chunk; sizes as given. */
struct bytes wave_head(unsigned tag, unsigned channels, unsigned rate, unsigned bits,
                       uint32_t riff_size, uint32_t data_size);

/* A float WAV file of one channel. */
struct bytes float_wave(int rate, const float *x, size_t frames);

/* A sine of `hertz` at 0.5 of full scale in all channels, [frames][channels]. Free with free. */
float *sine(int rate, int channels, size_t frames, double hertz);

#endif
